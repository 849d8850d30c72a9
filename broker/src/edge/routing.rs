//! Headers that say where a request goes: which shard, and how new a replica must be; and those that say where it went.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};

use super::error::Error;
use super::header;
use crate::broker::Broker;
use crate::pool::{Consistency, Database};

/// Longer keys are a mistake. Unit: bytes.
const MAX_KEY_BYTES: usize = 1024;

/// The shard that the request's `Hearth-Shard-Key` belongs to; the database itself where it has no shards. Errors: a key that is
/// missing, or that means nothing here: to guess would read from the wrong shard.
pub fn shard(broker: &Broker, database: &Arc<Database>, headers: &HeaderMap) -> Result<Arc<Database>, Error> {
    let key = headers.get(&header::SHARD_KEY).map(|key| key.to_str()).transpose();
    let key = key.map_err(|_| Error::Invalid("Hearth-Shard-Key must be visible ASCII".to_owned()))?;
    match (broker.shards.get(database.name()), key) {
        (None, None) => Ok(Arc::clone(database)),
        (None, Some(_)) => {
            Err(Error::Invalid(format!("`{}` has no shards; leave Hearth-Shard-Key out", database.name())))
        }
        (Some(_), None | Some("")) => {
            Err(Error::Invalid(format!("`{}` has shards; say which by Hearth-Shard-Key", database.name())))
        }
        (Some(_), Some(key)) if key.len() > MAX_KEY_BYTES => {
            Err(Error::Invalid(format!("Hearth-Shard-Key has more than {MAX_KEY_BYTES} bytes")))
        }
        (Some(shards), Some(key)) => Ok(Arc::clone(shards.of(key))),
    }
}

/// The token of `Hearth-Consistency`. Errors: one that this broker did not give out.
pub fn consistency(headers: &HeaderMap) -> Result<Option<Consistency>, Error> {
    let Some(token) = headers.get(&header::CONSISTENCY) else { return Ok(None) };
    let token = token.to_str().ok().and_then(|token| token.trim().parse().ok());
    token
        .map(Some)
        .ok_or_else(|| Error::Invalid("Hearth-Consistency must be a token as an earlier answer gave it".to_owned()))
}

/// Whether the request may share a session with others: not where its `Hearth-Lanes` says `off`. Errors: anything else there.
pub fn lanes(headers: &HeaderMap) -> Result<bool, Error> {
    match headers.get(&header::LANES).map(HeaderValue::as_bytes) {
        None | Some(b"on") => Ok(true),
        Some(b"off") => Ok(false),
        Some(_) => Err(Error::Invalid("Hearth-Lanes must be `on` or `off`".to_owned())),
    }
}

/// Says where the request went: who served it, and what a later read must be as new as.
pub fn tell(headers: &mut HeaderMap, written: Option<Consistency>, by_replica: bool) {
    let who = if by_replica { "replica" } else { "primary" };
    headers.insert(&header::SERVED_BY, HeaderValue::from_static(who));
    if let Some(token) = written {
        let token = HeaderValue::from_str(&token.to_string()).expect("a token is letters, digits, `.` and `/`");
        headers.insert(&header::CONSISTENCY, token);
    }
}
