//! What can go wrong with a call, and what that means for the caller.

use std::fmt;
use std::time::Duration;

use crate::wire::{Outcome, Problem, ProblemCode};

/// Why a call failed.
///
/// Opaque on purpose: ask it what you need to decide. `Display` tells one layer's part, [`std::error::Error::source`]
/// leads to the cause. The key is in neither, nor in `Debug`.
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    reason: Reason,
    request_id: Option<String>,
    retry_after: Option<Duration>,
    effect: Effect,
}

/// What the request could have changed, which decides the outcome where the broker has not stated it. From least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Effect {
    /// The server refuses writes.
    None,
    /// One statement or command: an error from the database means that it changed nothing.
    AllOrNothing,
    /// A Redis script keeps what it wrote before it failed.
    Piecemeal,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Reason {
    #[error("{0}")]
    Config(String),
    #[error(
        "http client cannot be set up; https needs a trust store on this machine (often the package ca-certificates)"
    )]
    Setup(#[source] reqwest::Error),
    #[error("{0}")]
    Request(String),
    #[error("{what} cannot be written as JSON")]
    Encode {
        what: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("deadline passed before anything was sent; give the call more time")]
    Deadline,
    #[error("broker cannot be reached; check that it runs and that HEARTH_URL leads to it")]
    #[cfg_attr(
        all(target_arch = "wasm32", target_os = "unknown"),
        expect(dead_code, reason = "`fetch` does not tell a refused connection from a broken one")
    )]
    Connect(#[source] reqwest::Error),
    #[error("no answer within the deadline; give the call more time, or look for the request in the broker's log")]
    Timeout(#[source] Option<reqwest::Error>),
    #[error("connection broke before the answer was complete")]
    Transport(#[source] reqwest::Error),
    #[error("{}", Summary(.0))]
    Problem(Box<Problem>),
    #[error("answer ended before it was complete; what came of it is a part")]
    Cut,
    #[error("upload broke off, for its source failed; nothing is loaded")]
    #[cfg_attr(
        all(target_arch = "wasm32", target_os = "unknown"),
        expect(dead_code, reason = "`fetch` takes whole bodies, so there is no source to fail")
    )]
    Upload(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// `status` is missing where the command was one of a pipeline that as a whole succeeded.
    #[error("redis command failed: {message}")]
    Redis { status: Option<u16>, message: String },
    #[error("status {status} from something that is not the broker; check HEARTH_URL and the proxies on the way")]
    Foreign { status: u16 },
    #[error("answer does not fit the type asked for; compare it with the columns of the result")]
    Decode(#[source] serde_json::Error),
    #[error("answer does not fit the type asked for; {0}")]
    Shape(&'static str),
    /// Unlike `Decode`, before the statement's effect is known to be committed.
    #[error("row does not fit the type asked for; compare it with the columns of the result")]
    Row(#[source] serde_json::Error),
    #[error("statement returned no row; use `fetch_optional` where that may happen")]
    RowNotFound,
}

/// A problem in one line: what happened, the database's hint, then what to search logs and manuals for.
struct Summary<'a>(&'a Problem);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(problem) = self;
        f.write_str(&problem.detail)?;
        let hint = problem.postgres.as_ref().and_then(|record| record.hint.as_deref());
        if let Some(hint) = hint.filter(|hint| !problem.detail.contains(hint)) {
            write!(f, "; hint: {hint}")?;
        }
        // The page's name is the code, and survives where the code is newer than this crate.
        let code = problem.type_uri.rsplit('/').next().unwrap_or_default();
        write!(f, " ({code}")?;
        if let Some(sqlstate) = &problem.sqlstate {
            write!(f, ", sqlstate {sqlstate}")?;
        }
        write!(f, ", request {})", problem.request_id)
    }
}

impl Error {
    pub(crate) fn new(reason: Reason, effect: Effect) -> Self {
        Self(Box::new(Inner { reason, request_id: None, retry_after: None, effect }))
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(Reason::Config(message.into()), Effect::None)
    }

    pub(crate) fn with_request_id(mut self, request_id: Option<String>) -> Self {
        self.0.request_id = request_id;
        self
    }

    pub(crate) fn with_retry_after(mut self, retry_after: Option<Duration>) -> Self {
        self.0.retry_after = retry_after;
        self
    }

    /// The broker's word for the failure; `None` where the broker did not give one: transport failures, Redis errors.
    pub fn code(&self) -> Option<ProblemCode> {
        self.problem().map(|problem| problem.code)
    }

    /// The five-character SQLSTATE, where PostgreSQL refused.
    pub fn sqlstate(&self) -> Option<&str> {
        self.problem()?.sqlstate.as_deref()
    }

    /// In a batch: which statement failed, counted from 0.
    pub fn statement(&self) -> Option<u32> {
        self.problem()?.statement
    }

    /// The whole error answer, where the broker gave one.
    pub fn problem(&self) -> Option<&Problem> {
        match &self.0.reason {
            Reason::Problem(problem) => Some(problem),
            _ => None,
        }
    }

    /// The HTTP status, where an error answer arrived.
    pub fn status(&self) -> Option<u16> {
        match &self.0.reason {
            Reason::Problem(problem) => Some(problem.status),
            Reason::Redis { status, .. } => *status,
            Reason::Foreign { status } => Some(*status),
            _ => None,
        }
    }

    /// The id under which the broker has logged the request, where an answer arrived.
    pub fn request_id(&self) -> Option<&str> {
        let in_header = self.0.request_id.as_deref();
        in_header.or_else(|| self.problem().map(|problem| problem.request_id.as_str()))
    }

    /// How long the broker asks to wait before another try.
    pub fn retry_after(&self) -> Option<Duration> {
        let in_body = self.problem().and_then(|problem| problem.retry_after_ms).map(Duration::from_millis);
        in_body.or(self.0.retry_after)
    }

    /// The same call, made again, may succeed and cannot apply twice.
    ///
    /// The client has then used up its own retries or its deadline. It leaves two cases to the caller: a read-only query
    /// whose answer was lost, and an upload from a stream, which the client cannot read twice.
    pub fn is_retryable(&self) -> bool {
        match &self.0.reason {
            Reason::Timeout(_) | Reason::Transport(_) | Reason::Cut => self.0.effect == Effect::None,
            _ => self.is_retried(),
        }
    }

    /// The client tries again by itself: the broker allows it, or nothing was sent.
    pub(crate) fn is_retried(&self) -> bool {
        match &self.0.reason {
            Reason::Connect(_) => true,
            Reason::Problem(problem) => problem.retryable,
            Reason::Redis { status, .. } => matches!(status, Some(429 | 503)),
            Reason::Config(_)
            | Reason::Setup(_)
            | Reason::Request(_)
            | Reason::Encode { .. }
            | Reason::Deadline
            | Reason::Timeout(_)
            | Reason::Transport(_)
            | Reason::Cut
            | Reason::Upload(_)
            | Reason::Foreign { .. }
            | Reason::Decode(_)
            | Reason::Shape(_)
            | Reason::Row(_)
            | Reason::RowNotFound => false,
        }
    }

    /// There was no time for a try.
    pub(crate) fn is_deadline(&self) -> bool {
        matches!(self.0.reason, Reason::Deadline)
    }

    /// Time ran out: here, in the broker's queue or in the database.
    pub fn is_timeout(&self) -> bool {
        match &self.0.reason {
            Reason::Deadline | Reason::Timeout(_) => true,
            Reason::Connect(source) => source.is_timeout(),
            Reason::Problem(problem) => matches!(
                problem.code,
                ProblemCode::QueueDeadline | ProblemCode::StatementTimeout | ProblemCode::RequestTimeout
            ),
            Reason::Redis { status, .. } => *status == Some(504),
            _ => false,
        }
    }

    /// The tenant's own limit is reached: a rate, a quota, or its requests in flight.
    pub fn is_rate_limited(&self) -> bool {
        match &self.0.reason {
            Reason::Problem(problem) => {
                matches!(
                    problem.code,
                    ProblemCode::RateLimited | ProblemCode::TooManyInFlight | ProblemCode::QuotaExhausted
                ) || problem.status == 429
            }
            Reason::Redis { status, .. } => *status == Some(429),
            _ => false,
        }
    }

    /// What became of the call's effect.
    ///
    /// The broker's word where it gave one. Without an answer: [`Outcome::NotApplied`] if nothing was sent or the query
    /// was read-only, else [`Outcome::Unknown`]; so too within a stream of rows, before its end. A successful whole answer that does not fit the type asked for is
    /// [`Outcome::Applied`].
    pub fn outcome(&self) -> Outcome {
        let effect = self.0.effect;
        let if_writing = |outcome| if effect == Effect::None { Outcome::NotApplied } else { outcome };
        match &self.0.reason {
            Reason::Problem(problem) => problem.outcome,
            Reason::Redis { status: None | Some(400..=499), .. } if effect != Effect::Piecemeal => Outcome::NotApplied,
            Reason::Config(_)
            | Reason::Setup(_)
            | Reason::Request(_)
            | Reason::Encode { .. }
            | Reason::Deadline
            | Reason::Connect(_)
            // The broker loads nothing before it has seen the end.
            | Reason::Upload(_)
            // Identity, size, the tenant's limit, the broker's capacity: refused before anything ran.
            | Reason::Redis { status: Some(401 | 403 | 404 | 413 | 429 | 503), .. }
            // But for 408 and the server errors: a proxy may have passed the request on before it gave up.
            | Reason::Foreign { status: 300..=407 | 409..=499 } => Outcome::NotApplied,
            Reason::Timeout(_)
            | Reason::Transport(_)
            | Reason::Cut
            | Reason::Row(_)
            | Reason::Redis { .. }
            | Reason::Foreign { .. } => if_writing(Outcome::Unknown),
            Reason::Decode(_) | Reason::Shape(_) | Reason::RowNotFound => if_writing(Outcome::Applied),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.reason, f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("reason", &self.0.reason)
            .field("outcome", &self.outcome())
            .field("request_id", &self.request_id())
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0.reason)
    }
}

#[cfg(test)]
mod tests;
