//! Tasks accepted, tasks as they stand, ends, lines of logs, steps and hand-overs: in one
//! statement.
//!
//! A trip to the server costs more than the rows of a small batch, and a statement outside of
//! a transaction commits as it ends.

use std::collections::HashSet;
use std::sync::Arc;

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row};
use uuid::Uuid;

use super::statements::{ACCEPTED_AND_ENDED, ROWS};
use super::{CommitError, Fence, column, maybe, pieces, signed, written};
use crate::queue::task::{TaskBody, TaskEnd, TaskEvent, TaskRun, TaskState};
use crate::store::content::{Content, ContentHash};
use crate::store::lines::Lines;
use crate::store::{Changes, HandedOver, StepRow};

type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// What one statement writes.
pub(super) struct Rows<'a> {
    accepted: &'a [Arc<TaskBody>],
    fresh: &'a [&'a (u64, TaskRun)],
    standing: &'a [&'a (u64, TaskRun)],
    ends: &'a [(u64, TaskEnd)],
    between: &'a [(u64, &'a TaskEvent)],
    steps: &'a [StepRow],
    taken_in: &'a [u64],
    given: &'a [HandedOver],
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
        handed_over: _,
        taken_in: _,
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
        && control.is_none()
        && prune_before.is_none()
}

/// Bytes of a step that may be many.
pub(super) fn step_bytes(step: &StepRow) -> usize {
    step.key.len() + step.input.json.bytes() + step.output.json.bytes()
}

/// All of `changes` that this statement writes, in as many statements as it takes: mostly one.
/// `fresh` and `standing` are those of its runs that count, `touched` the tasks of which there
/// is such a run or an end.
pub(super) fn statements<'a>(
    changes: &'a Changes,
    fresh: &'a [&'a (u64, TaskRun)],
    standing: &'a [&'a (u64, TaskRun)],
    touched: &HashSet<u64>,
    lines: &'a Lines<'a>,
) -> Vec<Rows<'a>> {
    let mut accepted = pieces(&changes.bodies, |body| body.payload.bytes());
    let mut fresh = pieces(fresh, |_| 0);
    let mut standing = pieces(standing, |_| 0);
    let size = |(_, end): &(u64, TaskEnd)| end.result.as_ref().map_or(0, |json| json.bytes());
    let mut ends = pieces(&changes.ends, size);
    let size = |(_, line): &(u64, &TaskEvent)| line.detail.as_ref().map_or(0, |text| text.len());
    let mut between = pieces(&lines.between, size);
    let mut steps = pieces(&changes.steps, step_bytes);
    let mut taken_in = pieces(&changes.taken_in, |_| 0);
    let given = &changes.handed_over;
    let noted: HashSet<u64> = changes.taken_in.iter().copied().collect();
    // A row that another part writes, or whose note it removes, is given away after that.
    let is_alone = |one: &HandedOver| !touched.contains(&one.seq) && !noted.contains(&one.seq);
    let at_once = given.iter().all(is_alone);
    let mut given_at_once = pieces(if at_once { given } else { &[] }, |_| 0);
    let mut given_afterwards = pieces(if at_once { &[] } else { given }, |_| 0);
    let next = || {
        let parts = (
            accepted.next(),
            fresh.next(),
            standing.next(),
            ends.next(),
            between.next(),
            steps.next(),
            taken_in.next(),
            given_at_once.next(),
        );
        if let (None, None, None, None, None, None, None, None) = parts {
            return given_afterwards.next().map(|given| Rows {
                given,
                ..Rows::none(lines)
            });
        }
        Some(Rows {
            accepted: parts.0.unwrap_or_default(),
            fresh: parts.1.unwrap_or_default(),
            standing: parts.2.unwrap_or_default(),
            ends: parts.3.unwrap_or_default(),
            between: parts.4.unwrap_or_default(),
            steps: parts.5.unwrap_or_default(),
            taken_in: parts.6.unwrap_or_default(),
            given: parts.7.unwrap_or_default(),
            lines,
        })
    };
    std::iter::from_fn(next).collect()
}

impl<'a> Rows<'a> {
    fn none(lines: &'a Lines<'a>) -> Self {
        Self {
            accepted: &[],
            fresh: &[],
            standing: &[],
            ends: &[],
            between: &[],
            steps: &[],
            taken_in: &[],
            given: &[],
            lines,
        }
    }

    /// Writes them if the fence holds.
    pub(super) async fn run(&self, to: &mut PgConnection, fence: Fence) -> Result<(), CommitError> {
        let is_short = self.standing.is_empty()
            && self.between.is_empty()
            && self.steps.is_empty()
            && self.taken_in.is_empty()
            && self.given.is_empty()
            && self.accepted.iter().all(|body| body.depends_on.is_empty());
        let query = match is_short {
            true => self.accepted_and_ended(ACCEPTED_AND_ENDED, fence)?,
            false => self.others(self.accepted_and_ended(ROWS, fence)?)?,
        };
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

    fn accepted_and_ended(
        &self,
        statement: &'static str,
        fence: Fence,
    ) -> Result<Statement<'_>, sqlx::Error> {
        let Self {
            accepted,
            fresh,
            ends,
            lines,
            ..
        } = self;
        let kinds = Repeated::of(accepted, |body| &*body.kind);
        let priorities = Repeated::of(accepted, |body| body.priority.as_str());
        let classes = Repeated::of(accepted, |body| &*body.class);
        let tenants = Repeated::of(accepted, |body| &*body.tenant);
        let attempts = Repeated::of(accepted, |body| i64::from(body.max_attempts));
        let submitted = Repeated::of(accepted, |body| signed(body.submitted_at.0));
        let query = sqlx::query(statement)
            .bind(fence.boot)
            .bind(fence.session)
            .bind(maybe(kinds.usual))
            .bind(priorities.usual)
            .bind(maybe(classes.usual))
            .bind(maybe(tenants.usual))
            .bind(attempts.usual)
            .bind(submitted.usual)
            .bind(column(accepted, |body| signed(body.seq)))
            .bind(column(accepted, |body| *body.id.as_uuid()))
            .bind(column(&kinds.others, |kind| maybe(*kind)))
            .bind(column(accepted, |body| body.payload.as_str()))
            .bind(sparse(accepted, |body| maybe(body.goal.as_deref())))
            .bind(priorities.others)
            .bind(column(&classes.others, |class| maybe(*class)))
            .bind(column(&tenants.others, |tenant| maybe(*tenant)))
            .bind(sparse(accepted, |body| {
                maybe(body.idempotency_key.as_deref())
            }))
            .bind(sparse(accepted, |body| body.parent.map(|id| *id.as_uuid())))
            .bind(sparse(accepted, |body| depends_on(body)))
            .bind(attempts.others)
            .bind(submitted.others)
            .bind(sparse(accepted, |body| {
                body.deadline.map(|at| signed(at.0))
            }))
            .bind(encoded(accepted.iter().map(|body| body.terms.as_ref()))?)
            .bind(column(accepted, |body| lines.accepted(body.seq)));
        let run_at = Repeated::of(fresh, |(_, run)| signed(run.run_at.0));
        let events = Repeated::of(fresh, |(_, run)| signed(run.events));
        let query = query
            .bind(run_at.usual)
            .bind(events.usual)
            .bind(column(fresh, |(seq, _)| signed(*seq)))
            .bind(run_at.others)
            .bind(events.others);
        let states = Repeated::of(ends, |(_, end)| end.state.as_str());
        let finished = Repeated::of(ends, |(_, end)| signed(end.finished_at.0));
        let attempts = Repeated::of(ends, |(_, end)| i64::from(end.attempt));
        let losses = Repeated::of(ends, |(_, end)| i64::from(end.losses));
        let events = Repeated::of(ends, |(_, end)| signed(end.events));
        Ok(query
            .bind(states.usual)
            .bind(finished.usual)
            .bind(attempts.usual)
            .bind(losses.usual)
            .bind(events.usual)
            .bind(column(ends, |(seq, _)| signed(*seq)))
            .bind(states.others)
            .bind(finished.others)
            .bind(attempts.others)
            .bind(losses.others)
            .bind(column(ends, |(_, end)| signed(end.epoch.0)))
            .bind(sparse(ends, |(_, end)| {
                end.result.as_ref().map(|json| json.as_str())
            }))
            .bind(sparse(ends, |(_, end)| maybe(end.error.as_deref())))
            .bind(events.others)
            .bind(column(ends, |(seq, _)| lines.ended(*seq))))
    }

    fn others<'q>(&'q self, query: Statement<'q>) -> Result<Statement<'q>, sqlx::Error> {
        let Self {
            accepted,
            standing,
            between,
            steps,
            taken_in,
            given,
            ..
        } = self;
        let dependencies = accepted
            .iter()
            .flat_map(|body| body.depends_on.iter().map(|on| (*on.as_uuid(), body.seq)));
        let (on, dependants): (Vec<Uuid>, Vec<i64>) =
            dependencies.map(|(on, seq)| (on, signed(seq))).unzip();
        Ok(query
            .bind(on)
            .bind(dependants)
            .bind(column(standing, |(seq, _)| signed(*seq)))
            .bind(column(standing, |(_, run)| run.state.as_str()))
            .bind(column(standing, |(_, run)| i64::from(run.attempt)))
            .bind(column(standing, |(_, run)| i64::from(run.losses)))
            .bind(column(standing, |(_, run)| signed(run.epoch.0)))
            .bind(column(standing, |(_, run)| signed(run.run_at.0)))
            .bind(sparse(standing, |(_, run)| {
                run.lease_until.map(|at| signed(at.0))
            }))
            .bind(sparse(standing, |(_, run)| maybe(run.worker.as_deref())))
            .bind(column(standing, |(_, run)| run.cancel_requested))
            .bind(sparse(standing, |(_, run)| {
                maybe(run.last_error.as_deref())
            }))
            .bind(column(standing, |(_, run)| signed(run.events)))
            .bind(column(standing, |(_, run)| i64::from(run.retries)))
            .bind(column(between, |(seq, _)| signed(*seq)))
            .bind(column(between, |(_, line)| signed(line.n)))
            .bind(column(between, |(_, line)| signed(line.at.0)))
            .bind(column(between, |(_, line)| line.kind.as_str()))
            .bind(sparse(between, |(_, line)| {
                line.epoch.map(|epoch| signed(epoch.0))
            }))
            .bind(sparse(between, |(_, line)| maybe(line.detail.as_deref())))
            .bind(column(steps, |step| signed(step.seq)))
            .bind(column(steps, |step| written(&step.key)))
            .bind(column(steps, |step| inline(&step.input)))
            .bind(column(steps, |step| inline(&step.output)))
            .bind(column(steps, |step| signed(step.epoch.0)))
            .bind(column(steps, |step| signed(step.started_at.0)))
            .bind(column(steps, |step| signed(step.finished_at.0)))
            .bind(encoded(steps.iter().map(|step| step.cost.as_ref()))?)
            .bind(sparse(steps, |step| {
                step.input.hash.as_ref().map(ContentHash::as_str)
            }))
            .bind(sparse(steps, |step| {
                step.output.hash.as_ref().map(ContentHash::as_str)
            }))
            .bind(column(taken_in, |seq| signed(*seq)))
            .bind(column(given, |one| signed(one.seq)))
            .bind(column(given, |one| one.to))
            .bind(column(given, |one| signed(one.after.0))))
    }
}

/// A column in which many rows say the same: that travels once, and as null in its rows.
struct Repeated<T> {
    usual: Option<T>,
    others: Vec<Option<T>>,
}

impl<T: PartialEq> Repeated<T> {
    /// What the first row says is taken for the usual.
    fn of<'a, R>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Self {
        let usual = rows.first().map(&value);
        let others = sparse(rows, |row| {
            Some(value(row)).filter(|value| usual.as_ref() != Some(value))
        });
        Self { usual, others }
    }
}

/// A column that is null in many rows. The nulls at its end stay away.
fn sparse<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> Option<T>) -> Vec<Option<T>> {
    without_end(rows.iter().map(value).collect())
}

fn without_end<T>(mut values: Vec<Option<T>>) -> Vec<Option<T>> {
    let end = values.iter().rposition(Option::is_some);
    values.truncate(end.map_or(0, |last| last + 1));
    values
}

/// Whether a task that is accepted stands as nearly all do: to be claimed for the first time.
/// Every field is named: one that is forgotten here would not be written.
pub(super) fn is_fresh(run: &TaskRun) -> bool {
    let TaskRun {
        state,
        attempt,
        losses,
        epoch,
        run_at: _,
        lease_until,
        worker,
        cancel_requested,
        last_error,
        events: _,
        retries,
    } = run;
    *state == TaskState::Available
        && (*attempt, *losses, *retries) == (0, 0, 0)
        && epoch.0 == 0
        && lease_until.is_none()
        && worker.is_none()
        && !cancel_requested
        && last_error.is_none()
}

fn depends_on(body: &TaskBody) -> Option<String> {
    let ids: Vec<String> = body.depends_on.iter().map(ToString::to_string).collect();
    (!ids.is_empty()).then(|| ids.join(" "))
}

/// Values as the text of their JSON.
fn encoded<T: serde::Serialize>(
    values: impl Iterator<Item = Option<T>>,
) -> Result<Vec<Option<String>>, sqlx::Error> {
    let texts = values.map(|value| value.as_ref().map(serde_json::to_string).transpose());
    let texts: Result<_, serde_json::Error> = texts.collect();
    texts
        .map(without_end)
        .map_err(|error| sqlx::Error::Encode(error.into()))
}

/// What a step's row holds of a document: nothing if it lies elsewhere.
fn inline(content: &Content) -> &str {
    match content.hash {
        Some(_) => "null",
        None => content.json.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As `unnest` and `COALESCE` give them back.
    fn as_read<T: Clone>(usual: Option<&T>, others: &[Option<T>], rows: usize) -> Vec<Option<T>> {
        let row = |n| others.get(n).cloned().flatten().or_else(|| usual.cloned());
        (0..rows).map(row).collect()
    }

    proptest! {
        #[test]
        fn a_column_comes_back_from_what_travels(
            column in proptest::collection::vec(proptest::option::of(0..3_u8), 0..9),
        ) {
            let values = sparse(&column, |value| *value);
            prop_assert!(!matches!(values.last(), Some(None)), "nulls at its end");
            prop_assert_eq!(as_read(None, &values, column.len()), column.clone());
            let known: Vec<u8> = column.into_iter().flatten().collect();
            let Repeated { usual, others } = Repeated::of(&known, |value| *value);
            let read = as_read(usual.as_ref(), &others, known.len());
            prop_assert_eq!(read, known.iter().copied().map(Some).collect::<Vec<_>>());
            let repeated = known.iter().all(|value| Some(*value) == usual);
            prop_assert_eq!(others.is_empty(), repeated, "travels once");
        }
    }
}
