//! What is durable, for readers; outlives the shard's lives.
//!
//! Written by the writer's callbacks in commit order, and by a starting shard, which has
//! waited for those. Readers take a short lock and never wait for an actor or the disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::RwLock;
use tokio::sync::watch;

use super::ShardStats;
use super::record::ContextRecord;
use crate::ids::TaskId;

/// The durable records of one shard, and who watches them.
#[derive(Default)]
pub(super) struct View {
    published: RwLock<Published>,
    in_flight: AtomicUsize,
    settled: AtomicU64,
    swept: AtomicU64,
    bytes: AtomicUsize,
}

type Latest = Option<Arc<ContextRecord>>;

#[derive(Default)]
struct Published {
    records: HashMap<TaskId, Arc<ContextRecord>>,
    watched: HashMap<TaskId, watch::Sender<Latest>>,
}

impl Published {
    fn tell(&self, task: TaskId) {
        if let Some(watched) = self.watched.get(&task) {
            watched.send_replace(self.records.get(&task).cloned());
        }
    }

    fn forget_unwatched(&mut self) {
        self.watched.retain(|_, watched| !watched.is_closed());
    }
}

impl View {
    pub(super) fn get(&self, task: TaskId) -> Latest {
        self.published.read().records.get(&task).cloned()
    }

    pub(super) fn collect(&self, into: &mut Vec<Arc<ContextRecord>>) {
        into.extend(self.published.read().records.values().cloned());
    }

    /// `None` when too many tasks are watched.
    pub(super) fn watch(
        &self,
        task: TaskId,
        watched_max: usize,
    ) -> Option<watch::Receiver<Latest>> {
        let mut published = self.published.write();
        if let Some(watched) = published.watched.get(&task) {
            return Some(watched.subscribe());
        }
        if watched_max <= published.watched.len() {
            published.forget_unwatched();
        }
        if watched_max <= published.watched.len() {
            return None;
        }
        let (watched, receiver) = watch::channel(published.records.get(&task).cloned());
        published.watched.insert(task, watched);
        Some(receiver)
    }

    pub(super) fn stats(&self) -> ShardStats {
        ShardStats {
            entries: self.published.read().records.len(),
            bytes: self.bytes.load(Ordering::Relaxed),
            writes_in_flight: self.in_flight(),
            swept: self.swept.load(Ordering::Relaxed),
        }
    }

    /// Writes whose commit is under way.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn count_begun(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_settled(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes settled since the process started, committed or not.
    pub(super) fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    pub(super) fn show_bytes(&self, bytes: usize) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn publish(&self, record: Arc<ContextRecord>) {
        let mut published = self.published.write();
        let task = record.task;
        published.records.insert(task, record);
        published.tell(task);
    }

    pub(super) fn withdraw(&self, tasks: &[TaskId]) {
        let mut published = self.published.write();
        for task in tasks {
            published.records.remove(task);
            published.tell(*task);
        }
        published.forget_unwatched();
        self.swept.fetch_add(tasks.len() as u64, Ordering::Relaxed);
    }

    /// What a starting shard found; watchers hear of what differs.
    pub(super) fn replace(&self, records: &HashMap<TaskId, Arc<ContextRecord>>) {
        let mut published = self.published.write();
        published.records.clone_from(records);
        for (task, watched) in &published.watched {
            let latest = published.records.get(task).cloned();
            watched.send_if_modified(|seen| {
                let changed = *seen != latest;
                if changed {
                    *seen = latest;
                }
                changed
            });
        }
    }
}
