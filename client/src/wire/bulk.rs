//! What travels line by line, or in bulk.

use serde::{Deserialize, Serialize};

use super::{Column, Notice, Problem};

/// The first line of a result streamed as NDJSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamHead {
    /// The result's columns.
    pub columns: Vec<Column>,
}

/// The last line of a result streamed as NDJSON. A stream without it was cut. Rows are lines with other members, or
/// arrays: only the last line is the tail.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum StreamTail {
    /// The result is whole, and its effect committed.
    End {
        /// Rows returned, or rows affected where the statement returns none.
        row_count: u64,
        /// The command's name as PostgreSQL reports it.
        command: String,
        /// What the server had to say beside the result.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        notices: Vec<Notice>,
    },
    /// It broke off.
    Error {
        /// Why, and what became of the effect.
        error: Box<Problem>,
    },
}

/// The answer of `POST /v1/db/{database}/copy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CopyResponse {
    /// Always `COPY`.
    pub command: String,
    /// Rows loaded.
    pub rows: u64,
    /// Bytes read from the request, after decompression. Unit: bytes.
    pub bytes: u64,
    /// What the server had to say beside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Notice>,
}

/// The data of one server-sent event of `GET /v1/db/{database}/listen/{channel}`.
///
/// Events: `listening` (from here on everything is heard), unnamed ones with this data, `reconnected` (what was sent
/// while the database was away is lost), `error` with a [`Problem`] and the end of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Notification {
    /// The channel.
    pub channel: String,
    /// What NOTIFY said.
    pub payload: String,
    /// The process id of the session that notified.
    pub pid: i32,
}
