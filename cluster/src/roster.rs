//! Who owns which agent, and what is asked of agents and nodes: kept by a store, or agreed
//! upon by the nodes themselves.
//!
//! Both answer the same questions by the same law: a row is changed by who decided on its
//! present revision, and an owner that lives is replaced by nobody but himself.

use std::collections::BTreeSet;

use regrow_runtime::clock::Clock;
use regrow_runtime::ids::AgentId;
use regrow_runtime::json::Json;
use regrow_runtime::registry::{AgentChange, Changed, Heard, Life, Registry, Standing};
use regrow_runtime::store::StoreError;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::carrier::Agreed;

/// Handle to who runs what; cheap to clone.
#[derive(Clone)]
pub enum Roster {
    /// Rows of the store: of one that all nodes share, or of a node that is alone.
    Stored(Registry),
    /// Agreed upon by a quorum, each node on a store of its own.
    Agreed(Agreed),
}

impl Roster {
    /// This node's life.
    ///
    /// # Errors
    ///
    /// [`StoreError`] once it is over, where a store says so.
    pub fn life(&self) -> Result<Life, StoreError> {
        match self {
            Self::Stored(registry) => registry.life(),
            Self::Agreed(agreed) => Ok(agreed.life()),
        }
    }

    /// Until when nobody else can own what this node owns; whoever acts for an agent stops by
    /// then. `None` before a store has renewed the life once.
    #[must_use]
    pub fn acts_until(&self) -> Option<Instant> {
        match self {
            Self::Stored(registry) => registry.acts_until(),
            Self::Agreed(agreed) => Some(Instant::now() + agreed.gate().left()),
        }
    }

    /// Why this node is not to be sent requests yet, if that depends on others.
    #[must_use]
    pub fn unready(&self) -> Option<String> {
        match self {
            Self::Stored(_) => None,
            Self::Agreed(agreed) if agreed.is_let_in() => None,
            Self::Agreed(agreed) => {
                let founders = agreed.founders().iter().map(ToString::to_string);
                let founders = founders.collect::<Vec<String>>().join(", ");
                Some(format!(
                    "the others have not let this node in yet; at a beginning, and after most were \
                     lost, all founders have to be there at once ({founders}): \
                     `regrow cluster nodes` shows whom it hears"
                ))
            }
        }
    }

    /// The clock of what is written down.
    #[must_use]
    pub fn clock(&self) -> Clock {
        match self {
            Self::Stored(registry) => registry.clock(),
            Self::Agreed(agreed) => agreed.clock(),
        }
    }

    /// Everybody who lives, and all rows.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn read(&self) -> Result<Standing, StoreError> {
        match self {
            Self::Stored(registry) => registry.read().await,
            Self::Agreed(agreed) => agreed.read().await,
        }
    }

    /// Changes a row, if it still is as whoever decided on it saw it. When it returns, it is
    /// durable in the store, or on this node and known to a quorum.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the change may have been made.
    pub async fn change(&self, change: &AgentChange) -> Result<Changed, StoreError> {
        match self {
            Self::Stored(registry) => registry.change(change).await,
            Self::Agreed(agreed) => agreed.change(change).await,
        }
    }

    /// Why an agent is where it is, as it was decided.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn decision(&self, id: &AgentId) -> Result<Option<Json>, StoreError> {
        match self {
            Self::Stored(registry) => registry.decision(id).await,
            Self::Agreed(agreed) => agreed.decision(id).await,
        }
    }

    /// Notes something of a node for all nodes to see; `None` forgets it.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; it may have been noted.
    pub async fn note(&self, node: &str, body: Option<Json>) -> Result<(), StoreError> {
        match self {
            Self::Stored(registry) => registry.note(node, body).await,
            Self::Agreed(agreed) => agreed.note(node, body).await,
        }
    }

    /// Hears of changes, whoever makes them.
    #[must_use]
    pub fn hearing(&self) -> Hearing {
        match self {
            Self::Stored(registry) => Hearing::Stored(registry.hearing()),
            Self::Agreed(agreed) => Hearing::Agreed(agreed.hearing()),
        }
    }

    /// Says which agents run on this node, or are about to. A store need not know.
    pub fn runs(&self, agents: impl FnOnce() -> BTreeSet<AgentId>) {
        match self {
            Self::Stored(_) => {}
            Self::Agreed(agreed) => agreed.runs(agents()),
        }
    }
}

/// Waits for changes.
#[derive(Debug)]
pub enum Hearing {
    /// Of the store.
    Stored(Heard),
    /// Of what was agreed upon.
    Agreed(watch::Receiver<()>),
}

impl Hearing {
    /// Returns soon after somebody changed something. Cancellation safe.
    pub async fn next(&mut self) {
        match self {
            Self::Stored(heard) => heard.next().await,
            Self::Agreed(changed) => {
                if changed.changed().await.is_err() {
                    // Nothing changes any more.
                    std::future::pending().await
                }
            }
        }
    }
}
