//! `GET /v1/config`: the settings in force, without secrets.

use axum::extract::State;

use super::{Answer, ok};
use crate::params::Params;
use crate::state::ApiState;

/// `GET /v1/config`: the settings in force, without secrets.
#[utoipa::path(
    get,
    path = "/v1/config",
    tag = "node",
    responses(
        (status = 200, description = "by section", body = Object),
    ),
)]
pub(crate) async fn show(State(state): State<ApiState>, params: Params) -> Answer {
    params.finish()?;
    ok(&state.settings)
}
