//! Carries what happens in the supervision tree to the event bus and to the metrics.
//!
//! The kernel decides nothing by these events. Changes between two lives of the forwarder,
//! and those it is too slow for, are missed; the latter are counted.

use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;

use crate::events::{Event, EventBus};
use crate::metrics as names;
use crate::supervision::{Change, ChildSpec, Lifecycle, Tree};

/// A child named `observer` that forwards the changes of `tree` to `bus` and the metrics.
#[must_use]
pub fn observer(tree: Tree, bus: EventBus) -> ChildSpec {
    let child = ChildSpec::task("observer", move |stop| {
        let mut changes = tree.subscribe();
        let bus = bus.clone();
        async move {
            loop {
                let change = tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    change = changes.recv() => change,
                };
                match change {
                    Ok(change) => {
                        measure(&change);
                        bus.publish(event(&change));
                    }
                    Err(RecvError::Lagged(missed)) => {
                        metrics::counter!(names::EVENTS_DROPPED).increment(missed);
                    }
                    Err(RecvError::Closed) => return Ok(()),
                }
            }
        }
    });
    child.role("observer")
}

fn measure(seen: &Lifecycle) {
    let Change::Restarted {
        reason,
        recovery_us,
        ..
    } = &seen.change
    else {
        return;
    };
    let role = seen.role.to_string();
    let reason = reason.as_ref().map_or("unknown", |reason| reason.kind());
    metrics::counter!(names::RESTARTS, "role" => role.clone(), "reason" => reason).increment(1);
    metrics::histogram!(names::RESTART_SECONDS, "role" => role)
        .record(Duration::from_micros(*recovery_us).as_secs_f64());
}

/// The change as an event: the child's path, and the rest in words.
#[must_use]
pub fn event(seen: &Lifecycle) -> Event {
    let (what, detail) = match &seen.change {
        Change::Started { generation } => ("child_started", format!("life {generation}")),
        Change::Exited {
            generation,
            reason,
            ordered,
        } => {
            let ordered = if *ordered { ", as ordered" } else { "" };
            (
                "child_exited",
                format!("life {generation} ended{ordered}: {reason}"),
            )
        }
        Change::Restarted {
            generation,
            restarts,
            restarts_left,
            recovery_us,
            ..
        } => {
            let recovery = Duration::from_micros(*recovery_us);
            let detail = format!(
                "life {generation} after {recovery:?}, restart {restarts}, {restarts_left} left"
            );
            ("child_restarted", detail)
        }
        Change::StartFailed {
            error,
            restarts_left,
        } => (
            "child_start_failed",
            format!("{error}; {restarts_left} restarts left"),
        ),
        Change::Abandoned { generation } => (
            "child_abandoned",
            format!("life {generation} did not end although killed"),
        ),
        Change::IntensityReached(report) => ("supervisor_gave_up", report.to_string()),
    };
    Event::Runtime {
        at: seen.at,
        subject: format!("{}/{}", seen.supervisor, seen.child),
        what,
        detail,
    }
}

/// Records how late the event loop came to what was due.
pub fn loop_lag(late: std::time::Duration) {
    metrics::histogram!(crate::metrics::LOOP_LAG_SECONDS).record(late.as_secs_f64());
}
