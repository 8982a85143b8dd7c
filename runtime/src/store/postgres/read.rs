//! Reading back, through connections of their own: a reader sees what is committed and never
//! waits for the writer.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;
use std::sync::Arc;

use futures::TryStreamExt;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Postgres as Dialect, QueryBuilder, Row};
use uuid::Uuid;

use super::Postgres;
use super::distant;
use super::hand_over;
use super::ledger;
use super::text::{read, written};
use super::write::signed;
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::queue::control::Control;
use crate::queue::machine::DistantChild;
use crate::queue::task::{TaskBody, TaskEnd, TaskEvent, TaskRun, TaskState, TaskView};
use crate::store::content::{Content, ContentHash};
use crate::store::lines;
use crate::store::{Document, Ledgers, Snapshot, StepRow, StoreError, TaskFilter};

const VIEW: &str = "SELECT t.*, \
    r.state AS r_state, r.attempt AS r_attempt, r.losses AS r_losses, r.epoch AS r_epoch, \
    r.run_at, r.lease_until, r.worker, r.cancel_requested, r.last_error, r.events AS r_events, \
    r.retries, \
    e.state AS e_state, e.finished_at, e.attempt AS e_attempt, e.losses AS e_losses, \
    e.epoch AS e_epoch, e.result, e.error, e.events AS e_events \
    FROM task t LEFT JOIN task_run r ON r.seq = t.seq LEFT JOIN task_end e ON e.seq = t.seq \
    WHERE true";

const LIVE: &str = "SELECT t.seq, t.id, t.kind, t.payload, t.goal, t.priority, t.class, \
    t.tenant, t.idempotency_key, t.parent, t.depends_on, t.max_attempts, t.submitted_at, \
    t.deadline, t.terms, \
    r.state AS r_state, r.attempt AS r_attempt, r.losses AS r_losses, r.epoch AS r_epoch, \
    r.run_at, r.lease_until, r.worker, r.cancel_requested, r.last_error, r.events AS r_events, \
    r.retries \
    FROM task_run r JOIN task t ON t.seq = r.seq WHERE r.owner = ANY($1) ORDER BY r.seq";

/// The live tasks of some lives.
pub(super) struct Live {
    pub(super) tasks: Vec<(Arc<TaskBody>, TaskRun)>,
    /// How tasks ended that one of them depends on, and how those stand that live elsewhere.
    pub(super) ended: HashMap<TaskId, TaskState>,
    pub(super) children: Vec<DistantChild>,
    /// What they need of the ledgers.
    pub(super) ledgers: Ledgers,
    /// Those of them that were handed over and not taken in.
    pub(super) handed: Vec<u64>,
}

/// Reads the live tasks of `lives`, in order of acceptance; and what `boot` has spent, unless
/// its memory knows. For use within a transaction.
pub(super) async fn live(
    reader: &mut PgConnection,
    node: &str,
    boot: Option<i64>,
    lives: &[i64],
) -> Result<Live, ReadError> {
    let mut tasks = Vec::new();
    let mut names = Names::default();
    {
        let mut rows = sqlx::query(LIVE).bind(lives).fetch(&mut *reader);
        while let Some(row) = rows.try_next().await? {
            let run = run(&row)?.ok_or_else(|| unreadable("a live task", &"no state"))?;
            tasks.push((Arc::new(body(&row, &mut names)?), run));
        }
    }
    let wanted: HashSet<Uuid> = tasks
        .iter()
        .flat_map(|(body, _)| body.depends_on.iter().map(|id| *id.as_uuid()))
        .collect();
    let mut ended = HashMap::new();
    if !wanted.is_empty() {
        let wanted: Vec<Uuid> = wanted.into_iter().collect();
        let rows = sqlx::query(
            "SELECT t.id, COALESCE(e.state, r.state) FROM task t \
             LEFT JOIN task_end e ON e.seq = t.seq LEFT JOIN task_run r ON r.seq = t.seq \
             WHERE t.id = ANY($1) AND (e.seq IS NOT NULL OR r.owner <> ALL($2))",
        )
        .bind(wanted)
        .bind(lives)
        .fetch_all(&mut *reader)
        .await?;
        for row in &rows {
            let id: Uuid = row.try_get(0)?;
            let state: &str = row.try_get(1)?;
            ended.insert(TaskId::from(id), parse("a task state", state)?);
        }
    }
    let children = distant::children(reader, lives, &tasks).await?;
    let ledgers = ledger::live(reader, node, boot, &tasks).await?;
    let handed = hand_over::handed_to(reader, lives).await?;
    Ok(Live {
        tasks,
        ended,
        children,
        ledgers,
        handed,
    })
}

/// Reading failed, or what was read makes no sense.
pub(super) enum ReadError {
    Database(sqlx::Error),
    Store(StoreError),
}

impl From<sqlx::Error> for ReadError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Postgres {
    pub(in crate::store) async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        const ATTEMPT: &str = "read the live tasks";
        let boot = self.boot()?;
        let read = self.read_snapshot(boot).await;
        let mut snapshot = read.map_err(|error| match error {
            ReadError::Database(error) => self.failure(ATTEMPT, &error),
            ReadError::Store(error) => error,
        })?;
        // Of those that were handed over, others may have given epochs that are not stored.
        if self.inherited_since(&snapshot.lives) || !snapshot.handed.is_empty() {
            snapshot.boots = Some(self.raise_boots().await?);
        }
        Ok(snapshot)
    }

    async fn read_snapshot(&self, boot: i64) -> Result<Snapshot, ReadError> {
        let mut reader = self.0.readers.begin().await?;
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .execute(&mut *reader)
            .await?;
        // Everything there is may take its time.
        sqlx::query("SET LOCAL statement_timeout = 0")
            .execute(&mut *reader)
            .await?;
        let control = sqlx::query("SELECT value FROM meta WHERE name = 'control'")
            .fetch_optional(&mut *reader)
            .await?;
        let control: Control = match control {
            Some(row) => serde_json::from_str(row.try_get(0)?)
                .map_err(|error| unreadable("the queue's switches", &error))?,
            None => Control::default(),
        };
        let newest: Option<i64> =
            sqlx::query("SELECT max(seq) FROM task WHERE $1 <= seq AND seq < $2")
                .bind(boot << 32)
                .bind((boot + 1) << 32)
                .fetch_one(&mut *reader)
                .await?
                .try_get(0)?;
        let lives: Vec<i64> = sqlx::query("SELECT boot FROM life WHERE heir = $1")
            .bind(boot)
            .fetch_all(&mut *reader)
            .await?
            .iter()
            .map(|row| row.try_get(0))
            .collect::<Result<_, _>>()?;
        let Live {
            tasks,
            ended,
            children,
            ledgers,
            handed,
        } = live(&mut reader, &self.0.config.node, Some(boot), &lives).await?;
        reader.commit().await?;
        Ok(Snapshot {
            control,
            next_seq: newest.map_or(boot << 32, |seq| seq + 1).unsigned_abs(),
            live: tasks,
            ended,
            children,
            budgets: ledgers.budgets,
            funds: ledgers.funds,
            reservations: ledgers.reservations,
            approvals: ledgers.approvals,
            handed,
            lives,
            boots: None,
        })
    }

    pub(in crate::store) async fn task(&self, id: TaskId) -> Result<Option<TaskView>, StoreError> {
        let mut query = QueryBuilder::<Dialect>::new(VIEW);
        query.push(" AND t.id = ").push_bind(*id.as_uuid());
        let row = query
            .build()
            .fetch_optional(&self.0.readers)
            .await
            .map_err(|error| self.failure("read a task", &error))?;
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
            .map_err(|error| self.failure("list tasks", &error))?;
        rows.iter().map(view).collect()
    }

    pub(in crate::store) async fn ended_counts(
        &self,
    ) -> Result<HashMap<TaskState, u64>, StoreError> {
        let rows = sqlx::query("SELECT state, count(*) AS tasks FROM task_end GROUP BY state")
            .fetch_all(&self.0.readers)
            .await
            .map_err(|error| self.failure("count ended tasks", &error))?;
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
        .bind(*parent.as_uuid())
        .fetch_all(&self.0.readers)
        .await
        .map_err(|error| self.failure("count a task's children", &error))?;
        counts(&rows)
    }

    pub(in crate::store) async fn events(
        &self,
        id: TaskId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<TaskEvent>, StoreError> {
        let rows = sqlx::query(lines::LOG)
            .bind(*id.as_uuid())
            .bind(signed(after))
            .bind(i64::from(limit))
            .fetch_all(&self.0.readers)
            .await
            .map_err(|error| self.failure("read a task's log", &error))?;
        let mut log = Vec::with_capacity(rows.len());
        for row in &rows {
            let Some(n) = optional::<i64>(row, "n")? else {
                log.extend(lines::read(&cell::<String>(row, "detail")?)?);
                continue;
            };
            log.push(TaskEvent {
                n: n.unsigned_abs(),
                at: Timestamp(number(row, "at")?),
                kind: parse("an event", &text(row, "kind")?)?,
                epoch: optional::<i64>(row, "epoch")?.map(|e| Epoch(e.unsigned_abs())),
                detail: optional_text(row, "detail")?.map(Into::into),
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
            .bind(written(tenant))
            .bind(written(key))
            .fetch_optional(&self.0.readers)
            .await
            .map_err(|error| self.failure("look up an idempotency key", &error))?;
        row.map(|row| Ok(TaskId::from(cell::<Uuid>(&row, "id")?)))
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
             LEFT JOIN blob o ON o.hash = s.output_blob \
             WHERE s.seq = $1 AND s.digest = sha256(convert_to($2, 'UTF8'))",
        )
        .bind(signed(seq))
        .bind(written(key))
        .fetch_optional(&self.0.readers)
        .await
        .map_err(|error| self.failure("read a step", &error))?;
        row.as_ref().map(|row| step(seq, row)).transpose()
    }

    pub(in crate::store) async fn steps(
        &self,
        seq: u64,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<StepRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM step WHERE seq = $1 AND ($2::text IS NULL \
             OR (finished_at, key COLLATE \"C\") > (SELECT finished_at, key COLLATE \"C\" \
              FROM step WHERE seq = $1 AND key = $2)) \
             ORDER BY finished_at, key COLLATE \"C\" LIMIT $3",
        )
        .bind(signed(seq))
        .bind(after.map(written))
        .bind(i64::from(limit))
        .fetch_all(&self.0.readers)
        .await
        .map_err(|error| self.failure("list a task's steps", &error))?;
        rows.iter().map(|row| step(seq, row)).collect()
    }

    pub(in crate::store) async fn document(
        &self,
        space: &str,
        key: &str,
    ) -> Result<Option<Document>, StoreError> {
        let row = sqlx::query("SELECT key, body, at FROM document WHERE space = $1 AND key = $2")
            .bind(space)
            .bind(written(key))
            .fetch_optional(&self.0.readers)
            .await
            .map_err(|error| self.failure("read a document", &error))?;
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
             AND starts_with(key, $2) ORDER BY key DESC LIMIT $3",
        )
        .bind(space)
        .bind(written(prefix))
        .bind(i64::from(limit))
        .fetch_all(&self.0.readers)
        .await
        .map_err(|error| self.failure("list documents", &error))?;
        rows.iter().map(document).collect()
    }
}

fn counts(rows: &[PgRow]) -> Result<HashMap<TaskState, u64>, StoreError> {
    rows.iter()
        .map(|row| {
            let state = parse("a task state", &text(row, "state")?)?;
            Ok((state, number(row, "tasks")?))
        })
        .collect()
}

/// The query behind a listing.
pub(super) fn listing(filter: &TaskFilter) -> QueryBuilder<Dialect> {
    let mut query = QueryBuilder::<Dialect>::new(VIEW);
    if let Some(state) = filter.state {
        let side = if state.is_terminal() { "e" } else { "r" };
        // As a constant, so that the planner sees which partial index holds it.
        query.push(format!(" AND {side}.state = '{state}'"));
    }
    // In the order of the index that is used, so that nothing is sorted.
    let seq = match filter.state {
        None => "t.seq",
        Some(state) if state.is_terminal() => "e.seq",
        Some(_) => "r.seq",
    };
    if let Some(kind) = &filter.kind {
        query
            .push(" AND t.kind = ")
            .push_bind(written(kind).into_owned());
    }
    if let Some(parent) = filter.parent {
        query.push(" AND t.parent = ").push_bind(*parent.as_uuid());
    }
    if let Some(before) = filter.before {
        query.push(format!(" AND {seq} < (SELECT seq FROM task WHERE id = "));
        query.push_bind(*before.as_uuid()).push(")");
    }
    query
        .push(format!(" ORDER BY {seq} DESC LIMIT "))
        .push_bind(i64::from(filter.limit));
    query
}

/// Kinds, classes and tenants: few, and shared by many tasks.
#[derive(Default)]
pub(super) struct Names(HashMap<String, Arc<str>>);

impl Names {
    fn shared(&mut self, name: String) -> Arc<str> {
        if let Some(known) = self.0.get(&name) {
            return known.clone();
        }
        let shared: Arc<str> = name.as_str().into();
        self.0.insert(name, shared.clone());
        shared
    }
}

fn step(seq: u64, row: &PgRow) -> Result<StepRow, StoreError> {
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

fn document(row: &PgRow) -> Result<Document, StoreError> {
    let (key, body) = (text(row, "key")?, json(row, "body")?);
    let at = Timestamp(number(row, "at")?);
    Ok(Document { key, body, at })
}

fn view(row: &PgRow) -> Result<TaskView, StoreError> {
    Ok(TaskView {
        body: Arc::new(body(row, &mut Names::default())?),
        run: run(row)?,
        end: end(row)?,
    })
}

pub(super) fn body(row: &PgRow, names: &mut Names) -> Result<TaskBody, StoreError> {
    let depends_on = text(row, "depends_on")?;
    Ok(TaskBody {
        id: cell::<Uuid>(row, "id")?.into(),
        seq: number(row, "seq")?,
        kind: names.shared(text(row, "kind")?),
        payload: json(row, "payload")?,
        goal: optional_text(row, "goal")?,
        priority: parse("a lane", &text(row, "priority")?)?,
        class: names.shared(text(row, "class")?),
        tenant: names.shared(text(row, "tenant")?),
        idempotency_key: optional_text(row, "idempotency_key")?,
        parent: optional::<Uuid>(row, "parent")?.map(TaskId::from),
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

pub(super) fn run(row: &PgRow) -> Result<Option<TaskRun>, StoreError> {
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
        worker: optional_text(row, "worker")?.map(Into::into),
        cancel_requested: cell(row, "cancel_requested")?,
        last_error: optional_text(row, "last_error")?,
        events: number(row, "r_events")?,
        retries: small(row, "retries")?,
    }))
}

fn end(row: &PgRow) -> Result<Option<TaskEnd>, StoreError> {
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
        error: optional_text(row, "error")?,
        events: number(row, "e_events")?,
    }))
}

pub(super) fn cell<'r, T>(row: &'r PgRow, column: &'static str) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, Dialect> + sqlx::Type<Dialect>,
{
    row.try_get(column)
        .map_err(|error| unreadable(column, &error))
}

pub(super) fn optional<'r, T>(row: &'r PgRow, column: &'static str) -> Result<Option<T>, StoreError>
where
    T: sqlx::Decode<'r, Dialect> + sqlx::Type<Dialect>,
{
    cell(row, column)
}

pub(super) fn text(row: &PgRow, column: &'static str) -> Result<String, StoreError> {
    cell(row, column).map(read)
}

pub(super) fn optional_text(
    row: &PgRow,
    column: &'static str,
) -> Result<Option<String>, StoreError> {
    Ok(optional(row, column)?.map(read))
}

/// JSON holds no control characters, so its text is kept as it stands.
fn json(row: &PgRow, column: &'static str) -> Result<Json, StoreError> {
    Json::parse(cell(row, column)?).map_err(|error| unreadable(column, &error))
}

pub(super) fn number(row: &PgRow, column: &'static str) -> Result<u64, StoreError> {
    let value: i64 = cell(row, column)?;
    u64::try_from(value).map_err(|error| unreadable(column, &error))
}

fn small(row: &PgRow, column: &'static str) -> Result<u32, StoreError> {
    u32::try_from(number(row, column)?).map_err(|error| unreadable(column, &error))
}

pub(super) fn time(row: &PgRow, column: &'static str) -> Result<Option<Timestamp>, StoreError> {
    Ok(optional::<i64>(row, column)?.map(|at| Timestamp(at.unsigned_abs())))
}

pub(super) fn unreadable(what: &'static str, cause: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unreadable {
        what,
        cause: cause.to_string().into(),
    }
}

pub(super) fn parse<T: FromStr<Err: std::fmt::Display>>(
    what: &'static str,
    text: &str,
) -> Result<T, StoreError> {
    text.parse()
        .map_err(|error: T::Err| unreadable(what, &error))
}
