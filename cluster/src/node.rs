//! All cores of one node, put together: who may act, who owns what, what to do next (pure).
//!
//! Whoever carries it calls [`Node::tick`] regularly, hands in what arrives, and carries out
//! the commands. The same node serves both authorities:
//!
//! - **a database**: a node may act while its life is renewed there, owns what it claimed
//!   there, and every effect is checked there;
//! - **a quorum**: a node may act while a quorum of members of one mind consented lately,
//!   owns what a quorum let it claim, and starts it once the consent of whoever had it before
//!   has run out (`down_removal_margin`).
//!
//! A crash forgets all of it; a node that comes back is a new life that asks to be let in.

mod claims;
mod config;
mod consent;
mod due;
mod entries;
mod message;
mod moves;
mod placing;
mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::Rng;
use rand::seq::IteratorRandom;
use regrow_runtime::ids::{AgentId, Epoch};

use self::claims::Hosting;
pub use self::config::{AuthorityKind, NodeConfig};
pub use self::entries::{Decider, Spread};
pub use self::message::{Body, Command, Message, QuarantineRecords};
pub use self::moves::HandOffRefused;
use self::placing::Assigning;
pub use self::seen::Stands;
use crate::authority::Answer;
use crate::detector::{Arrivals, Threshold};
use crate::hand_off::Prepared;
use crate::lease::{Holder, Watch};
use crate::lives::Lives;
use crate::local_time::LocalTime;
use crate::member::{Member, NodeName};
use crate::membership::Membership;
use crate::nodes::Note;
use crate::notes::Notes;
use crate::ownership::Register;
use crate::placement::{NodeFacts, Policies};
use crate::quarantine::{Quarantine, Trouble};
use crate::spec_registry::{Digest, SpecRegistry};
use crate::split_brain::SplitBrain;

/// Specifications sent at once.
const SPECS_MAX: usize = 64;

/// What is known of one peer.
#[derive(Clone, Debug)]
struct Peer {
    life: Option<Member>,
    arrivals: Arrivals,
    suspected: bool,
    suspects: Arc<BTreeSet<Member>>,
    asked: Option<u64>,
    /// What it said when it was heard last: which specifications it had,
    specs: Arc<Digest>,
    /// what it knew of claims,
    register: Arc<Register>,
    /// of what was noted,
    notes: Arc<Notes>,
    /// and which mind of this node it was of, if it was of this node's.
    mind: Option<u64>,
}

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    config: NodeConfig,
    threshold: Threshold,
    founders: Arc<BTreeSet<NodeName>>,
    membership: Membership,
    /// The mind that answers and acceptances were collected in.
    mind: u64,
    peers: BTreeMap<NodeName, Peer>,
    suspects: Arc<BTreeSet<Member>>,
    split_brain: SplitBrain,
    /// Consent to act; the voter without a name is the database.
    consent: Holder<Option<Member>>,
    round: u64,
    register: Arc<Register>,
    lives: Arc<Lives>,
    watches: BTreeMap<Member, Watch>,
    specs: SpecRegistry,
    digest: Arc<Digest>,
    quarantine: Quarantine,
    quarantine_records: Arc<QuarantineRecords>,
    notes: Arc<Notes>,
    hosted: BTreeMap<AgentId, Hosting>,
    prepared: BTreeMap<AgentId, Prepared>,
    policies: Policies,
    /// What nodes say of themselves, by life.
    facts: BTreeMap<Member, NodeFacts>,
    /// Since when those that were let in say nothing.
    silent_since: BTreeMap<Member, LocalTime>,
    /// What this node said of who is to take agents that nobody has.
    assigning: BTreeMap<AgentId, Assigning>,
    /// Since when agents wait for whoever they fall to, where each node works that out.
    unowned_since: BTreeMap<AgentId, LocalTime>,
    /// The latest epoch that this life claimed of each agent. None is claimed twice: a release
    /// of it may still be on its way.
    claimed: BTreeMap<AgentId, Epoch>,
}

impl Node {
    /// A node that begins at `now`, with the specifications that its disk has. `founders` name
    /// all nodes of the cluster (see [`membership`](crate::membership)).
    #[must_use]
    pub fn new(
        me: Member,
        config: NodeConfig,
        founders: Arc<BTreeSet<NodeName>>,
        specs: SpecRegistry,
        now: LocalTime,
    ) -> Self {
        let peer = |name: &NodeName| {
            let peer = Peer {
                life: None,
                arrivals: Arrivals::new(now),
                suspected: false,
                suspects: Arc::default(),
                asked: None,
                specs: Arc::default(),
                register: Arc::default(),
                notes: Arc::default(),
                mind: None,
            };
            (name.clone(), peer)
        };
        let others = founders.iter().filter(|name| **name != me.name);
        let rule = config.split_brain.strategy.quorum();
        Self {
            threshold: Threshold::of(&config.detector),
            peers: others.map(peer).collect(),
            quarantine: Quarantine::new(me.name.clone(), config.quarantine),
            membership: Membership::new(me, rule, Arc::clone(&founders)),
            mind: 0,
            suspects: Arc::default(),
            split_brain: SplitBrain::new(config.split_brain, now),
            consent: Holder::new(config.terms),
            round: 0,
            register: Arc::default(),
            lives: Arc::default(),
            watches: BTreeMap::new(),
            digest: Arc::new(specs.digest()),
            specs,
            quarantine_records: Arc::default(),
            notes: Arc::default(),
            hosted: BTreeMap::new(),
            prepared: BTreeMap::new(),
            policies: Policies {
                default: config.policy,
                ..Policies::default()
            },
            facts: BTreeMap::new(),
            silent_since: BTreeMap::new(),
            assigning: BTreeMap::new(),
            unowned_since: BTreeMap::new(),
            claimed: BTreeMap::new(),
            founders,
            config,
        }
    }

    /// This node's life.
    #[must_use]
    pub fn me(&self) -> &Member {
        self.membership.me()
    }

    /// Who is a member, as far as this node knows.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Which agents there should be, as far as this node knows.
    #[must_use]
    pub fn specs(&self) -> &SpecRegistry {
        &self.specs
    }

    /// Who is kept out, as far as this node knows.
    #[must_use]
    pub fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    /// The epoch under which this node may act for the agent at `now`, if it may. To be asked
    /// before each effect, with the clock read after the effect was prepared.
    #[must_use]
    pub fn may_act(&self, agent: &AgentId, now: LocalTime) -> Option<Epoch> {
        let hosting = self.hosted.get(agent)?;
        let kept_out = self.quarantine.is_quarantined(&self.membership.me().name);
        (hosting.is_running() && !kept_out && self.consent.may_act(now)).then_some(hosting.epoch)
    }

    /// Whether this node may act at all at `now`.
    #[must_use]
    pub fn is_authorised(&self, now: LocalTime) -> bool {
        self.consent.may_act(now)
    }

    /// Tells everyone what is known of an agent, at once rather than when they are heard next.
    #[must_use]
    pub fn tell_spec(&self, agent: &AgentId) -> Vec<Command> {
        let mut out = Vec::new();
        if let Some(entry) = self.specs.entry(agent) {
            for to in self.peers.keys() {
                let entries = vec![(agent.clone(), entry.clone())];
                self.send(to, Body::Specs(entries), &mut out);
            }
        }
        out
    }

    /// Tells everyone what this node knows, at once rather than with the next tick.
    #[must_use]
    pub fn tell_all(&self) -> Vec<Command> {
        let mut out = Vec::new();
        for to in self.peers.keys() {
            self.send(to, Body::Heartbeat, &mut out);
        }
        out
    }

    /// Changes quarantines: an operator's word.
    pub fn write_quarantine(&mut self, write: impl FnOnce(&mut Quarantine)) {
        write(&mut self.quarantine);
        self.quarantine_changed();
    }

    /// Takes in notes from disk.
    pub fn learn_notes(&mut self, notes: &Notes) {
        Arc::make_mut(&mut self.notes).merge(notes);
    }

    /// Notes something of a node, or nothing any more: an operator's word.
    pub fn write_note(&mut self, node: &NodeName, note: Option<&Note>) {
        let me = self.membership.me().name.clone();
        Arc::make_mut(&mut self.notes).put(node, note, &me);
    }

    /// Time has passed. To be called a few times per `stable_after`, and more often than
    /// consent runs out.
    pub fn tick(&mut self, now: LocalTime, rng: &mut impl Rng) -> Vec<Command> {
        let mut out = Vec::new();
        self.suspect(now);
        if self.quarantine.tick(now) {
            self.quarantine_changed();
        }
        self.round = self.consent.ask(now);
        match self.config.authority {
            AuthorityKind::Database => self.ask_database(now, &mut out),
            AuthorityKind::Quorum => self.ask_members(now, &mut out),
        }
        self.give_up_if_quarantined(&mut out);
        self.tick_moves(now, &mut out);
        self.assign(now, &mut out);
        self.tick_claims(now, &mut out);
        let peers: Vec<NodeName> = match self.config.authority {
            AuthorityKind::Database => self.peers.keys().cloned().sample(rng, self.config.fan_out),
            AuthorityKind::Quorum => self.peers.keys().cloned().collect(),
        };
        for to in peers {
            self.send(&to, Body::Heartbeat, &mut out);
        }
        out
    }

    /// A message arrived.
    pub fn hear(&mut self, message: Message, now: LocalTime) -> Vec<Command> {
        let mut out = Vec::new();
        let from = message.tidings.from.clone();
        if from.name == self.me().name {
            if self.me().incarnation < from.incarnation {
                out.push(Command::Exit);
            }
            return out;
        }
        let register = self.merge_register(&message.register);
        let before = self.peers.get(&from.name).and_then(|peer| peer.mind);
        if self.is_over(&from) {
            // It learns that from our next heartbeat; unless it takes this life for over as
            // well. Then whoever was agreed upon without comes back.
            let quorum = self.config.authority == AuthorityKind::Quorum;
            if quorum && message.tidings.agreed.is_over(self.me()) {
                self.come_back(now, &mut out);
            }
            return out;
        }
        if !self.hear_peer(&from, &message, register, now) {
            return out;
        }
        if self.config.authority == AuthorityKind::Quorum {
            let standing = self.membership.hear(&message.tidings);
            let learned = self.mind_changed();
            if !self.stand(standing, now, &mut out) {
                return out;
            }
            if learned {
                self.announce(now, &mut out);
            }
            let of_one_mind = self.membership.is_of_one_mind(&message.tidings);
            if let Some(peer) = self.peers.get_mut(&from.name) {
                peer.mind = of_one_mind.then_some(self.mind);
            }
            if of_one_mind && before != Some(self.mind) {
                // It may have been awaited to decide.
                self.assign(now, &mut out);
            }
            if let Some(round) = message.consents.filter(|_| of_one_mind) {
                self.consented(&from, round);
            }
        }
        if !Arc::ptr_eq(&self.digest, &message.specs) && *self.digest != *message.specs {
            let missing = self.specs.missing_from(&message.specs, SPECS_MAX);
            if !missing.is_empty() {
                self.send(&from.name, Body::Specs(missing), &mut out);
            }
        }
        if !Arc::ptr_eq(&self.notes, &message.notes)
            && *self.notes != *message.notes
            && Arc::make_mut(&mut self.notes).merge(&message.notes)
        {
            // Whoever told may wait to know that it is known.
            self.send(&from.name, Body::Heartbeat, &mut out);
        }
        for (node, record) in message.quarantine.iter() {
            if self.quarantine.merge(node, record, now) {
                self.quarantine_changed();
            }
        }
        self.give_up_if_quarantined(&mut out);
        self.hear_body(message, &from, now, &mut out);
        out
    }

    /// The database answered.
    pub fn answered(&mut self, answer: Answer, now: LocalTime) -> Vec<Command> {
        let mut out = Vec::new();
        match answer {
            Answer::Renewed {
                member,
                round,
                alive,
            } if member == *self.me() => {
                if alive {
                    self.consent.answered(&None, round, |test| test(&None));
                } else {
                    self.come_back(now, &mut out);
                }
            }
            Answer::Renewed { .. } => {}
            Answer::Seen { lives, register } => self.look_at_lives(lives, register, now, &mut out),
            Answer::Claimed { claim, outcome } => {
                self.claimed(None, claim, outcome, now, &mut out);
            }
        }
        out
    }

    /// Whether this life may never act again, as far as this node knows.
    fn is_over(&self, member: &Member) -> bool {
        is_over(self.config.authority, &self.lives, &self.membership, member)
    }

    fn hear_peer(
        &mut self,
        from: &Member,
        message: &Message,
        register: Arc<Register>,
        now: LocalTime,
    ) -> bool {
        let total = self.founders.len();
        let Some(peer) = self.peers.get_mut(&from.name) else {
            return false;
        };
        let replaced = peer.life.as_ref().is_some_and(|life| *life < *from);
        if peer.life.as_ref().is_some_and(|life| *from < *life) {
            return false;
        }
        if replaced {
            peer.asked = None;
            // Who fell silent before was counted then.
            if !peer.suspected && self.consent.may_act(now) {
                self.quarantine
                    .trouble(&from.name, Trouble::WentDown, total, now);
            }
        }
        peer.life = Some(from.clone());
        // A heartbeat is the first message of a round: what else is said comes in bursts, or late,
        // and tells nothing of how regularly its sender ticks.
        if message.asks.is_none_or(|round| peer.asked < Some(round)) {
            peer.arrivals.heard(&self.config.detector, now);
            peer.suspected = false;
        }
        peer.suspects = Arc::clone(&message.suspects);
        peer.asked = message.asks.max(peer.asked);
        peer.specs = Arc::clone(&message.specs);
        peer.notes = Arc::clone(&message.notes);
        peer.mind = None;
        peer.register = register;
        if replaced {
            self.quarantine_changed();
        }
        true
    }

    fn hear_body(
        &mut self,
        message: Message,
        from: &Member,
        now: LocalTime,
        out: &mut Vec<Command>,
    ) {
        match message.body {
            Body::Heartbeat => {}
            Body::Claim(claim) => self.vote(claim, from, out),
            Body::Claimed { claim, outcome } => {
                if self.membership.is_of_one_mind(&message.tidings) || outcome.is_err() {
                    self.claimed(Some(from), claim, outcome, now, out);
                }
            }
            Body::Specs(entries) => {
                if self.take_in(entries) {
                    if self.config.authority == AuthorityKind::Quorum {
                        // Something may have been assigned to this node.
                        self.claim_unowned(now, out);
                    }
                    // Whoever told may wait to know that it is known.
                    self.send(&from.name, Body::Heartbeat, out);
                }
            }
            Body::HandOff(step) => self.hear_hand_off(step, from, now, out),
        }
    }

    /// Whom this node does not hear any more.
    fn suspect(&mut self, now: LocalTime) {
        let total = self.founders.len();
        let mut suspects = BTreeSet::new();
        let mut troubled = false;
        for (name, peer) in &mut self.peers {
            let silent = peer
                .arrivals
                .suspect_at(&self.config.detector, self.threshold)
                <= now;
            if silent && !peer.suspected && peer.life.is_some() && self.consent.may_act(now) {
                // A node that may not act itself is in no place to judge others.
                troubled |= self.quarantine.trouble(name, Trouble::WentDown, total, now);
            }
            peer.suspected = silent;
            if silent && let Some(life) = &peer.life {
                suspects.insert(life.clone());
            }
        }
        if *self.suspects != suspects {
            self.suspects = Arc::new(suspects);
        }
        if troubled {
            self.quarantine_changed();
        }
    }

    fn reaches(&self, member: &Member) -> bool {
        *member == *self.me()
            || self
                .peers
                .get(&member.name)
                .is_some_and(|peer| !peer.suspected && peer.life.as_ref() == Some(member))
    }

    /// Takes in what another node knows of claims. Returns that: the same copy if both know the
    /// same.
    fn merge_register(&mut self, theirs: &Arc<Register>) -> Arc<Register> {
        let mine = &mut self.register;
        if self.config.authority != AuthorityKind::Quorum {
            return Arc::default();
        }
        if Arc::ptr_eq(mine, theirs) || **mine == **theirs {
            return Arc::clone(mine);
        }
        let view = self.membership.view();
        Arc::make_mut(mine).merge(theirs, |member| view.is_over(member));
        if **mine == **theirs {
            *mine = Arc::clone(theirs);
        }
        Arc::clone(theirs)
    }

    fn quarantine_changed(&mut self) {
        let records = self.quarantine.records();
        let records = records
            .map(|(node, record)| (node.clone(), record.clone()))
            .collect();
        self.quarantine_records = Arc::new(records);
    }

    fn send(&self, to: &NodeName, body: Body, out: &mut Vec<Command>) {
        let quorum = self.config.authority == AuthorityKind::Quorum;
        let consents = self.peers.get(to).and_then(|peer| peer.asked);
        let message = Message {
            tidings: self.membership.tidings(),
            register: match quorum {
                true => Arc::clone(&self.register),
                false => Arc::default(),
            },
            suspects: Arc::clone(&self.suspects),
            quarantine: Arc::clone(&self.quarantine_records),
            notes: Arc::clone(&self.notes),
            specs: Arc::clone(&self.digest),
            asks: quorum.then_some(self.round),
            consents,
            body,
        };
        out.push(Command::Send {
            to: to.clone(),
            message: Box::new(message),
        });
    }
}

fn is_over(
    authority: AuthorityKind,
    lives: &Lives,
    membership: &Membership,
    member: &Member,
) -> bool {
    match authority {
        AuthorityKind::Database => lives.is_over(member),
        AuthorityKind::Quorum => membership.view().is_over(member),
    }
}

#[cfg(test)]
mod tests;
