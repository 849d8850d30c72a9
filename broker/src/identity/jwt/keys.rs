//! The keys of one issuer, each for exactly one algorithm: what was made for one is never tried with another.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

use crate::config::JwtAlgorithm;

/// Keys of one name that are tried: while keys rotate there are two.
const MAX_TRIES: usize = 4;
/// Keys of one issuer. More are a mistake, or an attack on whoever reads them.
const MAX_KEYS: usize = 200;

/// One key.
struct Key {
    /// Its `kid`. Without one it is tried for every token.
    id: Option<String>,
    algorithm: Algorithm,
    verifier: DecodingKey,
}

/// The keys of one issuer.
pub struct KeySet(Vec<Key>);

impl KeySet {
    /// The secrets of HS256.
    pub fn secrets<'a>(secrets: impl Iterator<Item = &'a str>) -> Self {
        let key = |secret: &str| Key {
            id: None,
            algorithm: Algorithm::HS256,
            verifier: DecodingKey::from_secret(secret.as_bytes()),
        };
        Self(secrets.map(key).collect())
    }

    /// What a file holds: JWKS, or a public key as PEM. Errors: text that says what would be right.
    pub fn from_file(bytes: &[u8], allowed: &[JwtAlgorithm]) -> Result<Self, String> {
        if bytes.trim_ascii_start().starts_with(b"{") {
            return Self::from_jwks(bytes, allowed);
        }
        for algorithm in allowed {
            let key = match algorithm {
                JwtAlgorithm::Hs256 => continue,
                JwtAlgorithm::Rs256 => DecodingKey::from_rsa_pem(bytes),
                JwtAlgorithm::Es256 => DecodingKey::from_ec_pem(bytes),
                JwtAlgorithm::EdDsa => DecodingKey::from_ed_pem(bytes),
            };
            if let Ok(key) = key {
                return Ok(Self(vec![Key { id: None, algorithm: library(*algorithm), verifier: key }]));
            }
        }
        Err("holds neither a public key (PEM) for one of the `algorithms` nor a set of keys (JWKS)".to_owned())
    }

    /// A set of keys. What is in it for other uses and other algorithms is left aside. Errors: no set, or nothing of use in it.
    pub fn from_jwks(bytes: &[u8], allowed: &[JwtAlgorithm]) -> Result<Self, String> {
        let set: Value = serde_json::from_slice(bytes).map_err(|_| "is not JSON".to_owned())?;
        let keys = set["keys"].as_array().ok_or("is no set of keys (JWKS): it has no `keys`")?;
        if keys.len() > MAX_KEYS {
            return Err(format!("has more than {MAX_KEYS} keys"));
        }
        let keys: Vec<Key> = keys.iter().filter_map(|key| read(key, allowed)).collect();
        if keys.is_empty() {
            return Err("has no public key for any of the `algorithms`".to_owned());
        }
        Ok(Self(keys))
    }

    /// The keys that may have signed a token with this header.
    pub fn candidates(&self, algorithm: Algorithm, id: Option<&str>) -> impl Iterator<Item = &DecodingKey> {
        let may = move |key: &&Key| {
            key.algorithm == algorithm && (key.id.is_none() || id.is_none() || key.id.as_deref() == id)
        };
        self.0.iter().filter(may).map(|key| &key.verifier).take(MAX_TRIES)
    }
}

/// Ours as the library's.
pub fn library(algorithm: JwtAlgorithm) -> Algorithm {
    match algorithm {
        JwtAlgorithm::Hs256 => Algorithm::HS256,
        JwtAlgorithm::Rs256 => Algorithm::RS256,
        JwtAlgorithm::Es256 => Algorithm::ES256,
        JwtAlgorithm::EdDsa => Algorithm::EdDSA,
    }
}

/// One key of a set; `None` for one that does not verify tokens here. A symmetric key has no place in what is published.
fn read(value: &Value, allowed: &[JwtAlgorithm]) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
    let common = &jwk.common;
    if common.public_key_use.as_ref().is_some_and(|used| *used != PublicKeyUse::Signature) {
        return None;
    }
    if common.key_operations.as_ref().is_some_and(|all| !all.contains(&KeyOperations::Verify)) {
        return None;
    }
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (JwtAlgorithm::Rs256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (JwtAlgorithm::Es256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (JwtAlgorithm::EdDsa, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    if !allowed.contains(&algorithm) || common.key_algorithm.is_some_and(|told| told != named) {
        return None;
    }
    let verifier = DecodingKey::from_jwk(&jwk).ok()?;
    Some(Key { id: common.key_id.clone(), algorithm: library(algorithm), verifier })
}
