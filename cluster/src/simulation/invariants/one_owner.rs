//! No two nodes act for one agent at the same instant of true time.
//!
//! Not looked at in worlds in which a machine slept with its clock: its leases promise nothing
//! then, and only effects are compared (`stale_epochs`).

use crate::simulation::world::World;

#[derive(Debug, Default)]
pub(in crate::simulation) struct OneOwner {
    pub(in crate::simulation) clocks_slept: bool,
}

impl OneOwner {
    pub(super) fn check(&self, world: &World) -> Option<String> {
        if self.clocks_slept {
            return None;
        }
        for agent in &world.agents {
            let machines = world.machines.iter().enumerate();
            let mut acting = machines.filter_map(|(n, machine)| {
                let epoch = machine.acts(agent, world.now, world.options.sabotage)?;
                Some((&world.names[n], epoch))
            });
            if let (Some((one, first)), Some((other, second))) = (acting.next(), acting.next()) {
                return Some(format!(
                    "{agent} runs on {one} under epoch {first} and on {other} under {second}"
                ));
            }
        }
        None
    }
}
