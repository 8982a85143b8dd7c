//! Persistence: what is written, and the ports through which it is read back.
//!
//! Everything durable leaves the kernel as [`Changes`]: rows that describe how things
//! stand after a decision, collected in the order of the decisions. One
//! [`Writer`](writer::Writer) commits whatever is pending in one transaction (group
//! commit) and acknowledges afterwards. Reads go past the writer and see only what is
//! committed.
//!
//! No SQL stands outside this folder.

#[cfg(test)]
mod conformance;
pub mod content;
pub mod data_dir;
mod lines;
pub mod postgres;
pub mod promotion;
mod sharing;
pub mod sqlite;
mod swap;
pub mod volatile;
pub mod writer;

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt, ready};

use crate::clock::{Clock, Timestamp};
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::queue::approval::{ApprovalFilter, ApprovalId, ApprovalRow};
use crate::queue::budget::{BudgetRow, Cost, ReservationRow, Scope};
use crate::queue::control::Control;
use crate::queue::fund::{ChargeRow, FundNews, GrantRow};
use crate::queue::machine::DistantChild;
use crate::queue::order::{Answered, NewOrder};
use crate::queue::task::{TaskBody, TaskEnd, TaskEvent, TaskRun, TaskState, TaskView};
use content::Content;
pub(crate) use swap::Swap;

/// A line of a task's log, with the task and its order of acceptance.
pub type LogLine = (TaskId, u64, TaskEvent);

/// Rows to be committed together.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Tasks accepted.
    pub bodies: Vec<Arc<TaskBody>>,
    /// How live tasks stand; of several for one task the last counts.
    pub runs: Vec<(u64, TaskRun)>,
    /// Tasks that ended; their run is removed.
    pub ends: Vec<(u64, TaskEnd)>,
    /// Ended tasks that live again; their end is removed before `runs` are written.
    pub reopened: Vec<u64>,
    /// Lines for the tasks' logs.
    pub events: Vec<LogLine>,
    /// Journal entries.
    pub steps: Vec<StepRow>,
    /// How budgets stand; of several for one scope the last counts.
    pub budgets: Vec<BudgetRow>,
    /// What was set aside.
    pub reservations: Vec<ReservationRow>,
    /// What is set aside no more, by the reservations' ids; removed after `reservations`
    /// are written.
    pub reservations_ended: Vec<u64>,
    /// What this node's life has spent of budgets that nodes share; of several for one scope
    /// the last counts.
    pub charges: Vec<ChargeRow>,
    /// What people approved on top of the limits of budgets that nodes share.
    pub grants: Vec<GrantRow>,
    /// How questions stand; of several for one the last counts.
    pub approvals: Vec<ApprovalRow>,
    /// Documents to put, in order; `body` of `None` deletes.
    pub documents: Vec<DocumentRow>,
    /// What the nodes that have some tasks are asked to do.
    pub orders: Vec<NewOrder>,
    /// Orders that were carried out, or cannot be.
    pub answers: Vec<Answered>,
    /// Live tasks that another node goes on with; written after `runs`.
    pub handed_over: Vec<HandedOver>,
    /// Tasks from other nodes that are in this node's memory, by their orders of acceptance.
    pub taken_in: Vec<u64>,
    /// The queue's switches, if they changed.
    pub control: Option<Control>,
    /// Forget some of the tasks that ended before this instant.
    pub prune_before: Option<Timestamp>,
}

impl Changes {
    /// Nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bodies.is_empty()
            && self.runs.is_empty()
            && self.ends.is_empty()
            && self.reopened.is_empty()
            && self.events.is_empty()
            && self.steps.is_empty()
            && self.budgets.is_empty()
            && self.reservations.is_empty()
            && self.reservations_ended.is_empty()
            && self.charges.is_empty()
            && self.grants.is_empty()
            && self.approvals.is_empty()
            && self.documents.is_empty()
            && self.orders.is_empty()
            && self.answers.is_empty()
            && self.handed_over.is_empty()
            && self.taken_in.is_empty()
            && self.control.is_none()
            && self.prune_before.is_none()
    }

    /// Adds `later` behind what is already here.
    pub fn append(&mut self, mut later: Self) {
        self.bodies.append(&mut later.bodies);
        self.runs.append(&mut later.runs);
        self.ends.append(&mut later.ends);
        self.reopened.append(&mut later.reopened);
        self.events.append(&mut later.events);
        self.steps.append(&mut later.steps);
        self.budgets.append(&mut later.budgets);
        self.reservations.append(&mut later.reservations);
        self.reservations_ended
            .append(&mut later.reservations_ended);
        self.charges.append(&mut later.charges);
        self.grants.append(&mut later.grants);
        self.approvals.append(&mut later.approvals);
        self.documents.append(&mut later.documents);
        self.orders.append(&mut later.orders);
        self.answers.append(&mut later.answers);
        self.handed_over.append(&mut later.handed_over);
        self.taken_in.append(&mut later.taken_in);
        self.control = later.control.or(self.control.take());
        self.prune_before = later.prune_before.or(self.prune_before);
    }
}

/// A live task that another node goes on with, if that one lives when this is committed;
/// otherwise it comes back to the node that gave it, like a task handed to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandedOver {
    /// The task's order of acceptance.
    pub seq: u64,
    /// The task.
    pub id: TaskId,
    /// The life of the node that is to have it.
    pub to: i64,
    /// Leases of the task have later epochs than this one from now on: of some that were
    /// given before nothing may be stored.
    pub after: Epoch,
}

/// A finished step of a task.
#[derive(Clone, Debug)]
pub struct StepRow {
    /// The task's order of acceptance.
    pub seq: u64,
    /// The step's name within the task.
    pub key: String,
    /// What it was given.
    pub input: Content,
    /// What it produced.
    pub output: Content,
    /// What it cost, if that is known.
    pub cost: Option<Cost>,
    /// Under which lease.
    pub epoch: Epoch,
    /// When the work began.
    pub started_at: Timestamp,
    /// When its output was handed over for recording.
    pub finished_at: Timestamp,
}

/// A document of the kernel's own, such as a task's shared context.
#[derive(Clone, Debug)]
pub struct DocumentRow {
    /// Whose it is: a name per use, such as `context`.
    pub space: &'static str,
    /// Its key within the space.
    pub key: String,
    /// The content; `None` deletes it.
    pub body: Option<Json>,
    /// When it was written.
    pub at: Timestamp,
}

/// A document as read back.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its key within the space.
    pub key: String,
    /// The content.
    pub body: Json,
    /// When it was written.
    pub at: Timestamp,
}

/// Everything the queue needs to continue after a restart.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The queue's switches.
    pub control: Control,
    /// The next order of acceptance.
    pub next_seq: u64,
    /// Tasks that have not ended, with their bodies, in order of acceptance.
    pub live: Vec<(Arc<TaskBody>, TaskRun)>,
    /// How tasks ended that a live one depends on, and how those stand that live elsewhere.
    pub ended: HashMap<TaskId, TaskState>,
    /// Children of these that live elsewhere, or failed there unheard.
    pub(crate) children: Vec<DistantChild>,
    /// Whose tasks these are, where a store is shared.
    pub(crate) lives: Vec<i64>,
    /// Set when some of them were inherited since the last reading: epochs go on above it.
    pub(crate) boots: Option<u32>,
    /// The budgets of the node, of tenants, and of tasks that a live one spends from.
    pub budgets: Vec<BudgetRow>,
    /// Budgets that nodes share.
    pub funds: Vec<FundNews>,
    /// What is set aside.
    pub reservations: Vec<ReservationRow>,
    /// Questions that are open.
    pub approvals: Vec<ApprovalRow>,
    /// Those of the live tasks that were handed over to this node and not taken in before.
    pub(crate) handed: Vec<u64>,
}

/// Tasks that live, and how they stand.
pub(crate) type LiveTasks = Vec<(Arc<TaskBody>, TaskRun)>;

/// Tasks that were handed over to this node.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    pub(crate) tasks: LiveTasks,
    /// Their own budgets.
    pub(crate) budgets: Vec<BudgetRow>,
    /// The last epoch that those have given who had them.
    pub(crate) after: Epoch,
}

/// What live tasks need of the ledgers.
#[derive(Debug, Default)]
pub(crate) struct Ledgers {
    pub(crate) budgets: Vec<BudgetRow>,
    pub(crate) funds: Vec<FundNews>,
    pub(crate) reservations: Vec<ReservationRow>,
    pub(crate) approvals: Vec<ApprovalRow>,
}

/// Which tasks to list. Newest first.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    /// Only tasks in this state.
    pub state: Option<TaskState>,
    /// Only tasks of this kind.
    pub kind: Option<String>,
    /// Only children of this task.
    pub parent: Option<TaskId>,
    /// Only tasks accepted before this one (cursor).
    pub before: Option<TaskId>,
    /// At most this many.
    pub limit: u32,
}

/// A store failed. Whether a write took effect is unknown to the caller; the writer finds
/// out by reading the store again before it acknowledges anything else.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused or failed an operation.
    #[error("store could not {attempt}: {cause}")]
    Failed {
        /// What was tried.
        attempt: &'static str,
        /// What the database said.
        cause: Arc<str>,
    },
    /// The disk is full; nothing of the batch was kept.
    #[error(
        "store could not {attempt}: the disk is full; free some space, the node goes on by itself"
    )]
    DiskFull {
        /// What was tried.
        attempt: &'static str,
    },
    /// The writer is recovering from a failed commit; nothing was written.
    #[error("store is recovering from a failed write; retry shortly")]
    Recovering,
    /// The store was closed; nothing was written.
    #[error("store is closed")]
    Closed,
    /// Another node acts for this node's tasks; nothing was written, and nothing will be.
    #[error(
        "{by} has taken over the tasks of this node (`{node}`), which may not act any more; \
         stop it and start it again, with a name of its own if the other one is alive"
    )]
    Superseded {
        /// This node.
        node: Arc<str>,
        /// Who acts now.
        by: Arc<str>,
    },
    /// Another node that is alive uses this node's name; nothing was written.
    #[error(
        "another node named `{node}` is running on this database (life {life}); \
         give this one another name with --name, or stop the other"
    )]
    NameTaken {
        /// The name.
        node: Arc<str>,
        /// The other node's life.
        life: i64,
    },
    /// The tasks were moved to a database; nothing is written into the file any more.
    #[error("the tasks of this node were moved to {database}; set store.database_url to it")]
    Promoted {
        /// Where they are.
        database: Arc<str>,
    },
    /// What is stored cannot be understood.
    #[error("store holds {what} that cannot be read: {cause}; restore a backup")]
    Unreadable {
        /// Which kind of row.
        what: &'static str,
        /// Why not.
        cause: Arc<str>,
    },
}

impl StoreError {
    /// The same call may succeed later without anyone's help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Failed { .. } | Self::DiskFull { .. } | Self::Recovering => true,
            Self::Closed
            | Self::Superseded { .. }
            | Self::NameTaken { .. }
            | Self::Promoted { .. }
            | Self::Unreadable { .. } => false,
        }
    }
}

/// A commit under way, and its outcome. The work may go on when this is dropped.
pub(crate) type Committing = BoxFuture<'static, Result<(), StoreError>>;

/// Where a node keeps what has to last.
#[derive(Clone, Debug)]
pub enum Store {
    /// A SQLite file. Survives everything but the loss of the disk.
    Sqlite(sqlite::Sqlite),
    /// A PostgreSQL database, which nodes may share. Survives the loss of a node.
    Postgres(postgres::Postgres),
    /// The process's memory, for tests and benches. Survives nothing.
    Volatile(volatile::Volatile),
}

macro_rules! each_store {
    ($self:ident.$method:ident($($arg:expr),*)) => {
        match $self {
            Self::Sqlite(store) => store.$method($($arg),*).await,
            Self::Postgres(store) => store.$method($($arg),*).await,
            Self::Volatile(store) => store.$method($($arg),*).await,
        }
    };
}

impl Store {
    /// A store in the process's memory.
    #[must_use]
    pub fn volatile() -> Self {
        Self::Volatile(volatile::Volatile::default())
    }

    /// `sqlite`, `postgres` or `memory`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
            Self::Volatile(_) => "memory",
        }
    }

    /// The clock by which this store's times are to be read: the machine's for a store of
    /// one node, the database's for one that nodes share.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn clock(&self) -> Result<Clock, StoreError> {
        match self {
            Self::Postgres(store) => store.clock().await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(Clock::system()),
        }
    }

    /// Raises and returns the number of times this store has been opened for work: the
    /// high half of every [`Epoch`] handed out afterwards. Durable when it returns.
    ///
    /// On a shared store this begins a life, and ends the earlier ones of this node's name.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the number may have been raised, which is harmless.
    pub async fn next_boot(&self) -> Result<u32, StoreError> {
        each_store!(self.next_boot())
    }

    /// Reads everything that lives.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        each_store!(self.snapshot())
    }

    /// One task, or `None` if there is none of that id.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn task(&self, id: TaskId) -> Result<Option<TaskView>, StoreError> {
        each_store!(self.task(id))
    }

    /// Tasks, newest first.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn tasks(&self, filter: &TaskFilter) -> Result<Vec<TaskView>, StoreError> {
        each_store!(self.tasks(filter))
    }

    /// How many tasks ended in each terminal state.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn ended_counts(&self) -> Result<HashMap<TaskState, u64>, StoreError> {
        each_store!(self.ended_counts())
    }

    /// How many children of a task stand in each state.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn children_counts(
        &self,
        parent: TaskId,
    ) -> Result<HashMap<TaskState, u64>, StoreError> {
        each_store!(self.children_counts(parent))
    }

    /// A task's log behind event `after`, oldest first, at most `limit` lines.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn events(
        &self,
        id: TaskId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<TaskEvent>, StoreError> {
        each_store!(self.events(id, after, limit))
    }

    /// The task that was submitted under an idempotency key.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn by_idempotency_key(
        &self,
        tenant: &str,
        key: &str,
    ) -> Result<Option<TaskId>, StoreError> {
        each_store!(self.by_idempotency_key(tenant, key))
    }

    /// The finished step `key` of the task accepted as number `seq`.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn step(&self, seq: u64, key: &str) -> Result<Option<StepRow>, StoreError> {
        each_store!(self.step(seq, key))
    }

    /// Finished steps of the task accepted as number `seq`, behind step `after`, in the order
    /// in which they finished. Large documents are left out: read the step for them.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn steps(
        &self,
        seq: u64,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<StepRow>, StoreError> {
        each_store!(self.steps(seq, after, limit))
    }

    /// How a budget stands as it is stored, or `None` if there is none of that scope.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn budget(&self, scope: &Scope) -> Result<Option<BudgetRow>, StoreError> {
        each_store!(self.budget(scope))
    }

    /// One question, or `None` if there is none of that id.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn approval(&self, id: ApprovalId) -> Result<Option<ApprovalRow>, StoreError> {
        each_store!(self.approval(id))
    }

    /// Questions, newest first.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn approvals(&self, filter: &ApprovalFilter) -> Result<Vec<ApprovalRow>, StoreError> {
        each_store!(self.approvals(filter))
    }

    /// One document.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn document(&self, space: &str, key: &str) -> Result<Option<Document>, StoreError> {
        each_store!(self.document(space, key))
    }

    /// Documents whose key begins with `prefix`, in reverse order of their keys.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn documents(
        &self,
        space: &str,
        prefix: &str,
        limit: u32,
    ) -> Result<Vec<Document>, StoreError> {
        each_store!(self.documents(space, prefix, limit))
    }

    /// Begins to commit `changes` in one transaction: all of them, durable, or none.
    /// After a failure the store must be [reopened](Self::reopen).
    ///
    /// Only the writer calls it, one at a time. Dropping what it returns stops nothing that
    /// has begun.
    pub(crate) fn commit(&self, changes: Arc<Changes>) -> Committing {
        match self {
            Self::Sqlite(store) => store.commit(changes),
            Self::Postgres(store) => {
                let store = store.clone();
                let mut commit = async move { store.commit(&changes).await }.boxed();
                // On its way to the server before anybody waits for the answer.
                match (&mut commit).now_or_never() {
                    Some(outcome) => ready(outcome).boxed(),
                    None => commit,
                }
            }
            Self::Volatile(store) => ready(store.commit(Arc::unwrap_or_clone(changes))).boxed(),
        }
    }

    /// Drops the connection that failed and opens another.
    pub(crate) async fn reopen(&self) -> Result<(), StoreError> {
        each_store!(self.reopen())
    }

    /// Closes the store; reads and writes fail afterwards.
    pub(crate) async fn close(&self) {
        each_store!(self.close());
    }
}
