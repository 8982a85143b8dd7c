//! What is known of nodes: what is noted of them, what each says of itself, and what all hold
//! of one among them.
//!
//! Notes are people's, and the later one counts. Reports are each node's own; only the present
//! life of a name is heard. Judgements are changed by compare-and-set on a revision, like
//! agents' rows, so that of two nodes that judge at once one is told to look again.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Changed, Life, LiveNode, Registry, Standing, unreadable};
use crate::clock::Timestamp;
use crate::ids::Epoch;
use crate::json::Json;
use crate::store::postgres::Signal;
use crate::store::{Changes, DocumentRow, Store, StoreError};

/// Where every store keeps what is noted of nodes.
const NOTES: &str = "node";
/// Where a store of one node keeps what is held of it.
const JUDGEMENTS: &str = "node.judgement";
/// Nodes of which something may be known.
pub(crate) const NODES_MAX: u32 = 10_000;

/// What a node said of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Reported {
    /// In which of its lives.
    pub life: Life,
    /// How long ago, by the store's clock.
    pub age: Duration,
    /// What.
    pub body: Json,
}

/// What all nodes hold of one among them.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Grows with every change.
    pub revision: u64,
    /// How long it has stood, by the store's clock.
    pub age: Duration,
    /// What.
    pub body: Json,
}

/// What came of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportKept {
    /// The store's clock when it was kept; `None` on a store of one node, which has no clock of
    /// its own.
    pub at: Option<Timestamp>,
    /// How long the store took for it, without waiting for its turn.
    pub took: Duration,
}

/// A judgement as a document.
#[derive(Serialize, Deserialize)]
struct Kept {
    revision: u64,
    at: Timestamp,
    body: Json,
}

impl Registry {
    /// Everybody who lives and what is known of nodes, without the agents.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; [`StoreError::Unreadable`] when something cannot be understood.
    pub async fn nodes(&self) -> Result<Standing, StoreError> {
        let store = self.0.writer.store();
        let notes = store.documents(NOTES, "", NODES_MAX).await?;
        let notes = notes.into_iter().map(|note| (note.key, note.body));
        let mut standing = match &store {
            Store::Postgres(store) => store.nodes().await?,
            Store::Sqlite(_) | Store::Volatile(_) => self.alone(&store).await?,
        };
        standing.notes = notes.collect();
        Ok(standing)
    }

    async fn alone(&self, store: &Store) -> Result<Standing, StoreError> {
        let name = self.0.name.get().cloned().unwrap_or_else(|| "here".into());
        let mut standing = Standing::default();
        if let Some((body, at)) = &*self.0.said.lock() {
            let said = Reported {
                life: self.0.life,
                age: at.elapsed(),
                body: body.clone(),
            };
            standing.reports.insert(name.to_string(), said);
        }
        let me = LiveNode {
            node: name,
            left: Duration::MAX,
        };
        standing.lives.insert(self.0.life, me);
        standing.judgements = self.kept(store).await?;
        Ok(standing)
    }

    async fn kept(&self, store: &Store) -> Result<BTreeMap<String, Judgement>, StoreError> {
        let documents = store.documents(JUDGEMENTS, "", NODES_MAX).await?;
        let now = self.0.clock.now();
        let read = documents.into_iter().map(|document| {
            let kept: Kept =
                serde_json::from_str(document.body.as_str()).map_err(|error| unreadable(&error))?;
            let judgement = Judgement {
                revision: kept.revision,
                age: now.since(kept.at),
                body: kept.body,
            };
            Ok((document.key, judgement))
        });
        read.collect()
    }

    /// Notes something of a node for all nodes to see; `None` forgets it. Of two who write at
    /// once, the later one counts. Durable when it returns.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; it may have been noted.
    pub async fn note(&self, node: &str, body: Option<Json>) -> Result<(), StoreError> {
        self.write(NOTES, node, body).await?;
        self.tell();
        Ok(())
    }

    /// Says of this node what all nodes may read; what it said before is forgotten. Nobody is
    /// woken for it. Durable when it returns, on a store that nodes share.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; it may have been said. [`StoreError::Superseded`] when this node's life
    /// is over.
    pub async fn report(&self, body: Json) -> Result<ReportKept, StoreError> {
        if let Store::Postgres(store) = self.0.writer.store() {
            return store.report(&body).await;
        }
        *self.0.said.lock() = Some((body, Instant::now()));
        Ok(ReportKept {
            at: None,
            took: Duration::ZERO,
        })
    }

    /// Changes what all nodes hold of one among them, if it still is as whoever decided on it
    /// saw it (`None`: nothing). Durable when it returns.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; it may have been changed. [`StoreError::Superseded`] when this node's
    /// life is over: nothing was changed.
    pub async fn judge(
        &self,
        node: &str,
        seen: Option<u64>,
        body: Json,
    ) -> Result<Changed, StoreError> {
        let store = self.0.writer.store();
        if let Store::Postgres(shared) = &store {
            let changed = shared.judge(node, seen, &body).await?;
            if let Changed::Done { .. } = changed {
                self.tell();
            }
            return Ok(changed);
        }
        let _alone = self.0.node.lock().await;
        let found = self.kept(&store).await?.get(node).map(|it| it.revision);
        if found != seen {
            return Ok(Changed::Outdated);
        }
        let revision = seen.unwrap_or(0) + 1;
        let at = self.0.clock.now();
        let kept = Json::of(&Kept { revision, at, body }).map_err(|error| unreadable(&error))?;
        self.write(JUDGEMENTS, node, Some(kept)).await?;
        self.tell();
        Ok(Changed::Done {
            revision,
            epoch: Epoch(0),
        })
    }

    async fn write(
        &self,
        space: &'static str,
        node: &str,
        body: Option<Json>,
    ) -> Result<(), StoreError> {
        let mut changes = Changes::default();
        changes.documents.push(DocumentRow {
            space,
            key: node.to_owned(),
            body,
            at: self.0.clock.now(),
        });
        self.0.writer.write(changes).await
    }

    fn tell(&self) {
        self.0.changed.send_replace(());
        self.0.writer.store().signal(Signal::Agents, &[]);
    }
}
