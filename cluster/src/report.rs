//! What a node says of itself, for all nodes to read (pure).
//!
//! It goes into the registry every few seconds, and into gossip every second where the node
//! gossips; the newer of the two counts. What a life offers does not change, so it holds for as
//! long as the life; figures grow old, and count as unknown from then on.

use std::collections::{BTreeMap, BTreeSet};

use regrow_runtime::registry::Life;
use serde::{Deserialize, Serialize};

use crate::placement::Labels;
use crate::placement::scr::Figures;

/// What one life of a node says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Which life.
    pub life: Life,
    /// Grows with every report of a life.
    pub number: u64,
    /// Which version it runs.
    #[serde(default)]
    pub version: String,
    /// What it offers, and what it can do.
    #[serde(flatten)]
    pub offer: Offer,
    /// How busy it is, in thousandths.
    #[serde(default)]
    pub load_permille: u32,
    /// Its queue and agents.
    #[serde(default)]
    pub scr: Figures,
    /// It stops in order: that its life ends is no trouble.
    #[serde(default)]
    pub leaving: bool,
    /// How often it noticed trouble with itself in this life, by name; see
    /// [`Trouble`](crate::quarantine::Trouble).
    #[serde(default)]
    pub troubles: BTreeMap<String, u64>,
}

/// What a node offers, as it is configured: the same for all its life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Offer {
    /// Such as `zone=a`.
    pub labels: Labels,
    /// What keeps agents away that do not tolerate it.
    pub taints: BTreeSet<String>,
    /// Agents that it takes; without a bound, [`AGENTS_MAX`](crate::placement::AGENTS_MAX).
    pub agents_max: Option<usize>,
    /// Classes of work that it can do, for the policy `scr`.
    pub capabilities: BTreeSet<String>,
}

impl NodeReport {
    /// What a life offers of which nothing else is known yet.
    #[must_use]
    pub fn first(life: Life, version: &str, offer: Offer) -> Self {
        Self {
            life,
            number: 1,
            version: version.to_owned(),
            offer,
            load_permille: 0,
            scr: Figures::default(),
            leaving: false,
            troubles: BTreeMap::new(),
        }
    }
}
