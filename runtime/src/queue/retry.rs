//! When a failed task is tried again (pure).

use std::time::Duration;

use rand::{Rng, RngExt};

/// Exponential backoff between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBackoff {
    /// Pause after the first failure. Longer spares a struggling backend, shorter hides
    /// brief hiccups from the submitter.
    pub first: Duration,
    /// Longest pause.
    pub max: Duration,
}

impl Default for RetryBackoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            max: Duration::from_secs(300),
        }
    }
}

impl RetryBackoff {
    /// The pause after failure number `failures` (from 1): doubled each time, capped, and
    /// then drawn from its upper half, so that tasks that failed together return apart
    /// ("equal jitter", Brooker, AWS Architecture Blog, 2015).
    pub fn pause(&self, failures: u32, rng: &mut impl Rng) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let whole = self.first.saturating_mul(1 << doublings).min(self.max);
        whole.mul_f64(rng.random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    proptest! {
        #[test]
        fn a_pause_grows_to_the_cap_and_keeps_to_its_upper_half(failures in 1_u32..100, seed: u64) {
            let backoff = RetryBackoff::default();
            let whole = (1_u64 << failures.min(20).saturating_sub(1)).min(300);
            let pause = backoff.pause(failures, &mut SmallRng::seed_from_u64(seed));
            prop_assert!(pause <= Duration::from_secs(whole));
            prop_assert!(Duration::from_secs(whole) / 2 <= pause);
        }
    }
}
