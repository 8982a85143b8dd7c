//! Units that come back with time: the generic cell rate algorithm (pure).
//!
//! GCRA, ITU-T I.371: one instant says everything. It is when all units given out so far
//! would have come back; a start moves it on by what the start costs, and is allowed as
//! long as it stays within what a full burst costs. In whatever span of `d`, at most
//! `burst + d * units / period` are given.

use crate::clock::Timestamp;
use crate::queue::rules::Rate;

const NANOS_PER_MS: u128 = 1_000_000;

/// When everything given out so far has come back, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meter(u128);

/// How long `units` take to come back, rounded up so that no rate is ever exceeded.
fn cost(rate: &Rate, units: u64) -> u128 {
    let period = u128::from(rate.period_ms) * NANOS_PER_MS;
    (u128::from(units) * period).div_ceil(u128::from(rate.units.max(1)))
}

fn nanos(at: Timestamp) -> u128 {
    u128::from(at.0) * NANOS_PER_MS
}

impl Meter {
    /// As it was stored, see [`stored`](Self::stored).
    pub(crate) fn restored(millis: u64) -> Self {
        Self(u128::from(millis) * NANOS_PER_MS)
    }

    /// In milliseconds, rounded up: what is restored from it gives rather too little.
    pub(crate) fn stored(self) -> u64 {
        u64::try_from(self.0.div_ceil(NANOS_PER_MS)).unwrap_or(u64::MAX)
    }

    /// As nodes that share it store it, see [`nanos`](Self::nanos).
    pub(crate) fn of_nanos(nanos: u64) -> Self {
        Self(u128::from(nanos))
    }

    /// In nanoseconds since 1970.
    pub(crate) fn nanos(self) -> u64 {
        u64::try_from(self.0).unwrap_or(u64::MAX)
    }

    /// Accounts for `units` that were taken at `at`. Of several takers one may say so later
    /// than another who took later: in whatever order they come, no less is accounted for
    /// than in the right one.
    pub(crate) fn charge(&mut self, rate: &Rate, units: u64, at: Timestamp) {
        if 0 < units {
            self.0 = self.0.max(nanos(at)) + cost(rate, units);
        }
    }

    /// The later of two accounts of the same units.
    pub(crate) fn later(self, other: Self) -> Self {
        Self(self.0.max(other.0))
    }

    /// Nothing given out is still missing.
    pub(crate) fn is_full(self, now: Timestamp) -> bool {
        self.0 <= nanos(now)
    }

    /// The instant within what it can be: a rate may have changed, or a clock been set.
    fn within(self, rate: &Rate, now: Timestamp) -> u128 {
        let now = nanos(now);
        self.0.clamp(now, now + cost(rate, rate.burst))
    }

    /// Units that may be taken at once at `now`.
    pub(crate) fn level(self, rate: &Rate, now: Timestamp) -> u64 {
        let left = nanos(now) + cost(rate, rate.burst) - self.within(rate, now);
        let period = u128::from(rate.period_ms) * NANOS_PER_MS;
        let units = left * u128::from(rate.units) / period.max(1);
        u64::try_from(units).unwrap_or(u64::MAX).min(rate.burst)
    }

    /// When `units` may be taken: `now` or earlier if they may be at once. `None` if they
    /// are more than a burst.
    pub(crate) fn opens_at(self, rate: &Rate, units: u64, now: Timestamp) -> Option<Timestamp> {
        if rate.burst < units {
            return None;
        }
        let full = self.within(rate, now) + cost(rate, units);
        let opens = full.saturating_sub(cost(rate, rate.burst));
        let millis = opens.div_ceil(NANOS_PER_MS);
        Some(Timestamp(u64::try_from(millis).unwrap_or(u64::MAX)))
    }

    /// Takes `units`, which were allowed at `now`.
    pub(crate) fn take(&mut self, rate: &Rate, units: u64, now: Timestamp) {
        self.0 = self.within(rate, now) + cost(rate, units);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_as_units_come_back() {
        let rate = Rate {
            units: 2,
            period_ms: 1_000,
            burst: 3,
        };
        let (mut meter, start) = (Meter::default(), Timestamp(10_000));
        assert_eq!(meter.level(&rate, start), 3);
        let mut starts = Vec::new();
        let mut now = start;
        for _ in 0..6 {
            now = now.max(meter.opens_at(&rate, 1, now).expect("within a burst"));
            meter.take(&rate, 1, now);
            starts.push(now.0 - start.0);
        }
        assert_eq!(starts, [0, 0, 0, 500, 1_000, 1_500]);
        assert_eq!(meter.opens_at(&rate, 4, now), None);
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nobody_wait_longer_than_a_burst_takes() {
        let rate = Rate {
            units: 1,
            period_ms: 1_000,
            burst: 2,
        };
        let meter = Meter::restored(999_999_000);
        let now = Timestamp(5_000);
        assert_eq!(meter.opens_at(&rate, 1, now), Some(Timestamp(6_000)));
    }

    proptest! {
        #[test]
        fn no_span_sees_more_than_a_burst_and_the_rate(
            units in 1_u64..50,
            period_ms in 1_u64..5_000,
            burst in 1_u64..20,
            asks in prop::collection::vec((0_u64..2_000, 1_u64..20, any::<bool>()), 1..80),
        ) {
            let rate = Rate { units, period_ms, burst };
            let (mut meter, mut now) = (Meter::default(), Timestamp(1_000_000));
            let mut given: Vec<(u64, u64)> = Vec::new();
            for (pause, ask, restart) in asks {
                now.0 += pause;
                if restart {
                    meter = Meter::restored(meter.stored());
                }
                let ask = ask.min(burst);
                let opens = meter.opens_at(&rate, ask, now).expect("within a burst");
                prop_assert_eq!(opens <= now, ask <= meter.level(&rate, now));
                if opens <= now {
                    meter.take(&rate, ask, now);
                    given.push((now.0, ask));
                } else {
                    let early = Timestamp(opens.0 - 1);
                    prop_assert!(meter.level(&rate, early) < ask);
                    // What was stored was rounded up.
                    prop_assert!(ask <= meter.level(&rate, Timestamp(opens.0 + 1)));
                }
            }
            for (i, (from, _)) in given.iter().enumerate() {
                let mut sum = 0;
                for (to, ask) in &given[i..] {
                    sum += ask;
                    let most = burst as f64 + (to - from) as f64 * units as f64 / period_ms as f64;
                    prop_assert!(sum as f64 <= most + 1e-6);
                }
            }
        }
    }
}
