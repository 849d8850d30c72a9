//! The broker's own questions over a channel: commands, catalogue look-ups, and preparing.

use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;

use super::channel::{Broken, Channel};
use super::frame;
use super::server_error::ServerError;

/// Why the server has not done what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It refused.
    #[error("the database refused")]
    Refused(#[source] Box<ServerError>),
    /// The connection is over.
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// A statement's description as the server gives it: object ids of the placeholders' types, names and type ids of the columns.
#[derive(Debug, Default)]
pub struct Description {
    /// Types of the placeholders.
    pub params: Vec<u32>,
    /// Columns; empty for a statement without a result.
    pub columns: Vec<(String, u32)>,
}

/// Runs a command, or several, without parameters and without reading their results.
pub async fn command(channel: &mut Channel, sql: &str) -> Result<(), AskError> {
    channel.queue(|out| frontend::query(sql, out).expect("the broker's own text has no NUL"));
    channel.expect_ready();
    answer(channel, |_, _| Ok(())).await
}

/// Asks for rows, everything as text.
pub async fn rows(
    channel: &mut Channel,
    sql: &str,
    params: &[Option<&str>],
) -> Result<Vec<Vec<Option<String>>>, AskError> {
    channel.queue(|out| {
        frontend::parse("", sql, [], out).expect("the broker's own text has no NUL");
        execute("", params.iter().map(|value| value.map(str::as_bytes)), out);
    });
    channel.sync();
    let mut rows = Vec::new();
    answer(channel, |kind, body| {
        if kind == b'D' {
            let value = |value: Option<&[u8]>| value.map(|text| String::from_utf8_lossy(text).into_owned());
            rows.push(frame::values(body).map(value).collect());
        }
        Ok(())
    })
    .await?;
    Ok(rows)
}

/// Binds and executes a prepared statement; parameters and result as text.
pub fn execute<'v>(name: &str, params: impl ExactSizeIterator<Item = Option<&'v [u8]>>, out: &mut bytes::BytesMut) {
    let value = |value: Option<&[u8]>, out: &mut bytes::BytesMut| {
        Ok(value.map_or(IsNull::Yes, |text| {
            out.extend_from_slice(text);
            IsNull::No
        }))
    };
    // No formats: everything is text.
    let bound = frontend::bind("", name, std::iter::empty(), params, value, std::iter::empty(), out);
    assert!(
        bound.is_ok(),
        "a described statement has at most 65,535 placeholders, and a request is smaller than 2 GiB"
    );
    frontend::execute("", 0, out).expect("the name has no NUL");
}

/// A statement to be prepared.
pub struct ToPrepare<'a> {
    /// Under which name.
    pub name: &'a str,
    /// Its text.
    pub sql: &'a str,
    /// Types for its placeholders; 0 leaves one to the server.
    pub types: &'a [u32],
}

/// Prepares statements, all in one round trip; one that is refused does not disturb the others.
pub async fn prepare(
    channel: &mut Channel,
    statements: &[ToPrepare<'_>],
) -> Result<Vec<Result<Description, Box<ServerError>>>, Broken> {
    for statement in statements {
        channel.queue(|out| {
            frontend::parse(statement.name, statement.sql, statement.types.iter().copied(), out)
                .expect("the statement was checked for NUL");
            frontend::describe(b'S', statement.name, out).expect("the name has no NUL");
        });
        channel.sync();
    }
    let mut described = Vec::with_capacity(statements.len());
    for _ in statements {
        let mut description = Description::default();
        let answered = answer(channel, |kind, body| {
            match kind {
                b't' => description.params = frame::parameters(body)?,
                b'T' => description.columns = frame::columns(body)?,
                _ => {}
            }
            Ok(())
        })
        .await;
        described.push(match answered {
            Ok(()) => Ok(description),
            Err(AskError::Refused(error)) => Err(error),
            Err(AskError::Broken(broken)) => return Err(broken),
        });
    }
    Ok(described)
}

/// Reads up to the server's readiness, and shows every message on the way.
async fn answer(
    channel: &mut Channel,
    mut see: impl FnMut(u8, &[u8]) -> Result<(), frame::BadFrame>,
) -> Result<(), AskError> {
    let mut refused = None;
    loop {
        channel.peek().await?;
        let message = channel.take();
        match message.kind {
            b'Z' => return refused.map_or(Ok(()), |error| Err(AskError::Refused(error))),
            b'E' => {
                let error = Box::new(ServerError::read(message.body));
                if error.is_fatal {
                    channel.condemn();
                    return Err(Broken::Ended(error).into());
                }
                refused = Some(error);
            }
            kind => see(kind, message.body).map_err(Broken::from)?,
        }
    }
}
