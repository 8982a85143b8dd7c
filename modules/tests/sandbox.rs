//! Modules in their sandbox: what they compute, and what they try to break.

#[path = "sandbox/guests.rs"]
mod guests;
#[path = "sandbox/hostile.rs"]
mod hostile;
#[path = "sandbox/policies.rs"]
mod policies;
#[path = "sandbox/swaps.rs"]
mod swaps;
