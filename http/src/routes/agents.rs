//! `/v1/agents` and `/v1/tree`: who runs, and under whom.

use axum::Extension;
use axum::extract::State;
use regrow_cluster::agents::Known;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Answer, ok};
use crate::auth::Caller;
use crate::elsewhere;
use crate::error::{ApiError, Code};
use crate::input::Fields;
use crate::page::Paging;
use crate::params::{NamePath, Params};
use crate::state::{AgentView, ApiState, Fault, InjectError};

/// `GET /v1/agents`: the agents that run on this node, and those that the cluster places,
/// wherever they are; all, or those of one role. With `cluster=true` those that run on the other
/// nodes as well, each with its node.
#[utoipa::path(
    get,
    path = "/v1/agents",
    tag = "agents",
    params(
        ("role" = Option<String>, Query, description = "only these"),
        ("cluster" = Option<bool>, Query, description = "of all nodes"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "things in a page"),
        ("if-none-match" = Option<String>, Header, description = "what `ETag` said: 304 if nothing changed"),
    ),
    responses(
        (status = 200, description = "the agents", body = crate::schema::answers::AgentPage),
        (status = 304, description = "as `If-None-Match` says it was"),
    ),
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    mut params: Params,
) -> Answer {
    let role = params.text("role");
    let whole = params.parsed::<bool>("cluster").unwrap_or(false);
    let paging = Paging::of(&mut params);
    params.finish()?;
    let mut agents = state.agents.agents();
    agents.retain(|agent| role.as_ref().is_none_or(|role| *role == agent.role));
    // What runs here is told also while the store is away; of the others nothing is known then.
    let mut placed = state.cluster.list().await.ok();
    if let (Some(placed), Some(role)) = (&mut placed, &role) {
        placed.retain(|known| role == known.entry.spec.role.as_str());
    }
    if !whole {
        let mut none = Vec::new();
        let next = paging.cut_both(
            (&mut agents, |agent| &agent.id),
            (placed.as_mut().unwrap_or(&mut none), |known| {
                known.id.as_str()
            }),
        );
        // Nothing but the page is written.
        return ok(&Listed {
            agents: &agents,
            placed: placed.as_deref(),
            next_cursor: next,
        });
    }
    let mut agents = serde_json::to_value(agents).unwrap_or_default();
    let mut placed = serde_json::to_value(placed).unwrap_or_default();
    on_node(&mut agents, &state.node);
    let mut unknown = Map::new();
    for (node, said) in elsewhere::gathered(&state, &caller, "/v1/agents").await {
        match said {
            Ok(mut said) => {
                let mut there = said["agents"].take();
                on_node(&mut there, &node);
                append(&mut agents, there, role.as_deref());
                // On a shared store every node knows the same.
                if !state.queue.is_shared() {
                    let known = said["placed"].take();
                    append(&mut placed, known, role.as_deref());
                }
            }
            Err(error) => drop(unknown.insert(node, error.into())),
        }
    }
    let next = cut(&paging, &mut agents, &mut placed);
    ok(&json!({ "agents": agents, "placed": placed, "unknown": unknown, "next_cursor": next }))
}

#[derive(Serialize)]
struct Listed<'a> {
    agents: &'a [AgentView],
    /// Null while the store does not tell.
    placed: Option<&'a [Known]>,
    next_cursor: Option<String>,
}

/// Leaves one page of both lists, and says where the next one begins.
fn cut(paging: &Paging, agents: &mut Value, placed: &mut Value) -> Option<String> {
    let lists = [agents.as_array_mut(), placed.as_array_mut()];
    let mut lists: Vec<&mut Vec<Value>> = lists.into_iter().flatten().collect();
    paging.cut(&mut lists, |agent| agent["id"].as_str().unwrap_or_default())
}

/// Says of each agent where it runs.
fn on_node(agents: &mut Value, node: &str) {
    for agent in agents.as_array_mut().into_iter().flatten() {
        agent["node"] = node.into();
    }
}

/// Adds what another node lists, of one role if one is asked for.
fn append(to: &mut Value, listed: Value, role: Option<&str>) {
    let (Some(to), Value::Array(listed)) = (to.as_array_mut(), listed) else {
        return;
    };
    let is_wanted = |agent: &Value| {
        let found = agent.get("role").or_else(|| agent["spec"].get("role"));
        role.is_none_or(|role| found.is_none_or(|found| found == role))
    };
    to.extend(listed.into_iter().filter(is_wanted));
}

/// `GET /v1/tree`: the live supervision tree.
#[utoipa::path(
    get,
    path = "/v1/tree",
    tag = "agents",
    responses(
        (status = 200, description = "the live tree", body = serde_json::Value),
    ),
)]
pub(crate) async fn tree(State(state): State<ApiState>, params: Params) -> Answer {
    params.finish()?;
    ok(&state.agents.tree())
}

/// `POST /v1/agents/{id}/inject`: makes an agent suffer a fault, to rehearse recovery.
#[utoipa::path(
    post,
    path = "/v1/agents/{id}/inject",
    tag = "agents",
    params(
        ("id" = String, Path, description = "the agent's name"),
    ),
    request_body = crate::schema::bodies::InjectBody,
    responses(
        (status = 200, description = "it suffers", body = crate::schema::answers::InjectedAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "rehearsal_disabled", "agent_not_found", "agent_not_running"
    ]))),
)]
pub(crate) async fn inject(
    State(state): State<ApiState>,
    NamePath(id): NamePath,
    mut fields: Fields,
) -> Answer {
    let fault = match fields.text("fault", false).as_deref() {
        Some("panic") => Some(Fault::Panic),
        Some("hang") => Some(Fault::Hang),
        Some(_) => {
            fields.problem("fault", "must be `panic` or `hang`");
            None
        }
        None => {
            fields.problem("fault", "is missing; it must be `panic` or `hang`");
            None
        }
    };
    fields.finish()?;
    let Some(fault) = fault else {
        return Err(ApiError::new(Code::ValidationFailed, "fault is missing"));
    };
    match state.agents.inject(&id, fault) {
        Ok(()) => ok(&json!({ "id": id, "injected": true })),
        Err(InjectError::Disabled) => {
            let detail = "start the node with `rehearsal.enabled = true` to rehearse recovery";
            Err(ApiError::new(Code::RehearsalDisabled, detail))
        }
        Err(InjectError::Unknown) => {
            let detail = format!("there is no agent `{id}`; GET /v1/agents lists them");
            Err(ApiError::new(Code::AgentNotFound, detail))
        }
        Err(InjectError::NotRunning) => {
            let detail = format!("agent `{id}` is being restarted; retry shortly");
            Err(ApiError::new(Code::AgentNotRunning, detail))
        }
    }
}
