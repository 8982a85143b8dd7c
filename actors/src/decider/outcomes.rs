//! How an agent did lately, and how sure one can be of it.
//!
//! A sliding window: what an older version of the agent did, or did long ago, must not condemn
//! it now. The window is emptied when the agent's module changes, so an improvement is judged by
//! what came after it. Sureness is the Wilson score interval (E. B. Wilson, "Probable inference,
//! the law of succession, and statistical inference", 1927), which stays honest with few samples
//! and near 0 and 1.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Where the true share of successes lies, with the confidence that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// At least this.
    pub low: f64,
    /// At most this.
    pub high: f64,
}

impl Interval {
    /// The Wilson interval of `successes` (fractions count) out of `samples`, at `z` standard
    /// deviations: 1.96 is 95 %. Without samples, anything is possible.
    pub fn wilson(successes: f64, samples: f64, z: f64) -> Self {
        if samples <= 0.0 {
            return Self {
                low: 0.0,
                high: 1.0,
            };
        }
        let share = (successes / samples).clamp(0.0, 1.0);
        let square = z * z;
        let centre = share + square / (2.0 * samples);
        let spread = (share * (1.0 - share) / samples + square / (4.0 * samples * samples)).sqrt();
        let whole = 1.0 + square / samples;
        Self {
            low: ((centre - z * spread) / whole).max(0.0),
            high: ((centre + z * spread) / whole).min(1.0),
        }
    }
}

/// The last outcomes of one agent's present module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcomes {
    /// Most outcomes that are remembered.
    most: usize,
    /// Scores between 0 (failed) and 1 (succeeded), the latest last.
    scores: VecDeque<f64>,
}

impl Outcomes {
    /// None yet; remembers at most `most`, and at least one.
    pub fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            scores: VecDeque::new(),
        }
    }

    /// One more outcome. A score outside 0 to 1 counts as the nearer end; what is no number as 0.
    pub fn record(&mut self, score: f64) {
        if self.scores.len() == self.most {
            self.scores.pop_front();
        }
        let score = if score.is_nan() { 0.0 } else { score.clamp(0.0, 1.0) };
        self.scores.push_back(score);
    }

    /// Forgets all: the module changed.
    pub fn begin_anew(&mut self) {
        self.scores.clear();
    }

    /// How many there are.
    pub fn samples(&self) -> usize {
        self.scores.len()
    }

    /// Their mean; 1 without any.
    pub fn score(&self) -> f64 {
        if self.scores.is_empty() {
            return 1.0;
        }
        self.scores.iter().sum::<f64>() / count(self.scores.len())
    }

    /// Where the true score lies, at `z` standard deviations.
    pub fn interval(&self, z: f64) -> Interval {
        Interval::wilson(self.scores.iter().sum(), count(self.scores.len()), z)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a window has far fewer than 2^53 places")]
fn count(of: usize) -> f64 {
    of as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_the_one_of_the_tables() {
        // R: binom::binom.wilson(x, n).
        for (successes, samples, low, high) in [
            (0.0, 10.0, 0.0, 0.2775),
            (5.0, 10.0, 0.2366, 0.7634),
            (10.0, 10.0, 0.7225, 1.0),
            (81.0, 263.0, 0.2553, 0.3662),
        ] {
            let interval = Interval::wilson(successes, samples, 1.959_964);
            assert!((interval.low - low).abs() < 5e-5, "{successes} of {samples}: {interval:?}");
            assert!((interval.high - high).abs() < 5e-5, "{successes} of {samples}: {interval:?}");
        }
    }

    #[test]
    fn old_outcomes_leave_the_window_and_a_new_module_begins_with_none() {
        let mut outcomes = Outcomes::new(4);
        assert_eq!((outcomes.samples(), outcomes.score()), (0, 1.0));
        for score in [0.0, 0.0, 0.0, 1.0, 1.0, 1.0] {
            outcomes.record(score);
        }
        assert_eq!((outcomes.samples(), outcomes.score()), (4, 0.75));
        outcomes.begin_anew();
        assert_eq!(outcomes.samples(), 0);
        assert_eq!(outcomes.interval(2.0).high, 1.0);
    }

    #[test]
    fn a_score_that_cannot_be_counts_as_the_nearest_that_can() {
        let mut outcomes = Outcomes::new(9);
        for score in [f64::NAN, -3.0, 7.0, f64::INFINITY] {
            outcomes.record(score);
        }
        assert_eq!(outcomes.score(), 0.5);
    }
}
