//! What a node can be asked about itself and the others.

use std::sync::Arc;

use regrow_runtime::ids::{AgentId, Epoch};

use super::claims::{Hosting, Stage};
use super::{Node, NodeConfig};
use crate::local_time::LocalTime;
use crate::member::Member;
use crate::notes::Notes;
use crate::spec_registry::Digest;

/// How this node stands to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// It asks for it, or waits until whoever had it cannot act any more.
    Coming,
    /// It runs it.
    Runs,
    /// It hands it to another node.
    Moves,
    /// It gives it back as soon as it has stopped.
    Stops,
}

impl Stands {
    pub(super) fn of(hosting: &Hosting) -> Self {
        match &hosting.stage {
            Stage::Claiming(claiming) if claiming.is_fence() => Self::Moves,
            Stage::Claiming(_) | Stage::Waiting { .. } => Self::Coming,
            Stage::Running => Self::Runs,
            Stage::Moving(_) => Self::Moves,
            Stage::Stopping => Self::Stops,
        }
    }
}

impl Node {
    /// How it behaves.
    #[must_use]
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// Until when this node may act, if it may; each effect asks [`Node::may_act`].
    #[must_use]
    pub fn acts_until(&self) -> Option<LocalTime> {
        self.consent.until()
    }

    /// What this node has, with the epochs under which it acts or would.
    pub fn hosted(&self) -> impl Iterator<Item = (&AgentId, Epoch, Stands)> {
        let hosted = self.hosted.iter();
        hosted.map(|(agent, hosting)| (agent, hosting.epoch, Stands::of(hosting)))
    }

    /// How this node stands to an agent, and under which epoch, if it has anything to do with it.
    #[must_use]
    pub fn stands(&self, agent: &AgentId) -> Option<(Stands, Epoch)> {
        let hosting = self.hosted.get(agent)?;
        Some((Stands::of(hosting), hosting.epoch))
    }

    /// Who owns the agent as far as this node knows: of several who claim it the latest.
    #[must_use]
    pub fn owner(&self, agent: &AgentId) -> Option<(&Member, Epoch)> {
        let owners = self.register.owners(agent, |member| self.is_over(member));
        owners.max_by_key(|(_, epoch)| *epoch)
    }

    /// Which specifications this node has; another value whenever that changes.
    #[must_use]
    pub fn digest(&self) -> Arc<Digest> {
        Arc::clone(&self.digest)
    }

    /// Whether this node hears a member.
    #[must_use]
    pub fn hears(&self, member: &Member) -> bool {
        self.reaches(member)
    }

    /// What operators noted of nodes, as far as this node knows.
    #[must_use]
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// The same, without copying it.
    #[must_use]
    pub fn shared_notes(&self) -> Arc<Notes> {
        Arc::clone(&self.notes)
    }
}
