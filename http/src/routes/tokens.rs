//! `/v1/tokens`: making, listing and revoking tokens.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::header::LINK;
use axum::http::{HeaderValue, StatusCode};
use regrow_runtime::access::keyring::{CreateError, NewToken};
use regrow_runtime::access::scope::{Scope, Scopes};
use regrow_runtime::access::token::is_name;
use serde_json::json;

use super::{Answer, json as answer, ok};
use crate::auth::{Caller, Noted};
use crate::error::{ApiError, Code};
use crate::input::Fields;
use crate::page::Paging;
use crate::params::{NamePath, Params};
use crate::state::ApiState;

/// Longest term of a token: ten years.
const TERM_MS_MAX: u64 = 10 * 366 * 24 * 3_600 * 1_000;

/// `GET /v1/tokens`: all of them, the newest first, or a page of them in order of their ids; without their
/// secrets.
#[utoipa::path(
    get,
    path = "/v1/tokens",
    tag = "tokens",
    params(
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "things in a page"),
    ),
    responses(
        (status = 200, description = "the newest first; where the next page begins says the header `Link`", body = Vec<crate::schema::answers::TokenAnswer>),
    ),
)]
pub(crate) async fn list(State(state): State<ApiState>, mut params: Params) -> Answer {
    let paging = Paging::of(&mut params);
    params.finish()?;
    let (mut tokens, now) = (
        state.access.keyring.list().await?,
        state.queue.clock().now(),
    );
    let next = paging.cut(&mut [&mut tokens], |it| &it.id);
    let tokens: Vec<_> = tokens.iter().map(|it| it.to_json(now, None)).collect();
    let mut response = ok(&tokens)?;
    // A list has no room for a cursor of its own (RFC 8288). Ids are hexadecimal.
    let link = next.map(|next| format!("</v1/tokens?cursor={next}>; rel=\"next\""));
    let link = link.and_then(|link| HeaderValue::from_str(&link).ok());
    response.headers_mut().extend(link.map(|link| (LINK, link)));
    Ok(response)
}

/// `POST /v1/tokens`: makes one. The answer is the only one that has its secret.
#[utoipa::path(
    post,
    path = "/v1/tokens",
    tag = "tokens",
    request_body = crate::schema::bodies::TokenBody,
    responses(
        (status = 201, description = "its secret is shown once", body = crate::schema::answers::NewTokenAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "token_exists", "too_many_tokens"
    ]))),
)]
pub(crate) async fn create(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    mut fields: Fields,
) -> Answer {
    let name = fields.text("name", false);
    match &name {
        None => fields.problem("name", "is missing"),
        Some(name) if !is_name(name) => fields.problem(
            "name",
            "must be 1 to 64 letters, digits, `.`, `_`, `-`, `@` or `:`",
        ),
        Some(_) => {}
    }
    let scopes = fields.decoded::<Scopes>(
        "scopes",
        "a list of scopes: read, submit, work, operate, admin",
    );
    let scopes = scopes.unwrap_or_default();
    let keyring = &state.access.keyring;
    if scopes.is_empty() {
        fields.problem("scopes", "is missing; name at least one scope");
    } else if keyring.is_empty() && !scopes.allow(Scope::Admin) {
        fields.problem(
            "scopes",
            "must contain admin: this is the first token, and from now on only an admin makes more",
        );
    }
    let term = fields.number("term_ms", 1..=TERM_MS_MAX, " ms");
    fields.finish()?;
    let new = NewToken {
        name: name.unwrap_or_default(),
        scopes,
        term: term.map(Duration::from_millis),
    };
    let (token, secret) = keyring.create(new, &caller.by().name).await?;
    let now = state.queue.clock().now();
    let mut response = answer(StatusCode::CREATED, &token.to_json(now, Some(&secret)))?;
    let noted = format!("token {} ({}): {}", token.name, token.id, token.scopes);
    response.extensions_mut().insert(Noted(noted));
    Ok(response)
}

/// `DELETE /v1/tokens/{id}`: revokes the token of that id, or all of that name.
#[utoipa::path(
    delete,
    path = "/v1/tokens/{id}",
    tag = "tokens",
    params(
        ("id" = String, Path, description = "an id, or a name"),
    ),
    responses(
        (status = 200, description = "revoked", body = crate::schema::answers::RevokedAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "token_not_found"
    ]))),
)]
pub(crate) async fn revoke(State(state): State<ApiState>, NamePath(which): NamePath) -> Answer {
    let revoked = state.access.keyring.revoke(&which).await?;
    if revoked.is_empty() {
        let which: String = which.chars().take(80).collect();
        return Err(ApiError::new(
            Code::TokenNotFound,
            format!("there is no token `{which}` that is not revoked already"),
        ));
    }
    let now = state.queue.clock().now();
    let tokens: Vec<_> = revoked.iter().map(|it| it.to_json(now, None)).collect();
    let mut response = ok(&json!({ "revoked": tokens }))?;
    let ids: Vec<String> = revoked
        .iter()
        .map(|token| format!("token {} ({})", token.name, token.id))
        .collect();
    response.extensions_mut().insert(Noted(ids.join(", ")));
    Ok(response)
}

impl From<CreateError> for ApiError {
    fn from(error: CreateError) -> Self {
        let detail = error.to_string();
        match error {
            CreateError::NameTaken(_) => Self::new(Code::TokenExists, detail),
            CreateError::Full => Self::new(Code::TooManyTokens, detail),
            CreateError::Store(error) => error.into(),
        }
    }
}
