//! What a task is: its immutable body, its changing run, and the log of what happened to it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::budget::Limits;
use super::carriage::Hop;
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::spans;
use crate::trace::TraceContext;

/// Urgency. A task of a higher lane starts first unless one of a lower lane has waited
/// longer by more than the lane's slack (see [`super::backlog`]).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Before everything else.
    Critical,
    /// Before ordinary work.
    High,
    /// Ordinary work.
    #[default]
    Normal,
    /// When nothing else is waiting.
    Low,
}

impl Lane {
    /// All lanes, most urgent first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Normal, Self::Low];

    /// The lane's name in JSON, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// Position in [`Lane::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

/// The text names no lane or state.
#[derive(Debug, thiserror::Error)]
#[error("`{found}` is not one of {allowed}")]
pub struct UnknownName {
    found: String,
    allowed: String,
}

fn by_name<T: Copy>(
    found: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<T, UnknownName> {
    all.iter()
        .copied()
        .find(|one| name(*one) == found)
        .ok_or_else(|| UnknownName {
            found: found.to_owned(),
            allowed: all
                .iter()
                .map(|one| name(*one))
                .collect::<Vec<_>>()
                .join(", "),
        })
}

impl FromStr for Lane {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        by_name(text, &Self::ALL, Self::as_str)
    }
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Runs later, at its `run_at`.
    Scheduled,
    /// Waits in the backlog for a worker.
    Available,
    /// A worker holds its lease.
    Executing,
    /// Waits, without holding a slot, for its children or for the tasks it depends on.
    Waiting,
    /// Waits for a person.
    AwaitingApproval,
    /// Failed or lost its lease; becomes available again after a pause.
    Retryable,
    /// Finished with a result. Terminal.
    Completed,
    /// Given up; kept as a dead letter with its cause. Terminal.
    Discarded,
    /// Called off. Terminal.
    Cancelled,
}

impl TaskState {
    /// All states, in the order of a task's life.
    pub const ALL: [Self; 9] = [
        Self::Scheduled,
        Self::Available,
        Self::Executing,
        Self::Waiting,
        Self::AwaitingApproval,
        Self::Retryable,
        Self::Completed,
        Self::Discarded,
        Self::Cancelled,
    ];

    /// The state's name in JSON, logs and storage.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Available => "available",
            Self::Executing => "executing",
            Self::Waiting => "waiting",
            Self::AwaitingApproval => "awaiting_approval",
            Self::Retryable => "retryable",
            Self::Completed => "completed",
            Self::Discarded => "discarded",
            Self::Cancelled => "cancelled",
        }
    }

    /// Nothing happens to the task any more, unless a person retries it.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Discarded | Self::Cancelled)
    }
}

impl FromStr for TaskState {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        by_name(text, &Self::ALL, Self::as_str)
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A task as its submitter asks for it.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// Names the work; decides which workers may claim it. 1 to 64 of `a-z 0-9 . _ -`.
    pub kind: String,
    /// What the worker gets; the kernel never reads it.
    pub payload: Json,
    /// What the task is for, in a person's words.
    pub goal: Option<String>,
    /// Urgency.
    pub priority: Lane,
    /// Workload class, for fairness between kinds of work. `default` unless set.
    pub class: Option<String>,
    /// On whose behalf. `default` unless set.
    pub tenant: Option<String>,
    /// A second submission with the same tenant and key returns the first task.
    pub idempotency_key: Option<String>,
    /// Not before this instant.
    pub run_at: Option<Timestamp>,
    /// Discarded when not finished by this instant.
    pub deadline: Option<Timestamp>,
    /// Failed attempts until it is discarded; the queue's default unless set.
    pub max_attempts: Option<u32>,
    /// Starts only after these have completed; cancelled when one of them does not.
    pub depends_on: Vec<TaskId>,
    /// What else it needs before it may start; `None` for a plain task.
    pub terms: Option<Box<TaskTerms>>,
}

/// What a task needs before it may start beyond time, dependencies and a worker. Kept as
/// JSON beside the body; fields that are not set are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskTerms {
    /// Discarded when no worker has started it by this instant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Only so many tasks of one key execute at once, see [`super::rules::Rules::limits`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// Tasks of one key start at a rate, see [`super::rules::Rules::rates`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_key: Option<String>,
    /// Units of named resources, see [`super::rules::Rules::resources`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub needs: BTreeMap<String, u64>,
    /// What it and everything below it may spend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Limits>,
    /// The ancestors whose budgets it spends from, outermost first. Set by the queue when
    /// the task is accepted, whatever is submitted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub charges: Vec<TaskId>,
    /// A person has to consent before it first starts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub requires_approval: bool,
    /// What it means for this task when a child of its own does not complete.
    #[serde(skip_serializing_if = "OnChildFailure::is_default")]
    pub on_child_failure: OnChildFailure,
    /// What it means for its parent when it does not complete itself: the parent may live on
    /// another node. Set by the queue when the task is accepted, whatever is submitted.
    #[serde(skip_serializing_if = "OnChildFailure::is_default")]
    pub as_child: OnChildFailure,
    /// The trace it was submitted with, or has from its parent; see [`TaskBody::trace`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
    /// The way on which it came from another node's queue, if it did. Set by the queue when the
    /// task is received, whatever is submitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub came: Option<Hop>,
}

/// What it means for a waiting parent when a child does not complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OnChildFailure {
    /// How often a child that failed for good is tried again, with all its attempts, before
    /// it counts as failed. What depends on it waits meanwhile.
    pub retries: u32,
    /// Whether the parent then ends as the child did. Otherwise it waits for the others,
    /// wakes, and sees for itself.
    pub fail: bool,
}

impl OnChildFailure {
    /// The parent asked for nothing.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl NewTask {
    /// An ordinary task, to be adjusted by setting fields.
    pub fn new(kind: impl Into<String>, payload: Json) -> Self {
        Self {
            kind: kind.into(),
            payload,
            goal: None,
            priority: Lane::Normal,
            class: None,
            tenant: None,
            idempotency_key: None,
            run_at: None,
            deadline: None,
            max_attempts: None,
            depends_on: Vec::new(),
            terms: None,
        }
    }
}

/// A child to be inserted by its parent, which names its siblings by position.
#[derive(Clone, Debug)]
pub struct NewChild {
    /// The task itself; its `depends_on` may name tasks outside the family.
    pub task: NewTask,
    /// Positions, in the same insertion, of the siblings that must complete first.
    /// Each is smaller than the child's own position, so a cycle cannot be written down.
    pub after: Vec<usize>,
}

/// The part of a task that never changes.
#[derive(Clone, Debug, Serialize)]
pub struct TaskBody {
    /// The task.
    pub id: TaskId,
    /// Order of acceptance within this store.
    #[serde(skip)]
    pub seq: u64,
    /// Names the work.
    pub kind: Arc<str>,
    /// What the worker gets.
    pub payload: Json,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// Urgency.
    pub priority: Lane,
    /// Workload class.
    pub class: Arc<str>,
    /// On whose behalf.
    pub tenant: Arc<str>,
    /// Deduplication key, unique per tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The task that inserted this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// Tasks that must complete first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<TaskId>,
    /// Failed attempts until it is discarded.
    pub max_attempts: u32,
    /// When it was accepted.
    pub submitted_at: Timestamp,
    /// Discarded when not finished by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// What else it needs before it may start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terms: Option<Box<TaskTerms>>,
}

impl TaskBody {
    /// What it means for this task when a child of its own does not complete.
    #[must_use]
    pub fn on_child_failure(&self) -> OnChildFailure {
        let terms = self.terms.as_deref();
        terms.map_or_else(OnChildFailure::default, |terms| terms.on_child_failure)
    }

    /// What it means for its parent when it does not complete.
    #[must_use]
    pub(crate) fn as_child(&self) -> OnChildFailure {
        let terms = self.terms.as_deref();
        terms.map_or_else(OnChildFailure::default, |terms| terms.as_child)
    }

    /// The trace it belongs to: its own, its parent's, or one that begins with it.
    #[must_use]
    pub fn trace(&self) -> TraceContext {
        let own = self.terms.as_deref().and_then(|terms| terms.trace);
        // A child without one is the child of a task that began its trace.
        own.unwrap_or_else(|| TraceContext::of_task(self.parent.unwrap_or(self.id)))
    }

    /// The trace that a child of its own has to be told, unless it knows it without.
    pub(crate) fn trace_for_children(&self) -> Option<TraceContext> {
        let own = self.trace();
        (own != TraceContext::of_task(self.id)).then_some(own)
    }

    /// The tasks whose budgets it spends from: those of its ancestors, and its own.
    pub fn spends_from(&self) -> impl Iterator<Item = TaskId> + '_ {
        let terms = self.terms.as_deref();
        let own = terms.and_then(|terms| terms.budget.map(|_| self.id));
        let ancestors = terms.map_or(&[][..], |terms| &terms.charges);
        ancestors.iter().copied().chain(own)
    }
}

/// The part of a live task that changes.
#[derive(Clone, Debug, Serialize)]
pub struct TaskRun {
    /// Where it stands.
    pub state: TaskState,
    /// Which attempt this is, or was; 0 before the first.
    pub attempt: u32,
    /// Leases lost to a crash, a hang or the end of the node.
    pub losses: u32,
    /// Epoch of the latest lease.
    pub epoch: Epoch,
    /// Not before this instant.
    pub run_at: Timestamp,
    /// End of the lease, while executing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_until: Option<Timestamp>,
    /// Who holds the lease, while executing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<Arc<str>>,
    /// A cancel was asked for while it executed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cancel_requested: bool,
    /// The latest failure, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Events logged so far.
    #[serde(skip)]
    pub events: u64,
    /// How often it had failed for good and was tried again on behalf of its parent.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u32,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// How a task ended.
#[derive(Clone, Debug, Serialize)]
pub struct TaskEnd {
    /// `completed`, `discarded` or `cancelled`.
    pub state: TaskState,
    /// When.
    pub finished_at: Timestamp,
    /// Attempts used.
    pub attempt: u32,
    /// Leases lost.
    pub losses: u32,
    /// Epoch under which it ended.
    pub epoch: Epoch,
    /// What a completed task produced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Json>,
    /// Why it was discarded or cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Events logged until the end.
    #[serde(skip)]
    pub events: u64,
}

/// A task as an observer sees it: everything durable about it.
#[derive(Clone, Debug, Serialize)]
pub struct TaskView {
    /// What it is.
    pub body: Arc<TaskBody>,
    /// Where it stands, while it lives.
    pub run: Option<TaskRun>,
    /// How it ended, afterwards.
    pub end: Option<TaskEnd>,
}

impl TaskView {
    /// Where the task stands.
    #[must_use]
    pub fn state(&self) -> TaskState {
        match (&self.run, &self.end) {
            (_, Some(end)) => end.state,
            (Some(run), None) => run.state,
            (None, None) => TaskState::Scheduled,
        }
    }
}

/// The right to work on a task until a deadline.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The work.
    pub task: Arc<TaskBody>,
    /// The fencing token: every effect of the holder carries it.
    pub epoch: Epoch,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Leases of this task lost before this one.
    pub losses: u32,
    /// When the lease ends unless it is renewed.
    pub expires_at: Timestamp,
}

impl Lease {
    /// For its holder to go on with: what he causes is caused by his work under this lease, where
    /// such spans are kept, and otherwise by what caused the task.
    #[must_use]
    pub fn trace(&self) -> TraceContext {
        let trace = self.task.trace();
        match spans::are_kept(&trace) {
            true => trace.caused_by(spans::of_attempt(self.task.id, self.epoch)),
            false => trace,
        }
    }
}

/// What kind of thing happened to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskEventKind {
    /// Accepted and durable.
    Submitted,
    /// Became claimable.
    Available,
    /// A worker took the lease.
    Leased,
    /// The worker handed the lease back unused.
    Released,
    /// The lease ran out, or its holder died.
    LeaseLost,
    /// A step finished and its output was recorded.
    StepRecorded,
    /// Inserted children and waits for them.
    Suspended,
    /// A person was asked; the task waits for the answer.
    ApprovalAsked,
    /// A person said yes.
    Approved,
    /// A person said no, or nobody said anything in time.
    Denied,
    /// Something was charged to the task's budgets that no step records.
    BudgetCharged,
    /// It was set aside to go on on another node, or that node has taken it.
    Carried,
    /// An attempt failed; another follows.
    Failed,
    /// A cancel was asked for.
    CancelRequested,
    /// A person asked for another try after the end.
    Retried,
    /// Finished with a result.
    Completed,
    /// Given up.
    Discarded,
    /// Called off.
    Cancelled,
}

impl TaskEventKind {
    /// The event's name in JSON and storage.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Available => "available",
            Self::Leased => "leased",
            Self::Released => "released",
            Self::LeaseLost => "lease_lost",
            Self::StepRecorded => "step_recorded",
            Self::Suspended => "suspended",
            Self::ApprovalAsked => "approval_asked",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::BudgetCharged => "budget_charged",
            Self::Carried => "carried",
            Self::Failed => "failed",
            Self::CancelRequested => "cancel_requested",
            Self::Retried => "retried",
            Self::Completed => "completed",
            Self::Discarded => "discarded",
            Self::Cancelled => "cancelled",
        }
    }

    /// All kinds.
    pub const ALL: [Self; 18] = [
        Self::Submitted,
        Self::Available,
        Self::Leased,
        Self::Released,
        Self::LeaseLost,
        Self::StepRecorded,
        Self::Suspended,
        Self::ApprovalAsked,
        Self::Approved,
        Self::Denied,
        Self::BudgetCharged,
        Self::Carried,
        Self::Failed,
        Self::CancelRequested,
        Self::Retried,
        Self::Completed,
        Self::Discarded,
        Self::Cancelled,
    ];
}

impl FromStr for TaskEventKind {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        by_name(text, &Self::ALL, Self::as_str)
    }
}

/// One line of a task's append-only log.
#[derive(Clone, Debug, Serialize)]
pub struct TaskEvent {
    /// Position in the task's log, from 1.
    pub n: u64,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: TaskEventKind,
    /// The lease's epoch, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// The rest, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Arc<str>>,
}
