//! The latest trace behind each bucket of the histograms that know one: from a slow bucket on a
//! dashboard to the task that made it slow.
//!
//! One per process, as recorders of metrics are. Bounded by the buckets and labels there are;
//! whoever finds it locked leaves nothing and does not wait.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::trace::TraceId;

/// Series that are remembered; those beyond have no exemplars.
const SERIES_MAX: usize = 1_024;

/// Upper bounds of the buckets of every histogram of durations, in seconds.
pub const SECONDS: [f64; 20] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0,
];

/// One observation, and the trace that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    /// Which trace.
    pub trace: TraceId,
    /// What was observed, in seconds.
    pub seconds: f64,
    /// When.
    pub at: Timestamp,
}

type Series = (&'static str, Box<str>);
type Buckets = [Option<Exemplar>; SECONDS.len() + 1];

static NOTED: Mutex<BTreeMap<Series, Buckets>> = Mutex::new(BTreeMap::new());

/// Remembers an observation of the histogram `metric`, in the series whose label has `value`.
pub fn note(metric: &'static str, value: &str, exemplar: Exemplar) {
    let Some(mut noted) = NOTED.try_lock() else {
        return;
    };
    let bucket = SECONDS.partition_point(|bound| *bound < exemplar.seconds);
    let key = (metric, Box::from(value));
    if SERIES_MAX <= noted.len() && !noted.contains_key(&key) {
        return;
    }
    let buckets = noted.entry(key).or_insert([None; SECONDS.len() + 1]);
    buckets[bucket] = Some(exemplar);
}

/// The latest observation of `metric` and label `value` in the bucket that ends at `bound`, in
/// seconds; infinity for the last one.
#[must_use]
pub fn latest(metric: &str, value: &str, bound: f64) -> Option<Exemplar> {
    let noted = NOTED.lock();
    let mut series = noted.iter();
    let (_, buckets) = series.find(|((name, label), _)| *name == metric && **label == *value)?;
    let bucket = match bound.is_infinite() {
        true => SECONDS.len(),
        false => SECONDS.iter().position(|at| *at == bound)?,
    };
    buckets[bucket]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TaskId;
    use crate::trace::TraceContext;

    #[test]
    fn each_bucket_remembers_its_latest_observation() {
        let note_at = |seconds: f64| {
            let exemplar = Exemplar {
                trace: TraceContext::of_task(TaskId::fresh()).trace_id(),
                seconds,
                at: Timestamp(1),
            };
            note("of_this_test", "a", exemplar);
            exemplar
        };
        // A lock that is held by another test's reader leaves nothing: say it until it is heard.
        let heard = |seconds: f64, bound: f64| {
            (0..1_000_000).any(|_| {
                let noted = note_at(seconds);
                latest("of_this_test", "a", bound) == Some(noted)
            })
        };
        assert!(heard(0.1, 0.1), "a bound belongs to its own bucket");
        assert!(heard(0.11, 0.25));
        assert!(heard(1e9, f64::INFINITY));
        assert_eq!(latest("of_this_test", "b", 0.1), None);
        assert_eq!(latest("of_this_test", "a", 0.5), None);
    }
}
