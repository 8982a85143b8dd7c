//! Tasks of other nodes that are waited for here.

use std::sync::Arc;

use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::Postgres;
use super::read::{ReadError, optional_text, parse};
use crate::ids::TaskId;
use crate::queue::machine::{DistantChild, News};
use crate::queue::task::{TaskBody, TaskRun, TaskState};
use crate::store::StoreError;

/// Tasks looked up by one statement.
const SOUGHT_MAX: usize = 1_000;

/// Children of waiting tasks that live under other lives, and those that did not complete
/// since something last happened to their parent: had it heard, it would have ended.
const CHILDREN: &str = "SELECT p.id AS parent, c.id AS child, r.state, NULL AS error \
     FROM unnest($1::uuid[]) AS p (id) JOIN task c ON c.parent = p.id \
     JOIN task_run r ON r.seq = c.seq AND r.owner <> ALL($2::bigint[]) \
    UNION ALL \
    SELECT p.id, c.id, e.state, e.error \
     FROM unnest($3::uuid[], $4::bigint[]) AS p (id, seq) JOIN task c ON c.parent = p.id \
     JOIN task_end e ON e.seq = c.seq AND e.state <> 'completed' \
     WHERE (SELECT max(v.at) FROM task_event v WHERE v.seq = p.seq) <= e.finished_at";

/// How tasks stand. One that was forgotten has ended, nobody knows how.
const STANDING: &str = "SELECT s.id, COALESCE(e.state, r.state, 'discarded') AS state, \
     CASE WHEN t.id IS NULL THEN 'it was forgotten' ELSE e.error END AS error \
     FROM unnest($1::uuid[]) AS s (id) LEFT JOIN task t ON t.id = s.id \
     LEFT JOIN task_end e ON e.seq = t.seq LEFT JOIN task_run r ON r.seq = t.seq";

/// Tasks that cannot end before one has: those who depend on it, its parent, and so on.
const WAITING_FOR: &str = "WITH RECURSIVE waiting (id) AS ( \
     SELECT $1::uuid \
     UNION \
     SELECT next.id FROM waiting w CROSS JOIN LATERAL ( \
      SELECT d.id FROM task_dependency on_it JOIN task d ON d.seq = on_it.seq \
       WHERE on_it.dependency = w.id \
      UNION ALL SELECT t.parent FROM task t WHERE t.id = w.id AND t.parent IS NOT NULL \
     ) AS next (id) JOIN task t ON t.id = next.id JOIN task_run r ON r.seq = t.seq) \
    SELECT id FROM waiting WHERE id = ANY($2) LIMIT 1";

/// A task that lives under another life, among some and those below them. Whatever is above a
/// task is kept as long as the task.
const SPENDER: &str = "WITH RECURSIVE below (id, seq) AS ( \
     SELECT id, seq FROM task WHERE id = ANY($1::uuid[]) \
     UNION \
     SELECT t.id, t.seq FROM below b JOIN task t ON t.parent = b.id) \
    SELECT b.id FROM below b JOIN task_run r ON r.seq = b.seq JOIN life l ON l.boot = r.owner \
    WHERE l.heir <> $2 LIMIT 1";

/// The children of `tasks` that live elsewhere, or failed there unheard. For use within the
/// transaction that read the tasks.
pub(super) async fn children(
    reader: &mut PgConnection,
    lives: &[i64],
    tasks: &[(Arc<TaskBody>, TaskRun)],
) -> Result<Vec<DistantChild>, ReadError> {
    let waits =
        |run: &TaskRun| matches!(run.state, TaskState::Waiting | TaskState::AwaitingApproval);
    let waiting = tasks.iter().filter(|(_, run)| waits(run));
    let parents: Vec<Uuid> = waiting
        .clone()
        .map(|(body, _)| *body.id.as_uuid())
        .collect();
    if parents.is_empty() {
        return Ok(Vec::new());
    }
    let failing = waiting
        .filter(|(body, run)| run.state == TaskState::Waiting && body.on_child_failure().fail);
    let (failing, seqs): (Vec<Uuid>, Vec<i64>) = failing
        .map(|(body, _)| (*body.id.as_uuid(), super::write::signed(body.seq)))
        .unzip();
    let rows = sqlx::query(CHILDREN)
        .bind(parents)
        .bind(lives)
        .bind(failing)
        .bind(seqs)
        .fetch_all(reader)
        .await?;
    let mut children = Vec::with_capacity(rows.len());
    for row in &rows {
        children.push(DistantChild {
            parent: TaskId::from(row.try_get::<Uuid, _>("parent")?),
            child: TaskId::from(row.try_get::<Uuid, _>("child")?),
            news: News {
                state: parse("a task state", row.try_get("state")?)?,
                error: optional_text(row, "error")?,
            },
        });
    }
    Ok(children)
}

impl Postgres {
    /// How these tasks stand, one by one.
    pub(in crate::store) async fn standing(
        &self,
        ids: &[TaskId],
    ) -> Result<Vec<(TaskId, News)>, StoreError> {
        let failed = |error: sqlx::Error| self.failure("look up tasks of other nodes", &error);
        let mut found = Vec::with_capacity(ids.len());
        for piece in ids.chunks(SOUGHT_MAX) {
            let piece: Vec<Uuid> = piece.iter().map(|id| *id.as_uuid()).collect();
            let rows = sqlx::query(STANDING).bind(piece).fetch_all(&self.0.readers);
            for row in &rows.await.map_err(failed)? {
                let id: Uuid = row.try_get("id").map_err(failed)?;
                let state: &str = row.try_get("state").map_err(failed)?;
                let news = News {
                    state: parse("a task state", state)?,
                    error: optional_text(row, "error")?,
                };
                found.push((TaskId::from(id), news));
            }
        }
        Ok(found)
    }

    /// See [`Store::spender_elsewhere`](crate::store::Store::spender_elsewhere).
    pub(in crate::store) async fn spender_elsewhere(
        &self,
        trees: &[TaskId],
    ) -> Result<Option<TaskId>, StoreError> {
        let failed = |error: sqlx::Error| self.failure("look for who has a tree's budget", &error);
        let trees: Vec<Uuid> = trees.iter().map(|id| *id.as_uuid()).collect();
        let row = sqlx::query(SPENDER)
            .bind(trees)
            .bind(self.boot()?)
            .fetch_optional(&self.0.readers)
            .await
            .map_err(failed)?;
        let id = row.map(|row| row.try_get::<Uuid, _>(0)).transpose();
        Ok(id.map_err(failed)?.map(TaskId::from))
    }

    /// One of `others` that cannot end before `id` has.
    pub(in crate::store) async fn waits_for(
        &self,
        id: TaskId,
        others: &[TaskId],
    ) -> Result<Option<TaskId>, StoreError> {
        let failed = |error: sqlx::Error| self.failure("look for a circle of tasks", &error);
        let others: Vec<Uuid> = others.iter().map(|id| *id.as_uuid()).collect();
        let row = sqlx::query(WAITING_FOR)
            .bind(*id.as_uuid())
            .bind(others)
            .fetch_optional(&self.0.readers)
            .await
            .map_err(failed)?;
        let id = row.map(|row| row.try_get::<Uuid, _>(0)).transpose();
        Ok(id.map_err(failed)?.map(TaskId::from))
    }
}
