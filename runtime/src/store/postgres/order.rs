//! Orders to the nodes that have tasks, and switches that all nodes follow.

use std::collections::BTreeSet;

use sqlx::{Connection, PgConnection, Row};
use uuid::Uuid;

use super::text::{read, written};
use super::write::{column, signed};
use super::{Postgres, escrow};
use crate::ids::TaskId;
use crate::json::Json;
use crate::queue::control::Control;
use crate::queue::order::{Answered, NewOrder, Order};
use crate::store::StoreError;

/// Orders taken at once.
const TAKEN_MAX: i64 = 256;

const ORDERS: &str = "INSERT INTO task_order (id, task, verb, detail, asked_by, at) \
    SELECT n.id, n.task, n.verb, n.detail, $5, n.at \
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $6::bigint[]) \
     AS n (id, task, verb, detail, at)";

const ANSWERS: &str = "UPDATE task_order o SET answer = n.answer, answered_at = clock_timestamp() \
    FROM unnest($1::uuid[], $2::text[]) AS n (id, answer) WHERE o.id = n.id AND o.answer IS NULL";

pub(super) const FORGET_ORDERS: &str = "DELETE FROM task_order WHERE answer IS NOT NULL \
    AND answered_at < clock_timestamp() - interval '1 hour'";

/// Orders for tasks of this life and those it inherited, and for tasks that have ended.
const OPEN: &str = "SELECT o.id, o.task, o.detail, r.seq IS NULL AS ended FROM task_order o \
    LEFT JOIN task t ON t.id = o.task LEFT JOIN task_run r ON r.seq = t.seq \
    LEFT JOIN life l ON l.boot = r.owner \
    WHERE o.answer IS NULL AND (r.seq IS NULL OR l.heir = $1) ORDER BY o.at, o.id LIMIT $2";

const OWNER: &str = "SELECT h.node FROM task t JOIN task_run r ON r.seq = t.seq \
    JOIN life l ON l.boot = r.owner JOIN life h ON h.boot = l.heir WHERE t.id = $1";

const CONTROL: &str = "SELECT value FROM meta WHERE name = 'control'";

/// Writes orders and answers, within the transaction of a batch.
pub(super) async fn write(
    to: &mut PgConnection,
    node: &str,
    orders: &[NewOrder],
    answers: &[Answered],
) -> Result<(), sqlx::Error> {
    if !orders.is_empty() {
        let mut details: Vec<String> = Vec::with_capacity(orders.len());
        for order in orders {
            let detail = serde_json::to_string(&order.verb);
            details.push(detail.map_err(|error| sqlx::Error::Encode(error.into()))?);
        }
        sqlx::query(ORDERS)
            .bind(column(orders, |order| order.id))
            .bind(column(orders, |order| *order.task.as_uuid()))
            .bind(column(orders, |order| order.verb.as_str()))
            .bind(column(&details, |detail| written(detail)))
            .bind(written(node))
            .bind(column(orders, |order| signed(order.at.0)))
            .execute(&mut *to)
            .await?;
    }
    if !answers.is_empty() {
        sqlx::query(ANSWERS)
            .bind(column(answers, |answered| answered.order))
            .bind(column(answers, |answered| {
                written(answered.answer.as_str())
            }))
            .execute(to)
            .await?;
    }
    Ok(())
}

fn control(row: &sqlx::postgres::PgRow) -> Result<Control, sqlx::Error> {
    serde_json::from_str(row.try_get(0)?).map_err(|error| sqlx::Error::Decode(error.into()))
}

impl Postgres {
    /// Open orders that this node is to carry out, oldest first.
    pub(in crate::store) async fn open_orders(&self) -> Result<Vec<Order>, StoreError> {
        let failed = |error: sqlx::Error| self.failure("look for orders", &error);
        let rows = sqlx::query(OPEN)
            .bind(self.boot()?)
            .bind(TAKEN_MAX)
            .fetch_all(&self.0.readers)
            .await
            .map_err(failed)?;
        let order = |row: &sqlx::postgres::PgRow| {
            // One that a newer version wrote holds up nobody else's.
            let verb = serde_json::from_str(&read(row.try_get("detail")?));
            let verb = verb.map_err(|error| error.to_string());
            Ok(Order {
                id: row.try_get("id")?,
                task: TaskId::from(row.try_get::<Uuid, _>("task")?),
                verb,
                ended: row.try_get("ended")?,
            })
        };
        let orders: Result<Vec<Order>, sqlx::Error> = rows.iter().map(order).collect();
        orders.map_err(failed)
    }

    /// The answer to an order, once there is one.
    pub(in crate::store) async fn answer_to(
        &self,
        order: Uuid,
    ) -> Result<Option<Json>, StoreError> {
        let failed = |error: sqlx::Error| self.failure("look for an answer", &error);
        let row = sqlx::query("SELECT answer FROM task_order WHERE id = $1 AND answer IS NOT NULL")
            .bind(order)
            .fetch_optional(&self.0.readers)
            .await
            .map_err(failed)?;
        let Some(row) = row else {
            return Ok(None);
        };
        let answer: String = row.try_get(0).map_err(failed)?;
        let answer = Json::parse(read(answer));
        let answer = answer.map_err(|error| failed(sqlx::Error::Decode(error.into())))?;
        Ok(Some(answer))
    }

    /// Other lives that accepted these tasks, each once.
    pub(in crate::store) fn lives_of(&self, seqs: impl Iterator<Item = u64>) -> Vec<i64> {
        let Ok(boot) = self.boot() else {
            return Vec::new();
        };
        let lives = seqs.map(|seq| signed(seq >> 32));
        let lives: BTreeSet<i64> = lives.filter(|life| *life != boot).collect();
        lives.into_iter().collect()
    }

    /// The name of the node that has a live task.
    pub(in crate::store) async fn node_of(
        &self,
        task: TaskId,
    ) -> Result<Option<String>, StoreError> {
        let failed = |error: sqlx::Error| self.failure("find a task's node", &error);
        let row = sqlx::query(OWNER)
            .bind(*task.as_uuid())
            .fetch_optional(&self.0.readers)
            .await
            .map_err(failed)?;
        row.map(|row| row.try_get(0)).transpose().map_err(failed)
    }

    /// The switches as they are stored.
    pub(in crate::store) async fn control(&self) -> Result<Control, StoreError> {
        let read = sqlx::query(CONTROL).fetch_one(&self.0.readers).await;
        read.and_then(|row| control(&row))
            .map_err(|error| self.failure("read the queue's switches", &error))
    }

    /// Changes the switches, alone among all nodes: what others changed before is seen, and
    /// nothing of it is lost. Not part of a batch, so that whoever waits for the lock holds up
    /// nobody's tasks.
    pub(in crate::store) async fn change_control<E>(
        &self,
        change: impl FnOnce(&mut Control) -> Result<(), E>,
    ) -> Result<Result<Control, E>, StoreError> {
        let boot = self.boot()?;
        let changed = self.on(
            &self.0.registrar,
            "change the queue's switches",
            async |connection| {
                let mut transaction = connection.begin().await?;
                let alive = sqlx::query(escrow::LIFE).bind(boot);
                if alive.fetch_optional(&mut *transaction).await?.is_none() {
                    drop(transaction);
                    return Ok(Err(self.fenced(connection).await));
                }
                let row = sqlx::query("SELECT value FROM meta WHERE name = 'control' FOR UPDATE");
                let mut control = control(&row.fetch_one(&mut *transaction).await?)?;
                let before = control.version;
                if let Err(refused) = change(&mut control) {
                    return Ok(Ok(Err(refused)));
                }
                control.version = before + 1;
                let text = serde_json::to_string(&control);
                let text = text.map_err(|error| sqlx::Error::Encode(error.into()))?;
                sqlx::query("UPDATE meta SET value = $1 WHERE name = 'control'")
                    .bind(text)
                    .execute(&mut *transaction)
                    .await?;
                transaction.commit().await?;
                Ok(Ok(Ok(control)))
            },
        );
        changed.await?
    }
}
