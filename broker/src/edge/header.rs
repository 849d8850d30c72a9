//! Names of the headers that are read or written on every request, checked once.

use hearth_client::wire::header;
use http::{HeaderName, HeaderValue};

/// The caller's deadline.
pub static TIMEOUT_MS: HeaderName = HeaderName::from_static(header::TIMEOUT_MS);
/// A token of an earlier write's answer.
pub static CONSISTENCY: HeaderName = HeaderName::from_static(header::CONSISTENCY);
/// Which shard the request belongs to.
pub static SHARD_KEY: HeaderName = HeaderName::from_static(header::SHARD_KEY);
/// Whether it may share a session.
pub static LANES: HeaderName = HeaderName::from_static(header::LANES);
/// Who served it.
pub static SERVED_BY: HeaderName = HeaderName::from_static(header::SERVED_BY);
/// The request's id.
pub static REQUEST_ID: HeaderName = HeaderName::from_static(header::REQUEST_ID);
/// One effect however often it is sent.
pub static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Where the time went.
pub static SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// What is left of the rate.
pub static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// What the limits are.
pub static RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// How strings in Redis' answers are encoded.
pub static UPSTASH_ENCODING: HeaderName = HeaderName::from_static("upstash-encoding");

/// A header's value put together of text and numbers: formatting showed in the profile of a request.
#[derive(Default)]
pub struct Text(Vec<u8>);

impl Text {
    /// Nothing yet, and room for most.
    pub fn new() -> Self {
        Self(Vec::with_capacity(80))
    }

    /// Appends visible ASCII.
    #[must_use]
    pub fn text(mut self, text: &'static str) -> Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// Appends a number.
    #[must_use]
    pub fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        self
    }

    /// Appends a time in milliseconds with three decimals.
    #[must_use]
    pub fn millis(mut self, time: std::time::Duration) -> Self {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self = self.number(micros / 1000);
        let rest = micros % 1000;
        let digit = |number: u64| b'0' + u8::try_from(number % 10).unwrap_or_default();
        self.0.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
        self
    }

    /// The whole.
    pub fn value(self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).expect("text of our own and digits are visible ASCII")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_have_three_decimals() {
        for (micros, text) in [(0, "0.000"), (7, "0.007"), (1_050, "1.050"), (12_345_678, "12345.678")] {
            assert_eq!(Text::new().millis(Duration::from_micros(micros)).value(), text);
        }
        assert_eq!(Text::new().text("a;r=").number(42).value(), "a;r=42");
    }
}
