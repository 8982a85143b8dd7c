//! The registry's rows: who is wanted, and who owns whom.

use std::borrow::Cow;
use std::collections::BTreeMap;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::Postgres;
use super::text::{read, written};
use super::write::signed;
use crate::ids::{AgentId, Epoch};
use crate::json::Json;
use crate::registry::{AGENTS_MAX, AgentChange, AgentRow, Change, Changed, Life};
use crate::store::StoreError;

const AGENTS: &str = "SELECT id, revision, epoch, owner, entry FROM agent ORDER BY id LIMIT $1";

const DECISION: &str = "SELECT decision FROM agent WHERE id = $1";

/// A statement that changes nothing for a life that is over.
macro_rules! alive {
    ($($rest:literal),+) => {
        concat!(
            "WITH me AS (SELECT boot FROM life WHERE boot = $1 AND NOT ended FOR KEY SHARE) ",
            $($rest),+
        )
    };
}

/// One that takes a row from its owner, who must be this life or over: an owner that lives is
/// replaced by nobody but himself.
macro_rules! taking {
    ($rest:literal) => {
        alive!(
            $rest,
            "a.id = $2 AND a.revision = $3 AND (a.owner IS NULL OR a.owner = me.boot OR NOT EXISTS \
             (SELECT 1 FROM life l WHERE l.boot = a.owner AND NOT l.ended)) \
             RETURNING a.revision, a.epoch"
        )
    };
}

const CREATE: &str = alive!(
    "INSERT INTO agent (id, revision, epoch, owner, entry, decision, changed_at) \
     SELECT $2, 1, nextval('agent_epoch'), $3, $4, $5, clock_timestamp() FROM me \
     ON CONFLICT DO NOTHING RETURNING revision, epoch"
);

const KEEP: &str = alive!(
    "UPDATE agent a SET revision = a.revision + 1, entry = $4, changed_at = clock_timestamp() \
     FROM me WHERE a.id = $2 AND a.revision = $3 RETURNING a.revision, a.epoch"
);

const GIVE: &str = taking!(
    "UPDATE agent a SET revision = a.revision + 1, epoch = nextval('agent_epoch'), owner = $5, \
     entry = $4, decision = coalesce($6, a.decision), changed_at = clock_timestamp() \
     FROM me WHERE "
);

const REMOVE: &str = taking!("DELETE FROM agent a USING me WHERE ");

pub(super) fn unsigned(number: i64) -> u64 {
    number.unsigned_abs()
}

fn text(json: &Json) -> Cow<'_, str> {
    written(json.as_str())
}

pub(super) fn json(text: String) -> Result<Json, sqlx::Error> {
    Json::parse(read(text)).map_err(|error| sqlx::Error::Decode(error.into()))
}

fn row(row: &PgRow) -> Result<AgentRow, sqlx::Error> {
    let number = |column: &str| row.try_get::<i64, _>(column).map(unsigned);
    Ok(AgentRow {
        id: AgentId::new(read(row.try_get("id")?)),
        revision: number("revision")?,
        epoch: Epoch(number("epoch")?),
        owner: row
            .try_get::<Option<i64>, _>("owner")?
            .map(|life| Life(unsigned(life))),
        entry: json(row.try_get("entry")?)?,
    })
}

impl Postgres {
    /// The life under which this handle writes.
    pub(crate) fn life(&self) -> Result<Life, StoreError> {
        self.boot().map(|boot| Life(unsigned(boot)))
    }

    /// All rows.
    pub(crate) async fn agents(&self) -> Result<BTreeMap<AgentId, AgentRow>, StoreError> {
        let failed = |error: sqlx::Error| self.failure("read the agents", &error);
        let rows = sqlx::query(AGENTS)
            .bind(i64::from(AGENTS_MAX))
            .fetch_all(&self.0.readers)
            .await
            .map_err(failed)?;
        let rows = rows.iter().map(|found| {
            let agent = row(found)?;
            Ok((agent.id.clone(), agent))
        });
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    /// Why an agent is where it is, as it was kept.
    pub(crate) async fn agent_decision(&self, id: &AgentId) -> Result<Option<Json>, StoreError> {
        let failed = |error: sqlx::Error| self.failure("read why an agent is where it is", &error);
        let found = sqlx::query(DECISION)
            .bind(written(id.as_str()))
            .fetch_optional(&self.0.readers)
            .await
            .map_err(failed)?;
        let Some(row) = found else {
            return Ok(None);
        };
        let kept: Option<String> = row.try_get("decision").map_err(failed)?;
        kept.map(json).transpose().map_err(failed)
    }

    /// Changes a row, in one statement that holds this life's lock.
    pub(crate) async fn change_agent(&self, asked: &AgentChange) -> Result<Changed, StoreError> {
        let boot = self.boot()?;
        let id = written(asked.id.as_str());
        let changed = self.on(
            &self.0.registrar,
            "change an agent's row",
            async |connection| {
                let query = |statement: &'static str| sqlx::query(statement).bind(boot).bind(&id);
                let owner = |to: &Option<Life>| to.map(|life| signed(life.0));
                let query = match (&asked.change, asked.revision) {
                    (Change::Keep { entry }, Some(seen)) => {
                        query(KEEP).bind(signed(seen)).bind(written(entry.as_str()))
                    }
                    (
                        Change::Give {
                            to,
                            entry,
                            decision,
                        },
                        Some(seen),
                    ) => query(GIVE)
                        .bind(signed(seen))
                        .bind(written(entry.as_str()))
                        .bind(owner(to))
                        .bind(decision.as_ref().map(text)),
                    (Change::Keep { entry }, None) => query(CREATE)
                        .bind(None::<i64>)
                        .bind(written(entry.as_str()))
                        .bind(None::<String>),
                    (
                        Change::Give {
                            to,
                            entry,
                            decision,
                        },
                        None,
                    ) => query(CREATE)
                        .bind(owner(to))
                        .bind(written(entry.as_str()))
                        .bind(decision.as_ref().map(text)),
                    (Change::Remove, seen) => query(REMOVE).bind(signed(seen.unwrap_or(0))),
                };
                let done = query.fetch_optional(&mut *connection).await?;
                if let Some(row) = done {
                    return Ok(Ok(Changed::Done {
                        revision: row.try_get::<i64, _>(0).map(unsigned)?,
                        epoch: Epoch(row.try_get::<i64, _>(1).map(unsigned)?),
                    }));
                }
                self.refused(connection, boot).await
            },
        );
        changed.await?
    }

    /// Why a statement for a life that is alive did nothing.
    pub(super) async fn refused(
        &self,
        connection: &mut PgConnection,
        boot: i64,
    ) -> Result<Result<Changed, StoreError>, sqlx::Error> {
        let alive = sqlx::query("SELECT 1 FROM life WHERE boot = $1 AND NOT ended").bind(boot);
        Ok(match alive.fetch_optional(&mut *connection).await? {
            Some(_) => Ok(Changed::Outdated),
            None => Err(self.fenced(connection).await),
        })
    }
}
