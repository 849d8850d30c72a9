//! Values both ways: JSON to statement parameters, rows and Redis replies to JSON, within a byte budget.

pub mod columns;
pub mod lines;
pub mod literal;
pub mod params;
pub mod reply;
pub mod resp;
pub mod rows;
pub mod scalar;

pub use columns::Columns;
pub use lines::{LineFormat, LineWriter};
pub use params::{ParamError, TextParam};
pub use rows::{RowWriter, TooLarge};
