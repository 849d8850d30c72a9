//! A folder of `NAME.sql` files: each becomes a table of the configuration, as if it stood under `statements`.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::Fault;

/// Adds the statements of the folder named by `statements_dir` to the `statements` table of one database.
pub(super) fn gather(database: &mut Table, base: &Path, path: &str, faults: &mut Vec<Fault>) {
    let Some(Value::String(folder)) = database.get("statements_dir") else { return };
    let folder = base.join(folder);
    let declared = database.entry("statements").or_insert_with(|| Value::Table(Table::new()));
    // Something else than a table is told by whoever reads it.
    let Value::Table(declared) = declared else { return };
    let files = files(&folder).unwrap_or_else(|error| {
        let message = format!("cannot read the folder `{}`: {error}", folder.display());
        faults.push(Fault::new(format!("{path}.statements_dir"), message));
        Vec::new()
    });
    for file in files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let path = format!("{path}.statements.{name}");
        match std::fs::read_to_string(&file) {
            Err(error) => {
                faults.push(Fault::new(path, format!("cannot read the file `{}`: {error}", file.display())));
            }
            Ok(_) if declared.contains_key(&name) => {
                let message = format!("stands twice: here and in the file `{}`", file.display());
                faults.push(Fault::new(path, message));
            }
            Ok(text) => drop(declared.insert(name, Value::Table(table(&text)))),
        }
    }
}

/// The folder's `.sql` files. Those whose names begin with a dot are an editor's or the platform's.
fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|extension| extension == "sql") && !path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A file's text as a table: known `-- key: value` lines of the comments that it begins with, and the SQL behind them.
fn table(text: &str) -> Table {
    let mut table = Table::new();
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    while let Some(comment) = rest.strip_prefix("--") {
        let (line, after) = comment.split_once('\n').unwrap_or((comment, ""));
        if let Some((key, value)) = line.split_once(':').and_then(|(key, value)| known(key.trim(), value.trim())) {
            table.insert(key.to_owned(), value);
        }
        rest = after.trim_start();
    }
    table.insert("sql".to_owned(), Value::String(rest.trim_end().to_owned()));
    table
}

fn known<'a>(key: &'a str, value: &str) -> Option<(&'a str, Value)> {
    let text = |text: &str| Value::String(text.to_owned());
    let value = match key {
        "params" if value.is_empty() => Value::Array(Vec::new()),
        "params" => Value::Array(value.split(',').map(|name| text(name.trim())).collect()),
        // Another word is left for the reader of the section to refuse.
        "read_only" => value.parse().map_or_else(|_| text(value), Value::Boolean),
        "max_age" | "description" => text(value),
        _ => return None,
    };
    Some((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comments_at_the_top_say_what_the_table_would() {
        let file = "\n-- Users since a moment: not a key.\n-- params: id , since\r\n--read_only: true\n\n\
                    -- max_age: 10s\n-- description: finds: one\n-- SELECT 0\nSELECT $1 -- params: no\n  , $2\n";
        let same = r#"
            params = ["id", "since"]
            read_only = true
            max_age = "10s"
            description = "finds: one"
            sql = "SELECT $1 -- params: no\n  , $2"
        "#;
        assert_eq!(table(file), same.parse::<Table>().expect("is TOML"));
    }

    #[test]
    fn a_file_may_hold_sql_alone_or_nothing() {
        assert_eq!(table("SELECT 1;")["sql"].as_str(), Some("SELECT 1;"));
        for empty in ["", "-- params:", "-- params:\n\n"] {
            assert_eq!(table(empty)["sql"].as_str(), Some(""));
        }
        assert_eq!(table("-- params:\nSELECT 1")["params"], Value::Array(Vec::new()));
        assert_eq!(table("-- read_only: yes\nSELECT 1")["read_only"].as_str(), Some("yes"));
    }
}
