//! Orders where they are kept: PostgreSQL, with Redis in front of reads, both through Hearth.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use hearth_client::wire::{Outcome, ProblemCode};
use hearth_client::{Client, Error};
use lambda_http::http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The names under which the broker knows our database and our cache.
const DATABASE: &str = "app";
const CACHE: &str = "main";
/// How long Redis keeps an order. An order never changes, so this bounds the cache's size and not its age.
const CACHE_TTL: Duration = Duration::from_mins(1);
/// The longest a look into the cache may take: a cache slower than the database behind it is no help.
const CACHE_TIMEOUT: Duration = Duration::from_millis(250);
/// When to come again, where the broker does not say.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An order as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub id: i64,
    pub item: String,
    pub quantity: i32,
    /// ISO 8601, UTC.
    pub created: String,
}

/// An order as asked for. A misspelt field is refused, since it would otherwise be an order for something else.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewOrder {
    pub item: String,
    pub quantity: i32,
}

/// What the handler needs of a store. Every call ends within a quarter of a second after its deadline: so long the client
/// waits for the broker's word on what became of the statement.
pub trait Orders {
    /// Stores an order.
    async fn insert(&self, order: &NewOrder, deadline: Instant) -> Result<Order, Failure>;
    /// Finds an order in the database.
    async fn find(&self, id: i64, deadline: Instant) -> Result<Option<Order>, Failure>;
    /// Finds an order in the cache.
    async fn recall(&self, id: i64, deadline: Instant) -> Result<Option<Order>, Failure>;
    /// Puts an order into the cache.
    async fn remember(&self, order: &Order, deadline: Instant) -> Result<(), Failure>;
}

/// [`Orders`] behind a Hearth broker.
#[derive(Debug, Clone)]
pub struct HearthOrders {
    client: Client,
}

impl HearthOrders {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The client for one cache command: the request's deadline, or sooner.
    fn cache_client(&self, deadline: Instant) -> Client {
        self.client.with_deadline(deadline.min(Instant::now() + CACHE_TIMEOUT))
    }
}

impl Orders for HearthOrders {
    async fn insert(&self, order: &NewOrder, deadline: Instant) -> Result<Order, Failure> {
        let client = self.client.with_deadline(deadline);
        let insert = client
            .db(DATABASE)
            .query("INSERT INTO orders (item, quantity) VALUES ($1, $2) RETURNING id, item, quantity, created")
            .bind(&order.item)
            .bind(order.quantity);
        Ok(insert.fetch_one().await?)
    }

    async fn find(&self, id: i64, deadline: Instant) -> Result<Option<Order>, Failure> {
        let client = self.client.with_deadline(deadline);
        let select = client
            .db(DATABASE)
            .query("SELECT id, item, quantity, created FROM orders WHERE id = $1")
            .bind(id)
            .read_only();
        Ok(select.fetch_optional().await?)
    }

    async fn recall(&self, id: i64, deadline: Instant) -> Result<Option<Order>, Failure> {
        Ok(self.cache_client(deadline).redis(CACHE).get_json(&key(id)).await?)
    }

    async fn remember(&self, order: &Order, deadline: Instant) -> Result<(), Failure> {
        Ok(self.cache_client(deadline).redis(CACHE).set_ex(&key(order.id), order, CACHE_TTL).await?)
    }
}

fn key(id: i64) -> String {
    format!("orders:{id}")
}

/// Why a call brought no answer: what the caller is told, and, apart from it, what the log is told.
#[derive(Debug, Clone)]
pub struct Failure {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: &'static str,
    /// Whole seconds, as the `Retry-After` header wants them.
    pub retry_after: Option<u64>,
    pub cause: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

/// The broker's word on a request becomes this function's word to its caller. What is wrong between function and broker
/// (a refused key, a missing table) is nothing a caller can mend, so it says only that.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (status, code, message) = if error.is_retryable() {
            (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "nothing was changed; send the same request again")
        } else if error.outcome() != Outcome::NotApplied {
            (
                StatusCode::BAD_GATEWAY,
                "outcome_unknown",
                "the order may have been stored; look before you send it again",
            )
        } else if error.is_timeout() {
            (StatusCode::GATEWAY_TIMEOUT, "timeout", "the time was too short; nothing was changed")
        } else if error.code() == Some(ProblemCode::Conflict) {
            (StatusCode::CONFLICT, "conflict", "the database has a rule against this order; nothing was stored")
        } else {
            (StatusCode::INTERNAL_SERVER_ERROR, "internal", "this function cannot reach its orders")
        };
        let pause = error.retry_after().unwrap_or(RETRY_AFTER);
        let whole_seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
        let retry_after = error.is_retryable().then_some(whole_seconds.max(1));
        Self { status, code, message, retry_after, cause: chain(&error) }
    }
}

/// An error with its causes, on one line.
fn chain(error: &Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests;
