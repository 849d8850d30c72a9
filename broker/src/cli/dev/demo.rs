//! The demo: a tenant that owns its database, a second one with a small rate, a table with a few rows, calls to paste.

use std::error::Error;
use std::net::SocketAddr;

use serde_json::json;

use super::machine::random_word;
use super::postgres::PrivatePostgres;
use super::redis::PrivateRedis;
use crate::cli::key::NewKey;
use crate::config::{Config, ConfigError, load_text};

const DATABASE: &str = "app";
const CACHE: &str = "main";
const ROLE: &str = "app";

const TABLE: &str = "CREATE TABLE users (
    id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    email text,
    tags text[] NOT NULL DEFAULT '{}',
    created timestamptz NOT NULL DEFAULT now()
);
INSERT INTO users (name, email, tags) VALUES
    ('Ada', 'ada@example.com', '{math,engines}'),
    ('Grace', 'grace@example.com', '{compilers}'),
    ('Edsger', NULL, '{}');";

/// What the demo is made of.
pub struct Demo {
    postgres_port: u16,
    role_password: String,
    redis_port: u16,
    redis_password: String,
    key: NewKey,
    limited: NewKey,
    admin: NewKey,
}

impl Demo {
    /// Makes role, database and table.
    pub async fn prepare(postgres: &PrivatePostgres, redis: &PrivateRedis) -> Result<Self, Box<dyn Error>> {
        let role_password = random_word();
        let admin = postgres.admin("postgres").await?;
        admin.batch_execute(&format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{role_password}'")).await?;
        admin.batch_execute(&format!("CREATE DATABASE {DATABASE} OWNER {ROLE}")).await?;
        let owner = postgres.admin(DATABASE).await?;
        // In schema `public` since the newest servers let only the database's owner create there.
        owner.batch_execute(&format!("GRANT ALL ON SCHEMA public TO {ROLE}; SET ROLE {ROLE}; {TABLE}")).await?;
        Ok(Self {
            postgres_port: postgres.port,
            role_password,
            redis_port: redis.port,
            redis_password: redis.password.clone(),
            key: NewKey::random(),
            limited: NewKey::random(),
            admin: NewKey::random(),
        })
    }

    /// The broker's configuration.
    pub fn config(&self, pool_max: u32) -> Result<Config, ConfigError> {
        let Self { postgres_port, role_password, redis_port, redis_password, key, limited, admin } = self;
        let scopes = "[\"sql:read\", \"sql:write\", \"redis\"]";
        let text = format!(
            "[server]\nadmin_key_sha256 = \"{}\"\n\
             [databases.{DATABASE}]\nurl = \"postgres://{ROLE}@127.0.0.1:{postgres_port}/{DATABASE}?sslmode=disable\"\n\
             password = \"{role_password}\"\npool = {{ min = 1, max = {pool_max} }}\n\
             [caches.{CACHE}]\nurl = \"redis://127.0.0.1:{redis_port}/0\"\npassword = \"{redis_password}\"\n\
             [tenants.demo]\ndatabases = [\"{DATABASE}\"]\ncaches = [\"{CACHE}\"]\n\
             keys = [{{ id = \"{}\", sha256 = \"{}\", scopes = {scopes} }}]\n\
             [tenants.limited]\ndatabases = [\"{DATABASE}\"]\ncaches = [\"{CACHE}\"]\n\
             keys = [{{ id = \"{}\", sha256 = \"{}\", scopes = {scopes} }}]\nlimits = {{ requests_per_second = 5 }}\n",
            admin.sha256, key.id, key.sha256, limited.id, limited.sha256
        );
        load_text(&text, std::iter::empty())
    }

    fn database_url(&self) -> String {
        format!("postgres://{ROLE}:{}@127.0.0.1:{}/{DATABASE}", self.role_password, self.postgres_port)
    }

    /// One line for scripts.
    pub fn json(&self, data: SocketAddr, admin: SocketAddr) -> String {
        let line = json!({
            "url": format!("http://{data}"),
            "admin_url": format!("http://{admin}"),
            "admin_key": self.admin.secret,
            "database": DATABASE,
            "cache": CACHE,
            "key": self.key.token(),
            "limited_key": self.limited.token(),
            "database_url": self.database_url(),
            "redis_url": format!("redis://:{}@127.0.0.1:{}/0", self.redis_password, self.redis_port),
        });
        format!("{line}\n")
    }

    /// What a person sees: where everything is, and calls to paste.
    pub fn calls(&self, data: SocketAddr, admin: SocketAddr) -> String {
        let (key, limited, admin_key, psql) =
            (self.key.token(), self.limited.token(), &self.admin.secret, self.database_url());
        format!(
            r#"Hearth is listening on http://{data} (admin on http://{admin}), with a private PostgreSQL and Redis.
Everything is gone when this ends. Paste these into another terminal:

export HEARTH_URL=http://{data} HEARTH_KEY={key}

# A query
curl -sS -w '\n' $HEARTH_URL/v1/db/{DATABASE}/query -H "Authorization: Bearer $HEARTH_KEY" -d '{{"sql": "SELECT id, name, tags, created FROM users WHERE id = $1", "params": [1]}}'

# A write
curl -sS -w '\n' $HEARTH_URL/v1/db/{DATABASE}/query -H "Authorization: Bearer $HEARTH_KEY" -d '{{"sql": "INSERT INTO users (name) VALUES ($1) ON CONFLICT DO NOTHING RETURNING id", "params": ["Barbara"]}}'

# Redis
curl -sS -w '\n' $HEARTH_URL/v1/redis/{CACHE} -H "Authorization: Bearer $HEARTH_KEY" -d '["SET", "greeting", "hello", "EX", 60]'
curl -sS -w '\n' $HEARTH_URL/v1/redis/{CACHE}/pipeline -H "Authorization: Bearer $HEARTH_KEY" -d '[["GET", "greeting"], ["INCR", "visits"]]'

# An error, and the page that explains it
curl -sS -w '\n' $HEARTH_URL/v1/db/{DATABASE}/query -H "Authorization: Bearer $HEARTH_KEY" -d '{{"sql": "SELECT nmae FROM users"}}'
curl -sS -w '\n' $HEARTH_URL/problems/statement_failed

# A rate limit: this tenant has 5 requests a second
for i in 1 2 3 4 5 6 7; do curl -sS -o /dev/null -w '%{{http_code}} ' $HEARTH_URL/v1/db/{DATABASE}/query -H "Authorization: Bearer {limited}" -d '{{"sql": "SELECT 1"}}'; done; echo

# What the operator sees
curl -sS http://{admin}/metrics -H "Authorization: Bearer {admin_key}" | grep -E '^hearth_(requests|active)'

# The database itself
psql '{psql}' -c 'TABLE users'

Ctrl-C ends it.
"#
        )
    }
}
