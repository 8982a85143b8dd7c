//! Agents that the cluster placed on this node: they run below a supervisor of their own,
//! which starts nothing again. Whether and where one runs next is the director's to say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use regrow_actors::agent::{AgentMsg, MayAct};
use regrow_actors::catalog::Crew;
use regrow_cluster::director::{Director, Exit, Hosting};
use regrow_cluster::entry::Entry;
use regrow_cluster::nodes::HeardOf;
use regrow_cluster::placement::Policies;
use regrow_cluster::placing::{Placer, PlacerConfig};
use regrow_cluster::reconcile::Ended;
use regrow_cluster::report::NodeReport;
use regrow_cluster::roster::Roster;
use regrow_runtime::actor::Crash;
use regrow_runtime::ids::{AgentId, Epoch};
use regrow_runtime::mailbox::Address;
use regrow_runtime::queue::Queue;
use regrow_runtime::store::StoreError;
use regrow_runtime::supervision::{
    Change, ChildSpec, Lifecycle, Refusal, Shutdown, Strategy, Supervisor, SupervisorSpec, Tree,
};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, mpsc, watch};
use tracing::warn;

use crate::config::NodeConfig;

/// Path of the placed agents' supervisor.
pub(crate) const PLACED: &str = "root/placed";
/// Agents that one node may run.
const PLACED_MAX: usize = 100_000;
/// Longest wait until the supervisor has told of an end that has happened.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// Ends of agents that may wait for the director.
const EXITS_MAX: usize = 1_024;

/// Runs the agents that the director asks for.
pub(crate) struct Placed {
    supervisor: Supervisor,
    crew: Crew,
    queue: Queue,
    roster: Roster,
    running: Mutex<BTreeMap<AgentId, Address<AgentMsg>>>,
    /// One of them is not any more.
    gone: Notify,
}

impl Placed {
    /// Below which supervisor they run, and who runs them.
    pub(crate) fn new(crew: Crew, queue: Queue, roster: Roster) -> (SupervisorSpec, Arc<Self>) {
        let spec = SupervisorSpec::new("placed", Strategy::OneForOne).children_max(PLACED_MAX);
        let placed = Self {
            supervisor: spec.handle(),
            crew,
            queue,
            roster,
            running: Mutex::default(),
            gone: Notify::new(),
        };
        (spec, Arc::new(placed))
    }

    /// The supervisor, for health to remedy what hangs.
    pub(crate) fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Who runs what.
    pub(crate) fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Where to reach an agent that runs here.
    pub(crate) fn address(&self, id: &AgentId) -> Option<Address<AgentMsg>> {
        self.running.lock().get(id).cloned()
    }

    /// How many run here.
    pub(crate) fn count(&self) -> usize {
        self.running.lock().len()
    }

    /// Waits until this node owns no agent any more, so that others can take them without
    /// waiting for its life to run out; but not longer than `patience`.
    pub(crate) async fn given_away(&self, patience: Duration) -> bool {
        let roster = &self.roster;
        let mut heard = roster.hearing();
        let given_away = async {
            loop {
                let (Ok(me), Ok(standing)) = (roster.life(), roster.read().await) else {
                    // Nothing can be given away any more.
                    return;
                };
                // What is on its way to another node has no owner, and is not there yet.
                let on_the_way = match roster {
                    // Who may not act gives nothing away either: others take it.
                    Roster::Agreed(agreed) if agreed.gate().left().is_zero() => return,
                    Roster::Agreed(agreed) => agreed.holds(),
                    Roster::Stored(_) => 0,
                };
                let owned = standing.agents.values().any(|row| row.owner == Some(me));
                if !owned && on_the_way == 0 {
                    return;
                }
                heard.next().await;
            }
        };
        tokio::time::timeout(patience, given_away).await.is_ok()
    }

    /// The gate for an agent, where its right to act can run out: a store refuses by itself
    /// what comes too late.
    fn may_act(&self, id: &AgentId) -> Option<MayAct> {
        match &self.roster {
            Roster::Stored(_) => None,
            Roster::Agreed(agreed) => {
                let (gate, id) = (agreed.gate(), id.clone());
                Some(Arc::new(move || gate.may_act(&id)))
            }
        }
    }

    /// What an earlier director left behind is stopped: the present one knows nothing of it.
    async fn clear(&self) {
        let Ok(children) = self.supervisor.which_children().await else {
            return;
        };
        for child in children {
            // Gone meanwhile is as good.
            let _ = self.supervisor.terminate_child(child.id).await;
        }
        self.running.lock().clear();
    }

    /// Tells of agents that ended by themselves.
    async fn watch(&self, tree: &Tree, exits: &mpsc::Sender<Exit>) {
        let mut changes = tree.subscribe();
        loop {
            match changes.recv().await {
                Ok(change) => {
                    if let Some((id, exit)) = exit(change) {
                        // Told first: whoever waits for its end then knows of it.
                        if let Some(exit) = exit
                            && exits.send(exit).await.is_err()
                        {
                            return;
                        }
                        self.forget(&id);
                    }
                }
                Err(RecvError::Lagged(_)) => {
                    for id in self.vanished().await {
                        let ended = Ended {
                            reason: "it ended, how was missed".to_owned(),
                            abnormal: true,
                        };
                        let exit = Exit {
                            id: id.clone(),
                            ended,
                        };
                        if exits.send(exit).await.is_err() {
                            return;
                        }
                        self.forget(&id);
                    }
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn forget(&self, id: &AgentId) {
        self.running.lock().remove(id);
        self.gone.notify_waiters();
    }

    /// Waits until the end of an agent has been told, which follows soon.
    async fn told(&self, id: &AgentId) {
        let told = async {
            loop {
                let mut gone = std::pin::pin!(self.gone.notified());
                gone.as_mut().enable();
                if !self.running.lock().contains_key(id) {
                    return;
                }
                gone.await;
            }
        };
        if tokio::time::timeout(TOLD_WITHIN, told).await.is_err() {
            self.forget(id);
        }
    }

    /// Agents that were started and are not there any more.
    async fn vanished(&self) -> Vec<AgentId> {
        let before: Vec<AgentId> = self.running.lock().keys().cloned().collect();
        let Ok(children) = self.supervisor.which_children().await else {
            return Vec::new();
        };
        let there: BTreeSet<String> = children.iter().map(|child| child.id.to_string()).collect();
        before
            .into_iter()
            .filter(|id| !there.contains(id.as_str()))
            .collect()
    }
}

/// The end of a placed agent, with what there is to tell: of one that nobody had ordered, or of
/// a kill.
fn exit(change: Lifecycle) -> Option<(AgentId, Option<Exit>)> {
    if &*change.supervisor != PLACED {
        return None;
    }
    let Change::Exited {
        reason, ordered, ..
    } = change.change
    else {
        return None;
    };
    let id = AgentId::new(change.child.as_str());
    let exit = (!ordered || reason.is_abnormal()).then(|| Exit {
        id: id.clone(),
        ended: Ended {
            reason: reason.to_string(),
            abnormal: reason.is_abnormal(),
        },
    });
    Some((id, exit))
}

impl Hosting for Placed {
    fn start<'a>(&'a self, entry: &'a Entry, _: Epoch) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let spec = &entry.spec;
            let may_act = self.may_act(&spec.id);
            let Some((child, address)) = self.crew.engage(spec, &self.queue, may_act) else {
                let roles = Crew::ROLES.map(|role| role.as_str()).join(", ");
                return Err(format!(
                    "no agent of this program plays the role {}; there are {roles}",
                    spec.role
                ));
            };
            self.running.lock().insert(spec.id.clone(), address);
            let started = self.supervisor.start_child(child).await;
            started.map_err(|refusal| {
                self.running.lock().remove(&spec.id);
                refusal.to_string()
            })
        }
        .boxed()
    }

    fn stop<'a>(&'a self, id: &'a AgentId) -> BoxFuture<'a, ()> {
        async move {
            match self.supervisor.terminate_child(id).await {
                Ok(()) | Err(Refusal::NotFound | Refusal::SupervisorDown) => {}
                Err(refusal) => warn!(agent = %id, %refusal, "could not stop an agent"),
            }
            self.told(id).await;
        }
        .boxed()
    }

    fn kill<'a>(&'a self, id: &'a AgentId) -> BoxFuture<'a, ()> {
        async move {
            // One that does not run needs no killing.
            let _ = self.supervisor.kill_child(id).await;
            self.told(id).await;
        }
        .boxed()
    }
}

/// Says where agents belong; what this node offers is known to it from the start.
pub(crate) fn placer(config: &NodeConfig, roster: &Roster) -> Result<Placer, StoreError> {
    let settings = PlacerConfig {
        policies: Policies {
            default: config.policy,
            ..Policies::default()
        },
        watchdog: config.watchdog.quarantine,
        ..PlacerConfig::default()
    };
    let placer = Placer::new(settings, HeardOf::default());
    let (life, offer) = (roster.life()?, config.offer.clone());
    placer.say(NodeReport::first(life, env!("CARGO_PKG_VERSION"), offer));
    Ok(placer)
}

/// The director, which makes what runs here follow the registry.
pub(crate) fn director(
    name: &str,
    placed: &Arc<Placed>,
    placer: &Placer,
    open: &watch::Sender<bool>,
    tree: &Tree,
    patience: Duration,
) -> ChildSpec {
    let (name, placed) = (name.to_owned(), placed.clone());
    let (placer, open, tree) = (placer.clone(), open.clone(), tree.clone());
    let director = ChildSpec::task("director", move |stop| {
        let director = Director {
            name: name.clone(),
            roster: placed.roster.clone(),
            hosting: placed.clone(),
            placing: Arc::new(placer.clone()),
            open: open.clone(),
        };
        let (placed, tree) = (placed.clone(), tree.clone());
        async move {
            placed.clear().await;
            let (ended, mut exits) = mpsc::channel(EXITS_MAX);
            tokio::select! {
                () = stop.cancelled() => {}
                () = placed.watch(&tree, &ended) => {}
                () = director.run(&mut exits) => {
                    // Another node acts for this one: whoever runs it stops it.
                    stop.cancelled().await;
                }
            }
            Ok::<(), Crash>(())
        }
    });
    director
        .role("director")
        .shutdown(Shutdown::Timeout(patience))
}
