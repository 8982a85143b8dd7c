//! The order of tasks that wait for a worker (pure).
//!
//! Each task gets a virtual start deadline when it becomes available: that instant plus
//! its lane's slack. The earliest virtual deadline goes first. Urgent lanes have little
//! slack, so they overtake; but nobody is overtaken by a task that became available more
//! than the difference in slack after it, which bounds every wait without a second
//! mechanism for ageing. Within a lane the order is first in, first out.
//!
//! This is earliest-deadline-first (Liu and Layland, 1973) with per-lane relative deadlines.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::task::Lane;
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

/// A task's place in the order: its virtual deadline, then its order of acceptance.
pub(crate) type Place = (Timestamp, u64);

/// Tasks that wait for a worker, by kind.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    slack: Slack,
    kinds: HashMap<Arc<str>, BTreeMap<Place, TaskId>>,
    lanes: [usize; 4],
}

impl Backlog {
    pub(crate) fn new(slack: Slack) -> Self {
        Self {
            slack,
            ..Self::default()
        }
    }

    /// Adds a task that became available at `since`, and says where it stands.
    pub(crate) fn push(
        &mut self,
        kind: &Arc<str>,
        lane: Lane,
        since: Timestamp,
        seq: u64,
        id: TaskId,
    ) -> Place {
        let place = (since.after(self.slack.0[lane.index()]), seq);
        if !self.kinds.contains_key(kind) {
            self.kinds.insert(kind.clone(), BTreeMap::new());
        }
        if let Some(queue) = self.kinds.get_mut(kind)
            && queue.insert(place, id).is_none()
        {
            self.lanes[lane.index()] += 1;
        }
        place
    }

    /// Takes a task out of the order, wherever it stands.
    pub(crate) fn remove(&mut self, kind: &Arc<str>, lane: Lane, place: Place) {
        let Some(queue) = self.kinds.get_mut(kind) else {
            return;
        };
        if queue.remove(&place).is_some() {
            self.lanes[lane.index()] -= 1;
        }
        if queue.is_empty() {
            self.kinds.remove(kind);
        }
    }

    /// The task of one of `kinds` that goes first.
    pub(crate) fn first<S: AsRef<str>>(&self, kinds: &[S]) -> Option<TaskId> {
        kinds
            .iter()
            .filter_map(|kind| self.kinds.get(kind.as_ref())?.first_key_value())
            .min_by_key(|(place, _)| **place)
            .map(|(_, id)| *id)
    }

    /// Waiting tasks per lane, indexed by [`Lane::index`].
    pub(crate) fn per_lane(&self) -> [usize; 4] {
        self.lanes
    }

    /// Waiting tasks per kind.
    pub(crate) fn per_kind(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.kinds.iter().map(|(kind, queue)| (kind, queue.len()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind() -> Arc<str> {
        "k".into()
    }

    fn drain(backlog: &mut Backlog, tasks: &HashMap<TaskId, (Lane, Place)>) -> Vec<TaskId> {
        let mut order = Vec::new();
        while let Some(id) = backlog.first(&["k"]) {
            let (lane, place) = tasks[&id];
            backlog.remove(&kind(), lane, place);
            order.push(id);
        }
        order
    }

    #[test]
    fn lanes_overtake_in_order_when_submitted_together() {
        let mut backlog = Backlog::new(Slack::default());
        let mut tasks = HashMap::new();
        let mut expected = Vec::new();
        for (seq, lane) in Lane::ALL.into_iter().rev().enumerate() {
            let id = TaskId::fresh();
            let place = backlog.push(&kind(), lane, Timestamp(1_000), seq as u64, id);
            tasks.insert(id, (lane, place));
            expected.insert(0, id);
        }
        assert_eq!(drain(&mut backlog, &tasks), expected);
    }

    #[test]
    fn a_low_task_starts_before_critical_ones_submitted_after_its_slack() {
        let mut backlog = Backlog::new(Slack::default());
        let low = TaskId::fresh();
        backlog.push(&kind(), Lane::Low, Timestamp(0), 0, low);
        for seq in 1..1_000 {
            let at = Timestamp(120_000 + seq);
            backlog.push(&kind(), Lane::Critical, at, seq, TaskId::fresh());
        }
        assert_eq!(backlog.first(&["k"]), Some(low));
    }

    #[test]
    fn a_claim_of_other_kinds_sees_nothing() {
        let mut backlog = Backlog::new(Slack::default());
        backlog.push(&kind(), Lane::High, Timestamp(0), 0, TaskId::fresh());
        assert_eq!(backlog.first(&["other"]), None);
    }

    proptest! {
        #[test]
        fn nobody_is_overtaken_by_more_than_the_difference_in_slack(
            arrivals in prop::collection::vec((0_u64..300_000, 0_usize..4), 1..60)
        ) {
            let slack = Slack::default();
            let mut backlog = Backlog::new(slack);
            let mut tasks = HashMap::new();
            let mut since = HashMap::new();
            for (seq, (at, lane)) in arrivals.into_iter().enumerate() {
                let (id, lane) = (TaskId::fresh(), Lane::ALL[lane]);
                let place = backlog.push(&kind(), lane, Timestamp(at), seq as u64, id);
                tasks.insert(id, (lane, place));
                since.insert(id, Timestamp(at));
            }
            let count = tasks.len();
            let order = drain(&mut backlog, &tasks);
            prop_assert_eq!(order.len(), count);
            prop_assert_eq!(backlog.per_lane(), [0; 4]);
            for (i, first) in order.iter().enumerate() {
                for second in &order[i + 1..] {
                    let head_start = since[first].since(since[second]);
                    let ahead = slack.0[tasks[second].0.index()]
                        .saturating_sub(slack.0[tasks[first].0.index()]);
                    prop_assert!(head_start <= ahead);
                }
            }
        }
    }
}
