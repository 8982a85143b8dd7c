//! The cluster: nodes that find each other, agree on who may act, and hand agents over.
//!
//! Decisions are pure functions of `(state, event, now)`; sockets and actors stand around
//! them and only carry. In reading order:
//!
//! - [`member`]: what a node is to its peers

pub mod member;
