//! A running child as its supervisor holds it: one life, owned.
//!
//! Invariant: whoever owns a [`StartedChild`] owns the life. Dropping it kills the child and
//! everything below, so a supervisor that is itself aborted leaves no orphan. ractor's own
//! links are not used: they kill children unordered on every exit of the parent and take a
//! process-global lock on each start.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::exit::{ExitReason, ShutdownCause};
use super::tree::{Scope, TreeNode};
use crate::actor::Crash;
use crate::actor::host::panic_text;
use crate::mailbox::{Observation, ProbeError};

/// What every kind of child understands.
pub(crate) trait ChildPort: Send + Sync {
    /// Asks it to end in order. Returns at once; repeating is harmless.
    fn stop(&self);
    /// Ends it at its next await point. Returns at once; repeating is harmless.
    fn kill(&self);
    /// Number of this life, unique among children of its kind.
    fn pid(&self) -> u64;
    /// Messages queued or being handled, if it has a mailbox.
    fn depth(&self) -> Option<usize>;
    /// Messages handled so far, if it has a mailbox.
    fn handled(&self) -> Option<u64> {
        None
    }
    /// Asks for a sign of life; without deadline.
    fn probe(&self) -> BoxFuture<'static, Result<Observation, ProbeError>>;
}

/// One life of one child.
pub struct StartedChild {
    port: Option<Arc<dyn ChildPort>>,
    ended: Option<BoxFuture<'static, ExitReason>>,
}

impl StartedChild {
    /// `ended` completes when the child's task is gone, and its state with it.
    pub(crate) fn new(port: Arc<dyn ChildPort>, ended: BoxFuture<'static, ExitReason>) -> Self {
        Self {
            port: Some(port),
            ended: Some(ended),
        }
    }

    pub(super) fn port(&self) -> Option<Arc<dyn ChildPort>> {
        self.port.clone()
    }

    /// Waits for the end. Dropped before, it kills the child.
    pub(super) async fn ended(mut self) -> ExitReason {
        let reason = match self.ended.as_mut() {
            Some(ended) => ended.await,
            None => ExitReason::Killed,
        };
        self.port = None;
        reason
    }
}

impl Drop for StartedChild {
    fn drop(&mut self) {
        if let Some(port) = self.port.take() {
            port.kill();
        }
    }
}

impl std::fmt::Debug for StartedChild {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StartedChild").finish_non_exhaustive()
    }
}

/// What a supervisor hands to a child's start: its place in the tree.
pub struct StartContext {
    pub(super) node: Arc<TreeNode>,
    pub(super) scope: Scope,
}

struct TaskPort {
    stop: CancellationToken,
    abort: AbortHandle,
    pid: u64,
}

impl ChildPort for TaskPort {
    fn stop(&self) {
        self.stop.cancel();
    }

    fn kill(&self) {
        self.abort.abort();
    }

    fn pid(&self) -> u64 {
        self.pid
    }

    fn depth(&self) -> Option<usize> {
        None
    }

    /// A task has no mailbox: that it has not ended is all that can be said.
    fn probe(&self) -> BoxFuture<'static, Result<Observation, ProbeError>> {
        let observed = if self.abort.is_finished() {
            Err(ProbeError::NotRunning)
        } else {
            Ok(Observation::default())
        };
        std::future::ready(observed).boxed()
    }
}

/// Numbers the lives of tasks and supervisors; ractor numbers those of actors.
pub(super) fn next_pid() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Spawns `run` as a child that ends by itself once `stop` is cancelled.
pub(super) fn task_child(
    run: impl Future<Output = Result<(), Crash>> + Send + 'static,
    stop: CancellationToken,
) -> StartedChild {
    let mut owner = JoinSet::new();
    let abort = owner.spawn(AssertUnwindSafe(run).catch_unwind());
    let port = TaskPort {
        stop: stop.clone(),
        abort,
        pid: next_pid(),
    };
    let ended = async move {
        match owner.join_next().await {
            Some(Ok(Ok(Ok(())))) if stop.is_cancelled() => {
                ExitReason::Shutdown(ShutdownCause::Requested)
            }
            Some(Ok(Ok(Ok(())))) => ExitReason::Normal,
            Some(Ok(Ok(Err(crash)))) => ExitReason::Error(crash.into_text()),
            Some(Ok(Err(panic))) => ExitReason::Panic(panic_text(panic.as_ref()).into()),
            Some(Err(_)) | None => ExitReason::Killed,
        }
    };
    StartedChild::new(Arc::new(port), ended.boxed())
}
