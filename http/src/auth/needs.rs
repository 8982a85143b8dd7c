//! What each route needs: the one table, and beside it the pages. A route that is in neither
//! serves nobody.

use axum::http::Method;
use regrow_runtime::access::scope::Scope;

use crate::pages;

/// What a caller has to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing.
    Nothing,
    /// A token that holds, whatever it is for.
    Token,
    /// A token of this scope.
    Scope(Scope),
    /// `read`; nothing while no other machine reaches the node.
    ReadFromAfar,
}

const READ: Need = Need::Scope(Scope::Read);
const SUBMIT: Need = Need::Scope(Scope::Submit);
const WORK: Need = Need::Scope(Scope::Work);
const OPERATE: Need = Need::Scope(Scope::Operate);
const ADMIN: Need = Need::Scope(Scope::Admin);

/// Method, route, and what it needs.
const NEEDS: &[(&str, &str, Need)] = &[
    ("GET", "/health", Need::Nothing),
    ("GET", "/health/ready", Need::Nothing),
    ("GET", "/health/deep", Need::ReadFromAfar),
    ("GET", "/metrics", Need::ReadFromAfar),
    ("GET", "/openapi.json", Need::ReadFromAfar),
    ("GET", "/docs", Need::ReadFromAfar),
    ("GET", "/docs/", Need::ReadFromAfar),
    ("GET", "/docs/{file}", Need::ReadFromAfar),
    ("POST", "/session", Need::Nothing),
    ("GET", "/session", Need::Token),
    ("DELETE", "/session", Need::Token),
    ("GET", "/v1/tasks", READ),
    ("POST", "/v1/tasks", SUBMIT),
    ("GET", "/v1/tasks/{id}", READ),
    ("GET", "/v1/tasks/{id}/tree", READ),
    ("GET", "/v1/tasks/{id}/context", READ),
    ("GET", "/v1/tasks/{id}/events", READ),
    ("GET", "/v1/tasks/{id}/explain", READ),
    ("POST", "/v1/tasks/{id}/cancel", OPERATE),
    ("POST", "/v1/tasks/{id}/retry", OPERATE),
    ("GET", "/v1/tasks/{id}/steps", READ),
    ("GET", "/v1/tasks/{id}/steps/{key}", READ),
    ("POST", "/v1/leases", WORK),
    ("POST", "/v1/leases/{id}/steps", WORK),
    ("GET", "/v1/leases/{id}/steps/{key}", WORK),
    ("POST", "/v1/leases/{id}/heartbeat", WORK),
    ("POST", "/v1/leases/{id}/complete", WORK),
    ("POST", "/v1/leases/{id}/fail", WORK),
    ("POST", "/v1/leases/{id}/release", WORK),
    ("POST", "/v1/leases/{id}/children", WORK),
    ("POST", "/v1/leases/{id}/context", WORK),
    ("POST", "/v1/leases/{id}/ask", WORK),
    ("POST", "/v1/leases/{id}/reserve", WORK),
    ("POST", "/v1/leases/{id}/give_back", WORK),
    ("POST", "/v1/leases/{id}/wait_for_budget", WORK),
    ("GET", "/v1/approvals", READ),
    ("GET", "/v1/approvals/{id}", READ),
    ("POST", "/v1/approvals/{id}", OPERATE),
    ("GET", "/v1/budgets", READ),
    ("GET", "/v1/budgets/{scope}", READ),
    ("PUT", "/v1/budgets/{scope}", OPERATE),
    ("GET", "/v1/queue", READ),
    ("GET", "/v1/queue/concurrency", READ),
    ("POST", "/v1/queue/pause", OPERATE),
    ("POST", "/v1/queue/resume", OPERATE),
    ("POST", "/v1/queue/drain", OPERATE),
    ("POST", "/v1/queue/clear", OPERATE),
    ("PUT", "/v1/queue/max_size", OPERATE),
    ("GET", "/v1/queue/rules", READ),
    ("PUT", "/v1/queue/weights", OPERATE),
    ("PUT", "/v1/queue/limits", OPERATE),
    ("PUT", "/v1/queue/limits/{key}", OPERATE),
    ("DELETE", "/v1/queue/limits/{key}", OPERATE),
    ("PUT", "/v1/queue/rates/{key}", OPERATE),
    ("DELETE", "/v1/queue/rates/{key}", OPERATE),
    ("PUT", "/v1/queue/resources/{name}", OPERATE),
    ("DELETE", "/v1/queue/resources/{name}", OPERATE),
    ("GET", "/v1/config", ADMIN),
    ("GET", "/v1/code", READ),
    ("GET", "/v1/code/{agent}", READ),
    ("POST", "/v1/code/{agent}", OPERATE),
    ("GET", "/v1/code/{agent}/versions/{version}", READ),
    ("DELETE", "/v1/code/{agent}/versions/{version}", OPERATE),
    (
        "POST",
        "/v1/code/{agent}/versions/{version}/promote",
        OPERATE,
    ),
    ("PUT", "/v1/code/{agent}/versions/{version}/pin", OPERATE),
    ("POST", "/v1/code/{agent}/rollback", OPERATE),
    ("PUT", "/v1/code/{agent}/grants", ADMIN),
    ("GET", "/v1/code/{agent}/check", READ),
    ("GET", "/v1/store/promote", READ),
    ("POST", "/v1/store/promote", ADMIN),
    ("GET", "/v1/agents", READ),
    ("POST", "/v1/agents", OPERATE),
    ("GET", "/v1/agents/{id}", READ),
    ("DELETE", "/v1/agents/{id}", OPERATE),
    ("POST", "/v1/agents/{id}/start", OPERATE),
    ("POST", "/v1/agents/{id}/stop", OPERATE),
    ("POST", "/v1/agents/{id}/restart", OPERATE),
    ("POST", "/v1/agents/{id}/kill", OPERATE),
    ("POST", "/v1/agents/{id}/handoff", OPERATE),
    ("POST", "/v1/agents/{id}/messages", SUBMIT),
    ("POST", "/v1/agents/{id}/inject", OPERATE),
    ("GET", "/v1/cluster/nodes", READ),
    ("GET", "/v1/cluster/placement", READ),
    ("GET", "/v1/cluster/explain/{agent}", READ),
    ("POST", "/v1/cluster/rebalance", OPERATE),
    ("POST", "/v1/cluster/nodes/{name}/cordon", OPERATE),
    ("POST", "/v1/cluster/nodes/{name}/drain", OPERATE),
    ("POST", "/v1/cluster/nodes/{name}/quarantine", OPERATE),
    ("POST", "/v1/cluster/nodes/{name}/release", OPERATE),
    ("GET", "/v1/tree", READ),
    ("GET", "/v1/events", READ),
    ("GET", "/v1/tokens", ADMIN),
    ("POST", "/v1/tokens", ADMIN),
    ("DELETE", "/v1/tokens/{id}", ADMIN),
    ("GET", "/v1/audit", ADMIN),
    ("GET", "/v1/audit/{chain}", ADMIN),
];

/// What a route needs; `None` when the table does not know it.
pub(crate) fn of(method: &Method, route: &str) -> Option<Need> {
    let method = match method.as_str() {
        "HEAD" => "GET",
        other => other,
    };
    let found = NEEDS
        .iter()
        .find(|(known, path, _)| *known == method && *path == route);
    found
        .map(|(_, _, need)| *need)
        .or_else(|| page(method, route))
}

/// What a page needs; pages are only looked at.
fn page(method: &str, route: &str) -> Option<Need> {
    let needs_read = pages::needs_read(route).filter(|_| method == "GET");
    needs_read.map(|needs_read| if needs_read { READ } else { Need::Nothing })
}

/// The route knows other methods than this one.
pub(crate) fn has_route(route: &str) -> bool {
    NEEDS.iter().any(|(_, path, _)| *path == route) || pages::needs_read(route).is_some()
}

/// What a need is called.
pub(crate) fn words(need: Need) -> &'static str {
    match need {
        Need::Nothing => "none",
        Need::Token => "any",
        Need::Scope(scope) => scope.as_str(),
        Need::ReadFromAfar => "read, unless only this machine reaches the node",
    }
}

/// Method and path of every route but the pages.
#[cfg(test)]
pub(crate) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    NEEDS.iter().map(|(method, path, _)| (*method, *path))
}

/// It is an operator's or an admin's alone.
pub(crate) fn is_operators(need: Need) -> bool {
    matches!(need, OPERATE | ADMIN)
}

/// What operators do is recorded: everything that changes something and is theirs alone.
pub(crate) fn is_recorded(method: &Method, need: Need) -> bool {
    !method.is_safe() && is_operators(need)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_says_what_it_needs_and_nothing_else_does() {
        let listed: BTreeSet<(&str, &str)> = all().collect();
        assert_eq!(listed.len(), NEEDS.len(), "a route is listed twice");
        // `openapi` compares the table with the document, which is made with the routes; what
        // was added to the router alone is found in its source.
        let source = include_str!("../router.rs");
        for part in source.split(".route(").skip(1) {
            let path = part.split('"').nth(1).expect("a path");
            assert!(has_route(path), "add {path} to NEEDS");
        }
    }

    #[test]
    fn only_health_and_the_way_in_need_nothing_and_changes_are_never_for_readers() {
        for (method, path, need) in NEEDS {
            let bare = ["/health", "/health/ready"].contains(path)
                || (*method, *path) == ("POST", "/session");
            assert_eq!(*need == Need::Nothing, bare, "{method} {path}");
            if *method != "GET" {
                assert_ne!(*need, READ, "{method} {path} changes something");
            }
        }
        let pause = of(&Method::POST, "/v1/queue/pause").expect("listed");
        assert!(is_recorded(&Method::POST, pause));
        assert_eq!(of(&Method::HEAD, "/v1/tasks"), Some(READ));
        assert_eq!(of(&Method::PATCH, "/v1/tasks"), None);
    }
}
