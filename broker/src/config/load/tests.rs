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
