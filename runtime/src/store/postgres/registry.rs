//! The registry's rows: who is wanted, and who owns whom.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::Postgres;
use super::text::{read, written};
use super::write::signed;
use crate::ids::{AgentId, Epoch};
use crate::json::Json;
use crate::registry::{
    AGENTS_MAX, AgentChange, AgentRow, Change, Changed, Life, LiveNode, Standing,
};
use crate::store::StoreError;

const LIVES: &str = "SELECT boot, node, \
    (extract(epoch FROM lease_until - clock_timestamp()) * 1000)::bigint AS left_ms \
    FROM life WHERE NOT ended";

const AGENTS: &str = "SELECT id, revision, epoch, owner, entry FROM agent ORDER BY id LIMIT $1";

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
    "INSERT INTO agent (id, revision, epoch, owner, entry, changed_at) \
     SELECT $2, 1, nextval('agent_epoch'), $3, $4, clock_timestamp() FROM me \
     ON CONFLICT DO NOTHING RETURNING revision, epoch"
);

const KEEP: &str = alive!(
    "UPDATE agent a SET revision = a.revision + 1, entry = $4, changed_at = clock_timestamp() \
     FROM me WHERE a.id = $2 AND a.revision = $3 RETURNING a.revision, a.epoch"
);

const GIVE: &str = taking!(
    "UPDATE agent a SET revision = a.revision + 1, epoch = nextval('agent_epoch'), owner = $5, \
     entry = $4, changed_at = clock_timestamp() FROM me WHERE "
);

const REMOVE: &str = taking!("DELETE FROM agent a USING me WHERE ");

fn unsigned(number: i64) -> u64 {
    number.unsigned_abs()
}

fn row(row: &PgRow) -> Result<AgentRow, sqlx::Error> {
    let number = |column: &str| row.try_get::<i64, _>(column).map(unsigned);
    let entry = Json::parse(read(row.try_get("entry")?));
    Ok(AgentRow {
        id: AgentId::new(read(row.try_get("id")?)),
        revision: number("revision")?,
        epoch: Epoch(number("epoch")?),
        owner: row
            .try_get::<Option<i64>, _>("owner")?
            .map(|life| Life(unsigned(life))),
        entry: entry.map_err(|error| sqlx::Error::Decode(error.into()))?,
    })
}

impl Postgres {
    /// The life under which this handle writes.
    pub(crate) fn life(&self) -> Result<Life, StoreError> {
        self.boot().map(|boot| Life(unsigned(boot)))
    }

    /// Everybody who lives, and all rows.
    pub(crate) async fn agents(&self) -> Result<Standing, StoreError> {
        let failed = |error: sqlx::Error| self.failure("read the agents", &error);
        let lives = sqlx::query(LIVES).fetch_all(&self.0.readers).await;
        let mut standing = Standing::default();
        for row in lives.map_err(failed)? {
            let left: i64 = row.try_get("left_ms").map_err(failed)?;
            let node: &str = row.try_get("node").map_err(failed)?;
            let live = LiveNode {
                node: node.into(),
                left: Duration::from_millis(unsigned(left.max(0))),
            };
            let boot = row
                .try_get::<i64, _>("boot")
                .map(unsigned)
                .map_err(failed)?;
            standing.lives.insert(Life(boot), live);
        }
        let rows = sqlx::query(AGENTS)
            .bind(i64::from(AGENTS_MAX))
            .fetch_all(&self.0.readers)
            .await
            .map_err(failed)?;
        for found in &rows {
            let agent = row(found).map_err(failed)?;
            standing.agents.insert(agent.id.clone(), agent);
        }
        Ok(standing)
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
                    (Change::Give { to, entry }, Some(seen)) => query(GIVE)
                        .bind(signed(seen))
                        .bind(written(entry.as_str()))
                        .bind(owner(to)),
                    (Change::Keep { entry }, None) => query(CREATE)
                        .bind(None::<i64>)
                        .bind(written(entry.as_str())),
                    (Change::Give { to, entry }, None) => {
                        query(CREATE).bind(owner(to)).bind(written(entry.as_str()))
                    }
                    (Change::Remove, seen) => query(REMOVE).bind(signed(seen.unwrap_or(0))),
                };
                let done = query.fetch_optional(&mut *connection).await?;
                if let Some(row) = done {
                    return Ok(Ok(Changed::Done {
                        revision: row.try_get::<i64, _>(0).map(unsigned)?,
                        epoch: Epoch(row.try_get::<i64, _>(1).map(unsigned)?),
                    }));
                }
                let alive =
                    sqlx::query("SELECT 1 FROM life WHERE boot = $1 AND NOT ended").bind(boot);
                Ok(match alive.fetch_optional(&mut *connection).await? {
                    Some(_) => Ok(Changed::Outdated),
                    None => Err(self.fenced(connection).await),
                })
            },
        );
        changed.await?
    }
}
