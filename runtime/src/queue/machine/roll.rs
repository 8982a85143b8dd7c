//! The live tasks by id.

use std::cell::Cell;
#[cfg(test)]
use std::ops::Index;

use super::Entry;
use crate::ids::{TaskId, TaskMap};
use crate::slots::Slots;

/// A decision looks the same task up many times: the latest place is remembered.
#[derive(Debug, Default)]
pub(super) struct Roll {
    slots: TaskMap<usize>,
    entries: Slots<Entry>,
    latest: Cell<Option<(TaskId, usize)>>,
}

impl Roll {
    fn slot(&self, id: &TaskId) -> Option<usize> {
        match self.latest.get() {
            Some((latest, slot)) if latest == *id => Some(slot),
            Some(_) | None => {
                let slot = *self.slots.get(id)?;
                self.latest.set(Some((*id, slot)));
                Some(slot)
            }
        }
    }

    pub(super) fn get(&self, id: &TaskId) -> Option<&Entry> {
        self.entries.get(self.slot(id)?)
    }

    pub(super) fn get_mut(&mut self, id: &TaskId) -> Option<&mut Entry> {
        let slot = self.slot(id)?;
        self.entries.get_mut(slot)
    }

    pub(super) fn contains_key(&self, id: &TaskId) -> bool {
        self.slot(id).is_some()
    }

    /// Adds a task, in the place of an earlier one with its id.
    pub(super) fn insert(&mut self, entry: Entry) {
        let id = entry.body.id;
        self.remove(&id);
        let slot = self.entries.put(entry);
        self.slots.insert(id, slot);
        self.latest.set(Some((id, slot)));
    }

    pub(super) fn remove(&mut self, id: &TaskId) -> Option<Entry> {
        let slot = self.slots.remove(id)?;
        self.latest.set(None);
        self.entries.take(slot)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Every live task, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(super) fn reserve(&mut self, more: usize) {
        self.slots.reserve(more);
    }
}

#[cfg(test)]
impl Index<&TaskId> for Roll {
    type Output = Entry;

    fn index(&self, id: &TaskId) -> &Entry {
        self.get(id).expect("a live task")
    }
}
