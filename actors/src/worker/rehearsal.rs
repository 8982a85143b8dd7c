//! A journey of several steps that leaves a trace outside the store.
//!
//! `regrow demo --crash` runs these while it kills things. Each step writes a line to a
//! trace file when its work runs and another once its output is recorded. Held against
//! each other, the lines show whether a finished step was ever run again.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
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
                self.note(&self.trace, format!("ran {task} {step} {epoch}\n"))?;
                self.note_act(context)?;
                sleep(Duration::from_millis(journey.step_ms)).await;
                Ok(step)
            };
            let key = format!("step {step}");
            let made: u32 = context.step(&key, &journey.step_ms, work).await?;
            self.note(&self.trace, format!("recorded {task} {made} {epoch}\n"))?;
        }
        Outcome::completed(&Arrived {
            steps: journey.steps,
        })
    }

    /// Where nodes agree on who owns an agent: under which epoch it acted, and when. Held
    /// against those of other nodes, the lines show whether two acted for one agent.
    fn note_act(&self, context: &TaskContext) -> Result<(), Failure> {
        let Some(epoch) = context.acts_under() else {
            return Ok(());
        };
        let (agent, at) = (context.agent(), context.now().0);
        let acts = self.trace.with_extension("acts");
        self.note(&acts, format!("acted {agent} {epoch} {at}\n"))
    }

    /// A short line appended in one write stays whole among others (POSIX `O_APPEND`).
    fn note(&self, file: &Path, line: String) -> Result<(), Failure> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(file)
            .and_then(|mut trace| trace.write_all(line.as_bytes()))
            .map_err(|error| {
                Failure::Retryable(format!("cannot write {}: {error}", file.display()))
            })
    }
}
