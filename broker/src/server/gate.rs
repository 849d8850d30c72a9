//! Who may connect: so many in all, so many from one address, so many a second.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::config::ServerConfig;

/// How many seconds' worth of connections may come at once after a quiet time: functions that start together.
const BURST_SECONDS: u32 = 4;
/// Below this many addresses nobody looks which of them can be forgotten.
const FEW: usize = 1024;

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub struct GateLimits {
    /// In all.
    pub total: u32,
    /// From one address.
    pub each: u32,
    /// New ones a second, from one address.
    pub per_second: u32,
}

impl From<&ServerConfig> for GateLimits {
    fn from(config: &ServerConfig) -> Self {
        Self {
            total: config.max_connections,
            each: config.max_connections_per_address,
            per_second: config.connections_per_second,
        }
    }
}

/// Why a connection is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There are as many as there may be.
    Full,
    /// This address has as many as it may have.
    Address,
    /// This address opens them too fast.
    Rate,
}

impl Refusal {
    /// As metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "max_connections",
            Self::Address => "max_connections_per_address",
            Self::Rate => "connections_per_second",
        }
    }
}

/// Counts connections. One lock for a few instructions, twice a connection and never for a request.
#[derive(Default)]
pub struct Gate(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    open: u32,
    by_address: HashMap<IpAddr, Address>,
    /// At so many addresses those that are not worth keeping are forgotten.
    sweep_at: usize,
}

struct Address {
    open: u32,
    /// What is left of the burst, when it was last asked for.
    left: f64,
    at: Instant,
}

impl Gate {
    /// Lets a connection in from an address, or from nobody in particular.
    pub fn enter(self: &Arc<Self>, from: Option<IpAddr>, limits: GateLimits) -> Result<Pass, Refusal> {
        if !self.counts().enter(limits.total) {
            return Err(Refusal::Full);
        }
        let mut pass = Pass { gate: Arc::clone(self), of: None };
        if let Some(from) = from {
            pass.belongs_to(from, limits)?;
        }
        Ok(pass)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn enter(&mut self, most: u32) -> bool {
        let is_room = self.open < most;
        self.open += u32::from(is_room);
        is_room
    }

    fn enter_from(&mut self, from: IpAddr, limits: GateLimits, now: Instant) -> Result<(), Refusal> {
        let burst = f64::from(limits.per_second) * f64::from(BURST_SECONDS);
        if self.by_address.len() >= self.sweep_at.max(FEW) {
            self.by_address.retain(|_, address| address.open > 0 || address.left_at(now, limits.per_second) < burst);
            self.sweep_at = self.by_address.len() * 2;
        }
        let address = self.by_address.entry(from).or_insert(Address { open: 0, left: burst, at: now });
        let left = address.left_at(now, limits.per_second).min(burst);
        (address.left, address.at) = (left, now);
        if left < 1.0 {
            return Err(Refusal::Rate);
        }
        // A refused one costs its share of the rate as well: whoever is full should stop asking.
        address.left -= 1.0;
        if address.open >= limits.each {
            return Err(Refusal::Address);
        }
        address.open += 1;
        Ok(())
    }
}

impl Address {
    fn left_at(&self, now: Instant, per_second: u32) -> f64 {
        self.left + now.duration_since(self.at).as_secs_f64() * f64::from(per_second)
    }
}

/// Whose connections count together: an IPv6 network hands out 64 bits to each of its machines.
fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

/// One connection that was let in. Dropped, it has gone.
pub struct Pass {
    gate: Arc<Gate>,
    of: Option<IpAddr>,
}

impl Pass {
    /// Counts the connection among those of an address.
    pub fn belongs_to(&mut self, address: IpAddr, limits: GateLimits) -> Result<(), Refusal> {
        let address = counted(address);
        self.gate.counts().enter_from(address, limits, Instant::now())?;
        self.of = Some(address);
        Ok(())
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut counts = self.gate.counts();
        counts.open -= 1;
        if let Some(address) = self.of.and_then(|of| counts.by_address.get_mut(&of)) {
            address.open -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: GateLimits = GateLimits { total: 5, each: 2, per_second: 1 };

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[tokio::test(start_paused = true)]
    async fn each_limit_holds_and_what_has_gone_makes_room() {
        let gate = Arc::new(Gate::default());
        let enter = |from: &str| gate.enter(Some(address(from)), LIMITS);
        let nobody = || gate.enter(None, LIMITS);
        let first = enter("10.0.0.1").expect("is room");
        let second = enter("10.0.0.1").expect("is room");
        assert_eq!(enter("10.0.0.1").err(), Some(Refusal::Address));
        drop(first);
        let _again = enter("10.0.0.1").expect("is room again");
        assert_eq!(enter("10.0.0.1").err(), Some(Refusal::Rate), "four at once, then one a second");
        let _mapped = enter("::ffff:10.0.0.2").expect("is another");
        let _nobody = (nobody().expect("is room"), nobody().expect("is room"));
        assert_eq!(nobody().err(), Some(Refusal::Full));
        assert_eq!(gate.counts().open, 5, "a refused one is not counted");
        tokio::time::advance(Duration::from_secs(2)).await;
        drop(second);
        assert!(enter("10.0.0.1").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_of_one_ipv6_network_count_together_and_are_forgotten() {
        let gate = Arc::new(Gate::default());
        let limits = GateLimits { total: 100_000, ..LIMITS };
        let _one = gate.enter(Some(address("2001:db8::1")), limits).expect("is room");
        let _two = gate.enter(Some(address("2001:db8::ffff:1")), limits).expect("is room");
        assert_eq!(gate.enter(Some(address("2001:db8::2")), limits).err(), Some(Refusal::Address));
        assert!(gate.enter(Some(address("2001:db8:0:1::1")), limits).is_ok());
        for n in 0..20_000_u32 {
            let from = IpAddr::V6(Ipv6Addr::from_bits(u128::from(n) << 64 | 1 << 120));
            assert!(gate.enter(Some(from), limits).is_ok());
            tokio::time::advance(Duration::from_millis(2)).await;
        }
        assert!(gate.counts().by_address.len() < 3_000, "{}", gate.counts().by_address.len());
    }
}
