//! How the queue went of late: a sample each second, for figures per second and for charts.
//!
//! Kept in memory, for [`KEPT`], whether or not somebody looks: a chart that begins when a page
//! is opened shows nothing of what made somebody open it.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use regrow_runtime::clock::Timestamp;
use regrow_runtime::metrics as names;
use regrow_runtime::queue::control::{Counters, QueueStats};

use super::exposed::Buckets;
use crate::state::ApiState;

/// Between two samples.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two readings of the metrics, in samples.
const METRICS_EVERY: u32 = 5;
/// How long samples are kept.
pub(crate) const KEPT: Duration = Duration::from_secs(600);

/// How the queue stood at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// When.
    pub(crate) at: Timestamp,
    /// What happened since the node started.
    pub(crate) counters: Counts,
    /// Tasks that did not execute.
    pub(crate) size: u64,
    /// Tasks that did.
    pub(crate) executing: u64,
}

/// The counters that charts show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) discarded: u64,
    pub(crate) leases_lost: u64,
}

impl From<Counters> for Counts {
    fn from(counters: Counters) -> Self {
        Self {
            accepted: counters.accepted,
            refused: counters.refused,
            completed: counters.completed,
            failed: counters.failed,
            discarded: counters.discarded,
            leases_lost: counters.leases_lost,
        }
    }
}

impl Sample {
    fn of(at: Timestamp, stats: &QueueStats) -> Self {
        Self {
            at,
            counters: stats.counters.into(),
            size: stats.size,
            executing: stats.states.get("executing").copied().unwrap_or(0),
        }
    }
}

/// Durations as they were measured until one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durations {
    /// Commits to the store.
    pub(crate) commits: Buckets,
    /// From becoming claimable to a lease.
    pub(crate) waits: Buckets,
    /// From being accepted to the end.
    pub(crate) tasks: Buckets,
    /// Answers of agents to probes.
    pub(crate) probes: Buckets,
}

impl Durations {
    fn of(text: &str) -> Self {
        Self {
            commits: Buckets::of(text, names::STORE_COMMIT_SECONDS),
            waits: Buckets::of(text, names::QUEUE_WAIT_SECONDS),
            tasks: Buckets::of(text, names::TASK_SECONDS),
            probes: Buckets::of(text, names::PROBE_SECONDS),
        }
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            commits: self.commits.since(&earlier.commits),
            waits: self.waits.since(&earlier.waits),
            tasks: self.tasks.since(&earlier.tasks),
            probes: self.probes.since(&earlier.probes),
        }
    }
}

/// The samples, oldest first.
#[derive(Debug, Default)]
pub(crate) struct History {
    samples: Mutex<VecDeque<Sample>>,
    durations: Mutex<VecDeque<Durations>>,
}

impl History {
    /// Takes samples for as long as it is polled. A crash, or the end, loses them all.
    pub(crate) async fn keep(state: ApiState) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut count = 0u32;
        let history = &state.pages.history;
        history.begin(state.queue.clock().now());
        loop {
            ticks.tick().await;
            let now = state.queue.clock().now();
            history.add(Sample::of(now, &state.queue.stats()));
            if count.is_multiple_of(METRICS_EVERY) {
                history.measure(&state.metrics.text());
            }
            count = count.wrapping_add(1);
        }
    }

    /// The counters were nothing when the node started: what they hold at the first look
    /// happened since.
    fn begin(&self, at: Timestamp) {
        self.add(Sample {
            at,
            counters: Counts::default(),
            size: 0,
            executing: 0,
        });
    }

    fn add(&self, sample: Sample) {
        let mut samples = self.samples.lock();
        samples.push_back(sample);
        while samples
            .front()
            .is_some_and(|first| KEPT < sample.at.since(first.at))
        {
            samples.pop_front();
        }
    }

    fn measure(&self, text: &str) {
        let mut durations = self.durations.lock();
        durations.push_back(Durations::of(text));
        let kept = KEPT.as_secs() / (PERIOD.as_secs() * u64::from(METRICS_EVERY));
        while kept < durations.len() as u64 {
            durations.pop_front();
        }
    }

    /// From the first sample that is kept to the last.
    pub(crate) fn span(&self) -> Duration {
        let samples = self.samples.lock();
        let ends = samples.front().zip(samples.back());
        ends.map(|(first, last)| last.at.since(first.at))
            .unwrap_or_default()
    }

    /// All samples that are kept.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        self.samples.lock().iter().copied().collect()
    }

    /// The median and the 99th percentile of one of the durations, reading by reading, in
    /// seconds; none is 0.
    pub(crate) fn over_time(&self, of: fn(&Durations) -> &Buckets) -> (Vec<f64>, Vec<f64>) {
        let durations = self.durations.lock();
        let pairs = durations.iter().zip(durations.iter().skip(1));
        pairs
            .map(|(one, next)| {
                let measured = of(next).since(of(one));
                let quantile = |share| measured.quantile(share).unwrap_or(0.0);
                (quantile(0.5), quantile(0.99))
            })
            .unzip()
    }

    /// What was measured while samples were kept.
    pub(crate) fn durations(&self) -> Durations {
        let durations = self.durations.lock();
        match (durations.front(), durations.back()) {
            (Some(first), Some(last)) if 1 < durations.len() => last.since(first),
            (_, Some(last)) => last.clone(),
            (_, None) => Durations::default(),
        }
    }
}

/// How often something was counted within the last `window`, if samples reach back that far, or
/// for as long as they do; and how long that is.
pub(crate) fn within(
    samples: &[Sample],
    window: Duration,
    count: impl Fn(&Counts) -> u64,
) -> (u64, Duration) {
    let Some(last) = samples.last() else {
        return (0, Duration::ZERO);
    };
    let first = samples.iter().find(|it| last.at.since(it.at) <= window);
    let first = first.unwrap_or(last);
    let counted = count(&last.counters).saturating_sub(count(&first.counters));
    (counted, last.at.since(first.at))
}

/// The same per second; `None` until there are two samples.
pub(crate) fn rate(
    samples: &[Sample],
    window: Duration,
    count: impl Fn(&Counts) -> u64,
) -> Option<f64> {
    let (counted, time) = within(samples, window, count);
    (!time.is_zero()).then(|| counted as f64 / time.as_secs_f64())
}

/// Rates from each sample to the next, for a chart.
pub(crate) fn rates(samples: &[Sample], count: impl Fn(&Counts) -> u64) -> Vec<f64> {
    let pairs = samples.windows(2);
    let rates = pairs.map(|pair| match pair {
        [one, next] => {
            let counted = count(&next.counters).saturating_sub(count(&one.counters));
            let time = next.at.since(one.at).as_secs_f64();
            if time == 0.0 {
                0.0
            } else {
                counted as f64 / time
            }
        }
        _ => 0.0,
    });
    rates.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: u64, completed: u64) -> Sample {
        Sample {
            at: Timestamp(second * 1_000),
            counters: Counts {
                completed,
                ..Counts::default()
            },
            size: 0,
            executing: 0,
        }
    }

    #[test]
    fn rates_are_taken_over_what_is_known() {
        let completed = |counts: &Counts| counts.completed;
        let ten = Duration::from_secs(10);
        assert_eq!(rate(&[], ten, completed), None);
        assert_eq!(rate(&[sample(0, 5)], ten, completed), None);
        let samples: Vec<Sample> = (0..20).map(|n| sample(n, n * 3)).collect();
        assert_eq!(rate(&samples, ten, completed), Some(3.0));
        assert_eq!(within(&samples, ten, completed).0, 30);
        assert_eq!(within(&samples[..4], ten, completed).0, 9);
        assert_eq!(rates(&samples, completed), vec![3.0; 19]);
    }

    #[test]
    fn what_happened_before_the_first_look_counts() {
        let history = History::default();
        history.begin(Timestamp(1_000));
        history.add(sample(1, 4));
        let minute = Duration::from_secs(60);
        let counted = within(&history.samples(), minute, |counts| counts.completed);
        assert_eq!(counted.0, 4);
    }

    #[test]
    fn samples_are_kept_for_their_time_only() {
        let history = History::default();
        for second in 0..2_000 {
            history.add(sample(second, 0));
        }
        let samples = history.samples();
        assert_eq!(samples.len() as u64, KEPT.as_secs() + 1);
        for _ in 0..1_000 {
            history.measure("");
        }
        assert_eq!(history.durations.lock().len(), 120);
    }
}
