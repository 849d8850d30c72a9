//! API keys: `id.secret`. The id is public and finds the entry; the secret is 256 random bits, so its plain SHA-256 is enough to
//! keep, and it is compared in constant time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::breaker::Credential;
use super::error::AuthError;
use super::principal::Principal;

/// Never used.
const NEVER: i64 = i64::MIN;

/// One API key, resolved.
pub struct Key {
    /// SHA-256 of the secret half.
    pub sha256: [u8; 32],
    /// Whose it is, and what it may do.
    pub principal: Principal,
    /// From which on it is good.
    pub not_before: Option<Timestamp>,
    /// After which it is refused.
    pub expires: Option<Timestamp>,
    /// When it was last good.
    pub last_used: Arc<LastUsed>,
    /// What its failures are counted under.
    pub credential: Credential,
}

/// When something was last used, to the second. Many requests a second write it once.
pub struct LastUsed(AtomicI64);

impl Default for LastUsed {
    fn default() -> Self {
        Self(AtomicI64::new(NEVER))
    }
}

impl LastUsed {
    /// Used now.
    pub fn note(&self, now: Timestamp) {
        let second = now.as_second();
        // Read first: a line that all cores only read stays with each of them.
        if self.0.load(Ordering::Relaxed) < second {
            self.0.store(second, Ordering::Relaxed);
        }
    }

    /// When, if ever since the process began.
    pub fn at(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.0.load(Ordering::Relaxed)).ok()
    }
}

impl Key {
    /// Whose the secret is. Errors: a wrong one; a right one too early or too late.
    pub fn verify(&self, secret: &str, now: Timestamp) -> Result<&Principal, AuthError> {
        if !secret_is(secret, &self.sha256) {
            return Err(AuthError::Invalid);
        }
        in_time(self.not_before, self.expires, now)?;
        self.last_used.note(now);
        Ok(&self.principal)
    }
}

/// Errors: it is too early, or too late. The moment of the end is too late.
pub fn in_time(from: Option<Timestamp>, until: Option<Timestamp>, now: Timestamp) -> Result<(), AuthError> {
    if from.is_some_and(|from| now < from) {
        return Err(AuthError::NotYet);
    }
    if until.is_some_and(|until| now >= until) {
        return Err(AuthError::Expired);
    }
    Ok(())
}

/// True if the hash is the secret's, in constant time.
pub fn secret_is(secret: &str, sha256: &[u8; 32]) -> bool {
    let offered: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
    offered.ct_eq(sha256).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::identity::principal::tests::tenant;
    use crate::identity::{Breaker, Grant, Identity, Via};

    #[test]
    fn a_right_secret_is_good_between_its_moments_and_its_use_is_noted() {
        let at = |second| Timestamp::from_second(second).expect("a moment");
        let grant = Grant {
            tenant: tenant("acme"),
            identity: Identity::new(Via::Key, "k"),
            scopes: Vec::new(),
            statements: None,
            settings: BTreeMap::new(),
        };
        let key = Key {
            sha256: Sha256::digest(b"secret").into(),
            principal: grant.into(),
            not_before: Some(at(100)),
            expires: Some(at(200)),
            last_used: Arc::default(),
            credential: Breaker::default().key("k"),
        };
        let told = |secret, second| key.verify(secret, at(second)).err();
        assert_eq!(told("Secret", 150), Some(AuthError::Invalid));
        assert_eq!(told("", 50), Some(AuthError::Invalid), "a wrong secret learns nothing of the moments");
        assert_eq!((told("secret", 99), told("secret", 200)), (Some(AuthError::NotYet), Some(AuthError::Expired)));
        assert_eq!(key.last_used.at(), None, "none of these was a use");
        assert_eq!(told("secret", 150), None);
        assert_eq!(told("secret", 120), None);
        assert_eq!(key.last_used.at(), Some(at(150)), "it never goes back");
    }
}
