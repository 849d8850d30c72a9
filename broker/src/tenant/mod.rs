//! May this tenant, now? Rates, quotas, requests in flight, and the proof of having been let in.
//!
//! [`limits`] holds all limits of one tenant and asks them together; each kind is a file: [`rate`], [`debt`], [`quota`],
//! [`inflight`]. [`fleet`] shares them with other brokers.

pub mod admission;
pub mod debt;
pub mod fleet;
pub mod inflight;
pub mod left;
pub mod limits;
pub mod named;
pub mod policy;
pub mod quota;
pub mod rate;

pub use admission::{Admission, AdmissionError};
pub use fleet::Fleet;
pub use inflight::Permit;
pub use left::Left;
pub use limits::Limits;
pub use policy::Tenant;
