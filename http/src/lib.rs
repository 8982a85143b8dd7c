//! The HTTP surface of Regrow: API, health and metrics.
//!
//! In reading order: [`config`] bounds everything, [`state`] holds what routes may use,
//! [`server`] owns the socket and the connections, [`router`] says which route exists and
//! what stands in front of it, `auth` who may pass, `routes` answers, [`error`] is the only place that turns a
//! failure into a status. `input` and `params` read bodies and queries and name every problem in them,
//! `view` is how tasks look in JSON and `amounts` how costs do, `follow` streams what happens,
//! which `history` keeps for a while. `elsewhere` asks other nodes for what this one does not have, and
//! `relay` carries requests to them. `pages` is what people see in a browser.
//!
//! Absent on purpose: decisions (the queue takes them), SQL, and TLS: other machines are
//! served through a proxy, or on a network that is trusted with tokens.

mod amounts;
mod auth;
pub mod config;
mod elsewhere;
pub mod error;
mod exposition;
mod follow;
mod guard;
mod history;
mod input;
mod observe;
mod pages;
mod params;
mod problems;
mod relay;
pub mod router;
mod routes;
pub mod server;
pub mod state;
mod view;

pub use exposition::{Exposition, ExpositionError};
