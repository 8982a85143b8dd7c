//! The latest outcomes of an agent.

use std::collections::VecDeque;

use regrow_runtime::ids::TaskId;
use serde::{Deserialize, Serialize};

use super::interval::Tally;
use crate::exact::Exact;

/// Tasks that are remembered so that none counts twice.
const COUNTED_MAX: usize = 400;

/// How one piece of an agent's work went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// Whether it succeeded.
    pub success: bool,
    /// How good it was, on the agent's own scale; more is better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<f64>,
    /// How long it took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    /// What it cost, in millionths of the budgets' currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_micros: Option<u64>,
    /// The task it came of. One that is told twice counts once, as long as it is among the latest
    /// 400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// The version that served it. Outcomes of versions other than the one that serves do not
    /// count; without a version it is taken for that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// An outcome with its number among all that were counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Counted {
    number: u64,
    success: bool,
    reward: Option<Exact>,
    latency_ms: Option<u64>,
    cost_micros: Option<u64>,
}

/// The latest outcomes, numbered from 1, and what was counted of tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    latest: VecDeque<Counted>,
    /// Outcomes counted so far.
    counted: u64,
    tasks: VecDeque<TaskId>,
}

/// What the outcomes since some number come to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// Outcomes.
    pub samples: u64,
    /// Successes among them.
    pub successes: u64,
    /// Rewards of those that have one.
    pub rewards: Tally,
    /// Milliseconds of those that say.
    pub latency_ms: Tally,
    /// Costs of those that say, in millionths.
    pub cost_micros: Tally,
}

impl Window {
    /// Counts an outcome; at most `length` are kept. Whether it was counted: one of a task that was
    /// counted already is not.
    pub(super) fn count(&mut self, outcome: &Outcome, length: usize) -> bool {
        if let Some(task) = outcome.task {
            if self.tasks.contains(&task) {
                return false;
            }
            if COUNTED_MAX <= self.tasks.len() {
                self.tasks.pop_front();
            }
            self.tasks.push_back(task);
        }
        self.counted += 1;
        self.latest.push_back(Counted {
            number: self.counted,
            success: outcome.success,
            reward: outcome.reward.map(Exact),
            latency_ms: outcome.latency_ms,
            cost_micros: outcome.cost_micros,
        });
        while length < self.latest.len() {
            self.latest.pop_front();
        }
        true
    }

    /// Begins anew with the next outcome; numbers and tasks stay.
    pub(super) fn clear(&mut self) {
        self.latest.clear();
    }

    /// Outcomes counted so far, since the agent's first.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.counted
    }

    /// What the outcomes with numbers above `after` come to.
    #[must_use]
    pub fn since(&self, after: u64) -> Summary {
        let mut summary = Summary::default();
        for outcome in self.latest.iter().filter(|outcome| after < outcome.number) {
            summary.samples += 1;
            summary.successes += u64::from(outcome.success);
            if let Some(Exact(reward)) = outcome.reward {
                summary.rewards.add(reward);
            }
            if let Some(latency) = outcome.latency_ms {
                summary.latency_ms.add(latency as f64);
            }
            if let Some(cost) = outcome.cost_micros {
                summary.cost_micros.add(cost as f64);
            }
        }
        summary
    }
}
