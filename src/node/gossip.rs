//! The node's part in gossip: it finds the others, says what there is to say of itself, and
//! keeps what it hears for whoever asks.
//!
//! Nothing is decided by it that the store decides: whose an agent is, and whose life is over.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use regrow_cluster::discovery::{self, Discovery};
use regrow_cluster::gossip::{Gossip, Options, facts};
use regrow_cluster::member::{Incarnation, Member};
use regrow_cluster::nodes::{Heard, HeardOf};
use regrow_runtime::actor::Crash;
use regrow_runtime::queue::Queue;
use regrow_runtime::supervision::{ChildSpec, Shutdown};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::config::ClusterSettings;

/// How often a node says how busy it is, and looks how doubtful the others are.
const PERIOD: Duration = Duration::from_secs(1);
/// Where the node's HTTP surface is.
const HTTP: &str = "http";

/// The child that gossips.
pub(crate) fn gossip(
    name: &str,
    settings: &ClusterSettings,
    http: Option<SocketAddr>,
    queue: &Queue,
    heard: &HeardOf,
) -> ChildSpec {
    let (name, settings, queue, heard) = (
        name.to_owned(),
        settings.clone(),
        queue.clone(),
        heard.clone(),
    );
    let child = ChildSpec::task("gossip", move |stop| {
        let (name, settings) = (name.clone(), settings.clone());
        let (queue, heard) = (queue.clone(), heard.clone());
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
            // Lives are counted by the store, so each is higher than the one before.
            let life = queue.registry().life()?;
            let member = Member {
                name: name.as_str().into(),
                incarnation: Incarnation(life.0),
            };
            let mut options = Options::new(member, settings.listen);
            options.cluster.clone_from(&settings.name);
            options.advertise = settings.advertise;
            let version = env!("CARGO_PKG_VERSION").to_owned();
            options.facts.insert(facts::VERSION.to_owned(), version);
            if let Some(http) = http {
                options.facts.insert(HTTP.to_owned(), http.to_string());
            }
            let secret = settings.secret.clone();
            let gossip = Gossip::start(options, secret, discovery.candidates()).await?;
            info!(address = %gossip.address(), "gossip listens");
            follow(gossip, &queue, &heard, stop).await;
            heard.replace(BTreeMap::new());
            Ok::<(), Crash>(())
        }
    });
    // Peers hear of an orderly end within some rounds.
    child
        .role("gossip")
        .shutdown(Shutdown::Timeout(Duration::from_secs(3)))
}

/// Says and hears until it is told to stop, and then that the node leaves.
async fn follow(
    mut gossip: Gossip,
    queue: &Queue,
    heard: &HeardOf,
    stop: tokio_util::sync::CancellationToken,
) {
    let mut views = gossip.views();
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rival = None;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return gossip.leave().await,
            () = gossip.ended() => return,
            changed = views.changed() => if changed.is_err() {
                return;
            },
            _ = tick.tick() => {
                let load = format!("{:.3}", queue.stats().utilization());
                // A number is within the bounds.
                let _ = gossip.set_fact(facts::LOAD, &load);
            }
        }
        let (view, suspicions) = (gossip.view(), gossip.suspicions());
        if view.rival != rival {
            rival.clone_from(&view.rival);
            if let Some((member, address)) = &rival {
                warn!(%member, %address, "another node uses this node's name; give it its own");
            }
        }
        let peers = view.peers.iter().map(|(name, peer)| {
            let suspicion = suspicions.get(name);
            let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let known = Heard {
                status: peer.status.as_str(),
                incarnation: peer.member.incarnation.0,
                address: peer.gossip.to_string(),
                http: peer.facts.get(HTTP).cloned(),
                version: peer.facts.get(facts::VERSION).cloned(),
                load: peer.read(facts::LOAD).ok().flatten(),
                phi: suspicion.map(|known| known.phi),
                silent_ms: suspicion.map(|known| millis(known.silence)),
            };
            (name.to_string(), known)
        });
        heard.replace(peers.collect());
    }
}
