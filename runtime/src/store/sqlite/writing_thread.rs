//! The connection that writes, on a thread of its own: SQLite blocks, tasks must not.
//!
//! Work comes over a bounded channel and is done in order. After a failed commit or
//! checkpoint the connection is closed at once and nothing more is written through this
//! thread: whether the system kept what it was asked to flush is unknown, and asking again
//! proves nothing (Rebello et al., "Can Applications Recover from fsync Failures?",
//! USENIX ATC 2020). The store is then opened anew.
//!
//! The write-ahead log is copied into the file between commits, after their callers were
//! answered, so a checkpoint delays the next batch but never lengthens a commit. When
//! nobody writes for a while the log is cut to nothing.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use futures::future::FutureExt;
use rusqlite::{Connection, OpenFlags, OptionalExtension, hooks};
use tokio::sync::oneshot;

use super::{failure, write};
use crate::store::{Changes, Committing, StoreError};

/// Pages in the write-ahead log before it is copied into the file. Everybody waits meanwhile,
/// so the copy is kept short, at the price of two more flushes each time.
const CHECKPOINT_PAGES: u32 = 4_000;
/// How much the log may grow, because somebody reads an old state, until the next attempt.
const CHECKPOINT_STEP: u32 = 1_000;
/// Nobody writes for so long: the log is cut.
const IDLE: Duration = Duration::from_millis(500);
/// Somebody else has the file for longer than this: give up.
const BUSY: Duration = Duration::from_secs(5);
/// Work that waits. The writer has one batch under way, and at most a few stragglers.
const JOBS_MAX: usize = 16;

type Job = Box<dyn FnOnce(&mut Desk) + Send>;

/// Handle to the thread; it ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub(super) struct WritingThread(SyncSender<Job>);

/// What the thread works with.
struct Desk {
    /// `None` once something failed.
    connection: Option<Connection>,
    /// Something was written since the log was last cut.
    dirty: bool,
    /// Pages in the log at which the next checkpoint is due.
    checkpoint_at: u32,
}

thread_local! {
    /// Pages in the log after the latest commit, as SQLite reported them.
    static LOG_PAGES: Cell<u32> = const { Cell::new(0) };
}

impl WritingThread {
    /// Opens the file, which exists, and starts the thread.
    pub(super) async fn start(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let (jobs, waiting) = sync_channel::<Job>(JOBS_MAX);
        let (ready, opened) = oneshot::channel();
        let thread = std::thread::Builder::new().name("regrow-store".to_owned());
        let run = move || {
            let (connection, outcome) = match connect(&path) {
                Ok(connection) => (Some(connection), Ok(())),
                Err(error) => (None, Err(failure("open the database", &error))),
            };
            let desk = Desk {
                connection,
                dirty: true,
                checkpoint_at: CHECKPOINT_PAGES,
            };
            // Without anybody there the channel is closed too, and the thread ends.
            let _ = ready.send(outcome);
            desk.run(&waiting);
        };
        thread.spawn(run).map_err(|error| StoreError::Failed {
            attempt: "start the writing thread",
            cause: error.to_string().into(),
        })?;
        opened.await.unwrap_or_else(|_| Err(gone()))?;
        Ok(Self(jobs))
    }

    /// Begins to commit `changes`.
    ///
    /// Dropped before the thread came to it, nothing is begun; afterwards it goes on.
    pub(super) fn commit(&self, changes: Arc<Changes>) -> Committing {
        let (done, outcome) = oneshot::channel();
        let job = move |desk: &mut Desk| {
            if done.is_closed() {
                return;
            }
            let committed = desk.commit(&changes);
            drop(changes);
            // Whoever asked was cancelled; the next one rereads the store.
            let _ = done.send(committed);
            desk.checkpoint_when_due();
        };
        // Refused, the sender is dropped with the job, and the receiver says so.
        let _ = self.0.try_send(Box::new(job));
        outcome
            .map(|told| told.unwrap_or_else(|_| Err(gone())))
            .boxed()
    }

    /// Does `work` on the connection, between two commits.
    pub(super) async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (done, outcome) = oneshot::channel();
        let job = move |desk: &mut Desk| {
            desk.dirty = true;
            let answer = desk.connection.as_mut().ok_or(StoreError::Recovering);
            let _ = done.send(answer.and_then(work));
        };
        let _ = self.0.try_send(Box::new(job));
        outcome.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Closes the connection, after what was asked for before, and waits for that.
    pub(super) async fn close(self) {
        let (done, closed) = oneshot::channel();
        let job = move |desk: &mut Desk| {
            if let Some(Err((_, reason))) = desk.connection.take().map(Connection::close) {
                tracing::warn!(%reason, "database did not close cleanly; it recovers at the next start");
            }
            let _ = done.send(());
        };
        let _ = self.0.try_send(Box::new(job));
        let _ = closed.await;
    }
}

/// The thread does not answer: it ended, or more waits for it than ever should.
fn gone() -> StoreError {
    StoreError::Failed {
        attempt: "reach the writing thread",
        cause: "it ended, or does not keep up".into(),
    }
}

impl Desk {
    fn run(mut self, waiting: &Receiver<Job>) {
        loop {
            let next = if self.dirty {
                waiting.recv_timeout(IDLE)
            } else {
                waiting.recv().map_err(RecvTimeoutError::from)
            };
            match next {
                Ok(job) => job(&mut self),
                Err(RecvTimeoutError::Timeout) => self.cut_log(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        let connection = self.connection.as_mut().ok_or(StoreError::Recovering)?;
        let started = Instant::now();
        let committed = write::commit(connection, changes);
        self.dirty = true;
        if let Err(error) = committed {
            self.give_up();
            return Err(failure("commit", &error));
        }
        metrics::histogram!(crate::metrics::STORE_COMMIT_SECONDS).record(started.elapsed());
        Ok(())
    }

    fn checkpoint_when_due(&mut self) {
        if LOG_PAGES.get() < self.checkpoint_at {
            return;
        }
        let Some(done) = self.checkpoint("PRAGMA wal_checkpoint(PASSIVE)") else {
            return;
        };
        // The next commit begins the log anew, unless somebody reads an old state.
        self.checkpoint_at = if done {
            CHECKPOINT_PAGES
        } else {
            LOG_PAGES.get() + CHECKPOINT_STEP
        };
    }

    fn cut_log(&mut self) {
        self.dirty = false;
        // Readers may hold it up; a commit must not wait for them. The next pause comes.
        self.patience(Duration::ZERO);
        if self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)") == Some(true) {
            self.checkpoint_at = CHECKPOINT_PAGES;
        }
        self.patience(BUSY);
    }

    fn patience(&self, busy: Duration) {
        if let Some(Err(reason)) = self.connection.as_ref().map(|c| c.busy_timeout(busy)) {
            tracing::warn!(%reason, "busy timeout was not set");
        }
    }

    /// Copies the log into the file. Says whether all of it was copied; `None` if that
    /// failed. Nothing that was committed is lost by that: it stays in the log.
    fn checkpoint(&mut self, statement: &str) -> Option<bool> {
        let connection = self.connection.as_ref()?;
        let copied = connection
            .query_row(statement, [], |row| {
                let (busy, log): (i64, i64) = (row.get(0)?, row.get(1)?);
                Ok(busy == 0 && log == row.get::<_, i64>(2)?)
            })
            .optional();
        match copied {
            Ok(all) => Some(all.unwrap_or(false)),
            Err(error) => {
                let full = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
                let busy = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy);
                tracing::warn!(reason = %error, "the log was not copied into the database");
                if !full && !busy {
                    // The next commit fails and has the store opened anew.
                    self.give_up();
                }
                None
            }
        }
    }

    /// Closes the connection after a failure, without a last checkpoint through it.
    fn give_up(&mut self) {
        if let Some(connection) = self.connection.take() {
            use rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            // It has failed already; what it says on closing changes nothing.
            let _ = connection.set_db_config(SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
            drop(connection);
        }
    }
}

fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -32_000)?;
    // Replaces SQLite's own checkpoints.
    LOG_PAGES.set(0);
    connection.wal_hook(Some(note_log_pages));
    Ok(connection)
}

fn note_log_pages(_: &hooks::Wal, pages: std::ffi::c_int) -> Result<(), rusqlite::Error> {
    LOG_PAGES.set(u32::try_from(pages).unwrap_or(0));
    Ok(())
}
