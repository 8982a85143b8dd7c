//! What nodes ask each other about messages to agents, and how a message is written down.

use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::{AgentId, Epoch, TaskId};
use regrow_runtime::json::Json;
use regrow_runtime::queue::carriage::{Hop, Lineage, Parcel};
use regrow_runtime::queue::error::AdmitError;
use regrow_runtime::queue::task::{Lane, NewTask, TaskTerms};
use serde::{Deserialize, Serialize};

use super::Taken;

/// What one node asks another. New questions go to the end: older nodes count them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// Take this message, you who own the agent.
    Tell { agent: AgentId, letter: String },
    /// Take this message, whoever owns the agent: what nodes asked that knew no hops.
    Move { letter: String, from: TaskId },
    /// Have you a task under this key?
    Knows { tenant: String, key: String },
    /// Receive this message, whoever owns the agent.
    Carry { letter: String, way: Way },
    /// How do these tasks of yours stand?
    Ends(Vec<TaskId>),
    /// Call this task of yours off.
    CallOff(TaskId),
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Taken(Taken),
    NotMine,
    Refused {
        why: String,
        retry_after_ms: Option<u64>,
    },
    Knows(Option<TaskId>),
    /// For each task that was asked for; those that did not fit are left out.
    Ends(Vec<(TaskId, Stand)>),
    /// It was called off, or has ended.
    CalledOff,
}

/// How a task stands at the node that was asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Stand {
    /// It has not ended.
    Lives,
    /// It has: an [`EndElsewhere`](regrow_runtime::queue::carriage::EndElsewhere) as JSON.
    Ended(String),
    /// There is no such task.
    Unknown,
}

/// A [`Hop`] as it travels: the wire's format has no names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Way {
    task: TaskId,
    epoch: Epoch,
    number: u64,
}

impl Way {
    pub(super) const fn of(hop: Hop) -> Self {
        Self {
            task: hop.lineage.task,
            epoch: hop.lineage.epoch,
            number: hop.number,
        }
    }

    /// That of a node which knew no hops.
    pub(super) const fn from_task(task: TaskId) -> Self {
        Self {
            task,
            epoch: Epoch::NEVER,
            number: 1,
        }
    }

    pub(super) const fn hop(self) -> Hop {
        let lineage = Lineage {
            task: self.task,
            epoch: self.epoch,
        };
        Hop {
            lineage,
            number: self.number,
        }
    }
}

impl Answer {
    pub(super) fn refused(refused: &AdmitError) -> Self {
        let retry_after_ms = refused.is_retryable().then(|| match refused {
            AdmitError::Full { retry_after, .. } | AdmitError::FullOfBytes { retry_after, .. } => {
                u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX)
            }
            AdmitError::Draining
            | AdmitError::Invalid(_)
            | AdmitError::Dependency { .. }
            | AdmitError::Store(_) => 1_000,
        });
        Self::Refused {
            why: regrow_runtime::causes::chain(refused),
            retry_after_ms,
        }
    }

    pub(super) fn unreadable(error: &serde_json::Error) -> Self {
        Self::Refused {
            why: format!("it cannot be read: {error}; do both run the same version?"),
            retry_after_ms: None,
        }
    }
}

/// A task on its way to another queue, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Letter {
    kind: String,
    payload: Json,
    goal: Option<String>,
    priority: Lane,
    class: Option<String>,
    tenant: Option<String>,
    idempotency_key: Option<String>,
    run_at: Option<Timestamp>,
    deadline: Option<Timestamp>,
    max_attempts: Option<u32>,
    terms: Option<Box<TaskTerms>>,
}

impl Letter {
    pub(super) fn of(task: &NewTask) -> Self {
        Self {
            kind: task.kind.clone(),
            payload: task.payload.clone(),
            goal: task.goal.clone(),
            priority: task.priority,
            class: task.class.clone(),
            tenant: task.tenant.clone(),
            idempotency_key: task.idempotency_key.clone(),
            run_at: task.run_at,
            deadline: task.deadline,
            max_attempts: task.max_attempts,
            terms: task.terms.clone(),
        }
    }

    /// One that is carried. A person whose consent it needs has given it already.
    pub(super) fn carried(parcel: &Parcel) -> Self {
        let task = &parcel.body;
        let mut terms = task.terms.clone();
        if let Some(terms) = &mut terms {
            terms.requires_approval = false;
        }
        Self {
            kind: task.kind.to_string(),
            payload: task.payload.clone(),
            goal: task.goal.clone(),
            priority: task.priority,
            class: Some(task.class.to_string()),
            tenant: Some(task.tenant.to_string()),
            idempotency_key: Some(parcel.key()),
            run_at: None,
            deadline: task.deadline,
            max_attempts: Some(task.max_attempts),
            terms,
        }
    }

    /// Plain data; it cannot fail to be JSON.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(super) fn into_task(self) -> NewTask {
        let mut task = NewTask::new(self.kind, self.payload);
        task.goal = self.goal;
        task.priority = self.priority;
        task.class = self.class;
        task.tenant = self.tenant;
        task.idempotency_key = self.idempotency_key;
        task.run_at = self.run_at;
        task.deadline = self.deadline;
        task.max_attempts = self.max_attempts;
        task.terms = self.terms;
        task
    }
}
