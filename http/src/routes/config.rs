//! `GET /v1/config`: the settings in force, without secrets.

use axum::extract::State;

use super::{Answer, ok};
use crate::params::Params;
use crate::state::ApiState;

/// `GET /v1/config`
pub(crate) async fn show(State(state): State<ApiState>, params: Params) -> Answer {
    params.finish()?;
    ok(&state.settings)
}
