//! Every request seen: metrics, a debug line, the trace that it belongs to, and the panic that a
//! bug ends in.

use std::any::Any;
use std::convert::Infallible;

use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use regrow_runtime::trace::TraceContext;
use tokio::time::Instant;
use tracing::{Instrument as _, Span, debug, info_span};

use crate::error::{ApiError, Code};

/// Requests answered, by `route`, `method` and `status` (count).
pub(crate) const REQUESTS: &str = "regrow_http_requests_total";
/// From a request's headers to its answer's, by `route` (histogram, seconds). Waiting that
/// the client asked for is in it.
pub(crate) const REQUEST_SECONDS: &str = "regrow_http_request_seconds";
/// Open connections (gauge).
pub(crate) const CONNECTIONS: &str = "regrow_http_connections";
/// Tokens that nobody was given (count). When it rises, somebody guesses, or a program has a
/// mistyped token; the log says from where.
pub(crate) const WRONG_TOKENS: &str = "regrow_http_wrong_tokens_total";

/// The trace that a request belongs to, if it says so. What cannot be read is no trace (W3C Trace
/// Context, section 4.3).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traced(pub(crate) Option<TraceContext>);

impl Traced {
    fn of(headers: &HeaderMap) -> Self {
        let mut said = headers.get_all("traceparent").iter();
        let (first, second) = (said.next(), said.next());
        let text = first
            .filter(|_| second.is_none())
            .and_then(|said| said.to_str().ok());
        Self(text.and_then(|text| text.parse().ok()))
    }

    /// Around everything that is logged meanwhile.
    fn span(self) -> Span {
        match self.0 {
            Some(trace) => info_span!("request", trace_id = %trace.trace_id()),
            None => Span::none(),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Traced {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers))
    }
}

/// Measures a request, and has what is logged meanwhile say which trace it belongs to.
pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let span = Traced::of(request.headers()).span();
    measured(request, next).instrument(span).await
}

async fn measured(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = method_label(&request);
    let path = request.extensions().get::<MatchedPath>();
    // The template, never the path: labels must not grow with ids.
    let route = path.map_or("none", |path| path.as_str()).to_owned();
    let request_id = request
        .headers()
        .get("x-request-id")
        .and_then(|id| id.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let response = next.run(request).await;
    let (status, took) = (response.status().as_u16(), started.elapsed());
    metrics::counter!(
        REQUESTS, "route" => route.clone(), "method" => method, "status" => status.to_string()
    )
    .increment(1);
    metrics::histogram!(REQUEST_SECONDS, "route" => route.clone()).record(took.as_secs_f64());
    debug!(method, route, status, ?took, request_id, "request answered");
    response
}

/// The method if it is a common one: a client may invent any.
fn method_label(request: &Request) -> &'static str {
    match request.method().as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "PATCH" => "PATCH",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// A bug ends one request, not the server.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature that the layer calls"
)]
pub(crate) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a text");
    tracing::error!(panic = text, "request handler panicked");
    ApiError::new(
        Code::Internal,
        "the request met a bug; it is in the node's log",
    )
    .into_response()
}
