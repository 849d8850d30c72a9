//! A Redis command in the path: `GET /v1/redis/main/set/key/value?EX=60`.
//!
//! The order of the arguments is the public service's: what stands between slashes, then the body if there is one, then each
//! name and value of the query. The path is split as it came and decoded after that, so that an argument may hold a slash, and
//! bytes that are no text.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, Uri};
use percent_encoding::percent_decode;

use super::{Written, admitted, respond, run};
use crate::broker::Broker;
use crate::edge::call::{BackendPath, Call, Headers};
use crate::edge::error::Error;
use crate::encode::resp::Args;
use crate::query::command::checked;

/// `/v1/redis/{cache}/`: so many slashes stand before the command.
const SLASHES: usize = 4;
/// A name in the query that is the public service's own and no argument.
const TOKEN: &[u8] = b"_token";

/// Runs the command that the path says.
pub async fn run_path(
    State(broker): State<Arc<Broker>>,
    mut call: Call,
    BackendPath(cache): BackendPath,
    uri: Uri,
    Headers(headers): Headers,
    body: Body,
) -> Response {
    let ended = path(&broker, &mut call, &cache, &uri, &headers, body).await;
    respond(call, ended)
}

async fn path(
    broker: &Broker,
    call: &mut Call,
    cache: &str,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Written, Error> {
    let asked = admitted(broker, call, cache, headers, body).await?;
    let command = checked(arguments(uri.path(), &asked.body, uri.query()))?;
    run(call, &asked, command).await
}

fn arguments<'a>(path: &'a str, body: &'a [u8], query: Option<&'a str>) -> Args<'a> {
    let mut parts: Vec<&str> = path.split('/').skip(SLASHES).collect();
    // A slash at the end is a habit, not an empty argument.
    if parts.len() > 1 && parts.last().is_some_and(|last| last.is_empty()) {
        parts.pop();
    }
    let mut args: Args<'a> = parts.into_iter().map(|part| percent_decode(part.as_bytes()).into()).collect();
    if !body.is_empty() {
        args.push(Cow::Borrowed(body));
    }
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').map_or((pair, None), |(name, value)| (name, Some(value)));
        let name = decoded(name);
        if name != TOKEN {
            args.push(name);
            args.extend(value.map(decoded));
        }
    }
    args
}

/// In a query a plus stands for a space; in a path it does not.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if text.contains('+') {
        return Cow::Owned(percent_decode(text.replace('+', " ").as_bytes()).collect());
    }
    percent_decode(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_path_then_body_then_query() {
        let told = |path: &str, body: &str, query: Option<&str>| {
            let args = arguments(path, body.as_bytes(), query);
            args.iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect::<Vec<_>>().join("|")
        };
        for (path, body, query, args) in [
            ("/v1/redis/main/get/k", "", None, "get|k"),
            ("/v1/redis/main/set/k", "the value", Some("EX=100&NX"), "set|k|the value|EX|100|NX"),
            ("/v1/redis/main/set/a%2Fb/c+d%20e/", "", Some("_token=x&EX=1"), "set|a/b|c+d e|EX|1"),
            ("/v1/redis/main/mset/a//b/1", "", None, "mset|a||b|1"),
            ("/v1/redis/main/set/k", "", Some("a+b%2B=&x="), "set|k|a b+||x|"),
        ] {
            assert_eq!(told(path, body, query), args, "{path}");
        }
        let bytes = arguments("/v1/redis/m/set/%00%ff", b"", None);
        assert_eq!(bytes[1], &b"\x00\xff"[..]);
    }
}
