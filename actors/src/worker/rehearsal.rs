//! A journey of several steps that leaves a trace outside the store.
//!
//! `regrow demo --crash` runs these while it kills things. Each step writes a line to a
//! trace file when its work runs and another once its output is recorded. Held against
//! each other, the lines show whether a finished step was ever run again.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::agent::behaviour::{Failure, Outcome, TaskContext};

/// Kind of a journey.
pub const JOURNEY: &str = "rehearsal.journey";

/// Payload of [`JOURNEY`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journey {
    /// How many steps; at most 100.
    pub steps: u32,
    /// How long each takes, in milliseconds; at most 10 000.
    pub step_ms: u64,
}

/// Result of [`JOURNEY`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrived {
    /// Steps made.
    pub steps: u32,
}

/// Where journeys leave their trace.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// The trace file; appended to, one short line at a time.
    pub trace: PathBuf,
}

impl Rehearsal {
    pub(super) async fn journey(&self, context: &TaskContext) -> Result<Outcome, Failure> {
        let journey: Journey = context.payload()?;
        if 100 < journey.steps || 10_000 < journey.step_ms {
            let limits = "a journey has at most 100 steps of at most 10000 ms";
            return Err(Failure::Permanent(limits.to_owned()));
        }
        let (task, epoch) = (context.lease().task.id, context.lease().epoch);
        for step in 0..journey.steps {
            let work = async {
                self.note(format!("ran {task} {step} {epoch}\n"))?;
                sleep(Duration::from_millis(journey.step_ms)).await;
                Ok(step)
            };
            let key = format!("step {step}");
            let made: u32 = context.step(&key, &journey.step_ms, work).await?;
            self.note(format!("recorded {task} {made} {epoch}\n"))?;
        }
        Outcome::completed(&Arrived {
            steps: journey.steps,
        })
    }

    /// A short line appended in one write stays whole among others (POSIX `O_APPEND`).
    fn note(&self, line: String) -> Result<(), Failure> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.trace)
            .and_then(|mut trace| trace.write_all(line.as_bytes()))
            .map_err(|error| {
                Failure::Retryable(format!("cannot write {}: {error}", self.trace.display()))
            })
    }
}
