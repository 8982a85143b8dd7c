//! `/v1/store`: moving the tasks from the node's file to a database.

use axum::extract::State;
use axum::http::StatusCode;
use regrow_runtime::queue::promotion::Progress;
use regrow_runtime::store::postgres::DatabaseUrl;
use serde::Serialize;

use super::{Answer, json, ok};
use crate::error::{ApiError, Code};
use crate::input::Fields;
use crate::params::Params;
use crate::state::ApiState;

#[derive(Serialize)]
struct ProgressJson<'a> {
    /// Where the tasks are now.
    store: &'static str,
    phase: &'static str,
    database: Option<&'a str>,
    rows_copied: u64,
    rows_total: u64,
    rounds: u32,
    left_ms: Option<u128>,
    took_ms: u128,
    waited_ms: Option<u128>,
    error: Option<&'a str>,
}

fn progress(state: &ApiState, status: StatusCode) -> Answer {
    let Progress {
        phase,
        database,
        copied,
        rounds,
        left,
        took,
        waited,
        error,
    } = state.queue.promotion();
    let body = ProgressJson {
        store: state.queue.writer().store().name(),
        phase: phase.as_str(),
        database: database.as_deref(),
        rows_copied: copied.rows,
        rows_total: copied.of,
        rounds,
        left_ms: left.map(|left| left.as_millis()),
        took_ms: took.as_millis(),
        waited_ms: waited.map(|waited| waited.as_millis()),
        error: error.as_deref(),
    };
    match status {
        StatusCode::OK => ok(&body),
        other => json(other, &body),
    }
}

/// `GET /v1/store/promote`: how far the latest move is.
#[utoipa::path(
    get,
    path = "/v1/store/promote",
    tag = "store",
    responses(
        (status = 200, description = "how far it is", body = crate::schema::answers::PromotionAnswer),
    ),
)]
pub(crate) async fn show(State(state): State<ApiState>, params: Params) -> Answer {
    params.finish()?;
    progress(&state, StatusCode::OK)
}

/// `POST /v1/store/promote`: moves the tasks to the database `to` while the node works on.
/// Answered at once; `GET` tells how far it is.
#[utoipa::path(
    post,
    path = "/v1/store/promote",
    tag = "store",
    request_body = crate::schema::bodies::PromoteBody,
    responses(
        (status = 202, description = "begun", body = crate::schema::answers::PromotionAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "promotion_refused"
    ]))),
)]
pub(crate) async fn promote(State(state): State<ApiState>, mut fields: Fields) -> Answer {
    if !fields.given("to") {
        fields.problem("to", "is missing; name a PostgreSQL database");
    }
    let to = fields.text("to", false);
    let to = to.and_then(|text| match text.parse::<DatabaseUrl>() {
        Ok(to) => Some(to),
        Err(invalid) => {
            fields.problem("to", invalid.to_string());
            None
        }
    });
    fields.finish()?;
    // Without it, `finish` has refused.
    let to = to.ok_or_else(|| ApiError::new(Code::ValidationFailed, "`to` is missing"))?;
    let asked = state.queue.promote_to(to);
    asked.map_err(|refused| ApiError::new(Code::PromotionRefused, refused.to_string()))?;
    progress(&state, StatusCode::ACCEPTED)
}
