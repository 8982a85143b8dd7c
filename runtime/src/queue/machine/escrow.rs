//! Units that nodes share: what this machine asks the pools for and gives back.

use std::collections::BTreeSet;

use super::Machine;
use crate::clock::Timestamp;
use crate::queue::allotment::{Answer, PoolKey, Wish};
use crate::queue::gate::{Demand, GateKey};

impl Machine {
    /// There may be something to ask for or to give back.
    pub(crate) fn has_wishes(&self) -> bool {
        self.gates.is_needy()
    }

    /// The pools of which this machine has units.
    pub(crate) fn pools(&self) -> Vec<PoolKey> {
        self.gates.pools()
    }

    /// Others stand in line where this machine has units.
    pub(crate) fn is_contended(&self) -> bool {
        self.gates.are_contended()
    }

    /// Looks also at what became idle. Others stand in line at `contended`.
    pub(crate) fn look_around(&mut self, contended: &BTreeSet<PoolKey>) {
        self.gates.look_around(contended);
    }

    /// What to tell the pools. What goes back is not counted on any more.
    pub(crate) fn wishes(&mut self, now: Timestamp) -> Vec<Wish> {
        let mut wishes = Vec::new();
        for gate in self.gates.needy() {
            let demand = self.demand(&gate, now);
            wishes.extend(self.gates.wishes(&gate, demand, &self.control.rules, now));
        }
        wishes
    }

    fn demand(&mut self, gate: &GateKey, now: Timestamp) -> Demand {
        let asked = &self.asked;
        let asked = |kind: &str| super::asked_within(asked, kind, now);
        let mut demand = self.gates.demand(gate, &asked);
        let saved = self.gates.saved_for(gate).filter(|(_, kind)| asked(kind));
        let mut first = saved.map(|(id, _)| id);
        if first.is_none() {
            for (kind, lane) in self.gates.crowds(gate) {
                if asked(&kind) {
                    first = self.gates.next(gate, &kind, lane);
                }
                if first.is_some() {
                    break;
                }
            }
        }
        if let Some((id, need)) = first.and_then(|id| Some((id, self.need(id, gate)?.clone())))
            && !self.is_open(&need, id, now)
        {
            demand.first = need.units;
        }
        demand
    }

    /// What became of the wishes: those for whom there are units now may pass.
    pub(crate) fn answered(&mut self, answers: &[(Wish, Answer)], now: Timestamp) {
        for (wish, answer) in answers {
            if self.gates.answered(wish, answer, now) {
                self.stirred.push(wish.pool.gate.clone());
            }
        }
        self.let_through(now);
    }

    /// Nobody knows what became of the wishes.
    pub(crate) fn unanswered(&mut self, wishes: &[Wish], now: Timestamp) {
        for wish in wishes {
            self.gates.untold(wish, now);
        }
    }
}
