//! No secret anywhere: planted values go through a real broker by every way there is, good and bad, and are looked for in all that
//! it says: its log at the finest level, the audit log, problems, metrics, and the admin interface.

use hearth_broker::cli::key::NewKey;
use hearth_tests::issuer::claims;
use hearth_tests::{Answer, Ground, Served, Signer, eventually};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// In every value that is planted, so that one search finds each of them, whole or in part.
const MARK: &str = "pLaNtEd";
/// The broker's own password at the databases, as the ground has it.
const PASSWORD: &str = "hidden-password";

/// A broker and what must not be told.
struct Planted {
    broker: Served,
    http: [reqwest::Client; 2],
    key: String,
    secrets: Vec<String>,
    told: Vec<String>,
}

impl Planted {
    /// Sends it over HTTP/1.1 and HTTP/2, and keeps what a caller should never see. `answers_with_it`: the answer may hold what was
    /// sent, since the caller asked for it.
    async fn send(&mut self, path: &str, token: &str, body: Option<String>, answers_with_it: bool) -> Vec<u16> {
        let mut statuses = Vec::new();
        for http in self.http.clone() {
            let url = format!("{}{path}", self.broker.url);
            let request = match &body {
                Some(body) => http.post(url).body(body.clone()),
                None => http.get(url),
            };
            let request = request
                .bearer_auth(token)
                .header("hearth-timeout-ms", "1000")
                .header("cookie", format!("c={MARK}-cookie"));
            let answer = Answer::read(request.send().await.expect("is answered")).await;
            statuses.push(answer.status);
            if !answers_with_it {
                let place = path.split_once(MARK).map_or(path, |(place, _)| place);
                self.told.push(format!("{place}: {} {:?}", answer.text, answer.headers));
            }
        }
        statuses
    }

    async fn post(&mut self, path: &str, body: Value, answers_with_it: bool) {
        let key = self.key.clone();
        self.send(path, &key, Some(body.to_string()), answers_with_it).await;
    }
}

async fn start(ground: &Ground, signer: &Signer, audit: &str) -> Planted {
    let [key, guessed, admin] = [(); 3].map(|()| NewKey::random());
    let secret = format!("{MARK}-shared-secret-of-the-issuer");
    let config = format!(
        "admin_key_sha256 = \"{}\"\n[log]\nfilter = \"trace\"\naudit = \"{audit}\"\n\
         [databases.app]\nurl = \"postgres://app@localhost:{}/app?sslmode=disable\"\npassword = \"{PASSWORD}\"\npool = {{ min = 1, max = 4 }}\n\
         [databases.app.statements.named]\nsql = \"SELECT $1::text\"\nparams = [\"p\"]\nread_only = true\n\
         [databases.refused]\nurl = \"postgres://app@localhost:{}/app?sslmode=disable\"\npassword = \"{MARK}-wrong-password\"\npool = {{ min = 0, max = 2 }}\n\
         [caches.main]\nurl = \"redis://127.0.0.1:{}\"\npassword = \"{}\"\n\
         [caches.refused]\nurl = \"redis://127.0.0.1:{}\"\npassword = \"{MARK}-wrong-password\"\n\
         [tenants.acme]\ndatabases = [\"app\", \"refused\"]\ncaches = [\"main\", \"refused\"]\nsettings = [\"app.*\"]\n\
         keys = [{}, {}]\n\
         [identity.breaker]\nfailures = 0\n\
         [identity.jwt.shared]\nissuer = \"https://shared\"\naudience = [\"hearth\"]\nalgorithms = [\"HS256\"]\nsecret = \"{secret}\"\n\
         tenant = \"acme\"\nscopes = [\"sql:read\"]\nsettings = {{ \"app.claims\" = \"*\" }}\n\
         [identity.jwt.file]\nissuer = \"https://file\"\naudience = [\"hearth\"]\nalgorithms = [\"EdDSA\"]\nkey_file = \"{}\"\n\
         tenant = \"acme\"\nscopes = [\"sql:read\"]\n",
        admin.sha256,
        ground.postgres.port,
        ground.postgres.port,
        ground.redis.port,
        ground.redis.password,
        ground.redis.port,
        entry(&key),
        entry(&guessed),
        signer.public.display(),
    );
    let broker = Served::start(ground, "secrets", &config).await;
    let mut secrets = vec![MARK.to_owned(), PASSWORD.to_owned(), ground.redis.password.clone(), secret];
    secrets.extend([&key, &guessed, &admin].map(|key| key.secret.clone()));
    let http = [reqwest::Client::builder(), reqwest::Client::builder().http2_prior_knowledge()]
        .map(|client| client.no_proxy().build().expect("a client"));
    Planted { broker, http, key: key.token(), secrets, told: vec![admin.secret] }
}

fn entry(key: &NewKey) -> String {
    format!("{{ id = \"{}\", sha256 = \"{}\", scopes = [\"sql:read\", \"sql:write\", \"redis\"] }}", key.id, key.sha256)
}

async fn sql(planted: &mut Planted) {
    let query = "/v1/db/app/query";
    let value = format!("{MARK}-value");
    // Values that are answered are the caller's own; in none of the other places they may stand.
    for (body, answered) in [
        (json!({"sql": "SELECT $1::text", "params": [value]}), true),
        (json!({"sql": "SELECT $1::text AS a", "params": [value], "settings": {"app.user": value}}), true),
        (json!({"sql": "SELECT $1::text", "params": [value, value]}), false),
        (json!({"sql": "SELECT nothing FROM nowhere WHERE x = $1", "params": [value]}), false),
        (json!({"sql": "SELECT pg_sleep(5), $1::text", "params": [value]}), false),
        (json!({"sql": "SELECT 1", "settings": {"other.setting": value}}), false),
        (json!({"sql": "SELECT $1", "params": [{"$bytes": "!!!"}]}), false),
    ] {
        planted.post(query, body.clone(), answered).await;
        let batch = json!({"statements": [{"sql": body["sql"], "params": body.get("params").unwrap_or(&json!([]))}]});
        planted.post("/v1/db/app/batch", batch, answered).await;
    }
    // What the database says of a value it did not like goes to its caller, and into no log.
    for sql in [
        "SELECT $1::int",
        "SELECT ($1::text)::int",
        "INSERT INTO t VALUES ($1)",
        "SELECT 1 / (length($1) - length($1))",
    ] {
        planted.post(query, json!({"sql": sql, "params": [value]}), true).await;
    }
    planted.post(query, json!({"sql": format!("SELECT '{value}'::int")}), true).await;
    planted.post("/v1/db/app/statements/named", json!({"params": {"p": value}}), true).await;
    planted.post("/v1/db/app/statements/named", json!({"params": {"q": "x"}}), false).await;
    planted.post("/v1/db/refused/query", json!({"sql": "SELECT $1::text", "params": [value]}), false).await;
    let key = planted.key.clone();
    planted.send(&format!("/v1/db/app/statements/named?p={value}"), &key, None, true).await;
    for (table, answered) in [("t", true), ("nothing", false)] {
        let path = format!("/v1/db/app/copy?sql=COPY%20{table}%20FROM%20STDIN");
        planted.send(&path, &key, Some(format!("{value}\n")), answered).await;
    }
    planted.send("/v1/db/app/copy?sql=COPY%20t%20TO%20STDOUT", &key, None, true).await;
    planted.send(query, &key, Some(format!("{{\"sql\": \"SELECT 1\", {value}")), false).await;
}

async fn redis(planted: &mut Planted) {
    let (name, value) = (format!("{MARK}-key"), format!("{MARK}-value"));
    for (command, answered) in [
        (json!(["SET", name, value]), false),
        (json!(["GET", name]), true),
        (json!(["INCR", name]), false),
        (json!(["SET", name]), false),
        (json!(["BLPOP", name, "0.1"]), true),
        (json!(["AUTH", value]), false),
        (json!(["CONFIG", "SET", "requirepass", value]), false),
    ] {
        planted.post("/v1/redis/main", command.clone(), answered).await;
        planted.post("/v1/redis/main/pipeline", json!([command, ["PING"]]), answered).await;
        planted.post("/v1/redis/main/multi-exec", json!([command]), answered).await;
    }
    planted.post("/v1/redis/refused", json!(["SET", name, value]), false).await;
    let key = planted.key.clone();
    planted.send(&format!("/v1/redis/main/set/{name}/{value}"), &key, None, false).await;
}

async fn identities(planted: &mut Planted, signer: &Signer) {
    let mut good = claims("https://shared", "somebody");
    good["private"] = json!(format!("{MARK}-claim"));
    let secret = planted.secrets[3].clone();
    let shared = |claims: &Value, secret: &str| {
        encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes())).expect("is signed")
    };
    let mut expired = good.clone();
    expired["exp"] = json!(1);
    let tokens = [
        shared(&good, &secret),
        shared(&expired, &secret),
        shared(&good, &format!("{MARK}-another-secret-of-32-bytes")),
        signer.sign(&claims("https://file", "somebody")),
        signer.sign(&claims("https://unknown", "somebody")),
    ];
    let (id, _) = planted.key.split_once('.').expect("two halves");
    let wrong = [format!("{id}.{MARK}-guess"), format!("{MARK}-id.{MARK}-secret"), format!("{MARK}-nonsense")];
    for token in tokens.iter().chain(&wrong) {
        planted.send("/v1/whoami", token, None, false).await;
        planted.send("/v1/redis/main", token, Some("[\"PING\"]".to_owned()), false).await;
        planted.send("/v1/db/app/query", token, Some(json!({"sql": "SELECT 1"}).to_string()), false).await;
    }
    // The payload and the signature of each.
    planted
        .secrets
        .extend(tokens.iter().flat_map(|token| token.split('.').skip(1).map(str::to_owned).collect::<Vec<_>>()));
}

async fn operators(planted: &mut Planted) {
    let admin = planted.told.remove(0);
    let http = planted.http[0].clone();
    let config = planted.broker.config().to_path_buf();
    let good = std::fs::read_to_string(&config).expect("is there");
    let reload = async |text: String| {
        std::fs::write(&config, text).expect("writes");
        let url = format!("{}/admin/v1/reload", planted.broker.admin_url);
        Answer::read(http.post(url).bearer_auth(&admin).send().await.expect("is answered")).await.text
    };
    let mut told = vec![
        reload(good.replace("max = 4", &format!("max = \"{MARK}\""))).await,
        reload(good.replace(&format!("{MARK}-shared-secret-of-the-issuer"), &format!("{MARK}-short"))).await,
        reload(format!("{good}\n{MARK} = = =")).await,
        reload(good.replace(PASSWORD, &format!("{MARK}-next-password"))).await,
        reload(good.clone()).await,
    ];
    for path in ["metrics", "admin/v1/pools", "admin/v1/events", "admin/v1/decisions", "admin/v1/keys"] {
        for token in [&admin, &format!("{MARK}-admin-guess")] {
            let url = format!("{}/{path}", planted.broker.admin_url);
            told.push(Answer::read(http.get(url).bearer_auth(token).send().await.expect("is answered")).await.text);
        }
    }
    planted.told.extend(told);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_anything_that_the_broker_says() {
    let ground = Ground::start(&[]).await;
    ground.witness().await.batch_execute("CREATE TABLE t (x int); ALTER TABLE t OWNER TO app").await.expect("is made");
    let signer = Signer::new(&ground.scratch, "one", Algorithm::EdDSA);
    let audit = ground.scratch.path().join("audit.log");
    for target in [audit.display().to_string(), "log".to_owned()] {
        let mut planted = start(&ground, &signer, &target).await;
        sql(&mut planted).await;
        redis(&mut planted).await;
        identities(&mut planted, &signer).await;
        operators(&mut planted).await;
        let planted = &planted;
        eventually("the audit log is written", async || {
            let text = std::fs::read_to_string(&audit).unwrap_or_default() + &planted.broker.log();
            text.contains("/admin/v1/reload")
        })
        .await;
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", planted.broker.pid())).expect("Linux tells");
        let cores = limits.lines().find(|line| line.starts_with("Max core file size")).expect("is there");
        assert_eq!(cores.split_whitespace().nth(4), Some("0"), "no core is written: {cores}");
        let log = planted.broker.log();
        assert!(log.contains("TRACE") && log.contains("\"target\":\"h2::"), "the log is at its finest");
        let audited = if target == "log" { log.clone() } else { std::fs::read_to_string(&audit).expect("is there") };
        for word in ["\"redis_pipeline", "copy_in", "statement_failed", "unauthenticated"] {
            assert!(audited.contains(word), "{word} is in the audit log");
        }
        let everything = planted.told.iter().map(String::as_str).chain(log.lines()).chain(audited.lines());
        let found: Vec<String> = everything
            .filter(|text| {
                planted
                    .secrets
                    .iter()
                    .any(|secret| secret.len() > 8 && text.contains(secret.as_str()) || text.contains(MARK))
            })
            .map(|text| text.chars().take(400).collect())
            .collect();
        assert!(found.is_empty(), "{} places:\n{}", found.len(), found[..found.len().min(20)].join("\n"));
    }
}
