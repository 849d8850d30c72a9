//! What each problem means and what to do about it: the pages under `/problems/{code}`.

use std::fmt::Write as _;

use hearth_client::wire::ProblemCode;

/// One kind of problem, explained.
pub struct Page {
    /// The code as it stands in addresses and bodies.
    pub code: &'static str,
    /// In a few words.
    pub title: &'static str,
    /// What happened, and what to do.
    pub text: &'static str,
}

macro_rules! pages {
    ($($variant:ident, $code:literal, $title:literal, $text:literal;)*) => {
        /// Every code that the broker answers with.
        pub const CODES: &[ProblemCode] = &[$(ProblemCode::$variant),*];

        /// The page of one code.
        pub fn page(code: ProblemCode) -> Page {
            match code {
                $(ProblemCode::$variant => Page { code: $code, title: $title, text: $text },)*
                ProblemCode::Other => Page { code: "other", title: "A problem this version does not know", text: "" },
            }
        }
    };
}

pages! {
    InvalidRequest, "invalid_request", "The request is malformed",
        "Malformed JSON, an unknown field, a wrong number or shape of parameters, or a statement that cannot run alone. Nothing ran. `detail` says where. Correct the request; sent again as it is, it fails again.";
    Unauthenticated, "unauthenticated", "The API key is missing or not valid",
        "Send the key, or a token of an issuer that the broker knows, as `Authorization: Bearer <key>`. Keys are made with `hearth key create`, belong to one tenant, and may expire. `detail` says what is wrong with a token. Nothing ran.";
    Forbidden, "forbidden", "The API key may not do this",
        "The key lacks the scope, or is for some named statements only, or its tenant is suspended, or the statement writes where only reading is allowed (SQLSTATE 25006). Nothing was applied. Use a key with the right, or send the statement without `read_only`.";
    NotFound, "not_found", "There is nothing at this address",
        "Check the path against `/openapi.json`.";
    MethodNotAllowed, "method_not_allowed", "This address takes another method",
        "Check the method against `/openapi.json`.";
    UnknownDatabase, "unknown_database", "There is no such database for this key",
        "The name in the path is not one of the tenant's databases. `GET /v1/whoami` lists them.";
    UnknownCache, "unknown_cache", "There is no such cache for this key",
        "The name in the path is not one of the tenant's caches. `GET /v1/whoami` lists them.";
    Conflict, "conflict", "The statement conflicts with what is in the database",
        "A constraint (SQLSTATE class 23; `postgres.constraint` names it), a serialization failure or deadlock (class 40), or a lock that was not free (55P03). Nothing was applied. Where `retryable` is true, send it again.";
    RequestTooLarge, "request_too_large", "The request body is too large",
        "The limit stands in `detail`; an operator sets it with `server.max_request_bytes`. Nothing ran.";
    ResultTooLarge, "result_too_large", "The result is too large",
        "The result passed the tenant's `max_result_bytes` or `max_rows`, or the request's `max_rows`. `outcome` says whether a write has happened. Ask for fewer rows or columns.";
    StatementFailed, "statement_failed", "The database refused the statement",
        "The statement itself is at fault: a syntax error, an unknown name, a bad value, a raised exception. Nothing was applied. `sqlstate` and `postgres` hold the database's own words; `postgres.position` counts characters from 1.";
    RateLimited, "rate_limited", "The tenant's request rate is used up",
        "Nothing ran. Where `violated_policies` says `failed-attempts`, too many credentials from this address were wrong lately, and this one was not looked at: correct it before you come back. Wait as `Retry-After` says; the `RateLimit` header on each answer tells what is left of each limit, and `violated_policies` which it was.";
    QuotaExhausted, "quota_exhausted", "The tenant's quota for today is used up",
        "Nothing ran. The day is UTC's; `Retry-After` tells when the next begins, and `violated_policies` which quota it is.";
    TooManyInFlight, "too_many_in_flight", "Too many of the tenant's requests are in flight",
        "Nothing ran. Wait for some to finish; `RateLimit-Policy` tells how many may run at once, and `violated_policies` whether it is requests or event streams.";
    BackendLost, "backend_lost", "The connection to the database died",
        "The connection died while the statement ran. `outcome` says what is known: `not_applied` may be sent again, after `unknown` look before you do.";
    Overloaded, "overloaded", "The broker or the database has no room for the request",
        "Nothing was applied. The connections are in use, and too many requests wait for one, or so many that this one would not be through before its deadline. Wait as `Retry-After` says, or allow more time with `Hearth-Timeout-Ms`.";
    BackendDown, "backend_down", "The database does not take connections",
        "Nothing ran. It is the database, the cache, or the issuer whose keys a token needs. The broker tries again with every request; wait as `Retry-After` says.";
    Draining, "draining", "The broker is shutting down",
        "Nothing ran. Another replica, or this one after its restart, will take the request. Where `detail` names a database, only that was replaced or taken away by a new configuration: ask again.";
    QueueDeadline, "queue_deadline", "The deadline passed while the request waited",
        "Nothing ran: no connection came free in time. Allow more time with `Hearth-Timeout-Ms`, or ask for a larger pool.";
    StatementTimeout, "statement_timeout", "The statement was cancelled at the deadline",
        "The statement was still running at the deadline and was cancelled in the database. `outcome` says what became of it. Allow more time with `Hearth-Timeout-Ms`, or make it faster.";
    ExpectationFailed, "expectation_failed", "Other rows than expected",
        "The statement returned or affected another number of rows than `expect_rows` or `max_affected` says. Everything was rolled back. `detail` has both numbers; in a batch `statement` says which.";
    UnknownStatement, "unknown_statement", "There is no such named statement for this key",
        "The configuration declares no statement of this name for this database, or the key may not use it. Nothing ran.";
    UnknownTenant, "unknown_tenant", "There is no such tenant in the control database",
        "`detail` names tenants that are called much the same. Tenants of the configuration file are changed there. Nothing was changed.";
    UnknownKey, "unknown_key", "The tenant has no such key",
        "`GET /admin/v1/tenants/{name}/keys` lists the tenant's keys in the control database. Nothing was changed.";
    PreconditionFailed, "precondition_failed", "Somebody else has changed it",
        "The tenant is not at the version that `If-Match` names any more. Nothing was changed. Read it again, and send the change with its new `ETag`.";
    ReaderTooSlow, "reader_too_slow", "The stream's reader was too slow",
        "The reader left its events or rows unread for too long, and the stream was cut so that it holds nothing up. Read faster, or ask for less.";
    RequestTimeout, "request_timeout", "The request body came too slowly",
        "The body was not complete at the deadline. Nothing ran.";
    Internal, "internal", "A bug in the broker",
        "Please report it with the request id.";
}

/// One page as HTML; `None` for a code that does not exist.
pub fn html(code: &str) -> Option<String> {
    let page = CODES.iter().map(|known| page(*known)).find(|page| page.code == code)?;
    let mut html = String::new();
    write!(
        html,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{code}</title>\
         <body style=\"font:16px/1.5 system-ui;max-width:42em;margin:3em auto;padding:0 1em\">\
         <h1><code>{code}</code></h1><p><b>{}</b></p><p>{}</p>",
        page.title, page.text
    )
    .expect("writing to a string does not fail");
    Some(html)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_page_and_the_name_that_json_gives_it() {
        for code in CODES {
            let json = serde_json::to_value(code).expect("is plain data");
            assert_eq!(json, page(*code).code);
            assert!(html(page(*code).code).is_some_and(|page| page.len() > 200));
        }
        assert!(html("../etc").is_none());
    }
}
