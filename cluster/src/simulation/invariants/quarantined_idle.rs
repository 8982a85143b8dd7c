//! A node that knows itself quarantined owns nothing, and whoever ends a quarantine has seen
//! its term pass, unless an operator ended it.

use std::collections::{BTreeMap, BTreeSet};

use crate::member::NodeName;
use crate::quarantine::{Confinement, QuarantineRecord};
use crate::simulation::process::Machine;
use crate::simulation::world::World;

/// What a process held about a node, and since when.
#[derive(Clone, Debug)]
struct Seen {
    process: u64,
    record: QuarantineRecord,
    since: u64,
}

#[derive(Debug, Default)]
pub(in crate::simulation) struct QuarantinedIdle {
    seen: BTreeMap<(usize, NodeName), Seen>,
    /// Every record that anybody ever held: what is among them was not written just now.
    written: BTreeSet<(NodeName, QuarantineRecord)>,
}

impl QuarantinedIdle {
    /// An operator changed what is held on a machine: that is how it should be.
    pub(in crate::simulation) fn operator_wrote(&mut self, machine: &Machine, n: usize, now: u64) {
        let records = machine
            .node
            .iter()
            .flat_map(|node| node.quarantine().records());
        for (name, record) in records {
            let key = (n, name.clone());
            if self
                .seen
                .get(&key)
                .is_none_or(|seen| seen.record != *record)
            {
                let seen = Seen {
                    process: machine.process,
                    record: record.clone(),
                    since: now,
                };
                self.seen.insert(key, seen);
            }
        }
    }

    pub(super) fn check(&mut self, world: &World, n: usize) -> Option<String> {
        let machine = &world.machines[n];
        let node = machine.node.as_ref()?;
        let me = &world.names[n];
        for (name, record) in node.quarantine().records() {
            let key = (n, name.clone());
            let before = self
                .seen
                .get(&key)
                .filter(|seen| seen.process == machine.process);
            if before.is_some_and(|seen| seen.record == *record) {
                continue;
            }
            let fresh = self.written.insert((name.clone(), record.clone()));
            let before = before.filter(|_| fresh);
            let broken = before.and_then(|seen| ended_early(world, me, name, seen, record));
            if broken.is_some() {
                return broken;
            }
            let seen = Seen {
                process: machine.process,
                record: record.clone(),
                since: world.now,
            };
            self.seen.insert(key, seen);
        }
        if !node.quarantine().is_quarantined(me) {
            return None;
        }
        let sabotage = world.options.sabotage;
        let agent = world
            .agents
            .iter()
            .find(|a| machine.acts(a, world.now, sabotage).is_some())?;
        Some(format!(
            "{me} runs {agent} although it knows itself quarantined"
        ))
    }
}

/// A quarantine that this node ended itself before its term had passed.
fn ended_early(
    world: &World,
    me: &NodeName,
    name: &NodeName,
    before: &Seen,
    record: &QuarantineRecord,
) -> Option<String> {
    let Confinement::Quarantined { term_ms, .. } = before.record.confinement else {
        return None;
    };
    let goes_on = matches!(record.confinement, Confinement::Quarantined { .. });
    if goes_on || record.writer != *me {
        return None;
    }
    let served = world.now - before.since;
    // The clock may run fast by as much as is allowed.
    let drift = u64::from(world.config.terms.drift_ppm);
    let due = term_ms.map(|term| term - term * drift / 1_000_000 - 2);
    (due.is_none_or(|due| served < due))
        .then(|| format!("{me} ended the quarantine of {name} after {served} ms of {term_ms:?}"))
}
