//! The Planner turns a goal into a validated graph of tasks and sees it through.
//!
//! It holds no state: each time one of its tasks runs, it looks at the children that have
//! ended and decides what comes next. The choice is a pure function of recorded steps and
//! children's results, so it may die at any point and another Planner goes on.

mod audit;
mod goal;
pub mod graph;

use std::path::PathBuf;

use futures::FutureExt;
use futures::future::BoxFuture;
use regrow_runtime::role::Role;
use serde::Deserialize;

use crate::agent::behaviour::{Behaviour, Failure, Outcome, TaskContext};
use crate::audit::tasks::AUDIT;

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
}

impl Behaviour for Planner {
    fn role(&self) -> Role {
        Role::Planner
    }

    fn kinds(&self) -> &'static [&'static str] {
        &[AUDIT, PLAN]
    }

    fn run(&self, context: TaskContext) -> BoxFuture<'_, Result<Outcome, Failure>> {
        async move {
            if &*context.lease().task.kind == AUDIT {
                let goal = context.payload()?;
                return audit::run(&context, goal, &self.reports).await;
            }
            let GoalText { goal } = context.payload()?;
            let goal = goal::understand(&goal).map_err(Failure::permanent)?;
            audit::run(&context, goal, &self.reports).await
        }
        .boxed()
    }
}
