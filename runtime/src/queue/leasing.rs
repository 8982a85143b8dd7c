//! Claiming, renewing and settling leases, and saying why one no longer holds.

use std::time::Duration;

use super::error::{AdmitError, LeaseError};
use super::machine;
use super::task::{Lease, NewChild, TaskState};
use super::{ClaimRequest, Queue, Renewal};
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::store::{DocumentRow, StoreError};

/// Workers that died while the store recovered and are remembered; leases of others run out.
const DEAD_MAX: usize = 10_000;

impl Queue {
    /// Leases tasks, waiting up to `request.wait` for the first.
    ///
    /// # Errors
    ///
    /// [`StoreError`] while the store recovers or after it closed.
    ///
    /// Cancellation safe: a lease is given only by returning it.
    pub async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Lease>, StoreError> {
        let deadline = tokio::time::Instant::now() + request.wait;
        let leases = self.claim_now(request)?;
        if !leases.is_empty() || request.max == 0 || request.wait.is_zero() {
            return Ok(leases);
        }
        loop {
            // Whoever stands in line before he looks misses nothing.
            let place = self.0.line.join(&request.kinds, request.max);
            let leases = self.claim_now(request)?;
            if !leases.is_empty() {
                return Ok(leases);
            }
            self.0.pool.look();
            if tokio::time::timeout_at(deadline, place.called())
                .await
                .is_err()
            {
                return self.claim_now(request);
            }
        }
    }

    /// Leases what is claimable at this moment; `request.wait` is not looked at.
    ///
    /// # Errors
    ///
    /// [`StoreError`] while the store recovers or after it closed.
    pub fn claim_now(&self, request: &ClaimRequest) -> Result<Vec<Lease>, StoreError> {
        let mut machine = self.0.machine.lock();
        if let Some(refusal) = self.0.writer.refusal() {
            return Err(refusal);
        }
        let now = self.0.clock.now();
        let ClaimRequest {
            kinds,
            worker,
            lease,
            ..
        } = request;
        let leases = machine.claim(kinds, worker, *lease, request.max, now);
        // A claim that finds gates closed moves tasks too, and sets timers.
        self.hand_over(&mut machine);
        if !leases.is_empty() {
            // Whoever was called may have taken another task than the one he was called for.
            if !self.0.line.is_empty() {
                self.0.line.call(&machine.claimable(kinds));
            }
            self.0.pool.look();
        }
        Ok(leases)
    }

    /// Leases a task that no other node of the database can go on with, if one is claimable at
    /// this moment: for a node that takes no more work and leaves what it can to the others.
    /// Nothing on a store of one node.
    ///
    /// # Errors
    ///
    /// [`StoreError`] while the store recovers or after it closed.
    pub fn claim_bound(&self, request: &ClaimRequest) -> Result<Option<Lease>, StoreError> {
        let mut machine = self.0.machine.lock();
        if let Some(refusal) = self.0.writer.refusal() {
            return Err(refusal);
        }
        let ClaimRequest {
            kinds,
            worker,
            lease,
            ..
        } = request;
        let leased = machine.claim_bound(kinds, worker, *lease, self.0.clock.now());
        self.hand_over(&mut machine);
        Ok(leased)
    }

    /// Renews a lease to `lease` from now.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Stale`] or [`LeaseError::Unknown`]: stop working on the task.
    pub async fn heartbeat(
        &self,
        id: TaskId,
        epoch: Epoch,
        lease: Duration,
    ) -> Result<Renewal, LeaseError> {
        let renewed = {
            let mut machine = self.0.machine.lock();
            if let Some(superseded @ StoreError::Superseded { .. }) = self.0.writer.refusal() {
                return Err(superseded.into());
            }
            let renewed = machine.heartbeat(id, epoch, lease, self.0.clock.now());
            self.hurry(&machine);
            renewed
        };
        match renewed {
            Ok((expires_at, cancel_requested)) => Ok(Renewal {
                expires_at,
                cancel_requested,
            }),
            Err(refusal) => Err(self.explain(refusal, epoch).await),
        }
    }

    /// Completes a task. Repeating it under the same epoch is harmless.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]; on [`LeaseError::Store`] repeat the call.
    pub async fn complete(&self, id: TaskId, epoch: Epoch, result: Json) -> Result<(), LeaseError> {
        let outcome = self
            .decide(|machine, now| machine.complete(id, epoch, result, now))
            .await;
        self.completed(id, epoch, outcome).await
    }

    /// Completes tasks in one commit, each of them or not: the answers come in the order
    /// given. Repeating them under the same epochs is harmless.
    pub async fn complete_all(
        &self,
        done: Vec<(TaskId, Epoch, Json)>,
    ) -> Vec<Result<(), LeaseError>> {
        let leases: Vec<(TaskId, Epoch)> =
            done.iter().map(|(id, epoch, _)| (*id, *epoch)).collect();
        let outcomes = self
            .decide(|machine, now| {
                let complete = |(id, epoch, result)| machine.complete(id, epoch, result, now);
                Ok::<_, StoreError>(done.into_iter().map(complete).collect::<Vec<_>>())
            })
            .await;
        let outcomes = outcomes.unwrap_or_else(|error| {
            let failed = |_: &_| Err(error.clone().into());
            leases.iter().map(failed).collect()
        });
        let mut answers = Vec::with_capacity(leases.len());
        for ((id, epoch), outcome) in leases.into_iter().zip(outcomes) {
            answers.push(match outcome {
                Ok(()) => Ok(()),
                refused => self.completed(id, epoch, refused).await,
            });
        }
        answers
    }

    /// A completion that finds no live task may be a repetition.
    async fn completed(
        &self,
        id: TaskId,
        epoch: Epoch,
        outcome: Result<(), LeaseError>,
    ) -> Result<(), LeaseError> {
        match outcome {
            Err(refusal @ LeaseError::Unknown(_)) => {
                if let Some(end) = self.store().task(id).await?.and_then(|view| view.end)
                    && end.state == TaskState::Completed
                    && end.epoch == epoch
                {
                    return Ok(());
                }
                Err(self.explain(refusal, epoch).await)
            }
            outcome => self.counted(outcome),
        }
    }

    /// Reports a failed attempt; `retryable` says whether another may succeed. Returns
    /// where the task stands now.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]
    pub async fn fail(
        &self,
        id: TaskId,
        epoch: Epoch,
        error: String,
        retryable: bool,
    ) -> Result<TaskState, LeaseError> {
        let outcome = self
            .decide(|machine, now| machine.fail(id, epoch, error, retryable, now))
            .await;
        self.settled(outcome, epoch).await
    }

    /// Hands an unfinished task back; the attempt does not count.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]
    pub async fn release(&self, id: TaskId, epoch: Epoch) -> Result<(), LeaseError> {
        let outcome = self
            .decide(|machine, now| machine.release(id, epoch, now))
            .await;
        self.settled(outcome, epoch).await
    }

    /// Inserts children and lets the task wait for them without a lease; both or neither.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]; on [`LeaseError::Children`] the lease still holds.
    pub async fn suspend(
        &self,
        id: TaskId,
        epoch: Epoch,
        children: Vec<NewChild>,
    ) -> Result<(), LeaseError> {
        self.suspend_with(id, epoch, children, None).await
    }

    /// The same, with a finished step in the same transaction: who finds the step on record
    /// knows that the children are there.
    pub(crate) async fn suspend_with(
        &self,
        id: TaskId,
        epoch: Epoch,
        children: Vec<NewChild>,
        step: Option<machine::FinishedStep>,
    ) -> Result<(), LeaseError> {
        let outside: Vec<TaskId> = children
            .iter()
            .flat_map(|child| child.task.depends_on.iter().copied())
            .collect();
        let mut ended = self.ended(&outside).await?;
        if !outside.is_empty()
            && let Some(dependency) = self.store().waits_for(id, &outside).await?
        {
            let problem = format!("waits for {id}, which would wait for its child");
            return Err(LeaseError::Children(AdmitError::Dependency {
                dependency,
                problem,
            }));
        }
        let outcome = loop {
            let (family, step) = (children.clone(), step.clone());
            let outcome = self
                .decide(|machine, now| machine.suspend(id, epoch, family, step, &ended, now))
                .await;
            match &outcome {
                Err(LeaseError::Children(AdmitError::Dependency { dependency, .. }))
                    if self.ended_since(*dependency, &mut ended).await? => {}
                _ => break outcome,
            }
        };
        self.settled(outcome, epoch).await
    }

    /// Writes documents of the kernel's own on behalf of a task's holder: durable when it
    /// returns, and refused when the lease no longer holds.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]
    pub async fn put_documents(
        &self,
        id: TaskId,
        epoch: Epoch,
        documents: Vec<DocumentRow>,
    ) -> Result<(), LeaseError> {
        let outcome = self
            .decide(|machine, _| machine.put_documents(id, epoch, documents))
            .await;
        self.settled(outcome, epoch).await
    }

    /// Hands back every lease that is still out, without counting it against its task: the
    /// node stops in order. Returns how many.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the next start takes the leases back then.
    pub async fn hand_back_all(&self) -> Result<usize, StoreError> {
        self.decide(|machine, now| Ok::<_, StoreError>(machine.hand_back_all(now)))
            .await
    }

    /// Takes back every lease of a worker that died, without waiting for the disk. While the
    /// store recovers, it is done as soon as that is over.
    pub fn reclaim(&self, worker: &str) -> usize {
        let mut machine = self.0.machine.lock();
        if self.0.writer.refusal().is_some() {
            let mut dead = self.0.dead.lock();
            if dead.len() < DEAD_MAX {
                dead.push(worker.into());
            }
            return 0;
        }
        let lost = machine.reclaim(worker, self.0.clock.now());
        self.hand_over(&mut machine);
        lost
    }

    /// Waits until everything that was decided before is durable, and visible to reads.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; what was decided before may be lost.
    pub(crate) async fn settle(&self) -> Result<(), StoreError> {
        self.decide(|_, _| Ok(())).await
    }

    /// Records a finished step; see [`crate::journal`]. False if it was recorded already
    /// under this lease.
    pub(crate) async fn record_step(
        &self,
        id: TaskId,
        epoch: Epoch,
        step: machine::FinishedStep,
    ) -> Result<bool, LeaseError> {
        let outcome = self
            .decide(|machine, now| machine.record_step(id, epoch, step, now))
            .await;
        self.settled(outcome, epoch).await
    }

    pub(crate) async fn settled<T>(
        &self,
        outcome: Result<T, LeaseError>,
        epoch: Epoch,
    ) -> Result<T, LeaseError> {
        match outcome {
            Err(refusal) => Err(self.explain(refusal, epoch).await),
            Ok(value) => Ok(value),
        }
    }

    fn counted<T>(&self, outcome: Result<T, LeaseError>) -> Result<T, LeaseError> {
        if matches!(outcome, Err(LeaseError::Stale { .. })) {
            metrics::counter!(crate::metrics::STALE_REFUSED).increment(1);
        }
        outcome
    }

    /// A task that is not live may have ended: then the epoch is stale, not the id unknown.
    async fn explain(&self, refusal: LeaseError, offered: Epoch) -> LeaseError {
        let refusal = match refusal {
            LeaseError::Unknown(task) => match self.store().task(task).await {
                Ok(None) => return LeaseError::Unknown(task),
                Err(error) => return error.into(),
                Ok(Some(view)) => {
                    self.0.machine.lock().count_stale();
                    let current = view
                        .end
                        .as_ref()
                        .map(|end| end.epoch)
                        .or_else(|| view.run.as_ref().map(|run| run.epoch))
                        .unwrap_or(Epoch::NEVER);
                    LeaseError::Stale {
                        task,
                        offered,
                        current,
                        state: view.state(),
                    }
                }
            },
            other @ (LeaseError::Stale { .. }
            | LeaseError::Children(_)
            | LeaseError::TooLarge { .. }
            | LeaseError::OverBudget(_)
            | LeaseError::TooManyReservations { .. }
            | LeaseError::LogFull { .. }
            | LeaseError::Away { .. }
            | LeaseError::Refused { .. }
            | LeaseError::Store(_)) => other,
        };
        if matches!(refusal, LeaseError::Stale { .. }) {
            metrics::counter!(crate::metrics::STALE_REFUSED).increment(1);
        }
        refusal
    }
}
