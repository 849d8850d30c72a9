//! Connections of clients, as the listener sees them.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{ActiveGuard, Counters, Gauges, family};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabels {
    listener: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    listener: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    result: &'static str,
    kind: &'static str,
    group: &'static str,
}

/// The families of the listeners. Cheap to clone.
#[derive(Clone)]
pub struct ListenerMetrics {
    open: Gauges<ListenerLabels>,
    refused: Counters<ReasonLabels>,
    closed: Counters<ReasonLabels>,
    handshakes: Counters<HandshakeLabels>,
    expires: Gauge,
}

impl ListenerMetrics {
    pub(super) fn register(r: &mut Registry) -> Self {
        let refused = "Connections of clients closed before anything was read from them, by reason";
        let closed = "Connections of clients that the broker closed since they did not do their part, by reason";
        let handshakes = "TLS handshakes by result, whether a session was resumed, and group of the key exchange";
        let expires = "When the certificate ends, in seconds since 1970; 0 without TLS";
        Self {
            open: family(r, "client_connections", "Connections of clients open now"),
            refused: family(r, "client_connections_refused", refused),
            closed: family(r, "client_connections_closed", closed),
            handshakes: family(r, "tls_handshakes", handshakes),
            expires: family(r, "tls_certificate_expiry_timestamp_seconds", expires),
        }
    }

    /// Counts a connection as open until the guard is dropped.
    pub fn open(&self, listener: &'static str) -> ActiveGuard {
        ActiveGuard::new(self.open.get_or_create_owned(&ListenerLabels { listener }))
    }

    /// Counts a connection that was not let in.
    pub fn refused(&self, listener: &'static str, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabels { listener, reason }).inc();
    }

    /// Counts a connection that was closed for a reason.
    pub fn closed(&self, listener: &'static str, reason: &'static str) {
        self.closed.get_or_create(&ReasonLabels { listener, reason }).inc();
    }

    /// Counts a handshake. The words are from closed sets.
    pub fn handshake(&self, result: &'static str, kind: &'static str, group: &'static str) {
        self.handshakes.get_or_create(&HandshakeLabels { result, kind, group }).inc();
    }

    /// Notes when the certificate ends.
    pub fn expires(&self, at: Duration) {
        self.expires.set(i64::try_from(at.as_secs()).unwrap_or(i64::MAX));
    }
}
