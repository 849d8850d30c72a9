use super::*;

/// Far enough away for everybody.
const LATER: Duration = Duration::from_hours(1);
const MS: Duration = Duration::from_millis(1);

pub(super) fn account(name: &str, weight: u32) -> Arc<Account> {
    Account::new(TenantId::new(name), weight, 1_000)
}

/// One who waits, and it does not matter where.
pub(super) fn anywhere(waiter: u32, deadline: Instant) -> Place<u32> {
    Place { waiter, deadline, near: None }
}

/// Turns on a clock of their own.
pub(super) struct World {
    pub turns: Turns<u32>,
    pub now: Instant,
    pub next: u32,
}

impl World {
    pub fn new() -> Self {
        Self { turns: Turns::new(), now: Instant::now(), next: 0 }
    }

    pub fn join(&mut self, account: &Arc<Account>) -> u64 {
        self.next += 1;
        self.turns.join(account, anywhere(self.next, self.now + LATER), None, self.now)
    }

    /// The next one's tenant; its session is held for `held` of it and then settled.
    pub fn serve(&mut self, held: impl Fn(&str) -> Duration) -> Option<String> {
        let (_, charge) = self.turns.next(None, self.now, |_| {})?;
        let tenant = charge.account.tenant().as_str().to_owned();
        let held = held(&tenant);
        self.now += held;
        self.turns.settle(&charge, held, self.now);
        Some(tenant)
    }

    /// Who got how much of `total` time, when all of them always wait and one session serves.
    fn shares(&mut self, accounts: &[Arc<Account>], total: Duration, held: impl Fn(&str) -> Duration) -> Vec<Duration> {
        let mut had = vec![Duration::ZERO; accounts.len()];
        let until = self.now + total;
        while self.now < until {
            for account in accounts {
                while self.turns.of(account) < 5 {
                    self.join(account);
                }
            }
            let tenant = self.serve(&held).expect("somebody waits");
            let who = accounts.iter().position(|account| account.tenant().as_str() == tenant);
            had[who.expect("is one of them")] += held(&tenant);
        }
        had
    }
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}

#[test]
fn one_tenant_is_served_in_the_order_it_came() {
    let mut world = World::new();
    let acme = account("acme", 1);
    for _ in 0..5 {
        world.join(&acme);
    }
    let mut order = Vec::new();
    while let Some((waiter, _)) = world.turns.next(None, world.now, |_| {}) {
        order.push(waiter);
    }
    assert_eq!(order, [1, 2, 3, 4, 5]);
}

#[test]
fn time_is_divided_by_weight_whatever_each_takes() {
    for (weights, times) in [
        ([1, 1], [20, 20]),
        ([1, 3], [20, 20]),
        ([1, 3], [100, 1]),
        ([3, 1], [100, 1]),
        ([1, 1], [500, 2]),
        ([2, 1_000], [3, 3]),
        ([499, 1_000], [7, 1]),
    ] {
        let accounts = [account("a", weights[0]), account("b", weights[1])];
        let held = |tenant: &str| Duration::from_millis(times[usize::from(tenant == "b")]);
        let had = World::new().shares(&accounts, Duration::from_mins(10), held);
        let (got, wanted) = (ratio(had[1], had[0]), f64::from(weights[1]) / f64::from(weights[0]));
        assert!((got / wanted - 1.0).abs() < 0.05, "{weights:?} {times:?}: {got:.3} instead of {wanted:.3}");
    }
}

#[test]
fn many_tenants_share_alike() {
    let accounts: Vec<_> = (0..50).map(|index| account(&format!("t{index}"), 1 + index % 3)).collect();
    let had = World::new().shares(&accounts, Duration::from_secs(400), |_| 4 * MS);
    let each: Vec<f64> = had.iter().zip(&accounts).map(|(had, a)| had.as_secs_f64() / f64::from(a.weight())).collect();
    let (least, most) = each.iter().fold((f64::MAX, 0.0_f64), |(least, most), it| (least.min(*it), most.max(*it)));
    assert!(most / least < 1.05, "{least} to {most}");
}

#[test]
fn one_who_asks_now_and_then_has_the_very_next_turn() {
    let mut world = World::new();
    let (loud, quiet) = (account("loud", 1), account("quiet", 1));
    for round in 0..200 {
        for _ in 0..5 {
            world.join(&loud);
        }
        let _ = world.serve(|_| 20 * MS);
        if round % 10 == 5 {
            world.join(&quiet);
            assert_eq!(world.serve(|_| 20 * MS).as_deref(), Some("quiet"), "round {round}");
        }
    }
}

#[test]
fn one_who_keeps_coming_back_as_a_new_one_gets_no_more_than_its_part() {
    // Never more than one of them waits, so that its queue is empty after each turn.
    let mut world = World::new();
    let (steady, fickle) = (account("steady", 1), account("fickle", 1));
    let (mut served, mut of_fickle) = (0, 0);
    while served < 10_000 {
        while world.turns.of(&steady) < 3 {
            world.join(&steady);
        }
        if world.turns.of(&fickle) == 0 {
            world.join(&fickle);
        }
        served += 1;
        of_fickle += u32::from(world.serve(|_| 5 * MS).as_deref() == Some("fickle"));
    }
    assert!((4_900..=5_100).contains(&of_fickle), "{of_fickle} of {served}");
}

#[test]
fn what_was_used_while_others_waited_is_paid_back_though_nobody_waits_meanwhile() {
    let mut world = World::new();
    let (slow, fast) = (account("slow", 1), account("fast", 1));
    // Lent before anybody waited: from then on it counts.
    let lent = Charge::none(&slow);
    world.join(&fast);
    world.now += Duration::from_secs(2);
    world.turns.settle(&lent, Duration::from_mins(1), world.now);
    world.join(&slow);
    let mut had = Duration::ZERO;
    loop {
        while world.turns.of(&fast) < 3 {
            world.join(&fast);
        }
        match world.serve(|_| 10 * MS).as_deref() {
            Some("fast") => had += 10 * MS,
            _ => break,
        }
    }
    assert!((1_900..2_100).contains(&had.as_millis()), "{had:?}");
}

#[test]
fn nobody_pays_for_longer_than_ten_seconds_of_the_others() {
    let mut world = World::new();
    let (slow, fast) = (account("slow", 1), account("fast", 1));
    world.join(&slow);
    world.join(&fast);
    assert!(world.serve(|_| 1_000 * LATER).is_some());
    world.join(&slow);
    let mut turns = 0;
    loop {
        while world.turns.of(&fast) < 3 {
            world.turns.join(&fast, anywhere(0, world.now + LATER), None, world.now);
        }
        // All of the slow one's have expired: it has one that has not.
        if world.turns.of(&slow) == 0 {
            world.join(&slow);
        }
        turns += 1;
        if world.serve(|_| 10 * MS).as_deref() == Some("slow") {
            break;
        }
    }
    assert!((900..1_100).contains(&turns), "{turns}");
}

#[test]
fn debts_are_forgotten_when_nobody_has_waited_for_a_while() {
    let mut world = World::new();
    let (slow, fast) = (account("slow", 1), account("fast", 1));
    world.join(&slow);
    world.join(&fast);
    while world.serve(|tenant| if tenant == "slow" { Duration::from_secs(5) } else { MS }).is_some() {}
    assert!(!world.turns.forgive(world.now), "not yet");
    world.now += 2 * FORGIVEN;
    assert!(world.turns.forgive(world.now));
    world.join(&slow);
    world.join(&fast);
    assert_eq!(world.serve(|_| MS).as_deref(), Some("slow"), "first come, first served");
}

#[test]
fn a_weight_changes_for_those_who_wait() {
    let accounts = [account("a", 1), account("b", 1)];
    let mut world = World::new();
    world.shares(&accounts, Duration::from_secs(10), |_| 10 * MS);
    accounts[1].change(4, 1_000);
    let had = world.shares(&accounts, Duration::from_secs(100), |_| 10 * MS);
    assert!((3.8..4.2).contains(&ratio(had[1], had[0])), "{had:?}");
}

#[test]
fn the_longest_queue_makes_room_and_the_oldest_there_stay() {
    let mut world = World::new();
    let (loud, quiet, heavy) = (account("loud", 1), account("quiet", 1), account("heavy", 4));
    for _ in 0..6 {
        world.join(&loud);
    }
    for _ in 0..8 {
        world.join(&heavy);
    }
    assert_eq!(world.turns.push_out(&quiet, world.now), Some(6), "the newest of the longest by weight");
    assert_eq!(world.turns.push_out(&loud, world.now), None, "its own is the longest");
    assert_eq!((world.turns.of(&loud), world.turns.len()), (5, 13));
}

#[test]
fn the_wait_is_estimated_from_what_is_known_and_never_for_the_first() {
    let mut world = World::new();
    let (loud, quiet) = (account("loud", 1), account("quiet", 1));
    let expected =
        |world: &World, account: &Account| world.turns.expected(account, 4, world.now).map(|it| (it.wait, it.done));
    world.turns.note_usual(Some(20 * MS));
    assert_eq!(expected(&world, &loud), None);
    for _ in 0..100 {
        world.join(&loud);
    }
    assert_eq!(expected(&world, &loud), Some((500 * MS, 650 * MS)));
    assert_eq!(expected(&world, &quiet), None);
    for _ in 0..10 {
        world.join(&quiet);
    }
    // Two tenants with equal parts: but when the quiet one is through, all is the loud one's.
    assert_eq!(expected(&world, &loud), Some((550 * MS, Duration::from_micros(712_500))));
    assert_eq!(expected(&world, &quiet), Some((100 * MS, 150 * MS)));
    let mut unknown = World::new();
    for _ in 0..100 {
        unknown.join(&loud);
    }
    assert_eq!(expected(&unknown, &loud), None, "nothing is known of how long they take");
}

#[test]
fn an_estimate_is_put_right_by_what_became_of_it() {
    let mut world = World::new();
    let acme = account("acme", 1);
    world.turns.note_usual(Some(20 * MS));
    let mut last = None;
    // Each takes 20 ms, and the session as long again before it is there for the next.
    for _ in 0..400 {
        while world.turns.of(&acme) < 10 {
            last = world.turns.expected(&acme, 1, world.now);
            world.turns.join(&acme, anywhere(0, world.now + LATER), last, world.now);
        }
        let (_, charge) = world.turns.next(None, world.now, |_| {}).expect("somebody waits");
        world.now += 20 * MS;
        world.turns.settle(&charge, 20 * MS, world.now);
        world.now += 20 * MS;
    }
    // Nine before it: 40 ms each.
    let wait = last.expect("is known").wait;
    assert!((340 * MS..=420 * MS).contains(&wait), "{wait:?}");
}

#[test]
fn who_waits_where_the_session_is_goes_before_an_older_one_but_not_for_long() {
    let (mut world, acme) = (World::new(), account("acme", 1));
    let [here, there] = [0, 1].map(|index| Some(Worker::new(index, 2)));
    for (waiter, near) in [(1, there), (2, there), (3, here), (4, here), (5, here), (6, here), (7, here)] {
        let place = Place { near, ..anywhere(waiter, world.now + LATER) };
        world.turns.join(&acme, place, None, world.now);
    }
    let turns = std::iter::from_fn(|| world.turns.next(here, world.now, |_| {}).map(|(waiter, _)| waiter));
    assert_eq!(turns.collect::<Vec<_>>(), [3, 4, 5, 1, 6, 7, 2]);
    for waiter in 1..=20 {
        let near = if waiter <= 10 { there } else { here };
        world.turns.join(&acme, Place { near, ..anywhere(waiter, world.now + LATER) }, None, world.now);
    }
    let first = world.turns.next(here, world.now, |_| {}).map(|(waiter, _)| waiter);
    assert_eq!(first, Some(1), "the nearest is too far behind");
    let elsewhere = world.turns.next(None, world.now, |_| {}).map(|(waiter, _)| waiter);
    assert_eq!(elsewhere, Some(2), "on no worker's thread all are alike");
}
