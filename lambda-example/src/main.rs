//! The orders function: `POST /orders` and `GET /orders/{id}`, with PostgreSQL and Redis behind Hearth.
//!
//! The client is built once, before the first invocation, and lives as long as the function's process; it holds no database
//! connection, only an HTTP one, which it opens again where Lambda kept the process frozen for longer than the other end waited.

mod handler;
mod orders;

use lambda_http::{Error, run, service_fn, tracing};

use crate::orders::HearthOrders;

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    let orders = HearthOrders::new(hearth_client::Client::from_env()?);
    run(service_fn(|request| handler::handle(&orders, request))).await
}
