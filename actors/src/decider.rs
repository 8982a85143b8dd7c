//! Whether an agent is to be improved now, by which strategy, and why.
//!
//! Each agent has a [`Decider`]. It is told of every [`Outcome`], and asked at each tick of the
//! agent's background loop. It answers with a [`Decision`] that carries its evidence, so that a
//! person can see why, and why not.
//!
//! What makes it improve is a confident finding over a window of recent outcomes: the score is
//! below what is asked for, or below the agent's own past, or it has not risen for a stated number
//! of outcomes. The seeds' exact rule is there as the policy [`singularity`]. Whatever the policy:
//!
//! - no outcome is evidence twice: what has made an improvement begin counts for no other;
//! - after an improvement there is a pause, longer after each that came to nothing;
//! - a day in UTC has a limit, which is part of the state, so that a restart forgets none;
//! - an order of a person's passes both, and is kept until it can be followed;
//! - one improvement at a time, each with an end: one that is never reported back is given up.
//!
//! The strategies that propose candidates compete in a bandit ([`strategies`]).
//!
//! Looking at an interval again at every tick makes false alarms likelier than its confidence says.
//! A false alarm costs an attempt, which pause and limit bound, and no more than that.
//!
//! Pure: `(state, event, now) -> commands`; random numbers come from a seed. The same events give
//! the same decisions, and a [`State`] that was stored goes on as if it had never stopped.

mod decision;
pub mod interval;
mod machine;
mod settings;
pub mod singularity;
mod state;
pub mod strategies;
mod window;

pub use decision::{Decision, Evidence, Hold, Improvement, Reason, Risk, Verdict};
pub use machine::{Command, Decider, DeciderError, End, Event};
pub use settings::{Policy, Settings, SettingsError};
pub use state::{Past, State, StateError};
pub use window::{Outcome, Window};

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
