//! The task between the gossip library and the callers: what they say goes in, views come out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chitchat::{Chitchat, ChitchatHandle, ChitchatId, NodeState};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, info};

use super::facts::{self, Facts};
use super::suspicion::Heartbeats;
use super::view::{Roster, Sighting, Status, View};
use super::{Options, Said, seeds};
use crate::member::{Incarnation, Member};

/// Rounds in which a node that leaves says so.
const LEAVING_ROUNDS: u32 = 4;
/// Members that are told of it in each of these rounds.
const LEAVING_TOLD_MAX: usize = 32;

/// Holds the library; dropped, the library stops.
pub(super) struct Courier {
    handle: ChitchatHandle,
    options: Options,
    address: SocketAddr,
    said: Arc<Said>,
    /// What the library has been given of it.
    given: Facts,
    roster: Roster,
    heartbeats: BTreeMap<(Member, SocketAddr), Heartbeats>,
    shown: Arc<View>,
    began: Instant,
    rng: SmallRng,
}

impl Courier {
    pub(super) fn new(
        handle: ChitchatHandle,
        options: Options,
        address: SocketAddr,
        said: Arc<Said>,
        given: Facts,
    ) -> Self {
        Self {
            roster: Roster::new(options.member.clone(), address),
            handle,
            options,
            address,
            said,
            given,
            heartbeats: BTreeMap::new(),
            shown: Arc::default(),
            began: Instant::now(),
            rng: SmallRng::from_rng(&mut rand::rng()),
        }
    }

    /// Runs until the node leaves or stops, or the library ends; the socket is closed then.
    pub(super) async fn run(
        mut self,
        seeds: watch::Receiver<Arc<[SocketAddr]>>,
        publish: watch::Sender<Arc<View>>,
    ) {
        self.serve(&seeds, &publish).await;
        if let Err(error) = self.handle.shutdown().await {
            error!(%error, "gossip ended");
        }
    }

    async fn serve(
        &mut self,
        seeds: &watch::Receiver<Arc<[SocketAddr]>>,
        publish: &watch::Sender<Arc<View>>,
    ) {
        let said = self.said.clone();
        let mut live = self.handle.chitchat().lock().await.live_nodes_watcher();
        let ended = self.handle.termination_watcher();
        tokio::pin!(ended);
        let mut round = tokio::time::interval(self.options.interval);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Changes of heartbeats are seen at each half of a round, for the suspicions.
        let mut half = tokio::time::interval(self.options.interval / 2);
        half.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = round.tick() => self.try_seeds(seeds),
                _ = half.tick() => {}
                Ok(()) = live.changed() => live.mark_unchanged(),
                () = said.changed.notified() => self.say().await,
                () = said.leave.notified() => return self.leave().await,
                () = said.stop.notified() => return,
                _ = &mut ended => return,
            }
            self.look(publish).await;
        }
    }

    async fn look(&mut self, publish: &watch::Sender<Arc<View>>) {
        let now = self.began.elapsed();
        let library = self.handle.chitchat();
        let library = library.lock().await;
        let live: BTreeSet<&ChitchatId> = library.live_nodes().collect();
        let states = library.node_states();
        let sightings: Vec<Sighting> = states
            .iter()
            .map(|(id, state)| Sighting {
                live: live.contains(id),
                version: state.max_version(),
                ..sighting(id)
            })
            .collect();
        let facts = |sighting: &Sighting| {
            let id = id(&sighting.member, sighting.gossip);
            states.get(&id).map(facts_of).unwrap_or_default()
        };
        let view = self.roster.look(&sightings, facts, now);
        self.suspect(&library, &view, now);
        drop(library);
        if *self.shown != view {
            report(&self.shown, &view);
            measure(&view);
            self.shown = Arc::new(view);
            publish.send_replace(self.shown.clone());
        }
    }

    fn suspect(&mut self, library: &Chitchat, view: &View, now: Duration) {
        let detection = &self.options.detection;
        let mut suspicions = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for (name, peer) in &view.peers {
            let Some(state) = library.node_state(&id(&peer.member, peer.gossip)) else {
                continue;
            };
            let key = (peer.member.clone(), peer.gossip);
            let heartbeat = state.heartbeat().into();
            let heartbeats = self
                .heartbeats
                .entry(key.clone())
                .or_insert_with(|| Heartbeats::new(heartbeat, now));
            heartbeats.see(heartbeat, now, detection);
            if let Some(suspicion) = heartbeats.suspicion(now, detection) {
                suspicions.insert(name.clone(), suspicion);
            }
            seen.insert(key);
        }
        self.heartbeats.retain(|key, _| seen.contains(key));
        *self.said.suspicions.lock() = suspicions;
    }

    fn try_seeds(&mut self, seeds: &watch::Receiver<Arc<[SocketAddr]>>) {
        let candidates = seeds.borrow().clone();
        let up = members_up(&self.shown);
        for address in seeds::to_try(&candidates, &up, self.address, &mut self.rng) {
            // It fails only when the library has ended, which the loop sees.
            let _ = self.handle.gossip(address);
        }
    }

    async fn say(&mut self) {
        let wanted = self.said.facts.lock().all().clone();
        let (set, removed) = facts::difference(&self.given, &wanted);
        let library = self.handle.chitchat();
        let mut library = library.lock().await;
        let own = library.self_node_state();
        set.into_iter().for_each(|(key, value)| own.set(key, value));
        removed.iter().for_each(|key| own.delete(key));
        self.given = wanted;
    }

    async fn leave(&mut self) {
        let life = self.options.member.incarnation.0.to_string();
        let own = self.handle.chitchat();
        own.lock().await.self_node_state().set(facts::LEFT, life);
        for _ in 0..LEAVING_ROUNDS {
            for address in members_up(&self.shown).into_iter().take(LEAVING_TOLD_MAX) {
                let _ = self.handle.gossip(address);
            }
            tokio::time::sleep(self.options.interval).await;
        }
    }
}

/// Status changes are news for the log.
fn report(before: &View, after: &View) {
    for (name, peer) in &after.peers {
        let status = before.peers.get(name).map(|peer| peer.status);
        if status != Some(peer.status) {
            info!(peer = %peer.member, status = ?peer.status, "peer");
        }
    }
    if before.rival != after.rival
        && let Some((member, address)) = &after.rival
    {
        error!(%member, %address, "another node has this node's name");
    }
}

fn measure(view: &View) {
    for status in Status::ALL {
        let count = view.peers.values().filter(|peer| peer.status == status);
        let count = count.count() as f64;
        metrics::gauge!(super::PEERS, "status" => status.as_str()).set(count);
    }
}

fn members_up(view: &View) -> BTreeSet<SocketAddr> {
    view.up().map(|peer| peer.gossip).collect()
}

fn id(member: &Member, gossip: SocketAddr) -> ChitchatId {
    ChitchatId::new(member.name.as_str(), member.incarnation.0, gossip)
}

fn sighting(id: &ChitchatId) -> Sighting {
    Sighting {
        member: Member {
            name: (&*id.node_id).into(),
            incarnation: Incarnation(id.generation_id),
        },
        gossip: id.gossip_advertise_addr,
        live: false,
        version: 0,
    }
}

fn facts_of(state: &NodeState) -> Facts {
    let facts = state.key_values();
    facts
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}
