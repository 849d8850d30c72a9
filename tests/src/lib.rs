//! The harness: private PostgreSQL, Redis and broker for one test, on free loopback ports, gone when the test ends however it
//! ends.

pub mod authority;
pub mod bare;
pub mod events;
pub mod eventually;
pub mod ground;
pub mod http;
pub mod issuer;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod replica;
pub mod seeded;
pub mod served;
pub mod stack;
pub mod tls;

pub use authority::Authority;
pub use bare::Bare;
pub use eventually::eventually;
pub use ground::Ground;
pub use http::Answer;
pub use issuer::{Published, Signer};
pub use process::Hearth;
pub use replica::Replica;
pub use seeded::{Seeded, knob, permille};
pub use served::{Key, Served};
pub use stack::{Options, Stack};
