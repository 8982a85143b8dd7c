//! A task that was acknowledged is done, or is still kept somewhere that survives.
//!
//! Without a database that is the disk of the node that acknowledged it: with the disk the
//! task is lost, and that is promised.

use std::collections::BTreeSet;

use crate::simulation::world::World;

#[derive(Debug, Default)]
pub(in crate::simulation) struct AcknowledgedTasks {
    /// Acknowledged, not done, and not lost with a disk.
    open: BTreeSet<u64>,
    /// Whether anything happened to tasks since they were looked at.
    changed: bool,
}

impl AcknowledgedTasks {
    pub(in crate::simulation) fn acknowledged(&mut self, task: u64) {
        self.open.insert(task);
        self.changed = true;
    }

    pub(in crate::simulation) fn done(&mut self, task: u64) {
        self.open.remove(&task);
        self.changed = true;
    }

    pub(in crate::simulation) fn disk_lost<'a>(&mut self, tasks: impl Iterator<Item = &'a u64>) {
        for task in tasks {
            self.open.remove(task);
        }
        self.changed = true;
    }

    /// How many are not done.
    pub(in crate::simulation) fn open(&self) -> usize {
        self.open.len()
    }

    pub(super) fn check(&mut self, world: &World) -> Option<String> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let kept = |task: &u64| {
            world.stored.contains_key(task)
                || world
                    .machines
                    .iter()
                    .any(|machine| machine.disk.tasks.contains_key(task))
        };
        let lost = self.open.iter().find(|task| !kept(task))?;
        Some(format!(
            "task {lost} was acknowledged, is not done, and is nowhere"
        ))
    }
}
