//! What health knows, for operators; readable at any time without asking anyone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::remedy::Condition;
use crate::clock::Timestamp;
use crate::supervision::{ChildKind, NodeState};

/// One child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AgentHealth {
    /// Names from the root down, joined by `/`.
    pub path: Arc<str>,
    /// Label of its kind of child.
    pub role: Arc<str>,
    /// Worker or supervisor.
    pub kind: ChildKind,
    /// What its supervisor says it is doing.
    pub state: NodeState,
    /// Which life.
    pub generation: u64,
    /// How it is.
    pub condition: Condition,
    /// Since when it is so.
    pub since: Timestamp,
    /// Why it is not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Liveness: it shows signs of life.
    pub alive: bool,
    /// Readiness: it runs and answers, so it can be given work.
    pub ready: bool,
    /// Progress: what it works on moves on, or it has nothing to do.
    pub progressing: bool,
    /// Pieces of work in flight when it last answered.
    pub in_flight: usize,
    /// What it said of itself when it last answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How long its last answer took, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe_us: Option<u64>,
    /// Convictions in the window, as of the last one.
    pub convictions: usize,
    /// Whether health may kill and park it; otherwise it is only reported.
    pub remediable: bool,
}

/// All children, after one round of probes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HealthReport {
    /// When the round ended.
    pub at: Timestamp,
    /// Rounds so far; zero before the first.
    pub rounds: u64,
    /// How many children are in each condition.
    pub totals: BTreeMap<&'static str, usize>,
    /// Sorted by path.
    pub agents: Vec<AgentHealth>,
}

impl HealthReport {
    pub(super) fn new(at: Timestamp, rounds: u64, mut agents: Vec<AgentHealth>) -> Self {
        agents.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let mut totals: BTreeMap<_, _> = Condition::ALL.map(|c| (c.as_str(), 0)).into();
        for agent in &agents {
            *totals.entry(agent.condition.as_str()).or_default() += 1;
        }
        Self {
            at,
            rounds,
            totals,
            agents,
        }
    }

    /// One child, by its path.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<&AgentHealth> {
        let index = self
            .agents
            .binary_search_by(|agent| (*agent.path).cmp(path))
            .ok()?;
        self.agents.get(index)
    }

    /// How many children are in this condition.
    #[must_use]
    pub fn count(&self, condition: Condition) -> usize {
        self.totals.get(condition.as_str()).copied().unwrap_or(0)
    }

    /// Children a person may want to look at.
    pub fn unwell(&self) -> impl Iterator<Item = &AgentHealth> {
        self.agents
            .iter()
            // A child that was stopped on purpose is down, and well.
            .filter(|agent| {
                let on_purpose =
                    agent.condition == Condition::Down && agent.state == NodeState::Stopped;
                !agent.condition.is_well() && !on_purpose
            })
    }

    /// The monitor itself has not reported for longer than `age_max`: what stands here is
    /// no longer known.
    #[must_use]
    pub fn is_stale(&self, now: Timestamp, age_max: Duration) -> bool {
        self.rounds == 0 || age_max < now.since(self.at)
    }
}
