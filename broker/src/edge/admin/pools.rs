//! Every pool at this moment: as JSON for programs, as a table for people.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};
use serde_json::{Value, json};

use crate::base::BackendName;
use crate::broker::Broker;
use crate::pool::Endpoint;
use crate::pool::redis::NodeStatus;
use crate::pool::registry::Checkout;

/// The table's columns; those of `PgBouncer`'s SHOW POOLS by their names there, where there are such.
const COLUMNS: [&str; 15] = [
    "database",
    "endpoint",
    "role",
    "state",
    "cl_waiting",
    "sv_active",
    "sv_idle",
    "sv_lane",
    "sv_login",
    "sv_closing",
    "limit",
    "max",
    "demand",
    "oldest_ms",
    "lag_ms",
];

/// Every pool at this moment: JSON, or a table with `Accept: text/plain`.
pub async fn pools(State(broker): State<Arc<Broker>>, headers: HeaderMap) -> Response {
    let endpoints: Vec<&Arc<Endpoint>> =
        broker.databases.values().flat_map(|database| database.endpoints().iter()).collect();
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.starts_with("text/plain") {
        let rows: Vec<_> = endpoints.iter().map(|endpoint| row(endpoint)).collect();
        return ([(CONTENT_TYPE, "text/plain; charset=utf-8")], table(&rows)).into_response();
    }
    let pools: Vec<Value> = endpoints.into_iter().map(pool).collect();
    let caches = broker.caches.values().flat_map(|cache| cache.status().into_iter().map(move |s| (cache.name(), s)));
    let caches: Vec<Value> = caches.map(|(name, status)| node(name, &status)).collect();
    Json(json!({ "pools": pools, "caches": caches })).into_response()
}

fn node(cache: &BackendName, s: &NodeStatus) -> Value {
    json!({
        "cache": cache.as_str(), "endpoint": s.address, "state": s.state, "lanes": s.lanes, "connecting": s.connecting,
        "idle": s.idle, "lent": s.lent, "max": s.max, "waiting": s.waiting,
    })
}

fn pool(endpoint: &Arc<Endpoint>) -> Value {
    let (s, standing, sight) = (endpoint.status(), endpoint.server().standing(), endpoint.sight());
    let breakers: serde_json::Map<String, Value> = sight
        .breakers
        .iter()
        .map(|(name, state, trips)| ((*name).to_owned(), json!({"state": state, "trips": trips})))
        .collect();
    let server = sight.server.map(|server| {
        json!({
            "max_connections": server.max_connections, "reserved": server.reserved, "others": server.others,
            "used": server.used, "brokers": server.brokers, "budget": server.budget, "grant": server.grant,
        })
    });
    json!({
        "database": endpoint.backend().as_str(), "endpoint": endpoint.address(), "zone": endpoint.zone(),
        "role": standing.role.as_str(), "state": endpoint.state(), "open": s.open(), "idle": s.idle, "lent": s.lent,
        "lanes": s.lanes, "connecting": s.connecting, "closing": s.cleaning, "leaked": s.severed, "limit": s.limit,
        "min": sight.min, "max": s.max, "waiting": s.waiting, "demand": sight.demand,
        "oldest_checkout": sight.oldest.map(|(oldest, pid)| checkout(&oldest, pid)),
        "ejected_for_ms": sight.ejected_for.map(|left| left.as_millis()), "breakers": breakers, "server": server,
        "epoch": standing.epoch, "timeline": standing.timeline, "lag_ms": sight.lag.map(|lag| lag.as_millis()),
        "conserved": endpoint.is_conserved(),
    })
}

fn checkout(checkout: &Checkout, pid: u32) -> Value {
    let holder = checkout.holder.as_ref();
    json!({
        "age_ms": u64::try_from(checkout.since.elapsed().as_millis()).unwrap_or(u64::MAX), "pid": pid,
        "request": holder.map(|holder| holder.request.as_str()), "tenant": holder.map(|holder| holder.tenant.as_str()),
        "statement": holder.map(|holder| format!("{:016x}", holder.fingerprint)),
    })
}

fn row(endpoint: &Arc<Endpoint>) -> [String; COLUMNS.len()] {
    let (s, standing, sight) = (endpoint.status(), endpoint.server().standing(), endpoint.sight());
    let ms = |time: Option<std::time::Duration>| time.map_or("-".to_owned(), |time| time.as_millis().to_string());
    [
        endpoint.backend().to_string(),
        endpoint.address().to_owned(),
        standing.role.as_str().to_owned(),
        endpoint.state().to_owned(),
        s.waiting.to_string(),
        s.lent.to_string(),
        s.idle.to_string(),
        s.lanes.to_string(),
        s.connecting.to_string(),
        s.cleaning.to_string(),
        s.limit.to_string(),
        s.max.to_string(),
        sight.demand.to_string(),
        ms(sight.oldest.map(|(oldest, _)| oldest.since.elapsed())),
        ms(sight.lag),
    ]
}

/// Columns as wide as their widest cell; names to the left, numbers to the right.
fn table(rows: &[[String; COLUMNS.len()]]) -> String {
    const NAMES: usize = 4;
    let head = COLUMNS.map(str::to_owned);
    let all = || std::iter::once(&head).chain(rows);
    let mut text = String::new();
    for row in all() {
        for (column, cell) in row.iter().enumerate() {
            let width = all().map(|row| row[column].chars().count()).max().unwrap_or(0);
            let gap = if column == 0 { "" } else { "  " };
            let written =
                if column < NAMES { write!(text, "{gap}{cell:<width$}") } else { write!(text, "{gap}{cell:>width$}") };
            written.expect("writing to a string does not fail");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up() {
        let mut row = COLUMNS.map(|_| "1".to_owned());
        row[1] = "database.example.com:5432".to_owned();
        let text = table(&[row]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].len(), lines[1].len());
        assert!(lines[1].starts_with("1         database.example.com:5432  1     1    "), "{text}");
        assert!(lines[1].ends_with("       1"), "{text}");
    }
}
