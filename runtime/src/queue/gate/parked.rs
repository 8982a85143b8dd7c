//! Where tasks of each kind wait at gates (pure): for who looks by kind rather than by gate.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{GateKey, Gates};
use crate::ids::TaskId;
use crate::queue::backlog::Place;
use crate::queue::names::NameMap;

/// Tasks of one kind.
#[derive(Debug, Default)]
struct Kind {
    tasks: usize,
    at: BTreeMap<GateKey, usize>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Parked(NameMap<Kind>);

impl Parked {
    pub(super) fn add(&mut self, kind: &Arc<str>, gate: &GateKey) {
        let kind = self.0.entry(kind.clone()).or_default();
        kind.tasks += 1;
        *kind.at.entry(gate.clone()).or_default() += 1;
    }

    pub(super) fn remove(&mut self, kind: &str, gate: &GateKey) {
        let Some(found) = self.0.get_mut(kind) else {
            return;
        };
        if let Some(count) = found.at.get_mut(gate) {
            found.tasks -= 1;
            *count -= 1;
            if *count == 0 {
                found.at.remove(gate);
            }
        }
        if found.tasks == 0 {
            self.0.remove(kind);
        }
    }
}

impl Gates {
    /// Tasks of `kind` that wait at gates.
    pub(crate) fn waiting(&self, kind: &str) -> usize {
        self.by_kind.0.get(kind).map_or(0, |kind| kind.tasks)
    }

    /// A task of `kind` that waits at a gate and of which `may` says so: of those whose turn it
    /// is at their gates the oldest. Looks at no more than `looks` gates and tasks.
    pub(crate) fn first_that(
        &mut self,
        kind: &str,
        looks: usize,
        may: &dyn Fn(TaskId) -> bool,
    ) -> Option<TaskId> {
        let gates = self.by_kind.0.get(kind)?.at.keys();
        let mut left = looks;
        let mut first: Vec<(Place, TaskId)> = Vec::new();
        for key in gates.take(looks) {
            let lanes = self.gates.get_mut(key);
            let lanes = lanes.and_then(|gate| gate.groups.get_mut(kind));
            for group in lanes.into_iter().flatten() {
                let next = group.parked.first_that(&mut left, may);
                first.extend(group.parked.oldest().zip(next));
            }
        }
        first.into_iter().min().map(|(_, id)| id)
    }
}
