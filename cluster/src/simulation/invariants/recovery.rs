//! When the faults have stopped, everything comes to rest: all nodes are members and agree,
//! each agent that is wanted runs on one node that may have it, and no task is left.

use std::collections::BTreeSet;

use crate::member::Member;
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
        let [owner] = owners[..] else {
            return Some(format!("{} runs on {owners:?}", spec.id));
        };
        if up
            .iter()
            .any(|node| node.quarantine().is_quarantined(&owner.name))
        {
            return Some(format!("{} runs on {owner}, which is quarantined", spec.id));
        }
    }
    if let Some(forgotten) = world.invariants.changes.forgotten(world) {
        return Some(forgotten);
    }
    let wanted = up[0].specs().wanted().count();
    let open = world.invariants.tasks.open();
    (0 < open && wanted == world.agents.len()).then(|| format!("{open} tasks are not done"))
}
