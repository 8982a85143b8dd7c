//! A choice with its reasons.

use std::fmt::{self, Write};

use regrow_runtime::ids::AgentId;
use serde::{Deserialize, Serialize, Serializer};

use super::requirements::Unfit;
use crate::member::NodeName;

/// One part of a score.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Term {
    /// What it is for.
    pub name: &'static str,
    /// What it adds.
    pub value: f64,
}

impl Term {
    pub(super) fn new(name: &'static str, value: f64) -> Self {
        Self { name, value }
    }
}

/// Why a node was not taken into account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exclusion {
    /// It has said nothing of itself yet.
    Silent,
    /// It must own nothing.
    Quarantined,
    /// It takes no agents.
    Cordoned,
    /// It has as many agents as it can have, with those that are on their way.
    Full {
        /// How many.
        agents: usize,
        /// Of how many.
        max: usize,
    },
    /// It is not what the agent asks for.
    Unfit(Unfit),
    /// More of the agent's group are there than elsewhere.
    Crowded,
    /// Its queue is as full as a node's may be.
    Backpressured,
    /// A hard bound of SCR's policy is reached.
    Constrained,
    /// It cannot do the agent's class of work.
    Incompatible,
}

/// One node, and how it did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// Which.
    pub node: NodeName,
    /// The sum of its terms.
    pub score: f64,
    /// What the score is made of.
    pub terms: Vec<Term>,
    /// How many of the agent's group are there already.
    pub crowd: usize,
    /// How old what it said of itself was, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// Why it was out of the question, if it was.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "in_words")]
    pub excluded: Option<Exclusion>,
}

/// Why nobody was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum NoPlace {
    /// No node is up and free of quarantine.
    #[error("no healthy nodes: every node is down or quarantined")]
    NoHealthyNodes,
    /// All queues are full.
    #[error("every healthy node's queue is full; wait, or add workers")]
    ClusterBackpressured,
    /// Somebody is there, and nobody may.
    #[error("no healthy node may run it; relax its requirements or the nodes' bounds")]
    ClusterConstrained,
}

/// Everything that was considered, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    /// For which agent.
    pub agent: AgentId,
    /// By which policy.
    pub policy: &'static str,
    /// The node, or why there is none.
    #[serde(serialize_with = "outcome")]
    pub outcome: Result<NodeName, NoPlace>,
    /// Decided the lot.
    pub seed: u64,
    /// The nodes that were drawn by lot; the better of them was chosen. Empty if the policy
    /// draws none.
    pub drawn: Vec<NodeName>,
    /// All nodes, in order of their names.
    pub candidates: Vec<Candidate>,
    /// How many more there were, where only some are kept.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: usize,
}

fn in_words<S: Serializer>(excluded: &Option<Exclusion>, to: S) -> Result<S::Ok, S::Error> {
    match excluded {
        Some(excluded) => to.collect_str(excluded),
        None => to.serialize_none(),
    }
}

/// As `{"node": ...}` or `{"nowhere": ...}`.
fn outcome<S: Serializer>(outcome: &Result<NodeName, NoPlace>, to: S) -> Result<S::Ok, S::Error> {
    match outcome {
        Ok(node) => to.collect_map([("node", node.as_str())]),
        Err(reason) => to.collect_map([("nowhere", reason.to_string())]),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Candidates that are kept with a decision: the best, and whoever was drawn.
const KEPT_MAX: usize = 16;

impl Decision {
    /// The decision as it is kept: of many candidates only the best, and those drawn by lot.
    #[must_use]
    pub fn kept(mut self) -> Self {
        let mut order: Vec<NodeName> = self.ranking().into_iter().cloned().collect();
        order.truncate(KEPT_MAX);
        let before = self.candidates.len();
        let mut room = KEPT_MAX - order.len();
        self.candidates.retain(|candidate| {
            let other = !order.contains(&candidate.node) && 0 < room;
            room -= usize::from(other);
            other || order.contains(&candidate.node)
        });
        self.left_out += before - self.candidates.len();
        self
    }

    /// The nodes that may have it, the chosen one first, then those drawn with it, then by
    /// score. The next one takes it if those before it do not.
    #[must_use]
    pub fn ranking(&self) -> Vec<&NodeName> {
        let fit = self.candidates.iter();
        let mut fit: Vec<&Candidate> = fit.filter(|it| it.excluded.is_none()).collect();
        let place = |candidate: &Candidate| {
            let chosen = self.outcome.as_ref() == Ok(&candidate.node);
            (!chosen, !self.drawn.contains(&candidate.node))
        };
        fit.sort_by(|one, other| {
            place(one)
                .cmp(&place(other))
                .then_with(|| other.score.total_cmp(&one.score))
                .then_with(|| one.node.cmp(&other.node))
        });
        fit.into_iter().map(|candidate| &candidate.node).collect()
    }

    /// What spoke for the chosen node, in a line.
    #[must_use]
    pub fn because(&self) -> String {
        let chosen = self.outcome.as_ref().ok();
        let chosen = chosen.and_then(|name| self.candidates.iter().find(|it| it.node == *name));
        let Some(chosen) = chosen else {
            return "nobody may have it".to_owned();
        };
        let terms = chosen.terms.iter().filter(|term| term.value != 0.0);
        let terms: Vec<String> = terms
            .map(|term| format!("{} {:+.2}", term.name, term.value))
            .collect();
        let mut text = format!("policy {}, score {:.2}", self.policy, chosen.score);
        if !terms.is_empty() {
            // Writing to a string cannot fail.
            let _ = write!(text, " ({})", terms.join(", "));
        }
        let others = self.drawn.iter().filter(|name| **name != chosen.node);
        let others: Vec<&str> = others.map(NodeName::as_str).collect();
        if !others.is_empty() {
            let _ = write!(text, ", drawn with {}", others.join(", "));
        }
        let out = self.candidates.iter().filter(|it| it.excluded.is_some());
        match out.count() {
            0 => {}
            count => {
                let _ = write!(text, ", {count} ruled out");
            }
        }
        text
    }

    /// The decision as text, a line per node: why here, and why not there.
    #[must_use]
    pub fn explain(&self) -> String {
        let mut text = match &self.outcome {
            Ok(node) => format!("{} goes to {node} by policy {}", self.agent, self.policy),
            Err(reason) => format!("{} goes nowhere: {reason}", self.agent),
        };
        for candidate in &self.candidates {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n  {} {:.2}", candidate.node, candidate.score);
            for term in &candidate.terms {
                let _ = write!(text, ", {} {:+.2}", term.name, term.value);
            }
            if let Some(excluded) = &candidate.excluded {
                let _ = write!(text, "; out: {excluded}");
            } else if self.outcome.as_ref() == Ok(&candidate.node) {
                text.push_str("; chosen");
            } else if self.drawn.contains(&candidate.node) {
                text.push_str("; drawn");
            }
        }
        text
    }
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("has said nothing of itself yet"),
            Self::Quarantined => f.write_str("quarantined"),
            Self::Cordoned => f.write_str("cordoned"),
            Self::Full { agents, max } => write!(f, "full, {agents} of {max} agents"),
            Self::Unfit(Unfit::Node(only)) => write!(f, "it is for {only} alone"),
            Self::Unfit(Unfit::Label(label)) => write!(f, "lacks the required label {label}"),
            Self::Unfit(Unfit::Taint(taint)) => write!(f, "has the taint {taint}"),
            Self::Crowded => f.write_str("more of its group are there than elsewhere"),
            Self::Backpressured => f.write_str("its queue is full"),
            Self::Constrained => f.write_str("a bound of the node is reached"),
            Self::Incompatible => f.write_str("cannot do this class of work"),
        }
    }
}

/// Why nobody is left of these.
pub(super) fn no_place(candidates: &[Candidate]) -> NoPlace {
    let out = |which: fn(&Exclusion) -> bool| {
        candidates
            .iter()
            .all(|candidate| candidate.excluded.as_ref().is_some_and(which))
    };
    if out(|exclusion| *exclusion == Exclusion::Quarantined) {
        NoPlace::NoHealthyNodes
    } else if out(|e| matches!(e, Exclusion::Quarantined | Exclusion::Backpressured)) {
        NoPlace::ClusterBackpressured
    } else {
        NoPlace::ClusterConstrained
    }
}
