//! Who the key belongs to, what it may do, and what is in use.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use hearth_client::wire::{PolicyUsage, Problem, Whoami};

use super::auth::Principal;
use super::call::Headers;
use super::{Call, problem};
use crate::base::BackendName;
use crate::broker::Broker;
use crate::config::Scope;
use crate::tenant::Left;

/// Tells tenant, databases, caches, limits and usage of the key.
#[utoipa::path(
    get, path = "/v1/whoami", tag = "operations", operation_id = "whoami", security(("key" = [])),
    responses(
        (status = 200, description = "The key's tenant, rights, limits and usage", body = Whoami),
        (status = 401, description = "unauthenticated", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "draining", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn whoami(State(broker): State<Arc<Broker>>, mut call: Call, Headers(headers): Headers) -> Response {
    let principal = match call.authenticate(&broker, &headers, "whoami").await {
        Ok(principal) => principal,
        Err(error) => {
            let response = problem::plain(&call.request_id, &error);
            if let Some(entry) = call.take_entry() {
                entry.finish(problem::code_name(problem::facts(&error).code));
            }
            return response;
        }
    };
    if let Some(entry) = call.take_entry() {
        entry.finish("ok");
    }
    let tenant = &principal.tenant;
    let limits = &tenant.limits;
    let millis = |d: std::time::Duration| u64::try_from(d.as_millis()).ok();
    Json(Whoami {
        tenant: tenant.id.to_string(),
        key_id: principal.identity.to_string(),
        via: principal.identity.via.as_str().to_owned(),
        scopes: principal.scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
        databases: tenant.databases.keys().map(BackendName::to_string).collect(),
        caches: tenant.caches.keys().map(BackendName::to_string).collect(),
        statements: statements(&broker, &principal),
        limits: BTreeMap::from([
            ("requests_per_second".to_owned(), limits.requests_per_second.map(u64::from)),
            ("burst".to_owned(), limits.burst.or(limits.requests_per_second).map(u64::from)),
            ("requests_per_minute".to_owned(), limits.requests_per_minute.map(u64::from)),
            ("requests_per_hour".to_owned(), limits.requests_per_hour.map(u64::from)),
            ("database_ms_per_second".to_owned(), limits.database_ms_per_second.map(u64::from)),
            ("requests_per_day".to_owned(), limits.requests_per_day),
            ("rows_per_day".to_owned(), limits.rows_per_day),
            ("bytes_per_day".to_owned(), limits.bytes_per_day),
            ("database_ms_per_day".to_owned(), limits.database_ms_per_day),
            ("in_flight".to_owned(), limits.in_flight.map(u64::from)),
            ("listeners".to_owned(), Some(u64::from(limits.listeners))),
            ("default_timeout_ms".to_owned(), millis(limits.default_timeout)),
            ("max_timeout_ms".to_owned(), millis(limits.max_timeout)),
            ("stream_timeout_ms".to_owned(), millis(limits.stream_timeout)),
            ("max_result_bytes".to_owned(), Some(limits.max_result_bytes)),
            ("max_rows".to_owned(), limits.max_rows),
            ("max_batch".to_owned(), Some(u64::from(limits.max_batch))),
            ("max_pipeline".to_owned(), Some(u64::from(limits.max_pipeline))),
        ]),
        usage: BTreeMap::from([
            ("in_flight".to_owned(), u64::from(tenant.in_flight())),
            ("listeners".to_owned(), u64::from(tenant.listeners())),
        ]),
        policies: tenant.counted.left_of_all().map(policy).collect(),
    })
    .into_response()
}

fn policy((name, shadow, left): (&'static str, bool, Left)) -> (String, PolicyUsage) {
    let reset_ms = u64::try_from(left.reset.as_millis()).unwrap_or(u64::MAX);
    (name.to_owned(), PolicyUsage { remaining: left.remaining, reset_ms, shadow })
}

/// The named statements the key may run, for each database that has some.
fn statements(broker: &Broker, principal: &Principal) -> BTreeMap<String, Vec<String>> {
    if principal.needs(&[Scope::SqlRead, Scope::SqlWrite]).is_err() {
        return BTreeMap::new();
    }
    let may_run = |database: &BackendName| -> Vec<String> {
        let declared = broker.statements.get(database).into_iter().flat_map(BTreeMap::keys);
        declared.filter(|name| principal.may_run(name)).cloned().collect()
    };
    let databases = principal.tenant.databases.keys();
    databases.map(|name| (name.to_string(), may_run(name))).filter(|(_, names)| !names.is_empty()).collect()
}
