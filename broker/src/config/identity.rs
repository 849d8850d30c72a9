//! `[identity]`: who is let in besides holders of API keys, and what becomes of those who guess.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use http::Uri;
use schemars::JsonSchema;
use serde::Deserialize;

use super::rules::range;
use super::{Config, Fault, Scope, Secret, setting, units};

/// RFC 7518 section 3.2: a key as long as the hash, at least. Unit: bytes.
const MIN_SECRET_BYTES: usize = 32;

/// Who is let in besides holders of API keys, and what becomes of those who guess.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct IdentityConfig {
    /// Issuers of tokens (JWT) by name; the name stands in logs.
    pub jwt: BTreeMap<String, JwtConfig>,
    /// What becomes of callers whose credentials fail again and again.
    pub breaker: BreakerConfig,
}

/// What becomes of callers whose credentials fail again and again. Missing and expired credentials do not count.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BreakerConfig {
    /// Failures of one key (or one token's subject) from one address (IPv6: one /64) within `window`, after which it is refused
    /// from there for `block`: 429 `rate_limited`, the secret is not looked at. 0 switches the breaker off. Default: 10.
    /// Range: 0 to 1000000.
    pub failures: u32,
    /// Failures from one address, whatever the key, after which all its credentials are refused for `block`, but for those that
    /// were good from there within the last hour. Default: 50. Range: 1 to 1000000.
    pub address_failures: u32,
    /// Failures of one key from all addresses, after which addresses from which it was never good have one try a second between
    /// them. Default: 1000. Range: 1 to 1000000.
    pub key_failures: u32,
    /// How long failures are counted together. Unit: duration. Default: `1m`. Range: `1s..=1h`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub window: Duration,
    /// How long the refusal lasts. Unit: duration. Default: `1m`. Range: `1s..=1h`.
    #[serde(deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub block: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            // A deployment with a wrong secret is told so ten times; a guesser has 14,400 tries a day.
            failures: 10,
            // Many functions leave through one address: five of them may be wrong at once.
            address_failures: 50,
            key_failures: 1000,
            window: Duration::from_mins(1),
            block: Duration::from_mins(1),
        }
    }
}

/// One issuer of tokens, and what they may be good for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct JwtConfig {
    /// The `iss` of its tokens, exactly.
    pub issuer: String,
    /// What their `aud` must be, or one of what it must contain. At least one.
    pub audience: Vec<String>,
    /// The signatures that are taken. `HS256` goes with `secret` and with no other algorithm.
    pub algorithms: Vec<JwtAlgorithm>,
    /// The shared secret of HS256: at least 32 bytes.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// The secret before, taken too while tokens signed with it are about.
    #[serde(default)]
    pub previous_secret: Option<Secret>,
    /// A file with the issuer's public key (PEM) or its keys (JWKS), read at start and at each reload.
    #[serde(default)]
    pub key_file: Option<String>,
    /// Where the issuer publishes its keys (JWKS): `https://…`, or `http://` to this machine. No redirects.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// A file with the root certificates (PEM) to trust for `jwks_url`. Default: the system's.
    #[serde(default)]
    pub jwks_ca: Option<String>,
    /// How often the keys at `jwks_url` are fetched again, in the background. Unit: duration. Default: `10m`.
    /// Range: `10s..=24h`.
    #[serde(default = "refresh", deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub refresh: Duration,
    /// A token that names a key that is not known has the keys fetched again, but not sooner after the last time than this.
    /// Unit: duration. Default: `30s`. Range: `1s..=1h`.
    #[serde(default = "refetch_pause", deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub refetch_pause: Duration,
    /// How long fetched keys are good while they cannot be fetched again; after that tokens are answered with 503. Unit: duration.
    /// Default: `24h`. Range: `1m..=30d`.
    #[serde(default = "max_stale", deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub max_stale: Duration,
    /// How far the issuer's clock may be off, for `exp` and `nbf`. Unit: duration. Default: `30s`. Range: `0ms..=5m`.
    #[serde(default = "leeway", deserialize_with = "units::duration::deserialize")]
    #[schemars(with = "String")]
    pub leeway: Duration,
    /// The tenant of all its tokens. This, or `tenant_claim`.
    #[serde(default)]
    pub tenant: Option<String>,
    /// The claim that names the tenant, of the file or of the control database, which must be one of `tenants`.
    #[serde(default)]
    pub tenant_claim: Option<String>,
    /// The tenants that a token may name: names, beginnings (`acme-*`), or `*` for any.
    #[serde(default)]
    pub tenants: Vec<String>,
    /// The most that a token may do: any of `sql:read`, `sql:write`, `redis`.
    pub scopes: Vec<Scope>,
    /// The claim that says what of `scopes` a token may do: text with spaces between, or an array. Unset: all of `scopes`.
    #[serde(default)]
    pub scopes_claim: Option<String>,
    /// What a word in `scopes_claim` stands for: `{ admin = ["sql:read", "sql:write"] }`. Without it the words are scopes.
    #[serde(default)]
    pub roles: BTreeMap<String, Vec<Scope>>,
    /// The only named statements that a token may run; it may send no SQL of its own. Unset: every one, and any SQL.
    #[serde(default)]
    pub statements: Option<Vec<String>>,
    /// PostgreSQL settings from claims, in force for each request's transaction: `{ "app.user_id" = "sub" }`. `*` stands for all
    /// claims as JSON; dots lead into objects. Text as it is, other values as JSON; a claim that is not there gives empty text.
    /// A request cannot set these itself, whatever the tenant's `settings` say.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

/// A signature algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum JwtAlgorithm {
    /// HMAC with a shared secret.
    #[serde(rename = "HS256")]
    Hs256,
    /// RSA (PKCS #1), 2048 bits at least.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA over P-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

fn refresh() -> Duration {
    Duration::from_mins(10)
}

fn refetch_pause() -> Duration {
    Duration::from_secs(30)
}

fn max_stale() -> Duration {
    Duration::from_hours(24)
}

fn leeway() -> Duration {
    Duration::from_secs(30)
}

/// Adds every fault of meaning to `faults`.
pub(super) fn check(config: &Config, faults: &mut Vec<Fault>) {
    let breaker = &config.identity.breaker;
    let path = |field: &str| format!("identity.breaker.{field}");
    range(path("failures"), breaker.failures, 0..=1_000_000, faults);
    range(path("address_failures"), breaker.address_failures, 1..=1_000_000, faults);
    range(path("key_failures"), breaker.key_failures, 1..=1_000_000, faults);
    range(path("window"), breaker.window, Duration::from_secs(1)..=Duration::from_hours(1), faults);
    range(path("block"), breaker.block, Duration::from_secs(1)..=Duration::from_hours(1), faults);
    let mut issuers = HashSet::new();
    for (name, jwt) in &config.identity.jwt {
        let path = format!("identity.jwt.{name}");
        super::rules::check_name(&path, name, faults);
        if !issuers.insert(&jwt.issuer) {
            faults.push(Fault::new(format!("{path}.issuer"), "stands twice; a token would have two meanings"));
        }
        issuer(&path, jwt, config, faults);
    }
}

fn issuer(path: &str, jwt: &JwtConfig, config: &Config, faults: &mut Vec<Fault>) {
    let mut fault = |field: &str, message: String| faults.push(Fault::new(format!("{path}.{field}"), message));
    if jwt.issuer.is_empty() {
        fault("issuer", "must be the `iss` of the tokens".to_owned());
    }
    if jwt.audience.is_empty() || jwt.audience.iter().any(String::is_empty) {
        fault("audience", "must name at least one: tokens for somebody else must not be good here".to_owned());
    }
    if jwt.scopes.is_empty() {
        fault("scopes", "must name at least one of sql:read, sql:write, redis".to_owned());
    }
    if !jwt.roles.is_empty() && jwt.scopes_claim.is_none() {
        fault("roles", "means nothing without `scopes_claim`".to_owned());
    }
    for (name, claim) in &jwt.settings {
        if name.ends_with(".*") {
            fault("settings", format!("`{name}` must be one setting's name"));
        } else if let Err(message) = setting::check(name) {
            fault("settings", message);
        }
        if claim.is_empty() {
            fault("settings", format!("`{name}` must name a claim, or `*`"));
        }
    }
    let mut names: Vec<String> = jwt.settings.keys().map(|name| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        fault("settings", "a setting stands twice; their names do not differ by case".to_owned());
    }
    keys(jwt, &mut fault);
    tenants(jwt, config, &mut fault);
    let hour = Duration::from_hours(1);
    range(format!("{path}.refresh"), jwt.refresh, Duration::from_secs(10)..=24 * hour, faults);
    range(format!("{path}.refetch_pause"), jwt.refetch_pause, Duration::from_secs(1)..=hour, faults);
    range(format!("{path}.max_stale"), jwt.max_stale, Duration::from_mins(1)..=720 * hour, faults);
    range(format!("{path}.leeway"), jwt.leeway, Duration::ZERO..=Duration::from_mins(5), faults);
}

fn keys(jwt: &JwtConfig, fault: &mut impl FnMut(&str, String)) {
    let symmetric = jwt.algorithms.contains(&JwtAlgorithm::Hs256);
    if jwt.algorithms.is_empty() {
        fault("algorithms", "must name at least one of HS256, RS256, ES256, EdDSA".to_owned());
    }
    if symmetric && jwt.algorithms.iter().any(|algorithm| *algorithm != JwtAlgorithm::Hs256) {
        fault("algorithms", "HS256 cannot stand with others: a public key must never serve as a secret".to_owned());
    }
    let sources = [jwt.secret.is_some(), jwt.key_file.is_some(), jwt.jwks_url.is_some()];
    if sources.iter().filter(|there| **there).count() != 1 || (symmetric != jwt.secret.is_some()) {
        let message = "needs one of `secret` (with HS256), `key_file` and `jwks_url` (with the others)";
        fault("algorithms", message.to_owned());
    }
    if jwt.previous_secret.is_some() && jwt.secret.is_none() {
        fault("previous_secret", "means nothing without `secret`".to_owned());
    }
    for (field, secret) in [("secret", &jwt.secret), ("previous_secret", &jwt.previous_secret)] {
        match secret.as_ref().map(Secret::reveal) {
            Some(Err(message)) => fault(field, message),
            Some(Ok(secret)) if secret.len() < MIN_SECRET_BYTES => {
                fault(field, format!("must have at least {MIN_SECRET_BYTES} bytes: a shorter one can be guessed"));
            }
            _ => {}
        }
    }
    if let Some(url) = &jwt.jwks_url
        && let Err(message) = jwks_address(url)
    {
        fault("jwks_url", message);
    }
    if jwt.jwks_ca.is_some() && jwt.jwks_url.is_none() {
        fault("jwks_ca", "means nothing without `jwks_url`".to_owned());
    }
}

/// Where keys are fetched. Errors: text that says what would be right.
pub fn jwks_address(url: &str) -> Result<Uri, String> {
    let wrong = || "must be an address such as `https://login.example.com/.well-known/jwks.json`".to_owned();
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let host = uri.host().ok_or_else(wrong)?.trim_matches(['[', ']']);
    let is_own = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    match uri.scheme_str() {
        Some("https") if !has_user => Ok(uri),
        Some("http") if !has_user && is_own => Ok(uri),
        Some("http") => Err("must be `https://`: who can change the keys on their way can make tokens".to_owned()),
        _ => Err(wrong()),
    }
}

fn tenants(jwt: &JwtConfig, config: &Config, fault: &mut impl FnMut(&str, String)) {
    let mut own: Vec<&str> = Vec::new();
    match (&jwt.tenant, &jwt.tenant_claim) {
        (Some(tenant), None) => {
            if !config.tenants.contains_key(tenant) {
                fault("tenant", format!("there is no `[tenants.{tenant}]`"));
            }
            if !jwt.tenants.is_empty() {
                fault("tenants", "means nothing without `tenant_claim`".to_owned());
            }
            own.push(tenant);
        }
        (None, Some(_)) => {
            if jwt.tenants.is_empty() {
                fault("tenants", "must say which tenants a token may name: names, `acme-*`, or `*`".to_owned());
            }
            own.extend(config.tenants.keys().map(String::as_str).filter(|name| names(&jwt.tenants, name)));
        }
        _ => fault("tenant", "needs either `tenant` or `tenant_claim`".to_owned()),
    }
    // Tenants of the control database may use any of them.
    let are_stored = config.control.is_some() && jwt.tenant_claim.is_some();
    for name in jwt.statements.iter().flatten() {
        let of_file = own.iter().filter_map(|tenant| config.tenants.get(*tenant)).flat_map(|t| &t.databases);
        let mut databases = of_file.chain(config.databases.keys().filter(|_| are_stored));
        if !databases.any(|database| config.databases.get(database).is_some_and(|d| d.statements.contains_key(name))) {
            fault("statements", format!("no database of its tenants declares a statement `{name}`"));
        }
    }
}

/// True if one of the entries names the tenant.
pub fn names(entries: &[String], tenant: &str) -> bool {
    entries.iter().any(|entry| match entry.strip_suffix('*') {
        Some(beginning) => tenant.starts_with(beginning),
        None => entry == tenant,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigError, load_text};

    fn faults(jwt: &str) -> Vec<String> {
        let text = format!("[tenants.acme]\n[identity.jwt.login]\nissuer = \"i\"\naudience = [\"hearth\"]\n{jwt}");
        match load_text(&text, std::iter::empty()) {
            Ok(_) => Vec::new(),
            Err(ConfigError::Invalid(faults)) => faults.iter().map(|fault| fault.path.clone()).collect(),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn an_issuer_has_one_source_of_keys_that_goes_with_its_algorithms() {
        let rest = "tenant = \"acme\"\nscopes = [\"sql:read\"]";
        let secret = "secret = \"0123456789abcdef0123456789abcdef\"";
        for good in [
            format!("algorithms = [\"HS256\"]\n{secret}\n{rest}"),
            format!("algorithms = [\"RS256\", \"ES256\", \"EdDSA\"]\njwks_url = \"https://x.example/jwks\"\n{rest}"),
            format!("algorithms = [\"EdDSA\"]\njwks_url = \"http://[::1]:80/jwks\"\n{rest}"),
        ] {
            assert_eq!(faults(&good), Vec::<String>::new(), "{good}");
        }
        for (bad, path) in [
            (format!("algorithms = [\"HS256\", \"RS256\"]\n{secret}"), "algorithms"),
            (format!("algorithms = [\"RS256\"]\n{secret}"), "algorithms"),
            ("algorithms = [\"HS256\"]\nkey_file = \"k\"".to_owned(), "algorithms"),
            ("algorithms = [\"none\"]".to_owned(), "algorithms[0]"),
            ("algorithms = [\"HS256\"]\nsecret = \"short\"".to_owned(), "secret"),
            ("algorithms = [\"RS256\"]\njwks_url = \"http://login.example/jwks\"".to_owned(), "jwks_url"),
            ("algorithms = [\"RS256\"]\njwks_url = \"https://u:p@login.example/\"".to_owned(), "jwks_url"),
            (
                "algorithms = [\"RS256\"]\njwks_url = \"https://x/\"\nsettings = { statement_timeout = \"t\" }"
                    .to_owned(),
                "settings",
            ),
        ] {
            let told = faults(&format!("{bad}\n{rest}"));
            assert!(told.contains(&format!("identity.jwt.login.{path}")), "{bad}: {told:?}");
        }
    }

    #[test]
    fn the_tenants_that_a_token_may_name_are_listed() {
        let keys = "algorithms = [\"RS256\"]\njwks_url = \"https://x/\"\nscopes = [\"sql:read\"]";
        let claim = |more: &str| faults(&format!("{keys}\ntenant_claim = \"org\"\n{more}"));
        assert_eq!(claim(""), ["identity.jwt.login.tenants"]);
        assert_eq!(claim("tenants = [\"acme\"]\ntenant = \"acme\""), ["identity.jwt.login.tenant"]);
        assert_eq!(faults(&format!("{keys}\ntenant = \"none\"")), ["identity.jwt.login.tenant"]);
        let entries = ["acme".to_owned(), "eu-*".to_owned()];
        assert!(names(&entries, "acme") && names(&entries, "eu-1"));
        assert!(!names(&entries, "acme2") && !names(&entries, "us-1") && !names(&entries, ""));
        assert!(names(&["*".to_owned()], "any"));
    }
}
