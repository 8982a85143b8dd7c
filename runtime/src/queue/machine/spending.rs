//! Spending under a lease: every amount is reserved, charged and given back under the epoch
//! of whoever spends it.

use super::Machine;
use super::approval::Asked;
use super::budget::{Fullest, OPERATED_MAX};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::queue::approval::{ApprovalId, Question, Reason};
use crate::queue::budget::{
    Amounts, BudgetView, Limits, Period, ReservationRow, Scope, Shortfall, Unit,
};
use crate::queue::error::{BudgetError, LeaseError};
use crate::queue::task::{TaskEventKind, TaskState};

/// Reservations that one task may have open at once.
const OPEN_MAX: usize = 1_000;

impl Machine {
    /// The budgets that a task spends from.
    pub(super) fn scopes_of(&self, id: TaskId) -> Vec<Scope> {
        let Some(entry) = self.tasks.get(&id) else {
            return Vec::new();
        };
        let mut scopes: Vec<Scope> = entry.body.spends_from().map(Scope::Task).collect();
        scopes.push(Scope::Tenant(entry.body.tenant.clone()));
        scopes.push(Scope::Node);
        scopes.retain(|scope| self.ledger.knows(scope));
        scopes
    }

    /// Sets `estimate` aside for a step that the holder is about to take. Asking again for
    /// the same step is harmless, unless it is taken `afresh`: then what an earlier try may
    /// have cost is charged first.
    pub(crate) fn reserve(
        &mut self,
        id: TaskId,
        epoch: Epoch,
        key: &str,
        estimate: Amounts,
        afresh: bool,
        now: Timestamp,
    ) -> Result<(), LeaseError> {
        self.check_epoch(id, epoch)?;
        let Some(entry) = self.tasks.get(&id) else {
            return Err(LeaseError::Unknown(id));
        };
        let (seq, max) = (entry.body.seq, self.limits.log_lines_max);
        if max <= entry.run.events {
            return Err(LeaseError::LogFull { task: id, max });
        }
        if let Some(before) = self.ledger.reserved(id, key) {
            // A larger estimate is another try: the same is answered only to the same.
            if !afresh && estimate.minus(before).is_zero() {
                return Ok(());
            }
            self.charge_unknown(id, key, now);
            self.save(id);
        }
        let open = self.ledger.open_steps(id).len();
        if OPEN_MAX <= open {
            let max = OPEN_MAX;
            return Err(LeaseError::TooManyReservations { task: id, max });
        }
        self.next_reservation += 1;
        let row_id = self.next_reservation;
        let row = ReservationRow {
            id: row_id,
            seq,
            key: key.to_owned(),
            estimate,
            scopes: self.scopes_of(id),
        };
        let changes = &mut self.outbox.changes;
        self.ledger
            .reserve(id, row, now, changes)
            .map_err(|shortfall| LeaseError::OverBudget(Box::new(shortfall)))
    }

    /// Ends the reservation of a step that came to nothing, and charges what it cost all
    /// the same. False if the step has no reservation; then nothing is charged.
    pub(crate) fn give_back(
        &mut self,
        id: TaskId,
        epoch: Epoch,
        key: &str,
        actual: Amounts,
        now: Timestamp,
    ) -> Result<bool, LeaseError> {
        self.check_epoch(id, epoch)?;
        if self.ledger.reserved(id, key).is_none() {
            return Ok(false);
        }
        self.charge(id, key, Some(actual), now);
        if !actual.is_zero() {
            let detail = format!("step `{key}` failed and cost {actual}");
            let kind = TaskEventKind::BudgetCharged;
            self.log(id, kind, Some(epoch), Some(detail.into()), now);
            self.save(id);
        }
        Ok(true)
    }

    /// Charges what a step cost and ends its reservation; `None` charges the reservation.
    pub(super) fn charge(
        &mut self,
        id: TaskId,
        key: &str,
        actual: Option<Amounts>,
        now: Timestamp,
    ) {
        let scopes = self.scopes_of(id);
        let changes = &mut self.outbox.changes;
        let settled = self.ledger.settle(id, key, &scopes, actual, now, changes);
        if let Some(settled) = settled {
            self.measures.spent(actual.unwrap_or(settled.estimate));
            self.wake_short(&settled.freed, Amounts::ZERO, now);
        }
    }

    /// A lease is over: whatever its holder had under way may have happened.
    pub(super) fn charge_open(&mut self, id: TaskId, now: Timestamp) {
        for key in self.ledger.open_steps(id) {
            self.charge_unknown(id, &key, now);
        }
    }

    fn charge_unknown(&mut self, id: TaskId, key: &str, now: Timestamp) {
        let estimate = self.ledger.reserved(id, key).unwrap_or_default();
        self.charge(id, key, None, now);
        let epoch = self.tasks.get(&id).map(|entry| entry.run.epoch);
        let detail = format!("step `{key}` was not settled; charged in full: {estimate}");
        let kind = TaskEventKind::BudgetCharged;
        self.log(id, kind, epoch, Some(detail.into()), now);
    }

    /// Lets the holder's task wait until a person lets a budget grow, or it has room again.
    /// `None` if there is nothing to wait for: the task is available again, or has ended.
    pub(crate) fn wait_for_budget(
        &mut self,
        id: TaskId,
        epoch: Epoch,
        key: &str,
        needs: Amounts,
        now: Timestamp,
    ) -> Result<Option<ApprovalId>, LeaseError> {
        self.check_epoch(id, epoch)?;
        let scopes = self.scopes_of(id);
        let Some(shortfall) = self.ledger.shortfall(&scopes, key, needs, now) else {
            self.release(id, epoch, now)?;
            return Ok(None);
        };
        let changes = &mut self.outbox.changes;
        self.ledger.renew(&shortfall, now, changes);
        let asked = Asked {
            question: Question {
                question: in_words(&shortfall),
                scope: None,
                options: Vec::new(),
            },
            reason: Reason::Budget { shortfall },
            expires_at: None,
            token_hash: None,
        };
        self.ask(id, epoch, asked, now)
    }

    /// Sets what a scope may spend.
    pub(crate) fn set_budget(
        &mut self,
        scope: Scope,
        limits: Limits,
        period: Option<Period>,
        now: Timestamp,
    ) -> Result<BudgetView, BudgetError> {
        match &scope {
            Scope::Task(_) if !self.ledger.knows(&scope) => {
                return Err(BudgetError::Unknown(scope));
            }
            Scope::Task(_) if period.is_some() => return Err(BudgetError::Periodic(scope)),
            Scope::Node | Scope::Tenant(_)
                if OPERATED_MAX <= self.ledger.operated() && !self.ledger.knows(&scope) =>
            {
                return Err(BudgetError::TooMany { max: OPERATED_MAX });
            }
            Scope::Task(_) | Scope::Node | Scope::Tenant(_) => {}
        }
        let changes = &mut self.outbox.changes;
        self.ledger.set(scope.clone(), limits, period, now, changes);
        self.wake_short(std::slice::from_ref(&scope), Amounts::ZERO, now);
        let view = self.ledger.view(&scope, now);
        view.ok_or(BudgetError::Unknown(scope))
    }

    /// How a budget stands.
    pub(crate) fn budget(&self, scope: &Scope, now: Timestamp) -> Option<BudgetView> {
        self.ledger.view(scope, now)
    }

    /// How the budgets stand of the node, of tenants, and of trees with live tasks.
    pub(crate) fn budgets(&self, now: Timestamp) -> Vec<BudgetView> {
        self.ledger.views(now)
    }

    /// The part that is spent of the fullest budgets, by scope and unit.
    pub(crate) fn fullest_budgets(&self, now: Timestamp) -> Fullest {
        self.ledger.fullest(now)
    }

    /// The task leaves `Executing`.
    pub(super) fn lease_is_over(&mut self, id: TaskId, next: TaskState, now: Timestamp) {
        let held = self
            .tasks
            .get(&id)
            .is_some_and(|entry| entry.run.state == TaskState::Executing);
        if held && next != TaskState::Executing {
            self.charge_open(id, now);
        }
    }
}

fn in_words(shortfall: &Shortfall) -> String {
    let more = shortfall.short.iter().map(|short| {
        let word = |amount| Unit::in_words(short.unit, amount);
        format!(
            "{} more for budget `{}` ({} of {} spent, {} reserved)",
            word(short.missing),
            short.scope,
            word(short.spent),
            word(short.limit),
            word(short.reserved)
        )
    });
    let more: Vec<String> = more.collect();
    format!(
        "step `{}` needs {}. Approve {}, or deny and cancel the task?",
        shortfall.key,
        shortfall.needs,
        more.join(", and ")
    )
}
