//! May this tenant, now? Rate, requests in flight, and the proof of having been let in.

pub mod admission;
pub mod inflight;
pub mod policy;
pub mod rate;

pub use admission::{Admission, AdmissionError};
pub use inflight::Permit;
pub use policy::Tenant;
