//! The clock that a carrier reads, and the gate that effects ask.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use regrow_runtime::ids::{AgentId, Epoch};

use crate::local_time::LocalTime;

/// This machine has no clock that leases can be counted on. Nothing was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot read a clock that runs on while this machine sleeps (CLOCK_BOOTTIME), and without one \
     a node may not act beside others; allow clock_gettime, or share a database \
     (`store.database_url`)"
)]
pub struct ClockUnreadable;

/// Reads this node's own clock. Cheap to clone.
#[derive(Clone)]
pub struct LocalClock(Arc<dyn Fn() -> Option<LocalTime> + Send + Sync>);

impl LocalClock {
    /// The system's clock that runs on while the process stands still and while the machine
    /// sleeps.
    ///
    /// # Errors
    ///
    /// [`ClockUnreadable`] if it cannot be read.
    pub fn system() -> Result<Self, ClockUnreadable> {
        #[cfg(target_os = "linux")]
        let read = || {
            let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
            let now = now.ok().map(std::time::Duration::from)?;
            Some(LocalTime(crate::local_time::millis(now)))
        };
        #[cfg(not(target_os = "linux"))]
        let read = {
            // Does not count sleep everywhere: docs/semantics.md says what that means.
            let began = std::time::Instant::now();
            move || Some(LocalTime(crate::local_time::millis(began.elapsed())))
        };
        Self::of(read)
    }

    /// A clock of one's own, which shows nothing while it cannot be read.
    ///
    /// # Errors
    ///
    /// [`ClockUnreadable`] if it cannot be read now.
    pub fn of(
        read: impl Fn() -> Option<LocalTime> + Send + Sync + 'static,
    ) -> Result<Self, ClockUnreadable> {
        match read() {
            Some(_) => Ok(Self(Arc::new(read))),
            None => Err(ClockUnreadable),
        }
    }

    /// What it shows; `None` if it cannot be read, and then nothing may be done.
    #[must_use]
    pub fn now(&self) -> Option<LocalTime> {
        (self.0)()
    }
}

impl fmt::Debug for LocalClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalClock({:?})", self.now().map(|now| now.0))
    }
}

/// Whether this node may act for an agent, at the instant of asking: whatever stood still in
/// between, the clock is read now.
#[derive(Debug)]
pub struct Gate {
    clock: LocalClock,
    open: RwLock<Open>,
}

/// Read as one: an epoch that was held before may not be let through by a right that came later.
#[derive(Debug, Default)]
struct Open {
    /// Until when anything may be done; `None` is never.
    until: Option<LocalTime>,
    agents: BTreeMap<AgentId, Epoch>,
}

impl Gate {
    /// Closed for every agent.
    #[must_use]
    pub fn new(clock: LocalClock) -> Self {
        Self {
            clock,
            open: RwLock::default(),
        }
    }

    /// The epoch under which this node may act for the agent now, if it may.
    #[must_use]
    pub fn may_act(&self, agent: &AgentId) -> Option<Epoch> {
        let open = self.open.read();
        let epoch = open.agents.get(agent).copied()?;
        (!self.left_of(&open).is_zero()).then_some(epoch)
    }

    /// For how long this node may act if nobody consents any more.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.left_of(&self.open.read())
    }

    fn left_of(&self, open: &Open) -> Duration {
        let read = open.until.zip(self.clock.now());
        read.map_or(Duration::ZERO, |(until, now)| until.since(now))
    }

    /// This is what stands by now.
    pub(super) fn set(&self, until: Option<LocalTime>, agents: BTreeMap<AgentId, Epoch>) {
        *self.open.write() = Open { until, agents };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::{Mutex, mpsc};

    use super::*;

    fn agents(epoch: u64) -> BTreeMap<AgentId, Epoch> {
        BTreeMap::from([(AgentId::new("x"), Epoch(epoch))])
    }

    #[test]
    fn a_clock_that_cannot_be_read_is_refused_and_closes_the_gate() {
        assert_eq!(
            LocalClock::of(|| None).map(drop).expect_err("unreadable"),
            ClockUnreadable
        );
        let readable = Arc::new(AtomicBool::new(true));
        let reads = readable.clone();
        let clock = LocalClock::of(move || reads.load(Ordering::SeqCst).then_some(LocalTime(5)));
        let gate = Gate::new(clock.expect("readable"));
        gate.set(Some(LocalTime(10)), agents(1));
        assert_eq!(gate.may_act(&AgentId::new("x")), Some(Epoch(1)));
        readable.store(false, Ordering::SeqCst);
        assert_eq!(gate.may_act(&AgentId::new("x")), None);
        assert!(gate.left().is_zero());
    }

    /// A thread that stands still within the question must not find the epoch of an earlier right
    /// under a later one.
    #[test]
    fn an_epoch_that_ran_out_is_not_let_through_by_a_later_right() {
        let shown = Arc::new(AtomicU64::new(5));
        let (asked, asks) = mpsc::sync_channel::<mpsc::SyncSender<()>>(1);
        let armed = Arc::new(AtomicBool::new(false));
        let (reads, fires, asked) = (shown.clone(), armed.clone(), Mutex::new(asked));
        let clock = LocalClock::of(move || {
            if fires.swap(false, Ordering::SeqCst) {
                let (done, is_done) = mpsc::sync_channel(1);
                let _ = asked.lock().expect("not poisoned").send(done);
                // In vain if the question is one with what it read, as it has to be.
                let _ = is_done.recv_timeout(Duration::from_millis(200));
                reads.store(15, Ordering::SeqCst);
            }
            Some(LocalTime(reads.load(Ordering::SeqCst)))
        });
        let gate = Arc::new(Gate::new(clock.expect("readable")));
        gate.set(Some(LocalTime(10)), agents(1));
        let later = gate.clone();
        let setter = std::thread::spawn(move || {
            let done = asks.recv().expect("asked");
            later.set(Some(LocalTime(20)), BTreeMap::new());
            let _ = done.send(());
        });
        armed.store(true, Ordering::SeqCst);
        assert_eq!(gate.may_act(&AgentId::new("x")), None);
        setter.join().expect("it ends");
        assert_eq!(shown.load(Ordering::SeqCst), 15);
    }
}
