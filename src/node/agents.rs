//! What the HTTP surface sees of the agents: the tree, and what health says of them.

use std::sync::{Arc, OnceLock};

use futures::FutureExt;
use futures::future::BoxFuture;
use regrow_actors::agent::{AgentMsg, Fault as AgentFault};
use regrow_actors::catalog::Addresses;
use regrow_http::state::{AgentSource, AgentView, Fault, InjectError, Order, OrderError};
use regrow_runtime::concurrency::Limiter;
use regrow_runtime::concurrency::estimate::LimitReport;
use regrow_runtime::health::Health;
use regrow_runtime::health::report::AgentHealth;
use regrow_runtime::ids::AgentId;
use regrow_runtime::supervision::{NodeState, NodeView, Refusal, Supervisor, Tree};
use serde_json::Value;

use super::placed::{PLACED, Placed};

/// Path of the agents' supervisor.
pub(crate) const AGENTS: &str = "root/agents";

/// The agents of a running node.
pub(crate) struct LiveAgents {
    addresses: Addresses,
    own: Supervisor,
    placed: Arc<Placed>,
    rehearsal: bool,
    limiter: Option<Limiter>,
    seen: OnceLock<(Tree, Health)>,
}

impl LiveAgents {
    pub(crate) fn new(
        addresses: Addresses,
        own: Supervisor,
        placed: Arc<Placed>,
        rehearsal: bool,
        limiter: Option<Limiter>,
    ) -> Arc<Self> {
        Arc::new(Self {
            addresses,
            own,
            placed,
            rehearsal,
            limiter,
            seen: OnceLock::new(),
        })
    }

    /// How many agents run here that the cluster placed.
    pub(crate) fn placed(&self) -> usize {
        self.placed.count()
    }

    /// The tree runs from now on.
    pub(crate) fn see(&self, tree: Tree, health: Health) {
        // Set once, by the node that made it.
        let _ = self.seen.set((tree, health));
    }
}

impl AgentSource for LiveAgents {
    fn tree(&self) -> Value {
        let tree = self.seen.get().map(|(tree, _)| tree.snapshot());
        // Views are plain data; they cannot fail to be JSON.
        serde_json::to_value(tree).unwrap_or_default()
    }

    fn agents(&self) -> Vec<AgentView> {
        let Some((tree, health)) = self.seen.get() else {
            return Vec::new();
        };
        let report = health.report();
        let below = [AGENTS, PLACED].map(|path| tree.find(path));
        let agents = below.into_iter().flatten();
        agents
            .flat_map(|supervisor| supervisor.children)
            .map(|node| {
                let known = report.find(&node.path);
                view(node, known)
            })
            .collect()
    }

    fn concurrency(&self) -> Option<LimitReport> {
        self.limiter.as_ref().map(Limiter::report)
    }

    fn order<'a>(&'a self, id: &'a str, order: Order) -> BoxFuture<'a, Result<(), OrderError>> {
        async move {
            let done = match order {
                Order::Start => self.own.restart_child(id).await,
                Order::Stop => self.own.terminate_child(id).await,
                Order::Restart => self.own.renew_child(id).await,
                Order::Kill => self.own.kill_child(id).await,
            };
            done.map_err(|refusal| match refusal == Refusal::NotFound {
                true => OrderError::Unknown,
                false => OrderError::Refused(refusal.to_string()),
            })
        }
        .boxed()
    }

    fn inject(&self, id: &str, fault: Fault) -> Result<(), InjectError> {
        if !self.rehearsal {
            return Err(InjectError::Disabled);
        }
        let id = AgentId::new(id);
        let own = self.addresses.get(&id).cloned();
        let address = own
            .or_else(|| self.placed.address(&id))
            .ok_or(InjectError::Unknown)?;
        let fault = match fault {
            Fault::Panic => AgentFault::Panic,
            Fault::Hang => AgentFault::Hang,
        };
        address
            .try_send_control(AgentMsg::Inject(fault))
            .map_err(|_| InjectError::NotRunning)
    }
}

fn view(node: NodeView, health: Option<&AgentHealth>) -> AgentView {
    // What health last saw may be of an earlier life.
    let health = health.filter(|health| health.generation == node.generation);
    let well = health.is_none_or(|health| health.condition.is_well());
    AgentView {
        id: node.id.to_string(),
        role: node.role.to_string(),
        state: name(node.state).to_owned(),
        healthy: node.state == NodeState::Running && well,
        generation: node.generation,
        restarts: node.restarts,
        last_exit: node.last_exit.map(|exit| exit.text),
        mailbox_depth: node.mailbox_depth.unwrap_or(0),
        started_at: node.started_at,
        detail: health.and_then(|health| health.cause.clone().or_else(|| health.detail.clone())),
    }
}

fn name(state: NodeState) -> &'static str {
    match state {
        NodeState::Starting => "starting",
        NodeState::Running => "running",
        NodeState::BackingOff => "backing_off",
        NodeState::Restarting => "restarting",
        NodeState::Stopping => "stopping",
        NodeState::Stopped => "stopped",
    }
}
