//! Trying the failed part of a family again: what completed stays, what did not lives again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Dependencies, Machine, Published};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::queue::budget::BudgetRow;
use crate::queue::error::{AdmitError, ControlError};
use crate::queue::task::{TaskBody, TaskEnd, TaskEventKind, TaskRun, TaskState, TaskView};

/// A task and everything below it that did not complete, as read from the store: parents
/// before their children.
pub(crate) struct Part {
    pub(crate) root: TaskId,
    pub(crate) views: Vec<TaskView>,
}

fn expiry(body: &TaskBody) -> Option<Timestamp> {
    body.terms.as_ref()?.expires_at
}

impl Machine {
    /// Brings a failed task back together with the failed tasks below it, or the failed
    /// tasks below one that waits for them. It wakes once, when the last of them has ended.
    /// Returns how many live again; those that cannot are left as they are, unless the root
    /// is among them.
    pub(crate) fn reopen_part(
        &mut self,
        part: Part,
        ended: &Dependencies,
        budgets: &[BudgetRow],
        now: Timestamp,
    ) -> Result<usize, ControlError> {
        let root = part.root;
        let wrong = |state, hint| {
            Err(ControlError::WrongState {
                task: root,
                state,
                hint,
            })
        };
        if let Some(entry) = self.tasks.get(&root) {
            let state = entry.end.as_ref().map_or(entry.run.state, |end| end.state);
            if state != TaskState::Waiting {
                return wrong(
                    state,
                    "its part can be retried while it waits or after it ended",
                );
            }
        }
        let mut candidates = self.returning(part.views, ended, now);
        if !self.tasks.contains_key(&root) && !candidates.iter().any(|(body, _)| body.id == root) {
            let hint = "only a discarded or cancelled task whose dependencies completed, before \
                        its deadline, can be retried";
            return wrong(
                ended.get(&root).copied().unwrap_or(TaskState::Completed),
                hint,
            );
        }
        if self.control.draining {
            return Err(ControlError::NotAdmitted(AdmitError::Draining));
        }
        let bytes = candidates
            .iter()
            .map(|(body, _)| body.payload.bytes() as u64);
        self.admit(candidates.len() as u64, bytes.sum(), self.max_size(), now)
            .map_err(ControlError::NotAdmitted)?;
        let forgotten =
            |(body, _): &(Arc<TaskBody>, TaskEnd)| !self.ledger.can_resume(body, budgets);
        if candidates.iter().any(forgotten) {
            let hint = "the budget it spends from is forgotten; submit a new task";
            return wrong(TaskState::Discarded, hint);
        }
        for (body, _) in &candidates {
            self.ledger.resume(body, budgets);
        }
        candidates.sort_by_key(|(body, _)| body.seq);
        let ids: Vec<TaskId> = candidates.iter().map(|(body, _)| body.id).collect();
        for (body, end) in &candidates {
            self.outbox.changes.reopened.push(body.seq);
            self.revive_waiting(body.clone(), end, now);
        }
        self.adopt_stragglers(&ids);
        for (body, end) in candidates {
            let id = body.id;
            let failed = self.link(id, ended);
            debug_assert!(failed.is_none(), "its dependencies were checked");
            let why = end.error.map(Into::into);
            self.log(id, TaskEventKind::Retried, None, why, now);
            if body
                .terms
                .as_ref()
                .is_some_and(|terms| terms.requires_approval)
            {
                self.ask_to_start(id, now);
            }
            self.save(id);
            self.outbox.publish.push(Published::Task(id));
        }
        Ok(ids.len())
    }

    /// Those of `views` that may live again: ended without completing, not too late, and
    /// with dependencies that completed, live, or return with them.
    fn returning(
        &self,
        views: Vec<TaskView>,
        ended: &Dependencies,
        now: Timestamp,
    ) -> Vec<(Arc<TaskBody>, TaskEnd)> {
        let mut candidates: HashMap<TaskId, (Arc<TaskBody>, TaskEnd)> = views
            .into_iter()
            .filter_map(|view| Some((view.body.id, (view.body, view.end?))))
            .filter(|(id, (body, end))| {
                end.state != TaskState::Completed
                    && !self.tasks.contains_key(id)
                    && body.deadline.is_none_or(|deadline| now < deadline)
                    && (end.epoch != Epoch::NEVER || expiry(body).is_none_or(|at| now < at))
            })
            .collect();
        loop {
            let known: HashSet<TaskId> = candidates.keys().copied().collect();
            let stuck: Vec<TaskId> = candidates
                .values()
                .filter(|(body, _)| {
                    body.depends_on.iter().any(|on| {
                        !known.contains(on) && self.check_dependencies(&[*on], ended).is_err()
                    })
                })
                .map(|(body, _)| body.id)
                .collect();
            if stuck.is_empty() {
                return candidates.into_values().collect();
            }
            for id in stuck {
                candidates.remove(&id);
            }
        }
    }

    /// Children of former lives that were asked to stop and have not stopped yet are waited
    /// for.
    fn adopt_stragglers(&mut self, revived: &[TaskId]) {
        let parents: HashSet<TaskId> = revived.iter().copied().collect();
        let stragglers: Vec<(TaskId, TaskId)> = self
            .tasks
            .values()
            .filter(|entry| !parents.contains(&entry.body.id))
            .filter_map(|entry| Some((entry.body.parent?, entry.body.id)))
            .filter(|(parent, _)| parents.contains(parent))
            .collect();
        for (parent, child) in stragglers {
            if let Some(entry) = self.tasks.get_mut(&parent) {
                entry.children.push(child);
                entry.unresolved += 1;
            }
        }
        for parent in parents {
            let distant = self.distant.children_of(parent);
            if let Some(entry) = self.tasks.get_mut(&parent) {
                entry.unresolved += distant.len();
                entry.children.extend(distant);
            }
        }
    }

    /// Makes an ended task wait for whatever it is going to be linked with.
    fn revive_waiting(&mut self, body: Arc<TaskBody>, end: &TaskEnd, now: Timestamp) {
        let id = body.id;
        // Those it waited for in its former life may still list it.
        for other in body.depends_on.iter().copied().chain(body.parent) {
            if let Some(entry) = self.tasks.get_mut(&other) {
                entry.dependants.retain(|dependant| *dependant != id);
                entry.children.retain(|child| *child != id);
            }
        }
        let run = TaskRun {
            state: TaskState::Waiting,
            attempt: 0,
            losses: 0,
            epoch: end.epoch,
            run_at: now,
            lease_until: None,
            worker: None,
            cancel_requested: false,
            last_error: end.error.clone(),
            events: end.events,
            retries: 0,
        };
        self.insert(body, run);
        self.begin_lineage(id, now);
    }
}
