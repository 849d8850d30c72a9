//! What breaks things.

use std::fmt;
use std::time::Duration;

use hearth_broker::cli::dev::machine::signal;
use hearth_tests::proxy::{End, Fault, Link, Side, Way};
use hearth_tests::{Seeded, eventually};
use tokio::time::sleep;

use super::{TENANTS, World};

/// A connection that passes nothing for so long is given up by whoever waits on it, as if it had been ended.
const LOST: Duration = Duration::from_secs(1);

/// What was done.
#[derive(Debug, Default)]
pub struct Told {
    acts: std::collections::BTreeMap<&'static str, u64>,
    /// Connections to PostgreSQL that were ended, or stalled until they were given up.
    killed: u64,
    reloads: u64,
}

impl Told {
    /// Connections to PostgreSQL that something befell.
    pub fn killed(&self) -> u64 {
        self.killed
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {} connections killed, {} reloads done", self.acts, self.killed, self.reloads)
    }
}

/// Does one thing, drawn from `chance`, and undoes what does not undo itself.
pub async fn act(world: &mut World, chance: &mut Seeded, told: &mut Told) {
    let name = match chance.below(100) {
        0..20 => terminate(world, chance, told).await,
        20..35 => end(world, chance, told).await,
        35..47 => stall(world, chance, told).await,
        47..55 => trickle(world, chance).await,
        55..60 => shut(world, chance).await,
        60..70 => redis_ends(world, chance).await,
        70..75 => redis_stalls(world, chance).await,
        75..79 => redis_restarts(world).await,
        79..85 => pause(world, chance).await,
        85..90 => reconnect(world, chance).await,
        90..96 => reload(world, told).await,
        _ => crash(world, told).await,
    };
    *told.acts.entry(name).or_default() += 1;
    sleep(ms(chance, 20, 250)).await;
}

/// Everything passes again, and what one side alone had lost is lost on both.
pub async fn heal(world: &World) {
    for proxy in [&world.postgres, &world.redis] {
        proxy.heal();
        proxy.forget();
    }
    for tenant in TENANTS {
        world.served.admin(&format!("/admin/v1/databases/{tenant}/resume")).await;
    }
}

fn ms(chance: &mut Seeded, from: u64, to: u64) -> Duration {
    Duration::from_millis(from + chance.below(to - from))
}

fn count(n: usize) -> u64 {
    u64::try_from(n).expect("fits")
}

async fn terminate(world: &World, chance: &mut Seeded, told: &mut Told) -> &'static str {
    // A server that has just crashed lets nobody in for a moment.
    let Ok(witness) = world.ground.postgres.admin("app").await else { return "terminate in vain" };
    let most = 1 + chance.below(3);
    let sql = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE usename IN ('app', 'rival') \
         ORDER BY md5(pid::text || {}) LIMIT {most}) AS some",
        chance.below(1000)
    );
    if let Ok(row) = witness.query_one(&sql, &[]).await {
        told.killed += u64::try_from(row.get::<_, i64>(0)).expect("a count");
    }
    "terminate"
}

async fn end(world: &World, chance: &mut Seeded, told: &mut Told) -> &'static str {
    let side = *chance.one_of(&[Side::Both, Side::Broker, Side::Server]).expect("three");
    let how = *chance.one_of(&[End::Close, End::Reset]).expect("two");
    if chance.below(4) == 0 {
        told.killed += count(world.postgres.end(side, how));
    } else if let Some(link) = chance.one_of(&world.postgres.links()) {
        told.killed += u64::from(link.end(side, how));
    }
    sleep(ms(chance, 1, 400)).await;
    world.postgres.forget();
    "end"
}

/// Some of the time beyond a request's deadline.
async fn stall(world: &World, chance: &mut Seeded, told: &mut Told) -> &'static str {
    let ways: &[Way] =
        chance.one_of(&[&[Way::ToServer][..], &[Way::ToBroker], &[Way::ToServer, Way::ToBroker]]).expect("three");
    let most = if chance.below(4) == 0 { 2_500 } else { 400 };
    let long = ms(chance, 20, most);
    if chance.below(3) == 0 {
        for way in ways {
            world.postgres.set(*way, Fault::Stall);
        }
        sleep(long).await;
        told.killed += if long > LOST { count(world.postgres.links().len()) } else { 0 };
        world.postgres.heal();
    } else if let Some(link) = chance.one_of(&world.postgres.links()) {
        let link: &Link = link;
        for way in ways {
            link.set(*way, Fault::Stall);
        }
        sleep(long).await;
        told.killed += u64::from(long > LOST);
        for way in ways {
            link.set(*way, Fault::None);
        }
    }
    "stall"
}

async fn trickle(world: &World, chance: &mut Seeded) -> &'static str {
    let fault = Fault::Trickle {
        bytes: usize::try_from(1 + chance.below(40)).expect("fits"),
        pause: Duration::from_micros(500),
    };
    let way = *chance.one_of(&[Way::ToServer, Way::ToBroker]).expect("two");
    world.postgres.set(way, fault);
    sleep(ms(chance, 20, 300)).await;
    world.postgres.heal();
    "trickle"
}

async fn shut(world: &World, chance: &mut Seeded) -> &'static str {
    world.postgres.shut(true);
    sleep(ms(chance, 20, 300)).await;
    world.postgres.shut(false);
    "shut"
}

async fn redis_ends(world: &World, chance: &mut Seeded) -> &'static str {
    let side = *chance.one_of(&[Side::Both, Side::Broker, Side::Server]).expect("three");
    world.redis.end(side, *chance.one_of(&[End::Close, End::Reset]).expect("two"));
    sleep(ms(chance, 1, 200)).await;
    world.redis.forget();
    "Redis: end"
}

async fn redis_stalls(world: &World, chance: &mut Seeded) -> &'static str {
    let (stall, trickle) = (Fault::Stall, Fault::Trickle { bytes: 3, pause: Duration::from_millis(1) });
    let fault = *chance.one_of(&[stall, trickle]).expect("two");
    world.redis.set(*chance.one_of(&[Way::ToServer, Way::ToBroker]).expect("two"), fault);
    sleep(ms(chance, 20, 500)).await;
    world.redis.heal();
    "Redis: stall"
}

async fn redis_restarts(world: &mut World) -> &'static str {
    world.ground.redis.halt().await;
    world.ground.redis.restart(&world.ground.scratch).await.expect("Redis starts again");
    "Redis: restart"
}

async fn pause(world: &World, chance: &mut Seeded) -> &'static str {
    let tenant = *chance.one_of(&TENANTS).expect("two");
    world.served.admin(&format!("/admin/v1/databases/{tenant}/pause")).await;
    sleep(ms(chance, 20, 300)).await;
    world.served.admin(&format!("/admin/v1/databases/{tenant}/resume")).await;
    "pause"
}

async fn reconnect(world: &World, chance: &mut Seeded) -> &'static str {
    let tenant = *chance.one_of(&TENANTS).expect("two");
    world.served.admin(&format!("/admin/v1/databases/{tenant}/reconnect")).await;
    "reconnect"
}

/// Changes the configuration a little, and has it read.
async fn reload(world: &World, told: &mut Told) -> &'static str {
    let file = world.served.config();
    let text = std::fs::read_to_string(file).expect("is there");
    let (eight, seven) = ("min = 1, max = 8", "min = 1, max = 7");
    let changed = if text.contains(eight) { text.replace(eight, seven) } else { text.replace(seven, eight) };
    std::fs::write(file, changed).expect("writes");
    told.reloads += u64::from(world.served.admin("/admin/v1/reload").await.status == 200);
    "reload"
}

/// One backend dies without a word; the server ends all others and recovers.
async fn crash(world: &World, told: &mut Told) -> &'static str {
    let Ok(witness) = world.ground.postgres.admin("app").await else { return "crash in vain" };
    let sql = "SELECT pid::int8, count(*) OVER () FROM pg_stat_activity WHERE usename IN ('app', 'rival') LIMIT 1";
    let Ok(Some(row)) = witness.query_opt(sql, &[]).await else { return "crash in vain" };
    let (victim, all) = (row.get::<_, i64>(0), row.get::<_, i64>(1));
    signal(u32::try_from(victim).expect("a process id"), "KILL");
    told.killed += u64::try_from(all).expect("a count");
    eventually("the server is back", async || world.ground.postgres.admin("app").await.is_ok()).await;
    "crash"
}
