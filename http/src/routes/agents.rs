//! `/v1/agents` and `/v1/tree`: who runs, and under whom.

use axum::extract::{Path, State};
use serde_json::json;

use super::{Answer, ok};
use crate::error::{ApiError, Code};
use crate::input::Fields;
use crate::params::Params;
use crate::state::{ApiState, Fault, InjectError};

/// `GET /v1/agents`: the agents that run on this node, and those that the cluster places,
/// wherever they are; all, or those of one role.
pub(crate) async fn list(State(state): State<ApiState>, mut params: Params) -> Answer {
    let role = params.text("role");
    params.finish()?;
    let mut agents = state.agents.agents();
    agents.retain(|agent| role.as_ref().is_none_or(|role| *role == agent.role));
    // What runs here is told also while the store is away; of the others nothing is known then.
    let mut placed = state.cluster.list().await.ok();
    if let (Some(placed), Some(role)) = (&mut placed, &role) {
        placed.retain(|known| role == known.entry.spec.role.as_str());
    }
    ok(&json!({ "agents": agents, "placed": placed }))
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
