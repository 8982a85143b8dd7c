//! `/v1/leases`: the right to work, for workers in any language.
//!
//! Every effect carries the lease's epoch; a stale one is refused with `stale_epoch`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, State};
use regrow_runtime::ids::Epoch;
use regrow_runtime::json::Json;
use regrow_runtime::queue::ClaimRequest;
use regrow_runtime::queue::task::{Lease, TaskState};
use serde::Serialize;
use serde_json::json;

use super::{Answer, WAIT_MS_MAX, ok};
use crate::elsewhere::{NothingHere, WaitsAtMost};
use crate::error::{ApiError, Code};
use crate::input::Fields;
use crate::output::OUTPUT_CHARS_MAX;
use crate::params::TaskPath;
use crate::state::{ApiState, Phase};
use crate::view::{Instant, WorkJson};

/// Most leases at once.
const LEASES_MAX: u64 = 1_000;
/// An answer takes no further lease behind this many bytes of payload.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// A lease lasts this long unless asked otherwise.
const LEASE_MS: u64 = 30_000;
/// Epochs as JSON numbers stay exact up to here (RFC 8259, section 6).
const EPOCH_MAX: u64 = (1 << 53) - 1;

#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Lease)]
pub(crate) struct LeaseJson<'a> {
    task: WorkJson<'a>,
    #[schema(value_type = u64)]
    epoch: Epoch,
    attempt: u32,
    losses: u32,
    expires_at: Instant,
}

/// `POST /v1/leases`: leases tasks, waiting for the first if asked to.
///
/// A client that went away while it waited is given nothing. One that goes away while the
/// answer is on its way leaves its leases to expire.
#[utoipa::path(
    post,
    path = "/v1/leases",
    tag = "leases",
    request_body = crate::schema::bodies::ClaimBody,
    responses(
        (status = 200, description = "what was leased; an empty list is nothing", body = Vec<LeaseJson<'static>>),
    ),
    extensions(("x-regrow-codes" = json!([
        "stopping"
    ]))),
)]
pub(crate) async fn claim(
    State(state): State<ApiState>,
    at_most: Option<Extension<WaitsAtMost>>,
    mut fields: Fields,
) -> Answer {
    let kinds = kinds(&mut fields);
    let max = fields.number("max", 1..=LEASES_MAX, "").unwrap_or(1);
    let wait = fields.number("wait_ms", 0..=WAIT_MS_MAX, " ms");
    let lease = lease(&mut fields);
    let worker = fields.text("worker", false);
    if worker.as_ref().is_some_and(|name| 128 < name.len()) {
        fields.problem("worker", "has more than 128 bytes");
    }
    fields.finish()?;
    if Phase::Stopping <= state.lifecycle.phase() {
        let detail = "this node is stopping and gives no more leases; ask another, or retry";
        let refusal = ApiError::new(Code::Stopping, detail);
        return Err(refusal.retry_after(Duration::from_secs(5)));
    }
    let _place = state.wait_permit()?;
    let wait = Duration::from_millis(wait.unwrap_or(0));
    let request = ClaimRequest {
        worker: worker.map_or_else(|| Arc::from("http"), Arc::from),
        kinds,
        max: 1,
        wait: at_most.map_or(wait, |at_most| wait.min(at_most.0.0)),
        lease,
    };
    let mut leases = tokio::select! {
        // In this order, so that a lease that was given is never thrown away.
        biased;
        given = state.queue.claim(&request) => given?,
        () = state.lifecycle.reached(Phase::Stopping) => Vec::new(),
    };
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    let mut bytes = payload_bytes(&leases);
    while !leases.is_empty() && leases.len() < max && bytes < ANSWER_BYTES_MAX {
        // No await from here to the answer: a client that goes away meanwhile is not
        // noticed, so nothing that was given is dropped. A failing store ends the harvest,
        // not the leases already given.
        match state.queue.claim_now(&request) {
            Ok(given) if given.is_empty() => break,
            Ok(given) => {
                bytes += payload_bytes(&given);
                leases.extend(given);
            }
            Err(_) => break,
        }
    }
    let answer: Vec<LeaseJson<'_>> = leases
        .iter()
        .map(|lease| LeaseJson {
            task: WorkJson::from(lease),
            epoch: lease.epoch,
            attempt: lease.attempt,
            losses: lease.losses,
            expires_at: Instant(lease.expires_at),
        })
        .collect();
    let mut response = ok(&answer)?;
    if answer.is_empty() {
        response.extensions_mut().insert(NothingHere);
    }
    Ok(response)
}

fn payload_bytes(leases: &[Lease]) -> usize {
    leases.iter().map(|lease| lease.task.payload.bytes()).sum()
}

fn kinds(fields: &mut Fields) -> Vec<String> {
    let must_be = "a list of 1 to 64 kinds of task";
    let missing = !fields.given("kinds");
    let kinds = fields.texts("kinds", must_be).unwrap_or_default();
    if missing {
        fields.problem("kinds", format!("is missing, must be {must_be}"));
    } else if 64 < kinds.len() {
        fields.problem("kinds", format!("names {}, must be {must_be}", kinds.len()));
    } else if kinds.is_empty() {
        fields.problem("kinds", format!("names none, must be {must_be}"));
    }
    for kind in kinds.iter().take(64) {
        let of_kind = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c);
        if kind.is_empty() || 64 < kind.len() || !kind.bytes().all(of_kind) {
            let found: String = kind.chars().take(64).collect();
            fields.problem(
                "kinds",
                format!("has {found:?}, must be 1 to 64 of a-z, 0-9, `.`, `_` and `-`"),
            );
        }
    }
    kinds
}

fn lease(fields: &mut Fields) -> Duration {
    let lease = fields.number("lease_ms", 1_000..=3_600_000, " ms");
    Duration::from_millis(lease.unwrap_or(LEASE_MS))
}

pub(crate) fn epoch(fields: &mut Fields) -> Epoch {
    if !fields.given("epoch") {
        fields.problem("epoch", "is missing; it came with the lease");
    }
    Epoch(fields.number("epoch", 0..=EPOCH_MAX, "").unwrap_or(0))
}

/// `POST /v1/leases/{id}/heartbeat`: renews the lease, and says whether to stop. It may bring what
/// the worker has written meanwhile.
#[utoipa::path(
    post,
    path = "/v1/leases/{id}/heartbeat",
    tag = "leases",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
    ),
    request_body = crate::schema::bodies::HeartbeatBody,
    responses(
        (status = 200, description = "renewed", body = crate::schema::answers::HeartbeatAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "stale_epoch", "task_not_found", "wrong_node", "node_away"
    ]))),
)]
pub(crate) async fn heartbeat(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    mut fields: Fields,
) -> Answer {
    let (epoch, lease) = (epoch(&mut fields), lease(&mut fields));
    let output = fields.report("output").unwrap_or_default();
    let characters = output.chars().count();
    if OUTPUT_CHARS_MAX < characters {
        let problem = format!(
            "has {characters} characters, must have at most {OUTPUT_CHARS_MAX}: send it in parts"
        );
        fields.problem("output", problem);
    }
    fields.finish()?;
    let renewal = state.queue.heartbeat(id, epoch, lease).await?;
    if !output.is_empty() {
        state.outputs.add(id, epoch, &output);
    }
    ok(&json!({
        "id": id,
        "epoch": epoch,
        "expires_at": Instant(renewal.expires_at),
        "cancel_requested": renewal.cancel_requested,
    }))
}

/// `POST /v1/leases/{id}/complete`: repeating it under the same epoch is harmless.
#[utoipa::path(
    post,
    path = "/v1/leases/{id}/complete",
    tag = "leases",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
    ),
    request_body = crate::schema::bodies::CompleteBody,
    responses(
        (status = 200, description = "done", body = crate::schema::answers::SettledAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "stale_epoch", "task_not_found", "wrong_node", "node_away", "result_too_large"
    ]))),
)]
pub(crate) async fn complete(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    mut fields: Fields,
) -> Answer {
    let epoch = epoch(&mut fields);
    let result = fields.document("result").unwrap_or_else(Json::null);
    fields.finish()?;
    state.queue.complete(id, epoch, result).await?;
    ok(&json!({ "id": id, "state": TaskState::Completed }))
}

/// `POST /v1/leases/{id}/fail`: another attempt follows if `retryable`, which it is
/// unless said otherwise, and attempts are left.
#[utoipa::path(
    post,
    path = "/v1/leases/{id}/fail",
    tag = "leases",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
    ),
    request_body = crate::schema::bodies::FailureBody,
    responses(
        (status = 200, description = "what comes now", body = crate::schema::answers::SettledAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "stale_epoch", "task_not_found", "wrong_node", "node_away"
    ]))),
)]
pub(crate) async fn fail(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    mut fields: Fields,
) -> Answer {
    let epoch = epoch(&mut fields);
    let error = fields.report("error");
    let retryable = fields.flag("retryable").unwrap_or(true);
    fields.finish()?;
    let error = error.unwrap_or_else(|| "the worker gave no reason".to_owned());
    let now = state.queue.fail(id, epoch, error, retryable).await?;
    ok(&json!({ "id": id, "state": now }))
}

/// `POST /v1/leases/{id}/release`: hands the task back; the attempt does not count.
#[utoipa::path(
    post,
    path = "/v1/leases/{id}/release",
    tag = "leases",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
    ),
    request_body = crate::schema::bodies::ReleaseBody,
    responses(
        (status = 200, description = "handed back", body = crate::schema::answers::ReleasedAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "stale_epoch", "task_not_found", "wrong_node", "node_away"
    ]))),
)]
pub(crate) async fn release(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    mut fields: Fields,
) -> Answer {
    let epoch = epoch(&mut fields);
    fields.finish()?;
    state.queue.release(id, epoch).await?;
    ok(&json!({ "id": id, "released": true }))
}
