//! What an operator may do to tasks and to the queue, and look at.

use std::collections::BTreeMap;

use super::control::{Control, QueueStats};
use super::error::ControlError;
use super::explain::{Cause, Explanation, Reason};
use super::gate::GateStanding;
use super::rules::Rules;
use super::task::{TaskEvent, TaskState, TaskView};
use super::{Queue, Reopening};
use crate::ids::TaskId;
use crate::store::{StoreError, TaskFilter};

impl Queue {
    /// Calls a task off: at once if nobody executes it, otherwise by asking its holder.
    /// Returns where it stands now.
    ///
    /// # Errors
    ///
    /// [`ControlError`]
    pub async fn cancel(&self, id: TaskId) -> Result<TaskState, ControlError> {
        let outcome = self
            .decide(|machine, now| machine.cancel(id, "cancelled on request", now))
            .await;
        match outcome {
            Err(ControlError::Unknown(_)) => match self.store().task(id).await? {
                Some(view) => Err(ControlError::WrongState {
                    task: id,
                    state: view.state(),
                    hint: "it has already ended",
                }),
                None => Err(ControlError::Unknown(id)),
            },
            outcome => outcome,
        }
    }

    /// Gives a discarded or cancelled task all its attempts again.
    ///
    /// # Errors
    ///
    /// [`ControlError`]
    pub async fn retry(&self, id: TaskId) -> Result<(), ControlError> {
        // Between two who retry one task, it could run, complete, and be reopened by the
        // slower one from what it read before.
        if !self.0.reopening.lock().insert(id) {
            return Err(ControlError::WrongState {
                task: id,
                state: TaskState::Available,
                hint: "someone else is retrying it",
            });
        }
        let _reopening = Reopening { queue: self, id };
        let view = self.store().task(id).await?;
        let view = view.ok_or(ControlError::Unknown(id))?;
        let ended = self.ended(&view.body.depends_on).await?;
        self.decide(|machine, now| machine.reopen(view, &ended, now))
            .await
    }

    /// Stops giving leases; submissions are still accepted. Survives restarts.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn pause(&self) -> Result<Control, StoreError> {
        self.turn(|control| control.paused = true).await
    }

    /// Gives leases and accepts submissions again.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn resume(&self) -> Result<Control, StoreError> {
        self.turn(|control| {
            control.paused = false;
            control.draining = false;
        })
        .await
    }

    /// Refuses submissions and finishes what is there. Survives restarts.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn drain(&self) -> Result<Control, StoreError> {
        self.turn(|control| control.draining = true).await
    }

    /// Sets how many tasks may wait; `None` returns to the configured number. Tasks that
    /// are already there stay.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn set_max_size(&self, max_size: Option<u64>) -> Result<Control, StoreError> {
        self.turn(|control| control.max_size = max_size).await
    }

    /// Changes how tasks share workers and what limits them, live. Survives restarts.
    /// Running tasks keep what they hold, also when there is less of it now.
    ///
    /// # Errors
    ///
    /// [`ControlError::Invalid`] names everything that is wrong; [`ControlError::Store`].
    pub async fn change_rules(&self, change: impl FnOnce(&mut Rules)) -> Result<(), ControlError> {
        self.decide(|machine, now| {
            let mut control = machine.control().clone();
            change(&mut control.rules);
            let problems = control.rules.problems();
            if !problems.is_empty() {
                return Err(ControlError::Invalid(problems));
            }
            machine.set_control(control, now);
            Ok(())
        })
        .await
    }

    /// The rules in force, and how the gates stand that they name or that tasks use, up to
    /// `max` gates.
    #[must_use]
    pub fn rules(&self, max: usize) -> (Rules, BTreeMap<String, GateStanding>) {
        let machine = self.0.machine.lock();
        let gates = machine.gates(max, self.0.clock.now());
        (machine.control().rules.clone(), gates)
    }

    /// Why a task is not running yet; `None` if there is none of that id.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn why(&self, id: TaskId) -> Result<Option<Explanation>, StoreError> {
        let live = self.0.machine.lock().explain(id, self.0.clock.now());
        if live.is_some() {
            return Ok(live);
        }
        let view = self.store().task(id).await?;
        Ok(view.map(|view| Explanation {
            id,
            state: view.state(),
            reasons: view
                .end
                .map(|end| Cause::Ended {
                    outcome: end.state,
                    error: end.error,
                })
                .map(Reason::from)
                .into_iter()
                .collect(),
        }))
    }

    async fn turn(&self, change: impl FnOnce(&mut Control)) -> Result<Control, StoreError> {
        let control = self
            .decide(|machine, now| {
                let mut control = machine.control().clone();
                change(&mut control);
                machine.set_control(control.clone(), now);
                Ok::<_, StoreError>(control)
            })
            .await?;
        self.0.line.call_all();
        Ok(control)
    }

    /// Calls off every task that nobody executes. Returns how many.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn clear(&self) -> Result<usize, StoreError> {
        self.decide(|machine, now| Ok::<_, StoreError>(machine.clear(now)))
            .await
    }

    /// How the queue stands; does not touch the disk.
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        self.0.machine.lock().stats(self.0.clock.now())
    }

    /// One task as it is stored, or `None` if there is none of that id.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn task(&self, id: TaskId) -> Result<Option<TaskView>, StoreError> {
        let mut found = self.store().task(id).await?;
        self.add_renewals(found.as_mut_slice());
        Ok(found)
    }

    /// Renewals of leases are kept in memory only: the store knows when each began.
    fn add_renewals(&self, views: &mut [TaskView]) {
        let machine = self.0.machine.lock();
        for view in views {
            if let Some(run) = &mut view.run
                && let Some(until) = machine.lease_until(view.body.id, run.epoch)
            {
                run.lease_until = Some(until);
            }
        }
    }

    /// Tasks as they are stored, newest first.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn tasks(&self, filter: &TaskFilter) -> Result<Vec<TaskView>, StoreError> {
        let mut found = self.store().tasks(filter).await?;
        self.add_renewals(&mut found);
        Ok(found)
    }

    /// A task's log behind event `after`, oldest first, at most `limit` lines.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn events(
        &self,
        id: TaskId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<TaskEvent>, StoreError> {
        self.store().events(id, after, limit).await
    }
}
