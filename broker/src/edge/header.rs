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
/// Which limits would have refused.
pub static SHADOW_REFUSED: HeaderName = HeaderName::from_static("hearth-shadow-refused");
/// How strings in Redis' answers are encoded.
pub static UPSTASH_ENCODING: HeaderName = HeaderName::from_static("upstash-encoding");

/// A header's value put together of text and numbers: formatting showed in the profile of a request.
pub struct Text {
    bytes: [u8; MAX_BYTES],
    len: usize,
}

/// The longest value: three times of twenty digits and their names. What is longer is cut.
const MAX_BYTES: usize = 128;

impl Default for Text {
    fn default() -> Self {
        Self { bytes: [0; MAX_BYTES], len: 0 }
    }
}

impl Text {
    /// Appends visible ASCII.
    pub fn text(&mut self, text: &'static str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Appends a number.
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.bytes(itoa::Buffer::new().format(number).as_bytes())
    }

    /// Appends a time in milliseconds with three decimals.
    pub fn millis(&mut self, time: std::time::Duration) -> &mut Self {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let rest = micros % 1000;
        let digit = |number: u64| b'0' + u8::try_from(number % 10).unwrap_or_default();
        self.number(micros / 1000).bytes(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)])
    }

    /// The whole.
    pub fn value(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.bytes[..self.len]).expect("text of our own and digits are visible ASCII")
    }

    fn bytes(&mut self, more: &[u8]) -> &mut Self {
        let room = &mut self.bytes[self.len..];
        let taken = more.len().min(room.len());
        room[..taken].copy_from_slice(&more[..taken]);
        self.len += taken;
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_have_three_decimals() {
        for (micros, text) in [(0, "0.000"), (7, "0.007"), (1_050, "1.050"), (12_345_678, "12345.678")] {
            assert_eq!(Text::default().millis(Duration::from_micros(micros)).value(), text);
        }
        assert_eq!(Text::default().text("a;r=").number(42).value(), "a;r=42");
    }
}
