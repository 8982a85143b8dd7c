//! `/v1/queue`: how the queue stands, and its switches. Switches survive restarts.

use axum::extract::State;
use regrow_runtime::concurrency::estimate::LimitReport;
use regrow_runtime::queue::control::QueueStats;
use serde::Serialize;
use serde_json::json;

use super::{Answer, ok};
use crate::input::{Fields, Nothing};
use crate::params::Params;
use crate::revalidate::Telling;
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
#[utoipa::path(
    get,
    path = "/v1/queue",
    tag = "queue",
    params(
        ("if-none-match" = Option<String>, Header, description = "what `ETag` said: 304 if nothing changed"),
    ),
    responses(
        (status = 200, description = "how it stands", body = crate::schema::answers::QueueAnswer),
        (status = 304, description = "as `If-None-Match` says it was"),
    ),
)]
pub(crate) async fn show(State(state): State<ApiState>, params: Params) -> Answer {
    params.finish()?;
    let mut response = standing(&state)?;
    // The window of fairness grows by itself.
    let mut stats = serde_json::to_value(state.queue.stats()).unwrap_or_default();
    stats["fairness"]["window_ms"].take();
    let telling = Telling(stats.to_string());
    response.extensions_mut().insert(telling);
    Ok(response)
}

#[derive(Serialize)]
struct Concurrency {
    role: &'static str,
    #[serde(flatten)]
    report: LimitReport,
    /// Tasks that wait, by `queue_max_size` at most.
    queue_size: u64,
    queue_max_size: u64,
    /// Share of submissions that were refused since the node started.
    rejection_ratio: f64,
    /// How long a task submitted now waits for its turn, at the measured service time.
    est_latency_ms: f64,
}

/// `GET /v1/queue/concurrency`: how many Workers may be at work, and why. An empty list
/// where that does not adapt.
#[utoipa::path(
    get,
    path = "/v1/queue/concurrency",
    tag = "queue",
    responses(
        (status = 200, description = "empty where it does not adapt", body = Vec<crate::schema::answers::ConcurrencyAnswer>),
    ),
)]
pub(crate) async fn concurrency(State(state): State<ApiState>, params: Params) -> Answer {
    params.finish()?;
    let stats = state.queue.stats();
    let (accepted, refused) = (stats.counters.accepted, stats.counters.refused);
    let reports: Vec<Concurrency> = state
        .agents
        .concurrency()
        .into_iter()
        .map(|report| Concurrency {
            role: "worker",
            report,
            queue_size: stats.size,
            queue_max_size: stats.max_size,
            rejection_ratio: refused as f64 / (accepted + refused).max(1) as f64,
            est_latency_ms: stats.size as f64 * report.service_ms / report.limit.max(1) as f64,
        })
        .collect();
    ok(&reports)
}

/// `POST /v1/queue/pause`: no lease is given.
#[utoipa::path(
    post,
    path = "/v1/queue/pause",
    tag = "queue",
    responses(
        (status = 200, description = "how it stands now", body = crate::schema::answers::QueueAnswer),
    ),
)]
pub(crate) async fn pause(State(state): State<ApiState>, _: Nothing) -> Answer {
    state.queue.pause().await?;
    standing(&state)
}

/// `POST /v1/queue/resume`: ends both pausing and draining.
#[utoipa::path(
    post,
    path = "/v1/queue/resume",
    tag = "queue",
    responses(
        (status = 200, description = "how it stands now", body = crate::schema::answers::QueueAnswer),
    ),
)]
pub(crate) async fn resume(State(state): State<ApiState>, _: Nothing) -> Answer {
    state.queue.resume().await?;
    standing(&state)
}

/// `POST /v1/queue/drain`: no task is accepted; what is there is finished.
#[utoipa::path(
    post,
    path = "/v1/queue/drain",
    tag = "queue",
    responses(
        (status = 200, description = "how it stands now", body = crate::schema::answers::QueueAnswer),
    ),
)]
pub(crate) async fn drain(State(state): State<ApiState>, _: Nothing) -> Answer {
    state.queue.drain().await?;
    standing(&state)
}

/// `POST /v1/queue/clear`: cancels every task that nobody executes.
#[utoipa::path(
    post,
    path = "/v1/queue/clear",
    tag = "queue",
    responses(
        (status = 200, description = "so many were cancelled", body = crate::schema::answers::ClearedAnswer),
    ),
)]
pub(crate) async fn clear(State(state): State<ApiState>, _: Nothing) -> Answer {
    let cleared = state.queue.clear().await?;
    ok(&json!({ "cleared": cleared }))
}

/// `PUT /v1/queue/max_size`: null returns to the configured number.
#[utoipa::path(
    put,
    path = "/v1/queue/max_size",
    tag = "queue",
    request_body = crate::schema::bodies::MaxSizeBody,
    responses(
        (status = 200, description = "how it stands now", body = crate::schema::answers::QueueAnswer),
    ),
)]
pub(crate) async fn set_max_size(State(state): State<ApiState>, mut fields: Fields) -> Answer {
    if !fields.has("max_size") {
        fields.problem("max_size", "is missing, must be a whole number or null");
    }
    let max_size = fields.number("max_size", 1..=MAX_SIZE_MAX, " tasks");
    fields.finish()?;
    state.queue.set_max_size(max_size).await?;
    standing(&state)
}
