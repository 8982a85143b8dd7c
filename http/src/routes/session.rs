//! `/session`: a browser's way in, and out.

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use regrow_runtime::access::token::Token;
use serde_json::json;
use tracing::info;

use super::{Answer, json as answer};
use crate::auth::entrance;
use crate::auth::session::Session;
use crate::auth::{self, Caller};
use crate::error::{ApiError, Code};
use crate::input::Fields;
use crate::params::Params;
use crate::state::ApiState;

fn told(status: StatusCode, token: &Token, session: &Session) -> Answer {
    let body = json!({
        "name": token.name,
        "scopes": token.scopes,
        "csrf": session.csrf(),
        "ends_at": session.ends_at().to_string(),
    });
    let mut response = answer(status, &body)?;
    unkept(&mut response);
    Ok(response)
}

/// No cache keeps it.
fn unkept(response: &mut Response) {
    let never = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, never);
}

/// `POST /session`: opens a session for the token in the body.
#[utoipa::path(
    post,
    path = "/session",
    tag = "sessions",
    request_body = crate::schema::bodies::SessionBody,
    responses(
        (status = 201, description = "open; the cookie is in `Set-Cookie`", body = crate::schema::answers::SessionAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "token_refused", "too_many_attempts"
    ]))),
)]
pub(crate) async fn open(State(state): State<ApiState>, request: Request) -> Answer {
    let from = auth::source(&state, &request);
    let mut fields = Fields::short(request, entrance::BYTES_MAX, entrance::PATIENCE).await?;
    let text = fields.text("token", false);
    if text.is_none() {
        fields.problem("token", "is missing");
    }
    fields.finish()?;
    let token = auth::check(&state, text.as_deref().unwrap_or_default().trim(), from)?;
    let now = state.queue.clock().now();
    let (cookie, session) = state.gate.sessions.open(&token.id, now);
    info!(token = token.name, %from, "session opened");
    let mut response = told(StatusCode::CREATED, &token, &session)?;
    let header = state.gate.sessions.cookie().set(Some(&cookie));
    response
        .headers_mut()
        .extend(header.map(|it| (SET_COOKIE, it)));
    Ok(response)
}

/// `GET /session`: whose it is, and its CSRF token.
#[utoipa::path(
    get,
    path = "/session",
    tag = "sessions",
    responses(
        (status = 200, description = "whose it is", body = crate::schema::answers::SessionAnswer),
    ),
)]
pub(crate) async fn show(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    params: Params,
) -> Answer {
    params.finish()?;
    let session = state
        .gate
        .sessions
        .find(&headers, state.queue.clock().now());
    match (caller, session) {
        (Caller::Token(token), Some(session)) if token.id == session.token => {
            told(StatusCode::OK, &token, &session)
        }
        _ => Err(ApiError::new(
            Code::TokenRequired,
            "there is no session; open one with POST /session",
        )),
    }
}

/// `DELETE /session`: ends it.
#[utoipa::path(
    delete,
    path = "/session",
    tag = "sessions",
    responses(
        (status = 204, description = "ended"),
    ),
)]
pub(crate) async fn end(State(state): State<ApiState>, headers: HeaderMap) -> Response {
    state.gate.sessions.end(&headers);
    let mut response = StatusCode::NO_CONTENT.into_response();
    let header = state.gate.sessions.cookie().set(None);
    response
        .headers_mut()
        .extend(header.map(|it| (SET_COOKIE, it)));
    unkept(&mut response);
    response
}
