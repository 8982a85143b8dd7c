//! Reading everything that lives at a start, and again after a failed commit.
//!
//! Through SQLite's own rows on threads that may block: a million tasks cross no channel and
//! take no detour through text. Two threads share the tasks, each with a connection of its
//! own; both see the same state, since nobody writes tasks meanwhile: at a start the queue
//! is not open yet, and after a failed commit the writer refuses until this is done.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use futures::future::OptionFuture;
use rusqlite::types::{FromSql, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row};

use super::{Sqlite, blocking, failure, parse, reader, unreadable};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::queue::task::{TaskBody, TaskRun, TaskState};
use crate::store::{Snapshot, StoreError};

const ATTEMPT: &str = "read the live tasks";

/// The first column says whether those that are read only then are anything but empty.
const LIVE: &str = "SELECT \
    t.goal IS NULL AND t.idempotency_key IS NULL AND t.parent IS NULL AND t.depends_on = '' \
    AND t.deadline IS NULL AND t.terms IS NULL AND r.lease_until IS NULL AND r.worker IS NULL \
    AND r.last_error IS NULL, \
    t.seq, t.id, t.kind, t.payload, t.goal, t.priority, t.class, t.tenant, t.idempotency_key, \
    t.parent, t.depends_on, t.max_attempts, t.submitted_at, t.deadline, t.terms, \
    r.state, r.attempt, r.losses, r.epoch, r.run_at, r.lease_until, r.worker, \
    r.cancel_requested, r.last_error, r.events \
    FROM task_run r CROSS JOIN task t ON t.seq = r.seq WHERE r.seq BETWEEN ?1 AND ?2 \
    ORDER BY r.seq";

/// Fewer live tasks than this are read by one thread.
const SHARED_FROM: i64 = 20_000;

/// Tasks with how they stand.
type Live = Vec<(Arc<TaskBody>, TaskRun)>;

const END: &str = "SELECT e.state FROM task t JOIN task_end e ON e.seq = t.seq WHERE t.id = ?1";

impl Sqlite {
    pub(in crate::store) async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let path = self.0.path.clone();
        let mut halves = blocking(ATTEMPT, move || halves(&reader(&path)?)).await?;
        let path = self.0.path.clone();
        let later = halves.pop().map(|half| {
            let path = path.clone();
            blocking(ATTEMPT, move || Ok(live(&reader(&path)?, &half)))
        });
        let half = halves.pop().unwrap_or(0..=i64::MAX);
        let rest = blocking(ATTEMPT, move || Ok(read(&reader(&path)?, &half)));
        let (later, snapshot) = futures::future::join(OptionFuture::from(later), rest).await;
        let mut snapshot = snapshot??;
        if let Some(later) = later {
            snapshot.live.append(&mut later??);
        }
        let (path, live) = (self.0.path.clone(), snapshot.live);
        let ended = blocking(ATTEMPT, move || {
            let ended = ended(&reader(&path)?, &live);
            Ok(ended.map(|ended| (ended, live)))
        });
        (snapshot.ended, snapshot.live) = ended.await??;
        Ok(snapshot)
    }
}

/// The live tasks in two parts of the same size; in one if they are few.
fn halves(connection: &Connection) -> Result<Vec<RangeInclusive<i64>>, rusqlite::Error> {
    let count: i64 = connection.query_row("SELECT count(*) FROM task_run", [], |row| row.get(0))?;
    if count < SHARED_FROM {
        return Ok(Vec::new());
    }
    let middle = "SELECT seq FROM task_run ORDER BY seq LIMIT 1 OFFSET ?1";
    let middle: i64 = connection.query_row(middle, [count / 2], |row| row.get(0))?;
    Ok(vec![0..=middle, middle + 1..=i64::MAX])
}

/// The switches, and the live tasks within `range`.
fn read(connection: &Connection, range: &RangeInclusive<i64>) -> Result<Snapshot, StoreError> {
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
    Ok(Snapshot {
        control: control
            .map_err(|error| unreadable("the queue's switches", &error))?
            .unwrap_or_default(),
        next_seq: newest.unsigned_abs() + 1,
        live: live(&connection, range)?,
        ..Snapshot::default()
    })
}

/// The tasks within `range` that have not ended, in order of acceptance.
fn live(connection: &Connection, range: &RangeInclusive<i64>) -> Result<Live, StoreError> {
    let failed = |error: rusqlite::Error| failure(ATTEMPT, &error);
    let bounds = [*range.start(), *range.end()];
    let count = "SELECT count(*) FROM task_run WHERE seq BETWEEN ?1 AND ?2";
    let count: i64 = connection
        .query_row(count, bounds, |row| row.get(0))
        .map_err(failed)?;
    let mut live = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
    let mut names = Names::default();
    let mut statement = connection.prepare(LIVE).map_err(failed)?;
    let mut rows = statement.query(bounds).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let plain = Columns { row, plain: false }.number::<u8>(0, "a task")? != 0;
        let columns = Columns { row, plain };
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

/// Kinds, classes and tenants: few, shared by many tasks, and mostly those of the task before.
#[derive(Default)]
struct Names {
    all: HashSet<Arc<str>>,
    latest: [Option<Arc<str>>; 3],
}

impl Names {
    fn shared(&mut self, place: usize, name: &str) -> Arc<str> {
        if let Some(latest) = self.latest[place]
            .as_ref()
            .filter(|known| ***known == *name)
        {
            return latest.clone();
        }
        let shared = match self.all.get(name) {
            Some(known) => known.clone(),
            None => name.into(),
        };
        self.all.insert(shared.clone());
        self.latest[place] = Some(shared.clone());
        shared
    }
}

/// A row of [`LIVE`]; in a plain one the columns that may be empty are.
struct Columns<'a> {
    row: &'a Row<'a>,
    plain: bool,
}

impl Columns<'_> {
    fn body(&self, names: &mut Names) -> Result<TaskBody, StoreError> {
        let id = |id: &str| parse("a task id", id);
        let terms = self.optional(15, "a task's terms")?;
        let depends_on = self.optional(11, "dependencies")?.unwrap_or_default();
        let depends_on = depends_on.split_ascii_whitespace().map(id);
        Ok(TaskBody {
            seq: self.number(1, "a task's number")?,
            id: id(self.text(2, "a task id")?)?,
            kind: names.shared(0, self.text(3, "a kind")?),
            payload: Json::parse(self.text(4, "a payload")?.to_owned())
                .map_err(|error| unreadable("a payload", &error))?,
            goal: self.optional(5, "a goal")?.map(str::to_owned),
            priority: parse("a lane", self.text(6, "a lane")?)?,
            class: names.shared(1, self.text(7, "a class")?),
            tenant: names.shared(2, self.text(8, "a tenant")?),
            idempotency_key: self.optional(9, "an idempotency key")?.map(str::to_owned),
            parent: self.optional(10, "a task id")?.map(id).transpose()?,
            depends_on: depends_on.collect::<Result<_, _>>()?,
            max_attempts: self.number(12, "a limit of attempts")?,
            submitted_at: Timestamp(self.number(13, "a time")?),
            deadline: self.time(14)?,
            terms: terms
                .map(serde_json::from_str)
                .transpose()
                .map_err(|error| unreadable("a task's terms", &error))?,
        })
    }

    fn run(&self) -> Result<TaskRun, StoreError> {
        Ok(TaskRun {
            state: parse("a task state", self.text(16, "a task state")?)?,
            attempt: self.number(17, "a count of attempts")?,
            losses: self.number(18, "a count of losses")?,
            epoch: Epoch(self.number(19, "an epoch")?),
            run_at: Timestamp(self.number(20, "a time")?),
            lease_until: self.time(21)?,
            worker: self.optional(22, "a worker")?.map(Into::into),
            cancel_requested: self.number::<u8>(23, "a cancel")? != 0,
            last_error: self.optional(24, "an error")?.map(str::to_owned),
            events: self.number(25, "a count of events")?,
        })
    }

    fn value(&self, column: usize, what: &'static str) -> Result<ValueRef<'_>, StoreError> {
        self.row
            .get_ref(column)
            .map_err(|error| unreadable(what, &error))
    }

    fn text(&self, column: usize, what: &'static str) -> Result<&str, StoreError> {
        let value = self.value(column, what)?;
        value.as_str().map_err(|error| unreadable(what, &error))
    }

    fn optional(&self, column: usize, what: &'static str) -> Result<Option<&str>, StoreError> {
        if self.plain {
            return Ok(None);
        }
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
        if self.plain {
            return Ok(None);
        }
        let at = Option::<i64>::column_result(self.value(column, "a time")?)
            .map_err(|error| unreadable("a time", &error))?;
        Ok(at.map(|at| Timestamp(at.unsigned_abs())))
    }
}
