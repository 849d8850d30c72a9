use serde_json::json;

use super::*;

fn problem(change: &serde_json::Value) -> Problem {
    let mut body = json!({
        "type": "/problems/statement_failed", "title": "Statement failed", "status": 422, "code": "statement_failed",
        "detail": "column \"nam\" does not exist", "request_id": "req-1", "outcome": "not_applied", "retryable": false,
        "retry_after_ms": null, "sqlstate": "42703",
        "postgres": {"severity": "ERROR", "message": "column \"nam\" does not exist", "hint": "Perhaps you meant \"name\"."},
    });
    for (name, value) in change.as_object().unwrap() {
        body[name] = value.clone();
    }
    serde_json::from_value(body).unwrap()
}

fn from_problem(change: &serde_json::Value) -> Error {
    Error::new(Reason::Problem(Box::new(problem(change))), Effect::AllOrNothing)
}

fn transport() -> reqwest::Error {
    reqwest::Client::new().get("not a url").build().unwrap_err()
}

fn unreadable() -> serde_json::Error {
    serde_json::from_str::<u8>("x").unwrap_err()
}

fn redis(status: Option<u16>, effect: Effect) -> Error {
    Error::new(Reason::Redis { status, message: "ERR no".to_owned() }, effect)
}

#[test]
fn problem_is_told_with_hint_code_and_request() {
    let error = from_problem(&json!({}));
    assert_eq!(
        error.to_string(),
        "column \"nam\" does not exist; hint: Perhaps you meant \"name\". (statement_failed, sqlstate 42703, request req-1)"
    );
    assert_eq!(error.code(), Some(ProblemCode::StatementFailed));
    assert_eq!((error.sqlstate(), error.status(), error.request_id()), (Some("42703"), Some(422), Some("req-1")));
    assert_eq!(error.problem().unwrap().title, "Statement failed");
}

#[test]
fn failed_statement_of_a_batch_is_named() {
    assert_eq!(from_problem(&json!({"statement": 2})).statement(), Some(2));
    assert_eq!(from_problem(&json!({})).statement(), None);
}

#[test]
fn code_newer_than_this_crate_is_still_told() {
    let error = from_problem(&json!({"type": "/problems/moon_phase", "code": "moon_phase", "sqlstate": null}));
    assert_eq!(error.code(), Some(ProblemCode::Other));
    assert!(error.to_string().contains("(moon_phase, request req-1)"), "{error}");
}

#[test]
fn outcome_and_retry_follow_the_problem() {
    for (word, outcome) in
        [("not_applied", Outcome::NotApplied), ("applied", Outcome::Applied), ("unknown", Outcome::Unknown)]
    {
        assert_eq!(from_problem(&json!({"outcome": word})).outcome(), outcome);
    }
    for retryable in [true, false] {
        let error = from_problem(&json!({"retryable": retryable}));
        assert_eq!((error.is_retryable(), error.is_retried()), (retryable, retryable));
    }
}

#[test]
fn every_timeout_code_is_a_timeout_and_every_limit_code_a_limit() {
    for code in ["queue_deadline", "statement_timeout", "request_timeout"] {
        assert!(from_problem(&json!({"code": code})).is_timeout(), "{code}");
    }
    for code in ["rate_limited", "too_many_in_flight"] {
        assert!(from_problem(&json!({"code": code, "status": 429})).is_rate_limited(), "{code}");
    }
    let other = from_problem(&json!({}));
    assert!(!other.is_timeout() && !other.is_rate_limited());
}

#[test]
fn wait_is_taken_from_the_body_before_the_header() {
    let header = Some(Duration::from_secs(2));
    assert_eq!(from_problem(&json!({})).with_retry_after(header).retry_after(), header);
    let exact = from_problem(&json!({"retry_after_ms": 1234})).with_retry_after(header);
    assert_eq!(exact.retry_after(), Some(Duration::from_millis(1234)));
}

#[test]
fn every_reason_without_a_problem_has_its_outcome_and_retry() {
    use Outcome::{Applied, NotApplied, Unknown};
    // What the client tries again itself, what a caller may, then the outcome of a write and of a read.
    let expected: [(Reason, bool, [bool; 2], [Outcome; 2]); 14] = [
        (Reason::Config(String::new()), false, [false; 2], [NotApplied; 2]),
        (Reason::Setup(transport()), false, [false; 2], [NotApplied; 2]),
        (Reason::Request(String::new()), false, [false; 2], [NotApplied; 2]),
        (Reason::Encode { what: String::new(), source: unreadable() }, false, [false; 2], [NotApplied; 2]),
        (Reason::Deadline, false, [false; 2], [NotApplied; 2]),
        (Reason::Connect(transport()), true, [true; 2], [NotApplied; 2]),
        (Reason::Timeout(Some(transport())), false, [false, true], [Unknown, NotApplied]),
        (Reason::Transport(transport()), false, [false, true], [Unknown, NotApplied]),
        (Reason::Cut, false, [false, true], [Unknown, NotApplied]),
        (Reason::Upload("x".into()), false, [false; 2], [NotApplied; 2]),
        (Reason::Row(unreadable()), false, [false; 2], [Unknown, NotApplied]),
        (Reason::Decode(unreadable()), false, [false; 2], [Applied, NotApplied]),
        (Reason::Shape(""), false, [false; 2], [Applied, NotApplied]),
        (Reason::RowNotFound, false, [false; 2], [Applied, NotApplied]),
    ];
    for (reason, retried, retryable, outcomes) in expected {
        let mut error = Error::new(reason, Effect::AllOrNothing);
        assert_eq!(error.is_retried(), retried, "{error:?}");
        assert_eq!((error.is_retryable(), error.outcome()), (retryable[0], outcomes[0]), "{error:?}");
        error.0.effect = Effect::None;
        assert_eq!((error.is_retryable(), error.outcome()), (retryable[1], outcomes[1]), "{error:?}");
        assert_eq!((error.code(), error.sqlstate(), error.status()), (None, None, None));
    }
}

#[test]
fn redis_error_is_mapped_by_its_status() {
    use Outcome::{NotApplied, Unknown};
    for (status, retried, outcome) in [
        (None, false, NotApplied),
        (Some(400), false, NotApplied),
        (Some(401), false, NotApplied),
        (Some(429), true, NotApplied),
        (Some(500), false, Unknown),
        (Some(502), false, Unknown),
        (Some(503), true, NotApplied),
        (Some(504), false, Unknown),
    ] {
        let error = redis(status, Effect::AllOrNothing);
        assert_eq!((error.is_retried(), error.outcome()), (retried, outcome), "{status:?}");
        assert_eq!(error.is_rate_limited(), status == Some(429));
        assert_eq!(error.is_timeout(), status == Some(504));
        assert_eq!(error.to_string(), "redis command failed: ERR no");
    }
}

#[test]
fn failed_script_may_have_written() {
    assert_eq!(redis(None, Effect::Piecemeal).outcome(), Outcome::Unknown);
    assert_eq!(redis(Some(400), Effect::Piecemeal).outcome(), Outcome::Unknown);
    assert_eq!(redis(Some(429), Effect::Piecemeal).outcome(), Outcome::NotApplied);
}

#[test]
fn foreign_answer_is_unknown_only_where_a_proxy_may_have_passed_the_request_on() {
    for (status, outcome) in
        [(301, Outcome::NotApplied), (404, Outcome::NotApplied), (408, Outcome::Unknown), (502, Outcome::Unknown)]
    {
        let error = Error::new(Reason::Foreign { status }, Effect::AllOrNothing);
        assert_eq!((error.outcome(), error.is_retryable(), error.status()), (outcome, false, Some(status)));
    }
}

#[test]
fn error_fits_where_errors_are_passed_around() {
    fn assert_bounds<T: std::error::Error + Send + Sync + 'static>() {}
    assert_bounds::<Error>();
    assert_eq!(size_of::<Error>(), size_of::<usize>());
}
