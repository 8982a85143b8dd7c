//! What an actor says about itself when probed.
//!
//! Left out: who probes, how often, and what follows from the answers (`health`).

use std::time::Duration;

use serde::Serialize;

/// An actor's answer to a probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Observation {
    /// Pieces of work started and not yet finished.
    pub in_flight: usize,
    /// Grows whenever work moves on; a busy actor whose progress stands still is stuck.
    pub progress: u64,
    /// What a person should know; kept short.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A probe brought no sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Even the reserved slots are taken.
    #[error("mailbox and its reserve are full")]
    Full,
    /// The actor is ending, has ended, or is being restarted.
    #[error("actor is not running")]
    NotRunning,
    /// No answer in time.
    #[error("no answer to a probe within {0:?}")]
    TimedOut(Duration),
}
