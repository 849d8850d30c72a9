//! Redis commands, one at a time or several in one round trip.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{HeaderName, HeaderValue};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::client::{Answer, Call, Client, REDIS};
use crate::error::{Effect, Error, Reason};
use crate::wire::RedisReply;

/// Asks for string replies as base64, so that bytes which are not UTF-8 survive JSON.
const ENCODING: HeaderName = HeaderName::from_static("upstash-encoding");

/// A Redis cache behind the broker. From [`Client::redis`].
///
/// A value is written as itself if it is a string or a number, else as its JSON text.
#[derive(Debug, Clone)]
pub struct Redis {
    client: Client,
    name: String,
}

impl Redis {
    pub(crate) fn new(client: Client, name: &str) -> Self {
        Self { client, name: name.to_owned() }
    }

    /// The string at `key`.
    pub async fn get(&self, key: &str) -> Result<Option<String>, Error> {
        self.run(json!(["GET", key])).await
    }

    /// The JSON text at `key` as a type of the caller's: what [`set`](Self::set) writes of anything but a string.
    pub async fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let call = self.call("", &json!(["GET", key]), Effect::None);
        let answer = self.client.send(call).await?;
        let text: Option<String> = reply(&answer)?;
        text.map(|text| serde_json::from_str(&text).map_err(|source| answer.error(Reason::Decode(source)))).transpose()
    }

    /// The bytes at `key`, UTF-8 or not.
    pub async fn get_bytes(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let mut call = self.call("", &json!(["GET", key]), Effect::None);
        call.headers.insert(ENCODING, HeaderValue::from_static("base64"));
        let answer = self.client.send(call).await?;
        let Some(text) = reply::<Option<String>>(&answer)? else { return Ok(None) };
        // A value "OK" is the one string the protocol leaves as it is; as base64 it could never stand for whole bytes.
        if text == "OK" {
            return Ok(Some(text.into_bytes()));
        }
        STANDARD.decode(text).map(Some).map_err(|_| answer.error(Reason::Shape("the reply is not base64")))
    }

    /// Sets `key` to `value`, for good.
    pub async fn set(&self, key: &str, value: impl Serialize) -> Result<(), Error> {
        let value = argument(value)?;
        self.run_for_effect(json!(["SET", key, value])).await
    }

    /// Sets `key` to `value` for `lifetime`. Units: whole milliseconds.
    pub async fn set_ex(&self, key: &str, value: impl Serialize, lifetime: Duration) -> Result<(), Error> {
        let value = argument(value)?;
        self.run_for_effect(json!(["SET", key, value, "PX", millis(lifetime)])).await
    }

    /// Deletes `key`; says whether it was there.
    pub async fn del(&self, key: &str) -> Result<bool, Error> {
        Ok(self.run::<u64>(json!(["DEL", key])).await? > 0)
    }

    /// Adds one to the integer at `key`, which starts at zero; gives the sum.
    pub async fn incr(&self, key: &str) -> Result<i64, Error> {
        self.run(json!(["INCR", key])).await
    }

    /// Lets `key` live for `lifetime` from now; says whether it was there. Units: whole milliseconds.
    pub async fn expire(&self, key: &str, lifetime: Duration) -> Result<bool, Error> {
        Ok(self.run::<u64>(json!(["PEXPIRE", key, millis(lifetime)])).await? > 0)
    }

    /// Any command: `command(["HGETALL", "user:1"])`, or with mixed arguments `command(("EXPIRE", "user:1", 60))`.
    ///
    /// Shape: strings, integers, null and nested arrays.
    pub async fn command(&self, command: impl Serialize) -> Result<Value, Error> {
        self.run(arguments(command)?).await
    }

    /// Starts several commands that travel together.
    pub fn pipeline(&self) -> Pipeline {
        Pipeline { redis: self.clone(), tail: "/pipeline", commands: Vec::new(), unusable: None }
    }

    async fn run_for_effect(&self, command: Value) -> Result<(), Error> {
        self.run::<serde::de::IgnoredAny>(command).await.map(drop)
    }

    async fn run<T: DeserializeOwned>(&self, command: Value) -> Result<T, Error> {
        let call = self.call("", &command, effect_of(&command));
        reply(&self.client.send(call).await?)
    }

    fn call(&self, tail: &'static str, body: &Value, effect: Effect) -> Call {
        Call::post(REDIS, self.name.clone(), tail, body.to_string().into_bytes()).with_effect(effect)
    }
}

/// Several commands in one round trip. From [`Redis::pipeline`].
#[derive(Debug)]
#[must_use = "nothing is sent before `send` is awaited"]
pub struct Pipeline {
    redis: Redis,
    tail: &'static str,
    commands: Vec<Value>,
    /// The first command that could not be written, kept until `send` can report it.
    unusable: Option<Error>,
}

impl Pipeline {
    /// As [`Redis::get`].
    pub fn get(self, key: &str) -> Self {
        self.command(["GET", key])
    }

    /// As [`Redis::set`].
    pub fn set(self, key: &str, value: impl Serialize) -> Self {
        self.push(argument(value).map(|value| json!(["SET", key, value])))
    }

    /// As [`Redis::set_ex`].
    pub fn set_ex(self, key: &str, value: impl Serialize, lifetime: Duration) -> Self {
        self.push(argument(value).map(|value| json!(["SET", key, value, "PX", millis(lifetime)])))
    }

    /// As [`Redis::del`]; the reply is a number.
    pub fn del(self, key: &str) -> Self {
        self.command(["DEL", key])
    }

    /// As [`Redis::incr`].
    pub fn incr(self, key: &str) -> Self {
        self.command(["INCR", key])
    }

    /// As [`Redis::expire`]; the reply is a number.
    pub fn expire(self, key: &str, lifetime: Duration) -> Self {
        self.push(Ok(json!(["PEXPIRE", key, millis(lifetime)])))
    }

    /// As [`Redis::command`].
    pub fn command(self, command: impl Serialize) -> Self {
        self.push(arguments(command))
    }

    /// Runs the commands as one transaction (MULTI, EXEC), with nothing of anyone else's between them.
    pub fn atomic(mut self) -> Self {
        self.tail = "/multi-exec";
        self
    }

    /// Sends the commands. Gives one result each, in their order: a command that fails leaves the others alone.
    pub async fn send(self) -> Result<Vec<Result<Value, Error>>, Error> {
        if let Some(error) = self.unusable {
            return Err(error);
        }
        let effects: Vec<_> = self.commands.iter().map(effect_of).collect();
        let effect = match effects.iter().copied().max().unwrap_or(Effect::None) {
            // A plain pipeline that fails as a whole may have run in part.
            Effect::AllOrNothing if self.tail == "/pipeline" => Effect::Piecemeal,
            most => most,
        };
        let call = self.redis.call(self.tail, &Value::Array(self.commands), effect);
        let answer = self.redis.client.send(call).await?;
        let replies: Vec<RedisReply<Value>> = answer.decode()?;
        if replies.len() != effects.len() {
            return Err(answer.error(Reason::Shape("it holds another number of replies than commands")));
        }
        let results = replies.into_iter().zip(effects).map(|(reply, effect)| match reply {
            RedisReply::Result { result } => Ok(result),
            RedisReply::Error { error: message } => {
                let request_id = answer.request_id().map(str::to_owned);
                Err(Error::new(Reason::Redis { status: None, message }, effect).with_request_id(request_id))
            }
        });
        Ok(results.collect())
    }

    fn push(mut self, command: Result<Value, Error>) -> Self {
        match command {
            Ok(command) => self.commands.push(command),
            Err(error) => {
                self.unusable.get_or_insert(error);
            }
        }
        self
    }
}

/// One reply out of an answer.
fn reply<T: DeserializeOwned>(answer: &Answer) -> Result<T, Error> {
    match answer.decode()? {
        RedisReply::Result { result } => Ok(result),
        RedisReply::Error { error: message } => Err(answer.error(Reason::Redis { status: None, message })),
    }
}

/// A command as the array it is sent as, each argument in the shape Redis takes.
fn arguments(command: impl Serialize) -> Result<Value, Error> {
    match to_value(command)? {
        Value::Array(parts) if !parts.is_empty() => Ok(parts.into_iter().map(flattened).collect()),
        _ => {
            let message = "redis command is not a list; give an array such as [\"GET\", \"key\"], or a tuple";
            Err(Error::new(Reason::Request(message.to_owned()), Effect::None))
        }
    }
}

fn argument(value: impl Serialize) -> Result<Value, Error> {
    Ok(flattened(to_value(value)?))
}

/// Redis knows byte strings only: a string or number stays itself, anything else becomes its JSON text.
fn flattened(value: Value) -> Value {
    match value {
        Value::String(_) | Value::Number(_) => value,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => Value::String(value.to_string()),
    }
}

fn to_value(value: impl Serialize) -> Result<Value, Error> {
    let what = || "redis argument".to_owned();
    serde_json::to_value(value).map_err(|source| Error::new(Reason::Encode { what: what(), source }, Effect::None))
}

fn millis(lifetime: Duration) -> u64 {
    u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX)
}

/// What a command can have changed, by its name; a name not listed is taken to write all or nothing.
fn effect_of(command: &Value) -> Effect {
    let name = command[0].as_str().unwrap_or_default().to_ascii_uppercase();
    match name.as_str() {
        "GET" | "MGET" | "EXISTS" | "STRLEN" | "TTL" | "PTTL" | "TYPE" | "PING" | "HGET" | "HGETALL" | "HMGET"
        | "LRANGE" | "LLEN" | "SMEMBERS" | "SISMEMBER" | "SCARD" | "ZRANGE" | "ZSCORE" | "ZCARD" | "SCAN" => {
            Effect::None
        }
        "EVAL" | "EVALSHA" | "FCALL" => Effect::Piecemeal,
        _ => Effect::AllOrNothing,
    }
}

#[cfg(test)]
mod tests;
