//! The decision (pure): how many at once, from how long tasks take.
//!
//! The rule is that of TCP Vegas (Brakmo and Peterson, 1995) applied to tasks. A kind's best
//! service time says what a task takes when nothing is in its way. With `n` at work and
//! tasks taking `s` times as long as that, `n (1 - 1/s)` of them only wait for each other.
//! Few waiting: one more may join. Many: step back by a tenth. Attempts that fail in a way
//! that may pass mean that something behind the workers is overloaded: step back too.
//!
//! The best time is only as good as the conditions it was measured in. Now and then half as
//! many run for a moment, and what they take counts from then on (BBR's probe of the round
//! trip, Cardwell et al., 2016): work that has become slower for good is not held against
//! the limit for ever, and waiting for each other is never taken for normal.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

/// Kinds measured apart; those beyond share one measurement.
const KINDS_MAX: usize = 64;
/// Decisions between two measurements with half as many at once.
const PROBE_EVERY: u32 = 50;
/// Step back when more than this share of a window's attempts failed.
const FAILURES_MAX: f64 = 0.5;

/// Bounds of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Never fewer than this at once; at least 1.
    pub min: usize,
    /// Never more: there are no more workers.
    pub max: usize,
    /// How many at first. Lower measures an unhindered service time, higher is sooner at
    /// full speed.
    pub start: usize,
    /// Shortest time between two decisions.
    pub window: Duration,
    /// Fewest finished tasks that a decision may be based on.
    pub samples_min: u32,
}

impl LimitSettings {
    /// Bounds with a window of a second and ten tasks.
    #[must_use]
    pub fn new(min: usize, max: usize, start: usize) -> Self {
        let min = min.max(1);
        let max = max.max(min);
        Self {
            min,
            max,
            start: start.clamp(min, max),
            window: Duration::from_secs(1),
            samples_min: 10,
        }
    }
}

/// What a decision did to the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// More at once than before.
    Increased,
    /// Fewer.
    Decreased,
    /// As many.
    Unchanged,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nothing was measured yet.
    Starting,
    /// Most attempts failed in a way that may pass: something behind the workers is overloaded.
    Failures,
    /// Tasks take longer because too many run at once.
    ServiceTime,
    /// All permits were used, and tasks hardly hinder each other.
    Demand,
    /// Not all permits were used: the limit does not matter.
    Idle,
    /// As many as pay off run at once.
    Stable,
    /// For a moment half as many run, to measure what a task takes unhindered.
    Probe,
}

/// The latest decision with its terms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LimitReport {
    /// How many may work at once.
    pub limit: usize,
    /// The bounds of the limit.
    pub min: usize,
    /// See `min`.
    pub max: usize,
    /// What the latest decision did.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// Tasks it was based on.
    pub samples: u32,
    /// How many were at work at most.
    pub in_flight: usize,
    /// How many times as long as at best the tasks took.
    pub stretch: f64,
    /// Tasks that only waited for each other, by that measure.
    pub queued: f64,
    /// Their typical duration, in milliseconds.
    pub service_ms: f64,
    /// Share of attempts that failed.
    pub failure_ratio: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    /// Best typical duration so far, in seconds.
    best: Option<f64>,
    /// Sum of logarithms of this window's durations: its mean is not moved by a few outliers.
    logs: f64,
    count: u32,
}

/// Where a measurement with half as many at once stands.
#[derive(Clone, Copy, Debug)]
enum Probe {
    /// Due after so many decisions.
    Due(u32),
    /// What began under the former limit, to be restored, still runs.
    Settling(usize),
    /// Measures; the former limit is restored afterwards.
    Measuring(usize),
}

/// The state behind the decisions.
#[derive(Debug)]
pub struct Estimate {
    settings: LimitSettings,
    limit: usize,
    /// Doubling, until tasks begin to hinder each other.
    slow_start: bool,
    probe: Probe,
    kinds: HashMap<Arc<str>, Kind>,
    failed: u32,
    in_flight: usize,
    report: LimitReport,
}

impl Estimate {
    /// An estimate that begins at `settings.start`.
    #[must_use]
    pub fn new(settings: LimitSettings) -> Self {
        let limit = settings.start.clamp(settings.min, settings.max);
        Self {
            settings,
            limit,
            slow_start: true,
            probe: Probe::Due(PROBE_EVERY),
            kinds: HashMap::new(),
            failed: 0,
            in_flight: 0,
            report: LimitReport {
                limit,
                min: settings.min,
                max: settings.max,
                action: Action::Unchanged,
                reason: Reason::Starting,
                samples: 0,
                in_flight: 0,
                stretch: 1.0,
                queued: 0.0,
                service_ms: 0.0,
                failure_ratio: 0.0,
            },
        }
    }

    /// How many may work at once.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The latest decision.
    #[must_use]
    pub fn report(&self) -> LimitReport {
        self.report
    }

    /// So many are at work.
    pub fn at_work(&mut self, working: usize) {
        self.in_flight = self.in_flight.max(working);
    }

    /// A task of `kind` is over. What failed says nothing about how long work takes.
    pub fn observe(&mut self, kind: &Arc<str>, took: Duration, failed: bool) {
        if failed {
            self.failed += 1;
            return;
        }
        let kind = if self.kinds.contains_key(kind) || self.kinds.len() < KINDS_MAX {
            kind.clone()
        } else {
            Arc::from("")
        };
        let kind = self.kinds.entry(kind).or_default();
        kind.logs += took.as_secs_f64().max(1e-6).ln();
        kind.count += 1;
    }

    /// Decides, if `elapsed` since the last decision is long enough and enough was
    /// measured. Returns the limit from now on.
    pub fn decide(&mut self, elapsed: Duration) -> Option<usize> {
        let finished: u32 = self.kinds.values().map(|kind| kind.count).sum();
        let samples = finished + self.failed;
        if elapsed < self.settings.window || samples < self.settings.samples_min {
            return None;
        }
        let failure_ratio = f64::from(self.failed) / f64::from(samples);
        let (stretch, service) = self.stretch();
        let in_flight = std::mem::take(&mut self.in_flight);
        let queued = in_flight as f64 * (1.0 - 1.0 / stretch);
        let few = (self.limit as f64).sqrt() / 2.0;
        let back = self.limit.saturating_sub((self.limit / 10).max(1));
        let (limit, reason) = if let Some(probed) = self.probe(in_flight) {
            (probed, Reason::Probe)
        } else if FAILURES_MAX < failure_ratio {
            (back, Reason::Failures)
        } else if 2.0 * few < queued {
            (back, Reason::ServiceTime)
        } else if in_flight < self.limit {
            (self.limit, Reason::Idle)
        } else if queued < few {
            let step = if self.slow_start {
                self.limit
            } else {
                (few as usize).max(1)
            };
            (self.limit + step, Reason::Demand)
        } else {
            (self.limit, Reason::Stable)
        };
        if !matches!(reason, Reason::Demand | Reason::Idle | Reason::Probe) {
            self.slow_start = false;
        }
        let before = self.limit;
        self.limit = limit.clamp(self.settings.min, self.settings.max);
        self.failed = 0;
        self.report = LimitReport {
            limit: self.limit,
            action: match self.limit.cmp(&before) {
                std::cmp::Ordering::Less => Action::Decreased,
                std::cmp::Ordering::Equal => Action::Unchanged,
                std::cmp::Ordering::Greater => Action::Increased,
            },
            reason,
            samples,
            in_flight,
            stretch,
            queued,
            service_ms: service * 1_000.0,
            failure_ratio,
            ..self.report
        };
        Some(self.limit)
    }

    /// The limit, if it is that of a probe or the end of one.
    fn probe(&mut self, in_flight: usize) -> Option<usize> {
        let (probe, limit) = match self.probe {
            Probe::Due(0) if self.limit <= in_flight && 1 < self.limit => {
                (Probe::Settling(self.limit), Some(self.limit / 2))
            }
            Probe::Due(left) => (Probe::Due(left.saturating_sub(1)), None),
            Probe::Settling(former) => (Probe::Measuring(former), Some(self.limit)),
            Probe::Measuring(former) => (Probe::Due(PROBE_EVERY), Some(former)),
        };
        self.probe = probe;
        limit
    }

    /// How many times as long as at best this window's tasks took, and their typical
    /// duration in seconds. Begins the next window.
    fn stretch(&mut self) -> (f64, f64) {
        let measured = matches!(self.probe, Probe::Measuring(_));
        let (mut stretch, mut log, mut count) = (0.0, 0.0, 0.0);
        for kind in self.kinds.values_mut().filter(|kind| 0 < kind.count) {
            let typical = (kind.logs / f64::from(kind.count)).exp();
            let best = match kind.best {
                Some(best) if best < typical && !measured => best,
                Some(_) | None => typical,
            };
            let weight = f64::from(kind.count);
            stretch += weight * (typical / best);
            log += kind.logs;
            count += weight;
            *kind = Kind {
                best: Some(best),
                ..Kind::default()
            };
        }
        if count == 0.0 {
            return (1.0, 0.0);
        }
        (stretch / count, (log / count).exp())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(1);

    fn kind() -> Arc<str> {
        "k".into()
    }

    /// A window in which as many as allowed are at work on something with room for
    /// `capacity` at once, each taking `alone` when it has a place for itself.
    fn window(estimate: &mut Estimate, capacity: usize, alone: Duration) -> usize {
        let working = estimate.limit();
        estimate.at_work(working);
        let crowding = (working as f64 / capacity as f64).max(1.0);
        for _ in 0..20 {
            estimate.observe(&kind(), alone.mul_f64(crowding), false);
        }
        estimate.decide(WINDOW).expect("enough was measured")
    }

    #[test]
    fn the_limit_settles_near_the_capacity_behind_the_workers_from_either_side() {
        for (start, capacity) in [(1, 8), (4, 8), (2, 40)] {
            let mut estimate = Estimate::new(LimitSettings::new(1, 200, start));
            for _ in 0..300 {
                window(&mut estimate, capacity, Duration::from_millis(50));
            }
            let limit = estimate.limit();
            assert!(
                (capacity..=2 * capacity).contains(&limit),
                "start {start}, capacity {capacity}: {:?}",
                estimate.report()
            );
        }
    }

    #[test]
    fn a_capacity_that_shrinks_pulls_the_limit_down_and_latency_never_pushes_it_up() {
        let mut estimate = Estimate::new(LimitSettings::new(1, 200, 4));
        for _ in 0..100 {
            window(&mut estimate, 40, Duration::from_millis(50));
        }
        let before = estimate.limit();
        let mut stepped_back = 0;
        for _ in 0..200 {
            window(&mut estimate, 4, Duration::from_millis(50));
            let report = estimate.report();
            if report.reason == Reason::ServiceTime {
                assert_eq!(report.action, Action::Decreased, "{report:?}");
                stepped_back += 1;
            }
            assert!(report.limit <= before, "{report:?}");
        }
        assert!(0 < stepped_back);
        assert!(
            (4..=10).contains(&estimate.limit()),
            "{:?}",
            estimate.report()
        );
    }

    #[test]
    fn failing_attempts_pull_the_limit_down_to_its_bound_and_no_further() {
        let mut estimate = Estimate::new(LimitSettings::new(2, 64, 64));
        for _ in 0..100 {
            for _ in 0..10 {
                estimate.observe(&kind(), Duration::from_millis(5), true);
            }
            estimate.decide(WINDOW);
        }
        assert_eq!(estimate.limit(), 2);
        assert_eq!(estimate.report().reason, Reason::Failures);
    }

    #[test]
    fn a_limit_that_nobody_reaches_stays() {
        let mut estimate = Estimate::new(LimitSettings::new(1, 64, 16));
        for _ in 0..50 {
            estimate.at_work(3);
            for _ in 0..20 {
                estimate.observe(&kind(), Duration::from_millis(5), false);
            }
            estimate.decide(WINDOW);
        }
        assert_eq!(estimate.limit(), 16);
        assert_eq!(estimate.report().reason, Reason::Idle);
    }

    #[test]
    fn slow_and_quick_kinds_are_each_held_against_themselves() {
        let mut estimate = Estimate::new(LimitSettings::new(1, 64, 8));
        for round in 0..40 {
            estimate.at_work(estimate.limit());
            // The mixture changes; how long each kind takes does not.
            let slow = if round % 2 == 0 { 18 } else { 2 };
            for n in 0..20 {
                let (name, took) = if n < slow {
                    ("slow", 900)
                } else {
                    ("quick", 3)
                };
                estimate.observe(&name.into(), Duration::from_millis(took), false);
            }
            estimate.decide(WINDOW);
        }
        assert_eq!(estimate.limit(), 64, "{:?}", estimate.report());
    }

    #[test]
    fn nothing_is_decided_on_too_little() {
        let mut estimate = Estimate::new(LimitSettings::new(1, 64, 8));
        for _ in 0..9 {
            estimate.observe(&kind(), Duration::from_millis(5), false);
        }
        assert_eq!(estimate.decide(WINDOW), None);
        estimate.observe(&kind(), Duration::from_millis(5), false);
        assert_eq!(estimate.decide(WINDOW / 2), None);
        assert!(estimate.decide(WINDOW).is_some());
    }

    proptest! {
        #[test]
        fn the_limit_keeps_its_bounds_and_memory_whatever_happens(
            min in 0_usize..5, max in 0_usize..50, start in 0_usize..100,
            windows in prop::collection::vec(
                (0_usize..200, prop::collection::vec((0_u16..200, 0_u64..1_000_000, any::<bool>()), 0..40)),
                0..60,
            ),
        ) {
            let settings = LimitSettings::new(min, max, start);
            let mut estimate = Estimate::new(settings);
            for (working, samples) in windows {
                estimate.at_work(working);
                for (name, micros, failed) in samples {
                    let name: Arc<str> = name.to_string().into();
                    estimate.observe(&name, Duration::from_micros(micros), failed);
                }
                estimate.decide(WINDOW);
                prop_assert!((settings.min..=settings.max).contains(&estimate.limit()));
                prop_assert!(1 <= estimate.limit());
                prop_assert!(estimate.kinds.len() <= KINDS_MAX + 1);
                prop_assert!(estimate.report().stretch.is_finite());
            }
        }
    }
}
