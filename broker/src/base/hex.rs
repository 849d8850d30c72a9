//! Bytes as hexadecimal digits and back.

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from_digit(u32::from(digit), 16).expect("four bits are one digit")).collect()
}

/// Thirty-two bytes from sixty-four digits of either case; `None` for anything else.
pub fn sha256_from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_read_back() {
        let bytes: [u8; 32] = std::array::from_fn(|i| u8::try_from(i * 8).expect("small"));
        assert_eq!(sha256_from_hex(&hex(&bytes)), Some(bytes));
        assert_eq!(sha256_from_hex(&hex(&bytes).to_uppercase()), Some(bytes));
        assert_eq!(sha256_from_hex("00"), None);
        assert_eq!(sha256_from_hex(&"zz".repeat(32)), None);
    }
}
