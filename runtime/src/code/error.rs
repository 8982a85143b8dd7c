//! Why something about code was not done.

use super::ledger::VERSIONS_MAX;
use super::source::SourceError;
use super::vetting::Rejection;
use crate::store::StoreError;

/// Unless it is the store's, nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// No version of it was ever staged.
    #[error("agent `{0}` has no code; stage some with `regrow code stage`")]
    NoCode(String),
    /// It has others.
    #[error("agent `{agent}` has no version `{version}`; it has {known}")]
    NoVersion {
        /// Whose.
        agent: String,
        /// Which.
        version: String,
        /// Those that it has, the latest first.
        known: String,
    },
    /// Versions are never changed.
    #[error(
        "agent `{agent}` has a version `{version}` of another source ({hash}); \
         give this one another name"
    )]
    Exists {
        /// Whose.
        agent: String,
        /// Which.
        version: String,
        /// The hash of the one that is there.
        hash: String,
    },
    /// All places are taken by versions that must stay.
    #[error(
        "agent `{0}` has {VERSIONS_MAX} versions, none of which may go; remove or unpin some first"
    )]
    Full(String),
    /// It wants what the agent was not granted.
    #[error(
        "version `{version}` wants {}, which agent `{agent}` is not granted; \
         an admin grants it with `regrow code grant`",
        .missing.join(" and ")
    )]
    NotGranted {
        /// Whose.
        agent: String,
        /// Which.
        version: String,
        /// What it wants and has not.
        missing: Vec<String>,
    },
    /// There is nothing to go back to.
    #[error("agent `{0}` has no version that was active before")]
    NothingBefore(String),
    /// It must stay.
    #[error("version `{version}` of agent `{agent}` is {standing}; {way_out}")]
    InUse {
        /// Whose.
        agent: String,
        /// Which.
        version: String,
        /// What it is.
        standing: &'static str,
        /// What to do about it.
        way_out: &'static str,
    },
    /// The active version wants what would be taken away.
    #[error(
        "the active version `{version}` of agent `{agent}` wants {}; promote another one first",
        .wanted.join(" and ")
    )]
    Wanted {
        /// Whose.
        agent: String,
        /// Which.
        version: String,
        /// What it wants.
        wanted: Vec<String>,
    },
    /// A name or a note is not as it must be.
    #[error("{field} {problem}")]
    Invalid {
        /// Of what.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Somebody changed the same agent's code again and again.
    #[error("the code of agent `{0}` is being changed by others; retry shortly")]
    Contended(String),
    /// What is stored under a hash does not have it.
    #[error("the source of version `{version}` of agent `{agent}` {problem}; remove the version")]
    Damaged {
        /// Whose.
        agent: String,
        /// Which.
        version: String,
        /// What is wrong.
        problem: String,
    },
    /// The source is no source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It was looked at, and is not taken.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The store. The change may have been kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}
