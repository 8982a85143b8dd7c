//! The gateway as the rest of the node holds it.
//!
//! Stopping is in order: no more calls are taken, those at work are finished and their answers
//! acknowledged, then the sessions end. So no answer is lost because whoever gave it stops.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use ractor::{Actor, ActorRef, SpawnErr};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use regrow_runtime::causes::chain;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::actor::{GatewayActor, GatewayMessage};
use super::dialler::{Dialler, Pace};
use super::fence::Boot;
use super::handshake::{Takes, identity};
use super::inbound::Arrived;
use super::link::Link;
use super::listener::{self, ConnectError, Entrance};
use super::operations::{Begin, Operations};
use super::tls::Credentials;
use super::{
    Call, CallError, CastError, Directory, Incoming, Peer, Rejection, Service, Transport,
    TransportConfig,
};
use crate::member::{Member, NodeName};
use crate::wire::{Answer, Kind};

/// The longest text of a [`Rejection`] that travels, in bytes.
const REJECTION_BYTES_MAX: usize = 1_024;

/// What a gateway needs to know of its node.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Which life of which node this is. A start after this one must have a greater life.
    pub member: Member,
    /// Where to listen; port 0 takes any.
    pub listen: SocketAddr,
    /// The cluster's key: whoever has it may join. The first is used, all are accepted; while
    /// a key is being changed there are two.
    pub keys: Vec<ClusterKey>,
    /// For mutual TLS; without it, sessions are authenticated at their beginning only, and
    /// nothing is encrypted.
    pub credentials: Option<Credentials>,
    /// Bounds and times.
    pub transport: TransportConfig,
}

/// A key that all nodes of a cluster share. Does not show itself.
#[derive(Clone)]
pub struct ClusterKey(pub [u8; 32]);

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(…)")
    }
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

/// What the gateway's parts share.
pub(super) struct Shared {
    pub(super) me: Boot,
    pub(super) config: TransportConfig,
    service: Arc<dyn Service>,
    directory: RwLock<Directory>,
    peers: watch::Sender<Vec<Peer>>,
    tasks: TaskTracker,
    /// Ends every task that is left.
    abort: CancellationToken,
    is_leaving: AtomicBool,
    calls: AtomicUsize,
    calls_changed: Notify,
    operations: Mutex<Operations<(Arc<Link>, u64)>>,
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
        let mut problems = config.transport.problems();
        if config.keys.is_empty() {
            problems.push("there is no cluster key".to_owned());
        }
        if !problems.is_empty() {
            return Err(StartError::Config(problems));
        }
        let address = config.listen;
        let failed = |source| StartError::Listen { address, source };
        let listening = TcpListener::bind(address).await.map_err(failed)?;
        let address = listening.local_addr().map_err(failed)?;
        let transport = config.transport;
        let shared = Arc::new(Shared {
            me: Boot {
                member: config.member,
                number: rand::random(),
            },
            service,
            directory: RwLock::default(),
            peers: watch::Sender::new(Vec::new()),
            tasks: TaskTracker::new(),
            abort: CancellationToken::new(),
            is_leaving: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            calls_changed: Notify::new(),
            operations: Mutex::new(Operations::new(
                transport.operations_keep,
                transport.operations_max,
                transport.operations_bytes,
            )),
            config: transport,
        });
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
        let derived =
            |key: &ClusterKey| blake3::derive_key("regrow 2026 handshake of nodes", &key.0);
        let keys = config.keys.iter().map(derived).collect();
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
            for (name, address) in dialler.due(now) {
                let entrance = self.inner.entrance.clone();
                attempts.spawn(async move {
                    let expected = Some(name.clone());
                    let met = listener::connect(&entrance, address, expected).await;
                    if let Err(error) = &met {
                        debug!(peer = %name, error = %chain(error), "could not connect");
                    }
                    (name, met.is_ok())
                });
            }
            let next = dialler.next_at().map_or(FOREVER, |at| at - now);
            tokio::select! {
                changed = routes.changed() => if changed.is_err() { return },
                changed = peers.changed() => if changed.is_err() { return },
                Some(Ok((name, is_met))) = attempts.join_next() => {
                    dialler.dialled(&name, is_met, Instant::now(), &mut rng);
                }
                () = tokio::time::sleep(next) => {}
                _ = self.ended() => return,
            }
        }
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

/// A call at work; dropping it makes room for another.
struct AtWork(Arc<Shared>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::AcqRel);
        self.0.calls_changed.notify_waiters();
    }
}

impl Shared {
    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    /// Runs a task until it ends or the gateway does.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let abort = self.abort.clone();
        self.tasks.spawn(async move {
            abort.run_until_cancelled(task).await;
        });
    }

    /// Shows which sessions there are.
    pub(super) fn publish(&self, links: &HashMap<u64, Arc<Link>>) {
        let mut peers: Vec<Peer> = links.values().filter_map(|link| link.peer()).collect();
        peers.sort_by(|a, b| a.member.cmp(&b.member));
        let directory = links
            .values()
            // Those that are joining refuse until they are ready.
            .filter(|link| !link.is_over())
            .map(|link| (link.peer.member.name.clone(), link.clone()))
            .collect();
        *self.directory.write() = directory;
        self.peers.send_if_modified(|before| {
            let is_news = *before != peers;
            *before = peers;
            is_news
        });
    }

    fn link(&self, to: &Member, payload: Bytes) -> Result<(Arc<Link>, Bytes), CastError> {
        let link = self.directory.read().get(&to.name).cloned();
        match link {
            None => Err(CastError::NotConnected { payload }),
            Some(link) if link.peer.member == *to => Ok((link, payload)),
            Some(link) => {
                let current = link.peer.member.incarnation;
                Err(CastError::OtherLife { current, payload })
            }
        }
    }

    /// Deals with a peer's messages in order: casts one after another, calls begun in turn.
    pub(super) async fn run_lane(
        self: Arc<Self>,
        link: Arc<Link>,
        mut arrivals: mpsc::Receiver<Arrived>,
    ) {
        while let Some(arrived) = arrivals.recv().await {
            if matches!(arrived.kind, Kind::Cast) {
                let from = link.peer.member.clone();
                let (payload, charge) = (Bytes::from(arrived.payload), arrived.charge);
                let taking = AssertUnwindSafe(async { self.service.cast(from, payload).await });
                if taking.catch_unwind().await.is_err() {
                    tracing::error!(peer = %link.peer.member, "the service panicked at a cast");
                }
                link.consume(charge);
            } else {
                self.clone().begin_call(&link, arrived);
            }
            link.dequeued();
        }
    }

    /// Begins the work on a call, or refuses it.
    pub(super) fn begin_call(self: Arc<Self>, link: &Arc<Link>, arrived: Arrived) {
        let Kind::Call { call, operation } = arrived.kind else {
            return;
        };
        let (charge, nothing) = (arrived.charge, Bytes::new());
        if self.is_leaving() {
            return link.answer(call, Answer::Leaving, nothing, Some(charge));
        }
        if self.config.calls_max <= self.calls.fetch_add(1, Ordering::AcqRel) {
            drop(AtWork(self));
            return link.answer(call, Answer::Busy, nothing, Some(charge));
        }
        let at_work = AtWork(self.clone());
        let key = operation.map(|operation| (link.peer.member.name.clone(), operation));
        if let Some(key) = &key {
            let asker = || (link.clone(), call);
            let begun = self
                .operations
                .lock()
                .begin(key.clone(), asker, Instant::now());
            match begun {
                Begin::Fresh => {}
                Begin::Joined => return link.consume(charge),
                Begin::Answered(answer, payload) => {
                    return link.answer(call, answer, payload, Some(charge));
                }
                Begin::Full => return link.answer(call, Answer::Busy, nothing, Some(charge)),
            }
        }
        let (shared, link) = (self.clone(), link.clone());
        self.spawn(async move {
            let (answer, payload) = shared.work(&link, arrived).await;
            if let Some(key) = key {
                let mut operations = shared.operations.lock();
                let waiting = operations.end(key, answer, payload.clone(), Instant::now());
                drop(operations);
                for (link, call) in waiting {
                    link.answer(call, answer, payload.clone(), None);
                }
            }
            link.answer(call, answer, payload, Some(charge));
            drop(at_work);
        });
    }

    async fn work(&self, link: &Link, arrived: Arrived) -> (Answer, Bytes) {
        let from = &link.peer.member;
        let left = Duration::from_millis(arrived.left_ms.unwrap_or(0));
        let left = left.saturating_sub(arrived.since.elapsed());
        let incoming = Incoming {
            from: from.clone(),
            payload: Bytes::from(arrived.payload),
            left,
        };
        let working = AssertUnwindSafe(async { self.service.call(incoming).await }).catch_unwind();
        match tokio::time::timeout(left, working).await {
            Err(_) => (Answer::Expired, Bytes::new()),
            Ok(Err(_)) => {
                tracing::error!(peer = %from, "the service panicked at a call");
                (Answer::Crashed, Bytes::new())
            }
            Ok(Ok(Err(Rejection(mut text)))) => {
                while REJECTION_BYTES_MAX < text.len() {
                    text.pop();
                }
                (Answer::Rejected, Bytes::from(text))
            }
            Ok(Ok(Ok(payload))) if link.payload_bytes_max() < payload.len() => {
                (Answer::NoRoom, Bytes::new())
            }
            Ok(Ok(Ok(payload))) => (Answer::Done, payload),
        }
    }
}
