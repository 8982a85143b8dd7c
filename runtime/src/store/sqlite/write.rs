//! One transaction per batch, one prepared statement per kind of row.

use std::collections::HashSet;

use rusqlite::{Connection, Error, Statement, Transaction, TransactionBehavior, params};
use serde::Serialize;
use uuid::fmt::Hyphenated;

use super::ledger;
use crate::clock::Timestamp;
use crate::ids::TaskId;
use crate::json::Json;
use crate::store::content::{Content, ContentHash};
use crate::store::lines::Lines;
use crate::store::{Changes, DocumentRow};

const BODY: &str = "INSERT INTO task \
    (seq, id, kind, payload, goal, priority, class, tenant, idempotency_key, parent, depends_on, \
     max_attempts, submitted_at, deadline, terms, log) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";

const DEPENDENCY: &str = "INSERT INTO task_dependency (dependency, seq) VALUES (?1, ?2)";

/// What the end's row holds of the log goes to the task's.
const REOPENED: [&str; 2] = [
    "UPDATE task SET log = log || (SELECT log FROM task_end WHERE seq = ?1) \
     WHERE seq = ?1 AND EXISTS (SELECT 1 FROM task_end WHERE seq = ?1)",
    "DELETE FROM task_end WHERE seq = ?1",
];

const RUN: &str = "INSERT INTO task_run \
    (seq, state, attempt, losses, epoch, run_at, lease_until, worker, cancel_requested, \
     last_error, events, retries) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) \
    ON CONFLICT (seq) DO UPDATE SET state = excluded.state, attempt = excluded.attempt, \
     losses = excluded.losses, epoch = excluded.epoch, run_at = excluded.run_at, \
     lease_until = excluded.lease_until, worker = excluded.worker, \
     cancel_requested = excluded.cancel_requested, last_error = excluded.last_error, \
     events = excluded.events, retries = excluded.retries";

const END: &str = "INSERT INTO task_end \
    (seq, state, finished_at, attempt, losses, epoch, result, error, events, log) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

const ENDED_RUN: &str = "DELETE FROM task_run WHERE seq = ?1";

const EVENT: &str = "INSERT INTO task_event (seq, n, at, kind, epoch, detail) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

const STEP: &str = "INSERT INTO step \
    (seq, key, input, output, epoch, started_at, finished_at, cost, input_blob, output_blob) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (seq, key) DO NOTHING";

const BLOB: &str = "INSERT INTO blob (hash, body) VALUES (?1, ?2) ON CONFLICT (hash) DO NOTHING";

const DOCUMENT: &str = "INSERT INTO document (space, key, body, at) VALUES (?1, ?2, ?3, ?4) \
    ON CONFLICT (space, key) DO UPDATE SET body = excluded.body, at = excluded.at";

const DELETED_DOCUMENT: &str = "DELETE FROM document WHERE space = ?1 AND key = ?2";

const CONTROL: &str = "INSERT INTO meta (name, value) VALUES ('control', ?1) \
    ON CONFLICT (name) DO UPDATE SET value = excluded.value";

const PRUNED: &str = "CREATE TEMP TABLE IF NOT EXISTS pruned (seq INTEGER PRIMARY KEY)";

/// Ended tasks forgotten per commit; more wait for the next. The newest task stays, so that
/// its order of acceptance is not given again; and so do tasks that a live one refers to, and
/// everything above a task that is kept, which may spend from their budgets.
const PRUNE: &str = "INSERT INTO pruned SELECT e.seq \
     FROM task_end e INDEXED BY task_end_age CROSS JOIN task t ON t.seq = e.seq \
     WHERE e.finished_at < ?1 AND +e.seq < (SELECT max(seq) FROM task) \
     AND NOT EXISTS (SELECT 1 FROM task p JOIN task_run r ON r.seq = p.seq WHERE p.id = t.parent) \
     AND NOT EXISTS (SELECT 1 FROM task c WHERE c.parent = t.id) \
     AND NOT EXISTS (SELECT 1 FROM task_dependency d JOIN task_run r ON r.seq = d.seq \
         WHERE d.dependency = t.id) \
     LIMIT 1000";

/// Large documents go with the last step that refers to them.
const PRUNE_BLOBS: &str = "DELETE FROM blob WHERE hash IN ( \
     SELECT input_blob FROM step WHERE input_blob IS NOT NULL AND seq IN (SELECT seq FROM pruned) \
     UNION ALL \
     SELECT output_blob FROM step WHERE output_blob IS NOT NULL AND seq IN (SELECT seq FROM pruned)) \
    AND NOT EXISTS (SELECT 1 FROM step s WHERE s.input_blob = blob.hash \
     AND s.input_blob IS NOT NULL AND s.seq NOT IN (SELECT seq FROM pruned)) \
    AND NOT EXISTS (SELECT 1 FROM step s WHERE s.output_blob = blob.hash \
     AND s.output_blob IS NOT NULL AND s.seq NOT IN (SELECT seq FROM pruned))";

const PRUNE_REST: [&str; 9] = [
    PRUNE_BLOBS,
    "DELETE FROM approval WHERE seq IN (SELECT seq FROM pruned)",
    "DELETE FROM budget WHERE scope IN \
     (SELECT 'task:' || t.id FROM task t JOIN pruned p ON p.seq = t.seq)",
    "DELETE FROM task WHERE seq IN (SELECT seq FROM pruned)",
    "DELETE FROM task_end WHERE seq IN (SELECT seq FROM pruned)",
    "DELETE FROM task_dependency WHERE seq IN (SELECT seq FROM pruned)",
    "DELETE FROM task_event WHERE seq IN (SELECT seq FROM pruned)",
    "DELETE FROM step WHERE seq IN (SELECT seq FROM pruned)",
    "DELETE FROM pruned",
];

/// Commits everything or, by dropping the transaction, nothing.
pub(super) fn commit(connection: &mut Connection, changes: &Changes) -> Result<(), Error> {
    if changes.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let lines = Lines::of(changes);
    bodies(&transaction, changes, &lines)?;
    reopened(&transaction, changes)?;
    runs(&transaction, changes)?;
    ends(&transaction, changes, &lines)?;
    events(&transaction, &lines)?;
    steps(&transaction, changes)?;
    ledger::write(&transaction, changes)?;
    documents(&transaction, &changes.documents)?;
    if let Some(control) = &changes.control {
        let control = serde_json::to_string(control)
            .map_err(|error| Error::ToSqlConversionFailure(error.into()))?;
        transaction.prepare_cached(CONTROL)?.execute([control])?;
    }
    if let Some(before) = changes.prune_before {
        prune(&transaction, before)?;
    }
    transaction.commit()
}

/// As SQLite keeps whole numbers. All of ours are below 2⁶³: times are, and the rest counts.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn at(time: Option<Timestamp>) -> Option<i64> {
    time.map(|time| signed(time.0))
}

fn hyphenated(id: TaskId, buffer: &mut [u8; Hyphenated::LENGTH]) -> &str {
    id.as_uuid().hyphenated().encode_lower(buffer)
}

fn bodies(
    transaction: &Transaction<'_>,
    changes: &Changes,
    lines: &Lines<'_>,
) -> Result<(), Error> {
    if changes.bodies.is_empty() {
        return Ok(());
    }
    let mut insert = transaction.prepare_cached(BODY)?;
    let (mut id, mut parent) = ([0; Hyphenated::LENGTH], [0; Hyphenated::LENGTH]);
    for body in &changes.bodies {
        let depends_on: Vec<String> = body.depends_on.iter().map(ToString::to_string).collect();
        let terms = body.terms.as_ref().map(serde_json::to_string).transpose();
        insert.execute(params![
            signed(body.seq),
            hyphenated(body.id, &mut id),
            &*body.kind,
            body.payload.as_str(),
            body.goal,
            body.priority.as_str(),
            &*body.class,
            &*body.tenant,
            body.idempotency_key,
            body.parent.map(|id| hyphenated(id, &mut parent)),
            depends_on.join(" "),
            body.max_attempts,
            signed(body.submitted_at.0),
            at(body.deadline),
            terms.map_err(|error| Error::ToSqlConversionFailure(error.into()))?,
            lines.accepted(body.seq),
        ])?;
        if !depends_on.is_empty() {
            let mut insert = transaction.prepare_cached(DEPENDENCY)?;
            for dependency in depends_on {
                insert.execute(params![dependency, signed(body.seq)])?;
            }
        }
    }
    Ok(())
}

fn reopened(transaction: &Transaction<'_>, changes: &Changes) -> Result<(), Error> {
    for seq in &changes.reopened {
        for statement in REOPENED {
            let touched = transaction
                .prepare_cached(statement)?
                .execute([signed(*seq)])?;
            if touched != 1 {
                // Forgotten since it was looked up; its run would be without a body.
                return Err(Error::QueryReturnedNoRows);
            }
        }
    }
    Ok(())
}

/// Of several rows for one task only the last is written, and none if it ended.
fn runs(transaction: &Transaction<'_>, changes: &Changes) -> Result<(), Error> {
    if changes.runs.is_empty() {
        return Ok(());
    }
    let mut put = transaction.prepare_cached(RUN)?;
    let mut settled: HashSet<u64> = changes.ends.iter().map(|(seq, _)| *seq).collect();
    let mut last: Vec<_> = changes.runs.iter().rev().collect();
    last.retain(|(seq, _)| settled.insert(*seq));
    // In order of acceptance the rows land beside each other.
    for (seq, run) in last.into_iter().rev() {
        put.execute(params![
            signed(*seq),
            run.state.as_str(),
            run.attempt,
            run.losses,
            signed(run.epoch.0),
            signed(run.run_at.0),
            at(run.lease_until),
            run.worker.as_deref(),
            run.cancel_requested,
            run.last_error,
            signed(run.events),
            run.retries,
        ])?;
    }
    Ok(())
}

fn ends(transaction: &Transaction<'_>, changes: &Changes, lines: &Lines<'_>) -> Result<(), Error> {
    if changes.ends.is_empty() {
        return Ok(());
    }
    let mut insert = transaction.prepare_cached(END)?;
    let mut remove = transaction.prepare_cached(ENDED_RUN)?;
    for (seq, end) in &changes.ends {
        insert.execute(params![
            signed(*seq),
            end.state.as_str(),
            signed(end.finished_at.0),
            end.attempt,
            end.losses,
            signed(end.epoch.0),
            end.result.as_ref().map(Json::as_str),
            end.error,
            signed(end.events),
            lines.ended(*seq),
        ])?;
        remove.execute([signed(*seq)])?;
    }
    Ok(())
}

fn events(transaction: &Transaction<'_>, lines: &Lines<'_>) -> Result<(), Error> {
    if lines.between.is_empty() {
        return Ok(());
    }
    let mut insert = transaction.prepare_cached(EVENT)?;
    for (seq, event) in &lines.between {
        insert.execute(params![
            signed(*seq),
            signed(event.n),
            signed(event.at.0),
            event.kind.as_str(),
            event.epoch.map(|epoch| signed(epoch.0)),
            event.detail,
        ])?;
    }
    Ok(())
}

fn steps(transaction: &Transaction<'_>, changes: &Changes) -> Result<(), Error> {
    if changes.steps.is_empty() {
        return Ok(());
    }
    let mut insert = transaction.prepare_cached(STEP)?;
    for step in &changes.steps {
        for content in [&step.input, &step.output] {
            if let Some(hash) = &content.hash {
                let mut insert = transaction.prepare_cached(BLOB)?;
                insert.execute(params![hash.as_str(), content.json.as_str()])?;
            }
        }
        insert.execute(params![
            signed(step.seq),
            step.key,
            inline(&step.input),
            inline(&step.output),
            signed(step.epoch.0),
            signed(step.started_at.0),
            signed(step.finished_at.0),
            step.cost.as_ref().map(text).transpose()?,
            step.input.hash.as_ref().map(ContentHash::as_str),
            step.output.hash.as_ref().map(ContentHash::as_str),
        ])?;
    }
    Ok(())
}

/// What a step's row holds of a document: nothing if it lies elsewhere.
fn inline(content: &Content) -> &str {
    match content.hash {
        Some(_) => "null",
        None => content.json.as_str(),
    }
}

/// A value as the text of its JSON.
pub(super) fn text<T: Serialize>(value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::ToSqlConversionFailure(error.into()))
}

/// Puts and deletions, in their order.
fn documents(transaction: &Transaction<'_>, documents: &[DocumentRow]) -> Result<(), Error> {
    if documents.is_empty() {
        return Ok(());
    }
    let mut put = transaction.prepare_cached(DOCUMENT)?;
    let mut delete = transaction.prepare_cached(DELETED_DOCUMENT)?;
    for row in documents {
        match &row.body {
            Some(body) => {
                put.execute(params![row.space, row.key, body.as_str(), signed(row.at.0)])?
            }
            None => delete.execute(params![row.space, row.key])?,
        };
    }
    Ok(())
}

fn prune(transaction: &Transaction<'_>, before: Timestamp) -> Result<(), Error> {
    prunable(transaction)?.execute([signed(before.0)])?;
    for statement in PRUNE_REST {
        transaction.prepare_cached(statement)?.execute([])?;
    }
    Ok(())
}

/// The statement that gathers what may be forgotten.
fn prunable(connection: &Connection) -> Result<Statement<'_>, Error> {
    connection.execute(PRUNED, [])?;
    connection.prepare(PRUNE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How SQLite goes about gathering what may be forgotten.
    #[test]
    fn forgetting_asks_the_indexes() {
        let connection = Connection::open_in_memory().expect("memory");
        for migration in super::super::MIGRATOR.iter() {
            let sql = migration.sql.as_str();
            connection.execute_batch(sql).expect("a schema");
        }
        drop(prunable(&connection).expect("understood"));
        let mut explain = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {PRUNE}"))
            .expect("understood");
        let plan: Vec<String> = explain
            .query_map([5], |row| row.get("detail"))
            .expect("a plan")
            .collect::<Result<_, _>>()
            .expect("lines");
        assert!(
            plan.iter().any(|line| line.contains("task_end_age")),
            "{plan:?}"
        );
        assert!(
            !plan.iter().any(|line| line.starts_with("SCAN")),
            "{plan:?}"
        );
    }
}
