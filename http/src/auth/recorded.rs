//! What operators do, between two entries of the record.
//!
//! The action runs in a task of its own: whoever asked may hang up, and what came of it is
//! recorded all the same. Refusals are recorded as well, so many of them that nobody fills the
//! disk with them: a token's first at a route within [`WINDOW`], [`OF_ONE_MAX`] of one token and
//! [`OF_ALL_MAX`] of all. The log has every one.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use futures::FutureExt as _;
use parking_lot::Mutex;
use regrow_runtime::access::audit::chain::{Action, By, Outcome};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::{Instrument as _, Span, error, warn};

use super::masked::masked;
use super::{Caller, Noted};
use crate::error::{ApiError, Code};
use crate::input;
use crate::observe::panicked;
use crate::state::ApiState;

/// Longest path or request id that is recorded, in characters.
const RECORDED_MAX: usize = 300;
/// Within it a token is recorded as refused at a route once.
const WINDOW: Duration = Duration::from_secs(3_600);
/// Refusals of one token that are recorded within a window.
const OF_ONE_MAX: usize = 10;
/// Refusals that are recorded within a window.
const OF_ALL_MAX: usize = 100;

/// Actions that are being carried out.
#[derive(Default)]
pub(crate) struct Underway(Mutex<JoinSet<()>>);

impl Underway {
    /// Waits until all that were begun have ended. Cancellation safe; what was not waited for
    /// ends with the last handle to this.
    pub(crate) async fn ended(&self) {
        let mut all = std::mem::take(&mut *self.0.lock());
        while all.join_next().await.is_some() {}
    }
}

/// Carries out what an operator asks for.
pub(super) async fn recorded(
    state: &ApiState,
    caller: &Caller,
    route: &str,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let body = input::read(&parts.headers, body, state).await?;
    let mut action = action(&parts.method, route, &parts);
    action.body = masked(&body);
    let request = Request::from_parts(parts, Body::from(body));
    let (done, outcome) = oneshot::channel();
    let acting = {
        let (state, by) = (state.clone(), caller.by());
        async move {
            // Whoever asked may have hung up.
            let _ = done.send(act(&state, by, action, request, next).await);
        }
    };
    {
        let mut underway = state.gate.underway.0.lock();
        while underway.try_join_next().is_some() {}
        let max = state.config.requests_max;
        if max <= underway.len() {
            return Err(ApiError::overloaded("operators' actions", max));
        }
        underway.spawn(acting.instrument(Span::current()));
    }
    outcome.await.unwrap_or_else(|_| {
        let detail = "the node ended meanwhile; what was asked for may have been done or not";
        Err(ApiError::new(Code::Stopping, detail))
    })
}

fn action(method: &axum::http::Method, route: &str, parts: &axum::http::request::Parts) -> Action {
    let short = |text: &str| text.chars().take(RECORDED_MAX).collect::<String>();
    let id = parts.headers.get("x-request-id");
    Action {
        what: format!("{method} {route}"),
        target: short(parts.uri.path()),
        request: id.and_then(|id| id.to_str().ok()).map(short),
        body: None,
    }
}

async fn act(
    state: &ApiState,
    by: By,
    mut action: Action,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let audit = &state.access.audit;
    let asked = audit.asked(by.clone(), action.clone()).await?;
    // A bug ends this action, and is its outcome.
    let response = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let response = response.unwrap_or_else(panicked);
    let outcome = Outcome {
        status: response.status().as_u16(),
        detail: match response.extensions().get::<Noted>() {
            Some(Noted(text)) => Some(text.clone()),
            None => response
                .extensions()
                .get::<Code>()
                .map(|code| code.as_str().to_owned()),
        },
    };
    let what = action.what.clone();
    // What was sent stands where it was asked for.
    action.body = None;
    if let Err(reason) = audit.answered(asked, by, action, outcome).await {
        error!(%reason, what, "what came of an operator's action is not recorded");
    }
    Ok(response)
}

/// Records that somebody was refused what is an operator's.
pub(super) async fn refused(
    state: &ApiState,
    caller: &Caller,
    route: &str,
    parts: &axum::http::request::Parts,
    refusal: &ApiError,
) {
    let by = caller.by();
    let key = by.token.as_deref().unwrap_or_default();
    let place = format!("{} {route}", parts.method);
    let admitted = state
        .gate
        .refusals
        .lock()
        .admit(key, &place, Instant::now());
    if !admitted {
        return;
    }
    let code = refusal.code();
    let outcome = Outcome {
        status: code.status().as_u16(),
        detail: Some(code.as_str().to_owned()),
    };
    let action = action(&parts.method, route, parts);
    let told = state.access.audit.refused(by, action, outcome).await;
    if let Err(reason) = told {
        warn!(%reason, place, "a refusal is not recorded");
    }
}

/// Which refusals were recorded lately.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    since: Option<Instant>,
    told: BTreeMap<String, BTreeSet<String>>,
}

impl Refusals {
    /// Whether to record one more.
    fn admit(&mut self, token: &str, place: &str, now: Instant) -> bool {
        if self.since.is_none_or(|since| since + WINDOW <= now) {
            self.since = Some(now);
            self.told.clear();
        }
        let all: usize = self.told.values().map(BTreeSet::len).sum();
        let of_one = self.told.get(token).map_or(0, BTreeSet::len);
        if OF_ALL_MAX <= all || OF_ONE_MAX <= of_one {
            return false;
        }
        let told = self.told.entry(token.to_owned()).or_default();
        told.insert(place.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_first_refusal_at_a_route_is_recorded_within_bounds() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        assert!(refusals.admit("a", "GET /x", now));
        assert!(!refusals.admit("a", "GET /x", now), "again");
        assert!(refusals.admit("a", "PUT /x", now) && refusals.admit("b", "GET /x", now));
        let of_one = (0..50).filter(|n| refusals.admit("a", &n.to_string(), now));
        assert_eq!(of_one.count(), OF_ONE_MAX - 2);
        let of_all = (0..500).filter(|n| refusals.admit(&n.to_string(), "GET /x", now));
        assert_eq!(of_all.count(), OF_ALL_MAX - OF_ONE_MAX - 1);
        assert!(
            refusals.admit("a", "GET /x", now + WINDOW),
            "a window later"
        );
    }
}
