//! What to run, and running it: on which connection, under which deadline, with what left behind.

pub mod attempt;
pub mod command;
pub mod copy;
pub mod error;
pub mod exchange;
pub mod fingerprint;
pub mod habits;
pub mod laned;
mod never;
pub mod prepare;
pub mod reading;
pub mod readings;
pub mod run;
pub mod statement;
pub mod stream;
pub mod tokens;
pub mod trouble;
pub mod unit;
pub mod value;

pub use error::{Failure, QueryError};
pub use habits::Habits;
pub use readings::Readings;
pub use run::{Answer, Limits, Run};
pub use statement::Statement;
pub use stream::{Piece, Stream, Streaming};
pub use unit::{Caller, Expect, Unit};
pub use value::Value;
