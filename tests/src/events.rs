//! Reading server-sent events.

use std::time::Duration;

use reqwest::Response;
use serde_json::Value;
use tokio::time::timeout;

/// The longest any event may take to come, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name; empty for an unnamed one.
    pub name: String,
    /// Its data.
    pub data: Value,
}

/// A stream of events.
#[derive(Debug)]
pub struct Events {
    response: Response,
    text: Vec<u8>,
}

impl Events {
    /// Takes over a response.
    pub fn new(response: Response) -> Self {
        Self { response, text: Vec::new() }
    }

    /// The headers it began with.
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.response.headers().get_all(name).iter().map(|value| value.to_str().expect("is text")).collect()
    }

    /// The next event; comments are passed over. `None` at the end.
    pub async fn next(&mut self) -> Option<Event> {
        timeout(PATIENCE, self.read()).await.expect("an event comes in time")
    }

    /// The next event's payload. Panics with the event if it is no notification.
    pub async fn payload(&mut self) -> String {
        let event = self.next().await.expect("goes on");
        assert_eq!(event.name, "", "{event:?}");
        event.data["payload"].as_str().expect("has a payload").to_owned()
    }

    /// The next event must have this name; answers its data.
    #[track_caller]
    pub fn expect(&mut self, name: &str) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        async move {
            let event = self.next().await.unwrap_or_else(|| panic!("no `{name}` but the end, at {caller}"));
            assert_eq!(event.name, name, "{event:?} at {caller}");
            event.data
        }
    }

    async fn read(&mut self) -> Option<Event> {
        loop {
            while let Some(end) = self.text.windows(2).position(|pair| pair == b"\n\n") {
                let whole: Vec<u8> = self.text.drain(..end + 2).collect();
                let (mut name, mut data) = (String::new(), Value::Null);
                for line in String::from_utf8(whole).expect("is text").lines() {
                    match line.split_once(": ") {
                        Some(("event", text)) => text.clone_into(&mut name),
                        Some(("data", text)) => data = serde_json::from_str(text).expect("is JSON"),
                        _ => {}
                    }
                }
                if !data.is_null() {
                    return Some(Event { name, data });
                }
            }
            self.text.extend_from_slice(&self.response.chunk().await.expect("the stream ends well")?);
        }
    }
}
