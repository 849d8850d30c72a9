//! What the server says of an error or a notice. Source: PostgreSQL manual, "Error and Notice Message Fields".

use hearth_client::wire::{Notice, PostgresError};
use tokio_postgres::error::{DbError, ErrorPosition, SqlState};

use super::frame;

/// The server's own record of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", self.record.severity, self.record.message)]
pub struct ServerError {
    /// What went wrong, as a code.
    pub state: SqlState,
    /// Everything for the caller.
    pub record: PostgresError,
    /// The session is over.
    pub is_fatal: bool,
    /// Where in the server's source it was raised.
    routine: Option<String>,
}

impl ServerError {
    /// Reads an `ErrorResponse` or a `NoticeResponse`.
    pub fn read(body: &[u8]) -> Self {
        let mut record = PostgresError::default();
        let (mut state, mut severity, mut routine) = (String::new(), None, None);
        for (field, value) in frame::fields(body) {
            let text = String::from_utf8_lossy(value).into_owned();
            match field {
                b'S' => record.severity = text,
                // The same, never translated.
                b'V' => severity = Some(text),
                b'C' => state = text,
                b'M' => record.message = text,
                b'D' => record.detail = Some(text),
                b'H' => record.hint = Some(text),
                b'P' => record.position = text.parse().ok(),
                b's' => record.schema = Some(text),
                b't' => record.table = Some(text),
                b'c' => record.column = Some(text),
                b'n' => record.constraint = Some(text),
                b'W' => record.where_ = Some(text),
                b'R' => routine = Some(text),
                _ => {}
            }
        }
        let is_fatal = matches!(severity.as_deref(), Some("FATAL" | "PANIC"));
        Self { state: SqlState::from_code(&state), record, is_fatal, routine }
    }

    /// A prepared statement's plan no longer fits the schema.
    pub fn is_stale_plan(&self) -> bool {
        self.state == SqlState::FEATURE_NOT_SUPPORTED && self.routine.as_deref() == Some("RevalidateCachedQuery")
    }

    /// As a notice.
    pub fn into_notice(self) -> Notice {
        let PostgresError { severity, message, detail, hint, .. } = self.record;
        Notice { severity, sqlstate: self.state.code().to_owned(), message, detail, hint }
    }
}

/// The driver's form of the same.
impl From<&DbError> for ServerError {
    fn from(db: &DbError) -> Self {
        use tokio_postgres::error::Severity;
        let own = |text: Option<&str>| text.map(str::to_owned);
        let position = match db.position() {
            Some(ErrorPosition::Original(at)) => Some(*at),
            _ => None,
        };
        let record = PostgresError {
            severity: db.severity().to_owned(),
            message: db.message().to_owned(),
            detail: own(db.detail()),
            hint: own(db.hint()),
            position,
            schema: own(db.schema()),
            table: own(db.table()),
            column: own(db.column()),
            constraint: own(db.constraint()),
            where_: own(db.where_()),
        };
        let is_fatal = matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
        Self { state: db.code().clone(), record, is_fatal, routine: own(db.routine()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_finds_its_place() {
        let body = b"SFEHLER\0VERROR\0C23505\0Mtwice\0DKey (id)=(1)\0ttbl\0nt_pkey\0P7\0R_bt_check_unique\0\0";
        let error = ServerError::read(body);
        assert_eq!(error.state, SqlState::UNIQUE_VIOLATION);
        assert_eq!((error.record.severity.as_str(), error.is_fatal), ("FEHLER", false));
        assert_eq!((error.record.position, error.record.constraint.as_deref()), (Some(7), Some("t_pkey")));
        assert!(ServerError::read(b"SFATAL\0VFATAL\0C57P01\0Mbye\0\0").is_fatal);
    }
}
