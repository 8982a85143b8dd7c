//! Some nodes with a queue and a courier each, one agent, and a network that loses, repeats and
//! delays; everything may crash at any point.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, pending};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use regrow_runtime::agent_spec::addressed_kind;
use regrow_runtime::events::EventBus;
use regrow_runtime::ids::{AgentId, TaskId};
use regrow_runtime::json::Json;
use regrow_runtime::queue::control::QueueLimits;
use regrow_runtime::queue::retry::RetryBackoff;
use regrow_runtime::queue::task::{Lease, NewTask, TaskEnd, TaskEventKind};
use regrow_runtime::queue::{ClaimRequest, Queue};
use regrow_runtime::store::writer::Writer;
use regrow_runtime::store::{Store, TaskFilter};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::super::carried;
use super::super::courier::{Courier, Post};
use super::super::letter::{Answer, Question};
use super::kinds;
use crate::exchange::{AskError, SendError};
use crate::member::NodeName;
use crate::transport::CallError;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Rounds after which everything has to be done, once nothing fails any more.
const ROUNDS_MAX: usize = 2_000;

/// What an agent does with a message.
#[derive(Clone, Copy)]
pub(super) enum Agent {
    Completes,
    HandsBack,
    Fails,
    /// It says nothing; its node crashes.
    Vanishes,
}

/// A message by its number.
pub(super) fn message(number: usize) -> NewTask {
    let payload = Json::of(&number).expect("a number");
    NewTask::new(addressed_kind(&AgentId::new("scout")), payload)
}

/// How the network is at present.
#[derive(Clone, Copy, Default)]
pub(super) struct Network {
    pub(super) is_cut: bool,
    pub(super) lose_answers: bool,
    /// Out of a hundred questions so many go wrong.
    faults: u32,
}

struct Node {
    store: Store,
    queue: Queue,
    running: JoinSet<()>,
}

impl Node {
    async fn start(store: Store) -> Self {
        let limits = QueueLimits {
            backoff: RetryBackoff {
                first: Duration::from_millis(1),
                max: Duration::from_millis(2),
            },
            losses_max: 1_000,
            ..QueueLimits::default()
        };
        let clock = store.clock().await.expect("open");
        let writer = Writer::new(store.clone());
        let queue = Queue::open(writer, EventBus::default(), limits, clock, 1).await;
        let queue = queue.expect("readable");
        let mut running = JoinSet::new();
        running.spawn(queue.clone().run_writer());
        let keeper = queue.clone();
        running.spawn(async move { keeper.keep_time().await });
        Self {
            store,
            queue,
            running,
        }
    }
}

/// The post of one node, for one step of its courier.
struct Wire {
    queues: Vec<Queue>,
    owner: Option<usize>,
    me: usize,
    network: Network,
    rng: Arc<Mutex<SmallRng>>,
    late: Arc<Mutex<Vec<(usize, Question)>>>,
    /// The node of this courier crashes here and now.
    crash: Arc<Notify>,
}

impl Post for Wire {
    fn elsewhere(&self) -> BoxFuture<'_, Vec<(AgentId, NodeName)>> {
        let owner = self.owner.filter(|owner| *owner != self.me);
        let owned = owner.map(|owner| (AgentId::new("scout"), NodeName::from(NAMES[owner])));
        async move { owned.into_iter().collect() }.boxed()
    }

    fn ask<'a>(
        &'a self,
        node: &'a NodeName,
        question: &'a Question,
    ) -> BoxFuture<'a, Result<Answer, AskError>> {
        async move {
            let to = NAMES.iter().position(|name| *name == node.as_str());
            let to = to.expect("a node");
            let interrupted = || AskError::Unanswered {
                to: node.clone(),
                error: CallError::Interrupted,
            };
            if self.network.is_cut {
                return Err(SendError::NotConnected(node.clone()).into());
            }
            let fault = self.fault();
            match fault {
                0 => return Err(interrupted()),
                1 => self.die().await,
                // It arrives later, and perhaps again.
                2 => {
                    self.late.lock().push((to, question.clone()));
                    return Err(interrupted());
                }
                _ => {}
            }
            let me = NodeName::from(NAMES[to]);
            let answer = carried::answered(&self.queues[to], &me, question.clone()).await;
            match fault {
                3 => self.die().await,
                4 => {
                    self.late.lock().push((to, question.clone()));
                    Ok(answer)
                }
                5 => Err(interrupted()),
                _ if self.network.lose_answers => Err(interrupted()),
                _ => Ok(answer),
            }
        }
        .boxed()
    }
}

impl Wire {
    /// What goes wrong this time, from 0 to 5, if anything.
    fn fault(&self) -> u32 {
        let mut rng = self.rng.lock();
        let is_wrong = rng.random_range(0..100) < self.network.faults;
        let which = rng.random_range(0..6);
        if is_wrong { which } else { 9 }
    }

    async fn die(&self) -> ! {
        self.crash.notify_one();
        pending().await
    }
}

struct Told {
    /// Where it was acknowledged, and as which task.
    at: usize,
    id: TaskId,
    done: usize,
    /// Leases that came to nothing.
    disturbed: u64,
}

pub(super) struct World {
    nodes: Vec<Node>,
    pub(super) owner: Option<usize>,
    pub(super) network: Network,
    told: Vec<Told>,
    rng: Arc<Mutex<SmallRng>>,
    late: Arc<Mutex<Vec<(usize, Question)>>>,
    pub(super) hops: u64,
    pub(super) crashes: usize,
    returned: u64,
}

impl World {
    pub(super) async fn new(seed: u64, count: usize) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(Node::start(Store::volatile()).await);
        }
        Self {
            nodes,
            owner: Some(0),
            network: Network::default(),
            told: Vec::new(),
            rng: Arc::new(Mutex::new(SmallRng::seed_from_u64(seed))),
            late: Arc::default(),
            hops: 0,
            crashes: 0,
            returned: 0,
        }
    }

    pub(super) fn queue(&self, node: usize) -> Queue {
        self.nodes[node].queue.clone()
    }

    fn below(&self, end: usize) -> usize {
        self.rng.lock().random_range(0..end)
    }

    /// One step of anything.
    pub(super) async fn anything(&mut self) {
        self.network.faults = 30;
        let node = self.below(self.nodes.len());
        match self.below(20) {
            0 | 1 if self.owner.is_some() => {
                let key = format!("key {}", self.told.len());
                let is_keyed = self.below(2) == 0;
                self.tell(is_keyed.then_some(key.as_str())).await;
            }
            2..=4 => self.owner = (self.below(8) != 0).then_some(node),
            5 => self.crash(node).await,
            6 => self.late_arrival().await,
            7 => self.network.is_cut = self.below(4) == 0,
            8..=10 => {
                let how = match self.below(6) {
                    0 => Agent::HandsBack,
                    1 => Agent::Fails,
                    2 => Agent::Vanishes,
                    _ => Agent::Completes,
                };
                self.work(node, how).await;
            }
            _ => self.courier(node).await,
        }
    }

    /// Tells the agent something at its owner's; returns the message's number.
    pub(super) async fn tell(&mut self, key: Option<&str>) -> usize {
        let at = self.owner.expect("somebody owns it");
        let number = self.told.len();
        let mut task = message(number);
        task.idempotency_key = key.map(|key| format!("{key} {number}"));
        task.max_attempts = Some(1_000);
        let taken = self.nodes[at].queue.submit(task).await.expect("room");
        self.told.push(Told {
            at,
            id: taken.id,
            done: 0,
            disturbed: 0,
        });
        number
    }

    /// One round of a node's courier; it may die in it.
    pub(super) async fn courier(&mut self, node: usize) {
        let crash = Arc::new(Notify::new());
        let wire = Wire {
            queues: self.nodes.iter().map(|node| node.queue.clone()).collect(),
            owner: self.owner,
            me: node,
            network: self.network,
            rng: self.rng.clone(),
            late: self.late.clone(),
            crash: crash.clone(),
        };
        let courier = Courier::new(self.queue(node), wire, 1);
        let round = async {
            courier.set_aside().await.expect("written");
            for to in courier.due() {
                courier.round(&to).await;
            }
        };
        let crashed = tokio::select! {
            () = round => false,
            () = crash.notified() => true,
        };
        drop(courier);
        if crashed {
            self.crash(node).await;
        }
    }

    /// The process of a node is gone, and another one goes on with its disk.
    pub(super) async fn crash(&mut self, node: usize) {
        self.crashes += 1;
        let store = self.nodes[node].store.clone();
        self.nodes[node].running.shutdown().await;
        self.nodes[node] = Node::start(store).await;
    }

    pub(super) async fn lose_disk(&mut self, node: usize) {
        self.nodes[node] = Node::start(Store::volatile()).await;
    }

    /// Something arrives that was sent long ago.
    async fn late_arrival(&self) {
        let waiting = self.late.lock().len();
        if 0 < waiting {
            let which = self.below(waiting);
            let (to, question) = self.late.lock().swap_remove(which);
            let me = NodeName::from(NAMES[to]);
            carried::answered(&self.nodes[to].queue, &me, question).await;
        }
    }

    pub(super) async fn claim(&self, node: usize) -> Option<Lease> {
        let request = ClaimRequest {
            worker: "scout".into(),
            kinds: kinds().into_iter().collect(),
            max: 1,
            wait: Duration::ZERO,
            lease: Duration::from_secs(600),
        };
        let mut leases = self.nodes[node].queue.claim(&request).await.expect("open");
        leases.pop()
    }

    /// The agent does something on a node, if it is there. Returns how many it completed.
    pub(super) async fn work(&mut self, node: usize, how: Agent) -> usize {
        if self.owner != Some(node) {
            return 0;
        }
        let Some(lease) = self.claim(node).await else {
            return 0;
        };
        let number: usize = lease.task.payload.decode().expect("a number");
        let queue = self.queue(node);
        let (id, epoch) = (lease.task.id, lease.epoch);
        match how {
            Agent::Completes => {
                let result = lease.task.payload.clone();
                queue.complete(id, epoch, result).await.expect("held");
                self.told[number].done += 1;
                return 1;
            }
            Agent::HandsBack => queue.release(id, epoch).await.expect("held"),
            Agent::Fails => {
                let failed = queue.fail(id, epoch, "no".to_owned(), true).await;
                failed.expect("held");
            }
            Agent::Vanishes => self.crash(node).await,
        }
        // Leased, and what became of that.
        self.told[number].disturbed += 3;
        0
    }

    /// From here on nothing fails; returns when every message has ended where it was told.
    pub(super) async fn heal(&mut self) {
        self.network = Network::default();
        let owner = *self.owner.get_or_insert(0);
        while !self.late.lock().is_empty() {
            self.late_arrival().await;
        }
        for _ in 0..ROUNDS_MAX {
            for node in 0..self.nodes.len() {
                self.courier(node).await;
            }
            while 0 < self.work(owner, Agent::Completes).await {}
            if self.open().await == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{} messages have not ended", self.open().await);
    }

    async fn open(&self) -> usize {
        let mut open = 0;
        for told in &self.told {
            let view = self.nodes[told.at].queue.task(told.id).await;
            let view = view.expect("readable").expect("acknowledged");
            open += usize::from(view.end.is_none());
        }
        open
    }

    /// Until everything that waits stands at the owner's, and who sent it knows.
    pub(super) async fn until_carried(&mut self) {
        for _ in 0..ROUNDS_MAX {
            for node in 0..self.nodes.len() {
                self.courier(node).await;
            }
            let nodes = self.nodes.iter();
            let parcels = nodes.flat_map(|node| node.queue.parcels());
            if parcels.into_iter().all(|parcel| parcel.away.task.is_some()) {
                return;
            }
        }
        panic!("something is still under way");
    }

    /// Every task of every node, by message.
    async fn tasks(&self) -> BTreeMap<usize, Vec<(usize, TaskId)>> {
        let mut tasks: BTreeMap<usize, Vec<(usize, TaskId)>> = BTreeMap::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let filter = TaskFilter {
                kind: kinds().into_iter().next(),
                limit: 10_000,
                ..TaskFilter::default()
            };
            for task in node.queue.tasks(&filter).await.expect("readable") {
                let number = task.body.payload.decode().expect("a number");
                tasks.entry(number).or_default().push((at, task.body.id));
            }
        }
        tasks
    }

    pub(super) async fn copies(&self, told: usize) -> usize {
        self.tasks().await.get(&told).map_or(0, Vec::len)
    }

    pub(super) fn first(&self, told: usize) -> TaskId {
        self.told[told].id
    }

    pub(super) fn done(&self, told: usize) -> usize {
        self.told[told].done
    }

    pub(super) fn disturbed(&self, told: usize) -> u64 {
        self.told[told].disturbed
    }

    /// Messages that were at a node more than once.
    pub(super) fn back(&self) -> u64 {
        self.returned
    }

    /// Lines in the logs of all tasks of a message.
    pub(super) async fn lines(&self, told: usize) -> u64 {
        self.counted(&self.tasks().await, told).await.0
    }

    /// Lines, and ways.
    async fn counted(
        &self,
        tasks: &BTreeMap<usize, Vec<(usize, TaskId)>>,
        told: usize,
    ) -> (u64, u64) {
        let (mut lines, mut ways) = (0, 0);
        for (at, id) in &tasks[&told] {
            let log = self.nodes[*at].queue.events(*id, 0, 100_000).await;
            let log = log.expect("readable");
            lines += log.len() as u64;
            let is_way = |line: &&regrow_runtime::queue::task::TaskEvent| {
                let detail = line.detail.as_deref().unwrap_or_default();
                line.kind == TaskEventKind::Carried && detail.starts_with("to ")
            };
            ways += log.iter().filter(is_way).count() as u64;
        }
        (lines, ways)
    }

    /// How each message ended where it was told, the lines of its logs, and its ways.
    pub(super) async fn accounts(&mut self) -> Vec<(usize, TaskEnd, u64, u64)> {
        let tasks = self.tasks().await;
        let mut accounts = Vec::new();
        for (number, told) in self.told.iter().enumerate() {
            let view = self.nodes[told.at].queue.task(told.id).await;
            let end = view.expect("readable").and_then(|view| view.end);
            let (lines, ways) = self.counted(&tasks, number).await;
            self.hops += ways;
            // As many ways as other tasks lead to each of them once.
            let others = tasks[&number].len() as u64 - 1;
            self.returned += ways.saturating_sub(others);
            accounts.push((number, end.expect("it ended"), lines, ways));
        }
        accounts
    }
}
