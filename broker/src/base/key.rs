//! A new API key.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::hex::hex;

/// A key as it is handed out, and what is kept of it.
pub struct NewKey {
    /// The public half.
    pub id: String,
    /// The secret half: 256 random bits.
    pub secret: String,
    /// SHA-256 of the secret half, in hexadecimal.
    pub sha256: String,
}

impl NewKey {
    /// Makes a key from the operating system's randomness.
    pub fn random() -> Self {
        let id: [u8; 9] = rand::random();
        let secret: [u8; 32] = rand::random();
        let secret = URL_SAFE_NO_PAD.encode(secret);
        let sha256 = hex(&Sha256::digest(secret.as_bytes()));
        Self { id: format!("hk_{}", URL_SAFE_NO_PAD.encode(id)), secret, sha256 }
    }

    /// The whole key, as a caller sends it.
    pub fn token(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewKey({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_s_hash_is_of_its_secret_half() {
        let key = NewKey::random();
        let token = key.token();
        let (id, secret) = token.split_once('.').expect("has two halves");
        assert_eq!(id, key.id);
        let hash = hex(&Sha256::digest(secret.as_bytes()));
        assert_eq!(hash, key.sha256);
        assert_ne!(NewKey::random().secret, key.secret);
        assert!(!format!("{key:?}").contains(secret));
    }
}
