use std::cell::RefCell;
use std::collections::HashMap;

use lambda_http::Context;
use lambda_http::request::from_str;
use serde_json::Value;

use super::*;

const CREATE: &str = include_str!("../../events/create.json");
const READ: &str = include_str!("../../events/read.json");
const BAD: &str = include_str!("../../events/bad.json");

/// Orders in memory, with either half out of service on demand.
#[derive(Default)]
struct Memory {
    stored: RefCell<Vec<Order>>,
    cached: RefCell<HashMap<i64, Order>>,
    cache_down: bool,
    database_failure: Option<Failure>,
}

impl Memory {
    fn with_cache_down() -> Self {
        Self { cache_down: true, ..Self::default() }
    }

    fn failing_with(failure: Failure) -> Self {
        Self { database_failure: Some(failure), ..Self::default() }
    }

    fn cache_is_up(&self) -> Result<(), Failure> {
        if self.cache_down { Err(failure(StatusCode::SERVICE_UNAVAILABLE, "unavailable")) } else { Ok(()) }
    }

    fn database_is_up(&self) -> Result<(), Failure> {
        self.database_failure.clone().map_or(Ok(()), Err)
    }
}

impl Orders for Memory {
    async fn insert(&self, order: &NewOrder, _: Instant) -> Result<Order, Failure> {
        self.database_is_up()?;
        let mut stored = self.stored.borrow_mut();
        let id = i64::try_from(stored.len()).expect("few orders") + 1;
        stored.push(Order { id, item: order.item.clone(), quantity: order.quantity, created: "now".to_owned() });
        Ok(stored.last().expect("just pushed").clone())
    }

    async fn find(&self, id: i64, _: Instant) -> Result<Option<Order>, Failure> {
        self.database_is_up()?;
        Ok(self.stored.borrow().iter().find(|order| order.id == id).cloned())
    }

    async fn recall(&self, id: i64, _: Instant) -> Result<Option<Order>, Failure> {
        self.cache_is_up()?;
        Ok(self.cached.borrow().get(&id).cloned())
    }

    async fn remember(&self, order: &Order, _: Instant) -> Result<(), Failure> {
        self.cache_is_up()?;
        self.cached.borrow_mut().insert(order.id, order.clone());
        Ok(())
    }
}

fn failure(status: StatusCode, code: &'static str) -> Failure {
    Failure { status, code, message: "a reason", retry_after: None, cause: "behind the scenes".to_owned() }
}

async fn ask(orders: &Memory, event: &str) -> (u16, Response<Body>, Value) {
    let request = from_str(event).expect("an API Gateway event").with_lambda_context(Context::default());
    let response = handle(orders, request).await.expect("infallible");
    let body = serde_json::from_slice(response.body()).expect("a JSON body");
    (response.status().as_u16(), response, body)
}

/// The `create` event with another body.
fn creating(body: &str) -> String {
    let mut event: Value = serde_json::from_str(CREATE).expect("JSON");
    event["body"] = body.into();
    event.to_string()
}

/// The `read` event with another method and path.
fn asking(method: &str, path: &str) -> String {
    let mut event: Value = serde_json::from_str(READ).expect("JSON");
    event["requestContext"]["http"]["method"] = method.into();
    event["rawPath"] = path.into();
    event.to_string()
}

#[tokio::test]
async fn a_sound_order_is_stored_and_answered() {
    let orders = Memory::default();
    let (status, response, body) = ask(&orders, CREATE).await;
    assert_eq!((status, &body["item"], &body["quantity"]), (201, &"kindling".into(), &2.into()));
    assert_eq!(response.headers()["location"], "/orders/1");
    assert_eq!(orders.stored.borrow().len(), 1);
}

#[tokio::test]
async fn the_first_read_comes_from_postgres_and_the_second_from_redis() {
    let orders = Memory::default();
    ask(&orders, CREATE).await;
    for source in ["postgres", "redis"] {
        let (status, response, body) = ask(&orders, READ).await;
        assert_eq!((status, &body["item"], &body["source"]), (200, &"kindling".into(), &source.into()));
        assert_eq!(response.headers()["x-order-source"], source);
    }
}

#[tokio::test]
async fn a_read_survives_a_cache_that_is_down() {
    let orders = Memory::with_cache_down();
    ask(&orders, CREATE).await;
    for _ in 0..2 {
        let (status, _, body) = ask(&orders, READ).await;
        assert_eq!((status, &body["source"]), (200, &"postgres".into()));
    }
}

#[tokio::test]
async fn a_bad_order_is_refused_with_its_reason_and_stores_nothing() {
    let orders = Memory::default();
    let (status, _, body) = ask(&orders, BAD).await;
    assert_eq!((status, &body["error"]), (400, &"invalid_order".into()));
    let long = format!(r#"{{"item": "{}", "quantity": 1}}"#, "x".repeat(ITEM_CHARS + 1));
    for (body, reason) in [
        ("", "the body is empty"),
        ("not json", "expected ident"),
        (r#"{"item": "logs"}"#, "missing field `quantity`"),
        (r#"{"item": "logs", "quantity": "2"}"#, "invalid type"),
        (r#"{"item": "logs", "quantity": 2147483648}"#, "expected i32"),
        (r#"{"item": "logs", "quantity": 1, "colour": "red"}"#, "unknown field `colour`"),
        (r#"{"item": "  ", "quantity": 1}"#, "item must be"),
        (r#"{"item": "a\u0000b", "quantity": 1}"#, "item must be"),
        (long.as_str(), "item must be"),
        (r#"{"item": "logs", "quantity": -1}"#, "quantity must be"),
    ] {
        let (status, _, answer) = ask(&orders, &creating(body)).await;
        let message = answer["message"].as_str().expect("a message");
        assert!(status == 400 && message.contains(reason), "{body}: {status} {message}");
    }
    assert!(orders.stored.borrow().is_empty());
}

#[tokio::test]
async fn unknown_orders_paths_and_methods_are_told_apart() {
    let orders = Memory::default();
    for (method, path, status, code) in [
        ("GET", "/orders/7", 404, "unknown_order"),
        ("GET", "/orders/seven", 404, "unknown_order"),
        ("GET", "/orders/-1", 404, "unknown_order"),
        ("GET", "/orders/9223372036854775808", 404, "unknown_order"),
        ("GET", "/", 404, "not_found"),
        ("GET", "/orders/7/items", 404, "not_found"),
        ("GET", "/orders", 405, "method_not_allowed"),
        ("DELETE", "/orders/7", 405, "method_not_allowed"),
    ] {
        let (answered, response, body) = ask(&orders, &asking(method, path)).await;
        assert_eq!((answered, &body["error"]), (status, &code.into()), "{method} {path}");
        assert_eq!(response.headers().contains_key("allow"), status == 405, "{method} {path}");
    }
}

#[tokio::test]
async fn a_failure_answers_without_its_cause() {
    let mut busy = failure(StatusCode::SERVICE_UNAVAILABLE, "unavailable");
    busy.retry_after = Some(2);
    let (status, response, body) = ask(&Memory::failing_with(busy), CREATE).await;
    assert_eq!((status, &body["error"], &body["message"]), (503, &"unavailable".into(), &"a reason".into()));
    assert_eq!(response.headers()["retry-after"], "2");
    assert!(!body.to_string().contains("behind the scenes"));
}

#[test]
fn the_budget_ends_before_lambda_does() {
    let now = SystemTime::now();
    let second = Duration::from_secs(1);
    assert_eq!(budget(now + MARGIN + second, now), second);
    assert_eq!(budget(now + MARGIN, now), Duration::ZERO);
    assert_eq!(budget(now, now + second), Duration::ZERO);
}

#[test]
fn a_deadline_in_1970_is_taken_for_none() {
    let emulated = SystemTime::UNIX_EPOCH + Duration::from_mins(10);
    assert_eq!(budget(emulated, SystemTime::now()), LOCAL_BUDGET);
}
