//! The rule of Singularity's decider, exactly, as a policy.
//!
//! The rule itself is [`rule`]; what the seed got wrong lay around it, and is mended around it:
//! there, successes and failures were counted for ever, so that what had made an improvement begin
//! made the next one begin at the next tick; and an order that the backoff refused was forgotten.

use serde::{Deserialize, Serialize};

use super::decision::Risk;

/// Fewer outcomes say nothing of the score.
pub const MIN_SAMPLES: u64 = 8;
/// Below this the score has dropped.
pub const SCORE_THRESHOLD: f64 = 0.75;
/// Cycles without an improvement after which there is to be one.
pub const STAGNATION_CYCLES: u64 = 30;
/// Cycles after a failed improvement in which there is no other.
pub const FAILURE_BACKOFF_CYCLES: u64 = 10;

/// What the rule looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// An improvement is planned or under way.
    pub updating: bool,
    /// Successful outcomes.
    pub successes: u64,
    /// Failed ones.
    pub failures: u64,
    /// Ticks so far.
    pub cycles: u64,
    /// The tick of the latest improvement.
    pub last_improvement_cycle: u64,
    /// The tick of the latest improvement that failed.
    pub last_failure_cycle: Option<u64>,
    /// Somebody asked for one.
    pub forced: bool,
}

/// What the rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// One is under way.
    Skip,
    /// Improve: somebody asked for it.
    Forced,
    /// Wait: one failed lately.
    Backoff,
    /// Improve: the score is below the threshold.
    ScoreDrop,
    /// Improve: there was none for long.
    Stagnation,
    /// Nothing is wrong.
    Continue,
}

impl Facts {
    /// The share of successes; 1 when there are no outcomes.
    #[must_use]
    pub fn score(&self) -> f64 {
        match self.samples() {
            0 => 1.0,
            samples => self.successes as f64 / samples as f64,
        }
    }

    /// Outcomes.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.successes + self.failures
    }

    /// Cycles since the latest improvement.
    #[must_use]
    pub fn stagnation(&self) -> u64 {
        self.cycles.saturating_sub(self.last_improvement_cycle)
    }

    /// Cycles since the latest failed one.
    #[must_use]
    pub fn since_failure(&self) -> Option<u64> {
        self.last_failure_cycle
            .map(|at| self.cycles.saturating_sub(at))
    }
}

/// The rule: what is said first wins.
#[must_use]
pub fn rule(facts: &Facts) -> Says {
    let backoff_over = facts
        .since_failure()
        .is_none_or(|cycles| FAILURE_BACKOFF_CYCLES <= cycles);
    if facts.updating {
        Says::Skip
    } else if facts.forced && backoff_over {
        Says::Forced
    } else if !backoff_over {
        Says::Backoff
    } else if MIN_SAMPLES <= facts.samples() && facts.score() < SCORE_THRESHOLD {
        Says::ScoreDrop
    } else if STAGNATION_CYCLES <= facts.stagnation() {
        Says::Stagnation
    } else {
        Says::Continue
    }
}

/// How risky an improvement would be, as Singularity's later tree has it: one that is called for by
/// a score in ruins or by long stagnation is likely to change much.
#[must_use]
pub fn risk(facts: &Facts) -> Risk {
    let failed_lately = facts.since_failure().is_some_and(|cycles| cycles < 20);
    if facts.score() < 0.3 || 100 < facts.stagnation() || (failed_lately && 50 < facts.stagnation())
    {
        Risk::Experimental
    } else {
        Risk::Local
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Facts in which nothing is wrong.
    fn calm() -> Facts {
        Facts {
            successes: 6,
            failures: 2,
            cycles: 100,
            last_improvement_cycle: 71,
            ..Facts::default()
        }
    }

    #[test]
    fn the_rule_is_that_of_the_seed() {
        let calm = calm();
        let golden = [
            // Exactly at the thresholds: 8 samples of score 0.75, 29 cycles.
            (calm, Says::Continue),
            (
                Facts {
                    successes: 5,
                    failures: 3,
                    ..calm
                },
                Says::ScoreDrop,
            ),
            (
                Facts {
                    successes: 0,
                    failures: 7,
                    ..calm
                },
                Says::Continue,
            ),
            (
                Facts {
                    successes: 0,
                    failures: 8,
                    ..calm
                },
                Says::ScoreDrop,
            ),
            (
                Facts {
                    cycles: 101,
                    ..calm
                },
                Says::Stagnation,
            ),
            (
                Facts {
                    last_failure_cycle: Some(91),
                    cycles: 101,
                    ..calm
                },
                Says::Stagnation,
            ),
            (
                Facts {
                    last_failure_cycle: Some(92),
                    cycles: 101,
                    ..calm
                },
                Says::Backoff,
            ),
            (
                Facts {
                    failures: 50,
                    last_failure_cycle: Some(91),
                    ..calm
                },
                Says::Backoff,
            ),
            (
                Facts {
                    failures: 50,
                    last_failure_cycle: Some(90),
                    ..calm
                },
                Says::ScoreDrop,
            ),
            (
                Facts {
                    forced: true,
                    ..calm
                },
                Says::Forced,
            ),
            (
                Facts {
                    forced: true,
                    failures: 50,
                    ..calm
                },
                Says::Forced,
            ),
            (
                Facts {
                    forced: true,
                    last_failure_cycle: Some(91),
                    ..calm
                },
                Says::Backoff,
            ),
            (
                Facts {
                    forced: true,
                    last_failure_cycle: Some(90),
                    ..calm
                },
                Says::Forced,
            ),
            (
                Facts {
                    forced: true,
                    failures: 50,
                    updating: true,
                    ..calm
                },
                Says::Skip,
            ),
            // Before the first tick, where the seed crashed.
            (
                Facts {
                    forced: true,
                    ..Facts::default()
                },
                Says::Forced,
            ),
            (Facts::default(), Says::Continue),
        ];
        for (place, (facts, says)) in golden.into_iter().enumerate() {
            assert_eq!(rule(&facts), says, "line {place}: {facts:?}");
        }
        assert!((Facts::default().score() - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn the_classes_of_risk_are_those_of_the_seed() {
        let calm = calm();
        let golden = [
            (calm, Risk::Local),
            (
                Facts {
                    successes: 3,
                    failures: 7,
                    ..calm
                },
                Risk::Local,
            ),
            (
                Facts {
                    successes: 2,
                    failures: 8,
                    ..calm
                },
                Risk::Experimental,
            ),
            (
                Facts {
                    cycles: 171,
                    ..calm
                },
                Risk::Local,
            ),
            (
                Facts {
                    cycles: 172,
                    ..calm
                },
                Risk::Experimental,
            ),
            (
                Facts {
                    cycles: 121,
                    last_failure_cycle: Some(102),
                    ..calm
                },
                Risk::Local,
            ),
            (
                Facts {
                    cycles: 122,
                    last_failure_cycle: Some(103),
                    ..calm
                },
                Risk::Experimental,
            ),
            (
                Facts {
                    cycles: 122,
                    last_failure_cycle: Some(102),
                    ..calm
                },
                Risk::Local,
            ),
        ];
        for (place, (facts, class)) in golden.into_iter().enumerate() {
            assert_eq!(risk(&facts), class, "line {place}: {facts:?}");
        }
    }
}
