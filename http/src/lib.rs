//! The HTTP surface of Regrow: API, health and metrics.
//!
//! In reading order: [`config`] bounds everything, [`state`] holds what routes may use,
//! [`server`] owns the socket and the connections, [`router`] says which route exists and
//! what stands in front of it, `auth` who may pass, `routes` answers, [`error`] is the only place that turns a
//! failure into a status. `input` and `params` read bodies and queries and name every problem in them,
//! `view` is how tasks look in JSON and `amounts` how costs do, `follow` streams what happens,
//! which `history` keeps for a while. `elsewhere` asks other nodes for what this one does not have, and
//! `relay` carries requests to them. `openapi` and `schema` say what the surface is, `revalidate`
//! spares answers that are known. `pages` is what people see in a browser.
//!
//! Absent on purpose: decisions (the queue takes them), SQL, and TLS: other machines are
//! served through a proxy, or on a network that is trusted with tokens.

mod amounts;
mod auth;
pub mod config;
mod connection;
mod cors;
mod elsewhere;
pub mod error;
mod exposition;
mod follow;
mod guard;
mod history;
mod input;
mod observe;
mod openapi;
mod output;
mod page;
mod pages;
mod params;
mod problems;
mod relay;
mod revalidate;
pub mod router;
mod routes;
mod schema;
pub mod server;
pub mod state;
mod view;

pub use elsewhere::Borrowing;
pub use exposition::{Exposition, ExpositionError};

/// The document of the whole surface (OpenAPI 3.1), as JSON: the one that a node serves at
/// `/openapi.json`.
#[must_use]
pub fn openapi() -> String {
    openapi::completed(&router::registered()).to_string()
}
