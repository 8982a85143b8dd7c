//! The writer's part in a move to another store.
//!
//! While tasks are copied, what is committed is noted down. The rest is copied by the commit
//! loop itself, between two batches: nothing is committed meanwhile, and callers wait. Then
//! the file's mark is committed like any batch, and it decides, also when the loop is dropped
//! or the commit's outcome is unknown: whoever reopens the file and finds the mark goes on
//! with the other store.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::info;

use super::{Recover, Writer};
use crate::store::postgres::Postgres;
use crate::store::promotion::{Handover, PromotionError, Touched};
use crate::store::{Changes, Store, StoreError};

/// Longest time that callers wait while the rest is copied.
const REST_MAX: Duration = Duration::from_secs(15);

/// Where the tasks go, from just before the mark is written.
#[derive(Clone)]
struct Target {
    store: Postgres,
    boot: u32,
    moved: Arc<dyn Fn(u32) + Send + Sync>,
}

/// A move under way.
#[derive(Default)]
pub(super) struct Moving {
    tap: Mutex<Option<Touched>>,
    handover: Mutex<Option<Handover>>,
    target: Mutex<Option<Target>>,
    /// Stores that were left behind: who began to read there may finish.
    left: Mutex<Vec<Store>>,
    moves: watch::Sender<u64>,
}

impl Moving {
    /// The commit loop is to hand over before it commits anything else.
    pub(super) fn is_due(&self) -> bool {
        self.handover.lock().is_some()
    }

    pub(super) fn take_handover(&self) -> Option<Handover> {
        self.handover.lock().take()
    }

    /// Notes what is about to be committed, if somebody copies. Nothing is forgotten
    /// meanwhile, since that would not be seen here.
    pub(super) fn note(&self, changes: &mut Changes) {
        if let Some(touched) = &mut *self.tap.lock() {
            changes.prune_before = None;
            touched.note(changes);
        }
    }
}

/// Notes what is committed until it is dropped.
pub(crate) struct Tap(Writer);

impl Tap {
    /// What was committed since the last call, or is being.
    pub(crate) fn take(&self) -> Touched {
        let mut tap = self.0.0.moving.tap.lock();
        tap.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        let tap = self.0.0.moving.tap.lock();
        tap.as_ref().map_or(0, Touched::len)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        *self.0.0.moving.tap.lock() = None;
    }
}

impl Writer {
    /// Begins to note what is committed; `None` if somebody does already. Who waits for a
    /// [`write`](Self::write) afterwards knows that everything else is committed.
    pub(crate) fn tap(&self) -> Option<Tap> {
        let mut tap = self.0.moving.tap.lock();
        if tap.is_some() {
            return None;
        }
        *tap = Some(Touched::default());
        drop(tap);
        Some(Tap(self.clone()))
    }

    /// Lets the commit loop hand over before it commits anything else.
    pub(crate) fn ask_to_hand_over(&self, handover: Handover) {
        *self.0.moving.handover.lock() = Some(handover);
        self.0.wake.notify_one();
    }

    /// Returns when the store is one that nodes share, with how long a life lasts there.
    /// Cancellation safe.
    pub(crate) async fn shared(&self) -> Duration {
        let mut moves = self.0.moving.moves.subscribe();
        loop {
            if let Some(term) = self.store().life_term() {
                return term;
            }
            if moves.changed().await.is_err() {
                // The sender lives as long as `self`.
                return std::future::pending().await;
            }
        }
    }

    /// Copies the rest, lets the file's mark decide, and goes on with the other store.
    pub(super) async fn hand_over(&self, handover: Handover, recover: &Recover) {
        let Handover {
            rest,
            target,
            moved,
            done,
        } = handover;
        let outcome = self.decide(rest, target, moved, recover, || done.is_closed());
        let outcome = outcome.await;
        *self.0.moving.target.lock() = None;
        // Who asked may have stopped waiting; what was decided stands.
        let _ = done.send(outcome);
    }

    async fn decide(
        &self,
        rest: crate::store::promotion::Rest,
        target: Postgres,
        moved: Arc<dyn Fn(u32) + Send + Sync>,
        recover: &Recover,
        given_up: impl Fn() -> bool,
    ) -> Result<(), PromotionError> {
        let touched = self.0.moving.tap.lock().as_mut().map(std::mem::take);
        let (Some(touched), None, false) = (touched, self.refusal(), given_up()) else {
            return Err(PromotionError::Interrupted);
        };
        let mark = match timeout(REST_MAX, rest(touched)).await {
            Ok(copied) => copied?,
            Err(_elapsed) => return Err(PromotionError::TooSlow),
        };
        let changes = Arc::new(mark.changes()?);
        *self.0.moving.target.lock() = Some(Target {
            store: target.clone(),
            boot: mark.boot,
            moved,
        });
        if let Err(failure) = self.store().commit(changes).await {
            // Whether the mark was kept is found out by reading the file again.
            self.refuse_from_now_on();
            self.recover(failure.clone(), recover).await;
            return match self.store() {
                Store::Postgres(_) => Ok(()),
                Store::Sqlite(_) | Store::Volatile(_) => Err(failure.into()),
            };
        }
        self.go_over();
        if let Err(failure) = target.activate().await {
            // The database has everything; it has to be reached, and nothing else is left.
            self.refuse_from_now_on();
            self.recover(failure, recover).await;
        }
        Ok(())
    }

    /// The mark is in the file: everything is read from and written to the target.
    fn go_over(&self) {
        let Some(target) = self.0.moving.target.lock().take() else {
            return;
        };
        let database = target.store.url().to_string();
        let old = std::mem::replace(&mut *self.0.store.write(), Store::Postgres(target.store));
        self.0.moving.left.lock().push(old);
        (target.moved)(target.boot);
        self.0.moving.moves.send_modify(|moves| *moves += 1);
        info!(%database, life = target.boot, "the tasks are in the database from now on");
    }

    /// Opens the store anew; the other one, if the file turns out to be marked.
    pub(super) async fn reopen(&self) -> Result<(), StoreError> {
        let reopened = self.store().reopen().await;
        let marked = matches!(reopened, Err(StoreError::Promoted { .. }));
        if !marked || self.0.moving.target.lock().is_none() {
            return reopened;
        }
        self.go_over();
        self.store().reopen().await
    }

    pub(super) async fn close_stores(&self) {
        self.store().close().await;
        let left = std::mem::take(&mut *self.0.moving.left.lock());
        for store in left {
            store.close().await;
        }
    }
}
