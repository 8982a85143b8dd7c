//! An agent: one leased task at a time, run under supervision.
//!
//! The actor's mailbox never waits for work. A pump task claims, runs and settles; the
//! mailbox answers probes while it does (P6). When the work panics, the attempt is first
//! reported as failed, then the panic ends the agent: its supervisor sees the true cause.
//!
//! Crash: the work is aborted and its lease reclaimed at once, so that another agent can
//! continue it; that of a peer's task runs out. Finished steps are in the journal. Nothing of
//! the agent itself is durable.
//! Orderly stop: no further claim; the work gets a grace to finish, then its lease is
//! handed back without counting the attempt.

pub mod addressed;
pub mod behaviour;
mod pump;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use regrow_runtime::actor::{Actor, Crash, StartError};
use regrow_runtime::concurrency::Limiter;
use regrow_runtime::context::Context;
use regrow_runtime::holding::Peers;
use regrow_runtime::ids::{AgentId, Epoch};
use regrow_runtime::mailbox::{Address, Mailbox, Observation};
use regrow_runtime::queue::Queue;
use regrow_runtime::supervision::{ChildSpec, ExitReason, Shutdown};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::behaviour::Behaviour;

/// What an agent holds on to, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentLimits {
    /// Length of a lease; renewed at a third of it, at least every second. Longer tolerates slower nodes, shorter
    /// finds a dead holder sooner.
    pub lease: Duration,
    /// How long work may go on after a stop or a cancel was asked for.
    pub grace: Duration,
}

impl Default for AgentLimits {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            grace: Duration::from_secs(10),
        }
    }
}

/// Behaviour only; everything mutable lives in [`AgentState`].
pub struct Agent;

/// Says under which epoch of its owner an agent may act at the instant of asking; `None` if
/// somebody else may be acting for it.
pub type MayAct = Arc<dyn Fn() -> Option<Epoch> + Send + Sync>;

/// All an agent needs to start again from nothing.
#[derive(Clone)]
pub struct AgentArgs {
    /// Who it is.
    pub id: AgentId,
    /// What it does.
    pub behaviour: Arc<dyn Behaviour>,
    /// The kind of the tasks that are for it alone, if it can be written to.
    pub addressed: Option<Arc<str>>,
    /// Asked before each claim and each step, where the right to act can run out while the
    /// agent runs; where there is none the store refuses what comes too late.
    pub may_act: Option<MayAct>,
    /// Where its tasks come from.
    pub queue: Queue,
    /// Where else, while nothing waits there; where nodes share no database.
    pub peers: Option<Arc<dyn Peers>>,
    /// How long it may hold on.
    pub limits: AgentLimits,
    /// Set where the number of agents at work adapts to how long work takes.
    pub limiter: Option<Limiter>,
    /// What tasks share with each other and with whoever watches.
    pub context: Context,
    /// Cancelled when the node stops: the agent finishes what it has and claims no more.
    pub draining: CancellationToken,
    /// Says while the node takes work; `None`: whatever it says. While it takes none, the agent
    /// finishes what it has, and claims only what no other node can go on with.
    pub open: Option<watch::Receiver<bool>>,
}

impl AgentArgs {
    /// Whether it may act now.
    fn may_act(&self) -> bool {
        self.may_act
            .as_ref()
            .is_none_or(|may_act| may_act().is_some())
    }
}

/// What the pump and the mailbox both see.
#[derive(Debug, Default)]
pub(crate) struct Status {
    in_flight: AtomicUsize,
    progress: AtomicU64,
    doing: Mutex<Option<String>>,
}

impl Status {
    fn begin(&self, doing: String) {
        *self.doing.lock() = Some(doing);
        self.in_flight.store(1, Ordering::Relaxed);
        self.moved();
    }

    fn end(&self) {
        *self.doing.lock() = None;
        self.in_flight.store(0, Ordering::Relaxed);
        self.moved();
    }

    pub(crate) fn moved(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }
}

/// Dropping it aborts the work and gives the lease up.
pub struct AgentState {
    // The order matters: the pump is aborted before its leases are reclaimed.
    pump: JoinSet<()>,
    _leases: Reclaim,
    stopping: CancellationToken,
    draining: CancellationToken,
    status: Arc<Status>,
    limits: AgentLimits,
}

/// Gives up whatever a worker still holds.
struct Reclaim(Arc<Holder>);

impl Drop for Reclaim {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
        self.0.queue.reclaim(&self.0.name);
    }
}

/// One life of an agent, as the queue knows it.
pub(crate) struct Holder {
    queue: Queue,
    name: Arc<str>,
    over: AtomicBool,
}

impl Holder {
    /// Gives up what was claimed if the agent has ended meanwhile: its pump is being
    /// aborted, and may run once more before it notices.
    pub(crate) fn give_up_if_over(&self) -> bool {
        let over = self.over.load(Ordering::SeqCst);
        if over {
            self.queue.reclaim(&self.name);
        }
        over
    }
}

/// A fault to inject, for rehearsals of recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The agent panics.
    Panic,
    /// The agent's mailbox stops answering.
    Hang,
}

/// What an agent is told.
#[derive(Debug)]
pub enum AgentMsg {
    /// The pump ended by itself: how, if it panicked.
    PumpEnded(Option<Box<dyn Any + Send>>),
    /// Suffer a fault.
    Inject(Fault),
}

impl Actor for Agent {
    type Msg = AgentMsg;
    type Args = AgentArgs;
    type State = AgentState;

    async fn start(
        &self,
        me: &Mailbox<AgentMsg>,
        args: AgentArgs,
    ) -> Result<AgentState, StartError> {
        // A name of its own for each life: a successor must not reclaim, or be taken for,
        // its predecessor.
        let name: Arc<str> = format!("{}#{}", args.id, Uuid::now_v7().simple()).into();
        let draining = args.draining.clone();
        let stopping = draining.child_token();
        let status = Arc::new(Status::default());
        let limits = args.limits.clone();
        let holder = Arc::new(Holder {
            queue: args.queue.clone(),
            name,
            over: AtomicBool::new(false),
        });
        let leases = Reclaim(holder.clone());
        let work = pump::run(args, holder, stopping.clone(), status.clone());
        let mut pump = JoinSet::new();
        pump.spawn(watch(work, me.clone()));
        Ok(AgentState {
            pump,
            _leases: leases,
            stopping,
            draining,
            status,
            limits,
        })
    }

    async fn handle(
        &self,
        _: &Mailbox<AgentMsg>,
        msg: AgentMsg,
        state: &mut AgentState,
    ) -> Result<(), Crash> {
        match msg {
            AgentMsg::PumpEnded(Some(panic)) => std::panic::resume_unwind(panic),
            AgentMsg::PumpEnded(None) if state.draining.is_cancelled() => Ok(()),
            AgentMsg::PumpEnded(None) => Err(Crash::new("the queue was closed")),
            AgentMsg::Inject(fault) => suffer(fault).await,
        }
    }

    async fn stop(&self, _: &Mailbox<AgentMsg>, state: &mut AgentState, _: &ExitReason) {
        state.stopping.cancel();
        let all_over = async { while state.pump.join_next().await.is_some() {} };
        // The pump keeps to the grace itself; this only bounds its last words.
        let patience = state.limits.grace + Duration::from_secs(2);
        let _ = tokio::time::timeout(patience, all_over).await;
    }

    fn observe(&self, state: &AgentState) -> Observation {
        Observation {
            in_flight: state.status.in_flight.load(Ordering::Relaxed),
            progress: state.status.progress.load(Ordering::Relaxed),
            detail: state.status.doing.lock().clone(),
        }
    }
}

/// Runs the pump and tells the agent when it ends on its own.
async fn watch(work: impl Future<Output = ()> + Send + 'static, me: Mailbox<AgentMsg>) {
    let mut pump = JoinSet::from_iter([work]);
    let panic = match pump.join_next().await {
        Some(Err(error)) if error.is_panic() => Some(error.into_panic()),
        _ => None,
    };
    // Refused only when the agent is ending anyway.
    let _ = me.try_send_control(AgentMsg::PumpEnded(panic));
}

#[expect(clippy::panic, reason = "a rehearsed panic has to be a real one")]
async fn suffer(fault: Fault) -> Result<(), Crash> {
    match fault {
        Fault::Panic => panic!("rehearsed panic"),
        // What no handler may do: wait without end.
        Fault::Hang => std::future::pending().await,
    }
}

/// The agent as a permanent child, stopped within its grace.
#[must_use]
pub fn child_spec(address: &Address<AgentMsg>, args: AgentArgs) -> ChildSpec {
    let patience = args.limits.grace + Duration::from_secs(4);
    let (id, role) = (args.id.clone(), args.behaviour.role());
    ChildSpec::actor(&id, address, move || (Agent, args.clone()))
        .role(role.as_str())
        .shutdown(Shutdown::Timeout(patience))
}
