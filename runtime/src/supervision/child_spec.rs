//! What a supervisor must know to start, restart and stop a child.
//!
//! A spec is data plus a start function that can be called again: everything a life needs is
//! made from nothing each time, so a crash never hands its state on.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::child::{StartContext, StartedChild, task_child};
use super::strategy::Restart;
use crate::actor::{Actor, Crash, StartError, host};
use crate::ids::AgentId;
use crate::mailbox::{Address, Capacity};

/// Names a child; unique within its supervisor, and the same in every life.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ChildId(Arc<str>);

impl ChildId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ChildId {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for ChildId {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl From<Arc<str>> for ChildId {
    fn from(name: Arc<str>) -> Self {
        Self(name)
    }
}

impl From<&AgentId> for ChildId {
    fn from(agent: &AgentId) -> Self {
        Self(agent.as_str().into())
    }
}

impl fmt::Display for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a child is stopped. OTP's `shutdown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Killed at once.
    Brutal,
    /// Asked, and killed when it has not ended after this long.
    Timeout(Duration),
    /// Asked, and waited for without limit.
    Infinity,
}

impl Shutdown {
    /// Five seconds, OTP's default for a worker.
    pub const DEFAULT: Self = Self::Timeout(Duration::from_secs(5));
}

/// Whether a child has children. OTP's `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildKind {
    /// An actor or a task.
    Worker,
    /// A supervisor.
    Supervisor,
}

pub(super) type StartFn =
    dyn Fn(StartContext) -> BoxFuture<'static, Result<StartedChild, StartError>> + Send + Sync;

/// A child as its supervisor sees it. Cloning shares the start function.
#[derive(Clone)]
pub struct ChildSpec {
    pub(super) id: ChildId,
    pub(super) restart: Restart,
    pub(super) shutdown: Shutdown,
    pub(super) significant: bool,
    pub(super) kind: ChildKind,
    pub(super) role: Cow<'static, str>,
    pub(super) start_timeout: Duration,
    pub(super) start: Arc<StartFn>,
}

impl fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildSpec")
            .field("id", &self.id)
            .field("restart", &self.restart)
            .field("shutdown", &self.shutdown)
            .field("significant", &self.significant)
            .field("kind", &self.kind)
            .field("role", &self.role)
            .field("start_timeout", &self.start_timeout)
            .finish_non_exhaustive()
    }
}

impl ChildSpec {
    /// A permanent actor with the default [`Capacity`], reached through `address` in every
    /// life. `make` is called for each start.
    pub fn actor<A: Actor>(
        id: impl Into<ChildId>,
        address: &Address<A::Msg>,
        make: impl Fn() -> (A, A::Args) + Send + Sync + 'static,
    ) -> Self {
        Self::actor_with_capacity(id, address, Capacity::default(), make)
    }

    /// Like [`ChildSpec::actor`], with a mailbox of this capacity.
    pub fn actor_with_capacity<A: Actor>(
        id: impl Into<ChildId>,
        address: &Address<A::Msg>,
        capacity: Capacity,
        make: impl Fn() -> (A, A::Args) + Send + Sync + 'static,
    ) -> Self {
        let address = address.clone();
        let start = move |_context| {
            let (actor, args) = make();
            let address = address.clone();
            async move {
                let (mailbox, child) = host::spawn(actor, args, capacity).await?;
                address.fill(mailbox);
                Ok(child)
            }
            .boxed()
        };
        Self::with_start(id.into(), ChildKind::Worker, Arc::new(start))
    }

    /// A permanent task without a mailbox: a listener, a pump. It ends in order by returning
    /// once the token it is given is cancelled; returning earlier is its normal end, an error
    /// is a crash. Started means spawned.
    pub fn task<F>(
        id: impl Into<ChildId>,
        run: impl Fn(CancellationToken) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), Crash>> + Send + 'static,
    {
        let start = move |_context| {
            let stop = CancellationToken::new();
            std::future::ready(Ok(task_child(run(stop.clone()), stop))).boxed()
        };
        Self::with_start(id.into(), ChildKind::Worker, Arc::new(start))
    }

    pub(super) fn with_start(id: ChildId, kind: ChildKind, start: Arc<StartFn>) -> Self {
        let shutdown = match kind {
            ChildKind::Worker => Shutdown::DEFAULT,
            ChildKind::Supervisor => Shutdown::Infinity,
        };
        let role = match kind {
            ChildKind::Worker => "worker",
            ChildKind::Supervisor => "supervisor",
        };
        Self {
            id,
            restart: Restart::Permanent,
            shutdown,
            significant: false,
            kind,
            role: Cow::Borrowed(role),
            start_timeout: Duration::from_secs(60),
            start,
        }
    }

    /// When it is started again; permanent unless said otherwise.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// How it is stopped; [`Shutdown::DEFAULT`] for a worker, without limit for a supervisor.
    #[must_use]
    pub fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = shutdown;
        self
    }

    /// Lets its end count for the supervisor's `auto_shutdown`. Not for permanent children.
    #[must_use]
    pub fn significant(mut self) -> Self {
        self.significant = true;
        self
    }

    /// A label for logs, metrics and the tree; the same for all children of a kind.
    #[must_use]
    pub fn role(mut self, role: impl Into<Cow<'static, str>>) -> Self {
        self.role = role.into();
        self
    }

    /// Longest wait for `start`; a start that takes longer has failed. One minute by default.
    #[must_use]
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &ChildId {
        &self.id
    }
}
