//! Several steps in one write, and the server's answers to them, read one by one.
//!
//! All steps share one `Sync`: after a refusal the server skips what is left up to there, so a `COMMIT` or a statement behind a
//! refused `BEGIN` never runs. Source: PostgreSQL manual, "Extended Query", "Pipelining".

use std::borrow::Cow;
use std::collections::VecDeque;

use hearth_client::wire::Notice;
use postgres_protocol::message::frontend;

use crate::encode::TextParam;
use crate::pool::postgres::channel::OVERSIZE;
use crate::pool::postgres::{Broken, Channel, Prepared, ServerError, ask, frame};

/// One step.
pub enum Step<'a> {
    /// A command of the broker's own, with its parameters. Nothing of its answer is shown.
    Own(Cow<'a, str>, Vec<&'a str>),
    /// A statement of the caller's.
    Run {
        /// Which of the caller's statements.
        statement: usize,
        /// As it is prepared on the session.
        prepared: &'a Prepared,
        /// Its parameters.
        values: Vec<TextParam>,
    },
}

/// What the server said, as far as the caller wants to know.
pub enum Event<'a> {
    /// A row's values as they came, for [`frame::values`].
    Row {
        /// Whose.
        statement: usize,
        /// A `DataRow`'s body.
        body: &'a [u8],
    },
    /// A row longer than the channel's limit was thrown away.
    Oversize {
        /// Whose.
        statement: usize,
    },
    /// A statement is through. It is committed only when its transaction is.
    Complete {
        /// Which.
        statement: usize,
        /// Its command's tag; empty for an empty statement.
        tag: &'a str,
    },
    /// A notice or a warning.
    Notice(Notice),
    /// The server waits for the data of a COPY.
    CopyIn,
    /// Data of a COPY begin; true where they are binary.
    CopyOut(bool),
    /// Data of a COPY.
    CopyData(&'a [u8]),
    /// The server refused a step and skips the rest.
    Refused {
        /// Which statement it was, unless a step of the broker's own.
        statement: Option<usize>,
        /// Its words.
        error: Box<ServerError>,
    },
    /// Everything is answered.
    Ready,
}

/// Steps that are on their way.
pub struct Exchange {
    /// For each step that is not through: which statement it is, if any.
    left: VecDeque<Option<usize>>,
}

impl Exchange {
    /// Puts the steps into the channel's buffer, ended by a `Sync` or, for a COPY that wants data first, by a `Flush`.
    pub fn send(channel: &mut Channel, steps: &[Step<'_>], sync: bool) -> Self {
        channel.queue(|out| {
            for step in steps {
                match step {
                    Step::Own(sql, params) => {
                        frontend::parse("", sql, [], out).expect("the broker's own text has no NUL");
                        ask::execute("", params.iter().map(|text| Some(text.as_bytes())), out);
                    }
                    Step::Run { prepared, values, .. } => {
                        ask::execute(&prepared.name, values.iter().map(|value| value.0.as_deref()), out);
                    }
                }
            }
            if !sync {
                frontend::flush(out);
            }
        });
        if sync {
            channel.sync();
        }
        let statement = |step: &Step<'_>| match step {
            Step::Own(..) => None,
            Step::Run { statement, .. } => Some(*statement),
        };
        Self { left: steps.iter().map(statement).collect() }
    }

    /// More steps behind those on their way, ended by a `Sync`. They are the broker's own.
    pub fn and_then(&mut self, channel: &mut Channel, steps: &[Step<'_>]) {
        let more = Self::send(channel, steps, true);
        self.left.extend(more.left);
    }

    /// True when every step is through, and only the server's readiness is missing. A `COMMIT` among them has committed: the
    /// server says so after the fact. A statement that commits by itself does so only when it gets to the `Sync`.
    pub fn is_through(&self) -> bool {
        self.left.is_empty()
    }

    /// The next event. Cancel safe. Errors: the connection is over.
    pub async fn next<'c>(&mut self, channel: &'c mut Channel) -> Result<Event<'c>, Broken> {
        loop {
            let statement = self.left.front().copied().flatten();
            match (channel.peek().await?, statement) {
                (OVERSIZE, Some(statement)) => return Ok(Event::Oversize { statement }),
                (b'D', Some(statement)) => return Ok(Event::Row { statement, body: channel.take().body }),
                (b'C', Some(statement)) => {
                    self.left.pop_front();
                    return Ok(Event::Complete { statement, tag: frame::tag(channel.take().body) });
                }
                (b'I', Some(statement)) => {
                    self.left.pop_front();
                    channel.take();
                    return Ok(Event::Complete { statement, tag: "" });
                }
                (b'C' | b'I', None) => {
                    self.left.pop_front();
                    channel.take();
                }
                (b'E', _) => {
                    let error = Box::new(ServerError::read(channel.take().body));
                    if error.is_fatal {
                        channel.condemn();
                        return Err(Broken::Ended(error));
                    }
                    return Ok(Event::Refused { statement, error });
                }
                (b'N', _) => return Ok(Event::Notice(ServerError::read(channel.take().body).into_notice())),
                (b'G', _) => {
                    channel.take();
                    return Ok(Event::CopyIn);
                }
                (b'H', _) => return Ok(Event::CopyOut(channel.take().body.first() == Some(&1))),
                (b'd', _) => return Ok(Event::CopyData(channel.take().body)),
                (b'Z', _) => {
                    channel.take();
                    return Ok(Event::Ready);
                }
                (OVERSIZE, None) => {}
                _ => drop(channel.take()),
            }
        }
    }
}
