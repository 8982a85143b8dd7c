//! Orders: what one node asks of the node that has a task.
//!
//! An order is a row beside the task. Whoever owns the task, by then, carries it out and
//! writes the answer in the same transaction; so an order outlives its asker and the node it
//! was meant for.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::approval::{Answer, ApprovalId};
use crate::clock::Timestamp;
use crate::ids::TaskId;
use crate::json::Json;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub(crate) enum Verb {
    /// Call the task off.
    Cancel {
        /// For its log.
        why: String,
    },
    /// Bring back an ended child of the task.
    Retry {
        /// The child.
        child: TaskId,
    },
    /// Bring back what failed below the task, or below an ended child of it.
    RetryPart {
        /// The root of the part.
        root: TaskId,
    },
    /// Decide a question that the task waits for.
    Answer {
        /// The question.
        approval: ApprovalId,
        /// What the person said.
        answer: Answer,
    },
    /// Say why the task is not running.
    Explain,
}

impl Verb {
    /// The verb's name.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Cancel { .. } => "cancel",
            Self::Retry { .. } => "retry",
            Self::RetryPart { .. } => "retry_part",
            Self::Answer { .. } => "answer",
            Self::Explain => "explain",
        }
    }
}

/// An order to be written.
#[derive(Clone, Debug)]
pub struct NewOrder {
    pub(crate) id: Uuid,
    /// The task whose node is asked.
    pub(crate) task: TaskId,
    pub(crate) verb: Verb,
    pub(crate) at: Timestamp,
}

impl NewOrder {
    pub(crate) fn new(task: TaskId, verb: Verb, at: Timestamp) -> Self {
        Self {
            id: Uuid::now_v7(),
            task,
            verb,
            at,
        }
    }
}

/// An order to be carried out.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) id: Uuid,
    pub(crate) task: TaskId,
    /// What is asked, or why this version does not understand it.
    pub(crate) verb: Result<Verb, String>,
    /// The task has ended.
    pub(crate) ended: bool,
}

/// What became of an order.
#[derive(Clone, Debug)]
pub struct Answered {
    pub(crate) order: Uuid,
    pub(crate) answer: Json,
}
