//! Recorded steps: a step that finished is not run again.
//!
//! A task does its expensive or effectful work in named steps. The output of a finished
//! step is recorded under the lease's epoch, durable before the task goes on. When the
//! task runs again, after a crash, a lost lease or a wake-up, the step returns what was
//! recorded (P3).
//!
//! Not covered: a step that was interrupted before its output was recorded runs again. Work
//! whose effect lies outside the store should carry an idempotency key of its own; the
//! task's id and the step's key make a good one.

mod error;
pub mod remote;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::queue::Queue;
use crate::queue::error::LeaseError;
use crate::queue::machine::FinishedStep;
use crate::queue::task::Lease;
use crate::store::StepRow;
use crate::store::content::Content;
pub use error::StepError;

/// The journal of one task under one lease.
#[derive(Clone)]
pub struct Journal {
    queue: Queue,
    task: TaskId,
    seq: u64,
    epoch: Epoch,
    /// Set once everything that was decided before this lease can be read.
    settled: Arc<OnceCell<()>>,
}

/// Pause between attempts to record a finished step while the store recovers.
const RECORD_PAUSE: Duration = Duration::from_millis(100);

impl Journal {
    /// The journal of a leased task.
    #[must_use]
    pub fn new(queue: Queue, lease: &Lease) -> Self {
        Self {
            queue,
            task: lease.task.id,
            seq: lease.task.seq,
            epoch: lease.epoch,
            settled: Arc::default(),
        }
    }

    /// The output of step `key`: the recorded one, or that of `work`, recorded and durable.
    ///
    /// `input` is what the output depends on; it is recorded too, and a later call with
    /// another input is refused rather than answered with the wrong output.
    ///
    /// # Errors
    ///
    /// [`StepError`]; its variants say whether the work ran.
    ///
    /// Waits as long as the store recovers from a failure. Dropping the future drops the
    /// work. If the work was done and its record under way, the record is still made.
    pub async fn step<I, O, E, W>(&self, key: &str, input: &I, work: W) -> Result<O, StepError<E>>
    where
        I: Serialize + ?Sized,
        O: Serialize + DeserializeOwned,
        W: Future<Output = Result<O, E>>,
    {
        let shape = |cause| StepError::Shape {
            key: key.to_owned(),
            cause,
        };
        let input = Json::of(input).map_err(shape)?;
        if let Some(step) = self.lookup(key).await? {
            return replay(key, &step, &input);
        }
        let started_at = self.queue.clock().now();
        let output = work.await.map_err(|cause| StepError::Work {
            key: key.to_owned(),
            cause,
        })?;
        let step = FinishedStep {
            key: key.to_owned(),
            input: Content::new(input.clone()),
            output: Content::new(Json::of(&output).map_err(shape)?),
            cost: None,
            started_at,
        };
        if self.record(step).await? {
            metrics::counter!(crate::metrics::STEPS_RECORDED).increment(1);
            return Ok(output);
        }
        // The same step ran twice at once under this lease; the first record stands.
        match self.lookup(key).await? {
            Some(step) => replay(key, &step, &input),
            None => Ok(output),
        }
    }

    /// What is on record for a step. A step that an earlier holder recorded just before it
    /// lost the lease may not be durable yet, so the first look waits for that.
    async fn lookup<E>(&self, key: &str) -> Result<Option<StepRow>, StepError<E>> {
        let read = async {
            self.settled.get_or_try_init(|| self.queue.settle()).await?;
            self.queue.writer().store().step(self.seq, key).await
        };
        read.await.map_err(|cause| StepError::Lookup {
            key: key.to_owned(),
            cause,
        })
    }

    /// Records a step whose work is done, and does not let go of it while the store
    /// recovers: the work would have to be done, and paid for, again. False if the step is
    /// on record already.
    async fn record<E>(&self, step: FinishedStep) -> Result<bool, StepError<E>> {
        loop {
            let recorded = self.queue.record_step(self.task, self.epoch, step.clone());
            match recorded.await {
                Ok(first) => return Ok(first),
                Err(LeaseError::Store(reason)) if reason.is_retryable() => {
                    tracing::warn!(task_id = %self.task, step = step.key, %reason, "step waits to be recorded");
                    tokio::time::sleep(RECORD_PAUSE).await;
                }
                Err(cause) => {
                    let key = step.key;
                    return Err(StepError::Lease { key, cause });
                }
            }
        }
    }
}

/// Answers with a recorded output, if it is that of the same input.
fn replay<O: DeserializeOwned, E>(
    key: &str,
    step: &StepRow,
    input: &Json,
) -> Result<O, StepError<E>> {
    if !same_document(&step.input.json, input) {
        return Err(StepError::Diverged {
            key: key.to_owned(),
            recorded: step.input.json.clone(),
            offered: input.clone(),
        });
    }
    metrics::counter!(crate::metrics::STEPS_REPLAYED).increment(1);
    step.output.json.decode().map_err(|cause| StepError::Shape {
        key: key.to_owned(),
        cause,
    })
}

/// The order of an object's members carries no meaning: a hash map has none.
fn same_document(a: &Json, b: &Json) -> bool {
    let decoded = |json: &Json| json.decode::<serde_json::Value>().ok();
    a == b || decoded(a).is_some_and(|a| Some(a) == decoded(b))
}
