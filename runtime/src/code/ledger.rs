//! The versions of one agent's code, and which of them is active (pure).
//!
//! A version is never changed. It is staged, then active; the one that was active before it is
//! its predecessor, to which a rollback leads; those before that are archived, and go with time
//! unless they are pinned. Rolling back again goes further back: the ledger knows the whole line.
//!
//! Every change is noted with who did it and when. At most [`VERSIONS_MAX`] versions and
//! [`HISTORY_MAX`] notes are kept.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::CodeError;
use super::source::SourceFacts;
use super::vetting::ModuleFacts;
use crate::clock::Timestamp;

/// Versions of one agent.
pub const VERSIONS_MAX: usize = 100;
/// Notes of what was done.
pub const HISTORY_MAX: usize = 200;
/// Characters of a version's name.
pub const NAME_MAX: usize = 64;
/// Characters of what is said of a version.
pub const NOTES_MAX: usize = 500;
/// Capabilities that an agent has unless it is granted others: to speak, and nothing else.
pub const GRANTED: [&str; 2] = ["log", "metrics"];

/// A version to be staged, with what was found out about it.
#[derive(Clone, Debug)]
pub struct NewVersion {
    /// Its name.
    pub version: String,
    /// What it is made of.
    pub source: SourceFacts,
    /// What was found out.
    pub module: ModuleFacts,
    /// What whoever staged it says.
    pub notes: Option<String>,
}

/// A version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its name.
    pub version: String,
    /// Its place in the order of staging, from 1.
    pub n: u64,
    /// What it is made of.
    pub source: SourceFacts,
    /// What was found out.
    pub module: ModuleFacts,
    /// What whoever staged it says.
    pub notes: Option<String>,
    /// When it was staged.
    pub staged_at: Timestamp,
    /// By whom.
    pub staged_by: String,
    /// When it became active, the last time.
    pub promoted_at: Option<Timestamp>,
    /// Since when it is not active any more.
    pub retired_at: Option<Timestamp>,
    /// Never goes by itself.
    pub pinned: bool,
}

/// How a version stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Ready to be promoted.
    Staged,
    /// The one that runs.
    Active,
    /// The one that ran before.
    Previous,
    /// One that ran once.
    Archived,
}

impl Standing {
    /// The name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Active => "active",
            Self::Previous => "previous",
            Self::Archived => "archived",
        }
    }
}

/// Something that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// When.
    pub at: Timestamp,
    /// By whom: a token's name, `local`, or `retention`.
    pub by: String,
    /// What.
    pub what: Deed,
    /// With which version, or which capabilities.
    pub of: String,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// A version was staged.
    Staged,
    /// It became active.
    Promoted,
    /// It became active again, since its successor was taken back.
    RolledBack,
    /// It stays.
    Pinned,
    /// It stays no more.
    Unpinned,
    /// Somebody took it away.
    Removed,
    /// Its time was over, or there were too many.
    Expired,
    /// The agent's capabilities were set.
    Granted,
}

/// How long versions stay that are neither active nor its predecessor nor pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Since they were staged or retired. Longer keeps more to go back to.
    pub age: Duration,
    /// How many at most. More take more room.
    pub count: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(30 * 24 * 3_600),
            count: 20,
        }
    }
}

/// All that is kept of an agent's code but the sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Versions staged so far, removed ones included.
    staged: u64,
    /// In the order of staging.
    versions: Vec<Version>,
    /// Those that were active, the active one last; each once.
    line: Vec<u64>,
    grants: BTreeSet<String>,
    history: VecDeque<Note>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            staged: 0,
            versions: Vec::new(),
            line: Vec::new(),
            grants: GRANTED.iter().map(|&name| name.to_owned()).collect(),
            history: VecDeque::new(),
        }
    }
}

/// Who asks for a change, for whose code, and when.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Whose code.
    pub agent: &'a str,
    /// Who asks.
    pub by: &'a str,
    /// When.
    pub now: Timestamp,
}

impl Ledger {
    /// All versions, the latest first.
    pub fn versions(&self) -> impl Iterator<Item = &Version> {
        self.versions.iter().rev()
    }

    /// What was done, the latest first.
    pub fn history(&self) -> impl Iterator<Item = &Note> {
        self.history.iter().rev()
    }

    /// The capabilities that the agent has.
    pub fn grants(&self) -> impl Iterator<Item = &str> {
        self.grants.iter().map(String::as_str)
    }

    /// The active version.
    #[must_use]
    pub fn active(&self) -> Option<&Version> {
        self.line.last().and_then(|n| self.numbered(*n))
    }

    /// The one that a rollback leads to.
    #[must_use]
    pub fn previous(&self) -> Option<&Version> {
        let before = self.line.len().checked_sub(2)?;
        self.numbered(*self.line.get(before)?)
    }

    fn numbered(&self, n: u64) -> Option<&Version> {
        self.versions.iter().find(|version| version.n == n)
    }

    /// How a version stands.
    #[must_use]
    pub fn standing(&self, version: &Version) -> Standing {
        let is = |other: Option<&Version>| other.is_some_and(|other| other.n == version.n);
        if is(self.active()) {
            Standing::Active
        } else if is(self.previous()) {
            Standing::Previous
        } else if version.promoted_at.is_some() {
            Standing::Archived
        } else {
            Standing::Staged
        }
    }

    /// The version of that name.
    ///
    /// # Errors
    ///
    /// [`CodeError::NoCode`], [`CodeError::NoVersion`]
    pub fn version(&self, agent: &str, version: &str) -> Result<&Version, CodeError> {
        if self.versions.is_empty() {
            return Err(CodeError::NoCode(agent.to_owned()));
        }
        let found = self.versions.iter().find(|it| it.version == version);
        found.ok_or_else(|| {
            let mut known: Vec<&str> = self.versions().map(|it| it.version.as_str()).collect();
            let more = known.len().saturating_sub(5);
            known.truncate(5);
            let mut known = known.join(", ");
            if 0 < more {
                known.push_str(&format!(" and {more} more"));
            }
            CodeError::NoVersion {
                agent: agent.to_owned(),
                version: version.chars().take(NAME_MAX).collect(),
                known,
            }
        })
    }

    /// Whether a version of that name and source would be a new one; `false` when it is there.
    ///
    /// # Errors
    ///
    /// [`CodeError::Exists`], [`CodeError::Full`]
    pub fn is_new(
        &self,
        agent: &str,
        version: &str,
        source: &SourceFacts,
    ) -> Result<bool, CodeError> {
        if let Some(known) = self.versions.iter().find(|it| it.version == version) {
            if known.source == *source {
                return Ok(false);
            }
            return Err(CodeError::Exists {
                agent: agent.to_owned(),
                version: version.to_owned(),
                hash: known.source.hash.chars().take(12).collect(),
            });
        }
        let may_go = self.versions.iter().any(|it| self.may_go(it));
        if VERSIONS_MAX <= self.versions.len() && !may_go {
            return Err(CodeError::Full(agent.to_owned()));
        }
        Ok(true)
    }

    /// Keeps a version beside the active one. The same again changes nothing.
    ///
    /// # Errors
    ///
    /// As for [`is_new`](Self::is_new).
    pub fn stage(&mut self, change: Change<'_>, new: NewVersion) -> Result<(), CodeError> {
        if !self.is_new(change.agent, &new.version, &new.source)? {
            return Ok(());
        }
        if VERSIONS_MAX <= self.versions.len() {
            self.expire_oldest(change.now);
        }
        self.staged += 1;
        self.note(change, Deed::Staged, &new.version);
        self.versions.push(Version {
            version: new.version,
            n: self.staged,
            source: new.source,
            module: new.module,
            notes: new.notes,
            staged_at: change.now,
            staged_by: change.by.to_owned(),
            promoted_at: None,
            retired_at: None,
            pinned: false,
        });
        Ok(())
    }

    /// Makes a version the active one. The active one again changes nothing.
    ///
    /// # Errors
    ///
    /// [`CodeError::NotGranted`], and those of [`version`](Self::version).
    pub fn promote(&mut self, change: Change<'_>, version: &str) -> Result<(), CodeError> {
        let chosen = self.version(change.agent, version)?;
        let n = chosen.n;
        if self.line.last() == Some(&n) {
            return Ok(());
        }
        self.granted(change.agent, chosen)?;
        self.retire(change.now);
        self.line.retain(|known| *known != n);
        self.line.push(n);
        self.activate(change, n, Deed::Promoted);
        Ok(())
    }

    /// Makes the version active that was active before, and archives the one that is.
    ///
    /// # Errors
    ///
    /// [`CodeError::NothingBefore`], [`CodeError::NotGranted`]
    pub fn roll_back(&mut self, change: Change<'_>) -> Result<(), CodeError> {
        if self.versions.is_empty() {
            return Err(CodeError::NoCode(change.agent.to_owned()));
        }
        let before = self.previous();
        let before = before.ok_or_else(|| CodeError::NothingBefore(change.agent.to_owned()))?;
        let n = before.n;
        self.granted(change.agent, before)?;
        self.retire(change.now);
        self.line.pop();
        self.activate(change, n, Deed::RolledBack);
        Ok(())
    }

    fn granted(&self, agent: &str, version: &Version) -> Result<(), CodeError> {
        let wants = version.module.wants.iter();
        let missing: Vec<String> = wants
            .filter(|it| !self.grants.contains(*it))
            .cloned()
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(CodeError::NotGranted {
            agent: agent.to_owned(),
            version: version.version.clone(),
            missing,
        })
    }

    fn retire(&mut self, now: Timestamp) {
        if let Some(active) = self.line.last().copied()
            && let Some(version) = self.versions.iter_mut().find(|it| it.n == active)
        {
            version.retired_at = Some(now);
        }
    }

    fn activate(&mut self, change: Change<'_>, n: u64, deed: Deed) {
        let mut name = String::new();
        if let Some(version) = self.versions.iter_mut().find(|it| it.n == n) {
            version.promoted_at = Some(change.now);
            version.retired_at = None;
            name.clone_from(&version.version);
        }
        self.note(change, deed, &name);
    }

    /// Lets a version stay for as long as it is pinned.
    ///
    /// # Errors
    ///
    /// Those of [`version`](Self::version).
    pub fn pin(
        &mut self,
        change: Change<'_>,
        version: &str,
        pinned: bool,
    ) -> Result<(), CodeError> {
        let n = self.version(change.agent, version)?.n;
        let mut changed = false;
        for known in self.versions.iter_mut().filter(|it| it.n == n) {
            changed = known.pinned != pinned;
            known.pinned = pinned;
        }
        if changed {
            let deed = if pinned { Deed::Pinned } else { Deed::Unpinned };
            self.note(change, deed, version);
        }
        Ok(())
    }

    /// Takes a version away.
    ///
    /// # Errors
    ///
    /// [`CodeError::InUse`] when it is active, its predecessor or pinned, and those of
    /// [`version`](Self::version).
    pub fn remove(&mut self, change: Change<'_>, version: &str) -> Result<(), CodeError> {
        let chosen = self.version(change.agent, version)?;
        let (n, refused) = (chosen.n, |standing, way_out| {
            Err(CodeError::InUse {
                agent: change.agent.to_owned(),
                version: version.to_owned(),
                standing,
                way_out,
            })
        });
        match self.standing(chosen) {
            Standing::Active => return refused("active", "promote another one first"),
            Standing::Previous => {
                return refused("the one to roll back to", "promote another one first");
            }
            Standing::Staged | Standing::Archived if chosen.pinned => {
                return refused("pinned", "unpin it first");
            }
            Standing::Staged | Standing::Archived => {}
        }
        self.take_away(n);
        self.note(change, Deed::Removed, version);
        Ok(())
    }

    fn take_away(&mut self, n: u64) {
        self.versions.retain(|version| version.n != n);
        self.line.retain(|known| *known != n);
    }

    /// Sets the capabilities that the agent has, beside those that every agent has.
    ///
    /// # Errors
    ///
    /// [`CodeError::Wanted`] when the active version wants more.
    pub fn grant(
        &mut self,
        change: Change<'_>,
        capabilities: BTreeSet<String>,
    ) -> Result<(), CodeError> {
        let mut grants = capabilities;
        grants.extend(GRANTED.iter().map(|&name| name.to_owned()));
        if let Some(active) = self.active() {
            let wants = active.module.wants.iter();
            let wanted: Vec<String> = wants.filter(|it| !grants.contains(*it)).cloned().collect();
            if !wanted.is_empty() {
                return Err(CodeError::Wanted {
                    agent: change.agent.to_owned(),
                    version: active.version.clone(),
                    wanted,
                });
            }
        }
        if self.grants != grants {
            let all: Vec<&str> = grants.iter().map(String::as_str).collect();
            self.note(change, Deed::Granted, &all.join(", "));
            self.grants = grants;
        }
        Ok(())
    }

    fn may_go(&self, version: &Version) -> bool {
        let standing = self.standing(version);
        !version.pinned && matches!(standing, Standing::Staged | Standing::Archived)
    }

    /// Takes away what is past its time, and the oldest of what is too much. Says whether
    /// anything was.
    pub fn tidy(&mut self, retention: Retention, now: Timestamp) -> bool {
        let mut any = false;
        while let Some((n, since)) = self.oldest() {
            let loose = self.versions.iter().filter(|it| self.may_go(it)).count();
            if loose <= retention.count && now.since(since) < retention.age {
                break;
            }
            self.expire(n, now);
            any = true;
        }
        any
    }

    fn expire_oldest(&mut self, now: Timestamp) {
        if let Some((n, _)) = self.oldest() {
            self.expire(n, now);
        }
    }

    fn expire(&mut self, n: u64, now: Timestamp) {
        let name = self.numbered(n).map(|version| version.version.clone());
        self.take_away(n);
        let change = Change {
            agent: "",
            by: "retention",
            now,
        };
        self.note(change, Deed::Expired, &name.unwrap_or_default());
    }

    /// The one that is longest of no use, and since when.
    fn oldest(&self) -> Option<(u64, Timestamp)> {
        let loose = self.versions.iter().filter(|it| self.may_go(it));
        let since = |it: &Version| it.retired_at.unwrap_or(it.staged_at);
        let oldest = loose.map(|it| (since(it), it.n)).min();
        oldest.map(|(since, n)| (n, since))
    }

    fn note(&mut self, change: Change<'_>, what: Deed, of: &str) {
        if HISTORY_MAX <= self.history.len() {
            self.history.pop_front();
        }
        self.history.push_back(Note {
            at: change.now,
            by: change.by.to_owned(),
            what,
            of: of.to_owned(),
        });
    }
}

/// A version's name is 1 to 64 letters, digits, `.`, `_`, `-` or `+`, and begins with a letter or
/// digit.
#[must_use]
pub fn is_version(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
    let first = text.chars().next();
    text.len() <= NAME_MAX
        && first.is_some_and(|first| first.is_ascii_alphanumeric())
        && text.chars().all(fits)
}
