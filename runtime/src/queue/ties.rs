//! What ties the nodes on one store together: ends of tasks that live elsewhere, orders, and
//! switches. Each is looked for once a second, and at once when another node gives a hint.
//!
//! Stopping it delays what others ask for, and loses nothing: all of it stands in the store.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use super::Queue;
use super::approval::ApprovalError;
use super::control::Control;
use super::error::ControlError;
use super::order::{Answered, NewOrder, Order, Verb};
use super::task::TaskState;
use crate::ids::TaskId;
use crate::json::Json;
use crate::store::postgres::Signal;
use crate::store::{Changes, StoreError};

/// Longest wait for another node's answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for another node's explanation: nothing is lost without one.
const PATIENCE_EXPLAIN: Duration = Duration::from_secs(2);
/// Longest pause between two looks for an answer.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Rounds of asking, each because the task ended or moved meanwhile.
pub(super) const ROUNDS_MAX: usize = 3;

/// What the node that has the task answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    /// Called off, or asked to stop.
    Cancelled { state: TaskState },
    /// So many tasks live again.
    Retried { count: usize },
    /// The question is decided.
    Decided,
    /// Why it is not running.
    Explained { explanation: Json },
    /// The task has ended: the asker sees for itself.
    Ended,
    /// It cannot be done.
    Refused { problem: String },
}

/// What became of an order that was placed.
pub(super) enum Ordered {
    Answered(Reply),
    /// It stands, and will be carried out by this node, or by who takes over from it.
    Stands {
        node: String,
    },
}

impl Reply {
    fn to(&self, order: uuid::Uuid) -> Answered {
        let answer = Json::of(self).unwrap_or_else(|_| Json::null());
        Answered { order, answer }
    }
}

impl super::machine::Machine {
    /// Answers an order together with what was decided for it.
    fn reply(&mut self, order: uuid::Uuid, reply: &Reply) {
        self.answer_order(reply.to(order));
    }
}

impl Queue {
    /// Follows what other nodes on the same store do, ask and switch; never ends. On a store
    /// of one node there is nothing to do.
    pub(super) async fn keep_ties(&self) {
        if !self.store().is_shared() {
            return std::future::pending().await;
        }
        tokio::join!(self.hear_ends(), self.take_orders(), self.follow_control());
    }

    async fn hear_ends(&self) {
        let mut hearing = self.store().hearing(Signal::Ended);
        loop {
            hearing.next().await;
            let started = Instant::now();
            if let Err(reason) = self.look_for_ends().await {
                warn!(%reason, "could not look for tasks that ended on other nodes");
            }
            // Many tasks take long to look up: half of the time is for others.
            sleep(started.elapsed()).await;
        }
    }

    async fn look_for_ends(&self) -> Result<(), StoreError> {
        let sought = self.0.machine.lock().sought();
        if sought.is_empty() {
            return Ok(());
        }
        let ids: Vec<TaskId> = sought.iter().map(|sought| sought.id).collect();
        let found: std::collections::HashMap<_, _> =
            self.store().standing(&ids).await?.into_iter().collect();
        let mut machine = self.0.machine.lock();
        if self.0.writer.refusal().is_some() {
            return Ok(());
        }
        let now = self.0.clock.now();
        for sought in sought {
            if let Some(news) = found.get(&sought.id) {
                machine.distant_news(sought, news, now);
            }
        }
        self.hand_over(&mut machine);
        Ok(())
    }

    async fn take_orders(&self) {
        let mut hearing = self.store().hearing(Signal::Ordered);
        loop {
            hearing.next().await;
            match self.store().open_orders().await {
                Ok(orders) => {
                    let carried_out = orders.into_iter().map(|order| self.carry_out(order));
                    futures::future::join_all(carried_out).await;
                }
                Err(reason) => warn!(%reason, "could not look for orders of other nodes"),
            }
        }
    }

    /// Does what another node asks for. What cannot be done at present stays open.
    async fn carry_out(&self, order: Order) {
        let Order {
            id,
            task,
            verb,
            ended,
        } = order;
        let refused = match verb {
            _ if ended => Some(Reply::Ended),
            Err(cause) => {
                warn!(order = %id, %task, %cause, "an order of another node is not understood");
                let problem = format!("this node does not understand the order: {cause}");
                Some(Reply::Refused { problem })
            }
            Ok(verb) => self.obey(id, task, verb).await,
        };
        if let Some(reply) = refused {
            let answered = Changes {
                answers: vec![reply.to(id)],
                ..Changes::default()
            };
            // Unwritten, the order is found again.
            let _ = self.writer().write(answered).await;
        }
    }

    /// The answer, unless it was written with what was decided, or nothing can be done yet.
    async fn obey(&self, id: uuid::Uuid, task: TaskId, verb: Verb) -> Option<Reply> {
        match verb {
            Verb::Cancel { why } => {
                let cancelled = self.decide(|machine, now| {
                    let state = machine.cancel(task, &why, now)?;
                    machine.reply(id, &Reply::Cancelled { state });
                    Ok(())
                });
                refusal(cancelled.await)
            }
            Verb::Retry { child } => refusal(self.retry_here(child, Some(id)).await),
            Verb::RetryPart { root } => {
                refusal(self.retry_part_here(root, Some(id)).await.map(drop))
            }
            Verb::Answer { approval, answer } => {
                let answered = self.decide(|machine, now| {
                    machine.answer(approval, answer, now)?;
                    machine.reply(id, &Reply::Decided);
                    Ok(())
                });
                match answered.await {
                    // It is moving, or about to be withdrawn.
                    Ok(()) | Err(ApprovalError::Store(_)) => None,
                    Err(error) => self.is_here(task).then(|| Reply::Refused {
                        problem: error.to_string(),
                    }),
                }
            }
            Verb::Explain => {
                let now = self.0.clock.now();
                let explanation = self.0.machine.lock().explain(task, now);
                explanation.and_then(|explanation| {
                    let explanation = Json::of(&explanation).ok()?;
                    Some(Reply::Explained { explanation })
                })
            }
        }
    }

    pub(super) fn answers(order: uuid::Uuid, count: usize) -> Answered {
        Reply::Retried { count }.to(order)
    }

    /// The task lives in this node's memory.
    pub(super) fn is_here(&self, task: TaskId) -> bool {
        self.0.machine.lock().not_live(&[task]).is_empty()
    }

    /// The task lives, and on another node.
    pub(super) async fn is_elsewhere(&self, task: TaskId) -> Result<bool, StoreError> {
        if !self.store().is_shared() || self.is_here(task) {
            return Ok(false);
        }
        let view = self.store().task(task).await?;
        // Between the two readings it may have come here.
        Ok(view.is_some_and(|view| view.end.is_none()) && !self.is_here(task))
    }

    /// Whether other nodes may work on the same store.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.store().is_shared()
    }

    /// The name of the other node on the same store that has a task; `None` if it is this one's,
    /// has ended, or is unknown.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn whose(&self, task: TaskId) -> Result<Option<String>, StoreError> {
        match self.is_elsewhere(task).await? {
            true => self.store().node_of(task).await,
            false => Ok(None),
        }
    }

    /// Asks the node that has `task`, and waits for its answer.
    ///
    /// Dropping the future does not take the order back.
    pub(super) async fn order(&self, task: TaskId, verb: Verb) -> Result<Ordered, StoreError> {
        let patience = match verb {
            Verb::Explain => PATIENCE_EXPLAIN,
            Verb::Cancel { .. }
            | Verb::Retry { .. }
            | Verb::RetryPart { .. }
            | Verb::Answer { .. } => PATIENCE,
        };
        let order = NewOrder::new(task, verb, self.0.clock.now());
        let id = order.id;
        let mut hearing = self.store().hearing(Signal::Ordered);
        let changes = Changes {
            orders: vec![order],
            ..Changes::default()
        };
        self.writer().write(changes).await?;
        let deadline = Instant::now() + patience;
        loop {
            if let Some(answer) = self.store().answer_to(id).await? {
                let reply = answer.decode().map_err(|error| StoreError::Unreadable {
                    what: "an answer",
                    cause: error.to_string().into(),
                })?;
                return Ok(Ordered::Answered(reply));
            }
            if deadline <= Instant::now() {
                let node = self.store().node_of(task).await?;
                let node = node.unwrap_or_else(|| "another node".to_owned());
                return Ok(Ordered::Stands { node });
            }
            let again = deadline.min(Instant::now() + LOOK_AGAIN);
            let _ = timeout_at(again, hearing.next()).await;
        }
    }

    async fn follow_control(&self) {
        let mut hearing = self.store().hearing(Signal::Control);
        loop {
            hearing.next().await;
            match self.store().control().await {
                Ok(control) => self.adopt_control(control),
                Err(reason) => warn!(%reason, "could not look at the queue's switches"),
            }
            if let Err(reason) = self.follow_funds().await {
                warn!(%reason, "could not look at the budgets of all nodes");
            }
        }
    }

    /// Applies switches that are stored, unless later ones are in force.
    fn adopt_control(&self, control: Control) {
        let mut machine = self.0.machine.lock();
        if control.version <= machine.control().version {
            return;
        }
        machine.apply_control(control, self.0.clock.now());
        self.hand_over(&mut machine);
        drop(machine);
        self.0.line.call_all();
    }

    /// Turns switches for all nodes on the store. Durable when it returns.
    pub(super) async fn change_control<E: From<StoreError>>(
        &self,
        change: impl FnOnce(&mut Control) -> Result<(), E>,
    ) -> Result<Control, E> {
        if !self.store().is_shared() {
            let changed = self.decide(|machine, now| {
                let mut control = machine.control().clone();
                change(&mut control)?;
                machine.set_control(control.clone(), now);
                Ok(control)
            });
            return changed.await;
        }
        if let Some(refusal) = self.0.writer.refusal() {
            return Err(refusal.into());
        }
        let control = self.store().change_control(change).await??;
        self.adopt_control(control.clone());
        self.store().signal(Signal::Control, &[]);
        Ok(control)
    }
}

/// What is answered to who asked for something that was decided: nothing more if it was
/// done, and nothing yet if it may still be.
fn refusal(outcome: Result<(), ControlError>) -> Option<Reply> {
    match outcome {
        // Unknown here: it has moved, or ended a moment ago.
        Ok(()) | Err(ControlError::Store(_) | ControlError::Unknown(_)) => None,
        Err(error) => Some(Reply::Refused {
            problem: error.to_string(),
        }),
    }
}
