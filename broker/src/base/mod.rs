//! Small things that every room uses: names, the one time budget, hexadecimal digits, an error in one line.

pub mod chain;
pub mod deadline;
pub mod hex;
pub mod ids;

pub use chain::chain;
pub use deadline::Deadline;
pub use ids::{BackendName, KeyId, RequestId, TenantId};
