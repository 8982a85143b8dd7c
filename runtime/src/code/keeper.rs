//! Ledgers and sources in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::NewCode;
use super::error::CodeError;
use super::ledger::{Change, Ledger, NOTES_MAX, NewVersion, Retention, Version, is_version};
use super::source::Source;
use crate::access::place::Place;
use crate::clock::Clock;
use crate::json::Json;
use crate::store::writer::Told;
use crate::store::{DocumentRow, StoreError, Swap};

/// Agents whose code is listed.
pub const AGENTS_MAX: u32 = 10_000;
/// Between two looks at what is past its time.
const PERIOD: Duration = Duration::from_secs(3_600);
/// How often a change is decided upon anew because another node was faster.
const ATTEMPTS: usize = 10;

const SPACE: &str = "code";
const SOURCES: &str = "code_source";

/// Bytes of an agent's name.
const AGENT_BYTES_MAX: usize = 128;

/// All agents' code, in a store. Cheap to clone.
#[derive(Clone)]
pub struct CodeStore(Arc<Inner>);

struct Inner {
    place: Place,
    clock: Clock,
    retention: Retention,
    /// One change at a time, until its outcome is known, whoever waits for it.
    changing: Arc<tokio::sync::Mutex<()>>,
}

/// What a look at all of an agent's sources found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Versions whose source is there and has its hash.
    pub sound: usize,
    /// Versions whose source is not, and what is wrong with each.
    pub damaged: BTreeMap<String, String>,
}

impl CodeStore {
    /// What `place` holds.
    #[must_use]
    pub fn new(place: Place, clock: Clock, retention: Retention) -> Self {
        Self(Arc::new(Inner {
            place,
            clock,
            retention,
            changing: Arc::default(),
        }))
    }

    /// All agents that have code, by name, and their ledgers.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn agents(&self) -> Result<BTreeMap<String, Ledger>, StoreError> {
        let found = self.0.place.documents(SPACE, "", AGENTS_MAX).await?;
        let ledgers = found.into_iter().map(|document| {
            let ledger = document.body.decode();
            Ok((document.key, ledger.map_err(|cause| unreadable(&cause))?))
        });
        ledgers.collect()
    }

    /// An agent's ledger.
    ///
    /// # Errors
    ///
    /// [`CodeError::NoCode`], [`CodeError::Store`]
    pub async fn ledger(&self, agent: &str) -> Result<Ledger, CodeError> {
        let (_, ledger) = self.read(agent).await?;
        let known = ledger.versions().next().is_some();
        known
            .then_some(ledger)
            .ok_or_else(|| CodeError::NoCode(agent.to_owned()))
    }

    /// A version and its source, which has the hash that it was staged with.
    ///
    /// # Errors
    ///
    /// [`CodeError`]
    pub async fn source(
        &self,
        agent: &str,
        version: &str,
    ) -> Result<(Ledger, Version, Source), CodeError> {
        let ledger = self.ledger(agent).await?;
        let found = ledger.version(agent, version)?.clone();
        let source = self.sound(agent, &found).await?;
        Ok((ledger, found, source))
    }

    async fn sound(&self, agent: &str, version: &Version) -> Result<Source, CodeError> {
        let damaged = |problem: String| CodeError::Damaged {
            agent: agent.to_owned(),
            version: version.version.clone(),
            problem,
        };
        let key = source_key(agent, &version.source.hash);
        let found = self.0.place.document(SOURCES, &key).await?;
        let found = found.ok_or_else(|| damaged("is not there".to_owned()))?;
        let source: Source = found
            .body
            .decode()
            .map_err(|cause| damaged(format!("cannot be read ({cause})")))?;
        let facts = source.facts();
        if facts == version.source {
            return Ok(source);
        }
        Err(damaged(format!(
            "has the hash {} and not {}",
            facts.hash, version.source.hash
        )))
    }

    /// Whether a version may be staged, as far as that can be said before it is looked at.
    ///
    /// # Errors
    ///
    /// [`CodeError`]
    pub async fn admit(&self, agent: &str, new: &NewCode) -> Result<(), CodeError> {
        let invalid = |field, problem: &str| CodeError::Invalid {
            field,
            problem: problem.to_owned(),
        };
        named(agent)?;
        if !is_version(&new.version) {
            let must_be = "must be 1 to 64 letters, digits, `.`, `_`, `-` or `+`, the first of them \
                           a letter or digit";
            return Err(invalid("version", must_be));
        }
        let too_long = |notes: &String| NOTES_MAX < notes.chars().count();
        if new.notes.as_ref().is_some_and(too_long) {
            return Err(invalid("notes", "must have at most 500 characters"));
        }
        new.source.content()?;
        let (_, ledger) = self.read(agent).await?;
        ledger
            .is_new(agent, &new.version, &new.source.facts())
            .map(drop)
    }

    /// Keeps a version and its source, and promotes it if that is asked for, all or nothing.
    /// Durable when it returns; also when it is dropped, it may be kept.
    ///
    /// # Errors
    ///
    /// [`CodeError`]
    pub(super) async fn stage(
        &self,
        agent: &str,
        new: NewVersion,
        source: &Source,
        promote: bool,
        by: &str,
    ) -> Result<(Ledger, Version), CodeError> {
        let body = Json::of(source).map_err(|cause| unreadable(&cause))?;
        let (name, hash) = (new.version.clone(), new.source.hash.clone());
        let staged = self.change(agent, by, Some((hash, body)), |ledger, change| {
            ledger.stage(change, new.clone())?;
            if promote {
                ledger.promote(change, &new.version)?;
            }
            ledger.tidy(self.0.retention, change.now);
            Ok(())
        });
        let ledger = staged.await?;
        let version = ledger.version(agent, &name)?.clone();
        Ok((ledger, version))
    }

    /// Makes a version the active one.
    ///
    /// # Errors
    ///
    /// [`CodeError`]; a version whose source is damaged is not promoted.
    pub async fn promote(&self, agent: &str, version: &str, by: &str) -> Result<Ledger, CodeError> {
        let _ = self.source(agent, version).await?;
        self.change(agent, by, None, |ledger, change| {
            ledger.promote(change, version)
        })
        .await
    }

    /// Makes the version active that was active before.
    ///
    /// # Errors
    ///
    /// [`CodeError`]; none is gone back to whose source is damaged.
    pub async fn roll_back(&self, agent: &str, by: &str) -> Result<Ledger, CodeError> {
        if let Some(previous) = self.ledger(agent).await?.previous() {
            self.sound(agent, previous).await?;
        }
        self.change(agent, by, None, Ledger::roll_back).await
    }

    /// Lets a version stay, or no more.
    ///
    /// # Errors
    ///
    /// [`CodeError`]
    pub async fn pin(
        &self,
        agent: &str,
        version: &str,
        pinned: bool,
        by: &str,
    ) -> Result<Ledger, CodeError> {
        self.change(agent, by, None, |ledger, change| {
            ledger.pin(change, version, pinned)
        })
        .await
    }

    /// Takes a version and its source away.
    ///
    /// # Errors
    ///
    /// [`CodeError`]
    pub async fn remove(&self, agent: &str, version: &str, by: &str) -> Result<Ledger, CodeError> {
        self.change(agent, by, None, |ledger, change| {
            ledger.remove(change, version)
        })
        .await
    }

    /// Sets the capabilities of an agent, beside those that every agent has.
    ///
    /// # Errors
    ///
    /// [`CodeError`]
    pub async fn grant(
        &self,
        agent: &str,
        capabilities: BTreeSet<String>,
        by: &str,
    ) -> Result<Ledger, CodeError> {
        named(agent)?;
        let granted = self.change(agent, by, None, |ledger, change| {
            ledger.grant(change, capabilities.clone())
        });
        granted.await
    }

    /// Reads all of an agent's sources and looks whether they are what was staged.
    ///
    /// # Errors
    ///
    /// [`CodeError::NoCode`], [`CodeError::Store`]
    pub async fn check(&self, agent: &str) -> Result<Checked, CodeError> {
        let ledger = self.ledger(agent).await?;
        let mut checked = Checked {
            sound: 0,
            damaged: BTreeMap::new(),
        };
        for version in ledger.versions() {
            match self.sound(agent, version).await {
                Ok(_) => checked.sound += 1,
                Err(CodeError::Damaged { problem, .. }) => {
                    checked.damaged.insert(version.version.clone(), problem);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(checked)
    }

    /// Takes away what is past its time, again and again. Never returns. Cancellation safe.
    pub async fn keep(&self) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(reason) = self.tidy().await {
                warn!(%reason, "old versions of code are not taken away; tried again later");
            }
        }
    }

    /// Takes away what is past its time, of all agents.
    ///
    /// # Errors
    ///
    /// [`CodeError`]; some may be gone.
    pub async fn tidy(&self) -> Result<(), CodeError> {
        for (agent, ledger) in self.agents().await? {
            // Most have nothing to take away, and nothing is written for them.
            if ledger.clone().tidy(self.0.retention, self.0.clock.now()) {
                let tidied = self.change(&agent, "retention", None, |ledger, change| {
                    ledger.tidy(self.0.retention, change.now);
                    Ok(())
                });
                tidied.await?;
                info!(agent, "versions of code are past their time");
            }
        }
        Ok(())
    }

    /// The ledger, and as what it is stored.
    async fn read(&self, agent: &str) -> Result<(Option<Json>, Ledger), CodeError> {
        match self.0.place.document(SPACE, agent).await? {
            None => Ok((None, Ledger::default())),
            Some(document) => {
                let ledger = document.body.decode();
                let ledger = ledger.map_err(|cause| unreadable(&cause))?;
                Ok((Some(document.body), ledger))
            }
        }
    }

    /// Decides upon a ledger and writes it with the sources that come and go; again, if another
    /// node wrote meanwhile.
    async fn change(
        &self,
        agent: &str,
        by: &str,
        source: Option<(String, Json)>,
        decide: impl Fn(&mut Ledger, Change<'_>) -> Result<(), CodeError>,
    ) -> Result<Ledger, CodeError> {
        for _ in 0..ATTEMPTS {
            let order = self.0.changing.clone().lock_owned().await;
            let (before, mut ledger) = self.read(agent).await?;
            let hashes = |ledger: &Ledger| -> BTreeSet<String> {
                ledger.versions().map(|it| it.source.hash.clone()).collect()
            };
            let (unchanged, had) = (ledger.clone(), hashes(&ledger));
            let now = self.0.clock.now();
            decide(&mut ledger, Change { agent, by, now })?;
            if ledger == unchanged {
                return Ok(ledger);
            }
            let has = hashes(&ledger);
            let body = Json::of(&ledger).map_err(|cause| unreadable(&cause))?;
            let row = |space, key, body| DocumentRow {
                space,
                key,
                body,
                at: now,
            };
            let mut rows = vec![row(SPACE, agent.to_owned(), Some(body))];
            let gone = had.difference(&has);
            rows.extend(gone.map(|hash| row(SOURCES, source_key(agent, hash), None)));
            if let Some((hash, source)) = &source
                && has.contains(hash)
                && !had.contains(hash)
            {
                rows.push(row(SOURCES, source_key(agent, hash), Some(source.clone())));
            }
            let swap = Swap {
                space: SPACE,
                key: agent.to_owned(),
                before,
                rows,
            };
            if self.swap(swap, order).await? {
                return Ok(ledger);
            }
        }
        Err(CodeError::Contended(agent.to_owned()))
    }

    /// Holds the order until the outcome is known, also when nobody waits for it any more: the
    /// next change must not read what is about to be written over.
    async fn swap(&self, swap: Swap, order: OwnedMutexGuard<()>) -> Result<bool, StoreError> {
        if self.0.place.is_shared() {
            // A transaction that is dropped is not committed: nothing to hold on for.
            return self.0.place.swap(&swap).await;
        }
        let (done, outcome) = oneshot::channel();
        let told = Told::Call(Box::new(move |outcome| {
            drop(order);
            // Whoever asked may have stopped waiting.
            let _ = done.send(outcome);
        }));
        self.0.place.begin(swap.rows, told).await;
        outcome
            .await
            .unwrap_or(Err(StoreError::Recovering))
            .map(|()| true)
    }
}

/// Agents' names are keys of documents.
fn named(agent: &str) -> Result<(), CodeError> {
    let of_name = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    if agent.is_empty() || AGENT_BYTES_MAX < agent.len() || !agent.bytes().all(of_name) {
        return Err(CodeError::Invalid {
            field: "agent",
            problem: "must be 1 to 128 letters, digits, `.`, `_` and `-`".to_owned(),
        });
    }
    Ok(())
}

/// Sources belong to one agent: none is taken away from another.
fn source_key(agent: &str, hash: &str) -> String {
    format!("{agent}/{hash}")
}

fn unreadable(cause: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unreadable {
        what: "versions of an agent's code",
        cause: cause.to_string().into(),
    }
}
