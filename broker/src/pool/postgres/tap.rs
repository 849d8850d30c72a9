//! The wire tap: two small state machines over the bytes between driver and server.
//!
//! Towards the server, [`Frontend`] sets the result format of every `Bind` without a binary parameter to text, so that a
//! value of any type arrives exactly as PostgreSQL prints it. (The driver's own type look-ups bind a binary parameter
//! and stay binary.) From the server, [`Backend`] notes what the driver throws away: `ReadyForQuery`, and
//! `ParameterStatus` after sign-in.
//! Both take the stream in pieces of any size. Source: PostgreSQL manual, "Message Formats".

mod backend;
mod frontend;
#[cfg(test)]
mod tests;

pub use backend::{Backend, Event};
pub use frontend::Frontend;
