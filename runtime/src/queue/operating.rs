//! What an operator may do to tasks and to the queue, and look at.

use std::collections::{BTreeMap, HashSet};

use uuid::Uuid;

use super::budget::Scope;
use super::control::{Control, QueueStats};
use super::error::ControlError;
use super::explain::{Cause, Explained, Explanation, Reason};
use super::gate::GateStanding;
use super::machine::{Dependencies, Part};
use super::order::Verb;
use super::rules::Rules;
use super::task::{TaskEvent, TaskState, TaskView};
use super::ties::{Ordered, ROUNDS_MAX, Reply};
use super::{Queue, Reopening};
use crate::ids::TaskId;
use crate::store::{StoreError, TaskFilter};

/// Tasks that are brought back together at most.
const PART_MAX: u32 = 10_000;

impl Queue {
    /// Calls a task off: at once if nobody executes it, otherwise by asking its holder.
    /// Returns where it stands now.
    ///
    /// # Errors
    ///
    /// [`ControlError`]
    pub async fn cancel(&self, id: TaskId) -> Result<TaskState, ControlError> {
        const WHY: &str = "cancelled on request";
        for _ in 0..ROUNDS_MAX {
            let outcome = self
                .decide(|machine, now| machine.cancel(id, WHY, now))
                .await;
            let Err(ControlError::Unknown(_)) = outcome else {
                return outcome;
            };
            let view = self.store().task(id).await?;
            let view = view.ok_or(ControlError::Unknown(id))?;
            if view.end.is_some() {
                return Err(ControlError::WrongState {
                    task: id,
                    state: view.state(),
                    hint: "it has already ended",
                });
            }
            let why = WHY.to_owned();
            let reply = self.placed(id, Verb::Cancel { why }).await?;
            if let Reply::Cancelled { state } = reply {
                return Ok(state);
            }
        }
        Err(unsettled(id))
    }

    /// Asks the node that has the task; an order without an answer, or refused, is an error.
    async fn placed(&self, id: TaskId, verb: Verb) -> Result<Reply, ControlError> {
        match self.order(id, verb).await? {
            Ordered::Answered(Reply::Refused { problem }) => {
                Err(ControlError::Refused { task: id, problem })
            }
            Ordered::Answered(reply) => Ok(reply),
            Ordered::Stands { node } => Err(ControlError::Ordered { task: id, node }),
        }
    }

    /// Who has to bring a task back: `None` is this node, otherwise the node of that task, which
    /// waits for it, or spends from the same tree: its budget is in one memory.
    async fn reopener(&self, view: &TaskView) -> Result<Option<TaskId>, StoreError> {
        for id in [Some(view.body.id), view.body.parent].into_iter().flatten() {
            if self.is_elsewhere(id).await? {
                return Ok(Some(id));
            }
        }
        let trees: Vec<TaskId> = view.body.spends_from().collect();
        let spender = self.store().spender_elsewhere(&trees).await?;
        // Between the two readings it may have come here.
        Ok(spender.filter(|id| !self.is_here(*id)))
    }

    /// Gives a discarded or cancelled task all its attempts again.
    ///
    /// # Errors
    ///
    /// [`ControlError`]
    pub async fn retry(&self, id: TaskId) -> Result<(), ControlError> {
        for _ in 0..ROUNDS_MAX {
            let view = self.store().task(id).await?;
            let view = view.ok_or(ControlError::Unknown(id))?;
            // One that lives is refused here as there.
            let parent = match view.end {
                Some(_) => self.reopener(&view).await?,
                None => None,
            };
            let Some(parent) = parent else {
                return self.retry_here(id, None).await;
            };
            if let Reply::Retried { .. } = self.placed(parent, Verb::Retry { child: id }).await? {
                return Ok(());
            }
        }
        Err(unsettled(id))
    }

    /// Brings a task back to live here, and answers the order for that.
    pub(super) async fn retry_here(
        &self,
        id: TaskId,
        order: Option<Uuid>,
    ) -> Result<(), ControlError> {
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
        // Between the reading of a budget and the decision nobody else may bring it back,
        // spend from it, and put it away again.
        let _budgets = self.0.budgets_returning.lock().await;
        let trees: Vec<TaskId> = view.body.spends_from().collect();
        let _held = self.hold_budgets(trees.clone());
        let mut budgets = Vec::new();
        for id in trees {
            budgets.extend(self.store().budget(&Scope::Task(id)).await?);
        }
        self.check_circle(&view.body).await?;
        self.decide(|machine, now| {
            machine.reopen(view, &ended, &budgets, now)?;
            if let Some(order) = order {
                machine.answer_order(Self::answers(order, 1));
            }
            Ok(())
        })
        .await
    }

    /// Gives a task that was discarded or cancelled, and every task below it that did not
    /// complete, all their attempts again; or, if the task waits, only those below it. What
    /// completed stays. The task wakes once, when the last of them has ended. Returns how
    /// many live again; a task whose dependency outside the family failed stays as it is.
    ///
    /// # Errors
    ///
    /// [`ControlError`]; nothing lives again.
    pub async fn retry_part(&self, id: TaskId) -> Result<usize, ControlError> {
        for _ in 0..ROUNDS_MAX {
            let view = self.store().task(id).await?;
            let view = view.ok_or(ControlError::Unknown(id))?;
            let Some(at) = self.reopener(&view).await? else {
                return self.retry_part_here(id, None).await;
            };
            if let Reply::Retried { count } = self.placed(at, Verb::RetryPart { root: id }).await? {
                return Ok(count);
            }
        }
        Err(unsettled(id))
    }

    /// Brings a part back to live here, and answers the order for that.
    pub(super) async fn retry_part_here(
        &self,
        id: TaskId,
        order: Option<Uuid>,
    ) -> Result<usize, ControlError> {
        let root = self.store().task(id).await?;
        let root = root.ok_or(ControlError::Unknown(id))?;
        if root.state() == TaskState::Completed {
            return Err(ControlError::WrongState {
                task: id,
                state: TaskState::Completed,
                hint: "it has its result; submit a new task to run it again",
            });
        }
        let views = self.failed_below(root).await?;
        let mut reopening = Vec::with_capacity(views.len());
        for view in &views {
            let id = view.body.id;
            if !self.0.reopening.lock().insert(id) {
                return Err(ControlError::WrongState {
                    task: id,
                    state: TaskState::Available,
                    hint: "someone else is retrying it",
                });
            }
            reopening.push(Reopening { queue: self, id });
        }
        // What was read may have changed before nobody else could change it.
        let mut current = Vec::with_capacity(views.len());
        for view in views {
            current.extend(self.store().task(view.body.id).await?);
        }
        let mut ended = Dependencies::new();
        for view in &current {
            ended.extend(self.ended(&view.body.depends_on).await?);
        }
        let _budgets = self.0.budgets_returning.lock().await;
        let trees: HashSet<TaskId> = current
            .iter()
            .flat_map(|view| view.body.spends_from())
            .collect();
        let _held = self.hold_budgets(trees.iter().copied().collect());
        let mut budgets = Vec::new();
        for id in trees {
            budgets.extend(self.store().budget(&Scope::Task(id)).await?);
        }
        let part = Part {
            root: id,
            views: current,
        };
        self.decide(|machine, now| {
            let count = machine.reopen_part(part, &ended, &budgets, now)?;
            if let Some(order) = order {
                machine.answer_order(Self::answers(order, count));
            }
            Ok(count)
        })
        .await
    }

    /// The task, if it failed, and the failed tasks below it.
    async fn failed_below(&self, root: TaskView) -> Result<Vec<TaskView>, ControlError> {
        let mut parents = vec![root.body.id];
        let mut failed = Vec::new();
        if root.end.is_some() {
            failed.push(root);
        }
        while let Some(parent) = parents.pop() {
            let filter = TaskFilter {
                parent: Some(parent),
                limit: PART_MAX,
                ..TaskFilter::default()
            };
            for child in self.tasks(&filter).await? {
                if child.end.is_none() || child.state() == TaskState::Completed {
                    continue;
                }
                parents.push(child.body.id);
                failed.push(child);
                if PART_MAX as usize <= failed.len() {
                    return Err(ControlError::WrongState {
                        task: parent,
                        state: TaskState::Discarded,
                        hint: "more than 10000 tasks failed below; retry its children one by one",
                    });
                }
            }
        }
        Ok(failed)
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
        let changed = self.change_control(|control| {
            change(&mut control.rules);
            match control.rules.problems() {
                problems if problems.is_empty() => Ok(()),
                problems => Err(ControlError::Invalid(problems)),
            }
        });
        changed.await.map(drop)
    }

    /// The rules in force, and how the gates stand that they name or that tasks use, up to
    /// `max` gates.
    #[must_use]
    pub fn rules(&self, max: usize) -> (Rules, BTreeMap<String, GateStanding>) {
        let machine = self.0.machine.lock();
        let gates = machine.gates(max, self.0.clock.now());
        (machine.control().rules.clone(), gates)
    }

    /// Why a task is not running yet; `None` if there is none of that id. Another node that
    /// has it is asked.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn why(&self, id: TaskId) -> Result<Option<Explained>, StoreError> {
        let live = self.0.machine.lock().explain(id, self.0.clock.now());
        if let Some(live) = live {
            return Ok(Some(Explained::Here(live)));
        }
        let mut view = self.store().task(id).await?;
        if view.as_ref().is_some_and(|view| view.end.is_none()) {
            let answered = self.order(id, Verb::Explain).await?;
            if let Ordered::Answered(Reply::Explained { explanation }) = answered {
                return Ok(Some(Explained::There(explanation)));
            }
            // It has ended, or its node does not answer.
            view = self.store().task(id).await?;
        }
        Ok(view.map(|view| {
            Explained::Here(Explanation {
                id,
                state: view.state(),
                reasons: vec![Reason::from(match view.end {
                    Some(end) => Cause::Ended {
                        outcome: end.state,
                        error: end.error,
                    },
                    None => Cause::Elsewhere,
                })],
            })
        }))
    }

    async fn turn(&self, change: impl FnOnce(&mut Control)) -> Result<Control, StoreError> {
        let turned = self.change_control(|control| {
            change(control);
            Ok::<_, StoreError>(())
        });
        let control = turned.await?;
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

    /// Whether the queue gives no leases on request of an operator.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.0.machine.lock().control().paused
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

/// The task moved between nodes, or ended and came back, each time somebody looked.
fn unsettled(task: TaskId) -> ControlError {
    ControlError::Refused {
        task,
        problem: "it has moved meanwhile; repeat the call".to_owned(),
    }
}
