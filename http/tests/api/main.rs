//! The HTTP surface against a real server on a real socket, over both stores.

#![allow(
    missing_docs,
    reason = "tests speak for themselves through their names"
)]

mod access;
mod agents;
mod approvals;
mod bad_input;
mod code;
mod doors;
mod families;
mod health;
mod leases;
mod node;
mod operate;
mod pages;
mod scheduling;
mod server;
mod steps;
mod streams;
mod submit;
mod wire;
