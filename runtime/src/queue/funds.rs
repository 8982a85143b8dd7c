//! Budgets that nodes share: purses are filled where steps need it, and emptied where none
//! does.
//!
//! Stopping it loses nothing: what is in this node's purses is free again when its life has
//! ended and its heir has charged what was under way.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::warn;

use super::Queue;
use super::budget::{Amounts, BudgetView, Limits, Period, Scope};
use super::error::BudgetError;
use super::fund::{Draw, Drawn};
use super::machine::OPERATED_MAX;
use crate::ids::TaskId;
use crate::store::StoreError;
use crate::store::postgres::Signal;

/// How long a step waits for what other nodes may give back, before its task waits without
/// a lease.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pauses after asking in vain: from the first, doubled up to the last.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(64);
/// Longest time between two looks at who waits for what is not used here.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// The same while this node has nothing of any shared budget, and wants nothing.
const IDLE_PERIOD: Duration = Duration::from_secs(1);

/// What became of asking the funds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing was to be asked: what is in the way is no shared budget.
    Nothing,
    /// There may be enough now.
    Granted,
    /// Others may give back what is missing.
    Waits,
    /// There is not so much left for anybody.
    Exhausted,
}

impl Queue {
    /// Asks the funds once for what a step needs.
    pub(super) async fn ask_funds(&self, id: TaskId, needs: Amounts) -> Result<Asked, StoreError> {
        if !self.store().is_shared() {
            return Ok(Asked::Nothing);
        }
        let _exchanging = self.0.funding.lock().await;
        let draws = {
            let mut machine = self.0.machine.lock();
            if machine.has_room(id, needs, self.0.clock.now()) {
                // Somebody's exchange brought it meanwhile.
                return Ok(Asked::Granted);
            }
            machine.asks(id, needs)
        };
        if draws.is_empty() {
            return Ok(Asked::Nothing);
        }
        self.draw(&draws, &[], false).await?;
        let machine = self.0.machine.lock();
        if machine.has_room(id, needs, self.0.clock.now()) {
            Ok(Asked::Granted)
        } else if machine.may_come(id, needs) {
            Ok(Asked::Waits)
        } else {
            Ok(Asked::Exhausted)
        }
    }

    /// Asks until there is enough for a step, or it is certain that there is not, or it takes
    /// too long.
    pub(super) async fn await_funds(
        &self,
        id: TaskId,
        needs: Amounts,
        since: Instant,
    ) -> Result<Asked, StoreError> {
        let mut pause = PAUSE_MIN;
        loop {
            match self.ask_funds(id, needs).await? {
                Asked::Granted | Asked::Waits if PATIENCE <= since.elapsed() => {
                    return Ok(Asked::Waits);
                }
                Asked::Waits => sleep(pause).await,
                told @ (Asked::Nothing | Asked::Granted | Asked::Exhausted) => return Ok(told),
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Looks after this node's purses; never returns.
    pub(super) async fn keep_funds(&self) {
        let mut hearing = self.store().hearing(Signal::Funds);
        let mut settled = HashSet::new();
        let mut failing = false;
        loop {
            let period = if self.0.machine.lock().uses_funds() {
                LOOK_PERIOD
            } else {
                IDLE_PERIOD
            };
            tokio::select! {
                () = sleep(period) => {}
                true = hearing.next() => {}
            }
            match self.look_at_funds(&mut settled).await {
                Ok(()) => failing = false,
                Err(StoreError::Closed | StoreError::Superseded { .. }) => {
                    return std::future::pending().await;
                }
                Err(reason) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(%reason, "budgets that nodes share cannot be exchanged");
                    }
                }
            }
            // A burst of signals is one look.
            sleep(PAUSE_MIN).await;
        }
    }

    /// `settled` are the ended lives of which it is known that they left nothing.
    async fn look_at_funds(&self, settled: &mut HashSet<i64>) -> Result<(), StoreError> {
        let _exchanging = self.0.funding.lock().await;
        if self.0.writer.refusal().is_some() {
            // Nothing is decided while the store recovers.
            return Ok(());
        }
        let spare = self.0.machine.lock().spare_funds();
        let contended = if spare.is_empty() {
            BTreeSet::new()
        } else {
            self.store().funds_contended(&spare).await?
        };
        let (inherited, left) = self.inherited_funds(settled).await?;
        let draws = {
            let mut machine = self.0.machine.lock();
            machine.contend_funds(&contended);
            let draws = machine.looks(&left, self.0.clock.now());
            self.hand_over(&mut machine);
            draws
        };
        if !draws.is_empty() {
            self.draw(&draws, &inherited, true).await?;
        }
        let told = |scope: &Scope| draws.iter().any(|draw| draw.scope == *scope);
        if left.iter().all(told) {
            settled.extend(inherited);
        }
        Ok(())
    }

    /// Lives whose tasks are here by now, with all that they had under way charged durably,
    /// and the funds where they left something.
    async fn inherited_funds(
        &self,
        settled: &HashSet<i64>,
    ) -> Result<(Vec<i64>, Vec<Scope>), StoreError> {
        let inherited = {
            // They are put into memory under this lock, and what follows is handed over.
            let _machine = self.0.machine.lock();
            self.store().inherited()
        };
        if inherited.iter().all(|life| settled.contains(life)) {
            return Ok((inherited, Vec::new()));
        }
        self.settle().await?;
        let left = self.store().funds_left_by(&inherited).await?;
        Ok((inherited, left))
    }

    /// Tells the funds. Whoever calls it holds [`funding`](super::Inner).
    async fn draw(&self, draws: &[Draw], settled: &[i64], wake: bool) -> Result<(), StoreError> {
        let drawn = self.drawn(draws, settled).await;
        let mut machine = self.0.machine.lock();
        match drawn {
            Ok(drawn) => {
                let answers: Vec<(Draw, Drawn)> = draws.iter().cloned().zip(drawn).collect();
                machine.drawn(&answers, wake, self.0.clock.now());
                self.hand_over(&mut machine);
                Ok(())
            }
            Err(reason) => {
                machine.undrawn(draws);
                Err(reason)
            }
        }
    }

    async fn drawn(&self, draws: &[Draw], settled: &[i64]) -> Result<Vec<Drawn>, StoreError> {
        // Others may spend what goes back: nothing of what led to it may be lost any more.
        if draws.iter().any(|draw| draw.settled_first) {
            self.settle().await?;
        }
        let drawn = self.store().draw(draws, settled).await?;
        let mut told = draws.iter().zip(&drawn);
        if told.any(|(draw, drawn)| {
            let waits = !draw.least.fits(drawn.granted) && !draw.again;
            waits || (draw.settled_first && drawn.contended)
        }) {
            self.store().signal(Signal::Funds, &[]);
        }
        Ok(drawn)
    }

    /// Applies limits that other nodes have set.
    pub(super) async fn follow_funds(&self) -> Result<(), StoreError> {
        let version = self.0.machine.lock().funds_version();
        let news = self.store().funds_since(version).await?;
        if news.is_empty() {
            return Ok(());
        }
        let mut machine = self.0.machine.lock();
        if self.0.writer.refusal().is_none() {
            machine.follow_funds(news, self.0.clock.now());
            self.hand_over(&mut machine);
        }
        Ok(())
    }

    /// Sets what a tenant may spend on all nodes together. Durable when it returns; other
    /// nodes hear of it within a second.
    pub(super) async fn set_fund(
        &self,
        scope: Scope,
        limits: Limits,
        period: Option<Period>,
    ) -> Result<BudgetView, BudgetError> {
        if let Some(refusal) = self.0.writer.refusal() {
            return Err(refusal.into());
        }
        let now = self.0.clock.now();
        let store = self.store();
        let set = store.set_fund(&scope, limits, period, now, OPERATED_MAX);
        if !set.await? {
            return Err(BudgetError::TooMany { max: OPERATED_MAX });
        }
        self.follow_funds().await?;
        self.store().signal(Signal::Control, &[]);
        self.fund(&scope).await
    }

    /// How a shared budget stands, over all nodes.
    pub(super) async fn fund(&self, scope: &Scope) -> Result<BudgetView, BudgetError> {
        let mut views = self.store().fund_views(Some(scope)).await?;
        views
            .pop()
            .ok_or_else(|| BudgetError::Unknown(scope.clone()))
    }
}
