//! The Worker runs one task: a batch of the audit, candidates of a search, or a rehearsal's journey.

mod audit;
pub mod rehearsal;
mod trial;

use futures::FutureExt;
use futures::future::BoxFuture;
use regrow_runtime::role::Role;

use self::rehearsal::Rehearsal;
use crate::agent::behaviour::{Behaviour, Failure, Outcome, TaskContext};
use crate::audit::tasks::{CHECK, LINKS};
use crate::synthesis::tasks::TRY;

/// Behaviour of a Worker.
#[derive(Clone, Debug, Default)]
pub struct Worker {
    /// Where rehearsals leave their trace; `None` unless the node is made for one.
    rehearsal: Option<Rehearsal>,
    sites: audit::SharedSite,
    instances: trial::SharedInstances,
}

impl Worker {
    /// A Worker; `rehearsal` only on a node that is made for one.
    #[must_use]
    pub fn new(rehearsal: Option<Rehearsal>) -> Self {
        Self {
            rehearsal,
            sites: audit::SharedSite::default(),
            instances: trial::SharedInstances::default(),
        }
    }
}

impl Behaviour for Worker {
    fn role(&self) -> Role {
        Role::Worker
    }

    fn kinds(&self) -> &'static [&'static str] {
        match self.rehearsal {
            Some(_) => &[CHECK, LINKS, TRY, rehearsal::JOURNEY],
            None => &[CHECK, LINKS, TRY],
        }
    }

    fn run(&self, context: TaskContext) -> BoxFuture<'_, Result<Outcome, Failure>> {
        async move {
            let kind = context.lease().task.kind.clone();
            match (&*kind, &self.rehearsal) {
                (CHECK, _) => audit::check(&context, &self.sites).await,
                (LINKS, _) => audit::links(&context).await,
                (TRY, _) => trial::run(&context, &self.instances).await,
                (rehearsal::JOURNEY, Some(rehearsal)) => rehearsal.journey(&context).await,
                (other, _) => Err(Failure::Permanent(format!(
                    "no worker knows the kind `{other}`"
                ))),
            }
        }
        .boxed()
    }
}
