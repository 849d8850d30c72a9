//! HTTP on one side, plain types on the other. axum lives here and in `server`.

pub mod admin;
pub mod auth;
pub mod body;
pub mod call;
pub mod encoding;
pub mod error;
pub mod explain;
pub mod guarded;
pub mod header;
pub mod health;
pub mod listen;
pub mod openapi;
pub mod pages;
pub mod peer;
pub mod problem;
pub mod redis;
pub mod reload;
pub mod routing;
pub mod sql;
pub mod whoami;

pub use call::Call;
pub use error::Error;
pub use peer::Peer;
