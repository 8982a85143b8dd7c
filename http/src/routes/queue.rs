//! `/v1/queue`: how the queue stands, and its switches. Switches survive restarts.

use axum::extract::State;
use regrow_runtime::queue::control::QueueStats;
use serde::Serialize;
use serde_json::json;

use super::{Answer, ok};
use crate::input::{Fields, Nothing};
use crate::params::Params;
use crate::state::ApiState;

/// Most tasks that may be allowed to wait.
const MAX_SIZE_MAX: u64 = 10_000_000;

#[derive(Serialize)]
struct Standing {
    /// Share of `max_size` in use.
    utilization: f64,
    #[serde(flatten)]
    stats: QueueStats,
}

fn standing(state: &ApiState) -> Answer {
    let stats = state.queue.stats();
    ok(&Standing {
        utilization: stats.utilization(),
        stats,
    })
}

/// `GET /v1/queue`
pub(crate) async fn show(State(state): State<ApiState>, params: Params) -> Answer {
    params.finish()?;
    standing(&state)
}

/// `POST /v1/queue/pause`: no lease is given.
pub(crate) async fn pause(State(state): State<ApiState>, _: Nothing) -> Answer {
    state.queue.pause().await?;
    standing(&state)
}

/// `POST /v1/queue/resume`: ends both pausing and draining.
pub(crate) async fn resume(State(state): State<ApiState>, _: Nothing) -> Answer {
    state.queue.resume().await?;
    standing(&state)
}

/// `POST /v1/queue/drain`: no task is accepted; what is there is finished.
pub(crate) async fn drain(State(state): State<ApiState>, _: Nothing) -> Answer {
    state.queue.drain().await?;
    standing(&state)
}

/// `POST /v1/queue/clear`: cancels every task that nobody executes.
pub(crate) async fn clear(State(state): State<ApiState>, _: Nothing) -> Answer {
    let cleared = state.queue.clear().await?;
    ok(&json!({ "cleared": cleared }))
}

/// `PUT /v1/queue/max_size`: null returns to the configured number.
pub(crate) async fn set_max_size(State(state): State<ApiState>, mut fields: Fields) -> Answer {
    if !fields.has("max_size") {
        fields.problem("max_size", "is missing, must be a whole number or null");
    }
    let max_size = fields.number("max_size", 1..=MAX_SIZE_MAX, " tasks");
    fields.finish()?;
    state.queue.set_max_size(max_size).await?;
    standing(&state)
}
