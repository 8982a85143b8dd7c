//! Disks, links between nodes, and a switch by which a process stands still.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use regrow_runtime::json::Json;
use regrow_runtime::store::StoreError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::carrier::{Carriage, Disk};
use crate::member::NodeName;

/// A switch by which futures stand still, as those of a stopped process.
#[derive(Default)]
pub(super) struct Freezer {
    pub(super) frozen: bool,
    pub(super) wakers: Vec<Waker>,
}

pub(super) struct Freezable<F> {
    pub(super) inner: Pin<Box<F>>,
    pub(super) freezer: Arc<Mutex<Freezer>>,
}

impl<F: Future> Future for Freezable<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        {
            let mut freezer = self.freezer.lock();
            if freezer.frozen {
                freezer.wakers.push(context.waker().clone());
                return Poll::Pending;
            }
        }
        self.inner.as_mut().poll(context)
    }
}

#[derive(Default)]
pub(super) struct MemoryDisk {
    pub(super) documents: Mutex<BTreeMap<String, Json>>,
    /// How much longer than usual a write takes.
    pub(super) late: Mutex<Duration>,
}

impl Disk for MemoryDisk {
    fn load(&self) -> BoxFuture<'_, Result<BTreeMap<String, Json>, StoreError>> {
        async { Ok(self.documents.lock().clone()) }.boxed()
    }

    fn save(&self, documents: Vec<(String, Json)>) -> BoxFuture<'_, Result<(), StoreError>> {
        async {
            let late = *self.late.lock();
            sleep(Duration::from_millis(3) + late).await;
            self.documents.lock().extend(documents);
            Ok(())
        }
        .boxed()
    }
}

pub(super) type Inbox = mpsc::Sender<(NodeName, Bytes)>;

/// Links between nodes.
pub(super) struct Net {
    pub(super) rng: Xoshiro256PlusPlus,
    pub(super) inboxes: BTreeMap<NodeName, Inbox>,
    pub(super) cut: BTreeSet<NodeName>,
    pub(super) unsteady: bool,
    pub(super) under_way: JoinSet<()>,
}

pub(super) struct Link {
    pub(super) from: NodeName,
    pub(super) net: Arc<Mutex<Net>>,
}

impl Carriage for Link {
    fn cast(&self, to: &NodeName, bytes: Bytes) {
        let mut net = self.net.lock();
        if net.cut.contains(&self.from) || net.cut.contains(to) {
            return;
        }
        let (lost, late_max) = if net.unsteady { (0.1, 200) } else { (0.0, 5) };
        if net.rng.random_bool(lost) {
            return;
        }
        let late = Duration::from_millis(net.rng.random_range(0..=late_max));
        let Some(inbox) = net.inboxes.get(to).cloned() else {
            return;
        };
        let from = self.from.clone();
        while net.under_way.try_join_next().is_some() {}
        net.under_way.spawn(async move {
            sleep(late).await;
            // Whoever is gone or full loses it.
            let _ = inbox.try_send((from, bytes));
        });
    }
}
