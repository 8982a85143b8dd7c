//! How often one supervisor may restart before it gives up (pure).
//!
//! A sliding window counted per supervisor, not per child: OTP's `intensity` and `period`.
//! Holds at most `restarts_max` instants.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How many restarts one supervisor may perform before it fails upward.
#[derive(Clone, Debug)]
pub struct RestartIntensity {
    restarts_max: usize,
    period: Duration,
    restarted_at: VecDeque<Instant>,
}

/// `restarts_max` restarts already lie within the period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("reached max restart intensity")]
pub struct IntensityExceeded;

impl RestartIntensity {
    /// An empty window; `restarts_max` of zero allows no restart at all.
    #[must_use]
    pub fn new(restarts_max: usize, period: Duration) -> Self {
        Self {
            restarts_max,
            period,
            restarted_at: VecDeque::new(),
        }
    }

    /// Counts a restart at `now`, which never runs backwards.
    ///
    /// # Errors
    ///
    /// [`IntensityExceeded`] when `restarts_max` restarts already lie within `period` of
    /// `now`, both ends included. Nothing is counted then.
    pub fn record(&mut self, now: Instant) -> Result<(), IntensityExceeded> {
        self.forget_before(now);
        if self.restarts_max <= self.restarted_at.len() {
            return Err(IntensityExceeded);
        }
        self.restarted_at.push_back(now);
        Ok(())
    }

    /// Restarts still allowed at `now`.
    pub fn left(&mut self, now: Instant) -> usize {
        self.forget_before(now);
        self.restarts_max - self.restarted_at.len()
    }

    fn forget_before(&mut self, now: Instant) {
        while self
            .restarted_at
            .front()
            .is_some_and(|at| self.period < now.duration_since(*at))
        {
            self.restarted_at.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_ends_of_the_period_count() {
        let start = Instant::now();
        let mut intensity = RestartIntensity::new(1, Duration::from_secs(5));
        assert_eq!(intensity.record(start), Ok(()));
        assert_eq!(
            intensity.record(start + Duration::from_secs(5)),
            Err(IntensityExceeded)
        );
        assert_eq!(
            intensity.record(start + Duration::from_millis(5001)),
            Ok(())
        );
    }

    #[test]
    fn zero_restarts_allow_none() {
        let mut intensity = RestartIntensity::new(0, Duration::from_secs(5));
        assert_eq!(intensity.record(Instant::now()), Err(IntensityExceeded));
    }

    proptest! {
        /// The model keeps every accepted restart for ever and looks back.
        #[test]
        fn agrees_with_a_model_that_forgets_nothing(
            restarts_max in 0_usize..6,
            period_ms in 1_u64..50,
            gaps_ms in prop::collection::vec(0_u64..30, 0..80),
        ) {
            let start = Instant::now();
            let period = Duration::from_millis(period_ms);
            let mut intensity = RestartIntensity::new(restarts_max, period);
            let mut accepted: Vec<u64> = Vec::new();
            let mut now_ms = 0;
            for gap in gaps_ms {
                now_ms += gap;
                let recent = accepted.iter().filter(|at| now_ms - **at <= period_ms).count();
                let expected = recent < restarts_max;
                let now = start + Duration::from_millis(now_ms);
                prop_assert_eq!(intensity.left(now), restarts_max - recent);
                prop_assert_eq!(intensity.record(now).is_ok(), expected);
                if expected {
                    accepted.push(now_ms);
                }
                prop_assert!(intensity.restarted_at.len() <= restarts_max);
            }
        }
    }
}
