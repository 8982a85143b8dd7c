//! Which agents are wanted, who owns each, and under which epoch.
//!
//! A row is changed by compare-and-set: whoever decided on a revision that is no longer the
//! present one is told so and decides again. Beyond that the registry holds one law, whatever
//! it is asked for: an owner that lives is replaced by nobody but himself. His epoch is drawn
//! anew with each owner and never repeats, so that what an earlier owner still does can be
//! refused (fencing).
//!
//! On a store that nodes share the rows are a table, and "lives" is what ADR 0005 means by it;
//! on a store of one node they are documents, and every life before the present one is over.
//! Crash: a change whose answer did not come may have been made; reading tells.

mod nodes;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

pub(crate) use self::nodes::NODES_MAX;
pub use self::nodes::{Judgement, ReportKept, Reported};
use crate::clock::Clock;
use crate::ids::{AgentId, Epoch};
use crate::json::Json;
use crate::store::postgres::{Hearing, Signal};
use crate::store::writer::Writer;
use crate::store::{Changes, DocumentRow, Store, StoreError};

/// Agents that a registry may hold.
pub const AGENTS_MAX: u32 = 100_000;
/// Where a store of one node keeps the rows.
const SPACE: &str = "agent";
/// Where it keeps why each is where it is.
const DECISIONS: &str = "agent.decision";

/// One boot of one node, as the store counts them: fenced once it has ended (ADR 0005).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Life(pub u64);

/// A life that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveNode {
    /// Its node's name.
    pub node: Arc<str>,
    /// How long it lasts without another renewal, by the store's clock at the time of reading;
    /// zero once others may end it. [`Duration::MAX`] on a store of one node.
    pub left: Duration,
}

/// An agent's row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentRow {
    /// Whose it is.
    pub id: AgentId,
    /// Grows with every change.
    pub revision: u64,
    /// Grows with every change of the owner.
    pub epoch: Epoch,
    /// The life that may run it.
    pub owner: Option<Life>,
    /// What the cluster knows of it: its spec, and how a move stands.
    pub entry: Json,
}

/// All rows, and who lives.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Lives that have not ended.
    pub lives: BTreeMap<Life, LiveNode>,
    /// The agents, by id. Read after the lives: an owner among neither is one that began since.
    pub agents: BTreeMap<AgentId, AgentRow>,
    /// What is noted of nodes, by their names; of those that are away as well.
    pub notes: BTreeMap<String, Json>,
    /// What each node said of itself last.
    pub reports: BTreeMap<String, Reported>,
    /// What all nodes hold of one among them.
    pub judgements: BTreeMap<String, Judgement>,
}

/// What to do with a row.
#[derive(Clone, Debug)]
pub struct AgentChange {
    /// Whose row.
    pub id: AgentId,
    /// The revision that this was decided on; `None`: there is no such row.
    pub revision: Option<u64>,
    /// What becomes of it.
    pub change: Change,
}

/// What becomes of a row.
#[derive(Clone, Debug)]
pub enum Change {
    /// The owner stays.
    Keep {
        /// What is known of it from now on.
        entry: Json,
    },
    /// A new owner, or none, and a new epoch.
    Give {
        /// Who.
        to: Option<Life>,
        /// What is known of it from now on.
        entry: Json,
        /// Why it goes there; what was kept of that before stays if nothing is said.
        decision: Option<Json>,
    },
    /// The row goes.
    Remove,
}

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is durable; the row has this revision and epoch now.
    Done {
        /// Its revision.
        revision: u64,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Nothing was changed: the row has another revision, or its owner lives and is another.
    Outdated,
}

/// Handle to the registry; cheap to clone.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    writer: Writer,
    clock: Clock,
    /// The life on a store of one node, and the node's name.
    life: Life,
    name: OnceLock<Arc<str>>,
    node: Mutex<()>,
    /// What this node said of itself, where no other can read it.
    said: parking_lot::Mutex<Option<(Json, Instant)>>,
    epochs: AtomicU64,
    /// Changes made through this handle: those of others are heard from the store.
    changed: watch::Sender<()>,
}

impl Registry {
    /// The registry on the writer's store, for boot number `boot` of this node.
    pub(crate) fn new(writer: Writer, clock: Clock, boot: u32) -> Self {
        let life = Life(u64::from(boot));
        Self(Arc::new(Inner {
            writer,
            clock,
            life,
            name: OnceLock::new(),
            node: Mutex::default(),
            said: parking_lot::Mutex::default(),
            epochs: AtomicU64::new(life.0 << 32),
            changed: watch::Sender::new(()),
        }))
    }

    /// Names this node, where the store does not know its name.
    pub fn name(&self, node: &str) {
        // The first name stays: a node has one.
        let _ = self.0.name.set(node.into());
    }

    /// This node's life.
    ///
    /// # Errors
    ///
    /// [`StoreError`] once it is over.
    pub fn life(&self) -> Result<Life, StoreError> {
        match self.0.writer.store() {
            Store::Postgres(store) => store.life(),
            Store::Sqlite(_) | Store::Volatile(_) => Ok(self.0.life),
        }
    }

    /// Until when nobody else can own what this life owns; whoever acts for an agent stops by
    /// then. `None` before the life was renewed once, and the far future on a store of one
    /// node.
    #[must_use]
    pub fn acts_until(&self) -> Option<Instant> {
        match self.0.writer.store() {
            Store::Postgres(store) => store.lives_until(),
            Store::Sqlite(_) | Store::Volatile(_) => {
                Some(Instant::now() + Duration::from_secs(86_400))
            }
        }
    }

    /// The clock of the store.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.0.clock
    }

    /// Everybody who lives, and all rows.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; [`StoreError::Unreadable`] when a row cannot be understood.
    pub async fn read(&self) -> Result<Standing, StoreError> {
        let mut standing = self.nodes().await?;
        let store = self.0.writer.store();
        if let Store::Postgres(store) = &store {
            standing.agents = store.agents().await?;
            return Ok(standing);
        }
        for document in store.documents(SPACE, "", AGENTS_MAX).await? {
            let row = understood(&document.body)?;
            standing.agents.insert(row.id.clone(), row);
        }
        Ok(standing)
    }

    /// Changes a row, if it still is as whoever decided on it saw it. Durable when it returns.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the change may have been made. [`StoreError::Superseded`] when this
    /// node's life is over: nothing was changed.
    ///
    /// Dropped while it waits, the change may have been made.
    pub async fn change(&self, change: &AgentChange) -> Result<Changed, StoreError> {
        let store = self.0.writer.store();
        if let Store::Postgres(shared) = &store {
            let changed = shared.change_agent(change).await?;
            if let Changed::Done { .. } = changed {
                store.signal(Signal::Agents, &[]);
                self.0.changed.send_replace(());
            }
            return Ok(changed);
        }
        let _alone = self.0.node.lock().await;
        let key = change.id.as_str();
        let found = store.document(SPACE, key).await?;
        let found = found.map(|found| understood(&found.body)).transpose()?;
        let epoch = Epoch(self.0.epochs.load(Ordering::SeqCst) + 1);
        let Some(next) = decided(found, change, epoch, self.0.life) else {
            return Ok(Changed::Outdated);
        };
        let body = next.as_ref().map(Json::of).transpose();
        let row = DocumentRow {
            space: SPACE,
            key: key.to_owned(),
            body: body.map_err(|error| unreadable(&error))?,
            at: self.0.clock.now(),
        };
        // Also if the commit fails: its outcome is not known.
        self.0.epochs.store(epoch.0, Ordering::SeqCst);
        let mut changes = Changes::default();
        changes.documents.push(row);
        changes.documents.extend(self.why(change));
        self.0.writer.write(changes).await?;
        self.0.changed.send_replace(());
        let (revision, epoch) = next.map_or((0, epoch), |next| (next.revision, next.epoch));
        Ok(Changed::Done { revision, epoch })
    }

    /// What was kept with the change that gave an agent its owner: why it went there.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn decision(&self, id: &AgentId) -> Result<Option<Json>, StoreError> {
        let store = self.0.writer.store();
        if let Store::Postgres(store) = &store {
            return store.agent_decision(id).await;
        }
        let found = store.document(DECISIONS, id.as_str()).await?;
        Ok(found.map(|found| found.body))
    }

    /// The document that says why, on a store of one node; it goes with the agent.
    fn why(&self, change: &AgentChange) -> Option<DocumentRow> {
        let body = match &change.change {
            Change::Give { decision, .. } => Some(decision.clone()?),
            Change::Remove => None,
            Change::Keep { .. } => return None,
        };
        Some(DocumentRow {
            space: DECISIONS,
            key: change.id.as_str().to_owned(),
            body,
            at: self.0.clock.now(),
        })
    }

    /// Hears of changes, whoever makes them.
    #[must_use]
    pub fn hearing(&self) -> Heard {
        Heard {
            others: self.0.writer.store().hearing(Signal::Agents),
            own: self.0.changed.subscribe(),
        }
    }
}

/// Waits for changes of the registry.
#[derive(Debug)]
pub struct Heard {
    others: Hearing,
    own: watch::Receiver<()>,
}

impl Heard {
    /// Returns soon after somebody changed something; on a store that nodes share in any case
    /// after a second. Cancellation safe.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.others.next() => {}
            // The sender is the registry's, and lasts as long as it.
            _ = self.own.changed() => {}
        }
    }
}

/// The row after `change` (`None`: it is gone), on a store whose other lives are all over;
/// nothing if it was decided on another revision.
#[expect(
    clippy::option_option,
    reason = "a refusal, and a row that goes, are two things"
)]
fn decided(
    found: Option<AgentRow>,
    change: &AgentChange,
    epoch: Epoch,
    me: Life,
) -> Option<Option<AgentRow>> {
    if found.as_ref().map(|row| row.revision) != change.revision {
        return None;
    }
    let revision = change.revision.unwrap_or(0) + 1;
    let row = |owner, epoch, entry: &Json| AgentRow {
        id: change.id.clone(),
        revision,
        epoch,
        owner,
        entry: entry.clone(),
    };
    match &change.change {
        // An owner of an earlier life owns nothing any more.
        Change::Keep { entry } => {
            let owner = found.as_ref().and_then(|row| row.owner);
            let before = found.as_ref().map_or(epoch, |row| row.epoch);
            Some(Some(row(owner, before, entry)))
        }
        Change::Give { to, entry, .. } => {
            let to = to.filter(|to| *to == me);
            Some(Some(row(to, epoch, entry)))
        }
        Change::Remove => found.map(|_| None),
    }
}

fn understood(body: &Json) -> Result<AgentRow, StoreError> {
    serde_json::from_str(body.as_str()).map_err(|error| unreadable(&error))
}

fn unreadable(error: &dyn std::error::Error) -> StoreError {
    StoreError::Unreadable {
        what: "an agent's row",
        cause: error.to_string().into(),
    }
}
