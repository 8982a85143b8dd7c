//! What a browser sees when the node refuses: a page instead of a problem in JSON, and the way
//! to sign in where that is what is missing.

use axum::body::to_bytes;
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::header::{ACCEPT, LOCATION};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use maud::{Markup, html};
use serde_json::Value;

use super::visit::Visit;
use super::{SIGN_IN, frame};
use crate::error::Code;
use crate::state::ApiState;

/// Longest problem that is read.
const PROBLEM_BYTES_MAX: usize = 64 << 10;

/// Around everything: what was refused to a browser becomes a page.
pub(crate) async fn dress(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    if !is_for_a_page(&request) {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map(ToString::to_string);
    let Ok(visit) = Visit::from_request_parts(&mut parts, &state).await;
    let response = next.run(Request::from_parts(parts, body)).await;
    let Some(code) = response.extensions().get::<Code>().copied() else {
        return response;
    };
    if matches!(code, Code::TokenRequired | Code::TokenRefused) {
        return to_sign_in(target.as_deref().unwrap_or("/"));
    }
    as_page(&visit, response).await
}

/// Browsers say that they want HTML; programs do not.
fn is_for_a_page(request: &Request) -> bool {
    let path = request.uri().path();
    let is_api = [
        "/v1/", "/health", "/metrics", "/session", "/assets/", "/docs",
    ]
    .iter()
    .any(|prefix| path.starts_with(prefix));
    let mut accepts = request.headers().get_all(ACCEPT).iter();
    let wants_page = accepts.any(|line| {
        line.to_str()
            .is_ok_and(|line| line.contains("text/html") && !line.contains("event-stream"))
    });
    request.method() == Method::GET && !is_api && wants_page
}

fn to_sign_in(from: &str) -> Response {
    let query: String = from
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect();
    let to = format!("{SIGN_IN}?next={query}");
    let mut response = StatusCode::SEE_OTHER.into_response();
    if let Ok(to) = HeaderValue::from_str(&to) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

async fn as_page(visit: &Visit, refused: Response) -> Response {
    let (head, body) = refused.into_parts();
    let body = to_bytes(body, PROBLEM_BYTES_MAX).await.unwrap_or_default();
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    let (title, detail) = (text("title"), text("detail"));
    let content = told(head.status, &title, &detail, &text("code"));
    let page = frame::document(visit, None, &title, &content.into_string());
    let mut response = page;
    *response.status_mut() = head.status;
    if let Some(pause) = head.headers.get("retry-after") {
        response.headers_mut().insert("retry-after", pause.clone());
    }
    response
}

fn told(status: StatusCode, title: &str, detail: &str, code: &str) -> Markup {
    let again = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    html! {
        section .lonely {
            p .eyebrow { (status.as_u16()) " · " (code) }
            h1 { (title) }
            p { (detail) }
            p .row {
                @if again { a .button href="" { "Try again" } }
                a .button href="/" { "To the overview" }
            }
        }
    }
}
