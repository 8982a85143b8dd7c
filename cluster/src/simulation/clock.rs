//! A node's clock: from any origin, at a rate that is slightly wrong.

use rand::{Rng, RngExt};

use crate::local_time::LocalTime;

/// Shows local milliseconds for true milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    origin: u64,
    /// True time that it did not see, standing still with its machine.
    missed: u64,
    ppm: i64,
}

impl Clock {
    /// A clock that is off by up to `drift_ppm`, often by all of it.
    pub(super) fn random(drift_ppm: u32, rng: &mut impl Rng) -> Self {
        let most = i64::from(drift_ppm);
        let ppm = match rng.random_range(0..4) {
            0 => most,
            1 => -most,
            _ => rng.random_range(-most..=most),
        };
        Self {
            origin: rng.random_range(0..1_000_000_000),
            missed: 0,
            ppm,
        }
    }

    pub(super) fn local(&self, true_ms: u64) -> LocalTime {
        let seen = i128::from(true_ms - self.missed.min(true_ms));
        let shown = seen * i128::from(1_000_000 + self.ppm) / 1_000_000;
        LocalTime(self.origin + u64::try_from(shown).unwrap_or(0))
    }

    /// The machine slept for this long, and the clock with it.
    pub(super) fn slept(&mut self, true_ms: u64) {
        self.missed += true_ms;
    }
}
