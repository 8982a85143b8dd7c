//! A store in one SQLite file: write-ahead log, `synchronous=FULL`, one writing connection.
//!
//! SQLite is the log, the queue's memory is the order: the hot path only appends and
//! upserts, with prepared statements on the writing connection's own thread.

pub mod export;
mod ledger;
mod read;
mod reload;
#[cfg(test)]
mod tests;
pub mod upkeep;
mod write;
mod writing_thread;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{FutureExt, ready};
use parking_lot::Mutex;
use rusqlite::OpenFlags;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row};

use self::writing_thread::WritingThread;
use super::data_dir::{DataDir, DataDirError};
use super::promotion::Mark;
use super::{Changes, Committing, StoreError};

/// The database within a node's directory.
pub const FILE: &str = "regrow.db";

static MIGRATOR: Migrator = sqlx::migrate!("../migrations/sqlite");

/// Databases up to this size are checked for corruption at every start.
const QUICK_CHECK_BYTES_MAX: u64 = 256 << 20;

/// Handle to the file; clones share its connections.
#[derive(Clone, Debug)]
pub struct Sqlite(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// `None` once the store is closed.
    writer: Mutex<Option<WritingThread>>,
    /// Holds the log's index open while the store is. Without it, a writer that is opened
    /// anew after a failed flush would rebuild the index from what the system still shows
    /// of the log, and build on frames that may never have reached the disk.
    index: Mutex<Option<rusqlite::Connection>>,
    readers: SqlitePool,
    /// Pages that the file may have, to stand for a full disk.
    #[cfg(test)]
    pages_max: std::sync::atomic::AtomicU32,
}

/// The database cannot be opened. It was not changed, unless a migration failed half way:
/// then it is as it was before that migration.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The directory was used before, and its database is gone.
    #[error(
        "database {} is missing although its directory was in use; restore it from a backup, \
         or pass another --data-dir to start afresh",
        .0.display()
    )]
    Missing(PathBuf),
    /// The file is not a sound database.
    #[error(
        "database {} is corrupted ({cause}) and was left untouched; restore it from a backup, \
         or pass another --data-dir to start afresh",
        path.display()
    )]
    Corrupted {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// A newer version made it.
    #[error(
        "database {} was made by a newer version (it has migration {migration}); use that \
         version, or pass another --data-dir",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The migration this version does not know.
        migration: i64,
    },
    /// Its tasks are elsewhere.
    #[error(
        "the tasks of {} were moved to {} on {}: set store.database_url to that database, with \
         its user and password, to go on there. The file is kept as a backup; to go back to how \
         it was then, copy it elsewhere and `regrow store restore` it into a fresh --data-dir",
        path.display(),
        mark.database,
        mark.at
    )]
    Promoted {
        /// The file.
        path: PathBuf,
        /// Where they are.
        mark: Mark,
    },
    /// Anything else the database said.
    #[error("database {} cannot be opened: {cause}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What it said.
        cause: String,
    },
}

impl Sqlite {
    /// Opens the database in `dir`, creating or migrating it as needed.
    ///
    /// # Errors
    ///
    /// [`OpenError`]
    pub async fn open(dir: &mut DataDir) -> Result<Self, OpenError> {
        let path = dir.path().join(FILE);
        let bytes = match std::fs::metadata(&path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => {
                let cause = error.to_string();
                return Err(OpenError::Failed { path, cause });
            }
        };
        match (dir.is_new(), bytes) {
            (false, 0) => return Err(OpenError::Missing(path)),
            (_, 0) => {}
            _ => examine(&path, bytes).await?,
        }
        let failed = |cause: sqlx::Error| OpenError::Failed {
            path: path.clone(),
            cause: cause.to_string(),
        };
        migrate(&path).await?;
        // Only now: a log or a journal that a killed process left is in the file.
        if let Some(mark) = export::mark(&path).await? {
            return Err(OpenError::Promoted { path, mark });
        }
        dir.seal()?;
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(10))
            .connect_with(options(&path).read_only(true).create_if_missing(false))
            .await
            .map_err(failed)?;
        let unusable = |cause: StoreError| OpenError::Failed {
            path: path.clone(),
            cause: cause.to_string(),
        };
        let writer = WritingThread::start(&path).await.map_err(unusable)?;
        let index = hold_index(path.clone()).await.map_err(unusable)?;
        Ok(Self(Arc::new(Inner {
            path,
            writer: Mutex::new(Some(writer)),
            index: Mutex::new(Some(index)),
            readers,
            #[cfg(test)]
            pages_max: std::sync::atomic::AtomicU32::default(),
        })))
    }

    pub(super) async fn next_boot(&self) -> Result<u32, StoreError> {
        let writer = self.writer()?;
        let raised = writer.with(|connection| {
            let raise = "UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE name = 'boots' \
                 RETURNING CAST(value AS INTEGER)";
            connection
                .query_row(raise, [], |row| row.get::<_, i64>(0))
                .map_err(|error| failure("count this start", &error))
        });
        u32::try_from(raised.await?).map_err(|error| unreadable("the count of starts", &error))
    }

    pub(super) fn commit(&self, changes: Arc<Changes>) -> Committing {
        match self.writer() {
            Ok(writer) => writer.commit(changes),
            Err(closed) => ready(Err(closed)).boxed(),
        }
    }

    pub(super) async fn reopen(&self) -> Result<(), StoreError> {
        let old = self.writer()?;
        old.close().await;
        let fresh = WritingThread::start(&self.0.path).await?;
        #[cfg(test)]
        self.apply_page_limit(&fresh).await;
        // While not even this can be written, rereading everything would be in vain.
        let probe = fresh.with(|connection| {
            connection
                .execute("UPDATE meta SET value = value WHERE name = 'boots'", [])
                .map_err(|error| failure("reopen the database", &error))
        });
        let usable = match probe.await {
            Ok(_) => self.refuse_if_promoted().await,
            Err(reason) => Err(reason),
        };
        if let Err(reason) = usable {
            fresh.close().await;
            return Err(reason);
        }
        match &mut *self.0.writer.lock() {
            Some(writer) => *writer = fresh,
            None => return Err(StoreError::Closed),
        }
        Ok(())
    }

    pub(super) async fn close(&self) {
        self.0.readers.close().await;
        drop(self.0.index.lock().take());
        let writer = self.0.writer.lock().take();
        if let Some(writer) = writer {
            writer.close().await;
        }
    }

    fn writer(&self) -> Result<WritingThread, StoreError> {
        self.0.writer.lock().clone().ok_or(StoreError::Closed)
    }
}

#[cfg(test)]
impl Sqlite {
    /// How many large documents there are.
    pub(super) async fn blobs(&self) -> usize {
        let row = sqlx::query("SELECT count(*) FROM blob").fetch_one(&self.0.readers);
        let count: i64 = row.await.expect("readable").get(0);
        usize::try_from(count).expect("a count")
    }

    /// Lets the file grow no further than `pages`, so that SQLite meets a full disk.
    pub(super) async fn limit_pages(&self, pages: Option<u32>) {
        let limit = pages.unwrap_or(0);
        self.0
            .pages_max
            .store(limit, std::sync::atomic::Ordering::SeqCst);
        // While the store recovers there is no connection to limit; the next one asks.
        if let Ok(writer) = self.writer() {
            self.apply_page_limit(&writer).await;
        }
    }

    async fn apply_page_limit(&self, writer: &WritingThread) {
        let limit = match self.0.pages_max.load(std::sync::atomic::Ordering::SeqCst) {
            0 => 4_294_967_294,
            pages => pages,
        };
        let limited = writer.with(move |connection| {
            let set = |_: &rusqlite::Row<'_>| Ok(());
            let limit = connection.pragma_update_and_check(None, "max_page_count", limit, set);
            limit.map_err(|error| failure("limit the pages", &error))
        });
        // A connection that has failed stays as it is.
        let _ = limited.await;
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(Duration::from_secs(5))
        .statement_cache_capacity(64)
        .command_buffer_size(256)
        .row_buffer_size(2_048)
        .disable_statement_logging()
}

/// Creates the database or brings it up to date, and leaves no log behind: what an earlier
/// life of the node wrote is then in the file and flushed, whatever became of its last flush.
async fn migrate(path: &Path) -> Result<(), OpenError> {
    let failed = |cause: String| OpenError::Failed {
        path: path.to_owned(),
        cause,
    };
    let mut connection = options(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .connect()
        .await
        .map_err(|error| failed(error.to_string()))?;
    let migrated = MIGRATOR.run(&mut connection).await;
    let closed = connection.close().await;
    migrated.map_err(|error| {
        let cause = error.to_string();
        if let MigrateError::VersionMissing(migration) = error {
            let path = path.to_owned();
            OpenError::Newer { path, migration }
        } else {
            failed(cause)
        }
    })?;
    closed.map_err(|error| failed(error.to_string()))
}

/// A connection that reads once and then only exists.
async fn hold_index(path: PathBuf) -> Result<rusqlite::Connection, StoreError> {
    let open = move || {
        let connection = reader(&path)?;
        connection.query_row("SELECT count(*) FROM meta", [], |_| Ok(()))?;
        Ok(connection)
    };
    blocking("open the database", open).await
}

/// A connection that cannot write.
fn reader(path: &Path) -> Result<rusqlite::Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = rusqlite::Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

/// Does what blocks where it may.
async fn blocking<T: Send + 'static>(
    attempt: &'static str,
    work: impl FnOnce() -> Result<T, rusqlite::Error> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| failure(attempt, &error)),
        Err(ended) => Err(StoreError::Failed {
            attempt,
            cause: ended.to_string().into(),
        }),
    }
}

/// Looks for corruption through a connection that cannot write.
async fn examine(path: &Path, bytes: u64) -> Result<(), OpenError> {
    let corrupted = |cause: String| OpenError::Corrupted {
        path: path.to_owned(),
        cause,
    };
    let unsound = |error: sqlx::Error| {
        let (path, cause) = (path.to_owned(), error.to_string());
        if is_corruption(&error) {
            OpenError::Corrupted { path, cause }
        } else {
            OpenError::Failed { path, cause }
        }
    };
    let logged =
        |name: &str| std::fs::metadata(path.with_file_name(name)).is_ok_and(|log| 0 < log.len());
    let read_only = options(path)
        .read_only(true)
        .create_if_missing(false)
        // Nobody else has the directory. Without a log to read, leave none behind either.
        .immutable(!logged("regrow.db-wal"));
    let mut connection = read_only.connect().await.map_err(unsound)?;
    let check = if bytes <= QUICK_CHECK_BYTES_MAX {
        "PRAGMA quick_check(1)"
    } else {
        "SELECT CASE count(*) WHEN 0 THEN 'no tables' ELSE 'ok' END FROM sqlite_schema"
    };
    let found = sqlx::query(check)
        .fetch_one(&mut connection)
        .await
        .and_then(|row| row.try_get::<String, _>(0));
    // A read-only connection has nothing to lose on closing.
    let _ = connection.close().await;
    let found = found.map_err(unsound)?;
    if found == "ok" {
        Ok(())
    } else {
        Err(corrupted(found))
    }
}

/// The low byte is the primary result code: SQLITE_CORRUPT (11) or SQLITE_NOTADB (26).
fn is_corruption(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code()?.parse::<u32>().ok())
        .is_some_and(|code| matches!(code & 0xff, 11 | 26))
}

/// What a reading connection said.
fn read_failure(attempt: &'static str, error: &sqlx::Error) -> StoreError {
    StoreError::Failed {
        attempt,
        cause: error.to_string().into(),
    }
}

/// What a writing connection said, and what a person can do about it.
fn failure(attempt: &'static str, error: &rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode;
    let (code, extended) = error
        .sqlite_error()
        .map_or((None, 0), |error| (Some(error.code), error.extended_code));
    let way_out = match code {
        Some(ErrorCode::DiskFull) => return StoreError::DiskFull { attempt },
        Some(ErrorCode::ReadOnly) => {
            "; the database file, its directory or the file system is read-only: make it \
             writable, the node goes on by itself"
        }
        Some(ErrorCode::SystemIoFailure) => "; look at the disk and the system's log",
        _ => "",
    };
    let number = if extended == 0 {
        String::new()
    } else {
        format!(" (SQLite's code {extended})")
    };
    StoreError::Failed {
        attempt,
        cause: format!("{error}{number}{way_out}").into(),
    }
}

fn unreadable(what: &'static str, cause: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unreadable {
        what,
        cause: cause.to_string().into(),
    }
}

fn parse<T: FromStr<Err: std::fmt::Display>>(
    what: &'static str,
    text: &str,
) -> Result<T, StoreError> {
    text.parse()
        .map_err(|error: T::Err| unreadable(what, &error))
}
