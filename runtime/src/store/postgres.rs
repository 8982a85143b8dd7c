//! A store in a PostgreSQL database that several nodes may share.
//!
//! As with the file, the queue's memory is the order and the database is the log; besides,
//! the database says whose tasks are whose. A *life* is one boot of one node (`life`): it
//! owns tasks, renews a lease of its own by the database's clock, and every transaction that
//! writes for it first locks its row and finds it alive. Whoever takes its tasks over ends it
//! under a stronger lock, so nothing is written for a life that has ended (fencing; Kleppmann,
//! "How to do distributed locking", 2016).
//!
//! The outcome of a commit whose connection was cut is unknown. A new connection of the same
//! life ends the old one and waits, by the same lock, until its transaction is over; what is
//! read afterwards is what stands.
//!
//! Left out: pooling proxies that swap the server's session between transactions. Prepared
//! statements and the settings of a session would not survive them.

pub mod apart;
mod distant;
mod escrow;
mod fund;
mod hand_over;
pub(super) mod import;
mod kept;
mod ledger;
mod life;
mod nodes;
mod order;
mod read;
mod registry;
mod schema;
mod signal;
mod swap;
#[cfg(test)]
mod tests;
mod text;
mod url;
mod write;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex as Lock;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, Row};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tracing::warn;

use self::kept::Kept;
pub use self::life::Takeover;
pub use self::schema::{drop_schema, make_schema};
pub(crate) use self::signal::{Hearing, Signal};
pub use self::url::{DatabaseUrl, InvalidDatabaseUrl};
use self::write::{CommitError, Fence};
use super::promotion::Mark;
use super::{Changes, StoreError};
use crate::clock::{Clock, Timestamp};

static MIGRATOR: Migrator = sqlx::migrate!("../migrations/postgres");

/// Connections for reading.
const READERS_MAX: u32 = 4;
/// Longest wait for one of them; more readers than that are refused.
const READER_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for a connection to the server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a commit: the network may swallow the answer without an error. Longer
/// than a statement may take.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest pause in a transaction of the writer.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for an exchange of what nodes share.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the database is, and for whom it is opened.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// The database.
    pub url: DatabaseUrl,
    /// The node's name. No two nodes that are alive on one database share one.
    pub node: String,
    /// Tells nodes of one name apart: [`DataDir::identity`](super::data_dir::DataDir). A node
    /// replaces its own earlier life at once, and another's only when that has run out.
    pub instance: String,
    /// How long a life lasts without renewal; afterwards another node may take over. Longer
    /// survives longer pauses of the node, the network or the server; shorter hands the tasks
    /// of a dead node to others sooner.
    pub life_term: Duration,
}

/// Handle to the database; clones share its connections.
#[derive(Clone, Debug)]
pub struct Postgres(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: PostgresConfig,
    writer: Mutex<Writing>,
    /// For renewing, which must wait for nothing else.
    keepers: [Kept; life::KEEPERS],
    /// For taking over.
    heir: Kept,
    /// For units and budgets that nodes share, which are exchanged beside what is written.
    sharer: Kept,
    /// For agents' rows, switches and budgets: whoever changes one may wait for others, and no
    /// life may wait for that.
    registrar: Kept,
    readers: PgPool,
    fence: Lock<Option<Fence>>,
    /// Lives whose tasks are in the queue's memory.
    loaded: Lock<HashSet<i64>>,
    renewals: Lock<life::Renewals>,
    /// For saying what this node wants.
    wanting: Mutex<Option<PgConnection>>,
    /// A file's tasks that are all here; the life that owns them begins when it is marked.
    prepared: Lock<Option<Mark>>,
    signals: signal::Signals,
    closed: AtomicBool,
}

#[derive(Debug)]
struct Writing {
    connection: Option<PgConnection>,
    /// The server's process behind the latest connection.
    backend: Backend,
}

/// A server process: its number may be given again, with another start.
#[derive(Clone, Debug, Default)]
struct Backend {
    pid: i32,
    started: String,
}

/// The database cannot be used. It was not changed, unless a migration failed half way: then
/// it is as it was before that migration.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No connection.
    #[error(
        "database {database} cannot be reached: {cause}; start the server, correct \
         `store.database_url`, or leave it out to use a file in the data directory"
    )]
    Unreachable {
        /// Where it should be, without its password.
        database: String,
        /// What the system or the server said.
        cause: String,
    },
    /// It cannot hold every text.
    #[error(
        "database {database} has the encoding {encoding}, which cannot hold every text; create \
         it with `CREATE DATABASE ... TEMPLATE template0 ENCODING 'UTF8'`"
    )]
    Encoding {
        /// Where it is.
        database: String,
        /// What it has.
        encoding: String,
    },
    /// A newer version made it.
    #[error(
        "database {database} was made by a newer version (it has migration {migration}); use \
         that version, or another database"
    )]
    Newer {
        /// Where it is.
        database: String,
        /// The migration this version does not know.
        migration: i64,
    },
    /// Anything else the server said.
    #[error("database {database} cannot be prepared: {cause}")]
    Failed {
        /// Where it is.
        database: String,
        /// What it said.
        cause: String,
    },
}

impl Postgres {
    /// Connects, and creates or migrates the tables as needed.
    ///
    /// # Errors
    ///
    /// [`OpenError`]
    pub async fn open(config: PostgresConfig) -> Result<Self, OpenError> {
        let database = || config.url.to_string();
        let failed = |error: sqlx::Error| OpenError::Failed {
            database: database(),
            cause: error.to_string(),
        };
        let plain = named(&config, "migrations");
        let mut connection = connect(&plain)
            .await
            .map_err(|error| OpenError::Unreachable {
                database: database(),
                cause: error.to_string(),
            })?;
        let settings = sqlx::query(
            "SELECT current_setting('server_encoding'), current_setting('fsync') = 'on'",
        )
        .fetch_one(&mut connection)
        .await
        .map_err(failed)?;
        let encoding: String = settings.try_get(0).map_err(failed)?;
        if encoding != "UTF8" {
            let database = database();
            return Err(OpenError::Encoding { database, encoding });
        }
        if !settings.try_get::<bool, _>(1).map_err(failed)? {
            warn!(
                database = %config.url,
                "the server runs with fsync = off: what is acknowledged may be lost when its machine stops"
            );
        }
        let migrated = MIGRATOR.run_direct(None, &mut connection, false).await;
        migrated.map_err(|error| {
            let (database, cause) = (database(), error.to_string());
            if let MigrateError::VersionMissing(migration) = error {
                OpenError::Newer {
                    database,
                    migration,
                }
            } else {
                OpenError::Failed { database, cause }
            }
        })?;
        // The migrations' connection has nothing left to lose.
        let _ = connection.close().await;
        let (connection, backend) = writing(&config).await.map_err(failed)?;
        let reading = named(&config, "reader").options([
            ("statement_timeout", "15s"),
            ("idle_in_transaction_session_timeout", "60s"),
            ("default_transaction_read_only", "on"),
        ]);
        let readers = PgPoolOptions::new()
            .max_connections(READERS_MAX)
            .acquire_timeout(READER_WAIT)
            .connect_lazy_with(reading);
        let patience = config.life_term.max(Duration::from_secs(1));
        Ok(Self(Arc::new(Inner {
            config,
            writer: Mutex::new(Writing {
                connection: Some(connection),
                backend,
            }),
            keepers: std::array::from_fn(|_| Kept::new("keeper", patience, false)),
            heir: Kept::new("heir", patience, false),
            sharer: Kept::new("sharer", EXCHANGE_TIMEOUT, true),
            registrar: Kept::new("registrar", EXCHANGE_TIMEOUT, true),
            readers,
            fence: Lock::default(),
            loaded: Lock::default(),
            renewals: Lock::default(),
            wanting: Mutex::default(),
            prepared: Lock::default(),
            signals: signal::Signals::default(),
            closed: AtomicBool::new(false),
        })))
    }

    /// Where it is, without its password.
    #[must_use]
    pub fn url(&self) -> &DatabaseUrl {
        &self.0.config.url
    }

    /// A clock that shows the database's time: what nodes write can then be compared,
    /// however their own clocks are set.
    pub(super) async fn clock(&self) -> Result<Clock, StoreError> {
        const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
        let asked = Instant::now();
        let now: i64 = sqlx::query(NOW)
            .fetch_one(&self.0.readers)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(|error| self.failure("read its clock", &error))?;
        // Half of the way there and back lies behind that reading.
        let now = Timestamp(now.unsigned_abs()).after(asked.elapsed() / 2);
        Ok(Clock::anchored(now))
    }

    pub(super) async fn commit(&self, changes: &Changes) -> Result<(), StoreError> {
        const ATTEMPT: &str = "commit";
        if changes.is_empty() {
            return Ok(());
        }
        let mut writer = self.0.writer.lock().await;
        let fence = self.fence()?;
        // Not put back unless all went well: half of a conversation is of no use.
        let mut connection = self.taken(&mut writer)?;
        let started = Instant::now();
        let committed = write::commit(&mut connection, &self.0.config.node, fence, changes);
        match timeout(COMMIT_TIMEOUT, committed).await {
            Ok(Ok(())) => {
                writer.connection = Some(connection);
                metrics::histogram!(crate::metrics::STORE_COMMIT_SECONDS).record(started.elapsed());
                Ok(())
            }
            Ok(Err(CommitError::Fenced)) => Err(self.fenced(&mut connection).await),
            Ok(Err(CommitError::Database(error))) => Err(self.failure(ATTEMPT, &error)),
            Err(_elapsed) => Err(StoreError::Failed {
                attempt: ATTEMPT,
                cause: format!("{}: no answer within {COMMIT_TIMEOUT:?}", self.url()).into(),
            }),
        }
    }

    /// Opens another connection for this life. When it returns, no transaction of an older
    /// one is open, and none will write.
    pub(super) async fn reopen(&self) -> Result<(), StoreError> {
        const ATTEMPT: &str = "reopen";
        let mut writer = self.0.writer.lock().await;
        drop(writer.connection.take());
        if self.0.closed.load(Ordering::SeqCst) {
            return Err(StoreError::Closed);
        }
        let failed = |error: sqlx::Error| self.failure(ATTEMPT, &error);
        let (mut fresh, backend) = writing(&self.0.config).await.map_err(failed)?;
        let before = std::mem::replace(&mut writer.backend, backend);
        if self.0.fence.lock().is_none() && self.0.prepared.lock().is_some() {
            writer.connection = Some(fresh);
            drop(writer);
            return self.activate().await;
        }
        let fence = self.fence()?;
        let session = life::next_session(&mut fresh, fence.boot, &before)
            .await
            .map_err(failed)?;
        let Some(session) = session else {
            return Err(self.fenced(&mut fresh).await);
        };
        *self.0.fence.lock() = Some(Fence { session, ..fence });
        writer.connection = Some(fresh);
        Ok(())
    }

    pub(super) async fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
        // A renewal that is under way would undo the letting go.
        for keeper in &self.0.keepers {
            keeper.close().await;
        }
        self.0.heir.close().await;
        self.0.sharer.close().await;
        self.0.registrar.close().await;
        let mut writer = self.0.writer.lock().await;
        if let Some(mut connection) = writer.connection.take() {
            if let Ok(fence) = self.fence()
                && let Err(reason) = life::let_go(&mut connection, fence.boot).await
            {
                warn!(%reason, "this node's life was not let go; others wait for its end");
            }
            if let Ok(fence) = self.fence() {
                // Otherwise it is free when the life has ended.
                let _ = escrow::free(&mut connection, &[fence.boot]).await;
            }
            // The server ends the session when the socket closes, in order or not.
            let _ = timeout(CONNECT_TIMEOUT, connection.close()).await;
        }
        self.0.readers.close().await;
    }

    fn taken(&self, writer: &mut Writing) -> Result<PgConnection, StoreError> {
        if self.0.closed.load(Ordering::SeqCst) {
            return Err(StoreError::Closed);
        }
        writer.connection.take().ok_or(StoreError::Recovering)
    }

    /// The right to write, once a life has begun.
    fn fence(&self) -> Result<Fence, StoreError> {
        let fence = *self.0.fence.lock();
        fence.ok_or_else(|| StoreError::Failed {
            attempt: "act",
            cause: "no life has begun on this store".into(),
        })
    }

    fn boot(&self) -> Result<i64, StoreError> {
        self.fence().map(|fence| fence.boot)
    }

    fn failure(&self, attempt: &'static str, error: &sqlx::Error) -> StoreError {
        // disk_full
        let full = error
            .as_database_error()
            .and_then(|error| error.code())
            .is_some_and(|code| code == "53100");
        if full {
            return StoreError::DiskFull { attempt };
        }
        StoreError::Failed {
            attempt,
            cause: format!("{}: {error}", self.url()).into(),
        }
    }
}

#[cfg(test)]
impl Postgres {
    /// How many large documents there are.
    pub(super) async fn blobs(&self) -> usize {
        let row = sqlx::query("SELECT count(*) FROM blob").fetch_one(&self.0.readers);
        let count: i64 = row.await.expect("readable").get(0);
        usize::try_from(count).expect("a count")
    }

    /// Ends the server's process behind the writer.
    pub(super) async fn cut_writer(&self) {
        let pid = self.0.writer.lock().await.backend.pid;
        let cut = sqlx::query("SELECT pg_terminate_backend($1)").bind(pid);
        cut.execute(&self.0.readers).await.expect("own session");
    }
}

fn named(config: &PostgresConfig, part: &str) -> PgConnectOptions {
    config
        .url
        .options()
        .application_name(&format!("regrow {} {part}", config.node))
        .statement_cache_capacity(100)
        .disable_statement_logging()
        .options([
            ("jit", "off"),
            // The server finds out within seconds that a node's machine is gone.
            ("tcp_keepalives_idle", "5"),
            ("tcp_keepalives_interval", "2"),
            ("tcp_keepalives_count", "3"),
        ])
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    match timeout(CONNECT_TIMEOUT, options.connect()).await {
        Ok(connected) => connected,
        Err(_elapsed) => Err(sqlx::Error::Io(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("no connection within {CONNECT_TIMEOUT:?}"),
        ))),
    }
}

/// How long a transaction may stand still before the server ends it: it may hold its life's lock,
/// and nobody can take over from a machine that is cut off until that is free.
fn still(config: &PostgresConfig, longest: Duration) -> (&'static str, String) {
    let millis = config.life_term.min(longest).as_millis();
    ("idle_in_transaction_session_timeout", millis.to_string())
}

/// A connection that finds rows by key only, and acknowledges what is on the server's disk.
async fn writing(config: &PostgresConfig) -> Result<(PgConnection, Backend), sqlx::Error> {
    let options = named(config, "writer").options([
        ("statement_timeout", "30s"),
        ("lock_timeout", "15s"),
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
    ]);
    let options = options.options([still(config, TRANSACTION_TIMEOUT)]);
    let mut connection = connect(&options).await?;
    // Anything but `off` waits for the disk.
    sqlx::query(
        "SELECT set_config('synchronous_commit', 'on', false) \
         WHERE current_setting('synchronous_commit') = 'off'",
    )
    .execute(&mut connection)
    .await?;
    let row = sqlx::query(
        "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()",
    )
    .fetch_one(&mut connection)
    .await?;
    let backend = Backend {
        pid: row.try_get(0)?,
        started: row.try_get(1)?,
    };
    Ok((connection, backend))
}
