//! Who seems to be gone: phi accrual over the arrivals of heartbeats (pure).
//!
//! Hayashibara et al., "The phi accrual failure detector" (SRDS 2004): phi is minus the
//! decimal logarithm of the probability that a heartbeat is merely late, given how the
//! earlier ones came. A phi of 8 is a wrong suspicion in a hundred million heartbeats, if
//! they come as they came. Intervals are taken for normally distributed, and the tail of the
//! distribution for a logistic function, as Akka does.
//!
//! Suspicion is a node's own opinion. It convicts nobody: see [`split_brain`](crate::split_brain).

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::local_time::{LocalTime, millis};

/// How soon silence is suspicious. Names and meaning as in chitchat, as far as it has them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DetectorConfig {
    /// Phi at which a peer is suspected. Higher is slower and errs less.
    pub phi_threshold: f64,
    /// Intervals that are remembered. More follow a change more slowly.
    pub sampling_window_size: usize,
    /// Longer intervals are no sample of the network but an outage, and are not remembered.
    pub max_interval: Duration,
    /// What is expected before enough has come.
    pub initial_interval: Duration,
    /// How long a peer may fall silent beyond what is usual without being suspected: a pause
    /// of its collector or its scheduler. Adds to the time of detection.
    pub acceptable_pause: Duration,
    /// The least deviation that is assumed: heartbeats that come like clockwork would
    /// otherwise make the slightest delay suspicious.
    pub min_deviation: Duration,
}

impl Default for DetectorConfig {
    fn default() -> Self {
        Self {
            phi_threshold: 8.0,
            sampling_window_size: 100,
            max_interval: Duration::from_secs(3),
            initial_interval: Duration::from_millis(250),
            acceptable_pause: Duration::from_millis(500),
            min_deviation: Duration::from_millis(60),
        }
    }
}

/// The heartbeats of one peer.
#[derive(Clone, Debug)]
pub struct Arrivals {
    latest: LocalTime,
    /// In milliseconds, at most `sampling_window_size`.
    intervals: VecDeque<u64>,
    sum: u64,
    sum_of_squares: u64,
}

impl Arrivals {
    /// A peer of whom one heard at `now` for the first time.
    #[must_use]
    pub fn new(now: LocalTime) -> Self {
        Self {
            latest: now,
            intervals: VecDeque::new(),
            sum: 0,
            sum_of_squares: 0,
        }
    }

    /// A heartbeat came at `now`.
    pub fn heard(&mut self, config: &DetectorConfig, now: LocalTime) {
        let interval = millis(now.since(self.latest));
        self.latest = now.max(self.latest);
        if millis(config.max_interval) < interval {
            return;
        }
        if config.sampling_window_size.max(1) <= self.intervals.len()
            && let Some(oldest) = self.intervals.pop_front()
        {
            self.sum -= oldest;
            self.sum_of_squares -= oldest * oldest;
        }
        self.intervals.push_back(interval);
        self.sum += interval;
        self.sum_of_squares += interval * interval;
    }

    /// When the peer was heard last.
    #[must_use]
    pub fn latest(&self) -> LocalTime {
        self.latest
    }

    /// How suspicious the silence is at `now`. Grows without bound while nothing comes; for
    /// people and figures. What is decided is decided by [`Arrivals::suspect_at`], whose
    /// arithmetic gives the same on every machine.
    #[must_use]
    pub fn phi(&self, config: &DetectorConfig, now: LocalTime) -> f64 {
        let (mean, deviation) = self.usual(config);
        let silent = now.since(self.latest).as_secs_f64() * 1_000.0;
        tail(
            ((silent - mean - config.acceptable_pause.as_secs_f64() * 1_000.0) / deviation)
                .max(-30.0),
        )
    }

    /// From when on the peer is suspected if nothing comes.
    #[must_use]
    pub fn suspect_at(&self, config: &DetectorConfig, threshold: Threshold) -> LocalTime {
        let (mean, deviation) = self.usual(config);
        let usual = Duration::from_secs_f64((mean + threshold.0 * deviation).max(0.0) / 1_000.0);
        self.latest.after(usual + config.acceptable_pause)
    }

    /// Mean and standard deviation of the intervals in milliseconds. What is expected counts
    /// as two samples until more have come, with a deviation of a quarter of it.
    fn usual(&self, config: &DetectorConfig) -> (f64, f64) {
        let expected = millis(config.initial_interval) as f64;
        let count = self.intervals.len() as f64;
        let prior = if self.intervals.len() < 2 { 2.0 } else { 0.0 };
        let n = count + prior;
        let mean = (self.sum as f64 + prior * expected) / n;
        let squares = self.sum_of_squares as f64 + prior * expected * expected * 1.0625;
        let deviation = (squares / n - mean * mean).max(0.0).sqrt();
        (
            mean,
            deviation.max(millis(config.min_deviation) as f64).max(1.0),
        )
    }
}

/// How many deviations beyond the mean make the configured phi: worked out once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold(f64);

impl Threshold {
    /// Of a configuration.
    #[must_use]
    pub fn of(config: &DetectorConfig) -> Self {
        // Phi grows with the deviations, so halving finds it; 40 is beyond any threshold.
        let (mut low, mut high) = (-40.0, 40.0);
        for _ in 0..60 {
            let middle = (low + high) / 2.0;
            if tail(middle) < config.phi_threshold {
                low = middle;
            } else {
                high = middle;
            }
        }
        // To a thousandth, so that the last digits of `exp` on this machine do not matter.
        Self((high * 1_000.0).round() / 1_000.0)
    }
}

/// Phi of an interval that is `y` deviations longer than the mean.
fn tail(y: f64) -> f64 {
    let e = (-y * (1.5976 + 0.070_566 * y * y)).exp();
    if 0.0 < y {
        -(e / (1.0 + e)).log10()
    } else {
        -(1.0 - 1.0 / (1.0 + e)).log10()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn steady(config: &DetectorConfig, every: u64, count: u64) -> Arrivals {
        let mut arrivals = Arrivals::new(LocalTime(0));
        for n in 1..=count {
            arrivals.heard(config, LocalTime(n * every));
        }
        arrivals
    }

    #[test]
    fn phi_of_the_mean_is_that_of_an_even_chance_and_grows_with_silence() {
        let config = DetectorConfig {
            acceptable_pause: Duration::ZERO,
            ..DetectorConfig::default()
        };
        let arrivals = steady(&config, 250, 50);
        let at = |silent: u64| arrivals.phi(&config, LocalTime(50 * 250 + silent));
        assert!((at(250) - 2.0_f64.log10()).abs() < 1e-9, "{}", at(250));
        // Two deviations beyond the mean: 1 - 0.97725 of a normal distribution.
        assert!((at(370) + 0.02275_f64.log10()).abs() < 0.01, "{}", at(370));
        assert!(at(300) < at(400) && at(400) < at(800));
    }

    #[test]
    fn an_outage_is_no_sample_of_the_network() {
        let config = DetectorConfig::default();
        let mut arrivals = steady(&config, 250, 50);
        let before = arrivals.suspect_at(&config, Threshold::of(&config));
        arrivals.heard(&config, LocalTime(50 * 250 + 60_000));
        let after = arrivals.suspect_at(&config, Threshold::of(&config));
        assert_eq!(after.since(before), Duration::from_secs(60));
    }

    #[test]
    fn the_first_heartbeats_are_judged_by_what_is_expected() {
        let config = DetectorConfig::default();
        let fresh = Arrivals::new(LocalTime(10));
        let at = fresh
            .suspect_at(&config, Threshold::of(&config))
            .since(LocalTime(10));
        assert!(
            Duration::from_millis(750) < at && at < Duration::from_millis(1_500),
            "{at:?}"
        );
    }

    proptest! {
        #[test]
        fn a_peer_is_suspected_when_its_phi_crosses_the_threshold(
            gaps in prop::collection::vec(1_u64..3_500, 0..150),
            phi_threshold in 1.0_f64..12.0,
            pause in 0_u64..1_000,
        ) {
            let config = DetectorConfig {
                phi_threshold,
                acceptable_pause: Duration::from_millis(pause),
                ..DetectorConfig::default()
            };
            let mut now = LocalTime(0);
            let mut arrivals = Arrivals::new(now);
            for gap in gaps {
                now = LocalTime(now.0 + gap);
                arrivals.heard(&config, now);
                prop_assert!(arrivals.intervals.len() <= config.sampling_window_size);
            }
            let at = arrivals.suspect_at(&config, Threshold::of(&config));
            // The threshold is rounded to a thousandth of a deviation.
            prop_assert!(arrivals.phi(&config, LocalTime(at.0 + 5)) >= phi_threshold);
            prop_assert!(arrivals.phi(&config, LocalTime(at.0.saturating_sub(5))) <= phi_threshold);
        }
    }
}
