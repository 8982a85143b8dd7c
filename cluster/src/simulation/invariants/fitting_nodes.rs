//! An agent acts only on a node whose labels and taints are what it asks for, whoever decided on
//! what, from whatever was known.

use crate::simulation::world::World;

/// The first agent on this node's process that may not be there.
pub(super) fn misplaced(world: &World, node: usize) -> Option<String> {
    let machine = &world.machines[node];
    let core = machine.node.as_ref()?;
    let sabotage = world.options.sabotage;
    let specs = core.specs();
    let mut acting = world
        .agents
        .iter()
        .filter(|agent| machine.acts(agent, world.now, sabotage).is_some());
    let agent = acting.find(|agent| {
        let entry = specs.get(agent);
        entry.is_some_and(|entry| !world.fits(node, &entry.spec.placement))
    })?;
    let offer = &machine.offer;
    Some(format!(
        "{agent} runs on {}, which has the labels {:?} and the taints {:?}",
        world.names[node], offer.labels, offer.taints
    ))
}
