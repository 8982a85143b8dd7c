//! Time as a value: durable instants that never run backwards within a process.
//!
//! [`Clock`] reads the wall clock once, when the node starts, and adds monotonic time to
//! it. A wall clock that is set while the node runs therefore moves no deadline. Under a
//! paused tokio clock it moves with `tokio::time::advance`.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

/// Milliseconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The instant `duration` later; saturates at what a store can keep (a signed 64-bit
    /// integer), and rounds down to whole milliseconds.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis).min(i64::MAX.unsigned_abs()))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds, such as `2026-11-20T09:30:00.125Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0) * 1_000_000;
        match OffsetDateTime::from_unix_timestamp_nanos(nanos).map(|at| at.format(&Rfc3339)) {
            Ok(Ok(text)) => f.write_str(&text),
            _ => write!(f, "{} ms", self.0),
        }
    }
}

/// Where [`Timestamp`]s come from.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall_at_start: Timestamp,
    started_at: Instant,
}

impl Clock {
    /// A clock anchored to the wall clock as it stands now.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the wall clock"
    )]
    pub fn system() -> Self {
        let wall = std::time::SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            wall_at_start: Timestamp::default().after(wall),
            started_at: Instant::now(),
        }
    }

    /// A clock that shows `now` now, as somebody else's clock does.
    #[must_use]
    pub fn anchored(now: Timestamp) -> Self {
        Self {
            wall_at_start: now,
            started_at: Instant::now(),
        }
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.wall_at_start.after(self.started_at.elapsed())
    }
}
