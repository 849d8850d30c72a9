//! A request as the layers above state it.

use std::borrow::Cow;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use reqwest::header::HeaderMap;

use crate::error::{Effect, Error, Reason};
use crate::wire::media_type;

/// What may stand in a path segment or a query as it is (RFC 3986 section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The two surfaces this crate speaks to, as they stand in the path.
pub(crate) const SQL: &str = "db";
pub(crate) const REDIS: &str = "redis";

/// `{method} /v1/{surface}/{name}{tail}`.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) surface: &'static str,
    pub(crate) name: String,
    /// What follows the name, percent-encoded.
    pub(crate) tail: Cow<'static, str>,
    /// With its media type.
    pub(crate) body: Option<(&'static str, Bytes)>,
    pub(crate) answer: Media,
    pub(crate) effect: Effect,
    pub(crate) headers: HeaderMap,
}

impl Call {
    /// JSON out, JSON back.
    pub(crate) fn post(surface: &'static str, name: String, tail: impl Into<Cow<'static, str>>, body: Vec<u8>) -> Self {
        Self {
            method: Method::POST,
            surface,
            name,
            tail: tail.into(),
            body: Some(("application/json", body.into())),
            answer: Media::Json,
            effect: Effect::AllOrNothing,
            headers: HeaderMap::new(),
        }
    }

    /// Nothing out, a stream back.
    pub(crate) fn get(surface: &'static str, name: String, tail: String, answer: Media) -> Self {
        Self { method: Method::GET, body: None, answer, ..Self::post(surface, name, tail, Vec::new()) }
    }

    pub(crate) fn with_effect(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }
}

/// What a successful answer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    Json,
    Rows,
    Events,
    /// What a COPY says.
    Data,
}

impl Media {
    /// What to ask for, where the broker offers a choice.
    pub(super) fn asked(self) -> Option<&'static str> {
        match self {
            Self::Rows => Some(media_type::NDJSON),
            Self::Events => Some("text/event-stream"),
            Self::Json | Self::Data => None,
        }
    }

    /// Tells the broker's answer from a page that a proxy put in its place.
    pub(super) fn fits(self, content_type: &str) -> bool {
        match self.asked() {
            Some(media_type) => content_type.starts_with(media_type),
            None if self == Self::Json => content_type.starts_with("application/json"),
            None => !content_type.starts_with("text/html"),
        }
    }
}

/// A name as a segment of the path. `what` is what it names, with its article.
///
/// Errors: nothing, and the two that a URL reads as a way to walk.
pub(crate) fn segment(what: &str, name: &str) -> Result<String, Error> {
    if matches!(name, "" | "." | "..") {
        let message = format!("`{name}` is no name for {what}");
        return Err(Error::new(Reason::Request(message), Effect::None));
    }
    Ok(escaped(name))
}

/// Any text as it may stand in a path or a query.
pub(crate) fn escaped(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}
