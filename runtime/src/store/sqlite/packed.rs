//! Reading all live tasks at a start: each row as one JSON array.
//!
//! A row of many columns costs an allocation and a hand-over to this thread per column; as
//! one text it costs one of each, which is several times faster for a million tasks.

use std::collections::HashMap;
use std::sync::Arc;

use futures::TryStreamExt;
use serde::Deserialize;
use sqlx::{Row, SqliteConnection};

use super::{failure, parse, unreadable};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::queue::task::{Lane, TaskBody, TaskRun, TaskState};
use crate::store::StoreError;

const LIVE: &str = "SELECT json_array( \
    t.seq, t.id, t.kind, t.payload, t.goal, t.priority, t.class, t.tenant, t.idempotency_key, \
    t.parent, t.depends_on, t.max_attempts, t.submitted_at, t.deadline, t.terms, \
    r.state, r.attempt, r.losses, r.epoch, r.run_at, r.lease_until, r.worker, \
    r.cancel_requested, r.last_error, r.events, r.retries) \
    FROM task_run r JOIN task t ON t.seq = r.seq ORDER BY r.seq";

/// The columns of [`LIVE`].
#[derive(Deserialize)]
struct Packed(
    u64,
    TaskId,
    String,
    String,
    Option<String>,
    Lane,
    String,
    String,
    Option<String>,
    Option<TaskId>,
    String,
    u32,
    Timestamp,
    Option<Timestamp>,
    Option<String>,
    TaskState,
    u32,
    u32,
    Epoch,
    Timestamp,
    Option<Timestamp>,
    Option<String>,
    u8,
    Option<String>,
    u64,
    u32,
);

/// All tasks that have not ended, in order of acceptance.
pub(super) async fn live(
    reader: &mut SqliteConnection,
) -> Result<Vec<(Arc<TaskBody>, TaskRun)>, StoreError> {
    let failed = |error: sqlx::Error| failure("read the live tasks", &error);
    let mut live = Vec::new();
    let mut names = Names::default();
    let mut rows = sqlx::query(LIVE).fetch(reader);
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        let text: &str = row.try_get(0).map_err(failed)?;
        let packed = serde_json::from_str(text).map_err(|e| unreadable("a live task", &e))?;
        live.push(unpack(packed, &mut names)?);
    }
    Ok(live)
}

/// Kinds, classes and tenants: few, and shared by many tasks.
#[derive(Default)]
struct Names(HashMap<String, Arc<str>>);

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

fn unpack(packed: Packed, names: &mut Names) -> Result<(Arc<TaskBody>, TaskRun), StoreError> {
    let payload = Json::parse(packed.3).map_err(|error| unreadable("a payload", &error))?;
    let depends_on = packed
        .10
        .split_whitespace()
        .map(|id| parse("a task id", id));
    let body = TaskBody {
        id: packed.1,
        seq: packed.0,
        kind: names.shared(packed.2),
        payload,
        goal: packed.4,
        priority: packed.5,
        class: names.shared(packed.6),
        tenant: names.shared(packed.7),
        idempotency_key: packed.8,
        parent: packed.9,
        depends_on: depends_on.collect::<Result<_, _>>()?,
        max_attempts: packed.11,
        submitted_at: packed.12,
        deadline: packed.13,
        terms: packed
            .14
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|error| unreadable("a task's terms", &error))?,
    };
    let run = TaskRun {
        state: packed.15,
        attempt: packed.16,
        losses: packed.17,
        epoch: packed.18,
        run_at: packed.19,
        lease_until: packed.20,
        worker: packed.21.map(Into::into),
        cancel_requested: packed.22 != 0,
        last_error: packed.23,
        events: packed.24,
        retries: packed.25,
    };
    Ok((Arc::new(body), run))
}
