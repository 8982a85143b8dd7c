//! The cluster: nodes that find each other, agree on who may act, and hand agents over.
//!
//! Decisions are pure functions of `(state, event, now)`; sockets and actors stand around
//! them and only carry. In reading order:
//!
//! - [`member`]: what a node is to its peers
//! - [`secret`]: what the nodes have in common, and the keys made of it
//! - [`discovery`]: at which addresses there may be peers
//! - [`gossip`]: who is there and what each says of itself, over encrypted datagrams
//! - [`entry`]: what is kept of an agent; [`reconcile`]: what a node does about it;
//!   [`director`]: does it; [`placing`]: where one belongs; [`agents`] and [`nodes`]: what
//!   people ask of them
//! - [`wire`]: the envelope in which messages travel
//! - [`transport`]: actor messages between nodes
//! - [`certificates`]: a private authority, and certificates of nodes

pub mod agents;
pub mod certificates;
pub mod director;
pub mod discovery;
pub mod entry;
pub mod gossip;
pub mod member;
pub mod nodes;
pub mod placing;
pub mod reconcile;
pub mod secret;
pub mod transport;
pub mod wire;
