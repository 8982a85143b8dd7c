//! The journal over HTTP: recorded steps, for workers in any language and for people.

use axum::extract::State;
use regrow_runtime::ids::Epoch;
use regrow_runtime::journal::remote::{OfferedStep, Recorded};
use regrow_runtime::json::Json;
use regrow_runtime::store::StepRow;
use regrow_runtime::store::content::Content;
use serde::Serialize;
use serde_json::json;

use super::leases::epoch;
use super::{Answer, ok};
use crate::amounts::{CostJson, cost};
use crate::error::{ApiError, Code};
use crate::input::Fields;
use crate::params::{Params, StepPath, TaskPath};
use crate::state::ApiState;
use crate::view::Instant;

/// Steps in a page unless asked otherwise.
const PAGE: u64 = 50;
/// Most steps in a page. Each has less than 200 KiB, since large documents are left out.
const PAGE_MAX: u64 = 200;
/// Longest name of a step, in bytes.
pub(crate) const KEY_BYTES_MAX: usize = 256;

#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Step)]
pub(crate) struct StepJson<'a> {
    key: &'a str,
    #[schema(value_type = Option<serde_json::Value>)]
    input: Option<&'a Json>,
    #[schema(value_type = Option<serde_json::Value>)]
    output: Option<&'a Json>,
    /// The BLAKE3 hash of a large document, by which it is stored once.
    input_hash: Option<&'a str>,
    output_hash: Option<&'a str>,
    #[schema(value_type = u64)]
    epoch: Epoch,
    cost: Option<CostJson>,
    started_at: Instant,
    finished_at: Instant,
}

impl<'a> StepJson<'a> {
    /// With `listed`, large documents are null: whoever wants them reads the step.
    fn new(step: &'a StepRow, listed: bool) -> Self {
        let body = |content: &'a Content| {
            let left_out = listed && content.hash.is_some();
            (!left_out).then_some(&content.json)
        };
        let hash = |content: &'a Content| content.hash.as_ref().map(|hash| hash.as_str());
        Self {
            key: &step.key,
            input: body(&step.input),
            output: body(&step.output),
            input_hash: hash(&step.input),
            output_hash: hash(&step.output),
            epoch: step.epoch,
            cost: step.cost.map(CostJson::from),
            started_at: Instant(step.started_at),
            finished_at: Instant(step.finished_at),
        }
    }
}

/// `GET /v1/tasks/{id}/steps`: what a task has finished, in that order. Large documents
/// are null and have a hash; `GET /v1/tasks/{id}/steps/{key}` has them.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}/steps",
    tag = "tasks",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 200, description = "things in a page"),
    ),
    responses(
        (status = 200, description = "what it has finished", body = crate::schema::answers::StepPage),
    ),
    extensions(("x-regrow-codes" = json!([
        "task_not_found", "node_away"
    ]))),
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    mut params: Params,
) -> Answer {
    let limit = params.number("limit", 1..=PAGE_MAX).unwrap_or(PAGE);
    let cursor = params.text("cursor");
    params.finish()?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // One more than asked for tells whether another page follows.
    let wanted = u32::try_from(limit + 1).unwrap_or(u32::MAX);
    let steps = state.queue.steps_of(id, cursor.as_deref(), wanted).await?;
    let mut steps = steps.ok_or_else(|| ApiError::no_task(id))?;
    let more = limit < steps.len();
    steps.truncate(limit);
    let next = steps.last().map(|step| step.key.as_str()).filter(|_| more);
    let listed: Vec<StepJson<'_>> = steps.iter().map(|step| StepJson::new(step, true)).collect();
    ok(&json!({ "steps": listed, "next_cursor": next }))
}

/// `GET /v1/tasks/{id}/steps/{key}` and `GET /v1/leases/{id}/steps/{key}`: one finished
/// step, or 404 when it has to be done.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}/steps/{key}",
    tag = "tasks",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
        ("key" = String, Path, description = "the step's name"),
    ),
    responses(
        (status = 200, description = "the step", body = StepJson<'static>),
    ),
    extensions(("x-regrow-codes" = json!([
        "task_not_found", "node_away", "step_not_found"
    ]))),
)]
pub(crate) async fn show(
    State(state): State<ApiState>,
    StepPath(id, key): StepPath,
    params: Params,
) -> Answer {
    params.finish()?;
    match state.queue.step_of(id, &key).await? {
        Some(step) => ok(&StepJson::new(&step, false)),
        None if state.queue.task(id).await?.is_none() => Err(ApiError::no_task(id)),
        None => Err(ApiError::new(
            Code::StepNotFound,
            format!("task {id} has no finished step `{key}`; do the work and record it"),
        )
        .with("task", id.to_string())
        .with("key", key)),
    }
}

/// `GET /v1/leases/{id}/steps/{key}`: the same for the worker that does the task.
#[utoipa::path(
    get,
    path = "/v1/leases/{id}/steps/{key}",
    tag = "leases",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
        ("key" = String, Path, description = "the step's name"),
    ),
    responses(
        (status = 200, description = "the step", body = StepJson<'static>),
    ),
    extensions(("x-regrow-codes" = json!([
        "task_not_found", "wrong_node", "node_away", "step_not_found"
    ]))),
)]
pub(crate) async fn show_leased(state: State<ApiState>, path: StepPath, params: Params) -> Answer {
    show(state, path, params).await
}

/// `POST /v1/leases/{id}/steps`: records a finished step under the lease. Repeating it is
/// harmless; `recorded` is false then, and `output` is what stands on record.
#[utoipa::path(
    post,
    path = "/v1/leases/{id}/steps",
    tag = "leases",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
    ),
    request_body = crate::schema::bodies::StepBody,
    responses(
        (status = 200, description = "it is on record", body = crate::schema::answers::RecordedAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "stale_epoch", "task_not_found", "wrong_node", "node_away", "step_diverged", "result_too_large", "log_full"
    ]))),
)]
pub(crate) async fn record(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    mut fields: Fields,
) -> Answer {
    let epoch = epoch(&mut fields);
    let step = offered(&mut fields);
    fields.finish()?;
    let key = step.key.clone();
    match state.queue.offer_step(id, epoch, step).await? {
        Recorded::Now => ok(&json!({ "id": id, "key": key, "recorded": true })),
        Recorded::Before(step) => ok(&json!({
            "id": id,
            "key": key,
            "recorded": false,
            "output": step.output.json,
        })),
    }
}

/// The step that the fields describe. Only sound if the fields turn out to be.
pub(crate) fn offered(fields: &mut Fields) -> OfferedStep {
    OfferedStep {
        key: key(fields),
        input: fields.document("input").unwrap_or_else(Json::null),
        output: fields.document("output").unwrap_or_else(Json::null),
        cost: cost(fields, "cost"),
        started_at: None,
    }
}

/// A step's name.
pub(crate) fn key(fields: &mut Fields) -> String {
    let missing = !fields.given("key");
    let key = fields.text("key", false).unwrap_or_default();
    if missing {
        fields.problem("key", "is missing; it names the step within the task");
    } else if key.is_empty() || KEY_BYTES_MAX < key.len() {
        let found = key.len();
        let problem = format!("has {found} bytes, must have 1 to {KEY_BYTES_MAX}");
        fields.problem("key", problem);
    }
    key
}
