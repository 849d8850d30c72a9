//! Stands before every secret: who has failed too often lately is refused without a look at what they send.
//!
//! Three counts, each over a window and each ending in a block of the same length:
//! - of one credential from one address: that pair is refused. Nobody else is.
//! - of one address, whatever was tried: all from there are refused, but for credentials that were good from there within the
//!   last hour. A thousand functions leave through one address, and one of them is wrong.
//! - of one key from everywhere: addresses that never had it right share one try a second. Those that had it go on.
//!
//! Memory is bounded: a full shard forgets first what is over, then who failed least.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::error::{AuthError, RefusedBy};
use crate::config::BreakerConfig;

/// Shards of the counts, so that those who fail at one time seldom wait for each other.
const SHARDS: usize = 16;
/// Counts of one shard: 16,384 in all, about 1 MiB.
const SHARD_COUNTS: usize = 1024;
/// Places for what was good lately. Two in one place forget each other: they are then strangers, and no more than that.
const GOOD: usize = 4096;
/// So long a credential that was good from an address is known there. Unit: milliseconds.
const KNOWN_MS: u64 = 3_600_000;
/// A use is noted again after so long. Unit: milliseconds.
const NOTED_MS: u64 = 60_000;
/// Between two tries that strangers have with a key that is being guessed. Unit: milliseconds.
const STRANGERS_MS: u64 = 1000;

/// Where a caller is: an IPv4 address, or the /64 of an IPv6 one, which is what one line or one machine is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Net(u64);

impl From<IpAddr> for Net {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(u64::from(v4.to_bits())),
            IpAddr::V6(v6) => Self((v6.to_bits() >> 64) as u64),
        }
    }
}

/// What is tried: a key's id, or a token's issuer and subject. Made by the [`Breaker`] that it is shown to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Credential {
    hash: u64,
    /// It is in the configuration, so that it can be guessed from everywhere.
    is_key: bool,
}

/// One count.
#[derive(Debug, Clone, Copy)]
struct Count {
    /// When its window began. Unit: milliseconds since the breaker was made, as all times here.
    began: u64,
    failures: u32,
    blocked_until: u64,
    /// When strangers may try again.
    next_try: u64,
}

/// The counts. They outlive reloads.
pub struct Breaker {
    made: Instant,
    counts: [Mutex<HashMap<u64, Count>>; SHARDS],
    /// Address and credential that were good lately: half a hash, and when.
    good: Box<[AtomicU64]>,
    /// When the last block ends: until the first there is nothing to look up.
    armed_until: AtomicU64,
    /// In another breaker nobody can find two that meet.
    hasher: RandomState,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            made: Instant::now(),
            counts: std::array::from_fn(|_| Mutex::default()),
            good: (0..GOOD).map(|_| AtomicU64::new(0)).collect(),
            armed_until: AtomicU64::new(0),
            hasher: RandomState::new(),
        }
    }
}

impl Breaker {
    /// A key in the configuration, by its id.
    pub fn key(&self, id: &str) -> Credential {
        Credential { hash: self.hashed(&("key", id)), is_key: true }
    }

    /// A token of an issuer, by its subject.
    pub fn token(&self, issuer: &str, subject: &str) -> Credential {
        Credential { hash: self.hashed(&("token", issuer, subject)), is_key: false }
    }

    /// The admin interface's key.
    pub fn admin(&self) -> Credential {
        Credential { hash: self.hashed(&"admin"), is_key: false }
    }

    /// Errors: too many failures; what is sent must not be looked at. `credential` is what it claims to be, if that is known.
    pub fn admit(&self, net: Net, credential: Option<Credential>, now: Instant) -> Result<(), AuthError> {
        let now = self.millis(now);
        if self.armed_until.load(Ordering::Relaxed) <= now {
            return Ok(());
        }
        let refused = |by, until: u64| {
            Err(AuthError::TooManyFailures { by, retry_after: Duration::from_millis(until.saturating_sub(now)) })
        };
        let Some(credential) = credential else {
            return self.blocked(self.address(net), now).map_or(Ok(()), |until| refused(RefusedBy::Address, until));
        };
        if let Some(until) = self.blocked(self.pair(net, credential), now) {
            return refused(RefusedBy::Credential, until);
        }
        if self.is_known(net, credential, now) {
            return Ok(());
        }
        if let Some(until) = self.blocked(self.address(net), now) {
            return refused(RefusedBy::Address, until);
        }
        if let Some(until) = credential.is_key.then(|| self.stranger_waits(credential, now)).flatten() {
            return refused(RefusedBy::Key, until);
        }
        Ok(())
    }

    /// A credential was wrong. True where this began a block.
    pub fn failed(&self, net: Net, credential: Option<Credential>, limits: &BreakerConfig, now: Instant) -> bool {
        if limits.failures == 0 {
            return false;
        }
        let now = self.millis(now);
        let mut blocks = self.count(self.address(net), limits.address_failures, limits, now);
        if let Some(credential) = credential {
            blocks |= self.count(self.pair(net, credential), limits.failures, limits, now);
            if credential.is_key {
                blocks |= self.count(self.everywhere(credential), limits.key_failures, limits, now);
            }
        }
        blocks
    }

    /// A credential was good.
    pub fn succeeded(&self, net: Net, credential: Credential, now: Instant) {
        let now = self.millis(now);
        let (place, tag) = self.place(net, credential);
        let noted = place.load(Ordering::Relaxed);
        // Half a hash and 32 bits of time in units of 64 ms: 8 years.
        if noted & TAG_BITS != tag || now.saturating_sub(noted_at(noted)) > NOTED_MS {
            place.store(tag | (now >> TIME_SHIFT).saturating_add(1), Ordering::Relaxed);
        }
    }

    fn is_known(&self, net: Net, credential: Credential, now: u64) -> bool {
        let (place, tag) = self.place(net, credential);
        let noted = place.load(Ordering::Relaxed);
        noted & !TAG_BITS != 0 && noted & TAG_BITS == tag && now.saturating_sub(noted_at(noted)) < KNOWN_MS
    }

    fn place(&self, net: Net, credential: Credential) -> (&AtomicU64, u64) {
        let hash = self.pair(net, credential);
        let index = usize::try_from(hash % GOOD as u64).unwrap_or_default();
        (&self.good[index], hash & TAG_BITS)
    }

    fn blocked(&self, id: u64, now: u64) -> Option<u64> {
        self.shard(id).get(&id).map(|count| count.blocked_until).filter(|until| *until > now)
    }

    /// While a key is being guessed from everywhere, those who never had it right wait for their turn.
    fn stranger_waits(&self, credential: Credential, now: u64) -> Option<u64> {
        let id = self.everywhere(credential);
        let mut shard = self.shard(id);
        let count = shard.get_mut(&id).filter(|count| count.blocked_until > now)?;
        if count.next_try > now {
            return Some(count.next_try);
        }
        count.next_try = now + STRANGERS_MS;
        None
    }

    /// True where it begins a block.
    fn count(&self, id: u64, most: u32, limits: &BreakerConfig, now: u64) -> bool {
        let (window, block) = (millis(limits.window), millis(limits.block));
        let mut shard = self.shard(id);
        if shard.len() >= SHARD_COUNTS && !shard.contains_key(&id) {
            make_room(&mut shard, now, window);
        }
        let count = shard.entry(id).or_insert(Count { began: now, failures: 0, blocked_until: 0, next_try: 0 });
        if now.saturating_sub(count.began) >= window {
            (count.began, count.failures) = (now, 0);
        }
        count.failures = count.failures.saturating_add(1);
        if count.failures < most || count.blocked_until > now {
            return false;
        }
        count.failures = 0;
        count.blocked_until = now + block;
        self.armed_until.fetch_max(count.blocked_until, Ordering::Relaxed);
        true
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, HashMap<u64, Count>> {
        let index = usize::try_from(id >> 60).unwrap_or_default() % SHARDS;
        self.counts[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn address(&self, net: Net) -> u64 {
        self.hashed(&("address", net))
    }

    fn pair(&self, net: Net, credential: Credential) -> u64 {
        self.hashed(&(net, credential))
    }

    fn everywhere(&self, credential: Credential) -> u64 {
        self.hashed(&("everywhere", credential))
    }

    fn hashed(&self, value: &impl Hash) -> u64 {
        self.hasher.hash_one(value)
    }

    fn millis(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.made))
    }
}

const TIME_SHIFT: u32 = 6;
const TAG_BITS: u64 = 0xffff_ffff_0000_0000;

fn noted_at(noted: u64) -> u64 {
    (noted & !TAG_BITS).saturating_sub(1) << TIME_SHIFT
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What is over goes; and where that is little, a quarter of the rest: who failed least, and nobody who is blocked before others.
fn make_room(counts: &mut HashMap<u64, Count>, now: u64, window: u64) {
    counts.retain(|_, count| count.blocked_until > now || now.saturating_sub(count.began) < window);
    if counts.len() <= SHARD_COUNTS * 3 / 4 {
        return;
    }
    let weight = |count: &Count| (count.blocked_until > now, count.failures, count.began);
    let mut weights: Vec<_> = counts.iter().map(|(id, count)| (weight(count), *id)).collect();
    let quarter = weights.len() / 4;
    weights.select_nth_unstable(quarter);
    for (_, id) in &weights[..quarter] {
        counts.remove(id);
    }
}

#[cfg(test)]
mod tests;
