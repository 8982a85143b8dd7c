//! Expected failures of the queue. None of them crashes anybody.

use std::time::Duration;

use super::budget::{Scope, Shortfall};
use super::task::TaskState;
use crate::ids::{Epoch, TaskId};
use crate::store::StoreError;

/// A submission was not accepted. Nothing was stored unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// Above the high-water mark.
    #[error(
        "queue is full: {size} of {max_size} tasks wait; retry in {retry_after:?} or raise the maximum"
    )]
    Full {
        /// Tasks that wait.
        size: u64,
        /// How many may.
        max_size: u64,
        /// When a slot is likely free, from the measured rate of completions.
        retry_after: Duration,
    },
    /// Too many bytes of payload live.
    #[error(
        "queue is full: {bytes} of {max_bytes} payload bytes are in use; retry in {retry_after:?}"
    )]
    FullOfBytes {
        /// Bytes in use.
        bytes: u64,
        /// Bytes allowed.
        max_bytes: u64,
        /// When some are likely free.
        retry_after: Duration,
    },
    /// The queue is being drained.
    #[error("queue is draining and takes no new tasks; resume it, or submit elsewhere")]
    Draining,
    /// The task cannot be accepted as it is; repeating it is useless.
    #[error("task is not valid: {}", .0.join("; "))]
    Invalid(Vec<String>),
    /// A task it depends on does not exist, or has already failed to complete.
    #[error("task depends on {dependency}, which {problem}")]
    Dependency {
        /// The dependency.
        dependency: TaskId,
        /// What is wrong with it.
        problem: String,
    },
    /// The store failed; whether the task was kept is unknown. Repeat with the same
    /// idempotency key.
    #[error("task could not be stored")]
    Store(#[from] StoreError),
}

impl AdmitError {
    /// The metric label of the refusal.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Full { .. } => "full",
            Self::FullOfBytes { .. } => "full_of_bytes",
            Self::Draining => "draining",
            Self::Invalid(_) => "invalid",
            Self::Dependency { .. } => "dependency",
            Self::Store(_) => "store",
        }
    }

    /// The same submission may be accepted later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Full { .. } | Self::FullOfBytes { .. } | Self::Draining => true,
            Self::Invalid(_) | Self::Dependency { .. } => false,
            Self::Store(error) => error.is_retryable(),
        }
    }
}

/// A lease does not allow what was tried. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// There is no such task.
    #[error("there is no task {0}")]
    Unknown(TaskId),
    /// Another lease has replaced this one, or it ended: stop working on the task.
    #[error(
        "epoch {offered} of task {task} is stale: the task is {state} under epoch {current}; \
         stop working on it and claim again"
    )]
    Stale {
        /// The task.
        task: TaskId,
        /// The epoch that was offered.
        offered: Epoch,
        /// The latest epoch.
        current: Epoch,
        /// Where the task stands.
        state: TaskState,
    },
    /// Inserted children were refused; the lease still holds.
    #[error("children were not accepted")]
    Children(#[source] AdmitError),
    /// The result or output is too large; the lease still holds.
    #[error(
        "{bytes} bytes are more than the {max} that one result may have; store it elsewhere and return a reference"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A step needs more than a budget has left; the lease still holds. Let the task wait
    /// for a person, with [`Queue::wait_for_budget`](super::Queue::wait_for_budget).
    #[error(transparent)]
    OverBudget(Box<Shortfall>),
    /// As many steps are under way as one task may have reservations; the lease still holds.
    #[error("task {task} has {max} reservations open; settle some before the next")]
    TooManyReservations {
        /// The task.
        task: TaskId,
        /// How many there may be.
        max: usize,
    },
    /// The task's log is full; the lease still holds. Repeating it is useless.
    #[error(
        "the log of task {task} has {max} lines, as many as a task may have; complete it, or \
         split the work into several tasks"
    )]
    LogFull {
        /// The task.
        task: TaskId,
        /// How many lines a log may have.
        max: u64,
    },
    /// The node that gave the lease has not answered for as long as the lease lasts: it is over.
    /// Whether the change took effect is not known. Stop working on the task.
    #[error(
        "node {node}, which gave the lease on task {task}, has not answered until it was over \
         ({reason}); stop working on it: it runs again when its node has it back"
    )]
    Away {
        /// The task.
        task: TaskId,
        /// Whose it is.
        node: String,
        /// Why there is no answer, in words.
        reason: String,
    },
    /// The node that gave the lease refused, for another reason; the lease still holds. Repeating
    /// it is useless.
    #[error("node {node}, which gave the lease, refused: {problem}")]
    Refused {
        /// Whose it is.
        node: String,
        /// In its words.
        problem: String,
    },
    /// The store failed; the lease may still hold. Repeat the call.
    #[error("the change could not be stored")]
    Store(#[from] StoreError),
}

impl LeaseError {
    /// Whether the lease is over, or not this holder's: nothing is left to be done under it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        match self {
            Self::Unknown(_) | Self::Stale { .. } | Self::Away { .. } => true,
            Self::Children(_)
            | Self::TooLarge { .. }
            | Self::OverBudget(_)
            | Self::TooManyReservations { .. }
            | Self::LogFull { .. }
            | Self::Refused { .. }
            | Self::Store(_) => false,
        }
    }
}

/// A budget cannot be set like this. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum BudgetError {
    /// There is no such budget.
    #[error(
        "there is no budget `{0}`; a task has one if it was submitted with it, while it or a \
         task below it lives; those of tenants and of the node exist once they are set"
    )]
    Unknown(Scope),
    /// Trees of tasks end; their budgets are not renewed.
    #[error("budget `{0}` belongs to a task and has no period; leave it out")]
    Periodic(Scope),
    /// As many budgets are set as there may be.
    #[error("{max} budgets are set, as many as there may be; reuse one")]
    TooMany {
        /// How many there may be.
        max: usize,
    },
    /// The store failed. Repeat the call.
    #[error("the budget could not be stored")]
    Store(#[from] StoreError),
}

/// An operator's request cannot be met. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no such task.
    #[error("there is no task {0}")]
    Unknown(TaskId),
    /// The task is not in a state that allows it.
    #[error("task {task} is {state}; {hint}")]
    WrongState {
        /// The task.
        task: TaskId,
        /// Where it stands.
        state: TaskState,
        /// What would be allowed.
        hint: &'static str,
    },
    /// The rules cannot be what they were asked to become.
    #[error("rules are not valid: {}", .0.join("; "))]
    Invalid(Vec<String>),
    /// The node that has the task was asked and refused.
    #[error("the node that has task {task} refused: {problem}")]
    Refused {
        /// The task.
        task: TaskId,
        /// In its words.
        problem: String,
    },
    /// The node that has the task was asked and has not answered yet. The order stands: it is
    /// carried out as soon as that node, or who takes over from it, gets to it.
    #[error("node `{node}` has task {task} and has not answered yet; the order stands")]
    Ordered {
        /// The task.
        task: TaskId,
        /// The node that has it.
        node: String,
    },
    /// A task that would live again finds no room.
    #[error("the task cannot live again at present")]
    NotAdmitted(#[source] AdmitError),
    /// The store failed. Repeat the call.
    #[error("the change could not be stored")]
    Store(#[from] StoreError),
}
