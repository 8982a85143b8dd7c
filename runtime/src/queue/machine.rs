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
mod carriage;
mod distant;
mod end;
mod escrow;
mod explain;
mod fund;
mod hand_over;
mod lease;
mod load;
mod measures;
mod parts;
mod passage;
mod rate;
mod roll;
mod spending;
mod submit;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use self::measures::Measures;
use self::rate::Rate;
use self::roll::Roll;
use super::backlog::{Backlog, Place};
use super::control::{Control, Counters, QueueLimits, QueueStats};
use super::fairness::Served;
use super::gate::{GateKey, Gates, Need};
use super::names::{NameMap, Names};
use super::order::Answered;
use super::task::{Lane, TaskBody, TaskEvent, TaskEventKind, TaskRun, TaskState};
use crate::clock::Timestamp;
use crate::ids::{Epoch, Latest, TaskId};
use crate::store::Changes;

pub(crate) use approval::Asked;
pub(crate) use budget::OPERATED_MAX;
pub(crate) use carriage::{CARRIED_SPACE, whither};
pub(crate) use distant::{DistantChild, News};
pub(crate) use hand_over::Want;
pub(crate) use lease::FinishedStep;
pub(crate) use load::Loading;
pub(crate) use parts::Part;
pub(crate) use passage::GATE_SPACE;
pub(crate) use submit::{Dependencies, Submitted};

/// What happens once the changes that led to it are durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// A task, new or reopened, may now be scheduled.
    Task(TaskId),
    /// A task has ended; whoever waits for it is told.
    Ended(TaskId),
}

/// A kind of which so many tasks have become claimable.
pub(crate) type Fresh = (Arc<str>, usize);

/// What a decision leaves behind.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) changes: Changes,
    pub(crate) publish: Vec<Published>,
    /// Kinds of which tasks have become claimable, and how many.
    pub(crate) fresh: Vec<Fresh>,
}

impl Outbox {
    /// A task of this kind has become claimable.
    fn freshen(&mut self, kind: &Arc<str>) {
        match self.fresh.last_mut() {
            Some((latest, tasks)) if Arc::ptr_eq(latest, kind) => *tasks += 1,
            Some(_) | None => self.fresh.push((kind.clone(), 1)),
        }
    }
}

/// An outbox with room for more log lines than this is not used again.
const REUSED_MAX: usize = 4_096;

/// How a task ended, until that is durable.
#[derive(Debug)]
struct Ending {
    state: TaskState,
    /// Under which lease.
    epoch: Epoch,
    /// Why, unless it completed.
    error: Option<Arc<str>>,
}

/// A live task.
#[derive(Debug)]
struct Entry {
    body: Arc<TaskBody>,
    run: TaskRun,
    /// Set from the decision to end until that is durable.
    end: Option<Ending>,
    /// Accepted but not yet durable: nobody may claim it.
    staged: bool,
    /// How many of its dependencies and children live, here or elsewhere: each is counted
    /// when it becomes live, at first or again, and taken off once, when its end is durable.
    unresolved: usize,
    dependants: Vec<TaskId>,
    children: Vec<TaskId>,
    /// Steps recorded under the present lease; nobody may record one of them again.
    steps: BTreeSet<String>,
    place: Option<Place>,
    /// The gate at which it waits; in the backlog, if it waits at none.
    parked: Option<GateKey>,
    /// What it needs of which gate.
    needs: Box<[Need]>,
    timer: Option<Timestamp>,
    /// When it entered its state, as far as this node knows.
    since: Timestamp,
}

impl Entry {
    /// Nobody has worked on it yet, here or elsewhere.
    fn is_new(&self) -> bool {
        self.staged && self.run.epoch == Epoch::NEVER
    }
}

type Key = (Arc<str>, String);

/// A kind counts as claimed by somebody if it was asked for within this time.
const ASKED_WITHIN: Duration = Duration::from_secs(30);
/// Kinds of which it is remembered when they were asked for.
const ASKED_MAX: usize = 4_096;

fn asked_within(asked: &NameMap<Timestamp>, kind: &str, now: Timestamp) -> bool {
    asked
        .get(kind)
        .is_some_and(|at| now.since(*at) <= ASKED_WITHIN)
}

/// Waiting flows looked at for one report on fairness.
const FLOWS_SHOWN_MAX: usize = 10_000;

/// What a task weighs in `max_bytes`: the parts of its body that may be long.
fn weight(body: &TaskBody) -> u64 {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let terms = body.terms.as_ref().map_or(0, |terms| {
        let needs = terms.needs.keys().map(|name| name.len() + 8);
        text(&terms.concurrency_key) + text(&terms.rate_key) + needs.sum::<usize>()
    });
    let bytes = body.payload.bytes() + text(&body.goal) + text(&body.idempotency_key) + terms;
    (bytes + size_of::<TaskId>() * body.depends_on.len()) as u64
}

/// See the module.
pub(crate) struct Machine {
    limits: QueueLimits,
    control: Control,
    tasks: Roll,
    /// Tasks of other nodes that are waited for here.
    distant: distant::Elsewhere,
    /// Tasks that are or were carried to other nodes' queues.
    carried: carriage::Carriages,
    backlog: Backlog,
    gates: Gates,
    /// Gates at which something happened that may let others pass.
    stirred: Vec<GateKey>,
    /// When tasks of a kind were last asked for.
    asked: NameMap<Timestamp>,
    /// Kinds, classes and tenants.
    names: Names,
    timers: BTreeSet<(Timestamp, u64, TaskId)>,
    keys: HashMap<Key, TaskId>,
    /// Keys of ended tasks, kept until every lookup that began before the end is over.
    recent_keys: VecDeque<(Timestamp, Key, TaskId)>,
    /// Live tasks per state, indexed by `TaskState as usize`.
    states: [u64; TaskState::ALL.len()],
    bytes: u64,
    counters: Counters,
    served: Served,
    /// Questions to people.
    desk: approval::Desk,
    /// What may be spent.
    ledger: budget::Ledger,
    /// Tasks that end, and bytes that they free.
    rate: Rate,
    freed: Rate,
    ids: Latest,
    next_seq: u64,
    next_epoch: u64,
    /// What goes to other nodes and comes from them.
    exchange: hand_over::Exchange,
    /// Numbers of reservations, within this life. Unlike epochs they are never raised by
    /// those of other nodes.
    next_reservation: u64,
    /// How long things take.
    measures: Measures,
    /// Why the lease that is being taken away was lost.
    losing: Option<&'static str>,
    rng: SmallRng,
    outbox: Outbox,
}

impl Machine {
    /// An empty machine whose epochs start above those of `boot - 1`.
    pub(crate) fn new(limits: QueueLimits, boot: u32, seed: u64) -> Self {
        Self {
            backlog: Backlog::default(),
            gates: Gates::default(),
            stirred: Vec::new(),
            asked: NameMap::default(),
            names: Names::default(),
            limits,
            control: Control::default(),
            tasks: Roll::default(),
            distant: distant::Elsewhere::default(),
            carried: carriage::Carriages::default(),
            timers: BTreeSet::new(),
            keys: HashMap::new(),
            recent_keys: VecDeque::new(),
            states: [0; TaskState::ALL.len()],
            bytes: 0,
            counters: Counters::default(),
            served: Served::default(),
            desk: approval::Desk::default(),
            ledger: budget::Ledger::default(),
            rate: Rate::default(),
            freed: Rate::default(),
            exchange: hand_over::Exchange::default(),
            ids: Latest::new(),
            next_seq: 1,
            next_epoch: u64::from(boot) << 32,
            next_reservation: u64::from(boot) << 32,
            measures: Measures::new(),
            losing: None,
            rng: SmallRng::seed_from_u64(seed),
            outbox: Outbox::default(),
        }
    }

    /// Takes what the decisions since the last call left behind.
    pub(crate) fn take_outbox(&mut self) -> Outbox {
        std::mem::take(&mut self.outbox)
    }

    /// The decisions since then left nothing to be written or published.
    pub(crate) fn is_settled(&self) -> bool {
        self.outbox.changes.is_empty() && self.outbox.publish.is_empty()
    }

    /// Goes on with the room of an outbox that was [taken](Self::take_outbox), if it is empty now.
    pub(crate) fn reuse(&mut self, empty: Outbox) {
        if empty.changes.is_empty() && empty.changes.events.capacity() <= REUSED_MAX {
            self.outbox = empty;
        }
    }

    /// Kinds of which tasks have become claimable since the last call.
    pub(crate) fn take_fresh(&mut self) -> Vec<Fresh> {
        std::mem::take(&mut self.outbox.fresh)
    }

    /// Continues what became durable at `now`, in the order of the decisions.
    pub(crate) fn publish(&mut self, published: &[Published], now: Timestamp) {
        let mut ended = [0; TaskState::ALL.len()];
        for one in published {
            match one {
                Published::Task(id) => {
                    if let Some(new) = self.tasks.get(id).filter(|entry| entry.is_new()) {
                        self.measures.accepted(new.body.priority);
                    }
                    self.publish_task(*id, now);
                }
                Published::Ended(id) => {
                    if let Some(state) = self.publish_end(*id, now) {
                        ended[state as usize] += 1;
                    }
                }
            }
        }
        for state in TaskState::ALL {
            let count = ended[state as usize];
            if 0 < count {
                let state = state.as_str();
                metrics::counter!(crate::metrics::TASKS_ENDED, "state" => state).increment(count);
            }
        }
    }

    /// The switches.
    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// Turns the switches.
    pub(crate) fn set_control(&mut self, control: Control, now: Timestamp) {
        self.outbox.changes.control = Some(control.clone());
        self.apply_control(control, now);
    }

    /// Follows switches that are stored already.
    pub(crate) fn apply_control(&mut self, control: Control, now: Timestamp) {
        let same = control.rules == self.control.rules;
        if !same {
            self.forget_meters(&control.rules, now);
        }
        self.control = control;
        if !same {
            self.apply_rules(now);
        }
    }

    /// An order of another node is carried out with what was decided last.
    pub(crate) fn answer_order(&mut self, answered: Answered) {
        self.outbox.changes.answers.push(answered);
    }

    /// Somebody asks for tasks of these kinds.
    pub(crate) fn asked_for<S: AsRef<str>>(&mut self, kinds: &[S], now: Timestamp) {
        for kind in kinds {
            if let Some(at) = self.asked.get_mut(kind.as_ref()) {
                if ASKED_WITHIN < now.since(*at) {
                    self.gates.look_at_crowds();
                }
                *at = now;
                continue;
            }
            self.gates.look_at_crowds();
            if ASKED_MAX <= self.asked.len() {
                self.asked.retain(|_, at| now.since(*at) <= ASKED_WITHIN);
            }
            if self.asked.len() < ASKED_MAX {
                self.asked.insert(kind.as_ref().into(), now);
            }
        }
    }

    /// Somebody claims tasks of this kind.
    fn is_asked(&self, kind: &str, now: Timestamp) -> bool {
        asked_within(&self.asked, kind, now)
    }

    /// The limits in force.
    pub(crate) fn limits(&self) -> &QueueLimits {
        &self.limits
    }

    /// How the queue stands.
    pub(crate) fn stats(&mut self, now: Timestamp) -> QueueStats {
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
            parked: self.gates.parked(),
            kinds: self
                .backlog
                .per_kind()
                .map(|(kind, count)| (kind.to_string(), count as u64))
                .collect(),
            counters: Counters {
                handed_over: self.exchange.handed_over,
                taken_in: self.exchange.taken_in,
                ..self.counters
            },
            fairness: self.served.report(
                self.backlog
                    .per_flow()
                    .chain(self.gates.per_flow())
                    .take(FLOWS_SHOWN_MAX),
                &self.control.rules,
                now,
            ),
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
        let was = std::mem::replace(&mut entry.run.state, state);
        let since = std::mem::replace(&mut entry.since, now);
        self.measures.entered(entry, was, since, self.losing, now);
        if state != TaskState::Executing {
            entry.run.lease_until = None;
            entry.run.worker = None;
        }
        self.displace(id);
        if was == TaskState::Executing && state != TaskState::Executing {
            self.return_units(id);
            if self.states[TaskState::Executing as usize] + 1 == self.limits.leased_max {
                // Whoever found nothing because of the limit may look again.
                let kinds = self.backlog.per_kind().map(|(kind, _)| (kind.clone(), 1));
                self.outbox.fresh.extend(kinds);
            }
        }
        if state == TaskState::Available
            && let Some(entry) = self.tasks.get(&id).filter(|entry| !entry.staged)
        {
            let body = &entry.body;
            let since = entry.run.run_at.min(now).max(body.submitted_at);
            let place = self.limits.slack.place(body.priority, since, body.seq);
            self.place(id, place, now);
        }
        self.let_through(now);
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
        detail: Option<Arc<str>>,
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
