use super::*;

fn faults(text: &str) -> Vec<String> {
    match load_text(text, std::iter::empty()) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Invalid(faults)) => faults.iter().map(ToString::to_string).collect(),
        Err(other) => panic!("{other}"),
    }
}

const GOOD: &str = r#"
[databases.app]
url = "postgres://app_rw@127.0.0.1:5432/app"
pool = { min = 2, max = 40 }
[caches.main]
url = "redis://127.0.0.1:6379"
[tenants.acme]
databases = ["app"]
caches = ["main"]
keys = [{ id = "hk_live_1", sha256 = "0000000000000000000000000000000000000000000000000000000000000000", scopes = ["sql:read", "redis"] }]
limits = { requests_per_second = 200, burst = 400, in_flight = 50, max_timeout = "2m" }
"#;

#[test]
fn the_design_page_s_example_reads() {
    let config = load_text(GOOD, std::iter::empty()).expect("reads");
    assert_eq!(config.databases["app"].pool.max, 40);
    assert_eq!(config.tenants["acme"].keys[0].scopes, [super::super::Scope::SqlRead, super::super::Scope::Redis]);
    assert_eq!(config.tenants["acme"].limits.max_timeout.as_secs(), 120);
    assert_eq!(config.server.listen.port(), 8432);
}

#[test]
fn every_fault_is_told_at_once_with_its_path() {
    let text = GOOD
        .replace("min = 2", "minimum = 2")
        .replace("burst = 400", "burts = 400")
        .replace("\"sql:read\"", "\"sql:all\"")
        + "[server]\nlisten = \"nowhere\"\n[extra]\n[databases.two]\nurl = 5\n";
    let told = faults(&text).join("\n");
    for path in
        ["databases.app.pool.minimum", "tenants.acme.keys[0].scopes[0]", "server.listen", "extra", "databases.two.url"]
    {
        assert!(told.contains(path), "{path} in:\n{told}");
    }
}

#[test]
fn meaning_is_checked_across_sections() {
    let text = GOOD
        .replace("max = 40", "max = 1")
        .replace("caches = [\"main\"]", "caches = [\"mian\"]")
        .replace("\"0000", "\"zz00");
    let told = faults(&text).join("\n");
    for path in ["databases.app.pool.min", "tenants.acme.caches[0]", "tenants.acme.keys[0].sha256"] {
        assert!(told.contains(path), "{path} in:\n{told}");
    }
}

#[test]
fn the_environment_lies_over_the_file() {
    let env = [
        ("HEARTH__SERVER__LISTEN", "0.0.0.0:9000"),
        ("HEARTH__DATABASES__APP__POOL__MAX", "12"),
        ("HEARTH__TENANTS__ACME__LIMITS__MAX_TIMEOUT", "5s"),
        ("HEARTH__TENANTS__ACME__LIMITS__DEFAULT_TIMEOUT", "4s"),
        ("HEARTH_KEY", "not ours"),
    ];
    let env = env.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned()));
    let config = load_text(GOOD, env).expect("reads");
    assert_eq!(config.server.listen.port(), 9000);
    assert_eq!(config.databases["app"].pool.max, 12);
    assert_eq!(config.tenants["acme"].limits.max_timeout.as_secs(), 5);
}

#[test]
fn a_syntax_fault_names_its_line_and_echoes_no_secret() {
    let told = faults("[databases.app]\nurl = \"x\"\npassword = \"hunter2\n").join("\n");
    assert!(told.contains("line 3"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn named_statements_come_from_tables_and_from_a_folder() {
    let folder = Folder::new(&[
        ("get_user.sql", "-- params: id\n-- read_only: true\n-- max_age: 10s\nSELECT * FROM users WHERE id = $1\n"),
        ("now.sql", "SELECT now()"),
        (".#now.sql", "an editor's"),
        ("notes.txt", "not a statement"),
    ]);
    let text = "statements_dir = \"sql/\"\n[databases.app.statements.add]\nsql = \"INSERT INTO users VALUES ($1, $2)\"\nparams = [\"id\", \"name\"]\ndescription = \"adds\"\n";
    std::fs::write(folder.0.join("hearth.toml"), format!("{DATABASE}{text}")).expect("writes");

    let config = load_file(&folder.0.join("hearth.toml")).expect("reads");
    let statements = &config.databases["app"].statements;
    assert_eq!(statements.keys().collect::<Vec<_>>(), ["add", "get_user", "now"]);
    let (add, get_user) = (&statements["add"], &statements["get_user"]);
    assert_eq!(
        (add.params.len(), add.read_only, add.max_age, add.description.as_deref()),
        (2, false, None, Some("adds"))
    );
    assert_eq!((get_user.sql.as_str(), get_user.read_only), ("SELECT * FROM users WHERE id = $1", true));
    assert_eq!(
        (get_user.params.as_slice(), get_user.max_age.map(|age| age.as_secs())),
        (&["id".to_owned()][..], Some(10))
    );
}

#[test]
fn every_fault_of_a_statement_is_told_at_once() {
    let folder = Folder::new(&[("twice.sql", "SELECT 1"), ("wrong.sql", "-- read_only: maybe\nSELECT 1")]);
    std::fs::write(folder.0.join("sql/latin.sql"), b"SELECT '\xe9'").expect("writes");
    let text = format!(
        "{DATABASE}statements_dir = \"{}\"\n[databases.app.statements]\ntwice = {{ sql = \"SELECT 1\" }}\nnosql = {{}}\nage = {{ sql = \"SELECT 1\", max_age = \"soon\" }}\ntypo = {{ sql = \"SELECT 1\", parms = [] }}\n",
        folder.0.join("sql").display(),
    );
    let told = faults(&text).join("\n");
    for name in [
        "twice: stands twice",
        "wrong.read_only: ",
        "latin: cannot read",
        "nosql: missing field `sql`",
        "age.max_age",
        "typo.parms",
    ] {
        assert!(told.contains(&format!("databases.app.statements.{name}")), "{name} in:\n{told}");
    }
    let told = faults(&format!("{DATABASE}statements_dir = \"/nowhere\"\nstatements = 5\n[server]\nnonsense = 1\n"))
        .join("\n");
    for path in ["databases.app.statements: must hold", "server.nonsense"] {
        assert!(told.contains(path), "{path} in:\n{told}");
    }
    let told = faults(&format!("{DATABASE}statements_dir = \"/nowhere\"\n")).join("\n");
    assert!(told.contains("databases.app.statements_dir: cannot read the folder `/nowhere`"), "{told}");
}

#[test]
fn statements_and_their_parameters_must_fit() {
    let text = r#"
        [databases.app.statements]
        empty = { sql = " \n" }
        "a b" = { sql = "SELECT 1" }
        few = { sql = "SELECT $1, '$4', $3", params = ["id", "name"] }
        same = { sql = "SELECT $1, $2", params = ["id", "id"] }
        unnamed = { sql = "SELECT $1", params = [""] }
        old = { sql = "SELECT 1", max_age = "100ms" }
    "#;
    let told = faults(&format!("{DATABASE}{text}")).join("\n");
    for part in [
        "empty.sql: is empty",
        "a b: a name is",
        "few.sql: has `$3`, and `params` names 2",
        "few.params[1]: `name` is `$2`, which stands nowhere",
        "same.params[1]: `id` stands twice",
        "unnamed.params[0]: a name is",
        "old.max_age: must be between",
    ] {
        assert!(told.contains(&format!("databases.app.statements.{part}")), "{part} in:\n{told}");
    }
    assert_eq!(told.lines().count(), 7, "and nothing else:\n{told}");
}

#[test]
fn a_key_may_be_held_to_statements_that_its_tenant_has() {
    let named = GOOD.to_owned()
        + "[databases.app.statements]\nget_user = { sql = \"SELECT 1\" }\n[databases.two]\nurl = \"postgres://u@h/d\"\nstatements = { other = { sql = \"SELECT 1\" } }\n";
    let held = |list: &str| named.replace("scopes =", &format!("statements = {list}, scopes ="));
    let config = load_text(&held("[\"get_user\"]"), std::iter::empty()).expect("reads");
    assert_eq!(config.tenants["acme"].keys[0].statements.as_deref(), Some(&["get_user".to_owned()][..]));
    for (text, path) in [
        (held("[\"get_user\", \"other\"]"), "statements[1]: no database"),
        (held("[]"), "statements: names none"),
        (held("[\"get_user\"]").replace("\"sql:read\", ", ""), "statements: means nothing"),
    ] {
        let told = faults(&text).join("\n");
        assert!(told.contains(&format!("tenants.acme.keys[0].{path}")), "{path} in:\n{told}");
    }
}

#[test]
fn settings_and_limits_are_held_to_what_works() {
    let text = GOOD.replace("max_timeout = \"2m\"", "stream_timeout = \"25h\", max_batch = 0")
        + "settings = [\"app.*\", \"DateStyle\", \"*\"]\n[server]\nreader_timeout = \"11m\"\n";
    let told = faults(&text).join("\n");
    for path in [
        "limits.stream_timeout",
        "limits.max_batch",
        "settings[1]: `DateStyle` must stay",
        "settings[2]: `*` is neither",
    ] {
        assert!(told.contains(&format!("tenants.acme.{path}")), "{path} in:\n{told}");
    }
    assert!(told.contains("server.reader_timeout") && !told.contains("settings[0]"), "{told}");
    let limits = &load_text(GOOD, std::iter::empty()).expect("reads").tenants["acme"].limits;
    assert_eq!((limits.stream_timeout.as_secs(), limits.max_batch), (600, 100));
}

const DATABASE: &str = "[databases.app]\nurl = \"postgres://app_rw@127.0.0.1:5432/app\"\n";

/// A folder with `sql/` in it, gone when the test ends.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = std::env::temp_dir().join(format!("hearth-config-{:016x}", rand::random::<u64>()));
        std::fs::create_dir_all(folder.join("sql/inner.sql")).expect("makes a folder");
        for (name, text) in files {
            std::fs::write(folder.join("sql").join(name), text).expect("writes");
        }
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that is gone already is as good.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
