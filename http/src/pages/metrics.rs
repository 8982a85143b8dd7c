//! `/charts`: the last ten minutes in charts, and every metric with what it means.

use std::collections::BTreeMap;
use std::time::Duration;

use maud::{Markup, html};

use super::charts::{Chart, Series};
use super::exposed::{Family, Value, families};
use super::frame::Place;
use super::history::{Counts, History, Sample, rates};
use super::live::{Page, answer};
use super::parts::nothing;
use super::visit::Visit;
use super::words::{self, several};
use crate::error::ApiError;
use crate::params::Params;
use crate::routes::Answer;

/// Series of one metric that are shown.
const SERIES_MAX: usize = 24;

/// `GET /charts`
pub(crate) async fn show(visit: Visit, mut params: Params) -> Answer {
    let query = params.text("q").map(|text| text.trim().to_lowercase());
    params.finish()?;
    answer(Metrics(query.filter(|text| !text.is_empty())), visit).await
}

struct Metrics(Option<String>);

impl Page for Metrics {
    const PLACE: Place = Place::Metrics;

    fn title(&self) -> String {
        "Metrics".to_owned()
    }

    async fn draw(&self, visit: &Visit) -> Result<Markup, ApiError> {
        let history = &visit.state.pages.history;
        let samples = history.samples();
        let text = visit.state.metrics.text();
        let mut families = families(&text);
        if let Some(sought) = &self.0 {
            families.retain(|name, family| {
                name.to_lowercase().contains(sought) || family.help.to_lowercase().contains(sought)
            });
        }
        Ok(html! {
            div .title {
                h1 { "Metrics" }
                p .lead { "The last 10 minutes of this node. " a href="/metrics" { "As Prometheus reads them" } "." }
            }
            div .columns { (charts(&samples, history)) }
            form #filter .filter method="get" action="/charts" role="search" hx-morph-skip {
                label for="q" .unseen { "Search" }
                input #q name="q" type="search" value=[self.0.as_deref()] data-search maxlength="100" placeholder="Name or meaning of a metric";
                button type="submit" { "Search" }
                @if self.0.is_some() { a .button href="/charts" { "Show all" } }
            }
            @if families.is_empty() { (nothing("No metric is like that.", &html! { p { a href="/charts" { "Show all" } } })) }
            @else { (table(&families)) }
        })
    }
}

fn charts(samples: &[Sample], history: &History) -> Markup {
    let rate = |name, class, count: fn(&Counts) -> u64| Series {
        name,
        class,
        values: rates(samples, count),
    };
    let level = |name, class, value: fn(&Sample) -> u64| Series {
        name,
        class,
        values: samples.iter().map(|sample| value(sample) as f64).collect(),
    };
    let (one, two) = ("one", "two");
    let span = history.span();
    let draw = |title, unit, series: Vec<Series>| {
        Chart {
            title,
            unit,
            span,
            series,
        }
        .draw()
    };
    html! {
        (draw("Tasks per second", "/ s", vec![
            rate("accepted", one, |it| it.accepted),
            rate("completed", two, |it| it.completed),
        ]))
        (draw("Trouble per second", "/ s", vec![
            rate("failed attempts", one, |it| it.failed),
            rate("given up", two, |it| it.discarded),
            rate("leases lost", "three", |it| it.leases_lost),
            rate("refused", "four", |it| it.refused),
        ]))
        (draw("Tasks waiting and running", "tasks", vec![
            level("waiting", one, |it| it.size),
            level("running", two, |it| it.executing),
        ]))
        (waiting(history, span))
        (durations("From submission to the end", history.over_time(|it| &it.tasks), span))
        (durations("Commit to the store", history.over_time(|it| &it.commits), span))
    }
}

/// How long tasks waited for a worker of late.
pub(crate) fn waiting(history: &History, span: Duration) -> Markup {
    durations(
        "Waiting for a worker",
        history.over_time(|it| &it.waits),
        span,
    )
}

fn durations(title: &'static str, (p50, p99): (Vec<f64>, Vec<f64>), span: Duration) -> Markup {
    let line = |name, class, values| Series {
        name,
        class,
        values,
    };
    let series = vec![line("p50", "two", p50), line("p99", "one", p99)];
    Chart {
        title,
        unit: "s",
        span,
        series,
    }
    .draw()
}

fn table(families: &BTreeMap<String, Family>) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Metrics" {
            table .list {
                thead { tr { th { "Metric" } th { "Labels" } th .number { "Value" } th { "Meaning" } } }
                tbody {
                    @for (name, family) in families {
                        @let shown = family.series.iter().take(SERIES_MAX);
                        @for (position, (labels, value)) in shown.enumerate() {
                            tr {
                                td { @if position == 0 { code { (name) } } }
                                td .text { span .hint { (labels) } }
                                td .number { (value_of(name, value)) }
                                td .text { @if position == 0 { (family.help) } }
                            }
                        }
                        @if SERIES_MAX < family.series.len() {
                            tr { td {} td colspan="3" { span .hint { (several((family.series.len() - SERIES_MAX) as u64, "more series", "more series")) } } }
                        }
                    }
                }
            }
        }
    }
}

fn value_of(name: &str, value: &Value) -> String {
    match value {
        Value::Number(number) if name.ends_with("_bytes") => words::bytes(number.max(0.0) as u64),
        Value::Number(number) => words::decimal(*number),
        Value::Durations { count, p50, p99 } if name.ends_with("_seconds") => format!(
            "p50 {}, p99 {}, {}",
            words::seconds(*p50),
            words::seconds(*p99),
            several(*count, "time", "times")
        ),
        Value::Durations { count, p50, p99 } => format!(
            "p50 {}, p99 {}, {}",
            words::decimal(*p50),
            words::decimal(*p99),
            several(*count, "time", "times")
        ),
    }
}
