//! The kernel of Regrow: no model, no socket, no HTTP.
//!
//! In reading order: [`ids`], [`role`], [`clock`] and [`json`] are the vocabulary;
//! [`actor`] and [`mailbox`] say what an actor is and how it is reached, [`supervision`]
//! keeps it alive and [`health`] finds out what hangs; [`queue`] decides what happens to
//! tasks, [`holding`] is what the holder of a lease may do, [`context`] is what agents know together, [`registry`] which agents there are
//! to be and whose they are, and [`store`] makes all of it durable; [`access`] knows who may do
//! what, and keeps a record of it, and [`code`] which versions the code of agents has; [`events`],
//! [`observe`] and [`telemetry`] tell whoever watches, and [`trace`] and [`spans`] which of it
//! belongs together; [`exemplars`] leads from a histogram to
//! a trace.

pub mod access;
pub mod actor;
pub mod agent_spec;
pub mod causes;
pub mod clock;
pub mod code;
pub mod concurrency;
pub mod context;
pub mod events;
pub mod exemplars;
pub mod health;
pub mod holding;
pub mod ids;
pub mod journal;
pub mod json;
pub mod mailbox;
pub mod metrics;
pub mod observe;
pub mod queue;
pub mod registry;
pub mod role;
mod slots;
pub mod spans;
pub mod store;
pub mod supervision;
pub mod telemetry;
pub mod trace;
