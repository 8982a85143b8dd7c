//! The ledger (pure): reserve before the effect, settle with its record.
//!
//! What is reserved or spent never exceeds what is limited and granted, unless a step turns
//! out to cost more than was reserved for it: that is recorded as it is, and nothing further
//! fits then. Each reservation ends once: settled by its holder, or charged in full when the
//! lease it was made under is over.

mod shared;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::clock::Timestamp;
use crate::ids::TaskId;
use crate::queue::budget::{
    Amounts, BudgetRow, BudgetView, Limits, Period, ReservationRow, Scope, Short, Shortfall, Unit,
};
use crate::queue::fund::purse::Purse;
use crate::queue::fund::{ChargeRow, GrantRow};
use crate::queue::task::TaskBody;
use crate::store::Changes;

/// Budgets of tenants and of the node that an operator may set.
pub(crate) const OPERATED_MAX: usize = 10_000;

#[derive(Debug)]
struct Budget {
    row: BudgetRow,
    reserved: Amounts,
    /// Live tasks that spend from it.
    users: usize,
    /// This node's part of it, where nodes share it. The row then says how the whole stood
    /// when last heard.
    purse: Option<Box<Purse>>,
}

/// Budgets looked at for the fullest.
const LOOKED_AT_MAX: usize = 10_000;

/// A part, 0 to 1, by scope and unit.
pub(crate) type Fullest = BTreeMap<(&'static str, &'static str), f64>;

/// A reservation that has not ended.
#[derive(Clone, Debug)]
struct Open {
    row: ReservationRow,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    budgets: HashMap<Scope, Budget>,
    /// By task and step.
    open: BTreeMap<(TaskId, String), Open>,
    /// Trees of which somebody is about to bring a task back from what the store holds, and
    /// how many are: their budgets are not put away meanwhile.
    returning: HashMap<TaskId, usize>,
    /// Shared budgets at which something happened, and which are looked at again and again
    /// until nothing of them is held or wanted here.
    active: BTreeSet<Scope>,
    /// The latest change of shared limits that was heard of.
    version: i64,
}

/// A reservation that ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settled {
    /// What had been set aside.
    pub(super) estimate: Amounts,
    /// Budgets that have more room than before.
    pub(super) freed: Vec<Scope>,
}

impl Ledger {
    /// Takes over what the store holds.
    pub(super) fn load(&mut self, budgets: Vec<BudgetRow>) {
        for row in budgets {
            let budget = Budget {
                row,
                reserved: Amounts::ZERO,
                users: 0,
                purse: None,
            };
            self.budgets.insert(budget.row.scope.clone(), budget);
        }
    }

    /// Takes over what came with tasks of another node. What is known here is newer.
    pub(super) fn inherit(&mut self, budgets: Vec<BudgetRow>) {
        let new = |row: &BudgetRow| !self.budgets.contains_key(&row.scope);
        let new: Vec<BudgetRow> = budgets.into_iter().filter(new).collect();
        self.load(new);
    }

    /// Takes over a reservation that was open.
    pub(super) fn reopen(&mut self, task: TaskId, row: ReservationRow) {
        for scope in &row.scopes {
            if let Some(budget) = self.budgets.get_mut(scope) {
                budget.reserved = budget.reserved.plus(row.estimate);
            }
        }
        self.open.insert((task, row.key.clone()), Open { row });
    }

    /// Whether a budget is known here.
    pub(super) fn knows(&self, scope: &Scope) -> bool {
        self.budgets.contains_key(scope)
    }

    /// Opens the budget of a new task's tree.
    pub(super) fn found(
        &mut self,
        id: TaskId,
        limits: Limits,
        now: Timestamp,
        changes: &mut Changes,
    ) {
        self.set(Scope::Task(id), limits, None, now, changes);
    }

    /// Sets limits. What was spent stays spent.
    pub(super) fn set(
        &mut self,
        scope: Scope,
        limits: Limits,
        period: Option<Period>,
        now: Timestamp,
        changes: &mut Changes,
    ) {
        let begin = |period: Option<Period>| period.map_or(now, |period| period.start(now));
        let budget = self.budgets.entry(scope.clone()).or_insert_with(|| Budget {
            row: BudgetRow {
                scope,
                limits,
                period,
                since: begin(period),
                spent: Amounts::ZERO,
                granted: Amounts::ZERO,
            },
            reserved: Amounts::ZERO,
            users: 0,
            purse: None,
        });
        budget.roll(now);
        budget.row.limits = limits;
        if budget.row.period != period {
            budget.row.period = period;
            budget.row.since = begin(period);
        }
        changes.budgets.push(budget.row.clone());
    }

    /// How many budgets an operator has set.
    pub(super) fn operated(&self) -> usize {
        let operated = |scope: &&Scope| match scope {
            Scope::Node | Scope::Tenant(_) => true,
            Scope::Task(_) => false,
        };
        self.budgets.keys().filter(operated).count()
    }

    /// Whether every budget that a reopened task spends from is here or among `stored`.
    pub(super) fn can_resume(&self, body: &TaskBody, stored: &[BudgetRow]) -> bool {
        body.spends_from()
            .map(Scope::Task)
            .all(|scope| self.knows(&scope) || stored.iter().any(|row| row.scope == scope))
    }

    /// Takes over the budgets that a reopened task spends from. What is known here is newer
    /// than what was read.
    pub(super) fn resume(&mut self, body: &TaskBody, stored: &[BudgetRow]) {
        for scope in body.spends_from().map(Scope::Task) {
            let row = stored.iter().find(|row| row.scope == scope);
            if let Some(row) = row.filter(|_| !self.knows(&scope)) {
                self.load(vec![row.clone()]);
            }
        }
    }

    /// Keeps what is known of these trees until they are [let go](Self::let_go): whoever
    /// reads the store from now on reads nothing newer that would be put away before he is
    /// done.
    pub(super) fn hold(&mut self, trees: &[TaskId]) {
        for id in trees {
            *self.returning.entry(*id).or_default() += 1;
        }
    }

    /// Puts away what nobody spends from.
    pub(super) fn let_go(&mut self, trees: &[TaskId]) {
        for id in trees {
            if let Some(count) = self.returning.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    self.returning.remove(id);
                }
            }
            self.put_away(*id);
        }
    }

    /// Goes on with what an older memory of this node held.
    pub(super) fn go_on_holding(&mut self, old: &mut Self) {
        self.returning = std::mem::take(&mut old.returning);
    }

    fn put_away(&mut self, id: TaskId) {
        let scope = Scope::Task(id);
        let unused = self
            .budgets
            .get(&scope)
            .is_some_and(|budget| budget.users == 0);
        if unused && !self.returning.contains_key(&id) {
            self.budgets.remove(&scope);
        }
    }

    /// Nothing else that is here, or is about to be, spends from the budgets of the task's tree:
    /// they may go with it.
    pub(super) fn moves_with(&self, body: &TaskBody) -> bool {
        body.spends_from().all(|id| {
            let budget = self.budgets.get(&Scope::Task(id));
            let alone = |budget: &Budget| budget.users == 1 && budget.reserved.is_zero();
            id == body.id && budget.is_some_and(alone) && !self.returning.contains_key(&id)
        })
    }

    /// A live task spends from its tree's budgets.
    pub(super) fn join(&mut self, body: &TaskBody) {
        for id in body.spends_from() {
            if let Some(budget) = self.budgets.get_mut(&Scope::Task(id)) {
                budget.users += 1;
            }
        }
    }

    /// It lives no more; budgets without a live task are put away.
    pub(super) fn leave(&mut self, body: &TaskBody) {
        for id in body.spends_from() {
            let scope = Scope::Task(id);
            if let Some(budget) = self.budgets.get_mut(&scope) {
                budget.users = budget.users.saturating_sub(1);
            }
            self.put_away(id);
        }
    }

    /// What stands in the way of spending `needs` from `scopes`, if anything does.
    pub(super) fn shortfall(
        &self,
        scopes: &[Scope],
        key: &str,
        needs: Amounts,
        now: Timestamp,
    ) -> Option<Shortfall> {
        let mut short = Vec::new();
        for budget in scopes.iter().filter_map(|scope| self.budgets.get(scope)) {
            budget.missing(needs, now, &mut short);
        }
        (!short.is_empty()).then(|| Shortfall {
            key: key.to_owned(),
            needs,
            short,
        })
    }

    /// The reservation of a step, if it has one.
    pub(super) fn reserved(&self, task: TaskId, key: &str) -> Option<Amounts> {
        let open = self.open.get(&(task, key.to_owned()))?;
        Some(open.row.estimate)
    }

    /// Sets `row.estimate` aside in `row.scopes`, if they all have room. The step has no
    /// reservation yet.
    pub(super) fn reserve(
        &mut self,
        task: TaskId,
        row: ReservationRow,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Result<(), Shortfall> {
        if let Some(shortfall) = self.shortfall(&row.scopes, &row.key, row.estimate, now) {
            return Err(shortfall);
        }
        for scope in &row.scopes {
            if let Some(budget) = self.budgets.get_mut(scope) {
                budget.reserved = budget.reserved.plus(row.estimate);
                if let Some(purse) = &mut budget.purse {
                    purse.touch(now);
                    self.active.insert(scope.clone());
                }
            }
        }
        changes.reservations.push(row.clone());
        let before = self.open.insert((task, row.key.clone()), Open { row });
        debug_assert!(before.is_none(), "one reservation per step");
        Ok(())
    }

    /// Ends the reservation of a step, and charges `actual` to `scopes`; `None` charges what
    /// was reserved. Without a reservation, only charges. Nothing if there is neither.
    pub(super) fn settle(
        &mut self,
        task: TaskId,
        key: &str,
        scopes: &[Scope],
        actual: Option<Amounts>,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Option<Settled> {
        let open = self.open.remove(&(task, key.to_owned()));
        let estimate = open.as_ref().map(|open| open.row.estimate);
        let charge = actual.or(estimate)?;
        let mut freed = Vec::new();
        if let Some(Open { row }) = &open {
            changes.reservations_ended.push(row.id);
            for scope in &row.scopes {
                if let Some(budget) = self.budgets.get_mut(scope) {
                    budget.reserved = budget.reserved.minus(row.estimate);
                    if !row.estimate.minus(charge).is_zero() {
                        freed.push(scope.clone());
                    }
                }
            }
        }
        if !charge.is_zero() {
            for scope in scopes {
                let Some(budget) = self.budgets.get_mut(scope) else {
                    continue;
                };
                if let Some(purse) = &mut budget.purse {
                    purse.charge(charge, now);
                    changes.charges.push(ChargeRow {
                        scope: scope.clone(),
                        charged: purse.charged(),
                    });
                    self.active.insert(scope.clone());
                    continue;
                }
                budget.roll(now);
                budget.row.spent = budget.row.spent.plus(charge);
                changes.budgets.push(budget.row.clone());
            }
        }
        Some(Settled {
            estimate: estimate.unwrap_or_default(),
            freed,
        })
    }

    /// The steps of a task that have a reservation.
    pub(super) fn open_steps(&self, task: TaskId) -> Vec<String> {
        self.open
            .range((task, String::new())..)
            .take_while(|((of, _), _)| *of == task)
            .map(|((_, key), _)| key.clone())
            .collect()
    }

    /// Lets the short budgets grow: by `grant`, or by what `needs` lacks now.
    pub(super) fn grant(
        &mut self,
        shortfall: &Shortfall,
        grant: Option<Amounts>,
        now: Timestamp,
        changes: &mut Changes,
    ) {
        let mut short: Vec<&Scope> = shortfall.short.iter().map(|short| &short.scope).collect();
        short.dedup();
        for scope in short {
            let Some(budget) = self.budgets.get_mut(scope) else {
                continue;
            };
            budget.roll(now);
            let more = grant.unwrap_or_else(|| {
                let mut missing = Vec::new();
                budget.missing(shortfall.needs, now, &mut missing);
                missing.iter().fold(Amounts::ZERO, |sum, short| {
                    sum.with(short.unit, short.missing)
                })
            });
            if budget.purse.is_some() {
                changes.grants.push(GrantRow {
                    scope: scope.clone(),
                    more,
                });
                self.active.insert(scope.clone());
                continue;
            }
            budget.row.granted = budget.row.granted.plus(more);
            changes.budgets.push(budget.row.clone());
        }
    }

    /// Lets the budgets in the way count from zero if another period has begun.
    pub(super) fn renew(&mut self, shortfall: &Shortfall, now: Timestamp, changes: &mut Changes) {
        for short in &shortfall.short {
            let Some(budget) = self.budgets.get_mut(&short.scope) else {
                continue;
            };
            if budget.purse.is_some() {
                // Its period ends by the database's clock.
                self.active.insert(short.scope.clone());
                continue;
            }
            let since = budget.row.since;
            budget.roll(now);
            if budget.row.since != since {
                changes.budgets.push(budget.row.clone());
            }
        }
    }

    /// When one of the budgets in the way starts counting from zero again.
    pub(super) fn renews_at(&self, shortfall: &Shortfall) -> Option<Timestamp> {
        let renewed = shortfall.short.iter().filter_map(|short| {
            let budget = self.budgets.get(&short.scope)?;
            let row = Some(&budget.row).filter(|_| budget.purse.is_none())?;
            Some(row.period?.end(row.since))
        });
        renewed.min()
    }

    /// How a budget stands.
    pub(super) fn view(&self, scope: &Scope, now: Timestamp) -> Option<BudgetView> {
        self.budgets.get(scope).map(|budget| budget.view(now))
    }

    /// How all budgets stand, operators' first.
    pub(super) fn views(&self, now: Timestamp) -> Vec<BudgetView> {
        let mut all: Vec<&Budget> = self.budgets.values().collect();
        all.sort_by(|a, b| a.row.scope.cmp(&b.row.scope));
        all.into_iter().map(|budget| budget.view(now)).collect()
    }

    /// The part that is spent of the fullest budget, by whose it is and unit. Of very many, some
    /// are not looked at.
    pub(super) fn fullest(&self, now: Timestamp) -> Fullest {
        let mut fullest = Fullest::new();
        for (scope, budget) in self.budgets.iter().take(LOOKED_AT_MAX) {
            let scope = match scope {
                Scope::Node => "node",
                Scope::Tenant(_) => "tenant",
                Scope::Task(_) => "task",
            };
            let (_, spent, granted) = budget.figures(now);
            for unit in Unit::ALL {
                let Some(limit) = budget.row.limits.of(unit) else {
                    continue;
                };
                let limit = limit.saturating_add(granted.of(unit));
                let used = spent.of(unit) as f64 / limit.max(1) as f64;
                let most = fullest.entry((scope, unit.as_str())).or_insert(0.0_f64);
                *most = most.max(used);
            }
        }
        fullest
    }
}

impl Budget {
    /// The row's figures as they count at `now`: from zero if another period has begun.
    fn figures(&self, now: Timestamp) -> (Timestamp, Amounts, Amounts) {
        let row = &self.row;
        if let Some(purse) = &self.purse {
            return (row.since, purse.spent(), row.granted);
        }
        match row.period {
            Some(period) if period.end(row.since) <= now => {
                (period.start(now), Amounts::ZERO, Amounts::ZERO)
            }
            Some(_) | None => (row.since, row.spent, row.granted),
        }
    }

    fn roll(&mut self, now: Timestamp) {
        if self.purse.is_some() {
            return;
        }
        let (since, spent, granted) = self.figures(now);
        self.row.since = since;
        self.row.spent = spent;
        self.row.granted = granted;
    }

    fn missing(&self, needs: Amounts, now: Timestamp, short: &mut Vec<Short>) {
        let (_, spent, granted) = self.figures(now);
        // What is missing here may be elsewhere: whoever needs it asks before he gives up.
        let lacks = self
            .purse
            .as_ref()
            .map(|purse| purse.lacks(self.reserved, needs));
        for unit in Unit::ALL {
            let Some(limit) = self.row.limits.of(unit).filter(|_| 0 < needs.of(unit)) else {
                continue;
            };
            if lacks.is_some_and(|lacks| lacks.of(unit) == 0) {
                continue;
            }
            let limit = limit.saturating_add(granted.of(unit));
            let (spent, reserved) = (spent.of(unit), self.set_aside().of(unit));
            let wanted = spent
                .saturating_add(reserved)
                .saturating_add(needs.of(unit));
            let lacks = lacks.map_or(0, |lacks| lacks.of(unit));
            if limit < wanted || 0 < lacks {
                let missing = wanted.saturating_sub(limit);
                short.push(Short {
                    scope: self.row.scope.clone(),
                    unit,
                    limit,
                    spent,
                    reserved,
                    missing: if missing == 0 { lacks } else { missing },
                });
            }
        }
    }

    /// What is set aside for steps; of a shared budget with what other nodes may spend.
    fn set_aside(&self) -> Amounts {
        let purse = self.purse.as_ref();
        purse.map_or(self.reserved, |purse| purse.set_aside(self.reserved))
    }

    fn view(&self, now: Timestamp) -> BudgetView {
        let (since, spent, granted) = self.figures(now);
        BudgetView {
            scope: self.row.scope.clone(),
            limits: self.row.limits,
            period: self.row.period,
            since,
            spent,
            reserved: self.set_aside(),
            granted,
        }
    }
}

#[cfg(test)]
impl Ledger {
    /// Spent and reserved are within limits and grants.
    pub(super) fn check(&self) {
        let mut reserved: HashMap<&Scope, Amounts> = HashMap::new();
        for open in self.open.values() {
            for scope in &open.row.scopes {
                let sum = reserved.entry(scope).or_default();
                *sum = sum.plus(open.row.estimate);
            }
        }
        for (scope, budget) in &self.budgets {
            let recount = reserved.remove(scope).unwrap_or_default();
            assert_eq!(recount, budget.reserved, "{scope}: reserved");
            if let Some(purse) = &budget.purse {
                let used = purse.charged().plus(budget.reserved);
                assert!(
                    purse.lacks(used, Amounts::ZERO).is_zero(),
                    "{scope}: {budget:?}"
                );
                continue;
            }
            let used = budget.row.spent.plus(budget.reserved);
            for unit in Unit::ALL {
                if let Some(limit) = budget.row.limits.of(unit) {
                    let most = limit + budget.row.granted.of(unit);
                    assert!(used.of(unit) <= most, "{scope} overspent: {budget:?}");
                }
            }
        }
    }
}
