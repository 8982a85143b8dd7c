//! When the faults have stopped, everything comes to rest: all nodes are members and agree,
//! each agent that is wanted runs on one node that may have it, or waits and says so if none is there
//! that may, and no task is left.

use std::collections::BTreeSet;

use crate::member::{Member, NodeName};
use crate::simulation::world::World;

/// What is still unrest, if anything is.
pub(in crate::simulation) fn unrest(world: &World) -> Option<String> {
    let up: Vec<_> = world.up().map(|(_, node)| node).collect();
    if up.len() < world.machines.len() || world.machines.iter().any(|m| m.pause.is_some()) {
        return Some("a node is not back".into());
    }
    let members: BTreeSet<Member> = up.iter().map(|node| node.me().clone()).collect();
    for node in &up {
        let me = node.me();
        let membership = node.membership();
        if world.database.is_none()
            && (*membership.counted() != members || !membership.is_settled())
        {
            return Some(format!("{me} counts {:?} as members", membership.counted()));
        }
        if node.specs().digest() != up[0].specs().digest() {
            return Some(format!(
                "{me} knows other specifications than {}",
                up[0].me()
            ));
        }
    }
    let mut waiting = 0;
    for spec in up[0].specs().wanted() {
        let owners: Vec<&Member> = world
            .up()
            .filter(|(n, _)| {
                world.machines[*n]
                    .acts(&spec.id, world.now, world.options.sabotage)
                    .is_some()
            })
            .map(|(_, node)| node.me())
            .collect();
        let kept_out = |name: &NodeName| up.iter().any(|n| n.quarantine().is_quarantined(name));
        let fitting = world.fitting(&spec.placement);
        if fitting.iter().all(|name| kept_out(name)) {
            waiting += 1;
            let says = up.iter().enumerate().any(|(n, node)| {
                let local = world.machines[n].clock.local(world.now);
                node.waits(&spec.id, local).is_some()
            });
            if owners.is_empty() && says {
                continue;
            }
            return Some(format!(
                "{} can be nowhere: it is on {owners:?}, and that it waits is said: {says}",
                spec.id
            ));
        }
        let [owner] = owners[..] else {
            return Some(format!("{} runs on {owners:?}", spec.id));
        };
        if kept_out(&owner.name) {
            return Some(format!("{} runs on {owner}, which is quarantined", spec.id));
        }
    }
    if let Some(forgotten) = world.invariants.changes.forgotten(world) {
        return Some(forgotten);
    }
    let wanted = up[0].specs().wanted().count();
    let open = world.invariants.tasks.open();
    let runs = wanted - waiting;
    (0 < open && runs == world.agents.len()).then(|| format!("{open} tasks are not done"))
}
