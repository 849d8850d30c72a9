//! HTTP on one side, plain types on the other. axum lives here and in `server`.

pub mod admin;
pub mod auth;
pub mod body;
pub mod call;
pub mod encoding;
pub mod error;
pub mod explain;
pub mod guarded;
pub mod header;
pub mod health;
mod json;
pub mod limits;
pub mod listen;
pub mod openapi;
pub mod pace;
pub mod pages;
pub mod peer;
pub mod problem;
pub mod redis;
pub mod reload;
pub mod routing;
pub mod sql;
pub mod whoami;

pub use call::Call;
pub use error::Error;
pub use peer::Peer;

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::extract::State;

    use super::{call, redis, sql};

    /// A handler's future is moved four times on its way into its box. What few requests need is therefore boxed where it
    /// begins, and does not weigh on the others.
    #[test]
    fn the_future_of_a_frequent_request_is_small() {
        fn bytes<A, B, C, D, E, F>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
            size_of::<F>()
        }
        let query = bytes(|a: State<_>, b: call::Call, c: call::BackendPath, d: call::Headers, e: Body| {
            sql::query::query(a, b, c, d, e)
        });
        let command = bytes(|a: State<_>, b: call::Call, c: call::BackendPath, d: call::Headers, e: Body| {
            redis::run_command(a, b, c, d, e)
        });
        assert!(query < 4096 && command < 4096, "a query: {query} bytes, a Redis command: {command} bytes");
    }
}
