//! Why a caller is not let in.

use std::sync::Arc;
use std::time::Duration;

/// Why a caller is not let in. The texts do not tell whether an id exists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No `Authorization` header, and no certificate that identifies anybody.
    #[error("send the API key as `Authorization: Bearer <key>`")]
    Missing,
    /// The header is not a bearer key.
    #[error("the Authorization header is not `Bearer <key>` with a key such as `hk_….…`")]
    Malformed,
    /// No such key, or a wrong secret.
    #[error("the API key is not valid")]
    Invalid,
    /// The key was valid once.
    #[error("the API key has expired")]
    Expired,
    /// The key will be valid later.
    #[error("the API key is not valid yet")]
    NotYet,
    /// The key is good and its tenant is not let in.
    #[error("the tenant of this API key is suspended")]
    Suspended,
    /// The token is not good.
    #[error("the token is not valid: {0}")]
    Token(TokenFault),
    /// The keys of the token's issuer are not to be had.
    #[error("the keys of the token's issuer `{issuer}` cannot be fetched at the moment")]
    NoKeys {
        /// The issuer's name in the configuration.
        issuer: Arc<str>,
    },
    /// The certificate is of one tenant, and the key or token of another; or the certificate is of several.
    #[error("the client certificate and the credentials are not of one tenant")]
    Mismatch,
    /// Too many failures lately; nothing was looked at.
    #[error("too many failed attempts; this one was not looked at")]
    TooManyFailures {
        /// What was counted.
        by: RefusedBy,
        /// When the next attempt will be looked at.
        retry_after: Duration,
    },
    /// The identity lacks a scope.
    #[error("the API key has no scope `{0}`")]
    Scope(&'static str),
    /// The identity is for some named statements, and this is none of them.
    #[error("the API key may run its named statements ({}) and no other SQL", .0.join(", "))]
    StatementsOnly(Arc<[String]>),
}

/// What is wrong with a token. A closed set: also what the metric is counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Not three parts of base64url, or no JSON inside, or one member twice.
    #[error("it is malformed")]
    Malformed,
    /// Longer than any token has to be.
    #[error("it is too long")]
    TooLong,
    /// Not one of the issuer's algorithms; `none` is never one.
    #[error("its algorithm is not allowed")]
    Algorithm,
    /// A header that must be understood, and is not.
    #[error("its header asks for what is not supported")]
    Critical,
    /// No issuer of this name.
    #[error("its issuer is not known")]
    Issuer,
    /// The issuer has no such key.
    #[error("its key is not known")]
    Key,
    /// The signature is not the key's.
    #[error("its signature is wrong")]
    Signature,
    /// It was good once.
    #[error("it has expired")]
    Expired,
    /// It will be good later.
    #[error("it is not valid yet")]
    NotYet,
    /// It is for somebody else.
    #[error("it is not for this audience")]
    Audience,
    /// A claim is missing or of the wrong type.
    #[error("a claim is missing or of the wrong type")]
    Claims,
    /// It names no tenant that it may name.
    #[error("it names no tenant that it may name")]
    Tenant,
}

impl TokenFault {
    /// As it stands in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::TooLong => "token_too_long",
            Self::Algorithm => "token_algorithm",
            Self::Critical => "token_critical",
            Self::Issuer => "token_issuer",
            Self::Key => "token_key",
            Self::Signature => "token_signature",
            Self::Expired => "token_expired",
            Self::NotYet => "token_not_yet",
            Self::Audience => "token_audience",
            Self::Claims => "token_claims",
            Self::Tenant => "token_tenant",
        }
    }
}

impl AuthError {
    /// Why an identity was not taken, for the metric; `None` where it was, and may not do what it asked.
    pub fn reason(&self) -> Option<&'static str> {
        Some(match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Invalid => "invalid",
            Self::Expired => "expired",
            Self::NotYet => "not_yet",
            Self::Suspended => "suspended",
            Self::Token(fault) => fault.as_str(),
            Self::NoKeys { .. } => "no_keys",
            Self::Mismatch => "mismatch",
            Self::TooManyFailures { .. } | Self::Scope(_) | Self::StatementsOnly(_) => return None,
        })
    }

    /// True where somebody may be guessing. A credential that was good once, or will be, was not guessed, nor was a token that its
    /// issuer has signed; one whose key is not known yet may come from an issuer that has just changed its keys; and who sends
    /// none guesses nothing.
    pub fn may_be_a_guess(&self) -> bool {
        match self {
            Self::Malformed | Self::Invalid | Self::Mismatch => true,
            Self::Token(fault) => match fault {
                TokenFault::Malformed
                | TokenFault::TooLong
                | TokenFault::Algorithm
                | TokenFault::Critical
                | TokenFault::Signature => true,
                TokenFault::Issuer
                | TokenFault::Key
                | TokenFault::Expired
                | TokenFault::NotYet
                | TokenFault::Audience
                | TokenFault::Claims
                | TokenFault::Tenant => false,
            },
            Self::Missing
            | Self::Expired
            | Self::NotYet
            | Self::Suspended
            | Self::NoKeys { .. }
            | Self::TooManyFailures { .. }
            | Self::Scope(_)
            | Self::StatementsOnly(_) => false,
        }
    }
}

/// What was counted when somebody was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedBy {
    /// Failures of the credential from the address.
    Credential,
    /// Failures of the address.
    Address,
    /// Failures of the key from everywhere.
    Key,
}

impl RefusedBy {
    /// As it stands in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Credential => "credential",
            Self::Address => "address",
            Self::Key => "key",
        }
    }
}

impl From<TokenFault> for AuthError {
    fn from(fault: TokenFault) -> Self {
        Self::Token(fault)
    }
}
