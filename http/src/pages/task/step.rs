//! `/tasks/{id}/steps/{key}`: one finished step, with what it was given and what came of it.

use maud::{Markup, html};
use regrow_runtime::ids::TaskId;

use super::{document, elsewhere, instant, none, panel, short, size};
use crate::error::{ApiError, Code};
use crate::pages::frame::Place;
use crate::pages::live::{Page, answer};
use crate::pages::visit::Visit;
use crate::pages::words;
use crate::params::{Params, StepPath};
use crate::routes::Answer;

/// `GET /tasks/{id}/steps/{key}`
pub(crate) async fn show(visit: Visit, StepPath(id, key): StepPath, params: Params) -> Answer {
    params.finish()?;
    answer(Step(id, key), visit).await
}

struct Step(TaskId, String);

impl Page for Step {
    const PLACE: Place = Place::Tasks;

    fn title(&self) -> String {
        format!("Step {}", words::beginning(&self.1, 40))
    }

    async fn draw(&self, visit: &Visit) -> Result<Markup, ApiError> {
        let Self(id, key) = self;
        let step = visit.state.queue.step_of(*id, key).await?;
        if step.is_none() && visit.state.queue.task(*id).await?.is_none() {
            return elsewhere(visit, *id).await;
        }
        let step = step.ok_or_else(|| {
            let detail =
                format!("task {id} has no finished step of this name; it may not be done yet");
            ApiError::new(Code::StepNotFound, detail)
        })?;
        let fact = |name: &str, value: Markup| html! { div { dt { (name) } dd { (value) } } };
        let facts = html! {
            dl .facts {
                (fact("Began", instant(step.started_at)))
                (fact("Finished", instant(step.finished_at)))
                (fact("Took", html! { (words::span(step.finished_at.since(step.started_at))) }))
                (fact("Lease epoch", html! { code { (step.epoch) } }))
                @if let Some(cost) = &step.cost {
                    (fact("Cost", html! { (words::money(cost.micros)) }))
                    (fact("Tokens", html! { (words::count(cost.tokens_in)) " read, " (words::count(cost.tokens_out)) " written" }))
                    (fact("Calls", html! { (words::count(cost.calls)) }))
                }
            }
        };
        Ok(html! {
            nav .trail aria-label="Where this is" {
                a href="/tasks" { "Tasks" } " / " a href=(format!("/tasks/{id}")) { (short(&id.to_string())) }
            }
            div .title { h1 { (key) } p .hint { "A step on record: it is answered from the record, and not run again." } }
            (panel("Facts", &none(), &facts))
            (panel("Input", &size(&step.input.json), &document(&step.input.json)))
            (panel("Output", &size(&step.output.json), &document(&step.output.json)))
        })
    }
}
