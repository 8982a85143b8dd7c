//! Budgets that nodes share: what this machine tells the funds and asks of them.

use std::collections::BTreeSet;

use super::Machine;
use super::budget::Ledger;
use crate::clock::Timestamp;
use crate::ids::TaskId;
use crate::queue::budget::{Amounts, Scope};
use crate::queue::fund::{Draw, Drawn, FundNews};

/// Tasks that wait for a budget, looked at for one that could get what it needs.
const LOOKS_MAX: usize = 100;

impl Machine {
    /// The latest change of shared limits that was heard of.
    pub(crate) fn funds_version(&self) -> i64 {
        self.ledger.version()
    }

    /// Follows shared budgets as they are stored.
    pub(crate) fn follow_funds(&mut self, funds: Vec<FundNews>, now: Timestamp) {
        let changed = self.ledger.follow(funds);
        self.wake_short(&changed, Amounts::ZERO, now);
    }

    /// Shared budgets of which this machine has more than it uses.
    pub(crate) fn spare_funds(&self) -> Vec<Scope> {
        self.ledger.spare()
    }

    /// Something of a shared budget is here, or wanted.
    pub(crate) fn uses_funds(&self) -> bool {
        !self.ledger.active().is_empty() || self.desk.short_of().next().is_some()
    }

    /// Others wait for what this machine has of `contended`.
    pub(crate) fn contend_funds(&mut self, contended: &BTreeSet<Scope>) {
        self.ledger.contend(contended);
    }

    /// What to ask of the funds for a step of a task; nothing if no fund is in its way.
    pub(crate) fn asks(&mut self, id: TaskId, needs: Amounts) -> Vec<Draw> {
        let scopes = self.scopes_of(id);
        self.ledger.asks(&scopes, needs)
    }

    /// Nothing is in the way of spending so much on a step.
    pub(crate) fn has_room(&self, id: TaskId, needs: Amounts, now: Timestamp) -> bool {
        let scopes = self.scopes_of(id);
        self.ledger.shortfall(&scopes, "", needs, now).is_none()
    }

    /// Somebody else may give back what the step needs.
    pub(crate) fn may_come(&self, id: TaskId, needs: Amounts) -> bool {
        let scopes = self.scopes_of(id).into_iter();
        let mut shared = scopes.filter(|scope| self.ledger.is_shared(scope));
        shared.all(|scope| self.ledger.lacks(&scope, needs).is_some())
    }

    /// What to tell the funds by itself: `settled` are those where an ended life left
    /// something to this one. Lets tasks go on for which there is enough by now.
    pub(crate) fn looks(&mut self, settled: &[Scope], now: Timestamp) -> Vec<Draw> {
        let mut scopes: BTreeSet<Scope> = self.ledger.active().into_iter().collect();
        let short = self.desk.short_of();
        scopes.extend(short.filter(|scope| self.ledger.is_shared(scope)).cloned());
        let mut draws = Vec::new();
        for scope in scopes {
            let mut waiting = false;
            let mut needs = Amounts::ZERO;
            let mut there = false;
            for wanted in self.desk.wanted(&scope, LOOKS_MAX) {
                waiting = true;
                if let Some(lacks) = self.ledger.lacks(&scope, wanted) {
                    needs = wanted;
                    there = lacks.is_zero();
                    break;
                }
            }
            if there {
                self.wake_short(std::slice::from_ref(&scope), Amounts::ZERO, now);
            }
            draws.extend(self.ledger.look(&scope, needs, waiting, now));
            if draws.len() == Ledger::DRAWS_MAX {
                return draws;
            }
        }
        for scope in settled {
            if draws.len() < Ledger::DRAWS_MAX
                && draws.iter().all(|draw| draw.scope != *scope)
                && self.ledger.is_shared(scope)
            {
                draws.extend(self.ledger.tell(scope));
            }
        }
        draws
    }

    /// What became of the draws; tasks that wait for them go on if they are to `wake`.
    pub(crate) fn drawn(&mut self, answers: &[(Draw, Drawn)], wake: bool, now: Timestamp) {
        for (draw, drawn) in answers {
            self.ledger.answered(draw, drawn, now);
        }
        if wake {
            let scopes: Vec<Scope> = answers.iter().map(|(draw, _)| draw.scope.clone()).collect();
            self.wake_short(&scopes, Amounts::ZERO, now);
        }
    }

    /// Nobody knows what became of the draws.
    pub(crate) fn undrawn(&mut self, draws: &[Draw]) {
        for draw in draws {
            self.ledger.unanswered(draw);
        }
    }
}
