//! The attempts at a task, read off its log.

use std::sync::Arc;

use maud::{Markup, html};
use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::Epoch;
use regrow_runtime::queue::task::{TaskEvent, TaskEventKind};

use crate::pages::parts::{nothing, pill};
use crate::pages::tasks::holder;
use crate::pages::words::{self, Tone};

/// One lease, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attempt {
    epoch: Option<Epoch>,
    by: Option<Arc<str>>,
    from: Timestamp,
    to: Option<Timestamp>,
    steps: u64,
    outcome: Option<(TaskEventKind, Option<Arc<str>>)>,
}

/// Whether this ends a lease.
fn ends(kind: TaskEventKind) -> bool {
    use TaskEventKind as Kind;
    match kind {
        Kind::Released
        | Kind::LeaseLost
        | Kind::Suspended
        | Kind::ApprovalAsked
        | Kind::Failed
        | Kind::Completed
        | Kind::Discarded
        | Kind::Cancelled => true,
        Kind::Submitted
        | Kind::Available
        | Kind::Leased
        | Kind::StepRecorded
        | Kind::Approved
        | Kind::Denied
        | Kind::BudgetCharged
        | Kind::Carried
        | Kind::CancelRequested
        | Kind::Retried => false,
    }
}

fn attempts(log: &[TaskEvent]) -> Vec<Attempt> {
    let mut found: Vec<Attempt> = Vec::new();
    for event in log {
        if event.kind == TaskEventKind::Leased {
            found.push(Attempt {
                epoch: event.epoch,
                by: event.detail.clone(),
                from: event.at,
                to: None,
                steps: 0,
                outcome: None,
            });
            continue;
        }
        let Some(last) = found.last_mut().filter(|last| last.to.is_none()) else {
            continue;
        };
        if event.kind == TaskEventKind::StepRecorded {
            last.steps += 1;
        } else if ends(event.kind) {
            last.to = Some(event.at);
            last.outcome = Some((event.kind, event.detail.clone()));
        }
    }
    found
}

/// A line for each.
pub(super) fn table(log: &[TaskEvent]) -> Markup {
    let attempts = attempts(log);
    if attempts.is_empty() {
        return nothing("No worker has taken it yet.", &html! {});
    }
    html! {
        div .scroll tabindex="0" role="region" aria-label="Attempts" {
            table .list {
                thead {
                    tr {
                        th .number { "Lease" } th { "Taken by" } th { "From (UTC)" } th .number { "Held" }
                        th .number { "Steps" } th { "Outcome" } th { "Detail" }
                    }
                }
                tbody {
                    @for (position, attempt) in attempts.iter().enumerate().rev() {
                        tr {
                            td .number title=[attempt.epoch.map(|epoch| format!("epoch {epoch}"))] { (position + 1) }
                            td title=[attempt.by.as_deref()] { (attempt.by.as_deref().map_or("–", holder)) }
                            td { (words::clock(attempt.from)) }
                            td .number { @match attempt.to { Some(to) => { (words::span(to.since(attempt.from))) } None => { "…" } } }
                            td .number { (attempt.steps) }
                            td {
                                @match &attempt.outcome {
                                    Some((kind, _)) => { @let (text, tone) = words::event(*kind); (pill(tone, text)) }
                                    None => { (pill(Tone::Active, "running")) }
                                }
                            }
                            td .text { @if let Some((_, Some(detail))) = &attempt.outcome { (words::beginning(detail, 200)) } }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lease_is_an_attempt_until_something_ends_it() {
        use TaskEventKind as Kind;
        let kinds = [
            Kind::Submitted,
            Kind::Leased,
            Kind::StepRecorded,
            Kind::LeaseLost,
            Kind::Available,
            Kind::Leased,
            Kind::StepRecorded,
            Kind::StepRecorded,
            Kind::Failed,
            Kind::Discarded,
            Kind::Leased,
        ];
        let log: Vec<TaskEvent> = kinds
            .into_iter()
            .enumerate()
            .map(|(n, kind)| TaskEvent {
                n: n as u64 + 1,
                at: Timestamp(n as u64 * 1_000),
                kind,
                epoch: None,
                detail: None,
            })
            .collect();
        let found = attempts(&log);
        let seen: Vec<_> = found
            .iter()
            .map(|it| (it.steps, it.outcome.as_ref().map(|(kind, _)| *kind)))
            .collect();
        assert_eq!(
            seen,
            [
                (1, Some(Kind::LeaseLost)),
                (2, Some(Kind::Failed)),
                (0, None)
            ]
        );
    }
}
