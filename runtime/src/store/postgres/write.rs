//! One transaction per batch, and one statement for the rows that most batches consist of
//! ([`rows`]); the others have a statement per kind of row. Rows travel as arrays.
//!
//! Every statement finds its rows by key; none looks at a column that changes, so that no
//! plan made from statistics of yesterday can turn into a scan (QUEUE-like tables are empty
//! one moment and full the next). The connection forbids scans besides, see `super::connect`.

mod rows;
pub(super) mod statements;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::{PgConnection, Row};

use super::fund;
use super::ledger;
use super::order;
use super::text::written;
use crate::queue::task::TaskRun;
use crate::store::lines::Lines;
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

/// What the end's row holds of the log goes to the task's.
pub(super) const REOPENED: &str = "WITH removed AS \
    (DELETE FROM task_end WHERE seq = ANY($1::bigint[]) RETURNING seq, log) \
    UPDATE task t SET log = t.log || removed.log FROM removed WHERE t.seq = removed.seq";

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

/// Ended tasks to forget, at most a thousand; tasks that a live one still refers to stay, and
/// so does everything above a task that is kept: it may spend from their budgets.
/// What another node is forgetting is left to it.
pub(super) const OLD: &str = "SELECT e.seq FROM task_end e JOIN task t ON t.seq = e.seq \
    WHERE e.finished_at < $1 \
    AND NOT EXISTS (SELECT 1 FROM task p JOIN task_run r ON r.seq = p.seq WHERE p.id = t.parent) \
    AND NOT EXISTS (SELECT 1 FROM task c WHERE c.parent = t.id) \
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

/// Commits everything or nothing: what most batches hold in one statement that is its own
/// transaction, so in one trip to the server; anything else in a transaction around it.
///
/// An error of that statement, or of the transaction's last, leaves it open whether the batch
/// was kept: the connection may have ended before the answer came.
pub(super) async fn commit(
    connection: &mut PgConnection,
    node: &str,
    fence: Fence,
    changes: &Changes,
) -> Result<(), CommitError> {
    let lines = Lines::of(changes);
    let mut written: HashSet<u64> = changes.ends.iter().map(|(seq, _)| *seq).collect();
    // Of several rows for one task only the last is written, and none if it ended.
    let last = changes.runs.iter().rev();
    let last = last.filter(|(seq, _)| written.insert(*seq));
    // No row can be there for a task that is only being accepted.
    let (fresh, standing): (Vec<&(u64, TaskRun)>, Vec<_>) =
        last.partition(|(seq, run)| rows::is_fresh(run) && lines.is_accepted(*seq));
    let statements = rows::statements(changes, &fresh, &standing, &written, &lines);
    if let ([statement], true) = (&statements[..], rows::are_all(changes)) {
        return statement.run(connection, fence).await;
    }
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
    if !changes.reopened.is_empty() {
        let seqs: Vec<i64> = changes.reopened.iter().map(|seq| signed(*seq)).collect();
        let removed = sqlx::query(REOPENED).bind(&seqs).execute(&mut *to).await?;
        if removed.rows_affected() != seqs.len() as u64 {
            // Forgotten or reopened elsewhere since it was looked up.
            return Err(sqlx::Error::RowNotFound.into());
        }
    }
    for piece in pieces(&changes.steps, rows::step_bytes) {
        blobs(to, piece).await?;
    }
    for statement in &statements {
        statement.run(to, fence).await?;
    }
    ledger::write(to, node, changes).await?;
    fund::write(to, fence.boot, changes).await?;
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

async fn blobs(to: &mut PgConnection, rows: &[StepRow]) -> Sent {
    let large = rows.iter().flat_map(|step| [&step.input, &step.output]);
    let large: BTreeMap<&str, &str> = large
        .filter_map(|content| Some((content.hash.as_ref()?.as_str(), content.json.as_str())))
        .collect();
    if large.is_empty() {
        return Ok(());
    }
    let (hashes, bodies): (Vec<&str>, Vec<&str>) = large.into_iter().unzip();
    let blobs = sqlx::query(BLOBS).bind(hashes).bind(bodies);
    blobs.execute(to).await.map(drop)
}

/// Of several rows for one document the last counts: one statement cannot touch a row twice.
pub(super) async fn documents(to: &mut PgConnection, rows: &[DocumentRow]) -> Sent {
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
