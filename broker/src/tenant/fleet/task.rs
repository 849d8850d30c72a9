//! The task that fetches leases: a round some twenty times a second while a limit is in use, else a heartbeat a second.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::script::{Ask, Script, Told, read};
use super::{Fleet, Leased, Moment};
use crate::base::Deadline;
use crate::encode::resp::Args;
use crate::tenant::quota::unix_now;

/// Between two rounds, and up to a half more: brokers that ask in step would always be served in the same order.
const ROUND: Duration = Duration::from_millis(40);
/// A limit that comes into use is not kept waiting for the next round, but rounds are never closer than this.
const CLOSEST: Duration = Duration::from_millis(5);
/// What Redis may take to answer. Nobody waits for it but this task.
const PATIENCE: Duration = Duration::from_millis(100);
/// A script that Redis comes to later does nothing.
const LATEST: Duration = Duration::from_millis(150);
/// A heartbeat so often,
const BEAT: Duration = Duration::from_secs(1);
/// and a broker that is silent for so long counts no more.
const ALIVE: Duration = Duration::from_secs(3);
/// While Redis is away it is tried so often.
const RETRY: Duration = Duration::from_millis(250);
/// Scripts in one write. Redis runs nothing else between them.
const AT_ONCE: usize = 200;
/// An answer is four numbers.
const MOST_BYTES: usize = 1 << 20;

/// Why a round came to nothing.
enum Away {
    /// Redis cannot be had, or not in time, or does not do what it is asked.
    Failed(String),
    /// It came to the scripts too late, or its clock was set.
    Late,
}

/// What is known of Redis.
#[derive(Default)]
struct Link {
    /// Redis' clock over ours. Unit: microseconds.
    offset: Option<i64>,
    /// The scripts' hashes there, by their numbers.
    hashes: Vec<String>,
    next_beat: Option<Instant>,
    /// It answers.
    is_up: bool,
    retry: Option<Instant>,
    /// That it does not was said.
    is_told: bool,
    start: Option<Instant>,
}

/// Runs until the fleet is gone, or left.
pub(super) async fn run(fleet: Weak<Fleet>, wake: Arc<Notify>, ending: CancellationToken) {
    let mut link = Link::default();
    let mut awake: Vec<Arc<dyn Leased>> = Vec::new();
    loop {
        let Some(fleet) = fleet.upgrade() else { return };
        awake.append(&mut fleet.woken.lock().unwrap_or_else(PoisonError::into_inner));
        let is_ending = ending.is_cancelled();
        link.round(&fleet, &mut awake, is_ending).await;
        drop(fleet);
        if is_ending {
            return;
        }
        let next = link.next_beat.filter(|_| link.is_up).unwrap_or_else(|| Instant::now() + RETRY);
        tokio::select! {
            () = ending.cancelled() => continue,
            () = sleep(ROUND.mul_f64(1.0 + rand::random::<f64>() / 2.0)), if !awake.is_empty() => {}
            () = sleep_until(next), if awake.is_empty() => {}
            () = wake.notified() => {}
        }
        sleep(CLOSEST).await;
    }
}

impl Link {
    async fn round(&mut self, fleet: &Fleet, awake: &mut Vec<Arc<dyn Leased>>, ending: bool) {
        let me: Arc<str> = fleet.me.as_str().into();
        let moment = |fleet: &Fleet| Moment {
            now: Instant::now(),
            unix: unix_now(),
            live: fleet.live(),
            me: Arc::clone(&me),
            ending,
        };
        let now = Instant::now();
        let tries = self.is_up || ending || self.retry.is_none_or(|retry| now >= retry);
        let exchanged = if tries { self.exchange(fleet, awake, &moment(fleet)).await } else { Ok(false) };
        match exchanged {
            Ok(true) if !self.is_up => {
                (self.is_up, self.is_told) = (true, false);
                tracing::info!(backend.name = %fleet.cache.name(), brokers = fleet.live(), "limits are shared through `{}`", fleet.cache.name());
            }
            Ok(_) => {}
            Err(away) => self.lost(fleet, away),
        }
        if !self.is_up {
            let moment = moment(fleet);
            for limit in awake.iter() {
                limit.alone(&moment);
            }
        }
        let moment = moment(fleet);
        awake.retain(|limit| !limit.rests(&moment));
        fleet.metrics.awake.set(i64::try_from(awake.len()).unwrap_or(i64::MAX));
        fleet.metrics.brokers.set(fleet.live().into());
        fleet.metrics.reachable.set(self.is_up.into());
    }

    fn lost(&mut self, fleet: &Fleet, away: Away) {
        self.retry = Some(Instant::now() + RETRY);
        self.is_up = false;
        let why = match away {
            // It is there: the clock is read anew at once.
            Away::Late => {
                (self.offset, self.retry) = (None, None);
                "it was too slow, or its clock was set".to_owned()
            }
            Away::Failed(why) => why,
        };
        let (backend, part) = (fleet.cache.name(), fleet.live());
        if std::mem::replace(&mut self.is_told, true) {
            tracing::debug!(backend.name = %backend, error = %why, "limits are not shared yet");
        } else {
            tracing::warn!(backend.name = %backend, brokers = part, error = %why, "limits are not shared while Redis is away; each of {part} broker(s) keeps to its part");
        }
    }

    /// The heartbeat, if it is due, and what the limits ask. `false`: there was nothing to do.
    async fn exchange(&mut self, fleet: &Fleet, awake: &[Arc<dyn Leased>], moment: &Moment) -> Result<bool, Away> {
        if !self.is_up || self.offset.is_none() || self.next_beat.is_none_or(|next| moment.now >= next) {
            self.beat(fleet, moment).await?;
        }
        let moment = &Moment { live: fleet.live(), me: Arc::clone(&moment.me), ..*moment };
        let asks: Vec<(usize, Ask)> =
            awake.iter().enumerate().filter_map(|(index, limit)| Some((index, limit.ask(moment)?))).collect();
        for asks in asks.chunks(AT_ONCE) {
            let answers = self.call(fleet, asks.iter().map(|(_, ask)| ask)).await?;
            for ((index, _), answer) in asks.iter().zip(answers) {
                awake[*index].answered(moment, answer);
            }
        }
        if moment.ending && self.is_up {
            let leave = Ask { script: Script::Leave, key: fleet.brokers_key(), args: vec![moment.me.to_string()] };
            self.call(fleet, std::iter::once(&leave)).await?;
        }
        Ok(true)
    }

    async fn beat(&mut self, fleet: &Fleet, moment: &Moment) -> Result<(), Away> {
        if self.hashes.is_empty() {
            self.load(fleet).await?;
        }
        let args = vec![moment.me.to_string(), ALIVE.as_micros().to_string()];
        let beat = Ask { script: Script::Beat, key: fleet.brokers_key(), args };
        let [live, _] = self.call(fleet, std::iter::once(&beat)).await?.first().copied().unwrap_or_default();
        let live = u32::try_from(live).unwrap_or(1).max(1);
        if fleet.live.swap(live, Ordering::AcqRel) != live {
            tracing::info!(brokers = live, "{live} broker(s) share limits");
        }
        self.next_beat = Some(Instant::now() + BEAT);
        Ok(())
    }

    async fn load(&mut self, fleet: &Fleet) -> Result<(), Away> {
        let texts = Script::ALL.map(Script::text);
        let load = |text: &'_ str| -> Args<'static> {
            [b"SCRIPT".to_vec(), b"LOAD".to_vec(), text.as_bytes().to_vec()].map(std::borrow::Cow::Owned).to_vec()
        };
        let commands: Vec<_> = texts.iter().map(|text| load(text)).collect();
        let told = send(fleet, &commands).await?;
        let hashes: Vec<String> =
            told.into_iter().filter_map(|told| if let Told::Text(hash) = told { Some(hash) } else { None }).collect();
        if hashes.len() != Script::ALL.len() {
            return Err(Away::Failed("it does not take scripts".to_owned()));
        }
        self.hashes = hashes;
        Ok(())
    }

    /// Runs scripts, and learns Redis' clock from their answers.
    async fn call<'a>(&mut self, fleet: &Fleet, asks: impl Iterator<Item = &'a Ask>) -> Result<Vec<[i64; 2]>, Away> {
        let start = *self.start.get_or_insert_with(Instant::now);
        let micros = |at: Instant| i64::try_from((at - start).as_micros()).unwrap_or(i64::MAX);
        let latest = self.offset.map_or(i64::MAX, |offset| offset + micros(Instant::now() + LATEST));
        let commands: Vec<_> = asks.map(|ask| ask.command(&self.hashes[ask.script as usize], latest)).collect();
        let told = send(fleet, &commands).await?;
        let count = u64::try_from(commands.len()).unwrap_or(u64::MAX);
        let mut answers = Vec::with_capacity(told.len());
        for told in told {
            match told {
                Told::Numbers([1, now, a, b]) => {
                    self.offset = Some(now - micros(Instant::now()));
                    answers.push([a, b]);
                }
                Told::Numbers(_) => {
                    fleet.metrics.asked("late", count);
                    return Err(Away::Late);
                }
                Told::Refused(why) => {
                    // It was restarted, or is another one.
                    self.hashes.clear();
                    fleet.metrics.asked("failed", count);
                    return Err(if why.starts_with("NOSCRIPT") { Away::Late } else { Away::Failed(why) });
                }
                Told::Text(_) => return Err(Away::Failed("it answers something else".to_owned())),
            }
        }
        fleet.metrics.asked("ok", count);
        Ok(answers)
    }
}

async fn send(fleet: &Fleet, commands: &[Args<'_>]) -> Result<Vec<Told>, Away> {
    let sent = fleet.cache.run_all(commands, MOST_BYTES, Deadline::after(PATIENCE)).await;
    let told =
        sent.map_err(|error| error.to_string()).and_then(|replies| read(replies).map_err(|error| error.to_string()));
    let told = told.inspect_err(|_| fleet.metrics.asked("failed", commands.len() as u64)).map_err(Away::Failed)?;
    if told.len() == commands.len() { Ok(told) } else { Err(Away::Failed("it answers too little".to_owned())) }
}

impl Fleet {
    fn brokers_key(&self) -> String {
        format!("hearth:fleet:{}:brokers", self.config.name)
    }
}
