//! What a node does on a store that other nodes share. Nothing, on one that is its own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::postgres::{Hearing, Signal, Takeover};
use super::{Changes, Handed, Store, StoreError};
use crate::clock::Timestamp;
use crate::ids::TaskId;
use crate::json::Json;
use crate::queue::allotment::{Answer, PoolKey, Wish};
use crate::queue::budget::{BudgetView, Limits, Period, Scope};
use crate::queue::control::Control;
use crate::queue::fund::{Draw, Drawn, FundNews};
use crate::queue::machine::{News, Want};
use crate::queue::order::Order;

impl Store {
    /// Whether other nodes may work on it at the same time.
    pub(crate) fn is_shared(&self) -> bool {
        match self {
            Self::Postgres(_) => true,
            Self::Sqlite(_) | Self::Volatile(_) => false,
        }
    }

    /// A task that lives on another node and spends from one of these trees, or is the root of
    /// one.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub(crate) async fn spender_elsewhere(
        &self,
        trees: &[TaskId],
    ) -> Result<Option<TaskId>, StoreError> {
        match self {
            Self::Postgres(store) if !trees.is_empty() => store.spender_elsewhere(trees).await,
            Self::Postgres(_) | Self::Sqlite(_) | Self::Volatile(_) => Ok(None),
        }
    }

    /// Tasks of other nodes that are looked up, one by one.
    pub(crate) async fn standing(&self, ids: &[TaskId]) -> Result<Vec<(TaskId, News)>, StoreError> {
        match self {
            Self::Postgres(store) => store.standing(ids).await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(Vec::new()),
        }
    }

    /// One of `others` that cannot end before `id` has, as far as it is stored; on a store of
    /// one node its memory knows.
    pub(crate) async fn waits_for(
        &self,
        id: TaskId,
        others: &[TaskId],
    ) -> Result<Option<TaskId>, StoreError> {
        match self {
            Self::Postgres(store) => store.waits_for(id, others).await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(None),
        }
    }

    /// Open orders that this node is to carry out.
    pub(crate) async fn open_orders(&self) -> Result<Vec<Order>, StoreError> {
        match self {
            Self::Postgres(store) => store.open_orders().await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(Vec::new()),
        }
    }

    /// The answer to an order, once there is one.
    pub(crate) async fn answer_to(&self, order: uuid::Uuid) -> Result<Option<Json>, StoreError> {
        match self {
            Self::Postgres(store) => store.answer_to(order).await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(None),
        }
    }

    /// The name of the node that has a live task.
    pub(crate) async fn node_of(&self, task: TaskId) -> Result<Option<String>, StoreError> {
        match self {
            Self::Postgres(store) => store.node_of(task).await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(None),
        }
    }

    /// The switches that all nodes follow.
    pub(crate) async fn control(&self) -> Result<Control, StoreError> {
        match self {
            Self::Postgres(store) => store.control().await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(Control::default()),
        }
    }

    /// Changes the switches that all nodes follow.
    pub(crate) async fn change_control<E>(
        &self,
        change: impl FnOnce(&mut Control) -> Result<(), E>,
    ) -> Result<Result<Control, E>, StoreError> {
        match self {
            Self::Postgres(store) => store.change_control(change).await,
            Self::Sqlite(_) | Self::Volatile(_) => {
                let mut control = Control::default();
                Ok(change(&mut control).map(|()| control))
            }
        }
    }

    /// Gives other nodes hints about what was committed here and is theirs to know.
    pub(crate) fn tell_others(&self, changes: &Changes) {
        if let Self::Postgres(store) = self {
            if !changes.orders.is_empty() || !changes.answers.is_empty() {
                store.signal(Signal::Ordered, &[]);
            }
            // Who accepted a task waits for it, if anybody does.
            let lives = store.lives_of(changes.ends.iter().map(|(seq, _)| *seq));
            if !lives.is_empty() {
                store.signal(Signal::Ended, &lives);
            }
        }
    }

    /// How long this node's life lasts without renewal; `None` where it needs none.
    pub(crate) fn life_term(&self) -> Option<Duration> {
        match self {
            Self::Postgres(store) => Some(store.life_term()),
            Self::Sqlite(_) | Self::Volatile(_) => None,
        }
    }

    /// Renews this node's life, so that nobody takes its tasks over: on the first or on the
    /// second of its connections for that.
    ///
    /// # Errors
    ///
    /// [`StoreError::Superseded`] when somebody has; any other means try again.
    pub(crate) async fn renew_life(&self, keeper: usize) -> Result<(), StoreError> {
        match self {
            Self::Postgres(store) => store.renew_life(keeper).await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(()),
        }
    }

    /// Takes over from nodes whose lives ran out; what is returned has to be put into
    /// memory and [confirmed](Self::loaded).
    ///
    /// # Errors
    ///
    /// [`StoreError`]; what was taken over is returned by a later call.
    pub(crate) async fn take_over(&self) -> Result<Option<Takeover>, StoreError> {
        match self {
            Self::Postgres(store) => store.take_over().await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(None),
        }
    }

    /// The tasks of `lives` are in memory.
    pub(crate) fn loaded(&self, lives: &[i64]) {
        match self {
            Self::Postgres(store) => store.loaded(lives),
            Self::Sqlite(_) | Self::Volatile(_) => {}
        }
    }

    /// Says which tasks this node wants from others; the whole of it, each time.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; others go by what was said before, for a short time.
    pub(crate) async fn want(&self, wants: &[(Arc<str>, usize)]) -> Result<(), StoreError> {
        match self {
            Self::Postgres(store) => store.want(wants).await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(()),
        }
    }

    /// What other nodes want.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub(crate) async fn wants(&self) -> Result<Vec<Want>, StoreError> {
        match self {
            Self::Postgres(store) => store.wants().await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(Vec::new()),
        }
    }

    /// No other node lives on this store.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub(crate) async fn is_alone(&self) -> Result<bool, StoreError> {
        match self {
            Self::Postgres(store) => store.is_alone().await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(true),
        }
    }

    /// Tasks that were handed over to this node, at most `max`, oldest first.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub(crate) async fn handed(&self, max: usize) -> Result<Handed, StoreError> {
        match self {
            Self::Postgres(store) => store.handed(max).await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(Handed::default()),
        }
    }

    /// Hears one kind of signal from other nodes from now on; nothing where no other node
    /// shares the store. Needs [`exchange_signals`](Self::exchange_signals) to run.
    pub(crate) fn hearing(&self, signal: Signal) -> Hearing {
        match self {
            Self::Postgres(store) => store.hearing(signal),
            Self::Sqlite(_) | Self::Volatile(_) => Hearing::silent(),
        }
    }

    /// Gives other nodes a hint: those that live these lives, or all if none is named. Does
    /// not wait; a hint may be lost, so what it is about is also looked for in time.
    pub(crate) fn signal(&self, signal: Signal, lives: &[i64]) {
        match self {
            Self::Postgres(store) => store.signal(signal, lives),
            Self::Sqlite(_) | Self::Volatile(_) => {}
        }
    }

    /// Sends and hears signals; never ends.
    pub(crate) async fn exchange_signals(&self) {
        match self {
            Self::Postgres(store) => store.exchange_signals().await,
            Self::Sqlite(_) | Self::Volatile(_) => std::future::pending().await,
        }
    }

    /// Tells the pools that nodes share what this node keeps and wants, in one transaction of
    /// its own. Answers in the order of the wishes, when it is durable.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; what was given back may have been, and nothing may be counted on that
    /// was asked for.
    pub(crate) async fn exchange(&self, wishes: &[Wish]) -> Result<Vec<Answer>, StoreError> {
        match self {
            Self::Postgres(store) => store.exchange(wishes).await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(vec![Answer::default(); wishes.len()]),
        }
    }

    /// At which of these pools other nodes stand in line.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub(crate) async fn contended(
        &self,
        pools: &[PoolKey],
    ) -> Result<BTreeSet<PoolKey>, StoreError> {
        match self {
            Self::Postgres(store) => store.contended(pools).await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(BTreeSet::new()),
        }
    }

    /// Tells the budgets that nodes share what this node keeps and needs, in one transaction
    /// of its own. `settled` are lives that ended, whose tasks this node has, and of which
    /// everything is charged. Answers in the order of the draws, when it is durable.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; what was given back may have been, and nothing may be counted on that
    /// was asked for.
    pub(crate) async fn draw(
        &self,
        draws: &[Draw],
        settled: &[i64],
    ) -> Result<Vec<Drawn>, StoreError> {
        match self {
            Self::Postgres(store) => store.draw(draws, settled).await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(vec![Drawn::default(); draws.len()]),
        }
    }

    /// For which of these budgets other nodes wait.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub(crate) async fn funds_contended(
        &self,
        scopes: &[Scope],
    ) -> Result<BTreeSet<Scope>, StoreError> {
        match self {
            Self::Postgres(store) => store.funds_contended(scopes).await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(BTreeSet::new()),
        }
    }

    /// Lives that ended, whose tasks this node has in memory.
    pub(crate) fn inherited(&self) -> Vec<i64> {
        match self {
            Self::Postgres(store) => store.inherited(),
            Self::Sqlite(_) | Self::Volatile(_) => Vec::new(),
        }
    }

    /// Shared budgets of which these lives had a part.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub(crate) async fn funds_left_by(&self, lives: &[i64]) -> Result<Vec<Scope>, StoreError> {
        match self {
            Self::Postgres(store) => store.funds_left_by(lives).await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(Vec::new()),
        }
    }

    /// Shared budgets whose limits were set since.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub(crate) async fn funds_since(&self, version: i64) -> Result<Vec<FundNews>, StoreError> {
        match self {
            Self::Postgres(store) => store.funds_since(version).await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(Vec::new()),
        }
    }

    /// Sets what all nodes together may spend. False if there are `max` such budgets.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub(crate) async fn set_fund(
        &self,
        scope: &Scope,
        limits: Limits,
        period: Option<Period>,
        now: Timestamp,
        max: usize,
    ) -> Result<bool, StoreError> {
        match self {
            Self::Postgres(store) => store.set_fund(scope, limits, period, now, max).await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(true),
        }
    }

    /// How one or all shared budgets stand, over all nodes.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub(crate) async fn fund_views(
        &self,
        scope: Option<&Scope>,
    ) -> Result<Vec<BudgetView>, StoreError> {
        match self {
            Self::Postgres(store) => store.fund_views(scope).await,
            Self::Sqlite(_) | Self::Volatile(_) => Ok(Vec::new()),
        }
    }
}
