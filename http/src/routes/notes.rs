//! `POST /v1/leases/{id}/context`: what those who work on a task note for each other.

use axum::extract::State;
use regrow_runtime::context::record::ContextStatus;
use serde_json::{Map, Value, json};

use super::leases::epoch;
use super::{Answer, ok};
use crate::error::ApiError;
use crate::input::Fields;
use crate::params::TaskPath;
use crate::state::ApiState;

/// Adds to the shared context of the leased task or of its parent: attributes, a status, a
/// finding. Under a lease that holds; a finding that is repeated is there twice.
#[utoipa::path(
    post,
    path = "/v1/leases/{id}/context",
    tag = "leases",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
    ),
    request_body = crate::schema::bodies::ContextBody,
    responses(
        (status = 200, description = "noted, and durable", body = crate::schema::answers::ContextAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "stale_epoch", "task_not_found", "wrong_node", "node_away", "result_too_large"
    ]))),
)]
pub(crate) async fn note(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    mut fields: Fields,
) -> Answer {
    let epoch = epoch(&mut fields);
    let about = fields.decoded("task", "a task's id").unwrap_or(id);
    let attributes = fields.decoded::<Map<String, Value>>("attributes", "an object");
    let status = fields.decoded::<ContextStatus>(
        "status",
        "queued, planning, in_progress, waiting, completed, failed or cancelled",
    );
    let finding = fields.document("finding");
    let parent = match about == id {
        true => None,
        false => state
            .queue
            .task(id)
            .await?
            .and_then(|view| view.body.parent),
    };
    if about != id && parent != Some(about) {
        fields.problem("task", "must be the leased task or its parent");
    }
    fields.finish()?;
    state.queue.holds(id, epoch).await?;
    let mut record = None;
    if attributes.is_some() || status.is_some() {
        let attributes = attributes.unwrap_or_default();
        record = Some(state.context.upsert(about, attributes, status).await?);
    }
    if let Some(finding) = finding {
        record = Some(state.context.add_finding(about, finding).await?);
    }
    let record = record.or_else(|| state.context.get(about));
    let record = serde_json::to_value(record.as_deref()).map_err(|error| {
        let detail = format!("an answer could not be written: {error}");
        ApiError::new(crate::error::Code::Internal, detail)
    })?;
    ok(&json!({ "context": record }))
}
