//! How brokers of one server know of each other: each signs its sessions' `application_name` with a mark of its own, which
//! everybody may read in `pg_stat_activity`.

/// What stands before a broker's mark. The reading in `capacity.rs` looks for it.
pub const SIGN: &str = " hearth:";

/// PostgreSQL cuts names at 63 bytes, and the mark stands at the end.
const NAME_BYTES: usize = 63 - SIGN.len() - MARK_LENGTH;

/// Length of a mark.
pub const MARK_LENGTH: usize = 8;

/// A mark for one broker.
pub fn new_mark() -> String {
    format!("{:08x}", rand::random::<u32>())
}

/// An application's name with a broker's mark behind it.
pub fn sign(name: &str, mark: &str) -> String {
    let end = (0..=name.len().min(NAME_BYTES)).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    format!("{}{SIGN}{}", &name[..end], mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_never_cut_off() {
        let mark = new_mark();
        assert_eq!(sign("hearth", &mark), format!("hearth hearth:{mark}"));
        let long = sign(&"ä".repeat(60), &mark);
        assert!(long.len() <= 63 && long.ends_with(&mark), "{long}");
    }
}
