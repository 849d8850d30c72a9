//! SQL over HTTP: read, admit, run, write. A file an endpoint; what they share is here.

pub mod batch;
pub mod copy;
pub mod problems;
pub mod query;
pub mod statement;
pub mod streamed;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use http::header::ACCEPT;

use super::auth::Principal;
use super::call::Call;
use super::error::Error;
use super::header;
use super::routing::{consistency, lanes, shard};
use crate::base::Deadline;
use crate::broker::Broker;
use crate::config::Scope;
use crate::encode::LineFormat;
use crate::observe::RouteMetrics;
use crate::pool::{Consistency, Database};
use crate::query::{Answer, Caller, Failure, Habits, Limits, QueryError, Run, Streaming, Unit};
use crate::tenant::Tenant;

/// Who asks what of which database, by when: let in, and not read yet.
pub struct Asked<'b> {
    broker: &'b Broker,
    principal: Principal,
    caller: Caller,
    database: Arc<Database>,
    metrics: RouteMetrics,
    at_least: Option<Consistency>,
    lanes: bool,
    deadline: Deadline,
}

impl<'b> Asked<'b> {
    /// Lets a request in. It has named its deadline in `call`.
    fn new(
        broker: &'b Broker,
        call: &mut Call,
        (principal, deadline): (Principal, Deadline),
        database: &str,
        headers: &HeaderMap,
    ) -> Result<Self, Error> {
        principal.needs(&[Scope::SqlRead, Scope::SqlWrite])?;
        let found = principal.tenant.databases.get(database);
        let (database, metrics) = found.ok_or_else(|| Error::UnknownDatabase(database.to_owned()))?;
        let metrics = metrics.clone();
        let database = shard(broker, database, headers)?;
        let at_least = consistency(headers)?;
        let lanes = lanes(headers)? && principal.tenant.lanes;
        call.note(|event| event.backend = Some(database.name().clone()));
        call.admit(&principal.tenant, &metrics)?;
        if headers.contains_key(&header::IDEMPOTENCY_KEY) {
            // To take the header and not keep its promise would be worse than to refuse.
            return Err(Error::Invalid("Idempotency-Key is not supported by this broker yet".to_owned()));
        }
        let caller = Caller { request: call.request_id.clone(), account: Arc::clone(&principal.tenant.account) };
        Ok(Self { broker, principal, caller, database, metrics, at_least, lanes, deadline })
    }

    fn tenant(&self) -> &Tenant {
        &self.principal.tenant
    }

    fn may_write(&self) -> bool {
        self.principal.has(Scope::SqlWrite)
    }

    fn habits(&self) -> &Habits {
        &self.broker.habits[self.database.name()]
    }

    /// The lower of the request's ceiling and the tenant's.
    fn most_rows(&self, asked: Option<u64>) -> Option<u64> {
        asked.into_iter().chain(self.tenant().limits.max_rows).min()
    }

    /// The settings of the request's transaction: what it asks for, and what comes with who is asking. Errors: a setting that the
    /// tenant may not set, or that a token sets.
    fn settings<'s>(&self, asked: &'s BTreeMap<String, String>) -> Result<Cow<'s, BTreeMap<String, String>>, Error> {
        let fixed = &self.principal.settings;
        for name in asked.keys() {
            if self.principal.fixes_setting(name) {
                return Err(Error::SettingFixed(name.clone()));
            }
            if !self.tenant().allows_setting(name) {
                return Err(Error::SettingNotAllowed(name.clone()));
            }
        }
        if fixed.is_empty() {
            return Ok(Cow::Borrowed(asked));
        }
        let both = asked.iter().chain(fixed).map(|(name, value)| (name.clone(), value.clone()));
        Ok(Cow::Owned(both.collect()))
    }

    /// Notes what was used, and where the request went, where there is a choice of servers.
    fn tell(&self, call: &mut Call, answer: &Answer) {
        call.used_rows(|| answer.rows());
        if self.database.is_replicated() {
            call.went(answer.written, answer.by_replica);
        }
    }

    /// A unit to be run and answered whole.
    fn run<'a>(&'a self, unit: &'a Unit<'a>, earlier: &'a [Vec<u8>], max_rows: Option<u64>) -> Run<'a> {
        let spent: usize = earlier.iter().map(Vec::len).sum();
        let max_bytes = self.tenant().limits.max_result_bytes.saturating_sub(spent as u64);
        Run {
            database: &self.database,
            unit,
            earlier,
            deadline: self.deadline,
            at_least: self.at_least,
            lanes: self.lanes,
            limits: Limits { max_bytes, max_rows: self.most_rows(max_rows) },
            caller: &self.caller,
            metrics: &self.metrics,
            habits: self.habits(),
        }
    }

    /// A unit to be answered as it comes.
    fn streaming<'a>(&'a self, unit: &'a Unit<'a>, format: Option<LineFormat>, max_rows: Option<u64>) -> Streaming<'a> {
        Streaming {
            database: &self.database,
            unit,
            at_least: self.at_least,
            format,
            deadline: self.deadline,
            over_by: Deadline::after(self.tenant().limits.stream_timeout),
            max_row_bytes: self.tenant().limits.max_result_bytes,
            max_rows: self.most_rows(max_rows),
            reader_timeout: self.broker.server.reader_timeout,
            caller: &self.caller,
            metrics: &self.metrics,
        }
    }

    /// The longest that a stream's statement may run, for the server. Unit: milliseconds, as text.
    fn stream_timeout_ms(&self) -> String {
        (self.tenant().limits.stream_timeout.as_millis() + 1_000).to_string()
    }
}

/// Tells the audit log what is run.
fn note(call: &mut Call, unit: &Unit<'_>) {
    call.note(|event| unit.statements.iter().for_each(|statement| event.statement(statement.fingerprint())));
}

/// A failure of the only statement needs no number.
fn unnumbered(failure: Failure) -> QueryError {
    failure.error
}

/// The streamed format that the caller asks for: the first it names that there is. Errors: none that there is.
pub fn line_format(headers: &HeaderMap) -> Result<Option<LineFormat>, Error> {
    let Some(accept) = headers.get(ACCEPT) else { return Ok(None) };
    let accept = accept.to_str().unwrap_or_default();
    for part in accept.split(',') {
        match part.split(';').next().unwrap_or_default().trim() {
            "application/x-ndjson" => return Ok(Some(LineFormat::Ndjson)),
            "text/csv" => return Ok(Some(LineFormat::Csv)),
            "" | "*/*" | "application/*" | "application/json" | "application/problem+json" => return Ok(None),
            _ => {}
        }
    }
    Err(Error::Invalid(format!("`Accept: {accept}`: there are application/json, application/x-ndjson and text/csv")))
}

/// A name or a value of an address, decoded.
fn decoded(text: &str) -> Result<String, Error> {
    let spaced = text.replace('+', " ");
    let decoded = percent_encoding::percent_decode_str(&spaced).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| Error::Invalid("the address is not UTF-8".to_owned()))
}
