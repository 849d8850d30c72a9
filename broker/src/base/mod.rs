//! Small types that every room uses: names, the one time budget, SHA-256 of keys.

pub mod deadline;
pub mod ids;

pub use deadline::Deadline;
pub use ids::{BackendName, KeyId, RequestId, TenantId};
