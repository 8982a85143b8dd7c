//! The live pages: what an operator sees in a browser, drawn on this node.
//!
//! A page is a function from what the node knows to HTML. It changes nothing: what its buttons
//! order goes to the API, with the API's scopes, record and words. The same address serves the
//! page and, to whoever accepts `text/event-stream`, what it becomes ([`live`]).
//!
//! In reading order: [`visit`] is who looks, [`frame`] what stands around every page, `live` its
//! stream, [`failure`] what a browser is told when something is refused, [`assets`] the files
//! that pages load. Then a file per page; [`parts`] and [`words`] are what they are made of.
//!
//! Absent on purpose: decisions, changes, and anything from another host.

mod agent;
mod agents;
mod alerts;
mod assets;
mod charts;
mod cluster;
mod events;
mod exposed;
pub(crate) mod failure;
mod frame;
mod history;
mod live;
mod memory;
mod metrics;
mod new_task;
mod overview;
mod parts;
mod queue;
mod sign_in;
mod task;
mod tasks;
mod tree;
mod visit;
mod words;

use axum::Router;
use axum::routing::get;

use self::events::Recent;
use self::history::History;
use self::overview::Looks;
use self::tree::TreeLook;
use crate::state::ApiState;

/// What pages keep between looks. A crash loses it, and nothing depends on it.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) history: History,
    pub(crate) looks: Looks,
    pub(crate) tree: TreeLook,
    pub(crate) recent: Recent,
}

/// Keeps what pages show of the past, for as long as it is polled.
pub(crate) async fn keep(state: ApiState) {
    tokio::join!(History::keep(state.clone()), Recent::keep(state));
}

/// Where whoever has no session is sent.
pub(crate) const SIGN_IN: &str = "/sign-in";

/// The pages that show what a token of the scope `read` may see.
const READ: &[&str] = &[
    "/",
    "/tree",
    "/tasks",
    "/tasks/new",
    "/tasks/{id}",
    "/tasks/{id}/steps/{key}",
    "/queue",
    "/cluster",
    "/agents",
    "/agents/{id}",
    "/events",
    "/memory",
    "/charts",
];
/// What is shown to everybody.
const OPEN: &[&str] = &[SIGN_IN, "/assets/{file}"];

/// Whether the route is one of these, and whether it shows something that not everybody sees.
pub(crate) fn needs_read(route: &str) -> Option<bool> {
    if READ.contains(&route) {
        return Some(true);
    }
    OPEN.contains(&route).then_some(false)
}

/// The pages and their files.
pub(crate) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/", get(overview::show))
        .route("/tree", get(tree::show))
        .route("/tasks", get(tasks::show))
        .route("/tasks/new", get(new_task::show))
        .route("/tasks/{id}", get(task::show))
        .route("/tasks/{id}/steps/{key}", get(task::step::show))
        .route("/queue", get(queue::show))
        .route("/cluster", get(cluster::show))
        .route("/agents", get(agents::show))
        .route("/agents/{id}", get(agent::show))
        .route("/events", get(events::show))
        .route("/memory", get(memory::show))
        .route("/charts", get(metrics::show))
        .route(SIGN_IN, get(sign_in::show))
        .route("/assets/{file}", get(assets::serve))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_says_who_may_see_it() {
        let source = include_str!("pages.rs");
        let routes = source.split_once("fn routes()").expect("routes").1;
        let routes = routes.split_once("#[cfg(test)]").expect("tests").0;
        let listed = routes.matches(".route(").count();
        assert_eq!(listed, READ.len() + OPEN.len());
        for route in READ.iter().chain(OPEN).filter(|it| **it != SIGN_IN) {
            assert!(routes.contains(&format!("\"{route}\"")), "{route}");
        }
        assert_eq!(needs_read("/tasks"), Some(true));
        assert_eq!(needs_read(SIGN_IN), Some(false));
        assert_eq!(needs_read("/v1/tasks"), None);
    }
}
