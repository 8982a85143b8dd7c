//! Carries messages that wait at this node to whoever owns their agents.
//!
//! A message of which nothing was begun here is *set aside*: it waits, nobody can claim it, and
//! where it goes is durable. Then it is sent, again and again until its node has said as which
//! task it has it; then that node is asked, again and again, how the task ended, and the message
//! ends here likewise. Each step is durable before the next, and each may be repeated: a courier
//! that is killed anywhere goes on where it was, and the log of a message that cannot be
//! delivered does not grow.
//!
//! Where a message goes is not decided twice. While that node is away it waits, although its
//! agent may be somewhere else by then; a node that is not the owner when the message comes
//! carries it on.
//!
//! *Bounds.* At most `IN_TRANSIT_MAX` messages are set aside for a node and not delivered, of
//! which `SENT_AT_ONCE` are sent at once. A node that does not answer is left alone for a pause
//! that grows, and keeps nobody else waiting.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use regrow_runtime::agent_spec::addressed_kind;
use regrow_runtime::ids::{AgentId, Epoch, TaskId};
use regrow_runtime::queue::Queue;
use regrow_runtime::queue::carriage::{EndElsewhere, Parcel};
use regrow_runtime::queue::retry::RetryBackoff;
use regrow_runtime::queue::task::TaskState;
use regrow_runtime::registry::Standing;
use regrow_runtime::store::StoreError;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::letter::{Answer, Letter, Question, Stand, Way};
use super::{Mail, TELL_DEADLINE};
use crate::exchange::AskError;
use crate::member::NodeName;

/// How often is looked what waits here for agents elsewhere, and what has ended there.
const PERIOD: Duration = Duration::from_millis(500);
/// Messages set aside for one node that it has not yet.
const IN_TRANSIT_MAX: usize = 64;
/// Messages sent to one node at once.
const SENT_AT_ONCE: usize = 8;
/// Tasks asked for in one question.
const ASKED_AT_ONCE: usize = 256;
/// Pauses after a node, or a message, could not be served.
const PAUSES: RetryBackoff = RetryBackoff {
    first: Duration::from_millis(500),
    max: Duration::from_secs(30),
};

/// How the courier knows who owns what, and reaches them.
pub(super) trait Post: Send + Sync {
    /// Agents that other nodes own which are heard. Nothing while that cannot be told.
    fn elsewhere(&self) -> BoxFuture<'_, Vec<(AgentId, NodeName)>>;

    /// Asks another node.
    fn ask<'a>(
        &'a self,
        node: &'a NodeName,
        question: &'a Question,
    ) -> BoxFuture<'a, Result<Answer, AskError>>;
}

impl Post for Mail {
    fn elsewhere(&self) -> BoxFuture<'_, Vec<(AgentId, NodeName)>> {
        async {
            match self.agreed.read().await {
                Ok(standing) => elsewhere(self, &standing),
                Err(_) => Vec::new(),
            }
        }
        .boxed()
    }

    fn ask<'a>(
        &'a self,
        node: &'a NodeName,
        question: &'a Question,
    ) -> BoxFuture<'a, Result<Answer, AskError>> {
        self.ask(node, question, TELL_DEADLINE).boxed()
    }
}

/// Carries until it is dropped.
pub async fn run(mail: &Mail) {
    let seed = mail.agreed.life().0;
    Courier::new(mail.queue.clone(), mail.clone(), seed)
        .run()
        .await;
}

/// Agents that another node owns which is heard.
fn elsewhere(mail: &Mail, standing: &Standing) -> Vec<(AgentId, NodeName)> {
    let me = mail.agreed.life();
    let rows = standing.agents.values();
    rows.filter_map(|row| {
        let owner = row.owner.filter(|owner| *owner != me)?;
        let node = standing.lives.get(&owner)?;
        (!node.left.is_zero()).then(|| (row.id.clone(), NodeName::from(&*node.node)))
    })
    .collect()
}

/// Why a round with a node was broken off.
#[derive(Debug)]
enum Broken {
    /// It did not answer, or cannot take anything at present.
    Node(String),
    /// This node's own store failed.
    Store(StoreError),
}

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

#[derive(Debug)]
struct Pause {
    failures: u32,
    until: Instant,
}

/// Carries the messages of one queue. Everything that it must not forget is in that queue.
pub(super) struct Courier<P> {
    queue: Queue,
    post: P,
    /// Messages of which something was begun here, under the epoch that they had.
    begun: Mutex<HashMap<TaskId, Epoch>>,
    nodes: Mutex<BTreeMap<NodeName, Pause>>,
    /// Messages that their node refused for what they are.
    refused: Mutex<HashMap<TaskId, Pause>>,
    rng: Mutex<SmallRng>,
}

impl<P: Post> Courier<P> {
    pub(super) fn new(queue: Queue, post: P, seed: u64) -> Self {
        Self {
            queue,
            post,
            begun: Mutex::default(),
            nodes: Mutex::default(),
            refused: Mutex::default(),
            rng: Mutex::new(rand::SeedableRng::seed_from_u64(seed)),
        }
    }

    /// A slow node keeps only its own round waiting.
    async fn run(&self) {
        let mut tick = interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rounds = FuturesUnordered::new();
        let mut busy = BTreeSet::new();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                Some(node) = rounds.next(), if !busy.is_empty() => {
                    busy.remove(&node);
                    continue;
                }
            }
            if let Err(error) = self.set_aside().await {
                debug!(%error, "messages could not be set aside");
            }
            for node in self.due() {
                if busy.insert(node.clone()) {
                    rounds.push(self.round_at(node));
                }
            }
        }
    }

    fn round_at(&self, node: NodeName) -> BoxFuture<'_, NodeName> {
        async move {
            self.round(&node).await;
            node
        }
        .boxed()
    }

    /// Nodes to which something was or is to be carried, and which are not left alone.
    pub(super) fn due(&self) -> BTreeSet<NodeName> {
        let parcels = self.queue.parcels();
        let lives: HashSet<TaskId> = parcels.iter().map(|parcel| parcel.body.id).collect();
        self.refused.lock().retain(|id, _| lives.contains(id));
        let nodes: BTreeSet<NodeName> = parcels.iter().map(destination).collect();
        let mut pauses = self.nodes.lock();
        pauses.retain(|node, _| nodes.contains(node));
        let now = Instant::now();
        let rests = |node: &NodeName| pauses.get(node).is_some_and(|pause| now < pause.until);
        nodes.iter().filter(|node| !rests(node)).cloned().collect()
    }

    /// Sets aside what can be carried. What was begun here stays, and is not touched.
    pub(super) async fn set_aside(&self) -> Result<(), StoreError> {
        let mut transit: BTreeMap<NodeName, usize> = BTreeMap::new();
        for parcel in self.queue.parcels() {
            if parcel.away.task.is_none() {
                *transit.entry(destination(&parcel)).or_default() += 1;
            }
        }
        let mut idle = HashSet::new();
        for (agent, owner) in self.post.elsewhere().await {
            let kinds = BTreeSet::from([addressed_kind(&agent)]);
            let begun = self.begun.lock().len();
            for (id, epoch) in self.queue.idle(&kinds, IN_TRANSIT_MAX + begun) {
                idle.insert(id);
                let sent = transit.entry(owner.clone()).or_default();
                let is_full = IN_TRANSIT_MAX <= *sent || self.nodes.lock().contains_key(&owner);
                if is_full || self.is_begun(id, epoch).await? {
                    continue;
                }
                let aside = self.queue.set_aside(id, epoch, owner.as_str()).await?;
                *sent += usize::from(aside);
            }
        }
        self.begun.lock().retain(|id, _| idle.contains(id));
        Ok(())
    }

    /// Whether something of a message is on record here that would be done again elsewhere.
    async fn is_begun(&self, id: TaskId, epoch: Epoch) -> Result<bool, StoreError> {
        if epoch == Epoch::NEVER {
            return Ok(false);
        }
        if self.begun.lock().get(&id) == Some(&epoch) {
            return Ok(true);
        }
        let begun = self.queue.is_begun(id).await?;
        if begun {
            self.begun.lock().insert(id, epoch);
        }
        Ok(begun)
    }

    /// Delivers what goes to a node, and asks it what became of what it has.
    pub(super) async fn round(&self, node: &NodeName) {
        match self.carry(node).await {
            Ok(()) => {
                if let Some(pause) = self.nodes.lock().remove(node) {
                    let failures = pause.failures;
                    info!(%node, failures, "messages can be carried there again");
                }
            }
            Err(Broken::Node(why)) => {
                let mut nodes = self.nodes.lock();
                let failures = nodes.get(node).map_or(0, |pause| pause.failures) + 1;
                let pause = self.pause(failures);
                if failures == 1 {
                    warn!(%node, why, "messages cannot be carried there; they wait here");
                }
                nodes.insert(node.clone(), pause);
            }
            Err(Broken::Store(error)) => debug!(%error, "messages cannot be carried at present"),
        }
    }

    fn pause(&self, failures: u32) -> Pause {
        let pause = PAUSES.pause(failures, &mut *self.rng.lock());
        let until = Instant::now() + pause;
        Pause { failures, until }
    }

    async fn carry(&self, node: &NodeName) -> Result<(), Broken> {
        let parcels = self.queue.parcels().into_iter();
        let parcels = parcels.filter(|parcel| destination(parcel) == *node);
        let (there, on_the_way): (Vec<_>, Vec<_>) =
            parcels.partition(|parcel| parcel.away.task.is_some());
        let now = Instant::now();
        let is_due = |parcel: &Parcel| {
            let refused = self.refused.lock();
            refused
                .get(&parcel.body.id)
                .is_none_or(|pause| pause.until <= now)
        };
        let sent: Vec<_> = on_the_way.into_iter().filter(is_due).collect();
        let sending: Vec<_> = sent.iter().map(|one| self.deliver(node, one)).collect();
        let mut sending = futures::stream::iter(sending).buffer_unordered(SENT_AT_ONCE);
        let mut delivered = 0_usize;
        while let Some(one) = sending.next().await {
            delivered += usize::from(one?);
        }
        if 0 < delivered {
            info!(%node, delivered, "messages followed their agents");
        }
        for parcel in there.iter().filter(|parcel| parcel.cancel_requested) {
            if let Some(task) = parcel.away.task {
                self.asked(node, &Question::CallOff(task)).await?;
            }
        }
        for some in there.chunks(ASKED_AT_ONCE) {
            self.hear(node, some).await?;
        }
        Ok(())
    }

    async fn asked(&self, node: &NodeName, question: &Question) -> Result<Answer, Broken> {
        let answer = self.post.ask(node, question).await;
        answer.map_err(|error| Broken::Node(error.to_string()))
    }

    /// Sends one message; says whether its node has it.
    fn deliver<'a>(
        &'a self,
        node: &'a NodeName,
        parcel: &'a Parcel,
    ) -> BoxFuture<'a, Result<bool, Broken>> {
        let id = parcel.body.id;
        async move {
            let question = Question::Carry {
                letter: Letter::carried(parcel).to_json(),
                way: Way::of(parcel.hop),
            };
            match self.asked(node, &question).await? {
                Answer::Taken(taken) => {
                    self.queue.delivered(id, parcel.hop, taken.id).await?;
                    self.refused.lock().remove(&id);
                    Ok(true)
                }
                Answer::Refused {
                    why,
                    retry_after_ms: Some(_),
                } => Err(Broken::Node(why)),
                Answer::Refused { why, .. } => {
                    let mut refused = self.refused.lock();
                    let failures = refused.get(&id).map_or(0, |pause| pause.failures) + 1;
                    if failures == 1 {
                        warn!(task = %id, %node, why, "a message was refused; it waits here");
                    }
                    refused.insert(id, self.pause(failures));
                    Ok(false)
                }
                other @ (Answer::NotMine
                | Answer::Knows(_)
                | Answer::Ends(_)
                | Answer::CalledOff) => Err(Broken::Node(format!("it answered {other:?}"))),
            }
        }
        .boxed()
    }

    /// Asks how messages ended that a node has.
    async fn hear(&self, node: &NodeName, there: &[Parcel]) -> Result<(), Broken> {
        let known: HashMap<TaskId, &Parcel> = there
            .iter()
            .filter_map(|parcel| Some((parcel.away.task?, parcel)))
            .collect();
        let tasks = known.keys().copied().collect();
        let ends = match self.asked(node, &Question::Ends(tasks)).await? {
            Answer::Ends(ends) => ends,
            other @ (Answer::Taken(_)
            | Answer::NotMine
            | Answer::Refused { .. }
            | Answer::Knows(_)
            | Answer::CalledOff) => {
                return Err(Broken::Node(format!("it answered {other:?}")));
            }
        };
        for (task, stand) in ends {
            let Some(parcel) = known.get(&task) else {
                continue;
            };
            let end = match stand {
                Stand::Lives => continue,
                Stand::Ended(end) => match serde_json::from_str(&end) {
                    Ok(end) => end,
                    Err(error) => return Err(Broken::Node(error.to_string())),
                },
                Stand::Unknown => EndElsewhere {
                    state: TaskState::Discarded,
                    result: None,
                    error: Some(format!(
                        "{node}, which had taken it as {task}, does not know it any more: \
                         whether it was done cannot be told"
                    )),
                },
            };
            let id = parcel.body.id;
            self.queue.ended_elsewhere(id, parcel.hop, end).await?;
        }
        Ok(())
    }
}

fn destination(parcel: &Parcel) -> NodeName {
    NodeName::from(parcel.away.node.as_str())
}
