//! What is coming: how many sessions the next bucket of demand will want, so that they are open before anybody asks.
//!
//! Several [`model`]s foresee each bucket shortly before it begins, from the [`series`] of what the buckets so far wanted ([`need`]).
//! Each is scored by what its mistakes would have cost ([`score`]). The best one counts, and only where it does better than the
//! simplest by a tenth. A forecast only ever adds warm sessions: it takes none away that demand keeps.
//!
//! Rules without I/O: the same marks give the same forecasts. Memory is bounded: a week of marks, two bytes each (121 kB), and an
//! hour of mistakes a model. [`Forecast::foresee`] takes less than a millisecond, nearly all of it in `smooth`, and runs off the
//! request's way.

pub mod model;
pub mod need;
pub mod score;
pub mod series;
mod smooth;

use std::time::Duration;

use model::{Model, ModelName};
use need::{Need, Seen};
use score::Record;
use series::{HOUR, Series, WEEK};

use super::demand::BUCKET;
use super::sizing::IDLE;

/// A bucket is foreseen so long before it begins: a few sessions can be opened meanwhile, two at once, between two sweeps.
pub const LEAD: Duration = Duration::from_secs(3);
/// For so many buckets an idle session is kept.
#[expect(clippy::cast_possible_truncation, reason = "thirty")]
const KEPT: usize = (IDLE.as_secs() / BUCKET.as_secs()) as usize;
/// A model counts where its mistakes cost at most so much of the simplest one's.
const BETTER: f64 = 0.9;

/// A pool's forecasts.
#[derive(Debug)]
pub struct Forecast {
    series: Series,
    /// What the pool would have opened by itself.
    alone: Series,
    need: Need,
    /// The bucket that is open.
    open: Option<u64>,
    /// The bucket to foresee, and what is open for it without a forecast.
    due: Option<(u64, usize)>,
    candidates: Vec<Candidate>,
    /// Buckets foreseen and not over yet: the present one and, shortly before its end, the next.
    present: Option<Foreseen>,
    next: Option<Foreseen>,
    outcomes: Outcomes,
}

#[derive(Debug)]
struct Candidate {
    model: Box<dyn Model>,
    record: Record,
    /// What it says of the present bucket, and of the next.
    present: Option<f64>,
    next: Option<f64>,
}

/// What one bucket will want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreseen {
    /// The bucket.
    pub bucket: u64,
    /// Who says so; `None` where nobody does better than the simplest.
    pub by: Option<ModelName>,
    /// Sessions.
    pub wanted: usize,
    /// What would be open without a forecast.
    pub held: usize,
}

/// How buckets turned out that mattered: where more was wanted than would have been open, or more was foreseen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// More was wanted, and at least half of what was lacking had been foreseen.
    pub hits: u64,
    /// More was wanted than was foreseen.
    pub misses: u64,
    /// More was foreseen than would have been open, and not wanted.
    pub vain: u64,
}

/// A model as it stands, for people to see.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// The model.
    pub name: ModelName,
    /// What it says of the next bucket, or of this one. Unit: sessions.
    pub predicted: Option<f64>,
    /// What its mistakes cost in the last hour, a bucket. Unit: sessions.
    pub error: Option<f64>,
}

impl Default for Forecast {
    fn default() -> Self {
        let candidate = |model| Candidate { model, record: Record::default(), present: None, next: None };
        Self {
            series: Series::new(WEEK + HOUR),
            alone: Series::new(KEPT),
            need: Need::default(),
            open: None,
            due: None,
            candidates: model::all().into_iter().map(candidate).collect(),
            present: None,
            next: None,
            outcomes: Outcomes::default(),
        }
    }
}

impl Forecast {
    /// Notes the pool as it is, the mark of the last bucket that is over, and of the one that is open. `left` is what is left of that.
    ///
    /// True: it is time to [`Forecast::foresee`] the next.
    pub fn note(&mut self, seen: Seen, closed: (u64, usize), open: (u64, usize), left: Duration) -> bool {
        if self.open.is_some_and(|known| known < open.0) {
            let wanted = self.need.wanted(closed.1);
            self.series.note(closed.0, wanted);
            self.alone.note(closed.0, self.need.opened(closed.1));
            self.turn((closed.0, wanted), open.0);
            self.need.begin();
        }
        self.open = Some(open.0);
        self.need.note(seen);
        self.series.note(open.0, self.need.wanted(open.1));
        self.alone.note(open.0, self.need.opened(open.1));
        if left > LEAD || self.next.is_some() {
            return false;
        }
        let kept = self.alone.last(KEPT).max().map_or(0, usize::from);
        self.due = Some((open.0 + 1, kept.max(seen.open.saturating_sub(seen.added))));
        true
    }

    /// Foresees the next bucket, if it is time: the one step that takes a while, up to a millisecond.
    pub fn foresee(&mut self) {
        let Some((bucket, held)) = self.due.take() else { return };
        for candidate in &mut self.candidates {
            candidate.next = candidate.model.next(&self.series).map(|said| said.max(0.0));
        }
        let (by, wanted) = match self.best() {
            Some((candidate, said)) => (Some(candidate.model.name()), whole(said)),
            None => (None, 0),
        };
        self.next = Some(Foreseen { bucket, by, wanted, held });
    }

    /// How many sessions the present bucket and, once foreseen, the next will want; 0 where no model is good enough.
    pub fn wanted(&self) -> usize {
        let wanted = |foreseen: Option<Foreseen>| foreseen.filter(|it| it.by.is_some()).map_or(0, |it| it.wanted);
        wanted(self.present).max(wanted(self.next))
    }

    /// The bucket foreseen last.
    pub fn latest(&self) -> Option<Foreseen> {
        self.next.or(self.present)
    }

    /// How its forecasts turned out since it began.
    pub fn outcomes(&self) -> Outcomes {
        self.outcomes
    }

    /// Every model as it stands.
    pub fn standings(&self) -> impl Iterator<Item = Standing> {
        self.candidates.iter().map(|candidate| Standing {
            name: candidate.model.name(),
            predicted: candidate.next.or(candidate.present),
            error: candidate.record.loss(),
        })
    }

    /// A bucket is over: what was said of it is held against what came, and the next one is the present one.
    fn turn(&mut self, (closed, mark): (u64, usize), open: u64) {
        if let Some(present) = self.present.filter(|present| present.bucket == closed) {
            #[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
            let (came, held) = (mark as f64, present.held as f64);
            let simplest = self.candidates.first().and_then(|candidate| candidate.present);
            for candidate in &mut self.candidates {
                if let (Some(said), Some(simplest)) = (candidate.present, simplest) {
                    candidate.record.note(closed, came, said, simplest, held);
                }
            }
            self.outcomes.note(&present, mark);
        }
        self.present = self.next.take().filter(|next| next.bucket == open);
        for candidate in &mut self.candidates {
            candidate.present = candidate.next.take().filter(|_| self.present.is_some());
        }
    }

    fn best(&self) -> Option<(&Candidate, f64)> {
        let counts = |candidate: &Candidate| candidate.record.ratio().filter(|ratio| *ratio <= BETTER);
        let able = self.candidates.iter().filter_map(|it| Some((it, it.next?, counts(it)?)));
        let best = able.min_by(|(_, _, one), (_, _, other)| one.total_cmp(other));
        best.map(|(candidate, said, _)| (candidate, said))
    }
}

impl Outcomes {
    fn note(&mut self, foreseen: &Foreseen, mark: usize) {
        let (lacking, added) = (mark.saturating_sub(foreseen.held), foreseen.wanted.saturating_sub(foreseen.held));
        if lacking > 0 && 2 * added >= lacking {
            self.hits += 1;
        } else if lacking > 0 {
            self.misses += 1;
        } else if added > 0 {
            self.vain += 1;
        }
    }
}

/// Whole sessions: a tenth of one is none.
fn whole(sessions: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and a few thousand")]
    let whole = (sessions - 0.1).ceil().clamp(0.0, 65_535.0) as usize;
    whole
}

#[cfg(test)]
mod tests;
