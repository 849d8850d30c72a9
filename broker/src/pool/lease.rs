//! A connection lent to one caller. It is tainted while an exchange is unfinished; drop checks it in clean, or closes it.

use std::sync::Arc;

use deadpool::managed::Object;
use tokio::runtime::Handle;
use tokio_postgres::CancelToken;

use super::checkout::Database;
use super::postgres::connect::CancelError;
use super::postgres::observed::Observed;
use super::postgres::{Cleanup, Session, SessionManager, reset};
use crate::observe::CloseReason;

/// A connection lent to one caller at a time.
pub struct Lease {
    /// `Some` until drop.
    object: Option<Object<SessionManager>>,
    database: Arc<Database>,
    tainted: bool,
    cleanup: Cleanup,
}

impl Lease {
    pub(super) fn new(object: Object<SessionManager>, database: Arc<Database>) -> Self {
        Self { object: Some(object), database, tainted: false, cleanup: Cleanup::Nothing }
    }

    /// The session.
    pub fn session(&self) -> &Session {
        self.object.as_ref().expect("a lease has its session until it is dropped")
    }

    /// The session, to prepare on it.
    pub fn session_mut(&mut self) -> &mut Session {
        self.object.as_mut().expect("a lease has its session until it is dropped")
    }

    /// The database it belongs to.
    pub fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// Call before the first byte leaves: from here on a dropped lease is recovered, not reused.
    pub fn begin(&mut self) {
        self.tainted = true;
    }

    /// Call when every answer is in, a database error included: drop then checks it in.
    pub fn finish(&mut self) {
        self.tainted = false;
    }

    /// Asks for at least this much before the next caller has it.
    pub fn needs(&mut self, cleanup: Cleanup) {
        self.cleanup = self.cleanup.max(cleanup);
    }

    /// Takes the session out of the lease, for a lane; it still has its place in the pool.
    pub(super) fn into_object(mut self) -> Object<SessionManager> {
        self.object.take().expect("a lease has its session until it is dropped")
    }

    /// What cancels the session's statement, to be had before the session is busy.
    pub fn canceller(&self) -> Canceller {
        let session = self.session();
        Canceller {
            database: Arc::clone(&self.database),
            token: session.client.cancel_token(),
            observed: Arc::clone(&session.observed),
        }
    }
}

/// Cancels one session's statement.
pub struct Canceller {
    database: Arc<Database>,
    token: CancelToken,
    observed: Arc<Observed>,
}

impl Canceller {
    /// Cancels what the session runs, and returns once the server has sent its signal. Where it fails, or is dropped halfway, the
    /// signal may still come and would hit the next caller: the session is closed.
    pub async fn cancel(&self) -> Result<(), CancelError> {
        self.observed.cancel_begins();
        self.database.connector.cancel(&self.token).await?;
        self.observed.cancel_is_over();
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        let session: &Session = &object;
        if session.observed.take_setting_changed() {
            self.cleanup = self.cleanup.max(Cleanup::Reset);
        }
        if session.observed.is_cancelling() {
            self.cleanup = Cleanup::Discard;
        }
        if !self.tainted && self.cleanup == Cleanup::Nothing && session.is_reusable() {
            return; // Dropping the object checks it in.
        }
        if session.channel.is_dead() {
            discard(object, &self.database, CloseReason::BackendClosed);
            return;
        }
        let (tainted, cleanup, database) = (self.tainted, self.cleanup, Arc::clone(&self.database));
        // Without a runtime the process is ending and the connection ends with it.
        let Ok(handle) = Handle::try_current() else { return };
        self.database.cleaning.spawn_on(make_clean(object, database, tainted, cleanup), &handle);
    }
}

async fn make_clean(mut object: Object<SessionManager>, database: Arc<Database>, tainted: bool, cleanup: Cleanup) {
    let clean = if tainted {
        reset::recover(&mut object, &database.connector).await && cleanup != Cleanup::Discard
    } else {
        reset::reset(&mut object, cleanup).await
    };
    if !clean {
        discard(object, &database, if tainted { CloseReason::Tainted } else { CloseReason::NotClean });
    }
}

fn discard(object: Object<SessionManager>, database: &Database, reason: CloseReason) {
    tracing::debug!(backend.name = %database.name(), reason = reason.as_str(), "closing a connection to `{}`", database.name());
    database.metrics().closed(reason);
    drop(Object::take(object));
}
