//! Who looks at a page, from where, and what he may do.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::header::ACCEPT;
use axum::http::request::Parts;
use regrow_runtime::access::scope::Scope;

use crate::auth::Caller;
use crate::error::{ApiError, Code};
use crate::relay::Relayed;
use crate::state::ApiState;

/// One look at a page.
pub(crate) struct Visit {
    /// What pages are made of: the same ports that the API uses.
    pub(crate) state: ApiState,
    caller: Option<Caller>,
    csrf: Option<String>,
    /// Path and query, as they were asked for.
    pub(crate) target: String,
    /// The page's stream is wanted rather than the page.
    pub(crate) wants_stream: bool,
    /// Another node asks, to show it as a part of its own page.
    pub(crate) relayed: bool,
    /// What whoever resumes a stream saw last.
    pub(crate) seen: Option<String>,
}

impl Visit {
    /// For whom other nodes are asked.
    ///
    /// # Errors
    ///
    /// Nobody is here; a page that needs a scope has somebody.
    pub(crate) fn caller(&self) -> Result<Caller, ApiError> {
        let missing = || ApiError::new(Code::TokenRequired, "this needs a token");
        self.caller.clone().ok_or_else(missing)
    }

    /// Whether what needs `scope` would be let through.
    pub(crate) fn may(&self, scope: Scope) -> bool {
        self.caller.as_ref().is_some_and(|caller| caller.may(scope))
    }

    /// Nobody needs a token here.
    pub(crate) fn is_open(&self) -> bool {
        self.state.access.keyring.is_empty() && !self.state.config.is_reachable_by_others()
    }

    /// Somebody is here, with a token or because none is needed.
    pub(crate) fn is_known(&self) -> bool {
        self.caller.is_some() || self.csrf.is_some() || self.is_open()
    }

    /// Who answers a question, as its record names him.
    pub(crate) fn answerer(&self) -> &str {
        let name = self.caller.as_ref().and_then(Caller::name);
        name.unwrap_or("operator")
    }

    /// The token's name, of whoever has one.
    pub(crate) fn token(&self) -> Option<&str> {
        match &self.caller {
            Some(Caller::Token(token)) => Some(&token.name),
            Some(Caller::Local | Caller::Node(_)) | None => None,
        }
    }

    /// What the session's changes have to carry.
    pub(crate) fn csrf(&self) -> Option<&str> {
        self.csrf.as_deref()
    }
}

impl FromRequestParts<ApiState> for Visit {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Infallible> {
        let now = state.queue.clock().now();
        let session = state.gate.sessions.find(&parts.headers, now);
        let target = parts.uri.path_and_query();
        let seen = parts.headers.get("last-event-id");
        Ok(Self {
            state: state.clone(),
            caller: parts.extensions.get::<Caller>().cloned(),
            csrf: session.map(|session| session.csrf().to_owned()),
            target: target.map_or_else(|| "/".to_owned(), ToString::to_string),
            relayed: parts.extensions.get::<Relayed>().is_some(),
            wants_stream: accepts(parts, "text/event-stream"),
            seen: seen.and_then(|seen| seen.to_str().ok()).map(str::to_owned),
        })
    }
}

fn accepts(parts: &Parts, kind: &str) -> bool {
    let lines = parts.headers.get_all(ACCEPT).iter();
    let mut lines = lines.filter_map(|line| line.to_str().ok());
    lines.any(|line| line.contains(kind))
}
