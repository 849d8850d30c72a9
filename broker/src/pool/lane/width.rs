//! How many lanes: one more only for as long as that carries more, and none for a while where they do harm, or where nobody
//! uses them and their room is wanted for other sessions.
//!
//! A rule without I/O, asked once a second. More lanes share the work of one server between more of its processes, which helps
//! while one is busy all the time and hurts beyond: fewer statements meet on a lane, and each costs more system calls.

use std::time::Duration;

use tokio::time::Instant;

use super::tally::Counts;

/// There are so many, where there may be: one keeps a single process of the server busy (decision 0007).
const FEWEST: usize = 2;
/// So many ahead of one on average: the lanes are pressed.
const PRESSED: f64 = 6.0;
/// So few: one less would do.
const CALM: f64 = 0.5;
/// Pressed for so many seconds in a row, one more is tried.
const BEFORE_TRIAL: u32 = 2;
/// Seconds that a trial lasts; the first one does not count.
const TRIAL: u32 = 4;
/// A trial must carry so much more.
const GAIN: f64 = 1.05;
/// After a trial that did not, the next one comes so much later; twice as long each time.
const HOLD: Duration = Duration::from_mins(1);
const LONGEST_HOLD: Duration = Duration::from_mins(16);
/// Calm for so many seconds in a row, one less.
const BEFORE_SHRINKING: u32 = 60;
/// Open and unused for so many seconds in a row, lanes make room for sessions that somebody waits for.
const BEFORE_LETTING_GO: u32 = 2;
/// Where one in so many statements is over budget, lanes do harm...
const HARM: u64 = 100;
/// ... if it is not just a few.
const FEW: u64 = 5;
/// For how long lanes are left alone then.
pub const PAUSE: Duration = Duration::from_secs(30);

/// What changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// One more lane, on trial.
    Tried,
    /// One less: the last one carried no more, or nobody needs it.
    Narrowed,
    /// None at all for [`PAUSE`].
    Paused,
    /// Those that are open are closed; the next statement for one has them opened again.
    LetGo,
}

/// The number of lanes, and what is known of it.
#[derive(Debug)]
pub struct Width {
    used: usize,
    most: usize,
    pressed: u32,
    calm: u32,
    unused: u32,
    /// Statements a second: of the last second, and of the one before.
    last: [f64; 2],
    trial: Option<Trial>,
    failures: u32,
    hold_until: Option<Instant>,
    paused_until: Option<Instant>,
}

/// Whether lanes take up room, and whether that is wanted for others.
#[derive(Debug, Clone, Copy, Default)]
pub struct Room {
    /// A lane is open.
    pub is_taken: bool,
    /// Somebody waits for a session, and there may be no more of them.
    pub is_wanted: bool,
}

#[derive(Debug)]
struct Trial {
    before: f64,
    seconds: u32,
    carried: f64,
}

impl Width {
    /// The fewest, or what there may be.
    pub fn new(most: usize) -> Self {
        Self {
            used: most.min(FEWEST),
            most,
            pressed: 0,
            calm: 0,
            unused: 0,
            last: [0.0; 2],
            trial: None,
            failures: 0,
            hold_until: None,
            paused_until: None,
        }
    }

    /// Lanes that may be used now.
    pub fn lanes(&self) -> usize {
        if self.paused_until.is_some() { 0 } else { self.used }
    }

    /// One second is over.
    pub fn step(&mut self, counts: Counts, room: Room, now: Instant) -> Change {
        if self.paused_until.is_some_and(|until| now < until) {
            return Change::None;
        }
        self.paused_until = None;
        if counts.over_budget >= FEW && counts.over_budget * HARM > counts.asked {
            self.paused_until = Some(now + PAUSE);
            self.end_trial();
            return Change::Paused;
        }
        self.unused = if room.is_taken && counts.asked == 0 { self.unused + 1 } else { 0 };
        if self.unused >= BEFORE_LETTING_GO && room.is_wanted {
            self.unused = 0;
            self.end_trial();
            return Change::LetGo;
        }
        #[expect(clippy::cast_precision_loss, reason = "a second's worth of statements")]
        let rate = counts.asked as f64;
        let change = if self.trial.is_some() { self.judge(rate, now) } else { self.consider(counts, now) };
        self.last = [rate, self.last[0]];
        change
    }

    /// Nothing is known of what it would have carried.
    fn end_trial(&mut self) {
        if self.trial.take().is_some() {
            self.used -= 1;
        }
    }

    fn judge(&mut self, rate: f64, now: Instant) -> Change {
        let Some(trial) = &mut self.trial else { return Change::None };
        trial.seconds += 1;
        if trial.seconds == 1 {
            return Change::None;
        }
        trial.carried += rate;
        if trial.seconds < TRIAL {
            return Change::None;
        }
        let gained = trial.carried / f64::from(TRIAL - 1) >= trial.before * GAIN;
        self.trial = None;
        if gained {
            self.failures = 0;
            return Change::None;
        }
        self.used -= 1;
        self.hold_until = Some(now + HOLD.saturating_mul(1 << self.failures.min(4)).min(LONGEST_HOLD));
        self.failures += 1;
        Change::Narrowed
    }

    fn consider(&mut self, counts: Counts, now: Instant) -> Change {
        self.pressed = if counts.depth() >= PRESSED { self.pressed + 1 } else { 0 };
        self.calm = if counts.depth() < CALM { self.calm + 1 } else { 0 };
        let held = self.hold_until.is_some_and(|until| now < until);
        if self.pressed >= BEFORE_TRIAL && self.used < self.most && !held {
            self.pressed = 0;
            self.used += 1;
            let before = f64::midpoint(self.last[0], self.last[1]);
            self.trial = Some(Trial { before, seconds: 0, carried: 0.0 });
            return Change::Tried;
        }
        if self.calm >= BEFORE_SHRINKING && self.used > FEWEST {
            self.calm = 0;
            self.used -= 1;
            return Change::Narrowed;
        }
        Change::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct World {
        width: Width,
        room: Room,
        now: Instant,
    }

    impl World {
        fn new(most: usize) -> Self {
            Self { width: Width::new(most), room: Room::default(), now: Instant::now() }
        }

        /// Seconds under full load, of which so many lanes carry so much.
        fn pressed(&mut self, seconds: u32, carried: impl Fn(usize) -> u64) -> Vec<Change> {
            self.run(seconds, |lanes| {
                let asked = carried(lanes);
                Counts { asked, ahead: asked * 20, over_budget: 0 }
            })
        }

        fn run(&mut self, seconds: u32, counts: impl Fn(usize) -> Counts) -> Vec<Change> {
            let mut changes = Vec::new();
            for _ in 0..seconds {
                self.now += SECOND;
                changes.push(self.width.step(counts(self.width.lanes()), self.room, self.now));
            }
            changes.retain(|change| *change != Change::None);
            changes
        }
    }

    #[test]
    fn lanes_grow_while_that_carries_more_and_no_further() {
        let mut world = World::new(5);
        assert_eq!((world.width.lanes(), World::new(1).width.lanes()), (2, 1));
        let carried = |lanes: usize| [0, 0, 20_000, 31_000, 25_000, 20_000][lanes];
        let changes = world.pressed(30, carried);
        assert_eq!(changes, [Change::Tried, Change::Tried, Change::Narrowed]);
        assert_eq!(world.width.lanes(), 3, "three carry most");
        assert_eq!(world.pressed(40, carried), [], "and it is left at that for a while");
        let later = world.pressed(30 * 60, carried);
        let trials = later.iter().filter(|change| **change == Change::Tried).count();
        assert!((2..=6).contains(&trials), "tried again, ever more rarely: {trials}");
        assert_eq!(world.width.lanes(), 3);
    }

    #[test]
    fn the_fewest_are_enough_for_little_work() {
        let mut world = World::new(4);
        world.pressed(30, |lanes| 10_000 * lanes as u64);
        assert_eq!(world.width.lanes(), 4, "each carried more");
        assert_eq!(world.run(59, |_| Counts { asked: 50, ahead: 2, over_budget: 0 }), []);
        world.run(400, |_| Counts { asked: 50, ahead: 2, over_budget: 0 });
        assert_eq!(world.width.lanes(), FEWEST);
        assert_eq!(World::new(0).width.lanes(), 0, "none where none may be");
    }

    #[test]
    fn lanes_that_nobody_uses_make_room_for_those_who_wait() {
        let mut world = World::new(3);
        let unused = |_: usize| Counts::default();
        world.room.is_taken = true;
        assert_eq!(world.run(60, unused), [], "nobody waits");
        world.room.is_wanted = true;
        assert_eq!(world.run(1, unused), [Change::LetGo]);
        world.room.is_taken = false;
        assert_eq!(world.run(60, unused), [], "none is open");
        world.room.is_taken = true;
        let used = |_: usize| Counts { asked: 1, ahead: 0, over_budget: 0 };
        assert_eq!(world.run(60, used), [], "one statement a second is use");
        assert_eq!(world.run(BEFORE_LETTING_GO - 1, unused), [], "one just opened has its time");
        assert_eq!(world.run(1, unused), [Change::LetGo]);
        assert_eq!(world.width.lanes(), 2, "there may be as many as before");
        assert_eq!(world.pressed(BEFORE_TRIAL, |_| 1_000), [Change::Tried]);
        assert_eq!(world.run(BEFORE_LETTING_GO, unused), [Change::LetGo]);
        assert_eq!(world.width.lanes(), 2, "a trial that nobody took part in proves nothing");
    }

    #[test]
    fn lanes_are_left_alone_where_many_statements_are_over_budget() {
        let mut world = World::new(2);
        let some = |over_budget| move |_: usize| Counts { asked: 1_000, ahead: 0, over_budget };
        assert_eq!(world.run(10, some(FEW - 1)), [], "a few are learnt from");
        assert_eq!(world.run(1, some(11)), [Change::Paused]);
        assert_eq!(world.width.lanes(), 0);
        let none = |_: usize| Counts::default();
        world.run(29, none);
        assert_eq!(world.width.lanes(), 0);
        world.run(1, none);
        assert_eq!(world.width.lanes(), 2);
    }
}
