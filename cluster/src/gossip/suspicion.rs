//! How doubtful a silent peer is, for people to see (pure).
//!
//! The gossip library convicts by itself and does not show its numbers. These are computed as
//! it does, from heartbeats as they are seen at each look rather than at each message, so they
//! are close to its own and decide nothing. The suspicion level grows with the silence, measured
//! in mean intervals between heartbeats (after Hayashibara and others, "The φ accrual failure
//! detector", 2004; with exponential arrivals φ is that ratio but for a factor).

use std::collections::VecDeque;
use std::time::Duration;

use super::Detection;

/// Weight of [`Detection::initial_interval`] beside those that were measured, in samples. A
/// constant of the library.
const PRIOR_WEIGHT: f64 = 5.0;

/// How doubtful a peer is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suspicion {
    /// Since its heartbeat was last seen to grow.
    pub silence: Duration,
    /// Silence in mean intervals; the peer is down above [`Detection::phi_threshold`].
    pub phi: f64,
    /// The silence at which that is reached.
    pub convicted_after: Duration,
}

/// Heartbeats of one peer.
#[derive(Debug)]
pub(super) struct Heartbeats {
    heartbeat: u64,
    seen: Duration,
    intervals: VecDeque<Duration>,
}

impl Heartbeats {
    pub(super) fn new(heartbeat: u64, now: Duration) -> Self {
        Self {
            heartbeat,
            seen: now,
            intervals: VecDeque::new(),
        }
    }

    /// Sees `heartbeat` at `now`.
    pub(super) fn see(&mut self, heartbeat: u64, now: Duration, detection: &Detection) {
        if heartbeat <= self.heartbeat {
            return;
        }
        let interval = now.saturating_sub(self.seen);
        if interval <= detection.max_interval {
            self.intervals.push_back(interval);
            if detection.window < self.intervals.len() {
                self.intervals.pop_front();
            }
        }
        self.heartbeat = heartbeat;
        self.seen = now;
    }

    /// The suspicion at `now`; `None` before the second heartbeat.
    pub(super) fn suspicion(&self, now: Duration, detection: &Detection) -> Option<Suspicion> {
        if self.intervals.is_empty() {
            return None;
        }
        let sum: f64 = self.intervals.iter().map(Duration::as_secs_f64).sum();
        let prior = PRIOR_WEIGHT * detection.initial_interval.as_secs_f64();
        let mean = (sum + prior) / (self.intervals.len() as f64 + PRIOR_WEIGHT);
        let silence = now.saturating_sub(self.seen);
        let convicted_after = Duration::try_from_secs_f64(mean * detection.phi_threshold);
        Some(Suspicion {
            silence,
            phi: silence.as_secs_f64() / mean,
            convicted_after: convicted_after.unwrap_or(Duration::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspicion_grows_with_silence_and_reaches_the_threshold_when_it_says() {
        let detection = Detection::default();
        let mut heartbeats = Heartbeats::new(1, Duration::ZERO);
        assert_eq!(
            heartbeats.suspicion(Duration::from_secs(9), &detection),
            None
        );
        for beat in 1..=50_u32 {
            heartbeats.see(u64::from(beat) + 1, detection_interval() * beat, &detection);
            // A look that sees the same heartbeat again, later, learns nothing.
            let later = detection_interval() * beat + detection_interval() / 2;
            heartbeats.see(u64::from(beat) + 1, later, &detection);
        }
        let last = detection_interval() * 50;
        let at_once = heartbeats.suspicion(last, &detection).unwrap();
        assert_eq!((at_once.silence, at_once.phi), (Duration::ZERO, 0.0));
        let then = last + at_once.convicted_after;
        let then = heartbeats.suspicion(then, &detection).unwrap();
        assert!(
            (then.phi - detection.phi_threshold).abs() < 1e-6,
            "{then:?}"
        );
    }

    /// The window is short beside the weight of the initial interval: how long a silence is
    /// borne hardly depends on how often peers happen to be heard.
    #[test]
    fn a_pause_of_two_seconds_is_borne_and_one_of_three_is_not_whatever_the_traffic() {
        let detection = Detection::default();
        for millis in [5, 20, 100, 250] {
            let mut heartbeats = Heartbeats::new(0, Duration::ZERO);
            let interval = Duration::from_millis(millis);
            for beat in 1..=50 {
                heartbeats.see(u64::from(beat), interval * beat, &detection);
            }
            let borne = heartbeats.suspicion(interval * 50, &detection).unwrap();
            let borne = borne.convicted_after;
            assert!(
                Duration::from_millis(2250) < borne,
                "{millis} ms: {borne:?}"
            );
            assert!(borne < Duration::from_secs(3), "{millis} ms: {borne:?}");
        }
    }

    fn detection_interval() -> Duration {
        Duration::from_millis(200)
    }
}
