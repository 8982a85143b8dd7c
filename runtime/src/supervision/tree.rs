//! The live tree: who runs, since when, and how its last life ended.
//!
//! Reading it asks nobody: supervisors write their own branch as they act, readers take
//! short locks, so the tree answers even when an actor hangs. It shows what the supervisor
//! knows; whether an actor still makes progress is for its probe to say.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use tokio::sync::broadcast;

use super::child::ChildPort;
use super::child_spec::{ChildId, ChildKind};
use super::engine::ChildKey;
use super::exit::ExitReason;
use super::lifecycle::Lifecycle;
use crate::clock::{Clock, Timestamp};
use crate::mailbox::{Observation, ProbeError};

/// Changes a slow subscriber may fall behind before it is told that it missed some.
const LIFECYCLE_EVENTS_MAX: usize = 4096;

/// What a child is doing, as its supervisor sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Its `start` is running for the first time.
    Starting,
    /// Started and not ended.
    Running,
    /// Failed, and waits out its backoff.
    BackingOff,
    /// Failed, or its group did, and is about to start again.
    Restarting,
    /// Asked to end, or killed, and not gone yet.
    Stopping,
    /// Not running, and not about to.
    Stopped,
}

/// How a life ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastExit {
    /// Typed.
    pub reason: ExitReason,
    /// In words.
    pub text: String,
    /// When the supervisor saw it.
    pub at: Timestamp,
}

/// One line of the tree and the lines below it, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeView {
    /// Name within its supervisor.
    pub id: ChildId,
    /// Names from the root down, joined by `/`.
    pub path: String,
    /// Worker or supervisor.
    pub kind: ChildKind,
    /// Label of its kind of child.
    pub role: Cow<'static, str>,
    /// What it is doing.
    pub state: NodeState,
    /// Number of this life within its supervisor; zero before the first.
    pub generation: u64,
    /// Number of this life within the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u64>,
    /// Restarts after failures, not counting orders.
    pub restarts: u64,
    /// Messages queued or being handled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mailbox_depth: Option<usize>,
    /// When this life started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// How long this life has lasted, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_ms: Option<u64>,
    /// How the previous life ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<LastExit>,
    /// Its children in start order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<NodeView>,
}

/// A view of all supervisors and children below one root. Cloning is cheap.
#[derive(Clone)]
pub struct Tree {
    root: Arc<TreeNode>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree")
            .field("root", &self.root.id)
            .finish_non_exhaustive()
    }
}

impl Tree {
    pub(super) fn new(root: &ChildId) -> Self {
        let node = TreeNode::new(root.clone(), ChildKind::Supervisor, "supervisor".into());
        let (lifecycle, _) = broadcast::channel(LIFECYCLE_EVENTS_MAX);
        let shared = Shared {
            clock: Clock::system(),
            lifecycle,
        };
        Self {
            root: Arc::new(node),
            shared: Arc::new(shared),
        }
    }

    pub(super) fn root(&self) -> (Arc<TreeNode>, Scope) {
        let scope = Scope {
            path: self.root.id.as_str().into(),
            shared: Arc::clone(&self.shared),
        };
        (Arc::clone(&self.root), scope)
    }

    /// The whole tree at this moment. Each node is consistent in itself.
    #[must_use]
    pub fn snapshot(&self) -> NodeView {
        self.root.view("", self.shared.clock.now())
    }

    /// One node and those below it, by its path, such as `regrow/agents/worker-3`.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<NodeView> {
        let node = self.node(path)?;
        let above = path.rsplit_once('/').map_or("", |(above, _)| above);
        Some(node.view(above, self.shared.clock.now()))
    }

    /// The probe of the child at `path`; it survives the child's restarts.
    #[must_use]
    pub fn probe(&self, path: &str) -> Option<ProbeHandle> {
        self.node(path).map(|node| ProbeHandle {
            path: path.into(),
            node,
        })
    }

    /// Probes of all children, supervisors included, parents before children.
    #[must_use]
    pub fn probes(&self) -> Vec<ProbeHandle> {
        let mut probes = Vec::new();
        self.root.collect_probes(self.root.id.as_str(), &mut probes);
        probes
    }

    /// Every change from now on. A subscriber that falls more than 4,096 changes behind is
    /// told how many it lost.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Lifecycle> {
        self.shared.lifecycle.subscribe()
    }

    fn node(&self, path: &str) -> Option<Arc<TreeNode>> {
        let mut names = path.split('/');
        if names.next() != Some(self.root.id.as_str()) {
            return None;
        }
        names.try_fold(Arc::clone(&self.root), |node, name| node.child_named(name))
    }
}

/// Asks whichever life of one child is running for a sign of life.
#[derive(Clone)]
pub struct ProbeHandle {
    path: Arc<str>,
    node: Arc<TreeNode>,
}

impl std::fmt::Debug for ProbeHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ProbeHandle").field(&self.path).finish()
    }
}

impl ProbeHandle {
    /// Names from the root down, joined by `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Name within its supervisor.
    #[must_use]
    pub fn id(&self) -> &ChildId {
        &self.node.id
    }

    /// Label of its kind of child.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.node.role
    }

    /// Worker or supervisor.
    #[must_use]
    pub fn kind(&self) -> ChildKind {
        self.node.kind
    }

    /// What the child is doing, as its supervisor sees it.
    #[must_use]
    pub fn state(&self) -> NodeState {
        self.node.live.lock().state
    }

    /// Which life would answer: changes with every restart.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.node.live.lock().generation
    }

    /// Messages that wait for it; `None` when it is down or has no mailbox.
    #[must_use]
    pub fn mailbox_depth(&self) -> Option<usize> {
        self.node.port()?.depth()
    }

    /// Messages the present life has handled, probes included; `None` when it is down or
    /// has no mailbox.
    #[must_use]
    pub fn handled(&self) -> Option<u64> {
        self.node.port()?.handled()
    }

    /// Asks, and waits at most `deadline`. Cancellation safe.
    ///
    /// # Errors
    ///
    /// [`ProbeError`]; each means that there was no sign of life.
    pub async fn probe(&self, deadline: Duration) -> Result<Observation, ProbeError> {
        let Some(port) = self.node.port() else {
            return Err(ProbeError::NotRunning);
        };
        match tokio::time::timeout(deadline, port.probe()).await {
            Ok(observed) => observed,
            Err(_elapsed) => Err(ProbeError::TimedOut(deadline)),
        }
    }
}

/// What all supervisors of one tree share.
pub(super) struct Shared {
    clock: Clock,
    lifecycle: broadcast::Sender<Lifecycle>,
}

/// One supervisor's place: its path, and where it announces changes.
#[derive(Clone)]
pub(super) struct Scope {
    pub(super) path: Arc<str>,
    shared: Arc<Shared>,
}

impl Scope {
    pub(super) fn below(&self, id: &ChildId) -> Self {
        let path = format!("{}/{id}", self.path).into();
        Self {
            path,
            shared: Arc::clone(&self.shared),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    pub(super) fn announce(&self, change: Lifecycle) {
        // Without subscribers there is nobody to tell.
        let _ = self.shared.lifecycle.send(change);
    }
}

/// One child, written by its supervisor only.
pub(super) struct TreeNode {
    id: ChildId,
    kind: ChildKind,
    role: Cow<'static, str>,
    live: Mutex<Live>,
    children: RwLock<BTreeMap<ChildKey, Arc<TreeNode>>>,
}

struct Live {
    state: NodeState,
    generation: u64,
    restarts: u64,
    started_at: Option<Timestamp>,
    port: Option<Arc<dyn ChildPort>>,
    last_exit: Option<Box<LastExit>>,
}

impl TreeNode {
    pub(super) fn new(id: ChildId, kind: ChildKind, role: Cow<'static, str>) -> Self {
        let live = Live {
            state: NodeState::Stopped,
            generation: 0,
            restarts: 0,
            started_at: None,
            port: None,
            last_exit: None,
        };
        Self {
            id,
            kind,
            role,
            live: Mutex::new(live),
            children: RwLock::default(),
        }
    }

    pub(super) fn child(&self, key: ChildKey) -> Option<Arc<TreeNode>> {
        self.children.read().get(&key).cloned()
    }

    pub(super) fn adopt(&self, key: ChildKey, child: Arc<TreeNode>) {
        self.children.write().insert(key, child);
    }

    pub(super) fn forget(&self, key: ChildKey) {
        self.children.write().remove(&key);
    }

    /// A supervisor starts with no children, whatever its previous life had.
    pub(super) fn forget_all(&self) {
        self.children.write().clear();
    }

    pub(super) fn port(&self) -> Option<Arc<dyn ChildPort>> {
        self.live.lock().port.clone()
    }

    pub(super) fn show(&self, state: NodeState, generation: u64, restarts: u64) {
        let mut live = self.live.lock();
        live.state = state;
        live.generation = generation;
        live.restarts = restarts;
    }

    pub(super) fn began(&self, port: Option<Arc<dyn ChildPort>>, at: Timestamp) {
        let mut live = self.live.lock();
        live.port = port;
        live.started_at = Some(at);
    }

    pub(super) fn ended(&self, reason: ExitReason, at: Timestamp) {
        let text = reason.to_string();
        let mut live = self.live.lock();
        live.port = None;
        live.started_at = None;
        live.last_exit = Some(Box::new(LastExit { reason, text, at }));
    }

    pub(super) fn root_began(&self, port: Option<Arc<dyn ChildPort>>, at: Timestamp) {
        self.show(NodeState::Running, 1, 0);
        self.began(port, at);
    }

    pub(super) fn root_ended(&self, reason: ExitReason, at: Timestamp) {
        self.show(NodeState::Stopped, 1, 0);
        self.ended(reason, at);
    }

    fn child_named(&self, name: &str) -> Option<Arc<TreeNode>> {
        self.children
            .read()
            .values()
            .find(|child| child.id.as_str() == name)
            .cloned()
    }

    fn view(&self, above: &str, now: Timestamp) -> NodeView {
        let path = if above.is_empty() {
            self.id.to_string()
        } else {
            format!("{above}/{}", self.id)
        };
        let children: Vec<_> = self.children.read().values().cloned().collect();
        let children = children
            .iter()
            .map(|child| child.view(&path, now))
            .collect();
        let live = self.live.lock();
        let uptime_ms = live
            .started_at
            .map(|at| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX));
        NodeView {
            id: self.id.clone(),
            path,
            kind: self.kind,
            role: self.role.clone(),
            state: live.state,
            generation: live.generation,
            pid: live.port.as_ref().map(|port| port.pid()),
            restarts: live.restarts,
            mailbox_depth: live.port.as_ref().and_then(|port| port.depth()),
            started_at: live.started_at,
            uptime_ms,
            last_exit: live.last_exit.as_deref().cloned(),
            children,
        }
    }

    fn collect_probes(&self, path: &str, into: &mut Vec<ProbeHandle>) {
        let children: Vec<_> = self.children.read().values().cloned().collect();
        for node in children {
            let path: Arc<str> = format!("{path}/{}", node.id).into();
            into.push(ProbeHandle {
                path: Arc::clone(&path),
                node: Arc::clone(&node),
            });
            node.collect_probes(&path, into);
        }
    }
}
