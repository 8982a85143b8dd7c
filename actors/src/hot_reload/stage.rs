//! Where a candidate stands.

use std::fmt;

use regrow_runtime::clock::Timestamp;
use serde::{Deserialize, Serialize};

use super::trial::{Canary, Shadow, Watch};

/// What is done with a candidate, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Structure and size of the module.
    Validate,
    /// What it may ask for, held against what serves may.
    Compare,
    /// Machine code.
    Compile,
    /// What it says of itself, with everything denied.
    Describe,
    /// Its tests, bounded by fuel.
    Test,
    /// Recorded inputs.
    Replay,
    /// The state of what serves, taken over on a copy.
    Rehearse,
    /// The same inputs as what serves, effects suppressed.
    Shadow,
    /// A share of the calls.
    Canary,
    /// The swap.
    Promote,
    /// All calls, with the one before kept warm.
    Watch,
    /// The swap back, module and state.
    RollBack,
}

impl Step {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Validate => "validate",
            Self::Compare => "compare",
            Self::Compile => "compile",
            Self::Describe => "describe",
            Self::Test => "test",
            Self::Replay => "replay",
            Self::Rehearse => "rehearse",
            Self::Shadow => "shadow",
            Self::Canary => "canary",
            Self::Promote => "promote",
            Self::Watch => "watch",
            Self::RollBack => "roll_back",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a candidate stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "stage")]
pub enum Stage {
    /// A step is being done, or will be once the pause after a failed attempt is over.
    Doing {
        /// The step.
        step: Step,
        /// Which attempt, from 1 on.
        attempt: u32,
        /// Not before this.
        not_before: Timestamp,
        /// When it was asked for; `None`: not yet.
        asked_at: Option<Timestamp>,
    },
    /// A person is asked about capabilities that what serves does not have.
    AwaitingApproval {
        /// Which.
        added: Vec<String>,
    },
    /// It is shown what comes in.
    Shadowing {
        /// What was seen.
        shadow: Shadow,
        /// Since when.
        since: Timestamp,
    },
    /// It serves a share.
    Canary {
        /// What was seen.
        canary: Canary,
        /// Since when.
        since: Timestamp,
    },
    /// It serves all, under observation.
    Watching {
        /// What was seen.
        watch: Watch,
        /// Since when.
        since: Timestamp,
    },
    /// It stays.
    Kept,
    /// It served, and does no more.
    RolledBack {
        /// Why.
        reason: String,
    },
    /// It never served all.
    Rejected {
        /// Where it ended.
        step: Step,
        /// Why.
        reason: String,
    },
}

impl Stage {
    /// The name of what has been reached.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Doing { step, .. } => match step {
                Step::Validate => "staged",
                Step::Compare => "validated",
                Step::Compile => "compared",
                Step::Describe => "compiled",
                Step::Test => "described",
                Step::Replay => "tested",
                Step::Rehearse => "replayed",
                Step::Shadow => "rehearsed",
                Step::Canary => "shadowed",
                Step::Promote => "promoting",
                Step::Watch => "promoted",
                Step::RollBack => "rolling_back",
            },
            Self::AwaitingApproval { .. } => "awaiting_approval",
            Self::Shadowing { .. } => "shadowing",
            Self::Canary { .. } => "canary",
            Self::Watching { .. } => "watching",
            Self::Kept => "kept",
            Self::RolledBack { .. } => "rolled_back",
            Self::Rejected { .. } => "rejected",
        }
    }

    /// Whether nothing more happens.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(
            self,
            Self::Kept | Self::RolledBack { .. } | Self::Rejected { .. }
        )
    }

    /// The step it stands at; `None` at the end.
    #[must_use]
    pub fn step(&self) -> Option<Step> {
        match self {
            Self::Doing { step, .. } => Some(*step),
            Self::AwaitingApproval { .. } => Some(Step::Compare),
            Self::Shadowing { .. } => Some(Step::Shadow),
            Self::Canary { .. } => Some(Step::Canary),
            Self::Watching { .. } => Some(Step::Watch),
            Self::Kept | Self::RolledBack { .. } | Self::Rejected { .. } => None,
        }
    }
}
