//! Tasks that live on other nodes, as far as somebody here waits for them (pure).
//!
//! A distant task counts for those who wait for it as a live one does. Its end is read from
//! the store and told with [`Machine::distant_news`]; told late, twice, or after the task
//! has come to live here, it changes nothing that it should not.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use super::{Dependencies, Machine};
use crate::clock::Timestamp;
use crate::ids::TaskId;
use crate::queue::order::{NewOrder, Verb};
use crate::queue::task::TaskState;

/// A distant task and who waits for it here.
#[derive(Debug)]
struct Distant {
    /// Distinguishes this stay elsewhere from others of the same task.
    stay: u64,
    /// Where it stood when somebody looked last.
    state: TaskState,
    dependants: Vec<TaskId>,
    /// Its parent, if that lives here and counts it.
    parent: Option<TaskId>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    tasks: HashMap<TaskId, Distant>,
    stays: u64,
}

/// A task whose end is waited for, to be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sought {
    pub(crate) id: TaskId,
    stay: u64,
}

/// How a distant task stands.
#[derive(Clone, Debug)]
pub(crate) struct News {
    pub(crate) state: TaskState,
    /// Why it did not complete.
    pub(crate) error: Option<String>,
}

/// A child that lives on another node, or that ended there without completing while its
/// parent waited and nobody told it.
#[derive(Clone, Debug)]
pub(crate) struct DistantChild {
    pub(crate) parent: TaskId,
    pub(crate) child: TaskId,
    pub(crate) news: News,
}

impl Elsewhere {
    fn of(&mut self, id: TaskId, state: TaskState) -> &mut Distant {
        match self.tasks.entry(id) {
            Slot::Occupied(known) => known.into_mut(),
            Slot::Vacant(room) => {
                self.stays += 1;
                room.insert(Distant {
                    stay: self.stays,
                    state,
                    dependants: Vec::new(),
                    parent: None,
                })
            }
        }
    }

    /// `dependant` waits for `id`. It counts that itself.
    pub(super) fn await_end(&mut self, id: TaskId, dependant: TaskId, state: TaskState) {
        let distant = self.of(id, state);
        // It may be listed from a former life.
        if !distant.dependants.contains(&dependant) {
            distant.dependants.push(dependant);
        }
    }

    /// Where it stood when somebody looked last.
    pub(super) fn state(&self, id: TaskId) -> Option<TaskState> {
        self.tasks.get(&id).map(|distant| distant.state)
    }

    /// Children that live elsewhere.
    pub(super) fn children_of(&self, parent: TaskId) -> Vec<TaskId> {
        let children = self.tasks.iter();
        children
            .filter(|(_, distant)| distant.parent == Some(parent))
            .map(|(id, _)| *id)
            .collect()
    }
}

impl Machine {
    /// A live task of this node has left for another one. Those who wait for it go on
    /// waiting, for its end there.
    pub(crate) fn became_distant(
        &mut self,
        id: TaskId,
        dependants: &[TaskId],
        parent: Option<TaskId>,
    ) {
        let counted = parent.filter(|parent| {
            let parent = self.tasks.get(parent);
            parent.is_some_and(|parent| parent.end.is_none())
        });
        if counted.is_none() && dependants.is_empty() {
            return;
        }
        let distant = self.distant.of(id, TaskState::Available);
        distant.dependants.extend_from_slice(dependants);
        distant.parent = counted;
    }

    /// A task has come to live here, and is in the table: it is no longer distant, and knows
    /// its parent and dependencies. Returns a dependency that did not complete.
    pub(crate) fn arrived(&mut self, id: TaskId, known: &Dependencies) -> Option<TaskId> {
        self.link(id, known)
    }

    /// Turns a distant task into a live one: hands over who depends on it, and says whether
    /// its parent counts it already.
    pub(super) fn settle_here(&mut self, id: TaskId) -> bool {
        let Some(distant) = self.distant.tasks.remove(&id) else {
            return false;
        };
        if let Some(entry) = self.tasks.get_mut(&id) {
            for dependant in distant.dependants {
                if !entry.dependants.contains(&dependant) {
                    entry.dependants.push(dependant);
                }
            }
        }
        distant.parent.is_some_and(|parent| {
            let parent = self.tasks.get(&parent);
            parent.is_some_and(|parent| parent.children.contains(&id))
        })
    }

    /// Lets parents that were read from the store wait for their children elsewhere, and
    /// tells them of those that failed meanwhile.
    pub(super) fn meet_children(&mut self, children: &[DistantChild], now: Timestamp) {
        for DistantChild {
            parent,
            child,
            news,
        } in children
        {
            // It may have come here before its parent did.
            let here = self.tasks.contains_key(child);
            if news.state.is_terminal() {
                if !here {
                    self.child_failed(*parent, *child, news, now);
                }
                continue;
            }
            let Some(entry) = self.tasks.get_mut(parent) else {
                continue;
            };
            if !entry.children.contains(child) {
                entry.children.push(*child);
                entry.unresolved += 1;
            }
            if !here {
                self.distant.of(*child, news.state).parent = Some(*parent);
            }
        }
    }

    /// Distant tasks, to be looked up. Those for which nobody waits any more are forgotten.
    pub(crate) fn sought(&mut self) -> Vec<Sought> {
        let tasks = &self.tasks;
        self.distant.tasks.retain(|_, distant| {
            distant.dependants.retain(|id| tasks.contains_key(id));
            distant.parent.is_some() || !distant.dependants.is_empty()
        });
        let distant = self.distant.tasks.iter();
        let sought = distant.map(|(id, distant)| Sought {
            id: *id,
            stay: distant.stay,
        });
        sought.collect()
    }

    /// A distant task was looked up. If it has ended, everything happens here that happens
    /// when a live one has.
    pub(crate) fn distant_news(&mut self, about: Sought, news: &News, now: Timestamp) {
        let id = about.id;
        let known = self.distant.tasks.get_mut(&id);
        let Some(distant) = known.filter(|distant| distant.stay == about.stay) else {
            return;
        };
        distant.state = news.state;
        if !news.state.is_terminal() || self.tasks.contains_key(&id) {
            return;
        }
        let Some(distant) = self.distant.tasks.remove(&id) else {
            return;
        };
        if let Some(parent) = distant.parent
            && news.state != TaskState::Completed
        {
            self.child_failed(parent, id, news, now);
        }
        self.tell_dependants(id, news.state, &distant.dependants, now);
        if let Some(parent) = distant.parent {
            self.resolve(parent, now);
        }
    }

    /// Lets `dependant` wait for a dependency that lives elsewhere; false if it does not.
    pub(super) fn awaits_elsewhere(
        &mut self,
        dependency: TaskId,
        dependant: TaskId,
        known: &Dependencies,
    ) -> bool {
        let state = known.get(&dependency).copied();
        let state = state.filter(|state| self.is_shared() && !state.is_terminal());
        if let Some(state) = state {
            self.distant.await_end(dependency, dependant, state);
        }
        state.is_some()
    }

    /// Calls a child off that lives elsewhere, if it does.
    pub(super) fn call_off_distant(&mut self, child: TaskId, why: &str, now: Timestamp) {
        if self.distant.tasks.contains_key(&child) {
            let why = why.to_owned();
            let order = NewOrder::new(child, Verb::Cancel { why }, now);
            self.outbox.changes.orders.push(order);
        }
    }

    #[cfg(test)]
    pub(super) fn distant_ids(&self) -> Vec<TaskId> {
        self.distant.tasks.keys().copied().collect()
    }
}
