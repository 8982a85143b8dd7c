//! Which agents a node has: role to child specs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use regrow_runtime::concurrency::Limiter;
use regrow_runtime::context::Context;
use regrow_runtime::ids::AgentId;
use regrow_runtime::mailbox::Address;
use regrow_runtime::queue::Queue;
use regrow_runtime::role::Role;
use regrow_runtime::supervision::ChildSpec;
use tokio_util::sync::CancellationToken;

use crate::agent::behaviour::Behaviour;
use crate::agent::{self, AgentArgs, AgentLimits, AgentMsg};
use crate::critic::Critic;
use crate::memory::Memory;
use crate::planner::Planner;
use crate::worker::Worker;
use crate::worker::rehearsal::Rehearsal;

/// How many agents of each role a node has, and what they need.
#[derive(Clone, Debug)]
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
    /// Shared context of tasks.
    pub context: Context,
    /// Cancelled when the node stops: nobody claims any more.
    pub draining: CancellationToken,
}

/// The agents of a node, by id.
pub type Addresses = BTreeMap<AgentId, Address<AgentMsg>>;

impl Crew {
    /// A child spec for each agent, and the addresses to reach them by.
    #[must_use]
    pub fn hire(&self, queue: &Queue) -> (Vec<ChildSpec>, Addresses) {
        let planner: Arc<dyn Behaviour> = Arc::new(Planner {
            reports: self.reports.clone(),
        });
        let worker: Arc<dyn Behaviour> = Arc::new(Worker::new(self.rehearsal.clone()));
        let critic: Arc<dyn Behaviour> = Arc::new(Critic);
        let memory: Arc<dyn Behaviour> = Arc::new(Memory);
        let wanted = [
            (Role::Memory, self.memories, memory),
            (Role::Critic, self.critics, critic),
            (Role::Worker, self.workers, worker),
            (Role::Planner, self.planners, planner),
        ];
        let mut specs = Vec::new();
        let mut addresses = Addresses::new();
        for (role, count, behaviour) in wanted {
            for number in 1..=count {
                let id = AgentId::new(format!("{role}-{number}"));
                let address = Address::new();
                let args = AgentArgs {
                    id: id.clone(),
                    behaviour: behaviour.clone(),
                    queue: queue.clone(),
                    limits: self.limits.clone(),
                    limiter: (role == Role::Worker)
                        .then(|| self.worker_limiter.clone())
                        .flatten(),
                    context: self.context.clone(),
                    draining: self.draining.clone(),
                };
                specs.push(agent::child_spec(&address, args));
                addresses.insert(id, address);
            }
        }
        (specs, addresses)
    }
}
