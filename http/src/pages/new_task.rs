//! `/tasks/new`: a form for one task. What is wrong with it the API says, beside each field.

use maud::{Markup, html};
use regrow_runtime::access::scope::Scope;
use regrow_runtime::queue::control::QueueStats;
use regrow_runtime::queue::task::Lane;

use super::frame::Place;
use super::live::{Page, answer};
use super::visit::Visit;
use super::words::{self, count, several};
use crate::error::ApiError;
use crate::params::Params;
use crate::routes::Answer;

/// `GET /tasks/new`
pub(crate) async fn show(visit: Visit, params: Params) -> Answer {
    params.finish()?;
    answer(NewTask, visit).await
}

struct NewTask;

impl Page for NewTask {
    const PLACE: Place = Place::NewTask;

    fn title(&self) -> String {
        "New task".to_owned()
    }

    async fn draw(&self, visit: &Visit) -> Result<Markup, ApiError> {
        let stats = visit.state.queue.stats();
        Ok(html! {
            div .title { h1 { "New task" } }
            (room(&stats))
            (form(visit.may(Scope::Submit)))
        })
    }
}

/// Whether there is room for one, as it stands now.
fn room(stats: &QueueStats) -> Markup {
    let free = stats.max_size.saturating_sub(stats.size);
    html! {
        div #room {
            @if stats.draining {
                p .told .bad { "The queue is draining: it accepts no task. " a href="/queue" { "Resume it" } " first." }
            } @else if free == 0 {
                p .told .bad {
                    "The queue is full: " (count(stats.size)) " of " (count(stats.max_size))
                    " places are taken. A task is refused until one ends, and told when to try again."
                }
            } @else if stats.paused {
                p .told .attention { "The queue is paused: a task is accepted, and waits until it is resumed." }
            } @else {
                p .hint { "There is room for " (several(free, "more task", "more tasks")) " (" (words::percent(stats.utilization())) " in use)." }
            }
        }
    }
}

fn field(name: &str, label: &str, help: &str, input: &Markup) -> Markup {
    html! {
        div .field {
            label for=(name) { (label) }
            (input)
            p .problem data-problem=(name) #(format!("{name}-problem")) {}
            @if !help.is_empty() { p .hint #(format!("{name}-help")) { (help) } }
        }
    }
}

fn form(may: bool) -> Markup {
    html! {
        form #new-task .panel .fields hx-morph-skip hx-post="/v1/tasks" hx-swap="none" data-then="/tasks/{id}" {
            (field("goal", "Goal", "What it is for, in words. A goal without a kind goes to the planner.", &html! {
                textarea #goal name="goal" rows="2" autofocus maxlength="4000" aria-describedby="goal-help goal-problem" {}
            }))
            div .columns {
                (field("kind", "Kind", "Which workers take it, such as translate; plan unless set.", &html! {
                    input #kind name="kind" maxlength="64" spellcheck="false" aria-describedby="kind-help kind-problem";
                }))
                (field("priority", "Lane", "", &html! {
                    select #priority name="priority" {
                        @for lane in Lane::ALL { option value=(lane.as_str()) selected[lane == Lane::Normal] { (lane.as_str()) } }
                    }
                }))
                (field("tenant", "Tenant", "On whose behalf; default unless set.", &html! {
                    input #tenant name="tenant" maxlength="64" spellcheck="false";
                }))
                (field("class", "Class", "For shares between kinds of work.", &html! {
                    input #class name="class" maxlength="64" spellcheck="false";
                }))
            }
            (field("payload", "Payload", "JSON, as its worker expects it.", &html! {
                textarea #payload .code name="payload" rows="5" data-as="json" spellcheck="false" aria-describedby="payload-help payload-problem" {}
            }))
            details {
                summary { "More: attempts, times, budget, limits" }
                div .columns {
                    (field("max_attempts", "Attempts", "Failed attempts until it is given up.", &html! {
                        input #max_attempts name="max_attempts" inputmode="numeric" data-as="number";
                    }))
                    (field("run_at", "Not before (UTC)", "", &html! {
                        input #run_at name="run_at" type="datetime-local" data-as="instant";
                    }))
                    (field("deadline_ms", "Deadline, in seconds", "Given up when it has not ended by then.", &html! {
                        input #deadline_ms name="deadline_ms" inputmode="decimal" data-as="seconds";
                    }))
                    (field("expires_ms", "Must start within, in seconds", "Given up when no worker started it by then.", &html! {
                        input #expires_ms name="expires_ms" inputmode="decimal" data-as="seconds";
                    }))
                    (field("budget.usd", "Budget, in dollars", "It and everything below it may spend so much.", &html! {
                        input id="budget.usd" name="budget.usd" inputmode="decimal" data-as="number";
                    }))
                    (field("budget.tokens", "Budget, in tokens", "", &html! {
                        input id="budget.tokens" name="budget.tokens" inputmode="numeric" data-as="number";
                    }))
                    (field("idempotency_key", "Idempotency key", "A second task with it is the first one.", &html! {
                        input #idempotency_key name="idempotency_key" maxlength="256" spellcheck="false";
                    }))
                    (field("concurrency_key", "Concurrency key", "Only so many of one key run at once.", &html! {
                        input #concurrency_key name="concurrency_key" maxlength="128" spellcheck="false";
                    }))
                    (field("depends_on", "Depends on", "Ids of tasks that have to complete first.", &html! {
                        input #depends_on name="depends_on" spellcheck="false" data-as="list";
                    }))
                    div .field {
                        label .choice {
                            input type="checkbox" name="requires_approval" value="true" data-as="flag";
                            " A person has to approve it first"
                        }
                    }
                }
            }
            p .problem role="alert" {}
            div .row {
                button .primary type="submit" disabled[!may] title=[(!may).then_some("Your token lacks the scope `submit`")] { "Submit" }
                a .button href="/tasks" { "Back to the tasks" }
            }
        }
    }
}
