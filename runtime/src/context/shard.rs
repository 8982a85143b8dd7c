//! One shard: the only writer of its keys, write-through to the store.
//!
//! A write is decided in the handler, on top of the newest record, committed or not, and
//! handed to the store's writer at once; no handler waits for the disk. When the commit is
//! done, the writer's callback publishes the record in the [`View`] and answers, in the order
//! of the decisions. Readers look at the view, so they never see what is not durable, and
//! they are served while the shard is down.
//!
//! Crash: writes still queued are lost, and their callers learn that nothing was recorded.
//! Writes already handed over are committed, published and answered all the same. A new life
//! first waits until the writer has dealt with those (an empty commit as a barrier), then
//! reads its keys from the store: nothing acknowledged can be missing from what it builds on.
//!
//! A failed commit crashes the shard on purpose: what was decided on top of it is void.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, error};

use super::record::{ContextRecord, Edit};
use super::ring::Ring;
use super::view::View;
use super::{ContextConfig, ContextError};
use crate::actor::{Actor, Crash, StartError};
use crate::clock::Clock;
use crate::ids::TaskId;
use crate::json::Json;
use crate::mailbox::{Mailbox, Observation, Reply, TrySendError};
use crate::store::writer::{Told, Writer};
use crate::store::{Changes, Document, DocumentRow, StoreError};

/// The documents' space in the store; their keys are task ids.
pub(super) const SPACE: &str = "context";
/// Pause between attempts to reach a store that is recovering.
const STORE_PAUSE: Duration = Duration::from_millis(100);

/// Behaviour only.
pub(super) struct Shard;

/// What a shard needs to start again from nothing.
#[derive(Clone)]
pub(super) struct ShardArgs {
    pub(super) index: u32,
    pub(super) ring: Ring,
    pub(super) config: ContextConfig,
    pub(super) writer: Writer,
    pub(super) clock: Clock,
    pub(super) view: Arc<View>,
    /// Lets one shard read the store at a time, which bounds the memory of a common start.
    pub(super) loading: Arc<Semaphore>,
}

pub(super) enum ShardMsg {
    /// Answered once it is durable. Dropped unanswered, it was not recorded.
    Write {
        task: TaskId,
        edit: Edit,
        reply: Reply<WriteAnswer>,
    },
    /// Forgets what has expired.
    Sweep,
    /// Looks at what became of the commits.
    CommitFailed,
}

pub(super) type WriteAnswer = Result<Arc<ContextRecord>, ContextError>;

/// The newest records, including those whose commit is under way.
pub(super) struct ShardState {
    args: ShardArgs,
    newest: HashMap<TaskId, Newest>,
    bytes: usize,
    life: Arc<Life>,
    _sweeper: JoinSet<()>,
}

struct Newest {
    record: Arc<ContextRecord>,
    bytes: usize,
}

/// What the commits of one life share with it.
struct Life {
    me: Mailbox<ShardMsg>,
    failure: OnceLock<StoreError>,
}

impl Actor for Shard {
    type Msg = ShardMsg;
    type Args = ShardArgs;
    type State = ShardState;

    async fn start(
        &self,
        me: &Mailbox<ShardMsg>,
        args: ShardArgs,
    ) -> Result<ShardState, StartError> {
        let records = load(&args).await?;
        args.view.replace(&records);
        let newest: HashMap<_, _> = records
            .into_iter()
            .map(|(task, record)| {
                let bytes = record.bytes();
                (task, Newest { record, bytes })
            })
            .collect();
        let bytes = newest.values().map(|entry| entry.bytes).sum();
        args.view.show_bytes(bytes);
        let life = Life {
            me: me.clone(),
            failure: OnceLock::new(),
        };
        let mut sweeper = JoinSet::new();
        sweeper.spawn(sweep_regularly(me.clone(), args.config.sweep_period));
        Ok(ShardState {
            args,
            newest,
            bytes,
            life: Arc::new(life),
            _sweeper: sweeper,
        })
    }

    async fn handle(
        &self,
        _: &Mailbox<ShardMsg>,
        msg: ShardMsg,
        state: &mut ShardState,
    ) -> Result<(), Crash> {
        if let Some(failure) = state.life.failure.get() {
            return Err(Crash::from(failure.clone()));
        }
        match msg {
            ShardMsg::Write { task, edit, reply } => state.write(task, edit, reply)?,
            ShardMsg::Sweep => state.sweep(),
            ShardMsg::CommitFailed => {}
        }
        Ok(())
    }

    fn observe(&self, state: &ShardState) -> Observation {
        Observation {
            in_flight: state.args.view.in_flight(),
            progress: state.args.view.settled(),
            detail: None,
        }
    }
}

/// Reads this shard's records, after everything its previous life handed over is settled.
async fn load(args: &ShardArgs) -> Result<HashMap<TaskId, Arc<ContextRecord>>, StartError> {
    loop {
        match args.writer.write(Changes::default()).await {
            Ok(()) => break,
            Err(cause) if cause.is_retryable() => tokio::time::sleep(STORE_PAUSE).await,
            Err(cause) => return Err(StartError::from_error(&cause)),
        }
    }
    let _turn = args.loading.acquire().await;
    let store = args.writer.store();
    let documents = store
        .documents(SPACE, "", u32::MAX)
        .await
        .map_err(|cause| StartError::from_error(&cause))?;
    let records: HashMap<_, _> = documents
        .iter()
        .filter_map(|document| decode(document, args))
        .map(|record| (record.task, Arc::new(record)))
        .collect();
    debug!(
        shard = args.index,
        records = records.len(),
        "context shard loaded"
    );
    Ok(records)
}

/// A record of this shard. One that cannot be read is left in the store and said aloud: it
/// must not keep all others away.
fn decode(document: &Document, args: &ShardArgs) -> Option<ContextRecord> {
    let task: TaskId = match document.key.parse() {
        Ok(task) => task,
        Err(reason) if args.index == 0 => {
            error!(key = %document.key, %reason, "context record has no task id for a key");
            return None;
        }
        Err(_) => return None,
    };
    if args.ring.shard_of(task) != args.index {
        return None;
    }
    match document.body.decode::<ContextRecord>() {
        Ok(record) if record.task == task => Some(record),
        Ok(record) => {
            error!(%task, found = %record.task, "context record belongs to another task");
            None
        }
        Err(reason) => {
            error!(%task, %reason, "context record cannot be read and is left out");
            None
        }
    }
}

async fn sweep_regularly(me: Mailbox<ShardMsg>, period: Duration) {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match me.try_send_control(ShardMsg::Sweep) {
            Ok(()) | Err(TrySendError::Full(_)) => {}
            Err(TrySendError::NotRunning(_)) => return,
        }
    }
}

impl ShardState {
    fn write(&mut self, task: TaskId, edit: Edit, reply: Reply<WriteAnswer>) -> Result<(), Crash> {
        let ContextConfig {
            writes_in_flight_max,
            busy_pause,
            ..
        } = self.args.config;
        if writes_in_flight_max <= self.args.view.in_flight() {
            reply.send(Err(ContextError::Busy {
                retry_after: busy_pause,
            }));
            return Ok(());
        }
        let now = self.args.clock.now();
        let before = self.newest.get(&task).map(|entry| &*entry.record);
        let record = match ContextRecord::after(before, task, edit, now) {
            Ok(record) => record,
            Err(refusal) => {
                reply.send(Err(refusal));
                return Ok(());
            }
        };
        if let Err(refusal) = self.make_room(task, record.bytes()) {
            reply.send(Err(refusal));
            return Ok(());
        }
        let row = DocumentRow {
            space: SPACE,
            key: task.to_string(),
            body: Some(Json::of(&record)?),
            at: now,
        };
        let record = Arc::new(record);
        self.remember(Arc::clone(&record));
        self.hand_over(vec![row], Promise::Write(record, reply));
        Ok(())
    }

    /// Checks that a record of this size fits, sweeping first if it does not.
    fn make_room(&mut self, task: TaskId, bytes: usize) -> Result<(), ContextError> {
        if self.fits(task, bytes) {
            return Ok(());
        }
        self.sweep();
        if self.fits(task, bytes) {
            return Ok(());
        }
        Err(ContextError::Full {
            shard: self.args.index,
            retry_after: self.args.config.sweep_period,
        })
    }

    fn fits(&self, task: TaskId, bytes: usize) -> bool {
        let ContextConfig {
            keys_max,
            bytes_max,
            ..
        } = self.args.config;
        match self.newest.get(&task) {
            Some(old) => bytes <= old.bytes || self.bytes - old.bytes + bytes <= bytes_max,
            None => self.newest.len() < keys_max && self.bytes + bytes <= bytes_max,
        }
    }

    fn remember(&mut self, record: Arc<ContextRecord>) {
        let bytes = record.bytes();
        self.bytes += bytes;
        if let Some(old) = self.newest.insert(record.task, Newest { record, bytes }) {
            self.bytes -= old.bytes;
        }
        self.args.view.show_bytes(self.bytes);
    }

    fn sweep(&mut self) {
        let now = self.args.clock.now();
        let ContextConfig {
            retention,
            abandoned_after,
            ..
        } = self.args.config;
        let expired: Vec<TaskId> = self
            .newest
            .values()
            .filter(|entry| entry.record.is_expired(now, retention, abandoned_after))
            .map(|entry| entry.record.task)
            .collect();
        if expired.is_empty() {
            return;
        }
        for task in &expired {
            if let Some(gone) = self.newest.remove(task) {
                self.bytes -= gone.bytes;
            }
        }
        self.args.view.show_bytes(self.bytes);
        let rows = expired
            .iter()
            .map(|task| DocumentRow {
                space: SPACE,
                key: task.to_string(),
                body: None,
                at: now,
            })
            .collect();
        self.hand_over(rows, Promise::Sweep(expired));
    }

    fn hand_over(&self, documents: Vec<DocumentRow>, promise: Promise) {
        let pledge = Pledge::new(promise, &self.args.view, &self.life);
        let changes = Changes {
            documents,
            ..Changes::default()
        };
        let settle = Told::Call(Box::new(move |committed| pledge.settle(committed)));
        self.args.writer.push(changes, Vec::new(), settle);
    }
}

/// What is owed once the commit is done.
enum Promise {
    Write(Arc<ContextRecord>, Reply<WriteAnswer>),
    Sweep(Vec<TaskId>),
}

/// A promise that is kept exactly once: a writer that goes away without an answer counts as
/// a failed commit.
struct Pledge {
    promise: Option<Promise>,
    view: Arc<View>,
    life: Arc<Life>,
}

impl Pledge {
    fn new(promise: Promise, view: &Arc<View>, life: &Arc<Life>) -> Self {
        view.count_begun();
        Self {
            promise: Some(promise),
            view: Arc::clone(view),
            life: Arc::clone(life),
        }
    }

    fn settle(mut self, committed: Result<(), StoreError>) {
        self.conclude(committed);
    }

    fn conclude(&mut self, committed: Result<(), StoreError>) {
        let Some(promise) = self.promise.take() else {
            return;
        };
        self.view.count_settled();
        match (promise, committed) {
            (Promise::Write(record, reply), Ok(())) => {
                self.view.publish(Arc::clone(&record));
                reply.send(Ok(record));
            }
            (Promise::Sweep(tasks), Ok(())) => self.view.withdraw(&tasks),
            (promise, Err(cause)) => {
                // Before the answer, so that whoever got it finds the shard crashing.
                if self.life.failure.set(cause.clone()).is_ok() {
                    // Full or gone: the next message, or nobody, finds the failure.
                    drop(self.life.me.try_send_control(ShardMsg::CommitFailed));
                }
                if let Promise::Write(_, reply) = promise {
                    reply.send(Err(ContextError::Store(cause)));
                }
            }
        }
    }
}

impl Drop for Pledge {
    fn drop(&mut self) {
        self.conclude(Err(StoreError::Closed));
    }
}
