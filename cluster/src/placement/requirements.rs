//! What an agent asks of a node, against what the node offers (pure).

use std::collections::{BTreeMap, BTreeSet};

use regrow_runtime::agent_spec::Placement;
use serde::{Deserialize, Serialize};

use crate::member::NodeName;

/// What each preferred label that a node has adds to its score: as much as a tenth of the node
/// being filled takes away.
const PREFERENCE: f64 = 10.0;

/// Labels that a node advertises to all, such as `zone=a` or `gpu=none`.
pub type Labels = BTreeMap<String, String>;

/// Why a node cannot run an agent at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unfit {
    /// The agent is for another node alone.
    Node(String),
    /// It lacks a required label, or has it with another value.
    Label(String),
    /// It has a taint that the agent does not tolerate.
    Taint(String),
}

/// Whether a node with these labels and taints can run the agent.
///
/// # Errors
///
/// [`Unfit`] names the first thing in the way.
pub(crate) fn admit(
    placement: &Placement,
    node: &NodeName,
    labels: &Labels,
    taints: &BTreeSet<String>,
) -> Result<(), Unfit> {
    if let Some(only) = placement
        .node
        .as_ref()
        .filter(|only| *only != node.as_str())
    {
        return Err(Unfit::Node(only.clone()));
    }
    for (label, value) in &placement.required {
        if labels.get(label) != Some(value) {
            return Err(Unfit::Label(format!("{label}={value}")));
        }
    }
    match taints
        .iter()
        .find(|taint| !placement.tolerates.contains(taint))
    {
        Some(taint) => Err(Unfit::Taint(taint.clone())),
        None => Ok(()),
    }
}

/// What the node's labels add to its score.
#[must_use]
pub(super) fn preference(placement: &Placement, labels: &Labels) -> f64 {
    let wishes = placement.preferred.iter();
    wishes
        .filter(|(label, value)| labels.get(*label) == Some(value))
        .count() as f64
        * PREFERENCE
}
