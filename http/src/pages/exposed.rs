//! Figures out of the metrics' own text (pure): what `/metrics` tells is what pages show.

use std::collections::BTreeMap;

/// A metric with all its series.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Family {
    /// What it means.
    pub(crate) help: String,
    /// Labels and value of each, in the text's order.
    pub(crate) series: Vec<(String, Value)>,
}

/// What a series says now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// A counter or a gauge.
    Number(f64),
    /// A histogram: how many measurements, and their quantiles in the metric's unit.
    Durations {
        /// How many.
        count: u64,
        /// The median.
        p50: f64,
        /// What one in a hundred exceeds.
        p99: f64,
    },
}

/// Every metric that the text has, by name.
pub(crate) fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut histograms: Vec<String> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            if let Some((name, help)) = rest.split_once(' ') {
                families.entry(name.to_owned()).or_default().help = help.to_owned();
            }
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            if let Some(name) = rest.strip_suffix(" histogram") {
                histograms.push(name.to_owned());
            }
        } else if !line.starts_with('#') {
            let (name, labels, value) = match line.split_once('{') {
                Some((name, rest)) => match rest.split_once("} ") {
                    Some((labels, value)) => (name, labels, value),
                    None => continue,
                },
                None => match line.split_once(' ') {
                    Some((name, value)) => (name, "", value),
                    None => continue,
                },
            };
            let of_histogram = |name: &str| {
                let endings = ["_bucket", "_sum", "_count"];
                let bare = endings.iter().find_map(|ending| name.strip_suffix(ending));
                bare.is_some_and(|bare| histograms.iter().any(|known| known == bare))
            };
            let value = value
                .split_whitespace()
                .next()
                .and_then(|value| value.parse().ok());
            if let Some(value) = value.filter(|_| !of_histogram(name)) {
                let series = &mut families.entry(name.to_owned()).or_default().series;
                series.push((labels.replace('"', ""), Value::Number(value)));
            }
        }
    }
    for name in histograms {
        let buckets = Buckets::of(text, &name);
        let quantile = |share| buckets.quantile(share).unwrap_or(0.0);
        let value = Value::Durations {
            count: buckets.count(),
            p50: quantile(0.5),
            p99: quantile(0.99),
        };
        let series = &mut families.entry(name).or_default().series;
        series.push(("all together".to_owned(), value));
    }
    families.retain(|_, family| !family.series.is_empty());
    families
}

/// A histogram: how many measurements were at most so long, by bound in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Buckets(Vec<(f64, u64)>);

impl Buckets {
    /// The histogram `name`, all of its label sets taken together.
    pub(crate) fn of(text: &str, name: &str) -> Self {
        let mut buckets: Vec<(f64, u64)> = Vec::new();
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        for line in lines.filter_map(|line| line.strip_prefix("_bucket{")) {
            let Some((labels, value)) = line.split_once("} ") else {
                continue;
            };
            let bound = labels.split("le=\"").nth(1);
            let bound = bound.and_then(|rest| rest.split('"').next());
            let bound = match bound {
                Some("+Inf") => Some(f64::INFINITY),
                Some(text) => text.parse().ok(),
                None => None,
            };
            // An exemplar may follow the value.
            let value = value.split_whitespace().next();
            let (Some(bound), Some(count)) = (bound, value.and_then(|value| value.parse().ok()))
            else {
                continue;
            };
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, known)) => *known += count,
                None => buckets.push((bound, count)),
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self(buckets)
    }

    /// What was measured after `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let before = |bound: f64| {
            let found = earlier.0.iter().find(|(known, _)| *known == bound);
            found.map_or(0, |(_, count)| *count)
        };
        let left = self.0.iter();
        Self(
            left.map(|(bound, count)| (*bound, count.saturating_sub(before(*bound))))
                .collect(),
        )
    }

    /// How many measurements there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.last().map_or(0, |(_, count)| *count)
    }

    /// The duration that a share of the measurements, 0 to 1, does not exceed, in seconds:
    /// evenly spread within a bucket, as Prometheus has it. `None` without measurements.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let rank = share * self.count() as f64;
        let mut below = (0.0, 0);
        for (bound, count) in &self.0 {
            if 0 < *count && rank <= *count as f64 {
                if bound.is_infinite() {
                    return Some(below.0);
                }
                let within = count - below.1;
                let part = if within == 0 {
                    0.0
                } else {
                    (rank - below.1 as f64) / within as f64
                };
                return Some(below.0 + (bound - below.0) * part);
            }
            below = (*bound, *count);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP commit_seconds Duration.
# TYPE commit_seconds histogram
commit_seconds_bucket{store=\"a\",le=\"0.001\"} 2
commit_seconds_bucket{store=\"a\",le=\"0.01\"} 8
commit_seconds_bucket{store=\"a\",le=\"+Inf\"} 8
commit_seconds_bucket{store=\"b\",le=\"0.001\"} 0
commit_seconds_bucket{store=\"b\",le=\"0.01\"} 1 # {trace_id=\"x\"} 0.004
commit_seconds_bucket{store=\"b\",le=\"+Inf\"} 2
commit_seconds_sum{store=\"a\"} 1
other_seconds_bucket{le=\"0.01\"} 99
";

    #[test]
    fn the_label_sets_of_a_histogram_are_added() {
        let buckets = Buckets::of(TEXT, "commit_seconds");
        assert_eq!(
            buckets,
            Buckets(vec![(0.001, 2), (0.01, 9), (f64::INFINITY, 10)])
        );
        assert_eq!(buckets.count(), 10);
        assert_eq!(Buckets::of(TEXT, "none").quantile(0.5), None);
    }

    #[test]
    fn quantiles_lie_within_their_bucket_and_never_beyond_the_last_bound() {
        let buckets = Buckets::of(TEXT, "commit_seconds");
        assert_eq!(buckets.quantile(0.2), Some(0.001));
        let half = buckets.quantile(0.5).expect("measured");
        assert!((0.004..0.006).contains(&half), "{half}");
        assert_eq!(buckets.quantile(1.0), Some(0.01));
    }

    #[test]
    fn only_what_came_later_counts() {
        let early = Buckets(vec![(0.001, 1), (f64::INFINITY, 3)]);
        let late = Buckets(vec![(0.001, 1), (f64::INFINITY, 5)]);
        assert_eq!(late.since(&early).count(), 2);
    }

    #[test]
    fn every_metric_is_found_with_its_meaning() {
        let text =
            format!("{TEXT}# HELP tasks_total Tasks.\n# TYPE tasks_total counter\ntasks_total 7\n");
        let families = families(&text);
        assert_eq!(families["tasks_total"].help, "Tasks.");
        assert_eq!(
            families["tasks_total"].series,
            [(String::new(), Value::Number(7.0))]
        );
        let commits = &families["commit_seconds"].series;
        assert!(
            matches!(commits[..], [(_, Value::Durations { count: 10, .. })]),
            "{commits:?}"
        );
        assert!(!families.contains_key("commit_seconds_sum"));
    }
}
