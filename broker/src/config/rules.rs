//! Rules that fields of several sections share.

use std::fmt::Debug;
use std::ops::RangeInclusive;

use super::Fault;

/// A name that people give to something.
pub(super) fn check_name(path: &str, name: &str, faults: &mut Vec<Fault>) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name.is_empty() || name.len() > 63 || !name.bytes().all(plain) {
        faults.push(Fault::new(path, "a name is 1 to 63 letters, digits, `_` or `-`, since it stands in addresses"));
    }
}

/// A value within bounds.
pub(super) fn range<T: PartialOrd + Debug + Copy>(
    path: impl Into<String>,
    value: T,
    allowed: RangeInclusive<T>,
    faults: &mut Vec<Fault>,
) {
    if !allowed.contains(&value) {
        faults.push(Fault::new(
            path,
            format!("must be between {:?} and {:?}, not {value:?}", allowed.start(), allowed.end()),
        ));
    }
}
