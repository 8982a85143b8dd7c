//! `/tasks`: the newest tasks, filtered and searched.
//!
//! A search looks through the newest [`LOOKED_MAX`] tasks and says how far it got: a page never
//! reads the whole of a store.

use std::time::Duration;

use maud::{Markup, html};
use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::TaskId;
use regrow_runtime::queue::task::{TaskState, TaskView, UnknownName};
use regrow_runtime::store::TaskFilter;

use super::frame::Place;
use super::live::{Page, answer};
use super::parts::{nothing, short, state, time};
use super::visit::Visit;
use super::words::{self, beginning, several};
use crate::error::{ApiError, Code};
use crate::params::Params;
use crate::routes::Answer;
use crate::state::ApiState;

/// Tasks on a page.
const PAGE: usize = 50;
/// Tasks read at once: payloads and results come along.
const READ_AT_ONCE: u32 = 25;
/// Tasks that one search looks at.
const LOOKED_MAX: usize = 1_000;
/// How long one search looks.
const PATIENCE: Duration = Duration::from_secs(2);

/// `GET /tasks`
pub(crate) async fn show(visit: Visit, mut params: Params) -> Answer {
    let given = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
    let query = given(params.text("q")).map(|text| text.trim().to_owned());
    let (state, kind) = (given(params.text("state")), given(params.text("kind")));
    let mut tasks = Tasks {
        kind,
        query,
        state: None,
        cursor: params.parsed("cursor"),
    };
    tasks.state = match state {
        Some(name) => Some(name.parse().map_err(|error: UnknownName| {
            ApiError::new(Code::InvalidParameter, format!("state: {error}"))
        })?),
        None => None,
    };
    params.finish()?;
    answer(tasks, visit).await
}

struct Tasks {
    state: Option<TaskState>,
    kind: Option<String>,
    query: Option<String>,
    cursor: Option<TaskId>,
}

/// What a look through the store found.
struct Found {
    tasks: Vec<TaskView>,
    /// From where to look on.
    next: Option<TaskId>,
    looked: usize,
}

impl Tasks {
    async fn find(&self, state: &ApiState) -> Result<Found, ApiError> {
        let mut filter = TaskFilter {
            state: self.state,
            kind: self.kind.clone(),
            before: self.cursor,
            limit: READ_AT_ONCE,
            ..TaskFilter::default()
        };
        let sought = self.query.as_ref().map(|query| query.to_lowercase());
        let began = tokio::time::Instant::now();
        let mut found = Found {
            tasks: Vec::new(),
            next: None,
            looked: 0,
        };
        // Whoever has the whole id is shown that task, however old it is.
        if let Some(Ok(id)) = self.query.as_ref().map(|query| query.parse())
            && let Some(view) = state.queue.task(id).await?
        {
            found.tasks.push(view);
            found.looked = 1;
            return Ok(found);
        }
        while found.tasks.len() <= PAGE && found.looked < LOOKED_MAX && began.elapsed() < PATIENCE {
            let read = state.queue.tasks(&filter).await?;
            let more = read.len() == READ_AT_ONCE as usize;
            filter.before = read.last().map(|view| view.body.id).or(filter.before);
            found.looked += read.len();
            let wanted = |view: &TaskView| sought.as_ref().is_none_or(|text| mentions(view, text));
            found.tasks.extend(read.into_iter().filter(wanted));
            found.next = filter.before.filter(|_| more);
            if !more {
                break;
            }
        }
        if PAGE < found.tasks.len() {
            found.tasks.truncate(PAGE);
            found.next = found.tasks.last().map(|view| view.body.id);
        }
        Ok(found)
    }

    fn is_filtered(&self) -> bool {
        self.state.is_some() || self.kind.is_some() || self.query.is_some()
    }

    fn link(&self, cursor: TaskId) -> String {
        let mut pairs = vec![format!("cursor={cursor}")];
        let given = [
            ("state", self.state.map(|state| state.as_str().to_owned())),
            ("kind", self.kind.clone()),
            ("q", self.query.clone()),
        ];
        for (name, value) in given {
            if let Some(value) = value {
                pairs.push(format!("{name}={}", escaped(&value)));
            }
        }
        format!("/tasks?{}", pairs.join("&"))
    }
}

fn mentions(view: &TaskView, text: &str) -> bool {
    let body = &view.body;
    let end = view.end.as_ref().and_then(|end| end.error.as_deref());
    let run = view.run.as_ref();
    let texts = [
        body.goal.as_deref(),
        Some(&*body.kind),
        Some(&*body.tenant),
        Some(&*body.class),
        body.idempotency_key.as_deref(),
        end,
        run.and_then(|run| run.last_error.as_deref()),
        run.and_then(|run| run.worker.as_deref()),
    ];
    let found = texts.into_iter().flatten();
    found.map(str::to_lowercase).any(|it| it.contains(text))
        || body.id.to_string().contains(text)
        || body.trace().trace_id().to_string() == text
}

/// A text as part of a query.
pub(crate) fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

impl Page for Tasks {
    const PLACE: Place = Place::Tasks;

    fn title(&self) -> String {
        "Tasks".to_owned()
    }

    async fn draw(&self, visit: &Visit) -> Result<Markup, ApiError> {
        let found = self.find(&visit.state).await?;
        Ok(html! {
            div .title { h1 { "Tasks" } }
            (self.form())
            @if found.tasks.is_empty() { (self.empty(&found)) } @else { (table(&found.tasks)) }
            (self.pager(&found))
        })
    }
}

impl Tasks {
    fn form(&self) -> Markup {
        html! {
            form #filter .filter method="get" action="/tasks" role="search" hx-morph-skip {
                label for="q" .unseen { "Search" }
                input #q name="q" type="search" value=[self.query.as_deref()] data-search maxlength="200"
                    placeholder="Goal, kind, tenant, worker, error or id";
                label for="state" .unseen { "State" }
                select #state name="state" data-submit {
                    option value="" { "every state" }
                    @for state in TaskState::ALL {
                        option value=(state) selected[self.state == Some(state)] { (words::state(state).0) }
                    }
                }
                label for="kind" .unseen { "Kind" }
                input #kind name="kind" value=[self.kind.as_deref()] placeholder="every kind" maxlength="64" size="14";
                button type="submit" { "Search" }
                @if self.is_filtered() { a .button href="/tasks" { "Show all" } }
            }
        }
    }

    fn empty(&self, found: &Found) -> Markup {
        if self.cursor.is_some() && !self.is_filtered() {
            return nothing(
                "There are no older tasks.",
                &html! { p { a href="/tasks" { "To the newest" } } },
            );
        }
        if self.is_filtered() {
            let then = html! {
                p {
                    "Looked at the newest " (several(found.looked as u64, "task", "tasks")) " that the filters let through. "
                    a href="/tasks" { "Show all tasks" }
                }
            };
            return nothing("No task is like that.", &then);
        }
        let then = html! {
            p { a href="/tasks/new" { "Submit one" } ", here or with " code { "regrow run \"audit the docs in .\"" } ", or " code { "POST /v1/tasks" } "." }
        };
        nothing("There is no task yet.", &then)
    }

    fn pager(&self, found: &Found) -> Markup {
        html! {
            div .pager {
                p .hint {
                    @if let Some(query) = &self.query {
                        "Looked through " (several(found.looked as u64, "task", "tasks"))
                        " for “" (beginning(query, 40)) "”, newest first."
                    } @else { "Newest first, " (found.tasks.len()) " on this page." }
                }
                @if self.cursor.is_some() { a .button href="/tasks" { "Newest" } }
                @if let Some(next) = found.next {
                    a .button rel="next" href=(self.link(next)) {
                        @if self.query.is_some() { "Look further back" } @else { "Older" }
                    }
                }
            }
        }
    }
}

fn table(tasks: &[TaskView]) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Tasks" {
            table .list {
                thead {
                    tr {
                        th { "State" } th { "Task" } th { "Kind" } th { "Lane" } th { "Tenant" }
                        th .number { "Attempt" } th { "Submitted" } th .number { "Took" } th { "Id" }
                    }
                }
                tbody {
                    @for view in tasks { (row(view)) }
                }
            }
        }
    }
}

fn row(view: &TaskView) -> Markup {
    let body = &view.body;
    let id = body.id.to_string();
    let (run, end) = (view.run.as_ref(), view.end.as_ref());
    let error = end.and_then(|end| end.error.as_deref());
    let error = error.or_else(|| run.and_then(|run| run.last_error.as_deref()));
    let attempt = end.map_or_else(|| run.map_or(0, |run| run.attempt), |end| end.attempt);
    let worker = run.and_then(|run| run.worker.as_deref());
    html! {
        tr #(format!("t-{id}")) {
            td { (state(view.state())) }
            td .text {
                a href=(format!("/tasks/{id}")) { (name(view)) }
                @if let Some(error) = error { br; span .error { (beginning(error, 120)) } }
                @else if let Some(worker) = worker { br; span .hint { "by " (worker) } }
            }
            td { (body.kind) }
            td { (body.priority.as_str()) }
            td { (body.tenant) }
            td .number { (attempt) " of " (body.max_attempts) }
            td { (time(body.submitted_at)) }
            td .number { (took(body.submitted_at, end.map(|end| end.finished_at))) }
            td .id title=(id) { (short(&id)) }
        }
    }
}

/// What a task is called: its goal, or else its kind and the beginning of its payload.
pub(crate) fn name(view: &TaskView) -> String {
    match view.body.goal.as_deref() {
        Some(goal) if !goal.trim().is_empty() => beginning(goal, 120),
        _ => {
            let payload = view.body.payload.as_str();
            match payload {
                "null" | "{}" => view.body.kind.to_string(),
                _ => format!("{} {}", view.body.kind, beginning(payload, 80)),
            }
        }
    }
}

fn took(from: Timestamp, to: Option<Timestamp>) -> String {
    to.map_or_else(|| "–".to_owned(), |to| words::span(to.since(from)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_follows_keeps_the_filters() {
        let cursor: TaskId = "0199a1b2-0000-7000-8000-000000000001"
            .parse()
            .expect("an id");
        let tasks = Tasks {
            state: Some(TaskState::Completed),
            kind: Some("a.b".into()),
            query: Some("50 % & more".into()),
            cursor: None,
        };
        assert_eq!(
            tasks.link(cursor),
            format!("/tasks?cursor={cursor}&state=completed&kind=a.b&q=50%20%25%20%26%20more")
        );
    }
}
