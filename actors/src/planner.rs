//! The Planner turns a goal into a validated graph of tasks and sees it through, and a search
//! generation by generation.
//!
//! It holds no state: each time one of its tasks runs, it looks at the children that have
//! ended and decides what comes next. The choice is a pure function of recorded steps and
//! children's results, so it may die at any point and another Planner goes on.

mod audit;
mod goal;
pub mod graph;
mod search;

use std::path::PathBuf;

use futures::FutureExt;
use futures::future::BoxFuture;
use regrow_runtime::role::Role;
use serde::Deserialize;

use crate::agent::behaviour::{Behaviour, Failure, Outcome, TaskContext};
use crate::audit::tasks::AUDIT;
use crate::synthesis::tasks::{SEARCH, STRETCH};

pub use goal::{GoalError, OFFLINE_SKILLS};

/// A goal in a person's words; the payload is [`GoalText`].
pub const PLAN: &str = "plan";

/// Payload of [`PLAN`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoalText {
    /// What is wanted.
    pub goal: String,
}

/// Behaviour of a Planner without a model.
#[derive(Clone, Debug)]
pub struct Planner {
    /// Where reports are written, in a folder per task.
    pub reports: PathBuf,
    proposals: search::Proposals,
}

impl Planner {
    /// A Planner that writes reports below `reports`.
    #[must_use]
    pub fn new(reports: PathBuf) -> Self {
        Self {
            reports,
            proposals: search::Proposals::default(),
        }
    }
}

impl Behaviour for Planner {
    fn role(&self) -> Role {
        Role::Planner
    }

    fn kinds(&self) -> &'static [&'static str] {
        &[AUDIT, PLAN, SEARCH, STRETCH]
    }

    fn run(&self, context: TaskContext) -> BoxFuture<'_, Result<Outcome, Failure>> {
        async move {
            match &*context.lease().task.kind {
                AUDIT => return audit::run(&context, context.payload()?, &self.reports).await,
                SEARCH => return search::run(&context, context.payload()?).await,
                STRETCH => {
                    return search::stretched(&context, context.payload()?, &self.proposals).await;
                }
                _ => {}
            }
            let GoalText { goal } = context.payload()?;
            let goal = goal::understand(&goal).map_err(Failure::permanent)?;
            audit::run(&context, goal, &self.reports).await
        }
        .boxed()
    }
}
