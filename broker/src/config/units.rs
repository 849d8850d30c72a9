//! Lengths of time and sizes as people write them: `250ms`, `2s`, `5m`, `16MiB`.

use std::time::Duration;

/// Reads `250ms`, `2s`, `5m`, `1h`, `30d`. Errors: text that says what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let value: u64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a duration; write for example `250ms`, `2s`, `5m` or `1h`"))?;
    let millis = match unit {
        "ms" => Some(value),
        "s" => value.checked_mul(1_000),
        "m" => value.checked_mul(60_000),
        "h" => value.checked_mul(3_600_000),
        "d" => value.checked_mul(86_400_000),
        _ => return Err(format!("`{text}` has no unit that is known; use ms, s, m, h or d")),
    };
    millis.map(Duration::from_millis).ok_or_else(|| format!("`{text}` is too long"))
}

/// Reads `512`, `64KiB`, `16MiB`, `1GiB`. Unit: bytes. Errors: text that says what was expected.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let value: u64 =
        number.parse().map_err(|_| format!("`{text}` is not a size; write for example `64KiB` or `16MiB`"))?;
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("`{text}` has no unit that is known; use B, KiB, MiB or GiB")),
    };
    value.checked_mul(factor).ok_or_else(|| format!("`{text}` is too large"))
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// Serde for a `Duration` written with a unit.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, de::Error};

    /// Reads a duration field.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::parse_duration(&text).map_err(D::Error::custom)
    }

    /// Reads a duration field that may be left out.
    pub fn deserialize_some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        deserialize(deserializer).map(Some)
    }
}

/// Serde for a size written with a unit, or as a plain number of bytes.
pub mod bytes {
    use serde::{Deserialize, Deserializer, de::Error};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Number(u64),
        Text(String),
    }

    /// Reads a size field. Unit of the result: bytes.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        match Size::deserialize(deserializer)? {
            Size::Number(number) => Ok(number),
            Size::Text(text) => super::parse_bytes(&text).map_err(D::Error::custom),
        }
    }

    /// Reads a size field that may be left out. Unit of the result: bytes.
    pub fn deserialize_some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        deserialize(deserializer).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_with_their_unit_and_not_without() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_duration("90d"), Ok(Duration::from_hours(90 * 24)));
        for bad in ["", "5", "s", "-1s", "1.5s", "5 weeks", "99999999999999999999d", "18446744073709551615h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_read_in_binary_units() {
        assert_eq!(parse_bytes("512"), Ok(512));
        assert_eq!(parse_bytes("64KiB"), Ok(65_536));
        assert_eq!(parse_bytes("16MiB"), Ok(16 << 20));
        for bad in ["", "MiB", "1MB", "-1", "99999999999GiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
