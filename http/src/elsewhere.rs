//! What this node does not have, and another node may: asked of that node, or named.
//!
//! Nodes on one database look and order through it; there only leases are bound to a node. Nodes
//! that share no database ask each other over the gateway:
//!
//! - a task or question that is unknown here is asked for at every connected node at once, and
//!   whoever has it answers: looks, waits and orders alike. Only the one that has it does anything;
//! - a task that this node has no room for goes to one with room, once;
//! - a claim that finds nothing here leases what waits elsewhere, and what its worker then says of
//!   the lease goes to the node that gave it; the agents of this node do the same.
//!
//! A node that is away may have what nobody else has, which is then said, rather than that there
//! is no such thing.

mod borrowing;
mod following;
mod forwarding;
pub(crate) mod listing;

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use regrow_cluster::member::NodeName;
use regrow_runtime::ids::TaskId;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use self::borrowing::Borrowing;
pub(crate) use self::borrowing::{LEASES_BORROWED, NothingHere, WaitsAtMost};
pub(crate) use self::forwarding::Forwarded;
use crate::auth::Caller;
use crate::error::{ApiError, Code};
use crate::input;
use crate::relay::{Asked, Relayed, Told, ask};
use crate::routes::events::Followed;
use crate::state::ApiState;

/// Longest wait for other nodes' answers to a look, beside what the client asked to wait.
const LOOK: Duration = Duration::from_secs(2);
/// Longest wait for other nodes' answers to an order.
const ORDER: Duration = Duration::from_secs(10);

/// What a request is about, as far as another node may have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    /// A task or a question that is known to the node that has it.
    Known,
    /// Tasks to work on.
    Claim,
    /// A lease, which is renewed and settled where it was given.
    Lease(TaskId),
    /// A new task.
    Submission,
}

fn subject(request: &Request) -> Option<Subject> {
    if request.extensions().get::<Relayed>().is_some() {
        return None;
    }
    let route = request.extensions().get::<MatchedPath>()?.as_str();
    match route.strip_prefix("/v1/")? {
        "tasks" => (request.method() == Method::POST).then_some(Subject::Submission),
        "leases" => Some(Subject::Claim),
        "approvals/{id}" => Some(Subject::Known),
        task if task.starts_with("tasks/{id}") => Some(Subject::Known),
        lease if lease.starts_with("leases/{id}/") => {
            let id = request.uri().path().split('/').nth(3)?;
            Some(Subject::Lease(id.parse().ok()?))
        }
        _ => None,
    }
}

/// Answers here if that can be done, and elsewhere otherwise.
pub(crate) async fn elsewhere(
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let is_alone = state.queue.is_shared() || state.nodes.others().is_empty();
    match subject(&request) {
        Some(Subject::Lease(task)) if is_alone => {
            let caller = caller_of(&request);
            let response = next.run(request).await;
            match code(&response) {
                Some(Code::TaskNotFound | Code::StaleEpoch) => {
                    lease(&state, task, &caller, response).await
                }
                Some(_) | None => Ok(response),
            }
        }
        Some(Subject::Lease(task)) => {
            let caller = caller_of(&request);
            let (asked, request) = copied(&state, request).await?;
            let response = next.run(request).await;
            match code(&response) == Some(Code::TaskNotFound) {
                true => borrowing::used(&state, task, &asked, &caller, response).await,
                false => Ok(response),
            }
        }
        Some(Subject::Claim) if !is_alone => {
            let (parts, body) = request.into_parts();
            let body = input::read(&parts.headers, body, &state).await?;
            borrowing::claimed(&state, parts, body, next).await
        }
        Some(Subject::Known) if !is_alone => {
            let (stream, caller) = (followed(&request)?, caller_of(&request));
            let (asked, request) = copied(&state, request).await?;
            let response = next.run(request).await;
            match (code(&response).is_some_and(Code::is_unknown), stream) {
                (true, Some((id, from))) => {
                    following::followed(&state, id, from, caller, response).await
                }
                (true, None) => known(&state, &asked, response).await,
                (false, _) => Ok(response),
            }
        }
        Some(Subject::Submission) if !is_alone => {
            let (asked, request) = copied(&state, request).await?;
            forwarding::submitted(&state, &asked, next.run(request)).await
        }
        Some(Subject::Known | Subject::Submission | Subject::Claim) | None => {
            Ok(next.run(request).await)
        }
    }
}

/// Who asks; a request that came to this node has been looked at.
fn caller_of(request: &Request) -> Caller {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.unwrap_or(Caller::Local)
}

/// The task whose log a client wants as a stream, and from where on.
fn followed(request: &Request) -> Result<Option<(TaskId, Followed)>, ApiError> {
    let mut path = request.uri().path().split('/').skip(3);
    let (Some(Ok(id)), Some("events")) = (path.next().map(str::parse), path.next()) else {
        return Ok(None);
    };
    let from = Followed::of(request.headers(), request.uri().query())?;
    Ok(from.map(|from| (id, from)))
}

fn code(response: &Response) -> Option<Code> {
    response.extensions().get().copied()
}

/// The request twice: to be passed on, and to be answered here.
async fn copied(state: &ApiState, request: Request) -> Result<(Asked, Request), ApiError> {
    let (parts, body) = request.into_parts();
    let body = input::read(&parts.headers, body, state).await?;
    let asked = Asked::copy(&parts, body.clone());
    Ok((asked, Request::from_parts(parts, Body::from(body))))
}

/// What all the others say about something that is unknown here.
struct Search {
    found: Option<(NodeName, Told)>,
    /// One that does not listen to whoever asks, and may have it.
    refused: Option<(NodeName, Told)>,
    /// Those that did not answer, or are not there.
    away: Vec<NodeName>,
    /// Of these, those that may have done what was asked.
    unsure: Vec<NodeName>,
}

/// Asks these nodes at once; the first one that knows ends the search.
async fn search(state: &ApiState, asked: &Asked, peers: Vec<NodeName>) -> Search {
    let wait = if asked.is_order() { ORDER } else { LOOK };
    let deadline = wait + asked.waits();
    let connected = state.exchange.connected();
    let mut away = state.nodes.others();
    away.retain(|name| !connected.contains(name));
    let mut asking: FuturesUnordered<_> = peers
        .into_iter()
        .map(|peer| async move {
            let told = ask(state, &peer, asked, deadline, None).await;
            (peer, told)
        })
        .collect();
    let (mut unsure, mut refused) = (Vec::new(), None);
    while let Some((peer, told)) = asking.next().await {
        match told {
            Ok(told) if told.is_refusal() => refused = Some((peer, told)),
            Ok(told) if !told.is_unknown => {
                let found = Some((peer, told));
                return Search {
                    found,
                    refused,
                    away,
                    unsure,
                };
            }
            Ok(_) => {}
            Err(error) => {
                if asked.is_order() && error.may_have_happened() {
                    unsure.push(peer.clone());
                }
                away.push(peer);
            }
        }
    }
    Search {
        found: None,
        refused,
        away,
        unsure,
    }
}

/// The page of something that is unknown here, as the node that has it draws it; `None` if no
/// node does.
///
/// # Errors
///
/// A node that may have it is away, does not listen to whoever asks, or cannot show it.
pub(crate) async fn drawn(
    state: &ApiState,
    caller: &Caller,
    target: &str,
) -> Result<Option<(NodeName, String)>, ApiError> {
    if state.queue.is_shared() || state.nodes.others().is_empty() {
        return Ok(None);
    }
    let asked = Asked::get(target, caller);
    let search = search(state, &asked, state.exchange.connected()).await;
    let refused = |node: &NodeName, told: &Told| {
        let why = heard::<Value>(told).err();
        let why = why.unwrap_or_else(|| "it does not say why".to_owned());
        ApiError::new(
            Code::NotFound,
            format!("node {node} does not show it: {why}"),
        )
    };
    match (search.found, search.refused) {
        (Some((node, told)), _) if told.is_success() => match String::from_utf8(told.body) {
            // One of a version that draws nothing for others answers with a whole page.
            Ok(content) if !content.starts_with("<!DOCTYPE") => Ok(Some((node, content))),
            Ok(_) | Err(_) => {
                let detail =
                    format!("node {node} has it, and is of another version: look at it there");
                Err(ApiError::new(Code::NotFound, detail))
            }
        },
        (Some((node, told)), _) => Err(refused(&node, &told)),
        (None, _) if !search.away.is_empty() => Err(ApiError::away(&search.away)),
        (None, Some((node, told))) => Err(refused(&node, &told)),
        (None, None) => Ok(None),
    }
}

/// What one other node says to a look, or why that is not known.
pub(crate) async fn said_by(
    state: &ApiState,
    caller: &Caller,
    node: &str,
    target: &str,
) -> Result<Value, String> {
    let wanted = |name: &NodeName| (name.as_str() == node).then(|| target.to_owned());
    let mut told = gathered_by(state, caller, wanted).await;
    let told = told.remove(node);
    told.unwrap_or_else(|| Err(format!("there is no node {node}")))
        .and_then(|told| heard(&told))
}

/// What each other node says to a look, by name; what is not there is not known, and why.
pub(crate) async fn gathered(
    state: &ApiState,
    caller: &Caller,
    target: &str,
) -> BTreeMap<String, Result<Value, String>> {
    let told = gathered_by(state, caller, |_| Some(target.to_owned())).await;
    let told = told.into_iter();
    let told = told.map(|(node, told)| (node, told.and_then(|told| heard(&told))));
    told.collect()
}

/// The same for looks that differ from node to node, as they were answered; a node without one is
/// left out.
async fn gathered_by(
    state: &ApiState,
    caller: &Caller,
    target: impl Fn(&NodeName) -> Option<String>,
) -> BTreeMap<String, Result<Told, String>> {
    let connected = state.exchange.connected();
    let asking = connected.into_iter().filter_map(|peer| {
        let asked = Asked::get(target(&peer)?, caller);
        Some(async move {
            let told = ask(state, &peer, &asked, LOOK, None).await;
            (peer.to_string(), told.map_err(|error| error.to_string()))
        })
    });
    let mut gathered: BTreeMap<_, _> = join_all(asking).await.into_iter().collect();
    for name in state.nodes.others() {
        if target(&name).is_some() {
            let missing = || Err(format!("{name} is not connected to this node"));
            gathered.entry(name.to_string()).or_insert_with(missing);
        }
    }
    gathered
}

/// What a node said, unless it does not listen, or says something else.
fn heard<T: DeserializeOwned>(told: &Told) -> Result<T, String> {
    let said = serde_json::from_slice(&told.body).map_err(|error| error.to_string());
    if said.is_ok() && !told.is_refusal() {
        return said;
    }
    let problem: Value = serde_json::from_slice(&told.body).unwrap_or_default();
    match problem["detail"].as_str() {
        Some(why) => Err(why.to_owned()),
        None => said.and_then(|_| Err("it does not say why".to_owned())),
    }
}

/// The answer of the node that has it; `unknown` is what this node would say.
async fn known(state: &ApiState, asked: &Asked, unknown: Response) -> Result<Response, ApiError> {
    let search = search(state, asked, state.exchange.connected()).await;
    search.answer(unknown)
}

impl Search {
    /// The answer of who has it; `unknown` is what this node would say.
    fn answer(self, unknown: Response) -> Result<Response, ApiError> {
        match self.found {
            Some((node, told)) => Ok(told.into_response(&node)),
            None if !self.unsure.is_empty() => Err(ApiError::unsure(&self.unsure)),
            None if !self.away.is_empty() => Err(ApiError::away(&self.away)),
            None => Ok(match self.refused {
                Some((node, told)) => told.into_response(&node),
                None => unknown,
            }),
        }
    }
}

/// Which node gave the lease, if it was another one; `refused` is what this node would say.
async fn lease(
    state: &ApiState,
    task: TaskId,
    caller: &Caller,
    refused: Response,
) -> Result<Response, ApiError> {
    if state.queue.is_shared() {
        return match state.queue.whose(task).await? {
            Some(node) => Err(ApiError::wrong_node(
                task,
                &node,
                state.nodes.http_of(&node),
            )),
            None => Ok(refused),
        };
    }
    if code(&refused) != Some(Code::TaskNotFound) || state.nodes.others().is_empty() {
        return Ok(refused);
    }
    let asked = Asked::get(format!("/v1/tasks/{task}"), caller);
    let search = search(state, &asked, state.exchange.connected()).await;
    match search.found {
        Some((node, _)) => {
            let node = node.as_str();
            Err(ApiError::wrong_node(task, node, state.nodes.http_of(node)))
        }
        None if !search.away.is_empty() => Err(ApiError::away(&search.away)),
        None => Ok(refused),
    }
}
