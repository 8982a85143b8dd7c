//! Deficit round robin between flows of tasks (pure).
//!
//! Shreedhar and Varghese, "Efficient fair queuing using deficit round-robin", 1996. Every
//! task costs the same: the smallest weight of those who wait. A flow's visit grants it its
//! weight, so each visit serves at least one task and a pick takes constant time, whatever
//! the weights. What is left of a visit is carried over; it is worth less than one task.
//!
//! A flow that has nothing waiting leaves and takes nothing with it: it is neither rewarded
//! for having been idle nor punished for having been served before.
//!
//! While flows `i` and `j` both wait, with `w` the smallest weight among the waiting,
//! `|served_i / w_i - served_j / w_j| <= 2/w + 1/w_i + 1/w_j`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::queue::names::NameMap;
use crate::queue::rules::Weight;

/// Flows that have something waiting, and whose turn it is.
#[derive(Debug)]
pub(super) struct Ring<F> {
    flows: NameMap<Slot<F>>,
    /// Who comes next. An entry of a flow that left since has another number.
    turns: VecDeque<(Arc<str>, u64)>,
    next_turn: u64,
    /// How many flows have each weight.
    weights: BTreeMap<Weight, usize>,
}

#[derive(Debug)]
struct Slot<F> {
    flow: F,
    weight: Weight,
    /// In thousandths, like weights.
    deficit: u64,
    /// Its visit has begun: it has got its weight.
    visited: bool,
    turn: u64,
}

impl<F> Default for Ring<F> {
    fn default() -> Self {
        Self {
            flows: NameMap::default(),
            turns: VecDeque::new(),
            next_turn: 0,
            weights: BTreeMap::new(),
        }
    }
}

impl<F> Ring<F> {
    /// Nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// The part of all turns that goes to a flow of this weight.
    pub(super) fn share(&self, weight: Weight) -> f64 {
        let of = |(weight, count): (&Weight, &usize)| weight.get() * *count as f64;
        weight.get() / self.weights.iter().map(of).sum::<f64>()
    }

    pub(super) fn get(&self, key: &str) -> Option<&F> {
        self.flows.get(key).map(|slot| &slot.flow)
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut F> {
        self.flows.get_mut(key).map(|slot| &mut slot.flow)
    }

    /// Everybody who waits, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &F)> {
        self.flows.iter().map(|(key, slot)| (key, &slot.flow))
    }

    /// Adds a flow behind the others.
    pub(super) fn join(&mut self, key: &Arc<str>, weight: Weight, flow: F) {
        self.leave(key);
        self.next_turn += 1;
        let slot = Slot {
            flow,
            weight,
            deficit: 0,
            visited: false,
            turn: self.next_turn,
        };
        *self.weights.entry(weight).or_default() += 1;
        self.flows.insert(key.clone(), slot);
        self.turns.push_back((key.clone(), self.next_turn));
    }

    /// Removes a flow, wherever its turn stands.
    pub(super) fn leave(&mut self, key: &str) {
        let Some(slot) = self.flows.remove(key) else {
            return;
        };
        self.forget(slot.weight);
        // Turns of those who left are dropped when they come up, or here when they pile up.
        if 2 * self.flows.len() + 16 < self.turns.len() {
            let flows = &self.flows;
            self.turns
                .retain(|(key, turn)| flows.get(key).is_some_and(|slot| slot.turn == *turn));
        }
    }

    fn forget(&mut self, weight: Weight) {
        if let Some(count) = self.weights.get_mut(&weight) {
            *count -= 1;
            if *count == 0 {
                self.weights.remove(&weight);
            }
        }
    }

    fn cost(&self) -> u64 {
        self.weights
            .first_key_value()
            .map_or(Weight::ONE, |(weight, _)| *weight)
            .thousandths()
    }

    /// The flow whose turn it is. Asking again without [`charge`](Self::charge) gives the
    /// same one.
    pub(super) fn front(&mut self) -> Option<(&Arc<str>, &mut F)> {
        let cost = self.cost();
        loop {
            let (key, turn) = self.turns.front()?;
            let Some(slot) = self.flows.get_mut(key).filter(|slot| slot.turn == *turn) else {
                self.turns.pop_front();
                continue;
            };
            if !slot.visited {
                // Costs may have changed since it was left with this much.
                slot.deficit = slot.deficit.min(cost - 1) + slot.weight.thousandths();
                slot.visited = true;
            }
            if cost <= slot.deficit {
                break;
            }
            slot.visited = false;
            self.turns.rotate_left(1);
        }
        let (key, _) = self.turns.front()?;
        let slot = self.flows.get_mut(key)?;
        Some((key, &mut slot.flow))
    }

    /// Everybody who waits, beginning with [`front`](Self::front), in the order of turns.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = &F> {
        self.turns.iter().filter_map(|(key, turn)| {
            let slot = self.flows.get(key).filter(|slot| slot.turn == *turn);
            slot.map(|slot| &slot.flow)
        })
    }

    /// A task of `key` was served; its visit ends when its deficit is used up.
    pub(super) fn charge(&mut self, key: &str) {
        let cost = self.cost();
        let Some(slot) = self.flows.get_mut(key) else {
            return;
        };
        slot.deficit = slot.deficit.saturating_sub(cost);
        let at_front = self
            .turns
            .front()
            .is_some_and(|(_, turn)| *turn == slot.turn);
        if slot.visited && slot.deficit < cost && at_front {
            slot.visited = false;
            self.turns.rotate_left(1);
        }
    }

    /// Gives everybody the weight that he has now.
    pub(super) fn reweigh(&mut self, weight: impl Fn(&str) -> Weight) {
        self.weights.clear();
        for (key, slot) in &mut self.flows {
            slot.weight = weight(key);
            *self.weights.entry(slot.weight).or_default() += 1;
        }
    }

    /// Every flow, to be changed.
    pub(super) fn flows_mut(&mut self) -> impl Iterator<Item = &mut F> {
        self.flows.values_mut().map(|slot| &mut slot.flow)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn serve(ring: &mut Ring<()>) -> Option<Arc<str>> {
        let key = ring.front()?.0.clone();
        ring.charge(&key);
        Some(key)
    }

    fn weight(weight: f64) -> Weight {
        Weight::new(weight).expect("within bounds")
    }

    #[test]
    fn equal_weights_take_turns() {
        let mut ring = Ring::default();
        for key in ["a", "b", "c"] {
            ring.join(&key.into(), Weight::ONE, ());
        }
        let order: Vec<_> = (0..6).filter_map(|_| serve(&mut ring)).collect();
        assert_eq!(order.join(""), "abcabc");
    }

    #[test]
    fn a_flow_that_was_served_long_ago_is_not_punished_for_it() {
        let mut ring = Ring::default();
        ring.join(&"old".into(), Weight::ONE, ());
        (0..1_000).for_each(|_| drop(serve(&mut ring)));
        ring.join(&"new".into(), Weight::ONE, ());
        let old = (0..50)
            .filter_map(|_| serve(&mut ring))
            .filter(|key| &**key == "old")
            .count();
        assert_eq!(old, 25);
    }

    #[test]
    fn a_flow_that_comes_and_goes_saves_nothing_up() {
        let mut ring = Ring::default();
        ring.join(&"steady".into(), Weight::ONE, ());
        let guest: Arc<str> = "guest".into();
        for _ in 0..100 {
            ring.join(&guest, weight(10.0), ());
            ring.leave(&guest);
        }
        assert!(ring.turns.len() < 20, "turns of those who left are dropped");
        ring.join(&guest, Weight::ONE, ());
        let served = (0..10)
            .filter_map(|_| serve(&mut ring))
            .filter(|key| *key == guest)
            .count();
        assert_eq!(served, 5);
    }

    proptest! {
        #[test]
        fn shares_follow_weights_in_every_window_in_which_all_wait(
            weights in prop::collection::vec(10_u32..5_000, 2..6),
            from in 0_usize..2_000,
            length in 1_usize..2_000,
        ) {
            let mut ring = Ring::default();
            let keys: Vec<Arc<str>> = (0..weights.len()).map(|i| i.to_string().into()).collect();
            let weights: Vec<f64> = weights.iter().map(|w| f64::from(*w) / 1_000.0).collect();
            for (key, w) in keys.iter().zip(&weights) {
                ring.join(key, weight(*w), ());
            }
            let mut served = vec![0_u32; keys.len()];
            for n in 0..from + length {
                let key = serve(&mut ring).expect("all wait");
                if from <= n {
                    served[key.parse::<usize>().expect("a number")] += 1;
                }
            }
            let least = weights.iter().copied().fold(f64::MAX, f64::min);
            for i in 0..keys.len() {
                for j in 0..i {
                    let share = |k: usize| f64::from(served[k]) / weights[k];
                    let bound = 2.0 / least + 1.0 / weights[i] + 1.0 / weights[j];
                    prop_assert!(
                        (share(i) - share(j)).abs() <= bound + 1e-6,
                        "{served:?} of {weights:?}"
                    );
                }
            }
        }

        #[test]
        fn whoever_waits_is_served_within_one_round_whatever_others_do(
            weights in prop::collection::vec(10_u32..3_000, 1..6),
            comings in prop::collection::vec((any::<bool>(), 0_usize..6), 0..200),
        ) {
            let mut ring = Ring::default();
            let steady: Arc<str> = "steady".into();
            ring.join(&steady, weight(0.01), ());
            let others: Vec<Arc<str>> = (0..weights.len()).map(|i| i.to_string().into()).collect();
            // A round serves each at most his weight, in units of the smallest, and one more.
            let round: u64 = weights.iter().map(|w| u64::from(*w) / 10 + 1).sum();
            let mut since = 0;
            for (joins, at) in comings {
                let other = &others[at % others.len()];
                if joins {
                    let w = f64::from(weights[at % weights.len()]) / 1_000.0;
                    if ring.get(other).is_none() {
                        ring.join(other, weight(w), ());
                    }
                } else {
                    ring.leave(other);
                }
                since = if serve(&mut ring).as_ref() == Some(&steady) { 0 } else { since + 1 };
                // Those who leave and join again stand behind.
                prop_assert!(since <= 2 * round, "{since} of {round}");
            }
        }
    }
}
