//! Whose turn it is: deficit round robin between tenants, first come first served within one, or nearly. No I/O, and the clock is the caller's.
//!
//! A tenant's *credit* is database time. Each round gives every tenant its weight's part of a quantum, and a turn takes what the
//! session's use will cost: what the tenant's statements usually take, put right when the session comes back. Whoever is in debt
//! lets the others go first until the rounds have paid it, also with nobody waiting meanwhile. A tenant that comes out of debt and
//! asks now and then goes before those who always wait, for one quantum. Sources: Shreedhar and Varghese, "Efficient Fair Queuing
//! using Deficit Round Robin"; RFC 8290 section 4.2 (new and old queues, credit that may be overdrawn).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::account::Account;
use super::flow::{Expected, Flow, Waiting, nanos};
use crate::base::TenantId;
use crate::base::worker::Worker;

/// Debts are forgotten when nobody has waited for so long.
const FORGIVEN: Duration = Duration::from_secs(1);

/// Those who wait, by tenant.
pub struct Turns<W> {
    flows: HashMap<TenantId, Flow<W>>,
    /// Tenants that were out of debt when they came; each is in one of the two lists, or in none while nothing is to be said of it.
    fresh: VecDeque<TenantId>,
    round: VecDeque<TenantId>,
    len: usize,
    /// What those who wait will cost. Unit: nanoseconds.
    work: i64,
    /// The weights of all tenants of whom somebody waits.
    wanted: u64,
    heaviest: u32,
    last_id: u64,
    /// Counts the times in which somebody waited; credit is of one of them.
    period: u32,
    /// When the present one began; `None` while debts are forgotten.
    since: Option<Instant>,
    /// Since when nobody waits.
    empty_since: Option<Instant>,
    /// How long a session is usually held, by anybody.
    usually: Option<Duration>,
}

/// What a tenant was charged for a session.
#[derive(Debug)]
pub struct Charge {
    account: Arc<Account>,
    period: u32,
    nanos: i64,
}

/// Who waits, until when, and where.
pub struct Place<W> {
    pub waiter: W,
    pub deadline: Instant,
    pub near: Option<Worker>,
}

impl<W> Place<W> {
    fn taken(self, id: u64, expected: Option<Duration>, since: Instant) -> Waiting<W> {
        let Self { waiter, deadline, near } = self;
        Waiting { id, deadline, since, expected, cost: 0, near, passed: 0, waiter }
    }
}

impl Charge {
    /// Nobody was in the way when it was lent: nothing, yet.
    pub fn none(account: &Arc<Account>) -> Self {
        Self { account: Arc::clone(account), period: 0, nanos: 0 }
    }
}

impl<W> Turns<W> {
    /// Nobody waits.
    pub fn new() -> Self {
        Self {
            flows: HashMap::new(),
            fresh: VecDeque::new(),
            round: VecDeque::new(),
            len: 0,
            work: 0,
            wanted: 0,
            heaviest: 1,
            last_id: 0,
            period: 0,
            since: None,
            empty_since: None,
            usually: None,
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many of one tenant wait.
    pub fn of(&self, account: &Account) -> usize {
        self.flows.get(account.tenant()).map_or(0, |flow| flow.waiting.len())
    }

    /// How many wait, by tenant.
    pub fn lengths(&self) -> Vec<(TenantId, usize)> {
        let waits = self.flows.iter().filter(|(_, flow)| !flow.waiting.is_empty());
        waits.map(|(tenant, flow)| (tenant.clone(), flow.waiting.len())).collect()
    }

    /// How long a session is usually held by anybody, for those of whom nothing is known.
    pub fn note_usual(&mut self, usually: Option<Duration>) {
        self.usually = usually;
    }

    /// One more waits at this place, behind the tenant's others, as long as is expected of it. The answer is its number.
    pub fn join(&mut self, account: &Arc<Account>, place: Place<W>, expected: Option<Expected>, now: Instant) -> u64 {
        self.last_id += 1;
        self.put(account, place.taken(self.last_id, expected.map(|expected| expected.plain), now), now);
        self.last_id
    }

    /// The same under a number it had before: ahead of all who came later.
    pub fn join_again(&mut self, id: u64, account: &Arc<Account>, place: Place<W>, now: Instant) {
        self.put(account, place.taken(id, None, now), now);
    }

    fn put(&mut self, account: &Arc<Account>, mut waiting: Waiting<W>, now: Instant) {
        if self.since.is_none() {
            (self.since, self.period) = (Some(now), self.period.wrapping_add(1).max(1));
        }
        self.empty_since = None;
        let flow = self.flows.entry(account.tenant().clone()).or_insert_with(|| Flow::new(account));
        let (before, weight) = (flow.weight, account.weight());
        self.heaviest = self.heaviest.max(weight);
        self.wanted += u64::from(weight);
        self.wanted -= if flow.waiting.is_empty() { 0 } else { u64::from(before) };
        flow.weight = weight;
        waiting.cost = flow.takes(self.usually, now).map_or(0, nanos);
        self.len += 1;
        self.work += waiting.cost;
        flow.work += waiting.cost;
        let at = flow.waiting.partition_point(|other| other.id < waiting.id);
        flow.waiting.insert(at, waiting);
        if !std::mem::replace(&mut flow.is_listed, true) {
            flow.credit = flow.quantum(self.heaviest);
            self.fresh.push_back(account.tenant().clone());
        }
    }

    /// One that waits leaves. False: it does not wait any more.
    pub fn leave(&mut self, account: &Account, id: u64, now: Instant) -> bool {
        let Some(flow) = self.flows.get_mut(account.tenant()) else { return false };
        let Ok(at) = flow.waiting.binary_search_by_key(&id, |waiting| waiting.id) else { return false };
        let gone = flow.waiting.remove(at);
        self.took(account.tenant(), gone.map_or(0, |gone| gone.cost), now);
        true
    }

    /// Whoever's turn it is, charged for it, where a session is `here`. Those whose deadline has passed get none; they are told
    /// through `expired`.
    pub fn next(&mut self, here: Option<Worker>, now: Instant, mut expired: impl FnMut(W)) -> Option<(W, Charge)> {
        let mut in_vain = 0;
        while self.len > 0 {
            if in_vain > self.fresh.len() + self.round.len() {
                self.skip_rounds();
                in_vain = 0;
            }
            in_vain += 1;
            let is_fresh = !self.fresh.is_empty();
            let list = if is_fresh { &self.fresh } else { &self.round };
            let tenant = list.front()?.clone();
            let flow = self.flows.get_mut(&tenant)?;
            if flow.credit <= 0 {
                flow.credit += flow.quantum(self.heaviest);
                self.send_back(is_fresh);
                continue;
            }
            let Some(first) = flow.pop(here) else {
                // It may not come back as a fresh one before a whole round has gone by.
                if is_fresh && !self.round.is_empty() {
                    self.send_back(is_fresh);
                } else {
                    flow.is_listed = false;
                    if is_fresh {
                        self.fresh.pop_front()
                    } else {
                        self.round.pop_front()
                    };
                }
                continue;
            };
            flow.note_wait(first.expected, now - first.since);
            let is_late = first.deadline <= now;
            let charge = if is_late { 0 } else { flow.charge(self.heaviest, self.usually, now) };
            flow.credit -= charge;
            let charge = Charge { account: Arc::clone(&flow.account), period: self.period, nanos: charge };
            self.took(&tenant, first.cost, now);
            if is_late {
                expired(first.waiter);
                in_vain = 0;
            } else {
                return Some((first.waiter, charge));
            }
        }
        None
    }

    /// The session came back after so long. What it has cost beyond what was charged is owed; what was charged too much is given
    /// back. Of one that was lent before anybody waited, the time since then counts.
    pub fn settle(&mut self, charge: &Charge, held: Duration, now: Instant) {
        let Some(since) = self.since else { return };
        let is_ours = charge.period == self.period;
        let counted = if is_ours { held } else { held.min(now.saturating_duration_since(since)) };
        self.owes(charge, nanos(counted) - if is_ours { charge.nanos } else { 0 }).usual.note(held, now);
    }

    /// The turn came to nothing.
    pub fn refund(&mut self, charge: &Charge) {
        if charge.period == self.period && self.since.is_some() {
            self.owes(charge, -charge.nanos);
        }
    }

    fn owes(&mut self, charge: &Charge, more: i64) -> &mut Flow<W> {
        let Charge { account, .. } = charge;
        let flow = self.flows.entry(account.tenant().clone()).or_insert_with(|| Flow::new(account));
        self.heaviest = self.heaviest.max(flow.weight);
        flow.credit = (flow.credit - more).clamp(-flow.most_debt(self.heaviest), flow.quantum(self.heaviest));
        if flow.credit <= 0 && !flow.is_listed {
            flow.is_listed = true;
            self.round.push_back(account.tenant().clone());
        } else if !flow.is_listed {
            flow.credit = 0;
        }
        flow
    }

    /// Takes the newest of the longest queue out, if that is longer than this tenant's would be with one more, by weight.
    pub fn push_out(&mut self, account: &Account, now: Instant) -> Option<W> {
        let own = (self.of(account) as u64 + 1) * 1_000 / u64::from(account.weight());
        let long = |flow: &Flow<W>| flow.waiting.len() as u64 * 1_000 / u64::from(flow.weight);
        let (tenant, flow) = self.flows.iter_mut().max_by_key(|(_, flow)| long(flow))?;
        if long(flow) <= own {
            return None;
        }
        let tenant = tenant.clone();
        let gone = flow.waiting.pop_back()?;
        self.took(&tenant, gone.cost, now);
        Some(gone.waiter)
    }

    /// How long one more of this tenant would take about, where so many sessions serve. `None` where too little is known, and for
    /// the first of its queue: it is by those who are let in that the estimate is kept true.
    pub fn expected(&self, account: &Account, serving: usize, now: Instant) -> Option<Expected> {
        let flow = self.flows.get(account.tenant()).filter(|flow| flow.work > 0)?;
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let share = f64::from(flow.weight) / self.wanted.max(1) as f64;
        let takes = flow.takes(self.usually, now).unwrap_or_default();
        Some(flow.expected(share, self.work, serving, takes))
    }

    /// Forgets debts once nobody has waited for a while, and whoever has used nothing lately. True: there are no debts.
    pub fn forgive(&mut self, now: Instant) -> bool {
        if self.len == 0 && self.empty_since.is_none_or(|since| now.saturating_duration_since(since) >= FORGIVEN) {
            let mut flows = std::mem::take(&mut self.flows);
            flows.retain(|_, flow| flow.usual.is_fresh(now));
            for flow in flows.values_mut() {
                (flow.credit, flow.is_listed) = (0, false);
            }
            let heaviest = flows.values().map(|flow| flow.weight).max().unwrap_or(1);
            *self = Self { flows, heaviest, last_id: self.last_id, period: self.period, ..Self::new() };
        }
        self.since.is_none()
    }

    /// Everybody who waits, in no order.
    pub fn clear(&mut self, now: Instant) -> Vec<W> {
        let all = self.flows.drain().flat_map(|(_, flow)| flow.waiting).map(|waiting| waiting.waiter).collect();
        *self = Self { last_id: self.last_id, period: self.period, empty_since: Some(now), ..Self::new() };
        all
    }

    /// One of the tenant's waits no more.
    fn took(&mut self, tenant: &TenantId, cost: i64, now: Instant) {
        self.len -= 1;
        self.work -= cost;
        if let Some(flow) = self.flows.get_mut(tenant) {
            flow.work -= cost;
            if flow.waiting.is_empty() {
                self.wanted -= u64::from(flow.weight);
            }
        }
        if self.len == 0 {
            self.empty_since = Some(now);
        }
    }

    fn send_back(&mut self, from_fresh: bool) {
        let list = if from_fresh { &mut self.fresh } else { &mut self.round };
        if let Some(tenant) = list.pop_front() {
            self.round.push_back(tenant);
        }
    }

    /// Everybody is in debt: as many rounds at once as it takes until one who waits is not.
    fn skip_rounds(&mut self) {
        let heaviest = self.heaviest;
        let waits = self.flows.values().filter(|flow| !flow.waiting.is_empty());
        let rounds = waits.map(|flow| flow.rounds(heaviest)).min().unwrap_or(0);
        for flow in self.flows.values_mut().filter(|flow| flow.is_listed) {
            let quantum = flow.quantum(heaviest);
            flow.credit = (flow.credit + rounds * quantum).min(quantum);
        }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
