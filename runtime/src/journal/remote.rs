//! The journal for workers that run elsewhere: they do the work themselves, and offer what
//! came of it.

use std::convert::Infallible;

use super::{StepError, same_document};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::queue::Queue;
use crate::queue::budget::Cost;
use crate::queue::error::LeaseError;
use crate::queue::machine::FinishedStep;
use crate::queue::task::NewChild;
use crate::store::content::Content;
use crate::store::{StepRow, StoreError};

/// A step that a worker elsewhere has finished.
#[derive(Clone, Debug)]
pub struct OfferedStep {
    /// Its name within the task.
    pub key: String,
    /// What it was given.
    pub input: Json,
    /// What it produced.
    pub output: Json,
    /// What it cost, if that is known.
    pub cost: Option<Cost>,
    /// When the work began; the moment of the offer unless known.
    pub started_at: Option<Timestamp>,
}

/// What became of an offered step.
#[derive(Clone, Debug)]
pub enum Recorded {
    /// It is on record now.
    Now,
    /// It was on record before, and what is on record stands: its output is the step's.
    Before(Box<StepRow>),
}

impl Queue {
    /// Records a step that the holder of a lease has finished. It is durable when this
    /// returns. Offering it again, under this lease or a later one, records and charges
    /// nothing, and answers with what is on record.
    ///
    /// # Errors
    ///
    /// [`StepError`]; nothing was recorded, unless the store failed: then repeat the call.
    pub async fn offer_step(
        &self,
        id: TaskId,
        epoch: Epoch,
        offered: OfferedStep,
    ) -> Result<Recorded, StepError<Infallible>> {
        let OfferedStep {
            key,
            input,
            output,
            cost,
            started_at,
        } = offered;
        let refused = |cause| StepError::Lease {
            key: key.clone(),
            cause,
        };
        self.holds(id, epoch).await.map_err(refused)?;
        if let Some(step) = self.on_record(id, &key, &input).await? {
            return Ok(Recorded::Before(Box::new(step)));
        }
        let step = FinishedStep {
            key: key.clone(),
            input: Content::new(input.clone()),
            output: Content::new(output),
            cost,
            started_at: started_at.unwrap_or_else(|| self.clock().now()),
        };
        if self.record_step(id, epoch, step).await.map_err(refused)? {
            metrics::counter!(crate::metrics::STEPS_RECORDED).increment(1);
            return Ok(Recorded::Now);
        }
        match self.on_record(id, &key, &input).await? {
            Some(step) => Ok(Recorded::Before(Box::new(step))),
            None => Ok(Recorded::Now),
        }
    }

    /// Inserts children and lets the task wait for them without a lease, and records a step
    /// that is finished with that, such as the plan they came from: all of it or nothing.
    /// With a step that was on record before, the children are there already, and nothing
    /// is inserted: `Before` says so, and the lease still holds.
    ///
    /// # Errors
    ///
    /// [`StepError`]; nothing was recorded or inserted, unless the store failed.
    pub async fn suspend_after(
        &self,
        id: TaskId,
        epoch: Epoch,
        children: Vec<NewChild>,
        offered: OfferedStep,
    ) -> Result<Recorded, StepError<Infallible>> {
        let key = offered.key.clone();
        let refused = |cause| StepError::Lease {
            key: key.clone(),
            cause,
        };
        self.holds(id, epoch).await.map_err(refused)?;
        if let Some(step) = self.on_record(id, &key, &offered.input).await? {
            return Ok(Recorded::Before(Box::new(step)));
        }
        let step = FinishedStep {
            key: offered.key,
            input: Content::new(offered.input),
            output: Content::new(offered.output),
            cost: offered.cost,
            started_at: offered.started_at.unwrap_or_else(|| self.clock().now()),
        };
        let suspended = self.suspend_with(id, epoch, children, Some(step));
        suspended.await.map_err(refused)?;
        metrics::counter!(crate::metrics::STEPS_RECORDED).increment(1);
        Ok(Recorded::Now)
    }

    async fn on_record(
        &self,
        id: TaskId,
        key: &str,
        input: &Json,
    ) -> Result<Option<StepRow>, StepError<Infallible>> {
        let step = self.step_of(id, key).await;
        let step = step.map_err(|cause| StepError::Lookup {
            key: key.to_owned(),
            cause,
        })?;
        match step {
            Some(step) if !same_document(&step.input.json, input) => Err(StepError::Diverged {
                key: key.to_owned(),
                recorded: step.input.json,
                offered: input.clone(),
            }),
            step => Ok(step),
        }
    }

    /// The finished step `key` of a task, with everything that was decided before.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn step_of(&self, id: TaskId, key: &str) -> Result<Option<StepRow>, StoreError> {
        self.settle().await?;
        let store = self.writer().store();
        match store.task(id).await? {
            Some(view) => store.step(view.body.seq, key).await,
            None => Ok(None),
        }
    }

    /// The finished steps of a task behind step `after`, in the order in which they finished
    /// and without their large documents; `None` if there is no such task.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn steps_of(
        &self,
        id: TaskId,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Option<Vec<StepRow>>, StoreError> {
        let store = self.writer().store();
        match store.task(id).await? {
            Some(view) => store.steps(view.body.seq, after, limit).await.map(Some),
            None => Ok(None),
        }
    }

    /// Whether the lease is the latest of its task.
    ///
    /// # Errors
    ///
    /// [`LeaseError`] says why it is not.
    pub async fn holds(&self, id: TaskId, epoch: Epoch) -> Result<(), LeaseError> {
        let outcome = self.decide(|machine, _| machine.check_epoch(id, epoch));
        let outcome = outcome.await;
        self.settled(outcome, epoch).await
    }
}
