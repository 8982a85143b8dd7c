//! Several machines on one database: each task is in one memory, whatever is killed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::super::{Dependencies, Loading, Machine, Published, Want};
use super::world::{KINDS, worker};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::queue::budget::Scope;
use crate::queue::control::{Control, QueueLimits};
use crate::queue::task::{NewChild, NewTask, TaskBody, TaskRun, TaskTerms};
use crate::store::postgres::Takeover;
use crate::store::{Changes, Handed, Ledgers, LiveTasks, Snapshot};

const NODES: usize = 3;

/// What the database holds of live tasks and of lives.
#[derive(Default)]
struct Database {
    boots: i64,
    /// Each life with who acts for its tasks; itself, unless it ended.
    heirs: BTreeMap<i64, i64>,
    live: BTreeMap<u64, (i64, Arc<TaskBody>, TaskRun)>,
    handed: BTreeMap<u64, (i64, Epoch)>,
    completed: HashMap<TaskId, Epoch>,
}

impl Database {
    fn is_alive(&self, life: i64) -> bool {
        self.heirs.get(&life) == Some(&life)
    }

    fn commit(&mut self, life: i64, changes: &Changes) {
        assert!(self.is_alive(life), "the fence");
        let mut bodies: HashMap<u64, Arc<TaskBody>> = HashMap::new();
        bodies.extend(changes.bodies.iter().map(|body| (body.seq, body.clone())));
        for (seq, run) in &changes.runs {
            let known = self.live.get(seq).map(|(_, body, _)| body.clone());
            let body = known.or_else(|| bodies.get(seq).cloned());
            let body = body.expect("a task that was accepted and has not ended");
            self.live.insert(*seq, (life, body, run.clone()));
        }
        for (seq, end) in &changes.ends {
            let (_, body, _) = self.live.remove(seq).expect("it lived");
            let before = self.completed.insert(body.id, end.epoch);
            assert!(before.is_none(), "ended twice");
        }
        for seq in &changes.taken_in {
            self.handed.remove(seq);
        }
        for one in &changes.handed_over {
            let to = if self.is_alive(one.to) { one.to } else { life };
            self.live.get_mut(&one.seq).expect("it lives").0 = to;
            let before = self.handed.insert(one.seq, (to, one.after));
            assert!(before.is_none(), "a note that was not removed");
        }
    }

    fn end(&mut self, lives: &[i64], heir: i64) {
        for (life, acts) in &mut self.heirs {
            if lives.contains(life) || lives.contains(acts) {
                *acts = heir;
            }
        }
    }

    fn begin(&mut self, replaced: &[i64]) -> i64 {
        self.boots += 1;
        self.heirs.insert(self.boots, self.boots);
        self.end(replaced, self.boots);
        self.boots
    }

    fn of(&self, lives: &BTreeSet<i64>) -> (LiveTasks, Vec<u64>) {
        let mine = self.live.values().filter(|one| lives.contains(&one.0));
        let tasks = mine.map(|(_, body, run)| (body.clone(), run.clone()));
        let notes = self.handed.iter().filter(|(_, (to, _))| lives.contains(to));
        (tasks.collect(), notes.map(|(seq, _)| *seq).collect())
    }

    fn inherited(&self, heir: i64) -> BTreeSet<i64> {
        let lives = self.heirs.iter().filter(|(_, acts)| **acts == heir);
        lives.map(|(life, _)| *life).collect()
    }

    fn snapshot(&self, life: i64, boots: Option<u32>) -> Snapshot {
        let (live, handed) = self.of(&self.inherited(life));
        let own = self.live.keys().filter(|seq| **seq >> 32 == life as u64);
        let first = (life as u64) << 32;
        let mut control = Control::default();
        // Nobody is allotted any of it: tasks that need it wait.
        control.rules.limits.insert("k".to_owned(), 1);
        Snapshot {
            control,
            next_seq: own.max().map_or(first, |seq| seq + 1),
            live,
            handed,
            boots,
            ..Snapshot::default()
        }
    }
}

struct Node {
    life: i64,
    machine: Machine,
    pending: VecDeque<(Changes, Vec<Published>, Option<TaskId>)>,
    loaded: BTreeSet<i64>,
    up: bool,
}

impl Node {
    /// Hands the outbox over to its writer; `told` is acknowledged with it.
    fn decided(&mut self, told: Option<TaskId>) {
        let outbox = self.machine.take_outbox();
        if !outbox.changes.is_empty() || !outbox.publish.is_empty() {
            let decision = (outbox.changes, outbox.publish, told);
            self.pending.push_back(decision);
        }
    }

    fn is_settled(&self) -> bool {
        self.pending.iter().all(|one| one.0.taken_in.is_empty())
    }
}

struct Pool {
    db: Database,
    nodes: Vec<Node>,
    now: Timestamp,
    accepted: HashSet<TaskId>,
    latest: HashMap<TaskId, Epoch>,
    leases: Vec<(usize, TaskId, Epoch)>,
    rounds: i64,
}

impl Pool {
    fn new() -> Self {
        let mut db = Database::default();
        let nodes = (0..NODES).map(|_| {
            let life = db.begin(&[]);
            Node {
                life,
                machine: machine(life, &db, Timestamp(1_000_000)),
                pending: VecDeque::new(),
                loaded: BTreeSet::from([life]),
                up: true,
            }
        });
        Self {
            nodes: nodes.collect(),
            db,
            now: Timestamp(1_000_000),
            accepted: HashSet::new(),
            latest: HashMap::new(),
            leases: Vec::new(),
            rounds: 0,
        }
    }

    fn submit(&mut self, at: usize, kind: usize, tied: bool) {
        let node = &mut self.nodes[at];
        let mut task = NewTask::new(KINDS[kind], Json::null());
        if tied {
            task.terms = Some(Box::new(TaskTerms {
                concurrency_key: Some("k".to_owned()),
                ..TaskTerms::default()
            }));
        }
        let submitted = node.machine.submit(task, &Dependencies::new(), self.now);
        node.decided(Some(submitted.expect("room").id));
    }

    fn claim(&mut self, at: usize, kind: usize) {
        let node = &mut self.nodes[at];
        let (kinds, lease) = ([KINDS[kind]], Duration::from_secs(600));
        let leases = node.machine.claim(&kinds, &worker("w"), lease, 2, self.now);
        node.decided(None);
        for lease in leases {
            let id = lease.task.id;
            assert!(!self.db.completed.contains_key(&id), "leased after its end");
            let before = self.latest.insert(id, lease.epoch);
            assert!(before < Some(lease.epoch), "epochs grow over all nodes");
            self.leases.push((at, id, lease.epoch));
        }
    }

    fn finish(&mut self, nth: usize, complete: bool) {
        if self.leases.is_empty() {
            return;
        }
        let (at, id, epoch) = self.leases.swap_remove(nth % self.leases.len());
        let node = &mut self.nodes[at];
        let done = match complete {
            true => node.machine.complete(id, epoch, Json::null(), self.now),
            false => node.machine.release(id, epoch, self.now),
        };
        if done.is_ok() {
            assert_eq!(self.latest.get(&id), Some(&epoch), "a stale effect passed");
        }
        node.decided(None);
    }

    /// One node hears what another, dead or alive, wants.
    fn want(&mut self, giver: usize, taker: usize, kind: usize, tasks: usize) {
        self.rounds += 1;
        let want = Want {
            life: self.nodes[taker].life,
            round: self.rounds,
            kind: KINDS[kind].into(),
            tasks,
        };
        let node = &mut self.nodes[giver];
        if !node.up || giver == taker {
            return;
        }
        node.machine.hear_wants(vec![want]);
        node.machine.give_away(0, &|_| false, self.now);
        node.machine.hear_wants(Vec::new());
        node.decided(None);
    }

    fn commit(&mut self, at: usize, count: usize) {
        let node = &mut self.nodes[at];
        for _ in 0..count {
            let Some((changes, published, told)) = node.pending.pop_front() else {
                return;
            };
            if !self.db.is_alive(node.life) {
                node.up = false;
                return;
            }
            self.db.commit(node.life, &changes);
            self.accepted.extend(told);
            node.machine.publish(&published, self.now);
            node.decided(None);
        }
    }

    fn take_in(&mut self, at: usize, max: usize) {
        if !self.nodes[at].is_settled() {
            self.commit(at, usize::MAX);
        }
        let node = &mut self.nodes[at];
        if !node.up {
            return;
        }
        let notes = self
            .db
            .handed
            .iter()
            .filter(|(_, (to, _))| *to == node.life);
        let notes: Vec<(&u64, &(i64, Epoch))> = notes.take(max).collect();
        let after = notes.iter().map(|(_, (_, after))| *after).max();
        let tasks = notes.iter().map(|(seq, _)| {
            let (owner, body, run) = &self.db.live[seq];
            assert_eq!(*owner, node.life, "the note and the row agree");
            (body.clone(), run.clone())
        });
        let handed = Handed {
            tasks: tasks.collect(),
            after: after.unwrap_or_default(),
            ..Handed::default()
        };
        node.machine.take_in(handed, self.now);
        node.decided(None);
    }

    /// The process dies after `kept` more decisions were committed.
    fn crash(&mut self, at: usize, kept: usize) {
        self.lose_pending(at, kept);
        self.nodes[at].up = false;
        self.leases.retain(|lease| lease.0 != at);
    }

    fn lose_pending(&mut self, at: usize, kept: usize) {
        let node = &mut self.nodes[at];
        for (changes, ..) in node.pending.drain(..).take(kept) {
            if self.db.is_alive(node.life) {
                self.db.commit(node.life, &changes);
            }
        }
    }

    fn restart(&mut self, at: usize) {
        self.crash(at, 0);
        let old = self.nodes[at].life;
        let replaced: Vec<i64> = if self.db.is_alive(old) {
            vec![old]
        } else {
            vec![]
        };
        let life = self.db.begin(&replaced);
        let node = &mut self.nodes[at];
        node.life = life;
        node.machine = machine(life, &self.db, self.now);
        node.loaded = self.db.inherited(life);
        node.up = true;
        node.decided(None);
    }

    /// A commit fails, kept or not, and the node reads everything anew.
    fn recover(&mut self, at: usize, kept: usize) {
        self.lose_pending(at, kept);
        let node = &mut self.nodes[at];
        if !node.up || !self.db.is_alive(node.life) {
            node.up = false;
            return;
        }
        let lives = self.db.inherited(node.life);
        let mut more = lives.iter().any(|life| !node.loaded.contains(life));
        more |= self.db.handed.values().any(|(to, _)| lives.contains(to));
        let boots = more.then(|| {
            self.db.boots += 1;
            self.db.boots as u32
        });
        node.machine.take_outbox();
        let snapshot = self.db.snapshot(node.life, boots);
        let grace = Loading::Recovery { grace_ms: 30_000 };
        node.machine.load(snapshot, grace, self.now);
        node.loaded.extend(lives);
        node.decided(None);
    }

    /// `heir` ends the life of another node, dead or only slow, and reads its tasks.
    fn take_over(&mut self, heir: usize, from: usize) {
        let (life, ended) = (self.nodes[heir].life, self.nodes[from].life);
        let may = self.nodes[heir].up && heir != from;
        if !may || !self.db.is_alive(life) || !self.db.is_alive(ended) {
            return;
        }
        self.db.end(&[ended], life);
        // What it still does has no effect; to the world it is gone.
        self.crash(from, 0);
        self.db.boots += 1;
        let node = &mut self.nodes[heir];
        let lives: BTreeSet<i64> = &self.db.inherited(life) - &node.loaded;
        let (live, handed) = self.db.of(&lives);
        let takeover = Takeover {
            boots: self.db.boots as u32,
            live,
            ended: Dependencies::new(),
            children: Vec::new(),
            ledgers: Ledgers::default(),
            handed,
            lives: lives.iter().copied().collect(),
        };
        node.machine.adopt(takeover, self.now);
        node.loaded.extend(lives);
        node.decided(None);
    }

    /// How many memories hold a task.
    fn holders(&self, id: TaskId) -> usize {
        let up = self.nodes.iter().filter(|node| node.up);
        let up = up.filter(|node| self.db.is_alive(node.life));
        up.filter(|node| node.machine.tasks.contains_key(&id))
            .count()
    }

    fn check(&self) {
        for (_, body, _) in self.db.live.values() {
            assert!(self.holders(body.id) <= 1, "in two memories");
        }
        for (seq, (to, _)) in &self.db.handed {
            assert_eq!(self.db.live.get(seq).map(|one| one.0), Some(*to));
        }
    }

    /// Everybody comes back and finishes what there is.
    fn quiesce(&mut self) {
        for at in 0..NODES {
            if !self.nodes[at].up || !self.db.is_alive(self.nodes[at].life) {
                self.restart(at);
            }
        }
        for _ in 0..3 {
            for at in 0..NODES {
                self.commit(at, usize::MAX);
                self.take_in(at, usize::MAX);
                self.commit(at, usize::MAX);
            }
        }
        self.check();
        assert!(self.db.handed.is_empty(), "notes of nobody");
        for (_, body, _) in self.db.live.values() {
            assert_eq!(self.holders(body.id), 1, "in one memory");
        }
        for id in &self.accepted {
            let lives = self.db.live.values().any(|(_, body, _)| body.id == *id);
            assert!(lives || self.db.completed.contains_key(id), "lost");
        }
    }
}

fn machine(life: i64, db: &Database, now: Timestamp) -> Machine {
    let limits = QueueLimits {
        losses_max: 1_000,
        ..QueueLimits::default()
    };
    let mut machine = Machine::new(limits, life as u32, life as u64);
    machine.share();
    machine.load(db.snapshot(life, None), Loading::Boot, now);
    machine
}

#[derive(Clone, Debug)]
enum Op {
    Submit(usize, usize, bool),
    Claim(usize, usize),
    Finish(usize, bool),
    Want(usize, usize, usize, usize),
    Commit(usize, usize),
    TakeIn(usize, usize),
    Crash(usize, usize),
    Restart(usize),
    Recover(usize, usize),
    TakeOver(usize, usize),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let (node, kind) = (0..NODES, 0..KINDS.len());
    prop_oneof![
        6 => (node.clone(), kind.clone(), prop::bool::weighted(0.3))
            .prop_map(|(at, kind, tied)| Op::Submit(at, kind, tied)),
        4 => (node.clone(), kind.clone()).prop_map(|(at, kind)| Op::Claim(at, kind)),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(nth, how)| Op::Finish(nth, how)),
        6 => (node.clone(), node.clone(), kind, 1..4_usize)
            .prop_map(|(from, to, kind, tasks)| Op::Want(from, to, kind, tasks)),
        8 => (node.clone(), 1..6_usize).prop_map(|(at, count)| Op::Commit(at, count)),
        6 => (node.clone(), 1..4_usize).prop_map(|(at, max)| Op::TakeIn(at, max)),
        1 => (node.clone(), 0..4_usize).prop_map(|(at, kept)| Op::Crash(at, kept)),
        1 => node.clone().prop_map(Op::Restart),
        1 => (node.clone(), 0..4_usize).prop_map(|(at, kept)| Op::Recover(at, kept)),
        1 => (node.clone(), node).prop_map(|(heir, from)| Op::TakeOver(heir, from)),
        1 => (1..50_u64).prop_map(Op::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn every_task_is_in_one_memory_whatever_is_killed(
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut pool = Pool::new();
        for op in ops {
            let up = |at: usize| pool.nodes[at].up;
            match op {
                Op::Submit(at, kind, tied) if up(at) => pool.submit(at, kind, tied),
                Op::Claim(at, kind) if up(at) => pool.claim(at, kind),
                Op::Finish(nth, how) => pool.finish(nth, how),
                Op::Want(from, to, kind, tasks) => pool.want(from, to, kind, tasks),
                Op::Commit(at, count) if up(at) => pool.commit(at, count),
                Op::TakeIn(at, max) if up(at) => pool.take_in(at, max),
                Op::Crash(at, kept) => pool.crash(at, kept),
                Op::Restart(at) => pool.restart(at),
                Op::Recover(at, kept) if up(at) => pool.recover(at, kept),
                Op::TakeOver(heir, from) => pool.take_over(heir, from),
                Op::Pass(ms) => pool.now = Timestamp(pool.now.0 + ms),
                Op::Submit(..) | Op::Claim(..) | Op::Commit(..) | Op::TakeIn(..)
                | Op::Recover(..) => {}
            }
            pool.check();
        }
        pool.quiesce();
    }
}

fn with(terms: TaskTerms) -> NewTask {
    NewTask {
        terms: Some(Box::new(terms)),
        ..NewTask::new(KINDS[0], Json::null())
    }
}

impl Pool {
    fn accept(&mut self, at: usize, task: NewTask) -> TaskId {
        let node = &mut self.nodes[at];
        let submitted = node.machine.submit(task, &Dependencies::new(), self.now);
        let id = submitted.expect("room").id;
        node.decided(Some(id));
        self.commit(at, 9);
        id
    }

    /// One node wants everything of another, and gets what may leave.
    fn wants_all(&mut self, giver: usize, taker: usize) -> Vec<TaskId> {
        self.want(giver, taker, 0, 9);
        self.commit(giver, 9);
        self.take_in(taker, 9);
        let there = self.nodes[taker].machine.tasks.values();
        let mut there: Vec<TaskId> = there.map(|entry| entry.body.id).collect();
        there.sort_unstable();
        there
    }
}

#[test]
fn a_tree_with_a_budget_goes_whole_or_not_at_all_and_holds_nobody_up() {
    let budgeted = || {
        with(TaskTerms {
            budget: Some(super::accounts::limited(9)),
            ..TaskTerms::default()
        })
    };
    let mut pool = Pool::new();
    let parent = pool.accept(0, budgeted());
    pool.claim(0, 0);
    let (_, id, epoch) = pool.leases.pop().expect("leased");
    assert_eq!(id, parent);
    let child = NewChild {
        task: NewTask::new(KINDS[0], Json::null()),
        after: Vec::new(),
    };
    let node = &mut pool.nodes[0];
    let (none, now) = (Dependencies::new(), pool.now);
    let waits = node
        .machine
        .suspend(parent, epoch, vec![child], None, &none, now);
    waits.expect("held");
    node.decided(None);
    pool.commit(0, 9);
    // The stock that one lease is worth is no longer kept.
    pool.now = Timestamp(pool.now.0 + 1_000);
    let (alone, free) = (
        pool.accept(0, budgeted()),
        pool.accept(0, NewTask::new(KINDS[0], Json::null())),
    );
    assert_eq!(pool.wants_all(0, 1), [alone, free]);
    let ledger = &pool.nodes[0].machine.ledger;
    assert!(!ledger.knows(&Scope::Task(alone)), "it is in one memory");
}

#[test]
fn what_waits_at_a_gate_goes_if_nobody_claims_it_here() {
    let gated = |key: &str| {
        with(TaskTerms {
            concurrency_key: Some(key.to_owned()),
            ..TaskTerms::default()
        })
    };
    for claimed in [false, true] {
        let mut pool = Pool::new();
        let [first, second] = ["k", "k"].map(|key| pool.accept(0, gated(key)));
        let gates = &pool.nodes[0].machine.gates;
        assert_eq!(gates.waiting(KINDS[0]), 2, "units are allotted later");
        let passed = pool.accept(0, gated("other"));
        if claimed {
            pool.nodes[0].machine.asked_for(&[KINDS[0]], pool.now);
        }
        let went = pool.wants_all(0, 1);
        if claimed {
            // This node asks for their units, and they may go as soon as there are some.
            assert_eq!(went, [passed]);
            continue;
        }
        assert_eq!(went, [first, second, passed]);
        // They count as what is there: nobody takes more than he could start.
        let asked = HashMap::from([(Arc::from(KINDS[0]), 4)]);
        let (_, wanted) = pool.nodes[1].machine.wanted(&asked, pool.now);
        assert_eq!(wanted, [(Arc::from(KINDS[0]), 1)]);
    }
}

#[test]
fn a_busy_node_keeps_a_stock_and_wants_no_more_than_that() {
    let mut pool = Pool::new();
    for _ in 0..10 {
        pool.submit(0, 0, false);
    }
    pool.commit(0, 99);
    pool.claim(0, 0);
    pool.claim(0, 0);
    // Four were leased within the span for which stock is kept; four of six stay.
    pool.want(0, 1, 0, 5);
    assert_eq!(pool.nodes[0].machine.backlog.waiting(KINDS[0]), 4);
    let asked = HashMap::from([(Arc::from(KINDS[0]), 1), (Arc::from(KINDS[1]), 3)]);
    let (_, wanted) = pool.nodes[0].machine.wanted(&asked, pool.now);
    assert_eq!(
        wanted,
        [(Arc::from(KINDS[1]), 3)],
        "it has four of the first"
    );
    let idle = HashMap::new();
    let (_, wanted) = pool.nodes[0]
        .machine
        .wanted(&idle, Timestamp(pool.now.0 + 1_000));
    assert!(wanted.is_empty(), "nobody works any more");
}
