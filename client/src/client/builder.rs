//! What an application may choose about its client, and the defaults.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;

use super::{Client, Shared};
use crate::error::{Effect, Error, Reason};

/// Where the broker is.
const URL_VARIABLE: &str = "HEARTH_URL";
/// Who is asking.
const KEY_VARIABLE: &str = "HEARTH_KEY";

/// Most gateways in front of a function give up after 10 to 30 seconds; a statement that takes longer wants to be asked for.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// One lost SYN costs a second and two cost three; a broker that has not answered by then will not.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// With the default pauses three retries end within 350 ms, a moment a caller still bears.
const DEFAULT_MAX_RETRIES: u32 = 3;
/// Longer ones are cut to this, far over the broker's own ceiling, so that no sum of times can overflow.
pub(super) const LONGEST_TIMEOUT: Duration = Duration::from_hours(24);
/// Under the minute after which common load balancers close idle connections, so that the client closes first.
#[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(55);

/// How long the kernel lets data lie unsent or unanswered before it gives a connection up: reqwest's own number. An upload
/// that the database holds back looks the same to it, so it never ends a call before the call's own time.
#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Settings for a [`Client`].
#[derive(Clone)]
pub struct ClientBuilder {
    url: String,
    key: String,
    timeout: Duration,
    connect_timeout: Duration,
    max_retries: u32,
    user_agent: String,
}

impl ClientBuilder {
    /// Starts with a broker's address and an API key or JWT.
    pub fn new(url: &str, key: &str) -> Self {
        Self {
            url: url.trim().to_owned(),
            key: key.trim().to_owned(),
            timeout: DEFAULT_TIMEOUT,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            max_retries: DEFAULT_MAX_RETRIES,
            user_agent: concat!("hearth-client/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }

    /// Starts with `HEARTH_URL` and `HEARTH_KEY`.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    pub(super) fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let variable = |name, example| {
            let value = lookup(name).filter(|value| !value.trim().is_empty());
            value.ok_or_else(|| Error::config(format!("{name} is not set; set it to {example}")))
        };
        let url = variable(URL_VARIABLE, "the broker's address, such as https://hearth.example.com")?;
        let key = variable(KEY_VARIABLE, "an API key of the broker, or a JWT it accepts")?;
        Ok(Self::new(&url, &key))
    }

    /// The longest a call may take, retries included, where no deadline ends it sooner. A stream of rows, a download and a
    /// subscription may go on for longer: for them it ends with the answer's beginning.
    /// Unit: duration. Default: 10 s. At most 24 h.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(LONGEST_TIMEOUT);
        self
    }

    /// The longest a connection may take to open, TLS included. Without effect in a Worker or a page.
    /// Unit: duration. Default: 3 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout.min(LONGEST_TIMEOUT);
        self
    }

    /// How often a call may be tried again. Default: 3; 0 leaves retrying to the caller.
    #[must_use]
    pub fn max_retries(mut self, max_retries: u32) -> Self {
        self.max_retries = max_retries;
        self
    }

    /// How the client names itself to the broker. Default: `hearth-client/` and the version.
    #[must_use]
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = user_agent.into();
        self
    }

    /// Builds the client; opens no connection yet.
    ///
    /// Errors: an address or key that cannot be used; over `https`, a machine without a trust store.
    pub fn build(self) -> Result<Client, Error> {
        let url = checked_url(&self.url)?;
        if self.key.is_empty() {
            return Err(Error::config(format!("the key is empty; check {KEY_VARIABLE}")));
        }
        let unsendable =
            |_| Error::config(format!("the key cannot be sent in a header; check {KEY_VARIABLE} for line breaks"));
        let mut authorization = HeaderValue::try_from(format!("Bearer {}", self.key)).map_err(unsendable)?;
        authorization.set_sensitive(true);
        if HeaderValue::try_from(&self.user_agent).is_err() {
            return Err(Error::config("user agent cannot be sent in a header; use printable ASCII"));
        }
        let http = self.http(&url).map_err(|source| Error::new(Reason::Setup(source), Effect::None))?;
        let shared = Shared {
            http,
            base_url: url.as_str().trim_end_matches('/').to_owned(),
            authorization,
            timeout: self.timeout,
            max_retries: self.max_retries,
        };
        Ok(Client { shared: Arc::new(shared), deadline: None })
    }

    /// The pool of connections: HTTP/2 where TLS agrees on it, else HTTP/1.1 kept alive.
    #[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
    fn http(&self, url: &Url) -> Result<reqwest::Client, reqwest::Error> {
        let mut http = reqwest::Client::builder()
            .user_agent(&self.user_agent)
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .tcp_nodelay(true)
            // The broker never redirects, and the key must not follow anyone who does.
            .redirect(reqwest::redirect::Policy::none());
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        {
            http = http.tcp_user_timeout(TCP_USER_TIMEOUT.max(self.timeout));
        }
        if url.scheme() == "http" {
            // No certificate will be checked, so none is read: a bare container without a trust store works.
            http = http.tls_certs_only([]);
        }
        if is_loopback(url) {
            http = http.no_proxy();
        }
        http.build()
    }

    /// The host's `fetch`, which keeps its own connections.
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    fn http(&self, _url: &Url) -> Result<reqwest::Client, reqwest::Error> {
        reqwest::Client::builder().user_agent(&self.user_agent).build()
    }
}

/// Everything but the key.
impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("timeout", &self.timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("max_retries", &self.max_retries)
            .field("user_agent", &self.user_agent)
            .finish_non_exhaustive()
    }
}

/// The broker's address, with nothing in it that would end up in a log or be dropped silently.
fn checked_url(text: &str) -> Result<Url, Error> {
    let refused = |fault: &str| {
        Error::config(format!(
            "broker's address {fault}; set {URL_VARIABLE} to something like https://hearth.example.com"
        ))
    };
    let url = Url::parse(text).map_err(|_| refused("is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(refused("is not an http or https URL"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused("holds a user or password, which belong in HEARTH_KEY"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused("holds a query or fragment"));
    }
    Ok(url)
}

#[cfg(not(all(target_arch = "wasm32", target_os = "unknown")))]
fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}
