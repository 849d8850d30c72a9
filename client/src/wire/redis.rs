//! Redis replies.

use serde::{Deserialize, Serialize};

/// One Redis command's answer: exactly one of the two.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum RedisReply<R> {
    /// Redis refused, or the broker did.
    Error {
        /// Redis' own text, or the broker's in the same style.
        error: String,
    },
    /// Redis answered.
    Result {
        /// The reply as JSON: strings, integers, null and nested arrays.
        result: R,
    },
}
