//! Recorded steps: a step that finished is not run again.
//!
//! A task does its expensive or effectful work in named steps. The output of a finished
//! step is recorded under the lease's epoch, durable before the task goes on. When the
//! task runs again, after a crash, a lost lease or a wake-up, the step returns what was
//! recorded (P3).
//!
//! A step that costs something is priced: what it may cost is set aside in the task's
//! budgets before it begins, and what it did cost is charged with its record.
//!
//! Not covered: a step that was interrupted before its output was recorded runs again. Work
//! whose effect lies outside the store should carry an idempotency key of its own; the
//! task's id and the step's key make a good one.

mod error;
pub mod meter;
pub mod remote;

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use crate::clock::{Clock, Timestamp};
use crate::holding::Holding;
use crate::json::Json;
use crate::queue::Queue;
use crate::queue::approval::{Decision, Question};
use crate::queue::budget::{Amounts, Cost};
use crate::queue::error::LeaseError;
use crate::queue::machine::FinishedStep;
use crate::queue::task::Lease;
use crate::store::StepRow;
use crate::store::content::Content;
pub use error::StepError;
use meter::Meter;

/// The journal of one task under one lease.
#[derive(Clone)]
pub struct Journal {
    holding: Holding,
    clock: Clock,
    /// Set once everything that was decided before this lease can be read.
    settled: Arc<OnceCell<()>>,
    /// Priced steps that run at this moment.
    under_way: Arc<Mutex<HashSet<String>>>,
}

/// The turn of one step; over when it is dropped.
struct Turn {
    under_way: Arc<Mutex<HashSet<String>>>,
    key: String,
}

impl Turn {
    fn take(under_way: &Arc<Mutex<HashSet<String>>>, key: &str) -> Option<Self> {
        under_way.lock().insert(key.to_owned()).then(|| Self {
            under_way: under_way.clone(),
            key: key.to_owned(),
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.under_way.lock().remove(&self.key);
    }
}

/// Pause between attempts to record a finished step while the store recovers.
const RECORD_PAUSE: Duration = Duration::from_millis(100);

impl Journal {
    /// The journal of a task that `queue` has leased.
    #[must_use]
    pub fn new(queue: Queue, lease: &Lease) -> Self {
        let clock = queue.clock();
        Self::of(Holding::own(queue, lease), clock)
    }

    /// The journal of a task that is held; `clock` is this node's.
    #[must_use]
    pub fn of(holding: Holding, clock: Clock) -> Self {
        Self {
            holding,
            clock,
            settled: Arc::default(),
            under_way: Arc::default(),
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
        let started_at = self.clock.now();
        let output = work.await.map_err(|cause| StepError::Work {
            key: key.to_owned(),
            cause,
        })?;
        self.keep(key, input, output, None, started_at).await
    }

    /// The output of step `key`, whose work costs something: `estimate` at most. It is set
    /// aside in every budget that limits the task before the work begins, and replaced by
    /// what the work tells the [`Meter`] in the transaction that records the step. Time is
    /// measured unless the work tells it; if it tells nothing at all, the estimate counts. A
    /// step that is on record costs nothing.
    ///
    /// If the work fails, what it has told is charged and the rest given back. If it is
    /// dropped, or the lease is lost, the estimate is charged, since nobody knows.
    ///
    /// # Errors
    ///
    /// [`StepError`]; on [`StepError::OverBudget`] let the task wait for a person, with
    /// [`Queue::wait_for_budget`].
    ///
    /// Cancellation as for [`step`](Self::step).
    pub async fn priced_step<I, O, E, W>(
        &self,
        key: &str,
        input: &I,
        estimate: Amounts,
        work: impl FnOnce(Meter) -> W,
    ) -> Result<O, StepError<E>>
    where
        I: Serialize + ?Sized,
        O: Serialize + DeserializeOwned,
        W: Future<Output = Result<O, E>>,
    {
        let input = Json::of(input).map_err(|cause| StepError::Shape {
            key: key.to_owned(),
            cause,
        })?;
        let _turn = Turn::take(&self.under_way, key).ok_or_else(|| StepError::UnderWay {
            key: key.to_owned(),
        })?;
        if let Some(step) = self.lookup(key).await? {
            return replay(key, &step, &input);
        }
        let reserved = self.holding.reserve(key, estimate).await;
        reserved.map_err(|cause| match cause {
            LeaseError::OverBudget(shortfall) => StepError::OverBudget {
                key: key.to_owned(),
                shortfall,
            },
            cause @ (LeaseError::Unknown(_)
            | LeaseError::Stale { .. }
            | LeaseError::Children(_)
            | LeaseError::TooLarge { .. }
            | LeaseError::TooManyReservations { .. }
            | LeaseError::LogFull { .. }
            | LeaseError::Away { .. }
            | LeaseError::Refused { .. }
            | LeaseError::Store(_)) => StepError::Lease {
                key: key.to_owned(),
                cause,
            },
        })?;
        let meter = Meter::default();
        let started_at = self.clock.now();
        let done = work(meter.clone()).await;
        let took = self.clock.now().since(started_at);
        let cost = meter.read().map(|mut cost| {
            if cost.millis == 0 {
                cost.millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            }
            cost
        });
        match done {
            Ok(output) => {
                let cost = cost.or_else(|| Some(Cost::from(estimate)));
                self.keep(key, input, output, cost, started_at).await
            }
            Err(cause) => {
                let actual = cost.unwrap_or_default().amounts();
                if let Err(reason) = self.holding.give_back(key, actual).await {
                    // Charged in full when the lease is over.
                    tracing::warn!(task_id = %self.holding.task(), step = key, %reason, "reservation not given back");
                }
                Err(StepError::Work {
                    key: key.to_owned(),
                    cause,
                })
            }
        }
    }

    /// What a person decided on question `key`, if it was asked and answered.
    ///
    /// # Errors
    ///
    /// [`StepError`], among others if another question of that name is on record.
    pub async fn decision(
        &self,
        key: &str,
        question: &Question,
    ) -> Result<Option<Decision>, StepError<Infallible>> {
        let input = Json::of(question).map_err(|cause| StepError::Shape {
            key: key.to_owned(),
            cause,
        })?;
        match self.lookup(key).await? {
            Some(step) => replay(key, &step, &input).map(Some),
            None => Ok(None),
        }
    }

    /// Records a step's output and returns it, or what was recorded meanwhile.
    async fn keep<O, E>(
        &self,
        key: &str,
        input: Json,
        output: O,
        cost: Option<Cost>,
        started_at: Timestamp,
    ) -> Result<O, StepError<E>>
    where
        O: Serialize + DeserializeOwned,
    {
        let json = Json::of(&output).map_err(|cause| StepError::Shape {
            key: key.to_owned(),
            cause,
        })?;
        let step = FinishedStep {
            key: key.to_owned(),
            input: Content::new(input.clone()),
            output: Content::new(json),
            cost,
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
            let settle = || self.holding.settle();
            self.settled.get_or_try_init(settle).await?;
            self.holding.step(key).await
        };
        read.await.map_err(|cause: LeaseError| {
            let key = key.to_owned();
            if let LeaseError::Store(cause) = cause {
                return StepError::Lookup { key, cause };
            }
            StepError::Lease { key, cause }
        })
    }

    /// Records a step whose work is done, and does not let go of it while the store
    /// recovers: the work would have to be done, and paid for, again. False if the step is
    /// on record already.
    async fn record<E>(&self, step: FinishedStep) -> Result<bool, StepError<E>> {
        let mut unsure = false;
        loop {
            let recorded = async {
                // A commit that failed may have been kept. Once the store has recovered, what
                // it shows is what stands.
                if unsure {
                    self.holding.settle().await?;
                    if self.holding.step(&step.key).await?.is_some() {
                        return Ok(false);
                    }
                }
                self.holding.record_step(step.clone()).await
            };
            match recorded.await {
                Ok(first) => return Ok(first),
                Err(LeaseError::Store(reason)) if reason.is_retryable() => {
                    unsure = true;
                    tracing::warn!(task_id = %self.holding.task(), step = step.key, %reason, "step waits to be recorded");
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
