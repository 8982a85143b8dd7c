//! Supervision with real actors: each case of OTP's `supervisor`, end to end.

mod escalation;
mod orders;
mod probe_actor;
mod restarts;
mod tree;
