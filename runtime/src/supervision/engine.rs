//! Every decision of a supervisor, as a function of events and time (pure).
//!
//! `engine.on(event, now)` returns the commands to carry out; the driver carries them out
//! and reports what came of it as further events. Nothing here waits, spawns or reads a
//! clock, so a supervisor can be asked, told to stop a child in backoff, or shut down in the
//! middle of a restart cycle.
//!
//! Invariants, held by the property tests: at most one life per child; lives end in reverse
//! start order when a supervisor or a group stops, one at a time; nothing runs after
//! `Exit`; an event of an earlier life changes nothing; each event costs O(log n), a group
//! restart O(group).
//!
//! The meaning is that of OTP 27's `supervisor.erl`, with three additions: a backoff, a
//! bounded wait for killed children, and requests that are answered during restarts.
//!
//! - `cycle`: booting, group restarts and shutdown, one step at a time
//! - `life`: beginning and ending single lives
//! - `fate`: what follows when a life ends or a start fails
//! - `request`: what operators may ask

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::child_spec::{ChildId, ChildSpec};
use super::exit::{ExitReason, ShutdownCause};
use super::lifecycle::{Change, Notice};
use super::restart_intensity::RestartIntensity;
use super::strategy::Restart;
use super::supervisor_spec::Policy;
use super::tree::NodeState;
use crate::actor::StartError;

mod cycle;
mod fate;
#[cfg(test)]
mod laws;
mod life;
mod request;
#[cfg(test)]
mod tests;

use cycle::Mode;
pub use request::Refusal;
pub(super) use request::{Outcome, Request, Ticket};

/// Names a child for one supervisor's life; in start order, never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ChildKey(u64);

/// One life of one child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Life {
    pub(super) key: ChildKey,
    pub(super) generation: u64,
}

/// What happened.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The supervisor itself begins; once, first.
    Boot,
    /// A start succeeded.
    Started(Life),
    /// A start failed or was cancelled; nothing of it runs.
    StartFailed(Life, StartError),
    /// A started life is gone.
    Exited(Life, ExitReason),
    /// `next_deadline` has come.
    DeadlinePassed,
    /// Somebody asks.
    Request(Ticket, Request),
    /// The supervisor itself is asked to end.
    Stop,
    /// The supervisor itself is killed.
    Kill,
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Call the child's start; report `Started` or `StartFailed`.
    Start(Life),
    /// Call a start off; it still reports.
    CancelStart(Life),
    /// Ask a life to end.
    Stop(Life),
    /// Kill a life.
    Kill(Life),
    /// A life is gone, or given up as gone, for this reason.
    Ended(Life, ExitReason),
    /// The child's line in the tree has changed.
    Show(ChildKey),
    /// The child and its spec are gone.
    Forget(ChildKey),
    /// Answer a request.
    Reply(Ticket, Outcome),
    /// Tell the world.
    Announce(Notice),
    /// All first children run.
    Booted,
    /// Nothing runs any more; end for this reason. The last command ever.
    Exit(ExitReason),
}

/// Why a start is under way, or will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// The supervisor's own start.
    Boot,
    /// A request; `fresh` when it brought the spec.
    Request { ticket: Ticket, fresh: bool },
    /// A restart.
    Recover,
}

/// What an end was for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Goal {
    /// Stay down until told otherwise.
    Remain,
    /// Treat the kill like a crash.
    Revive,
    /// Start again without counting.
    Renew,
    /// Part of a group restart; afterwards held for this purpose.
    Cycle(Purpose),
    /// The supervisor ends.
    Shutdown,
    /// The start took too long.
    FailStart(Purpose, StartError),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// Not running; its spec is kept.
    Idle,
    /// Waits for its turn in a boot or a group restart.
    Held(Purpose),
    /// Waits out its delay, until the deadline.
    BackingOff,
    /// Its start is running, until the deadline.
    Starting(Purpose),
    Running,
    /// Asked to end (`killed: false`) or killed, until the deadline. `started` is false for a
    /// start that is being called off.
    Ending {
        goal: Goal,
        started: bool,
        killed: bool,
    },
}

struct Child {
    spec: Arc<ChildSpec>,
    generation: u64,
    phase: Phase,
    deadline: Option<Instant>,
    /// Failures in a row, for the backoff.
    streak: u32,
    restarts: u64,
    up_since: Option<Instant>,
    /// When and how the last life ended, for the report of the restart.
    down_since: Option<Instant>,
    last_reason: Option<ExitReason>,
}

/// A supervisor's mind.
pub(super) struct Engine {
    path: Arc<str>,
    policy: Policy,
    intensity: RestartIntensity,
    rng: SmallRng,
    mode: Mode,
    next_key: u64,
    children: BTreeMap<ChildKey, Child>,
    keys: HashMap<ChildId, ChildKey>,
    /// Children in `Starting`, `Running` or `Ending`.
    alive: BTreeSet<ChildKey>,
    /// Children in `Held`.
    held: BTreeSet<ChildKey>,
    deadlines: BTreeSet<(Instant, ChildKey)>,
    /// Who waits for a child's end.
    waiting: HashMap<ChildKey, Vec<Ticket>>,
    /// Ends during the boot, decided after it.
    deferred: Vec<(ChildKey, ExitReason)>,
    commands: Vec<Command>,
}

impl Engine {
    /// `first` must be valid and without duplicates.
    pub(super) fn new(path: Arc<str>, policy: Policy, first: &[ChildSpec], seed: u64) -> Self {
        let intensity = RestartIntensity::new(policy.restarts_max, policy.period);
        let mut engine = Self {
            path,
            policy,
            intensity,
            rng: SmallRng::seed_from_u64(seed),
            mode: Mode::New,
            next_key: 1,
            children: BTreeMap::new(),
            keys: HashMap::new(),
            alive: BTreeSet::new(),
            held: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            waiting: HashMap::new(),
            deferred: Vec::new(),
            commands: Vec::new(),
        };
        for spec in first {
            engine.adopt(Arc::new(spec.clone()), Purpose::Boot);
        }
        engine
    }

    /// Takes one event and returns what is to be done. `now` never runs backwards.
    pub(super) fn on(&mut self, event: Event, now: Instant) -> Vec<Command> {
        match event {
            Event::Boot => self.boot(),
            Event::Started(life) => self.started(life, now),
            Event::StartFailed(life, error) => self.start_reported_failed(life, error, now),
            Event::Exited(life, reason) => self.exited(life, reason, now),
            Event::DeadlinePassed => self.deadlines_passed(now),
            Event::Request(ticket, request) => self.request(ticket, request, now),
            Event::Stop => {
                self.begin_stopping(ExitReason::Shutdown(ShutdownCause::Requested));
            }
            Event::Kill => self.kill_everything(now),
        }
        self.advance(now);
        std::mem::take(&mut self.commands)
    }

    /// When to report [`Event::DeadlinePassed`].
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Whether a start that has come through is still this child's current life. If not, it
    /// must be killed, not reported.
    pub(super) fn awaits_start(&self, life: Life) -> bool {
        self.children.get(&life.key).is_some_and(|child| {
            child.generation == life.generation
                && matches!(
                    child.phase,
                    Phase::Starting(_) | Phase::Ending { started: false, .. }
                )
        })
    }

    pub(super) fn spec(&self, key: ChildKey) -> Option<&Arc<ChildSpec>> {
        self.children.get(&key).map(|child| &child.spec)
    }

    /// State, generation and restarts of a child, as the tree shows them.
    pub(super) fn view(&self, key: ChildKey) -> Option<(NodeState, u64, u64)> {
        self.children
            .get(&key)
            .map(|child| (child.state(), child.generation, child.restarts))
    }

    pub(super) fn children(&self) -> impl Iterator<Item = (&Arc<ChildSpec>, NodeState)> {
        self.children
            .values()
            .map(|child| (&child.spec, child.state()))
    }

    /// Children whose life is beginning or ending right now, and restarts so far.
    pub(super) fn in_motion(&self) -> usize {
        self.held.len() + self.deadlines.len()
    }

    fn adopt(&mut self, spec: Arc<ChildSpec>, purpose: Purpose) -> ChildKey {
        let key = ChildKey(self.next_key);
        self.next_key += 1;
        self.keys.insert(spec.id.clone(), key);
        let child = Child {
            spec,
            generation: 0,
            phase: Phase::Held(purpose),
            deadline: None,
            streak: 0,
            restarts: 0,
            up_since: None,
            down_since: None,
            last_reason: None,
        };
        self.children.insert(key, child);
        self.held.insert(key);
        key
    }

    fn forget(&mut self, key: ChildKey) {
        self.set(key, Phase::Idle, None);
        if let Some(child) = self.children.remove(&key) {
            self.keys.remove(&child.spec.id);
            self.commands.push(Command::Forget(key));
        }
    }

    fn phase(&self, key: ChildKey) -> Option<&Phase> {
        self.children.get(&key).map(|child| &child.phase)
    }

    /// The one place where a phase changes, so that the indexes always agree with it.
    fn set(&mut self, key: ChildKey, phase: Phase, deadline: Option<Instant>) {
        let Some(child) = self.children.get_mut(&key) else {
            return;
        };
        if let Some(old) = child.deadline.take() {
            self.deadlines.remove(&(old, key));
        }
        if let Some(at) = deadline {
            child.deadline = Some(at);
            self.deadlines.insert((at, key));
        }
        let (alive, held) = match phase {
            Phase::Idle | Phase::BackingOff => (false, false),
            Phase::Held(_) => (false, true),
            Phase::Starting(_) | Phase::Running | Phase::Ending { .. } => (true, false),
        };
        if alive {
            self.alive.insert(key)
        } else {
            self.alive.remove(&key)
        };
        if held {
            self.held.insert(key)
        } else {
            self.held.remove(&key)
        };
        child.phase = phase;
        self.commands.push(Command::Show(key));
    }

    fn announce(&mut self, key: ChildKey, change: Change) {
        if let Some(child) = self.children.get(&key) {
            let notice = Notice {
                child: child.spec.id.clone(),
                role: child.spec.role.clone(),
                change,
            };
            self.commands.push(Command::Announce(notice));
        }
    }
}

impl Child {
    fn state(&self) -> NodeState {
        match &self.phase {
            Phase::Idle => NodeState::Stopped,
            Phase::BackingOff => NodeState::BackingOff,
            Phase::Running => NodeState::Running,
            Phase::Held(Purpose::Recover) | Phase::Starting(Purpose::Recover) => {
                NodeState::Restarting
            }
            Phase::Held(Purpose::Boot | Purpose::Request { .. })
            | Phase::Starting(Purpose::Boot | Purpose::Request { .. }) => NodeState::Starting,
            Phase::Ending { .. } => NodeState::Stopping,
        }
    }

    /// Whether its spec goes when it ends for good.
    fn leaves_nothing(&self, dynamic: bool) -> bool {
        dynamic || self.spec.restart == Restart::Temporary
    }
}
