//! The control database: tenants and keys beside the file's, in a schema that `hearth migrate` makes.
//!
//! [`Control`] knows how to reach it. A [`Session`] reads: all at once, and then what has changed (`read`, `rows`); and it tells
//! which keys were used (`uses`). A [`Store`] is for those who write: commands and the admin interface. Hashes of keys are kept,
//! never secrets.

mod connect;
mod error;
mod keys;
pub mod migrate;
mod read;
mod rows;
mod store;
mod uses;

pub use connect::{Control, Session};
pub use error::ControlError;
pub use keys::{KeyWish, MadeKey, StoredKeyRow};
pub use migrate::{Migration, Step};
pub use read::{Change, Memory, Reader, Revision, Snapshot};
pub use rows::{StoredKey, StoredTenant};
pub use store::{Patch, Store, StoredTenantRow, Written};
