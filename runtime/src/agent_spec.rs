//! What an agent is to be, as data: what is kept, placed, and handed from node to node.
//!
//! The role catalogue turns a spec into a child, on whichever node owns it. Nothing of the
//! agent itself moves with it: what it works on is in the queue, what it has finished in the
//! journal, and who may act for it is the registry's to say.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::AgentId;
use crate::json::Json;
use crate::role::Role;
use crate::supervision::Restart;

/// Longest name of an agent: with [`ADDRESSED`] before it, it is a kind of task.
pub const NAME_BYTES_MAX: usize = 56;
/// Labels that a spec may ask for.
const LABELS_MAX: usize = 32;
/// Longest label and longest value.
const LABEL_BYTES_MAX: usize = 128;
/// Restarts that may be allowed in one period.
const RESTARTS_MAX: u32 = 100;
/// Tasks of the kind `agent.NAME` are for the agent NAME alone.
pub const ADDRESSED: &str = "agent.";

/// What an agent is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSpec {
    /// Its name: unique in the whole cluster.
    pub id: AgentId,
    /// What it does.
    pub role: Role,
    /// When it is started again after it ended, on whichever node.
    #[serde(default)]
    pub restart: Restart,
    /// How often.
    #[serde(default)]
    pub intensity: Intensity,
    /// Where it may run.
    #[serde(default)]
    pub placement: Placement,
}

/// Restarts that are allowed, on all nodes together, until the agent is parked. OTP's restart
/// intensity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intensity {
    /// This many,
    pub restarts_max: u32,
    /// within any time of this length, in milliseconds.
    pub within_ms: u64,
}

impl Intensity {
    /// Length of the window.
    #[must_use]
    pub fn within(self) -> Duration {
        Duration::from_millis(self.within_ms)
    }
}

impl Default for Intensity {
    fn default() -> Self {
        Self {
            restarts_max: 5,
            within_ms: 60_000,
        }
    }
}

/// Where an agent may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// Only on this node; it waits while that one is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Only on nodes that have all of these labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub required: BTreeMap<String, String>,
    /// Rather on nodes that have these labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub preferred: BTreeMap<String, String>,
    /// Also on nodes that have these taints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerates: Vec<String>,
    /// It is kept apart from the other agents of this group: the fewer of them are on a node,
    /// the rather it goes there, whatever else speaks for another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
    /// Nodes that agree in this label's value count as one place for that, such as `zone`.
    /// Without a group it is kept apart from the others of its role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread_by: Option<String>,
    /// How a node is chosen among those where it may run; otherwise as the nodes are set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyName>,
    /// Its class of work, for the policy `scr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
}

/// How a node is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyName {
    /// The better of two that can, drawn by lot.
    #[default]
    Balanced,
    /// The best by the formula of SCR.
    Scr,
}

impl PolicyName {
    /// Its name, as in specs and decisions.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Balanced => "balanced",
            Self::Scr => "scr",
        }
    }
}

/// A spec cannot be used: everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InvalidSpec(pub Vec<String>);

impl fmt::Display for InvalidSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl AgentSpec {
    /// An agent of this role, started again whenever it ends, anywhere.
    #[must_use]
    pub fn new(id: AgentId, role: Role) -> Self {
        Self {
            id,
            role,
            restart: Restart::Permanent,
            intensity: Intensity::default(),
            placement: Placement::default(),
        }
    }

    /// The kind of the tasks that are for this agent alone.
    #[must_use]
    pub fn addressed_kind(&self) -> String {
        addressed_kind(&self.id)
    }

    /// Checks names and bounds.
    ///
    /// # Errors
    ///
    /// [`InvalidSpec`] names everything that is wrong.
    pub fn check(&self) -> Result<(), InvalidSpec> {
        let mut problems = Vec::new();
        let id = self.id.as_str();
        let of_name = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c);
        if id.is_empty() || NAME_BYTES_MAX < id.len() || !id.bytes().all(of_name) {
            problems.push(format!(
                "id is {id:?}, must be 1 to {NAME_BYTES_MAX} of a-z, 0-9, `.`, `_` and `-`"
            ));
        }
        if RESTARTS_MAX < self.intensity.restarts_max {
            problems.push(format!(
                "intensity.restarts_max is {}, at most {RESTARTS_MAX}",
                self.intensity.restarts_max
            ));
        }
        if !(1_000..=86_400_000).contains(&self.intensity.within_ms) {
            problems.push(format!(
                "intensity.within_ms is {}, must be 1000 to 86400000",
                self.intensity.within_ms
            ));
        }
        let Placement {
            node,
            required,
            preferred,
            tolerates,
            spread,
            spread_by,
            policy,
            class,
        } = &self.placement;
        let pairs = required.iter().chain(preferred);
        let words = pairs.flat_map(|(label, value)| [label, value]);
        let words = words.chain(tolerates).chain(node);
        let words = words.chain(spread).chain(spread_by).chain(class);
        for word in words.filter(|word| word.is_empty() || LABEL_BYTES_MAX < word.len()) {
            let found: String = word.chars().take(40).collect();
            problems.push(format!(
                "placement has {found:?}, names have 1 to {LABEL_BYTES_MAX} bytes"
            ));
        }
        if class.is_some() && *policy == Some(PolicyName::Balanced) {
            problems.push(
                "placement.class is for the policy `scr`; leave it out, or ask for `scr`"
                    .to_owned(),
            );
        }
        for (label, value) in required {
            if let Some(other) = preferred.get(label).filter(|other| *other != value) {
                problems.push(format!(
                    "placement requires {label}={value} and prefers {label}={other}, which no node \
                     can offer both; leave one out"
                ));
            }
        }
        let count = required.len() + preferred.len() + tolerates.len();
        if LABELS_MAX < count {
            problems.push(format!(
                "placement names {count} labels, at most {LABELS_MAX}"
            ));
        }
        match problems.is_empty() {
            true => Ok(()),
            false => Err(InvalidSpec(problems)),
        }
    }
}

/// Payload of a task that is for one agent alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Kind of the work, one of those that the agent's role knows.
    pub kind: String,
    /// Payload of the work.
    #[serde(default = "Json::null")]
    pub payload: Json,
}

/// The kind of the tasks that are for this agent alone.
#[must_use]
pub fn addressed_kind(id: &AgentId) -> String {
    format!("{ADDRESSED}{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_refused_with_everything_that_is_wrong() {
        let mut spec = AgentSpec::new(AgentId::new("Scout 1"), Role::Worker);
        spec.intensity = Intensity {
            restarts_max: 1_000,
            within_ms: 0,
        };
        spec.placement
            .required
            .insert(String::new(), "eu".to_owned());
        let InvalidSpec(problems) = spec.check().expect_err("wrong");
        assert_eq!(problems.len(), 4, "{problems:?}");
        let mut torn = AgentSpec::new(AgentId::new("scout"), Role::Worker);
        let zone = |value: &str| [("zone".to_owned(), value.to_owned())].into();
        (torn.placement.required, torn.placement.preferred) = (zone("a"), zone("b"));
        torn.placement.class = Some("cpu".to_owned());
        torn.placement.policy = Some(PolicyName::Balanced);
        let InvalidSpec(problems) = torn.check().expect_err("it cannot be had");
        assert_eq!(problems.len(), 2, "{problems:?}");
        let spec = AgentSpec::new(AgentId::new("scout-1"), Role::Worker);
        assert_eq!(spec.check(), Ok(()));
        assert_eq!(spec.addressed_kind(), "agent.scout-1");
    }

    #[test]
    fn a_spec_of_a_few_words_has_the_defaults() {
        let spec: AgentSpec =
            serde_json::from_str(r#"{"id":"scout","role":"worker"}"#).expect("a spec");
        assert_eq!(spec, AgentSpec::new(AgentId::new("scout"), Role::Worker));
        let text = serde_json::to_string(&spec).expect("JSON");
        assert_eq!(
            serde_json::from_str::<AgentSpec>(&text).expect("a spec"),
            spec
        );
        assert!(serde_json::from_str::<AgentSpec>(r#"{"id":"x","role":"worker","y":1}"#).is_err());
    }
}
