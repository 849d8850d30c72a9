//! What happened to the pools lately, and why they have the sizes they have.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::broker::Broker;
use crate::pool::decision::{Inputs, Verdict};
use crate::pool::journal::{Decided, Record};

/// The last events, the newest first.
pub async fn events(State(broker): State<Arc<Broker>>) -> Response {
    let events: Vec<Value> = broker.journal.events().iter().map(event).collect();
    Json(json!({ "events": events })).into_response()
}

/// The last decisions about sizes, the newest first.
pub async fn decisions(State(broker): State<Arc<Broker>>) -> Response {
    let decisions: Vec<Value> = broker.journal.decisions().iter().map(decision).collect();
    Json(json!({ "decisions": decisions })).into_response()
}

fn event(record: &Record) -> Value {
    let facts = &record.facts;
    let ms = |time: Option<Duration>| time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let known = json!({
        "at": record.at.to_string(), "event": record.event.name(), "reason": record.event.reason(),
        "database": record.backend.as_str(), "endpoint": &*record.endpoint, "count": record.count, "pid": facts.pid,
        "age_ms": ms(facts.age), "uses": facts.uses, "sqlstate": facts.sqlstate, "connect_ms": ms(facts.connect),
        "request": facts.request, "tenant": facts.tenant, "detail": facts.detail,
        "statement": facts.statement.map(|fingerprint| format!("{fingerprint:016x}")),
    });
    without_null(known)
}

fn decision(decided: &Decided) -> Value {
    let decision = &decided.decision;
    let before = if let Verdict::Limit { before } = decision.verdict { Some(before) } else { None };
    without_null(json!({
        "at": decided.at.to_string(), "database": decision.backend.as_str(), "endpoint": &*decision.endpoint,
        "trigger": decision.trigger.as_str(), "decided": decision.verdict.as_str(), "limit_before": before,
        "count": decided.count, "inputs": inputs(&decision.inputs),
    }))
}

fn inputs(inputs: &Inputs) -> Value {
    let Inputs { open, connecting, in_use, waiting, urgent, ahead, demand, limit, floor, ceiling, server } = inputs;
    let server = server.map(|server| {
        json!({
            "max_connections": server.max_connections, "reserved": server.reserved, "others": server.others,
            "used": server.used, "brokers": server.brokers, "budget": server.budget, "grant": server.grant,
        })
    });
    without_null(json!({
        "open": open, "connecting": connecting, "in_use": in_use, "waiting": waiting, "urgent": urgent, "ahead": ahead,
        "demand": demand, "limit": limit, "floor": floor, "ceiling": ceiling, "server": server,
    }))
}

fn without_null(mut value: Value) -> Value {
    if let Value::Object(members) = &mut value {
        members.retain(|_, member| !member.is_null());
    }
    value
}
