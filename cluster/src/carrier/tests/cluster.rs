//! A cluster in one process, and what counts what its agents do.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use regrow_runtime::agent_spec::AgentSpec;
use regrow_runtime::clock::Clock;
use regrow_runtime::ids::{AgentId, Epoch};
use regrow_runtime::json::Json;
use regrow_runtime::registry::{Life, Standing};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::hardware::{Freezable, Freezer, Link, MemoryDisk, Net};
use crate::agents::Agents;
use crate::carrier::{Agreed, LocalClock, Settings};
use crate::director::{Director, Exit, Hosting, Placing};
use crate::entry::Entry;
use crate::exchange::Exchange;
use crate::local_time::{LocalTime, millis};
use crate::member::NodeName;
use crate::node::{AuthorityKind, NodeConfig};
use crate::nodes::{Heard, Nodes};
use crate::placing::Placer;
use crate::reconcile::{Ended, Me, Verdict};
use crate::report::{NodeReport, Offer};
use crate::roster::Roster;

/// How often a running agent does something.
const ACT_PERIOD: Duration = Duration::from_millis(40);
/// Time that passes on the moved clock until a wait is given up.
const PATIENCE: Duration = Duration::from_secs(180);

/// What agents did, and who stands where.
#[derive(Default)]
struct Ledger {
    latest: BTreeMap<AgentId, (Epoch, usize)>,
    acting: BTreeMap<AgentId, BTreeMap<usize, Epoch>>,
    effects: u64,
    overlaps: Vec<String>,
    stale: Vec<String>,
}

impl Ledger {
    fn effect(&mut self, agent: &AgentId, node: usize, epoch: Epoch) {
        self.effects += 1;
        let latest = self.latest.entry(agent.clone()).or_insert((epoch, node));
        if epoch < latest.0 || (epoch == latest.0 && node != latest.1) {
            let stale = format!("{agent} on {node} under {epoch} after {latest:?}");
            self.stale.push(stale);
        }
        *latest = (*latest).max((epoch, node));
    }
}

/// Agents that do nothing but act.
struct Actors {
    node: usize,
    agreed: Agreed,
    ledger: Arc<Mutex<Ledger>>,
    freezer: Arc<Mutex<Freezer>>,
    /// Dropping one ends it.
    running: Mutex<BTreeMap<AgentId, JoinSet<()>>>,
    exits: mpsc::Sender<Exit>,
}

impl Actors {
    fn end(&self, id: &AgentId) -> bool {
        self.ledger
            .lock()
            .acting
            .entry(id.clone())
            .or_default()
            .remove(&self.node);
        self.running.lock().remove(id).is_some()
    }

    async fn crash(&self, id: &AgentId) {
        if self.end(id) {
            let ended = Ended {
                reason: "killed".to_owned(),
                abnormal: true,
            };
            let _ = self
                .exits
                .send(Exit {
                    id: id.clone(),
                    ended,
                })
                .await;
        }
    }
}

impl Hosting for Actors {
    fn start<'a>(&'a self, entry: &'a Entry, _: Epoch) -> BoxFuture<'a, Result<(), String>> {
        async move {
            sleep(Duration::from_millis(10)).await;
            let (id, gate) = (entry.spec.id.clone(), self.agreed.gate());
            let (ledger, node) = (self.ledger.clone(), self.node);
            let agent = id.clone();
            let acts = async move {
                loop {
                    let may = gate.may_act(&agent);
                    if let Some(epoch) = may {
                        ledger.lock().effect(&agent, node, epoch);
                    }
                    sleep(ACT_PERIOD).await;
                }
            };
            let acts = Freezable {
                inner: Box::pin(acts),
                freezer: self.freezer.clone(),
            };
            self.ledger
                .lock()
                .acting
                .entry(id.clone())
                .or_default()
                .insert(self.node, Epoch(0));
            self.running.lock().insert(id, JoinSet::from_iter([acts]));
            Ok(())
        }
        .boxed()
    }

    fn stop<'a>(&'a self, id: &'a AgentId) -> BoxFuture<'a, ()> {
        async move {
            // What it works on takes a while to finish.
            sleep(Duration::from_millis(100)).await;
            self.end(id);
        }
        .boxed()
    }

    fn kill<'a>(&'a self, id: &'a AgentId) -> BoxFuture<'a, ()> {
        self.crash(id).boxed()
    }
}

struct Nothing;

impl Placing for Nothing {
    fn verdicts(&self, _: &Me, _: &Standing) -> BTreeMap<AgentId, Verdict> {
        BTreeMap::new()
    }

    fn is_draining(&self) -> bool {
        false
    }
}

/// A process.
struct Process {
    tasks: JoinSet<()>,
    agreed: Agreed,
    actors: Arc<Actors>,
    freezer: Arc<Mutex<Freezer>>,
    placer: Placer,
}

/// Nodes, their disks, and the network.
pub(super) struct Cluster {
    names: Vec<NodeName>,
    founders: Arc<BTreeSet<NodeName>>,
    disks: Vec<Arc<MemoryDisk>>,
    up: BTreeMap<usize, Process>,
    net: Arc<Mutex<Net>>,
    ledger: Arc<Mutex<Ledger>>,
    began: Instant,
    clock: Clock,
    seed: u64,
    /// What nodes offer from their next start on.
    offers: Mutex<Vec<Offer>>,
    /// What each says of itself, as gossip carries it.
    said: Arc<Mutex<BTreeMap<String, Placer>>>,
}

impl Cluster {
    pub(super) async fn start(seed: u64, count: usize) -> Self {
        Self::offering(seed, vec![Offer::default(); count]).await
    }

    /// A node for each offer.
    pub(super) async fn offering(seed: u64, offers: Vec<Offer>) -> Self {
        let count = offers.len();
        let names: Vec<NodeName> = (0..count)
            .map(|n| NodeName::from(["a", "b", "c", "d", "e"][n]))
            .collect();
        let net = Net {
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            inboxes: BTreeMap::new(),
            cut: BTreeSet::new(),
            unsteady: false,
            under_way: JoinSet::new(),
        };
        let mut cluster = Self {
            founders: Arc::new(names.iter().cloned().collect()),
            names,
            disks: (0..count).map(|_| Arc::default()).collect(),
            up: BTreeMap::new(),
            net: Arc::new(Mutex::new(net)),
            ledger: Arc::default(),
            began: Instant::now(),
            clock: Clock::system(),
            seed,
            offers: Mutex::new(offers),
            said: Arc::default(),
        };
        for node in 0..count {
            cluster.boot(node).await;
        }
        cluster.all_members().await;
        cluster
    }

    /// Starts a process, unless it runs.
    pub(super) async fn boot(&mut self, node: usize) {
        if self.up.contains_key(&node) {
            return;
        }
        let (began, name) = (self.began, self.names[node].clone());
        let local = LocalClock::of(move || Some(LocalTime(1 + millis(began.elapsed()))))
            .expect("a clock that can be read");
        let mut config = NodeConfig::under(AuthorityKind::Quorum);
        // These tests are about losses; that too many of them keep a node out is another's.
        config.quarantine.threshold = u64::MAX;
        let settings = Settings {
            name: name.clone(),
            founders: self.founders.clone(),
            config,
        };
        let agreed = Agreed::new(settings, self.clock, local);
        let (inbox, incoming) = mpsc::channel(1_000);
        self.net.lock().inboxes.insert(name.clone(), inbox);
        let freezer: Arc<Mutex<Freezer>> = Arc::default();
        let (exits, mut ended) = mpsc::channel(100);
        let actors = Arc::new(Actors {
            node,
            agreed: agreed.clone(),
            ledger: self.ledger.clone(),
            freezer: freezer.clone(),
            running: Mutex::default(),
            exits,
        });
        let link = Arc::new(Link {
            from: name.clone(),
            net: self.net.clone(),
        });
        let (carried, disk) = (agreed.clone(), self.disks[node].clone());
        let placer = Placer::default();
        let mut report = NodeReport::first(Life(0), "1", Offer::default());
        report.offer.clone_from(&self.offers.lock()[node]);
        placer.say(report);
        let said = self.said.clone();
        said.lock().insert(name.to_string(), placer.clone());
        let (hears, own) = (placer.clone(), name.to_string());
        let gossip = async move {
            loop {
                sleep(Duration::from_millis(200)).await;
                let said = said.lock().clone();
                let others = said.into_iter().filter(|(other, _)| *other != own);
                let heard = others.map(|(other, placer)| {
                    let report = placer.said();
                    let heard = Heard {
                        report,
                        ..Heard::of("up")
                    };
                    (other, heard)
                });
                hears.heard().replace(heard.collect());
            }
        };
        let knows = placer.clone();
        let carrier = async move {
            let ended = carried.run(disk, link, incoming, knows).await;
            panic!("a carrier ended: {ended:?}");
        };
        let director = Director {
            name: name.to_string(),
            roster: Roster::Agreed(agreed.clone()),
            hosting: actors.clone(),
            placing: Arc::new(Nothing),
            open: watch::Sender::new(true),
        };
        let directed = async move { director.run(&mut ended).await };
        let freezable = |inner: BoxFuture<'static, ()>| {
            let inner = Box::pin(inner);
            let freezer = freezer.clone();
            Freezable { inner, freezer }
        };
        let parts = [carrier.boxed(), directed.boxed(), gossip.boxed()];
        let tasks = JoinSet::from_iter(parts.map(freezable));
        let process = Process {
            tasks,
            agreed,
            actors,
            freezer: freezer.clone(),
            placer,
        };
        self.up.insert(node, process);
        tokio::task::yield_now().await;
    }

    pub(super) fn kill(&mut self, node: usize) {
        let Some(process) = self.up.remove(&node) else {
            return;
        };
        self.net.lock().inboxes.remove(&self.names[node]);
        drop(process.tasks);
        let running: Vec<AgentId> = process.actors.running.lock().keys().cloned().collect();
        for agent in running {
            process.actors.end(&agent);
        }
    }

    pub(super) fn freeze(&mut self, node: usize) {
        if let Some(process) = self.up.get(&node) {
            process.freezer.lock().frozen = true;
        }
    }

    pub(super) fn thaw(&mut self, node: usize) {
        if let Some(process) = self.up.get(&node) {
            let mut freezer = process.freezer.lock();
            freezer.frozen = false;
            freezer.wakers.drain(..).for_each(Waker::wake);
        }
    }

    pub(super) fn isolate(&mut self, node: usize) {
        self.net.lock().cut.insert(self.names[node].clone());
    }

    pub(super) fn heal(&mut self) {
        self.net.lock().cut.clear();
    }

    /// Whether links lose and delay.
    pub(super) fn unsteady(&self, unsteady: bool) {
        self.net.lock().unsteady = unsteady;
    }

    pub(super) fn is_up(&self, node: usize) -> bool {
        self.up
            .get(&node)
            .is_some_and(|process| !process.freezer.lock().frozen)
    }

    pub(super) fn name(&self, node: usize) -> String {
        self.names[node].to_string()
    }

    pub(super) fn agents(&self, node: usize) -> Agents {
        Agents::new(Roster::Agreed(self.up[&node].agreed.clone()))
    }

    pub(super) fn nodes(&self, node: usize) -> Nodes {
        let roster = Roster::Agreed(self.up[&node].agreed.clone());
        Nodes::new(
            roster,
            self.up[&node].placer.clone(),
            Exchange::new(self.clock),
        )
    }

    pub(super) fn may_act(&self, node: usize) -> bool {
        !self.up[&node].agreed.gate().left().is_zero()
    }

    pub(super) async fn create(&self, node: usize, spec: AgentSpec) {
        let made = self.agents(node).create(spec).await;
        made.expect("an agent is made");
    }

    /// Takes back whatever was noted of a node.
    pub(super) async fn release(&self, node: usize) {
        let (agreed, name) = (&self.up[&node].agreed, self.name(node));
        self.until(|| async { agreed.note(&name, None).await.is_ok() })
            .await;
    }

    /// What is noted of a node, as far as another one knows.
    pub(super) async fn noted(&self, by: usize, node: usize) -> Option<Json> {
        let standing = self.up[&by].agreed.read().await.expect("a standing");
        standing.notes.get(&self.name(node)).cloned()
    }

    /// A disk takes longer from now on, by so much.
    pub(super) fn slow_down(&self, node: usize, late: Duration) {
        *self.disks[node].late.lock() = late;
    }

    pub(super) fn crash_agent(&self, node: usize, agent: &AgentId) {
        let Some(process) = self.up.get(&node) else {
            return;
        };
        let (actors, agent) = (process.actors.clone(), agent.clone());
        let mut net = self.net.lock();
        net.under_way
            .spawn(async move { actors.crash(&agent).await });
    }

    /// Lets time pass, looking at every few milliseconds of it.
    pub(super) async fn pass(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            sleep(Duration::from_millis(10)).await;
            self.look();
        }
    }

    /// Counts nodes that may act for an agent and have it running.
    fn look(&self) {
        let mut ledger = self.ledger.lock();
        let mut overlaps = Vec::new();
        for (agent, nodes) in &ledger.acting {
            let acting = nodes.keys().filter(|node| {
                self.is_up(**node) && self.up[node].agreed.gate().may_act(agent).is_some()
            });
            let acting: Vec<&usize> = acting.collect();
            if 1 < acting.len() {
                overlaps.push(format!(
                    "{agent} on {acting:?} at {:?}",
                    self.began.elapsed()
                ));
            }
        }
        ledger.overlaps.extend(overlaps);
    }

    pub(super) async fn until<F: Future<Output = bool>>(&self, wanted: impl Fn() -> F) {
        let began = Instant::now();
        while !wanted().await {
            let waited = began.elapsed();
            assert!(
                waited < PATIENCE,
                "seed {}: not after {waited:?}: {}",
                self.seed,
                self.describe().await
            );
            self.pass(Duration::from_millis(20)).await;
        }
    }

    async fn describe(&self) -> String {
        let mut text = String::new();
        for (node, process) in &self.up {
            let standing = process.agreed.read().await;
            let running: Vec<String> = process
                .actors
                .running
                .lock()
                .keys()
                .map(ToString::to_string)
                .collect();
            text += &format!("\n{node} runs {running:?}: {standing:?}");
        }
        text
    }

    /// Where an agent acts, by itself and not somewhere else.
    fn acts_on(&self, agent: &AgentId) -> Option<usize> {
        let here = |node: &usize| {
            let process = &self.up[node];
            self.is_up(*node)
                && process.actors.running.lock().contains_key(agent)
                && process.agreed.gate().may_act(agent).is_some()
        };
        let mut acting = self.up.keys().copied().filter(here);
        acting.next()
    }

    pub(super) async fn runs_on(&self, agent: &AgentId) -> usize {
        self.until(|| async { self.acts_on(agent).is_some() }).await;
        self.acts_on(agent).expect("it acts")
    }

    pub(super) async fn runs_elsewhere(&self, agent: &AgentId, than: usize) -> usize {
        let elsewhere = || self.acts_on(agent).filter(|node| *node != than);
        self.until(|| async { elsewhere().is_some() }).await;
        elsewhere().expect("it acts")
    }

    pub(super) async fn runs_nowhere(&self, agent: &AgentId) {
        let running = |process: &Process| process.actors.running.lock().contains_key(agent);
        self.until(|| async { !self.up.values().any(running) })
            .await;
    }

    /// Waits until all nodes are members and may act.
    pub(super) async fn all_members(&self) {
        self.until(|| async {
            let mut all = self.up.len() == self.names.len();
            for process in self.up.values() {
                let standing = process.agreed.read().await.expect("a standing");
                let lives = standing.lives.values();
                let heard = lives.filter(|node| !node.left.is_zero()).count();
                all &= heard == self.names.len() && !process.agreed.gate().left().is_zero();
            }
            all
        })
        .await;
    }

    /// How many agents act on each node.
    pub(super) fn counts(&self) -> Vec<usize> {
        let count = |node: usize| {
            let process = &self.up[&node];
            let running = process.actors.running.lock();
            let acting = running
                .keys()
                .filter(|agent| process.agreed.gate().may_act(agent).is_some());
            acting.count()
        };
        (0..self.names.len()).map(count).collect()
    }

    /// Nothing was done under a stale epoch, and never did two nodes act for one agent.
    pub(super) fn calm(&self) {
        let ledger = self.ledger.lock();
        let Ledger {
            stale, overlaps, ..
        } = &*ledger;
        assert!(
            stale.is_empty() && overlaps.is_empty(),
            "seed {}: stale {stale:?}, overlaps {overlaps:?}",
            self.seed
        );
        assert!(0 < ledger.effects, "nothing was done at all");
        println!(
            "seed {}: {} effects, 0 stale, 0 instants with two owners",
            self.seed, ledger.effects
        );
    }
}
