//! What happens to sessions and to the servers they are on. The reasons are closed sets, for logs, metrics and tests alike.

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
        }
    }
}
