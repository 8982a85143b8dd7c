//! How often an agent was restarted, wherever that was, where no store keeps it (pure).

use std::collections::VecDeque;

use regrow_runtime::agent_spec::Intensity;
use serde::{Deserialize, Serialize};

use crate::local_time::{LocalTime, millis};

/// Restarts of one agent on any node, within one sliding window.
///
/// Clocks are not compared: what travels is how long ago each restart was when it was told.
/// The time on the way is not counted, so a restart may count longer than the period by
/// that, and never shorter. Holds at most `restarts_max` restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestartHistory {
    restarted_at: VecDeque<LocalTime>,
}

/// A history on its way to another node: milliseconds since each restart, longest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RestartAges(pub Vec<u64>);

/// One restart more would be more than `restarts_max` within the period: the agent is parked,
/// wherever it is, until a person starts it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("reached max restart intensity")]
pub struct IntensityExceeded;

impl RestartHistory {
    /// The history as another node told it, arriving at `now`.
    #[must_use]
    pub fn received(ages: &RestartAges, now: LocalTime) -> Self {
        let at = |age: &u64| LocalTime(now.0.saturating_sub(*age));
        Self {
            restarted_at: ages.0.iter().map(at).collect(),
        }
    }

    /// The history as told to another node at `now`.
    #[must_use]
    pub fn ages(&self, now: LocalTime) -> RestartAges {
        RestartAges(
            self.restarted_at
                .iter()
                .map(|at| millis(now.since(*at)))
                .collect(),
        )
    }

    /// Counts a restart at `now`, whichever node it happens on.
    ///
    /// # Errors
    ///
    /// [`IntensityExceeded`] when as many restarts as are allowed lie within the period, both
    /// ends included. Nothing is counted then.
    pub fn record(
        &mut self,
        intensity: &Intensity,
        now: LocalTime,
    ) -> Result<(), IntensityExceeded> {
        while self
            .restarted_at
            .front()
            .is_some_and(|at| intensity.within() < now.since(*at))
        {
            self.restarted_at.pop_front();
        }
        let allowed = usize::try_from(intensity.restarts_max).unwrap_or(usize::MAX);
        if allowed <= self.restarted_at.len() {
            return Err(IntensityExceeded);
        }
        self.restarted_at.push_back(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_on_another_node_count_against_the_same_intensity() {
        let intensity = Intensity {
            restarts_max: 2,
            within_ms: 10_000,
        };
        let mut here = RestartHistory::default();
        assert_eq!(here.record(&intensity, LocalTime(1_000)), Ok(()));
        assert_eq!(here.record(&intensity, LocalTime(5_000)), Ok(()));
        // The other node's clock shows something else altogether.
        let ages = here.ages(LocalTime(6_000));
        let mut there = RestartHistory::received(&ages, LocalTime(900_000));
        assert_eq!(
            there.record(&intensity, LocalTime(902_000)),
            Err(IntensityExceeded)
        );
        assert_eq!(there.record(&intensity, LocalTime(905_001)), Ok(()));
    }
}
