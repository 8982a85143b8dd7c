//! The queue's state machine (pure): tasks, leases and what follows from what.
//!
//! Every method is a decision: it checks, changes the machine, and leaves in the outbox
//! what has to be [written](Changes) and what happens [once it is durable](Published).
//! Nothing here waits, reads a clock or touches a disk, so a seeded test can drive it.
//!
//! Two rules give the promises P1 to P3:
//!
//! - What others build on (a new task becoming claimable, an end releasing dependants)
//!   happens only in [`Machine::publish`], after the commit.
//! - Every lease has a new epoch, and every effect of a holder is checked against it.
//!   A lease itself may be handed out before it is durable: epochs start, at each boot,
//!   above any that was ever given.

mod approval;
mod budget;
mod end;
mod lease;
mod load;
mod parts;
mod spending;
mod submit;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::backlog::{Backlog, Place};
use super::control::{Control, Counters, QueueLimits, QueueStats};
use super::task::{Lane, TaskBody, TaskEnd, TaskEvent, TaskEventKind, TaskRun, TaskState};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::store::Changes;

pub(crate) use approval::Asked;
pub(crate) use lease::FinishedStep;
pub(crate) use load::Loading;
pub(crate) use parts::Part;
pub(crate) use submit::Dependencies;

/// What happens once the changes that led to it are durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// A task, new or reopened, may now be scheduled.
    Task(TaskId),
    /// A task has ended; whoever waits for it is told.
    Ended(TaskId),
}

/// What a decision leaves behind.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) changes: Changes,
    pub(crate) publish: Vec<Published>,
}

/// A live task.
#[derive(Debug)]
struct Entry {
    body: Arc<TaskBody>,
    run: TaskRun,
    /// Set from the decision to end until that is durable.
    end: Option<TaskEnd>,
    /// Accepted but not yet durable: nobody may claim it.
    staged: bool,
    /// How many of its dependencies and children live: each is counted when it becomes
    /// live, at first or again, and taken off once, when its end is durable.
    unresolved: usize,
    dependants: Vec<TaskId>,
    children: Vec<TaskId>,
    /// Steps recorded under the present lease; nobody may record one of them again.
    steps: HashSet<String>,
    place: Option<Place>,
    timer: Option<Timestamp>,
}

type Key = (Arc<str>, String);

/// See the module.
pub(crate) struct Machine {
    limits: QueueLimits,
    control: Control,
    tasks: HashMap<TaskId, Entry>,
    backlog: Backlog,
    timers: BTreeSet<(Timestamp, u64, TaskId)>,
    keys: HashMap<Key, TaskId>,
    /// Keys of ended tasks, kept until every lookup that began before the end is over.
    recent_keys: VecDeque<(Timestamp, Key, TaskId)>,
    /// Live tasks per state, indexed by `TaskState as usize`.
    states: [u64; TaskState::ALL.len()],
    bytes: u64,
    counters: Counters,
    /// Questions to people.
    desk: approval::Desk,
    /// What may be spent.
    ledger: budget::Ledger,
    /// Ends within the present and the previous window, for the measured rate.
    rate: Rate,
    next_seq: u64,
    next_epoch: u64,
    rng: SmallRng,
    outbox: Outbox,
}

impl Machine {
    /// An empty machine whose epochs start above those of `boot - 1`.
    pub(crate) fn new(limits: QueueLimits, boot: u32, seed: u64) -> Self {
        Self {
            backlog: Backlog::new(limits.slack),
            limits,
            control: Control::default(),
            tasks: HashMap::new(),
            timers: BTreeSet::new(),
            keys: HashMap::new(),
            recent_keys: VecDeque::new(),
            states: [0; TaskState::ALL.len()],
            bytes: 0,
            counters: Counters::default(),
            desk: approval::Desk::default(),
            ledger: budget::Ledger::default(),
            rate: Rate::default(),
            next_seq: 1,
            next_epoch: u64::from(boot) << 32,
            rng: SmallRng::seed_from_u64(seed),
            outbox: Outbox::default(),
        }
    }

    /// Takes what the decisions since the last call left behind.
    pub(crate) fn take_outbox(&mut self) -> Outbox {
        std::mem::take(&mut self.outbox)
    }

    /// Continues what became durable at `now`, in the order of the decisions.
    pub(crate) fn publish(&mut self, published: &[Published], now: Timestamp) {
        for one in published {
            match one {
                Published::Task(id) => self.publish_task(*id, now),
                Published::Ended(id) => self.publish_end(*id, now),
            }
        }
    }

    /// The switches.
    pub(crate) fn control(&self) -> Control {
        self.control
    }

    /// Turns the switches.
    pub(crate) fn set_control(&mut self, control: Control) {
        self.control = control;
        self.outbox.changes.control = Some(control);
    }

    /// The limits in force.
    pub(crate) fn limits(&self) -> &QueueLimits {
        &self.limits
    }

    /// How the queue stands.
    pub(crate) fn stats(&self) -> QueueStats {
        let lanes = self.backlog.per_lane();
        QueueStats {
            size: self.size(),
            max_size: self.max_size(),
            bytes: self.bytes,
            paused: self.control.paused,
            draining: self.control.draining,
            states: TaskState::ALL
                .iter()
                .filter(|state| !state.is_terminal())
                .map(|state| (state.as_str(), self.states[*state as usize]))
                .collect(),
            lanes: Lane::ALL
                .iter()
                .map(|lane| (lane.as_str(), lanes[lane.index()] as u64))
                .collect(),
            kinds: self
                .backlog
                .per_kind()
                .map(|(kind, count)| (kind.to_string(), count as u64))
                .collect(),
            counters: self.counters,
        }
    }

    /// Live tasks that do not execute.
    fn size(&self) -> u64 {
        self.tasks.len() as u64
            - self.states[TaskState::Executing as usize]
            - TaskState::ALL
                .iter()
                .filter(|state| state.is_terminal())
                .map(|state| self.states[*state as usize])
                .sum::<u64>()
    }

    fn max_size(&self) -> u64 {
        self.control.max_size.unwrap_or(self.limits.max_size)
    }

    fn fresh_epoch(&mut self) -> Epoch {
        self.next_epoch += 1;
        Epoch(self.next_epoch)
    }

    /// Moves a live task to `state`, and writes how it stands now.
    fn enter(&mut self, id: TaskId, state: TaskState, now: Timestamp) {
        self.lease_is_over(id, state, now);
        let Some(entry) = self.tasks.get_mut(&id) else {
            return;
        };
        self.states[entry.run.state as usize] -= 1;
        self.states[state as usize] += 1;
        if let Some(place) = entry.place.take() {
            self.backlog
                .remove(&entry.body.kind, entry.body.priority, place);
        }
        entry.run.state = state;
        if state != TaskState::Executing {
            entry.run.lease_until = None;
            entry.run.worker = None;
        }
        if state == TaskState::Available && !entry.staged {
            let body = &entry.body;
            let since = entry.run.run_at.min(now).max(body.submitted_at);
            entry.place =
                Some(
                    self.backlog
                        .push(&body.kind, body.priority, since, body.seq, body.id),
                );
        }
        self.arm(id);
    }

    /// Writes how a live task stands.
    fn save(&mut self, id: TaskId) {
        if let Some(entry) = self.tasks.get(&id) {
            self.outbox
                .changes
                .runs
                .push((entry.body.seq, entry.run.clone()));
        }
    }

    /// Adds a line to the task's log.
    fn log(
        &mut self,
        id: TaskId,
        kind: TaskEventKind,
        epoch: Option<Epoch>,
        detail: Option<String>,
        now: Timestamp,
    ) {
        let Some(entry) = self.tasks.get_mut(&id) else {
            return;
        };
        entry.run.events += 1;
        let event = TaskEvent {
            n: entry.run.events,
            at: now,
            kind,
            epoch,
            detail,
        };
        self.outbox.changes.events.push((id, entry.body.seq, event));
    }
}

/// Ends per second, measured over the last whole window and the present one.
#[derive(Debug, Default)]
struct Rate {
    window: u64,
    present: u64,
    previous: u64,
}

impl Rate {
    const WINDOW_MS: u64 = 5_000;

    fn advance(&mut self, now: Timestamp) {
        let window = now.0 / Self::WINDOW_MS;
        if window != self.window {
            self.previous = if window == self.window + 1 {
                self.present
            } else {
                0
            };
            self.present = 0;
            self.window = window;
        }
    }

    fn count(&mut self, now: Timestamp) {
        self.advance(now);
        self.present += 1;
    }

    /// How long until `tasks` more have ended at this rate; between 1 s and 60 s.
    fn until(&mut self, tasks: u64, now: Timestamp) -> std::time::Duration {
        self.advance(now);
        let span_ms = Self::WINDOW_MS + now.0 % Self::WINDOW_MS;
        let ends = self.previous + self.present;
        let wait_ms = tasks
            .saturating_mul(span_ms)
            .checked_div(ends)
            .unwrap_or(60_000);
        std::time::Duration::from_millis(wait_ms.clamp(1_000, 60_000))
    }
}
