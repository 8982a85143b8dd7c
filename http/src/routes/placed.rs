//! `/v1/agents`: agents that the cluster places, and orders to any agent.
//!
//! What is asked of a placed agent changes what is wanted of it; the node that owns it follows
//! within moments. An agent that belongs to this node alone is ordered directly.

use axum::extract::State;
use axum::http::StatusCode;
use regrow_cluster::agents::{AgentError, Known};
use regrow_runtime::agent_spec::AgentSpec;
use regrow_runtime::ids::AgentId;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Answer, ok};
use crate::error::{ApiError, Code};
use crate::input::Fields;
use crate::params::{NamePath, Params};
use crate::state::{ApiState, Order, OrderError};

/// `POST /v1/agents`: an agent that runs on whichever node has room for it, for as long as
/// there is one.
#[utoipa::path(
    post,
    path = "/v1/agents",
    tag = "agents",
    request_body = crate::schema::bodies::AgentBody,
    responses(
        (status = 201, description = "it will run where there is room", body = crate::schema::answers::PlacedAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "agent_exists", "node_not_found", "wrong_state", "node_away"
    ]))),
)]
pub(crate) async fn create(State(state): State<ApiState>, mut fields: Fields) -> Answer {
    if !fields.given("id") {
        fields.problem("id", "is missing; it names the agent in the whole cluster");
    }
    let id = fields.text("id", false);
    let role_given = fields.given("role");
    let role = known(&mut fields, "role", "the name of a role, such as `worker`");
    if !role_given {
        fields.problem(
            "role",
            "is missing; it says what the agent does, such as `worker`",
        );
    }
    let restart = known(
        &mut fields,
        "restart",
        "`permanent`, `transient` or `temporary`",
    );
    let intensity = known(&mut fields, "intensity", "{restarts_max, within_ms}");
    let placement = known(
        &mut fields,
        "placement",
        "{node, required, preferred, tolerates, spread, spread_by, policy, class}",
    );
    fields.finish()?;
    let (Some(id), Some(role)) = (id, role) else {
        return Err(ApiError::new(
            Code::ValidationFailed,
            "id or role is missing",
        ));
    };
    let mut spec = AgentSpec::new(AgentId::new(id), role);
    spec.restart = restart.unwrap_or(spec.restart);
    spec.intensity = intensity.unwrap_or(spec.intensity);
    spec.placement = placement.unwrap_or(spec.placement);
    if state
        .agents
        .agents()
        .iter()
        .any(|agent| agent.id == spec.id.as_str())
    {
        return Err(AgentError::Exists(spec.id).into());
    }
    super::json(StatusCode::CREATED, &state.cluster.create(spec).await?)
}

fn known<T: DeserializeOwned>(fields: &mut Fields, field: &str, must_be: &str) -> Option<T> {
    fields.decoded(field, must_be)
}

/// `GET /v1/agents/{id}`: what is known of an agent, and how it stands on this node.
#[utoipa::path(
    get,
    path = "/v1/agents/{id}",
    tag = "agents",
    params(
        ("id" = String, Path, description = "the agent's name"),
    ),
    responses(
        (status = 200, description = "the agent", body = crate::schema::answers::AgentShown),
    ),
    extensions(("x-regrow-codes" = json!([
        "agent_not_found"
    ]))),
)]
pub(crate) async fn show(
    State(state): State<ApiState>,
    NamePath(id): NamePath,
    params: Params,
) -> Answer {
    params.finish()?;
    let here = state
        .agents
        .agents()
        .into_iter()
        .find(|agent| agent.id == id);
    match (state.cluster.show(&AgentId::new(id)).await, here) {
        (Ok(placed), here) => ok(&json!({ "placed": placed, "here": here })),
        // Nothing is known of it elsewhere, or nothing can be known while the store is away.
        (Err(AgentError::Unknown(_) | AgentError::Store(_)), Some(here)) => {
            ok(&json!({ "placed": null, "here": here }))
        }
        (Err(error), _) => Err(error.into()),
    }
}

/// `DELETE /v1/agents/{id}`: forgets an agent that is stopped or parked.
#[utoipa::path(
    delete,
    path = "/v1/agents/{id}",
    tag = "agents",
    params(
        ("id" = String, Path, description = "the agent's name"),
    ),
    responses(
        (status = 200, description = "forgotten", body = crate::schema::answers::RemovedAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "agent_not_found", "agent_running", "wrong_state", "node_away"
    ]))),
)]
pub(crate) async fn remove(State(state): State<ApiState>, NamePath(id): NamePath) -> Answer {
    let id = AgentId::new(id);
    state.cluster.remove(&id).await?;
    ok(&json!({ "id": id, "removed": true }))
}

/// `POST /v1/agents/{id}/start`: lets it run, also if it was parked.
#[utoipa::path(
    post,
    path = "/v1/agents/{id}/start",
    tag = "agents",
    params(
        ("id" = String, Path, description = "the agent's name"),
    ),
    responses(
        (status = 200, description = "done, by an agent of this node", body = crate::schema::answers::OrderedAnswer),
        (status = 202, description = "asked of the node that owns it", body = crate::schema::answers::PlacedAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "agent_not_found", "agent_not_running", "agent_running", "wrong_state", "node_away"
    ]))),
)]
pub(crate) async fn start(State(state): State<ApiState>, NamePath(id): NamePath) -> Answer {
    let id = AgentId::new(id);
    let asked = state.cluster.start(&id).await;
    answered(&state, id, asked, Order::Start).await
}

/// `POST /v1/agents/{id}/stop`: lets it run no more.
#[utoipa::path(
    post,
    path = "/v1/agents/{id}/stop",
    tag = "agents",
    params(
        ("id" = String, Path, description = "the agent's name"),
    ),
    responses(
        (status = 200, description = "done, by an agent of this node", body = crate::schema::answers::OrderedAnswer),
        (status = 202, description = "asked of the node that owns it", body = crate::schema::answers::PlacedAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "agent_not_found", "agent_not_running", "agent_running", "wrong_state", "node_away"
    ]))),
)]
pub(crate) async fn stop(State(state): State<ApiState>, NamePath(id): NamePath) -> Answer {
    let id = AgentId::new(id);
    let asked = state.cluster.stop(&id).await;
    answered(&state, id, asked, Order::Stop).await
}

/// `POST /v1/agents/{id}/restart`: stops it in order and starts it anew.
#[utoipa::path(
    post,
    path = "/v1/agents/{id}/restart",
    tag = "agents",
    params(
        ("id" = String, Path, description = "the agent's name"),
    ),
    responses(
        (status = 200, description = "done, by an agent of this node", body = crate::schema::answers::OrderedAnswer),
        (status = 202, description = "asked of the node that owns it", body = crate::schema::answers::PlacedAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "agent_not_found", "agent_not_running", "agent_running", "wrong_state", "node_away"
    ]))),
)]
pub(crate) async fn restart(State(state): State<ApiState>, NamePath(id): NamePath) -> Answer {
    let id = AgentId::new(id);
    let asked = state.cluster.restart(&id).await;
    answered(&state, id, asked, Order::Restart).await
}

/// `POST /v1/agents/{id}/kill`: kills it as if it had crashed.
#[utoipa::path(
    post,
    path = "/v1/agents/{id}/kill",
    tag = "agents",
    params(
        ("id" = String, Path, description = "the agent's name"),
    ),
    responses(
        (status = 200, description = "done, by an agent of this node", body = crate::schema::answers::OrderedAnswer),
        (status = 202, description = "asked of the node that owns it", body = crate::schema::answers::PlacedAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "agent_not_found", "agent_not_running", "agent_running", "wrong_state", "node_away"
    ]))),
)]
pub(crate) async fn kill(State(state): State<ApiState>, NamePath(id): NamePath) -> Answer {
    let id = AgentId::new(id);
    let asked = state.cluster.kill(&id).await;
    answered(&state, id, asked, Order::Kill).await
}

/// `POST /v1/agents/{id}/handoff`: moves it to another node.
#[utoipa::path(
    post,
    path = "/v1/agents/{id}/handoff",
    tag = "agents",
    params(
        ("id" = String, Path, description = "the agent's name"),
    ),
    request_body = crate::schema::bodies::HandoffBody,
    responses(
        (status = 202, description = "asked of its node", body = crate::schema::answers::PlacedAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "agent_not_found", "node_not_found", "agent_not_running", "wrong_state", "node_away"
    ]))),
)]
pub(crate) async fn hand_off(
    State(state): State<ApiState>,
    NamePath(id): NamePath,
    mut fields: Fields,
) -> Answer {
    let to = fields.text("to", false);
    if to.is_none() {
        fields.problem("to", "is missing; it names the node to go to");
    }
    let reason = fields.text("reason", false);
    fields.finish()?;
    let reason = reason.unwrap_or_else(|| "hand-off".to_owned());
    let to = to.unwrap_or_default();
    let id = AgentId::new(id);
    let asked = state.cluster.hand_off(&id, &to, &reason).await?;
    super::json(StatusCode::ACCEPTED, &asked)
}

/// Answers for the cluster's agent of that name, or orders the same of this node's own.
async fn answered(
    state: &ApiState,
    id: AgentId,
    asked: Result<Known, AgentError>,
    order: Order,
) -> Answer {
    let unknown = match asked {
        Ok(known) => return super::json(StatusCode::ACCEPTED, &known),
        Err(unknown @ AgentError::Unknown(_)) => unknown,
        Err(error) => return Err(error.into()),
    };
    match state.agents.order(id.as_str(), order).await {
        Ok(()) => ok(&json!({ "id": id, "done": true })),
        Err(OrderError::Unknown) => Err(unknown.into()),
        Err(OrderError::Refused(why)) => {
            Err(ApiError::new(Code::AgentNotRunning, why).with("agent", id.to_string()))
        }
    }
}
