//! Answers in the encoding that the caller asks for (`Accept-Encoding`): zstd, br or gzip.

use std::convert::Infallible;
use std::future::ready;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use futures_util::future::{BoxFuture, Either};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, ETAG};
use http::{HeaderMap, HeaderValue};
use tower::{ServiceExt, service_fn};
use tower_http::CompressionLevel;
use tower_http::compression::Compression;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};

/// A smaller answer fits into one packet with its headers, and gains nothing. Unit: bytes.
const MIN_BYTES: u16 = 1024;

/// Runs the request, and compresses what comes out of it where the caller asks for that. A caller that does not ask pays
/// for one look at the headers.
///
/// At the fastest level: on rows as JSON it takes off most of what the slower ones do, and what remains of a core belongs to
/// other callers. Streams flow: what there is goes out as soon as nothing more is there. Event streams stay as they are,
/// since what reads them wants each event at once and often cannot decode.
pub fn run<F>(request: Request, answer: impl FnOnce(Request) -> F) -> Either<F, BoxFuture<'static, Response>>
where
    F: Future<Output = Response> + Send + 'static,
{
    let accepted = request.headers().get_all(ACCEPT_ENCODING).iter();
    let accepted: HeaderMap = accepted.map(|value| (ACCEPT_ENCODING, value.clone())).collect();
    let answer = answer(request);
    // Boxed, so that a request that asks for nothing does not carry the room for it along.
    if accepted.is_empty() { Either::Left(answer) } else { Either::Right(Box::pin(compressed(accepted, answer))) }
}

async fn compressed(accepted: HeaderMap, answer: impl Future<Output = Response>) -> Response {
    let mut answer = Some(answer.await);
    let answered = move |_: http::Request<()>| {
        let answer = answer.take().expect("is asked once");
        ready(Ok::<_, Infallible>(answer))
    };
    let worth_it = SizeAbove::new(MIN_BYTES).and(NotForContentType::const_new("text/event-stream"));
    let service = Compression::new(service_fn(answered)).quality(CompressionLevel::Fastest).compress_when(worth_it);
    let mut asked = http::Request::new(());
    *asked.headers_mut() = accepted;
    let Ok(response) = service.oneshot(asked).await;
    let mut response = response.map(Body::new);
    if response.headers().contains_key(CONTENT_ENCODING) {
        weaken_etag(response.headers_mut());
    }
    response
}

/// A strong tag promises the same bytes, which another encoding does not have. Source: RFC 9110 section 8.8.1.
fn weaken_etag(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")) else { return };
    let weak = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat());
    headers.insert(ETAG, weak.expect("a tag stays header text with two letters before it"));
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZstdDecoder};
    use axum::Router;
    use axum::routing::get;
    use bytes::Bytes;
    use futures_util::{TryStreamExt, stream};
    use http::HeaderName;
    use http::header::{CONTENT_LENGTH, CONTENT_TYPE, VARY};
    use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt};
    use tokio::sync::mpsc;
    use tokio_util::io::StreamReader;

    use super::*;
    use crate::edge::guarded;
    use crate::server::routes::routed;

    async fn asked(handler: Router, accept: &str) -> Response {
        let request = Request::get("/").header(ACCEPT_ENCODING, accept).body(Body::empty()).expect("a request");
        run(request, |request| routed(&handler, request)).await
    }

    fn decoder<'a>(encoding: &str, raw: impl AsyncBufRead + Unpin + 'a) -> Box<dyn AsyncRead + Unpin + 'a> {
        match encoding {
            "gzip" => Box::new(GzipDecoder::new(raw)),
            "br" => Box::new(BrotliDecoder::new(raw)),
            "zstd" => Box::new(ZstdDecoder::new(raw)),
            other => panic!("{other}"),
        }
    }

    fn encoding(response: &Response) -> &str {
        response.headers().get(CONTENT_ENCODING).map_or("", |value| value.to_str().expect("is text"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickling_body_flows_and_may_end_as_plain_streams_do() {
        for name in ["gzip", "br", "zstd"] {
            let (rows, inner) = mpsc::channel::<&'static str>(1);
            let inner = std::sync::Mutex::new(Some(inner));
            let handler = async move || {
                let inner = inner.lock().expect("is whole").take().expect("is asked once");
                // Unfolding panics when it is polled after its end.
                let rows = stream::unfold(inner, async |mut inner| {
                    inner.recv().await.map(|row| (Ok::<_, io::Error>(Bytes::from_static(row.as_bytes())), inner))
                });
                guarded::until_sent(Response::new(Body::from_stream(rows)), ())
            };
            let handler = std::sync::Arc::new(handler);
            let router = Router::new().route("/", get(async move || handler().await));
            let response = asked(router, name).await;
            assert_eq!(encoding(&response), name);
            let mut raw = StreamReader::new(response.into_body().into_data_stream().map_err(io::Error::other));
            let mut read = decoder(name, &mut raw);
            for row in ["{\"n\":1}\n", "{\"n\":2}\n"] {
                rows.send(row).await.expect("is read");
                let mut got = vec![0; row.len()];
                let in_time = tokio::time::timeout(Duration::from_secs(1), read.read_exact(&mut got)).await;
                in_time.expect("not held back").expect("decodes");
                assert_eq!(got, row.as_bytes(), "{name}");
            }
            drop(rows);
            assert_eq!(read.read_to_end(&mut Vec::new()).await.expect("ends well"), 0, "{name}");
            drop(read);
            assert!(raw.fill_buf().await.expect("ends well").is_empty(), "{name}");
        }
    }

    #[tokio::test]
    async fn only_what_gains_is_compressed() {
        let large = || "row ".repeat(1000);
        let answer = |header: Option<(HeaderName, &str)>, text: String| {
            let headers: HeaderMap =
                header.map(|(name, value)| (name, value.parse().expect("header text"))).into_iter().collect();
            Router::new().route("/", get(async move || (headers, text)))
        };
        for (accept, chosen) in [
            ("gzip, br, zstd", "zstd"),
            ("gzip;q=1, br;q=0.5", "gzip"),
            ("br", "br"),
            ("identity", ""),
            ("x, gzip;q=0", ""),
        ] {
            let response = asked(answer(Some((ETAG, "\"1\"")), large()), accept).await;
            assert_eq!(encoding(&response), chosen, "{accept}");
            assert_eq!(response.headers()[VARY], "accept-encoding");
            assert_eq!(response.headers()[ETAG], if chosen.is_empty() { "\"1\"" } else { "W/\"1\"" });
            assert_eq!(response.headers().contains_key(CONTENT_LENGTH), chosen.is_empty());
        }
        let weak = asked(answer(Some((ETAG, "W/\"1\"")), large()), "zstd").await;
        assert_eq!((encoding(&weak), &weak.headers()[ETAG]), ("zstd", &HeaderValue::from_static("W/\"1\"")));
        let small = asked(answer(None, "row ".to_owned()), "zstd").await;
        assert_eq!((encoding(&small), &small.headers()[CONTENT_LENGTH]), ("", &HeaderValue::from_static("4")));
        let events = asked(answer(Some((CONTENT_TYPE, "text/event-stream")), large()), "zstd").await;
        assert_eq!(encoding(&events), "");
    }
}
