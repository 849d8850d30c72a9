//! Warm connections: PostgreSQL sessions lent to one caller at a time or shared by many on lanes, one that listens for all, Redis
//! lanes.
//!
//! A [`Database`] has one [`Endpoint`] a server; a [`Server`] is shared by all pools that log in there. `route` chooses the
//! endpoint, `checkout` and `opener` get a session from it, `queue` says whose turn it is, `lease` brings it back, `monitor` watches
//! the server, `upkeep` and `plan` keep the pools in shape; `lane` shares sessions over `pipeline`, as `redis` does. `registry` and
//! `leaks` know who holds what, `journal`, `decision` and `measure` tell. `backoff`, `breaker`, `budget`, `demand`, `forecast`, `health`, `load`,
//! `service_time`, `share` and `sizing` are rules without I/O.

pub mod backoff;
pub mod breaker;
pub mod budget;
mod checkout;
pub mod database;
pub mod decision;
pub mod demand;
pub mod endpoint;
pub mod error;
pub mod event;
pub mod forecast;
mod foresight;
pub mod health;
pub mod journal;
pub mod lane;
mod leaks;
pub mod lease;
pub mod ledger;
pub mod listen;
pub mod load;
pub mod measure;
mod monitor;
mod opener;
pub mod pipeline;
pub mod plan;
pub mod postgres;
pub mod queue;
pub mod redis;
pub mod registry;
pub mod route;
pub mod server;
pub mod service_time;
pub mod shards;
pub mod share;
pub mod sizing;
mod upkeep;

pub use database::Database;
pub use endpoint::{Endpoint, EndpointStatus};
pub use error::PoolError;
pub use journal::Journal;
pub use leaks::OWN_ACCOUNT;
pub use lease::Lease;
pub use listen::{Hub, ListenError};
pub use queue::Account;
pub use redis::Cache;
pub use registry::Holder;
pub use route::{Consistency, Want};
pub use server::Server;
