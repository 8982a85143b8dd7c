//! `/health`: alive, ready, and each part looked at.
//!
//! Liveness says that the process answers and nothing else, or an orchestrator would kill
//! a node for a full disk. Readiness says whether to send requests here. The deep check is
//! for people and alerts: it really writes to the store.

use std::path::PathBuf;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use regrow_runtime::json::Json;
use regrow_runtime::queue::Queue;
use regrow_runtime::store::{Changes, DocumentRow};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Answer, json as answer};
use crate::params::Params;
use crate::state::{ApiState, Phase};

/// Longest wait for the store's probe and for the disk.
const PATIENCE: Duration = Duration::from_secs(2);
/// The store is not written to more often than this, however often it is asked.
const STORE_PERIOD: Duration = Duration::from_secs(1);
/// Share of the queue in use from which on refusals are near.
const QUEUE_WARNING: f64 = 0.75;
/// Free bytes below which writes will soon fail.
const DISK_FAILED_BYTES: u64 = 64 << 20;
/// Free bytes below which somebody should clean up.
const DISK_WARNING_BYTES: u64 = 1 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    Warning,
    Failed,
}

/// One part, looked at.
#[derive(Debug, Serialize)]
struct Check {
    status: Status,
    detail: String,
    #[serde(flatten)]
    facts: Map<String, Value>,
}

impl Check {
    fn new(status: Status, detail: impl Into<String>, facts: Value) -> Self {
        let facts = match facts {
            Value::Object(facts) => facts,
            Value::Null | Value::Bool(_) | Value::Number(_) => Map::new(),
            Value::String(_) | Value::Array(_) => Map::new(),
        };
        Self {
            status,
            detail: detail.into(),
            facts,
        }
    }
}

/// `GET /health`: the process answers.
#[utoipa::path(
    get,
    path = "/health",
    tag = "health",
    responses(
        (status = 200, description = "the process answers", body = crate::schema::answers::AliveAnswer),
    ),
)]
pub(crate) async fn alive(State(state): State<ApiState>) -> Answer {
    super::ok(&json!({
        "status": "ok",
        "version": state.version,
        "uptime_seconds": state.uptime().as_secs(),
    }))
}

/// `GET /health/ready`: whether to send requests here.
#[utoipa::path(
    get,
    path = "/health/ready",
    tag = "health",
    responses(
        (status = 200, description = "send requests here", body = crate::schema::answers::ReadyAnswer),
        (status = 503, description = "do not", body = crate::schema::answers::ReadyAnswer),
    ),
)]
pub(crate) async fn ready(State(state): State<ApiState>) -> Answer {
    let mut reasons = Vec::new();
    let phase = state.lifecycle.phase();
    if phase != Phase::Ready {
        reasons.push(format!("the node is {}", phase.as_str()));
    }
    if let Some(refusal) = state.queue.writer().refusal() {
        reasons.push(refusal.to_string());
    }
    reasons.extend(state.nodes.unready());
    if reasons.is_empty() {
        return super::ok(&json!({ "status": "ready" }));
    }
    let body = json!({ "status": "not_ready", "reasons": reasons });
    answer(StatusCode::SERVICE_UNAVAILABLE, &body)
}

/// `GET /health/deep`: 503 if any part failed.
#[utoipa::path(
    get,
    path = "/health/deep",
    tag = "health",
    responses(
        (status = 200, description = "each part works", body = crate::schema::answers::DeepAnswer),
        (status = 503, description = "a part failed", body = crate::schema::answers::DeepAnswer),
    ),
)]
pub(crate) async fn deep(State(state): State<ApiState>, params: Params) -> Answer {
    params.finish()?;
    let (status, report) = report(&state).await;
    answer(status, &report)
}

/// How this node is, part by part.
pub(crate) async fn report(state: &ApiState) -> (StatusCode, Value) {
    let (store, disk) = tokio::join!(
        state.store_probe.check(&state.queue),
        disk(state.data_dir.clone())
    );
    let checks = [
        ("phase", phase(state)),
        ("membership", membership(state)),
        ("queue", queue(state)),
        ("store", store),
        ("agents", agents(state)),
        ("disk", disk),
        ("requests", requests(state)),
    ];
    let worst = checks.iter().map(|(_, check)| check.status).max();
    let worst = worst.unwrap_or(Status::Ok);
    let checks: Map<String, Value> = checks
        .into_iter()
        .map(|(name, check)| (name.to_owned(), json!(check)))
        .collect();
    let status = match worst {
        Status::Ok | Status::Warning => StatusCode::OK,
        Status::Failed => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = json!({
        "status": worst,
        "version": state.version,
        "uptime_seconds": state.uptime().as_secs(),
        "checks": checks,
    });
    (status, body)
}

fn phase(state: &ApiState) -> Check {
    let phase = state.lifecycle.phase();
    let status = match phase {
        Phase::Ready => Status::Ok,
        Phase::Starting | Phase::Stopping | Phase::Closing => Status::Failed,
    };
    Check::new(
        status,
        format!("the node is {}", phase.as_str()),
        Value::Null,
    )
}

fn membership(state: &ApiState) -> Check {
    match state.nodes.unready() {
        Some(reason) => Check::new(Status::Warning, reason, Value::Null),
        None => Check::new(
            Status::Ok,
            "this node waits for nobody to let it in",
            Value::Null,
        ),
    }
}

fn queue(state: &ApiState) -> Check {
    let stats = state.queue.stats();
    let used = stats.utilization();
    let (mut status, advice) = if 1.0 <= used {
        (Status::Failed, "; submissions are refused")
    } else if QUEUE_WARNING <= used {
        (Status::Warning, "; submissions will soon be refused")
    } else {
        (Status::Ok, "")
    };
    let mut detail = format!("{} of {} tasks wait{advice}", stats.size, stats.max_size);
    for (on, text) in [
        (stats.paused, "; paused: no lease is given"),
        (stats.draining, "; draining: no task is accepted"),
    ] {
        if on {
            detail.push_str(text);
            status = status.max(Status::Warning);
        }
    }
    let facts = json!({
        "size": stats.size,
        "max_size": stats.max_size,
        "utilization": used,
        "paused": stats.paused,
        "draining": stats.draining,
    });
    Check::new(status, detail, facts)
}

fn requests(state: &ApiState) -> Check {
    let [ordinary, waiting, streams] = state.in_flight();
    let full = [ordinary, waiting, streams]
        .iter()
        .any(|(used, max)| used == max);
    let (status, detail) = if full {
        (Status::Warning, "requests of some sort are refused")
    } else {
        (Status::Ok, "there is room for more requests")
    };
    let facts = json!({
        "in_flight": ordinary.0,
        "waiting": waiting.0,
        "streams": streams.0,
    });
    Check::new(status, detail, facts)
}

fn agents(state: &ApiState) -> Check {
    let agents = state.agents.agents();
    let unhealthy: Vec<&str> = agents
        .iter()
        .filter(|agent| !agent.healthy)
        .map(|agent| agent.id.as_str())
        .collect();
    let status = match (unhealthy.len(), agents.len()) {
        (0, _) => Status::Ok,
        (unhealthy, all) if unhealthy == all => Status::Failed,
        _ => Status::Warning,
    };
    let named = unhealthy.iter().take(5).copied().collect::<Vec<_>>();
    let mut detail = format!("{} of {} are unhealthy", unhealthy.len(), agents.len());
    if !named.is_empty() {
        detail.push_str(&format!(": {}", named.join(", ")));
    }
    let facts = json!({ "agents": agents.len(), "unhealthy": unhealthy.len() });
    Check::new(status, detail, facts)
}

async fn disk(data_dir: Option<PathBuf>) -> Check {
    let Some(path) = data_dir else {
        return Check::new(Status::Ok, "this node keeps nothing on a disk", Value::Null);
    };
    // A network file system may hang; the thread is lost then, the answer is not.
    let look = tokio::task::spawn_blocking(move || fs4::available_space(path));
    match tokio::time::timeout(PATIENCE, look).await {
        Ok(Ok(Ok(free))) => {
            let status = if free < DISK_FAILED_BYTES {
                Status::Failed
            } else if free < DISK_WARNING_BYTES {
                Status::Warning
            } else {
                Status::Ok
            };
            let detail = format!("{} MiB are free", free >> 20);
            Check::new(status, detail, json!({ "free_bytes": free }))
        }
        Ok(Ok(Err(error))) => {
            let detail = format!("the data directory cannot be looked at: {error}");
            Check::new(Status::Failed, detail, Value::Null)
        }
        Ok(Err(_)) | Err(_) => Check::new(
            Status::Failed,
            format!("the data directory did not answer within {PATIENCE:?}"),
            Value::Null,
        ),
    }
}

/// Writes to the store, once per period for however many ask.
#[derive(Debug, Default)]
pub(crate) struct StoreProbe(Mutex<Option<(Instant, Result<Duration, String>)>>);

impl StoreProbe {
    async fn check(&self, queue: &Queue) -> Check {
        let mut last = self.0.lock().await;
        let outcome = match &*last {
            Some((at, outcome)) if at.elapsed() < STORE_PERIOD => outcome.clone(),
            Some(_) | None => {
                let outcome = Self::write(queue).await;
                *last = Some((Instant::now(), outcome.clone()));
                outcome
            }
        };
        match outcome {
            Ok(took) => {
                let detail = format!("a write took {took:?}");
                let facts = json!({
                    "backend": queue.writer().store().name(),
                    "write_us": u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                });
                Check::new(Status::Ok, detail, facts)
            }
            Err(reason) => Check::new(Status::Failed, reason, Value::Null),
        }
    }

    async fn write(queue: &Queue) -> Result<Duration, String> {
        let started = Instant::now();
        let at = queue.clock().now();
        let changes = Changes {
            documents: vec![DocumentRow {
                space: "health",
                key: "probe".to_owned(),
                body: Json::of(&at).ok(),
                at,
            }],
            ..Changes::default()
        };
        match tokio::time::timeout(PATIENCE, queue.writer().write(changes)).await {
            Ok(Ok(())) => Ok(started.elapsed()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_elapsed) => Err(format!("a write did not finish within {PATIENCE:?}")),
        }
    }
}
