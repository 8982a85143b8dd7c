//! How long to wait before a restart (pure).
//!
//! OTP restarts at once and lets the intensity speak. Agents mostly fail because something
//! they need is down, so by default the first restart is immediate and later ones wait:
//! exponential growth, "equal jitter" (between half and all of the delay; Brooker,
//! "Exponential Backoff And Jitter", 2015), forgotten after a stable run.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Delays between restarts of one child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Delay before the second restart in a row; zero switches the backoff off.
    pub first: Duration,
    /// Delays double up to this. Higher spares a broken dependency, lower heals faster.
    pub longest: Duration,
    /// A child that ran this long has recovered: its next failure counts as its first.
    pub stable_after: Duration,
}

impl Default for Backoff {
    /// 100 ms doubling up to 30 s; stable after 60 s.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(30),
            stable_after: Duration::from_secs(60),
        }
    }
}

impl Backoff {
    /// Restarts are immediate, as in OTP.
    pub const OFF: Self = Self {
        first: Duration::ZERO,
        longest: Duration::ZERO,
        stable_after: Duration::ZERO,
    };

    /// The delay before restart number `streak` in a row, counted from one.
    #[must_use]
    pub fn delay(&self, streak: u32, rng: &mut impl Rng) -> Duration {
        if streak <= 1 || self.first.is_zero() {
            return Duration::ZERO;
        }
        let doublings = (streak - 2).min(31);
        let full = self.first.saturating_mul(1 << doublings).min(self.longest);
        full.mul_f64(rng.random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn the_first_restart_is_immediate_and_off_means_always() {
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(Backoff::default().delay(1, &mut rng), Duration::ZERO);
        assert_eq!(Backoff::OFF.delay(9, &mut rng), Duration::ZERO);
    }

    #[test]
    fn the_same_seed_gives_the_same_delays() {
        let delays = |seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            (1..9)
                .map(|n| Backoff::default().delay(n, &mut rng))
                .collect::<Vec<_>>()
        };
        assert_eq!(delays(7), delays(7));
        assert_ne!(delays(7), delays(8));
    }

    proptest! {
        #[test]
        fn delays_lie_between_half_and_all_of_the_doubled_delay(streak in 2_u32..200, seed: u64) {
            let backoff = Backoff::default();
            let mut rng = StdRng::seed_from_u64(seed);
            let full = backoff.first
                .saturating_mul(2_u32.saturating_pow(streak - 2))
                .min(backoff.longest);
            let delay = backoff.delay(streak, &mut rng);
            prop_assert!(full.mul_f64(0.499) <= delay && delay <= full);
        }
    }
}
