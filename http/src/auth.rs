//! Who calls, and whether he may: before any route sees a request.
//!
//! While a store has no token, whoever reaches the node may do everything, and only this
//! machine reaches it. From the first token on every route but two needs one, also from this
//! machine. What operators do is recorded before it is done, and again with its outcome; when
//! it cannot be recorded it is not done.

pub(crate) mod attempts;
mod needs;
pub(crate) mod session;

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
use regrow_runtime::access::audit::chain::{Action, By, Outcome};
use regrow_runtime::access::keyring::Refused;
use regrow_runtime::access::scope::Scope;
use regrow_runtime::access::token::Token;
use tracing::{error, warn};

use self::attempts::Attempts;
use self::needs::Need;
use self::session::{Session, Sessions};
use crate::error::{ApiError, Code};
use crate::relay::{CALLER, Relayed};
use crate::state::ApiState;

/// Between two looks at whether the token of a request that lasts still holds.
const LOOK_PERIOD: Duration = Duration::from_millis(500);
/// Longest path or request id that is recorded, in characters.
const RECORDED_MAX: usize = 300;

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
    /// Another node, for somebody whose token it looked at.
    Node(String),
}

impl Caller {
    /// How the record names him.
    pub(crate) fn by(&self) -> By {
        match self {
            Self::Local => By::local(),
            Self::Node(name) => By {
                name: format!("{name}, through another node"),
                token: None,
            },
            Self::Token(token) => By {
                name: token.name.clone(),
                token: Some(token.id.clone()),
            },
        }
    }
}

/// What this node remembers of callers.
#[derive(Default)]
pub(crate) struct Gate {
    attempts: Mutex<Attempts>,
    pub(crate) sessions: Sessions,
    hasher: RandomState,
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
        Need::ReadFromAfar => !state.config.is_reachable_by_others(),
        Need::Token | Need::Scope(_) => false,
    };
    if bare {
        return Ok(next.run(request).await);
    }
    let caller = match relayed(&request, need)? {
        Some(caller) => caller,
        None => identify(&state, &request)?,
    };
    let scope = match need {
        Need::Scope(scope) => Some(scope),
        Need::ReadFromAfar => Some(Scope::Read),
        Need::Nothing | Need::Token => None,
    };
    if let (Caller::Token(token), Some(scope)) = (&caller, scope)
        && !token.scopes.allow(scope)
    {
        warn!(token = token.name, route, %scope, "token lacks a scope");
        let detail = format!(
            "this needs the scope `{scope}`; the token `{}` has {}",
            token.name, token.scopes
        );
        return Err(ApiError::new(Code::MissingScope, detail).with("scope", scope.as_str()));
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
/// an admin does.
fn relayed(request: &Request, need: Need) -> Result<Option<Caller>, ApiError> {
    if request.extensions().get::<Relayed>().is_none() {
        return Ok(None);
    }
    if matches!(need, Need::Scope(Scope::Admin) | Need::Token) {
        let detail = "one node does not ask another for this";
        return Err(ApiError::new(Code::MissingScope, detail));
    }
    let name = request.headers().get(CALLER);
    let name = name.and_then(|name| name.to_str().ok());
    Ok(Some(Caller::Node(name.unwrap_or("somebody").to_owned())))
}

/// Who calls, by his token or his session.
fn identify(state: &ApiState, request: &Request) -> Result<Caller, ApiError> {
    let keyring = &state.access.keyring;
    if keyring.is_empty() && !state.config.is_reachable_by_others() {
        return Ok(Caller::Local);
    }
    let headers = request.headers();
    if headers.contains_key(AUTHORIZATION) {
        let text = bearer(headers).unwrap_or_default();
        return check(state, text, source(state, request)).map(Caller::Token);
    }
    let Some(session) = state.gate.sessions.find(headers, state.queue.clock().now()) else {
        return Err(ApiError::new(
            Code::TokenRequired,
            "this needs a token: send `Authorization: Bearer regrow_...`",
        ));
    };
    let token = keyring.token(&session.token).map_err(refused)?;
    vouched(request.method(), headers, &session)?;
    Ok(Caller::Token(token))
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

/// The token that `text` is the secret of, unless whoever sent it guesses too often.
pub(crate) fn check(state: &ApiState, text: &str, from: IpAddr) -> Result<Arc<Token>, ApiError> {
    let admitted = state.gate.attempts.lock().admit(from, Instant::now());
    if let Err(pause) = admitted {
        let detail = format!(
            "too many wrong tokens came from {from}; nothing from there is looked at for {} s",
            pause.as_secs() + 1
        );
        return Err(ApiError::new(Code::TooManyAttempts, detail).retry_after(pause));
    }
    let outcome = state.access.keyring.check(text);
    if let Err(reason @ (Refused::Malformed(_) | Refused::Unknown)) = &outcome {
        let guess = state.gate.hasher.hash_one(text);
        let shut = state
            .gate
            .attempts
            .lock()
            .wrong(from, guess, Instant::now());
        metrics::counter!(crate::observe::WRONG_TOKENS).increment(1);
        warn!(%from, %reason, shut, "wrong token");
    }
    outcome.map_err(refused)
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
pub(crate) fn source(state: &ApiState, request: &Request) -> IpAddr {
    let peer = request.extensions().get::<Peer>();
    let peer = peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.0.ip());
    if state.config.public_url.is_none() || !peer.is_loopback() {
        return peer;
    }
    let lines = request.headers().get_all("x-forwarded-for").iter();
    let last = lines.filter_map(|line| line.to_str().ok()).next_back();
    // What the proxy itself added stands last; the rest anybody may have written.
    let last = last.and_then(|line| line.rsplit(',').next());
    last.and_then(|text| text.trim().parse().ok())
        .unwrap_or(peer)
}

/// Carries out what an operator asks for, between two entries of the record.
async fn recorded(
    state: &ApiState,
    caller: &Caller,
    route: &str,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let short = |text: &str| text.chars().take(RECORDED_MAX).collect::<String>();
    let id = request.headers().get("x-request-id");
    let action = Action {
        what: format!("{} {route}", request.method()),
        target: short(request.uri().path()),
        request: id.and_then(|id| id.to_str().ok()).map(short),
    };
    let audit = &state.access.audit;
    let asked = audit.asked(caller.by(), action.clone()).await?;
    let response = next.run(request).await;
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
    let told = audit.answered(asked, caller.by(), action, outcome).await;
    if let Err(reason) = told {
        error!(%reason, route, "what came of an operator's action is not recorded");
    }
    Ok(response)
}
