//! Agents and roles under a real root: claimed, run, settled, killed, regrown.

mod agent;
mod audit;
mod outages;
mod peers;
mod people;
mod search;
mod stage;
