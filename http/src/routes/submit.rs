//! `POST /v1/tasks`: accepting tasks.

use std::time::Duration;

use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use regrow_runtime::agent_spec::{Message, addressed_kind};
use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::{AgentId, TaskId};
use regrow_runtime::json::Json;
use regrow_runtime::queue::Submission;
use regrow_runtime::queue::task::{NewTask, OnChildFailure, TaskTerms, TaskView};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::tasks::shown;
use super::{Answer, ok};
use crate::amounts::limits;
use crate::error::ApiError;
use crate::input::{Fields, OneOrMany};
use crate::observe::Traced;
use crate::params::NamePath;
use crate::state::ApiState;

/// The last millisecond that RFC 3339 can write.
const INSTANT_MAX: u64 = 253_402_300_799_999;
/// Ten years.
const DEADLINE_MS_MAX: u64 = 315_360_000_000;
/// The kind of task that turns a goal into others.
const PLAN: &str = "plan";

/// What was accepted is durable when the answer is given. A client that did not get the
/// answer repeats the request with the same idempotency keys.
#[utoipa::path(
    post,
    path = "/v1/tasks",
    tag = "tasks",
    params(
        ("traceparent" = Option<String>, Header, description = "the trace that it belongs to (W3C)"),
    ),
    request_body = crate::schema::bodies::SubmitBody,
    responses(
        (status = 201, description = "accepted, and durable", body = crate::schema::answers::AcceptedTask),
        (status = 200, description = "accepted before; or the answers to a list", body = crate::schema::answers::SubmitAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "dependency_failed", "queue_full", "draining", "node_away"
    ]))),
)]
pub(crate) async fn submit(
    State(state): State<ApiState>,
    traced: Traced,
    body: OneOrMany,
) -> Answer {
    match body {
        OneOrMany::One(fields) => one(&state, fields, traced).await,
        OneOrMany::Many(tasks) => many(&state, tasks, traced).await,
    }
}

/// The task belongs to the trace of the request that submits it.
fn in_trace(mut task: NewTask, traced: Traced) -> NewTask {
    if traced.0.is_some() {
        task.terms.get_or_insert_default().trace = traced.0;
    }
    task
}

/// A list of tasks, accepted in its order and in one commit. Each has an answer of its own, in
/// the same order: where it is, or the problem with it; the others are accepted all the same.
async fn many(state: &ApiState, tasks: Vec<Result<Fields, ApiError>>, traced: Traced) -> Answer {
    let now = state.queue.clock().now();
    let (mut sound, mut refused) = (Vec::new(), Vec::new());
    for fields in tasks {
        let read = fields.and_then(|mut fields| {
            let task = in_trace(task(&mut fields, now), traced);
            fields.finish().map(|()| task)
        });
        refused.push(read.map(|task| sound.push(task)).err());
    }
    let mut decided = state.queue.submit_all(sound).await.into_iter();
    let mut answers = Vec::with_capacity(refused.len());
    for refused in refused {
        let answer = match refused {
            Some(problem) => Err(problem),
            None => match decided.next() {
                Some(answer) => answer.map_err(ApiError::from),
                None => break,
            },
        };
        answers.push(
            answer.map_or_else(ApiError::into_problem, |Submission { id, repeated }| {
                let status = if repeated { 200 } else { 201 };
                json!({ "status": status, "id": id, "repeated": repeated })
            }),
        );
    }
    ok(&answers)
}

/// `POST /v1/agents/{id}/messages`: a task for that agent alone, wherever it runs. It waits
/// while the agent is nowhere; where each node has a queue of its own it is refused then, and
/// the answer says whose queue has it.
#[utoipa::path(
    post,
    path = "/v1/agents/{id}/messages",
    tag = "agents",
    params(
        ("id" = String, Path, description = "the agent's name"),
    ),
    request_body = crate::schema::bodies::TaskBody,
    responses(
        (status = 201, description = "it waits for the agent", body = crate::schema::answers::AcceptedTask),
        (status = 200, description = "accepted before", body = crate::schema::answers::AcceptedTask),
    ),
    extensions(("x-regrow-codes" = json!([
        "agent_not_found", "agent_not_running", "dependency_failed", "queue_full", "draining", "node_away"
    ]))),
)]
pub(crate) async fn to_agent(
    State(state): State<ApiState>,
    NamePath(id): NamePath,
    traced: Traced,
    mut fields: Fields,
) -> Answer {
    let id = AgentId::new(id);
    let mut task = in_trace(task(&mut fields, state.queue.clock().now()), traced);
    fields.finish()?;
    state.cluster.show(&id).await?;
    let message = Message {
        kind: std::mem::replace(&mut task.kind, addressed_kind(&id)),
        payload: std::mem::replace(&mut task.payload, Json::null()),
    };
    task.payload = Json::of(&message).unwrap_or_else(|_| Json::null());
    let Some(mail) = &state.mail else {
        return accept(&state, task).await;
    };
    let taken = mail.tell(&id, task).await?;
    if taken.node == state.node {
        return accepted(&state, taken.id, taken.repeated, None).await;
    }
    let status = if taken.repeated {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    super::json(status, &taken)
}

async fn one(state: &ApiState, mut fields: Fields, traced: Traced) -> Answer {
    let task = in_trace(task(&mut fields, state.queue.clock().now()), traced);
    fields.finish()?;
    accept(state, task).await
}

async fn accept(state: &ApiState, task: NewTask) -> Answer {
    let (Submission { id, repeated }, view) = state.queue.submit_viewed(task).await?;
    accepted(state, id, repeated, view).await
}

/// Says how a task stands that was accepted here; `view` is how it did when it was.
async fn accepted(state: &ApiState, id: TaskId, repeated: bool, view: Option<TaskView>) -> Answer {
    let status = if repeated {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let view = match view {
        Some(view) => Ok(Some(view)),
        None => state.queue.task(id).await,
    };
    let told = match view {
        Ok(Some(view)) => shown(state, &view, status).await.ok(),
        Ok(None) | Err(_) => None,
    };
    let mut response = match told {
        Some(response) => response,
        // It is accepted all the same; how it stands cannot be said.
        None => super::json(status, &json!({ "id": id, "state": null }))?,
    };
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/tasks/{id}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// The task that the fields describe. Only sound if the fields turn out to be.
pub(crate) fn task(fields: &mut Fields, now: Timestamp) -> NewTask {
    let goal = fields.text("goal", true);
    let payload = fields.document("payload");
    let kind = match (fields.text("kind", false), &goal) {
        (Some(kind), _) => Some(kind),
        (None, Some(_)) => Some(PLAN.to_owned()),
        (None, None) => {
            fields.problem("kind", "is missing; give a kind, or a goal for the planner");
            None
        }
    };
    let payload = payload.or_else(|| match (&kind, &goal) {
        (Some(kind), Some(goal)) if kind == PLAN => Json::of(&json!({ "goal": goal })).ok(),
        _ => None,
    });
    let mut task = NewTask::new(kind.unwrap_or_default(), payload.unwrap_or_else(Json::null));
    task.goal = goal;
    task.priority = fields.named("priority").unwrap_or_default();
    task.class = fields.text("class", false);
    task.tenant = fields.text("tenant", false);
    task.idempotency_key = fields.text("idempotency_key", false);
    task.run_at = instant(fields, "run_at");
    task.deadline = fields
        .number("deadline_ms", 1..=DEADLINE_MS_MAX, " ms")
        .map(|ms| now.after(Duration::from_millis(ms)));
    task.max_attempts = fields
        .number("max_attempts", 1..=1_000, "")
        .and_then(|attempts| attempts.try_into().ok());
    task.depends_on = fields.ids("depends_on");
    let terms = terms(fields, now);
    task.terms = (terms != TaskTerms::default()).then(|| Box::new(terms));
    task
}

/// What the task needs before it may start or go on.
fn terms(fields: &mut Fields, now: Timestamp) -> TaskTerms {
    let expires_at = instant(fields, "expires_at");
    let expires_ms = fields.number("expires_ms", 1..=DEADLINE_MS_MAX, " ms");
    if expires_at.is_some() && expires_ms.is_some() {
        fields.problem("expires_ms", "is given beside expires_at; give one of them");
    }
    let within = expires_ms.map(|ms| now.after(Duration::from_millis(ms)));
    let needs = fields.decoded("needs", "an object of resources and whole numbers of units");
    TaskTerms {
        expires_at: expires_at.or(within),
        concurrency_key: fields.text("concurrency_key", false),
        rate_key: fields.text("rate_key", false),
        needs: needs.unwrap_or_default(),
        budget: fields.nested("budget", limits),
        requires_approval: fields.flag("requires_approval").unwrap_or(false),
        on_child_failure: on_child_failure(fields),
        ..TaskTerms::default()
    }
}

/// An instant as RFC 3339 text or as milliseconds since 1970.
fn instant(fields: &mut Fields, field: &str) -> Option<Timestamp> {
    let raw = fields.raw(field)?;
    if raw.get() == "null" {
        return None;
    }
    let millis = serde_json::from_str::<u64>(raw.get()).ok().or_else(|| {
        let text: String = serde_json::from_str(raw.get()).ok()?;
        let at = OffsetDateTime::parse(&text, &Rfc3339).ok()?;
        u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()
    });
    let within = millis.filter(|millis| *millis <= INSTANT_MAX);
    if within.is_none() {
        let found: String = raw.get().chars().take(60).collect();
        fields.problem(
            field,
            format!(
                "is {found}, must be RFC 3339 text such as \"2026-11-20T09:30:00Z\", or \
                 milliseconds since 1970 up to {INSTANT_MAX}"
            ),
        );
    }
    within.map(Timestamp)
}

/// `"continue"`, `"fail"`, or `{"retry": times, "then": one of them}`, where `then` is `fail`
/// unless set.
fn on_child_failure(fields: &mut Fields) -> OnChildFailure {
    const FIELD: &str = "on_child_failure";
    let fail = |fields: &mut Fields, name: &str| match fields.text(name, false).as_deref() {
        None => None,
        Some("fail") => Some(true),
        Some("continue") => Some(false),
        Some(_) => {
            let retry = if name == FIELD {
                ", or {\"retry\": TIMES, \"then\": one of them}"
            } else {
                ""
            };
            fields.problem(name, format!("must be \"continue\" or \"fail\"{retry}"));
            None
        }
    };
    if !fields.is_object(FIELD) {
        let fail = fail(fields, FIELD).unwrap_or(false);
        return OnChildFailure { retries: 0, fail };
    }
    let policy = fields.nested(FIELD, |fields| OnChildFailure {
        retries: fields
            .number("retry", 1..=100, " times")
            .and_then(|times| times.try_into().ok())
            .unwrap_or(0),
        fail: fail(fields, "then").unwrap_or(true),
    });
    policy.unwrap_or_default()
}
