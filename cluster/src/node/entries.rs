//! What is known of agents: who may write it, when it is known widely, and what is not taken in.
//!
//! An entry is written by one node at a time: the owner under its claim, and while nobody owns the
//! agent the first of the members by what they have agreed upon. Whoever comes after writes by a
//! later right, and only when a quorum that knows of that right has shown that it knows nothing
//! that is missing here. So what was acknowledged is in everything that is written afterwards,
//! and what nobody acknowledged may be replaced.

use std::sync::Arc;
use std::time::Duration;

use regrow_runtime::ids::{AgentId, Epoch};

use super::seen::Stands;
use super::{AuthorityKind, Node, Peer};
use crate::entry;
use crate::local_time::LocalTime;
use crate::member::{Member, NodeName};
use crate::notes::Notes;
use crate::spec_registry::{Entry, RegistryFull, Under, Version};

/// For so long a node is awaited that fell silent and was heard to know what is missing here.
const NEWS_PATIENCE: Duration = Duration::from_secs(60);

/// Who decides about an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decider {
    /// This node.
    Here,
    /// Another one.
    There(NodeName),
    /// Nobody at present: the agent moves, its owner is not heard, or who decides is about to be
    /// agreed upon, or has yet to hear what the others know.
    Nobody,
}

/// How far something that was written here has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// A quorum of members has told that it knows it, and nobody writes who does not.
    Widely,
    /// Not yet.
    Partly,
    /// Something took its place that may not contain it, or somebody else may write by now.
    Replaced,
}

impl Node {
    /// Who decides about an agent now.
    #[must_use]
    pub fn decider(&self, agent: &AgentId, now: LocalTime) -> Decider {
        if self.config.authority == AuthorityKind::Database {
            return Decider::Here;
        }
        if !self.consent.may_act(now) {
            return Decider::Nobody;
        }
        if let Some(hosting) = self.hosted.get(agent) {
            let decides = matches!(Stands::of(hosting), Stands::Runs | Stands::Stops);
            return match decides && hosting.held.is_some() {
                true => Decider::Here,
                false => Decider::Nobody,
            };
        }
        let heard = |member: &Member| match self.reaches(member) {
            true => Decider::There(member.name.clone()),
            false => Decider::Nobody,
        };
        match self.owner(agent) {
            // It is about to be given back.
            Some((owner, _)) if owner == self.me() => Decider::Nobody,
            Some((owner, _)) => heard(owner),
            None if !self.membership.is_settled() => Decider::Nobody,
            None => match self.membership.counted().first() {
                Some(first) if first != self.me() => heard(first),
                Some(_) if self.is_caught_up(agent, now) => Decider::Here,
                Some(_) | None => Decider::Nobody,
            },
        }
    }

    /// Writes what is known of an agent, or that it is removed. Returns the version, unless
    /// another node is to write or has written by a later right: then nothing changed.
    ///
    /// # Errors
    ///
    /// [`RegistryFull`] for a new agent when there are too many.
    pub fn write_entry(
        &mut self,
        agent: &AgentId,
        entry: Option<entry::Entry>,
    ) -> Result<Option<Version>, RegistryFull> {
        let known = self.specs.entry(agent).map(|entry| &entry.version);
        let Some(under) = self.right(agent) else {
            return Ok(None);
        };
        if known.is_some_and(|known| Some(under) < known.under) {
            return Ok(None);
        }
        let me = self.me().name.clone();
        match entry {
            Some(entry) => self.specs.put(entry, under, &me)?,
            None => self.specs.remove(agent, under, &me),
        }
        self.digest = Arc::new(self.specs.digest());
        let written = self.specs.entry(agent);
        Ok(written.map(|entry| entry.version.clone()))
    }

    /// By which right this node writes of an agent, if by any.
    fn right(&self, agent: &AgentId) -> Option<Under> {
        if self.config.authority == AuthorityKind::Database {
            // Everybody does; the database says whose the agent is.
            return Some(Under::default());
        }
        if let Some(hosting) = self.hosted.get(agent) {
            let owned = |epoch| Under { epoch, agreed: 0 };
            return hosting.held.map(owned);
        }
        let first = self.membership.counted().first() == Some(self.me());
        let free = self.owner(agent).is_none() && self.membership.is_settled();
        let written = self
            .specs
            .entry(agent)
            .and_then(|entry| entry.version.under);
        let written = written.map_or(Epoch::NEVER, |under| under.epoch);
        (first && free).then(|| Under {
            epoch: self.register.highest(agent).max(written),
            agreed: self.membership.agreed_number(),
        })
    }

    /// How far a version has come that this node wrote.
    #[must_use]
    pub fn spread(&self, agent: &AgentId, version: &Version) -> Spread {
        let stands = self.specs.entry(agent);
        let stands = stands.is_some_and(|entry| entry.version.includes(version));
        let under = version
            .under
            .filter(|under| self.still_writes(agent, *under));
        let (true, Some(under)) = (stands, under) else {
            return Spread::Replaced;
        };
        let has = |peer: &Peer| {
            let has = peer.specs.get(agent);
            has.is_some_and(|has| has.includes(version))
        };
        // Who claimed the agent since writes next: on top of this, if that is known to him.
        let Some(mut claimants) = self.register.claimants_above(agent, under.epoch) else {
            return Spread::Partly;
        };
        let includes = |member: &Member| {
            let peer = self.peers.get(&member.name);
            let peer = peer.filter(|peer| peer.life.as_ref() == Some(member));
            *member == *self.me() || peer.is_some_and(has)
        };
        match claimants.all(includes) {
            true => self.told_by(has),
            false => Spread::Partly,
        }
    }

    /// Whether this node may still write by a right that it wrote by.
    fn still_writes(&self, agent: &AgentId, under: Under) -> bool {
        match under.agreed {
            0 => {
                let held = self.hosted.get(agent).and_then(|hosting| hosting.held);
                held.is_some_and(|held| under.epoch <= held)
            }
            agreed => agreed == self.membership.agreed_number() && self.membership.is_settled(),
        }
    }

    /// How far this node's note of a node has come.
    #[must_use]
    pub fn note_spread(&self, node: &NodeName, version: &Version) -> Spread {
        let includes = |notes: &Notes| {
            let has = notes.version(node);
            has.is_some_and(|has| has.includes(version))
        };
        match includes(&self.notes) {
            true => self.told_by(|peer| includes(&peer.notes)),
            false => Spread::Replaced,
        }
    }

    /// Whether a quorum of members, being of one mind, told what `test` looks for.
    fn told_by(&self, test: impl Fn(&Peer) -> bool) -> Spread {
        match self.in_one_mind(test) {
            true => Spread::Widely,
            false => Spread::Partly,
        }
    }

    fn in_one_mind(&self, test: impl Fn(&Peer) -> bool) -> bool {
        self.membership.enough(&|member| {
            *member == *self.me()
                || self.peers.get(&member.name).is_some_and(|peer| {
                    let heard = peer.life.as_ref() == Some(member);
                    heard && peer.mind == Some(self.mind) && test(peer)
                })
        })
    }

    /// Whether everything is known here that may have been acknowledged of an agent before those
    /// claims that this node knows, its own among them; and everything that is heard to be known.
    ///
    /// What somebody was heard to know counts also when he has fallen silent: he may have been of the
    /// quorum that it was acknowledged by, and be lost before he told it. But not for ever, for he may
    /// never come back.
    pub(super) fn is_caught_up(&self, agent: &AgentId, now: LocalTime) -> bool {
        let mine = self.specs.entry(agent).map(|entry| &entry.version);
        let has_news = |peer: &Peer| {
            let has = peer.specs.get(agent);
            has.is_some_and(|has| mine.is_none_or(|mine| has.follows(mine)))
        };
        let is_awaited = |peer: &&Peer| now < peer.arrivals.latest().after(NEWS_PATIENCE);
        if self.peers.values().filter(is_awaited).any(has_news) {
            return false;
        }
        let highest = self.register.highest(agent);
        self.in_one_mind(|peer| {
            let mut owners = peer.register.owners(agent, |member| self.is_over(member));
            highest <= peer.register.highest(agent) && owners.all(|(owner, _)| owner == self.me())
        })
    }

    /// Takes in entries that came beside the messages of cores.
    pub fn learn_specs(&mut self, entries: impl IntoIterator<Item = (AgentId, Entry)>) {
        self.take_in(entries);
    }

    /// Takes in entries, but none of another writer's of an agent that this node owns: its word
    /// stands, and is said again above theirs. Returns whether anything was learned.
    pub(super) fn take_in(&mut self, entries: impl IntoIterator<Item = (AgentId, Entry)>) -> bool {
        let mut learned = false;
        for (agent, entry) in entries {
            let held = self.hosted.get(&agent).and_then(|hosting| hosting.held);
            let Version { under, writer, .. } = &entry.version;
            let is_owned = held.is_some_and(|held| under.is_none_or(|under| under.epoch <= held));
            if is_owned && *writer != self.me().name {
                let known = self.specs.entry(&agent);
                if known.is_some_and(|known| entry.version.follows(&known.version)) {
                    self.specs.insist(&agent, entry.version.number);
                    learned = true;
                }
                continue;
            }
            learned |= self.specs.merge([(agent, entry)]);
        }
        if learned {
            self.digest = Arc::new(self.specs.digest());
        }
        learned
    }
}
