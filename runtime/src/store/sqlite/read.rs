//! Reading back. Readers see only what is committed and never wait for the writer.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite as Dialect};

use super::{Sqlite, parse, read_failure, unreadable};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::queue::task::{TaskBody, TaskEnd, TaskEvent, TaskRun, TaskState, TaskView};
use crate::store::content::{Content, ContentHash};
use crate::store::lines;
use crate::store::{Document, StepRow, StoreError, TaskFilter};

const VIEW: &str = "SELECT t.*, \
    r.state AS r_state, r.attempt AS r_attempt, r.losses AS r_losses, r.epoch AS r_epoch, \
    r.run_at, r.lease_until, r.worker, r.cancel_requested, r.last_error, r.events AS r_events, \
    r.retries, \
    e.state AS e_state, e.finished_at, e.attempt AS e_attempt, e.losses AS e_losses, \
    e.epoch AS e_epoch, e.result, e.error, e.events AS e_events \
    FROM task t LEFT JOIN task_run r ON r.seq = t.seq LEFT JOIN task_end e ON e.seq = t.seq \
    WHERE true";

impl Sqlite {
    pub(in crate::store) async fn task(&self, id: TaskId) -> Result<Option<TaskView>, StoreError> {
        let mut query = QueryBuilder::<Dialect>::new(VIEW);
        query.push(" AND t.id = ").push_bind(id.to_string());
        let row = query
            .build()
            .fetch_optional(&self.0.readers)
            .await
            .map_err(|error| read_failure("read a task", &error))?;
        row.as_ref().map(view).transpose()
    }

    pub(in crate::store) async fn tasks(
        &self,
        filter: &TaskFilter,
    ) -> Result<Vec<TaskView>, StoreError> {
        let rows = listing(filter)
            .build()
            .fetch_all(&self.0.readers)
            .await
            .map_err(|error| read_failure("list tasks", &error))?;
        rows.iter().map(view).collect()
    }

    pub(in crate::store) async fn ended_counts(
        &self,
    ) -> Result<HashMap<TaskState, u64>, StoreError> {
        let rows = sqlx::query("SELECT state, count(*) AS tasks FROM task_end GROUP BY state")
            .fetch_all(&self.0.readers)
            .await
            .map_err(|error| read_failure("count ended tasks", &error))?;
        counts(&rows)
    }

    pub(in crate::store) async fn children_counts(
        &self,
        parent: TaskId,
    ) -> Result<HashMap<TaskState, u64>, StoreError> {
        let rows = sqlx::query(
            "SELECT COALESCE(e.state, r.state) AS state, count(*) AS tasks FROM task t \
             LEFT JOIN task_run r ON r.seq = t.seq LEFT JOIN task_end e ON e.seq = t.seq \
             WHERE t.parent = $1 GROUP BY 1",
        )
        .bind(parent.to_string())
        .fetch_all(&self.0.readers)
        .await
        .map_err(|error| read_failure("count a task's children", &error))?;
        counts(&rows)
    }

    pub(in crate::store) async fn events(
        &self,
        id: TaskId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<TaskEvent>, StoreError> {
        let rows = sqlx::query(lines::LOG)
            .bind(id.to_string())
            .bind(i64::try_from(after).unwrap_or(i64::MAX))
            .bind(i64::from(limit))
            .fetch_all(&self.0.readers)
            .await
            .map_err(|error| read_failure("read a task's log", &error))?;
        let mut log = Vec::with_capacity(rows.len());
        for row in &rows {
            let Some(n) = optional::<i64>(row, "n")? else {
                log.extend(lines::read(&text(row, "detail")?)?);
                continue;
            };
            log.push(TaskEvent {
                n: n.unsigned_abs(),
                at: Timestamp(number(row, "at")?),
                kind: parse("an event", &text(row, "kind")?)?,
                epoch: optional::<i64>(row, "epoch")?.map(|e| Epoch(e.unsigned_abs())),
                detail: optional::<String>(row, "detail")?.map(Into::into),
            });
        }
        Ok(lines::in_order(log, after, limit))
    }

    pub(in crate::store) async fn by_idempotency_key(
        &self,
        tenant: &str,
        key: &str,
    ) -> Result<Option<TaskId>, StoreError> {
        let row = sqlx::query("SELECT id FROM task WHERE tenant = $1 AND idempotency_key = $2")
            .bind(tenant)
            .bind(key)
            .fetch_optional(&self.0.readers)
            .await
            .map_err(|error| read_failure("look up an idempotency key", &error))?;
        row.map(|row| parse("a task id", &text(&row, "id")?))
            .transpose()
    }

    pub(in crate::store) async fn step(
        &self,
        seq: u64,
        key: &str,
    ) -> Result<Option<StepRow>, StoreError> {
        let row = sqlx::query(
            "SELECT s.key, s.epoch, s.started_at, s.finished_at, s.cost, s.input_blob, \
             s.output_blob, COALESCE(i.body, s.input) AS input, COALESCE(o.body, s.output) AS output \
             FROM step s LEFT JOIN blob i ON i.hash = s.input_blob \
             LEFT JOIN blob o ON o.hash = s.output_blob WHERE s.seq = $1 AND s.key = $2",
        )
        .bind(i64::try_from(seq).unwrap_or(i64::MAX))
        .bind(key)
        .fetch_optional(&self.0.readers)
        .await
        .map_err(|error| read_failure("read a step", &error))?;
        row.as_ref().map(|row| step(seq, row)).transpose()
    }

    pub(in crate::store) async fn steps(
        &self,
        seq: u64,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<StepRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM step WHERE seq = $1 AND ($2 IS NULL OR (finished_at, key) > \
             (SELECT finished_at, key FROM step WHERE seq = $1 AND key = $2)) \
             ORDER BY finished_at, key LIMIT $3",
        )
        .bind(i64::try_from(seq).unwrap_or(i64::MAX))
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.0.readers)
        .await
        .map_err(|error| read_failure("list a task's steps", &error))?;
        rows.iter().map(|row| step(seq, row)).collect()
    }

    pub(in crate::store) async fn document(
        &self,
        space: &str,
        key: &str,
    ) -> Result<Option<Document>, StoreError> {
        let row = sqlx::query("SELECT key, body, at FROM document WHERE space = $1 AND key = $2")
            .bind(space)
            .bind(key)
            .fetch_optional(&self.0.readers)
            .await
            .map_err(|error| read_failure("read a document", &error))?;
        row.as_ref().map(document).transpose()
    }

    pub(in crate::store) async fn documents(
        &self,
        space: &str,
        prefix: &str,
        limit: u32,
    ) -> Result<Vec<Document>, StoreError> {
        let rows = sqlx::query(
            "SELECT key, body, at FROM document WHERE space = $1 AND $2 <= key \
             AND substr(key, 1, length($2)) = $2 ORDER BY key DESC LIMIT $3",
        )
        .bind(space)
        .bind(prefix)
        .bind(i64::from(limit))
        .fetch_all(&self.0.readers)
        .await
        .map_err(|error| read_failure("list documents", &error))?;
        rows.iter().map(document).collect()
    }
}

fn counts(rows: &[SqliteRow]) -> Result<HashMap<TaskState, u64>, StoreError> {
    rows.iter()
        .map(|row| {
            Ok((
                parse("a task state", &text(row, "state")?)?,
                number(row, "tasks")?,
            ))
        })
        .collect()
}

/// The query behind a listing.
pub(super) fn listing(filter: &TaskFilter) -> QueryBuilder<Dialect> {
    let mut query = QueryBuilder::<Dialect>::new(VIEW);
    if let Some(state) = filter.state {
        let side = match state {
            TaskState::Completed => " AND e.state = ",
            // The indexes are partial: their conditions have to stand in the query.
            TaskState::Discarded | TaskState::Cancelled => {
                " AND e.state <> 'completed' AND e.state = "
            }
            TaskState::Available => " AND r.state = ",
            TaskState::Scheduled
            | TaskState::Executing
            | TaskState::Waiting
            | TaskState::AwaitingApproval
            | TaskState::Retryable => " AND r.state <> 'available' AND r.state = ",
        };
        query.push(side).push_bind(state.as_str());
    }
    // The planner sorts by hand unless the order is that of the index it uses.
    let seq = match filter.state {
        None => "t.seq",
        Some(state) if state.is_terminal() => "e.seq",
        Some(_) => "r.seq",
    };
    if let Some(kind) = &filter.kind {
        query.push(" AND t.kind = ").push_bind(kind.clone());
    }
    if let Some(parent) = filter.parent {
        query.push(" AND t.parent = ").push_bind(parent.to_string());
    }
    if let Some(before) = filter.before {
        query.push(format!(" AND {seq} < (SELECT seq FROM task WHERE id = "));
        query.push_bind(before.to_string()).push(")");
    }
    query
        .push(format!(" ORDER BY {seq} DESC LIMIT "))
        .push_bind(i64::from(filter.limit));
    query
}

fn step(seq: u64, row: &SqliteRow) -> Result<StepRow, StoreError> {
    let content = |body, blob| {
        Ok(Content {
            json: json(row, body)?,
            hash: optional::<String>(row, blob)?.map(ContentHash::stored),
        })
    };
    Ok(StepRow {
        seq,
        key: text(row, "key")?,
        input: content("input", "input_blob")?,
        output: content("output", "output_blob")?,
        cost: optional::<String>(row, "cost")?
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|error| unreadable("a step's cost", &error))?,
        epoch: Epoch(number(row, "epoch")?),
        started_at: Timestamp(number(row, "started_at")?),
        finished_at: Timestamp(number(row, "finished_at")?),
    })
}

fn document(row: &SqliteRow) -> Result<Document, StoreError> {
    let (key, body) = (text(row, "key")?, json(row, "body")?);
    Ok(Document {
        key,
        body,
        at: Timestamp(number(row, "at")?),
    })
}

fn view(row: &SqliteRow) -> Result<TaskView, StoreError> {
    Ok(TaskView {
        body: Arc::new(body(row)?),
        run: run(row)?,
        end: end(row)?,
    })
}

fn body(row: &SqliteRow) -> Result<TaskBody, StoreError> {
    let depends_on = text(row, "depends_on")?;
    Ok(TaskBody {
        id: parse("a task id", &text(row, "id")?)?,
        seq: number(row, "seq")?,
        kind: text(row, "kind")?.into(),
        payload: json(row, "payload")?,
        goal: optional(row, "goal")?,
        priority: parse("a lane", &text(row, "priority")?)?,
        class: text(row, "class")?.into(),
        tenant: text(row, "tenant")?.into(),
        idempotency_key: optional(row, "idempotency_key")?,
        parent: optional::<String>(row, "parent")?
            .map(|id| parse("a task id", &id))
            .transpose()?,
        depends_on: depends_on
            .split_whitespace()
            .map(|id| parse("a task id", id))
            .collect::<Result<_, _>>()?,
        max_attempts: small(row, "max_attempts")?,
        submitted_at: Timestamp(number(row, "submitted_at")?),
        deadline: time(row, "deadline")?,
        terms: optional::<String>(row, "terms")?
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|error| unreadable("a task's terms", &error))?,
    })
}

fn run(row: &SqliteRow) -> Result<Option<TaskRun>, StoreError> {
    let Some(state) = optional::<String>(row, "r_state")? else {
        return Ok(None);
    };
    Ok(Some(TaskRun {
        state: parse("a task state", &state)?,
        attempt: small(row, "r_attempt")?,
        losses: small(row, "r_losses")?,
        epoch: Epoch(number(row, "r_epoch")?),
        run_at: Timestamp(number(row, "run_at")?),
        lease_until: time(row, "lease_until")?,
        worker: optional::<String>(row, "worker")?.map(Into::into),
        cancel_requested: number(row, "cancel_requested")? != 0,
        last_error: optional(row, "last_error")?,
        events: number(row, "r_events")?,
        retries: small(row, "retries")?,
    }))
}

fn end(row: &SqliteRow) -> Result<Option<TaskEnd>, StoreError> {
    let Some(state) = optional::<String>(row, "e_state")? else {
        return Ok(None);
    };
    let result = optional::<String>(row, "result")?
        .map(|text| Json::parse(text).map_err(|error| unreadable("a result", &error)))
        .transpose()?;
    Ok(Some(TaskEnd {
        state: parse("a task state", &state)?,
        finished_at: Timestamp(number(row, "finished_at")?),
        attempt: small(row, "e_attempt")?,
        losses: small(row, "e_losses")?,
        epoch: Epoch(number(row, "e_epoch")?),
        result,
        error: optional(row, "error")?,
        events: number(row, "e_events")?,
    }))
}

pub(super) fn optional<'r, T>(
    row: &'r SqliteRow,
    column: &'static str,
) -> Result<Option<T>, StoreError>
where
    T: sqlx::Decode<'r, Dialect> + sqlx::Type<Dialect>,
{
    row.try_get(column)
        .map_err(|error| unreadable(column, &error))
}

pub(super) fn text(row: &SqliteRow, column: &'static str) -> Result<String, StoreError> {
    row.try_get(column)
        .map_err(|error| unreadable(column, &error))
}

fn json(row: &SqliteRow, column: &'static str) -> Result<Json, StoreError> {
    Json::parse(text(row, column)?).map_err(|error| unreadable(column, &error))
}

pub(super) fn number(row: &SqliteRow, column: &'static str) -> Result<u64, StoreError> {
    let value: i64 = row
        .try_get(column)
        .map_err(|error| unreadable(column, &error))?;
    u64::try_from(value).map_err(|error| unreadable(column, &error))
}

fn small(row: &SqliteRow, column: &'static str) -> Result<u32, StoreError> {
    u32::try_from(number(row, column)?).map_err(|error| unreadable(column, &error))
}

pub(super) fn time(row: &SqliteRow, column: &'static str) -> Result<Option<Timestamp>, StoreError> {
    Ok(optional::<i64>(row, column)?.map(|at| Timestamp(at.unsigned_abs())))
}
