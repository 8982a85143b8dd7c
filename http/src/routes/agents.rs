//! `/v1/agents` and `/v1/tree`: who runs, and under whom.

use axum::Extension;
use axum::extract::{Path, State};
use serde_json::{Map, Value, json};

use super::{Answer, ok};
use crate::auth::Caller;
use crate::elsewhere;
use crate::error::{ApiError, Code};
use crate::input::Fields;
use crate::params::Params;
use crate::state::{ApiState, Fault, InjectError};

/// `GET /v1/agents`: the agents that run on this node, and those that the cluster places,
/// wherever they are; all, or those of one role. With `cluster=true` those that run on the other
/// nodes as well, each with its node.
pub(crate) async fn list(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    mut params: Params,
) -> Answer {
    let role = params.text("role");
    let whole = params.parsed::<bool>("cluster").unwrap_or(false);
    params.finish()?;
    let mut agents = state.agents.agents();
    agents.retain(|agent| role.as_ref().is_none_or(|role| *role == agent.role));
    // What runs here is told also while the store is away; of the others nothing is known then.
    let mut placed = state.cluster.list().await.ok();
    if let (Some(placed), Some(role)) = (&mut placed, &role) {
        placed.retain(|known| role == known.entry.spec.role.as_str());
    }
    if !whole {
        return ok(&json!({ "agents": agents, "placed": placed }));
    }
    let mut agents = serde_json::to_value(agents).unwrap_or_default();
    on_node(&mut agents, &state.node);
    let mut placed = serde_json::to_value(placed).unwrap_or_default();
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
    ok(&json!({ "agents": agents, "placed": placed, "unknown": unknown }))
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
pub(crate) async fn tree(State(state): State<ApiState>, params: Params) -> Answer {
    params.finish()?;
    ok(&state.agents.tree())
}

/// `POST /v1/agents/{id}/inject`: makes an agent suffer a fault, to rehearse recovery.
pub(crate) async fn inject(
    State(state): State<ApiState>,
    Path(id): Path<String>,
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
