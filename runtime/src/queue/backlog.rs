//! The order of tasks that wait for a worker (pure).
//!
//! Each task gets a virtual start deadline when it becomes available: that instant plus
//! its lane's slack. Of the lanes, the one whose oldest task has the earliest virtual
//! deadline goes first. Urgent lanes have little slack, so they overtake; but a slot goes
//! to another lane only while that lane's oldest task came at most the difference in slack
//! later, which bounds every wait without a second mechanism for ageing. This is
//! earliest-deadline-first (Liu and Layland, 1973) with per-lane relative deadlines.
//!
//! Within a lane, classes take turns by deficit round robin (`ring`), and within a class its
//! tenants do; within a tenant the order is first in, first out. Turns are kept per kind of
//! task, since kinds do not share workers unless a worker asks for several: then the kind
//! whose oldest task is the most overdue goes first.

mod lane;
mod ring;

use std::sync::Arc;
use std::time::Duration;

pub(in crate::queue) use self::lane::LaneQueue;
use super::names::NameMap;
use super::rules::Rules;
use super::task::{Lane, TaskBody};
use crate::clock::Timestamp;
use crate::ids::TaskId;

/// How long a task of each lane may be overtaken, indexed by [`Lane::index`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slack(pub [Duration; 4]);

impl Default for Slack {
    fn default() -> Self {
        Self([0, 5, 30, 120].map(Duration::from_secs))
    }
}

impl Slack {
    /// The place of a task that became available at `since`.
    pub(crate) fn place(&self, lane: Lane, since: Timestamp, seq: u64) -> Place {
        (since.after(self.0[lane.index()]), seq)
    }
}

/// A task's place in the order: its virtual deadline, then its order of acceptance.
pub(crate) type Place = (Timestamp, u64);

/// Where a waiting task stands among those before which nothing else goes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Position {
    /// Tasks of its own class and tenant before it; counted up to a bound.
    pub(crate) ahead: usize,
    /// The count stopped at the bound.
    pub(crate) more: bool,
    /// Tenants that share its class's turns, itself included.
    pub(crate) tenants: usize,
    /// Classes that share its lane's turns, its own included.
    pub(crate) classes: usize,
    /// Tasks of its kind and lane, itself included.
    pub(crate) in_lane: usize,
    /// Its class's part of the turns of its lane, and its tenant's of its class's.
    pub(crate) class_share: f64,
    pub(crate) tenant_share: f64,
    /// Lanes of its kind whose oldest task goes before its own lane's.
    pub(crate) lanes_before: [bool; 4],
}

/// Tasks that wait for a worker, by kind.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    kinds: NameMap<[LaneQueue; 4]>,
    lanes: [usize; 4],
}

impl Backlog {
    /// Adds a task at its place.
    pub(crate) fn push(&mut self, body: &TaskBody, place: Place, rules: &Rules) {
        let lane = body.priority.index();
        let added = match self.kinds.get_mut(&body.kind) {
            Some(lanes) => lanes[lane].push(body, place, rules),
            None => {
                let mut lanes = <[LaneQueue; 4]>::default();
                let added = lanes[lane].push(body, place, rules);
                self.kinds.insert(body.kind.clone(), lanes);
                added
            }
        };
        self.lanes[lane] += usize::from(added);
    }

    /// Takes a task out of the order, wherever it stands.
    pub(crate) fn remove(&mut self, body: &TaskBody, place: Place) {
        let Some(lanes) = self.kinds.get_mut(&body.kind) else {
            return;
        };
        if lanes[body.priority.index()].remove(body, place) {
            self.lanes[body.priority.index()] -= 1;
        }
        if lanes.iter().all(LaneQueue::is_empty) {
            self.kinds.remove(&body.kind);
        }
    }

    /// The task of one of `kinds` that goes first. Asking again gives the same one, unless
    /// it was [charged](Self::charge) or removed.
    pub(crate) fn first<S: AsRef<str>>(&mut self, kinds: &[S]) -> Option<TaskId> {
        let head = |lanes: &[LaneQueue; 4]| {
            let lanes = lanes.iter().enumerate();
            lanes
                .filter_map(|(lane, queue)| Some((queue.oldest()?, lane)))
                .min()
        };
        if let [kind] = kinds {
            let lanes = self.kinds.get_mut(kind.as_ref())?;
            let (_, lane) = head(lanes)?;
            return lanes[lane].first();
        }
        let (_, lane, kind) = kinds
            .iter()
            .filter_map(|kind| {
                let (place, lane) = head(self.kinds.get(kind.as_ref())?)?;
                Some((place, lane, kind.as_ref()))
            })
            .min()?;
        self.kinds.get_mut(kind)?[lane].first()
    }

    /// The task of `kind` that goes first among those of which `may` says so; looks at no
    /// more than `looks` tasks.
    pub(crate) fn first_that(
        &mut self,
        kind: &str,
        mut looks: usize,
        may: &dyn Fn(TaskId) -> bool,
    ) -> Option<TaskId> {
        let lanes = self.kinds.get_mut(kind)?;
        let mut order: Vec<(Place, usize)> = lanes
            .iter()
            .enumerate()
            .filter_map(|(lane, queue)| Some((queue.oldest()?, lane)))
            .collect();
        order.sort_unstable();
        order
            .into_iter()
            .find_map(|(_, lane)| lanes[lane].first_that(&mut looks, may))
    }

    /// Tasks of `kind` that wait.
    pub(crate) fn waiting(&self, kind: &str) -> usize {
        let lanes = self.kinds.get(kind);
        lanes.map_or(0, |lanes| lanes.iter().map(LaneQueue::len).sum())
    }

    /// The task was leased: its class and its tenant had their turn.
    pub(crate) fn charge(&mut self, body: &TaskBody) {
        if let Some(lanes) = self.kinds.get_mut(&body.kind) {
            lanes[body.priority.index()].charge(body);
        }
    }

    /// Applies weights that have changed.
    pub(crate) fn reweigh(&mut self, rules: &Rules) {
        for queue in self.kinds.values_mut().flatten() {
            queue.reweigh(rules);
        }
    }

    /// Where a waiting task stands. Looks at no more than `max` tasks before it.
    pub(crate) fn position(
        &self,
        body: &TaskBody,
        place: Place,
        max: usize,
        rules: &Rules,
    ) -> Option<Position> {
        let lanes = self.kinds.get(&body.kind)?;
        let own = &lanes[body.priority.index()];
        let mut position = own.position(body, place, max, rules)?;
        for (before, lane) in position.lanes_before.iter_mut().zip(lanes) {
            *before = lane
                .oldest()
                .is_some_and(|oldest| own.oldest().is_some_and(|own| oldest < own));
        }
        Some(position)
    }

    /// The kind's name, if tasks of it wait.
    pub(crate) fn kind(&self, kind: &str) -> Option<&Arc<str>> {
        self.kinds.get_key_value(kind).map(|(kind, _)| kind)
    }

    /// Waiting tasks per lane, indexed by [`Lane::index`].
    pub(crate) fn per_lane(&self) -> [usize; 4] {
        self.lanes
    }

    /// Waiting tasks per kind.
    pub(crate) fn per_kind(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.kinds
            .iter()
            .map(|(kind, lanes)| (kind, lanes.iter().map(LaneQueue::len).sum()))
    }

    /// Class, tenant and number of waiting tasks of every flow, in no order.
    pub(crate) fn per_flow(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, usize)> {
        self.kinds.values().flatten().flat_map(LaneQueue::per_flow)
    }
}

#[cfg(test)]
mod tests;
