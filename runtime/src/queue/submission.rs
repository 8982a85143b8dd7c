//! Submitting: what has to be known before the machine can decide, and the decision.

use super::error::{AdmitError, ControlError};
use super::machine::Dependencies;
use super::task::{NewTask, TaskBody, TaskState};
use super::{Queue, Submission};
use crate::ids::TaskId;
use crate::store::StoreError;

impl Queue {
    /// Accepts a task. It is durable when this returns.
    ///
    /// # Errors
    ///
    /// [`AdmitError`]; see its variants for what was stored.
    ///
    /// Dropping the future does not take the submission back.
    pub async fn submit(&self, mut task: NewTask) -> Result<Submission, AdmitError> {
        if let Some(key) = &task.idempotency_key {
            let tenant = task.tenant.as_deref().unwrap_or("default");
            let live = self.0.machine.lock().by_key(tenant, key);
            if live.is_none()
                && let Some(id) = self.store().by_idempotency_key(tenant, key).await?
            {
                return Ok(Submission { id, repeated: true });
            }
        }
        let mut ended = self.ended(&task.depends_on).await?;
        let submitted = loop {
            // Only a task with dependencies may be asked about again.
            let spare = (!task.depends_on.is_empty()).then(|| task.clone());
            let submitted = self
                .decide(|machine, now| machine.submit(task, &ended, now))
                .await;
            match (&submitted, spare) {
                (Err(AdmitError::Dependency { dependency, .. }), Some(spare))
                    if self.ended_since(*dependency, &mut ended).await? =>
                {
                    task = spare;
                }
                _ => break submitted,
            }
        };
        match submitted {
            Ok(one) => {
                if !one.repeated {
                    metrics::counter!(crate::metrics::TASKS_ACCEPTED).increment(1);
                }
                Ok(Submission {
                    id: one.id,
                    repeated: one.repeated,
                })
            }
            Err(error) => {
                let reason = error.reason();
                metrics::counter!(crate::metrics::TASKS_REFUSED, "reason" => reason).increment(1);
                Err(error)
            }
        }
    }

    /// Refuses a task that depends on one that cannot end before it, where only the store
    /// knows of both.
    pub(super) async fn check_circle(&self, body: &TaskBody) -> Result<(), ControlError> {
        if let Some(parent) = body.parent
            && !body.depends_on.is_empty()
            && self
                .store()
                .waits_for(parent, &body.depends_on)
                .await?
                .is_some()
        {
            return Err(ControlError::WrongState {
                task: body.id,
                state: TaskState::Discarded,
                hint: "a task it depends on waits for its parent",
            });
        }
        Ok(())
    }

    /// How the dependencies ended that are no longer live.
    pub(super) async fn ended(&self, dependencies: &[TaskId]) -> Result<Dependencies, StoreError> {
        let mut ended = Dependencies::new();
        let missing = self.0.machine.lock().not_live(dependencies);
        for id in missing {
            self.ended_since(id, &mut ended).await?;
        }
        Ok(ended)
    }

    /// Looks up how a dependency ended that was still live, or not yet looked up, when
    /// `ended` was read. False if that brings nothing new.
    pub(super) async fn ended_since(
        &self,
        dependency: TaskId,
        ended: &mut Dependencies,
    ) -> Result<bool, StoreError> {
        if ended
            .get(&dependency)
            .is_some_and(|state| state.is_terminal())
        {
            return Ok(false);
        }
        // One that lives although it is not here lives on another node.
        let found = self.store().task(dependency).await?;
        let state = found.map(|view| view.state());
        Ok(state.is_some_and(|state| ended.insert(dependency, state) != Some(state)))
    }
}
