//! What the SQL endpoints answer when they cannot do what they are asked, for the OpenAPI document.

use hearth_client::wire::Problem;

/// Every problem of the SQL endpoints. Described here, and never made: `edge::problem` writes them.
#[derive(utoipa::IntoResponses)]
pub enum Problems {
    /// `invalid_request`
    #[response(status = 400, content_type = "application/problem+json")]
    Invalid(#[to_schema] Problem),
    /// `unauthenticated`
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthenticated(#[to_schema] Problem),
    /// `forbidden`
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(#[to_schema] Problem),
    /// `unknown_database`, `unknown_statement`
    #[response(status = 404, content_type = "application/problem+json")]
    Unknown(#[to_schema] Problem),
    /// `request_timeout`
    #[response(status = 408, content_type = "application/problem+json")]
    RequestTimeout(#[to_schema] Problem),
    /// `conflict`, `expectation_failed`
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(#[to_schema] Problem),
    /// `request_too_large`, `result_too_large`
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(#[to_schema] Problem),
    /// `statement_failed`
    #[response(status = 422, content_type = "application/problem+json")]
    StatementFailed(#[to_schema] Problem),
    /// `rate_limited`, `too_many_in_flight`
    #[response(status = 429, content_type = "application/problem+json")]
    TooMany(#[to_schema] Problem),
    /// `internal`
    #[response(status = 500, content_type = "application/problem+json")]
    Internal(#[to_schema] Problem),
    /// `backend_lost`
    #[response(status = 502, content_type = "application/problem+json")]
    BackendLost(#[to_schema] Problem),
    /// `overloaded`, `backend_down`, `draining`, `queue_deadline`
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(#[to_schema] Problem),
    /// `statement_timeout`
    #[response(status = 504, content_type = "application/problem+json")]
    StatementTimeout(#[to_schema] Problem),
}
