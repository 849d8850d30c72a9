//! The harness: private PostgreSQL, Redis and broker for one test, on free loopback ports, gone when the test ends however it
//! ends.

pub mod events;
pub mod eventually;
pub mod http;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod replica;
pub mod stack;
pub mod tls;

pub use eventually::eventually;
pub use http::Answer;
pub use process::Hearth;
pub use replica::Replica;
pub use stack::{Options, Stack};
