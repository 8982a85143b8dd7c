//! The state machine's proof: a table of transitions, and laws under random histories.

mod gates;
mod laws;
mod rules;
mod world;
