use std::pin::pin;

use futures_util::FutureExt;
use futures_util::future::join_all;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{advance, sleep, timeout};

use super::*;

const TERMS: Terms = Terms { most: 1_000, serving: 2, usually: None };

fn account(name: &str) -> Arc<Account> {
    Account::new(TenantId::new(name), 1, 100)
}

fn queue_of(sessions: u32) -> Queue<u32> {
    let queue = Queue::new(64);
    (0..sessions).for_each(|session| queue.add(session));
    queue
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(1))
}

#[tokio::test(start_paused = true)]
async fn a_session_goes_from_the_one_who_brings_it_to_the_one_who_waits() {
    let (queue, acme) = (queue_of(1), account("acme"));
    let held = queue.take().expect("it is idle");
    assert!(queue.take().is_none());
    let mut seat = queue.join(&acme, soon(), TERMS).expect("there is room");
    assert!(seat.turn().now_or_never().is_none());
    assert_eq!((queue.waiting(), queue.available()), (1, 0));
    drop(held);
    assert!(queue.take().is_none(), "it is another's already");
    assert_eq!((queue.waiting(), queue.available()), (0, 1));
    let (session, charge) = seat.turn().await.expect("it is its turn");
    assert_eq!((*session, queue.available()), (0, 0));
    queue.settle(&charge, Duration::from_millis(5));
    drop((session, seat));
    assert_eq!((queue.available(), queue.take().is_some()), (1, true));
}

#[tokio::test(start_paused = true)]
async fn whoever_begins_to_wait_beside_an_idle_session_has_it() {
    let (queue, acme) = (queue_of(1), account("acme"));
    let mut seat = queue.join(&acme, soon(), TERMS).expect("there is room");
    assert!(seat.turn().now_or_never().expect("at once").is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_who_leaves_takes_nothing_along() {
    let (queue, acme) = (queue_of(1), account("acme"));
    for when in ["before its turn", "given one, and not having looked"] {
        let held = queue.take().expect("it is idle");
        let first = queue.join(&acme, soon(), TERMS).expect("there is room");
        let mut second = queue.join(&acme, soon(), TERMS).expect("there is room");
        if when == "before its turn" {
            drop(first);
            drop(held);
        } else {
            drop(held);
            assert_eq!(queue.waiting(), 1, "it is the first one's turn");
            drop(first);
        }
        let (session, _) = second.turn().now_or_never().expect("at once").expect("the next one's");
        drop(second);
        drop(session);
        assert_eq!((queue.waiting(), queue.available()), (0, 1), "{when}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_who_leaves_while_it_waits_in_a_task_takes_nothing_along() {
    let (queue, acme) = (queue_of(1), account("acme"));
    let held = queue.take().expect("it is idle");
    let mut seat = queue.join(&acme, soon(), TERMS).expect("there is room");
    assert!(timeout(Duration::from_millis(10), seat.turn()).await.is_err());
    // The wait was dropped, and the place was not.
    drop(held);
    assert!(seat.turn().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_whose_deadline_has_passed_gets_none() {
    let (queue, acme) = (queue_of(1), account("acme"));
    let held = queue.take().expect("it is idle");
    let mut late = queue.join(&acme, Deadline::after(Duration::from_millis(10)), TERMS).expect("there is room");
    let mut patient = queue.join(&acme, soon(), TERMS).expect("there is room");
    advance(Duration::from_millis(10)).await;
    drop(held);
    assert_eq!(late.turn().now_or_never().expect("it is told").err(), Some(Shed::Expired));
    assert!(patient.turn().now_or_never().expect("at once").is_ok());
    assert_eq!(queue.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn where_all_have_expired_the_session_lies_idle_again() {
    let (queue, acme) = (queue_of(1), account("acme"));
    let held = queue.take().expect("it is idle");
    let late = queue.join(&acme, Deadline::after(Duration::from_millis(10)), TERMS).expect("there is room");
    advance(Duration::from_millis(10)).await;
    drop(held);
    assert_eq!((queue.waiting(), queue.available()), (0, 1));
    assert!(queue.take().is_some());
    drop(late);
}

#[tokio::test(start_paused = true)]
async fn one_who_was_given_a_dead_session_keeps_its_place() {
    let (queue, acme) = (queue_of(1), account("acme"));
    let held = queue.take().expect("it is idle");
    let mut first = queue.join(&acme, soon(), TERMS).expect("there is room");
    let mut second = queue.join(&acme, soon(), TERMS).expect("there is room");
    drop(held);
    let (dead, charge) = first.turn().await.expect("it is its turn");
    Object::take(dead);
    first.again(&charge);
    assert_eq!(queue.waiting(), 2);
    queue.add(7);
    assert_eq!(*first.turn().now_or_never().expect("it is first").expect("its turn").0, 7);
    // Its object was dropped above: the second one's turn.
    assert!(second.turn().now_or_never().expect("at once").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_closed_queue_tells_everybody() {
    let (queue, acme) = (queue_of(1), account("acme"));
    let held = queue.take().expect("it is idle");
    let mut waits = queue.join(&acme, soon(), TERMS).expect("there is room");
    let mut given = queue.join(&account("acme"), soon(), TERMS).err();
    assert!(given.take().is_none());
    queue.close();
    assert_eq!(waits.turn().now_or_never().expect("it is told").err(), Some(Shed::Closed));
    assert_eq!(queue.join(&acme, soon(), TERMS).err(), Some(Shed::Closed));
    drop(held);
    queue.add(1);
    assert_eq!((queue.available(), queue.waiting(), queue.is_closed()), (0, 0, true));
}

#[tokio::test(start_paused = true)]
async fn one_who_looks_again_at_a_queue_closed_meanwhile_is_told() {
    let (queue, acme) = (queue_of(1), account("acme"));
    let mut seat = queue.join(&acme, soon(), TERMS).expect("there is room");
    let (dead, charge) = seat.turn().await.expect("it is its turn");
    Object::take(dead);
    queue.close();
    seat.again(&charge);
    assert_eq!(seat.turn().now_or_never().expect("it is told").err(), Some(Shed::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_the_tenants_own_and_a_crowd_is_sent_away_from_its_end() {
    let (queue, quiet) = (queue_of(0), account("quiet"));
    let loud = Account::new(TenantId::new("loud"), 1, 5);
    let mut seats: Vec<_> = (0..5).map(|_| queue.join(&loud, soon(), TERMS).expect("there is room")).collect();
    assert_eq!(queue.join(&loud, soon(), TERMS).err(), Some(Shed::Full(5)));
    loud.change(1, 100);
    let crowded = Terms { most: 5, ..TERMS };
    assert_eq!(queue.join(&loud, soon(), crowded).err(), Some(Shed::Crowded(5)), "nobody has more");
    let _quiet = queue.join(&quiet, soon(), crowded).expect("another makes room");
    assert_eq!(seats[4].turn().now_or_never().expect("it is told").err(), Some(Shed::Crowded(5)));
    assert!(seats[3].turn().now_or_never().is_none());
    assert_eq!(queue.waiting(), 5);
    let mut lengths = queue.lengths();
    lengths.sort_unstable();
    assert_eq!(lengths, [(TenantId::new("loud"), 4), (TenantId::new("quiet"), 1)]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_served_in_time_is_told_at_once() {
    let (queue, acme) = (queue_of(0), account("acme"));
    let terms = Terms { usually: Some(Duration::from_millis(100)), ..TERMS };
    let seats: Vec<_> = (0..20)
        .map(|_| queue.join(&acme, Deadline::after(Duration::from_secs(2)), terms).expect("there is time"))
        .collect();
    // Twenty of 100 ms, two at a time, and its own; and a quarter more.
    let refused = queue.join(&acme, Deadline::after(Duration::from_millis(1_374)), terms).err();
    assert_eq!(refused, Some(Shed::TooLate(Duration::from_secs(1))));
    assert!(queue.join(&account("other"), Deadline::after(Duration::from_millis(1)), terms).is_ok());
    drop(seats);
    assert!(queue.join(&acme, Deadline::after(Duration::from_millis(1)), terms).is_ok(), "nobody is before it");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_tenant_has_the_next_session_however_many_others_wait() {
    let (queue, loud, quiet) = (queue_of(2), account("loud"), account("quiet"));
    let work = |account: Arc<Account>, ms: u64| {
        let queue = &queue;
        async move {
            let mut seat = queue.join(&account, soon(), TERMS).expect("there is room");
            let (session, charge) = seat.turn().await?;
            sleep(Duration::from_millis(ms)).await;
            queue.settle(&charge, Duration::from_millis(ms));
            drop(session);
            Ok::<_, Shed>(())
        }
    };
    let crowd = async { join_all((0..80).map(|_| work(Arc::clone(&loud), 20))).await };
    let mut crowd = pin!(crowd);
    let mut waits = Vec::new();
    for _ in 0..10 {
        assert!(timeout(Duration::from_millis(31), crowd.as_mut()).await.is_err(), "the crowd is there to the end");
        let start = Instant::now();
        let quietly = work(Arc::clone(&quiet), 1);
        tokio::select! {
            _ = crowd.as_mut() => unreachable!("it lasts longer"),
            done = quietly => done.expect("is served"),
        }
        waits.push(start.elapsed());
    }
    let longest = waits.iter().max().expect("there are some");
    assert!(*longest <= Duration::from_millis(21), "one of the loud one's at most: {waits:?}");
}

/// Many tasks on real threads that come, wait, leave at any moment, find dead sessions; at the end every session is there once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_session_is_lost_or_lent_twice_whoever_leaves_when() {
    const SESSIONS: u32 = 3;
    let queue = Arc::new(queue_of(SESSIONS));
    let lent: Arc<[AtomicBool; 64]> = Arc::new(std::array::from_fn(|_| AtomicBool::new(false)));
    let tasks = (0..24_u64).map(|seed| {
        let (queue, lent) = (Arc::clone(&queue), Arc::clone(&lent));
        tokio::spawn(async move {
            let mut rng = SmallRng::seed_from_u64(seed);
            let account = account(["a", "b", "c"][rng.random_range(0..3)]);
            let mut served = 0;
            for _ in 0..400 {
                let patience = Duration::from_micros(rng.random_range(0..3_000));
                let (deadline, hold) = (rng.random_range(0..3_000), rng.random_range(0..300));
                let dies = rng.random_ratio(1, 10);
                let work = async {
                    let (mut object, charge) = if let Some(object) = queue.take() {
                        (object, Charge::none(&account))
                    } else {
                        let deadline = Deadline::after(Duration::from_micros(deadline));
                        let mut seat = queue.join(&account, deadline, TERMS)?;
                        let (mut object, mut charge) = seat.turn().await?;
                        if dies {
                            // Replaced by another under the same number.
                            let number = Object::take(object);
                            queue.add(number);
                            seat.again(&charge);
                            (object, charge) = seat.turn().await?;
                        }
                        (object, charge)
                    };
                    let number = *object as usize;
                    *object = u32::try_from(number).expect("it was one");
                    assert!(!lent[number].swap(true, Ordering::AcqRel), "lent twice");
                    let back = Back(&lent[number]);
                    if hold > 0 {
                        sleep(Duration::from_micros(hold)).await;
                    } else {
                        tokio::task::yield_now().await;
                    }
                    drop(back);
                    queue.settle(&charge, Duration::from_micros(hold));
                    Ok::<_, Shed>(())
                };
                // The timer's tick is a millisecond: some leave in the middle of everything.
                served += u32::from(matches!(timeout(patience, work).await, Ok(Ok(()))));
            }
            served
        })
    });
    let served: u32 = join_all(tasks).await.into_iter().map(|served| served.expect("no task fails")).sum();
    assert!(served > 100, "{served}");
    assert_eq!((queue.waiting(), queue.available()), (0, SESSIONS as usize));
    let mut all: Vec<u32> = std::iter::from_fn(|| queue.take().map(Object::take)).collect();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2]);
}

/// It is lent no more, also where its user is dropped.
struct Back<'a>(&'a AtomicBool);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
