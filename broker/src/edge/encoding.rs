//! A request body as it was before its sender compressed it (`Content-Encoding`).

use std::io;
use std::pin::Pin;

use async_compression::codecs::zstd::params::DParameter;
use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZstdDecoder};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt};
use tokio_util::io::{ReaderStream, StreamReader};

use super::body::broken;
use super::error::Error;

/// The largest window a sender may ask the broker to keep, as a power of two: what RFC 9659 allows on the web. Without it
/// a few bytes could claim 128 MiB.
const ZSTD_WINDOW_LOG: u32 = 23;
/// Room for each read of a body whose end is not known.
const CHUNK_BYTES: usize = 16 << 10;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// RFC 1952.
    Gzip,
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
}

impl Encoding {
    /// What the headers say; `None` for a body that is sent as it is.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Error> {
        let mut named = headers.get_all(CONTENT_ENCODING).iter().filter(|value| !is(value.as_bytes(), "identity"));
        let Some(value) = named.next() else { return Ok(None) };
        let value = value.as_bytes();
        let known = match () {
            () if is(value, "gzip") || is(value, "x-gzip") => Some(Self::Gzip),
            () if is(value, "br") => Some(Self::Brotli),
            () if is(value, "zstd") => Some(Self::Zstd),
            () => None,
        };
        if known.is_none() || named.next().is_some() {
            let text = "Content-Encoding must be one of gzip, br and zstd, or be left out";
            return Err(Error::Invalid(text.to_owned()));
        }
        Ok(known)
    }

    fn decoder<'a>(self, raw: impl AsyncBufRead + Send + 'a) -> Pin<Box<dyn AsyncRead + Send + 'a>> {
        match self {
            Self::Gzip => {
                let mut decoder = GzipDecoder::new(raw);
                decoder.multiple_members(true);
                Box::pin(decoder)
            }
            Self::Brotli => Box::pin(BrotliDecoder::new(raw)),
            Self::Zstd => {
                let window = DParameter::window_log_max(ZSTD_WINDOW_LOG);
                let mut decoder = ZstdDecoder::with_params(raw, &[window]);
                decoder.multiple_members(true);
                Box::pin(decoder)
            }
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }
}

fn is(value: &[u8], name: &str) -> bool {
    value.trim_ascii().eq_ignore_ascii_case(name.as_bytes())
}

/// The body of a request that reads it piece by piece. It counts nothing: who reads it to its end sets the bound.
pub fn decoded(headers: &HeaderMap, body: Body) -> Result<Body, Error> {
    Ok(match Encoding::of(headers)? {
        None => body,
        Some(encoding) => Body::from_stream(ReaderStream::with_capacity(encoding.decoder(raw(body)), CHUNK_BYTES)),
    })
}

/// Reads a compressed body that has at most `limit` bytes when it is no longer compressed.
///
/// Decompressing ends with the limit, so that a body costs no more than twice the limit, whatever it claims to become. The
/// compressed bytes that follow are still read, up to `drained`, for the sender to see the answer.
pub async fn collect(encoding: Encoding, body: Body, limit: u64, drained: u64) -> Result<Bytes, Error> {
    let mut raw = raw(body);
    let read = fill(encoding.decoder(&mut raw), limit).await;
    if read.is_err() || read.as_ref().is_ok_and(Option::is_none) {
        drain(&mut raw, drained).await;
    }
    match read {
        Ok(whole) => whole.ok_or(Error::RequestTooLarge { limit }),
        Err(error) => Err(if let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref()) {
            broken(cause)
        } else {
            let name = encoding.as_str();
            Error::Invalid(format!("the request body is not {name}, as its Content-Encoding says: {error}"))
        }),
    }
}

fn raw(body: Body) -> impl AsyncBufRead + Send + Unpin {
    StreamReader::new(body.into_data_stream().map_err(io::Error::other))
}

/// All that the decoder has; `None` if that is more than `limit` bytes.
async fn fill(mut decoder: Pin<Box<dyn AsyncRead + Send + '_>>, limit: u64) -> io::Result<Option<Bytes>> {
    let mut whole = BytesMut::new();
    loop {
        whole.reserve(CHUNK_BYTES);
        let read = decoder.read_buf(&mut whole).await?;
        if whole.len() as u64 > limit {
            return Ok(None);
        }
        if read == 0 {
            return Ok(Some(whole.freeze()));
        }
    }
}

/// Reads on and throws away, to the end or for `bytes`.
async fn drain(raw: &mut (impl AsyncBufRead + Unpin), bytes: u64) {
    let mut left = bytes;
    // A body that breaks off here has an answer already.
    while let Ok(piece) = raw.fill_buf().await {
        let length = piece.len();
        if length == 0 || length as u64 > left {
            return;
        }
        left -= length as u64;
        raw.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use async_compression::tokio::bufread::{BrotliEncoder, GzipEncoder, ZstdEncoder};
    use proptest::prelude::*;

    use super::*;

    const ALL: [Encoding; 3] = [Encoding::Gzip, Encoding::Brotli, Encoding::Zstd];

    async fn compressed(encoding: Encoding, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let done = match encoding {
            Encoding::Gzip => GzipEncoder::new(plain).read_to_end(&mut out).await,
            Encoding::Brotli => BrotliEncoder::new(plain).read_to_end(&mut out).await,
            Encoding::Zstd => ZstdEncoder::new(plain).read_to_end(&mut out).await,
        };
        done.expect("compresses");
        out
    }

    fn named(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_ENCODING, value.parse().expect("header text"))])
    }

    #[test]
    fn known_names_are_read_and_others_refused_with_those_that_work() {
        for (value, encoding) in [
            ("gzip", Some(Encoding::Gzip)),
            (" X-GZIP ", Some(Encoding::Gzip)),
            ("br", Some(Encoding::Brotli)),
            ("Zstd", Some(Encoding::Zstd)),
            ("identity", None),
        ] {
            assert_eq!(Encoding::of(&named(value)).expect(value), encoding);
        }
        assert_eq!(Encoding::of(&HeaderMap::new()).expect("nothing said"), None);
        let mut twice = named("gzip");
        twice.append(CONTENT_ENCODING, "br".parse().expect("header text"));
        for headers in [named("deflate"), named("gzip, br"), named(""), twice] {
            let told = Encoding::of(&headers).expect_err("is refused").to_string();
            assert!(told.contains("gzip, br and zstd"), "{told}");
        }
    }

    #[tokio::test]
    async fn members_and_frames_may_follow_each_other() {
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let two = [compressed(encoding, b"[\"PI").await, compressed(encoding, b"NG\"]").await].concat();
            let whole = collect(encoding, Body::from(two), 100, 0).await.expect("decodes");
            assert_eq!(whole, "[\"PING\"]", "{encoding:?}");
        }
    }

    #[tokio::test]
    async fn the_limit_counts_what_comes_out_and_ends_the_work() {
        let zeros = vec![0; 100_000];
        for encoding in ALL {
            let small = compressed(encoding, &zeros).await;
            assert!(small.len() < 1000);
            let body = || Body::from(small.clone());
            assert_eq!(collect(encoding, body(), 100_000, 0).await.expect("at the limit").len(), 100_000);
            let error = collect(encoding, body(), 99_999, 1000).await.expect_err("over the limit");
            assert!(matches!(error, Error::RequestTooLarge { limit: 99_999 }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_window_larger_than_the_web_s_is_refused() {
        // Magic number, no content size, a window of 16 MiB; one raw block of one byte that is the last. Source: RFC 8878 section 3.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 14 << 3, 0x09, 0x00, 0x00, b'x'];
        let error = collect(Encoding::Zstd, Body::from(frame.to_vec()), 100, 0).await.expect_err("too large a window");
        assert!(error.to_string().contains("not zstd"), "{error}");
        let mut fits = frame;
        fits[5] = 13 << 3;
        assert_eq!(collect(Encoding::Zstd, Body::from(fits.to_vec()), 100, 0).await.expect("decodes"), "x");
    }

    proptest! {
        #[test]
        fn bodies_come_back_whole_and_any_bytes_come_to_an_end(plain: Vec<u8>, which in 0_usize..3, cut in 0_usize..100) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                let encoding = ALL[which];
                let small = compressed(encoding, &plain).await;
                let whole = collect(encoding, Body::from(small.clone()), 1 << 20, 0).await.expect("decodes");
                assert_eq!(whole, plain);
                let cut = small.len().saturating_sub(1 + cut);
                assert!(collect(encoding, Body::from(small[..cut].to_vec()), 1 << 20, 0).await.is_err(), "cut");
                let _ = collect(encoding, Body::from(plain), 1 << 20, 0).await;
            });
        }
    }
}
