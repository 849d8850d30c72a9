//! A thin, typed client for the Hearth connection broker: PostgreSQL and Redis over HTTP, for functions that live too
//! short to keep a connection of their own.
//!
//! `HEARTH_URL` says where the broker is and `HEARTH_KEY` who is asking. Build the client once, outside the handler;
//! a clone shares its connections.
//!
//! ```no_run
//! # #[cfg(feature = "http")]
//! # mod example {
//! use std::time::Duration;
//!
//! use hearth_client::{Client, Error};
//!
//! #[derive(serde::Deserialize)]
//! struct User {
//!     id: i64,
//!     name: String,
//! }
//!
//! async fn greet(client: &Client, id: i64, left: Duration) -> Result<String, Error> {
//!     // Everything below ends within `left`, waiting and retrying included.
//!     let client = client.with_timeout(left);
//!
//!     let user = client
//!         .db("app")
//!         .query("SELECT id, name FROM users WHERE id = $1")
//!         .bind(id)
//!         .read_only()
//!         .fetch_one::<User>()
//!         .await?;
//!
//!     let visits = client.redis("main").incr(&format!("visits:{}", user.id)).await?;
//!     Ok(format!("hello {}, visit {visits}", user.name))
//! }
//!
//! async fn run() -> Result<(), Error> {
//!     let client = Client::from_env()?;
//!     greet(&client, 42, Duration::from_secs(2)).await?;
//!     Ok(())
//! }
//! # }
//! ```
//!
//! An [`Error`] says whether trying again is safe ([`Error::is_retryable`]) and what became of the statement
//! ([`Error::outcome`]). The client has then already retried what it may: requests the broker calls retryable, and
//! requests of which nothing was sent.
//!
//! Beside single statements a [`Database`] runs batches in one transaction ([`Database::batch`]), streams rows
//! ([`Query::stream`]), moves bulk data ([`Database::copy_in`], [`Database::copy_out`]), hears notifications
//! ([`Database::listen`]) and runs statements by name ([`Database::statement`]).
//!
//! Features: `http` (default) is the client; without it the crate is [`wire`], the shapes broker and client share, and
//! brings no HTTP stack. `openapi` adds schemas to those shapes.

#![warn(missing_docs)]

#[cfg(feature = "http")]
mod batch;
#[cfg(feature = "http")]
#[cfg(test)]
mod canned;
#[cfg(feature = "http")]
mod chunks;
#[cfg(feature = "http")]
mod client;
#[cfg(feature = "http")]
mod copy;
#[cfg(feature = "http")]
mod database;
#[cfg(feature = "http")]
mod error;
#[cfg(feature = "http")]
mod lines;
#[cfg(feature = "http")]
mod listen;
#[cfg(feature = "http")]
mod params;
#[cfg(feature = "http")]
mod query;
#[cfg(feature = "http")]
mod redis;
#[cfg(feature = "http")]
mod retry;
#[cfg(feature = "http")]
mod rows;
#[cfg(feature = "http")]
mod sse;
pub mod wire;

#[cfg(feature = "http")]
pub use batch::{Batch, BatchResults, Ref, Statement};
#[cfg(feature = "http")]
pub use bytes::Bytes;
#[cfg(feature = "http")]
pub use client::{Client, ClientBuilder};
#[cfg(feature = "http")]
pub use copy::{CopyIn, CopyOut};
#[cfg(feature = "http")]
pub use database::Database;
#[cfg(feature = "http")]
pub use error::Error;
#[cfg(feature = "http")]
pub use listen::{Event, Listener};
#[cfg(feature = "http")]
pub use query::{Named, Query, Sql};
#[cfg(feature = "http")]
pub use redis::{Pipeline, Redis};
#[cfg(feature = "http")]
pub use retry::Instant;
#[cfg(feature = "http")]
pub use rows::RowStream;
