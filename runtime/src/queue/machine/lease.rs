//! Leases: giving, renewing, losing them, and checking what their holders do.

use std::sync::Arc;
use std::time::Duration;

use super::{Dependencies, Fresh, Machine, measures};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::queue::budget::Cost;
use crate::queue::error::LeaseError;
use crate::queue::task::{Lease, NewChild, TaskEventKind, TaskState, TaskView};
use crate::store::content::Content;
use crate::store::{DocumentRow, StepRow};

/// A step whose work is done and whose output is to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct FinishedStep {
    pub(crate) key: String,
    pub(crate) input: Content,
    pub(crate) output: Content,
    pub(crate) cost: Option<Cost>,
    pub(crate) started_at: Timestamp,
}

/// How a lease was lost; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LossCause {
    /// It ran out.
    Expired,
    /// Its holder died.
    HolderDied,
    /// The node ended while it ran.
    NodeEnded,
    /// The task was leased again, and the commit that said so failed.
    Superseded,
}

impl LossCause {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::HolderDied => "holder_died",
            Self::NodeEnded => "node_ended",
            Self::Superseded => "superseded",
        }
    }
}

impl Machine {
    /// Leases at most `max` claimable tasks of `kinds` to `worker` for `duration`.
    pub(crate) fn claim<S: AsRef<str>>(
        &mut self,
        kinds: &[S],
        worker: &Arc<str>,
        duration: Duration,
        max: usize,
        now: Timestamp,
    ) -> Vec<Lease> {
        self.asked_for(kinds, now);
        if self.control.paused {
            return Vec::new();
        }
        let expires_at = now.after(duration.min(self.limits.lease_max));
        std::iter::from_fn(|| self.lease(kinds, worker, expires_at, now))
            .take(max)
            .collect()
    }

    /// Those of `kinds` of which more tasks stand in the backlog, one of each.
    pub(crate) fn claimable<S: AsRef<str>>(&self, kinds: &[S]) -> Vec<Fresh> {
        let kinds = kinds
            .iter()
            .filter_map(|kind| self.backlog.kind(kind.as_ref()));
        kinds.map(|kind| (kind.clone(), 1)).collect()
    }

    /// Leases the task that goes first.
    fn lease<S: AsRef<str>>(
        &mut self,
        kinds: &[S],
        worker: &Arc<str>,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Option<Lease> {
        if self.limits.leased_max <= self.states[TaskState::Executing as usize] {
            return None;
        }
        let id = self.first_with_units(kinds, now)?;
        self.give_lease(id, worker, expires_at, now)
    }

    /// Leases the first task of `kinds` that no other node can go on with. What others can go
    /// on with is left for them.
    pub(crate) fn claim_bound<S: AsRef<str>>(
        &mut self,
        kinds: &[S],
        worker: &Arc<str>,
        duration: Duration,
        now: Timestamp,
    ) -> Option<Lease> {
        let full = self.limits.leased_max <= self.states[TaskState::Executing as usize];
        if self.control.paused || full || !self.is_shared() {
            return None;
        }
        let expires_at = now.after(duration.min(self.limits.lease_max));
        let id = kinds
            .iter()
            .find_map(|kind| self.first_bound(kind.as_ref(), now))?;
        self.give_lease(id, worker, expires_at, now)
    }

    fn give_lease(
        &mut self,
        id: TaskId,
        worker: &Arc<str>,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Option<Lease> {
        // More leases than 32 bits count may have been given in one life of the node.
        self.next_epoch = self.next_epoch.max(self.tasks.get(&id)?.run.epoch.0);
        let epoch = self.fresh_epoch();
        let entry = self.tasks.get_mut(&id)?;
        entry.steps.clear();
        entry.run.attempt += 1;
        entry.run.epoch = epoch;
        entry.run.worker = Some(worker.clone());
        entry.run.lease_until = Some(expires_at);
        self.backlog.charge(&entry.body);
        self.served
            .count(&entry.body.class, &entry.body.tenant, now);
        self.exchange.leased(&entry.body.kind, now);
        self.take_units(id, now);
        self.enter(id, TaskState::Executing, now);
        let entry = self.tasks.get(&id)?;
        let lease = Lease {
            task: entry.body.clone(),
            epoch,
            attempt: entry.run.attempt,
            losses: entry.run.losses,
            expires_at,
        };
        self.counters.leased += 1;
        self.measures.leased(lease.task.priority);
        self.log(
            id,
            TaskEventKind::Leased,
            Some(epoch),
            Some(worker.clone()),
            now,
        );
        self.save(id);
        Some(lease)
    }

    /// A live task as it stands now, which may not be durable yet.
    pub(crate) fn view(&self, id: TaskId) -> Option<TaskView> {
        let entry = self.tasks.get(&id)?;
        Some(TaskView {
            body: entry.body.clone(),
            run: Some(entry.run.clone()),
            end: None,
        })
    }

    /// When the lease with this epoch ends, if it is still held.
    pub(crate) fn lease_until(&self, id: TaskId, epoch: Epoch) -> Option<Timestamp> {
        let entry = self.tasks.get(&id)?;
        (entry.run.epoch == epoch)
            .then_some(entry.run.lease_until)
            .flatten()
    }

    /// Refuses whoever does not hold the latest lease of a live task.
    pub(crate) fn check_epoch(&mut self, id: TaskId, epoch: Epoch) -> Result<(), LeaseError> {
        let Some(entry) = self.tasks.get(&id) else {
            return Err(LeaseError::Unknown(id));
        };
        let state = entry.end.as_ref().map_or(entry.run.state, |end| end.state);
        if state == TaskState::Executing && entry.run.epoch == epoch {
            return Ok(());
        }
        let current = entry.run.epoch;
        self.counters.stale_refused += 1;
        Err(LeaseError::Stale {
            task: id,
            offered: epoch,
            current,
            state,
        })
    }

    /// Counts a stale effect that was found out against the store.
    pub(crate) fn count_stale(&mut self) {
        self.counters.stale_refused += 1;
    }

    /// The live task under `epoch` was already completed by the same lease, though that
    /// may not be durable yet.
    pub(crate) fn completed_by(&self, id: TaskId, epoch: Epoch) -> bool {
        self.tasks
            .get(&id)
            .and_then(|entry| entry.end.as_ref())
            .is_some_and(|end| end.state == TaskState::Completed && end.epoch == epoch)
    }

    /// Extends the lease to `duration` from now. Says until when, and whether the holder
    /// should stop because a cancel was asked for; then the lease is not extended.
    pub(crate) fn heartbeat(
        &mut self,
        id: TaskId,
        epoch: Epoch,
        duration: Duration,
        now: Timestamp,
    ) -> Result<(Timestamp, bool), LeaseError> {
        self.check_epoch(id, epoch)?;
        let expires_at = now.after(duration.min(self.limits.lease_max));
        let Some(entry) = self.tasks.get_mut(&id) else {
            return Err(LeaseError::Unknown(id));
        };
        if entry.run.cancel_requested {
            return Ok((entry.run.lease_until.unwrap_or(now), true));
        }
        entry.run.lease_until = Some(expires_at);
        self.arm(id);
        Ok((expires_at, false))
    }

    /// Inserts the holder's children and lets the task wait for them without a lease. It
    /// becomes available again, with all its attempts, when every child has ended. If it
    /// was asked to stop, it ends instead and no child is inserted. `step` is recorded with
    /// them: all of it or nothing.
    pub(crate) fn suspend(
        &mut self,
        id: TaskId,
        epoch: Epoch,
        children: Vec<NewChild>,
        step: Option<FinishedStep>,
        ended: &Dependencies,
        now: Timestamp,
    ) -> Result<(), LeaseError> {
        self.check_epoch(id, epoch)?;
        if self
            .tasks
            .get(&id)
            .is_some_and(|entry| entry.run.cancel_requested)
        {
            self.stop(id, now);
            return Ok(());
        }
        if self.out_of_lines(id, now) {
            return Ok(());
        }
        let count = children.len();
        self.check_children(id, &children, ended, now)
            .map_err(LeaseError::Children)?;
        if let Some(step) = step {
            self.record_step(id, epoch, step, now)?;
        }
        self.insert_children(id, children, ended, now);
        if let Some(entry) = self.tasks.get(&id) {
            measures::planned(entry, count, now);
        }
        self.enter(id, TaskState::Waiting, now);
        let mut unresolved = 0;
        if let Some(entry) = self.tasks.get_mut(&id) {
            entry.run.attempt = 0;
            entry.run.losses = 0;
            unresolved = entry.unresolved;
        }
        let detail = format!("waits for {count} children");
        let kind = TaskEventKind::Suspended;
        self.log(id, kind, Some(epoch), Some(detail.into()), now);
        self.save(id);
        if unresolved == 0 {
            self.make_ready(id, now);
        }
        Ok(())
    }

    /// Writes documents on behalf of the holder.
    pub(crate) fn put_documents(
        &mut self,
        id: TaskId,
        epoch: Epoch,
        documents: Vec<DocumentRow>,
    ) -> Result<(), LeaseError> {
        self.check_epoch(id, epoch)?;
        self.outbox.changes.documents.extend(documents);
        Ok(())
    }

    /// Takes back every lease there is: the node stops in order, so none of them was lost.
    pub(crate) fn hand_back_all(&mut self, now: Timestamp) -> usize {
        let held: Vec<(TaskId, Epoch)> = self
            .tasks
            .values()
            .filter(|entry| entry.run.state == TaskState::Executing && entry.end.is_none())
            .map(|entry| (entry.body.id, entry.run.epoch))
            .collect();
        for (id, epoch) in &held {
            // Each of them holds, so none is refused.
            let _ = self.release(*id, *epoch, now);
        }
        held.len()
    }

    /// Records a finished step of the holder. False if the step was recorded already under
    /// this lease: the first record stands.
    pub(crate) fn record_step(
        &mut self,
        id: TaskId,
        epoch: Epoch,
        step: FinishedStep,
        now: Timestamp,
    ) -> Result<bool, LeaseError> {
        self.check_epoch(id, epoch)?;
        let max = self.limits.result_bytes_max;
        let bytes = step.key.len() + step.input.json.bytes() + step.output.json.bytes();
        if max < bytes {
            return Err(LeaseError::TooLarge { bytes, max });
        }
        let max = self.limits.log_lines_max;
        let Some(entry) = self.tasks.get_mut(&id) else {
            return Err(LeaseError::Unknown(id));
        };
        if entry.steps.contains(&step.key) {
            return Ok(false);
        }
        if max <= entry.run.events {
            return Err(LeaseError::LogFull { task: id, max });
        }
        entry.steps.insert(step.key.clone());
        let seq = entry.body.seq;
        self.charge(id, &step.key, step.cost.map(|cost| cost.amounts()), now);
        let FinishedStep {
            key,
            input,
            output,
            cost,
            started_at,
        } = step;
        self.counters.steps += 1;
        if let Some(entry) = self.tasks.get(&id) {
            self.measures.step(entry, &key, cost, started_at, now);
        }
        self.log(
            id,
            TaskEventKind::StepRecorded,
            Some(epoch),
            Some(key.as_str().into()),
            now,
        );
        let row = StepRow {
            seq,
            key,
            input,
            output,
            cost,
            epoch,
            started_at,
            finished_at: now,
        };
        self.outbox.changes.steps.push(row);
        self.save(id);
        Ok(true)
    }

    /// Takes an unused lease back; the attempt does not count.
    pub(crate) fn release(
        &mut self,
        id: TaskId,
        epoch: Epoch,
        now: Timestamp,
    ) -> Result<(), LeaseError> {
        self.check_epoch(id, epoch)?;
        let Some(entry) = self.tasks.get_mut(&id) else {
            return Err(LeaseError::Unknown(id));
        };
        entry.run.attempt -= 1;
        if entry.run.cancel_requested {
            self.stop(id, now);
            return Ok(());
        }
        if self.out_of_lines(id, now) {
            return Ok(());
        }
        self.enter(id, TaskState::Available, now);
        self.log(id, TaskEventKind::Released, Some(epoch), None, now);
        self.save(id);
        Ok(())
    }

    /// Takes back every lease of a holder that died.
    pub(crate) fn reclaim(&mut self, worker: &str, now: Timestamp) -> usize {
        let lost: Vec<TaskId> = self
            .tasks
            .values()
            .filter(|entry| entry.run.worker.as_deref() == Some(worker) && entry.end.is_none())
            .map(|entry| entry.body.id)
            .collect();
        for id in &lost {
            self.lose_lease(*id, LossCause::HolderDied, now);
        }
        lost.len()
    }

    /// The lease is over without an outcome. The attempt is not the task's fault and does
    /// not count, but a task that loses too many leases is discarded.
    pub(super) fn lose_lease(&mut self, id: TaskId, cause: LossCause, now: Timestamp) {
        self.losing = Some(cause.as_str());
        self.lease_lost(id, cause, now);
        self.losing = None;
    }

    fn lease_lost(&mut self, id: TaskId, cause: LossCause, now: Timestamp) {
        let Some(entry) = self.tasks.get_mut(&id) else {
            return;
        };
        let epoch = entry.run.epoch;
        entry.run.losses += 1;
        entry.run.attempt = entry.run.attempt.saturating_sub(1);
        let losses = entry.run.losses;
        let detail = format!("{} (loss {losses})", cause.as_str());
        self.counters.leases_lost += 1;
        metrics::counter!(crate::metrics::LEASES_LOST, "cause" => cause.as_str()).increment(1);
        if entry.run.cancel_requested {
            self.stop(id, now);
            return;
        }
        if self.limits.losses_max <= losses {
            let error = format!("its lease was lost {losses} times; it may kill whoever runs it");
            if self.try_part_again(id, &error, now) {
                return;
            }
            return self.discard(id, error, now);
        }
        if self.out_of_lines(id, now) {
            return;
        }
        let kind = TaskEventKind::LeaseLost;
        self.log(id, kind, Some(epoch), Some(detail.into()), now);
        if losses == 1 {
            self.enter(id, TaskState::Available, now);
        } else {
            self.retry_later(id, losses - 1, now);
        }
        self.save(id);
    }

    /// Gives up a task that would go on although its log is full: it was leased that often
    /// without coming to an end. A log is bounded like everything else.
    pub(super) fn out_of_lines(&mut self, id: TaskId, now: Timestamp) -> bool {
        let max = self.limits.log_lines_max;
        let full = self
            .tasks
            .get(&id)
            .is_some_and(|entry| max <= entry.run.events);
        if full {
            let error = format!(
                "its log has {max} lines, as many as a task may have, and it has not come to \
                 an end; split the work into several tasks"
            );
            self.discard(id, error, now);
        }
        full
    }

    /// Puts a task aside until its backoff is over.
    pub(super) fn retry_later(&mut self, id: TaskId, failures: u32, now: Timestamp) {
        let pause = self.limits.backoff.pause(failures, &mut self.rng);
        if let Some(entry) = self.tasks.get_mut(&id) {
            entry.run.run_at = now.after(pause);
        }
        self.enter(id, TaskState::Retryable, now);
    }
}
