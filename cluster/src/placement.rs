//! Which node should own an agent, and why (pure).
//!
//! Two policies. `balanced` takes the nodes that can run the agent, keeps those on which its
//! group is thinnest, and of two drawn by lot takes the better: with stale figures the best of
//! all would be everybody's choice at once (Mitzenmacher, "The power of two choices", 2001).
//! `scr` is the formula of the system that this one follows, to the digit: see [`scr`].
//!
//! Agents are placed on a [`Board`], one after the other: each that was placed counts for the
//! next, although no node has it yet. The lot comes from a seed that all nodes know, so that
//! whoever places the same agents on the same facts decides the same.
//!
//! Every choice is a [`Decision`]: all candidates with all terms, whoever was in the way, and
//! the lot. What would be decided if a node died is asked of a board without it.

mod decision;
pub mod plan;
mod requirements;
pub mod scr;

use std::collections::{BTreeMap, BTreeSet};

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::IteratorRandom;
use regrow_runtime::agent_spec::{Placement, PolicyName};
use regrow_runtime::ids::AgentId;
use serde::{Deserialize, Serialize};

pub use self::decision::{Candidate, Decision, Exclusion, NoPlace, Term};
pub(crate) use self::requirements::admit;
pub use self::requirements::{Labels, Unfit};
use crate::member::NodeName;

/// Agents that a node takes which sets itself no bound.
pub const AGENTS_MAX: usize = 1_000;
/// Load counts in steps of so many thousandths: less is noise, in which nodes that decide at
/// once would differ.
const LOAD_STEP: u32 = 50;

/// What a node says of itself, and what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeFacts {
    /// What it offers.
    pub labels: Labels,
    /// What keeps agents away that do not tolerate it.
    pub taints: BTreeSet<String>,
    /// Agents on it, and those that were placed there and are on their way.
    pub agents: usize,
    /// Agents that it can have; without a bound, [`AGENTS_MAX`].
    pub agents_max: Option<usize>,
    /// How busy it is, in thousandths of what it can do; `None` if that is not known, and then
    /// it counts as busy through and through.
    pub load_permille: Option<u32>,
    /// Its queue, for the policy `scr`.
    pub scr: scr::Figures,
    /// It has said nothing of itself yet, so it gets nothing.
    pub silent: bool,
    /// It takes no agents; those it has stay.
    pub cordoned: bool,
    /// It must own nothing.
    pub quarantined: bool,
    /// Its share of agents in thousandths, less than a thousand on probation.
    pub share_permille: u64,
    /// Members of each group on it.
    pub groups: BTreeMap<String, usize>,
    /// How old what it says is, in milliseconds.
    pub age_ms: Option<u64>,
    /// Which version it runs.
    pub version: Option<String>,
}

impl NodeFacts {
    /// A node with nothing on it and nothing to do that takes its full share.
    #[must_use]
    pub fn idle() -> Self {
        Self {
            share_permille: 1_000,
            load_permille: Some(0),
            ..Self::default()
        }
    }

    pub(crate) fn count(&mut self, group: &str) {
        self.agents += 1;
        self.scr.agents += 1;
        *self.groups.entry(group.to_owned()).or_default() += 1;
    }

    pub(crate) fn discount(&mut self, group: &str) {
        self.agents = self.agents.saturating_sub(1);
        self.scr.agents = self.scr.agents.saturating_sub(1);
        if let Some(count) = self.groups.get_mut(group) {
            *count = count.saturating_sub(1);
        }
    }
}

/// How to choose where an agent does not say it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policies {
    /// For agents that ask for none.
    pub default: PolicyName,
    /// What counts how much by SCR's formula.
    pub scr: scr::Weights,
}

/// What is to be placed.
#[derive(Clone, Debug, PartialEq)]
pub struct Request<'a> {
    /// Which agent.
    pub agent: &'a AgentId,
    /// Where it may run.
    pub placement: &'a Placement,
    /// What it does: the group that it is spread from unless it names another.
    pub role: &'a str,
    /// The node that was asked for it, which `scr` favours a little.
    pub asked_of: Option<&'a str>,
    /// Decides the lot: the same on every node.
    pub seed: u64,
}

impl Request<'_> {
    /// Whom it is to be spread from.
    #[must_use]
    pub fn group(&self) -> &str {
        self.placement.spread.as_deref().unwrap_or(self.role)
    }
}

/// The nodes, and what has been placed on them so far.
#[derive(Clone, Debug)]
pub struct Board<'a> {
    /// How to choose.
    pub policies: &'a Policies,
    /// Who there is.
    pub nodes: BTreeMap<NodeName, NodeFacts>,
}

impl Board<'_> {
    /// Chooses a node for an agent and says why. It counts there from now on.
    pub fn place(&mut self, request: &Request<'_>) -> Decision {
        let decision = self.choose(request, 2);
        if let Ok(chosen) = &decision.outcome
            && let Some(facts) = self.nodes.get_mut(chosen)
        {
            facts.count(request.group());
        }
        decision
    }

    /// Chooses the best of `draws` nodes where it matters; nothing is counted.
    fn choose(&self, request: &Request<'_>, draws: usize) -> Decision {
        match request.placement.policy.unwrap_or(self.policies.default) {
            PolicyName::Balanced => balanced(request, &self.nodes, draws),
            PolicyName::Scr => scr::place(&self.policies.scr, request, &self.nodes),
        }
    }

    /// An agent of this group goes from one node to another.
    fn shift(&mut self, group: &str, from: &NodeName, to: &NodeName) {
        if let Some(facts) = self.nodes.get_mut(from) {
            facts.discount(group);
        }
        if let Some(facts) = self.nodes.get_mut(to) {
            facts.count(group);
        }
    }
}

fn balanced(
    request: &Request<'_>,
    nodes: &BTreeMap<NodeName, NodeFacts>,
    draws: usize,
) -> Decision {
    let mut candidates: Vec<Candidate> = nodes
        .iter()
        .map(|(name, facts)| candidate(request, name, facts, nodes))
        .collect();
    keep_thinnest(&mut candidates);
    let fit = candidates
        .iter()
        .filter(|candidate| candidate.excluded.is_none());
    let mut lot = Xoshiro256PlusPlus::seed_from_u64(request.seed);
    let drawn: Vec<&Candidate> = fit.sample(&mut lot, draws);
    let best = drawn
        .iter()
        .max_by(|one, other| {
            one.score
                .total_cmp(&other.score)
                .then_with(|| other.node.cmp(&one.node))
        })
        .map(|candidate| candidate.node.clone());
    let drawn = drawn
        .into_iter()
        .map(|candidate| candidate.node.clone())
        .collect();
    Decision {
        agent: request.agent.clone(),
        policy: PolicyName::Balanced.as_str(),
        outcome: best.ok_or_else(|| decision::no_place(&candidates)),
        seed: request.seed,
        drawn,
        candidates,
        left_out: 0,
    }
}

fn candidate(
    request: &Request<'_>,
    name: &NodeName,
    facts: &NodeFacts,
    nodes: &BTreeMap<NodeName, NodeFacts>,
) -> Candidate {
    let (taken, bound) = (facts.agents, facts.agents_max.unwrap_or(AGENTS_MAX));
    let excluded = barred(facts)
        .or_else(|| {
            let fit = requirements::admit(request.placement, name, &facts.labels, &facts.taints);
            fit.err().map(Exclusion::Unfit)
        })
        .or_else(|| full(facts));
    // On probation a node is as if it were smaller.
    let share = facts.share_permille.clamp(1, 1_000) as f64 / 1_000.0;
    let filled = (taken + 1) as f64 * 100.0 / (bound.max(1) as f64 * share);
    let load = match facts.load_permille {
        Some(load) => Term::new("load", -f64::from(load / LOAD_STEP * LOAD_STEP) / 10.0),
        None => Term::new("load_unknown", -100.0),
    };
    let mut terms = vec![Term::new("filled", -filled), load];
    if !request.placement.preferred.is_empty() {
        let preference = requirements::preference(request.placement, &facts.labels);
        terms.push(Term::new("preferred", preference));
    }
    Candidate {
        node: name.clone(),
        score: terms.iter().map(|term| term.value).sum(),
        terms,
        crowd: crowd(request, name, facts, nodes),
        age_ms: facts.age_ms,
        excluded,
    }
}

/// Of the nodes that can, those on which the group is thinnest.
fn keep_thinnest(candidates: &mut [Candidate]) {
    let fit = candidates.iter().filter(|it| it.excluded.is_none());
    let thinnest = fit.map(|it| it.crowd).min();
    for candidate in candidates {
        if candidate.excluded.is_none() && Some(candidate.crowd) != thinnest {
            candidate.excluded = Some(Exclusion::Crowded);
        }
    }
}

fn full(facts: &NodeFacts) -> Option<Exclusion> {
    let (agents, max) = (facts.agents, facts.agents_max.unwrap_or(AGENTS_MAX));
    (max <= agents).then_some(Exclusion::Full { agents, max })
}

/// Why the node takes nobody, whoever it is.
fn barred(facts: &NodeFacts) -> Option<Exclusion> {
    if facts.quarantined {
        Some(Exclusion::Quarantined)
    } else if facts.cordoned {
        Some(Exclusion::Cordoned)
    } else {
        facts.silent.then_some(Exclusion::Silent)
    }
}

/// How many of the agent's group are where this node is, if it is to be spread.
fn crowd(
    request: &Request<'_>,
    name: &NodeName,
    facts: &NodeFacts,
    nodes: &BTreeMap<NodeName, NodeFacts>,
) -> usize {
    let there = |facts: &NodeFacts| facts.groups.get(request.group()).copied().unwrap_or(0);
    let Placement {
        spread, spread_by, ..
    } = request.placement;
    match (spread_by, spread) {
        (Some(label), _) => {
            let zone = facts.labels.get(label);
            let here = nodes.iter().filter(|(other, facts)| {
                // A node without the label is a place of its own.
                *other == name || (zone.is_some() && facts.labels.get(label) == zone)
            });
            here.map(|(_, facts)| there(facts)).sum()
        }
        (None, Some(_)) => there(facts),
        (None, None) => 0,
    }
}

#[cfg(test)]
mod tests;
