//! The handle of a supervisor: what OTP's `supervisor` module exports.
//!
//! A handle stays valid in every life of its supervisor. Requests travel through a bounded
//! channel and are answered even while the supervisor restarts children; waiting for room
//! and for the answer is cancellation safe, but a request already sent is carried out.

use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::mpsc;

use super::child_spec::{ChildId, ChildKind, ChildSpec};
use super::engine::{Outcome, Request};
use super::tree::NodeState;
use crate::mailbox::{Observation, Reply};

pub use super::engine::Refusal;

/// Requests that may wait for one supervisor; more callers wait in line.
pub(super) const REQUESTS_MAX: usize = 256;

/// What a handle sends to the driver.
pub(super) enum Call {
    Change(Request, Reply<Outcome>),
    Which(Reply<Vec<ChildSummary>>),
    Count(Reply<ChildCount>),
    Observe(Reply<Observation>),
}

/// One child in [`Supervisor::which_children`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildSummary {
    /// Its name.
    pub id: ChildId,
    /// Worker or supervisor.
    pub kind: ChildKind,
    /// What it is doing.
    pub state: NodeState,
}

/// The answer of [`Supervisor::count_children`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChildCount {
    /// Children, running or not.
    pub specs: usize,
    /// Children that run.
    pub active: usize,
    /// Children that are supervisors, running or not.
    pub supervisors: usize,
    /// Children that are not.
    pub workers: usize,
}

/// Talks to one supervisor, whichever life it is in.
#[derive(Clone)]
pub struct Supervisor {
    seat: Arc<RwLock<Option<mpsc::Sender<Call>>>>,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let running = self
            .seat
            .read()
            .as_ref()
            .is_some_and(|calls| !calls.is_closed());
        f.debug_struct("Supervisor")
            .field("running", &running)
            .finish()
    }
}

impl Supervisor {
    pub(super) fn new() -> Self {
        Self {
            seat: Arc::default(),
        }
    }

    pub(super) fn bind(&self, calls: mpsc::Sender<Call>) {
        *self.seat.write() = Some(calls);
    }

    /// Adds a child after all others and starts it; returns once it runs, or has chosen not
    /// to ([`StartError::Ignored`](crate::actor::StartError::Ignored)).
    ///
    /// # Errors
    ///
    /// [`Refusal::AlreadyStarted`], [`Refusal::AlreadyPresent`], [`Refusal::AtCapacity`],
    /// [`Refusal::Invalid`]; [`Refusal::StartFailed`], which discards the spec and does not
    /// count as a restart.
    pub async fn start_child(&self, spec: ChildSpec) -> Result<(), Refusal> {
        self.change(Request::Start(Arc::new(spec))).await
    }

    /// Stops a child in order and leaves it down, also one that waits for a restart. Its
    /// spec is kept, unless the child is temporary or the supervisor dynamic. A restart of
    /// its group starts it again, as in OTP.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub async fn terminate_child(&self, id: impl Into<ChildId>) -> Result<(), Refusal> {
        self.change(Request::Terminate(id.into())).await
    }

    /// Starts a child that is down; returns once it runs.
    ///
    /// # Errors
    ///
    /// [`Refusal::Running`], [`Refusal::Restarting`], [`Refusal::NotFound`],
    /// [`Refusal::StartFailed`], which leaves it down.
    pub async fn restart_child(&self, id: impl Into<ChildId>) -> Result<(), Refusal> {
        self.change(Request::Restart(id.into())).await
    }

    /// Forgets a child that is down.
    ///
    /// # Errors
    ///
    /// [`Refusal::Running`], [`Refusal::Restarting`], [`Refusal::NotFound`].
    pub async fn delete_child(&self, id: impl Into<ChildId>) -> Result<(), Refusal> {
        self.change(Request::Delete(id.into())).await
    }

    /// Kills a child as if it had crashed: it counts, and is restarted unless temporary.
    /// Returns once the killed life is gone or was abandoned. The remedy for a hung child.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotRunning`], [`Refusal::NotFound`].
    pub async fn kill_child(&self, id: impl Into<ChildId>) -> Result<(), Refusal> {
        self.change(Request::Kill(id.into())).await
    }

    /// Stops a child in order and starts it again at once, which does not count as a
    /// restart. Returns once the previous life is gone.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotRunning`], [`Refusal::NotFound`].
    pub async fn renew_child(&self, id: impl Into<ChildId>) -> Result<(), Refusal> {
        self.change(Request::Renew(id.into())).await
    }

    /// All children in start order.
    ///
    /// # Errors
    ///
    /// [`Refusal::SupervisorDown`].
    pub async fn which_children(&self) -> Result<Vec<ChildSummary>, Refusal> {
        self.ask(Call::Which).await
    }

    /// How many children there are.
    ///
    /// # Errors
    ///
    /// [`Refusal::SupervisorDown`].
    pub async fn count_children(&self) -> Result<ChildCount, Refusal> {
        self.ask(Call::Count).await
    }

    async fn change(&self, request: Request) -> Result<(), Refusal> {
        self.ask(|reply| Call::Change(request, reply)).await?
    }

    async fn ask<T>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Result<T, Refusal> {
        let calls = self.seat.read().clone().ok_or(Refusal::SupervisorDown)?;
        let (reply, answer) = Reply::channel();
        calls
            .send(call(reply))
            .await
            .map_err(|_closed| Refusal::SupervisorDown)?;
        answer.await.map_err(|_dropped| Refusal::SupervisorDown)
    }
}
