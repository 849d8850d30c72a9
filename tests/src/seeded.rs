//! Chance that comes out the same each time.

/// A generator with a seed: Knuth's MMIX constants, the upper half of its bits.
#[derive(Debug, Clone)]
pub struct Seeded(u64);

impl Seeded {
    /// Begins with a seed; neighbouring seeds go different ways.
    pub fn new(seed: u64) -> Self {
        let mut seeded = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        seeded.below(2);
        seeded
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// One of them.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let count = u64::try_from(all.len()).expect("fits");
        (count > 0).then(|| &all[usize::try_from(self.below(count)).expect("fits")])
    }
}

/// A number from the environment, so that a run by hand may be longer than one of the suite.
pub fn knob(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// The value below which so many of 1,000 lie.
pub fn permille(sorted: &[std::time::Duration], part: usize) -> std::time::Duration {
    sorted.get((sorted.len() * part / 1000).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}
