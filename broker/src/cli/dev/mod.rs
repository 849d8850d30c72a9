//! `hearth dev`: a private PostgreSQL, a private Redis and a broker, to try things on.

mod demo;
pub mod machine;
pub mod postgres;
pub mod redis;
pub mod scratch;

use std::error::Error;

use clap::Args;
use tokio::net::TcpListener;

use super::print;
use super::serve::stop_signal;
use crate::base::Workers;
use crate::broker::Live;
use crate::config::LogConfig;
use crate::config::log::LogFormat;
use crate::observe::telemetry;
use crate::server::{Listeners, serve};
use demo::Demo;
use postgres::PrivatePostgres;
use redis::PrivateRedis;
use scratch::Scratch;

/// How to run the private servers.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Print one JSON object as the first line on standard output, once all is ready, for scripts.
    #[arg(long)]
    json: bool,
    /// Most connections of the broker to the private PostgreSQL.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=80))]
    pool_max: u32,
    /// Port of the broker. Default: 8432 if it is free, else any.
    #[arg(long)]
    port: Option<u16>,
    /// Which log lines to print.
    #[arg(long, default_value = "warn")]
    log: String,
}

/// Everything that runs, in the order in which it is stopped last.
struct Servers {
    postgres: PrivatePostgres,
    redis: PrivateRedis,
    scratch: Scratch,
}

/// Runs until Ctrl-C or SIGTERM, or until a private server dies; leaves nothing behind.
pub fn run(args: &DevArgs) -> Result<(), Box<dyn Error>> {
    telemetry::start(&LogConfig { filter: args.log.clone(), format: LogFormat::Pretty, ..LogConfig::default() })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        // First of all, so that a Ctrl-C while the servers start still cleans up.
        let stop = stop_signal()?;
        tokio::pin!(stop);
        let mut servers = tokio::select! {
            started = Servers::start() => started?,
            () = &mut stop => return Ok(()),
        };
        let ended = work(args, &mut servers, stop).await;
        servers.stop().await;
        ended
    })
}

async fn work(args: &DevArgs, servers: &mut Servers, stop: impl Future<Output = ()>) -> Result<(), Box<dyn Error>> {
    let demo = Demo::prepare(&servers.postgres, &servers.redis).await?;
    let mut config = demo.config(args.pool_max)?;
    config.server.listen.set_port(port(args.port).await);
    config.server.admin_listen.set_port(0);
    // There is no file to change: a reload reads what it was made with.
    let again = config.clone();
    let live = Live::new(&config, move || Ok(again.clone()))?;
    let listeners = Listeners::bind(config.server.listen, config.server.admin_listen).await?;
    let (data, admin) = listeners.addresses()?;
    live.warm().await;
    print(&if args.json { demo.json(data, admin) } else { demo.calls(data, admin) })?;
    let Servers { postgres, redis, .. } = servers;
    let mut died = None;
    let ended = async {
        tokio::select! {
            () = stop => {}
            status = postgres.died() => died = Some(format!("the private PostgreSQL died ({status})")),
            status = redis.died() => died = Some(format!("the private Redis died ({status})")),
        }
    };
    serve(live, listeners, Workers::start(config.server.workers as usize)?, ended).await;
    died.map_or(Ok(()), |what| Err(what.into()))
}

async fn port(asked: Option<u16>) -> u16 {
    const USUAL: u16 = 8432;
    match asked {
        Some(port) => port,
        None if TcpListener::bind(("127.0.0.1", USUAL)).await.is_ok() => USUAL,
        None => 0,
    }
}

impl Servers {
    async fn start() -> Result<Self, Box<dyn Error>> {
        let scratch = Scratch::new("hearth-dev")?;
        let (postgres, redis) = tokio::join!(PrivatePostgres::start(&scratch), PrivateRedis::start(&scratch));
        // A failure drops the one that did start; the scratch folder's guard then ends it.
        Ok(Self { postgres: postgres?, redis: redis?, scratch })
    }

    async fn stop(self) {
        tokio::join!(self.postgres.stop(), self.redis.stop());
        self.scratch.remove();
    }
}
