//! One line of the audit log.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::base::{BackendName, RequestId, TenantId};

/// Statements or commands told of one request.
pub(super) const MOST_PARTS: usize = 100;

/// Who did it.
#[derive(Debug, Clone, Serialize)]
pub struct Who {
    /// On whose account.
    pub tenant: TenantId,
    /// `key`, `token` or `certificate`.
    pub via: &'static str,
    /// The key's id, the token's issuer and subject, the certificate's name.
    #[serde(serialize_with = "as_text")]
    pub identity: Arc<str>,
}

/// One thing that was done, or refused.
#[derive(Debug, Serialize)]
pub struct Event {
    /// When it began.
    pub time: Timestamp,
    /// By which request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// Who did it, where that is known.
    #[serde(flatten)]
    pub who: Option<Who>,
    /// The key that was claimed and not proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed: Option<String>,
    /// From where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// What was done.
    pub action: &'static str,
    /// Of an operator's action, where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// On which database or cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendName>,
    /// The named statement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub named: Option<String>,
    /// Fingerprints of SQL.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "in_hex")]
    pub statements: Vec<u64>,
    /// Names of Redis commands.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
    /// Statements or commands beyond those told.
    #[serde(skip_serializing_if = "is_zero")]
    pub more: usize,
    /// What a reload changed, by paths of the configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
    /// `ok`, a problem's code, or `cancelled`.
    pub outcome: &'static str,
    /// Why credentials were not taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Rows read or written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// How long it took. Unit: microseconds.
    pub duration_us: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn as_text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

fn in_hex<S: Serializer>(prints: &[u64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(prints.iter().map(|print| format!("{print:016x}")))
}

impl Event {
    /// Something that happens now.
    pub fn new(action: &'static str) -> Self {
        Self {
            time: Timestamp::now(),
            request_id: None,
            who: None,
            claimed: None,
            address: None,
            action,
            path: None,
            backend: None,
            named: None,
            statements: Vec::new(),
            commands: Vec::new(),
            more: 0,
            changes: Vec::new(),
            outcome: "ok",
            reason: None,
            rows: None,
            duration_us: 0,
        }
    }

    /// Notes a statement.
    pub fn statement(&mut self, fingerprint: u64) {
        if self.statements.len() < MOST_PARTS {
            self.statements.push(fingerprint);
        } else {
            self.more += 1;
        }
    }

    /// Notes a Redis command. What does not look like a command's name is told as `?`: it may be a value in the wrong place.
    pub fn command(&mut self, name: &[u8]) {
        if self.commands.len() >= MOST_PARTS {
            self.more += 1;
            return;
        }
        let is_name = (1..=24).contains(&name.len())
            && name.iter().all(|byte| byte.is_ascii_alphabetic() || b"._-".contains(byte));
        let name = std::str::from_utf8(name).ok().filter(|_| is_name);
        self.commands.push(name.map_or_else(|| "?".to_owned(), str::to_ascii_uppercase));
    }
}
