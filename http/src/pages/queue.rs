//! `/queue`: who waits and who is served, what limits them, and the switches.

use std::collections::BTreeMap;

use maud::{Markup, html};
use regrow_runtime::access::scope::Scope;
use regrow_runtime::queue::control::QueueStats;
use regrow_runtime::queue::fairness::Share;
use regrow_runtime::queue::gate::GateStanding;
use regrow_runtime::queue::rules::{Resource, Rules};
use regrow_runtime::queue::task::{Lane, TaskState, TaskView};
use regrow_runtime::store::TaskFilter;

use super::frame::Place;
use super::live::{Page, answer};
use super::metrics::waiting as waiting_times;
use super::parts::{NEEDS_OPERATE, Order, bar, none, nothing, panel, pill, task_link, time};
use super::tasks::name;
use super::visit::Visit;
use super::words::{self, Tone, beginning, count, several};
use crate::error::ApiError;
use crate::params::Params;
use crate::routes::Answer;

/// Dead letters on the page.
const DEAD_MAX: u32 = 20;
/// Rows of a table: names beyond them are counted.
const ROWS_MAX: usize = 50;

/// `GET /queue`
pub(crate) async fn show(visit: Visit, params: Params) -> Answer {
    params.finish()?;
    answer(QueuePage, visit).await
}

struct QueuePage;

impl Page for QueuePage {
    const PLACE: Place = Place::Queue;

    fn title(&self) -> String {
        "Queue".to_owned()
    }

    async fn draw(&self, visit: &Visit) -> Result<Markup, ApiError> {
        let queue = &visit.state.queue;
        let dead = TaskFilter {
            state: Some(TaskState::Discarded),
            limit: DEAD_MAX,
            ..TaskFilter::default()
        };
        let dead = queue.tasks(&dead).await?;
        let stats = queue.stats();
        let (rules, gates) = queue.rules(ROWS_MAX);
        let window = words::millis(stats.fairness.window_ms);
        let window = html! { span .hint { "served within the last " (window) } };
        Ok(html! {
            div .title {
                h1 { "Queue" }
                p .row { (standing(&stats)) span .hint { (count(stats.size)) " of " (count(stats.max_size)) " places taken, " (words::bytes(stats.bytes)) " held" } }
            }
            (bar(stats.utilization(), if 0.75 <= stats.utilization() { Tone::Bad } else { Tone::Active },
                &format!("{} of the queue is in use", words::percent(stats.utilization()))))
            (switches(visit, &stats))
            div .columns {
                (waiting_times(&visit.state.pages.history, visit.state.pages.history.span()))
                (panel("Waiting, by lane", &none(), &waiting(Lane::ALL.iter().map(|lane| lane.as_str()), &stats.lanes, "Lane")))
                (panel("Waiting, by kind", &none(), &kinds(&stats)))
                (panel("Classes", &window, &shares(&stats.fairness.classes, "Class")))
                (panel("Tenants", &window, &shares(&stats.fairness.tenants, "Tenant")))
                (panel("Limits, rates and resources", &none(), &limits(&rules, &gates)))
                (panel("Workers at once", &none(), &workers(visit)))
            }
            (panel("Dead letters", &html! { a href="/tasks?state=discarded" { "All of them" } }, &letters(visit, &dead)))
        })
    }
}

fn standing(stats: &QueueStats) -> Markup {
    let (tone, text) = match (stats.paused, stats.draining) {
        (true, true) => (Tone::Attention, "paused and draining"),
        (true, false) => (Tone::Attention, "paused"),
        (false, true) => (Tone::Attention, "draining"),
        (false, false) => (Tone::Good, "open"),
    };
    pill(tone, text)
}

fn switches(visit: &Visit, stats: &QueueStats) -> Markup {
    let barred = (!visit.may(Scope::Operate)).then_some(NEEDS_OPERATE);
    let order = |text, to, question, done, not_now: Option<&'static str>| {
        let barred = barred.or(not_now);
        Order {
            text,
            to,
            with: "",
            question,
            done,
            barred,
        }
        .button()
    };
    html! {
        div .orders {
            (order("Pause", "/v1/queue/pause", None, "Paused: no task is started",
                stats.paused.then_some("It is paused already")))
            (order("Resume", "/v1/queue/resume", None, "Open again",
                (!stats.paused && !stats.draining).then_some("It is open")))
            (order("Drain", "/v1/queue/drain",
                Some("Drain the queue? It accepts no task until it is resumed; what is there is finished."),
                "Draining: no task is accepted", stats.draining.then_some("It drains already")))
            (order("Clear", "/v1/queue/clear",
                Some("Clear the queue? Every task that nobody executes is cancelled. That cannot be taken back."),
                "Cleared", (stats.size == 0).then_some("Nothing waits")))
            form .row .inline hx-morph-skip hx-put="/v1/queue/max_size" hx-swap="none" data-done="The size is set" {
                label for="max_size" { "Places" }
                input #max_size name="max_size" inputmode="numeric" size="9" data-as="null" value=(stats.max_size)
                    aria-describedby="max-help" disabled[barred.is_some()];
                button type="submit" disabled[barred.is_some()] title=[barred] { "Set" }
                span #max-help .hint { "empty: as configured" }
                p .problem role="alert" {}
            }
        }
    }
}

fn waiting<'a>(
    names: impl Iterator<Item = &'a str>,
    known: &BTreeMap<&'static str, u64>,
    heading: &str,
) -> Markup {
    let most = known.values().copied().max().unwrap_or(0).max(1);
    html! {
        table {
            thead { tr { th { (heading) } th .number { "Tasks" } th .wide { "" } } }
            tbody {
                @for name in names {
                    @let waiting = known.get(name).copied().unwrap_or(0);
                    tr {
                        td { (name) }
                        td .number { (count(waiting)) }
                        td .wide { (bar(waiting as f64 / most as f64, Tone::Active, &format!("{} in {name}", several(waiting, "task", "tasks")))) }
                    }
                }
            }
        }
    }
}

fn kinds(stats: &QueueStats) -> Markup {
    if stats.kinds.is_empty() {
        return nothing(
            "Nothing waits for a worker.",
            &html! { p { a href="/tasks/new" { "Submit a task" } } },
        );
    }
    let mut kinds: Vec<(&String, u64)> = stats
        .kinds
        .iter()
        .map(|(name, waiting)| (name, *waiting))
        .collect();
    kinds.sort_by_key(|(name, waiting)| (std::cmp::Reverse(*waiting), *name));
    let most = kinds.first().map_or(1, |(_, waiting)| (*waiting).max(1));
    html! {
        table {
            thead { tr { th { "Kind" } th .number { "Tasks" } th .wide { "" } } }
            tbody {
                @for (name, waiting) in kinds.iter().take(ROWS_MAX) {
                    tr {
                        td { a href=(format!("/tasks?state=available&kind={}", super::tasks::escaped(name))) { (name) } }
                        td .number { (count(*waiting)) }
                        td .wide { (bar(*waiting as f64 / most as f64, Tone::Active, &format!("{} of kind {name}", several(*waiting, "task", "tasks")))) }
                    }
                }
            }
        }
        @if ROWS_MAX < kinds.len() { p .hint { (kinds.len() - ROWS_MAX) " more kinds are not shown" } }
    }
}

/// The share that each had beside the one that its weight gives.
fn shares(shares: &BTreeMap<String, Share>, heading: &str) -> Markup {
    if shares.is_empty() {
        return nothing("Nothing was served of late.", &none());
    }
    html! {
        table {
            thead {
                tr { th { (heading) } th .number { "Weight" } th .number { "Served" } th .number { "Waiting" } th .number { "Share" } th .number { "Due" } th .wide { "" } }
            }
            tbody {
                @for (name, share) in shares.iter().take(ROWS_MAX) {
                    tr {
                        td { (name) }
                        td .number { (words::decimal(share.weight)) }
                        td .number { (count(share.served)) }
                        td .number { (count(share.waiting)) }
                        td .number { (words::percent(share.share)) }
                        td .number { (words::percent(share.fair_share)) }
                        td .wide { (against(share)) }
                    }
                }
            }
        }
        p .hint { "The mark shows the share that is due by weight; " code { "regrow queue set-weight" } " changes it." }
    }
}

fn against(share: &Share) -> Markup {
    let width = format!("{:.2}%", share.share.clamp(0.0, 1.0) * 100.0);
    let due = format!("{:.2}%", share.fair_share.clamp(0.0, 0.99) * 100.0);
    let label = format!(
        "{} served, {} due",
        words::percent(share.share),
        words::percent(share.fair_share)
    );
    html! {
        svg .bar .active role="img" aria-label=(label) {
            title { (label) }
            rect .ground width="100%" height="100%" {}
            rect .fill width=(width) height="100%" {}
            rect .due x=(due) width="2" height="100%" {}
        }
    }
}

fn limits(rules: &Rules, gates: &BTreeMap<String, GateStanding>) -> Markup {
    let is_bare = rules.limits.is_empty()
        && rules.default_limit.is_none()
        && rules.rates.is_empty()
        && rules.resources.is_empty();
    if is_bare {
        let then = html! { p { "Set one with " code { "regrow queue set-limit" } ", " code { "set-rate" } " or " code { "set-resource" } "." } };
        return nothing("Nothing limits tasks beyond their workers.", &then);
    }
    let gate = |name: String| {
        let gate = gates.get(&name);
        (gate.map(|gate| gate.held), gate.map(|gate| gate.parked))
    };
    let row = |kind: &str, name: &str, allows: String, gate: (Option<u64>, Option<u64>)| {
        html! {
            tr {
                td { (kind) } td { code { (name) } } td { (allows) }
                td .number { (gate.0.map_or_else(|| "–".to_owned(), count)) }
                td .number { (gate.1.map_or_else(|| "0".to_owned(), count)) }
            }
        }
    };
    html! {
        table {
            thead { tr { th { "Gate" } th { "Name" } th { "Allows" } th .number { "In use" } th .number { "Waiting" } } }
            tbody {
                @if let Some(limit) = rules.default_limit { (row("limit", "every other key", format!("{limit} at once"), (None, None))) }
                @for (key, limit) in rules.limits.iter().take(ROWS_MAX) {
                    (row("limit", key, format!("{limit} at once"), gate(format!("concurrency/{key}"))))
                }
                @for (key, rate) in rules.rates.iter().take(ROWS_MAX) {
                    (row("rate", key, format!("{} per {}, {} at once", rate.units, words::millis(rate.period_ms), rate.burst), gate(format!("rate/{key}"))))
                }
                @for (name, resource) in rules.resources.iter().take(ROWS_MAX) {
                    @let allows = match resource {
                        Resource::Slots(slots) => format!("{slots} slots"),
                        Resource::Refill(rate) => format!("{} per {}", count(rate.units), words::millis(rate.period_ms)),
                    };
                    (row("resource", name, allows, gate(format!("resource/{name}"))))
                }
            }
        }
    }
}

fn workers(visit: &Visit) -> Markup {
    let Some(report) = visit.state.agents.concurrency() else {
        let then =
            html! { p { code { "agents.adaptive" } " lets it follow how long tasks take." } };
        return nothing("As many Workers work at once as are configured.", &then);
    };
    let fact = |name: &str, value: String| html! { div { dt { (name) } dd { (value) } } };
    html! {
        dl .facts {
            (fact("At once", format!("{} (from {} to {})", report.limit, report.min, report.max)))
            (fact("At work", report.in_flight.to_string()))
            (fact("A task takes", words::seconds(report.service_ms / 1e3)))
            (fact("Longer than at best", format!("{} times", words::decimal(report.stretch))))
            (fact("Attempts that failed", words::percent(report.failure_ratio)))
        }
    }
}

fn letters(visit: &Visit, dead: &[TaskView]) -> Markup {
    if dead.is_empty() {
        return nothing(
            "No task was given up. What exhausts its attempts comes here, with its cause.",
            &none(),
        );
    }
    let barred = (!visit.may(Scope::Operate)).then_some(NEEDS_OPERATE);
    html! {
        div .scroll tabindex="0" role="region" aria-label="Dead letters" {
            table .list {
                thead { tr { th { "Task" } th { "Why it was given up" } th .number { "Attempts" } th { "When" } th { "" } } }
                tbody {
                    @for view in dead {
                        @let end = view.end.as_ref();
                        @let to = format!("/v1/tasks/{}/retry", view.body.id);
                        tr #(format!("dead-{}", view.body.id)) {
                            td .text { a href=(format!("/tasks/{}", view.body.id)) { (name(view)) } " " (task_link(view.body.id)) }
                            td .text .error { (beginning(end.and_then(|end| end.error.as_deref()).unwrap_or("no reason was given"), 160)) }
                            td .number { (end.map_or(0, |end| end.attempt)) }
                            td { @if let Some(end) = end { (time(end.finished_at)) } }
                            td {
                                (Order { text: "Try again", to: &to, with: "", question: None, done: "It is tried again, with all its attempts", barred }.button())
                            }
                        }
                    }
                }
            }
        }
    }
}
