//! Gossip: who is there, and what each node says of itself, over encrypted datagrams.
//!
//! Each node keeps a few facts of its own (load, labels, version, what it owns) and a heartbeat,
//! and exchanges with some peers at each interval what one knows and the other does not
//! (Scuttlebutt, van Renesse and others 2008, by the crate chitchat, which only this folder
//! names). Whose heartbeat is missing for longer than is likely is taken for dead (φ accrual,
//! Hayashibara and others 2004). What comes of it is a [`View`] per node. Views differ between
//! nodes and lag behind; nothing may be decided by them that needs agreement.
//!
//! In reading order:
//!
//! - `facts`: what a node says, and its bounds (pure)
//! - `view`: members and their status (pure); `suspicion`: how doubtful each is (pure)
//! - `seeds`: whom to speak to besides (pure)
//! - `datagram`, `replay`, `freshness`, `fragments`, `channel`: the encrypted channel (pure)
//! - `socket`: the channel on UDP; `courier`: the task that stands between library and callers
//! - `counts`: what was dropped, by reason
//! - `port`: gossip as the rest of the node has it, over gossip's restarts
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use regrow_cluster::gossip::{facts, Gossip, Options};
//! use regrow_cluster::member::{Incarnation, Member};
//! use regrow_cluster::secret::ClusterSecret;
//! use tokio::sync::watch;
//!
//! let secret = ClusterSecret::from_text("3Xb2ZOFEbG2JAzLFhIcOgZDRmFYmZlYyJ5gGRgZrcdA=")?;
//! let options = |name: &str| {
//!     let member = Member { name: name.into(), incarnation: Incarnation(1) };
//!     Options::new(member, ([127, 0, 0, 1], 0).into())
//! };
//! // The addresses to try come from discovery and may change at any time.
//! let (_seeds, nobody) = watch::channel([].into());
//! let anna = Gossip::start(options("anna"), secret.clone(), nobody).await?;
//! let (_seeds, to_anna) = watch::channel([anna.address()].into());
//! let bert = Gossip::start(options("bert"), secret, to_anna).await?;
//!
//! bert.set_fact(facts::LOAD, "0.25")?;
//! let mut views = anna.views();
//! let view = views
//!     .wait_for(|view| view.up().any(|peer| peer.facts.contains_key(facts::LOAD)))
//!     .await?
//!     .clone();
//! assert_eq!(view.peers[&"bert".into()].read(facts::LOAD)?, Some(0.25));
//! bert.leave().await;
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chitchat::{ChitchatConfig, ChitchatId, FailureDetectorConfig};
use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::member::{Member, NodeName};
use crate::secret::Secrets;
use channel::{Bounds, Channel};
use courier::Courier;
use datagram::Boot;
use facts::OwnFacts;
use fragments::DATAGRAM_BYTES_MAX;
use socket::{Encrypted, EncryptedSocket};

mod channel;
mod counts;
mod courier;
mod datagram;
pub mod facts;
mod fragments;
mod freshness;
mod port;
mod replay;
mod seeds;
mod socket;
mod suspicion;
mod view;

pub use counts::{Counts, DATAGRAMS_DROPPED, DATAGRAMS_UNDER_ACCEPTED, Reason};
pub use facts::{FactError, Facts};
pub use port::GossipPort;
pub use suspicion::Suspicion;
pub use view::{Peer, Status, View};

/// Other nodes as this one sees them, by `status` (gauge). `down` above zero: a node died
/// without leaving, or is cut off.
pub const PEERS: &str = "regrow_gossip_peers";

/// Most bytes of a node's name and of a cluster's.
const NAME_BYTES_MAX: usize = 256;
/// How long removed facts are remembered, so that all peers hear of the removal. A peer that
/// was cut off for longer gets all facts of the node anew.
const REMOVED_FOR: Duration = Duration::from_secs(60);

/// When a silent peer counts as dead.
///
/// Its silence is measured in mean intervals between heartbeats; few of them are remembered
/// beside the weight of `initial_interval`, so that the mean hardly depends on how busy the
/// cluster is. With the defaults silence is borne for 2.3 to 3.0 seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// Mean intervals of silence above which a peer is down. Higher: pauses are borne for
    /// longer, deaths are seen later.
    pub phi_threshold: f64,
    /// Intervals that are remembered, at least one.
    pub window: usize,
    /// An interval longer than this is no measure: the peer was down.
    pub max_interval: Duration,
    /// What counts as five intervals beside those remembered.
    pub initial_interval: Duration,
    /// How long a peer that is down stays in the view.
    pub dead_grace: Duration,
}

impl Default for Detection {
    fn default() -> Self {
        Self {
            phi_threshold: 8.5,
            window: 2,
            max_interval: Duration::from_secs(3),
            initial_interval: Duration::from_millis(380),
            dead_grace: Duration::from_secs(3600),
        }
    }
}

/// How a node gossips.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who this node is; its incarnation must be higher than in any life before.
    pub member: Member,
    /// Name of the cluster; nodes of others are not listened to, even with the same secret.
    pub cluster: String,
    /// Where to take datagrams. Port 0 chooses one.
    pub listen: SocketAddr,
    /// Where others reach that, if not where it listens; needed when it listens on all
    /// addresses or behind a translator.
    pub advertise: Option<SocketAddr>,
    /// Facts to begin with.
    pub facts: Facts,
    /// Pause between rounds; in each, up to three members are spoken to. Longer: less traffic,
    /// slower news, and the failure detection has to be told to be patient.
    pub interval: Duration,
    /// When a silent peer counts as dead.
    pub detection: Detection,
    /// Datagrams that come this much later than the quickest of late are dropped.
    pub delay_max: Duration,
    /// Boots of peers that are remembered; at least a few times the size of the cluster.
    pub senders_max: usize,
}

impl Options {
    /// The defaults, for a node that listens there.
    #[must_use]
    pub fn new(member: Member, listen: SocketAddr) -> Self {
        Self {
            member,
            cluster: "regrow".to_owned(),
            listen,
            advertise: None,
            facts: Facts::new(),
            interval: Duration::from_millis(200),
            detection: Detection::default(),
            delay_max: Duration::from_secs(5),
            senders_max: 512,
        }
    }
}

/// Gossip did not start. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("gossip cannot listen on {address}/udp")]
    Bind {
        /// Which address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It listens on all addresses, and no peer could reach "all".
    #[error("gossip listens on {listen}: set the address to advertise, which peers can reach")]
    NoAddress {
        /// Where it listens.
        listen: SocketAddr,
    },
    /// A name is empty or too long.
    #[error("the {what} has {bytes} bytes, 1 to {NAME_BYTES_MAX} are allowed")]
    Name {
        /// Whose name.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A period or count is zero, or the threshold is not positive.
    #[error("`{what}` must be above zero")]
    Zero {
        /// Which option.
        what: &'static str,
    },
    /// One of the facts to begin with.
    #[error(transparent)]
    Fact(#[from] FactError),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    NoRandom,
    /// The gossip library did not start.
    #[error("gossip did not start: {0}")]
    Library(String),
}

/// A node's gossip. Dropping it stops without a word: peers will find the node dead.
///
/// A crash of its task loses what was said; start another one with a higher incarnation.
pub struct Gossip {
    address: SocketAddr,
    said: Arc<Said>,
    views: watch::Receiver<Arc<View>>,
    secrets: watch::Sender<Secrets>,
    counts: Arc<Counts>,
    tasks: JoinSet<()>,
}

/// What the callers and the courier share.
#[derive(Debug, Default)]
struct Said {
    facts: Mutex<OwnFacts>,
    /// Computed at the latest look.
    suspicions: Mutex<BTreeMap<NodeName, Suspicion>>,
    /// Facts changed.
    changed: Notify,
    /// The node leaves.
    leave: Notify,
    /// It stops without a word.
    stop: Notify,
}

impl Gossip {
    /// Listens, and speaks to the `seeds` until it knows members. Must be called within tokio.
    ///
    /// Seeds may change at any time; an address of this node among them does no harm.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing runs then.
    pub async fn start(
        options: Options,
        secrets: impl Into<Secrets>,
        seeds: watch::Receiver<Arc<[SocketAddr]>>,
    ) -> Result<Self, StartError> {
        options.check()?;
        let said = Arc::new(Said::default());
        for (key, value) in &options.facts {
            said.facts.lock().set(key, value)?;
        }
        let bind = |source| StartError::Bind {
            address: options.listen,
            source,
        };
        let socket = UdpSocket::bind(options.listen).await.map_err(bind)?;
        let listen = socket.local_addr().map_err(bind)?;
        let address = options.advertise.unwrap_or(listen);
        if address.ip().is_unspecified() {
            return Err(StartError::NoAddress { listen });
        }

        let (secrets, present) = watch::channel(secrets.into());
        let counts = Arc::new(Counts::default());
        let (boot, seed) = draw()?;
        let bounds = Bounds {
            senders_max: options.senders_max,
            delay_max: options.delay_max,
        };
        let channel = Channel::new(present.borrow().clone(), boot, &seed, bounds);
        let transport = Encrypted::new(EncryptedSocket {
            socket,
            channel,
            secrets: present,
            counts: counts.clone(),
            began: Instant::now(),
            buffer: Box::new([0; DATAGRAM_BYTES_MAX + 1]),
            warned: None,
        });
        let facts = said.facts.lock().all().clone();
        let config = options.library_config(address);
        let handle =
            chitchat::spawn_chitchat(config, facts.clone().into_iter().collect(), &transport)
                .await
                .map_err(|error| StartError::Library(format!("{error:#}")))?;

        let (publish, views) = watch::channel(Arc::default());
        let courier = Courier::new(handle, options, address, said.clone(), facts);
        let mut tasks = JoinSet::new();
        tasks.spawn(courier.run(seeds, publish));
        Ok(Self {
            address,
            said,
            views,
            secrets,
            counts,
            tasks,
        })
    }

    /// Where peers reach this node's gossip.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The views, each as soon as it differs from the one before.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.views.clone()
    }

    /// The latest view.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
    }

    /// How doubtful each peer is, as of the latest look; without those not heard twice yet.
    #[must_use]
    pub fn suspicions(&self) -> BTreeMap<NodeName, Suspicion> {
        self.said.suspicions.lock().clone()
    }

    /// Says `value` under `key` to all peers, in the course of the next rounds. Does not wait.
    ///
    /// # Errors
    ///
    /// [`FactError`] beyond the bounds of [`facts`]; what was said before stays.
    pub fn set_fact(&self, key: &str, value: &str) -> Result<(), FactError> {
        if self.said.facts.lock().set(key, value)? {
            self.said.changed.notify_one();
        }
        Ok(())
    }

    /// Says nothing under `key` any more. Does not wait.
    pub fn remove_fact(&self, key: &str) {
        if self.said.facts.lock().remove(key) {
            self.said.changed.notify_one();
        }
    }

    /// Changes the secrets, from the next datagram on; see [`secret`](crate::secret) for the
    /// three steps in which a cluster changes its secret.
    pub fn rotate(&self, secrets: impl Into<Secrets>) {
        self.secrets.send_replace(secrets.into());
    }

    /// What this node's socket has taken in and dropped.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Says to the peers that this node leaves, and stops after some rounds (less than a second
    /// with the default interval). Peers that hear none of them find the node dead instead.
    pub async fn leave(mut self) {
        self.said.leave.notify_one();
        self.ended().await;
    }

    /// Stops without a word, and returns when the address is free again. Dropping does the same
    /// without waiting.
    pub async fn stop(mut self) {
        self.said.stop.notify_one();
        self.ended().await;
    }

    /// Resolves when gossip has ended, which it does not do by itself; whoever supervises it
    /// starts it anew. May be dropped and called again.
    pub async fn ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Options {
    fn check(&self) -> Result<(), StartError> {
        let names = [
            ("node's name", self.member.name.as_str()),
            ("cluster's name", self.cluster.as_str()),
        ];
        for (what, name) in names {
            let bytes = name.len();
            if !(1..=NAME_BYTES_MAX).contains(&bytes) {
                return Err(StartError::Name { what, bytes });
            }
        }
        let detection = &self.detection;
        let no_threshold = detection.phi_threshold.is_nan() || detection.phi_threshold <= 0.0;
        let zero = [
            ("interval", self.interval.is_zero()),
            ("phi_threshold", no_threshold),
            ("window", detection.window == 0),
            ("initial_interval", detection.initial_interval.is_zero()),
            ("dead_grace", detection.dead_grace.is_zero()),
            ("delay_max", self.delay_max.is_zero()),
            ("senders_max", self.senders_max == 0),
        ];
        match zero.into_iter().find(|(_, zero)| *zero) {
            Some((what, _)) => Err(StartError::Zero { what }),
            None => Ok(()),
        }
    }

    fn library_config(&self, address: SocketAddr) -> ChitchatConfig {
        let detection = &self.detection;
        ChitchatConfig {
            chitchat_id: ChitchatId::new(
                self.member.name.as_str(),
                self.member.incarnation.0,
                address,
            ),
            cluster_id: self.cluster.clone(),
            gossip_interval: self.interval,
            listen_addr: address,
            // Seeds are ours to speak to: the library's are fixed at its start.
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: detection.phi_threshold,
                sampling_window_size: detection.window,
                max_interval: detection.max_interval,
                initial_interval: detection.initial_interval,
                dead_node_grace_period: detection.dead_grace,
            },
            marked_for_deletion_grace_period: REMOVED_FOR,
            catchup_callback: None,
            extra_liveness_predicate: None,
        }
    }
}

/// A boot that was never used before, and the seed of its cookies.
fn draw() -> Result<(Boot, [u8; 32]), StartError> {
    let (mut boot, mut seed) = ([0; 16], [0; 32]);
    let random = SystemRandom::new();
    random
        .fill(&mut boot)
        .and_then(|()| random.fill(&mut seed))
        .map_err(|_unspecified| StartError::NoRandom)?;
    Ok((Boot(boot), seed))
}
