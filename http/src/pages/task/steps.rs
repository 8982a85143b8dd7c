//! The steps that a task finished, against time.

use maud::{Markup, html};
use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::TaskId;
use regrow_runtime::queue::budget::Cost;
use regrow_runtime::queue::task::TaskView;
use regrow_runtime::store::StepRow;

use super::at;
use crate::pages::parts::nothing;
use crate::pages::tasks::escaped;
use crate::pages::words::{self, count, several};

/// Narrowest bar, as a part of the whole, so that it is seen.
const NARROW: f64 = 0.4;

/// How many there are.
pub(super) fn summary(steps: &[StepRow], more: bool) -> Markup {
    html! {
        @if !steps.is_empty() {
            span .hint {
                (several(steps.len() as u64, "step", "steps")) " finished; a finished step is not run again"
                @if more { "; later ones are not shown" }
            }
        }
    }
}

/// What all of them cost.
pub(super) fn cost(steps: &[StepRow]) -> Markup {
    let mut sum = Cost::default();
    for cost in steps.iter().filter_map(|step| step.cost) {
        sum.tokens_in += cost.tokens_in;
        sum.tokens_out += cost.tokens_out;
        sum.micros += cost.micros;
        sum.calls += cost.calls;
        sum.millis += cost.millis;
    }
    priced(&sum)
}

fn priced(cost: &Cost) -> Markup {
    let tokens = cost.tokens_in + cost.tokens_out;
    html! {
        @if *cost == Cost::default() { "nothing" } @else {
            (words::money(cost.micros))
            @if 0 < tokens {
                span .hint title=(format!("{} read, {} written", count(cost.tokens_in), count(cost.tokens_out))) {
                    " " (several(tokens, "token", "tokens"))
                }
            }
            @if 0 < cost.calls { span .hint { " " (several(cost.calls, "call", "calls")) } }
        }
    }
}

/// A bar for each step, from the first to begin to the last to end.
pub(super) fn waterfall(task: TaskId, view: &TaskView, steps: &[StepRow]) -> Markup {
    if steps.is_empty() {
        let text = match view.end {
            Some(_) => "It ended without a recorded step.",
            None => "No step is finished yet.",
        };
        return nothing(text, &html! {});
    }
    let from = steps.iter().map(|step| step.started_at).min();
    let to = steps.iter().map(|step| step.finished_at).max();
    let (from, to) = (from.unwrap_or_default(), to.unwrap_or_default());
    let whole = to.since(from).as_secs_f64();
    let part = |until: Timestamp| match whole > 0.0 {
        true => until.since(from).as_secs_f64() / whole * 100.0,
        false => 0.0,
    };
    html! {
        div .scroll tabindex="0" role="region" aria-label="Steps" {
            table .list .waterfall {
                thead {
                    tr {
                        th { "Step" }
                        th .wide { span .scale { span { (words::clock(from)) } span { "+ " (words::span(to.since(from))) } } }
                        th .number { "Took" } th .number { "Cost" } th .number { "Epoch" }
                    }
                }
                tbody {
                    @for step in steps {
                        @let took = words::span(step.finished_at.since(step.started_at));
                        @let (begins, ends) = (part(step.started_at), part(step.finished_at));
                        @let width = (ends - begins).max(NARROW);
                        @let begins = begins.min(100.0 - width);
                        tr {
                            td { a href=(format!("/tasks/{task}/steps/{}", escaped(&step.key))) { (words::beginning(&step.key, 60)) } }
                            td .wide {
                                svg .bar .good viewBox="0 0 100 10" preserveAspectRatio="none" role="img"
                                    aria-label=(format!("began {} after the first, took {took}", words::span(step.started_at.since(from)))) {
                                    rect .ground width="100" height="10" {}
                                    rect .fill x=(at(begins)) width=(at(width)) height="10" {}
                                }
                            }
                            td .number { (took) }
                            td .number { @match &step.cost { Some(cost) => { (priced(cost)) } None => { "–" } } }
                            td .number { (step.epoch) }
                        }
                    }
                }
            }
        }
    }
}
