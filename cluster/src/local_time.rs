//! Time on one node's own clock.
//!
//! Nodes never compare clocks. What travels between them are durations and numbers of
//! rounds; a [`LocalTime`] stays where it was read, and therefore cannot be serialised.

use std::time::Duration;

/// Milliseconds on this node's monotonic clock, since an origin that means nothing elsewhere.
///
/// The clock must run on while the process is stopped and while the machine sleeps
/// (`CLOCK_BOOTTIME`): whoever holds a lease counts on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalTime(pub u64);

impl LocalTime {
    /// The instant `duration` later, rounded down to milliseconds; saturates.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// The instant `duration` earlier; saturates at the origin.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Whole milliseconds of a duration; saturates.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
