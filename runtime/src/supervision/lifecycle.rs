//! What a supervisor tells the world: each change once as a log line and once as an event.
//!
//! Events are for a bus to forward; nothing in the kernel decides by them.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;
use tracing::{debug, error, info, warn};

use super::child_spec::ChildId;
use super::exit::{ExitReason, IntensityReached};
use super::tree::Scope;
use crate::clock::Timestamp;

/// Something happened to a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lifecycle {
    /// Path of the supervisor.
    pub supervisor: Arc<str>,
    /// The child.
    pub child: ChildId,
    /// The child's role.
    pub role: Cow<'static, str>,
    /// When the supervisor saw it.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub change: Change,
}

/// What happened to a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// Its first life began, or one that an operator ordered.
    Started {
        /// Number of this life within its supervisor.
        generation: u64,
    },
    /// A life ended.
    Exited {
        /// Number of the life that ended.
        generation: u64,
        /// How.
        reason: ExitReason,
        /// Whether its supervisor or an operator had ordered the end.
        ordered: bool,
    },
    /// It runs again.
    Restarted {
        /// Number of the new life.
        generation: u64,
        /// How the previous life ended.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<ExitReason>,
        /// Restarts of this child so far.
        restarts: u64,
        /// Restarts its supervisor may still perform in the current window.
        restarts_left: usize,
        /// From the end of the previous life to the start of this one, in microseconds.
        recovery_us: u64,
    },
    /// A start failed.
    StartFailed {
        /// Why.
        error: String,
        /// Restarts its supervisor may still perform in the current window.
        restarts_left: usize,
    },
    /// It did not end although killed; its supervisor carries on without it.
    Abandoned {
        /// Number of the life left behind.
        generation: u64,
    },
    /// Its supervisor gave up.
    IntensityReached(Arc<IntensityReached>),
}

/// A change as the engine reports it: without the supervisor's path and the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) child: ChildId,
    pub(super) role: Cow<'static, str>,
    pub(super) change: Change,
}

impl Notice {
    /// Logs it and tells subscribers.
    pub(super) fn publish(self, scope: &Scope) {
        let Self {
            child,
            role,
            change,
        } = self;
        log(&scope.path, &child, &role, &change);
        let at = scope.now();
        scope.announce(Lifecycle {
            supervisor: Arc::clone(&scope.path),
            child,
            role,
            at,
            change,
        });
    }
}

fn log(supervisor: &str, child: &ChildId, role: &str, change: &Change) {
    match change {
        Change::Started { generation } => {
            debug!(supervisor, %child, role, generation, "child started");
        }
        Change::Exited {
            generation,
            reason,
            ordered: true,
        } if !reason.is_abnormal() => {
            debug!(supervisor, %child, role, generation, %reason, "child stopped");
        }
        Change::Exited {
            generation, reason, ..
        } if reason.is_abnormal() => {
            warn!(supervisor, %child, role, generation, %reason, "child exited");
        }
        Change::Exited {
            generation, reason, ..
        } => {
            info!(supervisor, %child, role, generation, %reason, "child exited");
        }
        Change::Restarted {
            generation,
            reason,
            restarts,
            restarts_left,
            recovery_us,
        } => {
            let reason = reason.as_ref().map(tracing::field::display);
            warn!(
                supervisor,
                %child,
                role,
                generation,
                reason,
                restarts,
                restarts_left,
                recovery_us,
                "child restarted"
            );
        }
        Change::StartFailed {
            error,
            restarts_left,
        } => {
            warn!(supervisor, %child, role, error, restarts_left, "child failed to start");
        }
        Change::Abandoned { generation } => {
            error!(
                supervisor,
                %child,
                role,
                generation,
                "child did not end after a kill and was abandoned; it is stuck in blocking code"
            );
        }
        Change::IntensityReached(report) => {
            error!(
                supervisor,
                %child,
                role,
                reason = %report.reason,
                restarts_max = report.restarts_max,
                restarts_left = 0,
                period = ?report.period,
                "supervisor reached max restart intensity"
            );
        }
    }
}
