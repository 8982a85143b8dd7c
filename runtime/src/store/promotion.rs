//! Moving a file's tasks into a shared database: what both sides speak of.
//!
//! Everything is copied while the node works on; what changes meanwhile is noted and
//! copied again. Then one commit decides: the file's [`Mark`]. Before it the file is the
//! authority, whatever the database holds; after it the database is, which then held
//! everything. A start that finds the mark goes on with the database or not at all.

pub(crate) mod copying;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use tokio::sync::oneshot;

pub use self::copying::{Copied, promote_file};
use super::postgres::{self, Postgres};
use super::{Changes, DocumentRow, StoreError};
use crate::clock::Timestamp;
use crate::ids::TaskId;
use crate::json::Json;

/// The file's own documents, which are not copied.
pub(in crate::store) const FILE_SPACE: &str = "file";
/// The file's name for itself.
pub(in crate::store) const IDENTITY: &str = "identity";
/// Says that the tasks are elsewhere.
pub(in crate::store) const PROMOTED: &str = "promoted";

/// Written into a file when its tasks are in a database: the file is a backup from then on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The file's name for itself.
    pub file: String,
    /// Where the tasks are, without a password.
    pub database: String,
    /// The life in the database that owns them.
    pub boot: u32,
    /// When that was decided.
    pub at: Timestamp,
}

impl Mark {
    /// As it is written into the file.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub(super) fn changes(&self) -> Result<Changes, StoreError> {
        let body = Json::of(self).map_err(|error| StoreError::Failed {
            attempt: "write the mark",
            cause: error.to_string().into(),
        })?;
        let row = DocumentRow {
            space: FILE_SPACE,
            key: PROMOTED.to_owned(),
            body: Some(body),
            at: self.at,
        };
        Ok(Changes {
            documents: vec![row],
            ..Changes::default()
        })
    }
}

/// More than this is not remembered: the move is given up, and tried again at a quieter time.
const TOUCHED_MAX: usize = 2_000_000;

/// What was written since it was last looked at: to be copied again.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// It was more than is remembered.
    pub(crate) overflowed: bool,
    /// Tasks, by their order of acceptance: everything that is stored of them.
    pub(crate) tasks: HashSet<u64>,
    /// Budgets, by their scopes.
    pub(crate) budgets: HashSet<String>,
    /// Documents, by space and key.
    pub(crate) documents: HashSet<(&'static str, String)>,
}

impl Touched {
    /// Adds what `changes` touch. Every field of them is looked at, so that nothing that is
    /// ever written can be forgotten here.
    pub(super) fn note(&mut self, changes: &Changes) {
        let Changes {
            bodies,
            runs,
            ends,
            reopened,
            events,
            steps,
            budgets,
            reservations,
            // Reservations are copied at the end, all of them.
            reservations_ended: _,
            approvals,
            documents,
            // Nobody shares a file.
            charges: _,
            grants: _,
            orders: _,
            answers: _,
            handed_over: _,
            taken_in: _,
            // The switches are copied at the end.
            control: _,
            // Nothing is forgotten while tasks are copied; see the writer.
            prune_before: _,
        } = changes;
        if TOUCHED_MAX < self.len() {
            *self = Self {
                overflowed: true,
                ..Self::default()
            };
        }
        self.tasks.extend(bodies.iter().map(|body| body.seq));
        self.tasks.extend(runs.iter().map(|(seq, _)| *seq));
        self.tasks.extend(ends.iter().map(|(seq, _)| *seq));
        self.tasks.extend(reopened);
        self.tasks.extend(events.iter().map(|(_, seq, _)| *seq));
        self.tasks.extend(steps.iter().map(|step| step.seq));
        self.tasks.extend(reservations.iter().map(|row| row.seq));
        self.tasks.extend(approvals.iter().map(|row| row.seq));
        let scopes = budgets.iter().map(|row| row.scope.to_string());
        self.budgets.extend(scopes);
        let keys = documents.iter().map(|row| (row.space, row.key.clone()));
        self.documents.extend(keys);
    }

    /// How many rows' worth it is.
    pub(crate) fn len(&self) -> usize {
        self.tasks.len() + self.budgets.len() + self.documents.len()
    }
}

/// Copies the rest while nothing is committed, and says what to write into the file.
pub(crate) type Rest =
    Box<dyn FnOnce(Touched) -> BoxFuture<'static, Result<Mark, PromotionError>> + Send>;

/// Everything but the rest is copied: the writer is to commit to `target` from now on.
pub(crate) struct Handover {
    pub(crate) rest: Rest,
    pub(crate) target: Postgres,
    /// Called with the life's number before anything is committed there.
    pub(crate) moved: Arc<dyn Fn(u32) + Send + Sync>,
    pub(crate) done: oneshot::Sender<Result<(), PromotionError>>,
}

/// The tasks were not moved: the file is still where they are, and everything is in it.
#[derive(Debug, thiserror::Error)]
pub enum PromotionError {
    /// The tasks are not in a file.
    #[error("the tasks of this node are in {0}, not in a file; there is nothing to move")]
    NotAFile(&'static str),
    /// Somebody asked before.
    #[error("the tasks are being moved already; `GET /v1/store/promote` says how far that is")]
    UnderWay,
    /// Tasks are on their way to other nodes, or run there: a shared database has no courier that
    /// would hear their ends.
    #[error(
        "{0} messages to agents were carried to other nodes and have not ended there yet; wait for \
         them, or cancel them (`regrow tasks list` shows them), and try again"
    )]
    Carried(usize),
    /// The same of a file that no node runs on.
    #[error(
        "{count} messages to agents were carried to other nodes and have not ended there yet, among \
         them task {first} to {to}; start the node on its file, without store.database_url, beside \
         those nodes; wait for them or cancel them (`regrow tasks cancel {first}`), and try again"
    )]
    CarriedFromFile {
        /// How many.
        count: usize,
        /// The one that was accepted first.
        first: TaskId,
        /// Where to.
        to: String,
    },
    /// The database cannot be used.
    #[error(transparent)]
    Open(#[from] postgres::OpenError),
    /// A node of the same name lives there.
    #[error(
        "a node of the name `{node}` lives in {database}; stop it and wait until its life has run \
         out, or give this node another name"
    )]
    NameTaken {
        /// The name.
        node: String,
        /// Where it lives.
        database: String,
    },
    /// Another file was moved there, or is being moved.
    #[error(
        "{database} holds tasks of another file, which node `{node}` {did}; their numbers are \
         those of this file's tasks, so they cannot be together: move this file to another database"
    )]
    Occupied {
        /// Which database.
        database: String,
        /// Who brought the other file.
        node: String,
        /// What became of that.
        did: &'static str,
    },
    /// This file was moved there before.
    #[error(
        "{0} already holds the tasks of this file, which was moved there and restored since; \
         move it to another database"
    )]
    MovedBefore(String),
    /// Something in the file and something in the database are in each other's way.
    #[error(
        "{database} holds something that is also in the file: {what}; move to another database"
    )]
    Collides {
        /// Which database.
        database: String,
        /// What both have.
        what: String,
    },
    /// The copy is not what was copied.
    #[error("the copy is not complete: {table} has {there} rows where the file has {here}")]
    Incomplete {
        /// The table.
        table: &'static str,
        /// Rows in the file.
        here: u64,
        /// Rows in the database.
        there: u64,
    },
    /// More changes than are copied meanwhile.
    #[error(
        "more is written than can be copied meanwhile; pause the queue, or try at a quieter time"
    )]
    TooBusy,
    /// The rest took too long, and callers were waiting.
    #[error(
        "what was left to copy took longer than callers may be kept waiting; try at a quieter time"
    )]
    TooSlow,
    /// The node stops, or its store failed meanwhile.
    #[error("it was interrupted; try again")]
    Interrupted,
    /// The file or the database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
