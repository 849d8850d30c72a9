//! The shapes of the HTTP interface, shared by broker and client.
//!
//! Requests refuse unknown fields, so that a typo never does half a job; answers accept them, so that an older client
//! reads a newer broker. Source: `docs/api.md`.

mod batch;
mod bulk;
mod problem;
mod query;
mod redis;
mod statement;
mod whoami;

pub use batch::{BatchRequest, BatchResponse, BatchStatement, Isolation, Transaction};
pub use bulk::{CopyResponse, Notification, StreamHead, StreamTail};
pub use problem::{Outcome, PostgresError, Problem, ProblemCode};
pub use query::{Column, Int8Format, Notice, QueryRequest, QueryResponse, RowShape, ValueFormat};
pub use redis::RedisReply;
pub use statement::StatementRequest;
pub use whoami::{PolicyUsage, Whoami};

/// Names of the headers this interface adds to HTTP.
pub mod header {
    /// The caller's deadline for the whole request, queueing included. Units: milliseconds.
    pub const TIMEOUT_MS: &str = "hearth-timeout-ms";
    /// A token of an earlier write's answer: what is read is at least as new.
    pub const CONSISTENCY: &str = "hearth-consistency";
    /// Which shard of a database the request belongs to.
    pub const SHARD_KEY: &str = "hearth-shard-key";
    /// Who served a request to a database with replicas: `primary` or `replica`.
    pub const SERVED_BY: &str = "hearth-served-by";
    /// `off`: the request shares its session with no other.
    pub const LANES: &str = "hearth-lanes";
    /// Taken from the caller or made by the broker; echoed, logged and put into every problem.
    pub const REQUEST_ID: &str = "x-request-id";
}

/// Media types of streamed results.
pub mod media_type {
    /// A first line [`StreamHead`](super::StreamHead), one line a row, a last line [`StreamTail`](super::StreamTail).
    pub const NDJSON: &str = "application/x-ndjson";
    /// A header row, then one row a row.
    pub const CSV: &str = "text/csv";
}
