//! Which route exists, and what stands in front of it.
//!
//! From the outside in: request id, observation, panic catcher, guard against foreign web
//! pages, who may pass, then per route a place among those in flight, a deadline, and other
//! nodes for what this one does not have. Health and metrics
//! need no place: they answer when everything else is refused. Sessions have places of their own.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use axum::{Router, http};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};

use crate::auth::authorise;
use crate::auth::entrance::at_the_door;
use crate::config::HttpConfig;
use crate::elsewhere::elsewhere;
use crate::error::{ApiError, Code};
use crate::guard::guard;
use crate::observe::{observe, panicked};
use crate::pages;
use crate::routes::{
    WAIT_MAX, agents, approvals, audit, budgets, children, cluster, config, events, health, leases,
    metrics, placed, queue, rules, session, steps, store, submit, tasks, tokens,
};
use crate::state::{ApiParts, ApiState};

/// The whole surface, ready to be served.
///
/// [`Server`](crate::server::Server) adds what only a socket can: limits on connections
/// and headers, and graceful shutdown.
pub fn router(parts: ApiParts, config: HttpConfig) -> Router {
    surface(ApiState::new(parts, config))
}

pub(crate) fn surface(state: ApiState) -> Router {
    let ordinary = Router::new()
        .route("/v1/tasks", get(tasks::list).post(submit::submit))
        .route("/v1/tasks/{id}/tree", get(tasks::tree))
        .route("/v1/tasks/{id}/context", get(tasks::context))
        .route("/v1/tasks/{id}/events", get(events::of_task))
        .route("/v1/tasks/{id}/explain", get(tasks::explain))
        .route("/v1/tasks/{id}/cancel", post(tasks::cancel))
        .route("/v1/tasks/{id}/retry", post(tasks::retry))
        .route("/v1/tasks/{id}/steps", get(steps::list))
        .route("/v1/tasks/{id}/steps/{key}", get(steps::show))
        .route("/v1/leases/{id}/steps", post(steps::record))
        .route("/v1/leases/{id}/steps/{key}", get(steps::show))
        .route("/v1/leases/{id}/heartbeat", post(leases::heartbeat))
        .route("/v1/leases/{id}/complete", post(leases::complete))
        .route("/v1/leases/{id}/fail", post(leases::fail))
        .route("/v1/leases/{id}/release", post(leases::release))
        .route("/v1/leases/{id}/children", post(children::insert))
        .route("/v1/leases/{id}/ask", post(approvals::ask))
        .route("/v1/leases/{id}/reserve", post(budgets::reserve))
        .route("/v1/leases/{id}/give_back", post(budgets::give_back))
        .route("/v1/leases/{id}/wait_for_budget", post(budgets::wait))
        .route("/v1/approvals", get(approvals::list))
        .route(
            "/v1/approvals/{id}",
            get(approvals::show).post(approvals::decide),
        )
        .route("/v1/budgets", get(budgets::list))
        .route("/v1/budgets/{scope}", get(budgets::show).put(budgets::set))
        .route("/v1/queue", get(queue::show))
        .route("/v1/queue/concurrency", get(queue::concurrency))
        .route("/v1/queue/pause", post(queue::pause))
        .route("/v1/queue/resume", post(queue::resume))
        .route("/v1/queue/drain", post(queue::drain))
        .route("/v1/queue/clear", post(queue::clear))
        .route("/v1/queue/max_size", put(queue::set_max_size))
        .route("/v1/queue/rules", get(rules::show))
        .route("/v1/queue/weights", put(rules::set_weights))
        .route("/v1/queue/limits", put(rules::set_default_limit))
        .route(
            "/v1/queue/limits/{key}",
            put(rules::set_limit).delete(rules::remove_limit),
        )
        .route(
            "/v1/queue/rates/{key}",
            put(rules::set_rate).delete(rules::remove_rate),
        )
        .route(
            "/v1/queue/resources/{name}",
            put(rules::set_resource).delete(rules::remove_resource),
        )
        .route("/v1/store/promote", get(store::show).post(store::promote))
        .route("/v1/agents", get(agents::list).post(placed::create))
        .route("/v1/agents/{id}", get(placed::show).delete(placed::remove))
        .route("/v1/agents/{id}/start", post(placed::start))
        .route("/v1/agents/{id}/stop", post(placed::stop))
        .route("/v1/agents/{id}/restart", post(placed::restart))
        .route("/v1/agents/{id}/kill", post(placed::kill))
        .route("/v1/agents/{id}/handoff", post(placed::hand_off))
        .route("/v1/agents/{id}/messages", post(submit::to_agent))
        .route("/v1/agents/{id}/inject", post(agents::inject))
        .route("/v1/cluster/nodes", get(cluster::nodes))
        .route("/v1/cluster/placement", get(cluster::placement))
        .route("/v1/cluster/explain/{agent}", get(cluster::explain))
        .route("/v1/cluster/rebalance", post(cluster::rebalance))
        .route("/v1/cluster/nodes/{name}/cordon", post(cluster::cordon))
        .route("/v1/cluster/nodes/{name}/drain", post(cluster::drain))
        .route(
            "/v1/cluster/nodes/{name}/quarantine",
            post(cluster::quarantine),
        )
        .route("/v1/cluster/nodes/{name}/release", post(cluster::release))
        .route("/v1/tree", get(agents::tree))
        .route("/v1/config", get(config::show))
        .route("/v1/events", get(events::all))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{id}", delete(tokens::revoke))
        .route("/v1/audit", get(audit::list))
        .route("/v1/audit/{chain}", get(audit::show))
        .route_layer(from_fn_with_state(state.clone(), elsewhere))
        .route_layer(from_fn_with_state(state.clone(), bounded));
    let door = Router::new()
        .route(
            "/session",
            get(session::show).post(session::open).delete(session::end),
        )
        .route_layer(from_fn_with_state(state.clone(), at_the_door));
    // They take a place among the waiting requests once they wait.
    let waiting = Router::new()
        .route("/v1/leases", post(leases::claim))
        .route("/v1/tasks/{id}", get(tasks::show))
        .route_layer(from_fn_with_state(state.clone(), elsewhere))
        .route_layer(from_fn_with_state(state.clone(), patient));
    let always = Router::new()
        .route("/health", get(health::alive))
        .route("/health/ready", get(health::ready))
        .route("/health/deep", get(health::deep))
        .route("/metrics", get(metrics::render))
        .route_layer(from_fn_with_state(state.clone(), timely));
    let seen = pages::routes().route_layer(from_fn_with_state(state.clone(), bounded));
    Router::new()
        .merge(ordinary)
        .merge(waiting)
        .merge(door)
        .merge(always)
        .merge(seen)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(state.clone(), authorise))
        .layer(from_fn_with_state(state.clone(), guard))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(state.clone(), pages::failure::dress))
        .layer(from_fn_with_state(state.queue.clock(), observe))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .with_state(state)
}

/// A place among the ordinary requests and a deadline.
async fn bounded(
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let Ok(_place) = state.requests.try_acquire() else {
        return Err(ApiError::overloaded("requests", state.config.requests_max));
    };
    within(state.config.request_timeout, request, next).await
}

/// A deadline behind the longest wait that a client may ask for.
async fn patient(
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let limit = state.config.request_timeout + WAIT_MAX;
    within(limit, request, next).await
}

/// A deadline only.
async fn timely(
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    within(state.config.request_timeout, request, next).await
}

/// An answer before `limit` is over, or a problem that says so.
pub(crate) async fn within(
    limit: Duration,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    tokio::time::timeout(limit, next.run(request))
        .await
        .map_err(|_elapsed| {
            let detail = format!("no answer within {limit:?}; a change may have been made or not");
            ApiError::new(Code::TimedOut, detail).retry_after(Duration::from_secs(1))
        })
}

async fn no_route(uri: http::Uri) -> ApiError {
    let path: String = uri.path().chars().take(120).collect();
    ApiError::new(Code::NotFound, format!("there is no route {path}"))
}

async fn no_method(method: Method) -> ApiError {
    let method: String = method.as_str().chars().take(20).collect();
    ApiError::new(
        Code::MethodNotAllowed,
        format!("{method} is not among the methods that the Allow header names"),
    )
}
