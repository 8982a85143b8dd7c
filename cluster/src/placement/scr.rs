//! SCR's placement, to the digit (pure).
//!
//! The score of a node is
//!
//! ```text
//! 100 - queue_size * 1.0 - workload_penalty + workload_bonus
//!     - queue_utilization * 30.0 - max(queue_growth_per_sec, 0) * 10.0
//!     - max(agent_growth_per_sec, 0) * 5.0 - agent_count * 1.0 - unhealthy_count * 15.0
//!     - recent_down_events * 5.0 - (saturated: 40.0) - (constrained: 500.0)
//!     - (quarantined: 1000.0) + (the node that was asked: 2.0)
//! ```
//!
//! rounded to two decimals, halves away from zero; utilization is `min(size / max(max, 1), 1)`.
//! The best healthy node wins that is neither backpressured nor constrained; of equals, the
//! one whose name sorts first.
//!
//! Ours differs from SCR where that is known to be wrong. Every node advertises what it can
//! do, so that nodes other than this one can be compatible at all; and an incompatible node is
//! refused only where the class is *required* (`strict`), otherwise it merely scores less. In
//! SCR both reject it. The bonus goes to the node that was asked for the agent: here every node
//! decides, and all must decide the same. Growth comes with the figures, from each node's own
//! clock, instead of from whoever asked last. A node's own bound and the spreading of groups
//! hold here, too; without them nothing differs.

use std::collections::{BTreeMap, BTreeSet};

use regrow_runtime::agent_spec::PolicyName;
use serde::{Deserialize, Serialize};

use super::decision::{self, Candidate, Decision, Exclusion, NoPlace, Term};
use super::requirements::admit;
use super::{NodeFacts, Request, crowd, full, keep_thinnest};
use crate::member::NodeName;

/// What one node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Tasks in its queue.
    pub queue_size: u64,
    /// Tasks that fit.
    pub queue_max_size: u64,
    /// Whether it refuses tasks.
    pub queue_saturated: bool,
    /// By how many its queue grows per second; negative if it shrinks.
    pub queue_growth_per_sec: f64,
    /// Agents on it.
    pub agents: u64,
    /// By how many they grow per second.
    pub agent_growth_per_sec: f64,
    /// Agents on it that do not answer probes.
    pub unhealthy: u64,
    /// By how many those grow per second. Reported, not scored.
    pub unhealthy_growth_per_sec: f64,
    /// How often it fell silent lately.
    pub recent_down_events: u64,
    /// What it can do, such as `cpu`.
    pub capabilities: BTreeSet<String>,
}

impl Figures {
    /// What a node counts as that does not answer.
    #[must_use]
    pub fn unreachable() -> Self {
        Self {
            queue_size: 1_000,
            queue_max_size: 1_000,
            queue_saturated: true,
            agents: 1_000,
            unhealthy: 1_000,
            ..Self::default()
        }
    }

    /// How full the queue is, from 0 to 1.
    #[must_use]
    pub fn utilization(&self) -> f64 {
        (self.queue_size as f64 / self.queue_max_size.max(1) as f64).min(1.0)
    }
}

/// What counts how much.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// Per task in the queue.
    pub queue_depth_weight: f64,
    /// Of a full queue.
    pub queue_utilization_weight: f64,
    /// Per task of growth per second.
    pub queue_growth_weight: f64,
    /// Per agent of growth per second.
    pub agent_growth_weight: f64,
    /// Per agent.
    pub agent_count_weight: f64,
    /// Per agent that does not answer.
    pub unhealthy_weight: f64,
    /// Per time that the node fell silent.
    pub down_event_weight: f64,
    /// Of a queue that refuses.
    pub saturated_penalty: f64,
    /// Of a reached bound.
    pub constraint_penalty: f64,
    /// Of a quarantine.
    pub quarantine_penalty: f64,
    /// For the node that was asked for the agent.
    pub local_bias: f64,
    /// Agents that a node may have; no bound if unset.
    pub max_agents_per_node: Option<u64>,
    /// Tasks that a node may have; no bound if unset.
    pub max_queue_per_node: Option<u64>,
    /// Utilization from which on a node gets nothing.
    pub max_node_utilization: f64,
    /// Mean utilization from which on the cluster takes nothing in.
    pub cluster_saturation_threshold: f64,
    /// Whether classes of work matter.
    pub workload_routing: bool,
    /// Whether a node that cannot do the class is refused, or only scores less.
    pub strict: bool,
    /// What each class of work asks for.
    pub classes: BTreeMap<String, BTreeSet<String>>,
    /// For a node that can do the class.
    pub workload_match_bonus: f64,
    /// For one that cannot; a twentieth of it where that is allowed.
    pub workload_incompatible_penalty: f64,
}

impl Default for Weights {
    fn default() -> Self {
        let class = |name: &str| (name.to_owned(), BTreeSet::from([name.to_owned()]));
        Self {
            queue_depth_weight: 1.0,
            queue_utilization_weight: 30.0,
            queue_growth_weight: 10.0,
            agent_growth_weight: 5.0,
            agent_count_weight: 1.0,
            unhealthy_weight: 15.0,
            down_event_weight: 5.0,
            saturated_penalty: 40.0,
            constraint_penalty: 500.0,
            quarantine_penalty: 1_000.0,
            local_bias: 2.0,
            max_agents_per_node: None,
            max_queue_per_node: None,
            max_node_utilization: 0.98,
            cluster_saturation_threshold: 0.85,
            workload_routing: false,
            strict: false,
            classes: ["cpu", "io", "external_api"].map(class).into(),
            workload_match_bonus: 10.0,
            workload_incompatible_penalty: 2_000.0,
        }
    }
}

/// One node's score with everything that went into it: the fields of SCR's report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// Which node.
    pub node: NodeName,
    /// Its score.
    pub score: f64,
    /// See [`Figures`].
    pub queue_size: u64,
    /// See [`Figures`].
    pub queue_max_size: u64,
    /// How full its queue is.
    pub queue_utilization: f64,
    /// See [`Figures`].
    pub queue_saturated: bool,
    /// See [`Figures`].
    pub queue_growth_per_sec: f64,
    /// See [`Figures`].
    pub agent_count: u64,
    /// See [`Figures`].
    pub agent_growth_per_sec: f64,
    /// See [`Figures`].
    pub unhealthy_count: u64,
    /// See [`Figures`].
    pub unhealthy_growth_per_sec: f64,
    /// See [`Figures`].
    pub recent_down_events: u64,
    /// See [`Weights`].
    pub max_agents_per_node: Option<u64>,
    /// See [`Weights`].
    pub max_queue_per_node: Option<u64>,
    /// It has as many agents as it may have.
    pub agent_capacity_exceeded: bool,
    /// It has as many tasks as it may have.
    pub queue_capacity_exceeded: bool,
    /// The class that was asked for.
    pub workload_class: Option<String>,
    /// Whether it can do that.
    pub workload_compatible: bool,
    /// What that costs.
    pub workload_penalty: f64,
    /// What that brings.
    pub workload_bonus: f64,
    /// A bound is reached.
    pub constrained: bool,
    /// It must own nothing.
    pub quarantined: bool,
}

/// Scores one node.
#[must_use]
pub fn entry(
    weights: &Weights,
    class: Option<&str>,
    here: Option<&str>,
    node: &NodeName,
    facts: &NodeFacts,
) -> Entry {
    let figures = &facts.scr;
    let reached = |value: u64, bound: Option<u64>| bound.is_some_and(|bound| bound <= value);
    let agent_capacity_exceeded = reached(figures.agents, weights.max_agents_per_node);
    let queue_capacity_exceeded = reached(figures.queue_size, weights.max_queue_per_node);
    let (compatible, penalty, bonus) = workload(weights, class, &figures.capabilities);
    let mut entry = Entry {
        node: node.clone(),
        score: 0.0,
        queue_size: figures.queue_size,
        queue_max_size: figures.queue_max_size,
        queue_utilization: figures.utilization(),
        queue_saturated: figures.queue_saturated,
        queue_growth_per_sec: figures.queue_growth_per_sec,
        agent_count: figures.agents,
        agent_growth_per_sec: figures.agent_growth_per_sec,
        unhealthy_count: figures.unhealthy,
        unhealthy_growth_per_sec: figures.unhealthy_growth_per_sec,
        recent_down_events: figures.recent_down_events,
        max_agents_per_node: weights.max_agents_per_node,
        max_queue_per_node: weights.max_queue_per_node,
        agent_capacity_exceeded,
        queue_capacity_exceeded,
        workload_class: class.map(str::to_owned),
        workload_compatible: compatible,
        workload_penalty: penalty,
        workload_bonus: bonus,
        constrained: agent_capacity_exceeded || queue_capacity_exceeded,
        quarantined: facts.quarantined,
    };
    let terms = terms(weights, &entry, here);
    entry.score = round(terms.iter().fold(100.0, |score, term| score + term.value));
    entry
}

/// What is added to 100, in the order of the formula.
fn terms(weights: &Weights, entry: &Entry, here: Option<&str>) -> Vec<Term> {
    let when = |holds: bool, value: f64| if holds { value } else { 0.0 };
    vec![
        Term::new(
            "queue_size",
            -(entry.queue_size as f64) * weights.queue_depth_weight,
        ),
        Term::new("workload_penalty", -entry.workload_penalty),
        Term::new("workload_bonus", entry.workload_bonus),
        Term::new(
            "queue_utilization",
            -entry.queue_utilization * weights.queue_utilization_weight,
        ),
        Term::new(
            "queue_growth",
            -entry.queue_growth_per_sec.max(0.0) * weights.queue_growth_weight,
        ),
        Term::new(
            "agent_growth",
            -entry.agent_growth_per_sec.max(0.0) * weights.agent_growth_weight,
        ),
        Term::new(
            "agents",
            -(entry.agent_count as f64) * weights.agent_count_weight,
        ),
        Term::new(
            "unhealthy",
            -(entry.unhealthy_count as f64) * weights.unhealthy_weight,
        ),
        Term::new(
            "down_events",
            -(entry.recent_down_events as f64) * weights.down_event_weight,
        ),
        Term::new(
            "saturated",
            -when(entry.queue_saturated, weights.saturated_penalty),
        ),
        Term::new(
            "constrained",
            -when(entry.constrained, weights.constraint_penalty),
        ),
        Term::new(
            "quarantined",
            -when(entry.quarantined, weights.quarantine_penalty),
        ),
        Term::new(
            "local",
            when(here == Some(entry.node.as_str()), weights.local_bias),
        ),
    ]
}

/// Whether a node can do the class, what it costs if not, and what it brings if so.
fn workload(
    weights: &Weights,
    class: Option<&str>,
    capabilities: &BTreeSet<String>,
) -> (bool, f64, f64) {
    let needs = class
        .filter(|_| weights.workload_routing)
        .and_then(|c| weights.classes.get(c));
    match needs {
        None => (true, 0.0, 0.0),
        Some(needs) if needs.is_subset(capabilities) => (true, 0.0, weights.workload_match_bonus),
        Some(_) if weights.strict => (false, weights.workload_incompatible_penalty, 0.0),
        Some(_) => (false, weights.workload_incompatible_penalty / 20.0, 0.0),
    }
}

/// Chooses by score.
#[must_use]
pub fn place(
    weights: &Weights,
    request: &Request<'_>,
    nodes: &BTreeMap<NodeName, NodeFacts>,
) -> Decision {
    let mut candidates = Vec::new();
    for (node, facts) in nodes {
        let class = request.placement.class.as_deref();
        let entry = entry(weights, class, request.asked_of, node, facts);
        let fit = admit(request.placement, node, &facts.labels, &facts.taints);
        let excluded = if entry.quarantined {
            Some(Exclusion::Quarantined)
        } else if facts.silent {
            Some(Exclusion::Silent)
        } else if weights.max_node_utilization <= entry.queue_utilization {
            Some(Exclusion::Backpressured)
        } else if entry.constrained {
            Some(Exclusion::Constrained)
        } else if weights.strict && !entry.workload_compatible {
            Some(Exclusion::Incompatible)
        } else if facts.cordoned {
            Some(Exclusion::Cordoned)
        } else {
            fit.err().map(Exclusion::Unfit).or_else(|| full(facts))
        };
        candidates.push(Candidate {
            node: node.clone(),
            score: entry.score,
            terms: terms(weights, &entry, request.asked_of),
            crowd: crowd(request, node, facts, nodes),
            age_ms: facts.age_ms,
            excluded,
        });
    }
    keep_thinnest(&mut candidates);
    let fit = candidates
        .iter()
        .filter(|candidate| candidate.excluded.is_none());
    let best = fit.max_by(|one, other| {
        one.score
            .total_cmp(&other.score)
            .then_with(|| other.node.cmp(&one.node))
    });
    Decision {
        agent: request.agent.clone(),
        policy: PolicyName::Scr.as_str(),
        outcome: match best {
            Some(best) => Ok(best.node.clone()),
            None if candidates.is_empty() => Err(NoPlace::NoHealthyNodes),
            None => Err(decision::no_place(&candidates)),
        },
        seed: request.seed,
        drawn: Vec::new(),
        candidates,
        left_out: 0,
    }
}

/// Whether the cluster as a whole should take nothing in: its queues are full on average, or
/// one is full. As in SCR, one full node stops the intake of all.
#[must_use]
pub fn is_backpressured<'a>(weights: &Weights, nodes: impl Iterator<Item = &'a Figures>) -> bool {
    let utilizations: Vec<f64> = nodes.map(Figures::utilization).collect();
    let mean = utilizations.iter().sum::<f64>() / utilizations.len().max(1) as f64;
    let most = utilizations.iter().copied().fold(0.0, f64::max);
    !utilizations.is_empty()
        && (weights.cluster_saturation_threshold <= mean || weights.max_node_utilization <= most)
}

/// To two decimals, as Elixir's `Float.round` does: by the number's exact decimal expansion,
/// halves away from zero. Exact halves of a hundredth are odd multiples of an eighth.
fn round(value: f64) -> f64 {
    if (value * 8.0).fract() == 0.0 {
        (value * 100.0).round() / 100.0
    } else {
        format!("{value:.2}").parse().unwrap_or(value)
    }
}

#[cfg(test)]
mod tests;
