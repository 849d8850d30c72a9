//! A database's address: what the driver's own parser knows, and the parameters it does not.

use std::path::PathBuf;
use std::str::FromStr;

use tokio_postgres::config::SslMode;

use crate::base::chain;

/// How far TLS to the database goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// When the server offers it; the certificate is not verified, as with libpq.
    Prefer,
    /// Always, and the certificate and its host name must hold.
    Verify,
}

/// A parsed database address.
#[derive(Debug, Clone)]
pub struct DatabaseUrl {
    /// What the driver needs; without a password.
    pub postgres: tokio_postgres::Config,
    /// How far TLS goes.
    pub tls: TlsMode,
    /// Roots to trust in place of the system's.
    pub root_cert: Option<PathBuf>,
}

/// Parses a database URL. Errors: text that says what is wrong, without the URL (a password may stand in it).
pub fn database_url(text: &str) -> Result<DatabaseUrl, String> {
    if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
        return Err("must start with postgres://".to_owned());
    }
    let (base, query) = text.split_once('?').unwrap_or((text, ""));
    let mut tls = TlsMode::Prefer;
    let mut root_cert = None;
    let mut kept = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("sslmode", mode) => tls = tls_mode(mode)?,
            ("sslrootcert", path) => root_cert = Some(PathBuf::from(percent_decoded(path)?)),
            ("target_session_attrs", _) => {
                return Err("`target_session_attrs` is not needed: list one server a URL".to_owned());
            }
            _ => kept.push(pair),
        }
    }
    let rest = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
    let mut postgres = tokio_postgres::Config::from_str(&rest).map_err(|error| chain(&error))?;
    if postgres.get_hosts().len() != 1 {
        return Err("must name one host".to_owned());
    }
    if postgres.get_user().is_none() {
        return Err("must name the login role: postgres://user@host/database".to_owned());
    }
    if postgres.get_dbname().is_none() {
        return Err("must name the database: postgres://user@host/database".to_owned());
    }
    postgres.ssl_mode(match tls {
        TlsMode::Disable => SslMode::Disable,
        TlsMode::Prefer => SslMode::Prefer,
        TlsMode::Verify => SslMode::Require,
    });
    Ok(DatabaseUrl { postgres, tls, root_cert })
}

fn tls_mode(mode: &str) -> Result<TlsMode, String> {
    match mode {
        "disable" => Ok(TlsMode::Disable),
        "prefer" => Ok(TlsMode::Prefer),
        "require" | "verify-full" => Ok(TlsMode::Verify),
        "verify-ca" => Err("sslmode=verify-ca is not supported; use verify-full".to_owned()),
        other => Err(format!("sslmode={other} is none of disable, prefer, require, verify-full")),
    }
}

fn percent_decoded(text: &str) -> Result<String, String> {
    percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| "sslrootcert is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_the_driver_does_not_know_are_taken_off() {
        let url = database_url("postgres://u@h:1/d?sslmode=verify-full&sslrootcert=%2Fca.pem&connect_timeout=3")
            .expect("parses");
        assert_eq!(url.tls, TlsMode::Verify);
        assert_eq!(url.root_cert, Some(PathBuf::from("/ca.pem")));
        assert_eq!(url.postgres.get_ssl_mode(), SslMode::Require);
        assert_eq!(url.postgres.get_connect_timeout(), Some(&std::time::Duration::from_secs(3)));
    }

    #[test]
    fn a_url_that_names_too_little_says_what_is_missing() {
        for (text, told) in [
            ("mysql://u@h/d", "postgres://"),
            ("postgres://h/d", "login role"),
            ("postgres://u@h", "database"),
            ("postgres://u@h/d?sslmode=maybe", "maybe"),
            ("postgres://u@h/d?nonsense=1", "nonsense"),
        ] {
            let error = database_url(text).expect_err(text);
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
