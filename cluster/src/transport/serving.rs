//! What a gateway does with what arrives, and what its parts share.
//!
//! A peer's casts are dealt with one after another, its calls each in a task of its own, begun
//! in the order in which they came. No task outlives the gateway.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fence::Boot;
use super::inbound::Arrived;
use super::link::Link;
use super::operations::{Begin, Operations};
use super::{CastError, Incoming, Peer, Rejection, Service, TransportConfig};
use crate::member::{Member, NodeName};
use crate::wire::{Answer, Kind};

/// The longest text of a [`Rejection`] that travels, in bytes.
const REJECTION_BYTES_MAX: usize = 1_024;

/// What the gateway's parts share.
pub(super) struct Shared {
    pub(super) me: Boot,
    pub(super) config: TransportConfig,
    service: Arc<dyn Service>,
    /// Sessions by the name of their peer, whatever its life.
    pub(super) directory: RwLock<HashMap<NodeName, Arc<Link>>>,
    pub(super) peers: watch::Sender<Vec<Peer>>,
    pub(super) tasks: TaskTracker,
    /// Ends every task that is left.
    pub(super) abort: CancellationToken,
    pub(super) is_leaving: AtomicBool,
    pub(super) calls: AtomicUsize,
    pub(super) calls_changed: Notify,
    operations: Mutex<Operations<(Arc<Link>, u64)>>,
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
    pub(super) fn new(me: Boot, service: Arc<dyn Service>, config: TransportConfig) -> Arc<Self> {
        let operations = Operations::new(
            config.operations_keep,
            config.operations_max,
            config.operations_bytes,
        );
        Arc::new(Self {
            me,
            service,
            directory: RwLock::default(),
            peers: watch::Sender::new(Vec::new()),
            tasks: TaskTracker::new(),
            abort: CancellationToken::new(),
            is_leaving: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            calls_changed: Notify::new(),
            operations: Mutex::new(operations),
            config,
        })
    }

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

    /// The session with a life of a node; otherwise the message is given back.
    pub(super) fn link(
        &self,
        to: &Member,
        payload: Bytes,
    ) -> Result<(Arc<Link>, Bytes), CastError> {
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
