//! Requests running or queueing at one time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::fleet::Share;

/// One tenant's requests in flight.
#[derive(Clone)]
pub struct InFlight {
    count: Arc<AtomicU32>,
    limit: Option<u32>,
    /// This broker's share of a limit that is shared with others.
    share: Option<Arc<Share>>,
}

/// One request in flight; drop ends it.
#[derive(Debug)]
pub struct Permit(Arc<AtomicU32>);

impl InFlight {
    /// At most `limit` at one time; unlimited without.
    pub fn new(limit: Option<u32>) -> Self {
        Self { count: Arc::default(), limit, share: None }
    }

    /// The same under a limit that is shared with other brokers.
    #[must_use]
    pub fn shared(self, share: impl FnOnce(Arc<AtomicU32>) -> Arc<Share>) -> Self {
        Self { share: Some(share(Arc::clone(&self.count))), ..self }
    }

    /// How it is shared with other brokers, if it is.
    pub fn share(&self) -> Option<&Arc<Share>> {
        self.share.as_ref()
    }

    /// The same count under another limit: what runs already counts on.
    #[must_use]
    pub fn under(&self, limit: Option<u32>) -> Self {
        Self { count: Arc::clone(&self.count), limit, share: None }
    }

    /// Counts one more. Errors: the limit, when it is reached.
    pub fn take(&self) -> Result<Permit, u32> {
        let permit = Permit(Arc::clone(&self.count));
        let now = self.count.fetch_add(1, Ordering::AcqRel) + 1;
        let most = self.share.as_ref().map_or(self.limit, |share| Some(share.most(now)));
        match (most, self.limit) {
            (Some(most), Some(limit)) if now > most => Err(limit), // The permit's drop takes it off again.
            _ => Ok(permit),
        }
    }

    /// Counts one more, over the limit too.
    pub fn count_one(&self) -> Permit {
        self.count.fetch_add(1, Ordering::AcqRel);
        Permit(Arc::clone(&self.count))
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// How many there may be.
    pub fn limit(&self) -> Option<u32> {
        self.limit
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_come_back_also_after_a_refusal() {
        let in_flight = InFlight::new(Some(2));
        let held = [in_flight.take(), in_flight.take()];
        assert_eq!(in_flight.take().expect_err("full"), 2);
        assert_eq!(in_flight.count(), 2);
        drop(held);
        assert_eq!(in_flight.count(), 0);
    }

    #[test]
    fn another_limit_holds_at_once_and_counts_what_runs() {
        let before = InFlight::new(Some(3));
        let held = [before.take(), before.take()];
        let lowered = before.under(Some(1));
        assert_eq!((lowered.count(), lowered.take().expect_err("over it already")), (2, 1));
        drop(held);
        let one = lowered.take().expect("there is room again");
        assert_eq!(before.count(), 1, "neither lost nor doubled");
        assert!(lowered.under(None).take().is_ok());
        drop(one);
        assert_eq!(lowered.count(), 0);
    }
}
