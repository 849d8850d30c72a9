use tokio::time::advance;

use super::*;
use crate::tenant::fleet::tests::{fleet, moment};

const ROUND: Duration = Duration::from_millis(50);

fn bucket(per_second: u32, burst: i64) -> Arc<Bucket> {
    let terms = Terms { per_second: per_second.into(), burst, debt: burst, window: Duration::from_secs(1) };
    Bucket::new(terms, &fleet(), "acme", "requests")
}

/// Spent, wanted and given back.
fn asked(bucket: &Bucket) -> Option<[i64; 3]> {
    let ask = bucket.ask(&moment())?;
    Some([3, 4, 5].map(|index| ask.args[index].parse().expect("a number")))
}

fn admitted(bucket: &Arc<Bucket>, offered: u32) -> u32 {
    (0..offered).map(|_| u32::from(bucket.take().is_ok())).sum()
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_starts_serves_its_part_of_the_burst_at_once_and_pays_for_it() {
    let bucket = bucket(300, 300);
    assert_eq!(admitted(&bucket, 150), 100);
    advance(ROUND).await;
    let [spent, want, give] = asked(&bucket).expect("it has something to tell");
    assert_eq!((spent, give), (100, 0));
    assert_eq!(want, 45, "what the rate gives in the time of a lease, whatever is offered");
    bucket.answered(&moment(), [45, 30]);
    assert_eq!(admitted(&bucket, 100), 45 + 10, "the lease, and a third of what is left");
    assert!(bucket.take().expect_err("nothing is left") >= Duration::from_millis(3));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_used_is_given_back_and_an_idle_limit_asks_no_more() {
    let bucket = bucket(300, 300);
    admitted(&bucket, 20);
    advance(ROUND).await;
    asked(&bucket).expect("asks");
    bucket.answered(&moment(), [45, 200]);
    let mut given = 0;
    for _ in 0..60 {
        advance(ROUND).await;
        if let Some([_, _, give]) = asked(&bucket) {
            given += give;
            bucket.answered(&moment(), [0, 200]);
        }
    }
    assert_eq!(given, 45);
    assert!(bucket.rests(&moment()));
    assert_eq!(asked(&bucket), None);
    bucket.take().expect("a part of what is left");
    assert!(!bucket.rests(&moment()), "it is used again");
}

#[tokio::test(start_paused = true)]
async fn alone_it_takes_its_part_and_no_more() {
    let bucket = bucket(300, 300);
    let mut total = admitted(&bucket, 300);
    for _ in 0..200 {
        advance(ROUND).await;
        bucket.alone(&moment());
        total += admitted(&bucket, 50);
    }
    assert!((1095..=1101).contains(&total), "a third of the burst, and of ten seconds: {total}");
    // Back again: what Redis has gathered meanwhile is taken off there, a third of the burst at most.
    let [spent, _, _] = asked(&bucket).expect("it has something to tell");
    assert_eq!(spent, 100);
}

#[tokio::test(start_paused = true)]
async fn alone_and_idle_it_saves_up_its_part_of_the_burst() {
    let bucket = bucket(3, 300);
    for _ in 0..10 {
        advance(Duration::from_secs(100)).await;
        bucket.alone(&moment());
    }
    assert_eq!(admitted(&bucket, 500), 100);
    assert!(bucket.rests(&moment()) || asked(&bucket).is_some());
}

#[tokio::test(start_paused = true)]
async fn what_is_charged_afterwards_is_told_and_bounded() {
    let bucket = bucket(1000, 1000);
    bucket.look().expect("nothing is used");
    bucket.charge(600);
    assert!(bucket.look().is_err(), "its part is used up until it is known what the others have left");
    bucket.charge(1_000_000);
    advance(ROUND).await;
    let [spent, _, _] = asked(&bucket).expect("it has something to tell");
    assert_eq!(spent, 1000, "no more may be owed");
    bucket.answered(&moment(), [0, -1000]);
    assert_eq!(bucket.look(), Err(Duration::from_millis(1001)), "when it is paid");
}
