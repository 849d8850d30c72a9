//! What the broker answered, read once.

use reqwest::Response;
use reqwest::header::HeaderMap;
use serde_json::Value;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, if it is JSON; else null.
    pub body: Value,
    /// The body as text.
    pub text: String,
}

impl Answer {
    /// Reads a response to its end.
    pub async fn read(response: Response) -> Self {
        Self::whole(response).await.expect("the body arrives")
    }

    /// Reads a response to its end; `None` where it is cut.
    pub async fn whole(response: Response) -> Option<Self> {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.ok()?;
        Some(Self { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::Null), text })
    }

    /// The problem's code; empty without one.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// A header's text; empty without it.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The first value of the first row, of an answer with object rows.
    pub fn first(&self) -> &Value {
        self.body["rows"][0].as_object().and_then(|row| row.values().next()).unwrap_or(&Value::Null)
    }

    /// Asserts the whole of a problem: status, code, outcome, a page that exists, a request id.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, code: &str, outcome: &str) {
        assert_eq!((self.status, self.code()), (status, code), "{}", self.text);
        assert_eq!(self.body["outcome"], outcome, "{}", self.text);
        assert_eq!(self.body["type"], format!("/problems/{code}"));
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.body["request_id"], self.header("x-request-id"));
        assert_eq!(self.body["status"], status);
        assert!(self.body["detail"].as_str().is_some_and(|detail| detail.len() > 5), "{}", self.text);
        assert_eq!(self.body["retry_after_ms"].is_null(), self.header("retry-after").is_empty());
    }
}
