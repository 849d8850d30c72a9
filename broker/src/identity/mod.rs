//! Who is asking? An API key, a token or a client certificate gives one [`Principal`], whatever the source.
//!
//! What HTTP has to do with it is in `edge/auth.rs`; here are plain texts and names. [`Breaker`] is what stands before any secret
//! is looked at.

pub mod breaker;
pub mod certificate;
pub mod error;
pub mod jwt;
pub mod key;
pub mod principal;

pub use breaker::{Breaker, Credential, Net};
pub use certificate::Certificates;
pub use error::{AuthError, RefusedBy};
pub use jwt::Issuers;
pub use key::{Key, LastUsed};
pub use principal::{Grant, Identity, Principal, Via};
