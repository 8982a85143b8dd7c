//! One transaction per batch, one statement per kind of row, the rows as arrays.
//!
//! Every statement finds its rows by key; none looks at a column that changes, so that no
//! plan made from statistics of yesterday can turn into a scan (QUEUE-like tables are empty
//! one moment and full the next). The connection forbids scans besides, see `super::connect`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::ledger;
use super::order;
use super::text::written;
use crate::queue::task::{TaskBody, TaskEnd, TaskEvent, TaskRun};
use crate::store::content::{Content, ContentHash};
use crate::store::{Changes, DocumentRow, StepRow};

/// Under which right a batch is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fence {
    /// The life.
    pub(super) boot: i64,
    /// The connection of that life.
    pub(super) session: i64,
}

/// A batch was not committed.
#[derive(Debug)]
pub(super) enum CommitError {
    /// The fence does not hold: the life was ended, or has another connection by now.
    Fenced,
    /// Anything the database said. Whether the batch was kept is unknown.
    Database(sqlx::Error),
}

impl From<sqlx::Error> for CommitError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// Rows and bytes of one statement at most; more rows take another one. A message to the
/// server may have 1 GiB.
const PIECE_ROWS_MAX: usize = 5_000;
const PIECE_BYTES_MAX: usize = 32 << 20;

/// Holds until the end of the transaction: whoever ends this life waits for it.
const FENCE: &str = "SELECT boot FROM life WHERE boot = $1 AND session = $2 AND NOT ended \
    FOR KEY SHARE";

pub(super) const BODIES: &str = "INSERT INTO task \
    (seq, id, kind, payload, goal, priority, class, tenant, idempotency_key, parent, depends_on, \
     max_attempts, submitted_at, deadline, terms) \
    SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::text[], \
     $6::text[], $7::text[], $8::text[], $9::text[], $10::uuid[], $11::text[], $12::bigint[], \
     $13::bigint[], $14::bigint[], $15::text[])";

pub(super) const DEPENDENCIES: &str = "INSERT INTO task_dependency (dependency, seq) \
    SELECT * FROM unnest($1::uuid[], $2::bigint[])";

pub(super) const REOPENED: &str = "DELETE FROM task_end WHERE seq = ANY($1::bigint[])";

pub(super) const RUNS: &str = "INSERT INTO task_run AS r \
    (owner, seq, state, attempt, losses, epoch, run_at, lease_until, worker, cancel_requested, \
     last_error, events, retries) \
    SELECT $1, * FROM unnest($2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], \
     $7::bigint[], $8::bigint[], $9::text[], $10::boolean[], $11::text[], $12::bigint[], $13::bigint[]) \
    ON CONFLICT (seq) DO UPDATE SET owner = excluded.owner, state = excluded.state, \
     attempt = excluded.attempt, losses = excluded.losses, epoch = excluded.epoch, \
     run_at = excluded.run_at, lease_until = excluded.lease_until, worker = excluded.worker, \
     cancel_requested = excluded.cancel_requested, last_error = excluded.last_error, \
     events = excluded.events, retries = excluded.retries";

pub(super) const ENDS: &str = "INSERT INTO task_end \
    (seq, state, finished_at, attempt, losses, epoch, result, error, events) \
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], \
     $6::bigint[], $7::text[], $8::text[], $9::bigint[])";

pub(super) const ENDED_RUNS: &str = "DELETE FROM task_run WHERE seq = ANY($1::bigint[])";

pub(super) const EVENTS: &str = "INSERT INTO task_event (seq, n, at, kind, epoch, detail) \
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], \
     $6::text[])";

pub(super) const STEPS: &str = "INSERT INTO step \
    (seq, digest, key, input, output, epoch, started_at, finished_at, cost, input_blob, \
     output_blob) \
    SELECT seq, sha256(convert_to(key, 'UTF8')), key, input, output, epoch, started_at, \
     finished_at, cost, input_blob, output_blob \
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], \
     $7::bigint[], $8::text[], $9::text[], $10::text[]) AS new \
     (seq, key, input, output, epoch, started_at, finished_at, cost, input_blob, output_blob) \
    ON CONFLICT (seq, digest) DO NOTHING";

/// A body that is there already is locked, so that nobody who is forgetting its last step
/// takes it away before this step is there.
pub(super) const BLOBS: &str = "INSERT INTO blob (hash, body) \
    SELECT * FROM unnest($1::text[], $2::text[]) \
    ON CONFLICT (hash) DO UPDATE SET hash = excluded.hash";

pub(super) const DOCUMENTS: &str = "INSERT INTO document (space, key, body, at) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) \
    ON CONFLICT (space, key) DO UPDATE SET body = excluded.body, at = excluded.at";

pub(super) const DELETED_DOCUMENTS: &str = "DELETE FROM document d \
    USING unnest($1::text[], $2::text[]) AS gone (space, key) \
    WHERE d.space = gone.space AND d.key = gone.key";

const CONTROL: &str = "INSERT INTO meta (name, value) VALUES ('control', $1) \
    ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// Ended tasks to forget, at most a thousand; tasks that a live one still refers to stay.
/// What another node is forgetting is left to it.
pub(super) const OLD: &str = "SELECT e.seq FROM task_end e JOIN task t ON t.seq = e.seq \
    WHERE e.finished_at < $1 \
    AND NOT EXISTS (SELECT 1 FROM task p JOIN task_run r ON r.seq = p.seq WHERE p.id = t.parent) \
    AND NOT EXISTS (SELECT 1 FROM task_dependency d JOIN task_run r ON r.seq = d.seq \
        WHERE d.dependency = t.id) \
    ORDER BY e.finished_at LIMIT 1000 FOR UPDATE OF e SKIP LOCKED";

/// Locks the large documents of what is forgotten. The next statement sees who refers to
/// them by then.
pub(super) const OLD_BLOBS: &str = "SELECT hash FROM blob WHERE hash IN ( \
     SELECT input_blob FROM step WHERE input_blob IS NOT NULL AND seq = ANY($1::bigint[]) \
     UNION \
     SELECT output_blob FROM step WHERE output_blob IS NOT NULL AND seq = ANY($1::bigint[])) \
    ORDER BY hash FOR UPDATE";

/// A large document goes with the last step that refers to it.
pub(super) const FORGET_BLOBS: &str = "DELETE FROM blob WHERE hash = ANY($1::text[]) \
    AND NOT EXISTS (SELECT 1 FROM step s WHERE s.input_blob = blob.hash) \
    AND NOT EXISTS (SELECT 1 FROM step s WHERE s.output_blob = blob.hash)";

pub(super) const FORGET: [&str; 7] = [
    "DELETE FROM budget WHERE scope IN \
     (SELECT 'task:' || t.id FROM task t WHERE t.seq = ANY($1::bigint[]))",
    "DELETE FROM approval WHERE seq = ANY($1::bigint[])",
    "DELETE FROM task WHERE seq = ANY($1::bigint[])",
    "DELETE FROM task_end WHERE seq = ANY($1::bigint[])",
    "DELETE FROM task_dependency WHERE seq = ANY($1::bigint[])",
    "DELETE FROM task_event WHERE seq = ANY($1::bigint[])",
    "DELETE FROM step WHERE seq = ANY($1::bigint[])",
];

/// Commits everything or, by dropping the transaction, nothing.
///
/// An error of the last statement leaves it open whether the batch was kept: the connection
/// may have ended before the answer came.
pub(super) async fn commit(
    connection: &mut PgConnection,
    node: &str,
    fence: Fence,
    changes: &Changes,
) -> Result<(), CommitError> {
    use sqlx::Connection;
    let mut transaction = connection.begin().await?;
    let to = &mut *transaction;
    let held = sqlx::query(FENCE)
        .bind(fence.boot)
        .bind(fence.session)
        .fetch_optional(&mut *to)
        .await?;
    if held.is_none() {
        return Err(CommitError::Fenced);
    }
    for piece in pieces(&changes.bodies, |body| body.payload.bytes()) {
        bodies(to, piece).await?;
        dependencies(to, piece).await?;
    }
    if !changes.reopened.is_empty() {
        let seqs: Vec<i64> = changes.reopened.iter().map(|seq| signed(*seq)).collect();
        let removed = sqlx::query(REOPENED).bind(&seqs).execute(&mut *to).await?;
        if removed.rows_affected() != seqs.len() as u64 {
            // Forgotten or reopened elsewhere since it was looked up.
            return Err(sqlx::Error::RowNotFound.into());
        }
    }
    let mut written: HashSet<u64> = changes.ends.iter().map(|(seq, _)| *seq).collect();
    // Of several rows for one task only the last is written, and none if it ended.
    let last = changes.runs.iter().rev();
    let last: Vec<&(u64, TaskRun)> = last.filter(|(seq, _)| written.insert(*seq)).collect();
    for piece in pieces(&last, |_| 0) {
        runs(to, fence.boot, piece).await?;
    }
    let size = |(_, end): &(u64, TaskEnd)| end.result.as_ref().map_or(0, |json| json.bytes());
    for piece in pieces(&changes.ends, size) {
        ends(to, piece).await?;
    }
    let size = |(.., event): &(_, _, TaskEvent)| event.detail.as_ref().map_or(0, String::len);
    for piece in pieces(&changes.events, size) {
        events(to, piece).await?;
    }
    let size = |step: &StepRow| step.key.len() + step.input.json.bytes() + step.output.json.bytes();
    for piece in pieces(&changes.steps, size) {
        steps(to, piece).await?;
    }
    ledger::write(to, node, changes).await?;
    order::write(to, node, &changes.orders, &changes.answers).await?;
    documents(to, &changes.documents).await?;
    if let Some(control) = &changes.control {
        let control =
            serde_json::to_string(control).map_err(|error| sqlx::Error::Encode(error.into()))?;
        sqlx::query(CONTROL).bind(control).execute(&mut *to).await?;
    }
    if let Some(before) = changes.prune_before {
        forget(to, signed(before.0)).await?;
        sqlx::query(order::FORGET_ORDERS).execute(&mut *to).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// Consecutive rows that fit one statement; one row too large for it goes alone.
fn pieces<T>(rows: &[T], size: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take(PIECE_ROWS_MAX).take_while(|row| {
            bytes += size(row);
            bytes <= PIECE_BYTES_MAX
        });
        let count = fits.count().max(1);
        let (piece, after) = rest.split_at_checked(count)?;
        rest = after;
        Some(piece)
    })
}

pub(super) fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

fn maybe(text: Option<&str>) -> Option<Cow<'_, str>> {
    text.map(written)
}

/// Times, counts and epochs as the database keeps them. None comes near the limit: times
/// end in the year 9999, and epochs and orders count boots in their high half.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

type Sent = Result<(), sqlx::Error>;

async fn bodies(to: &mut PgConnection, rows: &[std::sync::Arc<TaskBody>]) -> Sent {
    let depends_on = |body: &TaskBody| {
        let ids: Vec<String> = body.depends_on.iter().map(ToString::to_string).collect();
        ids.join(" ")
    };
    let mut terms: Vec<Option<String>> = Vec::with_capacity(rows.len());
    for body in rows {
        let text = body.terms.as_ref().map(serde_json::to_string).transpose();
        terms.push(text.map_err(|error| sqlx::Error::Encode(error.into()))?);
    }
    sqlx::query(BODIES)
        .bind(column(rows, |body| signed(body.seq)))
        .bind(column(rows, |body| *body.id.as_uuid()))
        .bind(column(rows, |body| written(&body.kind)))
        .bind(column(rows, |body| body.payload.as_str()))
        .bind(column(rows, |body| maybe(body.goal.as_deref())))
        .bind(column(rows, |body| body.priority.as_str()))
        .bind(column(rows, |body| written(&body.class)))
        .bind(column(rows, |body| written(&body.tenant)))
        .bind(column(rows, |body| maybe(body.idempotency_key.as_deref())))
        .bind(column(rows, |body| body.parent.map(|id| *id.as_uuid())))
        .bind(column(rows, |body| depends_on(body)))
        .bind(column(rows, |body| i64::from(body.max_attempts)))
        .bind(column(rows, |body| signed(body.submitted_at.0)))
        .bind(column(rows, |body| body.deadline.map(|at| signed(at.0))))
        .bind(terms)
        .execute(to)
        .await
        .map(drop)
}

async fn dependencies(to: &mut PgConnection, rows: &[std::sync::Arc<TaskBody>]) -> Sent {
    let pairs = rows
        .iter()
        .flat_map(|body| body.depends_on.iter().map(|on| (*on.as_uuid(), body.seq)));
    let (on, seqs): (Vec<Uuid>, Vec<i64>) = pairs.map(|(on, seq)| (on, signed(seq))).unzip();
    if on.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(DEPENDENCIES).bind(on).bind(seqs);
    query.execute(to).await.map(drop)
}

async fn runs(to: &mut PgConnection, owner: i64, rows: &[&(u64, TaskRun)]) -> Sent {
    sqlx::query(RUNS)
        .bind(owner)
        .bind(column(rows, |(seq, _)| signed(*seq)))
        .bind(column(rows, |(_, run)| run.state.as_str()))
        .bind(column(rows, |(_, run)| i64::from(run.attempt)))
        .bind(column(rows, |(_, run)| i64::from(run.losses)))
        .bind(column(rows, |(_, run)| signed(run.epoch.0)))
        .bind(column(rows, |(_, run)| signed(run.run_at.0)))
        .bind(column(rows, |(_, run)| {
            run.lease_until.map(|at| signed(at.0))
        }))
        .bind(column(rows, |(_, run)| maybe(run.worker.as_deref())))
        .bind(column(rows, |(_, run)| run.cancel_requested))
        .bind(column(rows, |(_, run)| maybe(run.last_error.as_deref())))
        .bind(column(rows, |(_, run)| signed(run.events)))
        .bind(column(rows, |(_, run)| i64::from(run.retries)))
        .execute(to)
        .await
        .map(drop)
}

async fn ends(to: &mut PgConnection, rows: &[(u64, TaskEnd)]) -> Sent {
    let seqs = column(rows, |(seq, _)| signed(*seq));
    sqlx::query(ENDS)
        .bind(&seqs)
        .bind(column(rows, |(_, end)| end.state.as_str()))
        .bind(column(rows, |(_, end)| signed(end.finished_at.0)))
        .bind(column(rows, |(_, end)| i64::from(end.attempt)))
        .bind(column(rows, |(_, end)| i64::from(end.losses)))
        .bind(column(rows, |(_, end)| signed(end.epoch.0)))
        .bind(column(rows, |(_, end)| {
            end.result.as_ref().map(|json| json.as_str())
        }))
        .bind(column(rows, |(_, end)| maybe(end.error.as_deref())))
        .bind(column(rows, |(_, end)| signed(end.events)))
        .execute(&mut *to)
        .await?;
    sqlx::query(ENDED_RUNS)
        .bind(&seqs)
        .execute(to)
        .await
        .map(drop)
}

async fn events(to: &mut PgConnection, rows: &[(crate::ids::TaskId, u64, TaskEvent)]) -> Sent {
    sqlx::query(EVENTS)
        .bind(column(rows, |(_, seq, _)| signed(*seq)))
        .bind(column(rows, |(.., event)| signed(event.n)))
        .bind(column(rows, |(.., event)| signed(event.at.0)))
        .bind(column(rows, |(.., event)| event.kind.as_str()))
        .bind(column(rows, |(.., event)| {
            event.epoch.map(|epoch| signed(epoch.0))
        }))
        .bind(column(rows, |(.., event)| maybe(event.detail.as_deref())))
        .execute(to)
        .await
        .map(drop)
}

async fn steps(to: &mut PgConnection, rows: &[StepRow]) -> Sent {
    let large = rows.iter().flat_map(|step| [&step.input, &step.output]);
    let large: BTreeMap<&str, &str> = large
        .filter_map(|content| Some((content.hash.as_ref()?.as_str(), content.json.as_str())))
        .collect();
    if !large.is_empty() {
        let (hashes, bodies): (Vec<&str>, Vec<&str>) = large.into_iter().unzip();
        let blobs = sqlx::query(BLOBS).bind(hashes).bind(bodies);
        blobs.execute(&mut *to).await?;
    }
    let mut costs: Vec<Option<String>> = Vec::with_capacity(rows.len());
    for step in rows {
        let cost = step.cost.as_ref().map(serde_json::to_string).transpose();
        costs.push(cost.map_err(|error| sqlx::Error::Encode(error.into()))?);
    }
    sqlx::query(STEPS)
        .bind(column(rows, |step| signed(step.seq)))
        .bind(column(rows, |step| written(&step.key)))
        .bind(column(rows, |step| inline(&step.input)))
        .bind(column(rows, |step| inline(&step.output)))
        .bind(column(rows, |step| signed(step.epoch.0)))
        .bind(column(rows, |step| signed(step.started_at.0)))
        .bind(column(rows, |step| signed(step.finished_at.0)))
        .bind(costs)
        .bind(column(rows, |step| {
            step.input.hash.as_ref().map(ContentHash::as_str)
        }))
        .bind(column(rows, |step| {
            step.output.hash.as_ref().map(ContentHash::as_str)
        }))
        .execute(to)
        .await
        .map(drop)
}

/// What a step's row holds of a document: nothing if it lies elsewhere.
fn inline(content: &Content) -> &str {
    match content.hash {
        Some(_) => "null",
        None => content.json.as_str(),
    }
}

/// Of several rows for one document the last counts: one statement cannot touch a row twice.
async fn documents(to: &mut PgConnection, rows: &[DocumentRow]) -> Sent {
    let last: HashMap<(&str, &str), &DocumentRow> = rows
        .iter()
        .map(|row| ((row.space, row.key.as_str()), row))
        .collect();
    // In one order everywhere, so that no two transactions wait for each other in a circle.
    let mut last: Vec<&DocumentRow> = last.into_values().collect();
    last.sort_unstable_by(|a, b| (a.space, &a.key).cmp(&(b.space, &b.key)));
    let (put, gone): (Vec<_>, Vec<_>) = last.into_iter().partition(|row| row.body.is_some());
    let size = |row: &&DocumentRow| row.body.as_ref().map_or(0, |json| json.bytes());
    for rows in pieces(&put, size) {
        sqlx::query(DOCUMENTS)
            .bind(column(rows, |row| row.space))
            .bind(column(rows, |row| written(&row.key)))
            .bind(column(rows, |row| {
                row.body.as_ref().map(|json| json.as_str())
            }))
            .bind(column(rows, |row| signed(row.at.0)))
            .execute(&mut *to)
            .await?;
    }
    for rows in pieces(&gone, |_| 0) {
        sqlx::query(DELETED_DOCUMENTS)
            .bind(column(rows, |row| row.space))
            .bind(column(rows, |row| written(&row.key)))
            .execute(&mut *to)
            .await?;
    }
    Ok(())
}

async fn forget(to: &mut PgConnection, before: i64) -> Sent {
    let old = sqlx::query(OLD).bind(before).fetch_all(&mut *to).await?;
    if old.is_empty() {
        return Ok(());
    }
    let mut seqs: Vec<i64> = Vec::with_capacity(old.len());
    for row in &old {
        seqs.push(row.try_get(0)?);
    }
    seqs.sort_unstable();
    let large = sqlx::query(OLD_BLOBS)
        .bind(&seqs)
        .fetch_all(&mut *to)
        .await?;
    let mut hashes: Vec<String> = Vec::with_capacity(large.len());
    for row in &large {
        hashes.push(row.try_get(0)?);
    }
    for statement in FORGET {
        sqlx::query(statement).bind(&seqs).execute(&mut *to).await?;
    }
    if !hashes.is_empty() {
        let blobs = sqlx::query(FORGET_BLOBS).bind(hashes);
        blobs.execute(&mut *to).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_into_pieces_that_a_statement_takes() {
        let sizes = |rows: &[usize]| -> Vec<usize> {
            pieces(rows, |row| *row).map(<[usize]>::len).collect()
        };
        assert!(sizes(&[]).is_empty());
        assert_eq!(sizes(&[1, 2, 3]), [3]);
        assert_eq!(sizes(&vec![1; PIECE_ROWS_MAX + 1]), [PIECE_ROWS_MAX, 1]);
        let half = PIECE_BYTES_MAX / 2;
        assert_eq!(sizes(&[half, half, 1, half]), [2, 2]);
        assert_eq!(sizes(&[PIECE_BYTES_MAX + 1, 1]), [1, 1], "one alone");
    }
}
