//! How a candidate comes to serve, and goes again when it does worse.
//!
//! A candidate passes a [`Pipeline`]: validated, its capabilities compared with those of what serves
//! (a person is asked about new ones), compiled, described, tested, replayed, rehearsed; then beside
//! what serves: in the shadow, where its effects are suppressed, and in the [`canary`](trial), where
//! it serves a share of the calls. If it is better there it is promoted, and watched; it is kept, or
//! rolled back with the state. Every state is durable, and says by itself what is to be done in it:
//! after a crash the same commands are given again, under the same tickets.
//!
//! Whether a candidate is better, or worse, is decided by [`sequential`] tests: they may be looked
//! at after every outcome, and err no more often than stated.
//!
//! [`Pipelines`] holds those of all agents: one at a time for each, many agents at once, and a
//! bounded queue before them that refuses.
//!
//! Pure: `(state, event, now) -> commands`. The actor around it touches files, processes and
//! modules.

mod command;
mod pipeline;
mod pipelines;
pub mod sequential;
mod settings;
mod stage;
pub mod trial;

pub use command::{Answer, Command, Event, Notice, Ticket};
pub use pipeline::Pipeline;
pub use pipelines::{Pipelines, Request, SubmitError};
pub use settings::{Measure, Settings, SettingsError};
pub use stage::{Stage, Step};

#[cfg(test)]
mod laws;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
