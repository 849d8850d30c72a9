//! What to run, and running it: on which connection, under which deadline, with what left behind.

pub mod command;
pub mod error;
pub mod exchange;
pub mod habits;
pub mod laned;
pub mod reading;
pub mod run;
pub mod statement;
pub mod tokens;

pub use error::QueryError;
pub use habits::Habits;
pub use run::{Answer, Limits, Run};
pub use statement::Statement;
