//! The OpenAPI document, generated from the handlers and the shared shapes.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

/// The document.
#[derive(OpenApi)]
#[openapi(
    info(title = "Hearth", description = "PostgreSQL and Redis over stateless HTTP, from warm pools.", license(name = "Apache-2.0 OR MIT")),
    paths(
        super::sql::query::query,
        super::sql::batch::batch,
        super::sql::statement::run,
        super::sql::statement::get,
        super::sql::copy::copy_in,
        super::sql::copy::copy_out,
        super::listen::listen,
        super::redis::run_command,
        super::redis::run_pipeline,
        super::redis::run_transaction,
        super::whoami::whoami,
        super::health::alive,
        super::health::ready,
        document,
        super::explain::problem_page,
    ),
    modifiers(&Key),
)]
struct Document;

struct Key;

impl Modify for Key {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API key, `id.secret`, or a token (JWT) of an issuer that the broker knows"))
            .build();
        document.components.get_or_insert_default().add_security_scheme("key", SecurityScheme::Http(scheme));
    }
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", operation_id = "openapi",
    responses((status = 200, description = "The OpenAPI document", body = serde_json::Value)))]
pub async fn document() -> Response {
    static JSON: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(json()));
    ([(CONTENT_TYPE, "application/json")], JSON.clone()).into_response()
}

/// The document as JSON.
fn json() -> String {
    Document::openapi().to_json().expect("the document is plain data")
}
