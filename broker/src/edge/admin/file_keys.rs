//! The file's API keys as they are in force: whose, what for, until when, and when last used. Nothing of their secrets.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::broker::Broker;
use crate::config::Scope;

/// One key.
#[derive(Serialize)]
struct Told<'a> {
    id: &'a str,
    tenant: &'a str,
    scopes: Vec<&'static str>,
    statements: Option<&'a [String]>,
    not_before: Option<jiff::Timestamp>,
    expires: Option<jiff::Timestamp>,
    /// On this broker, since it was started. To the second.
    last_used: Option<jiff::Timestamp>,
}

/// Every key, by tenant and id.
pub async fn file_keys(State(broker): State<Arc<Broker>>) -> Response {
    let mut keys: Vec<Told<'_>> = broker
        .keys
        .iter()
        .map(|(id, key)| Told {
            id: id.as_str(),
            tenant: key.principal.tenant.id.as_str(),
            scopes: key.principal.scopes.iter().copied().map(Scope::as_str).collect(),
            statements: key.principal.statements.as_deref(),
            not_before: key.not_before,
            expires: key.expires,
            last_used: key.last_used.at(),
        })
        .collect();
    keys.sort_unstable_by_key(|key| (key.tenant, key.id));
    Json(serde_json::json!({ "keys": keys })).into_response()
}
