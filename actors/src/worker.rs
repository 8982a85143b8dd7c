//! The Worker runs one task: a batch of the audit, or a rehearsal's journey.

mod audit;
pub mod rehearsal;

use futures::FutureExt;
use futures::future::BoxFuture;
use regrow_runtime::role::Role;

use self::rehearsal::Rehearsal;
use crate::agent::behaviour::{Behaviour, Failure, Outcome, TaskContext};
use crate::audit::tasks::{CHECK, LINKS};

/// Behaviour of a Worker.
#[derive(Clone, Debug, Default)]
pub struct Worker {
    /// Where rehearsals leave their trace; `None` unless the node is made for one.
    rehearsal: Option<Rehearsal>,
    sites: audit::SharedSite,
}

impl Worker {
    /// A Worker; `rehearsal` only on a node that is made for one.
    #[must_use]
    pub fn new(rehearsal: Option<Rehearsal>) -> Self {
        Self {
            rehearsal,
            sites: audit::SharedSite::default(),
        }
    }
}

impl Behaviour for Worker {
    fn role(&self) -> Role {
        Role::Worker
    }

    fn kinds(&self) -> &'static [&'static str] {
        match self.rehearsal {
            Some(_) => &[CHECK, LINKS, rehearsal::JOURNEY],
            None => &[CHECK, LINKS],
        }
    }

    fn run(&self, context: TaskContext) -> BoxFuture<'_, Result<Outcome, Failure>> {
        async move {
            let kind = context.lease().task.kind.clone();
            match (&*kind, &self.rehearsal) {
                (CHECK, _) => audit::check(&context, &self.sites).await,
                (LINKS, _) => audit::links(&context).await,
                (rehearsal::JOURNEY, Some(rehearsal)) => rehearsal.journey(&context).await,
                (other, _) => Err(Failure::Permanent(format!(
                    "no worker knows the kind `{other}`"
                ))),
            }
        }
        .boxed()
    }
}
