//! Following the control database: all tenants at the start, then each change within a second, for as long as the broker lives.
//! While the database is away the broker goes on with what it knows. Over the same session it tells which keys were used (`uses`).

mod uses;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, sleep_until, timeout};

use self::uses::Diary;
use super::{Broker, Live};
use crate::base::chain;
use crate::control::{Control, ControlError, Memory, Reader, Snapshot};
use crate::pool::backoff::Backoff;

/// The longest pause between two tries: whoever brings the database back does not wait long for the broker.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Without a control database: how often a reload is looked for that has brought one.
const LOOK: Duration = Duration::from_millis(500);
/// So many changes are taken over on the spot; more would hold up what else runs on this thread.
const FEW: usize = 64;
/// How long the end of the broker waits for the last uses to be written: a database that has gone silent is not waited for.
const LAST: Duration = Duration::from_secs(2);

/// How following one control database ended.
enum Ended {
    /// A reload has brought another one, or taken it away.
    Replaced,
    /// The broker ends.
    Closed,
}

impl Live {
    /// Reads the tenants of the control database, if there is one, and follows its changes from then on. Errors: it cannot be read
    /// and is `required`.
    pub async fn follow_control(&self) -> Result<(), ControlError> {
        let mut memory = Memory::default();
        let control = self.now().control.clone();
        let mut reader = None;
        if let Some(control) = &control {
            match self.first(control, &mut memory).await {
                Ok(read) => reader = Some(read),
                Err(error) if control.config.required => return Err(error),
                Err(error) => self.lost(&error, &memory),
            }
        }
        let live = self.clone();
        self.0.closing.spawn(async move {
            let patience = async {
                live.0.ending.cancelled().await;
                sleep(LAST).await;
            };
            tokio::select! {
                () = live.clone().follow(memory, reader.zip(control)) => {}
                () = patience => {}
            }
        });
        Ok(())
    }

    /// True once the change of this number is in force here, or `patience` is over before.
    pub async fn has_applied(&self, seq: i64, patience: Duration) -> bool {
        let mut applied = self.0.applied.subscribe();
        matches!(timeout(patience, applied.wait_for(|now| *now >= seq)).await, Ok(Ok(_)))
    }

    /// The number of the last change in force here.
    pub fn applied_seq(&self) -> i64 {
        *self.0.applied.borrow()
    }

    async fn first(&self, control: &Control, memory: &mut Memory) -> Result<Reader, ControlError> {
        let mut reader = control.reader().await?;
        // Before the first look: what changes after it is told.
        reader.listen().await?;
        self.look(&mut reader, memory).await?;
        Ok(reader)
    }

    async fn follow(self, mut memory: Memory, mut begun: Option<(Reader, Arc<Control>)>) {
        let (mut backoff, mut diary) = (Backoff::new(), Diary::new());
        loop {
            let Some(control) = self.now().control.clone() else {
                self.now().metrics.control.gone();
                memory = Memory::default();
                if self.rests(LOOK).await {
                    continue;
                }
                return;
            };
            let reader = begun.take().filter(|(_, of)| Arc::ptr_eq(of, &control)).map(|(reader, _)| reader);
            match self.follow_one(&control, reader, &mut memory, &mut backoff, &mut diary).await {
                Ok(Ended::Closed) => return,
                // Another database, another numbering: all is read. What is in force stays so until then.
                Ok(Ended::Replaced) => memory = Memory::default(),
                Err(error) => {
                    self.lost(&error, &memory);
                    if !self.rests(backoff.pause(rand::random()).min(LONGEST_PAUSE)).await {
                        return;
                    }
                }
            }
        }
    }

    async fn follow_one(
        &self,
        control: &Arc<Control>,
        reader: Option<Reader>,
        memory: &mut Memory,
        backoff: &mut Backoff,
        diary: &mut Diary,
    ) -> Result<Ended, ControlError> {
        let mut reader = match reader {
            Some(reader) => reader,
            None => self.first(control, memory).await?,
        };
        loop {
            backoff.reset();
            tokio::select! {
                () = reader.told() => {}
                () = sleep(control.config.poll_interval) => {}
                () = sleep_until(diary.due()) => {}
                () = self.0.ending.cancelled() => {
                    self.write_last_uses(&mut reader, diary).await;
                    return Ok(Ended::Closed);
                }
            }
            if !self.now().control.as_ref().is_some_and(|now| Arc::ptr_eq(now, control)) {
                return Ok(Ended::Replaced);
            }
            // First: a key that was revoked must not wait for what others have used.
            self.look(&mut reader, memory).await?;
            self.write_uses(&mut reader, diary).await?;
        }
    }

    /// Takes over what has changed.
    async fn look(&self, reader: &mut Reader, memory: &mut Memory) -> Result<(), ControlError> {
        if let Some(snapshot) = reader.look(memory).await? {
            let revision = snapshot.revision.clone();
            self.take_over(snapshot).await;
            self.0.applied.send_replace(revision.seq);
            memory.took(revision);
        }
        self.now().metrics.control.up();
        Ok(())
    }

    async fn take_over(&self, snapshot: Snapshot) {
        // Not beside a reload: the next broker would begin with tenants of before the change.
        let _turn = self.0.turn.lock().await;
        let broker = self.now();
        let (seq, count, whole) = (snapshot.revision.seq, snapshot.changes.len(), snapshot.is_whole);
        if count <= FEW {
            broker.directory.apply(snapshot, &broker);
        } else {
            let broker = Arc::clone(&broker);
            let applied = tokio::task::spawn_blocking(move || broker.directory.apply(snapshot, &broker));
            if applied.await.is_err() {
                tracing::error!("a bug in the broker ended the taking over of stored tenants");
            }
        }
        told(&broker, seq, count, whole);
    }

    /// Says once for each outage that there is one.
    fn lost(&self, error: &ControlError, memory: &Memory) {
        let metrics = &self.now().metrics.control;
        let then =
            if memory.is_loaded() { "what is known stays in force" } else { "the file's tenants alone are in force" };
        if metrics.failed() {
            tracing::error!(error = %chain(error), "the control database cannot be read, {then}: {}", chain(error));
        }
    }

    /// False: the broker ends.
    async fn rests(&self, pause: Duration) -> bool {
        tokio::select! {
            () = sleep(pause) => true,
            () = self.0.ending.cancelled() => false,
        }
    }
}

fn told(broker: &Broker, seq: i64, count: usize, whole: bool) {
    let counts = broker.directory.counts();
    broker.metrics.control.applied(seq, count, counts);
    let (tenants, keys) = (counts.tenants, counts.keys);
    if whole {
        tracing::info!(seq, tenants, keys, "the control database was read: {tenants} tenant(s), {keys} key(s)");
    } else {
        tracing::info!(seq, changes = count, "{count} stored tenant(s) changed");
    }
}
