//! The eight roles an agent can play.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an agent is for. Metrics and logs carry the role as a label, never an agent's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Turns a goal into a validated graph of tasks.
    Planner,
    /// Runs one task.
    Worker,
    /// Judges results and sends back what fails.
    Critic,
    /// Records and recalls results.
    Memory,
    /// Picks a candidate.
    Decider,
    /// Swaps modules.
    HotReload,
    /// Serialises merges.
    GitCoordinator,
    /// Runs trials.
    ExperimentRunner,
}

impl Role {
    /// The role's name in logs, metrics and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planner => "planner",
            Self::Worker => "worker",
            Self::Critic => "critic",
            Self::Memory => "memory",
            Self::Decider => "decider",
            Self::HotReload => "hot_reload",
            Self::GitCoordinator => "git_coordinator",
            Self::ExperimentRunner => "experiment_runner",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
