//! Every order of coming, going, hearing and losing, without a server.

use tokio::sync::oneshot::error::TryRecvError;

use super::*;
use crate::pool::listen::queue::CAPACITY;

fn queue() -> Arc<Queue> {
    Arc::default()
}

fn heard(channel: &str, pid: i32) -> Notification {
    Notification { channel: channel.to_owned(), payload: String::new(), pid }
}

fn names(channels: &[&str]) -> Vec<Arc<str>> {
    channels.iter().map(|name| Arc::from(*name)).collect()
}

/// What stands in a queue: `R` for reconnected, else the process id.
async fn read(queue: &Queue) -> String {
    let mut text = String::new();
    queue.push(Event::Heard(Arc::new(Heard::new(heard("", -1))))).expect("there is room");
    loop {
        match queue.next().await.expect("has not ended") {
            Event::Reconnected => text.push('R'),
            Event::Heard(heard) => {
                let pid = heard.written(|n| bytes::Bytes::from(n.pid.to_string()));
                if pid == "-1" {
                    return text;
                }
                text.push_str(std::str::from_utf8(&pid).expect("is text"));
            }
        }
    }
}

/// A state with one subscriber of `c` who hears.
fn hearing() -> (State, Arc<Queue>, u64, u64) {
    let (mut state, first) = (State::default(), queue());
    let generation = state.begin();
    let (id, granted) = state.join("c", Arc::clone(&first));
    let mut granted = granted.expect("nothing is in force");
    assert_eq!(state.work(), Work { listen: names(&["c"]), unlisten: vec![] });
    assert!(matches!(granted.try_recv(), Err(TryRecvError::Empty)));
    state.granted(&names(&["c"]));
    assert!(matches!(granted.try_recv(), Ok(Ok(()))));
    assert_eq!(state.work(), Work::default());
    (state, first, id, generation)
}

#[tokio::test]
async fn the_second_subscriber_of_a_channel_hears_at_once() {
    let (mut state, first, _, generation) = hearing();
    let second = queue();
    assert!(state.join("c", Arc::clone(&second)).1.is_none());
    let other = queue();
    let (_, waits) = state.join("C", Arc::clone(&other));
    assert!(waits.is_some(), "case matters");
    for pid in 1..=3 {
        assert!(!state.dispatch(generation, heard("c", pid)));
    }
    state.dispatch(generation, heard("C", 4));
    assert_eq!((read(&first).await, read(&second).await), ("123".to_owned(), "123".to_owned()));
    assert_eq!(read(&other).await, "", "it has not been told that it listens");
}

#[tokio::test]
async fn the_last_to_leave_unlistens_and_one_who_comes_meanwhile_waits() {
    let (mut state, _, id, _) = hearing();
    let (second, _) = state.join("c", queue());
    assert!(!state.leave("c", id));
    assert!(state.leave("c", second));
    assert!(!state.leave("c", second), "leaving twice changes nothing");
    assert!(state.is_empty());
    assert_eq!(state.work(), Work { listen: vec![], unlisten: names(&["c"]) });
    let (_, waits) = state.join("c", queue());
    assert!(waits.is_some(), "UNLISTEN is on its way");
    assert_eq!(state.work(), Work { listen: names(&["c"]), unlisten: vec![] });
    // Granted after its last subscriber has left: the next look takes it back.
    let (third, _) = state.join("d", queue());
    state.leave("d", third);
    state.granted(&names(&["c", "d"]));
    assert_eq!(state.work(), Work { listen: vec![], unlisten: names(&["d"]) });
}

#[tokio::test]
async fn after_a_loss_each_is_told_once_before_it_hears_again() {
    let (mut state, first, _, old) = hearing();
    state.lost();
    let newcomer = queue();
    let (_, waits) = state.join("c", Arc::clone(&newcomer));
    let mut waits = waits.expect("nothing is in force any more");
    let new = state.begin();
    state.dispatch(old, heard("c", 1));
    assert_eq!(state.work().listen, names(&["c"]));
    // Ahead of the answer to LISTEN.
    state.dispatch(new, heard("c", 2));
    state.granted(&names(&["c"]));
    state.dispatch(new, heard("c", 3));
    assert!(matches!(waits.try_recv(), Ok(Ok(()))));
    assert_eq!((read(&first).await, read(&newcomer).await), ("R23".to_owned(), "3".to_owned()));
}

#[tokio::test]
async fn a_refusal_ends_those_who_wait_and_nobody_else() {
    let (mut state, first, _, _) = hearing();
    state.lost();
    let (_, waits) = state.join("c", queue());
    let (_, waits_too) = state.join("d", queue());
    let error = ListenError::Closed { backend: crate::base::BackendName::new("app") };
    assert!(state.refused("c", &error), "one who has heard is left");
    assert!(!state.refused("d", &error));
    for waits in [waits, waits_too] {
        assert!(waits.expect("waits").try_recv().expect("is told").is_err());
    }
    let (_, waits) = state.join("d", queue());
    state.refused_all(&error);
    assert!(waits.expect("waits").try_recv().expect("is told").is_err());
    assert_eq!(state.subscribers(), 1);
    state.begin();
    state.granted(&names(&["c"]));
    assert_eq!(read(&first).await, "R");
}

#[tokio::test]
async fn one_who_stops_reading_is_dropped_and_holds_nobody_up() {
    let (mut state, slow, _, generation) = hearing();
    let fast = queue();
    state.join("c", Arc::clone(&fast));
    for _ in 0..=CAPACITY {
        state.dispatch(generation, heard("c", 1));
        assert!(!state.is_ahead(), "it has never read");
        assert_eq!(read(&fast).await, "1");
    }
    assert!(matches!(slow.next().await, Err(End::TooSlow)));
    assert_eq!(state.subscribers(), 1);
    state.close();
    assert!(state.is_empty());
    assert!(matches!(fast.next().await, Err(End::Closed)));
}
