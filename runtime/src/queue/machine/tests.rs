//! The state machine's proof: a table of transitions, and laws under random histories.

mod accounts;
mod distant;
mod families;
mod gates;
mod hand_over;
mod laws;
mod rules;
mod spending;
mod world;
