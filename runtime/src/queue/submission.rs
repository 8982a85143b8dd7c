//! Submitting: what has to be known before the machine can decide, and the decision.

use super::error::{AdmitError, ControlError};
use super::machine::{Dependencies, Machine, Submitted};
use super::task::{NewTask, TaskBody, TaskState, TaskView};
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
    pub async fn submit(&self, task: NewTask) -> Result<Submission, AdmitError> {
        let admitted = self.admit(task, |_, _| ()).await?;
        Ok(admitted.0)
    }

    /// The same, with how the task stood when it was accepted, for which the store is not read.
    /// `None` for one that was accepted before: it may stand anywhere by now.
    ///
    /// # Errors
    ///
    /// [`AdmitError`]; see its variants for what was stored.
    ///
    /// Dropping the future does not take the submission back.
    pub async fn submit_viewed(
        &self,
        task: NewTask,
    ) -> Result<(Submission, Option<TaskView>), AdmitError> {
        let view = |machine: &Machine, told: &Submitted| match told.repeated {
            true => None,
            false => machine.view(told.id),
        };
        self.admit(task, view).await
    }

    /// Accepts a task, and looks at it in the same instant.
    async fn admit<T: Default>(
        &self,
        mut task: NewTask,
        look: impl Fn(&Machine, &Submitted) -> T,
    ) -> Result<(Submission, T), AdmitError> {
        if let Some(id) = self.submitted_before(&task).await? {
            return Ok((Submission { id, repeated: true }, T::default()));
        }
        let mut ended = self.ended(&task.depends_on).await?;
        let submitted = loop {
            // Only a task with dependencies may be asked about again.
            let spare = (!task.depends_on.is_empty()).then(|| task.clone());
            let submitted = self
                .decide(|machine, now| {
                    let told = machine.submit(task, &ended, now)?;
                    let seen = look(machine, &told);
                    Ok((told, seen))
                })
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
            Ok((submitted, seen)) => told(Ok(submitted)).map(|told| (told, seen)),
            Err(error) => Err(refused(error)),
        }
    }

    /// Accepts tasks, each of them or not, in one commit and in the order given. Those that
    /// were accepted are durable when this returns. None of them can depend on another, whose
    /// id is not known yet.
    ///
    /// Dropping the future does not take the submissions back.
    pub async fn submit_all(&self, tasks: Vec<NewTask>) -> Vec<Result<Submission, AdmitError>> {
        let count = tasks.len();
        let plain = |task: &NewTask| task.idempotency_key.is_none() && task.depends_on.is_empty();
        if tasks.iter().all(plain) {
            // Nothing has to be looked up.
            let ended = Dependencies::new();
            let decided = self
                .decide(|machine, now| {
                    let submit = |task| machine.submit(task, &ended, now);
                    Ok::<_, StoreError>(tasks.into_iter().map(submit).collect::<Vec<_>>())
                })
                .await;
            return match decided {
                Ok(decided) => decided.into_iter().map(told).collect(),
                Err(error) => (0..count).map(|_| Err(error.clone().into())).collect(),
            };
        }
        let mut answers = Vec::with_capacity(count);
        let mut new = Vec::with_capacity(count);
        let mut ended = Dependencies::new();
        for task in tasks {
            let known = match self.submitted_before(&task).await {
                Ok(None) => self
                    .look_up(&task.depends_on, &mut ended)
                    .await
                    .err()
                    .map(Err),
                Ok(Some(id)) => Some(Ok(Submission { id, repeated: true })),
                Err(error) => Some(Err(error)),
            };
            if known.is_none() {
                new.push((answers.len(), task));
            }
            answers.push(known.map(|answer| answer.map_err(AdmitError::from)));
        }
        // Only tasks with dependencies may be asked about again.
        let places: Vec<(usize, Option<NewTask>)> = new
            .iter()
            .map(|(at, task)| (*at, (!task.depends_on.is_empty()).then(|| task.clone())))
            .collect();
        let decided = self
            .decide(|machine, now| {
                let submit = |(_, task)| machine.submit(task, &ended, now);
                Ok::<_, StoreError>(new.into_iter().map(submit).collect::<Vec<_>>())
            })
            .await;
        let decided = decided.unwrap_or_else(|error| {
            let refused = |_: &_| Err(AdmitError::Store(error.clone()));
            places.iter().map(refused).collect()
        });
        for ((at, spare), submitted) in places.into_iter().zip(decided) {
            let answer = match (&submitted, spare) {
                (Err(AdmitError::Dependency { dependency, .. }), Some(spare))
                    if matches!(self.ended_since(*dependency, &mut ended).await, Ok(true)) =>
                {
                    self.submit(spare).await
                }
                _ => told(submitted),
            };
            answers[at] = Some(answer);
        }
        answers.into_iter().flatten().collect()
    }

    /// The task that was submitted under this one's key, unless it lives: the machine knows
    /// those that live.
    async fn submitted_before(&self, task: &NewTask) -> Result<Option<TaskId>, StoreError> {
        let Some(key) = &task.idempotency_key else {
            return Ok(None);
        };
        let tenant = task.tenant.as_deref().unwrap_or("default");
        if self.0.machine.lock().by_key(tenant, key).is_some() {
            return Ok(None);
        }
        self.store().by_idempotency_key(tenant, key).await
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

    async fn look_up(
        &self,
        dependencies: &[TaskId],
        ended: &mut Dependencies,
    ) -> Result<(), StoreError> {
        if !dependencies.is_empty() {
            ended.extend(self.ended(dependencies).await?);
        }
        Ok(())
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

pub(super) fn told(submitted: Result<Submitted, AdmitError>) -> Result<Submission, AdmitError> {
    match submitted {
        Ok(Submitted { id, repeated }) => Ok(Submission { id, repeated }),
        Err(error) => Err(refused(error)),
    }
}

/// Counts it.
fn refused(error: AdmitError) -> AdmitError {
    let reason = error.reason();
    metrics::counter!(crate::metrics::TASKS_REFUSED, "reason" => reason).increment(1);
    error
}
