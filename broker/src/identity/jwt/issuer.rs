//! One issuer: its keys, and what its tokens may be good for.

use std::collections::BTreeMap;
use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation};
use serde::de::IgnoredAny;

use super::claims::Claims;
use super::keys::{KeySet, library};
use super::remote::RemoteKeys;
use crate::base::TenantId;
use crate::config::identity::names;
use crate::config::{JwtConfig, Scope};
use crate::identity::error::{AuthError, TokenFault};
use crate::identity::principal::{Grant, Identity, Principal, Via};
use crate::observe::AuthMetrics;
use crate::tenant::Tenant;

/// One issuer.
pub struct Issuer {
    name: Arc<str>,
    config: JwtConfig,
    statements: Option<Arc<[String]>>,
    keys: Keys,
    /// Resolved, where all its tokens are of one tenant.
    tenant: Option<Arc<Tenant>>,
    /// What a token must say, for each algorithm that is allowed.
    validations: Vec<(Algorithm, Validation)>,
}

/// Where its keys are.
enum Keys {
    /// In the configuration, or in a file that it names.
    Fixed(KeySet),
    /// With the issuer.
    Remote(Arc<RemoteKeys>),
}

impl Issuer {
    /// Resolves one. Keys that were fetched for `before` are kept where they would be fetched the same way. Errors: the field, and
    /// what is wrong with it.
    pub fn new(
        name: &str,
        config: &JwtConfig,
        tenants: &BTreeMap<TenantId, Arc<Tenant>>,
        before: Option<&Self>,
        metrics: &AuthMetrics,
    ) -> Result<Self, (&'static str, String)> {
        let validation = |algorithm| (algorithm, validation(config, algorithm));
        Ok(Self {
            name: name.into(),
            statements: config.statements.as_deref().map(Arc::from),
            keys: keys(name, config, before, metrics)?,
            tenant: config.tenant.as_deref().and_then(|tenant| tenants.get(tenant)).map(Arc::clone),
            validations: config.algorithms.iter().map(|algorithm| validation(library(*algorithm))).collect(),
            config: config.clone(),
        })
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Another one whenever its keys are others.
    pub fn version(&self) -> u64 {
        match &self.keys {
            Keys::Fixed(_) => 0,
            Keys::Remote(keys) => keys.version(),
        }
    }

    /// Begins to fetch its keys, where they are fetched.
    pub fn start(&self) {
        if let Keys::Remote(keys) = &self.keys {
            keys.start();
        }
    }

    /// Verifies signature, times, issuer and audience. Gives the version of the keys that did.
    pub async fn verify(&self, token: &str, header: &Header) -> Result<u64, AuthError> {
        let allowed = self.validations.iter().find(|(algorithm, _)| *algorithm == header.alg);
        let (_, validation) = allowed.ok_or(TokenFault::Algorithm)?;
        let remote = match &self.keys {
            Keys::Fixed(keys) => {
                return Ok(try_all(token, header, keys, validation).unwrap_or(Err(TokenFault::Key)).map(|()| 0)?);
            }
            Keys::Remote(remote) => remote,
        };
        // The version first: keys that come in between make it stale, and it is asked for again.
        let version = remote.version();
        let known = remote.known();
        let told = known.as_ref().and_then(|keys| try_all(token, header, keys, validation));
        // A key that is not known, or one without a name that is another now: the issuer may have a new one.
        let may_be_new = match told {
            None => true,
            Some(told) => told == Err(TokenFault::Signature) && header.kid.is_none(),
        };
        if let Some(told) = told.filter(|_| !may_be_new) {
            return Ok(told.map(|()| version)?);
        }
        remote.fetched_again().await;
        let version = remote.version();
        let keys = remote.known().ok_or_else(|| AuthError::NoKeys { issuer: Arc::clone(&self.name) })?;
        Ok(try_all(token, header, &keys, validation).unwrap_or(Err(TokenFault::Key)).map(|()| version)?)
    }

    /// Who a verified token is, and until when; `tenants` finds a tenant in force by its name. Unit: seconds since 1970.
    pub fn principal(
        &self,
        claims: &Claims,
        tenants: &impl Fn(&str) -> Result<Arc<Tenant>, AuthError>,
    ) -> Result<(Principal, i64), AuthError> {
        let config = &self.config;
        let tenant = match (&self.tenant, &config.tenant_claim) {
            (Some(tenant), _) => Arc::clone(tenant),
            (None, Some(claim)) => {
                let named = claims.text(claim).ok_or(TokenFault::Tenant)?;
                let named = Some(named).filter(|named| names(&config.tenants, named));
                tenants(named.ok_or(TokenFault::Tenant)?)?
            }
            (None, None) => return Err(TokenFault::Tenant.into()),
        };
        let subject = match claims.get("sub") {
            None => "",
            Some(subject) => subject.as_str().ok_or(TokenFault::Claims)?,
        };
        let settings = config.settings.iter().map(|(name, claim)| Ok((name.clone(), claims.setting(claim)?)));
        let leeway = i64::try_from(config.leeway.as_secs()).unwrap_or_default();
        let expires = claims.expires().ok_or(TokenFault::Claims)?.saturating_add(leeway);
        let grant = Grant {
            tenant,
            identity: Identity::new(Via::Token, &format!("{}/{subject}", self.name)),
            scopes: self.scopes(claims)?,
            statements: self.statements.clone(),
            settings: settings.collect::<Result<_, TokenFault>>()?,
        };
        Ok((grant.into(), expires))
    }

    /// What the token says, and the configuration allows.
    fn scopes(&self, claims: &Claims) -> Result<Vec<Scope>, TokenFault> {
        let config = &self.config;
        let Some(claim) = &config.scopes_claim else { return Ok(config.scopes.clone()) };
        let words = claims.words(claim)?;
        let says = |scope: &Scope| {
            words.iter().any(|word| match config.roles.get(*word) {
                Some(scopes) => scopes.contains(scope),
                None => config.roles.is_empty() && *word == scope.as_str(),
            })
        };
        Ok(config.scopes.iter().copied().filter(says).collect())
    }
}

fn keys(
    name: &str,
    config: &JwtConfig,
    before: Option<&Issuer>,
    metrics: &AuthMetrics,
) -> Result<Keys, (&'static str, String)> {
    if let Some(secret) = &config.secret {
        let secret = secret.reveal().map_err(|message| ("secret", message))?;
        let previous = config.previous_secret.as_ref().map(crate::config::Secret::reveal);
        let previous = previous.transpose().map_err(|message| ("previous_secret", message))?;
        return Ok(Keys::Fixed(KeySet::secrets(std::iter::once(&*secret).chain(previous.as_deref()))));
    }
    if let Some(file) = &config.key_file {
        let bytes = std::fs::read(file).map_err(|error| ("key_file", format!("cannot read `{file}`: {error}")))?;
        return KeySet::from_file(&bytes, &config.algorithms)
            .map(Keys::Fixed)
            .map_err(|message| ("key_file", format!("`{file}` {message}")));
    }
    let made = RemoteKeys::new(name, config, metrics).map_err(|message| ("jwks_url", message))?;
    let kept = before.and_then(|before| match &before.keys {
        Keys::Remote(keys) if keys.is_as(&made) => Some(Arc::clone(keys)),
        _ => None,
    });
    Ok(Keys::Remote(kept.unwrap_or_else(|| Arc::new(made))))
}

fn validation(config: &JwtConfig, algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.set_issuer(&[&config.issuer]);
    validation.set_audience(&config.audience);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    validation.validate_nbf = true;
    validation.leeway = config.leeway.as_secs();
    validation
}

/// What the keys say to the token; `None` where none of them could have signed it.
fn try_all(token: &str, header: &Header, keys: &KeySet, validation: &Validation) -> Option<Result<(), TokenFault>> {
    let mut told = None;
    for key in keys.candidates(header.alg, header.kid.as_deref()) {
        let fault = match jsonwebtoken::decode::<IgnoredAny>(token, key, validation) {
            Ok(_) => return Some(Ok(())),
            Err(error) => fault(error.kind()),
        };
        told = Some(Err(fault));
        // With the right key, what is wrong is wrong.
        if fault != TokenFault::Signature {
            break;
        }
    }
    told
}

fn fault(kind: &ErrorKind) -> TokenFault {
    match kind {
        ErrorKind::ExpiredSignature => TokenFault::Expired,
        ErrorKind::ImmatureSignature => TokenFault::NotYet,
        ErrorKind::InvalidAudience => TokenFault::Audience,
        ErrorKind::InvalidIssuer => TokenFault::Issuer,
        ErrorKind::InvalidAlgorithm | ErrorKind::MissingAlgorithm => TokenFault::Algorithm,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => TokenFault::Claims,
        ErrorKind::InvalidToken | ErrorKind::Base64(_) | ErrorKind::Json(_) | ErrorKind::Utf8(_) => {
            TokenFault::Malformed
        }
        // It is not the key's, or the key itself does not work with it.
        _ => TokenFault::Signature,
    }
}
