//! Marks of demand, one a bucket, for a week.

use std::collections::VecDeque;

/// Buckets in a minute, an hour, a day, a week.
pub const MINUTE: usize = 6;
/// See [`MINUTE`].
pub const HOUR: usize = 60 * MINUTE;
/// See [`MINUTE`].
pub const DAY: usize = 24 * HOUR;
/// See [`MINUTE`].
pub const WEEK: usize = 7 * DAY;

/// The marks so far, the oldest first.
#[derive(Debug)]
pub struct Series {
    /// Buckets remembered.
    most: usize,
    /// The number of the newest bucket.
    newest: u64,
    marks: VecDeque<u16>,
}

impl Series {
    /// None yet, and never more than `most`.
    pub fn new(most: usize) -> Self {
        Self { most, newest: 0, marks: VecDeque::new() }
    }

    /// Sets a bucket's mark. Buckets in between that nobody noted wanted nothing.
    pub fn note(&mut self, bucket: u64, mark: usize) {
        let mark = u16::try_from(mark).unwrap_or(u16::MAX);
        if self.marks.is_empty() {
            self.newest = bucket;
            self.marks.push_back(mark);
            return;
        }
        if let Some(ago) = self.newest.checked_sub(bucket) {
            let known = usize::try_from(ago).ok().and_then(|ago| self.marks.len().checked_sub(ago + 1));
            if let Some(known) = known.and_then(|index| self.marks.get_mut(index)) {
                *known = mark;
            }
            return;
        }
        // After a gap of more than everything remembered, nothing is.
        let gap = usize::try_from(bucket - self.newest - 1).unwrap_or(usize::MAX).min(self.most);
        self.marks.extend(std::iter::repeat_n(0, gap));
        self.marks.push_back(mark);
        self.newest = bucket;
        let surplus = self.marks.len().saturating_sub(self.most);
        self.marks.drain(..surplus);
    }

    /// The mark so many buckets before the newest; `None` where that is not known.
    pub fn ago(&self, buckets: usize) -> Option<f64> {
        let index = self.marks.len().checked_sub(buckets + 1)?;
        self.marks.get(index).map(|mark| f64::from(*mark))
    }

    /// The last marks, at most `count` of them, the oldest first.
    pub fn last(&self, count: usize) -> impl ExactSizeIterator<Item = u16> {
        self.marks.range(self.marks.len().saturating_sub(count)..).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_grow_gaps_are_empty_and_memory_is_bounded() {
        let mut series = Series::new(WEEK);
        series.note(7, 3);
        series.note(7, 5);
        series.note(10, 1);
        series.note(8, 2);
        assert_eq!(series.last(9).collect::<Vec<_>>(), [5, 2, 0, 1]);
        assert_eq!((series.ago(0), series.ago(3), series.ago(4)), (Some(1.0), Some(5.0), None));
        series.note(6, 9);
        assert_eq!(series.last(9).len(), 4, "what was before the first is not known");
        for bucket in 11..2 * WEEK as u64 {
            series.note(bucket, 1);
        }
        assert_eq!(series.marks.len(), WEEK);
        series.note(u64::MAX, 2);
        assert_eq!((series.marks.len(), series.ago(0), series.ago(1)), (WEEK, Some(2.0), Some(0.0)));
    }
}
