//! A change of an agent that was acknowledged is in everything that is written of it afterwards.
//!
//! Each change has a number, and the agent's entry says which were made. So of two that were
//! acknowledged one is in what the other wrote, whoever heard of it first; and when all is at rest
//! every node knows all of them.

use std::collections::{BTreeMap, BTreeSet};

use regrow_runtime::ids::AgentId;

use crate::entry::Entry;
use crate::simulation::world::World;

#[derive(Debug, Default)]
pub(in crate::simulation) struct AcknowledgedChanges {
    /// What each change was made on top of, itself included.
    made: BTreeMap<u64, BTreeSet<u64>>,
    acknowledged: BTreeMap<AgentId, BTreeSet<u64>>,
}

/// The changes that an entry contains.
fn changes(entry: &Entry) -> BTreeSet<u64> {
    let words = entry.asked_of.iter().flat_map(|text| text.split(' '));
    words.filter_map(|word| word.parse().ok()).collect()
}

impl AcknowledgedChanges {
    /// Notes a new change in an entry. Returns its number.
    pub(in crate::simulation) fn note(&mut self, entry: &mut Entry) -> u64 {
        let number = self.made.len() as u64;
        let mut text = entry.asked_of.take().unwrap_or_default();
        text += &format!(" {number}");
        entry.asked_of = Some(text);
        self.made.insert(number, changes(entry));
        number
    }

    /// A change was acknowledged. Returns how that breaks the invariant, if it does.
    pub(in crate::simulation) fn acknowledged(
        &mut self,
        agent: &AgentId,
        change: u64,
    ) -> Option<String> {
        let known = self.acknowledged.entry(agent.clone()).or_default();
        let contains = |one: u64, other: u64| self.made[&one].contains(&other);
        let apart = known
            .iter()
            .find(|other| !contains(**other, change) && !contains(change, **other));
        let broken = apart.map(|other| {
            format!(
                "changes {other} and {change} of {agent} were acknowledged, and neither is in \
                 what the other wrote"
            )
        });
        known.insert(change);
        broken
    }

    /// A disk was lost, and with it what may have been only there beside memories.
    pub(in crate::simulation) fn disk_lost(&mut self) {
        self.acknowledged.clear();
    }

    /// What was acknowledged and is not known to a node, all being at rest.
    pub(in crate::simulation) fn forgotten(&self, world: &World) -> Option<String> {
        let mut nodes = world.up().map(|(_, node)| node);
        nodes.find_map(|node| {
            let forgotten = self.acknowledged.iter().find_map(|(agent, acknowledged)| {
                let known = node.specs().get(agent).map(changes).unwrap_or_default();
                let forgotten = acknowledged.difference(&known).next().copied();
                forgotten.map(|change| (agent, change))
            });
            let (agent, change) = forgotten?;
            Some(format!(
                "change {change} of {agent} was acknowledged, and {} knows nothing of it",
                node.me()
            ))
        })
    }
}
