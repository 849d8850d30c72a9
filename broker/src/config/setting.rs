//! Which PostgreSQL settings a request may change: names, or every name of a class (`app.*`).

/// Settings that the text of values rests on, or the broker's hold on a session and its deadlines.
const FIXED: [&str; 12] = [
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "intervalstyle",
    "session_authorization",
    "session_replication_role",
    "standard_conforming_strings",
    "statement_timeout",
];
/// Beginnings of such names: what a transaction may do is said by the request in its own words.
const FIXED_BEGINNINGS: [&str; 2] = ["transaction_", "default_transaction_"];

/// Errors: what is wrong with one entry of a list of allowed settings.
pub(super) fn check(entry: &str) -> Result<(), String> {
    if !is_name(entry.strip_suffix(".*").unwrap_or(entry)) {
        return Err(format!(
            "`{entry}` is neither a setting's name (`search_path`, `app.user_id`) nor a class of them (`app.*`)"
        ));
    }
    let lower = entry.to_ascii_lowercase();
    if FIXED.contains(&lower.as_str()) || FIXED_BEGINNINGS.iter().any(|beginning| lower.starts_with(beginning)) {
        return Err(format!(
            "`{entry}` must stay as it is: how values are written, or how the broker works, rests on it"
        ));
    }
    Ok(())
}

/// True if one of the entries allows the setting. PostgreSQL's names have no case.
pub fn allows(entries: &[String], name: &str) -> bool {
    let one_allows = |entry: &String| match entry.strip_suffix(".*") {
        // A class is all that stands before a dot, so that no built-in setting, which has no dot, is in one.
        Some(class) => is_in(name, class),
        None => name.eq_ignore_ascii_case(entry),
    };
    is_name(name) && entries.iter().any(one_allows)
}

fn is_in(name: &str, class: &str) -> bool {
    let head = name.get(..class.len()).is_some_and(|head| head.eq_ignore_ascii_case(class));
    head && name[class.len()..].starts_with('.')
}

/// Names between dots, as PostgreSQL takes them for settings of one's own; ASCII only.
fn is_name(text: &str) -> bool {
    text.split('.').all(|part| {
        part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'$')
            && part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_names_and_classes_that_nothing_rests_on() {
        for good in ["search_path", "app.user_id", "app.*", "a.b.*", "TimeZone", "role", "work_mem", "transactions.id"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["*", ".*", "", "app.", "app*", "*.app", "app.*.x", "a b", "a;b", "1a", "a..b", "app.**", "é.*"] {
            assert!(check(bad).is_err_and(|told| told.contains("neither")), "{bad}");
        }
        for fixed in FIXED.into_iter().chain(["DateStyle", "transaction_read_only", "Default_Transaction_Isolation"]) {
            assert!(check(fixed).is_err_and(|told| told.contains("must stay")), "{fixed}");
        }
    }

    #[test]
    fn a_class_allows_its_names_and_no_built_in_one() {
        let entries = ["app.*".to_owned(), "Search_Path".to_owned(), "x.y".to_owned()];
        for name in ["app.user_id", "APP.User", "app.a.b", "search_path", "SEARCH_PATH", "x.Y"] {
            assert!(allows(&entries, name), "{name}");
        }
        for name in [
            "app",
            "app.",
            "apple",
            "application_name",
            "app_name",
            "my.app.id",
            "x",
            "x.z",
            "datestyle",
            "",
            "app.a b",
            "app.a=b",
            "app.é",
        ] {
            assert!(!allows(&entries, name), "{name}");
        }
        assert!(!allows(&[], "app.user_id"));
    }
}
