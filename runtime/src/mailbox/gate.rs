//! Counts a mailbox's slots without a lock, and wakes senders that wait for one.
//!
//! Invariants: at most `messages + reserved` slots are taken; a freed slot wakes one waiter
//! if there is any; after `close` nobody enters and nobody waits. The fast path is one
//! compare-and-swap to enter, one subtraction and one load to leave.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::Capacity;

/// Why there was no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// All taken.
    Full,
    /// The actor is ending.
    Closed,
}

pub(crate) struct Gate {
    capacity: Capacity,
    taken: AtomicUsize,
    handled: AtomicU64,
    closed: AtomicBool,
    waiting: AtomicUsize,
    room: Notify,
}

impl Gate {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            taken: AtomicUsize::new(0),
            handled: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            room: Notify::new(),
        }
    }

    /// Takes a slot if fewer than `limit` are taken.
    pub(crate) fn try_enter(&self, limit: usize) -> Result<(), Refused> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(Refused::Closed);
        }
        self.taken
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |taken| {
                (taken < limit).then_some(taken + 1)
            })
            .map(|_| ())
            .map_err(|_| Refused::Full)
    }

    /// Takes an ordinary slot, waiting for one. Cancellation safe.
    pub(crate) async fn enter(&self) -> Result<(), Refused> {
        match self.try_enter(self.capacity.messages) {
            Err(Refused::Full) => {}
            entered @ (Ok(()) | Err(Refused::Closed)) => return entered,
        }
        let _waiting = Waiting::new(&self.waiting);
        loop {
            // Registered before looking again, so that a slot freed in between is seen:
            // either here, or by the one who frees it finding `waiting` above zero.
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            match self.try_enter(self.capacity.messages) {
                Err(Refused::Full) => room.await,
                entered @ (Ok(()) | Err(Refused::Closed)) => return entered,
            }
        }
    }

    /// Frees a slot.
    pub(crate) fn leave(&self) {
        self.taken.fetch_sub(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) != 0 {
            self.room.notify_one();
        }
    }

    /// Counts a message whose handling ended.
    pub(crate) fn count_handled(&self) {
        self.handled.fetch_add(1, Ordering::Relaxed);
    }

    /// Messages whose handling ended, probes included.
    pub(crate) fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }

    /// Refuses everyone from now on, those who wait too.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.room.notify_waiters();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Slots taken; zero once closed, when what was queued is dropped uncounted.
    pub(crate) fn taken(&self) -> usize {
        if self.is_closed() {
            0
        } else {
            self.taken.load(Ordering::SeqCst)
        }
    }

    pub(crate) fn capacity(&self) -> Capacity {
        self.capacity
    }
}

/// Counted as waiting for as long as it lives, also when its sender is cancelled.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
