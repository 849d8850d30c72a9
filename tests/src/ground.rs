//! The servers alone, for tests whose brokers are processes of their own.

use hearth_broker::cli::dev::postgres::PrivatePostgres;
use hearth_broker::cli::dev::redis::PrivateRedis;
use hearth_broker::cli::dev::scratch::Scratch;
use tokio_postgres::Client;

/// A private PostgreSQL with the role and the database `app`, and a private Redis.
pub struct Ground {
    /// The database server.
    pub postgres: PrivatePostgres,
    /// The cache server.
    pub redis: PrivateRedis,
    /// Where they live.
    pub scratch: Scratch,
}

impl Ground {
    /// Starts them; `settings` are PostgreSQL's, as `name=value`.
    pub async fn start(settings: &[&str]) -> Self {
        let scratch = Scratch::new("hearth-test").expect("a scratch folder");
        let (postgres, redis) =
            tokio::join!(PrivatePostgres::start_with(&scratch, settings), PrivateRedis::start(&scratch));
        let (postgres, redis) = (postgres.expect("PostgreSQL starts"), redis.expect("Redis starts"));
        let admin = postgres.admin("postgres").await.expect("connects");
        admin.batch_execute("CREATE ROLE app LOGIN PASSWORD 'hidden-password'").await.expect("makes the role");
        admin.batch_execute("CREATE DATABASE app OWNER app").await.expect("makes the database");
        Self { postgres, redis, scratch }
    }

    /// A connection as the owner of the cluster, in the database `app`.
    pub async fn witness(&self) -> Client {
        self.postgres.admin("app").await.expect("connects")
    }

    /// What PostgreSQL has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("postgres.log")).expect("there is a log")
    }
}
