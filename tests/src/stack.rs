//! One test's world: `Stack::start().await`, and everything is there.

use std::path::PathBuf;
use std::sync::Arc;

use hearth_broker::base::Workers;
use hearth_broker::broker::{Broker, Live};
use hearth_broker::cli::dev::postgres::PrivatePostgres;
use hearth_broker::cli::dev::redis::PrivateRedis;
use hearth_broker::cli::dev::scratch::Scratch;
use hearth_broker::cli::key::NewKey;
use hearth_broker::config::load_file;
use hearth_broker::server::{Listeners, serve};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::ground::Ground;
use crate::http::Answer;
use crate::proxy::Proxy;
use crate::replica::Replica;
use crate::tls;

/// What a test wants to be different.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that a test asks for by name")]
pub struct Options {
    /// Most connections of the broker.
    pub pool_max: u32,
    /// TOML for the tenant's `limits` table.
    pub limits: String,
    /// More TOML for the tenant `acme`.
    pub tenant: String,
    /// Put a proxy between broker and PostgreSQL.
    pub proxy: bool,
    /// Put a proxy between broker and Redis.
    pub redis_proxy: bool,
    /// TOML for the `[server]` section.
    pub server: String,
    /// More of the configuration; `{port}` stands for the port at which the broker finds PostgreSQL.
    pub more: String,
    /// More parameters of the database's URL; `{ca}` stands for the certificate of the server's root.
    pub url_parameters: String,
    /// Give the database a replica, which confirms each of its writes.
    pub replica: bool,
    /// Give the database server a certificate for `localhost`.
    pub tls: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pool_max: 4,
            limits: String::new(),
            tenant: String::new(),
            proxy: false,
            redis_proxy: false,
            server: String::new(),
            more: String::new(),
            url_parameters: "sslmode=disable".to_owned(),
            replica: false,
            tls: false,
        }
    }
}

/// A private PostgreSQL, a private Redis, and a broker in this process.
pub struct Stack {
    /// The database server.
    pub postgres: PrivatePostgres,
    /// Its replica, if it has one.
    pub replica: Option<Replica>,
    /// The proxy before it, if there is one.
    pub proxy: Option<Proxy>,
    /// The cache server.
    pub redis: PrivateRedis,
    /// The proxy before it, if there is one.
    pub redis_proxy: Option<Proxy>,
    /// Where they live.
    pub scratch: Scratch,
    /// The broker as it was started, to look inside. After a reload it is the one that was replaced.
    pub broker: Arc<Broker>,
    /// The broker as it is now.
    pub live: Live,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its address.
    pub url: String,
    /// Its admin address.
    pub admin_url: String,
    /// A key of the tenant `acme` with every scope.
    pub key: String,
    /// A key of `acme` that may only read.
    pub reader: String,
    /// A key of `acme` for Redis only.
    pub redis_only: String,
    /// A key of `acme` that has expired.
    pub expired: String,
    /// A key of the tenant `other`, which has no database and no cache.
    pub other: String,
    /// A connection as the owner of the cluster, in the database `app`: the witness.
    pub witness: Client,
    http: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

impl Stack {
    /// Starts the world as it usually is.
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// Starts the world with something different.
    pub async fn with(options: Options) -> Self {
        let Ground { mut postgres, redis, scratch } = Ground::start(&[]).await;
        if options.tls {
            tls::give_certificate(&mut postgres, &scratch).await;
        }
        let url_parameters = options.url_parameters.replace("{ca}", &tls::root(&scratch).display().to_string());
        let witness = postgres.admin("app").await.expect("connects");
        let replica =
            if options.replica { Some(confirming_replica(&postgres, &witness, &scratch).await) } else { None };
        let replicas = replica
            .as_ref()
            .map(|replica| format!("\"postgres://app@localhost:{}/app?sslmode=disable\"", replica.port));
        let proxy = if options.proxy { Some(Proxy::start(postgres.port).await) } else { None };
        let port = proxy.as_ref().map_or(postgres.port, |proxy| proxy.port);
        let redis_proxy = if options.redis_proxy { Some(Proxy::start(redis.port).await) } else { None };
        let [all, reader, redis_only, expired, other] = std::array::from_fn(|_| NewKey::random());
        let key = |key: &NewKey, scopes: &str, more: &str| {
            format!("{{ id = \"{}\", sha256 = \"{}\", scopes = {scopes}{more} }}", key.id, key.sha256)
        };
        let keys = [
            key(&all, "[\"sql:read\", \"sql:write\", \"redis\"]", ""),
            key(&reader, "[\"sql:read\"]", ""),
            key(&redis_only, "[\"redis\"]", ""),
            key(&expired, "[\"sql:read\"]", ", expires = \"2020-01-01T00:00:00Z\""),
        ]
        .join(", ");
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n{}\n\
             [databases.app]\nurl = \"postgres://app@localhost:{}/app?{}\"\npassword = \"hidden-password\"\npool = {{ min = 1, max = {} }}\nreplicas = [{}]\n\
             [caches.main]\nurl = \"redis://127.0.0.1:{}\"\npassword = \"{}\"\n\
             [tenants.acme]\ndatabases = [\"app\"]\ncaches = [\"main\"]\nkeys = [{keys}]\nlimits = {{ {} }}\n{}\n\
             [tenants.other]\nkeys = [{}]\n{}\n",
            options.server,
            port,
            url_parameters,
            options.pool_max,
            replicas.unwrap_or_default(),
            redis_proxy.as_ref().map_or(redis.port, |proxy| proxy.port),
            redis.password,
            options.limits,
            options.tenant,
            key(&other, "[\"sql:read\", \"sql:write\", \"redis\"]", ""),
            options.more.replace("{port}", &port.to_string()),
        );
        let file = scratch.path().join("hearth.toml");
        std::fs::write(&file, text).expect("writes");
        let config = load_file(&file).expect("the configuration is good");
        let source = file.clone();
        let live = Live::new(&config, move || load_file(&source)).expect("the broker is built");
        live.follow_control().await.expect("the control database is read");
        let broker = live.now();
        let listeners = Listeners::bind(config.server.listen, config.server.admin_listen).await.expect("binds");
        let (data, admin) = listeners.addresses().expect("is bound");
        broker.warm().await;
        let (stop, stopped) = oneshot::channel::<()>();
        let workers = Workers::start(config.server.workers as usize).expect("starts");
        let served = tokio::spawn(serve(live.clone(), listeners, workers, async {
            // A dropped sender stops the broker too.
            let _ = stopped.await;
        }));
        Self {
            postgres,
            replica,
            proxy,
            redis,
            redis_proxy,
            scratch,
            broker,
            live,
            config: file,
            url: format!("http://{data}"),
            admin_url: format!("http://{admin}"),
            key: all.token(),
            reader: reader.token(),
            redis_only: redis_only.token(),
            expired: expired.token(),
            other: other.token(),
            witness,
            http: reqwest::Client::builder().no_proxy().build().expect("an HTTP client"),
            stop: Some(stop),
            served,
        }
    }

    /// Changes a part of the configuration file, which must be in it.
    #[track_caller]
    pub fn edit(&self, old: &str, new: &str) {
        let text = std::fs::read_to_string(&self.config).expect("is there");
        assert!(text.contains(old), "`{old}` is not in {text}");
        std::fs::write(&self.config, text.replacen(old, new, 1)).expect("writes");
    }

    /// Asks the broker to reload its configuration.
    pub async fn reload(&self) -> Answer {
        self.send(self.http.post(format!("{}/admin/v1/reload", self.admin_url))).await
    }

    /// Runs one statement and reads the answer.
    pub async fn query(&self, sql: &str, params: Value) -> Answer {
        self.post("/v1/db/app/query", &json!({"sql": sql, "params": params})).await
    }

    /// Runs one statement that must go well.
    #[track_caller]
    pub fn ok(&self, sql: &str) -> impl Future<Output = Answer> {
        let caller = std::panic::Location::caller();
        async move {
            let answer = self.query(sql, json!([])).await;
            assert_eq!(answer.status, 200, "{sql} at {caller}: {}", answer.text);
            answer
        }
    }

    /// Runs one Redis command.
    pub async fn redis(&self, command: Value) -> Answer {
        self.post("/v1/redis/main", &command).await
    }

    /// Posts JSON with the tenant's key.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(path, &self.key).body(body.to_string())).await
    }

    /// A request with some key, to be changed and then sent.
    pub fn request(&self, path: &str, key: &str) -> reqwest::RequestBuilder {
        self.http.post(format!("{}{path}", self.url)).bearer_auth(key)
    }

    /// A GET, to be changed and then sent.
    pub fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.get(format!("{}{path}", self.url))
    }

    /// The path of a COPY, with the statement in it.
    pub fn copy_path(&self, sql: &str) -> String {
        let address = reqwest::Url::parse_with_params(&format!("{}/v1/db/app/copy", self.url), [("sql", sql)]);
        address.expect("an address").as_str()[self.url.len()..].to_owned()
    }

    /// Sends a request and reads the answer.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        Answer::read(request.send().await.expect("the broker answers")).await
    }

    /// One number, asked of the database itself.
    pub async fn count(&self, sql: &str) -> i64 {
        let row = self.witness.query_one(sql, &[]).await.expect("the witness can ask");
        row.get(0)
    }

    /// Sessions of the broker's role that run a statement now.
    pub async fn running(&self) -> i64 {
        self.count("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state <> 'idle'").await
    }

    /// Sessions of the broker's role that sleep in `pg_sleep` now: the statement itself runs, not a look-up before it.
    pub async fn sleeping(&self) -> i64 {
        self.count("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND wait_event = 'PgSleep'").await
    }

    /// Stops the broker as SIGTERM does, and waits until it has drained.
    pub async fn drain(&mut self) {
        drop(self.stop.take());
        (&mut self.served).await.expect("the broker ends well");
    }
}

/// A replica that the primary waits for: what the broker's role has been told is written is on both.
async fn confirming_replica(postgres: &PrivatePostgres, witness: &Client, scratch: &Scratch) -> Replica {
    let replica = Replica::of(postgres, scratch).await;
    for sql in [
        "ALTER SYSTEM SET synchronous_standby_names = '*'",
        "ALTER ROLE app SET synchronous_commit = 'on'",
        "SELECT pg_reload_conf()",
    ] {
        witness.batch_execute(sql).await.expect("the owner may");
    }
    crate::eventually("the replica confirms", async || {
        let row = witness.query_one("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'", &[]).await;
        row.expect("the owner may ask").get::<_, i64>(0) == 1
    })
    .await;
    replica
}
