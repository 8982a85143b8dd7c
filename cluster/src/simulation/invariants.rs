//! What must hold, a file each.

pub(super) mod acknowledged_changes;
pub(super) mod acknowledged_tasks;
mod fitting_nodes;
pub(super) mod one_owner;
pub(super) mod quarantined_idle;
pub(super) mod recovery;
pub(super) mod stale_epochs;

use super::world::World;

/// What the invariants remember of what happened.
#[derive(Debug, Default)]
pub(super) struct Invariants {
    pub(super) owner: one_owner::OneOwner,
    pub(super) epochs: stale_epochs::StaleEpochs,
    pub(super) changes: acknowledged_changes::AcknowledgedChanges,
    pub(super) tasks: acknowledged_tasks::AcknowledgedTasks,
    pub(super) quarantine: quarantined_idle::QuarantinedIdle,
}

impl Invariants {
    /// Looks at the world after an event, on this node's process if on one. Returns the first
    /// invariant that is broken, and how.
    pub(super) fn check(
        &mut self,
        world: &World,
        node: Option<usize>,
    ) -> Option<(&'static str, String)> {
        if let Some(detail) = self.owner.check(world) {
            return Some(("one_owner", detail));
        }
        if let Some(node) = node
            && let Some(detail) = fitting_nodes::misplaced(world, node)
        {
            return Some(("fitting_nodes", detail));
        }
        if let Some(node) = node
            && let Some(detail) = self.quarantine.check(world, node)
        {
            return Some(("quarantined_idle", detail));
        }
        let detail = self.tasks.check(world)?;
        Some(("acknowledged_tasks", detail))
    }
}
