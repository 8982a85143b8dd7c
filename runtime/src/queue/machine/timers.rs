//! What happens to tasks by the passing of time alone.

use std::time::Duration;

use super::lease::LossCause;
use super::{Entry, Machine};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::queue::task::{TaskEventKind, TaskState};

/// Ended tasks' idempotency keys stay in memory this long: longer than a lookup in the
/// store may take, so that a lookup that began before the end cannot miss both.
const RECENT_KEYS: Duration = Duration::from_secs(60);

/// Why an expired task was discarded.
const NOT_STARTED: &str = "it expired: no worker had started it by its expires_at";

impl Entry {
    /// When it is discarded unless it was started, for one that was not.
    pub(super) fn expiry(&self) -> Option<Timestamp> {
        let never = self.run.epoch == Epoch::NEVER;
        self.body.terms.as_ref()?.expires_at.filter(|_| never)
    }
}

impl Machine {
    /// The next instant at which [`tick`](Self::tick) has something to do.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        let task = self.timers.first().map(|(at, _, _)| *at);
        task.into_iter().chain(self.gates.next_due()).min()
    }

    /// Applies everything that is due at `now`.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        while let Some(&(at, seq, id)) = self.timers.first() {
            if now < at {
                break;
            }
            self.timers.remove(&(at, seq, id));
            if let Some(entry) = self.tasks.get_mut(&id) {
                entry.timer = None;
            }
            self.due(id, now);
        }
        while let Some(gate) = self.gates.pop_due(now) {
            self.stirred.push(gate);
            self.wake(now);
        }
        while self
            .recent_keys
            .front()
            .is_some_and(|(at, ..)| RECENT_KEYS < now.since(*at))
        {
            if let Some((_, key, id)) = self.recent_keys.pop_front()
                && self.keys.get(&key) == Some(&id)
                && !self.tasks.contains_key(&id)
            {
                self.keys.remove(&key);
            }
        }
    }

    fn due(&mut self, id: TaskId, now: Timestamp) {
        let Some(entry) = self.tasks.get(&id) else {
            return;
        };
        if entry.end.is_some() {
            return;
        }
        let state = entry.run.state;
        let late = entry.body.deadline.is_some_and(|deadline| deadline <= now);
        let lease_over = entry.run.lease_until.is_some_and(|until| until <= now);
        if late && state != TaskState::Executing {
            return self.discard(id, "its deadline passed before it finished".to_owned(), now);
        }
        if entry.expiry().is_some_and(|expiry| expiry <= now) {
            return self.discard(id, NOT_STARTED.to_owned(), now);
        }
        let runnable = entry.run.run_at <= now;
        match state {
            TaskState::Executing if lease_over && late => {
                let error = "its deadline passed while it executed".to_owned();
                self.discard(id, error, now);
            }
            TaskState::Executing if lease_over => self.lose_lease(id, LossCause::Expired, now),
            TaskState::Executing if late => {
                self.ask_to_stop(id, "its deadline passed", now);
                self.arm(id);
            }
            TaskState::Scheduled | TaskState::Retryable if runnable => {
                self.enter(id, TaskState::Available, now);
                self.log(id, TaskEventKind::Available, None, None, now);
                self.save(id);
            }
            TaskState::Scheduled
            | TaskState::Available
            | TaskState::Executing
            | TaskState::Waiting
            | TaskState::AwaitingApproval
            | TaskState::Retryable
            | TaskState::Completed
            | TaskState::Discarded
            | TaskState::Cancelled => self.arm(id),
        }
    }

    /// Sets the task's one timer to whatever is due first.
    pub(super) fn arm(&mut self, id: TaskId) {
        let Some(entry) = self.tasks.get_mut(&id) else {
            return;
        };
        let by_state = match entry.run.state {
            TaskState::Executing => entry.run.lease_until,
            TaskState::Scheduled | TaskState::Retryable => Some(entry.run.run_at),
            TaskState::Available
            | TaskState::Waiting
            | TaskState::AwaitingApproval
            | TaskState::Completed
            | TaskState::Discarded
            | TaskState::Cancelled => None,
        };
        let told = entry.run.cancel_requested;
        let deadline = entry
            .body
            .deadline
            .filter(|_| !entry.run.state.is_terminal() && !told);
        let next = by_state
            .into_iter()
            .chain(deadline)
            .chain(entry.expiry())
            .min();
        let next = next.filter(|_| !entry.staged && entry.end.is_none());
        if entry.timer == next {
            return;
        }
        let seq = entry.body.seq;
        if let Some(at) = entry.timer.take() {
            self.timers.remove(&(at, seq, id));
        }
        if let Some(at) = next {
            entry.timer = next;
            self.timers.insert((at, seq, id));
        }
    }
}
