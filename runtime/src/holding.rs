//! A lease that is held, and everything its holder may do with it.
//!
//! An agent does not care whose queue leased it its task: that of its own node, or that of a
//! peer which shares no database with it. [`Holding`] is the port between the two. What is done
//! through it is decided by the queue that gave the lease, under the lease's epoch; a peer is
//! asked by whoever joins the nodes together ([`Lent`]).
//!
//! *Ends.* What a peer is asked is repeated while it does not answer, for as long as the lease
//! lasts by this node's clock, counted from before its latest renewal was sent: by then it is
//! over at the peer too, and whoever holds it is told [`LeaseError::Away`]. So a holder gives up
//! in bounded time, and never before the lease does (C. Gray and D. Cheriton, *Leases*, 1989).

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Map, Value};

use crate::context::record::ContextStatus;
use crate::ids::{Epoch, TaskId};
use crate::journal::remote::OfferedStep;
use crate::json::Json;
use crate::queue::approval::{Decision, Question};
use crate::queue::asking::{AskError, Asking};
use crate::queue::budget::Amounts;
use crate::queue::error::LeaseError;
use crate::queue::machine::FinishedStep;
use crate::queue::task::{Lease, NewChild, TaskView};
use crate::queue::{ClaimRequest, Queue, Renewal};
use crate::store::{StepRow, StoreError, TaskFilter};

/// The queues of other nodes, as far as this node may lease from them.
pub trait Peers: Send + Sync + 'static {
    /// Leases a task of these kinds that waits at a peer, as soon as there is one;
    /// `request.wait` is not looked at. Never returns where there are no peers.
    ///
    /// Cancellation safe: a lease that comes too late is handed back.
    fn claim<'a>(&'a self, request: &'a ClaimRequest) -> BoxFuture<'a, Held>;
}

/// A task that is leased, and the way to whoever leased it.
#[derive(Clone)]
pub struct Held {
    /// The task and the right to it.
    pub lease: Lease,
    /// What may be done with it.
    pub holding: Holding,
}

/// One lease of a peer's task. Each call is made under its epoch, has a deadline, and takes
/// effect once however often it is delivered.
///
/// Errors are those of the queue at the peer, and [`LeaseError::Away`]. Dropping a future gives
/// the answer up; the call may take effect all the same.
pub trait Lent: Send + Sync + 'static {
    /// Which node gave it.
    fn node(&self) -> &str;
    /// See [`Queue::heartbeat`].
    fn heartbeat(&self, lease: Duration) -> BoxFuture<'_, Result<Renewal, LeaseError>>;
    /// See [`Queue::complete`].
    fn complete(&self, result: Json) -> BoxFuture<'_, Result<(), LeaseError>>;
    /// See [`Queue::fail`].
    fn fail(&self, error: String, retryable: bool) -> BoxFuture<'_, Result<(), LeaseError>>;
    /// See [`Queue::release`].
    fn release(&self) -> BoxFuture<'_, Result<(), LeaseError>>;
    /// See [`Queue::suspend`].
    fn suspend(&self, children: Vec<NewChild>) -> BoxFuture<'_, Result<(), LeaseError>>;
    /// See [`Holding::ask`].
    fn ask(
        &self,
        key: String,
        question: Question,
        patience: Option<Duration>,
    ) -> BoxFuture<'_, Result<Option<Decision>, AskError>>;
    /// See [`Queue::wait_for_budget`].
    fn wait_for_budget(&self, key: String, needs: Amounts)
    -> BoxFuture<'_, Result<(), LeaseError>>;
    /// See [`Queue::reserve`]; the step is taken afresh.
    fn reserve(&self, key: String, estimate: Amounts) -> BoxFuture<'_, Result<(), LeaseError>>;
    /// See [`Queue::give_back`].
    fn give_back(&self, key: String, actual: Amounts) -> BoxFuture<'_, Result<bool, LeaseError>>;
    /// The step on record, if it is.
    fn step(&self, key: String) -> BoxFuture<'_, Result<Option<StepRow>, LeaseError>>;
    /// Records a step; false if one of that name is on record already.
    fn record_step(&self, step: OfferedStep) -> BoxFuture<'_, Result<bool, LeaseError>>;
    /// See [`Holding::children`].
    fn children(
        &self,
        kind: Option<String>,
        newest: usize,
    ) -> BoxFuture<'_, Result<Vec<TaskView>, LeaseError>>;
    /// A task of that node.
    fn task(&self, id: TaskId) -> BoxFuture<'_, Result<Option<TaskView>, LeaseError>>;
    /// Adds to the shared context of the leased task or of its parent.
    fn share(&self, task: TaskId, note: Note) -> BoxFuture<'_, Result<(), LeaseError>>;
}

/// What is added to a task's shared context.
#[derive(Clone, Debug)]
pub enum Note {
    /// Attributes, merged into those that are there, and a status.
    Attributes(Map<String, Value>, ContextStatus),
    /// A finding.
    Finding(Json),
}

/// Who gave a lease.
#[derive(Clone)]
enum Lender {
    Own(Queue),
    Peer(Arc<dyn Lent>),
}

/// The way to the queue that gave a lease. Cheap to clone.
#[derive(Clone)]
pub struct Holding {
    task: TaskId,
    seq: u64,
    epoch: Epoch,
    lender: Lender,
}

impl Holding {
    /// Of a lease that this node's queue gave.
    #[must_use]
    pub fn own(queue: Queue, lease: &Lease) -> Self {
        Self::of(Lender::Own(queue), lease)
    }

    /// Of a lease that a peer gave.
    #[must_use]
    pub fn lent(by: Arc<dyn Lent>, lease: &Lease) -> Self {
        Self::of(Lender::Peer(by), lease)
    }

    fn of(lender: Lender, lease: &Lease) -> Self {
        Self {
            task: lease.task.id,
            seq: lease.task.seq,
            epoch: lease.epoch,
            lender,
        }
    }

    /// The task.
    #[must_use]
    pub fn task(&self) -> TaskId {
        self.task
    }

    /// The peer that gave the lease, unless it is this node's own.
    #[must_use]
    pub fn peer(&self) -> Option<&dyn Lent> {
        match &self.lender {
            Lender::Own(_) => None,
            Lender::Peer(peer) => Some(&**peer),
        }
    }

    /// Renews the lease to `lease` from now; see [`Queue::heartbeat`].
    ///
    /// # Errors
    ///
    /// [`LeaseError`]
    pub async fn heartbeat(&self, lease: Duration) -> Result<Renewal, LeaseError> {
        match &self.lender {
            Lender::Own(queue) => queue.heartbeat(self.task, self.epoch, lease).await,
            Lender::Peer(peer) => peer.heartbeat(lease).await,
        }
    }

    /// Completes the task; see [`Queue::complete`].
    ///
    /// # Errors
    ///
    /// [`LeaseError`]
    pub async fn complete(&self, result: Json) -> Result<(), LeaseError> {
        match &self.lender {
            Lender::Own(queue) => queue.complete(self.task, self.epoch, result).await,
            Lender::Peer(peer) => peer.complete(result).await,
        }
    }

    /// Reports a failed attempt; see [`Queue::fail`].
    ///
    /// # Errors
    ///
    /// [`LeaseError`]
    pub async fn fail(&self, error: String, retryable: bool) -> Result<(), LeaseError> {
        match &self.lender {
            Lender::Own(queue) => {
                let failed = queue.fail(self.task, self.epoch, error, retryable).await;
                failed.map(drop)
            }
            Lender::Peer(peer) => peer.fail(error, retryable).await,
        }
    }

    /// Hands the task back; the attempt does not count.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]
    pub async fn release(&self) -> Result<(), LeaseError> {
        match &self.lender {
            Lender::Own(queue) => queue.release(self.task, self.epoch).await,
            Lender::Peer(peer) => peer.release().await,
        }
    }

    /// Inserts children and lets the task wait for them; see [`Queue::suspend`].
    ///
    /// # Errors
    ///
    /// [`LeaseError`]
    pub async fn suspend(&self, children: Vec<NewChild>) -> Result<(), LeaseError> {
        match &self.lender {
            Lender::Own(queue) => queue.suspend(self.task, self.epoch, children).await,
            Lender::Peer(peer) => peer.suspend(children).await,
        }
    }

    /// Lets the task wait for a person; see [`Queue::ask`]. With a decision it was answered
    /// before, and the lease still holds; without one the task waits, or has ended.
    ///
    /// # Errors
    ///
    /// [`AskError`]
    pub async fn ask(
        &self,
        key: &str,
        question: Question,
        patience: Option<Duration>,
    ) -> Result<Option<Decision>, AskError> {
        match &self.lender {
            Lender::Own(queue) => {
                let asked = queue.ask(self.task, self.epoch, key, question, patience);
                Ok(match asked.await? {
                    Asking::Decided(decision) => Some(decision),
                    Asking::Waits { .. } | Asking::Ended => None,
                })
            }
            Lender::Peer(peer) => peer.ask(key.to_owned(), question, patience).await,
        }
    }

    /// Lets the task wait for its budget; see [`Queue::wait_for_budget`].
    ///
    /// # Errors
    ///
    /// [`LeaseError`]
    pub async fn wait_for_budget(&self, key: &str, needs: Amounts) -> Result<(), LeaseError> {
        match &self.lender {
            Lender::Own(queue) => {
                let waits = queue.wait_for_budget(self.task, self.epoch, key, needs);
                waits.await.map(drop)
            }
            Lender::Peer(peer) => peer.wait_for_budget(key.to_owned(), needs).await,
        }
    }

    /// Sets aside what a step may cost, which is taken afresh; see [`Queue::reserve`].
    ///
    /// # Errors
    ///
    /// [`LeaseError`]
    pub async fn reserve(&self, key: &str, estimate: Amounts) -> Result<(), LeaseError> {
        match &self.lender {
            Lender::Own(queue) => {
                let reserved = queue.reserve(self.task, self.epoch, key, estimate, true);
                reserved.await
            }
            Lender::Peer(peer) => peer.reserve(key.to_owned(), estimate).await,
        }
    }

    /// Ends the reservation of a step that came to nothing; see [`Queue::give_back`].
    ///
    /// # Errors
    ///
    /// [`LeaseError`]
    pub async fn give_back(&self, key: &str, actual: Amounts) -> Result<bool, LeaseError> {
        match &self.lender {
            Lender::Own(queue) => queue.give_back(self.task, self.epoch, key, actual).await,
            Lender::Peer(peer) => peer.give_back(key.to_owned(), actual).await,
        }
    }

    /// Waits until what was decided before can be read.
    pub(crate) async fn settle(&self) -> Result<(), StoreError> {
        match &self.lender {
            Lender::Own(queue) => queue.settle().await,
            // Each look at a step there waits for that.
            Lender::Peer(_) => Ok(()),
        }
    }

    /// The step on record, once [settled](Self::settle).
    pub(crate) async fn step(&self, key: &str) -> Result<Option<StepRow>, LeaseError> {
        match &self.lender {
            Lender::Own(queue) => Ok(queue.writer().store().step(self.seq, key).await?),
            Lender::Peer(peer) => peer.step(key.to_owned()).await,
        }
    }

    /// Records a finished step. False if one of that name is on record already.
    pub(crate) async fn record_step(&self, step: FinishedStep) -> Result<bool, LeaseError> {
        match &self.lender {
            Lender::Own(queue) => queue.record_step(self.task, self.epoch, step).await,
            Lender::Peer(peer) => {
                let offered = OfferedStep {
                    key: step.key,
                    input: step.input.json,
                    output: step.output.json,
                    cost: step.cost,
                    started_at: Some(step.started_at),
                };
                peer.record_step(offered).await
            }
        }
    }

    /// The task's children, of one kind if one is named, in the order in which they were inserted;
    /// the `newest` of them at most.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]
    pub async fn children(
        &self,
        kind: Option<&str>,
        newest: usize,
    ) -> Result<Vec<TaskView>, LeaseError> {
        match &self.lender {
            Lender::Own(queue) => {
                let filter = TaskFilter {
                    kind: kind.map(str::to_owned),
                    parent: Some(self.task),
                    limit: u32::try_from(newest).unwrap_or(u32::MAX),
                    ..TaskFilter::default()
                };
                let mut children = queue.tasks(&filter).await?;
                children.reverse();
                Ok(children)
            }
            Lender::Peer(peer) => peer.children(kind.map(str::to_owned), newest).await,
        }
    }

    /// A task of the node that gave the lease.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]
    pub async fn look(&self, id: TaskId) -> Result<Option<TaskView>, LeaseError> {
        match &self.lender {
            Lender::Own(queue) => Ok(queue.task(id).await?),
            Lender::Peer(peer) => peer.task(id).await,
        }
    }
}

impl Queue {
    /// The same as [`claim`](Self::claim) for an agent of this node, which takes one task at a
    /// time: from here, or from a peer if something waits there and nothing here.
    ///
    /// # Errors
    ///
    /// [`StoreError`] while the store recovers or after it closed.
    ///
    /// Cancellation safe: a lease is given only by returning it.
    pub async fn claim_among(
        &self,
        request: &ClaimRequest,
        from_peers: &ClaimRequest,
        peers: Option<&dyn Peers>,
    ) -> Result<Option<Held>, StoreError> {
        let own = async {
            let leases = self.claim(request).await?;
            Ok(leases.into_iter().next().map(|lease| self.held(lease)))
        };
        let lent = match peers {
            Some(peers) if !from_peers.kinds.is_empty() => peers.claim(from_peers),
            Some(_) | None => std::future::pending().boxed(),
        };
        tokio::select! {
            // In this order, so that what was given here is not thrown away.
            biased;
            given = own => given,
            lent = lent => Ok(Some(lent)),
        }
    }

    /// A lease that this queue gave.
    #[must_use]
    pub fn held(&self, lease: Lease) -> Held {
        let holding = Holding::own(self.clone(), &lease);
        Held { lease, holding }
    }
}
