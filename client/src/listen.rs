//! What NOTIFY sends, as it is sent. Source: PostgreSQL manual, "LISTEN".

use std::fmt;

use serde::de::DeserializeOwned;

use crate::chunks::Chunks;
use crate::client::{Call, Client};
use crate::error::{Error, Reason};
use crate::sse::{Message, Reader};
use crate::wire::{Notification, Problem};

/// Something heard on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// What a session sent.
    Notification(Notification),
    /// The broker has lost the database and found it again. What was sent in between is lost: read the state anew.
    Reconnected,
}

/// An open ear on a channel. From [`Database::listen`](crate::Database::listen). Dropping it ends the subscription.
#[must_use = "events come as `next` is awaited; dropping the listener ends it"]
pub struct Listener {
    chunks: Chunks,
    reader: Reader,
}

impl Listener {
    /// Sends the call and waits until the broker listens.
    pub(crate) async fn open(client: &Client, call: Call) -> Result<Self, Error> {
        Self::start(Chunks::new(client.begin(call).await?)).await
    }

    async fn start(chunks: Chunks) -> Result<Self, Error> {
        let mut listener = Self { chunks, reader: Reader::default() };
        loop {
            let message = listener.message().await?;
            match message.name.as_str() {
                "listening" => break,
                "error" => return Err(listener.refused(&message)),
                _ => {}
            }
        }
        listener.chunks.lift_deadline();
        Ok(listener)
    }

    /// The next event; `None` only after an error, which ends the subscription.
    ///
    /// Errors: the broker ends it, as when it drains; the connection broke. Listen again, and then read the state anew.
    ///
    /// Cancel safety: an event is either given or still to come.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        while !self.chunks.is_closed() {
            let message = match self.message().await {
                Ok(message) => message,
                Err(error) => return Some(Err(error)),
            };
            match message.name.as_str() {
                "" | "message" => return Some(self.read(&message).map(Event::Notification)),
                "reconnected" => return Some(Ok(Event::Reconnected)),
                "error" => return Some(Err(self.refused(&message))),
                // An event newer than this crate.
                _ => {}
            }
        }
        None
    }

    async fn message(&mut self) -> Result<Message, Error> {
        loop {
            if let Some(message) = self.reader.take() {
                return Ok(message);
            }
            match self.chunks.next().await {
                Some(chunk) => self.reader.push(chunk?),
                None => return Err(self.chunks.fail(Reason::Cut)),
            }
        }
    }

    fn refused(&mut self, message: &Message) -> Error {
        match self.read::<Problem>(message) {
            Ok(problem) => self.chunks.fail(Reason::Problem(Box::new(problem))),
            Err(error) => error,
        }
    }

    fn read<T: DeserializeOwned>(&mut self, message: &Message) -> Result<T, Error> {
        serde_json::from_str(&message.data).map_err(|source| self.chunks.fail(Reason::Decode(source)))
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("request_id", &self.chunks.request_id()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
