//! What a role does with a leased task: `run(context) -> outcome`.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use regrow_runtime::causes::chain;
use regrow_runtime::clock::Timestamp;
use regrow_runtime::context::Context;
use regrow_runtime::context::record::ContextStatus;
use regrow_runtime::holding::{Holding, Note};
use regrow_runtime::ids::{AgentId, Epoch, TaskId};
use regrow_runtime::journal::meter::Meter;
use regrow_runtime::journal::{Journal, StepError};
use regrow_runtime::json::Json;
use regrow_runtime::queue::Queue;
use regrow_runtime::queue::approval::{Decision, Question};
use regrow_runtime::queue::budget::{Amounts, Shortfall};
use regrow_runtime::queue::error::LeaseError;
use regrow_runtime::queue::task::{Lease, NewChild, TaskView};
use regrow_runtime::role::Role;
use regrow_runtime::store::{Document, DocumentRow, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{MayAct, Status};

/// Behaviour of a role over leased tasks. Holds no task's state: any agent of the role may
/// continue what another began.
pub trait Behaviour: Send + Sync + 'static {
    /// Which role this is.
    fn role(&self) -> Role;

    /// The kinds of task it runs.
    fn kinds(&self) -> &'static [&'static str];

    /// Of these, the kinds that it runs for peers too: all, unless it needs what only this node
    /// has.
    fn kinds_of_peers(&self) -> &'static [&'static str] {
        self.kinds()
    }

    /// Runs one task. It may be dropped at any await point, and called again for the same
    /// task, on this node or another: effects belong into journaled steps.
    fn run(&self, context: TaskContext) -> BoxFuture<'_, Result<Outcome, Failure>>;
}

/// How a run ends when it does not fail.
#[derive(Debug)]
pub enum Outcome {
    /// The task is finished.
    Completed(Json),
    /// The task waits for these children and is run again when all have ended.
    WaitFor(Vec<NewChild>),
}

impl Outcome {
    /// The task is finished with this result.
    ///
    /// # Errors
    ///
    /// When the result cannot be JSON; trying again is useless then.
    pub fn completed<T: Serialize + ?Sized>(result: &T) -> Result<Self, Failure> {
        Json::of(result)
            .map(Self::Completed)
            .map_err(Failure::permanent)
    }
}

/// How a run fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Another attempt may succeed.
    #[error("{0}")]
    Retryable(String),
    /// Another attempt is useless: the task becomes a dead letter.
    #[error("{0}")]
    Permanent(String),
    /// The work saw [`TaskContext::cancelled`] and stopped early: the task is handed back
    /// without counting the attempt, or ends if its cancel was asked for.
    #[error("stopped before it was done")]
    Stopped,
    /// A step may cost more than a budget has left: the task waits, without holding
    /// anything, until a person lets the budget grow or it has room again. Then it is run
    /// again, with all its attempts.
    #[error("{0}")]
    OverBudget(Box<Shortfall>),
    /// A person has to answer first: the task waits, without holding anything, and is run
    /// again when the answer is on record.
    #[error("a person has to answer `{}`", .0.key)]
    Asks(Box<Ask>),
    /// The lease no longer holds: somebody else has the task, or it is over.
    #[error("the lease was lost")]
    LeaseLost,
}

/// A question that nobody has answered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Its name within the task, like that of a step.
    pub key: String,
    /// What is asked.
    pub question: Question,
    /// It counts as denied when nobody has answered within this time.
    pub patience: Option<Duration>,
}

impl Failure {
    /// Another attempt may succeed.
    pub fn retryable(error: impl std::error::Error + 'static) -> Self {
        Self::Retryable(chain(&error))
    }

    /// Another attempt is useless.
    pub fn permanent(error: impl std::error::Error + 'static) -> Self {
        Self::Permanent(chain(&error))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if error.is_retryable() {
            Self::retryable(error)
        } else {
            Self::permanent(error)
        }
    }
}

impl From<LeaseError> for Failure {
    fn from(error: LeaseError) -> Self {
        if error.is_over() {
            return Self::LeaseLost;
        }
        if let LeaseError::Store(cause) = error {
            return cause.into();
        }
        Self::permanent(error)
    }
}

impl From<StepError<Failure>> for Failure {
    fn from(error: StepError<Failure>) -> Self {
        match error {
            StepError::Work { cause, .. } => cause,
            StepError::Lookup { cause, .. } => cause.into(),
            StepError::Lease { cause, .. } if cause.is_over() => Self::LeaseLost,
            StepError::Lease {
                cause: LeaseError::Store(cause),
                ..
            } => cause.into(),
            StepError::OverBudget { shortfall, .. } => Self::OverBudget(shortfall),
            error @ (StepError::Lease { .. }
            | StepError::Diverged { .. }
            | StepError::UnderWay { .. }
            | StepError::Shape { .. }) => Self::permanent(error),
        }
    }
}

/// One run of one task: what it may use.
#[derive(Clone)]
pub struct TaskContext {
    pub(super) lease: Arc<Lease>,
    pub(super) holding: Holding,
    pub(super) queue: Queue,
    pub(super) journal: Journal,
    pub(super) shared: Context,
    pub(super) agent: AgentId,
    pub(super) cancelled: CancellationToken,
    pub(super) status: Arc<Status>,
    pub(super) may_act: Option<MayAct>,
}

impl TaskContext {
    /// Whether the work may go on. Where another agent may be about to act in this one's place,
    /// it is stopped and its task handed back.
    fn may_go_on(&self) -> Result<(), Failure> {
        if self
            .may_act
            .as_ref()
            .is_some_and(|may_act| may_act().is_none())
        {
            self.cancelled.cancel();
            return Err(Failure::Stopped);
        }
        Ok(())
    }

    /// The task and the lease on it.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Who runs it.
    #[must_use]
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// What the clock of this node's store shows.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.queue.clock().now()
    }

    /// The epoch under which this node owns the agent, where nodes agree on that, and while it
    /// does.
    #[must_use]
    pub fn acts_under(&self) -> Option<Epoch> {
        self.may_act.as_ref().and_then(|may_act| may_act())
    }

    /// The payload as a typed value.
    ///
    /// # Errors
    ///
    /// Permanent: the payload will not change.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        self.lease.task.payload.decode().map_err(|error| {
            Failure::Permanent(format!(
                "payload does not fit a `{}` task: {error}",
                self.lease.task.kind
            ))
        })
    }

    /// Cancelled when the work should stop soon: the node stops, or a cancel was asked for.
    /// Work that stops because of it returns [`Failure::Stopped`]; work that goes on is
    /// aborted when the grace is over.
    #[must_use]
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancelled
    }

    /// Shows a sign of progress, so that busy is not taken for stuck.
    pub fn progress(&self) {
        self.status.moved();
    }

    /// Runs a step once; see [`Journal::step`].
    ///
    /// # Errors
    ///
    /// The work's own failure, or one that the journal's errors call for.
    pub async fn step<I, O, W>(&self, key: &str, input: &I, work: W) -> Result<O, Failure>
    where
        I: Serialize + ?Sized,
        O: Serialize + DeserializeOwned,
        W: Future<Output = Result<O, Failure>>,
    {
        // Asked only if the work is to run: what is on record may always be read.
        let work = async {
            self.may_go_on()?;
            work.await
        };
        let output = self.journal.step(key, input, work).await?;
        self.progress();
        Ok(output)
    }

    /// Runs a step that costs something once; see [`Journal::priced_step`].
    ///
    /// # Errors
    ///
    /// [`Failure::OverBudget`] before the work begins, the work's own failure, or one that
    /// the journal's errors call for. Pass it on: the task then waits for a person.
    pub async fn priced_step<I, O, W>(
        &self,
        key: &str,
        input: &I,
        estimate: Amounts,
        work: impl FnOnce(Meter) -> W,
    ) -> Result<O, Failure>
    where
        I: Serialize + ?Sized,
        O: Serialize + DeserializeOwned,
        W: Future<Output = Result<O, Failure>>,
    {
        let work = |meter| async move {
            self.may_go_on()?;
            work(meter).await
        };
        let output = self.journal.priced_step(key, input, estimate, work).await?;
        self.progress();
        Ok(output)
    }

    /// A person's answer to question `key`. The first time it is [`Failure::Asks`]: pass it
    /// on, and the task waits without holding anything until the answer is there.
    ///
    /// A question that nobody has answered within `patience` counts as denied.
    ///
    /// # Errors
    ///
    /// [`Failure::Asks`], or one that the journal's errors call for.
    pub async fn ask(
        &self,
        key: &str,
        question: Question,
        patience: Option<Duration>,
    ) -> Result<Decision, Failure> {
        match self.journal.decision(key, &question).await {
            Ok(Some(decision)) => Ok(decision),
            Ok(None) => Err(Failure::Asks(Box::new(Ask {
                key: key.to_owned(),
                question,
                patience,
            }))),
            Err(StepError::Lookup { cause, .. }) => Err(cause.into()),
            Err(StepError::Lease { cause, .. }) => Err(cause.into()),
            Err(error) => Err(Failure::permanent(error)),
        }
    }

    /// Runs blocking or CPU-bound work where it holds nobody up.
    ///
    /// # Errors
    ///
    /// The work's own failure. If it panics, so does the caller.
    ///
    /// Dropping the future does not stop the work; long work should look at
    /// [`cancelled`](Self::cancelled).
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        match tokio::task::spawn_blocking(work).await {
            Ok(outcome) => outcome,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => Err(Failure::retryable(error)),
        }
    }

    /// The task's children, in the order in which they were inserted.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn children(&self) -> Result<Vec<TaskView>, Failure> {
        Ok(self.holding.children(None, usize::MAX).await?)
    }

    /// The same of one kind only.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn children_of(&self, kind: &str) -> Result<Vec<TaskView>, Failure> {
        Ok(self.holding.children(Some(kind), usize::MAX).await?)
    }

    /// The child that was inserted last, of one kind if one is named.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn latest_child(&self, kind: Option<&str>) -> Result<Option<TaskView>, Failure> {
        Ok(self.holding.children(kind, 1).await?.pop())
    }

    /// The tasks this one depends on; all of them have completed.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn dependencies(&self) -> Result<Vec<TaskView>, Failure> {
        let mut dependencies = Vec::with_capacity(self.lease.task.depends_on.len());
        for id in &self.lease.task.depends_on {
            if let Some(view) = self.holding.look(*id).await? {
                dependencies.push(view);
            }
        }
        Ok(dependencies)
    }

    /// Documents of the kernel's own whose key begins with `prefix`, in reverse order of their
    /// keys. They are this node's; whose agents need them run only what waits here
    /// ([`Behaviour::kinds_of_peers`]).
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn documents(&self, space: &str, prefix: &str) -> Result<Vec<Document>, Failure> {
        let store = self.queue.writer().store();
        Ok(store.documents(space, prefix, u32::MAX).await?)
    }

    /// Writes documents of the kernel's own, under the task's lease.
    ///
    /// # Errors
    ///
    /// [`Failure::LeaseLost`], or what the store's failure calls for. Permanent if another node
    /// has the task: its lease says nothing about this node's documents.
    pub async fn put_documents(&self, documents: Vec<DocumentRow>) -> Result<(), Failure> {
        if let Some(peer) = self.holding.peer() {
            let node = peer.node();
            return Err(Failure::Permanent(format!(
                "documents are written for tasks of this node, and this one is of node {node}"
            )));
        }
        let (id, epoch) = (self.lease.task.id, self.lease.epoch);
        Ok(self.queue.put_documents(id, epoch, documents).await?)
    }

    /// Notes on a task, for whoever watches it: the leased one, or its parent. Notes are best
    /// effort: what they say is derived from the task's own records, so a failure only costs the
    /// view of it. They are kept where the task is.
    pub async fn note(&self, task: TaskId, status: ContextStatus, notes: Map<String, Value>) {
        let noted = match self.holding.peer() {
            Some(peer) => {
                let noted = peer.share(task, Note::Attributes(notes, status)).await;
                noted.map_err(|reason| chain(&reason))
            }
            None => {
                let noted = self.shared.upsert(task, notes, Some(status)).await;
                noted.map(drop).map_err(|reason| chain(&reason))
            }
        };
        if let Err(reason) = noted {
            debug!(%task, %reason, "context not updated");
        }
    }

    /// Adds a finding to a task's shared context; best effort, like [`note`](Self::note).
    pub async fn found<T: Serialize>(&self, task: TaskId, finding: &T) {
        let Ok(finding) = Json::of(finding) else {
            return;
        };
        let shared = match self.holding.peer() {
            Some(peer) => {
                let shared = peer.share(task, Note::Finding(finding)).await;
                shared.map_err(|reason| chain(&reason))
            }
            None => {
                let shared = self.shared.add_finding(task, finding).await;
                shared.map(drop).map_err(|reason| chain(&reason))
            }
        };
        if let Err(reason) = shared {
            debug!(%task, %reason, "finding not shared");
        }
    }
}

/// The result of a completed task as a typed value.
///
/// # Errors
///
/// Permanent when the task did not complete or its result has another shape.
pub fn result_of<T: DeserializeOwned>(view: &TaskView) -> Result<T, Failure> {
    let id = view.body.id;
    let result = view.end.as_ref().and_then(|end| end.result.as_ref());
    let result = result.ok_or_else(|| Failure::Permanent(format!("task {id} has no result")))?;
    result
        .decode()
        .map_err(|error| Failure::Permanent(format!("result of task {id} does not fit: {error}")))
}
