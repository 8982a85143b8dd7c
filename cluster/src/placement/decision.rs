//! A choice with its reasons.

use std::fmt::Write;

use regrow_runtime::ids::AgentId;
use serde::{Deserialize, Serialize};

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
    /// Why it was out of the question, if it was.
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
    pub outcome: Result<NodeName, NoPlace>,
    /// The nodes that were drawn by lot; the better of them was chosen. Empty if the policy
    /// draws none.
    pub drawn: Vec<NodeName>,
    /// All nodes, in order of their names.
    pub candidates: Vec<Candidate>,
}

impl Decision {
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
                let _ = write!(text, "; out: {}", describe(excluded));
            } else if self.outcome.as_ref() == Ok(&candidate.node) {
                text.push_str("; chosen");
            } else if self.drawn.contains(&candidate.node) {
                text.push_str("; drawn");
            }
        }
        text
    }
}

fn describe(exclusion: &Exclusion) -> String {
    match exclusion {
        Exclusion::Quarantined => "quarantined".into(),
        Exclusion::Cordoned => "cordoned".into(),
        Exclusion::Full { agents, max } => format!("full, {agents} of {max} agents"),
        Exclusion::Unfit(Unfit::Node(only)) => format!("it is for {only} alone"),
        Exclusion::Unfit(Unfit::Label(label)) => format!("lacks the required label {label}"),
        Exclusion::Unfit(Unfit::Taint(taint)) => format!("has the taint {taint}"),
        Exclusion::Crowded => "more of its group are there than elsewhere".into(),
        Exclusion::Backpressured => "its queue is full".into(),
        Exclusion::Constrained => "a bound of the node is reached".into(),
        Exclusion::Incompatible => "cannot do this class of work".into(),
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
