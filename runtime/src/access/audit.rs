//! The record of what operators did.
//!
//! Before an action is carried out an entry says who asked for what; afterwards another one
//! says what came of it. An action whose entry cannot be written is not carried out, so none
//! takes effect unrecorded; one without an outcome was cut off, and what came of it is in the
//! store. Each node writes a chain of its own, so that nodes never wait for each other.
//!
//! Crash: what was answered is in the chain. Entries older than a retention are taken from a
//! chain's beginning, and its head keeps the hash that the rest has to begin with.

pub mod chain;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::oneshot;
use tracing::{info, warn};

use self::chain::{Action, By, Entry, Head, Line, Outcome};
use super::place::Place;
use crate::clock::{Clock, Timestamp};
use crate::json::Json;
use crate::store::writer::Told;
use crate::store::{DocumentRow, StoreError};

/// Entries that one document prefix holds, and that are read at once.
pub const PAGE_MAX: u64 = 1_000;
/// Chains that are listed: nodes that ever were.
const CHAINS_MAX: u32 = 10_000;

const SPACE: &str = "audit";
const HEADS: &str = "audit_head";

/// Writes one chain; cheap to clone.
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    place: Place,
    clock: Clock,
    node: String,
    chain: String,
    /// Where the chain ends, once that is known; shared with what is being written.
    head: Arc<Mutex<Option<Head>>>,
    /// Entries are made and handed over one after the other.
    order: tokio::sync::Mutex<()>,
}

/// An action that was asked for, and is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked(u64);

/// Marks the head as unknown unless what it was written with is kept.
struct Receipt {
    head: Arc<Mutex<Option<Head>>>,
    kept: bool,
    done: Option<oneshot::Sender<Result<(), StoreError>>>,
}

impl Receipt {
    fn hear(mut self, outcome: Result<(), StoreError>) {
        self.kept = outcome.is_ok();
        if !self.kept {
            // Before anybody can write behind what is not there.
            *self.head.lock() = None;
        }
        if let Some(done) = self.done.take() {
            // Whoever asked may have stopped waiting.
            let _ = done.send(outcome);
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if !self.kept {
            *self.head.lock() = None;
        }
    }
}

impl Audit {
    /// Goes on with the chain named `chain`, of which nobody else writes.
    #[must_use]
    pub fn new(place: Place, clock: Clock, node: &str, chain: String) -> Self {
        Self(Arc::new(Inner {
            place,
            clock,
            node: node.to_owned(),
            chain,
            head: Arc::default(),
            order: tokio::sync::Mutex::default(),
        }))
    }

    /// The name of the chain that belongs to a node with its data directory.
    #[must_use]
    pub fn chain_of(node: &str, instance: &str) -> String {
        let short: String = instance.chars().take(8).collect();
        format!("{node}.{short}")
    }

    /// Writes down that somebody asked for something. Durable when it returns.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: the action must not be carried out. An entry may have been kept.
    pub async fn asked(&self, by: By, action: Action) -> Result<Asked, StoreError> {
        let n = self.append(by, action, None).await?;
        Ok(Asked(n))
    }

    /// Writes down what came of it. Durable when it returns.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the entry may have been kept.
    pub async fn answered(
        &self,
        asked: Asked,
        by: By,
        action: Action,
        outcome: Outcome,
    ) -> Result<(), StoreError> {
        let outcome = Some((Some(asked.0), outcome));
        self.append(by, action, outcome).await.map(drop)
    }

    /// Writes down what somebody asked for and was refused at once. Durable when it returns.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the entry may have been kept.
    pub async fn refused(
        &self,
        by: By,
        action: Action,
        outcome: Outcome,
    ) -> Result<(), StoreError> {
        self.append(by, action, Some((None, outcome)))
            .await
            .map(drop)
    }

    async fn append(
        &self,
        by: By,
        action: Action,
        outcome: Option<(Option<u64>, Outcome)>,
    ) -> Result<u64, StoreError> {
        let inner = &*self.0;
        let (done, told) = oneshot::channel();
        let n = {
            let _in_order = inner.order.lock().await;
            let known = inner.head.lock().clone();
            let before = match known {
                Some(head) => head,
                None => self.read_head().await?,
            };
            let now = inner.clock.now();
            let (answers, outcome) = outcome.unzip();
            let entry = Entry {
                chain: inner.chain.clone(),
                n: before.n + 1,
                at: now.to_string(),
                node: inner.node.clone(),
                by,
                action,
                answers: answers.flatten(),
                outcome,
                prev: before.hash.clone(),
            };
            let line = Line::seal(&entry).map_err(|cause| unreadable(&cause))?;
            let head = Head {
                n: entry.n,
                hash: line.hash.clone(),
                ..before
            };
            info!(
                chain = entry.chain, n = entry.n, hash = head.hash, by = %entry.by,
                action = entry.action.what, "operator's action recorded"
            );
            let rows = vec![
                put(SPACE, key(&inner.chain, entry.n), &line, now)?,
                put(HEADS, inner.chain.clone(), &head, now)?,
            ];
            *inner.head.lock() = Some(head);
            let receipt = Receipt {
                head: inner.head.clone(),
                kept: false,
                done: Some(done),
            };
            let hear = Told::Call(Box::new(move |outcome| receipt.hear(outcome)));
            inner.place.begin(rows, hear).await;
            entry.n
        };
        told.await.unwrap_or(Err(StoreError::Recovering))?;
        Ok(n)
    }

    /// Where the chain ends in the store, when nothing of it is being written.
    async fn read_head(&self) -> Result<Head, StoreError> {
        // What is pending while the store recovers may be kept or not.
        if let Some(refusal) = self.0.place.refusal() {
            return Err(refusal);
        }
        let stored = self.0.place.document(HEADS, &self.0.chain).await?;
        let Some(document) = stored else {
            return Ok(Head::default());
        };
        document.body.decode().map_err(|cause| unreadable(&cause))
    }

    /// Takes entries older than `retention` from this chain's beginning, some thousand at
    /// most, and says how many.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; some may be gone.
    pub async fn prune(&self, retention: Duration) -> Result<u64, StoreError> {
        let inner = &*self.0;
        let _in_order = inner.order.lock().await;
        let now = inner.clock.now();
        let head = self.read_head().await?;
        if *inner.head.lock() != Some(head.clone()) && inner.head.lock().is_some() {
            // Something is being written.
            return Ok(0);
        }
        let mut next = head.clone();
        let mut rows = Vec::new();
        let lines = stored(&inner.place, &inner.chain, head.first).await?;
        for (at, line) in lines {
            let entry = line.entry().map_err(|cause| unreadable(&cause))?;
            // The last one stays, for the next to follow on.
            if head.n <= entry.n || now.since(at) < retention {
                break;
            }
            rows.push(DocumentRow {
                space: SPACE,
                key: key(&inner.chain, entry.n),
                body: None,
                at: now,
            });
            (next.first, next.anchor) = (entry.n + 1, line.hash);
        }
        let taken = rows.len() as u64;
        if 0 < taken {
            rows.push(put(HEADS, inner.chain.clone(), &next, now)?);
            *inner.head.lock() = None;
            inner.place.write(rows).await?;
        }
        Ok(taken)
    }

    /// Prunes again and again. Never returns. Cancellation safe.
    pub async fn keep(&self, retention: Duration) {
        let mut ticks = tokio::time::interval(Duration::from_secs(600));
        loop {
            ticks.tick().await;
            loop {
                match self.prune(retention).await {
                    Ok(0) => break,
                    Ok(taken) => info!(taken, "entries of the audit record are past their time"),
                    Err(reason) => {
                        warn!(%reason, "audit record not pruned; tried again later");
                        break;
                    }
                }
            }
        }
    }

    /// Where everything lies.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.0.place
    }
}

/// All chains of a store, by name, and how each stands.
///
/// # Errors
///
/// [`StoreError`]
pub async fn chains(place: &Place) -> Result<Vec<(String, Head)>, StoreError> {
    let mut chains = Vec::new();
    for document in place.documents(HEADS, "", CHAINS_MAX).await? {
        let head = document.body.decode().map_err(|cause| unreadable(&cause))?;
        chains.push((document.key, head));
    }
    chains.reverse();
    Ok(chains)
}

/// Entries of a chain behind number `after`, oldest first, at most `limit`; an empty page is
/// the last one. `None` if there is no such chain.
///
/// # Errors
///
/// [`StoreError`]
pub async fn page(
    place: &Place,
    chain: &str,
    after: u64,
    limit: usize,
) -> Result<Option<Vec<Line>>, StoreError> {
    let Some(document) = place.document(HEADS, chain).await? else {
        return Ok(None);
    };
    let head: Head = document.body.decode().map_err(|cause| unreadable(&cause))?;
    let mut from = (after + 1).max(head.first);
    let mut lines: Vec<Line> = Vec::new();
    while lines.len() < limit && from <= head.n {
        let more = stored(place, chain, from).await?;
        lines.extend(more.into_iter().map(|(_, line)| line));
        from = (from / PAGE_MAX + 1) * PAGE_MAX;
    }
    lines.truncate(limit);
    Ok(Some(lines))
}

/// Entries from number `from` up to the next round number, oldest first.
async fn stored(
    place: &Place,
    chain: &str,
    from: u64,
) -> Result<Vec<(Timestamp, Line)>, StoreError> {
    let limit = u32::try_from(PAGE_MAX).unwrap_or(u32::MAX);
    let prefix = format!("{chain}/{:012}/", from / PAGE_MAX);
    let mut lines = Vec::new();
    let found = place.documents(SPACE, &prefix, limit).await?;
    for document in found.into_iter().rev() {
        if document.key < key(chain, from) {
            continue;
        }
        let line = document.body.decode().map_err(|cause| unreadable(&cause))?;
        lines.push((document.at, line));
    }
    Ok(lines)
}

/// Numbers from one prefix lie together, and begin at a round one: 1 to 999, then 1000 to
/// 1999.
fn key(chain: &str, n: u64) -> String {
    format!("{chain}/{:012}/{:03}", n / PAGE_MAX, n % PAGE_MAX)
}

fn put(
    space: &'static str,
    key: String,
    body: &impl Serialize,
    at: Timestamp,
) -> Result<DocumentRow, StoreError> {
    let body = Json::of(body).map_err(|cause| unreadable(&cause))?;
    Ok(DocumentRow {
        space,
        key,
        body: Some(body),
        at,
    })
}

fn unreadable(cause: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unreadable {
        what: "an entry of the audit record",
        cause: cause.to_string().into(),
    }
}
