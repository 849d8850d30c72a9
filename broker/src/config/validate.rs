//! What the types cannot say: ranges, and names that must exist. Every fault is told, with its path.

use std::collections::HashSet;
use std::time::Duration;

use super::rules::{check_name, range};
use super::server::MAX_WORKERS;
use super::{
    Config, DatabaseConfig, Fault, KeyConfig, Known, LimitsConfig, ProxiesTell, ReplicaConfig, Scope, ServerConfig,
    Shadow, TenantConfig, cache, control, database_url, fleet, identity, policy, setting, statement, tls,
};
use crate::base::hex::sha256_from_hex;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// Adds every fault of meaning to `faults`.
pub(super) fn validate(config: &Config, faults: &mut Vec<Fault>) {
    server(&config.server, faults);
    for (name, database) in &config.databases {
        check_name(&format!("databases.{name}"), name, faults);
        database_section(name, database, faults);
    }
    for (name, cache) in &config.caches {
        check_name(&format!("caches.{name}"), name, faults);
        cache::check(name, cache, faults);
    }
    let (mut key_ids, mut certificate_names) = (HashSet::new(), HashSet::new());
    fleet::check(config, faults);
    if let Some(section) = &config.control {
        control::check(section, faults);
    }
    let known = Known::of(config);
    for (name, tenant) in &config.tenants {
        check_name(&format!("tenants.{name}"), name, faults);
        tenant_section(&format!("tenants.{name}."), tenant, &known, faults);
        for (index, key) in tenant.keys.iter().enumerate() {
            let path = format!("tenants.{name}.keys[{index}]");
            check_key(&path, key, &mut key_ids, faults);
            if let Some(names) = &key.statements {
                check_statements(&path, names, &key.scopes, tenant, &known, faults);
            }
        }
        certificates(name, tenant, &known, &mut certificate_names, faults);
    }
    identity::check(config, faults);
}

fn server(server: &ServerConfig, faults: &mut Vec<Fault>) {
    range("server.max_request_bytes", server.max_request_bytes, 1 << 10..=64 << 20, faults);
    range("server.header_timeout", server.header_timeout, Duration::from_millis(100)..=2 * MINUTE, faults);
    range("server.reader_timeout", server.reader_timeout, Duration::from_millis(100)..=10 * MINUTE, faults);
    range("server.idle_timeout", server.idle_timeout, Duration::from_secs(1)..=HOUR, faults);
    range("server.body_timeout", server.body_timeout, Duration::from_millis(100)..=2 * MINUTE, faults);
    range("server.max_connections", server.max_connections, 1..=1_000_000, faults);
    range("server.max_connections_per_address", server.max_connections_per_address, 1..=1_000_000, faults);
    range("server.connections_per_second", server.connections_per_second, 1..=1_000_000, faults);
    if server.proxies_tell == ProxiesTell::ProxyProtocol && server.trusted_proxies.is_empty() {
        faults.push(Fault::new(
            "server.trusted_proxies",
            "must name the proxies that speak the PROXY protocol: everybody else is refused",
        ));
    }
    if let Some(config) = &server.tls {
        tls::check(config, faults);
    }
    range("server.drain_grace", server.drain_grace, Duration::ZERO..=10 * MINUTE, faults);
    range("server.workers", server.workers, 1..=MAX_WORKERS, faults);
    range("server.max_waiting", server.max_waiting, 1..=1_000_000, faults);
    match &server.admin_key_sha256 {
        Some(hash) if !is_sha256(hash) => {
            faults.push(Fault::new("server.admin_key_sha256", "must be 64 hexadecimal digits"));
        }
        None if !server.admin_listen.ip().is_loopback() => faults.push(Fault::new(
            "server.admin_key_sha256",
            "must be set when `admin_listen` is not a loopback address; `hearth key create --admin` makes one",
        )),
        _ => {}
    }
}

fn database_section(name: &str, database: &DatabaseConfig, faults: &mut Vec<Fault>) {
    let path = |field: &str| format!("databases.{name}.{field}");
    if let Err(message) = database_url(&database.url) {
        faults.push(Fault::new(path("url"), message));
    }
    if let Some(Err(message)) = database.password.as_ref().map(super::Secret::reveal) {
        faults.push(Fault::new(path("password"), message));
    }
    let pool = &database.pool;
    range(path("pool.max"), pool.max, 1..=1000, faults);
    range(path("pool.min"), pool.min, 0..=pool.max, faults);
    range(path("pool.lanes"), pool.lanes, 0..=16, faults);
    range(path("pool.connect_timeout"), pool.connect_timeout, Duration::from_millis(10)..=MINUTE, faults);
    range(path("pool.max_lifetime"), pool.max_lifetime, Duration::from_secs(1)..=7 * 24 * HOUR, faults);
    range(path("pool.prepared_statements"), pool.prepared_statements, 0..=10_000, faults);
    for (name, named) in &database.statements {
        statement::check(&path(&format!("statements.{name}")), name, named, faults);
    }
    servers(&format!("databases.{name}"), database, faults);
}

/// More is a mistake: each costs every request a look, and each a connection.
const MAX_REPLICAS: usize = 15;

fn servers(path: &str, database: &DatabaseConfig, faults: &mut Vec<Fault>) {
    range(format!("{path}.max_lag"), database.max_lag, Duration::ZERO..=HOUR, faults);
    replicas(path, &database.replicas, faults);
    for (name, shard) in &database.shards {
        let path = format!("{path}.shards.{name}");
        check_name(&path, name, faults);
        if name == "main" {
            faults
                .push(Fault::new(path.clone(), "`main` is the shard at the database's own `url`; choose another name"));
        }
        if let Err(message) = database_url(&shard.url) {
            faults.push(Fault::new(format!("{path}.url"), message));
        }
        replicas(&path, &shard.replicas, faults);
    }
}

fn replicas(path: &str, replicas: &[ReplicaConfig], faults: &mut Vec<Fault>) {
    if replicas.len() > MAX_REPLICAS {
        faults.push(Fault::new(format!("{path}.replicas"), format!("names more than {MAX_REPLICAS} servers")));
    }
    for (index, replica) in replicas.iter().enumerate() {
        if let Err(message) = database_url(replica.url()) {
            faults.push(Fault::new(format!("{path}.replicas[{index}]"), message));
        }
    }
}

/// `prefix` stands before each field's path: `tenants.acme.`, or nothing.
pub(super) fn tenant_section(prefix: &str, tenant: &TenantConfig, known: &Known, faults: &mut Vec<Fault>) {
    let path = |field: &str| format!("{prefix}{field}");
    for (index, database) in tenant.databases.iter().enumerate() {
        if !known.has_database(database) {
            faults.push(Fault::new(
                path(&format!("databases[{index}]")),
                format!("there is no `[databases.{database}]`"),
            ));
        }
    }
    for (index, cache) in tenant.caches.iter().enumerate() {
        if !known.has_cache(cache) {
            faults.push(Fault::new(path(&format!("caches[{index}]")), format!("there is no `[caches.{cache}]`")));
        }
    }
    for (index, entry) in tenant.settings.iter().enumerate() {
        if let Err(message) = setting::check(entry) {
            faults.push(Fault::new(path(&format!("settings[{index}]")), message));
        }
    }
    range(path("weight"), tenant.weight, 1..=1000, faults);
    limits_section(&path("limits"), &tenant.limits, faults);
}

fn limits_section(path: &str, limits: &LimitsConfig, faults: &mut Vec<Fault>) {
    let path = |field: &str| format!("{path}.{field}");
    for (field, value) in
        [("requests_per_second", limits.requests_per_second), ("burst", limits.burst), ("in_flight", limits.in_flight)]
    {
        if let Some(value) = value {
            range(path(field), value, 1..=1_000_000, faults);
        }
    }
    for (field, value, most) in [
        ("requests_per_minute", limits.requests_per_minute.map(u64::from), 60_000_000),
        ("requests_per_hour", limits.requests_per_hour.map(u64::from), 1_000_000_000),
        ("database_ms_per_second", limits.database_ms_per_second.map(u64::from), 1_000_000),
        ("requests_per_day", limits.requests_per_day, 1_000_000_000_000),
        ("rows_per_day", limits.rows_per_day, 1_000_000_000_000),
        // Beyond it Redis' scripts could not count.
        ("bytes_per_day", limits.bytes_per_day, 1 << 53),
        ("database_ms_per_day", limits.database_ms_per_day, 1_000_000_000_000),
        ("max_rows", limits.max_rows, 1_000_000_000),
    ] {
        if let Some(value) = value {
            range(path(field), value, 1..=most, faults);
        }
    }
    if let Shadow::Some(names) = &limits.shadow {
        for name in names.iter().filter(|name| !policy::ALL.contains(&name.as_str())) {
            let message = format!("there is no limit `{name}`; there are {}", policy::ALL.join(", "));
            faults.push(Fault::new(path("shadow"), message));
        }
    }
    range(path("listeners"), limits.listeners, 1..=1_000_000, faults);
    range(path("max_queued"), limits.max_queued, 1..=1_000_000, faults);
    if limits.burst.is_some() && limits.requests_per_second.is_none() {
        faults.push(Fault::new(path("burst"), "means nothing without `requests_per_second`"));
    }
    range(path("max_timeout"), limits.max_timeout, Duration::from_millis(1)..=HOUR, faults);
    range(path("default_timeout"), limits.default_timeout, Duration::from_millis(1)..=limits.max_timeout, faults);
    range(path("stream_timeout"), limits.stream_timeout, Duration::from_secs(1)..=24 * HOUR, faults);
    range(path("max_result_bytes"), limits.max_result_bytes, 1 << 10..=1 << 30, faults);
    range(path("max_batch"), limits.max_batch, 1..=10_000, faults);
    range(path("max_pipeline"), limits.max_pipeline, 1..=100_000, faults);
}

fn check_key<'a>(path: &str, key: &'a KeyConfig, seen: &mut HashSet<&'a str>, faults: &mut Vec<Fault>) {
    if key.id.is_empty() || !key.id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        faults.push(Fault::new(format!("{path}.id"), "must be letters, digits, `_` and `-`"));
    }
    if !seen.insert(&key.id) {
        faults
            .push(Fault::new(format!("{path}.id"), format!("`{}` stands twice; a key belongs to one tenant", key.id)));
    }
    if !is_sha256(&key.sha256) {
        faults.push(Fault::new(
            format!("{path}.sha256"),
            "must be 64 hexadecimal digits; `hearth key create` prints them",
        ));
    }
    if key.not_before.zip(key.expires).is_some_and(|(from, until)| from >= until) {
        faults.push(Fault::new(format!("{path}.not_before"), "must be before `expires`: the key would never be good"));
    }
    if key.scopes.is_empty() {
        faults.push(Fault::new(format!("{path}.scopes"), "must name at least one of sql:read, sql:write, redis"));
    }
}

fn certificates<'a>(
    tenant_name: &str,
    tenant: &'a TenantConfig,
    known: &Known,
    seen: &mut HashSet<&'a str>,
    faults: &mut Vec<Fault>,
) {
    for (index, certificate) in tenant.certificates.iter().enumerate() {
        let path = format!("tenants.{tenant_name}.certificates[{index}]");
        if certificate.name.is_empty() {
            faults.push(Fault::new(format!("{path}.name"), "must be a name in the certificate"));
        }
        if !seen.insert(&certificate.name) {
            let message = format!("`{}` stands twice; a certificate belongs to one tenant", certificate.name);
            faults.push(Fault::new(format!("{path}.name"), message));
        }
        if certificate.scopes.is_empty() {
            faults.push(Fault::new(format!("{path}.scopes"), "must name at least one of sql:read, sql:write, redis"));
        }
        if let Some(names) = &certificate.statements {
            check_statements(&path, names, &certificate.scopes, tenant, known, faults);
        }
    }
}

/// The named statements that a key or a certificate is for.
pub(super) fn check_statements(
    path: &str,
    names: &[String],
    scopes: &[Scope],
    tenant: &TenantConfig,
    known: &Known,
    faults: &mut Vec<Fault>,
) {
    if names.is_empty() {
        faults.push(Fault::new(format!("{path}.statements"), "names none; leave it out where any SQL is allowed"));
    }
    if !scopes.iter().any(|scope| matches!(scope, Scope::SqlRead | Scope::SqlWrite)) {
        faults.push(Fault::new(format!("{path}.statements"), "means nothing without the scope sql:read or sql:write"));
    }
    for (index, name) in names.iter().enumerate() {
        if !tenant.databases.iter().any(|database| known.declares(database, name)) {
            let message = format!("no database of the tenant declares a statement `{name}`");
            faults.push(Fault::new(format!("{path}.statements[{index}]"), message));
        }
    }
}

fn is_sha256(text: &str) -> bool {
    sha256_from_hex(text).is_some()
}
