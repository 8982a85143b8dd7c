//! How gates stand, for people.

use serde::Serialize;

use super::{Discipline, GateKey, Gates};
use crate::clock::Timestamp;
use crate::queue::rules::Rules;

/// How a gate stands, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GateStanding {
    /// Units there are; `null` when nothing limits them.
    pub total: Option<u64>,
    /// Units that are free now, on this node; `null` when nothing limits them.
    pub free: Option<u64>,
    /// Where nodes on one database share the units: those that this node may give out now,
    /// free and held; others have the rest, or nobody needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allotted: Option<u64>,
    /// Units held by tasks that execute.
    pub held: u64,
    /// Tasks that wait for it.
    pub parked: u64,
}

impl GateStanding {
    /// There are more units, and other nodes have them.
    pub(crate) fn waits_for_others(&self) -> bool {
        self.allotted
            .zip(self.total)
            .is_some_and(|(here, total)| here < total)
    }
}

impl Gates {
    /// How a gate stands.
    pub(crate) fn standing(&self, key: &GateKey, now: Timestamp, rules: &Rules) -> GateStanding {
        let gate = self.gates.get(key);
        let total = match key.discipline(rules) {
            Discipline::Open => None,
            Discipline::Held(total) => Some(total),
            Discipline::Refill(rate) => Some(rate.burst),
        };
        GateStanding {
            total,
            free: self.free(key, now, rules),
            allotted: self.allotted(key, key.discipline(rules)),
            held: gate.map_or(0, |gate| gate.held),
            parked: gate.map_or(0, |gate| gate.parked as u64),
        }
    }
}
