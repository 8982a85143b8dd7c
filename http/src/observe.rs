//! Every request seen: metrics, a debug line, the trace that it belongs to, and the panic that a
//! bug ends in.

use std::any::Any;
use std::convert::Infallible;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use regrow_runtime::clock::{Clock, Timestamp};
use regrow_runtime::exemplars::{self, Exemplar};
use regrow_runtime::spans::{self, FinishedSpan};
use regrow_runtime::trace::{SpanId, TraceContext};
use serde_json::Value;
use tokio::time::Instant;
use tower_http::request_id::{MakeRequestId, RequestId};
use tracing::{Instrument as _, Span, debug, info_span};

use uuid::{Builder, Uuid};

use crate::error::{ApiError, Code};

/// Where a request's id is told, in and out.
pub(crate) const REQUEST_ID: &str = "x-request-id";
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
    fn span(self, own: Option<SpanId>, request_id: &str) -> Span {
        match self.0 {
            Some(trace) => info_span!(
                "request",
                request_id,
                trace_id = %trace.trace_id(),
                span_id = own.map(tracing::field::display),
            ),
            None => info_span!("request", request_id),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Traced {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers))
    }
}

/// Names requests that came without an id, by random UUIDs that no call of the system is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named;

impl MakeRequestId for Named {
    fn make_request_id<B>(&mut self, _: &axum::http::Request<B>) -> Option<RequestId> {
        let id = Builder::from_random_bytes(rand::random()).into_uuid();
        let mut text = Uuid::encode_buffer();
        let text = id.hyphenated().encode_lower(&mut text);
        HeaderValue::from_str(text).ok().map(RequestId::new)
    }
}

/// Longest request id that a client may choose, in bytes.
const REQUEST_ID_MAX: usize = 128;
/// Largest problem that is told its request's id, in bytes.
const PROBLEM_BYTES_MAX: usize = 1 << 20;

/// Lets go of a request id that cannot stand in a log: the request is given another.
pub(crate) async fn named(mut request: Request, next: Next) -> Response {
    let is_plain = |id: &HeaderValue| {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
        (1..=REQUEST_ID_MAX).contains(&id.len()) && id.as_bytes().iter().all(plain)
    };
    let mut ids = request.headers().get_all(REQUEST_ID).iter();
    let (first, second) = (ids.next(), ids.next());
    if second.is_some() || !first.is_none_or(is_plain) {
        request.headers_mut().remove(REQUEST_ID);
    }
    next.run(request).await
}

/// Measures a request, and has what is logged meanwhile say which it is, and to which trace it
/// belongs.
pub(crate) async fn observe(
    State(clock): State<Clock>,
    mut request: Request,
    next: Next,
) -> Response {
    let request_id = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|id| id.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let traced = Traced::of(request.headers());
    let answering = traced.0.and_then(|caller| Answering::of(caller, &clock));
    if let Some(answering) = &answering
        && let Ok(said) = HeaderValue::from_str(&answering.own.to_string())
    {
        // What follows from the request is caused by its answering, here and on other nodes.
        request.headers_mut().insert("traceparent", said);
    }
    let span = traced.span(answering.as_ref().map(|it| it.own.span_id()), &request_id);
    let measured = measured(request, next, traced, answering, &clock);
    let response = measured.instrument(span).await;
    with_request_id(response, &request_id).await
}

/// A problem says which request met it, so that whoever is shown it can be told more.
async fn with_request_id(response: Response, request_id: &str) -> Response {
    let kind = response.headers().get(CONTENT_TYPE);
    if kind.is_none_or(|kind| kind != "application/problem+json") {
        return response;
    }
    let (mut head, body) = response.into_parts();
    // Problems are written whole.
    let body = to_bytes(body, PROBLEM_BYTES_MAX).await.unwrap_or_default();
    let Ok(Value::Object(mut problem)) = serde_json::from_slice(&body) else {
        return Response::from_parts(head, Body::from(body));
    };
    // A problem that another node told has the id of the request that was passed on: the same.
    problem.insert("request_id".to_owned(), request_id.into());
    head.headers.remove(CONTENT_LENGTH);
    Response::from_parts(head, Body::from(Value::Object(problem).to_string()))
}

/// The answering of a request whose caller keeps its trace: a span of its own.
struct Answering {
    own: TraceContext,
    caller: SpanId,
    started_at: Timestamp,
}

impl Answering {
    fn of(caller: TraceContext, clock: &Clock) -> Option<Self> {
        spans::are_kept(&caller).then(|| Self {
            own: caller.caused_by(SpanId::new(rand::random())),
            caller: caller.span_id(),
            started_at: clock.now(),
        })
    }

    fn finish(self, method: &'static str, route: &str, status: u16, ended_at: Timestamp) {
        spans::finish(&self.own, || FinishedSpan {
            context: self.own,
            parent: Some(self.caller),
            name: format!("{method} {route}"),
            is_server: true,
            started_at: self.started_at,
            ended_at,
            attributes: vec![
                ("http.request.method", method.into()),
                ("http.route", route.into()),
                ("http.response.status_code", u64::from(status).into()),
            ],
            error: (500 <= status).then(|| status.to_string()),
        });
    }
}

async fn measured(
    request: Request,
    next: Next,
    traced: Traced,
    answering: Option<Answering>,
    clock: &Clock,
) -> Response {
    let started = Instant::now();
    let method = method_label(&request);
    let path = request.extensions().get::<MatchedPath>();
    // The template, never the path: labels must not grow with ids.
    let route = path.map_or("none", |path| path.as_str()).to_owned();
    let response = next.run(request).await;
    let (status, took) = (response.status().as_u16(), started.elapsed());
    metrics::counter!(
        REQUESTS, "route" => route.clone(), "method" => method, "status" => status.to_string()
    )
    .increment(1);
    let seconds = took.as_secs_f64();
    metrics::histogram!(REQUEST_SECONDS, "route" => route.clone()).record(seconds);
    if let Some(trace) = traced.0 {
        let (trace, at) = (trace.trace_id(), clock.now());
        exemplars::note(REQUEST_SECONDS, &route, Exemplar { trace, seconds, at });
    }
    if let Some(answering) = answering {
        answering.finish(method, &route, status, clock.now());
    }
    debug!(method, route, status, ?took, "request answered");
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
