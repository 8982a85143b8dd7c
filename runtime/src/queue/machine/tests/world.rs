//! A machine with a store that can be cut off anywhere, and what was promised to whom.
//!
//! Decisions are handed over like the queue does it: in order, each with what it
//! acknowledges. A crash keeps a prefix of them, acknowledged or not; a failed commit may
//! have been kept or not. The world remembers every acknowledgement and checks it.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;

use super::super::{
    Dependencies, Entry, FinishedStep, GATE_SPACE, Loading, Machine, Part, Published, weight,
};
use super::accounts::Accounts;
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::queue::approval::ApprovalState;
use crate::queue::budget::{BudgetRow, Cost, Scope};
use crate::queue::control::{Control, QueueLimits};
use crate::queue::error::{AdmitError, LeaseError};
use crate::queue::gate::{Discipline, EXPOSED_MAX, GateKey, needs};
use crate::queue::task::{Lane, Lease, NewChild, NewTask, TaskEventKind, TaskState, TaskView};
use crate::store::content::Content;
use crate::store::{Changes, Store, TaskFilter};

pub(super) const KINDS: [&str; 2] = ["a", "b"];

/// What a decision promises once it is durable.
#[derive(Clone, Debug)]
pub(super) enum Promise {
    Accepted(TaskId),
    Completed(TaskId, Epoch),
    Step(TaskId, String),
    Control(Control),
}

struct Decision {
    changes: Changes,
    publish: Vec<Published>,
    promises: Vec<Promise>,
}

pub(super) struct World {
    pub(super) machine: Machine,
    pub(super) store: Store,
    pub(super) now: Timestamp,
    limits: QueueLimits,
    pending: VecDeque<Decision>,
    /// Every lease ever given, oldest first.
    pub(super) leases: Vec<(TaskId, Epoch)>,
    latest: HashMap<TaskId, Epoch>,
    pub(super) known: Vec<TaskId>,
    accepted: HashSet<TaskId>,
    completed: HashMap<TaskId, Epoch>,
    steps: HashSet<(TaskId, String)>,
    control: Option<Control>,
    /// When units of refilling gates were given out, since the store last lost some.
    starts: HashMap<GateKey, Vec<(Timestamp, u64)>>,
    pub(super) accounts: Accounts,
}

pub(super) fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the memory store never waits")
}

pub(super) fn worker(name: &str) -> Arc<str> {
    name.into()
}

impl World {
    pub(super) fn new(limits: QueueLimits) -> Self {
        let mut world = Self {
            machine: Machine::new(limits.clone(), 1, 7),
            store: Store::volatile(),
            now: Timestamp(1_000_000),
            limits,
            pending: VecDeque::new(),
            leases: Vec::new(),
            latest: HashMap::new(),
            known: Vec::new(),
            accepted: HashSet::new(),
            completed: HashMap::new(),
            steps: HashSet::new(),
            control: None,
            starts: HashMap::new(),
            accounts: Accounts::default(),
        };
        world.restart(0);
        world
    }

    pub(super) fn view(&self, id: TaskId) -> Option<TaskView> {
        now(self.store.task(id)).expect("readable")
    }

    pub(super) fn state(&self, id: TaskId) -> Option<TaskState> {
        self.view(id).map(|view| view.state())
    }

    pub(super) fn log_of(&self, id: TaskId) -> Vec<TaskEventKind> {
        let events = now(self.store.events(id, 0, u32::MAX)).expect("readable");
        events.into_iter().map(|event| event.kind).collect()
    }

    fn ended(&self, dependencies: &[TaskId]) -> Dependencies {
        dependencies
            .iter()
            .filter_map(|id| Some((*id, self.view(*id)?.end?.state)))
            .collect()
    }

    /// Hands the outbox over.
    pub(super) fn hand_over(&mut self, promises: Vec<Promise>) {
        let outbox = self.machine.take_outbox();
        for body in &outbox.changes.bodies {
            self.known.push(body.id);
        }
        if !outbox.changes.is_empty() || !outbox.publish.is_empty() || !promises.is_empty() {
            self.pending.push_back(Decision {
                changes: outbox.changes,
                publish: outbox.publish,
                promises,
            });
        }
    }

    /// Commits and acknowledges at most `count` decisions.
    pub(super) fn commit(&mut self, count: usize) {
        for _ in 0..count {
            let Some(decision) = self.pending.pop_front() else {
                return;
            };
            self.accounts.book(&decision.changes);
            now(self.store.commit(decision.changes.into())).expect("writable");
            self.machine.publish(&decision.publish, self.now);
            self.hand_over(Vec::new());
            self.remember(decision.promises);
        }
    }

    pub(super) fn settle(&mut self) {
        while !self.pending.is_empty() {
            self.commit(1);
        }
    }

    fn remember(&mut self, promises: Vec<Promise>) {
        for promise in promises {
            match promise {
                Promise::Accepted(id) => drop(self.accepted.insert(id)),
                Promise::Completed(id, epoch) => {
                    let before = self.completed.insert(id, epoch);
                    assert!(before.is_none_or(|first| first == epoch), "completed twice");
                }
                Promise::Step(id, key) => drop(self.steps.insert((id, key))),
                Promise::Control(control) => self.control = Some(control),
            }
        }
    }

    fn keep_prefix(&mut self, kept: usize) {
        for decision in self.pending.drain(..).take(kept) {
            self.accounts.book(&decision.changes);
            now(self.store.commit(decision.changes.into())).expect("writable");
        }
        self.pending.clear();
        // A switch whose commit was cut off stands or does not; nobody was told.
        self.control = Some(now(self.store.snapshot()).expect("readable").control);
        let store = &self.store;
        self.known
            .retain(|id| now(store.task(*id)).expect("readable").is_some());
    }

    /// The process is killed after `kept` more decisions reached the disk, and starts again.
    pub(super) fn restart(&mut self, kept: usize) {
        // What was given out and not yet durable is forgotten: one more burst is possible.
        let lost = self.pending.len() > kept;
        self.keep_prefix(kept);
        if lost {
            self.starts.clear();
        }
        let boot = now(self.store.next_boot()).expect("writable");
        self.machine = Machine::new(self.limits.clone(), boot, u64::from(boot));
        let gates = now(self.store.documents(GATE_SPACE, "", u32::MAX)).expect("readable");
        self.machine.restore_gates(&gates);
        let snapshot = now(self.store.snapshot()).expect("readable");
        self.machine.load(snapshot, Loading::Boot, self.now);
        self.hand_over(Vec::new());
    }

    /// A commit fails, whether or not `kept` decisions of it reached the disk.
    pub(super) fn fail_commit(&mut self, kept: usize) {
        self.keep_prefix(kept);
        self.machine.take_outbox();
        let snapshot = now(self.store.snapshot()).expect("readable");
        let grace = Loading::Recovery { grace_ms: 30_000 };
        self.machine.load(snapshot, grace, self.now);
        self.hand_over(Vec::new());
    }

    pub(super) fn submit(&mut self, task: NewTask) -> Result<TaskId, AdmitError> {
        let ended = self.ended(&task.depends_on);
        let submitted = self.machine.submit(task, &ended, self.now)?;
        if !submitted.repeated {
            let stats = self.machine.stats(self.now);
            assert!(stats.size <= stats.max_size, "more than may wait");
        }
        self.hand_over(vec![Promise::Accepted(submitted.id)]);
        Ok(submitted.id)
    }

    /// A plain task of kind `a`, durable.
    pub(super) fn accepted(&mut self) -> TaskId {
        let id = self.submit(NewTask::new("a", Json::null())).expect("room");
        self.settle();
        id
    }

    pub(super) fn claim(&mut self) -> Option<Lease> {
        self.claim_for("w", Duration::from_secs(30))
    }

    pub(super) fn claim_for(&mut self, name: &str, lease: Duration) -> Option<Lease> {
        let waiting: Vec<&Entry> = self
            .machine
            .tasks
            .values()
            .filter(|entry| entry.place.is_some())
            .collect();
        let flow = |entry: &&Entry| (entry.body.class.clone(), entry.body.tenant.clone());
        let one_flow = waiting.iter().map(flow).collect::<HashSet<_>>().len() < 2;
        let free = waiting.iter().all(|entry| entry.needs.is_empty());
        let first = waiting.iter().filter_map(|entry| entry.place).min();
        let first = first.filter(|_| one_flow && free);
        let worker = worker(name);
        let leases = self.machine.claim(&KINDS, &worker, lease, 1, self.now);
        let lease = leases.into_iter().next()?;
        let id = lease.task.id;
        assert!(!self.machine.control.paused, "paused");
        let leased = self.machine.states[TaskState::Executing as usize];
        assert!(leased <= self.limits.leased_max, "leased");
        let seq = first.map_or(lease.task.seq, |(_, seq)| seq);
        assert_eq!(seq, lease.task.seq, "the first in order goes first");
        let view = self.view(id).expect("only a durable task is leased");
        assert!(view.end.is_none(), "an ended task was leased");
        for on in &lease.task.depends_on {
            assert_eq!(self.state(*on), Some(TaskState::Completed), "dependency");
        }
        if self.log_of(id).contains(&TaskEventKind::Suspended) {
            let live = now(self.store.children_counts(id)).expect("readable");
            assert!(live.keys().all(|state| state.is_terminal()) || self.retried_child(id));
        }
        if lease.task.on_child_failure().fail
            && !self.log_of(id).contains(&TaskEventKind::Retried)
            && !self.retried_child(id)
        {
            let children = now(self.store.children_counts(id)).expect("readable");
            assert!(
                children.keys().all(|state| *state == TaskState::Completed),
                "a parent that fails with its children goes on: {children:?}"
            );
        }
        let before = self.latest.insert(id, lease.epoch);
        assert!(before < Some(lease.epoch), "epochs of a task strictly grow");
        assert!(lease.attempt <= lease.task.max_attempts, "attempts");
        assert!(lease.losses < self.limits.losses_max, "losses");
        self.passed(&lease);
        self.leases.push((id, lease.epoch));
        self.hand_over(Vec::new());
        Some(lease)
    }

    /// A child that a person retried after its parent went on may live beside it.
    fn retried_child(&self, parent: TaskId) -> bool {
        self.known.iter().any(|id| {
            self.view(*id)
                .is_some_and(|view| view.body.parent == Some(parent))
                && self.log_of(*id).contains(&TaskEventKind::Retried)
        })
    }

    /// An effect was accepted: then its lease is the latest of its task.
    fn fresh(&self, (id, epoch): (TaskId, Epoch)) {
        assert_eq!(self.latest.get(&id), Some(&epoch), "a stale effect passed");
        assert!(!self.completed.contains_key(&id), "an effect after the end");
    }

    pub(super) fn complete(&mut self, lease: (TaskId, Epoch)) -> Result<(), LeaseError> {
        if self.machine.completed_by(lease.0, lease.1) {
            return Ok(());
        }
        let answer = self
            .machine
            .complete(lease.0, lease.1, Json::null(), self.now);
        let promises = match answer {
            Ok(()) => {
                self.fresh(lease);
                vec![Promise::Completed(lease.0, lease.1)]
            }
            Err(_) => Vec::new(),
        };
        self.hand_over(promises);
        answer
    }

    pub(super) fn fail(
        &mut self,
        lease: (TaskId, Epoch),
        retryable: bool,
    ) -> Result<TaskState, LeaseError> {
        let error = "broke".to_owned();
        let answer = self
            .machine
            .fail(lease.0, lease.1, error, retryable, self.now);
        if answer.is_ok() {
            self.fresh(lease);
        }
        self.hand_over(Vec::new());
        answer
    }

    pub(super) fn release(&mut self, lease: (TaskId, Epoch)) -> Result<(), LeaseError> {
        let answer = self.machine.release(lease.0, lease.1, self.now);
        if answer.is_ok() {
            self.fresh(lease);
        }
        self.hand_over(Vec::new());
        answer
    }

    pub(super) fn suspend(
        &mut self,
        lease: (TaskId, Epoch),
        children: Vec<NewChild>,
    ) -> Result<(), LeaseError> {
        let outside: Vec<TaskId> = children
            .iter()
            .flat_map(|child| child.task.depends_on.clone())
            .collect();
        let ended = self.ended(&outside);
        let answer = self
            .machine
            .suspend(lease.0, lease.1, children, None, &ended, self.now);
        if answer.is_ok() {
            self.fresh(lease);
        }
        self.hand_over(Vec::new());
        answer
    }

    pub(super) fn step(&mut self, lease: (TaskId, Epoch), key: &str) -> Result<bool, LeaseError> {
        self.priced_step(lease, key, None)
    }

    pub(super) fn priced_step(
        &mut self,
        lease: (TaskId, Epoch),
        key: &str,
        cost: Option<Cost>,
    ) -> Result<bool, LeaseError> {
        let step = FinishedStep {
            key: key.to_owned(),
            input: Content::new(Json::null()),
            output: Content::new(Json::null()),
            cost,
            started_at: self.now,
        };
        let answer = self.machine.record_step(lease.0, lease.1, step, self.now);
        let promises = match answer {
            Ok(_) => {
                self.fresh(lease);
                vec![Promise::Step(lease.0, key.to_owned())]
            }
            Err(_) => Vec::new(),
        };
        self.hand_over(promises);
        answer
    }

    pub(super) fn cancel(&mut self, id: TaskId) -> Option<TaskState> {
        let answer = self.machine.cancel(id, "asked", self.now).ok();
        self.hand_over(Vec::new());
        answer
    }

    pub(super) fn retry(&mut self, id: TaskId) -> bool {
        let Some(view) = self.view(id) else {
            return false;
        };
        let ended = self.ended(&view.body.depends_on);
        let budgets: Vec<BudgetRow> = view
            .body
            .spends_from()
            .filter_map(|id| now(self.store.budget(&Scope::Task(id))).expect("readable"))
            .collect();
        let answer = self.machine.reopen(view, &ended, &budgets, self.now);
        let answer = answer.is_ok();
        self.hand_over(Vec::new());
        answer
    }

    /// Brings back what failed of a family.
    pub(super) fn retry_part(&mut self, root: TaskId) -> Option<usize> {
        let failed = |view: &TaskView| {
            view.end
                .as_ref()
                .is_some_and(|end| end.state != TaskState::Completed)
        };
        let mut views: Vec<TaskView> = self.view(root).into_iter().filter(failed).collect();
        let mut parents = vec![root];
        while let Some(parent) = parents.pop() {
            let filter = TaskFilter {
                parent: Some(parent),
                limit: u32::MAX,
                ..TaskFilter::default()
            };
            let children = now(self.store.tasks(&filter)).expect("readable");
            for child in children.into_iter().filter(failed) {
                parents.push(child.body.id);
                views.push(child);
            }
        }
        let wanted = views.iter().flat_map(|view| view.body.depends_on.clone());
        let ended = self.ended(&wanted.collect::<Vec<_>>());
        let budgets: Vec<BudgetRow> = views
            .iter()
            .flat_map(|view| view.body.spends_from())
            .filter_map(|id| now(self.store.budget(&Scope::Task(id))).expect("readable"))
            .collect();
        let part = Part { root, views };
        let answer = self.machine.reopen_part(part, &ended, &budgets, self.now);
        self.hand_over(Vec::new());
        answer.ok()
    }

    pub(super) fn turn(&mut self, change: impl FnOnce(&mut Control)) {
        let mut control = self.machine.control().clone();
        change(&mut control);
        self.machine.set_control(control.clone(), self.now);
        self.hand_over(vec![Promise::Control(control)]);
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        self.machine.tick(self.now);
        assert!(self.machine.next_due().is_none_or(|due| self.now < due));
        self.hand_over(Vec::new());
    }

    /// Units are held by leases alone, and nobody waits at a gate that is open for him.
    fn check_gates(&self, held: &HashMap<GateKey, u64>) {
        let machine = &self.machine;
        let rules = &machine.control.rules;
        let keys: HashSet<&GateKey> = machine.gates.keys().chain(held.keys()).collect();
        for key in keys {
            let standing = machine.gates.standing(key, self.now, rules);
            assert_eq!(
                standing.held,
                held.get(key).copied().unwrap_or(0),
                "{key:?}"
            );
            let mut groups: HashMap<(&str, Lane), (usize, bool)> = HashMap::new();
            for entry in machine.tasks.values() {
                let Some(need) = entry.needs.iter().find(|need| need.gate == *key) else {
                    continue;
                };
                if entry.place.is_none() {
                    continue;
                }
                let group = (&*entry.body.kind, entry.body.priority);
                let (exposed, open) = groups.entry(group).or_default();
                *exposed += usize::from(entry.parked.is_none());
                // All need as much in these histories, so whoever is next would pass.
                *open |= entry.parked.as_ref() == Some(key)
                    && machine.is_open(need, entry.body.id, self.now);
            }
            for (group, (exposed, open)) in groups {
                assert!(exposed <= EXPOSED_MAX, "{key:?} {group:?}");
                assert!(
                    !open || exposed == EXPOSED_MAX,
                    "stands still: {key:?} {group:?}"
                );
            }
        }
    }

    /// A lease was given: no gate has given more than it has, and no rate was exceeded.
    fn passed(&mut self, lease: &Lease) {
        let needs = needs(lease.task.terms.as_deref());
        for need in &needs {
            let rules = self.machine.control.rules.clone();
            let standing = self.machine.gates.standing(&need.gate, self.now, &rules);
            match need.gate.discipline(&rules) {
                Discipline::Open => {}
                Discipline::Held(total) => assert!(standing.held <= total, "{need:?}"),
                Discipline::Refill(rate) => {
                    let starts = self.starts.entry(need.gate.clone()).or_default();
                    starts.push((self.now, need.units));
                    let mut sum = 0;
                    for (at, units) in starts.iter().rev() {
                        sum += units;
                        let ms = u64::try_from(self.now.since(*at).as_millis()).expect("short");
                        let most = rate.burst * rate.period_ms + rate.units * ms;
                        assert!(sum * rate.period_ms <= most, "{need:?} exceeded");
                    }
                }
            }
        }
    }

    /// Compares the machine with a recount, and the store with what was promised.
    pub(super) fn check(&self) {
        let mut states = [0; TaskState::ALL.len()];
        let (mut bytes, mut timers) = (0, BTreeSet::new());
        let (mut places, mut parked) = (0, 0);
        let mut held: HashMap<GateKey, u64> = HashMap::new();
        for entry in self.machine.tasks.values() {
            let (id, run) = (entry.body.id, &entry.run);
            states[run.state as usize] += 1;
            bytes += weight(&entry.body);
            timers.extend(entry.timer.map(|at| (at, entry.body.seq, id)));
            assert_eq!(entry.end.is_some(), run.state.is_terminal());
            let waits = run.state == TaskState::Available && !entry.staged;
            assert_eq!(entry.place.is_some(), waits, "{id} {run:?}");
            places += usize::from(waits && entry.parked.is_none());
            parked += u64::from(waits && entry.parked.is_some());
            assert!(waits || entry.parked.is_none(), "{id} {run:?}");
            let leased = run.state == TaskState::Executing;
            for need in entry.needs.iter().filter(|_| leased) {
                *held.entry(need.gate.clone()).or_default() += need.units;
            }
            assert_eq!(run.lease_until.is_some(), leased, "{id} {run:?}");
            assert!(!leased || entry.timer.is_some(), "a lease without an end");
            let live = |on: &&TaskId| self.machine.tasks.contains_key(on);
            let children = self.machine.tasks.values();
            let children = children
                .filter(|other| other.body.parent == Some(id))
                .count();
            let waits = entry.body.depends_on.iter().filter(live).count() + children;
            assert!(
                run.state.is_terminal() || entry.unresolved == waits,
                "{id} {run:?}"
            );
        }
        assert_eq!(states, self.machine.states);
        assert_eq!(bytes, self.machine.bytes);
        assert_eq!(timers, self.machine.timers);
        assert_eq!(
            places,
            self.machine.backlog.per_lane().iter().sum::<usize>()
        );
        assert_eq!(parked, self.machine.gates.parked());
        let of_kind = |kind: &str| self.machine.gates.waiting(kind) as u64;
        assert_eq!(parked, KINDS.map(of_kind).iter().sum::<u64>());
        self.check_gates(&held);
        for id in &self.accepted {
            let view = self.view(*id).expect("an acknowledged task is kept");
            assert_ne!(
                view.run.is_some(),
                view.end.is_some(),
                "live or ended, once"
            );
        }
        self.machine.ledger.check();
        for row in self.machine.desk.rows() {
            let entry = &self.machine.tasks[&row.request.task];
            assert_eq!(entry.run.state, TaskState::AwaitingApproval);
            assert_eq!(row.state, ApprovalState::Open);
        }
        let awaited = self.machine.states[TaskState::AwaitingApproval as usize];
        assert_eq!(self.machine.desk.rows().count() as u64, awaited);
        self.accounts.check(&self.store);
        for id in &self.known {
            let Some(view) = self.view(*id) else {
                continue;
            };
            let told = view.end.map(|end| end.events);
            let told = told.or(view.run.map(|run| run.events)).unwrap_or(0);
            assert_eq!(self.log_of(*id).len() as u64, told, "the log of {id}");
        }
        for (id, epoch) in &self.completed {
            let end = self.view(*id).and_then(|view| view.end).expect("kept");
            assert_eq!((end.state, end.epoch), (TaskState::Completed, *epoch));
        }
        for (id, key) in &self.steps {
            let seq = self.view(*id).expect("kept").body.seq;
            assert!(now(self.store.step(seq, key)).expect("readable").is_some());
        }
        if let Some(control) = self.control.clone() {
            assert_eq!(
                now(self.store.snapshot()).expect("readable").control,
                control
            );
        }
    }
}
