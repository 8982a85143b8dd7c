//! Families and dependencies spread over several machines on one store: whoever waits for a
//! distant task hears of its end late, twice or out of order, and machines die in between.

mod laws;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::super::distant::Sought;
use super::super::{Dependencies, DistantChild, Loading, Machine, News};
use super::world::{now, worker};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::queue::control::QueueLimits;
use crate::queue::order::{NewOrder, Verb};
use crate::queue::task::{
    Lease, NewChild, NewTask, OnChildFailure, TaskEventKind, TaskState, TaskTerms, TaskView,
};
use crate::store::postgres::Takeover;
use crate::store::{Handed, Ledgers, Store};

const NODES: usize = 3;

/// Some machines, and who has which task.
struct Nodes {
    machines: Vec<Machine>,
    store: Store,
    now: Timestamp,
    boots: u32,
    owner: HashMap<TaskId, usize>,
    known: Vec<TaskId>,
    leases: Vec<(usize, TaskId, Epoch)>,
    orders: Vec<NewOrder>,
    /// What was read of distant tasks and is not told yet.
    news: Vec<(usize, Sought, News)>,
}

fn failing(fail: bool, retries: u32) -> Option<Box<TaskTerms>> {
    Some(Box::new(TaskTerms {
        on_child_failure: OnChildFailure { retries, fail },
        ..TaskTerms::default()
    }))
}

fn plain(on: Vec<TaskId>) -> NewTask {
    NewTask {
        depends_on: on,
        max_attempts: Some(1),
        ..NewTask::new("a", Json::null())
    }
}

fn child() -> NewChild {
    NewChild {
        task: plain(Vec::new()),
        after: Vec::new(),
    }
}

impl Nodes {
    fn new() -> Self {
        let mut nodes = Self {
            machines: Vec::new(),
            store: Store::volatile(),
            now: Timestamp(1_000_000),
            boots: 0,
            owner: HashMap::new(),
            known: Vec::new(),
            leases: Vec::new(),
            orders: Vec::new(),
            news: Vec::new(),
        };
        for _ in 0..NODES {
            let machine = nodes.fresh();
            nodes.machines.push(machine);
        }
        nodes
    }

    /// A machine that numbers its tasks in a range of its own.
    fn fresh(&mut self) -> Machine {
        self.boots += 1;
        let mut machine = Machine::new(QueueLimits::default(), self.boots, u64::from(self.boots));
        machine.next_seq = u64::from(self.boots) << 32;
        machine.share();
        machine
    }

    fn view(&self, id: TaskId) -> TaskView {
        now(self.store.task(id)).expect("readable").expect("kept")
    }

    fn state(&self, id: TaskId) -> TaskState {
        self.view(id).state()
    }

    /// How these stand, as far as they are not here.
    fn known_to(&self, node: usize, ids: &[TaskId]) -> Dependencies {
        let missing = self.machines[node].not_live(ids);
        let standing = missing.into_iter().map(|id| (id, self.state(id)));
        standing.collect()
    }

    /// Commits what a machine decided, and goes on with it.
    fn settle(&mut self, node: usize) {
        loop {
            let outbox = self.machines[node].take_outbox();
            if outbox.changes.is_empty() && outbox.publish.is_empty() {
                return;
            }
            for body in &outbox.changes.bodies {
                self.owner.insert(body.id, node);
                self.known.push(body.id);
            }
            self.orders.extend(outbox.changes.orders.iter().cloned());
            now(self.store.commit(outbox.changes.into())).expect("writable");
            self.machines[node].publish(&outbox.publish, self.now);
        }
    }

    fn submit(&mut self, node: usize, task: NewTask) -> Option<TaskId> {
        let known = self.known_to(node, &task.depends_on);
        let submitted = self.machines[node].submit(task, &known, self.now).ok()?;
        self.settle(node);
        Some(submitted.id)
    }

    fn claim(&mut self, node: usize) -> Option<Lease> {
        let lease = Duration::from_secs(3_600);
        let claimed = self.machines[node].claim(&["a"], &worker("w"), lease, 1, self.now);
        self.settle(node);
        let lease = claimed.into_iter().next()?;
        for on in &lease.task.depends_on {
            assert_eq!(self.state(*on), TaskState::Completed, "ran before {on}");
        }
        let children = now(self.store.children_counts(lease.task.id)).expect("readable");
        assert!(
            children.keys().all(|state| state.is_terminal()),
            "woke before its children ended: {children:?}"
        );
        self.leases.push((node, lease.task.id, lease.epoch));
        Some(lease)
    }

    fn suspend(&mut self, node: usize, id: TaskId, epoch: Epoch, children: Vec<NewChild>) {
        let on: Vec<TaskId> = children
            .iter()
            .flat_map(|child| child.task.depends_on.clone())
            .collect();
        let known = self.known_to(node, &on);
        let machine = &mut self.machines[node];
        machine
            .suspend(id, epoch, children, None, &known, self.now)
            .expect("held");
        self.settle(node);
    }

    /// Moves a claimable task, as the hand-over does.
    fn hand_over(&mut self, id: TaskId, to: usize) -> bool {
        let from = self.owner[&id];
        let machine = &mut self.machines[from];
        let claimable = machine
            .tasks
            .get(&id)
            .is_some_and(|entry| entry.place.is_some() && entry.end.is_none());
        if from == to || !claimable {
            return false;
        }
        machine.leave(id, 1, self.now);
        self.settle(from);
        self.owner.insert(id, to);
        let view = self.view(id);
        let task = (view.body, view.run.expect("it lives"));
        let handed = Handed {
            tasks: vec![task],
            ..Handed::default()
        };
        self.machines[to].take_in(handed, self.now);
        self.settle(to);
        true
    }

    /// Reads how the tasks stand that a machine waits for; told later.
    fn look(&mut self, node: usize) {
        for sought in self.machines[node].sought() {
            let view = self.view(sought.id);
            let news = News {
                state: view.state(),
                error: view.end.and_then(|end| end.error),
            };
            self.news.push((node, sought, news));
        }
    }

    fn tell(&mut self, at: usize, again: bool) {
        if self.news.is_empty() {
            return;
        }
        let at = at % self.news.len();
        let (node, sought, news) = match again {
            true => self.news[at].clone(),
            false => self.news.swap_remove(at),
        };
        self.machines[node].distant_news(sought, &news, self.now);
        self.settle(node);
    }

    /// Whoever has the task does what is asked.
    fn obey(&mut self) {
        for order in std::mem::take(&mut self.orders) {
            let Verb::Cancel { why } = &order.verb else {
                panic!("the machine orders nothing else: {order:?}");
            };
            let node = self.owner[&order.task];
            let _ = self.machines[node].cancel(order.task, why, self.now);
            self.settle(node);
        }
    }

    /// A machine dies, and another one takes its tasks over.
    fn die(&mut self, node: usize, heir: usize) {
        if node == heir {
            return;
        }
        let machine = self.fresh();
        self.machines[node] = machine;
        self.news.retain(|(at, ..)| *at != node);
        self.leases.retain(|(at, ..)| *at != node);
        let snapshot = now(self.store.snapshot()).expect("readable");
        let live: Vec<_> = snapshot
            .live
            .into_iter()
            .filter(|(body, _)| self.owner[&body.id] == node)
            .collect();
        for (body, _) in &live {
            self.owner.insert(body.id, heir);
        }
        let on = live.iter().flat_map(|(body, _)| body.depends_on.clone());
        let ended = on.map(|id| (id, self.state(id))).collect();
        let mut children = Vec::new();
        for (parent, _) in live
            .iter()
            .filter(|(_, run)| run.state == TaskState::Waiting)
        {
            let log = now(self.store.events(parent.id, 0, u32::MAX)).expect("readable");
            let last = log.last().map(|event| event.at);
            for child in &self.known {
                let view = self.view(*child);
                let failed = view.end.as_ref().is_some_and(|end| {
                    end.state != TaskState::Completed
                        && parent.on_child_failure().fail
                        && last <= Some(end.finished_at)
                });
                if view.body.parent == Some(parent.id) && (view.end.is_none() || failed) {
                    children.push(DistantChild {
                        parent: parent.id,
                        child: *child,
                        news: News {
                            state: view.state(),
                            error: view.end.and_then(|end| end.error),
                        },
                    });
                }
            }
        }
        self.boots += 1;
        let takeover = Takeover {
            boots: self.boots,
            live,
            ended,
            children,
            ledgers: Ledgers::default(),
            handed: Vec::new(),
            lives: Vec::new(),
        };
        self.machines[heir].adopt(takeover, self.now);
        self.settle(heir);
    }

    fn finish(&mut self, at: usize, completed: bool) {
        if self.leases.is_empty() {
            return;
        }
        let (node, id, epoch) = self.leases.swap_remove(at % self.leases.len());
        let machine = &mut self.machines[node];
        if completed {
            let _ = machine.complete(id, epoch, Json::null(), self.now);
        } else {
            let _ = machine.fail(id, epoch, "broke".to_owned(), false, self.now);
        }
        self.settle(node);
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        for node in 0..NODES {
            self.machines[node].tick(self.now);
            self.settle(node);
        }
    }

    /// Works until nothing lives any more.
    fn drain(&mut self) {
        for _ in 0..200 {
            if self.known.iter().all(|id| self.state(*id).is_terminal()) {
                return;
            }
            for node in 0..NODES {
                self.look(node);
                while self.claim(node).is_some() {}
            }
            while !self.leases.is_empty() {
                self.finish(0, true);
            }
            while !self.news.is_empty() {
                self.tell(0, false);
            }
            self.obey();
            self.pass(Duration::from_secs(3_600));
        }
        let waiting = self
            .known
            .iter()
            .filter(|id| !self.state(**id).is_terminal());
        let waiting: Vec<_> = waiting
            .map(|id| {
                (
                    self.view(*id).run,
                    self.machines[self.owner[id]].tasks.get(id),
                )
            })
            .collect();
        panic!("these wait for ever: {waiting:#?}");
    }

    fn count(&self, id: TaskId, kind: TaskEventKind) -> usize {
        let log = now(self.store.events(id, 0, u32::MAX)).expect("readable");
        log.iter().filter(|event| event.kind == kind).count()
    }

    /// What has to be true once nothing lives any more.
    fn check(&mut self) {
        for node in 0..NODES {
            hear(self, node);
            assert!(self.machines[node].tasks.is_empty());
            let left: HashSet<TaskId> = self.machines[node].distant_ids().into_iter().collect();
            assert!(left.is_empty(), "nobody is left to wait for {left:?}");
        }
        for id in &self.known {
            let suspended = self.count(*id, TaskEventKind::Suspended);
            let woken = self.count(*id, TaskEventKind::Available);
            let view = self.view(*id);
            if suspended == 1
                && view.body.depends_on.is_empty()
                && view.state() == TaskState::Completed
            {
                let kinds = [TaskEventKind::LeaseLost, TaskEventKind::Failed];
                let again: usize = kinds.iter().map(|kind| self.count(*id, *kind)).sum();
                assert!((1..=1 + again).contains(&woken), "{id} woke {woken} times");
            }
        }
    }
}

/// A parent on the first machine with children, the first of which went to the second.
fn family(
    nodes: &mut Nodes,
    policy: Option<Box<TaskTerms>>,
    children: usize,
) -> (TaskId, Vec<TaskId>) {
    let task = NewTask {
        terms: policy,
        ..plain(Vec::new())
    };
    let parent = nodes.submit(0, task).expect("room");
    let lease = nodes.claim(0).expect("claimable");
    nodes.leases.clear();
    let family = (0..children).map(|_| child()).collect();
    nodes.suspend(0, parent, lease.epoch, family);
    let ids = nodes.known[1..].to_vec();
    assert!(nodes.hand_over(ids[0], 1));
    (parent, ids)
}

fn hear(nodes: &mut Nodes, node: usize) {
    nodes.look(node);
    while !nodes.news.is_empty() {
        nodes.tell(0, true);
        nodes.tell(0, false);
    }
}

#[test]
fn a_dependency_elsewhere_is_waited_for_and_its_failure_is_heard() {
    for completed in [true, false] {
        let mut nodes = Nodes::new();
        let on = nodes.submit(1, plain(vec![])).expect("room");
        let id = nodes.submit(0, plain(vec![on])).expect("accepted");
        assert_eq!(nodes.state(id), TaskState::Waiting);
        hear(&mut nodes, 0);
        assert!(nodes.claim(0).is_none());
        nodes.claim(1).expect("claimable");
        nodes.finish(0, completed);
        hear(&mut nodes, 0);
        let expected = match completed {
            true => TaskState::Available,
            false => TaskState::Cancelled,
        };
        assert_eq!(nodes.state(id), expected);
        nodes.drain();
        nodes.check();
    }
}

#[test]
fn a_parent_wakes_once_when_children_here_and_elsewhere_have_ended() {
    let mut nodes = Nodes::new();
    let (parent, _) = family(&mut nodes, None, 2);
    nodes.claim(0).expect("the child that stayed");
    nodes.claim(1).expect("the child that left");
    nodes.finish(0, true);
    nodes.finish(0, false);
    assert_eq!(nodes.state(parent), TaskState::Waiting);
    hear(&mut nodes, 0);
    assert_eq!(nodes.state(parent), TaskState::Available);
    nodes.drain();
    nodes.check();
}

#[test]
fn a_parent_that_fails_with_its_children_calls_off_those_elsewhere() {
    let mut nodes = Nodes::new();
    let (parent, ids) = family(&mut nodes, failing(true, 0), 2);
    nodes.claim(0).expect("the child that stayed");
    nodes.finish(0, false);
    assert_eq!(nodes.state(parent), TaskState::Discarded);
    assert_eq!(
        nodes.state(ids[0]),
        TaskState::Available,
        "not called off yet"
    );
    nodes.obey();
    assert_eq!(nodes.state(ids[0]), TaskState::Cancelled);
    nodes.drain();
    nodes.check();
}

#[test]
fn a_parent_fails_with_a_child_that_failed_elsewhere_while_nobody_had_the_parent() {
    let mut nodes = Nodes::new();
    let (parent, ids) = family(&mut nodes, failing(true, 0), 2);
    nodes.claim(1).expect("the child that left");
    nodes.finish(0, false);
    nodes.die(0, 2);
    assert_eq!(nodes.state(parent), TaskState::Discarded);
    assert_eq!(nodes.state(ids[1]), TaskState::Cancelled);
    nodes.drain();
    nodes.check();
}

#[test]
fn a_child_elsewhere_is_tried_again_as_its_parent_asked() {
    let mut nodes = Nodes::new();
    let (parent, ids) = family(&mut nodes, failing(true, 1), 1);
    nodes.claim(1).expect("the child that left");
    nodes.finish(0, false);
    assert_eq!(nodes.state(ids[0]), TaskState::Retryable);
    nodes.pass(Duration::from_secs(3_600));
    nodes.claim(1).expect("again");
    nodes.finish(0, false);
    hear(&mut nodes, 0);
    assert_eq!(nodes.state(parent), TaskState::Discarded);
}

#[test]
fn a_task_that_comes_back_is_waited_for_as_before() {
    let mut nodes = Nodes::new();
    let (parent, ids) = family(&mut nodes, None, 1);
    let follower = nodes.submit(0, plain(vec![ids[0]])).expect("accepted");
    nodes.look(0);
    assert!(nodes.hand_over(ids[0], 0));
    assert_eq!(nodes.machines[0].distant_ids(), []);
    nodes.claim(0).expect("the child");
    nodes.finish(0, true);
    let late = nodes.news.clone();
    assert_eq!(nodes.state(parent), TaskState::Available);
    assert_eq!(nodes.state(follower), TaskState::Available);
    nodes.news = late;
    while !nodes.news.is_empty() {
        nodes.tell(0, false);
    }
    nodes.drain();
    nodes.check();
}

#[test]
fn what_is_read_back_waits_for_tasks_that_live_elsewhere() {
    let mut nodes = Nodes::new();
    let on = nodes.submit(1, plain(vec![])).expect("room");
    let id = nodes.submit(0, plain(vec![on])).expect("accepted");
    let mut snapshot = now(nodes.store.snapshot()).expect("readable");
    snapshot.live.retain(|(body, _)| body.id == id);
    snapshot.ended.insert(on, TaskState::Available);
    let grace = Loading::Recovery { grace_ms: 1 };
    nodes.machines[0].load(snapshot, grace, nodes.now);
    nodes.settle(0);
    assert_eq!(
        nodes.state(id),
        TaskState::Waiting,
        "neither cancelled nor ready"
    );
    nodes.drain();
    assert_eq!(nodes.state(id), TaskState::Completed);
}
