//! The routes, a file per subject. Each reads its request, asks the kernel, and answers.

pub(crate) mod agents;
pub(crate) mod approvals;
pub(crate) mod audit;
pub(crate) mod budgets;
pub(crate) mod children;
pub(crate) mod cluster;
pub(crate) mod code;
pub(crate) mod config;
pub(crate) mod docs;
pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod leases;
pub(crate) mod metrics;
pub(crate) mod notes;
pub(crate) mod placed;
pub(crate) mod queue;
pub(crate) mod rules;
pub(crate) mod session;
pub(crate) mod steps;
pub(crate) mod store;
pub(crate) mod submit;
pub(crate) mod tasks;
pub(crate) mod tokens;

use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::error::{ApiError, Code};

/// The longest wait that a client may ask for.
pub(crate) const WAIT_MAX: Duration = Duration::from_millis(WAIT_MS_MAX);
/// The same in milliseconds.
pub(crate) const WAIT_MS_MAX: u64 = 60_000;

/// What a route answers.
pub(crate) type Answer = Result<Response, ApiError>;

/// `body` as JSON.
pub(crate) fn json<T: Serialize + ?Sized>(status: StatusCode, body: &T) -> Answer {
    let text = serde_json::to_string(body).map_err(|error| {
        let detail = format!("an answer could not be written: {error}");
        ApiError::new(Code::Internal, detail)
    })?;
    let mut response = (status, text).into_response();
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// `body` as JSON, with status 200.
pub(crate) fn ok<T: Serialize + ?Sized>(body: &T) -> Answer {
    json(StatusCode::OK, body)
}
