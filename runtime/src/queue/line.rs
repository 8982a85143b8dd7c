//! Who waits for tasks, and who is called when some can be claimed.
//!
//! As many are called as tasks have become claimable, of those who asked for their kinds,
//! longest wait first: hundreds of idle workers do not all look when one task comes. A call
//! is a hint, not a lease: another may have been faster, then the called one joins again.
//! A call to somebody who left meanwhile is passed on.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::machine::Fresh;
use super::names::NameMap;

#[derive(Debug)]
struct Waiter {
    kinds: Vec<Arc<str>>,
    /// How many tasks it would take.
    max: usize,
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

    /// Says whether somebody was called.
    fn call(&mut self, kind: &str) -> bool {
        let first = self.kinds.get(kind).and_then(BTreeMap::first_key_value);
        if let Some((number, waiter)) = first.map(|(number, waiter)| (*number, waiter.clone())) {
            self.leave(number, &waiter.kinds);
            waiter.pending.store(true, Ordering::SeqCst);
            waiter.called.notify_one();
            return true;
        }
        false
    }
}

/// The line of those who wait for tasks.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiters: Mutex<Waiters>,
    /// Those who were called and have not looked yet.
    called: AtomicUsize,
}

/// A place in the line; dropping it leaves.
#[derive(Debug)]
pub(super) struct Place<'a> {
    line: &'a Line,
    number: u64,
    waiter: Arc<Waiter>,
}

impl Line {
    /// Joins behind everybody else who waits for one of these kinds.
    pub(super) fn join(&self, kinds: &[String], max: usize) -> Place<'_> {
        let mut waiters = self.waiters.lock();
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
            max,
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
        self.waiters.lock().kinds.keys().cloned().collect()
    }

    /// How many tasks of each kind those who wait would take.
    pub(super) fn asked(&self) -> HashMap<Arc<str>, usize> {
        let waiters = self.waiters.lock();
        let asked = waiters.kinds.iter().map(|(kind, line)| {
            let tasks = line.values().map(|waiter| waiter.max);
            (kind.clone(), tasks.fold(0, usize::saturating_add))
        });
        asked.collect()
    }

    /// Somebody waits for this kind.
    pub(super) fn waits_for(&self, kind: &str) -> bool {
        self.waiters.lock().kinds.contains_key(kind)
    }

    /// How many were called and have not looked yet.
    pub(super) fn called(&self) -> usize {
        self.called.load(Ordering::SeqCst)
    }

    /// Nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiters.lock().kinds.is_empty()
    }

    /// Calls one waiter per task of a kind that has become claimable.
    pub(super) fn call(&self, fresh: &[Fresh]) {
        if fresh.is_empty() {
            return;
        }
        let mut waiters = self.waiters.lock();
        if waiters.kinds.is_empty() {
            return;
        }
        let called = |(kind, tasks): &Fresh| {
            let calls = (0..*tasks).take_while(|_| waiters.call(kind));
            calls.count()
        };
        let called = fresh.iter().map(called).sum();
        self.called.fetch_add(called, Ordering::SeqCst);
    }

    /// Calls everybody: much may have changed.
    pub(super) fn call_all(&self) {
        let mut waiters = self.waiters.lock();
        for (_, waiters) in std::mem::take(&mut waiters.kinds) {
            for waiter in waiters.values() {
                // Whoever waits for several kinds is called once: a permit does not add up.
                if !waiter.pending.swap(true, Ordering::SeqCst) {
                    self.called.fetch_add(1, Ordering::SeqCst);
                }
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
        if self.waiter.pending.swap(false, Ordering::SeqCst) {
            self.line.called.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiters = self.line.waiters.lock();
        waiters.leave(self.number, &self.waiter.kinds);
        if self.waiter.pending.swap(false, Ordering::SeqCst) {
            // It is not known for which kind the call was.
            let kinds = self.waiter.kinds.iter();
            let called = kinds.filter(|kind| waiters.call(kind)).count();
            self.line.called.fetch_add(called, Ordering::SeqCst);
            self.line.called.fetch_sub(1, Ordering::SeqCst);
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
        let a: Vec<Place<'_>> = (0..3).map(|_| line.join(&kinds(&["a"]), 1)).collect();
        let both = line.join(&kinds(&["a", "b"]), 1);
        let c = line.join(&kinds(&["c"]), 1);
        line.call(&[("a".into(), 2), ("b".into(), 1), ("d".into(), 1)]);
        assert_eq!(line.called(), 3);
        assert!(line.waits_for("a") && !line.waits_for("b"));
        let called: Vec<bool> = a.iter().chain([&both, &c]).map(is_called).collect();
        assert_eq!(called, [true, true, false, true, false]);
    }

    #[test]
    fn a_call_to_somebody_who_left_is_passed_on() {
        let line = Line::default();
        let first = line.join(&kinds(&["a"]), 1);
        let second = line.join(&kinds(&["a"]), 1);
        line.call(&[("a".into(), 1)]);
        drop(first);
        assert_eq!(line.called(), 1);
        assert!(is_called(&second));
        assert_eq!(line.called(), 0);
    }

    #[test]
    fn whoever_left_takes_nothing_with_him() {
        let line = Line::default();
        for _ in 0..1_000 {
            drop(line.join(&kinds(&["a", "b"]), 1));
        }
        assert!(line.waiters.lock().kinds.is_empty());
        let place = line.join(&kinds(&["a", "b"]), 1);
        line.call_all();
        assert!(is_called(&place));
    }
}
