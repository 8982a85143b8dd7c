//! Modules in their sandbox: what they compute, and what they try to break.

#[path = "sandbox/corpus.rs"]
mod corpus;
#[path = "sandbox/guests.rs"]
mod guests;
#[path = "sandbox/hostile.rs"]
mod hostile;
#[path = "sandbox/hostile_scripts.rs"]
mod hostile_scripts;
#[path = "sandbox/policies.rs"]
mod policies;
#[path = "sandbox/scripts.rs"]
mod scripts;
#[path = "sandbox/swaps.rs"]
mod swaps;
