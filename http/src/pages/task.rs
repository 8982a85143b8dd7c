//! `/tasks/{id}`: one task with all that is known of it, and what may be done about it.

mod attempts;
mod family;
mod orders;
pub(super) mod step;
mod steps;

use maud::{Markup, PreEscaped, html};
use regrow_runtime::ids::TaskId;
use regrow_runtime::json::Json;
use regrow_runtime::queue::approval::{ApprovalFilter, ApprovalRow, ApprovalState};
use regrow_runtime::queue::explain::Explained;
use regrow_runtime::queue::task::{TaskEvent, TaskState, TaskView};
use regrow_runtime::store::{StepRow, TaskFilter};
use regrow_runtime::telemetry::lines_of;
use tracing::Level;

use super::frame::Place;
use super::live::{Page, answer};
use super::parts::{instant, none, nothing, panel, pill, short, state, task_link, time};
use super::tasks::{holder, name};
use super::visit::Visit;
use super::words::{self, Tone, count, several};
use crate::error::ApiError;
use crate::output::Output;
use crate::params::{Params, TaskPath};
use crate::routes::Answer;
use crate::state::ApiState;

/// Steps that are drawn.
const STEPS_MAX: usize = 200;
/// Lines of the log that are shown: the last ones.
const LINES_MAX: u32 = 200;
/// Children that are shown.
const CHILDREN_MAX: usize = 200;
/// Bytes of a document that a page shows.
const DOCUMENT_BYTES_MAX: usize = 64 << 10;

/// `GET /tasks/{id}`
pub(crate) async fn show(visit: Visit, TaskPath(id): TaskPath, params: Params) -> Answer {
    params.finish()?;
    answer(Task(id), visit).await
}

struct Task(TaskId);

/// All that is read of a task.
struct Known {
    view: TaskView,
    steps: Vec<StepRow>,
    more_steps: bool,
    log: Vec<TaskEvent>,
    earlier_lines: u64,
    children: Vec<TaskView>,
    more_children: bool,
    question: Option<ApprovalRow>,
    why: Option<Explained>,
}

/// All of it; `None` if this node has no such task.
async fn known(state: &ApiState, id: TaskId) -> Result<Option<Known>, ApiError> {
    let queue = &state.queue;
    let Some(view) = queue.task(id).await? else {
        return Ok(None);
    };
    let lines = match (&view.end, &view.run) {
        (Some(end), _) => end.events,
        (None, Some(run)) => run.events,
        (None, None) => 0,
    };
    let after = lines.saturating_sub(u64::from(LINES_MAX));
    let open = ApprovalFilter {
        state: Some(ApprovalState::Open),
        task: Some(id),
        before: None,
        limit: 1,
    };
    let wanted = u32::try_from(STEPS_MAX + 1).unwrap_or(u32::MAX);
    let waits = view.state() == TaskState::AwaitingApproval;
    let (steps, log, children, question, why) = tokio::join!(
        queue.steps_of(id, None, wanted),
        queue.events(id, after, LINES_MAX * 2),
        children(state, id),
        async {
            match waits {
                true => queue.approvals(&open).await,
                false => Ok(Vec::new()),
            }
        },
        queue.why(id),
    );
    let mut steps = steps?.unwrap_or_default();
    let more_steps = STEPS_MAX < steps.len();
    steps.truncate(STEPS_MAX);
    let (children, more_children) = children?;
    Ok(Some(Known {
        view,
        steps,
        more_steps,
        log: log?,
        earlier_lines: after,
        children,
        more_children,
        question: question?.into_iter().next(),
        why: why?,
    }))
}

/// The same page of another node that has the task, as that node draws it.
async fn elsewhere(visit: &Visit, id: TaskId) -> Result<Markup, ApiError> {
    let unknown = || ApiError::no_task(id);
    if visit.relayed {
        return Err(unknown());
    }
    let caller = visit.caller()?;
    let drawn = crate::elsewhere::drawn(&visit.state, &caller, &visit.target).await?;
    let (node, content) = drawn.ok_or_else(unknown)?;
    Ok(html! {
        p .told { "This task is in the queue of node " b { (node) } ", which draws what follows. Orders go there." }
        (PreEscaped(content))
    })
}

/// The children of a task, oldest first, and whether some are left out: the newest are.
async fn children(state: &ApiState, parent: TaskId) -> Result<(Vec<TaskView>, bool), ApiError> {
    let mut filter = TaskFilter {
        parent: Some(parent),
        limit: 25,
        ..TaskFilter::default()
    };
    let mut children: Vec<TaskView> = Vec::new();
    loop {
        let read = state.queue.tasks(&filter).await?;
        let more = read.len() == filter.limit as usize;
        filter.before = read.last().map(|view| view.body.id).or(filter.before);
        children.extend(read);
        if !more || CHILDREN_MAX <= children.len() {
            children.reverse();
            return Ok((children, more));
        }
    }
}

impl Page for Task {
    const PLACE: Place = Place::Tasks;

    fn title(&self) -> String {
        format!("Task {}", short(&self.0.to_string()))
    }

    async fn draw(&self, visit: &Visit) -> Result<Markup, ApiError> {
        let Some(known) = known(&visit.state, self.0).await? else {
            return elsewhere(visit, self.0).await;
        };
        let view = &known.view;
        let context = visit.state.context.get(self.0);
        let end = view.end.as_ref();
        Ok(html! {
            nav .trail aria-label="Where this is" {
                a href="/tasks" { "Tasks" }
                @if let Some(parent) = view.body.parent { " / " a href=(format!("/tasks/{parent}")) { "its parent" } }
            }
            div .title {
                h1 { (name(view)) }
                p .row { (state(view.state())) span .hint { (view.body.kind) " · " code { (self.0) } } }
            }
            (orders::orders(visit, view))
            @if let Some(question) = &known.question { (orders::question(visit, question)) }
            (why(&known))
            @if let Some(error) = end.and_then(|end| end.error.as_deref()) {
                (panel("Why it ended", &none(), &html! { pre .document .error { (error) } }))
            }
            @if let Some(result) = end.and_then(|end| end.result.as_ref()) {
                (panel("Result", &size(result), &document(result)))
            }
            @if let Some(output) = visit.state.outputs.of(self.0) {
                (panel("Output", &output_size(&output), &html! { pre .document tabindex="0" { (output.text) } }))
            }
            (panel("Facts", &none(), &facts(&known)))
            @if !known.children.is_empty() {
                (panel("Children", &told(known.children.len(), known.more_children, "child", "children"),
                    &family::graph(&known.children)))
            }
            (panel("Steps", &steps::summary(&known.steps, known.more_steps), &steps::waterfall(self.0, view, &known.steps)))
            (panel("Attempts", &none(), &attempts::table(&known.log)))
            @if let Some(context) = context {
                @if let Ok(notes) = Json::of(&*context) {
                    (panel("Notes of the agents", &html! { span .hint { "changed " (time(context.updated_at)) } }, &document(&notes)))
                }
            }
            @if view.body.payload.as_str() != "null" {
                (panel("Payload", &size(&view.body.payload), &document(&view.body.payload)))
            }
            (panel("What happened to it", &log_size(&known), &log(&known)))
            (panel("Log lines", &html! { span .hint { "of node " (visit.state.node) ", the last first" } }, &lines(self.0)))
        })
    }
}

fn told(shown: usize, more: bool, one: &str, many: &str) -> Markup {
    html! { span .hint { (several(shown as u64, one, many)) @if more { ", the newest are left out" } } }
}

fn why(known: &Known) -> Markup {
    if known.view.end.is_some() {
        return none();
    }
    let texts: Vec<String> = match &known.why {
        Some(Explained::Here(explanation)) => explanation
            .reasons
            .iter()
            .map(|reason| reason.text.clone())
            .collect(),
        Some(Explained::There(json)) => there(json),
        None => Vec::new(),
    };
    let content = html! {
        @if texts.is_empty() { p { "Nothing keeps it: the next worker that asks gets it." } }
        @else { ul .reasons { @for text in &texts { li { (with_links(text)) } } } }
    };
    panel("Why it stands where it does", &none(), &content)
}

/// A text in which ids of tasks are ways to them.
fn with_links(text: &str) -> Markup {
    html! {
        @for (position, word) in text.split(' ').enumerate() {
            @if 0 < position { " " }
            @let bare = word.trim_end_matches([',', ';', '.', ':', ')']);
            @match bare.parse::<TaskId>() {
                Ok(id) => { (task_link(id)) (word[bare.len()..]) }
                Err(_) => { (word) }
            }
        }
    }
}

/// The reasons that another node gave, as it wrote them down.
fn there(json: &Json) -> Vec<String> {
    let told: serde_json::Value = json.decode().unwrap_or_default();
    let reasons = told["reasons"].as_array().cloned().unwrap_or_default();
    let texts = reasons.iter().filter_map(|reason| reason["text"].as_str());
    texts.map(str::to_owned).collect()
}

fn facts(known: &Known) -> Markup {
    let view = &known.view;
    let body = &view.body;
    let (run, end) = (
        view.run.as_ref().filter(|_| view.end.is_none()),
        view.end.as_ref(),
    );
    let attempt = end.map_or_else(|| run.map_or(0, |run| run.attempt), |end| end.attempt);
    let losses = end.map_or_else(|| run.map_or(0, |run| run.losses), |end| end.losses);
    let epoch = end.map_or_else(|| run.map(|run| run.epoch), |end| Some(end.epoch));
    let terms = body.terms.as_deref();
    let fact = |name: &str, value: Markup| html! { div { dt { (name) } dd { (value) } } };
    html! {
        dl .facts {
            (fact("Submitted", instant(body.submitted_at)))
            @if let Some(end) = end {
                (fact("Ended", instant(end.finished_at)))
                (fact("Took", html! { (words::span(end.finished_at.since(body.submitted_at))) }))
            }
            (fact("Attempts", html! { (attempt) " of " (body.max_attempts) }))
            @if 0 < losses { (fact("Leases lost", html! { (losses) })) }
            @if let Some(epoch) = epoch { (fact("Lease epoch", html! { code { (epoch) } })) }
            @if let Some(worker) = run.and_then(|run| run.worker.as_deref()) { (fact("Worker", html! { span title=(worker) { (holder(worker)) } })) }
            @if let Some(until) = run.and_then(|run| run.lease_until) { (fact("Lease until", instant(until))) }
            @if let Some(run) = run.filter(|_| view.state() != TaskState::Executing) { (fact("Not before", instant(run.run_at))) }
            (fact("Lane", html! { (body.priority.as_str()) }))
            (fact("Class", html! { (body.class) }))
            (fact("Tenant", html! { (body.tenant) }))
            @if let Some(deadline) = body.deadline { (fact("Deadline", instant(deadline))) }
            @if let Some(at) = terms.and_then(|terms| terms.expires_at) { (fact("Must start by", instant(at))) }
            @if let Some(key) = &body.idempotency_key { (fact("Idempotency key", html! { code { (key) } })) }
            @if let Some(key) = terms.and_then(|terms| terms.concurrency_key.as_ref()) { (fact("Concurrency key", html! { code { (key) } })) }
            @if let Some(key) = terms.and_then(|terms| terms.rate_key.as_ref()) { (fact("Rate key", html! { code { (key) } })) }
            @if let Some(needs) = terms.map(|terms| &terms.needs).filter(|needs| !needs.is_empty()) {
                (fact("Needs", html! { @for (name, units) in needs { (units) " of " (name) " " } }))
            }
            @if let Some(budget) = terms.and_then(|terms| terms.budget) {
                (fact("Budget", html! {
                    @if let Some(micros) = budget.micros { (words::money(micros)) " " }
                    @if let Some(tokens) = budget.tokens { (count(tokens)) " tokens " }
                    @if let Some(calls) = budget.calls { (count(calls)) " calls " }
                    @if let Some(millis) = budget.millis { (words::millis(millis)) }
                }))
            }
            (fact("Spent on steps", steps::cost(&known.steps)))
            @if !body.depends_on.is_empty() {
                (fact("Depends on", html! { @for id in &body.depends_on { (task_link(*id)) " " } }))
            }
            (fact("Trace", html! { code { (body.trace().trace_id()) } }))
        }
    }
}

fn size(json: &Json) -> Markup {
    html! { span .hint { (words::bytes(json.bytes() as u64)) } }
}

fn output_size(output: &Output) -> Markup {
    html! {
        span .hint {
            "as its worker wrote it under epoch " (output.epoch)
            @if 0 < output.left_out { "; the " (words::bytes(output.left_out as u64)) " before it are not kept" }
        }
    }
}

/// A document, set out for reading.
pub(super) fn document(json: &Json) -> Markup {
    let text = json.as_str();
    if DOCUMENT_BYTES_MAX < text.len() {
        let mut end = DOCUMENT_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        return html! {
            pre .document tabindex="0" { (text[..end]) }
            p .hint { "The first " (words::bytes(end as u64)) " of " (words::bytes(text.len() as u64)) "; the API has the rest." }
        };
    }
    let value: Option<serde_json::Value> = json.decode().ok();
    let pretty = match &value {
        // Text is shown as it reads.
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(value) => serde_json::to_string_pretty(value).unwrap_or_else(|_| text.to_owned()),
        None => text.to_owned(),
    };
    html! { pre .document tabindex="0" { (pretty) } }
}

fn log_size(known: &Known) -> Markup {
    html! {
        span .hint {
            (several(known.log.len() as u64, "line", "lines"))
            @if 0 < known.earlier_lines { ", " (count(known.earlier_lines)) " earlier ones are not shown" }
        }
    }
}

fn log(known: &Known) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Log" {
            table .list {
                thead { tr { th .number { "Line" } th { "When (UTC)" } th { "What" } th { "Detail" } th .number { "Epoch" } } }
                tbody {
                    @for event in known.log.iter().rev() {
                        @let (text, tone) = words::event(event.kind);
                        tr {
                            td .number { (event.n) }
                            td { time datetime=(event.at) title=(event.at) { (words::clock(event.at)) } }
                            td { (pill(tone, text)) }
                            td .text { (event.detail.as_deref().unwrap_or("")) }
                            td .number { @if let Some(epoch) = event.epoch { (epoch) } }
                        }
                    }
                }
            }
        }
    }
}

/// What the node's own log says of it.
fn lines(task: TaskId) -> Markup {
    let lines = lines_of(task);
    if lines.is_empty() {
        let then = html! { p { "Those of the node's own agents are kept in memory for a while; a worker elsewhere logs where it runs." } };
        return nothing("No line of this node's log is about it.", &then);
    }
    html! {
        div .scroll tabindex="0" role="region" aria-label="Log lines" {
            table .list {
                thead { tr { th { "When (UTC)" } th { "Level" } th { "Line" } } }
                tbody {
                    @for line in lines.iter().rev() {
                        @let (text, tone) = match line.level {
                            Level::ERROR => ("error", Tone::Bad),
                            Level::WARN => ("warn", Tone::Attention),
                            Level::INFO => ("info", Tone::Calm),
                            Level::DEBUG | Level::TRACE => ("debug", Tone::Quiet),
                        };
                        tr {
                            td { time datetime=(line.at) title=(line.at) { (words::clock(line.at)) } }
                            td { (pill(tone, text)) }
                            td .text { code { (line.text) } }
                        }
                    }
                }
            }
        }
    }
}

/// Nothing but a number as an attribute of SVG.
fn at(number: f64) -> PreEscaped<String> {
    PreEscaped(format!("{number:.2}"))
}
