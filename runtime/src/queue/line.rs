//! Who waits for tasks, and who is called when some can be claimed.
//!
//! As many are called as tasks have become claimable, of those who asked for their kinds,
//! longest wait first: hundreds of idle workers do not all look when one task comes. A call
//! is a hint, not a lease: another may have been faster, then the called one joins again.
//! A call to somebody who left meanwhile is passed on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::names::NameMap;

#[derive(Debug)]
struct Waiter {
    kinds: Vec<Arc<str>>,
    called: Notify,
    /// Set when called, until the waiter looks again.
    pending: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiters {
    next: u64,
    /// By kind, in order of joining.
    kinds: NameMap<BTreeMap<u64, Arc<Waiter>>>,
}

impl Waiters {
    fn leave(&mut self, number: u64, kinds: &[Arc<str>]) {
        for kind in kinds {
            if let Some(waiters) = self.kinds.get_mut(kind) {
                waiters.remove(&number);
                if waiters.is_empty() {
                    self.kinds.remove(kind);
                }
            }
        }
    }

    fn call(&mut self, kind: &str) {
        let first = self.kinds.get(kind).and_then(BTreeMap::first_key_value);
        if let Some((number, waiter)) = first.map(|(number, waiter)| (*number, waiter.clone())) {
            self.leave(number, &waiter.kinds);
            waiter.pending.store(true, Ordering::SeqCst);
            waiter.called.notify_one();
        }
    }
}

/// The line of those who wait for tasks.
#[derive(Debug, Default)]
pub(super) struct Line(Mutex<Waiters>);

/// A place in the line; dropping it leaves.
#[derive(Debug)]
pub(super) struct Place<'a> {
    line: &'a Line,
    number: u64,
    waiter: Arc<Waiter>,
}

impl Line {
    /// Joins behind everybody else who waits for one of these kinds.
    pub(super) fn join(&self, kinds: &[String]) -> Place<'_> {
        let mut waiters = self.0.lock();
        let kinds: Vec<Arc<str>> = kinds
            .iter()
            .map(|kind| match waiters.kinds.get_key_value(kind.as_str()) {
                Some((known, _)) => known.clone(),
                None => Arc::from(kind.as_str()),
            })
            .collect();
        waiters.next += 1;
        let number = waiters.next;
        let waiter = Arc::new(Waiter {
            kinds,
            called: Notify::new(),
            pending: AtomicBool::new(false),
        });
        for kind in &waiter.kinds {
            let line = waiters.kinds.entry(kind.clone()).or_default();
            line.insert(number, waiter.clone());
        }
        Place {
            line: self,
            number,
            waiter,
        }
    }

    /// The kinds that somebody waits for.
    pub(super) fn kinds(&self) -> Vec<Arc<str>> {
        self.0.lock().kinds.keys().cloned().collect()
    }

    /// Nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().kinds.is_empty()
    }

    /// Calls one waiter per entry: a task of that kind has become claimable.
    pub(super) fn call(&self, fresh: &[Arc<str>]) {
        if fresh.is_empty() {
            return;
        }
        let mut waiters = self.0.lock();
        for kind in fresh {
            waiters.call(kind);
        }
    }

    /// Calls everybody: much may have changed.
    pub(super) fn call_all(&self) {
        let mut waiters = self.0.lock();
        for (_, waiters) in std::mem::take(&mut waiters.kinds) {
            for waiter in waiters.values() {
                // Whoever waits for several kinds is called once: a permit does not add up.
                waiter.pending.store(true, Ordering::SeqCst);
                waiter.called.notify_one();
            }
        }
    }
}

impl Place<'_> {
    /// Waits for the call.
    ///
    /// Cancellation safe: a call that is not taken is passed on when the place is dropped.
    pub(super) async fn called(&self) {
        self.waiter.called.notified().await;
        self.waiter.pending.store(false, Ordering::SeqCst);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiters = self.line.0.lock();
        waiters.leave(self.number, &self.waiter.kinds);
        if self.waiter.pending.load(Ordering::SeqCst) {
            // It is not known for which kind the call was.
            for kind in &self.waiter.kinds {
                waiters.call(kind);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn is_called(place: &Place<'_>) -> bool {
        place.called().now_or_never().is_some()
    }

    fn kinds(kinds: &[&str]) -> Vec<String> {
        kinds.iter().map(|kind| (*kind).to_owned()).collect()
    }

    #[test]
    fn as_many_are_called_as_tasks_came_of_the_kinds_they_want() {
        let line = Line::default();
        let a: Vec<Place<'_>> = (0..3).map(|_| line.join(&kinds(&["a"]))).collect();
        let both = line.join(&kinds(&["a", "b"]));
        let c = line.join(&kinds(&["c"]));
        line.call(&["a".into(), "a".into(), "b".into(), "d".into()]);
        let called: Vec<bool> = a.iter().chain([&both, &c]).map(is_called).collect();
        assert_eq!(called, [true, true, false, true, false]);
    }

    #[test]
    fn a_call_to_somebody_who_left_is_passed_on() {
        let line = Line::default();
        let first = line.join(&kinds(&["a"]));
        let second = line.join(&kinds(&["a"]));
        line.call(&["a".into()]);
        drop(first);
        assert!(is_called(&second));
    }

    #[test]
    fn whoever_left_takes_nothing_with_him() {
        let line = Line::default();
        for _ in 0..1_000 {
            drop(line.join(&kinds(&["a", "b"])));
        }
        assert!(line.0.lock().kinds.is_empty());
        let place = line.join(&kinds(&["a", "b"]));
        line.call_all();
        assert!(is_called(&place));
    }
}
