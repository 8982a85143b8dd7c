//! What a decider has to remember, as it is stored.

use std::collections::{BTreeMap, VecDeque};

use regrow_runtime::clock::Timestamp;
use serde::{Deserialize, Serialize};

use super::decision::{Decision, Improvement, Reason};
use super::strategies::Strategies;
use super::window::Window;

/// The format of stored states.
const FORMAT: u32 = 1;
/// Ended improvements that are kept.
const PAST_MAX: usize = 25;
/// Fingerprints of candidates above which the oldest are forgotten,
const TRIED_MAX: usize = 500;
/// down to so many.
const TRIED_KEPT: usize = 400;
/// Metrics of an agent.
const METRICS_MAX: usize = 64;
/// The longest text that is kept of what others say.
const TEXT_MAX: usize = 200;

/// Milliseconds of a day.
pub(super) const DAY_MS: u64 = 86_400_000;

/// An improvement that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Past {
    /// What it was.
    pub improvement: Improvement,
    /// When it began,
    pub began_at: Timestamp,
    /// and ended.
    pub ended_at: Timestamp,
    /// How: `kept`, or why not.
    pub end: String,
}

/// The improvement under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct UnderWay {
    pub(super) improvement: Improvement,
    pub(super) began_at: Timestamp,
    /// A person is still to allow it.
    pub(super) asked: bool,
}

/// The best score so far, and when it was reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Mark {
    #[serde(with = "crate::exact")]
    pub(super) mean: f64,
    #[serde(with = "crate::exact")]
    pub(super) low: f64,
    pub(super) by_reward: bool,
    pub(super) outcome: u64,
}

/// All that a decider has to remember. Bounded, whatever it is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    format: u32,
    pub(super) seed: u64,
    pub(super) cycles: u64,
    pub(super) decisions: u64,
    pub(super) window: Window,
    /// Outcomes up to this number have made an improvement begin, or were another version's.
    pub(super) spent: u64,
    /// Successes and failures since then, for the policy `singularity`.
    pub(super) totals: (u64, u64),
    pub(super) mark: Option<Mark>,
    pub(super) improved_cycle: u64,
    pub(super) failed_cycle: Option<u64>,
    pub(super) serving: Option<String>,
    /// Days since 1970, and the improvements that began in the latest.
    pub(super) today: (u64, u32),
    pub(super) paused_until: Timestamp,
    pub(super) setbacks: u32,
    pub(super) forced: Option<Reason>,
    pub(super) under_way: Option<UnderWay>,
    pub(super) strategies: Strategies,
    pub(super) tried: VecDeque<String>,
    pub(super) metrics: BTreeMap<String, f64>,
    pub(super) past: VecDeque<Past>,
    pub(super) latest: Option<Decision>,
}

/// Why a stored state is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Written by a newer program, or damaged.
    #[error("the stored state of a decider has format {0}; this program reads {FORMAT}")]
    Format(u32),
}

impl State {
    /// The state of an agent that nothing is known of. What is drawn by lot follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            format: FORMAT,
            seed,
            cycles: 0,
            decisions: 0,
            window: Window::default(),
            spent: 0,
            totals: (0, 0),
            mark: None,
            improved_cycle: 0,
            failed_cycle: None,
            serving: None,
            today: (0, 0),
            paused_until: Timestamp::default(),
            setbacks: 0,
            forced: None,
            under_way: None,
            strategies: Strategies::default(),
            tried: VecDeque::new(),
            metrics: BTreeMap::new(),
            past: VecDeque::new(),
            latest: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), StateError> {
        if self.format == FORMAT {
            Ok(())
        } else {
            Err(StateError::Format(self.format))
        }
    }

    /// Remembers the fingerprint of a candidate; whether it is new.
    pub(super) fn try_out(&mut self, fingerprint: String) -> bool {
        if self.tried.contains(&fingerprint) {
            return false;
        }
        if TRIED_MAX <= self.tried.len() {
            self.tried.drain(..self.tried.len() - TRIED_KEPT);
        }
        self.tried.push_back(fingerprint);
        true
    }

    pub(super) fn remember(&mut self, past: Past) {
        if PAST_MAX <= self.past.len() {
            self.past.pop_front();
        }
        self.past.push_back(past);
    }

    /// Merges metrics; the number of those that found no room.
    pub(super) fn merge(&mut self, metrics: BTreeMap<String, f64>) -> usize {
        let mut refused = 0;
        for (name, value) in metrics {
            let known = self.metrics.contains_key(&name);
            let room = known || self.metrics.len() < METRICS_MAX && name.len() <= TEXT_MAX;
            if room && value.is_finite() {
                self.metrics.insert(name, value);
            } else {
                refused += 1;
            }
        }
        refused
    }

    /// Improvements that began on the day of `now`. A clock that was set back does not begin a day
    /// again.
    pub(super) fn today(&mut self, now: Timestamp) -> u32 {
        let day = now.0 / DAY_MS;
        if self.today.0 < day {
            self.today = (day, 0);
        }
        self.today.1
    }
}

/// As much of a text as is kept.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(TEXT_MAX).collect()
}
