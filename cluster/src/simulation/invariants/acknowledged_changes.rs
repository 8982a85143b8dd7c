//! A change of an agent that was acknowledged is in everything that is written of it afterwards.
//!
//! Each change counts in the agent's entry, on top of what whoever decided knew. So of two that
//! were acknowledged the later one has counted higher, and when all is at rest the last one is
//! known.

use std::collections::BTreeMap;

use regrow_runtime::ids::AgentId;

use crate::simulation::world::World;

#[derive(Debug, Default)]
pub(in crate::simulation) struct AcknowledgedChanges(BTreeMap<AgentId, u64>);

impl AcknowledgedChanges {
    /// A change was acknowledged. Returns how that breaks the invariant, if it does.
    pub(in crate::simulation) fn acknowledged(
        &mut self,
        agent: &AgentId,
        count: u64,
    ) -> Option<String> {
        let before = self.0.insert(agent.clone(), count).unwrap_or(0);
        (count <= before)
            .then(|| format!("change {count} of {agent} was acknowledged after change {before}"))
    }

    /// A disk was lost, and with it what may have been only there beside memories.
    pub(in crate::simulation) fn disk_lost(&mut self) {
        self.0.clear();
    }

    /// What was acknowledged and is not known to a node, all being at rest.
    pub(in crate::simulation) fn forgotten(&self, world: &World) -> Option<String> {
        let mut nodes = world.up().map(|(_, node)| node);
        nodes.find_map(|node| {
            let forgotten = self.0.iter().find(|(agent, count)| {
                let known = node.specs().get(agent).map(|entry| entry.kills);
                known < Some(**count)
            });
            let (agent, count) = forgotten?;
            Some(format!(
                "change {count} of {agent} was acknowledged, and {} knows nothing of it",
                node.me()
            ))
        })
    }
}
