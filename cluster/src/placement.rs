//! Which node should own an agent, and why (pure).
//!
//! Two policies. `balanced` takes the nodes that can run the agent, keeps those on which its
//! group is thinnest, and of two drawn by lot takes the better: with stale figures the best of
//! all would be everybody's choice at once (Mitzenmacher, "The power of two choices", 2001).
//! What was placed and is not in the figures yet counts as reserved. `scr` is the formula of
//! the system that this one follows, to the digit: see [`scr`].
//!
//! Every choice is a [`Decision`]: all candidates with all terms, whoever was in the way, and
//! the lot. `explain` is that value as text; `what_if` is what would be decided if a node died.

mod decision;
pub mod plan;
mod requirements;
pub mod scr;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::Rng;
use rand::seq::IteratorRandom;
use regrow_runtime::agent_spec::Placement;
use regrow_runtime::ids::AgentId;
use serde::{Deserialize, Serialize};

pub use self::decision::{Candidate, Decision, Exclusion, NoPlace, Term};
pub use self::requirements::{Labels, Unfit};
use crate::local_time::LocalTime;
use crate::member::NodeName;

/// What a node says of itself, and what is known of it. Gossiped; some intervals old.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeFacts {
    /// What it offers.
    pub labels: Labels,
    /// What keeps agents away that do not tolerate it.
    pub taints: BTreeSet<String>,
    /// Agents on it.
    pub agents: usize,
    /// Agents that it can have; without a bound, a thousand.
    pub agents_max: Option<usize>,
    /// How busy it is, in thousandths of what it can do.
    pub load_permille: u32,
    /// Its queue, for the policy `scr`.
    pub scr: scr::Figures,
    /// It takes no agents; those it has stay.
    pub cordoned: bool,
    /// It must own nothing.
    pub quarantined: bool,
    /// Its share of agents in thousandths, less than a thousand on probation.
    pub share_permille: u64,
    /// Members of each group on it.
    pub groups: BTreeMap<String, usize>,
}

impl NodeFacts {
    /// A node with nothing on it that takes its full share.
    #[must_use]
    pub fn idle() -> Self {
        Self {
            share_permille: 1_000,
            ..Self::default()
        }
    }
}

/// How to choose.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The better of two that can.
    #[default]
    Balanced,
    /// The best by the formula of SCR.
    Scr(scr::Weights),
}

/// What is to be placed.
#[derive(Clone, Debug, PartialEq)]
pub struct Request<'a> {
    /// Which agent.
    pub agent: &'a AgentId,
    /// Where it may run.
    pub placement: &'a Placement,
    /// Whom it is to be spread from, such as the others of its role.
    pub group: &'a str,
    /// Its class of work, for the policy `scr`.
    pub class: Option<&'a str>,
    /// The node that decides, which `scr` favours a little.
    pub here: &'a NodeName,
}

/// Agents that were placed lately, and are not yet in what their nodes say of themselves.
#[derive(Clone, Debug)]
pub struct Reservations {
    hold: Duration,
    held: BTreeMap<AgentId, (NodeName, LocalTime)>,
}

impl Reservations {
    /// Each lasts `hold`: longer than gossip takes to everyone, shorter than matters.
    #[must_use]
    pub fn new(hold: Duration) -> Self {
        Self {
            hold,
            held: BTreeMap::new(),
        }
    }

    /// Counts an agent against a node until `hold` after `now`. At most one per agent.
    pub fn reserve(&mut self, agent: &AgentId, node: &NodeName, now: LocalTime) {
        self.held
            .retain(|_, (_, since)| now.since(*since) < self.hold);
        self.held.insert(agent.clone(), (node.clone(), now));
    }

    /// The node says it has the agent, or somebody else does.
    pub fn settle(&mut self, agent: &AgentId) {
        self.held.remove(agent);
    }

    fn on(&self, node: &NodeName, now: LocalTime) -> usize {
        let on_node = self.held.values().filter(|(on, _)| on == node);
        on_node
            .filter(|(_, since)| now.since(*since) < self.hold)
            .count()
    }
}

/// Chooses a node for an agent at `now`, and says why. Reserves nothing.
pub fn place(
    policy: &Policy,
    request: &Request<'_>,
    nodes: &BTreeMap<NodeName, NodeFacts>,
    reserved: &Reservations,
    now: LocalTime,
    rng: &mut impl Rng,
) -> Decision {
    match policy {
        Policy::Balanced => balanced(request, nodes, reserved, now, rng),
        Policy::Scr(weights) => scr::place(weights, request, nodes),
    }
}

/// What would be decided for each of these agents, one after the other, if `dead` were gone.
pub fn what_if<'a>(
    policy: &Policy,
    dead: &NodeName,
    agents: impl IntoIterator<Item = Request<'a>>,
    nodes: &BTreeMap<NodeName, NodeFacts>,
    now: LocalTime,
    rng: &mut impl Rng,
) -> Vec<Decision> {
    let mut left = nodes.clone();
    left.remove(dead);
    let nothing = Reservations::new(Duration::MAX);
    let mut decisions = Vec::new();
    for request in agents {
        let decision = place(policy, &request, &left, &nothing, now, rng);
        if let Ok(chosen) = &decision.outcome
            && let Some(facts) = left.get_mut(chosen)
        {
            // It is there then, for the next ones.
            facts.agents += 1;
            facts.scr.agents += 1;
            *facts.groups.entry(request.group.to_owned()).or_default() += 1;
        }
        decisions.push(decision);
    }
    decisions
}

fn balanced(
    request: &Request<'_>,
    nodes: &BTreeMap<NodeName, NodeFacts>,
    reserved: &Reservations,
    now: LocalTime,
    rng: &mut impl Rng,
) -> Decision {
    let mut candidates: Vec<Candidate> = nodes
        .iter()
        .map(|(name, facts)| candidate(request, name, facts, nodes, reserved, now))
        .collect();
    let thinnest = candidates
        .iter()
        .filter(|c| c.excluded.is_none())
        .map(|c| c.crowd)
        .min();
    for candidate in &mut candidates {
        if candidate.excluded.is_none() && Some(candidate.crowd) != thinnest {
            candidate.excluded = Some(Exclusion::Crowded);
        }
    }
    let fit = candidates
        .iter()
        .filter(|candidate| candidate.excluded.is_none());
    let drawn: Vec<&Candidate> = fit.sample(rng, 2);
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
        policy: "balanced",
        outcome: best.ok_or_else(|| decision::no_place(&candidates)),
        drawn,
        candidates,
    }
}

fn candidate(
    request: &Request<'_>,
    name: &NodeName,
    facts: &NodeFacts,
    nodes: &BTreeMap<NodeName, NodeFacts>,
    reserved: &Reservations,
    now: LocalTime,
) -> Candidate {
    let waiting = reserved.on(name, now);
    let (taken, bound) = (facts.agents + waiting, facts.agents_max.unwrap_or(1_000));
    let excluded = if facts.quarantined {
        Some(Exclusion::Quarantined)
    } else if facts.cordoned {
        Some(Exclusion::Cordoned)
    } else if bound <= taken {
        Some(Exclusion::Full {
            agents: taken,
            max: bound,
        })
    } else {
        let fit = requirements::admit(request.placement, name, &facts.labels, &facts.taints);
        fit.err().map(Exclusion::Unfit)
    };
    // On probation a node is as if it were smaller.
    let share = facts.share_permille.clamp(1, 1_000) as f64 / 1_000.0;
    let filled = (taken + 1) as f64 * 100.0 / (bound as f64 * share);
    let mut terms = vec![
        Term::new("filled", -filled),
        Term::new("load", -f64::from(facts.load_permille) / 10.0),
    ];
    if !request.placement.preferred.is_empty() {
        let preference = requirements::preference(request.placement, &facts.labels);
        terms.push(Term::new("preferred", preference));
    }
    Candidate {
        node: name.clone(),
        score: terms.iter().map(|term| term.value).sum(),
        terms,
        crowd: crowd(request, facts, nodes),
        excluded,
    }
}

/// How many of the agent's group are where this node is, if it is to be spread.
fn crowd(request: &Request<'_>, facts: &NodeFacts, nodes: &BTreeMap<NodeName, NodeFacts>) -> usize {
    let Some(label) = &request.placement.spread_by else {
        return 0;
    };
    let zone = facts.labels.get(label);
    let there = nodes
        .values()
        .filter(|other| other.labels.get(label) == zone);
    there
        .filter_map(|facts| facts.groups.get(request.group))
        .sum()
}

#[cfg(test)]
mod tests;
