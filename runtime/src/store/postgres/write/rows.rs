//! Tasks accepted, tasks as they stand, ends, lines of logs and steps: in one statement.
//!
//! A trip to the server costs more than the rows of a small batch, and a statement outside of
//! a transaction commits as it ends. Every part takes its rows together with the fence's, so
//! without the fence nothing is written, and the fence's lock is held to the end. The parts
//! see the same state and come in no order, so no two of them may touch the same row.

use std::sync::Arc;

use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{CommitError, Fence, column, maybe, pieces, signed, written};
use crate::queue::task::{TaskBody, TaskEnd, TaskEvent, TaskRun};
use crate::store::content::{Content, ContentHash};
use crate::store::lines::Lines;
use crate::store::{Changes, StepRow};

pub(in super::super) const ROWS: &str = "WITH held AS MATERIALIZED \
    (SELECT boot FROM life WHERE boot = $1 AND session = $2 AND NOT ended FOR KEY SHARE), \
    accepted AS (INSERT INTO task \
     (seq, id, kind, payload, goal, priority, class, tenant, idempotency_key, parent, \
      depends_on, max_attempts, submitted_at, deadline, terms, log) \
     SELECT new.* FROM held, unnest($3::bigint[], $4::uuid[], $5::text[], $6::text[], \
      $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::uuid[], $13::text[], \
      $14::bigint[], $15::bigint[], $16::bigint[], $17::text[], $18::text[]) AS new), \
    dependencies AS (INSERT INTO task_dependency (dependency, seq) \
     SELECT new.* FROM held, unnest($19::uuid[], $20::bigint[]) AS new), \
    standing AS (INSERT INTO task_run \
     (owner, seq, state, attempt, losses, epoch, run_at, lease_until, worker, \
      cancel_requested, last_error, events, retries) \
     SELECT held.boot, new.* FROM held, unnest($21::bigint[], $22::text[], $23::bigint[], \
      $24::bigint[], $25::bigint[], $26::bigint[], $27::bigint[], $28::text[], $29::boolean[], \
      $30::text[], $31::bigint[], $32::bigint[]) AS new \
     ON CONFLICT (seq) DO UPDATE SET owner = excluded.owner, state = excluded.state, \
      attempt = excluded.attempt, losses = excluded.losses, epoch = excluded.epoch, \
      run_at = excluded.run_at, lease_until = excluded.lease_until, worker = excluded.worker, \
      cancel_requested = excluded.cancel_requested, last_error = excluded.last_error, \
      events = excluded.events, retries = excluded.retries), \
    ends AS (INSERT INTO task_end \
     (seq, state, finished_at, attempt, losses, epoch, result, error, events, log) \
     SELECT new.* FROM held, unnest($33::bigint[], $34::text[], $35::bigint[], $36::bigint[], \
      $37::bigint[], $38::bigint[], $39::text[], $40::text[], $41::bigint[], $42::text[]) AS new), \
    ended AS (DELETE FROM task_run r USING held WHERE r.seq = ANY($33::bigint[])), \
    lines AS (INSERT INTO task_event (seq, n, at, kind, epoch, detail) \
     SELECT new.* FROM held, unnest($43::bigint[], $44::bigint[], $45::bigint[], $46::text[], \
      $47::bigint[], $48::text[]) AS new), \
    steps AS (INSERT INTO step (seq, digest, key, input, output, epoch, started_at, finished_at, \
      cost, input_blob, output_blob) \
     SELECT new.seq, sha256(convert_to(new.key, 'UTF8')), new.key, new.input, new.output, \
      new.epoch, new.started_at, new.finished_at, new.cost, new.input_blob, new.output_blob \
     FROM held, unnest($49::bigint[], $50::text[], $51::text[], $52::text[], $53::bigint[], \
      $54::bigint[], $55::bigint[], $56::text[], $57::text[], $58::text[]) AS new \
      (seq, key, input, output, epoch, started_at, finished_at, cost, input_blob, output_blob) \
     ON CONFLICT (seq, digest) DO NOTHING) \
    SELECT count(*) FROM held";

/// What one statement writes.
pub(super) struct Rows<'a> {
    accepted: &'a [Arc<TaskBody>],
    standing: &'a [&'a (u64, TaskRun)],
    ends: &'a [(u64, TaskEnd)],
    between: &'a [(u64, &'a TaskEvent)],
    steps: &'a [StepRow],
    lines: &'a Lines<'a>,
}

/// Whether `changes` are nothing but rows of this statement. Every field is named: one that
/// is forgotten here would be acknowledged and not written.
pub(super) fn are_all(changes: &Changes) -> bool {
    let Changes {
        bodies: _,
        runs: _,
        ends: _,
        events: _,
        steps,
        reopened,
        budgets,
        reservations,
        reservations_ended,
        charges,
        grants,
        approvals,
        documents,
        orders,
        answers,
        handed_over,
        taken_in,
        control,
        prune_before,
    } = changes;
    let large = |step: &StepRow| step.input.hash.is_some() || step.output.hash.is_some();
    !steps.iter().any(large)
        && reopened.is_empty()
        && budgets.is_empty()
        && reservations.is_empty()
        && reservations_ended.is_empty()
        && charges.is_empty()
        && grants.is_empty()
        && approvals.is_empty()
        && documents.is_empty()
        && orders.is_empty()
        && answers.is_empty()
        && handed_over.is_empty()
        && taken_in.is_empty()
        && control.is_none()
        && prune_before.is_none()
}

/// Bytes of a step that may be many.
pub(super) fn step_bytes(step: &StepRow) -> usize {
    step.key.len() + step.input.json.bytes() + step.output.json.bytes()
}

/// All of `changes` that this statement writes, in as many statements as it takes: mostly one.
/// `last` are those of its runs that count.
pub(super) fn statements<'a>(
    changes: &'a Changes,
    last: &'a [&'a (u64, TaskRun)],
    lines: &'a Lines<'a>,
) -> Vec<Rows<'a>> {
    let mut accepted = pieces(&changes.bodies, |body| body.payload.bytes());
    let mut standing = pieces(last, |_| 0);
    let size = |(_, end): &(u64, TaskEnd)| end.result.as_ref().map_or(0, |json| json.bytes());
    let mut ends = pieces(&changes.ends, size);
    let size = |(_, line): &(u64, &TaskEvent)| line.detail.as_ref().map_or(0, String::len);
    let mut between = pieces(&lines.between, size);
    let mut steps = pieces(&changes.steps, step_bytes);
    let next = || {
        let parts = (
            accepted.next(),
            standing.next(),
            ends.next(),
            between.next(),
            steps.next(),
        );
        if let (None, None, None, None, None) = parts {
            return None;
        }
        Some(Rows {
            accepted: parts.0.unwrap_or_default(),
            standing: parts.1.unwrap_or_default(),
            ends: parts.2.unwrap_or_default(),
            between: parts.3.unwrap_or_default(),
            steps: parts.4.unwrap_or_default(),
            lines,
        })
    };
    std::iter::from_fn(next).collect()
}

impl Rows<'_> {
    /// Writes them if the fence holds.
    pub(super) async fn run(&self, to: &mut PgConnection, fence: Fence) -> Result<(), CommitError> {
        let Self {
            accepted,
            standing,
            ends,
            between,
            steps,
            lines,
        } = self;
        let dependencies = accepted
            .iter()
            .flat_map(|body| body.depends_on.iter().map(|on| (*on.as_uuid(), body.seq)));
        let (on, dependants): (Vec<Uuid>, Vec<i64>) =
            dependencies.map(|(on, seq)| (on, signed(seq))).unzip();
        let query = sqlx::query(ROWS)
            .bind(fence.boot)
            .bind(fence.session)
            .bind(column(accepted, |body| signed(body.seq)))
            .bind(column(accepted, |body| *body.id.as_uuid()))
            .bind(column(accepted, |body| written(&body.kind)))
            .bind(column(accepted, |body| body.payload.as_str()))
            .bind(column(accepted, |body| maybe(body.goal.as_deref())))
            .bind(column(accepted, |body| body.priority.as_str()))
            .bind(column(accepted, |body| written(&body.class)))
            .bind(column(accepted, |body| written(&body.tenant)))
            .bind(column(accepted, |body| {
                maybe(body.idempotency_key.as_deref())
            }))
            .bind(column(accepted, |body| body.parent.map(|id| *id.as_uuid())))
            .bind(column(accepted, |body| depends_on(body)))
            .bind(column(accepted, |body| i64::from(body.max_attempts)))
            .bind(column(accepted, |body| signed(body.submitted_at.0)))
            .bind(column(accepted, |body| {
                body.deadline.map(|at| signed(at.0))
            }))
            .bind(encoded(accepted.iter().map(|body| body.terms.as_ref()))?)
            .bind(column(accepted, |body| lines.accepted(body.seq)))
            .bind(on)
            .bind(dependants)
            .bind(column(standing, |(seq, _)| signed(*seq)))
            .bind(column(standing, |(_, run)| run.state.as_str()))
            .bind(column(standing, |(_, run)| i64::from(run.attempt)))
            .bind(column(standing, |(_, run)| i64::from(run.losses)))
            .bind(column(standing, |(_, run)| signed(run.epoch.0)))
            .bind(column(standing, |(_, run)| signed(run.run_at.0)))
            .bind(column(standing, |(_, run)| {
                run.lease_until.map(|at| signed(at.0))
            }))
            .bind(column(standing, |(_, run)| maybe(run.worker.as_deref())))
            .bind(column(standing, |(_, run)| run.cancel_requested))
            .bind(column(standing, |(_, run)| {
                maybe(run.last_error.as_deref())
            }))
            .bind(column(standing, |(_, run)| signed(run.events)))
            .bind(column(standing, |(_, run)| i64::from(run.retries)))
            .bind(column(ends, |(seq, _)| signed(*seq)))
            .bind(column(ends, |(_, end)| end.state.as_str()))
            .bind(column(ends, |(_, end)| signed(end.finished_at.0)))
            .bind(column(ends, |(_, end)| i64::from(end.attempt)))
            .bind(column(ends, |(_, end)| i64::from(end.losses)))
            .bind(column(ends, |(_, end)| signed(end.epoch.0)))
            .bind(column(ends, |(_, end)| {
                end.result.as_ref().map(|json| json.as_str())
            }))
            .bind(column(ends, |(_, end)| maybe(end.error.as_deref())))
            .bind(column(ends, |(_, end)| signed(end.events)))
            .bind(column(ends, |(seq, _)| lines.ended(*seq)))
            .bind(column(between, |(seq, _)| signed(*seq)))
            .bind(column(between, |(_, line)| signed(line.n)))
            .bind(column(between, |(_, line)| signed(line.at.0)))
            .bind(column(between, |(_, line)| line.kind.as_str()))
            .bind(column(between, |(_, line)| {
                line.epoch.map(|epoch| signed(epoch.0))
            }))
            .bind(column(between, |(_, line)| maybe(line.detail.as_deref())))
            .bind(column(steps, |step| signed(step.seq)))
            .bind(column(steps, |step| written(&step.key)))
            .bind(column(steps, |step| inline(&step.input)))
            .bind(column(steps, |step| inline(&step.output)))
            .bind(column(steps, |step| signed(step.epoch.0)))
            .bind(column(steps, |step| signed(step.started_at.0)))
            .bind(column(steps, |step| signed(step.finished_at.0)))
            .bind(encoded(steps.iter().map(|step| step.cost.as_ref()))?)
            .bind(column(steps, |step| {
                step.input.hash.as_ref().map(ContentHash::as_str)
            }))
            .bind(column(steps, |step| {
                step.output.hash.as_ref().map(ContentHash::as_str)
            }));
        // To the end of the answer: the commit is behind the row.
        let held = query.fetch_all(to).await?;
        match held
            .first()
            .map(|row| row.try_get::<i64, _>(0))
            .transpose()?
        {
            None | Some(0) => Err(CommitError::Fenced),
            Some(_) => Ok(()),
        }
    }
}

fn depends_on(body: &TaskBody) -> String {
    let ids: Vec<String> = body.depends_on.iter().map(ToString::to_string).collect();
    ids.join(" ")
}

/// Values as the text of their JSON.
fn encoded<T: serde::Serialize>(
    values: impl Iterator<Item = Option<T>>,
) -> Result<Vec<Option<String>>, sqlx::Error> {
    let texts = values.map(|value| value.as_ref().map(serde_json::to_string).transpose());
    let texts: Result<_, serde_json::Error> = texts.collect();
    texts.map_err(|error| sqlx::Error::Encode(error.into()))
}

/// What a step's row holds of a document: nothing if it lies elsewhere.
fn inline(content: &Content) -> &str {
    match content.hash {
        Some(_) => "null",
        None => content.json.as_str(),
    }
}
