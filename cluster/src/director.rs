//! The director of a node: makes what runs here follow the registry.
//!
//! It reads, decides ([`reconcile`](crate::reconcile)), and carries each step out in a task of
//! its own, one at a time for an agent; then it reads again. It looks when a step is done,
//! when an agent ends, when another node says that it changed something, and once a second.
//!
//! When this node's life may be over it kills what it runs, before anybody else can own it:
//! the store refuses what a former owner writes, but a model call is no write.
//!
//! Crash: nothing is lost. The supervisor starts it again; what ran here was stopped with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use regrow_runtime::ids::{AgentId, Epoch};
use regrow_runtime::json::Json;
use regrow_runtime::metrics as names;
use regrow_runtime::registry::{AgentChange, Change, Standing};
use regrow_runtime::store::StoreError;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{self, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};
use tracing::{debug, info, warn};

use crate::entry::Entry;
use crate::nodes::note_of;
use crate::reconcile::{Ended, Local, Me, Step, Verdict, decide};
use crate::roster::Roster;
use crate::watchdog::is_quarantined;

/// Longest time between two looks.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Longest wait for the registry, while nothing runs here.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after the registry could not be read or written.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Steps that may be under way at once.
const STEPS_MAX: usize = 64;

/// Runs agents on this node.
pub trait Hosting: Send + Sync + 'static {
    /// Starts an agent; returns once it runs.
    ///
    /// # Errors
    ///
    /// Why it does not, in words. Nothing of it is left running.
    fn start<'a>(&'a self, entry: &'a Entry, epoch: Epoch) -> BoxFuture<'a, Result<(), String>>;
    /// Stops an agent in order, and returns when it is gone and its end has been told, if it was
    /// one to tell. One that is not there is gone.
    fn stop<'a>(&'a self, id: &'a AgentId) -> BoxFuture<'a, ()>;
    /// Kills an agent at once, as if it had crashed; returns when its end has been told.
    fn kill<'a>(&'a self, id: &'a AgentId) -> BoxFuture<'a, ()>;
}

/// Says where agents belong.
pub trait Placing: Send + Sync + 'static {
    /// Where the agents belong that are to run and that no living node owns, as seen from `me`.
    fn verdicts(&self, me: &Me, standing: &Standing) -> BTreeMap<AgentId, Verdict>;
    /// This node takes no agents and gives those away that it has.
    fn is_draining(&self) -> bool;
}

/// What a director works with.
pub struct Director {
    /// This node's name.
    pub name: String,
    /// The authority.
    pub roster: Roster,
    /// Runs agents.
    pub hosting: Arc<dyn Hosting>,
    /// Says where they belong.
    pub placing: Arc<dyn Placing>,
    /// Told whether this node takes work, for its own agents to follow: not while it is
    /// cordoned, drained or quarantined.
    pub open: watch::Sender<bool>,
}

/// An agent of this node ended by itself.
#[derive(Clone, Debug)]
pub struct Exit {
    /// Which.
    pub id: AgentId,
    /// How.
    pub ended: Ended,
}

/// What a step changed of what runs here.
enum Effect {
    None,
    Started,
    StartFailed(String),
    Gone,
}

impl Director {
    /// Follows the registry until this node's life is over or the store is closed; `exits`
    /// tells of agents that ended.
    ///
    /// Dropped, it leaves running what it started; whoever drops it stops that as well.
    pub async fn run(&self, exits: &mut mpsc::Receiver<Exit>) {
        let mut following = Following {
            director: self,
            locals: BTreeMap::new(),
            busy: BTreeMap::new(),
            steps: JoinSet::new(),
            places: Arc::new(Semaphore::new(STEPS_MAX)),
        };
        let mut heard = self.roster.hearing();
        let mut tick = interval(LOOK_PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Only while something runs: there is nothing to stop otherwise.
            let fence = self.roster.acts_until().filter(|_| following.runs_any());
            tokio::select! {
                biased;
                () = sleep_until(fence.unwrap_or_else(Instant::now)), if fence.is_some() => {
                    if self.roster.acts_until().is_none_or(|until| until <= Instant::now()) {
                        following.give_up_all(exits).await;
                    }
                    continue;
                }
                // Before the steps: a stop or kill is done when its agent's end has been told.
                exit = exits.recv() => match exit {
                    Some(exit) => following.exited(exit),
                    None => return,
                },
                Some(done) = following.steps.join_next_with_id() => {
                    while let Ok(exit) = exits.try_recv() {
                        following.exited(exit);
                    }
                    following.finished(done);
                }
                () = heard.next() => {}
                _ = tick.tick() => {}
            }
            // A store that does not answer may not keep the fence waiting.
            let patience = fence.unwrap_or_else(|| Instant::now() + ANSWER_TIMEOUT);
            let Ok(looked) = timeout_at(patience, following.look()).await else {
                continue;
            };
            match looked {
                Ok(()) => {}
                Err(StoreError::Closed | StoreError::Superseded { .. }) => {
                    return following.give_up_all(exits).await;
                }
                Err(reason) => debug!(%reason, "cannot read which agents there are"),
            }
        }
    }
}

/// What runs here, and what is under way.
struct Following<'a> {
    director: &'a Director,
    locals: BTreeMap<AgentId, Local>,
    /// Agents with a step under way, by the step's task.
    busy: BTreeMap<task::Id, AgentId>,
    steps: JoinSet<Effect>,
    places: Arc<Semaphore>,
}

impl Following<'_> {
    fn runs_any(&self) -> bool {
        self.running().next().is_some()
    }

    /// Nothing may run here any more: somebody else may be about to run it.
    async fn give_up_all(&mut self, exits: &mut mpsc::Receiver<Exit>) {
        let running: Vec<AgentId> = self.locals.keys().cloned().collect();
        if running.is_empty() {
            return;
        }
        warn!(
            agents = running.len(),
            "this node's life was not renewed in time; its agents are stopped before another \
             node may start them"
        );
        let kills = running.iter().map(|id| async {
            self.director.hosting.kill(id).await;
        });
        let mut killed = std::pin::pin!(futures::future::join_all(kills));
        loop {
            tokio::select! {
                biased;
                // Taken meanwhile, so that nobody waits for room to tell them.
                Some(_) = exits.recv() => {}
                _ = &mut killed => break,
            }
        }
        while exits.try_recv().is_ok() {}
        self.locals.clear();
    }

    fn exited(&mut self, exit: Exit) {
        if let Some(local) = self.locals.get_mut(&exit.id)
            && local.ended.is_none()
        {
            local.ended = Some(exit.ended);
        }
    }

    fn finished(&mut self, done: Result<(task::Id, Effect), task::JoinError>) {
        let (step, effect) = match done {
            Ok((step, effect)) => (step, effect),
            // A step that panicked has said so; what it left is found out by looking.
            Err(error) => (error.id(), Effect::None),
        };
        let Some(id) = self.busy.remove(&step) else {
            return;
        };
        match effect {
            Effect::StartFailed(reason) => {
                if let Some(local) = self.locals.get_mut(&id) {
                    local.ended = Some(Ended {
                        reason,
                        abnormal: true,
                    });
                }
            }
            // Everything was given up while it started.
            Effect::Started if !self.locals.contains_key(&id) => {
                let (hosting, agent) = (self.director.hosting.clone(), id.clone());
                let step = self.steps.spawn(async move {
                    hosting.kill(&agent).await;
                    Effect::Gone
                });
                self.busy.insert(step.id(), id);
            }
            Effect::Gone => drop(self.locals.remove(&id)),
            Effect::None | Effect::Started => {}
        }
    }

    /// Reads, and begins the steps that follow.
    async fn look(&mut self) -> Result<(), StoreError> {
        let roster = &self.director.roster;
        let standing = roster.read().await?;
        let name = self.director.name.clone();
        let note = note_of(&standing, &name);
        let kept_out = is_quarantined(&standing, &name);
        let takes_work = note.is_none() && !kept_out;
        self.director.open.send_if_modified(|open| {
            let changed = *open != takes_work;
            *open = takes_work;
            changed
        });
        let asked = kept_out || note.is_some_and(|note| note.stance.gives_away());
        let me = Me {
            life: roster.life()?,
            name,
            draining: asked || self.director.placing.is_draining(),
        };
        let verdicts = match roster {
            Roster::Stored(_) => self.director.placing.verdicts(&me, &standing),
            // They claim what is theirs to take.
            Roster::Agreed(_) => BTreeMap::new(),
        };
        let place = |id: &AgentId, _: &Entry| {
            let verdict = verdicts.get(id).cloned();
            verdict.unwrap_or(Verdict::Elsewhere)
        };
        let steps = decide(&me, &standing, &self.locals, place, roster.clock().now());
        let busy: BTreeSet<AgentId> = self.busy.values().cloned().collect();
        self.gauge(&me, &standing, &busy);
        for (id, step) in steps {
            if busy.contains(&id) {
                continue;
            }
            let Ok(place) = self.places.clone().try_acquire_owned() else {
                // The rest comes when one of these is done.
                break;
            };
            let seen = standing.agents.get(&id).map(|row| row.revision);
            if let Some(step) = self.begin(&id, step) {
                let (roster, hosting) = (roster.clone(), self.director.hosting.clone());
                let agent = id.clone();
                let step = self.steps.spawn(async move {
                    let effect = carry_out(&roster, &*hosting, &agent, seen, step).await;
                    drop(place);
                    effect
                });
                self.busy.insert(step.id(), id);
            }
        }
        roster.runs(|| {
            let begun = self
                .busy
                .values()
                .filter(|id| self.locals.contains_key(*id));
            self.running().chain(begun).cloned().collect()
        });
        Ok(())
    }

    /// Those under way are between two owners, rightly.
    fn gauge(&self, me: &Me, standing: &Standing, busy: &BTreeSet<AgentId>) {
        let owned = |id: &AgentId| {
            let row = standing.agents.get(id);
            row.is_some_and(|row| row.owner == Some(me.life))
        };
        let settled = self.running().filter(|id| !busy.contains(*id));
        let not_owned = settled.filter(|id| !owned(id)).count();
        metrics::gauge!(names::PLACED).set(self.running().count() as f64);
        metrics::gauge!(names::PLACED_NOT_OWNED).set(not_owned as f64);
    }

    /// What has not ended, as far as it was told.
    fn running(&self) -> impl Iterator<Item = &AgentId> {
        let running = self
            .locals
            .iter()
            .filter(|(_, local)| local.ended.is_none());
        running.map(|(id, _)| id)
    }

    /// What of a step is done at once; returns what takes time.
    fn begin(&mut self, id: &AgentId, step: Step) -> Option<Step> {
        match &step {
            Step::Start { entry, epoch } => {
                let until = self.director.roster.acts_until();
                if until.is_none_or(|until| until <= Instant::now()) {
                    return None;
                }
                info!(agent = %id, %epoch, round = entry.round, "starting an agent");
                let local = Local {
                    epoch: *epoch,
                    round: entry.round,
                    kills: entry.kills,
                    ended: None,
                };
                self.locals.insert(id.clone(), local);
            }
            Step::Kill { kills } => {
                if let Some(local) = self.locals.get_mut(id) {
                    local.kills = *kills;
                }
            }
            Step::Forget => {
                self.locals.remove(id);
                return None;
            }
            Step::Keep(_) | Step::Give { .. } | Step::Stop => {}
        }
        Some(step)
    }
}

async fn carry_out(
    roster: &Roster,
    hosting: &dyn Hosting,
    id: &AgentId,
    seen: Option<u64>,
    step: Step,
) -> Effect {
    let change = match step {
        Step::Keep(entry) => Json::of(&*entry).map(|entry| Change::Keep { entry }),
        Step::Give {
            to,
            entry,
            decision,
        } => Json::of(&*entry).map(|entry| Change::Give {
            to,
            entry,
            decision,
        }),
        Step::Start { entry, epoch } => {
            let begun = Instant::now();
            return match hosting.start(&entry, epoch).await {
                Ok(()) => {
                    metrics::counter!(names::PLACED_STARTED).increment(1);
                    metrics::histogram!(names::PLACED_START_SECONDS).record(begun.elapsed());
                    Effect::Started
                }
                Err(reason) => Effect::StartFailed(reason),
            };
        }
        Step::Stop => {
            hosting.stop(id).await;
            return Effect::Gone;
        }
        Step::Kill { .. } => {
            hosting.kill(id).await;
            return Effect::None;
        }
        Step::Forget => return Effect::Gone,
    };
    let Ok(change) = change else {
        // An entry is plain data; it cannot fail to be JSON.
        return Effect::None;
    };
    let gives = matches!(change, Change::Give { .. });
    let asked = AgentChange {
        id: id.clone(),
        revision: seen,
        change,
    };
    match roster.change(&asked).await {
        Ok(_) => {
            metrics::counter!(names::PLACED_ASSIGNED).increment(u64::from(gives));
            Effect::None
        }
        Err(reason) => {
            debug!(agent = %id, %reason, "cannot change an agent's row");
            tokio::time::sleep(RETRY_PAUSE).await;
            Effect::None
        }
    }
}
