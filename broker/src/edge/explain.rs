//! `GET /problems/{code}`: what a problem's `type` points to.

use axum::Extension;
use axum::extract::Path;
use axum::response::{Html, IntoResponse, Response};
use hearth_client::wire::Problem;

use super::error::Error;
use super::{pages, problem};
use crate::base::RequestId;

/// Explains one kind of problem, for people.
#[utoipa::path(get, path = "/problems/{code}", tag = "operations", operation_id = "problem_page",
    params(("code" = String, Path, description = "The problem's code")),
    responses(
        (status = 200, description = "What it means and what to do", body = String, content_type = "text/html"),
        (status = 404, description = "not_found", body = Problem, content_type = "application/problem+json")))]
pub async fn problem_page(Extension(id): Extension<RequestId>, Path(code): Path<String>) -> Response {
    let unknown = || problem::plain(&id, &Error::NotFound(format!("/problems/{code}")));
    pages::html(&code).map_or_else(unknown, |page| Html(page).into_response())
}
