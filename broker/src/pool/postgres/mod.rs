//! One PostgreSQL session: dialling it, watching its wire, preparing on it, cancelling on it, making it clean again.

pub mod catalog;
pub mod connect;
pub mod hearing;
pub mod manager;
pub mod prepared;
pub mod reset;
pub mod session;
pub mod tap;
pub mod tls;
pub mod wire;

pub use catalog::Catalog;
pub use manager::SessionManager;
pub use prepared::{Prepared, PreparedCache};
pub use session::{Cleanup, Session};
