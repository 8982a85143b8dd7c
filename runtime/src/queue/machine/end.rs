//! How tasks end, and what that means for those who wait for them.

use std::sync::Arc;

use super::{Dependencies, Ending, Machine, News, Published};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::queue::budget::BudgetRow;
use crate::queue::error::{AdmitError, ControlError, LeaseError};
use crate::queue::task::{TaskEnd, TaskEventKind, TaskState, TaskView};

/// A task that ended, and the children that end with it.
type Family = (TaskId, Vec<TaskId>);

impl Machine {
    /// The holder finished the task. To say so again under the same lease is harmless, also
    /// while that is not durable yet.
    pub(crate) fn complete(
        &mut self,
        id: TaskId,
        epoch: Epoch,
        result: Json,
        now: Timestamp,
    ) -> Result<(), LeaseError> {
        let (bytes, max) = (result.bytes(), self.limits.result_bytes_max);
        if max < bytes {
            return Err(LeaseError::TooLarge { bytes, max });
        }
        if self.completed_by(id, epoch) {
            return Ok(());
        }
        self.check_epoch(id, epoch)?;
        self.counters.completed += 1;
        self.end(id, TaskState::Completed, Some(result), None, now);
        Ok(())
    }

    /// The holder failed. Tried again after a pause, unless that is useless or the
    /// attempts are used up. Says where the task stands now.
    pub(crate) fn fail(
        &mut self,
        id: TaskId,
        epoch: Epoch,
        error: String,
        retryable: bool,
        now: Timestamp,
    ) -> Result<TaskState, LeaseError> {
        self.check_epoch(id, epoch)?;
        self.counters.failed += 1;
        let Some(entry) = self.tasks.get_mut(&id) else {
            return Err(LeaseError::Unknown(id));
        };
        let (attempt, max) = (entry.run.attempt, entry.body.max_attempts);
        let error = shorten(error);
        entry.run.last_error = Some(error.clone());
        if entry.run.cancel_requested {
            return Ok(self.stop(id, now));
        }
        if !retryable || max <= attempt {
            if self.try_part_again(id, &error, now) {
                return Ok(TaskState::Retryable);
            }
            self.discard(id, error, now);
            return Ok(TaskState::Discarded);
        }
        if self.out_of_lines(id, now) {
            return Ok(TaskState::Discarded);
        }
        let detail = format!("attempt {attempt} of {max}: {error}");
        let kind = TaskEventKind::Failed;
        self.log(id, kind, Some(epoch), Some(detail.into()), now);
        self.retry_later(id, attempt, now);
        self.save(id);
        Ok(TaskState::Retryable)
    }

    /// Calls a task off: at once if nobody executes it, otherwise by asking its holder.
    /// Says where the task stands now.
    pub(crate) fn cancel(
        &mut self,
        id: TaskId,
        why: &str,
        now: Timestamp,
    ) -> Result<TaskState, ControlError> {
        let Some(entry) = self.tasks.get_mut(&id) else {
            return Err(ControlError::Unknown(id));
        };
        if let Some(end) = &entry.end {
            let hint = "it has already ended";
            return Err(ControlError::WrongState {
                task: id,
                state: end.state,
                hint,
            });
        }
        let state = entry.run.state;
        if !self.is_held(id) {
            self.cancel_now(id, why, now);
            return Ok(TaskState::Cancelled);
        }
        self.ask_to_stop(id, why, now);
        Ok(state)
    }

    /// Whoever has the task, here or on another node, has to be asked to let go of it.
    fn is_held(&self, id: TaskId) -> bool {
        let entry = self.tasks.get(&id);
        let executes = entry.is_some_and(|entry| entry.run.state == TaskState::Executing);
        executes || self.carried.away(id).is_some()
    }

    /// Tells the holder at its next heartbeat, or the node to which the task was carried. The lease is not extended any more.
    pub(super) fn ask_to_stop(&mut self, id: TaskId, why: &str, now: Timestamp) {
        let Some(entry) = self.tasks.get_mut(&id) else {
            return;
        };
        if entry.run.cancel_requested {
            return;
        }
        entry.run.cancel_requested = true;
        let epoch = entry.run.epoch;
        let kind = TaskEventKind::CancelRequested;
        self.log(id, kind, Some(epoch), Some(why.into()), now);
        self.save(id);
    }

    /// Ends a task whose holder was asked to stop and has let go of it: it was called off,
    /// or its deadline passed. Says which.
    pub(super) fn stop(&mut self, id: TaskId, now: Timestamp) -> TaskState {
        let deadline = self.tasks.get(&id).and_then(|entry| entry.body.deadline);
        if deadline.is_some_and(|deadline| deadline <= now) {
            self.discard(id, "its deadline passed while it executed".to_owned(), now);
            return TaskState::Discarded;
        }
        self.cancel_now(id, "cancelled while executing", now);
        TaskState::Cancelled
    }

    /// Calls off every task that nobody executes. Says how many.
    pub(crate) fn clear(&mut self, now: Timestamp) -> usize {
        let idle: Vec<TaskId> = self
            .tasks
            .values()
            .map(|entry| entry.body.id)
            .filter(|id| !self.is_held(*id))
            .collect();
        let before = self.counters.cancelled;
        for id in idle {
            self.cancel_now(id, "the queue was cleared", now);
        }
        usize::try_from(self.counters.cancelled - before).unwrap_or(usize::MAX)
    }

    /// Gives a task that was discarded or cancelled all its attempts again. Whoever waits
    /// for its parent's children waits for it too, and it for what it depends on.
    pub(crate) fn reopen(
        &mut self,
        view: TaskView,
        ended: &Dependencies,
        budgets: &[BudgetRow],
        now: Timestamp,
    ) -> Result<(), ControlError> {
        let id = view.body.id;
        let wrong = |state, hint| {
            Err(ControlError::WrongState {
                task: id,
                state,
                hint,
            })
        };
        if let Some(entry) = self.tasks.get(&id) {
            let state = entry.run.state;
            return wrong(state, "only a discarded or cancelled task can be retried");
        }
        let state = view.state();
        let Some(end) = view.end else {
            return wrong(state, "only a discarded or cancelled task can be retried");
        };
        if state == TaskState::Completed {
            return wrong(
                state,
                "it has its result; submit a new task to run it again",
            );
        }
        if view.body.deadline.is_some_and(|deadline| deadline <= now) {
            return wrong(state, "its deadline has passed; submit a new task");
        }
        let expiry = view.body.terms.as_ref().and_then(|terms| terms.expires_at);
        if end.epoch == Epoch::NEVER && expiry.is_some_and(|expiry| expiry <= now) {
            return wrong(state, "its time to start has passed; submit a new task");
        }
        if self
            .check_dependencies(&view.body.depends_on, ended)
            .is_err()
        {
            return wrong(
                state,
                "a task it depends on did not complete; retry that one first",
            );
        }
        if let Some(parent) = view.body.parent
            && !view.body.depends_on.is_empty()
        {
            let waiting = self.waiting_for(parent);
            if view.body.depends_on.iter().any(|on| waiting.contains(on)) {
                return wrong(state, "a task it depends on waits for its parent");
            }
        }
        if self.control.draining {
            return Err(ControlError::NotAdmitted(AdmitError::Draining));
        }
        let bytes = view.body.payload.bytes() as u64;
        self.admit(1, bytes, self.max_size(), now)
            .map_err(ControlError::NotAdmitted)?;
        if !self.ledger.can_resume(&view.body, budgets) {
            let hint = "the budget it spends from is forgotten; submit a new task";
            return wrong(state, hint);
        }
        self.ledger.resume(&view.body, budgets);
        self.outbox.changes.reopened.push(view.body.seq);
        self.revive(view.body, &end, ended, now);
        let why = end.error.map(Into::into);
        self.log(id, TaskEventKind::Retried, None, why, now);
        let terms = self
            .tasks
            .get(&id)
            .and_then(|entry| entry.body.terms.as_ref());
        if terms.is_some_and(|terms| terms.requires_approval) {
            self.ask_to_start(id, now);
        }
        self.save(id);
        self.outbox.publish.push(Published::Task(id));
        Ok(())
    }

    /// Keeps the budgets of these trees as they are known here, while somebody reads the
    /// store in order to bring tasks of them back.
    pub(crate) fn hold_budgets(&mut self, trees: &[TaskId]) {
        self.ledger.hold(trees);
    }

    /// The reader is done.
    pub(crate) fn let_go_budgets(&mut self, trees: &[TaskId]) {
        self.ledger.let_go(trees);
    }

    pub(super) fn discard(&mut self, id: TaskId, error: String, now: Timestamp) {
        self.counters.discarded += 1;
        self.end(id, TaskState::Discarded, None, Some(error), now);
    }

    pub(super) fn cancel_now(&mut self, id: TaskId, why: &str, now: Timestamp) {
        if self.tasks.get(&id).is_some_and(|entry| entry.end.is_none()) {
            self.counters.cancelled += 1;
            self.end(id, TaskState::Cancelled, None, Some(why.to_owned()), now);
        }
    }

    /// Gives a child that failed for good all its attempts again, if its parent asks for
    /// that and not too often.
    pub(super) fn try_part_again(&mut self, id: TaskId, error: &str, now: Timestamp) -> bool {
        let Some(entry) = self.tasks.get(&id) else {
            return false;
        };
        let parent = entry.body.parent.map(|parent| self.tasks.get(&parent));
        let retries = match parent {
            Some(Some(parent)) if parent.end.is_none() => parent.body.on_child_failure().retries,
            // It waits on another node; if it has ended, this one is called off from there.
            Some(None) if self.is_shared() => entry.body.as_child().retries,
            Some(_) | None => 0,
        };
        let (tried, epoch) = (entry.run.retries, entry.run.epoch);
        if retries <= tried || self.limits.log_lines_max <= entry.run.events {
            return false;
        }
        let detail = format!(
            "retry {} of {retries} on behalf of its parent: {error}",
            tried + 1
        );
        let kind = TaskEventKind::Failed;
        self.log(id, kind, Some(epoch), Some(detail.into()), now);
        self.retry_later(id, tried + 1, now);
        if let Some(entry) = self.tasks.get_mut(&id) {
            entry.run.retries = tried + 1;
            entry.run.attempt = 0;
            entry.run.losses = 0;
        }
        self.save(id);
        true
    }

    /// Ends the ancestors that fail with a child, in the same transaction: after a crash
    /// nobody could tell any more that one of their children had failed.
    fn fail_ancestors(&mut self, id: TaskId, state: TaskState, now: Timestamp) -> Vec<Family> {
        let entry = self.tasks.get(&id);
        let why = entry.and_then(|entry| entry.end.as_ref()?.error.as_deref());
        let why = why.map(str::to_owned);
        let parent = entry.and_then(|entry| entry.body.parent);
        self.fail_upwards(id, parent, state, why, now)
    }

    fn fail_upwards(
        &mut self,
        mut child: TaskId,
        mut parent: Option<TaskId>,
        state: TaskState,
        mut why: Option<String>,
        now: Timestamp,
    ) -> Vec<Family> {
        let mut families = Vec::new();
        while let Some(id) = parent {
            let fails = self.tasks.get(&id).is_some_and(|entry| {
                entry.end.is_none()
                    && entry.run.state == TaskState::Waiting
                    && entry.body.on_child_failure().fail
            });
            if !fails {
                break;
            }
            let because = why.as_deref().unwrap_or("no reason was given");
            let error = shorten(format!("its child {child} was {state}: {because}"));
            if state == TaskState::Discarded {
                self.counters.discarded += 1;
            } else {
                self.counters.cancelled += 1;
            }
            families.push((id, self.end_one(id, state, None, Some(error.clone()), now)));
            parent = self.tasks.get(&id).and_then(|entry| entry.body.parent);
            child = id;
            why = Some(error);
        }
        families
    }

    /// A child that lived elsewhere did not complete: its parent ends with it, if it asks
    /// for that.
    pub(super) fn child_failed(
        &mut self,
        parent: TaskId,
        child: TaskId,
        news: &News,
        now: Timestamp,
    ) {
        let why = news.error.clone();
        let families = self.fail_upwards(child, Some(parent), news.state, why, now);
        self.end_families(families, now);
    }

    /// Decides the end of a task and, unless it completed, of its children. They leave the
    /// machine when that is durable. Families may be nested deeply, hence the loop.
    pub(super) fn end(
        &mut self,
        id: TaskId,
        state: TaskState,
        result: Option<Json>,
        error: Option<String>,
        now: Timestamp,
    ) {
        let children = self.end_one(id, state, result, error, now);
        if state == TaskState::Completed {
            return;
        }
        let mut families = vec![(id, children)];
        families.extend(self.fail_ancestors(id, state, now));
        self.end_families(families, now);
    }

    fn end_families(&mut self, mut families: Vec<Family>, now: Timestamp) {
        while let Some((parent, children)) = families.pop() {
            let why = format!("its parent {parent} ended");
            for child in children {
                let lives = self.tasks.get(&child).map(|entry| entry.end.is_none());
                if lives != Some(true) {
                    self.call_off_distant(child, &why, now);
                    continue;
                }
                if self.is_held(child) {
                    self.ask_to_stop(child, &why, now);
                } else {
                    self.counters.cancelled += 1;
                    let cancelled = TaskState::Cancelled;
                    let grandchildren =
                        self.end_one(child, cancelled, None, Some(why.clone()), now);
                    families.push((child, grandchildren));
                }
            }
        }
    }

    /// Decides the end of one task. Returns the children that end with it.
    fn end_one(
        &mut self,
        id: TaskId,
        state: TaskState,
        result: Option<Json>,
        error: Option<String>,
        now: Timestamp,
    ) -> Vec<TaskId> {
        let kind = if state == TaskState::Completed {
            TaskEventKind::Completed
        } else if state == TaskState::Discarded {
            TaskEventKind::Discarded
        } else {
            TaskEventKind::Cancelled
        };
        let why: Option<Arc<str>> = error.as_deref().map(Into::into);
        let Some(entry) = self.tasks.get(&id) else {
            return Vec::new();
        };
        let epoch = entry.run.epoch;
        let leased = (epoch != Epoch::NEVER).then_some(epoch);
        self.withdraw(id);
        self.forget_carried(id, now);
        self.enter(id, state, now);
        self.log(id, kind, leased, why.clone(), now);
        let Some(entry) = self.tasks.get_mut(&id) else {
            return Vec::new();
        };
        let end = TaskEnd {
            state,
            finished_at: now,
            attempt: entry.run.attempt,
            losses: entry.run.losses,
            epoch,
            result,
            error,
            events: entry.run.events,
        };
        entry.end = Some(Ending {
            state,
            epoch,
            error: why,
        });
        let children = std::mem::take(&mut entry.children);
        let seq = entry.body.seq;
        if let Some(at) = entry.timer.take() {
            self.timers.remove(&(at, seq, id));
        }
        self.outbox.changes.ends.push((seq, end));
        self.outbox.publish.push(Published::Ended(id));
        self.rate.count(1, now);
        if state == TaskState::Completed {
            Vec::new()
        } else {
            children
        }
    }

    /// The end is durable: the task leaves, and whoever waits for it is told.
    /// Says how it ended, if it was there.
    pub(super) fn publish_end(&mut self, id: TaskId, now: Timestamp) -> Option<TaskState> {
        let entry = self.tasks.remove(&id)?;
        let state = entry.run.state;
        self.ledger.leave(&entry.body);
        self.states[state as usize] -= 1;
        let bytes = super::weight(&entry.body);
        self.bytes -= bytes;
        self.freed.count(bytes, now);
        if let Some(at) = entry.timer {
            self.timers.remove(&(at, entry.body.seq, id));
        }
        if let Some(key) = &entry.body.idempotency_key {
            let key = (entry.body.tenant.clone(), key.clone());
            self.recent_keys.push_back((now, key, id));
        }
        self.measures.ended(&entry, now);
        self.tell_dependants(id, state, &entry.dependants, now);
        if let Some(parent) = entry.body.parent {
            self.resolve(parent, now);
        }
        Some(state)
    }

    /// A task has ended that these depend on.
    pub(super) fn tell_dependants(
        &mut self,
        id: TaskId,
        state: TaskState,
        dependants: &[TaskId],
        now: Timestamp,
    ) {
        for dependant in dependants {
            if state == TaskState::Completed {
                self.resolve(*dependant, now);
            } else {
                let why = format!("it depends on {id}, which was {state}");
                self.cancel_now(*dependant, &why, now);
            }
        }
    }

    /// One of those the task waits for has ended.
    pub(super) fn resolve(&mut self, id: TaskId, now: Timestamp) {
        let Some(waiting) = self.tasks.get_mut(&id) else {
            return;
        };
        debug_assert!(0 < waiting.unresolved, "every live one is counted");
        waiting.unresolved = waiting.unresolved.saturating_sub(1);
        if waiting.unresolved == 0 {
            waiting.children.clear();
            if waiting.run.state == TaskState::Waiting {
                self.make_ready(id, now);
            }
        }
    }
}

/// Errors are for people to read; longer ones are cut.
fn shorten(mut error: String) -> String {
    const BYTES_MAX: usize = 8 << 10;
    if BYTES_MAX < error.len() {
        error.truncate(error.floor_char_boundary(BYTES_MAX));
        error.push('…');
    }
    error
}
