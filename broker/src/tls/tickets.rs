//! Session tickets that every broker with the same secret can open, with keys that change by the clock alone.
//!
//! The key of a period of six hours is derived from the secret, the period's number and what the listener asks of clients.
//! Nobody has to tell anybody anything: brokers whose clocks agree within a period resume each other's sessions.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use rustls::server::ProducesTickets;

/// How long one key makes tickets. It opens them for the period after it, too.
const PERIOD: Duration = Duration::from_hours(6);
/// The first byte of every ticket.
const FORMAT: u8 = 1;
/// Format and period stand before what is encrypted.
const HEAD: usize = 5;
/// A secret shorter than this was not made by chance.
const MIN_SECRET: usize = 32;

/// Makes and opens tickets.
pub struct SharedTickets {
    /// The first makes them, all open them.
    secrets: Vec<Prk>,
    /// What the listener asks of clients, as a hash: a session that began under other rules is not resumed.
    rules: [u8; 32],
    now: fn() -> SystemTime,
}

impl SharedTickets {
    /// From a secret's text: one secret a line.
    pub fn new(text: &str, rules: [u8; 32]) -> Result<Self, String> {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if lines.is_empty() || lines.iter().any(|line| line.len() < MIN_SECRET) {
            return Err(format!(
                "each line must have at least {MIN_SECRET} characters made by chance; `openssl rand -base64 48` makes one"
            ));
        }
        let salt = Salt::new(HKDF_SHA256, b"hearth session tickets");
        let secrets = lines.iter().map(|line| salt.extract(line.as_bytes())).collect();
        Ok(Self { secrets, rules, now: SystemTime::now })
    }

    fn period(&self) -> u32 {
        let since = (self.now)().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u32::try_from(since.as_secs() / PERIOD.as_secs()).unwrap_or(u32::MAX)
    }

    fn key(&self, secret: &Prk, period: u32) -> Option<RandomizedNonceKey> {
        let mut key = [0; 32];
        secret.expand(&[&period.to_be_bytes(), &self.rules], KeyLength).ok()?.fill(&mut key).ok()?;
        RandomizedNonceKey::new(&AES_256_GCM_SIV, &key).ok()
    }
}

struct KeyLength;

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        32
    }
}

impl ProducesTickets for SharedTickets {
    fn enabled(&self) -> bool {
        true
    }

    /// Made in the last second of a period, a ticket is good for one more.
    fn lifetime(&self) -> u32 {
        u32::try_from(PERIOD.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let period = self.period();
        let mut ticket = vec![FORMAT];
        ticket.extend(period.to_be_bytes());
        let mut sealed = plain.to_vec();
        let key = self.key(self.secrets.first()?, period)?;
        let nonce = key.seal_in_place_append_tag(Aad::from(&ticket[..]), &mut sealed).ok()?;
        ticket.extend(nonce.as_ref());
        ticket.append(&mut sealed);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (head, rest) = ticket.split_at_checked(HEAD)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (format, period) = head.split_first()?;
        let period = u32::from_be_bytes(period.try_into().ok()?);
        // One ahead: the clock of the broker that made it may be.
        if *format != FORMAT || period.abs_diff(self.period()) > 1 {
            return None;
        }
        self.secrets.iter().find_map(|secret| {
            let mut opened = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let length = self.key(secret, period)?.open_in_place(nonce, Aad::from(head), &mut opened).ok()?.len();
            opened.truncate(length);
            Some(opened)
        })
    }
}

impl fmt::Debug for SharedTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedTickets").field("secrets", &self.secrets.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "one-secret-of-thirty-two-characters-or-more";
    const TWO: &str = "two-secret-of-thirty-two-characters-or-more";

    fn tickets(text: &str, rules: u8, now: fn() -> SystemTime) -> SharedTickets {
        SharedTickets { now, ..SharedTickets::new(text, [rules; 32]).expect("good secrets") }
    }

    fn at(periods: u32, seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + PERIOD * periods + Duration::from_secs(seconds)
    }

    #[test]
    fn a_ticket_is_opened_by_every_broker_with_the_secret_until_the_next_period_ends() {
        let made = tickets(ONE, 0, || at(10, 5)).encrypt(b"session").expect("is made");
        assert!(!made.windows(7).any(|part| part == b"session"));
        let opened = |now| tickets(ONE, 0, now).decrypt(&made);
        assert_eq!(opened(|| at(10, 5)).as_deref(), Some(&b"session"[..]));
        assert!(opened(|| at(11, 21_599)).is_some(), "the period after");
        assert!(opened(|| at(9, 21_599)).is_some(), "a clock that is behind");
        assert!(opened(|| at(12, 0)).is_none() && opened(|| at(8, 0)).is_none());
    }

    #[test]
    fn secrets_change_one_after_the_other() {
        let (old, new) = (tickets(ONE, 0, || at(10, 0)), tickets(TWO, 0, || at(10, 0)));
        let both = tickets(&format!("{TWO}\n\n{ONE}\n"), 0, || at(10, 0));
        let (of_old, of_both) = (old.encrypt(b"s").expect("is made"), both.encrypt(b"s").expect("is made"));
        assert!(both.decrypt(&of_old).is_some() && new.decrypt(&of_both).is_some());
        assert!(old.decrypt(&of_both).is_none() && new.decrypt(&of_old).is_none());
    }

    #[test]
    fn other_rules_and_other_bytes_are_not_opened() {
        let mine = tickets(ONE, 0, || at(10, 0));
        let ticket = mine.encrypt(b"session").expect("is made");
        assert!(tickets(ONE, 1, || at(10, 0)).decrypt(&ticket).is_none());
        for at in 0..ticket.len() {
            let mut other = ticket.clone();
            other[at] ^= 1;
            assert!(mine.decrypt(&other).is_none(), "byte {at}");
            assert!(mine.decrypt(&ticket[..at]).is_none(), "{at} bytes");
        }
        assert_ne!(mine.encrypt(b"session"), Some(ticket), "no two are the same");
    }

    #[test]
    fn a_short_secret_is_refused_and_never_shown() {
        for bad in ["", "\n", "short", &format!("{ONE}\nshort")] {
            assert!(SharedTickets::new(bad, [0; 32]).is_err_and(|told| !told.contains("short\"")), "{bad}");
        }
        assert!(!format!("{:?}", tickets(ONE, 0, SystemTime::now)).contains("secret-of"));
    }
}
