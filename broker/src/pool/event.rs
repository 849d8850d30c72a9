//! What happens to sessions and to the servers they are on. Events and reasons are closed sets, for logs, metrics and tests alike.

use tokio_postgres::error::SqlState;

/// Something that happened, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A session was opened.
    Open(OpenReason),
    /// A session was closed.
    Close(CloseReason),
    /// A session could not be opened.
    Error(ErrorReason),
    /// A session was made clean before the next caller has it, or that failed.
    Reset(ResetReason, Outcome),
    /// An endpoint gets no reads for a while.
    Eject,
    /// An endpoint gets reads again.
    Return,
    /// Nobody opens sessions for a while.
    BreakerOpen(BreakerName),
    /// Sessions are opened again.
    BreakerClose(BreakerName),
    /// A session is held long past its deadline.
    Leak,
    /// One that was held so long has come back.
    Recovered,
}

/// Why a session was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpenReason {
    /// Somebody waits, and waiting longer is worse.
    Demand,
    /// Ahead of need: for the minimum, or for what is expected.
    Ahead,
}

/// Why a session was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The server or the network closed it.
    BackendClosed,
    /// A caller left it in the middle of an exchange, and it could not be brought back.
    Tainted,
    /// A statement changed the session beyond a reset, or the reset failed.
    NotClean,
    /// More were open than there may be.
    Shrink,
    /// It was not needed for long.
    Idle,
    /// It was old.
    Lifetime,
    /// The server has begun another life, or an operator wanted new connections.
    FailoverEpoch,
    /// It was a lane that is not wanted any more, or whose schema or settings have changed.
    LaneEnded,
    /// Whoever held it did not give it back.
    LeakForced,
}

/// Why a session could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorReason {
    /// The server refuses the login: a wrong password, a role that may not.
    Login,
    /// The server has no room.
    Full,
    /// The server refuses for another reason; the SQLSTATE tells.
    Refused,
    /// Nothing came in time.
    Timeout,
    /// The socket failed: refused, reset, closed, no such host.
    Network,
    /// Something else: TLS, the protocol.
    Other,
}

/// Why a session had to be made clean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResetReason {
    /// Its caller left it in the middle.
    Abandoned,
    /// A statement may have left something in it.
    Changed,
}

/// How making it clean ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is clean.
    Clean,
    /// It is not, and was closed.
    Failed,
}

/// The breakers of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakerName {
    /// On reaching the server.
    Connect,
    /// On its letting us in.
    Login,
}

impl Event {
    /// What happened, as a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::Close(_) => "close",
            Self::Error(_) => "error",
            Self::Reset(..) => "reset",
            Self::Eject => "eject",
            Self::Return => "return",
            Self::BreakerOpen(_) => "breaker_open",
            Self::BreakerClose(_) => "breaker_close",
            Self::Leak => "leak",
            Self::Recovered => "recovered",
        }
    }

    /// Why, as a word.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Open(reason) => reason.as_str(),
            Self::Close(reason) => reason.as_str(),
            Self::Error(reason) => reason.as_str(),
            Self::Reset(_, Outcome::Failed) => "failed",
            Self::Reset(reason, Outcome::Clean) => reason.as_str(),
            Self::BreakerOpen(name) | Self::BreakerClose(name) => name.as_str(),
            Self::Eject => "sick",
            Self::Return => "answered",
            Self::Leak | Self::Recovered => "deadline",
        }
    }
}

impl OpenReason {
    /// The reason as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Demand => "demand",
            Self::Ahead => "ahead",
        }
    }
}

impl CloseReason {
    /// The reason as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BackendClosed => "backend_closed",
            Self::Tainted => "tainted",
            Self::NotClean => "not_clean",
            Self::Shrink => "shrink",
            Self::Idle => "idle",
            Self::Lifetime => "lifetime",
            Self::FailoverEpoch => "failover_epoch",
            Self::LaneEnded => "lane_ended",
            Self::LeakForced => "leak_forced",
        }
    }
}

impl ErrorReason {
    /// The reason as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Full => "full",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Network => "network",
            Self::Other => "other",
        }
    }

    /// Of an error of the driver while it opened a session.
    pub fn of(error: &tokio_postgres::Error) -> Self {
        if let Some(state) = error.code() {
            return match (state, state.code().get(..2)) {
                (_, Some("28")) => Self::Login,
                (state, _) if *state == SqlState::TOO_MANY_CONNECTIONS => Self::Full,
                _ => Self::Refused,
            };
        }
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                let timed_out = io.kind() == std::io::ErrorKind::TimedOut;
                return if timed_out { Self::Timeout } else { Self::Network };
            }
            cause = error.source();
        }
        if error.is_closed() { Self::Network } else { Self::Other }
    }
}

impl ResetReason {
    /// The reason as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Abandoned => "abandoned",
            Self::Changed => "changed",
        }
    }
}

impl Outcome {
    /// The outcome as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Failed => "failed",
        }
    }
}

impl BreakerName {
    /// The name as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Login => "login",
        }
    }
}
