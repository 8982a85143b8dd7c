//! Effects never go back to an earlier epoch, and an epoch has one owner for ever.

use std::collections::BTreeMap;

use regrow_runtime::ids::{AgentId, Epoch};

use crate::member::Member;

#[derive(Debug, Default)]
pub(in crate::simulation) struct StaleEpochs {
    latest: BTreeMap<AgentId, (Epoch, Member)>,
}

impl StaleEpochs {
    /// An effect was let through. Returns how it breaks the invariant, if it does.
    pub(in crate::simulation) fn effect(
        &mut self,
        agent: &AgentId,
        member: &Member,
        epoch: Epoch,
    ) -> Option<String> {
        let broken = match self.latest.get(agent) {
            Some((latest, owner)) if epoch < *latest => Some(format!(
                "{member} had an effect for {agent} under epoch {epoch} after {owner} had one under {latest}"
            )),
            Some((latest, owner)) if epoch == *latest && owner != member => Some(format!(
                "{owner} and {member} both had effects for {agent} under epoch {epoch}"
            )),
            Some(_) | None => None,
        };
        self.latest.insert(agent.clone(), (epoch, member.clone()));
        broken
    }
}
