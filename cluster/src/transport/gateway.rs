//! The gateway as the rest of the node holds it.
//!
//! Stopping is in order: no more calls are taken, those at work are finished and their answers
//! acknowledged, then the sessions end. So no answer is lost because whoever gave it stops.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use ractor::{Actor, ActorRef, SpawnErr};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use regrow_runtime::causes::chain;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::actor::{GatewayActor, GatewayMessage};
use super::dialler::{Dialler, Pace};
use super::fence::Boot;
use super::flow::Amount;
use super::handshake::{Takes, identity};
use super::link::Link;
use super::listener::{self, ConnectError, Entrance};
use super::serving::Shared;
use super::tls::Credentials;
use super::{Call, CallError, CastError, Peer, Service, Transport, TransportConfig};
use crate::member::{Member, NodeName};
use crate::secret::{ClusterSecret, Secrets};

/// Casts and calls that wait for their peers (gauge). Rising: a peer is frozen or too slow.
pub const OUTBOX_MESSAGES: &str = "regrow_gateway_outbox_messages";
/// Their weight in bytes (gauge).
pub const OUTBOX_BYTES: &str = "regrow_gateway_outbox_bytes";

/// What a gateway needs to know of its node.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Which life of which node this is. A start after this one must have a greater life.
    pub member: Member,
    /// Where to listen; port 0 takes any.
    pub listen: SocketAddr,
    /// What the nodes of the cluster have in common: whoever has it may join.
    pub secrets: Secrets,
    /// For mutual TLS; without it, sessions are authenticated at their beginning only, and
    /// nothing is encrypted.
    pub credentials: Option<Credentials>,
    /// Bounds and times.
    pub transport: TransportConfig,
}

/// The keys of the handshake: the one in use, and one more that is accepted.
fn handshake_keys(secrets: &Secrets) -> Vec<[u8; 32]> {
    let key = |secret: &ClusterSecret| {
        let cookie = secret.actor_cookie();
        blake3::derive_key("regrow 2026 handshake of nodes", cookie.as_bytes())
    };
    std::iter::once(&secrets.present)
        .chain(&secrets.accepted)
        .map(key)
        .collect()
}

/// Why there is no gateway. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bounds contradict each other.
    #[error("transport: {}", .0.join("; "))]
    Config(Vec<String>),
    /// The address cannot be listened on.
    #[error("cannot listen for nodes on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// ractor_cluster did not start.
    #[error("the gateway's actor did not start")]
    Actor(#[from] SpawnErr),
}

/// The gateway of a node. Cloning shares it; [`Gateway::stop`] ends it in order, and dropping
/// the last clone at once.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    actor: ActorRef<GatewayMessage>,
    entrance: Arc<Entrance>,
    address: SocketAddr,
    /// Says why the actor ended.
    ended: watch::Receiver<Option<String>>,
    /// Why the latest attempt to connect failed, of nodes that are wanted and missing.
    failures: Mutex<BTreeMap<NodeName, String>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.abort.cancel();
        self.actor.stop(None);
    }
}

impl Gateway {
    /// Starts to listen.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing is left behind.
    pub async fn start(
        config: GatewayConfig,
        service: Arc<dyn Service>,
    ) -> Result<Self, StartError> {
        let problems = config.transport.problems();
        if !problems.is_empty() {
            return Err(StartError::Config(problems));
        }
        let address = config.listen;
        let failed = |source| StartError::Listen { address, source };
        let listening = TcpListener::bind(address).await.map_err(failed)?;
        let address = listening.local_addr().map_err(failed)?;
        let me = Boot {
            member: config.member,
            number: rand::random(),
        };
        let shared = Shared::new(me, service, config.transport);
        let args = shared.clone();
        let (actor, ending) = GatewayActor::spawn(None, GatewayActor, args).await?;
        let (ended, is_ended) = watch::channel(None);
        shared.tasks.spawn(async move {
            let why = match ending.await {
                Ok(()) => "the gateway's actor ended".to_owned(),
                Err(error) => error.to_string(),
            };
            ended.send_replace(Some(why));
        });
        let keys = handshake_keys(&config.secrets);
        let takes = Takes {
            window_messages: shared.config.window_messages,
            window_bytes: shared.config.window_bytes,
            payload_bytes_max: shared.config.payload_bytes_max as u64,
        };
        let me = identity(shared.me.clone(), actor.get_id().pid(), keys, takes);
        let entrance = Arc::new(Entrance {
            me,
            credentials: config.credentials,
            timeout: shared.config.handshake_timeout,
            gateway: actor.clone(),
            warned: listener::Warned::default(),
        });
        let (tasks, abort) = (shared.tasks.clone(), shared.abort.clone());
        let handshakes_max = shared.config.handshakes_max;
        let accepting = entrance
            .clone()
            .accept(listening, handshakes_max, tasks, abort);
        shared.spawn(accepting);
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                actor,
                entrance,
                address,
                ended: is_ended,
                failures: Mutex::default(),
            }),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.inner.address
    }

    /// Which life of which node it is.
    #[must_use]
    pub fn member(&self) -> &Member {
        &self.inner.shared.me.member
    }

    /// Connects to the node at an address, and to no other than `expected` if given. Returns
    /// once messages can travel.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; there is no session of this attempt then. Trying again is safe; it
    /// is pointless after [`super::fence::Refusal::Myself`].
    pub async fn connect(
        &self,
        address: SocketAddr,
        expected: Option<NodeName>,
    ) -> Result<Member, ConnectError> {
        listener::connect(&self.inner.entrance, address, expected).await
    }

    /// Stays connected to the nodes that `routes` names, until it is dropped or the gateway
    /// stops. `seed` draws the jitter of the pauses between attempts.
    pub async fn stay_connected(
        &self,
        mut routes: watch::Receiver<Vec<(NodeName, SocketAddr)>>,
        pace: Pace,
        seed: u64,
    ) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut dialler = Dialler::new(self.member().name.clone(), pace);
        let (mut peers, mut attempts) = (self.peers(), JoinSet::new());
        loop {
            let now = Instant::now();
            dialler.want(&routes.borrow_and_update(), now);
            dialler.peers(&peers.borrow_and_update(), now);
            self.forget_failures(|name| dialler.is_missing(name));
            for (name, address) in dialler.due(now) {
                let entrance = self.inner.entrance.clone();
                attempts.spawn(async move {
                    let expected = Some(name.clone());
                    let met = listener::connect(&entrance, address, expected).await;
                    (name, met.err().map(|error| chain(&error)))
                });
            }
            let next = dialler.next_at().map_or(FOREVER, |at| at - now);
            tokio::select! {
                changed = routes.changed() => if changed.is_err() { return },
                changed = peers.changed() => if changed.is_err() { return },
                Some(Ok((name, failure))) = attempts.join_next() => {
                    dialler.dialled(&name, failure.is_none(), Instant::now(), &mut rng);
                    if let Some(failure) = failure {
                        self.note_failure(name, failure);
                    }
                }
                () = tokio::time::sleep(next) => {}
                _ = self.ended() => return,
            }
        }
    }

    /// A person is told once of each reason, however often it is tried again.
    fn note_failure(&self, name: NodeName, failure: String) {
        let mut failures = self.inner.failures.lock();
        match failures.get(&name) == Some(&failure) {
            true => debug!(peer = %name, error = %failure, "could not connect"),
            false => warn!(peer = %name, error = %failure, "could not connect; trying again"),
        }
        failures.insert(name, failure);
    }

    fn forget_failures(&self, is_missing: impl Fn(&NodeName) -> bool) {
        let mut failures = self.inner.failures.lock();
        failures.retain(|name, _| is_missing(name));
    }

    /// Tells the metrics what waits for the windows of all peers.
    pub fn measure(&self) {
        let mut waiting = Amount::default();
        for link in self.inner.shared.directory.read().values() {
            waiting.add(link.waiting());
        }
        metrics::gauge!(OUTBOX_MESSAGES).set(waiting.messages as f64);
        metrics::gauge!(OUTBOX_BYTES).set(waiting.bytes as f64);
    }

    /// Calls of peers that are at work here.
    #[must_use]
    pub fn calls_at_work(&self) -> usize {
        self.inner.shared.calls.load(Ordering::Acquire)
    }

    /// Calls of this node that wait for an answer.
    #[must_use]
    pub fn waiting_answers(&self) -> usize {
        let directory = self.inner.shared.directory.read();
        directory.values().map(|link| link.pending()).sum()
    }

    #[cfg(test)]
    pub(super) fn node_server(&self) -> ActorRef<ractor_cluster::NodeServerMessage> {
        let children = self.inner.actor.get_cell().get_children();
        ActorRef::from(children.into_iter().next().expect("it lives"))
    }

    /// Waits until the gateway's actor has ended, for whoever supervises it: why.
    pub async fn ended(&self) -> String {
        let mut ended = self.inner.ended.clone();
        let why = ended.wait_for(Option::is_some).await;
        why.ok()
            .and_then(|why| why.clone())
            .unwrap_or_else(|| "the gateway is gone".to_owned())
    }

    /// Stops in order: takes no more calls, finishes those at work, waits until their answers
    /// are acknowledged, ends the sessions. What is not done within `grace` is given up.
    pub async fn stop(&self, grace: Duration) {
        let shared = &self.inner.shared;
        shared.is_leaving.store(true, Ordering::Release);
        let links: Vec<Arc<Link>> = shared.directory.read().values().cloned().collect();
        for link in &links {
            link.say_leaving();
        }
        let lingering = async {
            loop {
                let changed = shared.calls_changed.notified();
                if shared.calls.load(Ordering::Acquire) == 0 {
                    break;
                }
                changed.await;
            }
            for link in &links {
                // Asks again for what is acknowledged, answers included.
                link.say_leaving();
            }
            while !links.iter().all(|link| link.is_settled()) {
                tokio::time::sleep(LINGER_POLL).await;
                for link in &links {
                    link.say_leaving();
                }
            }
        };
        // Whoever is not done is given up, as was said.
        let _ = tokio::time::timeout(grace, lingering).await;
        for link in &links {
            link.end("this node stopped");
        }
        self.inner.actor.stop(None);
        self.ended().await;
        shared.abort.cancel();
        shared.tasks.close();
        shared.tasks.wait().await;
    }
}

/// Until something changes.
const FOREVER: Duration = Duration::from_secs(3_600);

/// How often a stopping gateway asks its peers what they have dealt with.
const LINGER_POLL: Duration = Duration::from_millis(20);

impl Transport for Gateway {
    fn call(&self, to: &Member, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let Call {
            payload,
            deadline,
            operation,
        } = call;
        let operation = operation.map(|operation| operation.0);
        let sent = match self.inner.shared.link(to, payload) {
            Ok((link, payload)) => link
                .call(payload, operation, deadline)
                .map(|(call, answer)| (Waiting { link, call }, answer)),
            Err(error) => Err(error),
        };
        async move {
            let (_waiting, answer) = sent?;
            match tokio::time::timeout(deadline, answer).await {
                Ok(Ok(Err(CallError::DeadlineExceeded(_)))) | Err(_) => {
                    Err(CallError::DeadlineExceeded(deadline))
                }
                Ok(Ok(answered)) => answered,
                Ok(Err(_)) => Err(CallError::Interrupted),
            }
        }
        .boxed()
    }

    fn cast(&self, to: &Member, payload: Bytes) -> Result<(), CastError> {
        let (link, payload) = self.inner.shared.link(to, payload)?;
        link.cast(payload)
    }

    fn peers(&self) -> watch::Receiver<Vec<Peer>> {
        self.inner.shared.peers.subscribe()
    }

    fn failure(&self, to: &NodeName) -> Option<String> {
        self.inner.failures.lock().get(to).cloned()
    }

    fn disconnect(&self, member: &Member) {
        let link = self
            .inner
            .shared
            .directory
            .read()
            .get(&member.name)
            .cloned();
        if let Some(link) = link.filter(|link| link.peer.member == *member) {
            link.end("disconnected by this node");
        }
    }
}

/// A call that waits; dropping it forgets the call.
struct Waiting {
    link: Arc<Link>,
    call: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.link.give_up(self.call);
    }
}
