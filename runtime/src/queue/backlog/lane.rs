//! The waiting tasks of one kind and lane: classes take turns, and tenants within them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ring::Ring;
use super::{Place, Position};
use crate::ids::TaskId;
use crate::queue::rules::Rules;
use crate::queue::task::TaskBody;

/// One tenant's tasks of one class, first in, first out.
type Tenant = BTreeMap<Place, TaskId>;

#[derive(Debug, Default)]
pub(in crate::queue) struct LaneQueue {
    classes: Ring<Ring<Tenant>>,
    /// The first place of every tenant's tasks: the least is the lane's oldest.
    heads: BTreeSet<Place>,
    len: usize,
}

impl LaneQueue {
    pub(in crate::queue) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(in crate::queue) fn len(&self) -> usize {
        self.len
    }

    pub(in crate::queue) fn oldest(&self) -> Option<Place> {
        self.heads.first().copied()
    }

    /// False if there was a task at this place.
    pub(in crate::queue) fn push(&mut self, body: &TaskBody, place: Place, rules: &Rules) -> bool {
        let tenants = self.classes.get_mut(&body.class);
        let Some(tasks) = tenants.and_then(|tenants| tenants.get_mut(&body.tenant)) else {
            self.join(body, place, rules);
            return true;
        };
        let head = tasks.first_key_value().map(|(head, _)| *head);
        let added = tasks.insert(place, body.id).is_none();
        self.len += usize::from(added);
        if let Some(head) = head
            && place < head
        {
            self.heads.remove(&head);
            self.heads.insert(place);
        }
        added
    }

    /// Adds the first task of a tenant's.
    fn join(&mut self, body: &TaskBody, place: Place, rules: &Rules) {
        if self.classes.get(&body.class).is_none() {
            let weight = rules.class_weight(&body.class);
            self.classes.join(&body.class, weight, Ring::default());
        }
        if let Some(tenants) = self.classes.get_mut(&body.class) {
            let weight = rules.tenant_weight(&body.tenant);
            let tasks = Tenant::from([(place, body.id)]);
            tenants.join(&body.tenant, weight, tasks);
            self.heads.insert(place);
            self.len += 1;
        }
    }

    /// False if there was none at this place.
    pub(in crate::queue) fn remove(&mut self, body: &TaskBody, place: Place) -> bool {
        let Some(tenants) = self.classes.get_mut(&body.class) else {
            return false;
        };
        let Some(tasks) = tenants.get_mut(&body.tenant) else {
            return false;
        };
        if tasks.remove(&place).is_none() {
            return false;
        }
        self.len -= 1;
        let next = tasks.first_key_value().map(|(next, _)| *next);
        if next.is_none_or(|next| place < next) && self.heads.remove(&place) {
            self.heads.extend(next);
        }
        if tasks.is_empty() {
            tenants.leave(&body.tenant);
            if tenants.is_empty() {
                self.classes.leave(&body.class);
            }
        }
        true
    }

    /// The task whose turn it is.
    pub(in crate::queue) fn first(&mut self) -> Option<TaskId> {
        let (_, tenants) = self.classes.front()?;
        let (_, tasks) = tenants.front()?;
        tasks.first_key_value().map(|(_, id)| *id)
    }

    /// The first in the order of turns of which `may` says so; looks at no more than `looks`
    /// tasks. Those that may not keep their place.
    pub(in crate::queue) fn first_that(
        &mut self,
        looks: &mut usize,
        may: &dyn Fn(TaskId) -> bool,
    ) -> Option<TaskId> {
        // Whose turn it is often decides alone, and settles the order of the others.
        let first = self.first()?;
        if may(first) {
            return Some(first);
        }
        let mut waiting = self
            .classes
            .in_turn()
            .flat_map(|tenants| tenants.in_turn())
            .flat_map(|tasks| tasks.values());
        waiting.by_ref().take(*looks).copied().find(|id| {
            *looks -= 1;
            may(*id)
        })
    }

    pub(in crate::queue) fn charge(&mut self, body: &TaskBody) {
        if let Some(tenants) = self.classes.get_mut(&body.class) {
            tenants.charge(&body.tenant);
        }
        self.classes.charge(&body.class);
    }

    pub(in crate::queue) fn reweigh(&mut self, rules: &Rules) {
        self.classes.reweigh(|class| rules.class_weight(class));
        for tenants in self.classes.flows_mut() {
            tenants.reweigh(|tenant| rules.tenant_weight(tenant));
        }
    }

    pub(in crate::queue) fn position(
        &self,
        body: &TaskBody,
        place: Place,
        max: usize,
        rules: &Rules,
    ) -> Option<Position> {
        let tenants = self.classes.get(&body.class)?;
        let tasks = tenants.get(&body.tenant)?;
        let ahead = tasks.range(..place).take(max + 1).count();
        Some(Position {
            ahead: ahead.min(max),
            more: max < ahead,
            tenants: tenants.len(),
            classes: self.classes.len(),
            in_lane: self.len,
            class_share: self.classes.share(rules.class_weight(&body.class)),
            tenant_share: tenants.share(rules.tenant_weight(&body.tenant)),
            lanes_before: [false; 4],
        })
    }

    pub(in crate::queue) fn per_flow(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, usize)> {
        self.classes.iter().flat_map(|(class, tenants)| {
            let tenants = tenants.iter();
            tenants.map(move |(tenant, tasks)| (class, tenant, tasks.len()))
        })
    }
}
