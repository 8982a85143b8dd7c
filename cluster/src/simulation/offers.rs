//! What machines offer, what agents ask for, and who hears what of it.

use std::collections::BTreeMap;

use rand::Rng;
use rand::RngExt;
use rand::seq::IndexedRandom;
use regrow_runtime::agent_spec::{Placement, PolicyName};

use super::world::World;
use super::{Options, Sabotage};
use crate::member::{Member, NodeName};
use crate::placement::{NodeFacts, admit};

/// How often a machine hears of what others offer.
const HEAR_MS: u64 = 1_000;

/// What a machine offers.
pub(super) fn offer(options: &Options, rng: &mut impl Rng) -> NodeFacts {
    let mut facts = NodeFacts::idle();
    if 0 < options.steps {
        let zone = ["a", "a", "b", "b", "c"]
            .choose(rng)
            .copied()
            .unwrap_or("a");
        facts.labels = [("zone".to_owned(), zone.to_owned())].into();
        if rng.random_bool(0.2) {
            facts.taints = ["gpu".to_owned()].into();
        }
    }
    facts
}

/// What an agent asks for. In a world without faults, nothing: there all agents run.
pub(super) fn placement(options: &Options, rng: &mut impl Rng) -> Placement {
    let mut placement = Placement::default();
    if options.steps == 0 {
        return placement;
    }
    if rng.random_bool(0.5) {
        let zone = ["a", "b", "c"].choose(rng).copied().unwrap_or("a");
        placement.required = [("zone".to_owned(), zone.to_owned())].into();
    } else if rng.random_bool(0.3) {
        placement.preferred = [("zone".to_owned(), "b".to_owned())].into();
    }
    if rng.random_bool(0.3) {
        placement.tolerates = ["gpu".to_owned()].into();
    }
    if rng.random_bool(0.3) {
        placement.spread = Some("group".to_owned());
    } else if rng.random_bool(0.2) {
        placement.policy = Some(PolicyName::Scr);
    }
    placement
}

impl World {
    /// Whether a machine's present process may run an agent.
    pub(super) fn fits(&self, node: usize, placement: &Placement) -> bool {
        let offer = &self.machines[node].offer;
        admit(placement, &self.names[node], &offer.labels, &offer.taints).is_ok()
    }

    /// A node hears what those offer that it hears, and how busy they are; and what it offers
    /// itself.
    pub(super) fn hear_offers(&mut self, node: usize) {
        let me = &self.machines[node];
        let fresh = me.heard_in != me.process;
        if !fresh && self.now < me.heard_at + HEAR_MS {
            return;
        }
        let mut heard: BTreeMap<Member, NodeFacts> = match fresh {
            true => BTreeMap::new(),
            false => me.heard.clone(),
        };
        let stale = self.options.sabotage == Sabotage::StaleOffers;
        for (from, machine) in self.machines.iter().enumerate() {
            let Some(core) = machine.node.as_ref().filter(|_| machine.pause.is_none()) else {
                continue;
            };
            if from != node && self.network.is_cut(from, node) {
                continue;
            }
            let offer = match stale {
                true => &machine.first_offer,
                false => &machine.offer,
            };
            let mut facts = offer.clone();
            let moves = (self.now / 700).wrapping_mul(37) + from as u64 * 211;
            facts.load_permille = u32::try_from(moves % 1_000).ok();
            heard.retain(|member, _| member.name != core.me().name);
            heard.insert(core.me().clone(), facts);
        }
        let me = &mut self.machines[node];
        (me.heard_at, me.heard_in) = (self.now, me.process);
        me.heard = heard.clone();
        if let Some(core) = me.node.as_mut() {
            core.learn_facts(heard);
        }
    }

    /// The names of those who may run an agent.
    pub(super) fn fitting(&self, placement: &Placement) -> Vec<&NodeName> {
        let nodes = (0..self.machines.len()).filter(|node| self.fits(*node, placement));
        nodes.map(|node| &self.names[node]).collect()
    }
}
