//! Budgets: spending under a lease, and what operators set and see.

use tokio::time::Instant;

use super::Queue;
use super::approval::ApprovalId;
use super::budget::{Amounts, BudgetView, Limits, Period, Scope};
use super::error::{BudgetError, LeaseError};
use super::funds::Asked;
use crate::ids::{Epoch, TaskId};
use crate::store::StoreError;

impl Queue {
    /// Sets `estimate` aside for a step that the holder is about to take, in every budget
    /// that limits it. Durable when it returns: only then may the effect begin. The step's
    /// record settles it; so does [`give_back`](Self::give_back). If neither happens before
    /// the lease is over, all of it is charged, since the effect may have happened.
    ///
    /// A step has one reservation. Asking for it again answers the same, unless the step is
    /// taken `afresh`: then what an earlier try may have cost is charged in full first.
    ///
    /// # Errors
    ///
    /// [`LeaseError::OverBudget`]: nothing was set aside, and the lease still holds.
    ///
    /// Dropping the future does not take the reservation back.
    pub async fn reserve(
        &self,
        id: TaskId,
        epoch: Epoch,
        key: &str,
        estimate: Amounts,
        afresh: bool,
    ) -> Result<(), LeaseError> {
        let since = Instant::now();
        let mut asked = Asked::Granted;
        loop {
            let outcome = self
                .decide(|machine, now| machine.reserve(id, epoch, key, estimate, afresh, now))
                .await;
            // Of a budget that nodes share, more may be elsewhere. What an abandoned try may
            // have cost is charged by then, once.
            if matches!(outcome, Err(LeaseError::OverBudget(_))) && asked == Asked::Granted {
                asked = self.await_funds(id, estimate, since).await?;
                // In vain, it is told once more how things stand by now.
                if asked != Asked::Nothing {
                    continue;
                }
            }
            return self.settled(outcome, epoch).await;
        }
    }

    /// Ends the reservation of a step that came to nothing, and charges what it cost all
    /// the same. False if the step has no reservation, so that repeating it is harmless.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]
    pub async fn give_back(
        &self,
        id: TaskId,
        epoch: Epoch,
        key: &str,
        actual: Amounts,
    ) -> Result<bool, LeaseError> {
        let outcome = self
            .decide(|machine, now| machine.give_back(id, epoch, key, actual, now))
            .await;
        self.settled(outcome, epoch).await
    }

    /// Lets the task wait, without a lease, until a person lets the budget grow that has no
    /// room for `needs`, or it has room again. `None` if there is nothing to wait for: the
    /// task is available again, or has ended since it was asked to stop.
    ///
    /// # Errors
    ///
    /// [`LeaseError`]
    pub async fn wait_for_budget(
        &self,
        id: TaskId,
        epoch: Epoch,
        key: &str,
        needs: Amounts,
    ) -> Result<Option<ApprovalId>, LeaseError> {
        self.ask_funds(id, needs).await?;
        let outcome = self
            .decide(|machine, now| machine.wait_for_budget(id, epoch, key, needs, now))
            .await;
        self.settled(outcome, epoch).await
    }

    /// Sets what the node, a tenant, or a live task and everything below it may spend. What
    /// was spent since the budget exists stays spent. Tasks that waited for room go on as
    /// far as there is some.
    ///
    /// # Errors
    ///
    /// [`BudgetError`]
    pub async fn set_budget(
        &self,
        scope: Scope,
        limits: Limits,
        period: Option<Period>,
    ) -> Result<BudgetView, BudgetError> {
        if self.is_fund(&scope) {
            return self.set_fund(scope, limits, period).await;
        }
        self.decide(|machine, now| machine.set_budget(scope, limits, period, now))
            .await
    }

    /// How a budget stands; that of a task also after everything in it has ended, as long
    /// as the task is kept.
    ///
    /// # Errors
    ///
    /// [`BudgetError::Unknown`], or [`BudgetError::Store`].
    pub async fn budget(&self, scope: &Scope) -> Result<BudgetView, BudgetError> {
        if self.is_fund(scope) {
            return self.fund(scope).await;
        }
        let live = self.0.machine.lock().budget(scope, self.0.clock.now());
        if let Some(view) = live {
            return Ok(view);
        }
        let row = self.store().budget(scope).await?;
        let row = row.ok_or_else(|| BudgetError::Unknown(scope.clone()))?;
        Ok(BudgetView {
            scope: row.scope,
            limits: row.limits,
            period: row.period,
            since: row.since,
            spent: row.spent,
            reserved: Amounts::ZERO,
            granted: row.granted,
        })
    }

    /// How the budgets stand of the node, of tenants, and of trees with live tasks. Those of
    /// tenants are of all nodes that share the store; otherwise the disk is not touched.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn budgets(&self) -> Result<Vec<BudgetView>, StoreError> {
        let mut views = self.0.machine.lock().budgets(self.0.clock.now());
        if self.store().is_shared() {
            views.retain(|view| !self.is_fund(&view.scope));
            views.extend(self.store().fund_views(None).await?);
            views.sort_by(|a, b| a.scope.cmp(&b.scope));
        }
        Ok(views)
    }

    /// All nodes on the store share this budget.
    fn is_fund(&self, scope: &Scope) -> bool {
        match scope {
            Scope::Tenant(_) => self.store().is_shared(),
            Scope::Node | Scope::Task(_) => false,
        }
    }
}

/// Budgets of trees that are not put away while this lives.
pub(super) struct Held<'a> {
    queue: &'a Queue,
    trees: Vec<TaskId>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.queue.0.machine.lock().let_go_budgets(&self.trees);
    }
}

impl Queue {
    /// Keeps the budgets of these trees in memory as far as they are there, so that nothing
    /// read from the store is older than what is decided by.
    pub(super) fn hold_budgets(&self, trees: Vec<TaskId>) -> Held<'_> {
        self.0.machine.lock().hold_budgets(&trees);
        Held { queue: self, trees }
    }
}
