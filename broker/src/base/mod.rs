//! Small things that every room uses: names, the one time budget, hexadecimal digits.

pub mod deadline;
pub mod hex;
pub mod ids;

pub use deadline::Deadline;
pub use ids::{BackendName, KeyId, RequestId, TenantId};
