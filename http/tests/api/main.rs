//! The HTTP surface against a real server on a real socket, over both stores.

#![allow(
    missing_docs,
    reason = "tests speak for themselves through their names"
)]

mod agents;
mod bad_input;
mod health;
mod leases;
mod node;
mod operate;
mod scheduling;
mod server;
mod streams;
mod submit;
