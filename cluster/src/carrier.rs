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
mod keeping;
mod standing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
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
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tracing::{info, warn};

pub use self::clock::{ClockUnreadable, Gate, LocalClock};
use self::desk::Desk;
pub use self::disk::{Disk, StoreDisk};
use self::frame::Frame;
use self::keeping::Saved;
use self::standing::Rendered;
use crate::entry::Entry;
use crate::local_time::LocalTime;
use crate::member::{Incarnation, Member, NodeName};
use crate::node::{Command, Node, NodeConfig, Stands};
use crate::notes::Notes;
use crate::placing::Placer;
use crate::spec_registry::{Digest, Version};

/// How often the core is given time at least: some times per `stable_after`.
const TICK: Duration = Duration::from_millis(250);
/// Orders that may wait for the carrier.
const ORDERS_MAX: usize = 1_024;
/// Longest wait for the carrier itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
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
    /// The machine's clock cannot be read any more: nothing can be said to be in time.
    Timeless,
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
    let_in: AtomicBool,
    orders: mpsc::Sender<Order>,
    waiting: Mutex<mpsc::Receiver<Order>>,
    changed: watch::Sender<()>,
}

enum Order {
    Read(oneshot::Sender<Standing>),
    Decision(AgentId, oneshot::Sender<Option<Json>>),
    Change(AgentChange, oneshot::Sender<Result<Changed, StoreError>>),
    Note(
        NodeName,
        Option<Json>,
        oneshot::Sender<Result<(), StoreError>>,
    ),
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
            let_in: AtomicBool::new(false),
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

    /// Whether the others agreed upon this node's present life as a member: it counts, and another
    /// one may be missed.
    #[must_use]
    pub fn is_let_in(&self) -> bool {
        self.0.let_in.load(Ordering::SeqCst)
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

    /// Why an agent is where it is, or goes where it is to go, as it was decided.
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`] while no carrier runs.
    pub async fn decision(&self, agent: &AgentId) -> Result<Option<Json>, StoreError> {
        let (answer, decision) = oneshot::channel();
        self.order(Order::Decision(agent.clone(), answer), decision)
            .await
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

    /// Notes something of a node for all to see; `None` forgets it. When it returns, it is on this
    /// node's disk, and a quorum knows.
    ///
    /// # Errors
    ///
    /// [`StoreError::Failed`] without a quorum; it may have been noted.
    pub async fn note(&self, node: &str, note: Option<Json>) -> Result<(), StoreError> {
        let (answer, noted) = oneshot::channel();
        self.order(Order::Note(node.into(), note, answer), noted)
            .await?
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

    /// Carries until it ends. Only one of a handle runs at a time; a later one is a new life. The
    /// placer knows what nodes say of themselves, and says of this one which life it is.
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
        placer: Placer,
    ) -> Result<Ended, StoreError> {
        let mut orders = self.0.waiting.lock().await;
        let _closing = Closing(&self.0);
        let mut carrying = Carrying::begin(self, disk, carriage, placer).await?;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            match self.0.local.now() {
                Some(now) => carrying.read_at = now,
                None => return Ok(Ended::Timeless),
            }
            // Time first: who stood still learns what it may not do any more before it hears
            // what others said meanwhile.
            let due = carrying.due();
            tokio::select! {
                biased;
                _ = tick.tick() => carrying.tick(),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    carrying.tick();
                }
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
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.gate.set(None, BTreeMap::new());
        self.0.let_in.store(false, Ordering::SeqCst);
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

/// What a node has, as far as others are told when it changes.
#[derive(Default)]
struct Summary {
    hosted: Vec<(AgentId, Epoch, Stands)>,
    acts: bool,
    notes: Arc<Notes>,
    specs: Arc<Digest>,
}

impl Summary {
    fn is_news(&self, told: &Self) -> bool {
        !Arc::ptr_eq(&self.specs, &told.specs)
            || self.acts != told.acts
            || self.hosted != told.hosted
            || (!Arc::ptr_eq(&self.notes, &told.notes) && self.notes != told.notes)
    }
}

/// A carrier that runs.
struct Carrying {
    shared: Arc<Shared>,
    node: Node,
    rng: Xoshiro256PlusPlus,
    carriage: Arc<dyn Carriage>,
    disk: Arc<dyn Disk>,
    placer: Placer,
    desk: Desk,
    /// Agents that this life runs or ran and has not given back.
    ran: BTreeSet<AgentId>,
    /// What is on disk.
    kept: BTreeMap<AgentId, Version>,
    kept_notes: Notes,
    kept_life: Incarnation,
    saving: JoinSet<Saved>,
    /// Entries as JSON, by the version that it is of.
    rendered: Rendered,
    not_before: LocalTime,
    /// What the clock showed when it was read last.
    read_at: LocalTime,
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
        placer: Placer,
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
        let now = shared.local.now().unwrap_or_default();
        let mut node = Node::new(me, config, founders, left.specs, now);
        node.learn_notes(&left.notes);
        let carrying = Self {
            rng: Xoshiro256PlusPlus::seed_from_u64(now.0),
            looked: node.digest(),
            node,
            carriage,
            disk,
            placer,
            desk: Desk::of(left.incarnation),
            ran: BTreeSet::new(),
            kept,
            kept_notes: left.notes,
            kept_life: left.incarnation,
            saving: JoinSet::new(),
            rendered: Rendered::new(),
            not_before: now,
            read_at: now,
            told: Summary::default(),
            replaced: false,
            shared,
        };
        carrying.name_life();
        Ok(carrying)
    }

    /// What the clock shows now; what it showed before this event, if it cannot be read, which
    /// ends the carrier after it. The gate reads for itself.
    fn now(&self) -> LocalTime {
        self.shared.local.now().unwrap_or(self.read_at)
    }

    /// When the core is to be given time, if that is before the next tick.
    fn due(&self) -> Option<Instant> {
        let now = self.now();
        let left = self.node.due(now)?.since(now);
        (left < TICK).then(|| Instant::now() + left)
    }

    fn tick(&mut self) {
        self.learn_facts();
        let commands = self.node.tick(self.now(), &mut self.rng);
        self.obey(commands);
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
            } => self.answered(from, number, outcome, entry),
        }
    }

    fn ordered(&mut self, order: Order) {
        match order {
            Order::Read(answer) => {
                // Whoever asked may have stopped waiting.
                let _ = answer.send(self.standing());
            }
            Order::Decision(agent, answer) => drop(answer.send(self.decision(&agent))),
            Order::Change(change, answer) => self.asked_here(change, answer),
            Order::Note(node, note, answer) => self.asked_to_note(node, note.as_ref(), answer),
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
                // The director stops it, and says when nothing of it runs here. What has moved is
                // another's: if it comes back, then anew.
                Command::Stop { agent } => {
                    if self.node.stands(&agent).is_none() {
                        self.ran.remove(&agent);
                    }
                }
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
            notes: self.node.shared_notes(),
            specs: self.node.digest(),
        };
        let open = summary
            .hosted
            .iter()
            .filter(|(agent, ..)| self.node.may_act(agent, now).is_some());
        let open = open.map(|(agent, epoch, _)| (agent.clone(), *epoch));
        self.shared.gate.set(self.node.acts_until(), open.collect());
        let is_let_in = self.node.membership().is_let_in() && !self.replaced;
        self.shared.let_in.store(is_let_in, Ordering::SeqCst);
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
        let life = self.node.life_of(self.node.me());
        self.shared.life.store(life.0, Ordering::SeqCst);
        self.placer.live(life);
    }
}

#[cfg(test)]
mod tests;
