//! Bulk data both ways, in whatever format the COPY names. Source: PostgreSQL manual, "COPY".

use std::fmt;

use bytes::Bytes;

use crate::chunks::Chunks;
use crate::client::{Begun, Call, escaped};
use crate::database::Database;
use crate::error::Error;
use crate::wire::CopyResponse;

#[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
mod source;

/// An upload. From [`Database::copy_in`]; nothing is sent before one of the awaited methods.
///
/// It is one transaction: what does not arrive whole loads nothing. The client's timeout bounds all of it, the broker's work
/// included; see [`ClientBuilder::timeout`](crate::ClientBuilder::timeout) for one that is long enough.
#[derive(Debug)]
#[must_use = "nothing is sent before `send` or `send_stream` is awaited"]
pub struct CopyIn {
    database: Database,
    sql: String,
}

impl CopyIn {
    pub(crate) fn new(database: Database, sql: &str) -> Self {
        Self { database, sql: sql.to_owned() }
    }

    /// Uploads data that is in memory. Tried again where the broker says that this is safe.
    pub async fn send(self, data: impl Into<Bytes>) -> Result<CopyResponse, Error> {
        let mut call = self.call();
        call.body = Some((MEDIA_TYPE, data.into()));
        self.database.client().send(call).await?.decode()
    }

    /// Uploads chunks as they come, in memory that stays flat: the broker holds back the stream, and the database the
    /// broker.
    ///
    /// Errors: one from the stream ends the upload, nothing is loaded, and it is this error's
    /// [`source`](std::error::Error::source). After a refusal no more of the stream is read. The client never tries again, since a stream can be read once. Not offered in a
    /// Worker or a page, where `fetch` takes whole bodies.
    ///
    /// Cancel safety: dropping the future ends the upload without its end. Nothing is loaded, unless all of it had been sent.
    #[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
    pub async fn send_stream<S, B, E>(self, chunks: S) -> Result<CopyResponse, Error>
    where
        S: futures_core::Stream<Item = Result<B, E>> + Send + 'static,
        B: Into<Bytes> + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let (body, leash) = source::body(chunks);
        match self.database.client().upload(self.call(), body).await {
            Ok(answer) => answer.decode(),
            Err(error) => Err(leash.failure().unwrap_or(error)),
        }
    }

    fn call(&self) -> Call {
        let mut call = self.database.post(format!("/copy?sql={}", escaped(&self.sql)), Vec::new());
        call.body = Some((MEDIA_TYPE, Bytes::new()));
        call
    }
}

const MEDIA_TYPE: &str = "application/octet-stream";

/// A download, chunk by chunk. From [`Database::copy_out`].
///
/// Chunks end anywhere, also within a row. Memory stays flat: a slow reader holds back the database. Dropping it closes the
/// request, and the broker cancels the COPY.
#[must_use = "data comes as `next` is awaited; dropping the download cancels it"]
pub struct CopyOut {
    chunks: Chunks,
}

impl CopyOut {
    pub(crate) fn new(begun: Begun) -> Self {
        let mut chunks = Chunks::new(begun);
        chunks.lift_deadline();
        Self { chunks }
    }

    /// The next chunk; `None` once the data is whole, and after an error.
    ///
    /// Errors: the body broke off; what came of it is a part.
    ///
    /// Cancel safety: a chunk is either given or still to come.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        self.chunks.next().await
    }
}

impl fmt::Debug for CopyOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopyOut").field("request_id", &self.chunks.request_id()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
