//! Tasks that go from one node to another.
//!
//! The giver's transaction names the new owner in the task's row and leaves a note in
//! `handed`; the owner removes the note in a transaction of its own once the task is in its
//! memory. Both lock a life: the giver its own and, if it still lives, the taker's, so that
//! nothing is given to a life whose tasks somebody else has read already. What cannot be given
//! goes back to the giver, by a note like any other.
//!
//! A life that stopped or was not renewed gets nothing either: its tasks would wait for
//! whoever takes it over. A taker whose life is locked by somebody who may be ending it counts as ended. Nobody
//! waits for a second life, so nobody waits in a circle.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{PgConnection, Row};
use tokio::time::timeout;

use super::ledger;
use super::read::{Names, ReadError, body, number, run, unreadable};
use super::write::{column, signed};
use super::{Postgres, connect, named};
use crate::ids::Epoch;
use crate::queue::machine::Want;
use crate::store::{Handed, StoreError};

/// An announcement counts for this many seconds; it is made again each second.
const WANT_SECONDS: f64 = 3.0;
/// Longest wait for the server's answer to an announcement.
const WANT_TIMEOUT: Duration = Duration::from_secs(2);

const WANT: &str = "INSERT INTO want (life, round, at, kinds, tasks) \
    VALUES ($1, 1, clock_timestamp(), $2::text[], $3::bigint[]) \
    ON CONFLICT (life) DO UPDATE SET round = want.round + 1, at = excluded.at, \
     kinds = excluded.kinds, tasks = excluded.tasks";

/// Forgets what lives that are long gone wanted.
const UNWANT: &str = "DELETE FROM want WHERE at < clock_timestamp() - interval '1 minute'";

const WANTS: &str = "SELECT w.life, w.round, w.kinds, w.tasks FROM want w \
    JOIN life ON life.boot = w.life \
    WHERE w.life <> $1 AND clock_timestamp() - make_interval(secs => $2) < w.at \
     AND NOT life.ended AND clock_timestamp() < life.lease_until";

const ALONE: &str = "SELECT NOT EXISTS (SELECT 1 FROM life WHERE NOT ended AND boot <> $1 \
    AND clock_timestamp() < lease_until)";

const HANDED_TO: &str = "SELECT seq FROM handed WHERE to_life = ANY($1::bigint[])";

/// The notes first, and no more of them than are read: each finds its task by key.
const TAKE: &str = "SELECT t.*, \
    r.state AS r_state, r.attempt AS r_attempt, r.losses AS r_losses, r.epoch AS r_epoch, \
    r.run_at, r.lease_until, r.worker, r.cancel_requested, r.last_error, r.events AS r_events, \
    r.retries, h.after \
    FROM (SELECT seq, after FROM handed WHERE to_life = $1 ORDER BY seq LIMIT $2) h \
    JOIN task_run r ON r.seq = h.seq JOIN task t ON t.seq = h.seq ORDER BY h.seq";

/// Tasks of `lives` that were not in anybody's memory. For use within the transaction that
/// reads the tasks.
pub(super) async fn handed_to(
    reader: &mut PgConnection,
    lives: &[i64],
) -> Result<Vec<u64>, sqlx::Error> {
    let rows = sqlx::query(HANDED_TO).bind(lives).fetch_all(reader).await?;
    rows.iter()
        .map(|row| row.try_get::<i64, _>(0).map(i64::unsigned_abs))
        .collect()
}

impl Postgres {
    /// Says what this node wants: all of it, each time.
    ///
    /// Cancellation safe: the connection is given up.
    pub(in crate::store) async fn want(
        &self,
        wants: &[(Arc<str>, usize)],
    ) -> Result<(), StoreError> {
        const ATTEMPT: &str = "say what this node wants";
        let boot = self.boot()?;
        let mut wanting = self.0.wanting.lock().await;
        let said = timeout(WANT_TIMEOUT, async {
            let mut connection = match wanting.take() {
                Some(connection) => connection,
                None => {
                    // A hint is not worth a wait for the disk.
                    let options =
                        named(&self.0.config, "wants").options([("synchronous_commit", "off")]);
                    let mut connection = connect(&options).await?;
                    sqlx::query(UNWANT).execute(&mut connection).await?;
                    connection
                }
            };
            sqlx::query(WANT)
                .bind(boot)
                .bind(column(wants, |(kind, _)| kind.to_string()))
                .bind(column(wants, |(_, tasks)| signed(*tasks as u64)))
                .execute(&mut connection)
                .await?;
            Ok::<_, sqlx::Error>(connection)
        });
        match said.await {
            Ok(Ok(connection)) => {
                *wanting = Some(connection);
                Ok(())
            }
            Ok(Err(error)) => Err(self.failure(ATTEMPT, &error)),
            Err(_elapsed) => Err(StoreError::Failed {
                attempt: ATTEMPT,
                cause: format!("{}: no answer within {WANT_TIMEOUT:?}", self.url()).into(),
            }),
        }
    }

    /// What other nodes want, as far as they said so of late.
    pub(in crate::store) async fn wants(&self) -> Result<Vec<Want>, StoreError> {
        const ATTEMPT: &str = "read what other nodes want";
        let failed = |error: sqlx::Error| self.failure(ATTEMPT, &error);
        let rows = sqlx::query(WANTS)
            .bind(self.boot()?)
            .bind(WANT_SECONDS)
            .fetch_all(&self.0.readers)
            .await
            .map_err(failed)?;
        let mut wants = Vec::new();
        for row in &rows {
            let life: i64 = row.try_get(0).map_err(failed)?;
            let round: i64 = row.try_get(1).map_err(failed)?;
            let kinds: Vec<String> = row.try_get(2).map_err(failed)?;
            let tasks: Vec<i64> = row.try_get(3).map_err(failed)?;
            wants.extend(kinds.into_iter().zip(tasks).map(|(kind, tasks)| Want {
                life,
                round,
                kind: kind.into(),
                tasks: usize::try_from(tasks).unwrap_or(0),
            }));
        }
        Ok(wants)
    }

    /// No other node lives on this database.
    pub(in crate::store) async fn is_alone(&self) -> Result<bool, StoreError> {
        sqlx::query(ALONE)
            .bind(self.boot()?)
            .fetch_one(&self.0.readers)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(|error| self.failure("look for other nodes", &error))
    }

    /// Tasks that were handed over to this life, at most `max`, oldest first.
    pub(in crate::store) async fn handed(&self, max: usize) -> Result<Handed, StoreError> {
        let read = async {
            let rows = sqlx::query(TAKE)
                .bind(self.boot()?)
                .bind(signed(max as u64))
                .fetch_all(&self.0.readers)
                .await?;
            let mut names = Names::default();
            let mut tasks = Vec::with_capacity(rows.len());
            let mut after = Epoch::NEVER;
            for row in &rows {
                after = after.max(Epoch(number(row, "after")?));
                let run = run(row)?.ok_or_else(|| unreadable("a live task", &"no state"))?;
                tasks.push((Arc::new(body(row, &mut names)?), run));
            }
            // Nobody has written them since they were handed over.
            let trees = ledger::of_trees(&tasks);
            let budgets = ledger::budgets(&self.0.readers, &trees).await?;
            Ok(Handed {
                tasks,
                budgets,
                after,
            })
        };
        read.await.map_err(|error| match error {
            ReadError::Database(error) => self.failure("take in what was handed over", &error),
            ReadError::Store(error) => error,
        })
    }
}
