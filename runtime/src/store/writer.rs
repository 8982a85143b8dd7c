//! The one writer: collects changes and commits whatever is pending in one transaction.
//!
//! Decisions hand over their changes with `Writer::push`, in the order in which they were
//! taken, each with what happens after the commit and who is told. While one transaction
//! commits, the next one gathers (natural batching), and while the answers of one batch are
//! given the disk works on the next. Nobody lingers for callers who may come; but a few who
//! were just answered and ask again at once are let in before the next batch begins. Left
//! alone they split into two groups that wait for each other's flush, for ever.
//!
//! A failed commit fails everything that is pending. From then on pushes are refused until
//! the loop has opened the store again and its owner has reread it (`Recover`): what was
//! decided on top of the lost batch is forgotten, what was acknowledged is in the store.
//! When another node has taken over (`Superseded`), nothing is accepted any more.
//!
//! A store without a disk has nothing to gather for: what the queue decides over it is
//! committed where it was decided (`Writer::commit_now`), and the loop only recovers.
//! A failed fsync is never retried (Rebello et al., "Can Applications Recover from fsync
//! Failures?", USENIX ATC 2020).

pub(crate) mod promotion;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, oneshot, watch};
use tracing::{error, info};

use super::{Changes, Committing, LogLine, Store, StoreError};
use crate::queue::machine::Published;

/// Who is told the outcome of a commit: exactly once, unless the process ends first.
pub(crate) enum Told {
    Nobody,
    /// Somebody who waits for it.
    Waiting(oneshot::Sender<Result<(), StoreError>>),
    /// Runs in the commit loop: short, and without waiting.
    Call(Box<dyn FnOnce(Result<(), StoreError>) + Send>),
}

impl Told {
    pub(crate) fn tell(self, outcome: Result<(), StoreError>) {
        match self {
            Self::Nobody => {}
            // Whoever asked may have stopped waiting.
            Self::Waiting(done) => drop(done.send(outcome)),
            Self::Call(call) => call(outcome),
        }
    }
}

/// Rereads the store after a failure, replaces every decision that was lost with it, and
/// calls [`Writer::readmit`] before anyone can decide on top of what it read.
pub(crate) type Recover =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>> + Send + Sync>;

/// Continues with every batch once it is committed, before its callers are answered.
pub(crate) type Committed = Box<dyn Fn(&Changes, &[Published]) + Send + Sync>;

/// Decisions in one transaction. More would lengthen everybody's wait more than they save:
/// with a thousand the slowest answers took twice as long, with half as many a third less
/// was done.
const BATCH_MAX: usize = 256;
/// Log lines in one transaction, unless one decision has more: a decision may be about a
/// thousand tasks. Above what [`BATCH_MAX`] decisions about one task each make of them.
const LINES_MAX: usize = 2_048;
/// Who was just answered often asks again at once. With no more callers than this it is worth
/// a moment to commit for all of them together: each flush then serves twice as many. With
/// more the flush is not what takes the time.
const RETURNING_MAX: usize = 64;
/// The longest such moment; and never more than a quarter of what the latest commit took.
const RETURNING_WAIT: Duration = Duration::from_micros(500);
/// Pause between attempts to recover.
const RECOVERY_PAUSE: Duration = Duration::from_millis(200);

/// What goes into one transaction, and what comes of it.
#[derive(Default)]
struct Batch {
    changes: Changes,
    published: Vec<Published>,
    told: Vec<Told>,
}

impl Batch {
    /// Callers who wait for it.
    fn callers(&self) -> usize {
        let waits = |told: &&Told| !matches!(told, Told::Nobody);
        self.told.iter().filter(waits).count()
    }

    fn answer(self, outcome: &Result<(), StoreError>) {
        for told in self.told {
            told.tell(outcome.clone());
        }
    }
}

impl Returning {
    /// Whom to wait for after a commit that took so long, if that is worth it.
    fn after(callers: usize, took: Duration) -> Option<Self> {
        let until = Instant::now() + (took / 4).min(RETURNING_WAIT);
        (2..=RETURNING_MAX)
            .contains(&callers)
            .then_some(Self { callers, until })
    }
}

/// A batch that is being committed.
struct UnderWay {
    changes: Arc<Changes>,
    rest: Batch,
    outcome: Committing,
    begun: Instant,
}

/// Callers who may be about to ask again.
struct Returning {
    callers: usize,
    until: Instant,
}

#[derive(Default)]
struct Pending {
    batches: VecDeque<Batch>,
    refuse: Option<StoreError>,
    /// What failed outside the commit loop, which has to recover from it.
    failed: Option<StoreError>,
    /// The commit loop is being polled.
    running: bool,
}

struct Shared {
    store: RwLock<Store>,
    moving: promotion::Moving,
    pending: Mutex<Pending>,
    wake: Notify,
    closed: watch::Sender<bool>,
    superseded: watch::Sender<Option<StoreError>>,
}

/// Marks the commit loop as running. One that is dropped or panics with a batch in hand
/// leaves the writer refusing: whether the batch was kept is unknown, so the next loop
/// recovers before it commits anything. One that is dropped while idle leaves no trace.
struct Running<'a> {
    writer: &'a Writer,
    batch_in_hand: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.writer.0.pending.lock().running = false;
        if self.batch_in_hand {
            self.writer.refuse_from_now_on();
        }
        if matches!(self.writer.refusal(), Some(StoreError::Closed)) {
            // Whoever closes it waits for this loop only.
            self.writer.0.closed.send_replace(true);
        }
    }
}

/// Handle to the writer; cheap to clone.
#[derive(Clone)]
pub struct Writer(Arc<Shared>);

impl Writer {
    /// A writer over `store`. Nothing is committed until the commit loop is polled.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self(Arc::new(Shared {
            store: RwLock::new(store),
            moving: promotion::Moving::default(),
            pending: Mutex::default(),
            wake: Notify::new(),
            closed: watch::Sender::new(false),
            superseded: watch::Sender::new(None),
        }))
    }

    /// The store behind it, for reading. It may be another one after a move; who asks anew
    /// for each read sees all that was acknowledged.
    #[must_use]
    pub fn store(&self) -> Store {
        self.0.store.read().clone()
    }

    /// Hands over a decision.
    pub(crate) fn push(&self, changes: Changes, published: Vec<Published>, told: Told) {
        let mut pending = self.0.pending.lock();
        if let Some(refusal) = pending.refuse.clone() {
            drop(pending);
            return told.tell(Err(refusal));
        }
        if pending.batches.back().is_none_or(|last| {
            BATCH_MAX <= last.told.len() || LINES_MAX <= last.changes.events.len()
        }) {
            pending.batches.push_back(Batch::default());
        }
        if let Some(batch) = pending.batches.back_mut() {
            batch.changes.append(changes);
            batch.published.extend(published);
            batch.told.push(told);
        }
        drop(pending);
        self.0.wake.notify_one();
    }

    /// Commits without waiting, where the store can; others are [pushed](Self::push) to.
    pub(crate) fn commits_now(&self) -> bool {
        matches!(*self.0.store.read(), Store::Volatile(_))
    }

    /// Commits where it stands, to a store that [can](Self::commits_now), and takes what it
    /// keeps out of `changes`. What is pending
    /// from others may be committed later. `watched` says whether anybody wants the log's
    /// new lines; it is asked before anybody can read them.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the loop recovers, and refuses until then.
    pub(crate) fn commit_now(
        &self,
        changes: &mut Changes,
        watched: impl FnOnce() -> bool,
    ) -> Result<Vec<LogLine>, StoreError> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let outcome = match &*self.0.store.read() {
            Store::Volatile(store) => store.commit_now(changes, watched),
            Store::Sqlite(_) | Store::Postgres(_) => Err(cut_off()),
        };
        if let Err(failure) = &outcome {
            self.refuse_from_now_on();
            self.0.pending.lock().failed = Some(failure.clone());
            self.0.wake.notify_one();
        }
        outcome
    }

    /// Does what a store that [commits where it stands](Self::commit_now) left to be done
    /// while nobody waits for the queue.
    pub(crate) fn sweep(&self) {
        if let Store::Volatile(store) = &*self.0.store.read() {
            store.sweep();
        }
    }

    /// Commits `changes` together with whatever else is pending.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; nothing of `changes` was kept.
    ///
    /// Dropping the future does not take the changes back.
    pub async fn write(&self, changes: Changes) -> Result<(), StoreError> {
        let (done, outcome) = oneshot::channel();
        self.push(changes, Vec::new(), Told::Waiting(done));
        outcome.await.unwrap_or_else(|_| Err(cut_off()))
    }

    /// The commit loop; ends when the store is [closed](Self::close).
    ///
    /// Dropped while it commits, it fails what is pending, and another one goes on after a
    /// recovery; dropped while idle, what is pending waits for another one.
    pub(crate) async fn run(self, recover: Recover, committed: Committed) {
        self.0.pending.lock().running = true;
        let mut running = Running {
            writer: &self,
            batch_in_hand: false,
        };
        if matches!(self.refusal(), Some(StoreError::Recovering)) {
            self.recover(cut_off(), &recover).await;
        }
        let mut failures_in_a_row = 0_u32;
        let mut next = None;
        let mut returning = None;
        loop {
            if next.is_none()
                && let Some(returning) = returning.take()
            {
                running.batch_in_hand = false;
                self.gather(returning).await;
            }
            let Some(batch) = next.take().or_else(|| self.begin()) else {
                if let Some(handover) = self.0.moving.take_handover() {
                    running.batch_in_hand = true;
                    self.hand_over(handover, &recover).await;
                    continue;
                }
                if self.is_done() {
                    break;
                }
                running.batch_in_hand = false;
                let failed = self.0.pending.lock().failed.take();
                match failed {
                    Some(failure) => self.recover(failure, &recover).await,
                    None => self.0.wake.notified().await,
                }
                continue;
            };
            running.batch_in_hand = true;
            let UnderWay {
                changes,
                rest,
                outcome,
                begun,
            } = batch;
            let outcome = outcome.await;
            let Err(failure) = &outcome else {
                failures_in_a_row = 0;
                let callers = rest.callers() + self.callers();
                returning = Returning::after(callers, begun.elapsed());
                if returning.is_none() {
                    next = self.begin();
                }
                committed(&changes, &rest.published);
                rest.answer(&outcome);
                continue;
            };
            if let StoreError::Superseded { .. } = failure {
                self.supersede(failure.clone());
                rest.answer(&outcome);
                continue;
            }
            self.refuse_from_now_on();
            rest.answer(&outcome);
            if 0 < failures_in_a_row {
                // What the recovery itself had to write may be what fails.
                tokio::time::sleep(RECOVERY_PAUSE).await;
            }
            failures_in_a_row += 1;
            self.recover(failure.clone(), &recover).await;
        }
        running.batch_in_hand = false;
        self.close_stores().await;
    }

    /// Begins to commit what has waited longest.
    fn begin(&self) -> Option<UnderWay> {
        if self.0.moving.is_due() {
            return None;
        }
        let mut batch = self.0.pending.lock().batches.pop_front()?;
        metrics::histogram!(crate::metrics::STORE_BATCH).record(batch.told.len() as f64);
        self.0.moving.note(&mut batch.changes);
        let changes = Arc::new(std::mem::take(&mut batch.changes));
        Some(UnderWay {
            outcome: self.store().commit(changes.clone()),
            changes,
            rest: batch,
            begun: Instant::now(),
        })
    }

    /// Callers who wait for what is pending.
    fn callers(&self) -> usize {
        let pending = self.0.pending.lock();
        pending.batches.iter().map(Batch::callers).sum()
    }

    /// Lets those who were answered ask again before the next batch begins, for a moment.
    async fn gather(&self, returning: Returning) {
        while Instant::now() < returning.until && self.callers() < returning.callers {
            // They may wait for this very thread.
            tokio::task::yield_now().await;
        }
    }

    /// Closed, and nothing is left to commit.
    fn is_done(&self) -> bool {
        let pending = self.0.pending.lock();
        matches!(pending.refuse, Some(StoreError::Closed)) && pending.batches.is_empty()
    }

    fn refuse_from_now_on(&self) {
        let abandoned = {
            let mut pending = self.0.pending.lock();
            pending.refuse.get_or_insert(StoreError::Recovering);
            std::mem::take(&mut pending.batches)
        };
        for batch in abandoned {
            batch.answer(&Err(StoreError::Recovering));
        }
    }

    async fn recover(&self, failure: StoreError, recover: &Recover) {
        error!(reason = %failure, "commit failed; reopening the store");
        metrics::counter!(crate::metrics::STORE_FAILURES).increment(1);
        loop {
            if matches!(self.0.pending.lock().refuse, Some(StoreError::Closed)) {
                return;
            }
            let reopened = match self.reopen().await {
                Ok(()) => recover().await,
                Err(error) => Err(error),
            };
            match reopened {
                Ok(()) => break,
                Err(superseded @ StoreError::Superseded { .. }) => {
                    return self.supersede(superseded);
                }
                Err(reason) => error!(%reason, "store is still not usable"),
            }
            tokio::time::sleep(RECOVERY_PAUSE).await;
        }
        info!("store recovered");
    }

    /// Refuses everything from now on: another node acts for this node's tasks.
    pub(crate) fn supersede(&self, superseded: StoreError) {
        let abandoned = {
            let mut pending = self.0.pending.lock();
            if !matches!(pending.refuse, Some(StoreError::Closed)) {
                pending.refuse = Some(superseded.clone());
            }
            std::mem::take(&mut pending.batches)
        };
        for batch in abandoned {
            batch.answer(&Err(superseded.clone()));
        }
        self.0.superseded.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(superseded);
            first
        });
    }

    /// Returns when another node has taken over this node's tasks, with who that is: the
    /// node has to stop. Cancellation safe.
    pub async fn superseded(&self) -> StoreError {
        let mut superseded = self.0.superseded.subscribe();
        let known = superseded.wait_for(Option::is_some).await;
        // The sender lives as long as `self`.
        known
            .ok()
            .and_then(|known| known.clone())
            .unwrap_or(StoreError::Closed)
    }

    /// Why changes are refused at present, if they are.
    #[must_use]
    pub fn refusal(&self) -> Option<StoreError> {
        self.0.pending.lock().refuse.clone()
    }

    /// Accepts changes again after a recovery.
    pub(crate) fn readmit(&self) {
        let mut pending = self.0.pending.lock();
        if matches!(pending.refuse, Some(StoreError::Recovering)) {
            pending.refuse = None;
        }
    }

    /// Refuses further changes, commits what is pending and closes the store.
    ///
    /// Returns when that is done, whoever asked for it first. Without a running commit loop
    /// it commits what is pending itself.
    pub async fn close(&self) {
        let mut closed = self.0.closed.subscribe();
        let alone = {
            let mut pending = self.0.pending.lock();
            let was = pending.refuse.replace(StoreError::Closed);
            let first = !matches!(was, Some(StoreError::Closed));
            first && !pending.running
        };
        self.0.wake.notify_one();
        if alone {
            drop(self.0.moving.take_handover());
            while let Some(UnderWay { rest, outcome, .. }) = self.begin() {
                let outcome = outcome.await;
                if outcome.is_err() {
                    // What was decided on top of it must not be kept without it.
                    self.refuse_from_now_on();
                }
                rest.answer(&outcome);
            }
            self.close_stores().await;
            self.0.closed.send_replace(true);
        }
        // The sender lives as long as `self`, so this only ends when it is closed.
        let _ = closed.wait_for(|closed| *closed).await;
    }
}

/// The commit loop ended half way; whether the batch was kept is unknown.
pub(crate) fn cut_off() -> StoreError {
    StoreError::Failed {
        attempt: "commit",
        cause: "the writer was stopped".into(),
    }
}
