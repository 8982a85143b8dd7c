//! What may be done about a task: the same orders that the API takes.

use maud::{Markup, html};
use regrow_runtime::access::scope::Scope;
use regrow_runtime::queue::approval::{ApprovalRow, Reason};
use regrow_runtime::queue::task::{TaskState, TaskView};

use crate::pages::parts::{NEEDS_OPERATE, Order, time};
use crate::pages::visit::Visit;

/// The buttons.
pub(super) fn orders(visit: &Visit, view: &TaskView) -> Markup {
    let id = view.body.id;
    let state = view.state();
    let barred = (!visit.may(Scope::Operate)).then_some(NEEDS_OPERATE);
    let asked = view.run.as_ref().is_some_and(|run| run.cancel_requested);
    let cancel = Order {
        text: "Cancel",
        to: &format!("/v1/tasks/{id}/cancel"),
        with: "",
        question: Some(if state == TaskState::Executing {
            "Cancel this task? Its worker is asked to stop; what it has recorded stays."
        } else {
            "Cancel this task? It will not run, and what depends on it is cancelled as well."
        }),
        done: "Cancel asked for",
        barred: barred.or(match (state.is_terminal(), asked) {
            (true, _) => Some("It has ended"),
            (false, true) => Some("Its worker was asked to stop already"),
            (false, false) => None,
        }),
    };
    let given_up = matches!(state, TaskState::Discarded | TaskState::Cancelled);
    let retry = Order {
        text: "Try again",
        to: &format!("/v1/tasks/{id}/retry"),
        with: "",
        question: None,
        done: "It is tried again, with all its attempts",
        barred: barred
            .or((!given_up).then_some("Only what was given up or cancelled can be tried again")),
    };
    let part = Order {
        text: "Try what failed below",
        to: &format!("/v1/tasks/{id}/retry?part=true"),
        with: "",
        question: None,
        done: "What did not complete is tried again",
        barred: barred.or((!given_up && state != TaskState::Waiting)
            .then_some("Only where something below it did not complete")),
    };
    html! { div .orders { (cancel.button()) (retry.button()) (part.button()) } }
}

/// The question that it waits for, and the ways to answer.
pub(super) fn question(visit: &Visit, row: &ApprovalRow) -> Markup {
    let question = &row.request.question;
    let barred = (!visit.may(Scope::Operate)).then_some(NEEDS_OPERATE);
    let by = visit.answerer();
    let what = match &row.request.reason {
        Reason::Start => "It may not start without consent",
        Reason::Ask { .. } => "Its worker asks",
        Reason::Budget { .. } => "It needs more than its budget has",
    };
    html! {
        section .panel .question aria-label="A question" {
            header { h2 { (what) } span .hint { "asked " (time(row.asked_at)) } }
            p .lead { (question.question) }
            @if let Some(scope) = &question.scope { p { "A yes would allow: " b { (scope) } } }
            form .stack hx-morph-skip hx-post=(format!("/v1/approvals/{}", row.id)) hx-swap="none" data-done="Answered" {
                input type="hidden" name="by" value=(by);
                @if !question.options.is_empty() {
                    fieldset {
                        legend { "Answer" }
                        @for (position, option) in question.options.iter().enumerate() {
                            label .choice {
                                input type="radio" name="choice" value=(option) checked[position == 0];
                                " " (option)
                            }
                        }
                    }
                }
                label for="note" { "Why (optional)" }
                input #note name="note" maxlength="500";
                p .problem role="alert" {}
                div .row {
                    button .primary name="decision" value="approve" disabled[barred.is_some()] title=[barred] { "Approve" }
                    button .danger name="decision" value="deny" disabled[barred.is_some()] title=[barred] { "Deny" }
                }
            }
            @if let Some(expires) = row.expires_at {
                p .hint { "Counts as denied unless answered by " (super::instant(expires)) "." }
            }
        }
    }
}
