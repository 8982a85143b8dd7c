//! How many tasks a group of workers should run at once, found out while they run.
//!
//! More at once helps until whatever they share (processors, a model, a database) has
//! enough to do; from then on each task only takes longer. [`estimate`] holds the decision
//! (pure); [`Limiter`] hands out the permits.
//!
//! Backpressure stays where it belongs: a limit never makes the queue longer. Volatile: a
//! restarted node finds its limit again.

pub mod estimate;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::estimate::{Estimate, LimitReport, LimitSettings};

struct Book {
    estimate: Estimate,
    out: usize,
    working: usize,
    window_began: Instant,
}

struct Inner {
    group: &'static str,
    book: Mutex<Book>,
    free: Notify,
}

/// Permits to work for one group of workers; cheap to clone.
#[derive(Clone)]
pub struct Limiter(Arc<Inner>);

impl std::fmt::Debug for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Limiter").field(&self.report()).finish()
    }
}

/// The right to claim and run one task at a time. Dropping it returns it.
pub struct Permit {
    limiter: Limiter,
}

/// One task being run under a permit. Dropped without [`finish`](Self::finish), as when the
/// work was aborted, it leaves no measurement behind.
pub struct Work {
    limiter: Limiter,
    kind: Arc<str>,
    began: Instant,
}

impl Limiter {
    /// A limiter for `group`, which labels its metric.
    #[must_use]
    pub fn new(group: &'static str, settings: LimitSettings) -> Self {
        let estimate = Estimate::new(settings);
        gauge(group, estimate.limit());
        Self(Arc::new(Inner {
            group,
            book: Mutex::new(Book {
                estimate,
                out: 0,
                working: 0,
                window_began: Instant::now(),
            }),
            free: Notify::new(),
        }))
    }

    /// Waits until one more may claim. Cancellation safe.
    pub async fn admit(&self) -> Permit {
        loop {
            let freed = self.0.free.notified();
            let mut freed = std::pin::pin!(freed);
            // From here on no return of a permit is missed.
            freed.as_mut().enable();
            {
                let mut book = self.0.book.lock();
                if book.out < book.estimate.limit() {
                    book.out += 1;
                    let limiter = self.clone();
                    return Permit { limiter };
                }
            }
            freed.await;
        }
    }

    /// What the limit is, and why.
    #[must_use]
    pub fn report(&self) -> LimitReport {
        self.0.book.lock().estimate.report()
    }

    fn finished(&self, kind: &Arc<str>, took: Duration, failed: bool) {
        let mut book = self.0.book.lock();
        book.estimate.observe(kind, took, failed);
        let elapsed = book.window_began.elapsed();
        if let Some(limit) = book.estimate.decide(elapsed) {
            book.window_began = Instant::now();
            drop(book);
            gauge(self.0.group, limit);
            self.0.free.notify_waiters();
        }
    }
}

impl Permit {
    /// A task of `kind` begins.
    #[must_use]
    pub fn begin(&self, kind: &Arc<str>) -> Work {
        let mut book = self.limiter.0.book.lock();
        book.working += 1;
        let working = book.working;
        book.estimate.at_work(working);
        Work {
            limiter: self.limiter.clone(),
            kind: kind.clone(),
            began: Instant::now(),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.0.book.lock().out -= 1;
        self.limiter.0.free.notify_waiters();
    }
}

impl Work {
    /// The task is over; `failed` if its attempt failed in a way that may pass.
    pub fn finish(self, failed: bool) {
        self.limiter
            .finished(&self.kind, self.began.elapsed(), failed);
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.limiter.0.book.lock().working -= 1;
    }
}

fn gauge(group: &'static str, limit: usize) {
    metrics::gauge!(crate::metrics::CONCURRENCY_LIMIT, "role" => group).set(limit as f64);
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn nobody_is_admitted_above_the_limit_and_a_returned_permit_admits_the_next() {
        let settings = LimitSettings::new(1, 2, 2);
        let limiter = Limiter::new("test", settings);
        let first = limiter.admit().await;
        let _second = limiter.admit().await;
        let mut third = std::pin::pin!(limiter.admit());
        assert!((&mut third).now_or_never().is_none());
        drop(first);
        assert!(third.now_or_never().is_some());
    }

    #[tokio::test]
    async fn work_that_is_dropped_gives_its_place_back_and_measures_nothing() {
        let limiter = Limiter::new("test", LimitSettings::new(1, 1, 1));
        let permit = limiter.admit().await;
        drop(permit.begin(&"kind".into()));
        assert_eq!(limiter.0.book.lock().working, 0);
        permit.begin(&"kind".into()).finish(false);
        assert_eq!(limiter.0.book.lock().working, 0);
    }

    #[tokio::test]
    async fn a_wait_for_a_permit_that_is_given_up_keeps_nothing() {
        let limiter = Limiter::new("test", LimitSettings::new(1, 1, 1));
        let held = limiter.admit().await;
        {
            let mut given_up = std::pin::pin!(limiter.admit());
            assert!((&mut given_up).now_or_never().is_none());
        }
        drop(held);
        assert!(limiter.admit().now_or_never().is_some());
    }
}
