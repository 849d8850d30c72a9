//! A limit under its name: whether it is enforced, and what it has decided.

use crate::config::LimitsConfig;
use crate::observe::LimitMetrics;

/// A limit under its name.
pub struct Named<L> {
    /// As it stands in headers, problems and metrics.
    pub name: &'static str,
    /// The limit itself.
    pub limit: L,
    /// It counts, and refuses nothing.
    pub shadow: bool,
    counts: LimitMetrics,
}

/// The names of limits that would have refused a request, had they been enforced.
pub type Shadows = Vec<&'static str>;

impl<L> Named<L> {
    /// A limit of one tenant.
    pub fn new(
        name: &'static str,
        limit: L,
        config: &LimitsConfig,
        counts: &impl Fn(&'static str) -> LimitMetrics,
    ) -> Self {
        Self { name, limit, shadow: config.shadow.covers(name), counts: counts(name) }
    }

    /// The same name over another limit.
    pub fn map<M>(self, to: impl FnOnce(L) -> M) -> Named<M> {
        Named { name: self.name, limit: to(self.limit), shadow: self.shadow, counts: self.counts }
    }

    /// Counts what the limit has decided, and tells what to do: go on with what was taken, go on with nothing taken, or refuse.
    pub fn settle<T, E>(&self, decided: Result<T, E>, shadows: &mut Shadows) -> Result<Option<T>, E> {
        match decided {
            Ok(taken) => {
                self.counts.allowed();
                Ok(Some(taken))
            }
            Err(_) if self.shadow => {
                self.counts.shadow_refused();
                shadows.push(self.name);
                Ok(None)
            }
            Err(why) => {
                self.counts.refused();
                Err(why)
            }
        }
    }
}
