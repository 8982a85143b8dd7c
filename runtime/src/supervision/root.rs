//! The top of a tree: nobody restarts it, so its end is the program's.
//!
//! A root that gives up yields a report; the binary prints it and exits non-zero. Dropping
//! the last handle kills the whole tree.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::child::ChildPort;
use super::driver;
use super::exit::ExitReason;
use super::supervisor::Supervisor;
use super::supervisor_spec::SupervisorSpec;
use super::tree::{NodeView, Tree};
use crate::actor::StartError;

/// Starts trees.
#[derive(Debug)]
pub struct Root;

impl Root {
    /// Starts a supervisor that has no supervisor; returns once all its first children run.
    ///
    /// # Errors
    ///
    /// [`StartError`] when its spec is invalid or one of its children did not start; those
    /// already started were stopped in reverse order.
    pub async fn start(spec: SupervisorSpec) -> Result<RootHandle, StartError> {
        let tree = Tree::new(spec.name());
        let (node, scope) = tree.root();
        let supervisor = spec.handle();
        let child = driver::start(spec, Arc::clone(&node), scope.clone()).await?;
        let port = child.port();
        node.root_began(port.clone(), scope.now());
        let (send, exit) = watch::channel(None);
        let mut owner = JoinSet::new();
        let watched = tree.clone();
        owner.spawn(async move {
            let reason = child.ended().await;
            node.root_ended(reason.clone(), scope.now());
            let exit = RootExit {
                reason,
                tree: watched.snapshot(),
            };
            // Nobody may be waiting.
            let _ = send.send(Some(exit));
        });
        let inner = Inner {
            tree,
            supervisor,
            port,
            exit,
            _owner: owner,
        };
        Ok(RootHandle {
            inner: Arc::new(inner),
        })
    }
}

/// Owns a tree. Cloning shares it; dropping the last clone kills it.
#[derive(Clone)]
pub struct RootHandle {
    inner: Arc<Inner>,
}

struct Inner {
    tree: Tree,
    supervisor: Supervisor,
    port: Option<Arc<dyn ChildPort>>,
    exit: watch::Receiver<Option<RootExit>>,
    _owner: JoinSet<()>,
}

impl fmt::Debug for RootHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootHandle")
            .field("tree", &self.inner.tree)
            .finish_non_exhaustive()
    }
}

impl RootHandle {
    /// The live view.
    #[must_use]
    pub fn tree(&self) -> Tree {
        self.inner.tree.clone()
    }

    /// The root supervisor itself.
    #[must_use]
    pub fn supervisor(&self) -> Supervisor {
        self.inner.supervisor.clone()
    }

    /// Asks the tree to end in order. Returns at once; [`RootHandle::exited`] waits.
    pub fn shutdown(&self) {
        if let Some(port) = &self.inner.port {
            port.stop();
        }
    }

    /// Kills the tree. Returns at once; [`RootHandle::exited`] waits.
    pub fn kill(&self) {
        if let Some(port) = &self.inner.port {
            port.kill();
        }
    }

    /// Waits for the end of the tree. Cancellation safe; may be called by many.
    pub async fn exited(&self) -> RootExit {
        let mut exit = self.inner.exit.clone();
        let known = exit
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|exit| exit.clone());
        // The watching task ends without a word only if the runtime is being torn down.
        known.unwrap_or_else(|| RootExit {
            reason: ExitReason::Killed,
            tree: self.inner.tree.snapshot(),
        })
    }
}

/// How a tree ended, and what it looked like then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RootExit {
    /// Why.
    pub reason: ExitReason,
    /// The last view of the root's own children.
    pub tree: NodeView,
}

impl RootExit {
    /// Whether the end was asked for; otherwise the program should exit non-zero.
    #[must_use]
    pub fn was_requested(&self) -> bool {
        self.reason == driver::ASKED
    }
}

impl fmt::Display for RootExit {
    /// The report for a person: the reason with its chain, then each child's last exit.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "supervision tree `{}` ended: {}",
            self.tree.id, self.reason
        )?;
        write_lines(f, &self.tree, 1)
    }
}

fn write_lines(f: &mut fmt::Formatter<'_>, node: &NodeView, depth: usize) -> fmt::Result {
    for child in &node.children {
        write!(
            f,
            "{:indent$}{}: {} restarts",
            "",
            child.id,
            child.restarts,
            indent = depth * 2
        )?;
        if let Some(exit) = &child.last_exit {
            write!(f, ", last exit at {}: {}", exit.at, exit.text)?;
        }
        writeln!(f)?;
        write_lines(f, child, depth + 1)?;
    }
    Ok(())
}
