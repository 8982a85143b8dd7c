//! This node's life on a store that nodes share: renewed in time, and others' taken over.
//!
//! Stopping it loses nothing: the life runs out, and another node takes over.

use std::time::Duration;

use tracing::{info, warn};

use super::Queue;
use crate::store::StoreError;

/// Longest pause between looks for nodes that are gone.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

impl Queue {
    /// Renews this node's life, takes over the tasks of nodes that are gone, and exchanges
    /// signals, units of gates and shares of budgets with those that are not. Ends when another
    /// node has taken over this one's, which the [writer](super::Writer) then knows; on a store of
    /// one node there is nothing to do until it is moved.
    pub async fn keep_life(&self) {
        let term = self.writer().shared().await;
        let store = self.store();
        tokio::select! {
            superseded = self.renew(term) => self.writer().supersede(superseded),
            () = Box::pin(self.inherit(term)) => {}
            () = Box::pin(store.exchange_signals()) => {}
            () = Box::pin(self.keep_ties()) => {}
            () = Box::pin(self.share_units()) => {}
            () = Box::pin(self.keep_funds()) => {}
            () = Box::pin(self.keep_pool()) => {}
        }
    }

    /// Renews six times per term, in turns on each of two connections, and more often after a
    /// failure.
    async fn renew(&self, term: Duration) -> StoreError {
        let second = async {
            tokio::time::sleep(term / 6).await;
            self.renew_on(1, term).await
        };
        tokio::select! {
            superseded = self.renew_on(0, term) => superseded,
            superseded = second => superseded,
        }
    }

    async fn renew_on(&self, keeper: usize, term: Duration) -> StoreError {
        let mut failing = false;
        loop {
            match self.store().renew_life(keeper).await {
                Ok(()) if failing => {
                    failing = false;
                    info!("this node's life is renewed again");
                }
                Ok(()) => {}
                Err(superseded @ StoreError::Superseded { .. }) => return superseded,
                Err(StoreError::Closed) => return std::future::pending().await,
                Err(reason) if !failing => {
                    failing = true;
                    warn!(%reason, "this node's life was not renewed; another node may take over its tasks");
                }
                Err(_) => {}
            }
            let pause = if failing { term / 10 } else { term / 3 };
            tokio::time::sleep(pause).await;
        }
    }

    async fn inherit(&self, term: Duration) {
        loop {
            tokio::time::sleep((term / 3).min(LOOK_PERIOD)).await;
            match self.take_over().await {
                Ok(()) => {}
                Err(StoreError::Closed) => return std::future::pending().await,
                Err(reason) => warn!(%reason, "could not look for nodes that are gone"),
            }
        }
    }

    /// Puts the tasks of nodes that are gone into the machine, as a start would.
    async fn take_over(&self) -> Result<(), StoreError> {
        let _loading = self.0.loading.lock().await;
        let Some(takeover) = self.store().take_over().await? else {
            return Ok(());
        };
        let mut machine = self.0.machine.lock();
        if self.writer().refusal().is_some() {
            // The recovery reads everything this node acts for.
            return Ok(());
        }
        let (tasks, lives) = (takeover.live.len(), takeover.lives.clone());
        machine.adopt(takeover, self.0.clock.now());
        self.store().loaded(&lives);
        self.hand_over(&mut machine);
        self.0.pool.unsettle();
        drop(machine);
        info!(tasks, "tasks of nodes that are gone are here");
        Ok(())
    }
}
