//! Whatever happens in whatever order.

use proptest::prelude::*;

use super::tests::{World, account, anywhere};
use super::*;
use crate::pool::queue::flow::QUANTUM;

#[derive(Debug, Clone)]
enum Step {
    Join { tenant: usize, patience_ms: u64 },
    Leave { which: usize },
    Next,
    Return { which: usize, held_ms: u64 },
    Refund { which: usize },
    PushOut { tenant: usize },
    Forgive,
    Wait { ms: u64 },
    Weigh { tenant: usize, weight: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_usize, 1..5_000_u64).prop_map(|(tenant, patience_ms)| Step::Join { tenant, patience_ms }),
        2 => any::<usize>().prop_map(|which| Step::Leave { which }),
        5 => Just(Step::Next),
        4 => (any::<usize>(), 0..3_000_u64).prop_map(|(which, held_ms)| Step::Return { which, held_ms }),
        1 => any::<usize>().prop_map(|which| Step::Refund { which }),
        1 => (0..4_usize).prop_map(|tenant| Step::PushOut { tenant }),
        1 => Just(Step::Forgive),
        2 => (1..2_000_u64).prop_map(|ms| Step::Wait { ms }),
        1 => (0..4_usize, 1..1_000_u32).prop_map(|(tenant, weight)| Step::Weigh { tenant, weight }),
    ]
}

proptest! {
    /// Whatever happens in whatever order: everybody who waits is in the line once, whoever was told is not, and the sums hold.
    #[test]
    fn nobody_is_lost_and_nobody_told_twice(steps in proptest::collection::vec(step(), 1..300)) {
        let accounts: Vec<_> = (0..4).map(|index| account(&format!("t{index}"), 1 + index)).collect();
        let (mut world, mut waiting, mut lent) = (World::new(), Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Join { tenant, patience_ms } => {
                    world.next += 1;
                    let deadline = world.now + Duration::from_millis(patience_ms);
                    let id = world.turns.join(&accounts[tenant], anywhere(world.next, deadline), None, world.now);
                    waiting.push((world.next, tenant, id, deadline));
                }
                Step::Leave { which } if !waiting.is_empty() => {
                    let (_, tenant, id, _) = waiting.remove(which % waiting.len());
                    prop_assert!(world.turns.leave(&accounts[tenant], id, world.now));
                    prop_assert!(!world.turns.leave(&accounts[tenant], id, world.now));
                }
                Step::Next => {
                    let mut expired = Vec::new();
                    let told = world.turns.next(None, world.now, |waiter| expired.push(waiter));
                    for gone in expired {
                        let at = waiting.iter().position(|it| it.0 == gone).expect("has waited");
                        prop_assert!(waiting.remove(at).3 <= world.now, "it was early");
                    }
                    match told {
                        Some((waiter, charge)) => {
                            let at = waiting.iter().position(|it| it.0 == waiter).expect("has waited");
                            let (_, tenant, id, deadline) = waiting.remove(at);
                            prop_assert!(deadline > world.now, "it was late");
                            prop_assert!(
                                !waiting.iter().any(|it| it.1 == tenant && it.2 < id && it.3 > world.now),
                                "one of its tenant's came before it"
                            );
                            lent.push(charge);
                        }
                        None => prop_assert!(waiting.is_empty(), "somebody waits"),
                    }
                }
                Step::Return { which, held_ms } if !lent.is_empty() => {
                    let charge = lent.swap_remove(which % lent.len());
                    world.turns.settle(&charge, Duration::from_millis(held_ms), world.now);
                }
                Step::Refund { which } if !lent.is_empty() => {
                    let charge = lent.swap_remove(which % lent.len());
                    world.turns.refund(&charge);
                }
                Step::PushOut { tenant } => {
                    if let Some(gone) = world.turns.push_out(&accounts[tenant], world.now) {
                        let at = waiting.iter().position(|it| it.0 == gone).expect("has waited");
                        waiting.remove(at);
                    }
                }
                Step::Forgive => drop(world.turns.forgive(world.now)),
                Step::Wait { ms } => world.now += Duration::from_millis(ms),
                Step::Weigh { tenant, weight } => accounts[tenant].change(weight, 1_000),
                _ => {}
            }
            prop_assert_eq!(world.turns.len(), waiting.len());
            for (index, account) in accounts.iter().enumerate() {
                prop_assert_eq!(world.turns.of(account), waiting.iter().filter(|it| it.1 == index).count());
            }
            world.turns.check();
        }
    }

    /// However much the others ask for, nobody waits for longer than its part of the time makes it.
    #[test]
    fn nobody_starves(weights in proptest::collection::vec(1..1_000_u32, 2..6), times in proptest::collection::vec(1..200_u64, 6)) {
        let accounts: Vec<_> = weights.iter().enumerate().map(|(i, weight)| account(&i.to_string(), *weight)).collect();
        let held = |tenant: &str| Duration::from_millis(times[tenant.parse::<usize>().expect("a number")]);
        let mut world = World::new();
        let total: u32 = weights.iter().sum();
        let longest = times.iter().max().copied().unwrap_or(1);
        let mut last: Vec<Instant> = vec![world.now; accounts.len()];
        for _ in 0..500 {
            for account in &accounts {
                if world.turns.of(account) == 0 {
                    world.join(account);
                }
            }
            let who: usize = world.serve(held).expect("somebody waits").parse().expect("a number");
            last[who] = world.now;
            for (index, weight) in weights.iter().enumerate() {
                // Its own last use and one quantum, paid by the others at their parts; and each other's last use beyond its quantum.
                let own = Duration::from_millis(times[index] + 2).mul_f64(1.3 * f64::from(total) / f64::from(*weight));
                let bound = own + Duration::from_millis((longest + 2) * 2 * weights.len() as u64);
                prop_assert!(world.now - last[index] <= bound, "{index} of {weights:?} with {times:?}: {:?} > {bound:?}", world.now - last[index]);
            }
        }
    }
}

impl Turns<u32> {
    /// The sums are what they are sums of.
    fn check(&self) {
        let flows = || self.flows.values();
        let costs = |flow: &Flow<u32>| flow.waiting.iter().map(|waiting| waiting.cost).sum::<i64>();
        assert!(flows().all(|flow| flow.work == costs(flow)));
        assert_eq!(self.work, flows().map(costs).sum::<i64>());
        let waits = || flows().filter(|flow| !flow.waiting.is_empty());
        assert_eq!(self.wanted, waits().map(|flow| u64::from(flow.weight)).sum::<u64>());
        assert_eq!(self.len, flows().map(|flow| flow.waiting.len()).sum::<usize>());
        assert!(waits().all(|flow| flow.is_listed), "who waits is in a list");
        let mut listed: Vec<_> = self.fresh.iter().chain(&self.round).collect();
        listed.sort_unstable();
        let count = listed.len();
        listed.dedup();
        assert_eq!((listed.len(), flows().filter(|flow| flow.is_listed).count()), (count, count), "in one list, once");
        assert!(flows().all(|flow| flow.credit <= QUANTUM));
    }
}
