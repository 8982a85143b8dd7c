//! Prometheus' text as OpenMetrics 1.0 has it: counters named without `_total`, units said, an end,
//! and exemplars behind the buckets of histograms that have some.
//!
//! The recorder writes Prometheus' format only. What it writes is read line by line; a line that
//! is not understood is passed on as it is.

use std::fmt::Write as _;

use regrow_runtime::exemplars;

/// `text` in the other format.
pub(super) fn of(text: &str) -> String {
    let mut written = String::with_capacity(text.len() + 1_024);
    // A family's help comes first, its kind after it: the name follows from the kind.
    let mut help: Option<(&str, &str)> = None;
    for line in text.lines() {
        if let Some((name, words)) = rest(line, "# HELP ") {
            help = Some((name, words));
        } else if let Some((name, kind)) = rest(line, "# TYPE ") {
            let family = match kind {
                "counter" => name.strip_suffix("_total").unwrap_or(name),
                _ => name,
            };
            // A counter that is not named as one cannot be one here.
            let kind = match kind {
                "counter" if family == name => "unknown",
                kind => kind,
            };
            let _ = writeln!(written, "# TYPE {family} {kind}");
            for unit in ["seconds", "bytes", "ratio"] {
                if family
                    .strip_suffix(unit)
                    .is_some_and(|stem| stem.ends_with('_'))
                {
                    let _ = writeln!(written, "# UNIT {family} {unit}");
                }
            }
            if let Some((_, words)) = help.take().filter(|(named, _)| *named == name) {
                let _ = writeln!(written, "# HELP {family} {}", words.replace('"', "\\\""));
            }
        } else if !line.is_empty() {
            written.push_str(line);
            if let Some(exemplar) = behind(line) {
                let _ = write!(
                    written,
                    " # {{trace_id=\"{}\"}} {} {}.{:03}",
                    exemplar.trace,
                    exemplar.seconds,
                    exemplar.at.0 / 1_000,
                    exemplar.at.0 % 1_000
                );
            }
            written.push('\n');
        }
    }
    written.push_str("# EOF\n");
    written
}

fn rest<'a>(line: &'a str, start: &str) -> Option<(&'a str, &'a str)> {
    line.strip_prefix(start)?.split_once(' ')
}

/// The latest observation in the bucket that a line tells of.
fn behind(line: &str) -> Option<exemplars::Exemplar> {
    let (series, _) = line.rsplit_once(' ')?;
    let (name, labels) = series.strip_suffix('}')?.split_once('{')?;
    let metric = name.strip_suffix("_bucket")?;
    // Each of these histograms has one label at most, and `le` comes last.
    let (others, bound) = labels.rsplit_once("le=\"")?;
    let bound = match bound.strip_suffix('"')? {
        "+Inf" => f64::INFINITY,
        bound => bound.parse().ok()?,
    };
    let value = others.trim_end_matches(',').split_once("=\"");
    let value = value.map_or("", |(_, value)| value.trim_end_matches('"'));
    exemplars::latest(metric, value, bound)
}

#[cfg(test)]
mod tests {
    use regrow_runtime::clock::Timestamp;
    use regrow_runtime::exemplars::{Exemplar, note};
    use regrow_runtime::ids::TaskId;
    use regrow_runtime::trace::TraceContext;

    use super::*;

    #[test]
    fn counters_units_exemplars_and_the_end_are_as_open_metrics_has_them() {
        let id: TaskId = "0190a6a0-0000-7000-8000-0000000000ff"
            .parse()
            .expect("an id");
        let exemplar = Exemplar {
            trace: TraceContext::of_task(id).trace_id(),
            seconds: 0.2,
            at: Timestamp(1_500),
        };
        let noted = || {
            note("x_seconds", "high", exemplar);
            exemplars::latest("x_seconds", "high", 0.25).is_some()
        };
        assert!(
            (0..1_000_000).any(|_| noted()),
            "no other test holds the lock for ever"
        );
        let text = "# HELP x_total All \"x\".\n# TYPE x_total counter\nx_total{a=\"b\"} 3\n\n\
                    # HELP x_seconds Time.\n# TYPE x_seconds histogram\n\
                    x_seconds_bucket{lane=\"high\",le=\"0.1\"} 0\n\
                    x_seconds_bucket{lane=\"high\",le=\"0.25\"} 1\n\
                    x_seconds_sum{lane=\"high\"} 0.2\n\n";
        let expected = "# TYPE x counter\n# HELP x All \\\"x\\\".\nx_total{a=\"b\"} 3\n\
                        # TYPE x_seconds histogram\n# UNIT x_seconds seconds\n\
                        # HELP x_seconds Time.\n\
                        x_seconds_bucket{lane=\"high\",le=\"0.1\"} 0\n\
                        x_seconds_bucket{lane=\"high\",le=\"0.25\"} 1 # \
                        {trace_id=\"0190a6a00000700080000000000000ff\"} 0.2 1.500\n\
                        x_seconds_sum{lane=\"high\"} 0.2\n# EOF\n";
        assert_eq!(of(text), expected);
    }
}
