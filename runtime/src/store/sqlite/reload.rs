//! Reading everything that lives at a start, and again after a failed commit.
//!
//! Through SQLite's own rows on a thread that may block: a million tasks cross no channel
//! and take no detour through text.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rusqlite::types::{FromSql, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row};

use super::{Sqlite, blocking, failure, parse, reader, unreadable};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::queue::task::{TaskBody, TaskRun, TaskState};
use crate::store::{Snapshot, StoreError};

const ATTEMPT: &str = "read the live tasks";

const LIVE: &str = "SELECT \
    t.seq, t.id, t.kind, t.payload, t.goal, t.priority, t.class, t.tenant, t.idempotency_key, \
    t.parent, t.depends_on, t.max_attempts, t.submitted_at, t.deadline, t.terms, \
    r.state, r.attempt, r.losses, r.epoch, r.run_at, r.lease_until, r.worker, \
    r.cancel_requested, r.last_error, r.events \
    FROM task_run r CROSS JOIN task t ON t.seq = r.seq ORDER BY r.seq";

const END: &str = "SELECT e.state FROM task t JOIN task_end e ON e.seq = t.seq WHERE t.id = ?1";

impl Sqlite {
    pub(in crate::store) async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let path = self.0.path.clone();
        blocking(ATTEMPT, move || Ok(read(&reader(&path)?))).await?
    }
}

/// Everything as it stood at one commit.
fn read(connection: &Connection) -> Result<Snapshot, StoreError> {
    let failed = |error: rusqlite::Error| failure(ATTEMPT, &error);
    let connection = connection.unchecked_transaction().map_err(failed)?;
    let control = "SELECT value FROM meta WHERE name = 'control'";
    let control: Option<String> = connection
        .query_row(control, [], |row| row.get(0))
        .optional()
        .map_err(failed)?;
    let control = control.as_deref().map(serde_json::from_str).transpose();
    let newest = "SELECT COALESCE(max(seq), 0) FROM task";
    let newest: i64 = connection
        .query_row(newest, [], |row| row.get(0))
        .map_err(failed)?;
    let live = live(&connection)?;
    Ok(Snapshot {
        control: control
            .map_err(|error| unreadable("the queue's switches", &error))?
            .unwrap_or_default(),
        next_seq: newest.unsigned_abs() + 1,
        ended: ended(&connection, &live)?,
        live,
        ..Snapshot::default()
    })
}

/// All tasks that have not ended, in order of acceptance.
fn live(connection: &Connection) -> Result<Vec<(Arc<TaskBody>, TaskRun)>, StoreError> {
    let failed = |error: rusqlite::Error| failure(ATTEMPT, &error);
    let count: i64 = connection
        .query_row("SELECT count(*) FROM task_run", [], |row| row.get(0))
        .map_err(failed)?;
    let mut live = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
    let mut names = Names::default();
    let mut statement = connection.prepare(LIVE).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let columns = Columns(row);
        live.push((Arc::new(columns.body(&mut names)?), columns.run()?));
    }
    Ok(live)
}

/// How tasks ended that a live one depends on.
fn ended(
    connection: &Connection,
    live: &[(Arc<TaskBody>, TaskRun)],
) -> Result<HashMap<TaskId, TaskState>, StoreError> {
    let failed = |error: rusqlite::Error| failure(ATTEMPT, &error);
    let wanted: HashSet<TaskId> = live
        .iter()
        .flat_map(|(body, _)| body.depends_on.iter().copied())
        .collect();
    let mut ended = HashMap::new();
    let mut statement = connection.prepare(END).map_err(failed)?;
    for id in wanted {
        let state: Option<String> = statement
            .query_row([id.to_string()], |row| row.get(0))
            .optional()
            .map_err(failed)?;
        if let Some(state) = state {
            ended.insert(id, parse("a task state", &state)?);
        }
    }
    Ok(ended)
}

/// Kinds, classes and tenants: few, and shared by many tasks.
#[derive(Default)]
struct Names(HashSet<Arc<str>>);

impl Names {
    fn shared(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let shared: Arc<str> = name.into();
        self.0.insert(shared.clone());
        shared
    }
}

/// A row of [`LIVE`].
struct Columns<'a>(&'a Row<'a>);

impl Columns<'_> {
    fn body(&self, names: &mut Names) -> Result<TaskBody, StoreError> {
        let depends_on = self.text(10, "dependencies")?.split_ascii_whitespace();
        let terms = self.optional(14, "a task's terms")?;
        Ok(TaskBody {
            seq: self.number(0, "a task's number")?,
            id: parse("a task id", self.text(1, "a task id")?)?,
            kind: names.shared(self.text(2, "a kind")?),
            payload: Json::parse(self.text(3, "a payload")?.to_owned())
                .map_err(|error| unreadable("a payload", &error))?,
            goal: self.optional(4, "a goal")?.map(str::to_owned),
            priority: parse("a lane", self.text(5, "a lane")?)?,
            class: names.shared(self.text(6, "a class")?),
            tenant: names.shared(self.text(7, "a tenant")?),
            idempotency_key: self.optional(8, "an idempotency key")?.map(str::to_owned),
            parent: self
                .optional(9, "a task id")?
                .map(|id| parse("a task id", id))
                .transpose()?,
            depends_on: depends_on
                .map(|id| parse("a task id", id))
                .collect::<Result<_, _>>()?,
            max_attempts: self.number(11, "a limit of attempts")?,
            submitted_at: Timestamp(self.number(12, "a time")?),
            deadline: self.time(13)?,
            terms: terms
                .map(serde_json::from_str)
                .transpose()
                .map_err(|error| unreadable("a task's terms", &error))?,
        })
    }

    fn run(&self) -> Result<TaskRun, StoreError> {
        Ok(TaskRun {
            state: parse("a task state", self.text(15, "a task state")?)?,
            attempt: self.number(16, "a count of attempts")?,
            losses: self.number(17, "a count of losses")?,
            epoch: Epoch(self.number(18, "an epoch")?),
            run_at: Timestamp(self.number(19, "a time")?),
            lease_until: self.time(20)?,
            worker: self.optional(21, "a worker")?.map(Into::into),
            cancel_requested: self.number::<u8>(22, "a cancel")? != 0,
            last_error: self.optional(23, "an error")?.map(str::to_owned),
            events: self.number(24, "a count of events")?,
        })
    }

    fn value(&self, column: usize, what: &'static str) -> Result<ValueRef<'_>, StoreError> {
        self.0
            .get_ref(column)
            .map_err(|error| unreadable(what, &error))
    }

    fn text(&self, column: usize, what: &'static str) -> Result<&str, StoreError> {
        let value = self.value(column, what)?;
        value.as_str().map_err(|error| unreadable(what, &error))
    }

    fn optional(&self, column: usize, what: &'static str) -> Result<Option<&str>, StoreError> {
        let value = self.value(column, what)?;
        value
            .as_str_or_null()
            .map_err(|error| unreadable(what, &error))
    }

    fn number<T: TryFrom<i64, Error: std::fmt::Display>>(
        &self,
        column: usize,
        what: &'static str,
    ) -> Result<T, StoreError> {
        let value = i64::column_result(self.value(column, what)?);
        T::try_from(value.map_err(|error| unreadable(what, &error))?)
            .map_err(|error| unreadable(what, &error))
    }

    fn time(&self, column: usize) -> Result<Option<Timestamp>, StoreError> {
        let at = Option::<i64>::column_result(self.value(column, "a time")?)
            .map_err(|error| unreadable("a time", &error))?;
        Ok(at.map(|at| Timestamp(at.unsigned_abs())))
    }
}
