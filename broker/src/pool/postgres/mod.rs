//! One PostgreSQL session: dialling it, speaking over its wire, preparing on it, cancelling on it, making it clean again.

pub mod ask;
pub mod capacity;
pub mod catalog;
pub mod channel;
pub mod connect;
pub mod frame;
pub mod hearing;
pub mod observed;
pub mod prepared;
pub mod presence;
pub mod reset;
pub mod server_error;
pub mod session;
mod silence;
mod socket;
pub mod tap;
pub mod tls;
pub mod types;
pub mod wire;

pub use catalog::Catalog;
pub use channel::{Broken, Channel};
pub use prepared::{Prepared, PreparedCache, Shape};
pub use server_error::ServerError;
pub use session::{Cleanup, Session};
