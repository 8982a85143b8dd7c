//! How tasks look in JSON: flat, with instants as RFC 3339 text.

use std::collections::BTreeMap;

use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::{Epoch, TaskId};
use regrow_runtime::json::Json;
use regrow_runtime::queue::task::{
    Lane, Lease, OnChildFailure, TaskEvent, TaskEventKind, TaskState, TaskView,
};
use serde::{Serialize, Serializer};

use crate::amounts::LimitsJson;

/// Writes an instant as RFC 3339 text, or null.
pub(crate) fn instant<S: Serializer>(
    at: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => serializer.collect_str(at),
        None => serializer.serialize_none(),
    }
}

/// An instant as RFC 3339 text.
#[derive(Clone, Copy, Debug, utoipa::ToSchema)]
#[schema(value_type = String, format = DateTime)]
pub(crate) struct Instant(pub(crate) Timestamp);

impl Serialize for Instant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// What happens when a child fails, as a submission says it.
#[derive(Clone, Copy, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ChildFailure)]
#[serde(untagged)]
pub(crate) enum ChildFailureJson {
    Then(&'static str),
    Retry { retry: u32, then: &'static str },
}

impl From<OnChildFailure> for ChildFailureJson {
    fn from(policy: OnChildFailure) -> Self {
        let then = if policy.fail { "fail" } else { "continue" };
        match policy.retries {
            0 => Self::Then(then),
            retry => Self::Retry { retry, then },
        }
    }
}

/// A task with everything known about it. Every key is always there.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Task)]
pub(crate) struct TaskJson<'a> {
    #[schema(value_type = String, format = "uuid")]
    id: TaskId,
    #[schema(value_type = crate::schema::answers::StateAnswer)]
    state: TaskState,
    kind: &'a str,
    #[schema(value_type = serde_json::Value)]
    payload: &'a Json,
    goal: Option<&'a str>,
    #[schema(value_type = crate::schema::bodies::LaneBody)]
    priority: Lane,
    class: &'a str,
    tenant: &'a str,
    idempotency_key: Option<&'a str>,
    #[schema(value_type = Option<String>, format = "uuid")]
    parent: Option<TaskId>,
    trace_id: String,
    #[schema(value_type = Vec<String>)]
    depends_on: &'a [TaskId],
    budget: Option<LimitsJson>,
    requires_approval: bool,
    on_child_failure: ChildFailureJson,
    retries: u32,
    attempt: u32,
    max_attempts: u32,
    losses: u32,
    #[schema(value_type = u64)]
    epoch: Epoch,
    worker: Option<&'a str>,
    lease_until: Option<Instant>,
    cancel_requested: bool,
    submitted_at: Instant,
    run_at: Option<Instant>,
    deadline: Option<Instant>,
    expires_at: Option<Instant>,
    concurrency_key: Option<&'a str>,
    rate_key: Option<&'a str>,
    needs: Option<&'a BTreeMap<String, u64>>,
    finished_at: Option<Instant>,
    #[schema(value_type = Option<serde_json::Value>)]
    result: Option<&'a Json>,
    error: Option<&'a str>,
    last_error: Option<&'a str>,
}

impl<'a> From<&'a TaskView> for TaskJson<'a> {
    fn from(view: &'a TaskView) -> Self {
        let (body, end) = (&view.body, view.end.as_ref());
        let terms = body.terms.as_deref();
        // What ended has no run any more; should both be there, the end counts.
        let run = if end.is_some() {
            None
        } else {
            view.run.as_ref()
        };
        Self {
            id: body.id,
            state: view.state(),
            kind: &body.kind,
            payload: &body.payload,
            goal: body.goal.as_deref(),
            priority: body.priority,
            class: &body.class,
            tenant: &body.tenant,
            idempotency_key: body.idempotency_key.as_deref(),
            parent: body.parent,
            trace_id: body.trace().trace_id().to_string(),
            depends_on: &body.depends_on,
            budget: terms.and_then(|terms| terms.budget).map(LimitsJson::from),
            requires_approval: terms.is_some_and(|terms| terms.requires_approval),
            on_child_failure: body.on_child_failure().into(),
            retries: run.map_or(0, |run| run.retries),
            attempt: end.map_or_else(|| run.map_or(0, |run| run.attempt), |end| end.attempt),
            max_attempts: body.max_attempts,
            losses: end.map_or_else(|| run.map_or(0, |run| run.losses), |end| end.losses),
            epoch: end.map_or_else(
                || run.map_or(Epoch::NEVER, |run| run.epoch),
                |end| end.epoch,
            ),
            worker: run.and_then(|run| run.worker.as_deref()),
            lease_until: run.and_then(|run| run.lease_until).map(Instant),
            cancel_requested: run.is_some_and(|run| run.cancel_requested),
            submitted_at: Instant(body.submitted_at),
            run_at: run.map(|run| Instant(run.run_at)),
            deadline: body.deadline.map(Instant),
            expires_at: terms.and_then(|terms| terms.expires_at).map(Instant),
            concurrency_key: terms.and_then(|terms| terms.concurrency_key.as_deref()),
            rate_key: terms.and_then(|terms| terms.rate_key.as_deref()),
            needs: terms
                .map(|terms| &terms.needs)
                .filter(|needs| !needs.is_empty()),
            finished_at: end.map(|end| Instant(end.finished_at)),
            result: end.and_then(|end| end.result.as_ref()),
            error: end.and_then(|end| end.error.as_deref()),
            last_error: run.and_then(|run| run.last_error.as_deref()),
        }
    }
}

impl TaskJson<'_> {
    /// About how long the text will be.
    pub(crate) fn bytes(&self) -> usize {
        512 + self.payload.bytes() + self.result.map_or(0, Json::bytes)
    }

    /// Attempts so far, and the latest failure.
    pub(crate) fn attempt_and_error(&self) -> (u32, Option<&str>) {
        (self.attempt, self.error.or(self.last_error))
    }
}

/// What a worker gets to know of a task.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Work)]
pub(crate) struct WorkJson<'a> {
    #[schema(value_type = String, format = "uuid")]
    id: TaskId,
    kind: &'a str,
    #[schema(value_type = serde_json::Value)]
    payload: &'a Json,
    goal: Option<&'a str>,
    #[schema(value_type = crate::schema::bodies::LaneBody)]
    priority: Lane,
    class: &'a str,
    tenant: &'a str,
    #[schema(value_type = Option<String>, format = "uuid")]
    parent: Option<TaskId>,
    /// For the worker to go on with (W3C Trace Context).
    traceparent: String,
    #[schema(value_type = Vec<String>)]
    depends_on: &'a [TaskId],
    max_attempts: u32,
    submitted_at: Instant,
    deadline: Option<Instant>,
}

impl<'a> From<&'a Lease> for WorkJson<'a> {
    fn from(lease: &'a Lease) -> Self {
        let body = &lease.task;
        Self {
            id: body.id,
            kind: &body.kind,
            payload: &body.payload,
            goal: body.goal.as_deref(),
            priority: body.priority,
            class: &body.class,
            tenant: &body.tenant,
            parent: body.parent,
            traceparent: lease.trace().to_string(),
            depends_on: &body.depends_on,
            max_attempts: body.max_attempts,
            submitted_at: Instant(body.submitted_at),
            deadline: body.deadline.map(Instant),
        }
    }
}

/// A line of a task's log.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = TaskEvent)]
pub(crate) struct EventJson<'a> {
    n: u64,
    at: Instant,
    #[schema(value_type = String)]
    kind: TaskEventKind,
    #[schema(value_type = Option<u64>)]
    epoch: Option<Epoch>,
    detail: Option<&'a str>,
}

impl<'a> From<&'a TaskEvent> for EventJson<'a> {
    fn from(event: &'a TaskEvent) -> Self {
        Self {
            n: event.n,
            at: Instant(event.at),
            kind: event.kind,
            epoch: event.epoch,
            detail: event.detail.as_deref(),
        }
    }
}
