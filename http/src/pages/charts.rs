//! Charts as SVG, drawn on the node: lines over time with a scale that can be read.

use std::time::Duration;

use maud::{Markup, html};

use super::words;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 52.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 20.0;
/// Points of one line: more would be closer than pixels.
const POINTS_MAX: usize = 300;

/// One line.
pub(crate) struct Series {
    /// What it shows.
    pub(crate) name: &'static str,
    /// Which of the colours of lines it has.
    pub(crate) class: &'static str,
    /// Evenly over time, the newest last.
    pub(crate) values: Vec<f64>,
}

/// Lines that share their scale.
pub(crate) struct Chart {
    pub(crate) title: &'static str,
    /// `s` for durations.
    pub(crate) unit: &'static str,
    /// From the first to the last value.
    pub(crate) span: Duration,
    pub(crate) series: Vec<Series>,
}

impl Chart {
    /// The chart, with what its lines say last in words.
    pub(crate) fn draw(&self) -> Markup {
        let max = self.series.iter().flat_map(|series| &series.values);
        let max = ceiling(max.copied().fold(0.0, f64::max));
        let tell = |value: f64| match self.unit {
            "s" => words::seconds(value),
            unit => format!("{} {unit}", words::decimal(value)),
        };
        let ground = TOP + HEIGHT;
        let label: Vec<String> = self
            .series
            .iter()
            .map(|series| {
                let last = series
                    .values
                    .last()
                    .map_or_else(|| "not known".to_owned(), |last| tell(*last));
                format!("{} {last}", series.name)
            })
            .collect();
        html! {
            section .panel .chart {
                header {
                    h2 { (self.title) }
                    span .legend {
                        @for (series, text) in self.series.iter().zip(&label) { span .(series.class) { (text) } }
                    }
                }
                svg viewBox=(format!("0 0 {WIDTH} {}", TOP + HEIGHT + BOTTOM)) role="img"
                    aria-label=(format!("{}: now {}", self.title, label.join(", "))) {
                    @for part in [0.0, 0.5, 1.0] {
                        @let y = ground - HEIGHT * part;
                        line .rule x1=(LEFT) x2=(WIDTH) y1=(format!("{y:.1}")) y2=(format!("{y:.1}")) {}
                        text x=(LEFT - 6.0) y=(format!("{:.1}", y + 4.0)) text-anchor="end" { (scale(max * part, self.unit)) }
                    }
                    text x=(LEFT) y=(ground + 15.0) { (words::span(Duration::from_secs(self.span.as_secs()))) " ago" }
                    text x=(WIDTH) y=(ground + 15.0) text-anchor="end" { "now" }
                    @for series in &self.series {
                        @if 1 < series.values.len() {
                            polyline .(series.class) points=(points(&series.values, max)) {}
                        }
                    }
                }
            }
        }
    }
}

fn scale(value: f64, unit: &str) -> String {
    match unit {
        _ if value == 0.0 => "0".to_owned(),
        "s" => words::seconds(value),
        _ => words::decimal(value),
    }
}

/// The next round number: 1, 2 or 5 of a power of ten.
fn ceiling(max: f64) -> f64 {
    if max <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(max.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    let found = steps
        .into_iter()
        .map(|step| step * power)
        .find(|step| max <= *step);
    found.unwrap_or(max)
}

/// The line's points: of several values for one pixel the largest, so that no peak is lost.
fn points(values: &[f64], max: f64) -> String {
    let size = values.len().div_ceil(POINTS_MAX);
    let peaks: Vec<f64> = values
        .chunks(size)
        .map(|chunk| chunk.iter().copied().fold(0.0, f64::max))
        .collect();
    let step = (WIDTH - LEFT) / (peaks.len().max(2) - 1) as f64;
    let place = |(position, value): (usize, &f64)| {
        let (x, y) = (
            LEFT + step * position as f64,
            TOP + HEIGHT * (1.0 - value / max),
        );
        format!("{x:.1},{y:.1}")
    };
    peaks
        .iter()
        .enumerate()
        .map(place)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_numbers_above_what_is_shown() {
        for (max, end) in [
            (0.0, 1.0),
            (0.7, 1.0),
            (1.0, 1.0),
            (3.2, 5.0),
            (7_300.0, 10_000.0),
            (0.013, 0.02),
        ] {
            assert!(
                (ceiling(max) - end).abs() < end * 1e-9,
                "{max}: {}",
                ceiling(max)
            );
        }
    }

    #[test]
    fn no_peak_is_lost_between_pixels() {
        let mut values = vec![0.0; 10 * POINTS_MAX];
        values[1_234] = 8.0;
        let drawn = points(&values, 10.0);
        assert_eq!(drawn.split(' ').count(), POINTS_MAX);
        let top = format!(",{:.1}", TOP + HEIGHT * 0.2);
        assert_eq!(drawn.matches(&top).count(), 1, "{drawn}");
    }
}
