//! A connection lent to one caller. It is tainted while an exchange is unfinished; drop checks it in clean, or closes it.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_postgres::CancelToken;

use super::database::Database;
use super::endpoint::Endpoint;
use super::event::{CloseReason, Event, Outcome, ResetReason};
use super::journal::Facts;
use super::ledger::State;
use super::postgres::connect::CancelError;
use super::postgres::observed::Observed;
use super::postgres::{Cleanup, Session, reset};
use super::queue::{Charge, Object};
use super::registry::{Holder, Returned};
use super::route::Consistency;
use crate::base::Deadline;

/// A connection lent to one caller at a time.
pub struct Lease {
    /// `Some` until drop.
    object: Option<Object<Session>>,
    database: Arc<Database>,
    endpoint: Arc<Endpoint>,
    charge: Charge,
    since: Instant,
    tainted: bool,
    cleanup: Cleanup,
}

impl Lease {
    /// `deadline`: by when it should be over.
    pub(super) fn new(
        (mut object, charge): (Object<Session>, Charge),
        database: Arc<Database>,
        endpoint: Arc<Endpoint>,
        deadline: Deadline,
    ) -> Self {
        object.uses += 1;
        let since = Instant::now();
        object.slot.lend(since, deadline);
        Self { object: Some(object), database, endpoint, charge, since, tainted: false, cleanup: Cleanup::Nothing }
    }

    /// Notes whom it is lent to, for whoever looks for those that do not come back.
    pub fn on_account_of(&self, holder: Holder) {
        self.session().slot.lend_to(holder);
    }

    /// It is rightly held beyond the deadline that it was asked for with: a stream goes on after its first row.
    pub fn may_last_until(&self, deadline: Deadline) {
        self.session().slot.lend_until(deadline);
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

    /// The server it belongs to.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
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

    /// The moment in the database's history that `lsn` is on this server.
    pub fn consistency(&self, lsn: u64) -> Consistency {
        Consistency { timeline: self.endpoint.server.standing().timeline, lsn }
    }

    /// What cancels the session's statement, to be had before the session is busy.
    pub fn canceller(&self) -> Canceller {
        let session = self.session();
        Canceller {
            endpoint: Arc::clone(&self.endpoint),
            token: session.client.cancel_token(),
            observed: Arc::clone(&session.observed),
        }
    }
}

/// Cancels one session's statement.
pub struct Canceller {
    endpoint: Arc<Endpoint>,
    token: CancelToken,
    observed: Arc<Observed>,
}

impl Canceller {
    /// Cancels what the session runs, and returns once the server has sent its signal. Where it fails, or is dropped halfway, the
    /// signal may still come and would hit the next caller: the session is closed.
    pub async fn cancel(&self) -> Result<(), CancelError> {
        self.observed.cancel_begins();
        self.endpoint.connector.cancel(&self.token).await?;
        self.observed.cancel_is_over();
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut object) = self.object.take() else { return };
        let held = self.since.elapsed();
        // Before it is anybody's: whose turn it is may depend on it.
        self.endpoint.idle.settle(&self.charge, held);
        match object.slot.release() {
            Returned::InTime => {}
            Returned::Late(checkout) => self.endpoint.recovered(&object.slot, &checkout),
            // Told, counted and struck out already.
            Returned::Severed => return drop(Object::take(object)),
        }
        self.endpoint.service.note(held);
        self.endpoint.load.note(held);
        self.endpoint.metrics.hold.observe(held.as_secs_f64());
        let session: &Session = &object;
        if session.observed.take_setting_changed() {
            self.cleanup = self.cleanup.max(Cleanup::Reset);
        }
        if session.observed.is_cancelling() {
            self.cleanup = Cleanup::Discard;
        }
        if !self.tainted && self.cleanup == Cleanup::Nothing && session.is_reusable() {
            self.endpoint.checkin(object);
            return;
        }
        if session.channel.is_dead() {
            self.endpoint.sick();
            self.endpoint.close(object, CloseReason::BackendClosed);
            return;
        }
        object.entry.set(State::Cleaning);
        let (tainted, cleanup, endpoint) = (self.tainted, self.cleanup, Arc::clone(&self.endpoint));
        // Without a runtime the process is ending and the connection ends with it.
        let Ok(handle) = Handle::try_current() else { return drop(Object::take(object)) };
        self.endpoint.cleaning.spawn_on(make_clean(object, endpoint, tainted, cleanup), &handle);
    }
}

async fn make_clean(mut object: Object<Session>, endpoint: Arc<Endpoint>, tainted: bool, cleanup: Cleanup) {
    let clean = if tainted {
        reset::recover(&mut object, &endpoint.connector).await && cleanup != Cleanup::Discard
    } else {
        reset::reset(&mut object, cleanup).await
    };
    let reason = if tainted { ResetReason::Abandoned } else { ResetReason::Changed };
    let outcome = if clean { Outcome::Clean } else { Outcome::Failed };
    endpoint.metrics.reset(reason.as_str(), outcome.as_str());
    let facts = Facts { pid: Some(object.observed.pid()), uses: Some(object.uses), ..Facts::default() };
    endpoint.tell(Event::Reset(reason, outcome), facts);
    if clean {
        endpoint.checkin(object);
    } else {
        endpoint.close(object, if tainted { CloseReason::Tainted } else { CloseReason::NotClean });
    }
    endpoint.want();
}
