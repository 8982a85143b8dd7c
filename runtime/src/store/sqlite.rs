//! A store in one SQLite file: write-ahead log, `synchronous=FULL`, one writing connection.
//!
//! SQLite is the log, the queue's memory is the order: the hot path only appends and
//! upserts, one statement per kind of row and batch, with the rows as one JSON argument.
//! (A statement per row costs a round trip to the connection's thread each.)

mod ledger;
mod packed;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};
use tokio::sync::Mutex;

use super::data_dir::{DataDir, DataDirError};
use super::{Changes, StoreError};

static MIGRATOR: Migrator = sqlx::migrate!("../migrations/sqlite");

/// Pages in the write-ahead log before it is copied into the file.
const CHECKPOINT_PAGES: u32 = 8_000;
/// Databases up to this size are checked for corruption at every start.
const QUICK_CHECK_BYTES_MAX: u64 = 256 << 20;

/// Handle to the file; clones share its connections.
#[derive(Clone, Debug)]
pub struct Sqlite(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    writer: Mutex<Option<SqliteConnection>>,
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
        let path = dir.path().join("regrow.db");
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
        let mut writer = connect(&path).await.map_err(failed)?;
        MIGRATOR.run(&mut writer).await.map_err(|error| {
            let (path, cause) = (path.clone(), error.to_string());
            if let MigrateError::VersionMissing(migration) = error {
                OpenError::Newer { path, migration }
            } else {
                OpenError::Failed { path, cause }
            }
        })?;
        dir.seal()?;
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(10))
            .connect_with(options(&path).read_only(true).create_if_missing(false))
            .await
            .map_err(failed)?;
        Ok(Self(Arc::new(Inner {
            path,
            writer: Mutex::new(Some(writer)),
            readers,
            #[cfg(test)]
            pages_max: std::sync::atomic::AtomicU32::default(),
        })))
    }

    pub(super) async fn next_boot(&self) -> Result<u32, StoreError> {
        const ATTEMPT: &str = "count this start";
        let mut writer = self.0.writer.lock().await;
        let connection = writer.as_mut().ok_or(StoreError::Closed)?;
        let raised = sqlx::query(
            "UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE name = 'boots' \
             RETURNING CAST(value AS INTEGER)",
        )
        .fetch_one(connection)
        .await
        .map_err(|error| failure(ATTEMPT, &error))?;
        let boots: i64 = raised
            .try_get(0)
            .map_err(|error| failure(ATTEMPT, &error))?;
        u32::try_from(boots).map_err(|error| StoreError::Unreadable {
            what: "the count of starts",
            cause: error.to_string().into(),
        })
    }

    pub(super) async fn commit(&self, changes: &Changes) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut writer = self.0.writer.lock().await;
        let connection = writer.as_mut().ok_or(StoreError::Closed)?;
        let started = tokio::time::Instant::now();
        write::commit(connection, changes)
            .await
            .map_err(|error| failure("commit", &error))?;
        metrics::histogram!(crate::metrics::STORE_COMMIT_SECONDS).record(started.elapsed());
        Ok(())
    }

    pub(super) async fn reopen(&self) -> Result<(), StoreError> {
        let mut writer = self.0.writer.lock().await;
        if let Some(old) = writer.take() {
            // It has failed already; what it says on closing changes nothing.
            let _ = old.close_hard().await;
        }
        let failed = |error: sqlx::Error| failure("reopen", &error);
        let mut fresh = connect(&self.0.path).await.map_err(failed)?;
        #[cfg(test)]
        self.apply_page_limit(&mut fresh).await;
        // While not even this can be written, rereading everything would be in vain.
        sqlx::query("UPDATE meta SET value = value WHERE name = 'boots'")
            .execute(&mut fresh)
            .await
            .map_err(failed)?;
        *writer = Some(fresh);
        Ok(())
    }

    pub(super) async fn close(&self) {
        self.0.readers.close().await;
        if let Some(writer) = self.0.writer.lock().await.take()
            && let Err(reason) = writer.close().await
        {
            tracing::warn!(%reason, "database did not close cleanly; it recovers at the next start");
        }
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
        if let Some(writer) = self.0.writer.lock().await.as_mut() {
            self.apply_page_limit(writer).await;
        }
    }

    async fn apply_page_limit(&self, connection: &mut SqliteConnection) {
        let limit = match self.0.pages_max.load(std::sync::atomic::Ordering::SeqCst) {
            0 => 4_294_967_294,
            pages => pages,
        };
        let limit = format!("PRAGMA max_page_count = {limit}");
        let set = sqlx::query(sqlx::AssertSqlSafe(limit));
        set.fetch_all(connection).await.expect("a limit");
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

async fn connect(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    options(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string())
        .pragma("cache_size", "-32000")
        .connect()
        .await
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

fn failure(attempt: &'static str, error: &sqlx::Error) -> StoreError {
    // SQLITE_FULL, as result code 13.
    let full = error
        .as_database_error()
        .and_then(|e| e.code())
        .is_some_and(|code| code == "13");
    if full {
        return StoreError::DiskFull { attempt };
    }
    StoreError::Failed {
        attempt,
        cause: error.to_string().into(),
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
