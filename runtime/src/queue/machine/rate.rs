//! How fast room is made, for an answer to "when may I come again" that is true.

use std::time::Duration;

use crate::clock::Timestamp;

const WINDOW_MS: u64 = 5_000;
/// A shorter span says nothing about a rate.
const SPAN_MIN_MS: u64 = 1_000;
const WAIT_MIN_MS: u64 = 1_000;
const WAIT_MAX_MS: u64 = 60_000;

/// What leaves per second, measured over the last whole window and the present one.
#[derive(Debug, Default)]
pub(super) struct Rate {
    since: Option<Timestamp>,
    window: u64,
    present: u64,
    previous: u64,
}

impl Rate {
    fn advance(&mut self, now: Timestamp) {
        self.since.get_or_insert(now);
        let window = now.0 / WINDOW_MS;
        if window != self.window {
            self.previous = if window == self.window + 1 {
                self.present
            } else {
                0
            };
            self.present = 0;
            self.window = window;
        }
    }

    /// So many left.
    pub(super) fn count(&mut self, many: u64, now: Timestamp) {
        self.advance(now);
        self.present = self.present.saturating_add(many);
    }

    /// How long until so many more have left at this rate; between 1 s and 60 s.
    pub(super) fn until(&mut self, many: u64, now: Timestamp) -> Duration {
        self.advance(now);
        let known = now.since(self.since.unwrap_or(now)).as_millis();
        let known = u64::try_from(known).unwrap_or(u64::MAX);
        let span_ms = (WINDOW_MS + now.0 % WINDOW_MS).min(known.max(SPAN_MIN_MS));
        let left = u128::from(self.previous) + u128::from(self.present);
        let wait_ms = (u128::from(many) * u128::from(span_ms))
            .checked_div(left)
            .and_then(|wait_ms| u64::try_from(wait_ms).ok())
            .unwrap_or(WAIT_MAX_MS);
        Duration::from_millis(wait_ms.clamp(WAIT_MIN_MS, WAIT_MAX_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_follows_the_measured_rate_also_soon_after_the_start() {
        let mut rate = Rate::default();
        assert_eq!(rate.until(1, Timestamp(7_000)), Duration::from_secs(60));
        // Four per second.
        for quarter in 0..200 {
            rate.count(1, Timestamp(7_000 + 250 * quarter));
            if 8 < quarter {
                let wait = rate.until(40, Timestamp(7_000 + 250 * quarter));
                let off = wait.as_secs_f64() - 10.0;
                assert!(off.abs() < 1.3, "{wait:?} after {quarter} quarters");
            }
        }
        let idle = Timestamp(1_000_000);
        assert_eq!(
            rate.until(1, idle),
            Duration::from_secs(60),
            "nothing leaves"
        );
    }
}
