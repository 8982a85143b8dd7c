//! What is known of nodes: who lives, what each said of itself, and what all hold of one.

use std::time::Duration;

use sqlx::Row;
use tokio::time::Instant;

use super::Postgres;
use super::registry::{json, unsigned};
use super::text::{read, written};
use super::write::signed;
use crate::clock::Timestamp;
use crate::ids::Epoch;
use crate::json::Json;
use crate::registry::{
    Changed, Judgement, Life, LiveNode, NODES_MAX, ReportKept, Reported, Standing,
};
use crate::store::StoreError;

const LIVES: &str = "SELECT boot, node, \
    (extract(epoch FROM lease_until - clock_timestamp()) * 1000)::bigint AS left_ms \
    FROM life WHERE NOT ended";

const REPORTS: &str = "SELECT node, life, body, \
    (extract(epoch FROM clock_timestamp() - said_at) * 1000)::bigint AS age_ms \
    FROM node_report ORDER BY node LIMIT $1";

const JUDGEMENTS: &str = "SELECT node, revision, body, \
    (extract(epoch FROM clock_timestamp() - changed_at) * 1000)::bigint AS age_ms \
    FROM node_judgement ORDER BY node LIMIT $1";

/// Nothing is said for a life that is over, nor over a later one of the same name.
const REPORT: &str = "WITH me AS \
    (SELECT boot, node FROM life WHERE boot = $1 AND NOT ended FOR KEY SHARE) \
    INSERT INTO node_report AS r (node, life, body, said_at) \
    SELECT node, boot, $2, clock_timestamp() FROM me \
    ON CONFLICT (node) DO UPDATE SET life = excluded.life, body = excluded.body, \
     said_at = excluded.said_at WHERE r.life <= excluded.life \
    RETURNING (extract(epoch FROM clock_timestamp()) * 1000)::bigint";

const FIRST_JUDGEMENT: &str = "WITH me AS \
    (SELECT boot FROM life WHERE boot = $1 AND NOT ended FOR KEY SHARE) \
    INSERT INTO node_judgement (node, revision, body, changed_at) \
    SELECT $2, 1, $3, clock_timestamp() FROM me ON CONFLICT DO NOTHING RETURNING revision";

const NEXT_JUDGEMENT: &str = "WITH me AS \
    (SELECT boot FROM life WHERE boot = $1 AND NOT ended FOR KEY SHARE) \
    UPDATE node_judgement j SET revision = j.revision + 1, body = $3, \
     changed_at = clock_timestamp() \
    FROM me WHERE j.node = $2 AND j.revision = $4 RETURNING j.revision";

fn millis(number: i64) -> Duration {
    Duration::from_millis(unsigned(number.max(0)))
}

impl Postgres {
    /// Everybody who lives, and what is known of nodes.
    pub(crate) async fn nodes(&self) -> Result<Standing, StoreError> {
        let read = self.read_nodes().await;
        read.map_err(|error| self.failure("read the nodes", &error))
    }

    async fn read_nodes(&self) -> Result<Standing, sqlx::Error> {
        let mut standing = Standing::default();
        for row in sqlx::query(LIVES).fetch_all(&self.0.readers).await? {
            let live = LiveNode {
                node: row.try_get::<&str, _>("node")?.into(),
                left: millis(row.try_get("left_ms")?),
            };
            let life = Life(unsigned(row.try_get("boot")?));
            standing.lives.insert(life, live);
        }
        let known = |statement| sqlx::query(statement).bind(i64::from(NODES_MAX));
        for row in known(REPORTS).fetch_all(&self.0.readers).await? {
            let reported = Reported {
                life: Life(unsigned(row.try_get("life")?)),
                age: millis(row.try_get("age_ms")?),
                body: json(row.try_get("body")?)?,
            };
            standing
                .reports
                .insert(read(row.try_get("node")?), reported);
        }
        for row in known(JUDGEMENTS).fetch_all(&self.0.readers).await? {
            let judgement = Judgement {
                revision: unsigned(row.try_get("revision")?),
                age: millis(row.try_get("age_ms")?),
                body: json(row.try_get("body")?)?,
            };
            let node = read(row.try_get("node")?);
            standing.judgements.insert(node, judgement);
        }
        Ok(standing)
    }

    /// Keeps what this node says of itself.
    pub(crate) async fn report(&self, body: &Json) -> Result<ReportKept, StoreError> {
        const ATTEMPT: &str = "say how this node is";
        let (boot, body) = (self.boot()?, written(body.as_str()));
        let kept = self.on(&self.0.registrar, ATTEMPT, async |connection| {
            // From here on: before, it may have waited for others of this node.
            let began = Instant::now();
            let report = sqlx::query(REPORT).bind(boot).bind(&body);
            let row = report.fetch_optional(&mut *connection).await?;
            Ok(match row {
                Some(row) => Ok(ReportKept {
                    at: Some(Timestamp(unsigned(row.try_get(0)?))),
                    took: began.elapsed(),
                }),
                None => Err(self.fenced(connection).await),
            })
        });
        kept.await?
    }

    /// Changes what all nodes hold of one among them.
    pub(crate) async fn judge(
        &self,
        node: &str,
        seen: Option<u64>,
        body: &Json,
    ) -> Result<Changed, StoreError> {
        let boot = self.boot()?;
        let (node, body) = (written(node), written(body.as_str()));
        let judged = self.on(&self.0.registrar, "judge a node", async |connection| {
            let statement = match seen {
                None => sqlx::query(FIRST_JUDGEMENT)
                    .bind(boot)
                    .bind(&node)
                    .bind(&body),
                Some(seen) => sqlx::query(NEXT_JUDGEMENT)
                    .bind(boot)
                    .bind(&node)
                    .bind(&body)
                    .bind(signed(seen)),
            };
            match statement.fetch_optional(&mut *connection).await? {
                Some(row) => Ok(Ok(Changed::Done {
                    revision: unsigned(row.try_get(0)?),
                    epoch: Epoch(0),
                })),
                None => self.refused(connection, boot).await,
            }
        });
        judged.await?
    }
}
