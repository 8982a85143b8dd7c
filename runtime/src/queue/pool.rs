//! One pool of tasks for all nodes of a database: idle workers get what waits elsewhere.
//!
//! Three loops: one says what this node wants, one gives away what others want, one takes in
//! what was given. What goes is decided by the machine (`machine/hand_over.rs`) under its
//! lock, so that order and fairness stay one decision. Signals only say when to look; each
//! loop looks every second without them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::Queue;
use crate::store::postgres::Signal;
use crate::store::writer::cut_off;
use crate::store::{HandedOver, StoreError};

/// Tasks taken in by one decision.
const TAKE_MAX: usize = 500;
/// Shortest time between two announcements of what this node wants.
const ANNOUNCE_PAUSE: Duration = Duration::from_millis(20);
/// What is still wanted is said again after this long; others forget it after three times
/// as long.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(1);

/// What the loops share with the rest of the queue.
#[derive(Debug)]
pub(super) struct Pool {
    /// What this node wants may have changed.
    changed: Notify,
    /// How often tasks came with notes that had to be removed, and up to which time that is
    /// known to be done. To read the notes before would be to take these tasks in again.
    came: AtomicU64,
    settled: AtomicU64,
    /// Other nodes may live on the database.
    shared: AtomicBool,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            changed: Notify::new(),
            came: AtomicU64::new(1),
            settled: AtomicU64::new(0),
            shared: AtomicBool::new(false),
        }
    }
}

impl Pool {
    /// Somebody waits, or something was leased.
    pub(super) fn look(&self) {
        if self.shared.load(Ordering::Relaxed) {
            self.changed.notify_one();
        }
    }

    /// Tasks came with notes. To be called by who holds [`loading`](super::Inner), while the
    /// decision to remove the notes is on its way to the writer.
    pub(super) fn unsettle(&self) -> u64 {
        self.came.fetch_add(1, Ordering::SeqCst) + 1
    }
}

impl Queue {
    /// Exchanges tasks with other nodes of the database; never ends. Stopping it loses
    /// nothing: what was handed over stands in the database.
    pub(super) async fn keep_pool(&self) {
        tokio::join!(self.keep_wanting(), self.keep_giving(), self.keep_taking());
    }

    /// Says what this node wants: soon after it changed, and again and again.
    async fn keep_wanting(&self) {
        let (mut said, mut said_at, mut looked_at) = (None, None::<Instant>, None::<Instant>);
        let over = |since: Option<Instant>| since.is_none_or(|at| ANNOUNCE_AGAIN <= at.elapsed());
        loop {
            // Either way it is time to look.
            let _ = timeout(ANNOUNCE_AGAIN, self.0.pool.changed.notified()).await;
            if over(looked_at) {
                looked_at = Some(Instant::now());
                let alone = self.store().is_alone().await.unwrap_or(false);
                self.0.pool.shared.store(!alone, Ordering::Relaxed);
            }
            let asked = self.0.line.asked();
            let wants = self.0.machine.lock().wanted(&asked, self.0.clock.now());
            let again = !wants.1.is_empty() && over(said_at);
            if self.writer().refusal().is_some() || (said.as_ref() == Some(&wants) && !again) {
                continue;
            }
            match self.store().want(&wants.1).await {
                Ok(()) => {
                    self.store().signal(Signal::Wanted, &[]);
                    said = Some(wants);
                    said_at = Some(Instant::now());
                }
                Err(reason) => debug!(%reason, "other nodes do not hear what this one wants"),
            }
            sleep(ANNOUNCE_PAUSE).await;
        }
    }

    /// Learns what others want, and gives it.
    async fn keep_giving(&self) {
        let mut wanted = self.store().hearing(Signal::Wanted);
        loop {
            wanted.next().await;
            let wants = match self.store().wants().await {
                Ok(wants) => wants,
                Err(reason) => {
                    debug!(%reason, "what other nodes want could not be read");
                    continue;
                }
            };
            let mut machine = self.0.machine.lock();
            machine.hear_wants(wants);
            if self.writer().refusal().is_none() {
                self.hand_over(&mut machine);
            }
        }
    }

    /// Takes in what was handed over to this node.
    async fn keep_taking(&self) {
        let mut handed = self.store().hearing(Signal::Handed);
        loop {
            handed.next().await;
            loop {
                match self.take_in().await {
                    Ok(TAKE_MAX) => {}
                    Ok(_) | Err(StoreError::Recovering | StoreError::Closed) => break,
                    Err(reason) => {
                        warn!(%reason, "what was handed over could not be taken in");
                        break;
                    }
                }
            }
        }
    }

    /// Puts tasks that were handed over into the machine, and returns how many once the
    /// database knows: before that, they would be found again.
    async fn take_in(&self) -> Result<usize, StoreError> {
        let (count, came, committed) = {
            let _loading = self.0.loading.lock().await;
            if let Some(refusal) = self.writer().refusal() {
                return Err(refusal);
            }
            let came = self.0.pool.came.load(Ordering::SeqCst);
            if self.0.pool.settled.load(Ordering::SeqCst) != came {
                self.settle().await?;
                self.0.pool.settled.store(came, Ordering::SeqCst);
            }
            let handed = self.store().handed(TAKE_MAX).await?;
            if handed.tasks.is_empty() {
                return Ok(0);
            }
            let count = handed.tasks.len();
            let mut machine = self.0.machine.lock();
            if let Some(refusal) = self.writer().refusal() {
                // The recovery reads everything this node acts for.
                return Err(refusal);
            }
            machine.take_in(handed, self.0.clock.now());
            let came = self.0.pool.unsettle();
            let (done, committed) = oneshot::channel();
            self.commit(&mut machine, || Some(done));
            (count, came, committed)
        };
        committed.await.unwrap_or_else(|_| Err(cut_off()))?;
        // Others that came since have another number.
        self.0.pool.settled.store(came, Ordering::SeqCst);
        metrics::counter!(crate::metrics::TASKS_TAKEN_IN).increment(count as u64);
        Ok(count)
    }

    /// What was handed over is durable: those who have it now are told.
    pub(super) fn announce_handed(&self, handed: &[HandedOver]) {
        if handed.is_empty() {
            return;
        }
        metrics::counter!(crate::metrics::TASKS_HANDED_OVER).increment(handed.len() as u64);
        let lives: HashSet<i64> = handed.iter().map(|one| one.to).collect();
        let lives: Vec<i64> = lives.into_iter().collect();
        self.store().signal(Signal::Handed, &lives);
    }
}

#[cfg(test)]
impl Queue {
    /// Gives away what `wants` says, as if it had been read.
    pub(crate) fn give_as_wanted(&self, wants: Vec<super::machine::Want>) {
        let mut machine = self.0.machine.lock();
        machine.hear_wants(wants);
        self.hand_over(&mut machine);
    }
}
