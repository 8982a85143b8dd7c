//! How long tasks wait, are worked on and take: histograms with exemplars, and the spans of their
//! lives, leases and steps.
//!
//! Nothing is decided by any of it. Times are the queue's: whole milliseconds.

use metrics::{Counter, Histogram, counter, histogram};

use super::Entry;
use crate::clock::Timestamp;
use crate::exemplars::{self, Exemplar};
use crate::metrics as names;
use crate::queue::budget::{Amounts, Cost};
use crate::queue::task::{Lane, TaskBody, TaskState};
use crate::spans::{self, FinishedSpan, Value};
use crate::trace::{SpanId, TraceContext};

/// Where the process's recorder keeps what is measured, looked up once.
pub(super) struct Measures {
    accepted: [Counter; Lane::ALL.len()],
    leased: [Counter; Lane::ALL.len()],
    wait: [Histogram; Lane::ALL.len()],
    attempt: [Histogram; TaskState::ALL.len()],
    task: [Histogram; TaskState::ALL.len()],
    step: Histogram,
    tokens: Counter,
    micros: Counter,
    calls: Counter,
    millis: Counter,
}

impl Measures {
    pub(super) fn new() -> Self {
        let spent = |unit: &'static str| counter!(names::BUDGET_SPENT, "unit" => unit);
        Self {
            accepted: Lane::ALL
                .map(|lane| counter!(names::TASKS_ACCEPTED, "lane" => lane.as_str())),
            leased: Lane::ALL.map(|lane| counter!(names::LEASES_GIVEN, "lane" => lane.as_str())),
            wait: Lane::ALL
                .map(|lane| histogram!(names::QUEUE_WAIT_SECONDS, "lane" => lane.as_str())),
            attempt: TaskState::ALL
                .map(|next| histogram!(names::ATTEMPT_SECONDS, "then" => next.as_str())),
            task: TaskState::ALL
                .map(|state| histogram!(names::TASK_SECONDS, "state" => state.as_str())),
            step: histogram!(names::STEP_SECONDS),
            tokens: spent("tokens"),
            micros: spent("micros"),
            calls: spent("calls"),
            millis: spent("millis"),
        }
    }

    /// A new task is durable.
    pub(super) fn accepted(&self, lane: Lane) {
        self.accepted[lane.index()].increment(1);
    }

    /// A lease was given.
    pub(super) fn leased(&self, lane: Lane) {
        self.leased[lane.index()].increment(1);
    }

    /// So much was charged.
    pub(super) fn spent(&self, spent: Amounts) {
        self.tokens.increment(spent.tokens);
        self.micros.increment(spent.micros);
        self.calls.increment(spent.calls);
        self.millis.increment(spent.millis);
    }

    /// A task left the state `was`, which it had entered at `since`; `lost` says why, if its
    /// lease was taken from its holder. Called while its worker is still known.
    pub(super) fn entered(
        &self,
        entry: &Entry,
        was: TaskState,
        since: Timestamp,
        lost: Option<&'static str>,
        now: Timestamp,
    ) {
        let (next, body) = (entry.run.state, &entry.body);
        if was == TaskState::Available && next == TaskState::Executing {
            let lane = body.priority;
            let wait = &self.wait[lane.index()];
            let metric = names::QUEUE_WAIT_SECONDS;
            record(wait, metric, lane.as_str(), body, since, now);
        }
        if was == TaskState::Executing && next != TaskState::Executing {
            let attempt = &self.attempt[next as usize];
            let metric = names::ATTEMPT_SECONDS;
            record(attempt, metric, next.as_str(), body, since, now);
            spans::finish(&body.trace(), || attempted(entry, since, lost, now));
        }
    }

    /// The end of a task is durable.
    pub(super) fn ended(&self, entry: &Entry, now: Timestamp) {
        let (state, body) = (entry.run.state, &entry.body);
        let (task, since) = (&self.task[state as usize], body.submitted_at);
        let metric = names::TASK_SECONDS;
        record(task, metric, state.as_str(), body, since, now);
        spans::finish(&body.trace(), || lived(entry, now));
    }

    /// The holder finished a step.
    pub(super) fn step(
        &self,
        entry: &Entry,
        key: &str,
        cost: Option<Cost>,
        started_at: Timestamp,
        now: Timestamp,
    ) {
        let body = &entry.body;
        record(&self.step, names::STEP_SECONDS, "", body, started_at, now);
        spans::finish(&body.trace(), || stepped(entry, key, cost, started_at, now));
    }
}

fn record(
    histogram: &Histogram,
    metric: &'static str,
    label: &str,
    body: &TaskBody,
    since: Timestamp,
    now: Timestamp,
) {
    let seconds = now.since(since).as_secs_f64();
    histogram.record(seconds);
    let trace = body.trace().trace_id();
    let at = now;
    exemplars::note(metric, label, Exemplar { trace, seconds, at });
}

fn span(
    body: &TaskBody,
    (id, parent): (SpanId, Option<SpanId>),
    name: String,
    (started_at, ended_at): (Timestamp, Timestamp),
) -> FinishedSpan {
    let attributes = vec![
        ("regrow.task.id", Value::from(body.id.to_string())),
        ("regrow.task.kind", Value::from(&*body.kind)),
    ];
    FinishedSpan {
        context: body.trace().caused_by(id),
        parent,
        name,
        is_server: false,
        started_at,
        ended_at,
        attributes,
        error: None,
    }
}

/// The whole life of a task, from its acceptance to its end, whoever worked on it.
fn lived(entry: &Entry, now: Timestamp) -> FinishedSpan {
    let (body, run) = (&entry.body, &entry.run);
    let ids = (spans::of_task(body.id), cause(body));
    let name = format!("task {}", body.kind);
    let mut span = span(body, ids, name, (body.submitted_at, now));
    span.attributes.extend([
        ("regrow.task.state", run.state.as_str().into()),
        ("regrow.task.lane", body.priority.as_str().into()),
        ("regrow.task.class", (*body.class).into()),
        ("regrow.task.tenant", (*body.tenant).into()),
        ("regrow.task.attempts", u64::from(run.attempt).into()),
        ("regrow.task.losses", u64::from(run.losses).into()),
    ]);
    if run.state != TaskState::Completed {
        let why = entry.end.as_ref().and_then(|end| end.error.as_deref());
        span.error = Some(why.unwrap_or(run.state.as_str()).to_owned());
    }
    span
}

/// What caused a task: the task that inserted it, or what its submitter said.
fn cause(body: &TaskBody) -> Option<SpanId> {
    let said = body.trace();
    match body.parent {
        Some(parent) => Some(spans::of_task(parent)),
        None if said == TraceContext::of_task(body.id) => None,
        None => Some(said.span_id()),
    }
}

/// What one agent did for a task under one lease.
fn attempted(
    entry: &Entry,
    since: Timestamp,
    lost: Option<&'static str>,
    now: Timestamp,
) -> FinishedSpan {
    let (body, run) = (&entry.body, &entry.run);
    let id = spans::of_attempt(body.id, run.epoch);
    let ids = (id, Some(spans::of_task(body.id)));
    let name = format!("invoke_agent {}", body.kind);
    let mut span = span(body, ids, name, (since, now));
    let worker = run.worker.as_deref().unwrap_or_default();
    span.attributes.extend([
        ("gen_ai.operation.name", "invoke_agent".into()),
        ("gen_ai.provider.name", "regrow".into()),
        ("gen_ai.agent.id", worker.into()),
        ("gen_ai.agent.name", (*body.kind).into()),
        ("regrow.lease.epoch", run.epoch.0.into()),
        ("regrow.task.attempt", u64::from(run.attempt).into()),
        ("regrow.task.then", run.state.as_str().into()),
    ]);
    span.error = match (lost, run.state) {
        (Some(cause), _) => Some(format!("lease lost: {cause}")),
        (None, TaskState::Retryable | TaskState::Discarded) => {
            let why = run.last_error.as_deref();
            Some(why.unwrap_or(run.state.as_str()).to_owned())
        }
        (
            None,
            TaskState::Scheduled
            | TaskState::Available
            | TaskState::Executing
            | TaskState::Waiting
            | TaskState::AwaitingApproval
            | TaskState::Completed
            | TaskState::Cancelled,
        ) => None,
    };
    span
}

/// The holder split its task into children: from the beginning of its lease until they are there.
pub(super) fn planned(entry: &Entry, children: usize, now: Timestamp) {
    let body = &entry.body;
    spans::finish(&body.trace(), || {
        let attempt = spans::of_attempt(body.id, entry.run.epoch);
        let ids = (spans::of_step(attempt, "\0plan"), Some(attempt));
        let name = format!("plan {}", body.kind);
        let mut span = span(body, ids, name, (entry.since, now));
        span.attributes.extend([
            ("gen_ai.operation.name", "plan".into()),
            ("gen_ai.provider.name", "regrow".into()),
            ("gen_ai.agent.name", (*body.kind).into()),
            ("regrow.plan.children", (children as u64).into()),
        ]);
        span
    });
}

fn stepped(
    entry: &Entry,
    key: &str,
    cost: Option<Cost>,
    started_at: Timestamp,
    now: Timestamp,
) -> FinishedSpan {
    let body = &entry.body;
    let attempt = spans::of_attempt(body.id, entry.run.epoch);
    let ids = (spans::of_step(attempt, key), Some(attempt));
    // A key may have ids in it behind the first of these.
    let tool = key.split([':', '/', ' ', '#']).next().unwrap_or(key);
    let name = format!("execute_tool {tool}");
    let mut span = span(body, ids, name, (started_at, now));
    span.attributes.extend([
        ("gen_ai.operation.name", "execute_tool".into()),
        ("gen_ai.tool.name", tool.into()),
        ("regrow.step.key", key.into()),
    ]);
    if let Some(cost) = cost {
        let spent = cost.amounts();
        span.attributes.extend([
            ("regrow.cost.tokens", spent.tokens.into()),
            ("regrow.cost.micros", spent.micros.into()),
        ]);
    }
    span
}
