//! One invocation: which route, is the input sound, what to answer. What keeps orders is behind [`Orders`].

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use lambda_http::http::{Method, StatusCode, header};
use lambda_http::{Body, Request, RequestExt, Response, tracing};
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use crate::orders::{Failure, NewOrder, Order, Orders};

/// Kept back from Lambda's deadline, past which Lambda kills the function and its caller gets a bare 502: a quarter of a
/// second for the broker's word on what became of a statement, and as much for writing the answer.
const MARGIN: Duration = Duration::from_millis(500);
/// The budget where nobody sets one: Lambda's own default timeout.
const LOCAL_BUDGET: Duration = Duration::from_secs(3);
/// A deadline in 1970 is none. cargo-lambda's emulator sends `600000`, a length, where Lambda sends a moment.
const FIRST_MOMENT: Duration = Duration::from_hours(365 * 24);
/// The longest item, in characters.
const ITEM_CHARS: usize = 200;

/// Answers one request; every failure is an answer too.
pub async fn handle<O: Orders>(orders: &O, request: Request) -> Result<Response<Body>, Infallible> {
    let context = request.lambda_context();
    let deadline = Instant::now() + budget(context.deadline(), SystemTime::now());
    let answer = route(orders, &request, deadline).await;
    Ok(answer.unwrap_or_else(|refusal| refusal.into_response(&context.request_id)))
}

/// How long the work may take, given the moment at which Lambda ends the invocation.
fn budget(deadline: SystemTime, now: SystemTime) -> Duration {
    if deadline < SystemTime::UNIX_EPOCH + FIRST_MOMENT {
        return LOCAL_BUDGET;
    }
    deadline.duration_since(now).unwrap_or_default().saturating_sub(MARGIN)
}

async fn route<O: Orders>(orders: &O, request: &Request, deadline: Instant) -> Result<Response<Body>, Refusal> {
    let segments: Vec<&str> = request.raw_http_path().trim_matches('/').split('/').collect();
    match (request.method(), segments.as_slice()) {
        (&Method::POST, ["orders"]) => create_order(orders, request.body(), deadline).await,
        (&Method::GET, ["orders", id]) => read_order(orders, id, deadline).await,
        (_, ["orders"]) => Err(Refusal::method("POST")),
        (_, ["orders", _]) => Err(Refusal::method("GET")),
        _ => Err(Refusal::new(StatusCode::NOT_FOUND, "not_found", "there is POST /orders and GET /orders/{id}")),
    }
}

async fn create_order<O: Orders>(orders: &O, body: &[u8], deadline: Instant) -> Result<Response<Body>, Refusal> {
    let order = orders.insert(&new_order(body)?, deadline).await?;
    let location = format!("/orders/{}", order.id);
    Ok(respond(StatusCode::CREATED, &[("location", &location)], &order))
}

/// Reads from Redis, else from PostgreSQL. Redis may fail: then the order takes the longer way, and the log says so.
async fn read_order<O: Orders>(orders: &O, id: &str, deadline: Instant) -> Result<Response<Body>, Refusal> {
    // What is no positive int8 is nobody's id; the database need not be asked.
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, "unknown_order", format!("there is no order {id}"));
    let id: i64 = id.parse().ok().filter(|id| *id > 0).ok_or_else(unknown)?;
    let recalled = orders.recall(id, deadline).await;
    if let Ok(Some(order)) = recalled {
        return Ok(found(&order, "redis"));
    }
    let order = orders.find(id, deadline).await?.ok_or_else(unknown)?;
    // Awaited: after the answer Lambda freezes the function, and a task left behind would wake up in another invocation.
    // A cache that has just failed is not asked again.
    let remembered = match recalled {
        Ok(_) => orders.remember(&order, deadline).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = remembered {
        tracing::warn!(error.r#type = failure.code, "order {id} read without the cache: {failure}");
    }
    Ok(found(&order, "postgres"))
}

/// The order in a `POST /orders` body, or what is wrong with it.
fn new_order(body: &[u8]) -> Result<NewOrder, Refusal> {
    let refuse = |message: String| Refusal::new(StatusCode::BAD_REQUEST, "invalid_order", message);
    if body.is_empty() {
        return Err(refuse(r#"the body is empty; send {"item": "…", "quantity": 1}"#.to_owned()));
    }
    let order: NewOrder = serde_json::from_slice(body).map_err(|error| refuse(error.to_string()))?;
    let item = order.item.trim();
    if item.is_empty() || item.chars().count() > ITEM_CHARS || item.contains(char::is_control) {
        return Err(refuse(format!("item must be a text of 1 to {ITEM_CHARS} characters on one line")));
    }
    if order.quantity < 1 {
        return Err(refuse("quantity must be 1 or more".to_owned()));
    }
    Ok(NewOrder { item: item.to_owned(), ..order })
}

fn found(order: &Order, source: &str) -> Response<Body> {
    #[derive(Serialize)]
    struct Found<'a> {
        #[serde(flatten)]
        order: &'a Order,
        source: &'a str,
    }
    respond(StatusCode::OK, &[("x-order-source", source)], &Found { order, source })
}

/// An answer that is not the order asked for.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    header: Option<(&'static str, String)>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), header: None }
    }

    fn method(allow: &'static str) -> Self {
        let message = format!("this path takes {allow}");
        let header = Some(("allow", allow.to_owned()));
        Self { header, ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message) }
    }

    fn into_response(self, request_id: &str) -> Response<Body> {
        let headers: Vec<_> = self.header.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let body = json!({ "error": self.code, "message": self.message, "request_id": request_id });
        respond(self.status, &headers, &body)
    }
}

/// The caller learns what it can act on. What went wrong behind us stays in the log.
impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        tracing::error!(error.r#type = failure.code, "request failed: {failure}");
        let header = failure.retry_after.map(|seconds| ("retry-after", seconds.to_string()));
        Self { header, ..Self::new(failure.status, failure.code, failure.message) }
    }
}

fn respond(status: StatusCode, headers: &[(&str, &str)], body: &impl Serialize) -> Response<Body> {
    let body = serde_json::to_string(body).expect("our own types are JSON");
    let mut response = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Body::from(body)).expect("our own headers are valid")
}

#[cfg(test)]
mod tests;
