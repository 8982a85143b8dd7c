//! Which route exists, and what stands in front of it.
//!
//! From the outside in: request id, observation, panic catcher, guard against foreign web
//! pages, who may pass, then per route a place among those in flight, a deadline, and other
//! nodes for what this one does not have. Health and metrics
//! need no place: they answer when everything else is refused. Sessions have places of their own.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::{Extension, Router, http};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::request_id::{PropagateRequestIdLayer, SetRequestIdLayer};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::authorise;
use crate::auth::entrance::at_the_door;
use crate::config::HttpConfig;
use crate::cors;
use crate::elsewhere::elsewhere;
use crate::error::{ApiError, Code};
use crate::guard::guard;
use crate::observe::{Named, named, observe, panicked};
use crate::openapi::Document;
use crate::pages;
use crate::revalidate::revalidated;
use crate::routes::{
    WAIT_MAX, agents, approvals, audit, budgets, children, cluster, code, config, docs, events,
    health, leases, metrics, notes, placed, queue, rules, session, steps, store, submit, tasks,
    tokens,
};
use crate::schema::answers::{Problem, QuestionState};
use crate::state::{ApiParts, ApiState};

/// Answers of fewer bytes are not compressed.
const COMPRESSED_MIN: u64 = 1_024;

/// The whole surface, ready to be served.
///
/// [`Server`](crate::server::Server) adds what only a socket can: limits on connections
/// and headers, and graceful shutdown.
pub fn router(parts: ApiParts, config: HttpConfig) -> Router {
    surface(ApiState::new(parts, config))
}

/// The routes by what stands in front of them, each with what the document says of it.
struct Routes {
    ordinary: OpenApiRouter<ApiState>,
    /// Answers of which a client may know the last one.
    revalidated: OpenApiRouter<ApiState>,
    waiting: OpenApiRouter<ApiState>,
    door: OpenApiRouter<ApiState>,
    always: OpenApiRouter<ApiState>,
}

impl Routes {
    fn all() -> Self {
        let ordinary = OpenApiRouter::new()
            .routes(routes!(tasks::list, submit::submit))
            .routes(routes!(tasks::tree))
            .routes(routes!(tasks::context))
            .routes(routes!(events::of_task))
            .routes(routes!(tasks::explain))
            .routes(routes!(tasks::cancel))
            .routes(routes!(tasks::retry))
            .routes(routes!(steps::list))
            .routes(routes!(steps::show))
            .routes(routes!(steps::record))
            .routes(routes!(steps::show_leased))
            .routes(routes!(leases::heartbeat))
            .routes(routes!(leases::complete))
            .routes(routes!(leases::fail))
            .routes(routes!(leases::release))
            .routes(routes!(children::insert))
            .routes(routes!(notes::note))
            .routes(routes!(approvals::ask))
            .routes(routes!(budgets::reserve))
            .routes(routes!(budgets::give_back))
            .routes(routes!(budgets::wait))
            .routes(routes!(approvals::list))
            .routes(routes!(approvals::show, approvals::decide))
            .routes(routes!(budgets::list))
            .routes(routes!(budgets::show, budgets::set))
            .routes(routes!(queue::concurrency))
            .routes(routes!(queue::pause))
            .routes(routes!(queue::resume))
            .routes(routes!(queue::drain))
            .routes(routes!(queue::clear))
            .routes(routes!(queue::set_max_size))
            .routes(routes!(rules::show))
            .routes(routes!(rules::set_weights))
            .routes(routes!(rules::set_default_limit))
            .routes(routes!(rules::set_limit, rules::remove_limit))
            .routes(routes!(rules::set_rate, rules::remove_rate))
            .routes(routes!(rules::set_resource, rules::remove_resource))
            .routes(routes!(store::show, store::promote))
            .routes(routes!(placed::create))
            .routes(routes!(placed::show, placed::remove))
            .routes(routes!(placed::start))
            .routes(routes!(placed::stop))
            .routes(routes!(placed::restart))
            .routes(routes!(placed::kill))
            .routes(routes!(placed::hand_off))
            .routes(routes!(submit::to_agent))
            .routes(routes!(agents::inject))
            .routes(routes!(cluster::placement))
            .routes(routes!(cluster::explain))
            .routes(routes!(cluster::rebalance))
            .routes(routes!(cluster::cordon))
            .routes(routes!(cluster::drain))
            .routes(routes!(cluster::quarantine))
            .routes(routes!(cluster::release))
            .routes(routes!(agents::tree))
            .routes(routes!(code::list))
            .routes(routes!(code::show, code::stage))
            .routes(routes!(code::source, code::remove))
            .routes(routes!(code::promote))
            .routes(routes!(code::roll_back))
            .routes(routes!(code::pin))
            .routes(routes!(code::grant))
            .routes(routes!(code::check))
            .routes(routes!(config::show))
            .routes(routes!(events::all))
            .routes(routes!(tokens::list, tokens::create))
            .routes(routes!(tokens::revoke))
            .routes(routes!(audit::list))
            .routes(routes!(audit::show));
        let revalidated = OpenApiRouter::new()
            .routes(routes!(queue::show))
            .routes(routes!(agents::list))
            .routes(routes!(cluster::nodes));
        // They take a place among the waiting requests once they wait.
        let waiting = OpenApiRouter::new()
            .routes(routes!(leases::claim))
            .routes(routes!(tasks::show));
        let door = OpenApiRouter::new().routes(routes!(session::show, session::open, session::end));
        let always = OpenApiRouter::new()
            .routes(routes!(health::alive))
            .routes(routes!(health::ready))
            .routes(routes!(health::deep))
            .routes(routes!(metrics::render))
            .routes(routes!(docs::document))
            .routes(routes!(docs::way))
            .routes(routes!(docs::page))
            .routes(routes!(docs::file));
        Self {
            ordinary,
            revalidated,
            waiting,
            door,
            always,
        }
    }
}

/// Parts of the document that belong to no route.
#[derive(utoipa::OpenApi)]
#[openapi(components(schemas(Problem, QuestionState)))]
struct Base;

/// The document of all routes, as they are registered.
pub(crate) fn registered() -> utoipa::openapi::OpenApi {
    let routes = Routes::all();
    let mut document = <Base as utoipa::OpenApi>::openapi();
    for group in [
        routes.ordinary,
        routes.revalidated,
        routes.waiting,
        routes.door,
        routes.always,
    ] {
        document.merge(group.into_openapi());
    }
    document
}

pub(crate) fn surface(state: ApiState) -> Router {
    let routes = Routes::all();
    let plain = |group: OpenApiRouter<ApiState>| -> Router<ApiState> { group.into() };
    let revalidated = plain(routes.revalidated).route_layer(from_fn(revalidated));
    let ordinary = plain(routes.ordinary)
        .merge(revalidated)
        .route_layer(from_fn_with_state(state.clone(), elsewhere))
        .route_layer(from_fn_with_state(state.clone(), bounded));
    let door = plain(routes.door).route_layer(from_fn_with_state(state.clone(), at_the_door));
    let waiting = plain(routes.waiting)
        .route_layer(from_fn_with_state(state.clone(), elsewhere))
        .route_layer(from_fn_with_state(state.clone(), patient));
    let always = plain(routes.always)
        .layer(Extension(Document::of(&registered())))
        .route_layer(from_fn_with_state(state.clone(), timely));
    let seen = pages::routes().route_layer(from_fn_with_state(state.clone(), bounded));
    let config = state.config.clone();
    let router = Router::new()
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
        // What other nodes ask goes through here as well, and is not compressed unless asked.
        .layer(CompressionLayer::new().compress_when(worth_compressing()))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(SetRequestIdLayer::x_request_id(Named))
        .layer(from_fn(named))
        .with_state(state);
    match cors::layer(&config) {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

/// Streams of events are not: each is to arrive when it happens.
fn worth_compressing() -> impl Predicate {
    SizeAbove::new(COMPRESSED_MIN).and(NotForContentType::SSE)
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
