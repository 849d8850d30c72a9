//! Warm connections: PostgreSQL sessions lent to one caller at a time, one that listens for all, Redis lanes shared by many.

pub mod checkout;
pub mod error;
pub mod lane;
pub mod lease;
pub mod listen;
pub mod postgres;
pub mod redis;

pub use checkout::{Database, PoolStatus};
pub use error::PoolError;
pub use lease::Lease;
pub use listen::{Hub, ListenError};
pub use redis::Cache;
