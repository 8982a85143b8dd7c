//! Budgets that nodes share: this node's purses (pure).

use std::collections::BTreeSet;

use super::{Budget, Ledger};
use crate::clock::Timestamp;
use crate::queue::budget::{Amounts, Scope};
use crate::queue::fund::purse::Purse;
use crate::queue::fund::{DRAWS_MAX, Draw, Drawn, FundNews};

impl Ledger {
    /// The latest change of shared limits that was heard of.
    pub(in crate::queue::machine) fn version(&self) -> i64 {
        self.version
    }

    /// What the whole database counts is counted in purses from now on: budgets of tenants.
    pub(in crate::queue::machine) fn share(&mut self) {
        for (scope, budget) in &mut self.budgets {
            if matches!(scope, Scope::Tenant(_)) && budget.purse.is_none() {
                let mut purse = Box::<Purse>::default();
                purse.recall(budget.row.limits, budget.row.period);
                // The file brings that as what this life has charged.
                purse.resume(budget.row.spent);
                budget.purse = Some(purse);
                self.active.insert(scope.clone());
            }
        }
    }

    /// Takes over shared budgets as they are stored. Returns those whose limits changed.
    pub(in crate::queue::machine) fn follow(&mut self, funds: Vec<FundNews>) -> Vec<Scope> {
        let mut changed = Vec::new();
        for news in funds {
            let FundNews {
                row,
                version,
                charged,
            } = news;
            self.version = self.version.max(version);
            let scope = row.scope.clone();
            let (limits, period) = (row.limits, row.period);
            let budget = self.budgets.entry(scope.clone()).or_insert_with(|| Budget {
                row,
                reserved: Amounts::ZERO,
                users: 0,
                purse: None,
            });
            let same = (budget.row.limits, budget.row.period) == (limits, period);
            (budget.row.limits, budget.row.period) = (limits, period);
            let known = budget.purse.is_some();
            let purse = budget.purse.get_or_insert_default();
            if !known || !same {
                purse.recall(limits, period);
                changed.push(scope.clone());
            }
            if let Some(charged) = charged {
                purse.resume(charged);
            }
            self.active.insert(scope);
        }
        changed
    }

    /// Goes on with the purses of an older memory of this node: what is in them is not less
    /// for it. What was spent follows from what is [stored](Self::follow).
    pub(in crate::queue::machine) fn keep_purses(&mut self, old: &mut Self) {
        self.version = old.version;
        for (scope, budget) in &mut old.budgets {
            let Some(purse) = budget.purse.take() else {
                continue;
            };
            let kept = Budget {
                row: budget.row.clone(),
                reserved: Amounts::ZERO,
                users: 0,
                purse: Some(purse),
            };
            self.budgets.insert(scope.clone(), kept);
            self.active.insert(scope.clone());
        }
    }

    /// Shared budgets at which something may have to be told or asked.
    pub(in crate::queue::machine) fn active(&self) -> Vec<Scope> {
        self.active.iter().cloned().collect()
    }

    /// Shared budgets of which this node has more than it uses.
    pub(in crate::queue::machine) fn spare(&self) -> Vec<Scope> {
        let active = self.active.iter();
        let spare = active.filter(|scope| {
            let budget = self.budgets.get(scope);
            budget.is_some_and(|budget| {
                let purse = budget.purse.as_ref();
                purse.is_some_and(|purse| purse.has_more(budget.reserved))
            })
        });
        spare.cloned().collect()
    }

    /// Others wait at `contended`.
    pub(in crate::queue::machine) fn contend(&mut self, contended: &BTreeSet<Scope>) {
        for scope in &self.active {
            let budget = self.budgets.get_mut(scope);
            if let Some(purse) = budget.and_then(|budget| budget.purse.as_mut()) {
                purse.contend(contended.contains(scope));
            }
        }
    }

    /// What was drawn for tasks that wait here.
    pub(in crate::queue::machine) fn earmark(
        &mut self,
        scope: &Scope,
        needs: Amounts,
        now: Timestamp,
    ) {
        let budget = self.budgets.get_mut(scope);
        if let Some(purse) = budget.and_then(|budget| budget.purse.as_mut()) {
            purse.earmark(needs, now);
        }
    }

    /// Nodes share this budget.
    pub(in crate::queue::machine) fn is_shared(&self, scope: &Scope) -> bool {
        let budget = self.budgets.get(scope);
        budget.is_some_and(|budget| budget.purse.is_some())
    }

    /// What of `needs` is not here; `None` if it could not come from anywhere else.
    pub(in crate::queue::machine) fn lacks(
        &self,
        scope: &Scope,
        needs: Amounts,
    ) -> Option<Amounts> {
        let budget = self.budgets.get(scope)?;
        let purse = budget.purse.as_ref()?;
        let lacks = purse.lacks(budget.reserved, needs);
        (lacks.is_zero() || purse.may_come(budget.reserved, needs)).then_some(lacks)
    }

    /// What to tell the funds for a step that needs so much of each of `scopes` now.
    pub(in crate::queue::machine) fn asks(
        &mut self,
        scopes: &[Scope],
        needs: Amounts,
    ) -> Vec<Draw> {
        let mut draws = Vec::new();
        for scope in scopes {
            let Some(budget) = self.budgets.get_mut(scope) else {
                continue;
            };
            let reserved = budget.reserved;
            if let Some(purse) = &mut budget.purse
                && let Some(draw) = purse.ask(scope, reserved, needs)
            {
                self.active.insert(scope.clone());
                draws.push(draw);
            }
        }
        draws
    }

    /// What to tell a fund by itself, if anything; `needs` is what the first of those needs
    /// who wait and could get it.
    pub(in crate::queue::machine) fn look(
        &mut self,
        scope: &Scope,
        needs: Amounts,
        waiting: bool,
        now: Timestamp,
    ) -> Option<Draw> {
        let Some(budget) = self.budgets.get_mut(scope) else {
            self.active.remove(scope);
            return None;
        };
        let reserved = budget.reserved;
        let Some(purse) = &mut budget.purse else {
            self.active.remove(scope);
            return None;
        };
        let draw = purse.look(scope, reserved, needs, waiting, now);
        if draw.is_none() && !waiting && purse.is_at_rest(reserved) {
            self.active.remove(scope);
        }
        draw
    }

    /// Tells a fund what is kept of it, so that it counts what ended lives left behind.
    pub(in crate::queue::machine) fn tell(&mut self, scope: &Scope) -> Option<Draw> {
        let budget = self.budgets.get_mut(scope)?;
        let reserved = budget.reserved;
        Some(budget.purse.as_mut()?.tell(scope, reserved))
    }

    /// How many draws one exchange takes.
    pub(in crate::queue::machine) const DRAWS_MAX: usize = DRAWS_MAX;

    /// What became of a draw.
    pub(in crate::queue::machine) fn answered(
        &mut self,
        draw: &Draw,
        drawn: &Drawn,
        now: Timestamp,
    ) {
        let Some(budget) = self.budgets.get_mut(&draw.scope) else {
            return;
        };
        let standing = &drawn.standing;
        (budget.row.limits, budget.row.period) = (standing.limits, standing.period);
        (budget.row.since, budget.row.granted) = (standing.since, standing.granted);
        if let Some(purse) = &mut budget.purse {
            purse.answered(draw, drawn, now);
            self.active.insert(draw.scope.clone());
        }
    }

    /// Nobody knows what became of a draw.
    pub(in crate::queue::machine) fn unanswered(&mut self, draw: &Draw) {
        let budget = self.budgets.get_mut(&draw.scope);
        if let Some(purse) = budget.and_then(|budget| budget.purse.as_mut()) {
            purse.untold();
            self.active.insert(draw.scope.clone());
        }
    }
}
