//! `GET /metrics`: Prometheus text, or OpenMetrics with exemplars for whoever accepts it.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::response::IntoResponse as _;

use super::Answer;
use crate::exposition::Format;
use crate::params::Params;
use crate::state::ApiState;

/// `GET /metrics`
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "health",
    responses(
        (status = 200, description = "Prometheus text", body = String, content_type = "text/plain"),
    ),
)]
pub(crate) async fn render(
    State(state): State<ApiState>,
    headers: HeaderMap,
    params: Params,
) -> Answer {
    params.finish()?;
    let said = headers.get_all(ACCEPT).iter();
    let said: Vec<&str> = said.filter_map(|value| value.to_str().ok()).collect();
    let format = Format::accepted(&said.join(","));
    let labels = [(CONTENT_TYPE, format.content_type()), (VARY, "accept")];
    Ok((labels, state.metrics.render(format)).into_response())
}
