//! What people and programs ask of the agents: start, stop, start anew, kill, move.
//!
//! Asking changes the agent's entry and nothing else; the node that owns the agent, or the one
//! that is to own it, follows. So it does not matter which node is asked, and what was asked
//! for survives whoever was asked.

use std::collections::BTreeMap;
use std::time::Duration;

use regrow_runtime::agent_spec::{AgentSpec, InvalidSpec};
use regrow_runtime::ids::{AgentId, Epoch};
use regrow_runtime::json::Json;
use regrow_runtime::registry::{
    AGENTS_MAX, AgentChange, AgentRow, Change, Changed, Life, LiveNode,
};
use regrow_runtime::store::StoreError;
use serde::Serialize;

use crate::entry::{Entry, Move};
use crate::reconcile::understood;
use crate::roster::Roster;

/// Tries against rows that others change meanwhile.
const TRIES_MAX: u32 = 16;
/// Longest pause between two of them: whoever decides may just have become another.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Asks things of agents, whichever node they are on. Cheap to clone.
#[derive(Clone)]
pub struct Agents {
    roster: Roster,
}

/// How an agent stands in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// A node owns it and runs it, or is about to.
    Owned,
    /// Its owner is asked to give it to another node.
    Moving,
    /// Its owner's life is over, or has run out: another node is about to take it.
    Lost,
    /// It is to run, and no node has taken it yet.
    Unplaced,
    /// It is not started any more until somebody asks for it.
    Parked,
    /// It is not to run.
    Stopped,
}

/// An agent as the registry knows it.
#[derive(Clone, Debug, Serialize)]
pub struct Known {
    /// Whose it is.
    pub id: AgentId,
    /// How it stands.
    pub state: AgentState,
    /// The node that owns it.
    pub node: Option<String>,
    /// Under which epoch it acts.
    pub epoch: Epoch,
    /// What is known of it.
    #[serde(flatten)]
    pub entry: Entry,
}

/// What was asked for was not done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AgentError {
    /// There is none of that name.
    #[error("there is no agent `{0}`; `regrow agents list` shows those there are")]
    Unknown(AgentId),
    /// There is one of that name.
    #[error("there is an agent `{0}` already; stop and remove it, or choose another name")]
    Exists(AgentId),
    /// The spec cannot be used.
    #[error("{0}")]
    Invalid(#[from] InvalidSpec),
    /// No more fit into the registry.
    #[error("there are {0} agents, as many as there may be")]
    TooMany(usize),
    /// It is there already.
    #[error("agent `{id}` is on `{node}` already")]
    SameNode {
        /// Which.
        id: AgentId,
        /// Where.
        node: String,
    },
    /// No such node lives.
    #[error("no node named `{to}` is alive; there are: {alive}")]
    NoSuchNode {
        /// The name.
        to: String,
        /// Those that there are.
        alive: String,
    },
    /// It is not to run, so it is nowhere.
    #[error("agent `{0}` does not run; start it first")]
    NotRunning(AgentId),
    /// It is to run, and a node may have it.
    #[error("agent `{0}` runs, or is being stopped; stop it first, or try again in a moment")]
    Running(AgentId),
    /// A later version of the program wrote its row.
    #[error("what is stored of agent `{0}` was written by a later version of regrow")]
    NotUnderstood(AgentId),
    /// Others change its row all the time.
    #[error("agent `{0}` is being changed by others; try again")]
    Contended(AgentId),
    /// Others judge the node all the time.
    #[error("node `{0}` is being judged by others; try again")]
    ContendedNode(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Agents {
    /// Asks through this node's roster.
    #[must_use]
    pub fn new(roster: Roster) -> Self {
        Self { roster }
    }

    /// All agents, by name.
    ///
    /// # Errors
    ///
    /// [`AgentError::Store`]
    pub async fn list(&self) -> Result<Vec<Known>, AgentError> {
        let standing = self.roster.read().await?;
        let rows = standing.agents.values();
        Ok(rows.filter_map(|row| known(row, &standing.lives)).collect())
    }

    /// One agent.
    ///
    /// # Errors
    ///
    /// [`AgentError::Unknown`], [`AgentError::NotUnderstood`], [`AgentError::Store`]
    pub async fn show(&self, id: &AgentId) -> Result<Known, AgentError> {
        let standing = self.roster.read().await?;
        let row = standing.agents.get(id);
        let row = row.ok_or_else(|| AgentError::Unknown(id.clone()))?;
        known(row, &standing.lives).ok_or_else(|| AgentError::NotUnderstood(id.clone()))
    }

    /// Makes an agent; a node takes it as soon as one fits. Durable when it returns.
    ///
    /// # Errors
    ///
    /// [`AgentError::Exists`], [`AgentError::Invalid`], [`AgentError::TooMany`],
    /// [`AgentError::Store`]
    pub async fn create(&self, spec: AgentSpec) -> Result<Known, AgentError> {
        spec.check()?;
        let standing = self.roster.read().await?;
        if AGENTS_MAX as usize <= standing.agents.len() {
            return Err(AgentError::TooMany(standing.agents.len()));
        }
        let id = spec.id.clone();
        let mut entry = Entry::new(spec);
        let here = self.roster.life()?;
        let here = standing.lives.get(&here);
        entry.asked_of = here.map(|here| here.node.to_string());
        let asked = AgentChange {
            id: id.clone(),
            revision: None,
            change: Change::Keep {
                entry: json(&entry),
            },
        };
        match self.roster.change(&asked).await? {
            Changed::Done { .. } => self.show(&id).await,
            Changed::Outdated => Err(AgentError::Exists(id)),
        }
    }

    /// Lets it run, also if it was parked.
    ///
    /// # Errors
    ///
    /// [`AgentError`]
    pub async fn start(&self, id: &AgentId) -> Result<Known, AgentError> {
        self.edit(id, |_, entry| {
            entry.start();
            Ok(())
        })
        .await
    }

    /// Lets it run no more; what it works on is handed back.
    ///
    /// # Errors
    ///
    /// [`AgentError`]
    pub async fn stop(&self, id: &AgentId) -> Result<Known, AgentError> {
        self.edit(id, |_, entry| {
            entry.stop();
            Ok(())
        })
        .await
    }

    /// Stops it in order and starts it anew, which does not count as a restart.
    ///
    /// # Errors
    ///
    /// [`AgentError`]
    pub async fn restart(&self, id: &AgentId) -> Result<Known, AgentError> {
        self.edit(id, |_, entry| {
            entry.renew();
            Ok(())
        })
        .await
    }

    /// Kills it as if it had crashed: that counts, and it is started again unless it crashes
    /// too often.
    ///
    /// # Errors
    ///
    /// [`AgentError`]
    pub async fn kill(&self, id: &AgentId) -> Result<Known, AgentError> {
        self.edit(id, |known, entry| {
            if !entry.is_to_run() {
                return Err(AgentError::NotRunning(known.id.clone()));
            }
            entry.kills += 1;
            Ok(())
        })
        .await
    }

    /// Asks for a move to another node; the owner stops it and gives it away. Nothing that it
    /// was told is lost: its tasks wait for it, and what it worked on goes on there.
    ///
    /// # Errors
    ///
    /// [`AgentError::SameNode`], [`AgentError::NoSuchNode`], [`AgentError::NotRunning`], and
    /// those of all.
    pub async fn hand_off(
        &self,
        id: &AgentId,
        to: &str,
        reason: &str,
    ) -> Result<Known, AgentError> {
        self.move_to(id, to, reason, None).await
    }

    /// Asks for a move for which there is a decision.
    pub(crate) async fn move_to(
        &self,
        id: &AgentId,
        to: &str,
        reason: &str,
        decision: Option<Json>,
    ) -> Result<Known, AgentError> {
        let lives = self.roster.read().await?.lives;
        if !lives.values().any(|node| &*node.node == to) {
            let alive: Vec<&str> = lives.values().map(|node| &*node.node).collect();
            return Err(AgentError::NoSuchNode {
                to: to.to_owned(),
                alive: alive.join(", "),
            });
        }
        let asked_at = self.roster.clock().now();
        self.edit(id, |known, entry| {
            if !entry.is_to_run() {
                return Err(AgentError::NotRunning(known.id.clone()));
            }
            if known.node.as_deref() == Some(to) {
                return Err(AgentError::SameNode {
                    id: known.id.clone(),
                    node: to.to_owned(),
                });
            }
            entry.move_to = Some(Move {
                to: to.to_owned(),
                asked_at,
                reason: reason.to_owned(),
                decision: decision.clone(),
            });
            Ok(())
        })
        .await
    }

    /// Forgets an agent that is stopped or parked.
    ///
    /// # Errors
    ///
    /// [`AgentError::Running`], and those of all.
    pub async fn remove(&self, id: &AgentId) -> Result<(), AgentError> {
        for tries in 0..TRIES_MAX {
            pause(tries).await;
            let standing = self.roster.read().await?;
            let Some(row) = standing.agents.get(id) else {
                return Err(AgentError::Unknown(id.clone()));
            };
            let entry = understood(row).ok_or_else(|| AgentError::NotUnderstood(id.clone()))?;
            let owned = row
                .owner
                .is_some_and(|owner| standing.lives.contains_key(&owner));
            if entry.is_to_run() || owned {
                return Err(AgentError::Running(id.clone()));
            }
            let asked = AgentChange {
                id: id.clone(),
                revision: Some(row.revision),
                change: Change::Remove,
            };
            if let Changed::Done { .. } = self.roster.change(&asked).await? {
                return Ok(());
            }
        }
        Err(AgentError::Contended(id.clone()))
    }

    /// Changes an entry as it stands, however often others change it meanwhile.
    async fn edit(
        &self,
        id: &AgentId,
        edit: impl Fn(&Known, &mut Entry) -> Result<(), AgentError>,
    ) -> Result<Known, AgentError> {
        for tries in 0..TRIES_MAX {
            pause(tries).await;
            let standing = self.roster.read().await?;
            let row = standing.agents.get(id);
            let row = row.ok_or_else(|| AgentError::Unknown(id.clone()))?;
            let known = known(row, &standing.lives);
            let known = known.ok_or_else(|| AgentError::NotUnderstood(id.clone()))?;
            let mut entry = known.entry.clone();
            edit(&known, &mut entry)?;
            if entry == known.entry {
                return Ok(known);
            }
            let asked = AgentChange {
                id: id.clone(),
                revision: Some(row.revision),
                change: Change::Keep {
                    entry: json(&entry),
                },
            };
            if let Changed::Done { .. } = self.roster.change(&asked).await? {
                return self.show(id).await;
            }
        }
        Err(AgentError::Contended(id.clone()))
    }
}

/// Before another try: none before the first two, then longer and longer.
async fn pause(tries: u32) {
    if let Some(tries) = tries.checked_sub(2) {
        let pause = Duration::from_millis(10 << tries.min(8)).min(PAUSE_MAX);
        tokio::time::sleep(pause).await;
    }
}

/// Entries are plain data; they cannot fail to be JSON.
fn json(entry: &Entry) -> Json {
    Json::of(entry).unwrap_or_else(|_| Json::null())
}

fn known(row: &AgentRow, lives: &BTreeMap<Life, LiveNode>) -> Option<Known> {
    let entry = understood(row)?;
    let owner = row.owner.map(|owner| lives.get(&owner));
    let state = match owner {
        _ if !entry.wanted => AgentState::Stopped,
        _ if entry.parked.is_some() => AgentState::Parked,
        Some(Some(node)) if node.left.is_zero() => AgentState::Lost,
        Some(Some(_)) if entry.move_to.is_some() => AgentState::Moving,
        Some(Some(_)) => AgentState::Owned,
        Some(None) => AgentState::Lost,
        None => AgentState::Unplaced,
    };
    Some(Known {
        id: row.id.clone(),
        state,
        node: owner.flatten().map(|node| node.node.to_string()),
        epoch: row.epoch,
        entry,
    })
}
