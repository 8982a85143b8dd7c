//! One transaction per batch, one statement per kind of row.

use std::collections::HashSet;

use serde::Serialize;
use sqlx::{Connection, SqliteConnection};

use crate::queue::budget::Period;
use crate::store::Changes;
use crate::store::content::{Content, ContentHash};

const BODIES: &str = "INSERT INTO task \
    (seq, id, kind, payload, goal, priority, class, tenant, idempotency_key, parent, depends_on, \
     max_attempts, submitted_at, deadline, terms) \
    SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, \
     value->>7, value->>8, value->>9, value->>10, value->>11, value->>12, value->>13, value->>14 \
    FROM jsonb_each($1)";

const DEPENDENCIES: &str = "INSERT INTO task_dependency (dependency, seq) \
    SELECT value->>0, value->>1 FROM jsonb_each($1)";

const REOPENED: &str = "DELETE FROM task_end WHERE seq IN (SELECT value FROM json_each($1))";

const RUNS: &str = "INSERT INTO task_run \
    (seq, state, attempt, losses, epoch, run_at, lease_until, worker, cancel_requested, \
     last_error, events, retries) \
    SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, \
     value->>7, value->>8, value->>9, value->>10, value->>11 \
    FROM jsonb_each($1) WHERE true \
    ON CONFLICT (seq) DO UPDATE SET state = excluded.state, attempt = excluded.attempt, \
     losses = excluded.losses, epoch = excluded.epoch, run_at = excluded.run_at, \
     lease_until = excluded.lease_until, worker = excluded.worker, \
     cancel_requested = excluded.cancel_requested, last_error = excluded.last_error, \
     events = excluded.events, retries = excluded.retries";

const ENDS: &str = "INSERT INTO task_end \
    (seq, state, finished_at, attempt, losses, epoch, result, error, events) \
    SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, \
     value->>7, value->>8 \
    FROM jsonb_each($1)";

const ENDED_RUNS: &str = "DELETE FROM task_run WHERE seq IN (SELECT value->>0 FROM jsonb_each($1))";

const EVENTS: &str = "INSERT INTO task_event (seq, n, at, kind, epoch, detail) \
    SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5 FROM jsonb_each($1)";

const STEPS: &str = "INSERT INTO step \
    (seq, key, input, output, epoch, started_at, finished_at, cost, input_blob, output_blob) \
    SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, \
     value->>7, value->>8, value->>9 \
    FROM jsonb_each($1) WHERE true \
    ON CONFLICT (seq, key) DO NOTHING";

const BLOBS: &str = "INSERT INTO blob (hash, body) \
    SELECT value->>0, value->>1 FROM jsonb_each($1) WHERE true \
    ON CONFLICT (hash) DO NOTHING";

// Limits and amounts are objects; `->>` takes their text.
const BUDGETS: &str = "INSERT INTO budget (scope, limits, period, since, spent, granted) \
    SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5 \
    FROM jsonb_each($1) WHERE true \
    ON CONFLICT (scope) DO UPDATE SET limits = excluded.limits, period = excluded.period, \
     since = excluded.since, spent = excluded.spent, granted = excluded.granted";

const RESERVATIONS: &str = "INSERT INTO reservation (id, seq, key, estimate, scopes) \
    SELECT value->>0, value->>1, value->>2, value->>3, value->>4 FROM jsonb_each($1)";

const RESERVATIONS_ENDED: &str =
    "DELETE FROM reservation WHERE id IN (SELECT value FROM json_each($1))";

const APPROVALS: &str = "INSERT INTO approval \
    (id, seq, state, asked_at, expires_at, token_hash, request, decision) \
    SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, \
     value->>7 \
    FROM jsonb_each($1) WHERE true \
    ON CONFLICT (id) DO UPDATE SET state = excluded.state, decision = excluded.decision";

const DOCUMENTS: &str = "INSERT INTO document (space, key, body, at) \
    SELECT value->>0, value->>1, value->>2, value->>3 FROM jsonb_each($1) WHERE true \
    ON CONFLICT (space, key) DO UPDATE SET body = excluded.body, at = excluded.at";

const DELETED_DOCUMENTS: &str = "DELETE FROM document WHERE (space, key) IN \
    (SELECT value->>0, value->>1 FROM jsonb_each($1))";

const CONTROL: &str = "INSERT INTO meta (name, value) VALUES ('control', $1) \
    ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// Ended tasks forgotten per commit; more wait for the next.
pub(super) const PRUNE: [&str; 5] = [
    "CREATE TEMP TABLE IF NOT EXISTS pruned (seq INTEGER PRIMARY KEY)",
    // The newest task stays, so that its order of acceptance is not given again; and so do
    // tasks that a live one still refers to.
    "INSERT INTO pruned SELECT e.seq \
     FROM task_end e INDEXED BY task_end_age CROSS JOIN task t ON t.seq = e.seq \
     WHERE e.finished_at < CAST($1 AS INTEGER) AND +e.seq < (SELECT max(seq) FROM task) \
     AND NOT EXISTS (SELECT 1 FROM task p JOIN task_run r ON r.seq = p.seq WHERE p.id = t.parent) \
     AND NOT EXISTS (SELECT 1 FROM task_dependency d JOIN task_run r ON r.seq = d.seq \
         WHERE d.dependency = t.id) \
     LIMIT 1000",
    "DELETE FROM budget WHERE scope IN \
     (SELECT 'task:' || t.id FROM task t JOIN pruned p ON p.seq = t.seq)",
    "DELETE FROM task WHERE seq IN (SELECT seq FROM pruned)",
    "DELETE FROM task_end WHERE seq IN (SELECT seq FROM pruned)",
];
pub(super) const PRUNE_BLOBS: &str = "DELETE FROM blob WHERE hash IN ( \
     SELECT input_blob FROM step WHERE input_blob IS NOT NULL AND seq IN (SELECT seq FROM pruned) \
     UNION ALL \
     SELECT output_blob FROM step WHERE output_blob IS NOT NULL AND seq IN (SELECT seq FROM pruned)) \
    AND NOT EXISTS (SELECT 1 FROM step s WHERE s.input_blob = blob.hash \
     AND s.input_blob IS NOT NULL AND s.seq NOT IN (SELECT seq FROM pruned)) \
    AND NOT EXISTS (SELECT 1 FROM step s WHERE s.output_blob = blob.hash \
     AND s.output_blob IS NOT NULL AND s.seq NOT IN (SELECT seq FROM pruned))";
const PRUNE_REST: [&str; 6] = [
    PRUNE_BLOBS,
    "DELETE FROM approval WHERE seq IN (SELECT seq FROM pruned)",
    "DELETE FROM task_dependency WHERE seq IN (SELECT seq FROM pruned)",
    "DELETE FROM task_event WHERE seq IN (SELECT seq FROM pruned)",
    "DELETE FROM step WHERE seq IN (SELECT seq FROM pruned)",
    "DELETE FROM pruned",
];

/// Commits everything or, by dropping the transaction, nothing.
pub(super) async fn commit(
    connection: &mut SqliteConnection,
    changes: &Changes,
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    rows(&mut transaction, BODIES, bodies(changes)).await?;
    rows(&mut transaction, DEPENDENCIES, dependencies(changes)).await?;
    if !changes.reopened.is_empty() {
        let removed = sqlx::query(REOPENED)
            .bind(encode(&changes.reopened)?)
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        if removed != changes.reopened.len() as u64 {
            // Forgotten since it was looked up; its run would be without a body.
            return Err(sqlx::Error::RowNotFound);
        }
    }
    rows(&mut transaction, RUNS, runs(changes)).await?;
    let ends = ends(changes);
    if !ends.is_empty() {
        let ends = encode(&ends)?;
        run(&mut transaction, ENDS, ends.clone()).await?;
        run(&mut transaction, ENDED_RUNS, ends).await?;
    }
    rows(&mut transaction, EVENTS, events(changes)).await?;
    rows(&mut transaction, BLOBS, blobs(changes)).await?;
    rows(&mut transaction, STEPS, steps(changes)).await?;
    rows(&mut transaction, BUDGETS, budgets(changes)).await?;
    rows(&mut transaction, RESERVATIONS, reservations(changes)).await?;
    if !changes.reservations_ended.is_empty() {
        let ended = encode(&changes.reservations_ended)?;
        run(&mut transaction, RESERVATIONS_ENDED, ended).await?;
    }
    rows(&mut transaction, APPROVALS, approvals(changes)).await?;
    documents(&mut transaction, changes).await?;
    if let Some(control) = &changes.control {
        run(&mut transaction, CONTROL, encode(control)?).await?;
    }
    if let Some(before) = changes.prune_before {
        for statement in PRUNE.into_iter().chain(PRUNE_REST) {
            let query = sqlx::query(statement);
            let takes_time = statement.contains("$1");
            let query = if takes_time {
                query.bind(before.0.to_string())
            } else {
                query
            };
            query.execute(&mut *transaction).await?;
        }
    }
    transaction.commit().await
}

async fn rows<T: Serialize>(
    connection: &mut SqliteConnection,
    statement: &'static str,
    rows: Vec<T>,
) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    run(connection, statement, encode(&rows)?).await
}

async fn run(
    connection: &mut SqliteConnection,
    statement: &'static str,
    argument: String,
) -> Result<(), sqlx::Error> {
    sqlx::query(statement)
        .bind(argument)
        .execute(connection)
        .await
        .map(drop)
}

fn encode<T: Serialize>(value: &T) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

fn bodies(changes: &Changes) -> Vec<impl Serialize + '_> {
    changes
        .bodies
        .iter()
        .map(|body| {
            let depends_on: Vec<String> = body.depends_on.iter().map(ToString::to_string).collect();
            (
                body.seq,
                body.id,
                &body.kind,
                body.payload.as_str(),
                &body.goal,
                body.priority.as_str(),
                &body.class,
                &body.tenant,
                &body.idempotency_key,
                body.parent,
                depends_on.join(" "),
                body.max_attempts,
                body.submitted_at,
                body.deadline,
                // An object; `->>` takes its text.
                &body.terms,
            )
        })
        .collect()
}

fn dependencies(changes: &Changes) -> Vec<impl Serialize + '_> {
    changes
        .bodies
        .iter()
        .flat_map(|body| body.depends_on.iter().map(|on| (*on, body.seq)))
        .collect()
}

/// Of several rows for one task only the last is written, and none if it ended.
fn runs(changes: &Changes) -> Vec<impl Serialize + '_> {
    let mut written: HashSet<u64> = changes.ends.iter().map(|(seq, _)| *seq).collect();
    let last = changes.runs.iter().rev();
    last.filter(|(seq, _)| written.insert(*seq))
        .map(|(seq, run)| {
            (
                seq,
                run.state.as_str(),
                run.attempt,
                run.losses,
                run.epoch,
                run.run_at,
                run.lease_until,
                &run.worker,
                u8::from(run.cancel_requested),
                &run.last_error,
                run.events,
                run.retries,
            )
        })
        .collect()
}

fn ends(changes: &Changes) -> Vec<impl Serialize + '_> {
    changes
        .ends
        .iter()
        .map(|(seq, end)| {
            (
                seq,
                end.state.as_str(),
                end.finished_at,
                end.attempt,
                end.losses,
                end.epoch,
                end.result.as_ref().map(crate::json::Json::as_str),
                &end.error,
                end.events,
            )
        })
        .collect()
}

fn events(changes: &Changes) -> Vec<impl Serialize + '_> {
    changes
        .events
        .iter()
        .map(|(_, seq, event)| {
            (
                seq,
                event.n,
                event.at,
                event.kind.as_str(),
                event.epoch,
                &event.detail,
            )
        })
        .collect()
}

fn steps(changes: &Changes) -> Vec<impl Serialize + '_> {
    changes
        .steps
        .iter()
        .map(|step| {
            (
                step.seq,
                &step.key,
                inline(&step.input),
                inline(&step.output),
                step.epoch,
                step.started_at,
                step.finished_at,
                // An object; `->>` takes its text.
                &step.cost,
                step.input.hash.as_ref().map(ContentHash::as_str),
                step.output.hash.as_ref().map(ContentHash::as_str),
            )
        })
        .collect()
}

/// What a step's row holds of a document: nothing if it lies elsewhere.
fn inline(content: &Content) -> &str {
    match content.hash {
        Some(_) => "null",
        None => content.json.as_str(),
    }
}

/// Of several rows for one scope only the last is written.
fn budgets(changes: &Changes) -> Vec<impl Serialize + '_> {
    let mut written = HashSet::new();
    let last = changes.budgets.iter().rev();
    last.filter(|row| written.insert(&row.scope))
        .map(|row| {
            let period = row.period.map(Period::as_str);
            (
                &row.scope,
                row.limits,
                period,
                row.since,
                row.spent,
                row.granted,
            )
        })
        .collect()
}

fn reservations(changes: &Changes) -> Vec<impl Serialize + '_> {
    changes
        .reservations
        .iter()
        .map(|row| (row.id, row.seq, &row.key, row.estimate, &row.scopes))
        .collect()
}

fn approvals(changes: &Changes) -> Vec<impl Serialize + '_> {
    changes
        .approvals
        .iter()
        .map(|row| {
            (
                row.id,
                row.seq,
                row.state.as_str(),
                row.asked_at,
                row.expires_at,
                &row.token_hash,
                &row.request,
                &row.decision,
            )
        })
        .collect()
}

/// The large documents of steps.
fn blobs(changes: &Changes) -> Vec<impl Serialize + '_> {
    changes
        .steps
        .iter()
        .flat_map(|step| [&step.input, &step.output])
        .filter_map(|content| Some((content.hash.as_ref()?.as_str(), content.json.as_str())))
        .collect()
}

/// Puts and deletions in their order: a run of either is one statement.
async fn documents(
    connection: &mut SqliteConnection,
    changes: &Changes,
) -> Result<(), sqlx::Error> {
    for batch in changes
        .documents
        .chunk_by(|a, b| a.body.is_some() == b.body.is_some())
    {
        let statement = if batch[0].body.is_some() {
            DOCUMENTS
        } else {
            DELETED_DOCUMENTS
        };
        let batch: Vec<_> = batch
            .iter()
            .map(|row| {
                let body = row.body.as_ref().map(crate::json::Json::as_str);
                (row.space, &row.key, body, row.at)
            })
            .collect();
        rows(connection, statement, batch).await?;
    }
    Ok(())
}
