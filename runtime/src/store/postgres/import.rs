//! Taking in the tasks of a file, which keep their numbers and are owned by a life that
//! begins when the file says so.
//!
//! Until then nobody acts for them: their rows name a life that is not there. Every
//! transaction of a try first locks the try's row and finds it there, so that what is left
//! of an earlier try, whose node was killed, copies nothing any more.

mod agents;
mod rows;

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::sync::mpsc::channel;
use tokio::time::timeout;

use super::life::{self, BEGIN, END, REPLACED};
use super::write::Fence;
use super::{CONNECT_TIMEOUT, Postgres, connect, fund, named};
use crate::clock::Timestamp;
use crate::queue::control::Control;
use crate::store::StoreError;
use crate::store::promotion::{Mark, PromotionError};
use crate::store::sqlite::Sqlite;
use crate::store::sqlite::export::{Counts, Portion};

const ATTEMPT: &str = "take in the file's tasks";

/// Where the numbers end that a file gives to tasks: those given here have a life's above.
const NUMBERS_END: i64 = 1 << 32;

/// Nothing but this takes the promotions' rows, and so keeps others out.
const LOCK: &str = "LOCK TABLE promotion IN SHARE ROW EXCLUSIVE MODE";

const NAMESAKE: &str = "SELECT count(*) FROM life WHERE node = $1 AND NOT ended \
    AND clock_timestamp() <= lease_until";

const RAISE_BOOTS: &str = "UPDATE meta SET value = (greatest(value::bigint, $1) + 1)::text \
    WHERE name = 'boots' RETURNING value::bigint";

const TRY: &str = "INSERT INTO promotion (file, node, boot, state, started_at) \
    VALUES ($1, $2, $3, 'copying', clock_timestamp()) \
    ON CONFLICT (file) DO UPDATE SET node = excluded.node, boot = excluded.boot, \
     state = excluded.state, started_at = excluded.started_at";

const PREPARED: &str = "UPDATE promotion SET state = 'prepared' WHERE file = $1 AND boot = $2 \
    AND state = 'copying'";

/// What an earlier try copied.
const DISCARD: [&str; 12] = [
    "DELETE FROM budget WHERE starts_with(scope, 'in:') AND $1 IS NOT NULL",
    "DELETE FROM budget WHERE scope IN (SELECT 'task:' || id FROM task WHERE seq < $1)",
    "DELETE FROM blob WHERE hash IN \
     (SELECT unnest(ARRAY[input_blob, output_blob]) FROM step WHERE seq < $1) \
     AND NOT EXISTS (SELECT 1 FROM step s WHERE $1 <= s.seq \
      AND blob.hash IN (s.input_blob, s.output_blob))",
    "DELETE FROM reservation WHERE seq < $1",
    "DELETE FROM approval WHERE seq < $1",
    "DELETE FROM step WHERE seq < $1",
    "DELETE FROM task_event WHERE seq < $1",
    "DELETE FROM task_end WHERE seq < $1",
    "DELETE FROM task_run WHERE seq < $1",
    "DELETE FROM task_dependency WHERE seq < $1",
    "DELETE FROM task WHERE seq < $1",
    "DELETE FROM document d USING promotion_document p \
     WHERE d.space = p.space AND d.key = p.key AND $1 IS NOT NULL",
];

/// A file that is being taken in.
#[derive(Debug)]
pub(in crate::store) struct Import {
    target: Postgres,
    connection: PgConnection,
    file: String,
    /// The life that will own the tasks.
    pub(in crate::store) boot: u32,
    /// The types of the columns, by table and name.
    types: HashMap<(String, String), String>,
}

impl Postgres {
    /// Begins to take in a file, or begins again: what an earlier try copied is removed.
    ///
    /// # Errors
    ///
    /// [`PromotionError`]; nothing of the file is there, and nothing else was changed.
    pub(in crate::store) async fn import(
        &self,
        file: &str,
        boots: u32,
    ) -> Result<Import, PromotionError> {
        let failed = |error: sqlx::Error| self.failure(ATTEMPT, &error);
        let options = named(&self.0.config, "import").options([
            ("statement_timeout", "0"),
            ("idle_in_transaction_session_timeout", "30s"),
            ("plan_cache_mode", "force_generic_plan"),
            ("synchronous_commit", "on"),
        ]);
        let mut connection = connect(&options).await.map_err(failed)?;
        let boot = self.begin_try(&mut connection, file, boots).await?;
        let rows = sqlx::query(
            "SELECT table_name::text, column_name::text, udt_name::text \
             FROM information_schema.columns WHERE table_schema = current_schema()",
        )
        .fetch_all(&mut connection)
        .await
        .map_err(failed)?;
        let mut types = HashMap::new();
        for row in &rows {
            let cell = |at: usize| row.try_get::<String, _>(at).map_err(failed);
            types.insert((cell(0)?, cell(1)?), cell(2)?);
        }
        Ok(Import {
            target: self.clone(),
            connection,
            file: file.to_owned(),
            boot,
            types,
        })
    }

    async fn begin_try(
        &self,
        connection: &mut PgConnection,
        file: &str,
        boots: u32,
    ) -> Result<u32, PromotionError> {
        let failed = |error: sqlx::Error| self.failure(ATTEMPT, &error);
        let node = &self.0.config.node;
        let database = || self.url().to_string();
        let mut transaction = connection.begin().await.map_err(failed)?;
        let to = &mut *transaction;
        sqlx::query(LOCK).execute(&mut *to).await.map_err(failed)?;
        let row = sqlx::query(NAMESAKE).bind(node).fetch_one(&mut *to).await;
        let alive: i64 = row.and_then(|row| row.try_get(0)).map_err(failed)?;
        if 0 < alive {
            let (node, database) = (node.clone(), database());
            return Err(PromotionError::NameTaken { node, database });
        }
        let row = sqlx::query("SELECT EXISTS (SELECT 1 FROM task WHERE seq < $1)")
            .bind(NUMBERS_END)
            .fetch_one(&mut *to)
            .await;
        let numbers_taken: bool = row.and_then(|row| row.try_get(0)).map_err(failed)?;
        let tries = sqlx::query("SELECT file, node, state FROM promotion")
            .fetch_all(&mut *to)
            .await
            .map_err(failed)?;
        for row in &tries {
            let cell = |at: usize| row.try_get::<String, _>(at).map_err(failed);
            let (is_this, node, done) = (cell(0)? == file, cell(1)?, cell(2)? == "done");
            match (is_this, done) {
                (true, true) => return Err(PromotionError::MovedBefore(database())),
                (false, true) if numbers_taken => {
                    return Err(PromotionError::Occupied {
                        database: database(),
                        node,
                        did: "moved there before",
                    });
                }
                (false, false) => {
                    return Err(PromotionError::Occupied {
                        database: database(),
                        node,
                        did: "is moving there, or began to",
                    });
                }
                (true, false) | (false, true) => {}
            }
        }
        let raised = sqlx::query(RAISE_BOOTS)
            .bind(i64::from(boots))
            .fetch_one(&mut *to)
            .await;
        let boot: i64 = raised.and_then(|row| row.try_get(0)).map_err(failed)?;
        // Waits for a transaction of the earlier try; none comes after it.
        sqlx::query(TRY)
            .bind(file)
            .bind(node)
            .bind(boot)
            .execute(&mut *to)
            .await
            .map_err(failed)?;
        discard(to, file).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(life::counted(boot)?)
    }

    /// Begins the life that owns a file's tasks, after the file was marked: here, or in an
    /// attempt whose outcome is unknown.
    pub(in crate::store) async fn activate(&self) -> Result<(), StoreError> {
        const ATTEMPT: &str = "begin a life for the file's tasks";
        let mut writer = self.0.writer.lock().await;
        let mut connection = self.taken(&mut writer)?;
        let mark = self.0.prepared.lock().clone();
        let mark = mark.ok_or_else(|| StoreError::Failed {
            attempt: ATTEMPT,
            cause: "nothing was prepared".into(),
        })?;
        let begun = self.begin_prepared(&mut connection, &mark).await;
        let session = begun.map_err(|error| self.failure(ATTEMPT, &error))?;
        let Some(session) = session else {
            return Err(self.fenced(&mut connection).await);
        };
        writer.connection = Some(connection);
        let boot = i64::from(mark.boot);
        *self.0.fence.lock() = Some(Fence { boot, session });
        // Lives that it replaced are not among them: their tasks are taken over.
        self.0.loaded.lock().insert(boot);
        Ok(())
    }

    /// The session under which the life writes; `None` if it has ended by now.
    async fn begin_prepared(
        &self,
        connection: &mut PgConnection,
        mark: &Mark,
    ) -> Result<Option<i64>, sqlx::Error> {
        let config = &self.0.config;
        let (node, instance, term) = (&config.node, &config.instance, config.life_term);
        let boot = i64::from(mark.boot);
        let mut transaction = connection.begin().await?;
        let to = &mut *transaction;
        if !settled(to, mark).await? {
            // Begun by an attempt whose answer was lost.
            let raised = sqlx::query(
                "UPDATE life SET session = session + 1 WHERE boot = $1 AND NOT ended \
                 RETURNING session",
            )
            .bind(boot)
            .fetch_optional(&mut *to)
            .await?;
            let session = raised.map(|row| row.try_get(0)).transpose()?;
            transaction.commit().await?;
            return Ok(session);
        }
        let replaced = sqlx::query(REPLACED)
            .bind(node)
            .bind(term.as_secs_f64())
            .bind(instance)
            .fetch_all(&mut *to)
            .await?;
        let replaced: Result<Vec<i64>, _> = replaced.iter().map(|row| row.try_get(0)).collect();
        sqlx::query(BEGIN)
            .bind(boot)
            .bind(node)
            .bind(term.as_secs_f64())
            .bind(instance)
            .execute(&mut *to)
            .await?;
        sqlx::query(END)
            .bind(boot)
            .bind(replaced?)
            .execute(&mut *to)
            .await?;
        fund::gather(to, &fund::brought_by(boot), Some(boot)).await?;
        agents::take_up(to, &mark.file, Some(boot)).await?;
        transaction.commit().await?;
        Ok(Some(1))
    }

    /// Sees to it that the tasks of a marked file are owned by a life: one that has run out,
    /// if the node was killed before it began. Whoever starts next takes them over.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; [`StoreError::Unreadable`] when this database does not have them.
    pub async fn confirm(&self, mark: &Mark) -> Result<(), StoreError> {
        const ATTEMPT: &str = "find the file's tasks";
        let mut writer = self.0.writer.lock().await;
        let mut connection = self.taken(&mut writer)?;
        let confirmed = async {
            let mut transaction = connection.begin().await?;
            let to = &mut *transaction;
            let known = sqlx::query("SELECT node, state FROM promotion WHERE file = $1")
                .bind(&mark.file)
                .fetch_optional(&mut *to)
                .await?;
            let Some(row) = known else {
                return Ok(false);
            };
            let (node, state): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            if state == "copying" {
                return Ok(false);
            }
            if settled(to, mark).await? {
                sqlx::query(BEGIN)
                    .bind(i64::from(mark.boot))
                    .bind(node)
                    .bind(0.0)
                    .bind(&self.0.config.instance)
                    .execute(&mut *to)
                    .await?;
                let boot = i64::from(mark.boot);
                fund::gather(to, &fund::brought_by(boot), Some(boot)).await?;
                // That life has run out: nobody owns them.
                agents::take_up(to, &mark.file, None).await?;
            }
            transaction.commit().await?;
            Ok(true)
        };
        let confirmed: Result<bool, sqlx::Error> = confirmed.await;
        let confirmed = confirmed.map_err(|error| self.failure(ATTEMPT, &error))?;
        writer.connection = Some(connection);
        if confirmed {
            return Ok(());
        }
        Err(StoreError::Unreadable {
            what: "no tasks of the file that was moved",
            cause: format!(
                "they went to {} on {}; set store.database_url to that, or start with another \
                 --data-dir. {} does not have them",
                mark.database,
                mark.at,
                self.url()
            )
            .into(),
        })
    }
}

/// Says that a prepared file is done; false if it was before.
async fn settled(to: &mut PgConnection, mark: &Mark) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE promotion SET state = 'done' WHERE file = $1 AND boot = $2 AND state = 'prepared'",
    )
    .bind(&mark.file)
    .bind(i64::from(mark.boot))
    .execute(to)
    .await?;
    Ok(done.rows_affected() == 1)
}

async fn discard(to: &mut PgConnection, file: &str) -> Result<(), sqlx::Error> {
    for statement in DISCARD {
        sqlx::query(statement)
            .bind(NUMBERS_END)
            .execute(&mut *to)
            .await?;
    }
    sqlx::query("DELETE FROM promotion_document WHERE file = $1")
        .bind(file)
        .execute(to)
        .await
        .map(drop)
}

impl Import {
    /// Copies a portion of `from`, as it stands there, in one transaction. Says how many rows
    /// that were.
    pub(in crate::store) async fn copy(
        &mut self,
        from: &Sqlite,
        portion: Portion,
    ) -> Result<u64, PromotionError> {
        // Two wait while one is written.
        let (send, pieces) = channel(2);
        let reading = from.read_portion(portion.clone(), send);
        let (read, copied) = tokio::join!(reading, self.put(&portion, pieces));
        read?;
        copied
    }

    /// The database's own switches, if it has any; those of the file become its own otherwise.
    pub(in crate::store) async fn control(
        &mut self,
        of_file: Option<&str>,
    ) -> Result<Option<Control>, PromotionError> {
        let target = self.target.clone();
        let failed = |error: sqlx::Error| explained(&target, &error);
        if let Some(control) = of_file {
            sqlx::query(
                "INSERT INTO meta (name, value) SELECT 'control', $1 \
                 WHERE NOT EXISTS (SELECT 1 FROM life) \
                 ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            )
            .bind(control)
            .execute(&mut self.connection)
            .await
            .map_err(failed)?;
        }
        let row = sqlx::query("SELECT value FROM meta WHERE name = 'control'")
            .fetch_optional(&mut self.connection)
            .await
            .map_err(failed)?;
        let Some(row) = row else { return Ok(None) };
        let control: &str = row.try_get(0).map_err(failed)?;
        let control = serde_json::from_str(control);
        let control = control.map_err(|error| StoreError::Unreadable {
            what: "the queue's switches",
            cause: error.to_string().into(),
        });
        Ok(Some(control?))
    }

    /// Finds everything there, and says that only the file's mark is missing.
    ///
    /// # Errors
    ///
    /// [`PromotionError`]; the file must not be marked.
    pub(in crate::store) async fn prepare(
        mut self,
        counts: &Counts,
        at: Timestamp,
    ) -> Result<Mark, PromotionError> {
        let target = self.target.clone();
        let failed = |error: sqlx::Error| explained(&target, &error);
        for (table, here) in counts {
            let query = format!("SELECT count(*) FROM {table} WHERE seq < {NUMBERS_END}");
            let row = sqlx::query(AssertSqlSafe(query)).fetch_one(&mut self.connection);
            let there: i64 = row.await.and_then(|row| row.try_get(0)).map_err(failed)?;
            let (table, here, there) = (*table, *here, there.unsigned_abs());
            // Nodes that are there already forget what is older than they keep.
            let may_be_fewer = !matches!(table, "task_run" | "reservation");
            if here < there || (there < here && !may_be_fewer) {
                return Err(PromotionError::Incomplete { table, here, there });
            }
            if there < here && !self.has_others().await? {
                return Err(PromotionError::Incomplete { table, here, there });
            }
        }
        let prepared = sqlx::query(PREPARED)
            .bind(&self.file)
            .bind(i64::from(self.boot))
            .execute(&mut self.connection)
            .await
            .map_err(failed)?;
        if prepared.rows_affected() != 1 {
            return Err(PromotionError::Interrupted);
        }
        let mark = Mark {
            file: self.file,
            database: target.url().to_string(),
            boot: self.boot,
            at,
        };
        *target.0.prepared.lock() = Some(mark.clone());
        // Nothing is under way on it.
        let _ = timeout(CONNECT_TIMEOUT, self.connection.close()).await;
        Ok(mark)
    }

    async fn has_others(&mut self) -> Result<bool, PromotionError> {
        let row = sqlx::query("SELECT EXISTS (SELECT 1 FROM life WHERE NOT ended)")
            .fetch_one(&mut self.connection)
            .await;
        let others = row.and_then(|row| row.try_get(0));
        others.map_err(|error| explained(&self.target, &error))
    }

    /// Takes back what was copied. Not after the file may have been marked.
    pub(in crate::store) async fn give_up(mut self) -> Result<(), StoreError> {
        let target = self.target.clone();
        let failed = |error: sqlx::Error| target.failure(ATTEMPT, &error);
        let given_up = async {
            let mut transaction = self.connection.begin().await?;
            let to = &mut *transaction;
            let own = sqlx::query(
                "DELETE FROM promotion WHERE file = $1 AND boot = $2 AND state = 'copying'",
            )
            .bind(&self.file)
            .bind(i64::from(self.boot))
            .execute(&mut *to)
            .await?;
            if own.rows_affected() == 1 {
                discard(to, &self.file).await?;
            }
            transaction.commit().await
        };
        given_up.await.map_err(failed)
    }
}

/// What the database said; that something is there already needs a person.
fn explained(target: &Postgres, error: &sqlx::Error) -> PromotionError {
    let twice = error
        .as_database_error()
        .filter(|error| error.is_unique_violation());
    match twice {
        Some(said) => PromotionError::Collides {
            database: target.url().to_string(),
            what: said.to_string(),
        },
        None => target.failure(ATTEMPT, error).into(),
    }
}
