//! Which agents a node has: role to child specs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use regrow_runtime::agent_spec::AgentSpec;
use regrow_runtime::concurrency::Limiter;
use regrow_runtime::context::Context;
use regrow_runtime::holding::Peers;
use regrow_runtime::ids::AgentId;
use regrow_runtime::mailbox::Address;
use regrow_runtime::queue::Queue;
use regrow_runtime::role::Role;
use regrow_runtime::supervision::{ChildSpec, Restart};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::behaviour::Behaviour;
use crate::agent::{self, AgentArgs, AgentLimits, AgentMsg, MayAct};
use crate::critic::Critic;
use crate::memory::Memory;
use crate::planner::Planner;
use crate::worker::Worker;
use crate::worker::rehearsal::Rehearsal;

/// How many agents of each role a node has, and what they need.
#[derive(Clone)]
pub struct Crew {
    /// Planners.
    pub planners: usize,
    /// Workers.
    pub workers: usize,
    /// Critics.
    pub critics: usize,
    /// Memories.
    pub memories: usize,
    /// Set where the number of Workers at work adapts to how long work takes.
    pub worker_limiter: Option<Limiter>,
    /// What each may hold on to.
    pub limits: AgentLimits,
    /// Where Planners write reports.
    pub reports: PathBuf,
    /// Set on a node that is made to be crashed.
    pub rehearsal: Option<Rehearsal>,
    /// Where else than in this node's queue they look for tasks.
    pub peers: Option<Arc<dyn Peers>>,
    /// Shared context of tasks.
    pub context: Context,
    /// Cancelled when the node stops: nobody claims any more.
    pub draining: CancellationToken,
    /// Says while the node takes work; agents that are placed here do not mind.
    pub open: watch::Receiver<bool>,
}

/// The agents of a node, by id.
pub type Addresses = BTreeMap<AgentId, Address<AgentMsg>>;

impl Crew {
    /// A child spec for each agent, and the addresses to reach them by.
    #[must_use]
    pub fn hire(&self, queue: &Queue) -> (Vec<ChildSpec>, Addresses) {
        let wanted = [
            (Role::Memory, self.memories),
            (Role::Critic, self.critics),
            (Role::Worker, self.workers),
            (Role::Planner, self.planners),
        ];
        let mut specs = Vec::new();
        let mut addresses = Addresses::new();
        for (role, count) in wanted {
            let Some(behaviour) = self.behaviour(role) else {
                continue;
            };
            for number in 1..=count {
                let id = AgentId::new(format!("{role}-{number}"));
                let address = Address::new();
                let args = self.args(id.clone(), behaviour.clone(), queue);
                specs.push(agent::child_spec(&address, args));
                addresses.insert(id, address);
            }
        }
        (specs, addresses)
    }

    /// The agent that a spec asks for, and the address to reach it by: it can be written to,
    /// and is not started again by its supervisor, since whether and where is the cluster's
    /// to say. It acts while `may_act` says so, if that is given. `None` when no agent of this
    /// program plays the role.
    #[must_use]
    pub fn engage(
        &self,
        spec: &AgentSpec,
        queue: &Queue,
        may_act: Option<MayAct>,
    ) -> Option<(ChildSpec, Address<AgentMsg>)> {
        let address = Address::new();
        let mut args = self.args(spec.id.clone(), self.behaviour(spec.role)?, queue);
        args.addressed = Some(spec.addressed_kind().into());
        args.open = None;
        args.may_act = may_act;
        let child = agent::child_spec(&address, args).restart(Restart::Temporary);
        Some((child, address))
    }

    /// Roles that agents of this program play.
    pub const ROLES: [Role; 4] = [Role::Planner, Role::Worker, Role::Critic, Role::Memory];

    fn behaviour(&self, role: Role) -> Option<Arc<dyn Behaviour>> {
        Some(match role {
            Role::Planner => Arc::new(Planner::new(self.reports.clone())),
            Role::Worker => Arc::new(Worker::new(self.rehearsal.clone())),
            Role::Critic => Arc::new(Critic),
            Role::Memory => Arc::new(Memory),
            Role::Decider | Role::HotReload | Role::GitCoordinator | Role::ExperimentRunner => {
                return None;
            }
        })
    }

    fn args(&self, id: AgentId, behaviour: Arc<dyn Behaviour>, queue: &Queue) -> AgentArgs {
        let limiter = self.worker_limiter.clone();
        AgentArgs {
            id,
            limiter: limiter.filter(|_| behaviour.role() == Role::Worker),
            behaviour,
            addressed: None,
            may_act: None,
            queue: queue.clone(),
            peers: self.peers.clone(),
            limits: self.limits.clone(),
            context: self.context.clone(),
            draining: self.draining.clone(),
            open: Some(self.open.clone()),
        }
    }
}
