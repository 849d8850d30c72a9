//! A database behind the broker: where every statement starts.

use std::borrow::Cow;

use crate::batch::Batch;
use crate::client::{Call, Client, Media, SQL, escaped, segment};
use crate::copy::{CopyIn, CopyOut};
use crate::error::{Effect, Error};
use crate::listen::Listener;
use crate::query::{Named, Query};

/// A PostgreSQL database behind the broker. From [`Client::db`].
#[derive(Debug, Clone)]
pub struct Database {
    client: Client,
    name: String,
}

impl Database {
    pub(crate) fn new(client: Client, name: &str) -> Self {
        Self { client, name: name.to_owned() }
    }

    /// Starts one statement with `$1`-style placeholders. It runs by itself and commits by itself.
    pub fn query<'q>(&self, sql: impl Into<Cow<'q, str>>) -> Query<'q> {
        Query::new(self.clone(), sql.into())
    }

    /// Starts the statement that the broker's configuration calls `name`, with parameters by position or by name.
    pub fn statement<'q>(&self, name: impl Into<Cow<'q, str>>) -> Query<'q, Named> {
        Query::new(self.clone(), name.into())
    }

    /// Starts several statements that run in one transaction and one round trip.
    pub fn batch<'q>(&self) -> Batch<'q> {
        Batch::new(self.clone())
    }

    /// Starts an upload: `COPY … FROM STDIN`, in the format that the statement names.
    pub fn copy_in(&self, sql: &str) -> CopyIn {
        CopyIn::new(self.clone(), sql)
    }

    /// Starts a download: `COPY … TO STDOUT`, in the format that the statement names. Returns once the broker has begun
    /// to answer; the client's timeout ends there.
    ///
    /// A download counts as a write where its answer is lost, since a `COPY (…)` may hold one.
    pub async fn copy_out(&self, sql: &str) -> Result<CopyOut, Error> {
        let call = self.get(format!("/copy?sql={}", escaped(sql)), Media::Data);
        Ok(CopyOut::new(self.client.begin(call).await?))
    }

    /// Hears what `NOTIFY` sends to a channel. Returns once the broker listens: everything sent from then on is heard. The
    /// client's timeout ends there.
    pub async fn listen(&self, channel: &str) -> Result<Listener, Error> {
        let channel = segment("a channel", channel)?;
        let call = self.get(format!("/listen/{channel}"), Media::Events).with_effect(Effect::None);
        Listener::open(&self.client, call).await
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn post(&self, tail: impl Into<Cow<'static, str>>, body: Vec<u8>) -> Call {
        Call::post(SQL, self.name.clone(), tail, body)
    }

    fn get(&self, tail: String, answer: Media) -> Call {
        Call::get(SQL, self.name.clone(), tail, answer)
    }
}
