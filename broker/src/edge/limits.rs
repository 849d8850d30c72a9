//! What every answer tells of the tenant's limits.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::header;
use crate::tenant::{Admission, Tenant};

/// Room for one limit's part of the header.
const PART_BYTES: usize = 48;

/// `RateLimit-Policy`: what the limits are. `RateLimit`: what is left. `Hearth-Shadow-Refused`: which of those that are only
/// tried out would have refused. Source: draft-ietf-httpapi-ratelimit-headers.
pub fn tell(headers: &mut HeaderMap, tenant: &Tenant, admission: Option<&Admission>) {
    if let Some(policy) = &tenant.policy_header {
        headers.insert(&header::RATE_LIMIT_POLICY, policy.clone());
    }
    let mut told = Vec::new();
    let mut digits = itoa::Buffer::new();
    for (name, left) in tenant.counted.left() {
        told.reserve(PART_BYTES);
        told.extend_from_slice(if told.is_empty() { b"\"" } else { b", \"" });
        told.extend_from_slice(name.as_bytes());
        told.extend_from_slice(b"\";r=");
        told.extend_from_slice(digits.format(left.remaining).as_bytes());
        told.extend_from_slice(b";t=");
        let seconds = left.reset.as_secs() + u64::from(left.reset.subsec_nanos() > 0);
        told.extend_from_slice(digits.format(seconds).as_bytes());
    }
    if !told.is_empty() {
        headers.insert(&header::RATE_LIMIT, value(told));
    }
    if let Some(shadows) = admission.map(|admission| &admission.shadows).filter(|shadows| !shadows.is_empty()) {
        headers.insert(&header::SHADOW_REFUSED, value(shadows.join(", ").into_bytes()));
    }
}

fn value(text: Vec<u8>) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).expect("text of our own and digits are visible ASCII")
}
