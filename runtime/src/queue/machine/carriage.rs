//! Tasks that are carried between nodes (pure); see [`crate::queue::carriage`].
//!
//! A task that is away counts what it is elsewhere among those that it waits for. Where it is
//! stands in a document of its own, written in the transaction that changes it.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::{Dependencies, Machine, Submitted};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::queue::carriage::{Away, EndElsewhere, Hop, Lineage, Parcel};
use crate::queue::error::AdmitError;
use crate::queue::task::{NewTask, TaskEventKind, TaskState};
use crate::store::{Document, DocumentRow};

/// Where carried tasks stand, by task.
pub(crate) const CARRIED_SPACE: &str = "carried";

/// Where a live task of this node stands that is or was carried.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Carried {
    /// The latest way that is known here.
    #[serde(flatten)]
    hop: Hop,
    /// Where it is; nothing for one that goes on here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    away: Option<Away>,
}

/// Which task a document says to be away, and at or on its way to which node.
pub(crate) fn whither(document: &Document) -> Option<(TaskId, String)> {
    let away = document.body.decode::<Carried>().ok()?.away?;
    Some((document.key.parse().ok()?, away.node))
}

/// Those of one node.
#[derive(Debug, Default)]
pub(super) struct Carriages(HashMap<TaskId, Carried>);

impl Carriages {
    pub(super) fn away(&self, id: TaskId) -> Option<&Away> {
        self.0.get(&id)?.away.as_ref()
    }
}

impl Machine {
    /// What was carried when the documents were written; told before the tasks are loaded.
    pub(crate) fn restore_carried(&mut self, documents: Vec<Document>) {
        let read = |document: Document| {
            let id = document.key.parse().ok()?;
            Some((id, document.body.decode::<Carried>().ok()?))
        };
        self.carried = Carriages(documents.into_iter().filter_map(read).collect());
    }

    /// Lets loaded tasks wait that are away.
    pub(super) fn link_carried(&mut self) {
        let tasks = &mut self.tasks;
        self.carried.0.retain(|id, carried| {
            let entry = tasks.get_mut(id);
            if let Some(entry) = entry {
                entry.unresolved += usize::from(carried.away.is_some());
                return true;
            }
            false
        });
    }

    /// See [`Queue::idle`](crate::queue::Queue::idle).
    pub(crate) fn idle(&self, kinds: &BTreeSet<String>, max: usize) -> Vec<(TaskId, Epoch)> {
        let waits = |kind: &String| 0 < self.backlog.waiting(kind);
        if self.control.paused || !(0 < self.gates.parked() || kinds.iter().any(waits)) {
            return Vec::new();
        }
        let entries = self.tasks.values().filter(|entry| {
            entry.run.state == TaskState::Available
                && !entry.staged
                && entry.end.is_none()
                && kinds.contains(&*entry.body.kind)
        });
        let mut idle: Vec<_> = entries
            .map(|entry| (entry.body.seq, entry.body.id, entry.run.epoch))
            .collect();
        idle.sort_unstable_by_key(|(seq, ..)| *seq);
        let idle = idle.into_iter().take(max);
        idle.map(|(_, id, epoch)| (id, epoch)).collect()
    }

    /// Whether the task was set aside. Its epoch grows: no earlier lease has any effect.
    pub(crate) fn set_aside(
        &mut self,
        id: TaskId,
        seen: Epoch,
        node: &str,
        now: Timestamp,
    ) -> bool {
        let idle = self.tasks.get(&id).is_some_and(|entry| {
            let is_idle = entry.run.state == TaskState::Available && !entry.staged;
            is_idle && entry.end.is_none() && entry.run.epoch == seen
        });
        if !idle || self.control.paused || self.out_of_lines(id, now) {
            return false;
        }
        self.next_epoch = self.next_epoch.max(seen.0);
        let epoch = self.fresh_epoch();
        let Some(entry) = self.tasks.get_mut(&id) else {
            return false;
        };
        entry.run.epoch = epoch;
        entry.unresolved += 1;
        let came = entry.body.terms.as_ref().and_then(|terms| terms.came);
        let before = self.carried.0.get(&id).map(|carried| carried.hop).or(came);
        let hop = Hop {
            lineage: before.map_or(Lineage { task: id, epoch }, |hop| hop.lineage),
            number: before.map_or(0, |hop| hop.number) + 1,
        };
        let away = Away {
            node: node.to_owned(),
            task: None,
        };
        self.enter(id, TaskState::Waiting, now);
        let detail = format!("to {node}");
        let kind = TaskEventKind::Carried;
        self.log(id, kind, Some(epoch), Some(detail.into()), now);
        self.save(id);
        let away = Some(away);
        self.put_carried(id, Carried { hop, away }, now);
        true
    }

    /// Those that are away.
    pub(crate) fn parcels(&self) -> Vec<Parcel> {
        let parcel = |(id, carried): (&TaskId, &Carried)| {
            let entry = self.tasks.get(id).filter(|entry| entry.end.is_none())?;
            Some(Parcel {
                body: entry.body.clone(),
                hop: carried.hop,
                away: carried.away.clone()?,
                cancel_requested: entry.run.cancel_requested,
            })
        };
        let mut parcels: Vec<_> = self.carried.0.iter().filter_map(parcel).collect();
        parcels.sort_unstable_by_key(|parcel| parcel.body.seq);
        parcels
    }

    /// Its new node has it, as task `there`.
    pub(crate) fn delivered(&mut self, id: TaskId, hop: Hop, there: TaskId, now: Timestamp) {
        let Some(mut carried) = self.on_way(id, hop) else {
            return;
        };
        let Some(away) = carried.away.as_mut().filter(|away| away.task.is_none()) else {
            return;
        };
        away.task = Some(there);
        let detail = format!("taken by {} as {there}", away.node);
        self.put_carried(id, carried, now);
        let kind = TaskEventKind::Carried;
        self.log(id, kind, None, Some(detail.into()), now);
        self.save(id);
    }

    /// It ended there, and so it does here.
    pub(crate) fn ended_elsewhere(
        &mut self,
        id: TaskId,
        hop: Hop,
        end: EndElsewhere,
        now: Timestamp,
    ) {
        if self.on_way(id, hop).is_none() {
            return;
        }
        self.forget_carried(id, now);
        if let Some(entry) = self.tasks.get_mut(&id) {
            entry.unresolved = entry.unresolved.saturating_sub(1);
        }
        let why = || {
            end.error
                .clone()
                .unwrap_or_else(|| "no reason was given".to_owned())
        };
        match end.state {
            TaskState::Completed => {
                self.counters.completed += 1;
                let result = end.result.unwrap_or_else(Json::null);
                self.end(id, TaskState::Completed, Some(result), None, now);
            }
            TaskState::Discarded => {
                if !self.try_part_again(id, &why(), now) {
                    self.discard(id, why(), now);
                }
            }
            // Nothing else is an end.
            TaskState::Cancelled
            | TaskState::Scheduled
            | TaskState::Available
            | TaskState::Executing
            | TaskState::Waiting
            | TaskState::AwaitingApproval
            | TaskState::Retryable => self.cancel_now(id, &why(), now),
        }
    }

    /// Receives what comes from another node: as a new task, or as the one that it was here.
    pub(crate) fn receive(
        &mut self,
        task: NewTask,
        hop: Hop,
        ended: &Dependencies,
        now: Timestamp,
    ) -> Result<Submitted, AdmitError> {
        let origin = hop.lineage.task;
        let origin = self.tasks.contains_key(&origin).then_some(origin);
        let by_key = || {
            let tenant = task.tenant.as_deref().unwrap_or("default");
            self.by_key(tenant, task.idempotency_key.as_deref()?)
        };
        if let Some(id) = origin.or_else(by_key) {
            self.comes_back(id, hop, now);
            return Ok(Submitted { id, repeated: true });
        }
        self.submit_carried(task, Some(hop), ended, now)
    }

    /// The task goes on here, if it is away on an earlier way than this.
    fn comes_back(&mut self, id: TaskId, hop: Hop, now: Timestamp) {
        let Some(carried) = self.carried.0.get(&id) else {
            return;
        };
        let is_later = carried.hop.lineage == hop.lineage && carried.hop.number < hop.number;
        if carried.away.is_none() || !is_later {
            return;
        }
        let Some(entry) = self.tasks.get(&id).filter(|entry| entry.end.is_none()) else {
            return;
        };
        let is_called_off = entry.run.cancel_requested;
        self.put_carried(id, Carried { hop, away: None }, now);
        if is_called_off {
            if let Some(entry) = self.tasks.get_mut(&id) {
                entry.unresolved = entry.unresolved.saturating_sub(1);
            }
            self.stop(id, now);
        } else {
            self.resolve(id, now);
        }
    }

    /// A task that came from elsewhere lives again after its end: as another one, so that it is
    /// not taken for what has ended where it came from.
    pub(super) fn begin_lineage(&mut self, id: TaskId, now: Timestamp) {
        let Some(entry) = self.tasks.get(&id) else {
            return;
        };
        if entry
            .body
            .terms
            .as_ref()
            .is_some_and(|it| it.came.is_some())
        {
            let epoch = entry.run.epoch;
            let lineage = Lineage { task: id, epoch };
            let hop = Hop { lineage, number: 0 };
            self.put_carried(id, Carried { hop, away: None }, now);
        }
    }

    /// The task ends: nothing of its ways is needed any more.
    pub(super) fn forget_carried(&mut self, id: TaskId, now: Timestamp) {
        if self.carried.0.remove(&id).is_some() {
            self.write_carried(id, None, now);
        }
    }

    /// How it is carried, if it is away on just this way.
    fn on_way(&self, id: TaskId, hop: Hop) -> Option<Carried> {
        let carried = self.carried.0.get(&id)?;
        let lives = self.tasks.get(&id).is_some_and(|entry| entry.end.is_none());
        (lives && carried.away.is_some() && carried.hop == hop).then(|| carried.clone())
    }

    fn put_carried(&mut self, id: TaskId, carried: Carried, now: Timestamp) {
        // Plain data; it cannot fail to be JSON.
        let body = Json::of(&carried).ok();
        self.carried.0.insert(id, carried);
        self.write_carried(id, body, now);
    }

    fn write_carried(&mut self, id: TaskId, body: Option<Json>, now: Timestamp) {
        self.outbox.changes.documents.push(DocumentRow {
            space: CARRIED_SPACE,
            key: id.to_string(),
            body,
            at: now,
        });
    }
}
