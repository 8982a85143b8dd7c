//! Expected failures of the queue. None of them crashes anybody.

use std::time::Duration;

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
    /// The store failed; the lease may still hold. Repeat the call.
    #[error("the change could not be stored")]
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
    /// A task that would live again finds no room.
    #[error("the task cannot live again at present")]
    NotAdmitted(#[source] AdmitError),
    /// The store failed. Repeat the call.
    #[error("the change could not be stored")]
    Store(#[from] StoreError),
}
