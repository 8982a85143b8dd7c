//! `/v1/cluster`: the nodes, what they are asked to do, and why agents are where they are.

use axum::Extension;
use axum::extract::State;
use regrow_cluster::nodes::Stance;
use regrow_runtime::ids::AgentId;
use serde_json::json;

use super::{Answer, health, ok};
use crate::auth::Caller;
use crate::elsewhere;
use crate::input::Fields;
use crate::params::{NamePath, Params};
use crate::state::ApiState;

/// `GET /v1/cluster/nodes`: who is there; with `health=true` also how each is, as it says itself.
#[utoipa::path(
    get,
    path = "/v1/cluster/nodes",
    tag = "cluster",
    params(
        ("health" = Option<bool>, Query, description = "with how each is, as it says itself"),
        ("if-none-match" = Option<String>, Header, description = "what `ETag` said: 304 if nothing changed"),
    ),
    responses(
        (status = 200, description = "the nodes", body = crate::schema::answers::NodesAnswer),
        (status = 304, description = "as `If-None-Match` says it was"),
    ),
)]
pub(crate) async fn nodes(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    mut params: Params,
) -> Answer {
    let with_health = params.parsed::<bool>("health").unwrap_or(false);
    params.finish()?;
    let listed = state.nodes.list(&state.node).await?;
    if !with_health {
        return ok(&json!({ "nodes": listed }));
    }
    let ((_, here), mut others) = tokio::join!(
        health::report(&state),
        elsewhere::gathered(&state, &caller, "/health/deep")
    );
    let mut nodes = Vec::with_capacity(listed.len());
    for node in listed {
        let health = match node.here {
            true => here.clone(),
            false => match others.remove(&node.name) {
                Some(Ok(health)) => health,
                Some(Err(error)) => json!({ "status": "unknown", "error": error }),
                None => json!({ "status": "unknown", "error": "it is not connected to this node" }),
            },
        };
        let mut node = serde_json::to_value(node).unwrap_or_default();
        node["health"] = health;
        nodes.push(node);
    }
    ok(&json!({ "nodes": nodes }))
}

/// `GET /v1/cluster/placement`: which agent is where, and why there; with `if_lost=NODE` where
/// those of one node would go if it died.
#[utoipa::path(
    get,
    path = "/v1/cluster/placement",
    tag = "cluster",
    params(
        ("if_lost" = Option<String>, Query, description = "where the agents of this node would go"),
    ),
    responses(
        (status = 200, description = "which agent is where, and why", body = Object),
    ),
    extensions(("x-regrow-codes" = json!([
        "node_not_found", "agent_not_found"
    ]))),
)]
pub(crate) async fn placement(State(state): State<ApiState>, mut params: Params) -> Answer {
    let lost = params.text("if_lost");
    params.finish()?;
    match lost {
        Some(node) => ok(&state.nodes.if_lost(&state.node, &node).await?),
        None => ok(&json!({ "placed": state.cluster.list().await? })),
    }
}

/// `GET /v1/cluster/explain/{agent}`: why it is where it is, and what if its node died.
#[utoipa::path(
    get,
    path = "/v1/cluster/explain/{agent}",
    tag = "cluster",
    params(
        ("agent" = String, Path, description = "the agent's name"),
    ),
    responses(
        (status = 200, description = "why it is where it is", body = Object),
    ),
    extensions(("x-regrow-codes" = json!([
        "agent_not_found", "node_not_found"
    ]))),
)]
pub(crate) async fn explain(
    State(state): State<ApiState>,
    NamePath(id): NamePath,
    params: Params,
) -> Answer {
    params.finish()?;
    ok(&state.nodes.explain(&state.node, &AgentId::new(id)).await?)
}

/// `POST /v1/cluster/nodes/{name}/cordon`: it keeps its agents and takes no more.
#[utoipa::path(
    post,
    path = "/v1/cluster/nodes/{name}/cordon",
    tag = "cluster",
    params(
        ("name" = String, Path, description = "the node's name"),
    ),
    request_body = crate::schema::bodies::StanceBody,
    responses(
        (status = 200, description = "it is asked", body = crate::schema::answers::StanceAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "node_not_found", "wrong_state", "node_away"
    ]))),
)]
pub(crate) async fn cordon(
    State(state): State<ApiState>,
    NamePath(node): NamePath,
    fields: Fields,
) -> Answer {
    ask(&state, &node, Some(Stance::Cordoned), fields).await
}

/// `POST /v1/cluster/nodes/{name}/drain`: it gives all its agents away and takes none.
#[utoipa::path(
    post,
    path = "/v1/cluster/nodes/{name}/drain",
    tag = "cluster",
    params(
        ("name" = String, Path, description = "the node's name"),
    ),
    request_body = crate::schema::bodies::StanceBody,
    responses(
        (status = 200, description = "it is asked", body = crate::schema::answers::StanceAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "node_not_found", "wrong_state", "node_away"
    ]))),
)]
pub(crate) async fn drain(
    State(state): State<ApiState>,
    NamePath(node): NamePath,
    fields: Fields,
) -> Answer {
    ask(&state, &node, Some(Stance::Draining), fields).await
}

/// `POST /v1/cluster/nodes/{name}/quarantine`: the same, because it is not trusted.
#[utoipa::path(
    post,
    path = "/v1/cluster/nodes/{name}/quarantine",
    tag = "cluster",
    params(
        ("name" = String, Path, description = "the node's name"),
    ),
    request_body = crate::schema::bodies::StanceBody,
    responses(
        (status = 200, description = "it is asked", body = crate::schema::answers::StanceAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "node_not_found", "wrong_state", "node_away"
    ]))),
)]
pub(crate) async fn quarantine(
    State(state): State<ApiState>,
    NamePath(node): NamePath,
    fields: Fields,
) -> Answer {
    ask(&state, &node, Some(Stance::Quarantined), fields).await
}

/// `POST /v1/cluster/nodes/{name}/release`: it takes agents again.
#[utoipa::path(
    post,
    path = "/v1/cluster/nodes/{name}/release",
    tag = "cluster",
    params(
        ("name" = String, Path, description = "the node's name"),
    ),
    request_body = crate::schema::bodies::StanceBody,
    responses(
        (status = 200, description = "it is asked", body = crate::schema::answers::StanceAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "node_not_found", "wrong_state", "node_away"
    ]))),
)]
pub(crate) async fn release(
    State(state): State<ApiState>,
    NamePath(node): NamePath,
    fields: Fields,
) -> Answer {
    ask(&state, &node, None, fields).await
}

async fn ask(state: &ApiState, node: &str, stance: Option<Stance>, mut fields: Fields) -> Answer {
    let reason = fields.text("reason", true);
    fields.finish()?;
    let note = state.nodes.ask(&state.node, node, stance, reason).await?;
    ok(&json!({ "name": node, "note": note }))
}

/// `POST /v1/cluster/rebalance`: evens the agents out over the nodes.
#[utoipa::path(
    post,
    path = "/v1/cluster/rebalance",
    tag = "cluster",
    request_body = crate::schema::bodies::RebalanceBody,
    responses(
        (status = 200, description = "what moves", body = crate::schema::answers::MovesAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "node_not_found", "wrong_state", "node_away"
    ]))),
)]
pub(crate) async fn rebalance(State(state): State<ApiState>, mut fields: Fields) -> Answer {
    let dry_run = fields.flag("dry_run").unwrap_or(false);
    fields.finish()?;
    let moves = state.nodes.rebalance(&state.node, dry_run).await?;
    ok(&json!({ "moves": moves, "dry_run": dry_run }))
}
