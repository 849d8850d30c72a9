//! Workers: threads that serve clients' connections, each with a runtime of its own.
//!
//! A connection stays with one worker, and its requests with it, so that nothing is handed from thread to thread on a request's
//! way, and each worker hears of its sockets itself. What several workers use at once is divided between them by [`share`] where
//! that is worth it.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// One of so many workers of a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker {
    index: usize,
    count: usize,
}

impl Worker {
    /// The worker of this index among so many.
    pub fn new(index: usize, count: usize) -> Self {
        Self { index, count }
    }
}

thread_local! {
    /// Whose thread this is: set where a worker's thread begins, and never again.
    static HERE: Cell<Option<Worker>> = const { Cell::new(None) };
}

/// The worker whose thread this is; `None` on every other thread.
pub fn here() -> Option<Worker> {
    HERE.get()
}

/// Processors this process may use, as its control group and its affinity allow.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Which of so many things this thread uses, by their indexes: no other worker's where there are enough for all, else one, with as
/// few others as can be. A thread that is no worker uses them all.
pub fn share(things: usize) -> impl Iterator<Item = usize> {
    let (first, step) = match here() {
        Some(worker) if worker.count <= things => (worker.index, worker.count),
        Some(worker) if things > 0 => (worker.index % things, things),
        _ => (0, 1),
    };
    (first..things).step_by(step)
}

/// The workers of one broker. Dropped, they stop, and what they still do is cut.
#[derive(Debug)]
pub struct Workers {
    all: Vec<Seat>,
    /// Where the search for the idlest begins, so that equals take turns.
    next: AtomicUsize,
}

#[derive(Debug)]
struct Seat {
    runtime: Handle,
    tasks: Arc<AtomicUsize>,
    /// A worker's thread ends with this.
    _stop: Option<oneshot::Sender<()>>,
}

/// A task more on a worker, until this is dropped.
#[derive(Debug)]
pub struct Occupied(Arc<AtomicUsize>);

impl Workers {
    /// No threads of their own: everything runs on the runtime that this is called on.
    pub fn none() -> Self {
        let here = Seat { runtime: Handle::current(), tasks: Arc::default(), _stop: None };
        Self { all: vec![here], next: AtomicUsize::new(0) }
    }

    /// Starts so many threads, one at the least. Errors: the system has no room for one.
    pub fn start(count: usize) -> io::Result<Self> {
        let count = count.max(1);
        let all = (0..count).map(|index| Seat::start(Worker::new(index, count))).collect::<io::Result<_>>()?;
        Ok(Self { all, next: AtomicUsize::new(0) })
    }

    /// The worker with the fewest tasks, to be given one that keeps what comes along. It is not wrapped here: ten thousand
    /// connections would pay for that.
    pub fn idlest(&self) -> (&Handle, Occupied) {
        let first = self.next.fetch_add(1, Ordering::Relaxed) % self.all.len();
        let (after, before) = (self.all[first..].iter(), self.all[..first].iter());
        let seat = after.chain(before).min_by_key(|seat| seat.tasks.load(Ordering::Relaxed));
        let seat = seat.unwrap_or(&self.all[first]);
        seat.tasks.fetch_add(1, Ordering::Relaxed);
        (&seat.runtime, Occupied(Arc::clone(&seat.tasks)))
    }

    /// How each does: its tasks now, and for how long it was not waiting for anything since it began.
    pub fn doing(&self) -> impl Iterator<Item = (usize, Duration)> {
        // A runtime of one thread counts that as its only worker.
        let busy = |seat: &Seat| seat.runtime.metrics().worker_total_busy_duration(0);
        self.all.iter().map(move |seat| (seat.tasks.load(Ordering::Relaxed), busy(seat)))
    }
}

impl Seat {
    fn start(worker: Worker) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::Builder::new().name(format!("hearth-worker-{}", worker.index)).spawn(move || {
            HERE.set(Some(worker));
            // The sender is dropped, and never sends.
            let _ = runtime.block_on(stopped);
            // Nobody waits for what a task has left with threads that may block.
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, tasks: Arc::default(), _stop: Some(stop) })
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(worker: Option<Worker>, things: usize) -> Vec<usize> {
        thread::spawn(move || {
            HERE.set(worker);
            share(things).collect()
        })
        .join()
        .expect("ends")
    }

    #[test]
    fn what_there_is_enough_of_is_divided_and_the_rest_is_shared() {
        let worker = |index, count| Some(Worker::new(index, count));
        assert_eq!(shares(None, 3), [0, 1, 2]);
        assert_eq!([shares(worker(0, 2), 5), shares(worker(1, 2), 5)], [vec![0, 2, 4], vec![1, 3]]);
        assert_eq!([shares(worker(0, 1), 2), shares(worker(0, 1), 0)], [vec![0, 1], vec![]]);
        let few: Vec<_> = (0..5).map(|index| shares(worker(index, 5), 2)).collect();
        assert_eq!(few, [[0], [1], [0], [1], [0]]);
        assert_eq!(shares(worker(3, 4), 0), [] as [usize; 0]);
    }

    /// On whose thread a task runs that is given to the idlest, and what ends it.
    async fn begun(workers: &Workers) -> (Option<Worker>, oneshot::Sender<()>) {
        let (tell, told) = oneshot::channel();
        let (release, released) = oneshot::channel::<()>();
        let (runtime, occupied) = workers.idlest();
        runtime.spawn(async move {
            let _occupied = occupied;
            let _ = tell.send(here());
            let _ = released.await;
        });
        (told.await.expect("is told"), release)
    }

    #[tokio::test]
    async fn each_task_goes_to_the_worker_with_the_fewest() {
        let workers = Workers::start(3).expect("starts");
        let mut held = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..6 {
            let (on, release) = begun(&workers).await;
            held[on.expect("is a worker").index].push(release);
        }
        assert!(held.iter().all(|of_one| of_one.len() == 2), "they are divided evenly");
        // Those of one worker end: the next two are its.
        held[1].clear();
        while workers.all[1].tasks.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
        let more = [begun(&workers).await, begun(&workers).await];
        assert!(more.iter().all(|(on, _)| *on == Some(Worker::new(1, 3))));
    }

    #[tokio::test]
    async fn what_workers_do_ends_with_them() {
        let workers = Workers::start(1).expect("starts");
        let (_, mut release) = begun(&workers).await;
        drop(workers);
        release.closed().await;
    }

    #[tokio::test]
    async fn without_workers_tasks_run_where_they_are_given() {
        assert_eq!(begun(&Workers::none()).await.0, None);
    }
}
