//! The carrier of a node without a database: owns its [core](crate::node), gives it time and
//! messages, and carries its commands out.
//!
//! ```text
//! peers ── bytes ─▶ ┌─────────┐ ── bytes ─▶ peers          (a Carriage: the gateway, or a test)
//! clock ──────────▶ │  core   │ ── documents ─▶ disk       (specifications, notes, life)
//! director, people ▶└─────────┘ ── gate ─▶ agents          (may this be done now?)
//! ```
//!
//! One task, which waits for nobody: what takes long (disk, other nodes) comes back as an
//! event. What others see of it is [`Agreed`], which answers as the registry of a store does,
//! so that director, operators' surface and demonstration are the same with and without a
//! database.
//!
//! Crash: the gate closes, and the next run is a new life with what is on disk. Whoever waited
//! is told that nothing is known of what he asked for.

mod clock;
mod desk;
mod disk;
mod frame;
mod hosting;
mod standing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use regrow_runtime::clock::Clock;
use regrow_runtime::ids::{AgentId, Epoch};
use regrow_runtime::json::Json;
use regrow_runtime::registry::{AgentChange, Changed, Life, Standing};
use regrow_runtime::store::StoreError;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

pub use self::clock::{Gate, LocalClock};
use self::desk::Desk;
pub use self::disk::{Disk, StoreDisk};
use self::frame::Frame;
use crate::entry::Entry;
use crate::local_time::LocalTime;
use crate::member::{Incarnation, Member, NodeName};
use crate::node::{Command, Node, NodeConfig, Stands};
use crate::notes::Notes;
use crate::spec_registry::{Digest, Version};

/// How often the core is given time: some times per `stable_after`.
const TICK: Duration = Duration::from_millis(250);
/// Orders that may wait for the carrier.
const ORDERS_MAX: usize = 1_024;
/// Longest wait for the carrier itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after the disk could not be written.
const DISK_PAUSE: Duration = Duration::from_millis(500);
/// Frames handled before the clock is looked at again.
const FRAMES_AT_ONCE: usize = 64;

/// Carries bytes to other nodes: at most once, in any order, without saying whether they came.
pub trait Carriage: Send + Sync + 'static {
    /// Sends. Never waits; what cannot be sent now is dropped.
    fn cast(&self, to: &NodeName, bytes: Bytes);
}

/// Who a node is among which others.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name.
    pub name: NodeName,
    /// All nodes that may ever act, this one among them.
    pub founders: Arc<BTreeSet<NodeName>>,
    /// How it behaves, under a quorum.
    pub config: NodeConfig,
}

/// Why a carrier ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A newer life of this node is somewhere else: this process may not go on.
    Replaced,
    /// Nothing arrives any more: what carries messages has ended.
    Deaf,
}

/// What nodes without a database agreed upon: the same questions as a store's registry takes,
/// and the gate for effects. Cheap to clone.
#[derive(Clone)]
pub struct Agreed(Arc<Shared>);

struct Shared {
    settings: Settings,
    clock: Clock,
    local: LocalClock,
    gate: Arc<Gate>,
    life: AtomicU64,
    holds: AtomicUsize,
    orders: mpsc::Sender<Order>,
    waiting: Mutex<mpsc::Receiver<Order>>,
    changed: watch::Sender<()>,
}

enum Order {
    Read(oneshot::Sender<Standing>),
    Change(AgentChange, oneshot::Sender<Result<Changed, StoreError>>),
    Note(NodeName, Option<Json>, oneshot::Sender<()>),
    /// What of the cluster's agents runs here, or is about to.
    Runs(BTreeSet<AgentId>),
}

impl Agreed {
    /// What a carrier with these settings will agree upon, once it [runs](Self::run).
    #[must_use]
    pub fn new(settings: Settings, clock: Clock, local: LocalClock) -> Self {
        let (orders, waiting) = mpsc::channel(ORDERS_MAX);
        Self(Arc::new(Shared {
            gate: Arc::new(Gate::new(local.clone())),
            settings,
            clock,
            local,
            life: AtomicU64::new(0),
            holds: AtomicUsize::new(0),
            orders,
            waiting: Mutex::new(waiting),
            changed: watch::Sender::new(()),
        }))
    }

    /// What effects of agents ask.
    #[must_use]
    pub fn gate(&self) -> Arc<Gate> {
        self.0.gate.clone()
    }

    /// This node's name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.0.settings.name
    }

    /// How many agents this node has, those included that are on their way to it or from it.
    #[must_use]
    pub fn holds(&self) -> usize {
        self.0.holds.load(Ordering::SeqCst)
    }

    /// The nodes that may ever act.
    #[must_use]
    pub fn founders(&self) -> &BTreeSet<NodeName> {
        &self.0.settings.founders
    }

    /// The clock of entries.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.0.clock
    }

    /// This node's present life, as a number that is no other node's.
    #[must_use]
    pub fn life(&self) -> Life {
        Life(self.0.life.load(Ordering::SeqCst))
    }

    /// Who is there, and who has which agents, as this node knows.
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`] while no carrier runs.
    pub async fn read(&self) -> Result<Standing, StoreError> {
        let (answer, standing) = oneshot::channel();
        self.order(Order::Read(answer), standing).await
    }

    /// Changes what is known of an agent, or gives one away; decided on the revision that was
    /// read. When it returns, a quorum knows, or the hand-off is over.
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`] without a quorum; the change may have been made.
    pub async fn change(&self, change: &AgentChange) -> Result<Changed, StoreError> {
        let (answer, changed) = oneshot::channel();
        let moves = matches!(change.change, regrow_runtime::registry::Change::Give { .. });
        let order = Order::Change(change.clone(), answer);
        if moves {
            // It ends by itself, at the latest when its patience does.
            if self.0.orders.send(order).await.is_err() {
                return Err(StoreError::Closed);
            }
            return changed.await.unwrap_or(Err(silent()));
        }
        self.order(order, changed).await?
    }

    /// Notes something of a node for all to see; `None` forgets it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`] while no carrier runs.
    pub async fn note(&self, node: &str, note: Option<Json>) -> Result<(), StoreError> {
        let (answer, noted) = oneshot::channel();
        self.order(Order::Note(node.into(), note, answer), noted)
            .await
    }

    /// Says what runs here, or is about to: what does not can be given back.
    pub fn runs(&self, agents: BTreeSet<AgentId>) {
        // Said again with the next look.
        let _ = self.0.orders.try_send(Order::Runs(agents));
    }

    /// Hears of changes.
    #[must_use]
    pub fn hearing(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    async fn order<T>(&self, order: Order, answer: oneshot::Receiver<T>) -> Result<T, StoreError> {
        let answered = async {
            self.0.orders.send(order).await.ok()?;
            answer.await.ok()
        };
        let answered = timeout(ANSWER_TIMEOUT, answered).await;
        answered.ok().flatten().ok_or_else(silent)
    }

    /// Carries until it ends. Only one of a handle runs at a time; a later one is a new life.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if what an earlier process left cannot be read.
    ///
    /// Dropped, the gate is closed and everything that is not on disk is forgotten.
    pub async fn run(
        &self,
        disk: Arc<dyn Disk>,
        carriage: Arc<dyn Carriage>,
        mut incoming: mpsc::Receiver<(NodeName, Bytes)>,
    ) -> Result<Ended, StoreError> {
        let mut orders = self.0.waiting.lock().await;
        let _closing = Closing(&self.0.gate);
        let mut carrying = Carrying::begin(self, disk, carriage).await?;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Time first: who stood still learns what it may not do any more before it hears
            // what others said meanwhile.
            tokio::select! {
                biased;
                _ = tick.tick() => carrying.tick(),
                Some(saved) = carrying.saving.join_next() => carrying.saved(saved),
                frame = incoming.recv() => {
                    let Some((from, bytes)) = frame else {
                        return Ok(Ended::Deaf);
                    };
                    carrying.arrived(&from, &bytes);
                    for _ in 1..FRAMES_AT_ONCE {
                        let Ok((from, bytes)) = incoming.try_recv() else { break };
                        carrying.arrived(&from, &bytes);
                    }
                }
                Some(order) = orders.recv() => carrying.ordered(order),
            }
            carrying.save();
            carrying.settle();
            carrying.publish();
            if carrying.replaced {
                return Ok(Ended::Replaced);
            }
        }
    }
}

/// Nothing may be done when nobody carries.
struct Closing<'a>(&'a Gate);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.set(None, BTreeMap::new());
    }
}

/// The carrier did not answer.
fn silent() -> StoreError {
    StoreError::Failed {
        attempt: "reach what the nodes agreed upon",
        cause: "the cluster's part of this node is starting, or was restarted; try again".into(),
    }
}

/// The entry of an agent that came as JSON.
fn entry_of(entry: &Json) -> Option<Entry> {
    entry.decode().ok()
}

/// What was written to disk.
struct Saved {
    specs: Vec<(AgentId, Version)>,
    notes: Notes,
    life: Incarnation,
    outcome: Result<(), StoreError>,
}

/// What a node has, as far as others are told when it changes.
#[derive(Default)]
struct Summary {
    hosted: Vec<(AgentId, Epoch, Stands)>,
    acts: bool,
    notes: Notes,
    specs: Arc<Digest>,
}

impl Summary {
    fn is_news(&self, told: &Self) -> bool {
        !Arc::ptr_eq(&self.specs, &told.specs)
            || self.acts != told.acts
            || self.hosted != told.hosted
            || self.notes != told.notes
    }
}

/// A carrier that runs.
struct Carrying {
    shared: Arc<Shared>,
    node: Node,
    rng: Xoshiro256PlusPlus,
    carriage: Arc<dyn Carriage>,
    disk: Arc<dyn Disk>,
    desk: Desk,
    /// Agents that this life runs or ran and has not given back.
    ran: BTreeSet<AgentId>,
    /// What is on disk.
    kept: BTreeMap<AgentId, Version>,
    kept_notes: Notes,
    kept_life: Incarnation,
    saving: JoinSet<Saved>,
    not_before: LocalTime,
    /// Which specifications were looked at for saving.
    looked: Arc<Digest>,
    /// What others heard of last.
    told: Summary,
    replaced: bool,
}

impl Carrying {
    async fn begin(
        agreed: &Agreed,
        disk: Arc<dyn Disk>,
        carriage: Arc<dyn Carriage>,
    ) -> Result<Self, StoreError> {
        let shared = agreed.0.clone();
        let left = disk::begin(&disk, shared.clock.now()).await?;
        let Settings {
            name,
            founders,
            config,
        } = shared.settings.clone();
        let me = Member {
            name,
            incarnation: left.incarnation,
        };
        info!(%me, founders = founders.len(), "asking to be let in");
        let kept = left.specs.digest();
        let now = shared.local.now();
        let mut node = Node::new(me, config, founders, left.specs, now);
        node.learn_notes(&left.notes);
        let carrying = Self {
            rng: Xoshiro256PlusPlus::seed_from_u64(now.0),
            looked: node.digest(),
            node,
            carriage,
            disk,
            desk: Desk::default(),
            ran: BTreeSet::new(),
            kept,
            kept_notes: left.notes,
            kept_life: left.incarnation,
            saving: JoinSet::new(),
            not_before: now,
            told: Summary::default(),
            replaced: false,
            shared,
        };
        carrying.name_life();
        Ok(carrying)
    }

    /// What the clock shows now.
    fn now(&self) -> LocalTime {
        self.shared.local.now()
    }

    fn tick(&mut self) {
        let commands = self.node.tick(self.now(), &mut self.rng);
        self.obey(commands);
        self.say_again();
    }

    fn arrived(&mut self, from: &NodeName, bytes: &[u8]) {
        let frame = match frame::decode(bytes, self.shared.clock.now()) {
            Ok(frame) => frame,
            Err(reason) => return warn!(node = %from, %reason, "cannot read what a node sent"),
        };
        match frame {
            Frame::Core(message) if message.tidings.from.name == *from => {
                let commands = self.node.hear(*message, self.now());
                self.obey(commands);
            }
            Frame::Core(message) => {
                let claims = &message.tidings.from;
                warn!(node = %from, %claims, "a node speaks for another; not heard");
            }
            Frame::Ask { number, asked } => self.asked_there(from.clone(), number, asked),
            Frame::Answer {
                number,
                outcome,
                entry,
            } => self.answered(number, outcome, entry),
        }
    }

    fn ordered(&mut self, order: Order) {
        match order {
            Order::Read(answer) => {
                // Whoever asked may have stopped waiting.
                let _ = answer.send(self.standing());
            }
            Order::Change(change, answer) => self.asked_here(change, answer),
            Order::Note(node, note, answer) => {
                self.noted(&node, note.as_ref());
                let _ = answer.send(());
            }
            Order::Runs(agents) => self.runs(&agents),
        }
    }

    /// Carries commands out, and those that follow from them.
    fn obey(&mut self, commands: Vec<Command>) {
        let mut commands = VecDeque::from(commands);
        while let Some(command) = commands.pop_front() {
            match command {
                Command::Send { to, message } => self.cast(&to, Frame::Core(message)),
                Command::Start { agent, epoch } => commands.extend(self.got(&agent, epoch)),
                Command::Prepare { agent, snapshot } => {
                    // What the source knows of it, so that whoever gets it knows no less.
                    let now = self.shared.clock.now();
                    if let Some(entry) = frame::from_snapshot(&snapshot, now) {
                        self.node.learn_specs([(agent, entry)]);
                    }
                }
                Command::Snapshot { agent } => {
                    let now = self.shared.clock.now();
                    let entry = self.node.specs().entry(&agent);
                    let snapshot = entry.map(|entry| frame::snapshot(entry, now));
                    let taken =
                        self.node
                            .snapshot_taken(&agent, snapshot.unwrap_or_default(), self.now());
                    commands.extend(taken);
                }
                // The director stops it, and says when nothing of it runs here.
                Command::Stop { .. } => {}
                Command::Returned(me) => {
                    warn!(%me, "the others went on without this node; it comes back as a new life");
                    self.ran.clear();
                    self.name_life();
                }
                Command::Exit => self.replaced = true,
                Command::Ask(question) => {
                    debug_assert!(false, "there is no database to ask {question:?}");
                }
            }
        }
    }

    fn cast(&self, to: &NodeName, frame: Frame) {
        if let Some(bytes) = frame::encode(frame, self.shared.clock.now()) {
            self.carriage.cast(to, bytes.into());
        }
    }

    /// Begins to write what is not on disk, unless something is being written.
    fn save(&mut self) {
        let now = self.now();
        if !self.saving.is_empty() || now < self.not_before {
            return;
        }
        let (notes, life) = (self.node.notes(), self.node.me().incarnation);
        let mut documents = Vec::new();
        let mut specs = Vec::new();
        let digest = self.node.digest();
        if !Arc::ptr_eq(&self.looked, &digest) {
            for (agent, entry) in self.node.specs().entries() {
                if self.kept.get(agent) != Some(&entry.version) {
                    documents.push(disk::spec(agent, entry));
                    specs.push((agent.clone(), entry.version.clone()));
                }
            }
            self.looked = digest;
        }
        if *notes != self.kept_notes {
            documents.push(disk::notes(notes));
        }
        if life != self.kept_life {
            documents.push(disk::life(life));
        }
        if documents.is_empty() {
            return;
        }
        let (disk, notes) = (self.disk.clone(), notes.clone());
        self.saving.spawn(async move {
            let outcome = disk.save(documents).await;
            Saved {
                specs,
                notes,
                life,
                outcome,
            }
        });
    }

    fn saved(&mut self, saved: Result<Saved, tokio::task::JoinError>) {
        match saved {
            Ok(Saved {
                outcome: Ok(()),
                specs,
                notes,
                life,
            }) => {
                self.kept.extend(specs);
                self.kept_notes = notes;
                self.kept_life = life;
                return;
            }
            Ok(Saved {
                outcome: Err(reason),
                ..
            }) => warn!(%reason, "cannot keep what the cluster knows; trying again"),
            Err(error) => warn!(%error, "keeping what the cluster knows failed; trying again"),
        }
        // Looked at again as a whole.
        self.looked = Arc::default();
        self.not_before = self.now().after(DISK_PAUSE);
    }

    /// Whether this version of what is known of an agent, or a later one, is on disk.
    fn kept(&self, agent: &AgentId, version: &Version) -> bool {
        self.kept.get(agent).is_some_and(|kept| version <= kept)
    }

    /// Opens and closes the gate, and says if anything is new.
    fn publish(&mut self) {
        let now = self.now();
        let summary = Summary {
            hosted: self
                .node
                .hosted()
                .map(|(agent, epoch, stands)| (agent.clone(), epoch, stands))
                .collect(),
            acts: self.node.is_authorised(now),
            notes: self.node.notes().clone(),
            specs: self.node.digest(),
        };
        let open = summary
            .hosted
            .iter()
            .filter(|(agent, ..)| self.node.may_act(agent, now).is_some());
        let open = open.map(|(agent, epoch, _)| (agent.clone(), *epoch));
        self.shared.gate.set(self.node.acts_until(), open.collect());
        if summary.is_news(&self.told) {
            if summary.acts != self.told.acts {
                info!(acts = summary.acts, me = %self.node.me(), "the right to act changed");
            }
            let holds = summary.hosted.len();
            self.shared.holds.store(holds, Ordering::SeqCst);
            self.told = summary;
            self.shared.changed.send_replace(());
        }
    }

    /// This life's number, and this node's place among the founders.
    fn name_life(&self) {
        let life = self.life_of(self.node.me());
        self.shared.life.store(life.0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests;
