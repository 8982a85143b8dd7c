//! Who calls, and whether he may: before any route sees a request.
//!
//! While a store has no token, whoever reaches the node may do everything, and only this
//! machine reaches it. From the first token on every route but two needs one, also from this
//! machine. What operators do is recorded before it is done, and again with its outcome; when
//! it cannot be recorded it is not done.
//!
//! A node without a token does not listen to proxies that say that they are one: whoever uses
//! the machine may do everything, and a proxy speaks for others. One that says nothing cannot
//! be told from a neighbour.

pub(crate) mod attempts;
pub(crate) mod entrance;
mod masked;
pub(crate) mod needs;
mod recorded;
pub(crate) mod session;
pub(crate) mod source;

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::Response;
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use regrow_runtime::access::audit::chain::By;
use regrow_runtime::access::keyring::Refused;
use regrow_runtime::access::scope::{Scope, Scopes};
use regrow_runtime::access::token::Token;
use tracing::warn;

use self::attempts::Attempts;
use self::entrance::Entrance;
use self::needs::Need;
use self::recorded::{Refusals, Underway, recorded};
use self::session::{CookieName, Session, Sessions};
use self::source::{Source, is_passed_on};
use crate::error::{ApiError, Code};
use crate::relay::{self, Relayed};
use crate::state::ApiState;

/// Between two looks at whether the token of a request that lasts still holds.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// From where a connection comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Adds to an answer what the record is to say of it.
#[derive(Clone, Debug)]
pub(crate) struct Noted(pub(crate) String);

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Whoever uses the machine, where no token exists.
    Local,
    /// Whoever holds this token.
    Token(Arc<Token>),
    /// Another node, for somebody.
    Node(Sender),
}

/// For whom another node asks, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    /// The token's name, or what the node calls whoever uses its machine.
    pub(crate) name: String,
    /// The token that the node looked at, if it has tokens: its id, and what it is for.
    pub(crate) token: Option<(String, Scopes)>,
}

impl Caller {
    /// How the record names him.
    pub(crate) fn by(&self) -> By {
        match self {
            Self::Local => By::local(),
            Self::Node(sender) => By {
                name: format!("{}, through another node", sender.name),
                token: sender.token.as_ref().map(|(id, _)| id.clone()),
            },
            Self::Token(token) => By {
                name: token.name.clone(),
                token: Some(token.id.clone()),
            },
        }
    }

    /// Name and scopes of the token that was looked at, here or at the node that asks.
    fn scopes(&self) -> Option<(&str, &Scopes)> {
        match self {
            Self::Local => None,
            Self::Node(sender) => {
                let (_, scopes) = sender.token.as_ref()?;
                Some((&sender.name, scopes))
            }
            Self::Token(token) => Some((&token.name, &token.scopes)),
        }
    }

    /// Whether what needs `scope` is let through.
    pub(crate) fn may(&self, scope: Scope) -> bool {
        self.scopes().is_none_or(|(_, scopes)| scopes.allow(scope))
    }

    /// Whose token was looked at; `None` for whoever uses the machine.
    pub(crate) fn name(&self) -> Option<&str> {
        self.scopes().map(|(name, _)| name)
    }
}

/// What this node remembers of callers.
pub(crate) struct Gate {
    attempts: Mutex<Attempts>,
    pub(crate) sessions: Sessions,
    pub(crate) entrance: Entrance,
    pub(crate) underway: Underway,
    refusals: Mutex<Refusals>,
    hasher: RandomState,
}

impl Gate {
    /// Nobody called yet.
    pub(crate) fn new(cookie: CookieName) -> Self {
        Self {
            attempts: Mutex::default(),
            sessions: Sessions::new(cookie),
            entrance: Entrance::default(),
            underway: Underway::default(),
            refusals: Mutex::default(),
            hasher: RandomState::new(),
        }
    }
}

/// Lets a request through to its route, if its caller may have that.
pub(crate) async fn authorise(
    State(state): State<ApiState>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map(|path| path.as_str().to_owned());
    let need = need(request.method(), route.as_deref())?;
    let bare = match need {
        Need::Nothing => true,
        Need::ReadFromAfar => {
            !state.config.is_reachable_by_others() && !is_passed_on(request.headers())
        }
        Need::Token | Need::Scope(_) => false,
    };
    if bare {
        return Ok(next.run(request).await);
    }
    let (caller, session) = match relayed(&state, &request, need)? {
        Some(caller) => (caller, None),
        None => identify(&state, &request)?,
    };
    let allowed = match &session {
        Some(session) => vouched(request.method(), request.headers(), session),
        None => Ok(()),
    };
    if let Err(refusal) = allowed.and_then(|()| allowed_by(&caller, need)) {
        let (token, code) = (caller.name(), refusal.code().as_str());
        warn!(token, route, code, "token does not allow this");
        let route = route.as_deref().unwrap_or_default();
        if needs::is_operators(need) {
            let (parts, _) = request.into_parts();
            recorded::refused(&state, &caller, route, &parts, &refusal).await;
        }
        return Err(refusal);
    }
    request.extensions_mut().insert(caller.clone());
    if let Some(route) = &route
        && needs::is_recorded(request.method(), need)
    {
        return recorded(&state, &caller, route, request, next).await;
    }
    let Caller::Token(token) = caller else {
        return Ok(next.run(request).await);
    };
    // Whoever waits for a task or follows events does so no longer than his token holds.
    tokio::select! {
        biased;
        response = next.run(request) => Ok(no_longer(response, state.clone(), token)),
        refusal = ended(state.clone(), token.clone()) => Err(refused(refusal)),
    }
}

fn allowed_by(caller: &Caller, need: Need) -> Result<(), ApiError> {
    let scope = match need {
        Need::Scope(scope) => scope,
        Need::ReadFromAfar => Scope::Read,
        Need::Nothing | Need::Token => return Ok(()),
    };
    match caller.scopes() {
        Some((name, scopes)) if !scopes.allow(scope) => {
            let detail = format!("this needs the scope `{scope}`; the token `{name}` has {scopes}");
            Err(ApiError::new(Code::MissingScope, detail).with("scope", scope.as_str()))
        }
        Some(_) | None => Ok(()),
    }
}

/// Waits until the token is not taken any more.
async fn ended(state: ApiState, token: Arc<Token>) -> Refused {
    loop {
        tokio::time::sleep(LOOK_PERIOD).await;
        if let Err(refusal) = state.access.keyring.token(&token.id) {
            return refusal;
        }
    }
}

/// A stream of events that ends with the token.
fn no_longer(response: Response, state: ApiState, token: Arc<Token>) -> Response {
    let kind = response.headers().get(CONTENT_TYPE);
    if kind.is_none_or(|kind| kind != "text/event-stream") {
        return response;
    }
    let (head, body) = response.into_parts();
    let ended = Box::pin(ended(state, token).map(drop));
    let body = body.into_data_stream().take_until(ended);
    Response::from_parts(head, Body::from_stream(body))
}

fn need(method: &Method, route: Option<&str>) -> Result<Need, ApiError> {
    // Who has no token is not told what there is.
    let Some(route) = route else {
        return Ok(Need::Token);
    };
    match needs::of(method, route) {
        Some(need) => Ok(need),
        None if needs::has_route(route) => Ok(Need::Token),
        None => {
            let detail = format!("nobody has said what {route} needs");
            Err(ApiError::new(Code::Internal, detail))
        }
    }
}

/// For whom another node asks, if one does: the gateway knows its peers. No node asks for what
/// an admin does; and none that has no tokens asks one that has some, or it would be a way past
/// them.
fn relayed(state: &ApiState, request: &Request, need: Need) -> Result<Option<Caller>, ApiError> {
    if request.extensions().get::<Relayed>().is_none() {
        return Ok(None);
    }
    if matches!(need, Need::Scope(Scope::Admin) | Need::Token) {
        let detail = "one node does not ask another for this";
        return Err(ApiError::new(Code::MissingScope, detail));
    }
    let sender = relay::sender(request.headers());
    if sender.token.is_none() && !state.access.keyring.is_empty() {
        let node = &state.node;
        let detail = format!(
            "node {node} has tokens, and the node that passed this on has none: make a token \
             there with `regrow token create`, or ask node {node} itself with one of its own"
        );
        return Err(ApiError::new(Code::TokenRequired, detail));
    }
    Ok(Some(Caller::Node(sender)))
}

/// Who calls, by his token or his session.
fn identify(state: &ApiState, request: &Request) -> Result<(Caller, Option<Session>), ApiError> {
    let keyring = &state.access.keyring;
    if keyring.is_empty() && !state.config.is_reachable_by_others() {
        if is_passed_on(request.headers()) {
            return Err(ApiError::new(
                Code::BehindProxy,
                "a proxy passed this on, and this node has no token, so that nobody but its \
                 machine is listened to: make one with `regrow token create admin --scope \
                 admin`, and name the proxy by http.public_url",
            ));
        }
        return Ok((Caller::Local, None));
    }
    let headers = request.headers();
    if headers.contains_key(AUTHORIZATION) {
        let text = bearer(headers).unwrap_or_default();
        let token = check(state, text, source(state, request))?;
        return Ok((Caller::Token(token), None));
    }
    let Some(session) = state.gate.sessions.find(headers, state.queue.clock().now()) else {
        return Err(ApiError::new(
            Code::TokenRequired,
            "this needs a token: send `Authorization: Bearer regrow_...`",
        ));
    };
    let token = keyring.token(&session.token).map_err(refused)?;
    Ok((Caller::Token(token), Some(session)))
}

/// Whoever changes something by a session sends its CSRF token, from the node's own pages.
fn vouched(method: &Method, headers: &HeaderMap, session: &Session) -> Result<(), ApiError> {
    if method.is_safe() {
        return Ok(());
    }
    let site = headers.get("sec-fetch-site");
    if site.is_some_and(|site| site != "same-origin") {
        return Err(ApiError::new(
            Code::CrossOrigin,
            "another site sent this; only this node's own pages may change something",
        ));
    }
    if session.is_vouched_by(headers) {
        return Ok(());
    }
    Err(ApiError::new(
        Code::CsrfRefused,
        "a session changes something only with its CSRF token in the header X-CSRF-Token; \
         GET /session tells it",
    ))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

/// The token that `text` is the secret of. One that somebody was given is taken whoever guessed
/// from the same place; of the others only so many are looked at.
pub(crate) fn check(state: &ApiState, text: &str, from: Source) -> Result<Arc<Token>, ApiError> {
    let reason = match state.access.keyring.check(text) {
        Err(reason @ (Refused::Malformed(_) | Refused::Unknown)) => reason,
        known => return known.map_err(refused),
    };
    let (guess, now) = (state.gate.hasher.hash_one(text), Instant::now());
    let shut = {
        let mut attempts = state.gate.attempts.lock();
        attempts
            .admit(from, now)
            .map(|()| attempts.wrong(from, guess, now))
    };
    match shut {
        Ok(shut) => {
            metrics::counter!(crate::observe::WRONG_TOKENS).increment(1);
            warn!(%from, %reason, shut, "wrong token");
            Err(refused(reason))
        }
        Err(pause) => {
            let detail = format!(
                "too many wrong tokens came from {from}, and this is another; none is looked at \
                 for {} s",
                pause.as_secs() + 1
            );
            Err(ApiError::new(Code::TooManyAttempts, detail).retry_after(pause))
        }
    }
}

fn refused(refused: Refused) -> ApiError {
    let detail = refused.to_string();
    match refused {
        Refused::Unsure(_) => {
            ApiError::new(Code::StoreUnavailable, detail).retry_after(Duration::from_secs(1))
        }
        Refused::Malformed(_)
        | Refused::Unknown
        | Refused::Expired { .. }
        | Refused::Revoked { .. } => ApiError::new(Code::TokenRefused, detail),
    }
}

/// From where a request comes. A proxy on this machine says whom it speaks for.
pub(crate) fn source(state: &ApiState, request: &Request) -> Source {
    let peer = request.extensions().get::<Peer>();
    let peer = peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.0.ip());
    Source::of(peer, request.headers(), state.config.public_url.is_some())
}
