//! One node's process: what is lost when it is killed, and what is on its disk.

use std::collections::BTreeMap;

use regrow_runtime::ids::{AgentId, Epoch};

use super::Sabotage;
use super::clock::Clock;
use crate::local_time::LocalTime;
use crate::member::{Incarnation, Member};
use crate::node::Node;
use crate::placement::NodeFacts;
use crate::spec_registry::{SpecRegistry, Version};

/// What a process has loaded of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loaded {
    /// It was told to run it.
    Running,
    /// It was told to start it, and to let it do nothing.
    Prepared {
        /// What the offer was fenced with.
        fence: Epoch,
    },
}

/// How a process that does not run came to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pause {
    pub(super) until: u64,
    /// Its clock stands still, too.
    pub(super) asleep: bool,
    pub(super) since: u64,
}

/// A node's machine.
pub(super) struct Machine {
    /// The node, unless it is down.
    pub(super) node: Option<Node>,
    pub(super) loaded: BTreeMap<AgentId, Loaded>,
    /// Changes of agents that were decided here and wait to be known widely, by number.
    pub(super) changes: Vec<(AgentId, Version, u64)>,
    pub(super) clock: Clock,
    pub(super) pause: Option<Pause>,
    /// Counts processes: what was meant for an earlier one is lost.
    pub(super) process: u64,
    /// Life numbers come from a source that outlives the disk.
    pub(super) incarnation: Incarnation,
    pub(super) disk: Disk,
    /// What the present process offers; another one may offer something else.
    pub(super) offer: NodeFacts,
    /// What the first one did.
    pub(super) first_offer: NodeFacts,
    /// What it heard of the others' offers, when, and in which process.
    pub(super) heard: BTreeMap<Member, NodeFacts>,
    pub(super) heard_at: u64,
    pub(super) heard_in: u64,
}

/// What survives a crash, unless the disk is lost.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) specs: SpecRegistry,
    /// Tasks that were acknowledged here and are not known to be done.
    pub(super) tasks: BTreeMap<u64, AgentId>,
}

impl Machine {
    /// The epoch under which the process acts for the agent now, if it does. A process that
    /// stands still does nothing.
    pub(super) fn acts(&self, agent: &AgentId, now: u64, sabotage: Sabotage) -> Option<Epoch> {
        let node = self.node.as_ref().filter(|_| self.pause.is_none())?;
        let local = self.clock.local(now);
        let loaded = self.loaded.get(agent)?;
        match (sabotage, loaded) {
            (Sabotage::HandOffWithoutCommit, Loaded::Prepared { fence }) => Some(*fence),
            (Sabotage::LongTrust, Loaded::Running) => {
                node.may_act(agent, LocalTime(local.0.saturating_sub(1_500)))
            }
            (_, Loaded::Running) => node.may_act(agent, local),
            (_, Loaded::Prepared { .. }) => None,
        }
    }
}
