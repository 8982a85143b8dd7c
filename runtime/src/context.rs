//! Shared task context: what the agents working on a task know together.
//!
//! [`Context`] is a handle to a fixed ring of shards, each a supervised actor that owns its
//! keys and writes them through to the store. A write is answered once it is durable; reads
//! ask no mailbox and see only what is durable, also while a shard is being restarted. A
//! write is retried by the handle while that is known to be safe: it takes effect once, or
//! the error says that it did not, or that nobody knows.
//!
//! Bounded: attributes and findings of a record ([`record`]), keys, bytes and unfinished
//! writes of a shard, watched tasks. What has ended is forgotten after
//! [`ContextConfig::retention`].
//!
//! Left out: the task's own state and result, which are the queue's; other nodes.

pub mod record;
mod ring;
mod shard;
#[cfg(test)]
mod tests;
mod view;

use std::cmp::Reverse;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use self::record::{ContextRecord, ContextStatus, Edit};
use self::ring::Ring;
use self::shard::{Shard, ShardArgs, ShardMsg};
use self::view::View;
use crate::clock::Clock;
use crate::ids::TaskId;
use crate::json::Json;
use crate::mailbox::{Address, CallError, Capacity};
use crate::store::StoreError;
use crate::store::writer::Writer;
use crate::supervision::{ChildSpec, Strategy, SupervisorSpec};

/// Lives of a shard that one write may meet; more, and the write itself may be the killer.
const LIVES_MAX: usize = 5;
/// Pause before a write is offered to a shard's next life.
const RETRY_PAUSE: Duration = Duration::from_millis(2);

/// Limits and periods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextConfig {
    /// Shards; more spread the work over more cores, and each reads the store when it starts.
    pub shards: NonZeroU32,
    /// Tasks with context per shard; one more is refused.
    pub keys_max: usize,
    /// Bytes of all records of a shard; what does not fit is refused.
    pub bytes_max: usize,
    /// Writes of a shard that wait for the disk; one more is refused.
    pub writes_in_flight_max: usize,
    /// When to retry a write refused as [`ContextError::Busy`].
    pub busy_pause: Duration,
    /// Tasks watched per shard.
    pub watched_max: usize,
    /// How long the context of an ended task is kept after its last change.
    pub retention: Duration,
    /// How long that of any other task is kept after its last change.
    pub abandoned_after: Duration,
    /// Period of forgetting.
    pub sweep_period: Duration,
    /// Longest wait for a write's answer, including a restart of the shard.
    pub answer_within: Duration,
}

impl Default for ContextConfig {
    /// 8 shards of 4,096 tasks and 16 MiB; kept for an hour, or a day without an end.
    fn default() -> Self {
        Self {
            shards: const { NonZeroU32::new(8).expect("eight is not zero") },
            keys_max: 4_096,
            bytes_max: 16 * 1024 * 1024,
            writes_in_flight_max: 1_024,
            busy_pause: Duration::from_millis(100),
            watched_max: 1_024,
            retention: Duration::from_secs(3_600),
            abandoned_after: Duration::from_secs(24 * 3_600),
            sweep_period: Duration::from_secs(60),
            answer_within: Duration::from_secs(10),
        }
    }
}

/// A write or a watch was not possible.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ContextError {
    /// Nothing changed. Repeating is useless.
    #[error("{what} of {bytes} bytes exceed the {bytes_max} bytes a task's context may have")]
    TooLarge {
        /// The part that is too large.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The size allowed.
        bytes_max: usize,
    },
    /// The shard holds as much as it may. Nothing changed; room appears when tasks end.
    #[error("context shard {shard} is full; retry in {retry_after:?} or raise its limits")]
    Full {
        /// The shard.
        shard: u32,
        /// When old records are forgotten next, at the latest.
        retry_after: Duration,
    },
    /// Too many writes wait for the disk. Nothing changed.
    #[error("too many context writes wait for the disk; retry in {retry_after:?}")]
    Busy {
        /// When to retry.
        retry_after: Duration,
    },
    /// The shard did not come up in time, or crashed again and again. Nothing changed.
    #[error("context shard {shard} did not stay up within {within:?}; retry later")]
    Unavailable {
        /// The shard.
        shard: u32,
        /// How long was waited.
        within: Duration,
    },
    /// No answer in time: the write may still take effect. Read before repeating.
    #[error("no answer from context shard {shard} within {within:?}; the write may still happen")]
    Unsure {
        /// The shard.
        shard: u32,
        /// How long was waited.
        within: Duration,
    },
    /// The store failed. The write is not acknowledged; read before repeating.
    #[error("context could not be stored")]
    Store(#[source] StoreError),
    /// Too many tasks are watched.
    #[error("{0} tasks of one context shard are watched already; stop watching some")]
    TooManyWatched(usize),
}

impl ContextError {
    /// Whether the same call may succeed later and would not act twice.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Full { .. }
            | Self::Busy { .. }
            | Self::Unavailable { .. }
            | Self::TooManyWatched(_) => true,
            Self::TooLarge { .. } | Self::Unsure { .. } | Self::Store(_) => false,
        }
    }
}

/// Handle to the shared context; cheap to clone.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    config: ContextConfig,
    ring: Ring,
    shards: Vec<ShardHandle>,
}

struct ShardHandle {
    address: Address<ShardMsg>,
    view: Arc<View>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("shards", &self.0.ring.shards())
            .finish_non_exhaustive()
    }
}

impl Context {
    /// The handle, and the supervisor `context` of its shards.
    ///
    /// The shards start once `writer` runs, and read their records from its store; until
    /// then writes wait and reads find nothing.
    #[must_use]
    pub fn supervisor(
        config: ContextConfig,
        writer: &Writer,
        clock: Clock,
    ) -> (Self, SupervisorSpec) {
        let ring = Ring::new(config.shards);
        let loading = Arc::new(Semaphore::new(1));
        // A failed commit crashes every shard with a write under way, all at once, and a disk
        // that stays full fails one commit after another: that must not end the node. The
        // backoff between restarts keeps a broken shard from spinning.
        let restarts_max = ring.shards() as usize * 250;
        let mut spec = SupervisorSpec::new("context", Strategy::OneForOne)
            .intensity(restarts_max, Duration::from_secs(60));
        let mut shards = Vec::new();
        for index in 0..ring.shards() {
            let (address, view) = (Address::new(), Arc::new(View::default()));
            let args = ShardArgs {
                index,
                ring,
                config,
                writer: writer.clone(),
                clock,
                view: Arc::clone(&view),
                loading: Arc::clone(&loading),
            };
            let child = ChildSpec::actor_with_capacity(
                format!("shard-{index}"),
                &address,
                Capacity::default(),
                move || (Shard, args.clone()),
            );
            spec = spec.child(child.role("context_shard"));
            shards.push(ShardHandle { address, view });
        }
        let inner = Inner {
            config,
            ring,
            shards,
        };
        (Self(Arc::new(inner)), spec)
    }

    /// Merges `attrs` into the task's attributes, shallowly; `null` removes one. Sets the
    /// status if one is given. A task without context gets one, queued unless said otherwise.
    /// Returns the record, durable.
    ///
    /// Dropping the future does not take the write back.
    ///
    /// # Errors
    ///
    /// [`ContextError`]; each says whether something changed.
    pub async fn upsert(
        &self,
        task: TaskId,
        attrs: Map<String, Value>,
        status: Option<ContextStatus>,
    ) -> Result<Arc<ContextRecord>, ContextError> {
        self.write(task, Edit::Upsert(attrs, status)).await
    }

    /// Adds a finding; the oldest give way when there are too many. A task without context
    /// gets one, in progress. Returns the record, durable.
    ///
    /// Dropping the future does not take the write back.
    ///
    /// # Errors
    ///
    /// [`ContextError`]; each says whether something changed.
    pub async fn add_finding(
        &self,
        task: TaskId,
        finding: Json,
    ) -> Result<Arc<ContextRecord>, ContextError> {
        self.write(task, Edit::AddFinding(finding)).await
    }

    /// Sets the status. Returns the record, durable.
    ///
    /// Dropping the future does not take the write back.
    ///
    /// # Errors
    ///
    /// [`ContextError`]; each says whether something changed.
    pub async fn set_status(
        &self,
        task: TaskId,
        status: ContextStatus,
    ) -> Result<Arc<ContextRecord>, ContextError> {
        self.write(task, Edit::SetStatus(status)).await
    }

    /// The task's context as it is durable now. Never waits.
    #[must_use]
    pub fn get(&self, task: TaskId) -> Option<Arc<ContextRecord>> {
        self.shard(task).1.view.get(task)
    }

    /// At most `limit` records, the most recently changed first. Never waits.
    #[must_use]
    pub fn list(&self, limit: usize) -> Vec<Arc<ContextRecord>> {
        let mut records = Vec::new();
        for shard in &self.0.shards {
            shard.view.collect(&mut records);
        }
        records.sort_unstable_by_key(|record| (Reverse(record.updated_at), record.task));
        records.truncate(limit);
        records
    }

    /// Watches one task, across restarts of its shard. A slow watcher skips to the newest
    /// record; nothing queues up.
    ///
    /// # Errors
    ///
    /// [`ContextError::TooManyWatched`].
    pub fn watch(&self, task: TaskId) -> Result<ContextWatch, ContextError> {
        let watched_max = self.0.config.watched_max;
        let watched = self.shard(task).1.view.watch(task, watched_max);
        watched
            .map(ContextWatch)
            .ok_or(ContextError::TooManyWatched(watched_max))
    }

    /// What the shards hold. Never waits.
    #[must_use]
    pub fn stats(&self) -> ContextStats {
        let shards: Vec<ShardStats> = self
            .0
            .shards
            .iter()
            .map(|shard| shard.view.stats())
            .collect();
        ContextStats {
            entries: shards.iter().map(|shard| shard.entries).sum(),
            swept: shards.iter().map(|shard| shard.swept).sum(),
            shards,
        }
    }

    fn shard(&self, task: TaskId) -> (u32, &ShardHandle) {
        let index = self.0.ring.shard_of(task);
        (index, &self.0.shards[index as usize])
    }

    async fn write(&self, task: TaskId, edit: Edit) -> Result<Arc<ContextRecord>, ContextError> {
        let (shard, handle) = self.shard(task);
        let within = self.0.config.answer_within;
        let deadline = Instant::now() + within;
        let mut lives = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(mailbox) = handle.address.running(left).await else {
                return Err(ContextError::Unavailable { shard, within });
            };
            let ask = |reply| ShardMsg::Write {
                task,
                edit: edit.clone(),
                reply,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match mailbox.call(ask, left).await {
                Ok(answer) => return answer,
                Err(CallError::Full) => {
                    let retry_after = self.0.config.busy_pause;
                    return Err(ContextError::Busy { retry_after });
                }
                // Unanswered means not recorded: whatever was handed over is answered by the
                // writer, whether the shard lives or not.
                Err(CallError::NoReply) if lives + 1 == LIVES_MAX => {
                    return Err(ContextError::Unavailable { shard, within });
                }
                Err(unsent @ (CallError::NotRunning | CallError::NoReply)) => {
                    lives += usize::from(unsent == CallError::NoReply);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(CallError::TimedOut(_)) => {
                    return Err(ContextError::Unsure { shard, within });
                }
            }
        }
    }
}

/// Follows one task's context.
#[derive(Debug)]
pub struct ContextWatch(watch::Receiver<Option<Arc<ContextRecord>>>);

impl ContextWatch {
    /// The newest durable record; `None` while the task has none. Counts as seen.
    pub fn current(&mut self) -> Option<Arc<ContextRecord>> {
        self.0.borrow_and_update().clone()
    }

    /// Waits for a record that was not seen yet; `None` when the context itself is gone.
    /// The inner `None` means that the record was forgotten. Cancellation safe.
    pub async fn changed(&mut self) -> Option<Option<Arc<ContextRecord>>> {
        self.0.changed().await.ok()?;
        Some(self.current())
    }
}

/// What all shards hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ContextStats {
    /// Tasks with context.
    pub entries: usize,
    /// Records forgotten since the process started.
    pub swept: u64,
    /// Each shard.
    pub shards: Vec<ShardStats>,
}

/// What one shard holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ShardStats {
    /// Tasks with context.
    pub entries: usize,
    /// Size of their records, roughly.
    pub bytes: usize,
    /// Writes waiting for the disk.
    pub writes_in_flight: usize,
    /// Records forgotten since the process started.
    pub swept: u64,
}
