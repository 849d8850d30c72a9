//! Tokens (JWT): verified against the issuers that the configuration names, and remembered until they expire.
//!
//! The way of a token: its length; its header, of which only `alg` and `kid` are used (`jku`, `jwk`, `x5u` and `x5c` point to keys of
//! the sender's own and are never followed); the claimed issuer, which finds the configuration; a key of that issuer that was made for
//! exactly this algorithm; the signature; then the claims. Sources: RFC 7515, 7519 and 8725.

mod cache;
mod claims;
mod fetch;
mod issuer;
mod keys;
mod remote;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use self::cache::{Cached, Tokens};
use self::claims::Claims;
use self::issuer::Issuer;
use super::breaker::{Breaker, Credential};
use super::error::{AuthError, TokenFault};
use super::principal::Principal;
use crate::base::TenantId;
use crate::config::JwtConfig;
use crate::observe::AuthMetrics;
use crate::tenant::Tenant;

/// The longest token that is looked at. Tokens with hundreds of groups in them fit. Unit: bytes.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The issuers of tokens that are let in, and the tokens of theirs that are known. Made anew by each reload; only fetched keys
/// outlive it.
#[derive(Default)]
pub struct Issuers {
    by_issuer: HashMap<String, Arc<Issuer>>,
    tokens: Tokens,
}

/// A token that was not seen before, taken apart and not believed yet.
pub struct Unverified<'a> {
    token: &'a str,
    hash: [u8; 32],
    header: jsonwebtoken::Header,
    claims: Claims,
    issuer: Arc<Issuer>,
}

impl Issuers {
    /// Resolves the configuration. Faults: keys that cannot be read, each with the issuer's name.
    pub fn new(
        configs: &BTreeMap<String, JwtConfig>,
        tenants: &BTreeMap<TenantId, Arc<Tenant>>,
        before: Option<&Self>,
        metrics: &AuthMetrics,
        fault: &mut impl FnMut(String, String),
    ) -> Self {
        let mut by_issuer = HashMap::new();
        for (name, config) in configs {
            let old = before.and_then(|before| before.by_issuer.get(&config.issuer));
            match Issuer::new(name, config, tenants, old.map(|old| &**old), metrics) {
                Ok(issuer) => drop(by_issuer.insert(config.issuer.clone(), Arc::new(issuer))),
                Err((field, message)) => fault(format!("identity.jwt.{name}.{field}"), message),
            }
        }
        Self { by_issuer, tokens: Tokens::default() }
    }

    /// Begins to fetch keys where they are fetched, and goes on in the background.
    pub fn start(&self) {
        for issuer in self.by_issuer.values() {
            issuer.start();
        }
    }

    /// True if the text is a token, where tokens are let in at all. A key has an id of the broker's own making before its dot.
    pub fn is_token(&self, text: &str) -> bool {
        !self.by_issuer.is_empty() && text.starts_with("eyJ") && text.bytes().filter(|b| *b == b'.').count() == 2
    }

    /// Whose a token is that was verified before and is still good; else the token taken apart. `tenants` finds a tenant that is
    /// in force by its name: a token of one that has changed since, or is suspended, is looked at again. Unit of `now`: seconds
    /// since 1970.
    pub fn known_or_read<'a>(
        &self,
        token: &'a str,
        now: i64,
        tenants: &impl Fn(&str) -> Result<Arc<Tenant>, AuthError>,
    ) -> Result<Result<Principal, Unverified<'a>>, TokenFault> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenFault::TooLong);
        }
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let is_in_force =
            |known: &Principal| tenants(known.tenant.id.as_str()).is_ok_and(|now| Arc::ptr_eq(&now, &known.tenant));
        if let Some(known) = self.tokens.get(&hash, now).filter(is_in_force) {
            return Ok(Ok(known));
        }
        let header = jsonwebtoken::decode_header(token).map_err(|error| header_fault(error.kind(), token))?;
        if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
            return Err(TokenFault::Critical);
        }
        let claims = Claims::unverified(token)?;
        let issuer = self.by_issuer.get(claims.text("iss").ok_or(TokenFault::Issuer)?).ok_or(TokenFault::Issuer)?;
        Ok(Err(Unverified { token, hash, header, claims, issuer: Arc::clone(issuer) }))
    }

    /// Verifies a token, and remembers it. It waits only where its key is not known and may be had.
    pub async fn verify(
        &self,
        token: Unverified<'_>,
        tenants: &(impl Fn(&str) -> Result<Arc<Tenant>, AuthError> + Sync),
    ) -> Result<Principal, AuthError> {
        let Unverified { token, hash, header, claims, issuer } = token;
        let version = issuer.verify(token, &header).await?;
        let (principal, expires) = issuer.principal(&claims, tenants)?;
        self.tokens.put(hash, Cached { principal: principal.clone(), expires, version, issuer });
        Ok(principal)
    }
}

impl Unverified<'_> {
    /// What its failures are counted under. Its subject may be anything: it is not believed yet.
    pub fn credential(&self, breaker: &Breaker) -> Credential {
        breaker.token(self.issuer.name(), self.claims.text("sub").unwrap_or_default())
    }
}

/// An unknown algorithm is told as such; `none` is one that the library does not know.
fn header_fault(kind: &jsonwebtoken::errors::ErrorKind, token: &str) -> TokenFault {
    let is_json = matches!(kind, jsonwebtoken::errors::ErrorKind::Json(_));
    if is_json && claims::names_an_algorithm(token) { TokenFault::Algorithm } else { TokenFault::Malformed }
}

#[cfg(test)]
mod tests;
