//! Random numbers of the shapes that arrivals and times have.

use rand::RngExt;
use rand::rngs::SmallRng;

/// A seeded source.
pub struct Chance(pub SmallRng);

impl Chance {
    /// In `0.0..1.0`.
    pub fn uniform(&mut self) -> f64 {
        self.0.random()
    }

    /// Between events that know nothing of each other.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.uniform()).ln()
    }

    /// Around 0, spread 1 (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let (radius, angle) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    /// Times: never negative, a few much longer than most.
    pub fn log_normal(&mut self, median: f64, spread: f64) -> f64 {
        median * (spread * self.normal()).exp()
    }
}
