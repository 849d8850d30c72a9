//! The house rules that a compiler does not hold: imports point one way, files stay small, generated pages are fresh.

use std::path::{Path, PathBuf};

/// From the street to the ground. A room may use the rooms after it, and itself.
const ROOMS: [&str; 14] = [
    "cli", "server", "edge", "broker", "identity", "query", "tenant", "control", "pool", "encode", "tls", "observe",
    "config", "base",
];

/// Past this a second idea is asking for its own file. Unit: lines.
const MAX_LINES: usize = 400;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("is a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    sources(&root, &mut found);
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("is text");
        (path.strip_prefix(&root).expect("is below").to_path_buf(), text)
    };
    found.into_iter().map(read).collect()
}

fn rank(room: &str) -> Option<usize> {
    ROOMS.iter().position(|known| *known == room)
}

/// The room a file belongs to: its first folder, or its name at the top.
fn room_of(path: &Path) -> String {
    let first = path.components().next().expect("has a name").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Every room named after `crate::` on a line of code.
fn used(text: &str) -> impl Iterator<Item = &str> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default())
}

#[test]
fn imports_point_from_the_socket_to_the_wire_and_never_back() {
    let mut wrong = Vec::new();
    for (path, text) in all() {
        let Some(own) = rank(&room_of(&path)) else { continue };
        for room in used(&text) {
            match rank(room) {
                Some(other) if other < own => wrong.push(format!("{}: uses crate::{room}", path.display())),
                Some(_) => {}
                None => wrong.push(format!("{}: crate::{room} is no room", path.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_room_exists_and_is_listed() {
    let rooms: std::collections::BTreeSet<String> =
        all().iter().map(|(path, _)| room_of(path)).filter(|room| room != "lib" && room != "main").collect();
    let listed: std::collections::BTreeSet<String> = ROOMS.iter().map(|room| (*room).to_owned()).collect();
    assert_eq!(rooms, listed);
}

#[test]
fn files_hold_one_idea() {
    let long: Vec<String> = all()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn the_configuration_page_is_fresh() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.md");
    let made = hearth_broker::config::document::markdown();
    let kept = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(
        kept == made,
        "docs/config.md is stale: run `cargo run -p hearth-broker -- config-reference > docs/config.md`"
    );
}
