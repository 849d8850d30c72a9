use tokio::time::advance;

use super::*;

const LIMITS: BreakerConfig = BreakerConfig {
    failures: 3,
    address_failures: 6,
    key_failures: 20,
    window: Duration::from_mins(1),
    block: Duration::from_mins(1),
};

fn net(last: u8) -> Net {
    IpAddr::from([192, 0, 2, last]).into()
}

fn refused(breaker: &Breaker, net: Net, credential: Option<Credential>) -> Option<RefusedBy> {
    match breaker.admit(net, credential, Instant::now()) {
        Err(AuthError::TooManyFailures { by, retry_after }) => {
            assert!(retry_after > Duration::ZERO && retry_after <= LIMITS.block);
            Some(by)
        }
        other => {
            assert_eq!(other, Ok(()));
            None
        }
    }
}

fn fail(breaker: &Breaker, net: Net, credential: Option<Credential>, times: usize) -> bool {
    (0..times).any(|_| breaker.failed(net, credential, &LIMITS, Instant::now()))
}

#[test]
fn an_address_is_its_v4_or_its_v6_network() {
    let of = |text: &str| Net::from(text.parse::<IpAddr>().expect("an address"));
    assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:ffff:ffff:ffff"));
    assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
}

#[tokio::test(start_paused = true)]
async fn a_pair_is_refused_for_a_while_and_nobody_else_is() {
    let breaker = Breaker::default();
    let key = Some(breaker.key("k"));
    assert!(!fail(&breaker, net(1), key, 2));
    assert_eq!(refused(&breaker, net(1), key), None);
    assert!(fail(&breaker, net(1), key, 1), "the third begins a block");
    assert_eq!(refused(&breaker, net(1), key), Some(RefusedBy::Credential));
    assert_eq!(refused(&breaker, net(2), key), None, "the owner of the key, elsewhere");
    assert_eq!(refused(&breaker, net(1), Some(breaker.key("other"))), None);
    advance(Duration::from_secs(61)).await;
    assert_eq!(refused(&breaker, net(1), key), None);
    assert!(!fail(&breaker, net(1), key, 2), "counting begins anew");
}

#[tokio::test(start_paused = true)]
async fn failures_apart_by_more_than_the_window_never_meet() {
    let breaker = Breaker::default();
    for _ in 0..20 {
        assert!(!fail(&breaker, net(1), Some(breaker.key("k")), 2));
        advance(Duration::from_mins(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_blocked_still_serves_who_was_good_there() {
    let breaker = Breaker::default();
    let (good, stranger) = (breaker.key("good"), breaker.key("stranger"));
    breaker.succeeded(net(1), good, Instant::now());
    // Ids that nobody has: no pair is counted.
    assert!(fail(&breaker, net(1), None, 6));
    assert_eq!(refused(&breaker, net(1), None), Some(RefusedBy::Address));
    assert_eq!(refused(&breaker, net(1), Some(stranger)), Some(RefusedBy::Address));
    assert_eq!(refused(&breaker, net(1), Some(good)), None);
    assert_eq!(refused(&breaker, net(2), Some(stranger)), None);
    // And yet it cannot be guessed from there.
    assert!(fail(&breaker, net(1), Some(good), 3));
    assert_eq!(refused(&breaker, net(1), Some(good)), Some(RefusedBy::Credential));
    // What was good too long ago is a stranger.
    advance(Duration::from_hours(1)).await;
    fail(&breaker, net(1), None, 6);
    assert_eq!(refused(&breaker, net(1), Some(good)), Some(RefusedBy::Address));
}

#[tokio::test(start_paused = true)]
async fn a_key_guessed_from_everywhere_slows_strangers_alone() {
    let breaker = Breaker::default();
    let key = breaker.key("k");
    breaker.succeeded(net(200), key, Instant::now());
    for address in 0..20 {
        fail(&breaker, net(address), Some(key), 1);
    }
    assert_eq!(refused(&breaker, net(200), Some(key)), None, "its owner");
    assert_eq!(refused(&breaker, net(201), Some(key)), None, "one stranger a second");
    assert_eq!(refused(&breaker, net(202), Some(key)), Some(RefusedBy::Key));
    assert_eq!(refused(&breaker, net(202), Some(breaker.key("other"))), None);
    advance(Duration::from_millis(1001)).await;
    assert_eq!(refused(&breaker, net(202), Some(key)), None);
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_and_a_flood_frees_nobody_who_is_blocked() {
    let breaker = Breaker::default();
    let key = Some(breaker.key("k"));
    fail(&breaker, net(1), key, 3);
    for network in 0..60_000_u64 {
        breaker.failed(Net(network << 20), None, &LIMITS, Instant::now());
    }
    let counts: usize = breaker.counts.iter().map(|shard| shard.lock().expect("works").len()).sum();
    assert!(counts <= SHARDS * SHARD_COUNTS, "{counts}");
    assert_eq!(refused(&breaker, net(1), key), Some(RefusedBy::Credential));
}

#[tokio::test(start_paused = true)]
async fn switched_off_it_counts_nothing() {
    let breaker = Breaker::default();
    let off = BreakerConfig { failures: 0, ..LIMITS };
    for _ in 0..100 {
        breaker.failed(net(1), Some(breaker.key("k")), &off, Instant::now());
    }
    assert_eq!(refused(&breaker, net(1), Some(breaker.key("k"))), None);
}
