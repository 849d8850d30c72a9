//! Tokens: every algorithm, every trick, keys that rotate and keys that are away.

use std::time::Duration;

use hearth_broker::cli::dev::scratch::Scratch;
use hearth_tests::issuer::{claims, now};
use hearth_tests::{Answer, Options, Published, Signer, Stack, eventually};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

const ISSUER: &str = "https://login.example";
const SECRET: &str = "a secret of the issuer of 32 bytes";

fn options(identity: &str) -> Options {
    Options { more: identity.to_owned(), tenant: "settings = [\"app.*\"]".to_owned(), ..Options::default() }
}

fn issuer(name: &str, iss: &str, more: &str) -> String {
    format!("[identity.jwt.{name}]\nissuer = \"{iss}\"\naudience = [\"hearth\"]\n{more}\n")
}

/// All scopes in `acme`, with keys fetched there.
fn fetched(published: &Published, more: &str) -> String {
    let all = "tenant = \"acme\"\nscopes = [\"sql:read\", \"sql:write\", \"redis\"]\nalgorithms = [\"RS256\", \"ES256\", \"EdDSA\"]";
    issuer("login", ISSUER, &format!("{all}\njwks_url = \"{}\"\nrefetch_pause = \"1s\"\n{more}", published.url))
}

async fn whoami(stack: &Stack, token: &str) -> Answer {
    stack.send(stack.get("/v1/whoami").bearer_auth(token)).await
}

async fn refused(stack: &Stack, token: &str, word: &str) {
    let answer = whoami(stack, token).await;
    answer.assert_problem(401, "unauthenticated", "not_applied");
    assert!(answer.text.contains(word), "{word} in {}", answer.text);
    assert!(!answer.text.contains(token), "{}", answer.text);
}

fn shared(claims: &Value) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("is signed")
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_every_algorithm_are_good_with_keys_from_each_place() {
    let scratch = Scratch::new("hearth-keys").expect("a folder");
    let [rsa, ec, ed] = [("rsa", Algorithm::RS256), ("ec", Algorithm::ES256), ("ed", Algorithm::EdDSA)]
        .map(|(id, algorithm)| Signer::new(&scratch, id, algorithm));
    let published = Published::start(&[&rsa, &ec, &ed]).await;
    let mut identity = fetched(&published, "");
    let all = "tenant = \"acme\"\nscopes = [\"sql:read\"]";
    for (name, algorithm, key) in [("pem-rsa", "RS256", &rsa), ("pem-ec", "ES256", &ec), ("pem-ed", "EdDSA", &ed)] {
        let keys = format!("algorithms = [\"{algorithm}\"]\nkey_file = \"{}\"\n{all}", key.public.display());
        identity += &issuer(name, &format!("https://{name}"), &keys);
    }
    let set = scratch.path().join("set.json");
    std::fs::write(&set, json!({"keys": [rsa.jwk(), {"kty": "unheard of"}, ec.jwk()]}).to_string()).expect("writes");
    let keys = format!("algorithms = [\"RS256\", \"ES256\"]\nkey_file = \"{}\"\n{all}", set.display());
    identity += &issuer("set", "https://set", &keys);
    identity += &issuer("shared", "https://shared", &format!("algorithms = [\"HS256\"]\nsecret = \"{SECRET}\"\n{all}"));
    let stack = Stack::with(options(&identity)).await;
    for key in [&rsa, &ec, &ed] {
        let told = whoami(&stack, &key.sign(&claims(ISSUER, "user_42"))).await;
        assert_eq!((told.status, &told.body["tenant"]), (200, &json!("acme")), "{}", told.text);
        assert_eq!((&told.body["key_id"], &told.body["via"]), (&json!("login/user_42"), &json!("token")));
    }
    for (iss, key) in
        [("https://pem-rsa", &rsa), ("https://pem-ec", &ec), ("https://pem-ed", &ed), ("https://set", &ec)]
    {
        let token = key.sign(&claims(iss, "u"));
        assert_eq!(whoami(&stack, &token).await.body["scopes"], json!(["sql:read"]), "{iss}");
        let nameless =
            key.sign_as(&Header::new(jsonwebtoken::decode_header(&token).expect("good").alg), &claims(iss, "u"));
        assert_eq!(whoami(&stack, &nameless).await.status, 200, "{iss} without kid");
    }
    assert_eq!(whoami(&stack, &shared(&claims("https://shared", "u"))).await.status, 200);
    let ask = stack.request("/v1/db/app/query", &ed.sign(&claims(ISSUER, "u")));
    assert_eq!(stack.send(ask.body(json!({"sql": "SELECT 7 AS n"}).to_string())).await.first(), 7);
    let ask = stack.request("/v1/redis/main", &rsa.sign(&claims(ISSUER, "u"))).body("[\"PING\"]");
    assert_eq!(stack.send(ask).await.body["result"], "PONG");
    assert_eq!(published.hits(), 1, "fetched ahead, once");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_confusion_is_refused() {
    let scratch = Scratch::new("hearth-keys").expect("a folder");
    let [rsa, ec, mallory] = [("rsa", Algorithm::RS256), ("ec", Algorithm::ES256), ("mallory", Algorithm::RS256)]
        .map(|(id, algorithm)| Signer::new(&scratch, id, algorithm));
    let published = Published::start(&[&rsa, &ec]).await;
    let own = Published::start(&[&mallory]).await;
    let only_ec = format!(
        "algorithms = [\"ES256\"]\njwks_url = \"{}\"\ntenant = \"acme\"\nscopes = [\"sql:read\"]",
        published.url
    );
    let breaker = "[identity.breaker]\nfailures = 0\n";
    let identity = fetched(&published, "") + &issuer("ec", "https://ec", &only_ec) + breaker;
    let stack = Stack::with(options(&identity)).await;
    let good = claims(ISSUER, "user_42");
    assert_eq!(whoami(&stack, &rsa.sign(&good)).await.status, 200);
    let named = |algorithm| Header { kid: Some("rsa".to_owned()), ..Header::new(algorithm) };

    // The public key as the secret of an HMAC, in each of its shapes.
    let pem = std::fs::read(&rsa.public).expect("is there");
    let trimmed = String::from_utf8(pem.clone()).expect("is text").trim().as_bytes().to_vec();
    for secret in [&pem[..], &trimmed, rsa.jwk().to_string().as_bytes(), rsa.jwk()["n"].to_string().as_bytes(), b""] {
        let token = encode(&named(Algorithm::HS256), &good, &EncodingKey::from_secret(secret)).expect("is signed");
        refused(&stack, &token, "algorithm").await;
    }
    // A key of one's own, wherever the header says it is.
    let jwk = serde_json::from_value(mallory.jwk()).expect("is a key");
    for header in [
        Header { jku: Some(own.url.clone()), ..named(Algorithm::RS256) },
        Header { x5u: Some(own.url.clone()), ..named(Algorithm::RS256) },
        Header { jwk: Some(jwk), ..named(Algorithm::RS256) },
        named(Algorithm::RS256),
    ] {
        refused(&stack, &mallory.sign_as(&header, &good), "signature").await;
    }
    assert_eq!(own.hits(), 0, "nobody went there");
    for kid in ["mallory", "../../../dev/null", "rsa' OR 1=1", "", "\u{0}"] {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::RS256) };
        refused(&stack, &mallory.sign_as(&header, &good), "key is not known").await;
    }
    // A good key under another algorithm, and for an issuer that does not take it.
    refused(&stack, &rsa.sign(&claims("https://ec", "u")), "algorithm").await;
    refused(
        &stack,
        &ec.sign_as(&Header { kid: Some("rsa".to_owned()), ..Header::new(Algorithm::ES256) }, &good),
        "key",
    )
    .await;
    // A good signature under claims that are not.
    for (name, value, word) in [
        ("exp", json!(now() - 120), "expired"),
        ("nbf", json!(now() + 120), "not valid yet"),
        ("aud", json!("another service"), "audience"),
        ("iss", json!("https://login.example.evil"), "issuer"),
        ("aud", Value::Null, "claim"),
        ("exp", json!("tomorrow"), "claim"),
        ("sub", json!(42), "claim"),
    ] {
        let mut claims = good.clone();
        claims[name] = value;
        refused(&stack, &rsa.sign(&claims), word).await;
    }
    // Taken apart and put together.
    let token = rsa.sign(&good);
    let (head, signature) = token.rsplit_once('.').expect("three parts");
    let (header, payload) = head.split_once('.').expect("three parts");
    let none = "eyJhbGciOiJub25lIn0";
    for (token, word) in [
        (format!("{none}.{payload}."), "algorithm"),
        (format!("{none}.{payload}.{signature}"), "algorithm"),
        (format!("{header}.{payload}."), "signature"),
        (format!("{header}.{payload}.{signature}AAAA"), "signature"),
        (format!("{header}.{payload}.{payload}"), "signature"),
        (format!("{header}.{header}.{signature}"), "issuer"),
        (format!("{header}.{payload}{}.{signature}", "A".repeat(9_000)), "too long"),
    ] {
        refused(&stack, &token, word).await;
    }
    // Two of them.
    let two = stack.get("/v1/whoami").bearer_auth(&token).header("authorization", format!("Bearer {}", stack.key));
    stack.send(two).await.assert_problem(401, "unauthenticated", "not_applied");
    let metrics = stack.send(reqwest::Client::new().get(format!("{}/metrics", stack.admin_url))).await.text;
    for reason in
        ["token_algorithm", "token_signature", "token_key", "token_expired", "token_audience", "token_too_long"]
    {
        assert!(metrics.contains(&format!("hearth_auth_failures_total{{reason=\"{reason}\"}}")), "{reason}");
    }
    assert_eq!(whoami(&stack, &token).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_rotate_are_fetched_once_and_tokens_of_old_ones_die() {
    let scratch = Scratch::new("hearth-keys").expect("a folder");
    let [first, second, third] = ["one", "two", "three"].map(|id| Signer::new(&scratch, id, Algorithm::EdDSA));
    let published = Published::start(&[&first]).await;
    let stack = Stack::with(options(&fetched(&published, "refresh = \"1h\""))).await;
    let old = first.sign(&claims(ISSUER, "u"));
    assert_eq!(whoami(&stack, &old).await.status, 200);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    published.publish(&[&first, &second]);
    let new = second.sign(&claims(ISSUER, "u"));
    let all = futures_util::future::join_all((0..20).map(|_| whoami(&stack, &new))).await;
    assert!(all.iter().all(|answer| answer.status == 200), "each waits for the one fetch: {:?}", all[0].text);
    assert_eq!(published.hits(), 2);
    // Nobody makes the broker ask again and again.
    let unknown = third.sign(&claims(ISSUER, "u"));
    for _ in 0..5 {
        refused(&stack, &unknown, "key is not known").await;
    }
    assert!(published.hits() <= 3, "{}", published.hits());
    assert_eq!(whoami(&stack, &old).await.status, 200, "still published");
    published.publish(&[&second, &third]);
    eventually("the third is known", async || whoami(&stack, &unknown).await.status == 200).await;
    refused(&stack, &old, "key is not known").await;
    assert_eq!(whoami(&stack, &new).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_away_stops_nobody_whose_key_is_known() {
    let scratch = Scratch::new("hearth-keys").expect("a folder");
    let key = Signer::new(&scratch, "one", Algorithm::EdDSA);
    let published = Published::start(&[&key]).await;
    published.answer(500, "away");
    let stack = Stack::with(options(&fetched(&published, "refresh = \"1h\""))).await;
    let token = |subject: &str| key.sign(&claims(ISSUER, subject));
    let away = whoami(&stack, &token("a")).await;
    away.assert_problem(503, "backend_down", "not_applied");
    assert_eq!(away.body["retryable"], true);
    let redis = stack.send(stack.request("/v1/redis/main", &token("a")).body("[\"PING\"]")).await;
    assert_eq!(redis.status, 503, "{}", redis.text);
    published.publish(&[&key]);
    eventually("the keys come", async || whoami(&stack, &token("a")).await.status == 200).await;
    for (status, body) in
        [(500, "away"), (200, "<html>"), (200, "{\"keys\": []}"), (302, ""), (200, &"x".repeat(300_000))]
    {
        let before = published.hits();
        published.answer(status, body);
        tokio::time::sleep(Duration::from_millis(1_050)).await;
        let other = Signer::new(&scratch, "other", Algorithm::EdDSA);
        refused(&stack, &other.sign(&claims(ISSUER, "u")), "key is not known").await;
        assert!(published.hits() > before, "it was asked again");
        assert_eq!(
            whoami(&stack, &token(body.get(..3).unwrap_or("new"))).await.status,
            200,
            "what was known stays good"
        );
    }
    let metrics = stack.send(reqwest::Client::new().get(format!("{}/metrics", stack.admin_url))).await.text;
    assert!(metrics.contains("hearth_jwks_fetches_total{issuer=\"login\",result=\"error\"}"));
    // A reload keeps the keys, though their issuer is away, and forgets the tokens.
    let hits = published.hits();
    assert_eq!(stack.reload().await.status, 200);
    assert_eq!(whoami(&stack, &token("after")).await.status, 200);
    assert_eq!(published.hits(), hits);
}

/// Rows of one's own alone, whatever way they are asked for.
#[tokio::test(flavor = "multi_thread")]
async fn claims_are_settings_that_no_request_can_change() {
    let more = "settings = { \"app.user_id\" = \"sub\", \"request.jwt.claims\" = \"*\" }\nscopes_claim = \"scope\"";
    let keys = format!(
        "algorithms = [\"HS256\"]\nsecret = \"{SECRET}\"\ntenant = \"acme\"\nscopes = [\"sql:read\", \"sql:write\"]"
    );
    let named = "[databases.app.statements.mine]\nsql = \"SELECT text FROM notes ORDER BY text\"\nread_only = true\n";
    let identity = issuer("shared", "https://shared", &format!("{keys}\n{more}")) + named;
    let stack = Stack::with(options(&identity)).await;
    for sql in [
        "CREATE TABLE notes (owner text, text text)",
        "ALTER TABLE notes ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE notes FORCE ROW LEVEL SECURITY",
        "CREATE POLICY own ON notes USING (owner = current_setting('app.user_id', true))",
    ] {
        stack.ok(sql).await;
    }
    let token = |subject: &str, scope: &str| {
        let mut claims = claims("https://shared", subject);
        claims["scope"] = json!(scope);
        shared(&claims)
    };
    let (ada, bob) = (token("ada", "sql:read sql:write"), token("bob", "sql:read sql:write"));
    let ask = async |token: &str, path: &str, body: Value| {
        stack.send(stack.request(path, token).body(body.to_string())).await
    };
    for (who, text) in [(&ada, "of ada"), (&bob, "of bob")] {
        let sql = "INSERT INTO notes VALUES (current_setting('app.user_id'), $1)";
        let told = ask(who, "/v1/db/app/query", json!({"sql": sql, "params": [text]})).await;
        assert_eq!(told.status, 200, "{}", told.text);
    }
    let select = "SELECT text FROM notes ORDER BY text";
    for _ in 0..5 {
        let told = ask(&ada, "/v1/db/app/query", json!({"sql": select})).await;
        assert_eq!(told.body["rows"], json!([{"text": "of ada"}]), "{}", told.text);
    }
    let one = json!({"statements": [{"sql": select}]});
    for transaction in [json!({}), Value::Null] {
        let told =
            ask(&bob, "/v1/db/app/batch", json!({"statements": one["statements"], "transaction": transaction})).await;
        assert_eq!(told.body["results"][0]["rows"], json!([{"text": "of bob"}]), "{}", told.text);
    }
    let told = stack.send(stack.get("/v1/db/app/statements/mine").bearer_auth(&ada)).await;
    assert_eq!(told.body["rows"], json!([{"text": "of ada"}]), "{}", told.text);
    let copied =
        stack.send(stack.get(&stack.copy_path("COPY (SELECT text FROM notes) TO STDOUT")).bearer_auth(&bob)).await;
    assert_eq!(copied.text, "of bob\n");
    let streamed = stack.request("/v1/db/app/query", &ada).header("accept", "application/x-ndjson");
    let streamed = stack.send(streamed.body(json!({"sql": select}).to_string())).await;
    assert!(streamed.text.contains("of ada") && !streamed.text.contains("of bob"), "{}", streamed.text);
    let all = ask(&ada, "/v1/db/app/query", json!({"sql": "SELECT current_setting('request.jwt.claims')::json->>'sub' AS s, current_setting('app.x') AS x", "settings": {"app.x": "1"}})).await;
    assert_eq!(all.body["rows"][0], json!({"s": "ada", "x": "1"}), "{}", all.text);
    // Whatever the tenant may set, and in any case.
    for name in ["app.user_id", "APP.USER_ID"] {
        for (path, mut body) in [("/v1/db/app/query", json!({"sql": select})), ("/v1/db/app/batch", one.clone())] {
            body["settings"] = json!({name: "bob"});
            let told = ask(&ada, path, body).await;
            told.assert_problem(403, "forbidden", "not_applied");
        }
    }
    // A key has none of these, and may.
    let keyed = stack.post("/v1/db/app/query", &json!({"sql": select, "settings": {"app.user_id": "bob"}})).await;
    assert_eq!(keyed.body["rows"], json!([{"text": "of bob"}]));
    // What the token does not say it may not do.
    let reader = token("ada", "sql:read");
    let told = ask(&reader, "/v1/db/app/query", json!({"sql": "DELETE FROM notes"})).await;
    told.assert_problem(403, "forbidden", "not_applied");
    let nothing = token("ada", "openid");
    ask(&nothing, "/v1/db/app/query", json!({"sql": select})).await.assert_problem(403, "forbidden", "not_applied");
    assert_eq!(stack.count("SELECT count(*) FROM notes").await, 2);
}
