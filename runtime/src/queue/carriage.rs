//! Tasks that are carried to the queue of another node, and come from there.
//!
//! Nodes without a common database have a queue each. A task that has to go on elsewhere is *set
//! aside* here: it waits, nobody can claim it, and where it goes is durable before anything is
//! sent. The other node *receives it* as a task of its own, and when that one has ended, this one
//! ends as it did: whoever waits here, or depends on it, hears the real end.
//!
//! A task may travel on, and back. All its copies are of one [`Lineage`], and each way is a hop
//! with a number that only grows: of two copies at most one is not away, what arrives twice is
//! known by its number, and a task that returns where it was before goes on as the task that it
//! was there. Nothing here sends anything: that is the cluster's courier.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::error::AdmitError;
use super::machine::{Dependencies, Submitted};
use super::submission::told;
use super::task::{NewTask, TaskBody, TaskState, TaskView};
use super::{Queue, Submission};
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::store::{StoreError, TaskFilter};

/// Which task it was first, and under which epoch it first left. One that a person retries after
/// its end begins another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lineage {
    /// The task, on the node where it was submitted.
    pub task: TaskId,
    /// Its epoch when it first left.
    pub epoch: Epoch,
}

/// One way of a task from node to node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// Of what.
    #[serde(flatten)]
    pub lineage: Lineage,
    /// The how manieth it is, from 1.
    pub number: u64,
}

impl Lineage {
    /// The key under which other nodes know a task that has none of its own.
    #[must_use]
    pub fn key(&self) -> String {
        format!("moved {} {}", self.task, self.epoch.0)
    }
}

/// Where a task is that was set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Away {
    /// The node that it goes to, or is at.
    pub node: String,
    /// As which task, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
}

/// A task that was set aside, for whoever carries it.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// What it is.
    pub body: std::sync::Arc<TaskBody>,
    /// The way that it is on.
    pub hop: Hop,
    /// Where it goes, or is.
    pub away: Away,
    /// It was called off here, which its node has to be told.
    pub cancel_requested: bool,
}

impl Parcel {
    /// The key under which its next node knows it: its own, or that of its lineage.
    #[must_use]
    pub fn key(&self) -> String {
        let came = self.body.terms.as_ref().and_then(|terms| terms.came);
        let given = came.map(|came| came.lineage.key());
        let own = self.body.idempotency_key.clone();
        own.filter(|own| Some(own) != given.as_ref())
            .unwrap_or_else(|| self.hop.lineage.key())
    }
}

/// How a task ended on another node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndElsewhere {
    /// `completed`, `discarded` or `cancelled`.
    pub state: TaskState,
    /// What it produced.
    pub result: Option<Json>,
    /// Why it did not complete.
    pub error: Option<String>,
}

impl Queue {
    /// Tasks of `kinds` that wait for a worker and for nothing else, in the order of acceptance,
    /// with the epochs that they have: at most `max`. Nothing while the queue is paused.
    #[must_use]
    pub fn idle(&self, kinds: &BTreeSet<String>, max: usize) -> Vec<(TaskId, Epoch)> {
        self.0.machine.lock().idle(kinds, max)
    }

    /// Whether anything of a task is on record here, finished steps or children, that would be
    /// done again elsewhere.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn is_begun(&self, id: TaskId) -> Result<bool, StoreError> {
        // What was decided before has to be visible.
        self.settle().await?;
        let steps = self.steps_of(id, None, 1).await?;
        if steps.is_some_and(|steps| !steps.is_empty()) {
            return Ok(true);
        }
        let children = TaskFilter {
            parent: Some(id),
            limit: 1,
            ..TaskFilter::default()
        };
        Ok(!self.tasks(&children).await?.is_empty())
    }

    /// Sets an idle task aside, to be carried to `node`, if its epoch is still `seen`: that
    /// nothing of it was begun here has to be true under that epoch. Durable when it returns.
    /// False if it is not idle any more, or was leased since, and while the queue moves to a
    /// database: there is no courier to bring it back from there.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; whether it was set aside is then seen in [`parcels`](Self::parcels).
    pub async fn set_aside(&self, id: TaskId, seen: Epoch, node: &str) -> Result<bool, StoreError> {
        self.decide(|machine, now| {
            // Under the machine's lock, which whoever begins a move takes afterwards.
            let stays = self.promotion().phase.is_under_way();
            Ok(!stays && machine.set_aside(id, seen, node, now))
        })
        .await
    }

    /// Every task that is set aside.
    #[must_use]
    pub fn parcels(&self) -> Vec<Parcel> {
        self.0.machine.lock().parcels()
    }

    /// The node to which a task was carried has received it, as its task `there`. Without effect
    /// on one that is on another way by now.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; repeat it.
    pub async fn delivered(&self, id: TaskId, hop: Hop, there: TaskId) -> Result<(), StoreError> {
        self.decide(|machine, now| {
            machine.delivered(id, hop, there, now);
            Ok(())
        })
        .await
    }

    /// A task that was carried has ended where it is: it ends here likewise. Without effect on
    /// one that is on another way by now.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; repeat it.
    pub async fn ended_elsewhere(
        &self,
        id: TaskId,
        hop: Hop,
        end: EndElsewhere,
    ) -> Result<(), StoreError> {
        self.decide(|machine, now| {
            machine.ended_elsewhere(id, hop, end, now);
            Ok(())
        })
        .await
    }

    /// Receives a task that comes from another node's queue. It is durable when this returns.
    /// Repeating it is harmless; one that was here before goes on as the task that it was.
    ///
    /// # Errors
    ///
    /// [`AdmitError`]; nothing was stored.
    ///
    /// Dropping the future does not take it back.
    pub async fn receive(&self, mut task: NewTask, hop: Hop) -> Result<Submission, AdmitError> {
        let origin = hop.lineage.task;
        if !self.is_here(origin) && self.store().task(origin).await?.is_some() {
            // It began here, and has ended here: what comes late finds its end.
            return Ok(Submission {
                id: origin,
                repeated: true,
            });
        }
        if let Some(view) = self.ended_under(&task).await? {
            let came = view.body.terms.as_ref().and_then(|terms| terms.came);
            let is_same = came.is_some_and(|came| came.lineage == hop.lineage);
            let id = view.body.id;
            if is_same || view.state() == TaskState::Completed {
                return Ok(Submission { id, repeated: true });
            }
            // What was not done under this key was submitted, or retried, elsewhere.
            task.idempotency_key = Some(hop.lineage.key());
            if let Some(view) = self.ended_under(&task).await? {
                let id = view.body.id;
                return Ok(Submission { id, repeated: true });
            }
        }
        let ended = Dependencies::new();
        let submitted: Result<Submitted, AdmitError> = self
            .decide(|machine, now| machine.receive(task, hop, &ended, now))
            .await;
        told(submitted)
    }

    /// The task under this one's key that has ended.
    async fn ended_under(&self, task: &NewTask) -> Result<Option<TaskView>, StoreError> {
        let Some(key) = &task.idempotency_key else {
            return Ok(None);
        };
        let tenant = task.tenant.as_deref().unwrap_or("default");
        let known = self.0.machine.lock().by_key(tenant, key);
        let known = match known {
            Some(id) => Some(id),
            None => self.store().by_idempotency_key(tenant, key).await?,
        };
        match known {
            Some(id) if !self.is_here(id) => self.store().task(id).await,
            Some(_) | None => Ok(None),
        }
    }
}
