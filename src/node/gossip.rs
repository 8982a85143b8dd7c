//! The node's part in gossip: it finds the others, says what there is to say of itself, and
//! keeps what it hears for whoever asks.
//!
//! Nothing is decided by it that the store decides: whose an agent is, and whose life is over.

use std::collections::BTreeMap;
use std::time::Duration;

use regrow_cluster::discovery::{self, Discovery};
use regrow_cluster::gossip::{Gossip, GossipPort, Options, View, facts};
use regrow_cluster::member::Member;
use regrow_cluster::nodes::Heard;
use regrow_cluster::placing::Placer;
use regrow_cluster::routes;
use regrow_runtime::actor::Crash;
use regrow_runtime::queue::Queue;
use regrow_runtime::supervision::{ChildSpec, Shutdown};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::incarnations::Incarnations;
use crate::config::ClusterSettings;

/// How often a node says how busy it is, and looks how doubtful the others are.
const PERIOD: Duration = Duration::from_secs(1);
/// Kinds of waiting tasks that a node names to the others; a name has 64 bytes at most.
const KINDS_SAID_MAX: usize = 100;

/// The child that gossips.
pub(crate) fn gossip(
    name: &str,
    settings: &ClusterSettings,
    incarnations: &Incarnations,
    port: &GossipPort,
    queue: &Queue,
    placer: &Placer,
) -> ChildSpec {
    let (name, settings) = (name.to_owned(), settings.clone());
    let (incarnations, port) = (incarnations.clone(), port.clone());
    let (queue, placer) = (queue.clone(), placer.clone());
    let child = ChildSpec::task("gossip", move |stop| {
        let (name, settings) = (name.clone(), settings.clone());
        let (incarnations, port) = (incarnations.clone(), port.clone());
        let (queue, placer) = (queue.clone(), placer.clone());
        async move {
            let discovery = Discovery::start(discovery::Options {
                queries: settings.queries.clone(),
                own: settings
                    .advertise
                    .into_iter()
                    .chain([settings.listen])
                    .collect(),
                ..discovery::Options::default()
            })?;
            let member = Member::new(name.as_str(), incarnations.next()?);
            let mut options = Options::new(member, settings.listen);
            options.cluster.clone_from(&settings.name);
            options.advertise = settings.advertise;
            options.facts = port.facts();
            let said = options.facts.clone();
            let secret = settings.secret.clone();
            let gossip = Gossip::start(options, secret, discovery.candidates()).await?;
            info!(address = %gossip.address(), "gossip listens");
            let is_asked = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                () = port.serve(&gossip, said) => false,
                () = follow(&gossip, &port, &queue, &placer) => false,
            };
            placer.heard().replace(BTreeMap::new());
            match is_asked {
                true => {
                    gossip.leave().await;
                    Ok(())
                }
                false => Err(Crash::new("gossip ended")),
            }
        }
    });
    // Peers hear of an orderly end within some rounds.
    child
        .role("gossip")
        .shutdown(Shutdown::Timeout(Duration::from_secs(3)))
}

/// Says how busy the node is, and keeps what is heard for whoever asks.
async fn follow(gossip: &Gossip, port: &GossipPort, queue: &Queue, placer: &Placer) {
    let mut views = gossip.views();
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rival = None;
    loop {
        tokio::select! {
            changed = views.changed() => if changed.is_err() {
                return;
            },
            _ = tick.tick() => {
                let stats = queue.stats();
                let load = format!("{:.3}", stats.utilization());
                // A number is within the bounds, and so are some kinds.
                let _ = port.say(facts::LOAD, &load);
                let _ = port.say(facts::BACKLOG, &backlog(stats.kinds));
                report(port, placer);
            }
            () = placer.renewed() => report(port, placer),
        }
        let view = views.borrow_and_update().clone();
        if view.rival != rival {
            rival.clone_from(&view.rival);
            if let Some((member, address)) = &rival {
                warn!(%member, %address, "another node uses this node's name; give it its own");
            }
        }
        placer.heard().replace(known(gossip, &view));
    }
}

/// Tells what this node says of itself.
fn report(port: &GossipPort, placer: &Placer) {
    let report = placer.said().map(|report| serde_json::to_string(&report));
    if let Some(Ok(report)) = report
        && let Err(reason) = port.say(facts::REPORT, &report)
    {
        debug!(%reason, "what this node says of itself is not gossiped");
    }
}

/// Of which kinds tasks wait here for a worker, and how many: those of which most wait.
fn backlog(kinds: BTreeMap<String, u64>) -> String {
    let mut kinds: Vec<(u64, String)> = kinds.into_iter().map(|(kind, n)| (n, kind)).collect();
    kinds.sort_by(|a, b| b.cmp(a));
    let most = kinds.into_iter().take(KINDS_SAID_MAX);
    let most: BTreeMap<String, u64> = most.map(|(n, kind)| (kind, n)).collect();
    // Texts and numbers; they cannot fail to be JSON.
    serde_json::to_string(&most).unwrap_or_default()
}

/// What is heard of each peer, as people are shown it.
fn known(gossip: &Gossip, view: &View) -> BTreeMap<String, Heard> {
    let suspicions = gossip.suspicions();
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let peers = view.peers.iter().map(|(name, peer)| {
        let suspicion = suspicions.get(name);
        let known = Heard {
            status: peer.status.as_str(),
            incarnation: peer.member.incarnation.0,
            address: peer.gossip.to_string(),
            gateway: routes::reach(peer).map(|reach| reach.address.to_string()),
            http: peer.facts.get(facts::HTTP).cloned(),
            version: peer.facts.get(facts::VERSION).cloned(),
            load: peer.read(facts::LOAD).ok().flatten(),
            backlog: peer.read(facts::BACKLOG).ok().flatten().unwrap_or_default(),
            phi: suspicion.map(|known| known.phi),
            silent_ms: suspicion.map(|known| millis(known.silence)),
            report: peer.read(facts::REPORT).ok().flatten(),
        };
        (name.to_string(), known)
    });
    peers.collect()
}
