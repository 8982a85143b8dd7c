//! What was decided, and on what.

use std::fmt;

use regrow_runtime::clock::Timestamp;
use serde::{Deserialize, Serialize};

use super::interval::Interval;

/// How much an improvement may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// As ever.
    Local,
    /// Much: the agent is in ruins, or has stood still for long.
    Experimental,
}

/// Why an improvement begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum Reason {
    /// A person ordered it.
    Forced {
        /// Who.
        by: String,
        /// For what reason.
        reason: String,
    },
    /// Successes are rarer, or rewards lower, than asked for.
    ScoreDrop,
    /// The score is below what the same version had reached.
    Regression,
    /// The score has not risen for long.
    Stagnation,
}

/// Why no improvement begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum Hold {
    /// One is under way.
    UnderWay {
        /// The decision it began with.
        decision: u64,
    },
    /// Too little is known.
    TooFew {
        /// Outcomes that are no evidence of an earlier improvement.
        samples: u64,
    },
    /// There would be reason to, after the pause.
    CoolDown {
        /// The reason.
        would: Reason,
        /// When it ends.
        until: Timestamp,
    },
    /// There would be reason to, tomorrow.
    DailyLimit {
        /// The reason.
        would: Reason,
        /// When the next day begins.
        until: Timestamp,
    },
    /// One failed lately (policy `singularity`).
    Backoff,
    /// Nothing is wrong.
    Steady,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// An improvement begins.
    Improve(Improvement),
    /// None does.
    Continue(Hold),
}

/// An improvement that is to begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Improvement {
    /// The decision it is.
    pub decision: u64,
    /// Why.
    pub reason: Reason,
    /// Who is to propose candidates.
    pub strategy: String,
    /// How much it may change.
    pub risk: Risk,
    /// The same for the same evidence: an idempotency key for whatever it sets going.
    pub fingerprint: String,
}

/// What a decision rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The version that serves.
    pub version: Option<String>,
    /// Numbers of the outcomes that were looked at: after the first, up to the second.
    pub outcomes: (u64, u64),
    /// How many of them are still in the window.
    pub samples: u64,
    /// The share of successes.
    pub success: Interval,
    /// The mean reward, if enough outcomes have one.
    pub reward: Option<Interval>,
    /// Mean milliseconds, of those that say.
    pub latency_ms: Option<f64>,
    /// Mean cost in millionths, of those that say.
    pub cost_micros: Option<f64>,
    /// Outcomes since the score last rose.
    pub stagnation: u64,
    /// Ticks so far.
    pub cycle: u64,
    /// Improvements that began today, this one not counted.
    pub today: u32,
}

/// A decision with all that is needed to see why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Its number among the agent's, from 1 on.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// What.
    pub verdict: Verdict,
    /// On what.
    pub evidence: Evidence,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forced { by, reason } => write!(f, "ordered by {by}: {reason}"),
            Self::ScoreDrop => f.write_str("the score is below what is asked for"),
            Self::Regression => f.write_str("the score is below what this version had reached"),
            Self::Stagnation => f.write_str("the score has not risen for long"),
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnderWay { decision } => write!(f, "decision {decision} is under way"),
            Self::TooFew { samples } => write!(f, "{samples} new outcomes are too few"),
            Self::CoolDown { would, until } => write!(f, "{would}, but paused until {until}"),
            Self::DailyLimit { would, until } => {
                write!(f, "{would}, but the day's limit is reached until {until}")
            }
            Self::Backoff => f.write_str("an improvement failed lately"),
            Self::Steady => f.write_str("nothing is wrong"),
        }
    }
}

impl fmt::Display for Decision {
    /// In a line, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Improve(improvement) => {
                write!(
                    f,
                    "improve by {}: {}",
                    improvement.strategy, improvement.reason
                )?;
            }
            Verdict::Continue(hold) => write!(f, "continue: {hold}")?,
        }
        let Interval { mean, low, high } = self.evidence.success;
        let samples = self.evidence.samples;
        write!(f, " (success {mean:.3} [{low:.3}, {high:.3}] of {samples}")?;
        if let Some(Interval { mean, low, high }) = self.evidence.reward {
            write!(f, ", reward {mean:.4} [{low:.4}, {high:.4}]")?;
        }
        f.write_str(")")
    }
}
