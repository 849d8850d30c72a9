//! Reloading the configuration, by an operator's request.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::error::Error;
use super::problem;
use crate::base::RequestId;
use crate::broker::{Live, ReloadError, Reloaded};
use crate::config::ConfigError;

/// Reads the configuration again. What is wrong with it changes nothing and is told, all at once.
pub async fn reload(State(live): State<Live>, Extension(request_id): Extension<RequestId>) -> Response {
    match live.reload().await {
        Ok(reloaded) => Json(told(&reloaded)).into_response(),
        Err(error) => {
            let faults = faults(&error);
            problem::extended(&request_id, &Error::Reload(error), "faults", faults)
        }
    }
}

fn told(reloaded: &Reloaded) -> Value {
    let Reloaded { generation, changes, databases, caches, certificate, needs_restart } = reloaded;
    let is_same = changes.is_empty() && databases.is_empty() && caches.is_empty() && !certificate;
    json!({
        "status": if is_same { "unchanged" } else { "reloaded" },
        "generation": generation, "changes": changes,
        "new_connections": {"databases": databases, "caches": caches}, "new_certificate": certificate,
        "needs_restart": needs_restart,
    })
}

/// Each fault with its path.
fn faults(error: &ReloadError) -> Value {
    match error {
        ReloadError::Config(ConfigError::Invalid(faults)) => {
            faults.iter().map(|fault| json!({"path": fault.path, "message": fault.message})).collect()
        }
        ReloadError::Config(ConfigError::Unreadable { path, source }) => {
            json!([{"path": "", "message": format!("cannot read {path}: {source}")}])
        }
        ReloadError::Draining | ReloadError::Panicked => json!([]),
    }
}
