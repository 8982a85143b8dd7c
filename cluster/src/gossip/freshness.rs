//! How long a datagram was under way, without comparing clocks (pure).
//!
//! Sender and receiver each count from a beginning of their own, so the difference of the two
//! means nothing; but it is smallest for the quickest datagram. One that is later than the
//! quickest of late by more than a limit was held back on its way. The smallest difference is
//! kept for two periods, so that clocks of slightly different speed are followed.

use std::time::Duration;

/// How long a smallest difference counts. Clocks that differ by 200 parts in a million drift 24
/// milliseconds in two of them.
const PERIOD: Duration = Duration::from_secs(60);

/// What is known of the way from one sender.
#[derive(Debug)]
pub(super) struct Freshness {
    /// Smallest difference of the period before, in milliseconds.
    before: i64,
    /// Smallest difference of this period.
    present: i64,
    /// When this period began.
    since: Duration,
}

impl Freshness {
    /// Begins with a datagram that is known to be recent. Times count from an own beginning on
    /// either side.
    pub(super) fn new(sent: Duration, now: Duration) -> Self {
        let difference = difference(sent, now);
        Self {
            before: difference,
            present: difference,
            since: now,
        }
    }

    /// How much longer than the quickest of late a datagram took; counted in unless it is above
    /// `limit`.
    pub(super) fn delay(&mut self, sent: Duration, now: Duration, limit: Duration) -> Duration {
        if PERIOD <= now.saturating_sub(self.since) {
            // What was late all the while is no measure.
            if self.present != i64::MAX {
                self.before = self.present;
            }
            self.present = i64::MAX;
            self.since = now;
        }
        let difference = difference(sent, now);
        let quickest = self.before.min(self.present);
        let delay = difference.saturating_sub(quickest);
        let delay = Duration::from_millis(u64::try_from(delay).unwrap_or(0));
        if delay <= limit {
            self.present = self.present.min(difference);
        }
        delay
    }
}

fn difference(sent: Duration, now: Duration) -> i64 {
    let millis = |at: Duration| i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
    millis(now).saturating_sub(millis(sent))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_datagram_that_was_held_back_is_seen_whatever_the_clocks_say() {
        for ahead in [0.0, 1_000_000.0] {
            let mut way = Freshness::new(at(ahead + 1.0), at(1.01));
            assert!(way.delay(at(ahead + 2.0), at(2.02), LIMIT) < at(0.1));
            assert_eq!(way.delay(at(ahead + 3.0), at(9.01), LIMIT), at(6.0));
            assert!(way.delay(at(ahead + 9.0), at(9.02), LIMIT) < at(0.1));
        }
    }

    #[test]
    fn a_slow_first_datagram_is_put_right_by_a_quicker_one() {
        let mut way = Freshness::new(at(0.0), at(8.0));
        assert_eq!(way.delay(at(10.0), at(10.0), LIMIT), Duration::ZERO);
        assert_eq!(way.delay(at(11.0), at(19.0), LIMIT), at(8.0));
    }

    #[test]
    fn clocks_of_different_speed_do_not_make_everything_late() {
        let mut way = Freshness::new(at(0.0), at(0.0));
        // The sender's clock loses 200 parts in a million for ten days.
        for second in (0..864_000).step_by(10) {
            let now = f64::from(second);
            let delay = way.delay(at(now * (1.0 - 200e-6)), at(now), LIMIT);
            assert!(delay < at(0.1), "{delay:?} after {second} s");
        }
    }

    #[test]
    fn a_clock_that_stood_still_stays_late_until_it_is_begun_anew() {
        let mut way = Freshness::new(at(0.0), at(0.0));
        for second in 1..300 {
            let second = f64::from(second);
            assert_eq!(way.delay(at(second), at(second + 60.0), LIMIT), at(60.0));
        }
        way = Freshness::new(at(300.0), at(360.0));
        assert_eq!(way.delay(at(301.0), at(361.0), LIMIT), Duration::ZERO);
    }
}
