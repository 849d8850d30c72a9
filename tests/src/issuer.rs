//! An issuer of tokens: its keys, made by the `openssl` program, and where it publishes them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use hearth_broker::cli::dev::scratch::Scratch;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A key that signs.
pub struct Signer {
    /// Its name in the set of keys.
    pub id: String,
    algorithm: Algorithm,
    key: EncodingKey,
    /// The file with its public half, as PEM.
    pub public: PathBuf,
}

impl Signer {
    /// Makes a key.
    pub fn new(scratch: &Scratch, id: &str, algorithm: Algorithm) -> Self {
        let make: &[&str] = match algorithm {
            Algorithm::RS256 => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            Algorithm::ES256 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            Algorithm::EdDSA => &["-algorithm", "ED25519"],
            other => panic!("no key for {other:?}"),
        };
        let [private, public] = ["key", "pub"].map(|end| scratch.path().join(format!("{id}.{end}")));
        let (private_text, public_text) = (private.display().to_string(), public.display().to_string());
        openssl(scratch, &[&["genpkey", "-out", &private_text], make].concat());
        openssl(scratch, &["pkey", "-in", &private_text, "-pubout", "-out", &public_text]);
        let pem = std::fs::read(&private).expect("was made");
        let key = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(&pem),
            Algorithm::ES256 => EncodingKey::from_ec_pem(&pem),
            _ => EncodingKey::from_ed_pem(&pem),
        };
        Self { id: id.to_owned(), algorithm, key: key.expect("is a key"), public }
    }

    /// Its entry in a set of keys.
    pub fn jwk(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.key, self.algorithm).expect("has a public half");
        let mut jwk = serde_json::to_value(jwk).expect("plain data");
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk
    }

    /// Signs, with its name in the header.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(&Header { kid: Some(self.id.clone()), ..Header::new(self.algorithm) }, claims)
    }

    /// Signs with some header.
    pub fn sign_as(&self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &self.key).expect("is signed")
    }
}

fn openssl(scratch: &Scratch, arguments: &[&str]) {
    let output = scratch.command(Path::new("openssl")).args(arguments).output().expect("openssl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Claims that are good for ten minutes.
pub fn claims(issuer: &str, subject: &str) -> Value {
    json!({"iss": issuer, "aud": "hearth", "sub": subject, "exp": now() + 600, "iat": now()})
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Where an issuer publishes its keys: over HTTP, on a free port of this machine.
pub struct Published {
    /// The address of the set of keys.
    pub url: String,
    answer: Arc<Mutex<(u16, String)>>,
    hits: Arc<AtomicU64>,
    server: JoinHandle<()>,
}

impl Published {
    /// Publishes these keys.
    pub async fn start(keys: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}/jwks.json", listener.local_addr().expect("is bound"));
        let (answer, hits) = (Arc::new(Mutex::new((200, set(keys)))), Arc::<AtomicU64>::default());
        let server = tokio::spawn(serve(listener, Arc::clone(&answer), Arc::clone(&hits)));
        Self { url, answer, hits, server }
    }

    /// Publishes other keys.
    pub fn publish(&self, keys: &[&Signer]) {
        self.answer(200, &set(keys));
    }

    /// Answers with anything.
    pub fn answer(&self, status: u16, body: &str) {
        *self.answer.lock().expect("works") = (status, body.to_owned());
    }

    /// How often it was asked.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Acquire)
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn set(keys: &[&Signer]) -> String {
    json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string()
}

async fn serve(listener: TcpListener, answer: Arc<Mutex<(u16, String)>>, hits: Arc<AtomicU64>) {
    while let Ok((mut socket, _)) = listener.accept().await {
        let mut head = [0; 4096];
        // One small packet; and a caller that has gone is no concern of ours.
        let _ = socket.read(&mut head).await;
        hits.fetch_add(1, Ordering::AcqRel);
        let (status, body) = answer.lock().expect("works").clone();
        let length = body.len();
        let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        let _ = socket.write_all(text.as_bytes()).await;
    }
}
