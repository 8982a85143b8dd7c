//! Lives: one boot of one node each, who owns tasks, and whose tasks others take over.
//!
//! Times of lives are set and compared by the database's clock alone. A node takes over at
//! its start from earlier lives of its own name, which it replaces, and from expired ones;
//! while it runs, from expired ones. When the server itself was away, every life looks
//! expired: nobody takes over before he has himself been renewed for a whole term, and at a
//! start not before the server has been up for one.
//!
//! Taking over moves no row: the ended life names its heir, and the heir's memory reads the
//! tasks of all lives it inherited. A task's row names the heir once the heir writes it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, PgConnection, Row};
use tokio::time::Instant;
use tracing::info;

use super::read::{Live, ReadError, live};
use super::signal::Signal;
use super::write::Fence;
use super::{Backend, Postgres, PostgresConfig, escrow, fund};
use crate::ids::TaskId;
use crate::queue::machine::DistantChild;
use crate::queue::task::{TaskBody, TaskRun, TaskState};
use crate::store::{Ledgers, StoreError};

/// Live tasks of lives that ended, which this node now acts for.
#[derive(Debug)]
pub struct Takeover {
    /// A number of boots above all that were ever given: epochs go on from there.
    pub(crate) boots: u32,
    /// The tasks, in order of acceptance.
    pub(crate) live: Vec<(Arc<TaskBody>, TaskRun)>,
    /// How tasks ended that one of them depends on, and how those stand that live elsewhere.
    pub(crate) ended: HashMap<TaskId, TaskState>,
    /// Children of these that live elsewhere, or failed there unheard.
    pub(crate) children: Vec<DistantChild>,
    /// What they need of the ledgers.
    pub(crate) ledgers: Ledgers,
    /// Those of them that had been handed over and not taken in.
    pub(crate) handed: Vec<u64>,
    /// Whose they were.
    pub(crate) lives: Vec<i64>,
}

/// Since when every renewal has succeeded.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    steady_since: Option<Instant>,
    latest: Option<Instant>,
    /// When the latest renewal that succeeded was asked for: the lease counts from later.
    asked_at: Option<Instant>,
}

/// Connections on which a life is renewed, in turns: a packet that is lost holds up one of them,
/// for up to seconds if the next ones are lost, too.
pub(super) const KEEPERS: usize = 2;

impl Renewals {
    /// A renewal that was asked for at `asked_at` succeeded at `now`; one that comes later
    /// than `term` after the last starts anew.
    fn succeeded(&mut self, asked_at: Instant, now: Instant, term: Duration) {
        // Of two that were under way the later one may have been answered first.
        self.asked_at = self.asked_at.max(Some(asked_at));
        let in_time = self.latest.is_some_and(|at| now.duration_since(at) < term);
        if !in_time || self.steady_since.is_none() {
            self.steady_since = Some(now);
        }
        self.latest = Some(now);
    }

    /// A renewal that was asked for at `asked_at` failed; false if another has succeeded since.
    fn failed(&mut self, asked_at: Instant) -> bool {
        let counts = self.latest.is_none_or(|at| at <= asked_at);
        if counts {
            self.steady_since = None;
        }
        counts
    }

    /// Renewed without a gap for a whole `term`: whoever was not had every chance.
    fn are_steady(&self, now: Instant, term: Duration) -> bool {
        let recent = self.latest.is_some_and(|at| now.duration_since(at) < term);
        let since = self.steady_since.map(|since| now.duration_since(since));
        recent && since.is_some_and(|steady| term <= steady)
    }
}

const RAISE_BOOTS: &str = "UPDATE meta SET value = (value::bigint + 1)::text \
    WHERE name = 'boots' RETURNING value::bigint";

/// Lives to replace at a start: this node's own at once, others when they have run out. Waits
/// for the transactions that write for them.
pub(super) const REPLACED: &str = "SELECT boot, node FROM life WHERE NOT ended AND \
    ((node = $1 AND coalesce(instance = $3, true)) OR \
     (lease_until < clock_timestamp() AND \
      pg_postmaster_start_time() < clock_timestamp() - make_interval(secs => $2))) \
    ORDER BY boot FOR UPDATE";

/// Lives of other nodes that use this node's name.
const NAMESAKE: &str = "SELECT boot, lease_until::text FROM life WHERE NOT ended AND node = $1 \
    AND instance <> $2 ORDER BY boot DESC LIMIT 1";

/// Lives to take over while running. One that is still writing is left for the next time.
const EXPIRED: &str = "SELECT boot, node FROM life WHERE NOT ended AND boot <> $1 \
    AND lease_until < clock_timestamp() ORDER BY boot FOR UPDATE SKIP LOCKED";

pub(super) const BEGIN: &str = "INSERT INTO life (boot, node, instance, session, started_at, lease_until, ended, heir) \
    VALUES ($1, $2, $4, 1, clock_timestamp(), clock_timestamp() + make_interval(secs => $3), \
    false, $1)";

pub(super) const END: &str =
    "UPDATE life SET ended = true, heir = $1 WHERE boot = ANY($2) OR heir = ANY($2)";

/// Inherited lives without a live task are of no further use, once their nodes have heard
/// who took over.
const TIDY: &str = "DELETE FROM life WHERE ended AND heir = $1 \
    AND lease_until < clock_timestamp() - interval '1 hour' \
    AND NOT EXISTS (SELECT 1 FROM task_run WHERE owner = life.boot)";

const RENEW: &str = "UPDATE life SET lease_until = clock_timestamp() + make_interval(secs => $2) \
    WHERE boot = $1 AND NOT ended";

/// Ends another connection's process, if it still is the one that was meant.
const TERMINATE: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
    WHERE pid = $1 AND backend_start::text = $2";

/// What came of beginning a life.
enum Begun {
    Life { boot: i64, replaced: String },
    NameUsed(Namesake),
}

/// A life of another node that uses this node's name.
#[derive(Debug, PartialEq, Eq)]
struct Namesake {
    boot: i64,
    lease_until: String,
}

/// A life stays alive by this much without a renewal; renewed six times as often.
fn seconds(term: Duration) -> f64 {
    term.as_secs_f64()
}

fn boots_and_nodes(rows: &[sqlx::postgres::PgRow]) -> Result<(Vec<i64>, String), sqlx::Error> {
    let mut boots = Vec::with_capacity(rows.len());
    let mut names = String::new();
    for row in rows {
        let (boot, node): (i64, &str) = (row.try_get(0)?, row.try_get(1)?);
        let gap = if names.is_empty() { "" } else { ", " };
        names.push_str(&format!("{gap}{node} (life {boot})"));
        boots.push(boot);
    }
    Ok((boots, names))
}

/// Raises the session of a life, after every transaction of its older connection is over.
/// `None` if the life was ended.
pub(super) async fn next_session(
    connection: &mut PgConnection,
    boot: i64,
    before: &Backend,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query(TERMINATE)
        .bind(before.pid)
        .bind(&before.started)
        .execute(&mut *connection)
        .await?;
    let mut transaction = connection.begin().await?;
    // Waits for the lock of a transaction that is still committing.
    let alive = sqlx::query("SELECT boot FROM life WHERE boot = $1 AND NOT ended FOR UPDATE")
        .bind(boot)
        .fetch_optional(&mut *transaction)
        .await?;
    if alive.is_none() {
        return Ok(None);
    }
    let raised =
        sqlx::query("UPDATE life SET session = session + 1 WHERE boot = $1 RETURNING session")
            .bind(boot)
            .fetch_one(&mut *transaction)
            .await?;
    let session = raised.try_get(0)?;
    transaction.commit().await?;
    Ok(Some(session))
}

/// Lets others take over at once: this node has stopped.
pub(super) async fn let_go(connection: &mut PgConnection, boot: i64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE life SET lease_until = clock_timestamp() WHERE boot = $1 AND NOT ended")
        .bind(boot)
        .execute(connection)
        .await
        .map(drop)
}

impl Postgres {
    /// Begins a life, and inherits what earlier lives of this node, and expired lives of
    /// others, leave behind.
    ///
    /// Another node's life under this node's name is waited for until it has run out; one
    /// that is renewed meanwhile is alive, and the name is taken.
    pub(in crate::store) async fn next_boot(&self) -> Result<u32, StoreError> {
        const ATTEMPT: &str = "begin a life";
        let mut writer = self.0.writer.lock().await;
        let mut connection = self.taken(&mut writer)?;
        let mut seen: Option<Namesake> = None;
        let (boot, replaced) = loop {
            let begun = self.begin(&mut connection).await;
            let found = match begun.map_err(|error| self.failure(ATTEMPT, &error))? {
                Begun::Life { boot, replaced } => break (boot, replaced),
                Begun::NameUsed(namesake) => namesake,
            };
            if seen.as_ref().is_some_and(|before| *before != found) {
                writer.connection = Some(connection);
                return Err(StoreError::NameTaken {
                    node: self.0.config.node.as_str().into(),
                    life: found.boot,
                });
            }
            if seen.is_none() {
                info!(node = %self.0.config.node, life = found.boot, "waiting until another \
                    node's life under this name has run out");
            }
            seen = Some(found);
            tokio::time::sleep(self.0.config.life_term / 6).await;
        };
        writer.connection = Some(connection);
        drop(writer);
        if !replaced.is_empty() {
            info!(life = boot, from = %replaced, "took over tasks");
        }
        *self.0.fence.lock() = Some(Fence { boot, session: 1 });
        self.0.loaded.lock().clear();
        counted(boot)
    }

    async fn begin(&self, connection: &mut PgConnection) -> Result<Begun, sqlx::Error> {
        let PostgresConfig {
            node,
            instance,
            life_term: term,
            ..
        } = &self.0.config;
        let mut transaction = connection.begin().await?;
        let replaced = sqlx::query(REPLACED)
            .bind(node)
            .bind(seconds(*term))
            .bind(instance)
            .fetch_all(&mut *transaction)
            .await?;
        let (replaced, names) = boots_and_nodes(&replaced)?;
        let boot: i64 = sqlx::query(RAISE_BOOTS)
            .fetch_one(&mut *transaction)
            .await?
            .try_get(0)?;
        sqlx::query(END)
            .bind(boot)
            .bind(&replaced)
            .execute(&mut *transaction)
            .await?;
        // The raised number is locked until the end: of two that begin at once, the later one
        // sees the earlier.
        let namesake = sqlx::query(NAMESAKE)
            .bind(node)
            .bind(instance)
            .fetch_optional(&mut *transaction)
            .await?;
        if let Some(row) = namesake {
            let (boot, lease_until) = (row.try_get(0)?, row.try_get(1)?);
            transaction.rollback().await?;
            return Ok(Begun::NameUsed(Namesake { boot, lease_until }));
        }
        sqlx::query(BEGIN)
            .bind(boot)
            .bind(node)
            .bind(seconds(*term))
            .bind(instance)
            .execute(&mut *transaction)
            .await?;
        escrow::free(&mut transaction, &replaced).await?;
        fund::gather(&mut transaction, fund::OF_NODES, None).await?;
        sqlx::query(TIDY)
            .bind(boot)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Begun::Life {
            boot,
            replaced: names,
        })
    }

    /// Until when nobody can have ended this life: a tenth of its term earlier than the
    /// database would allow it, for clocks that run at different rates, counted from before the
    /// latest renewal was asked for. `None` before the first.
    pub(crate) fn lives_until(&self) -> Option<Instant> {
        let asked_at = self.0.renewals.lock().asked_at?;
        Some(asked_at + self.life_term() * 9 / 10)
    }

    /// How long a life lasts without renewal.
    pub(in crate::store) fn life_term(&self) -> Duration {
        self.0.config.life_term
    }

    /// Renews this node's life on one of [`KEEPERS`] connections. That it failed does not matter
    /// if it was renewed on another one meanwhile.
    ///
    /// Cancellation safe: the connection is given up.
    pub(in crate::store) async fn renew_life(&self, keeper: usize) -> Result<(), StoreError> {
        const ATTEMPT: &str = "renew this node's life";
        let (boot, term) = (self.boot()?, self.life_term());
        let asked_at = Instant::now();
        let keeper = &self.0.keepers[keeper % KEEPERS];
        let renewed = self.on(keeper, ATTEMPT, async |connection| {
            let renewed = sqlx::query(RENEW)
                .bind(boot)
                .bind(seconds(term))
                .execute(&mut *connection)
                .await?;
            Ok(match renewed.rows_affected() {
                0 => Err(self.fenced(connection).await),
                _ => Ok(()),
            })
        });
        let renewed = renewed.await.and_then(|renewed| renewed);
        let mut renewals = self.0.renewals.lock();
        match renewed {
            Ok(()) => {
                renewals.succeeded(asked_at, Instant::now(), term);
                Ok(())
            }
            Err(superseded @ StoreError::Superseded { .. }) => Err(superseded),
            Err(reason) if renewals.failed(asked_at) => Err(reason),
            Err(_) => Ok(()),
        }
    }

    /// Ends expired lives of other nodes, and reads the tasks of all lives that this one has
    /// inherited and not loaded. Nothing is loaded twice: whoever puts them into memory says
    /// so with [`loaded`](Self::loaded) before he calls this again.
    pub(in crate::store) async fn take_over(&self) -> Result<Option<Takeover>, StoreError> {
        const ATTEMPT: &str = "take over from other nodes";
        let (boot, term) = (self.boot()?, self.life_term());
        let steady = self.0.renewals.lock().are_steady(Instant::now(), term);
        let inherited = self.on(&self.0.heir, ATTEMPT, async |connection| {
            if steady {
                self.inherit(connection, boot).await?;
            }
            let heirs = sqlx::query("SELECT boot FROM life WHERE heir = $1")
                .bind(boot)
                .fetch_all(&mut *connection)
                .await?;
            let heirs = heirs.iter().map(|row| row.try_get(0));
            let mut lives: Vec<i64> = heirs.collect::<Result<_, _>>()?;
            {
                let loaded = self.0.loaded.lock();
                lives.retain(|life| !loaded.contains(life));
            }
            Ok(lives)
        });
        let lives = inherited.await?;
        if lives.is_empty() {
            return Ok(None);
        }
        // A lease given from here on must be above those that the ended lives gave.
        let boots = self.raise_boots().await?;
        let read = self.read_inherited(&lives).await;
        let Live {
            tasks,
            ended,
            children,
            ledgers,
            handed,
        } = read.map_err(|error| match error {
            ReadError::Database(error) => self.failure(ATTEMPT, &error),
            ReadError::Store(error) => error,
        })?;
        Ok(Some(Takeover {
            boots,
            live: tasks,
            ended,
            children,
            ledgers,
            handed,
            lives,
        }))
    }

    async fn inherit(&self, connection: &mut PgConnection, boot: i64) -> Result<(), sqlx::Error> {
        let mut transaction = connection.begin().await?;
        // An heir has to live itself, until this is committed.
        let alive =
            sqlx::query("SELECT boot FROM life WHERE boot = $1 AND NOT ended FOR KEY SHARE")
                .bind(boot)
                .fetch_optional(&mut *transaction)
                .await?;
        if alive.is_none() {
            return Ok(());
        }
        let expired = sqlx::query(EXPIRED)
            .bind(boot)
            .fetch_all(&mut *transaction)
            .await?;
        let (expired, names) = boots_and_nodes(&expired)?;
        if expired.is_empty() {
            return Ok(());
        }
        sqlx::query(END)
            .bind(boot)
            .bind(&expired)
            .execute(&mut *transaction)
            .await?;
        escrow::free(&mut transaction, &expired).await?;
        transaction.commit().await?;
        // What they owned is to be had.
        self.signal(Signal::Agents, &[]);
        self.0.signals.hear(Signal::Agents);
        info!(life = boot, from = %names, "took over tasks of nodes whose lives ran out");
        Ok(())
    }

    async fn read_inherited(&self, lives: &[i64]) -> Result<Live, ReadError> {
        let mut reader = self.0.readers.begin().await?;
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .execute(&mut *reader)
            .await?;
        sqlx::query("SET LOCAL statement_timeout = 0")
            .execute(&mut *reader)
            .await?;
        let live = live(&mut reader, &self.0.config.node, None, lives).await?;
        reader.commit().await?;
        Ok(live)
    }

    /// The tasks of `lives` are in the queue's memory.
    pub(in crate::store) fn loaded(&self, lives: &[i64]) {
        self.0.loaded.lock().extend(lives);
    }

    /// Some of `lives` were inherited after the queue was loaded first.
    pub(super) fn inherited_since(&self, lives: &[i64]) -> bool {
        let loaded = self.0.loaded.lock();
        !loaded.is_empty() && lives.iter().any(|life| !loaded.contains(life))
    }

    /// A number of boots above all that were ever given.
    pub(super) async fn raise_boots(&self) -> Result<u32, StoreError> {
        let raised = self.on(&self.0.heir, "count a takeover", async |connection| {
            let raised = sqlx::query(RAISE_BOOTS).fetch_one(connection).await?;
            raised.try_get::<i64, _>(0)
        });
        counted(raised.await?)
    }

    /// Why this life may not write.
    pub(super) async fn fenced(&self, connection: &mut PgConnection) -> StoreError {
        const ATTEMPT: &str = "find out who took over";
        let boot = match self.boot() {
            Ok(boot) => boot,
            Err(error) => return error,
        };
        let found = sqlx::query(
            "SELECT l.ended, h.node, h.boot FROM life l LEFT JOIN life h ON h.boot = l.heir \
             WHERE l.boot = $1",
        )
        .bind(boot)
        .fetch_optional(connection)
        .await;
        let row = match found {
            Ok(Some(row)) => row,
            Ok(None) => return self.superseded("another node"),
            Err(error) => return self.failure(ATTEMPT, &error),
        };
        match (row.try_get(0), row.try_get(1), row.try_get(2)) {
            (Ok(true), Ok(Some::<String>(node)), Ok(Some::<i64>(life))) => {
                self.superseded(&format!("node `{node}` (life {life})"))
            }
            (Ok(true), ..) => self.superseded("another node"),
            _ => StoreError::Failed {
                attempt: "commit",
                cause: "another connection writes for this node by now".into(),
            },
        }
    }

    fn superseded(&self, by: &str) -> StoreError {
        StoreError::Superseded {
            node: self.0.config.node.as_str().into(),
            by: by.into(),
        }
    }
}

pub(super) fn counted(boot: i64) -> Result<u32, StoreError> {
    // The high half of an epoch, which the database keeps as a signed number.
    let fits = u32::try_from(boot).ok().filter(|boot| *boot < 1 << 31);
    fits.ok_or_else(|| StoreError::Unreadable {
        what: "the count of lives",
        cause: format!("{boot} is out of range").into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_takes_over_before_he_was_renewed_for_a_whole_term() {
        let term = Duration::from_secs(3);
        let step = Duration::from_secs(1);
        let mut renewals = Renewals::default();
        let mut steady = Vec::new();
        for second in 0..12 {
            // The server is away from the 6th to the 7th second.
            match second {
                6 | 7 => assert!(renewals.failed(Instant::now())),
                _ => renewals.succeeded(Instant::now(), Instant::now(), term),
            }
            steady.push(renewals.are_steady(Instant::now(), term));
            tokio::time::advance(step).await;
        }
        let expected = [
            false, false, false, true, true, true, false, false, false, false, false, true,
        ];
        assert_eq!(steady, expected);
        // A process that was paused missed renewals without seeing one fail.
        tokio::time::advance(term).await;
        assert!(!renewals.are_steady(Instant::now(), term));
        renewals.succeeded(Instant::now(), Instant::now(), term);
        assert!(!renewals.are_steady(Instant::now(), term));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_is_late_or_fails_takes_nothing_back_from_one_that_came_before_it() {
        let term = Duration::from_secs(3);
        let mut renewals = Renewals::default();
        let early = Instant::now();
        tokio::time::advance(term / 6).await;
        let later = Instant::now();
        tokio::time::advance(term / 6).await;
        renewals.succeeded(later, Instant::now(), term);
        renewals.succeeded(early, Instant::now(), term);
        assert_eq!(renewals.asked_at, Some(later));
        let since = renewals.steady_since;
        assert!(!renewals.failed(early));
        assert_eq!(renewals.steady_since, since);
        tokio::time::advance(term / 6).await;
        assert!(renewals.failed(Instant::now()));
        assert_eq!(renewals.steady_since, None);
    }
}
