//! Small things that every room uses: names and names like them, new keys, the one time budget, blocks of addresses, hexadecimal
//! digits, an error in one line, the threads that serve.

pub mod chain;
pub mod cidr;
pub mod deadline;
pub mod hex;
pub mod ids;
pub mod key;
pub mod similar;
pub mod worker;

pub use chain::chain;
pub use cidr::Cidr;
pub use deadline::Deadline;
pub use ids::{BackendName, KeyId, RequestId, TenantId};
pub use key::NewKey;
pub use similar::similar;
pub use worker::Workers;
