//! `POST /v1/leases/{id}/children`: a worker in any language hands work down.

use axum::extract::State;
use regrow_runtime::journal::remote::Recorded;
use regrow_runtime::queue::task::{NewChild, TaskState};
use serde_json::json;

use super::leases::epoch;
use super::steps::offered;
use super::submit::task;
use super::{Answer, ok};
use crate::error::{ApiError, Code};
use crate::input::Fields;
use crate::params::TaskPath;
use crate::state::ApiState;

/// Most children at once.
const CHILDREN_MAX: usize = 10_000;

/// Inserts the children and lets the task wait for them, without the lease; with `step`, a
/// finished step such as the plan is recorded in the same transaction. Repeating it with the
/// same step inserts nothing: `inserted` is false then, and the lease still holds.
#[utoipa::path(
    post,
    path = "/v1/leases/{id}/children",
    tag = "leases",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
    ),
    request_body = crate::schema::bodies::ChildrenBody,
    responses(
        (status = 200, description = "it waits for them", body = crate::schema::answers::ChildrenAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "stale_epoch", "task_not_found", "wrong_node", "node_away", "step_diverged", "dependency_failed", "queue_full", "draining", "log_full", "result_too_large"
    ]))),
)]
pub(crate) async fn insert(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    mut fields: Fields,
) -> Answer {
    let epoch = epoch(&mut fields);
    let now = state.queue.clock().now();
    let missing = !fields.given("children");
    let children = fields.list("children", CHILDREN_MAX, |fields| NewChild {
        after: after(fields),
        task: task(fields, now),
    });
    if missing {
        fields.problem("children", "is missing, must be a list of tasks");
    }
    let step = fields.nested("step", offered);
    fields.finish()?;
    let children = children.unwrap_or_default();
    let count = children.len();
    let recorded = match step {
        Some(step) => {
            let suspended = state.queue.suspend_after(id, epoch, children, step);
            suspended.await?
        }
        None => {
            state.queue.suspend(id, epoch, children).await?;
            Recorded::Now
        }
    };
    let (inserted, output) = match recorded {
        Recorded::Now => (count, None),
        Recorded::Before(step) => (0, Some(step.output.json)),
    };
    let view = state.queue.task(id).await?;
    let view = view.ok_or_else(|| {
        ApiError::new(
            Code::TaskNotFound,
            format!("task {id} ended and is forgotten"),
        )
    })?;
    let waits = view.state() != TaskState::Executing;
    ok(&json!({
        "id": id,
        "state": view.state(),
        "inserted": inserted,
        "lease_held": !waits,
        "output": output,
    }))
}

/// Positions of the siblings that must complete first.
fn after(fields: &mut Fields) -> Vec<usize> {
    let positions = fields.numbers("after", "a list of positions of earlier children");
    let positions = positions.unwrap_or_default().into_iter();
    positions
        .map(|position| usize::try_from(position).unwrap_or(usize::MAX))
        .collect()
}
