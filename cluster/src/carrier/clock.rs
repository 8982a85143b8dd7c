//! The clock that a carrier reads, and the gate that effects ask.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use regrow_runtime::ids::{AgentId, Epoch};

use crate::local_time::LocalTime;

/// Reads this node's own clock. Cheap to clone.
#[derive(Clone)]
pub struct LocalClock(Arc<dyn Fn() -> LocalTime + Send + Sync>);

impl LocalClock {
    /// The system's clock that runs on while the process stands still and while the machine
    /// sleeps.
    #[must_use]
    pub fn system() -> Self {
        #[cfg(target_os = "linux")]
        let read = || {
            let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
            let now = now.map(std::time::Duration::from);
            LocalTime(now.map_or(0, crate::local_time::millis))
        };
        #[cfg(not(target_os = "linux"))]
        let read = {
            // Does not count sleep everywhere: docs/semantics.md says what that means.
            let began = std::time::Instant::now();
            move || LocalTime(crate::local_time::millis(began.elapsed()))
        };
        Self::of(read)
    }

    /// A clock of one's own.
    pub fn of(read: impl Fn() -> LocalTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// What it shows.
    #[must_use]
    pub fn now(&self) -> LocalTime {
        (self.0)()
    }
}

impl fmt::Debug for LocalClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalClock({})", self.now().0)
    }
}

/// Whether this node may act for an agent, at the instant of asking: whatever stood still in
/// between, the clock is read now.
#[derive(Debug)]
pub struct Gate {
    clock: LocalClock,
    /// Until when anything may be done, in milliseconds of the clock; 0 is never.
    until: AtomicU64,
    agents: RwLock<BTreeMap<AgentId, Epoch>>,
}

impl Gate {
    /// Closed for every agent.
    #[must_use]
    pub fn new(clock: LocalClock) -> Self {
        Self {
            clock,
            until: AtomicU64::new(0),
            agents: RwLock::default(),
        }
    }

    /// The epoch under which this node may act for the agent now, if it may.
    #[must_use]
    pub fn may_act(&self, agent: &AgentId) -> Option<Epoch> {
        let epoch = self.agents.read().get(agent).copied()?;
        (!self.left().is_zero()).then_some(epoch)
    }

    /// For how long this node may act if nobody consents any more.
    #[must_use]
    pub fn left(&self) -> std::time::Duration {
        let until = LocalTime(self.until.load(Ordering::SeqCst));
        until.since(self.clock.now())
    }

    /// This is what stands by now. What may not be done any more is taken away first.
    pub(super) fn set(&self, until: Option<LocalTime>, agents: BTreeMap<AgentId, Epoch>) {
        let mut standing = self.agents.write();
        if *standing != agents {
            *standing = agents;
        }
        self.until
            .store(until.map_or(0, |until| until.0), Ordering::SeqCst);
    }
}
