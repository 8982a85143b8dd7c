//! Why a child ended: typed, never parsed from text.
//!
//! Killed is abnormal (ractor reports it like a normal end). The meaning follows OTP's exit
//! reasons: `normal`, `shutdown` and `{shutdown, Term}` do not restart a transient child.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::ChildId;

/// Why a child ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "detail", rename_all = "snake_case")]
pub enum ExitReason {
    /// It had finished.
    Normal,
    /// It was told to end, or it is a supervisor that ended in order.
    Shutdown(ShutdownCause),
    /// It was killed or its task was aborted; its last words were not spoken.
    Killed,
    /// It panicked.
    Panic(Arc<str>),
    /// A handler returned an error.
    Error(Arc<str>),
}

impl ExitReason {
    /// Whether a transient child with this reason is started again.
    #[must_use]
    pub fn is_abnormal(&self) -> bool {
        match self {
            Self::Normal | Self::Shutdown(_) => false,
            Self::Killed | Self::Panic(_) | Self::Error(_) => true,
        }
    }

    /// The kind as one word, for labels and JSON.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Shutdown(_) => "shutdown",
            Self::Killed => "killed",
            Self::Panic(_) => "panic",
            Self::Error(_) => "error",
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => f.write_str("normal"),
            Self::Shutdown(ShutdownCause::Requested) => f.write_str("shutdown"),
            Self::Shutdown(cause) => write!(f, "shutdown: {cause}"),
            Self::Killed => f.write_str("killed"),
            Self::Panic(text) => write!(f, "panic: {text}"),
            Self::Error(text) => write!(f, "error: {text}"),
        }
    }
}

/// What an orderly end was for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "cause", content = "report", rename_all = "snake_case")]
pub enum ShutdownCause {
    /// Its supervisor or an operator asked.
    Requested,
    /// A supervisor gave up restarting.
    IntensityReached(Arc<IntensityReached>),
    /// A significant child ended, and the supervisor's `auto_shutdown` says to follow.
    SignificantEnded(ChildId),
}

impl fmt::Display for ShutdownCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested => f.write_str("requested"),
            Self::IntensityReached(report) => report.fmt(f),
            Self::SignificantEnded(child) => write!(f, "significant child `{child}` ended"),
        }
    }
}

/// A supervisor's report on giving up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IntensityReached {
    /// Path of the supervisor that gave up.
    pub supervisor: Arc<str>,
    /// The child whose end was one too many.
    pub child: ChildId,
    /// How that child ended.
    pub reason: ExitReason,
    /// Restarts allowed within `period`.
    pub restarts_max: usize,
    /// The sliding window.
    pub period: Duration,
}

impl fmt::Display for IntensityReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "reached max restart intensity: `{}` allows {} restarts in {:?}, and child `{}` ended with {}",
            self.supervisor, self.restarts_max, self.period, self.child, self.reason
        )
    }
}
