//! `/tasks`: the newest tasks of all nodes, filtered and searched.
//!
//! A search looks through the newest [`LOOKED_MAX`] tasks of each node and says how far it got: a
//! page never reads the whole of a store. Nodes that share no database are asked for the same page,
//! as data, and the answers are merged.

use std::collections::BTreeMap;
use std::time::Duration;

use maud::{Markup, html};
use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::TaskId;
use regrow_runtime::queue::task::{TaskState, TaskView, UnknownName};
use regrow_runtime::store::TaskFilter;
use serde::{Deserialize, Serialize};

use super::frame::Place;
use super::live::{Page, answer};
use super::parts::{nothing, short, state, time};
use super::visit::Visit;
use super::words::{self, beginning, several};
use crate::elsewhere;
use crate::error::{ApiError, Code};
use crate::params::Params;
use crate::routes::{Answer, ok};
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
    if visit.relayed {
        return ok(&tasks.find(&visit.state).await?);
    }
    answer(tasks, visit).await
}

struct Tasks {
    state: Option<TaskState>,
    kind: Option<String>,
    query: Option<String>,
    cursor: Option<TaskId>,
}

/// A task as the list shows it, wherever it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    id: TaskId,
    state: TaskState,
    name: String,
    kind: String,
    lane: String,
    tenant: String,
    attempt: u32,
    max_attempts: u32,
    submitted_at: Timestamp,
    finished_at: Option<Timestamp>,
    error: Option<String>,
    worker: Option<String>,
    /// The node that has it, where each has a list of its own.
    #[serde(default)]
    node: Option<String>,
}

impl From<&TaskView> for Row {
    fn from(view: &TaskView) -> Self {
        let (body, run, end) = (&view.body, view.run.as_ref(), view.end.as_ref());
        let error = end.and_then(|end| end.error.as_deref());
        let error = error.or_else(|| run.and_then(|run| run.last_error.as_deref()));
        let worker = run.and_then(|run| run.worker.as_deref());
        Self {
            id: body.id,
            state: view.state(),
            name: name(view),
            kind: body.kind.to_string(),
            lane: body.priority.as_str().to_owned(),
            tenant: body.tenant.to_string(),
            attempt: end.map_or_else(|| run.map_or(0, |run| run.attempt), |end| end.attempt),
            max_attempts: body.max_attempts,
            submitted_at: body.submitted_at,
            finished_at: end.map(|end| end.finished_at),
            error: error.map(|error| beginning(error, 120)),
            worker: worker.map(|worker| holder(worker).to_owned()),
            node: None,
        }
    }
}

/// What a look through the tasks found, newest first.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Found {
    tasks: Vec<Row>,
    /// From where to look on: every task that is newer was looked at.
    next: Option<TaskId>,
    looked: usize,
}

/// One page of what several nodes found. Where one of them looks on, nothing older of the others
/// is shown: what that one has there may be newer.
fn merged(parts: Vec<Found>) -> Found {
    let horizon = parts.iter().filter_map(|part| part.next).max();
    let mut all = Found {
        next: horizon,
        looked: parts.iter().map(|part| part.looked).sum(),
        tasks: parts.into_iter().flat_map(|part| part.tasks).collect(),
    };
    all.tasks
        .retain(|row| horizon.is_none_or(|horizon| horizon <= row.id));
    all.tasks.sort_by_key(|row| std::cmp::Reverse(row.id));
    all.tasks.dedup_by_key(|row| row.id);
    if PAGE < all.tasks.len() {
        all.tasks.truncate(PAGE);
        all.next = all.tasks.last().map(|row| row.id);
    }
    all
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
        let mut found = Found::default();
        // Whoever has the whole id is shown that task, however old it is.
        if let Some(Ok(id)) = self.query.as_ref().map(|query| query.parse())
            && let Some(view) = state.queue.task(id).await?
        {
            found.tasks.push(Row::from(&view));
            found.looked = 1;
            return Ok(found);
        }
        while found.tasks.len() <= PAGE && found.looked < LOOKED_MAX && began.elapsed() < PATIENCE {
            let read = state.queue.tasks(&filter).await?;
            let more = read.len() == READ_AT_ONCE as usize;
            filter.before = read.last().map(|view| view.body.id).or(filter.before);
            found.looked += read.len();
            let wanted = |view: &TaskView| sought.as_ref().is_none_or(|text| mentions(view, text));
            let wanted = read.iter().filter(|view| wanted(view));
            found.tasks.extend(wanted.map(Row::from));
            found.next = filter.before.filter(|_| more);
            if !more {
                break;
            }
        }
        if PAGE < found.tasks.len() {
            found.tasks.truncate(PAGE);
            found.next = found.tasks.last().map(|row| row.id);
        }
        Ok(found)
    }

    /// What all nodes find, and why of some nothing is known.
    async fn find_everywhere(
        &self,
        visit: &Visit,
    ) -> Result<(Found, BTreeMap<String, String>), ApiError> {
        let state = &visit.state;
        let mut unknown = BTreeMap::new();
        if state.queue.is_shared() || state.nodes.others().is_empty() {
            return Ok((self.find(state).await?, unknown));
        }
        let caller = visit.caller()?;
        let target = self.link(self.cursor);
        let (here, there) = tokio::join!(
            self.find(state),
            elsewhere::gathered(state, &caller, &target)
        );
        let mut parts = vec![(state.node.clone(), here?)];
        for (node, said) in there {
            let found = said.and_then(|said| {
                let found: Result<Found, _> = serde_json::from_value(said);
                found.map_err(|error| error.to_string())
            });
            match found {
                Ok(found) => parts.push((node, found)),
                Err(why) => drop(unknown.insert(node, why)),
            }
        }
        let parts = parts.into_iter().map(|(node, mut found)| {
            for row in &mut found.tasks {
                row.node = Some(node.clone());
            }
            found
        });
        Ok((merged(parts.collect()), unknown))
    }

    fn is_filtered(&self) -> bool {
        self.state.is_some() || self.kind.is_some() || self.query.is_some()
    }

    fn link(&self, cursor: Option<TaskId>) -> String {
        let mut pairs = Vec::new();
        let given = [
            ("cursor", cursor.map(|cursor| cursor.to_string())),
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
        let (found, unknown) = self.find_everywhere(visit).await?;
        Ok(html! {
            div .title { h1 { "Tasks" } }
            (self.form())
            @for (node, why) in &unknown {
                p .told .attention { "Tasks of " b { (node) } " are missing here: " (why) "." }
            }
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
                    a .button rel="next" href=(self.link(Some(next))) {
                        @if self.query.is_some() { "Look further back" } @else { "Older" }
                    }
                }
            }
        }
    }
}

fn table(tasks: &[Row]) -> Markup {
    let with_nodes = tasks.iter().any(|row| row.node.is_some());
    html! {
        div .scroll tabindex="0" role="region" aria-label="Tasks" {
            table .list {
                thead {
                    tr {
                        th { "State" } th { "Task" } th { "Kind" } th { "Lane" } th { "Tenant" }
                        @if with_nodes { th { "Node" } }
                        th .number { "Attempt" } th { "Submitted" } th .number { "Took" } th { "Id" }
                    }
                }
                tbody {
                    @for row in tasks { (line(row, with_nodes)) }
                }
            }
        }
    }
}

fn line(row: &Row, with_nodes: bool) -> Markup {
    let id = row.id.to_string();
    html! {
        tr #(format!("t-{id}")) {
            td { (state(row.state)) }
            td .text {
                a href=(format!("/tasks/{id}")) { (row.name) }
                @if let Some(error) = &row.error { br; span .error { (error) } }
                @else if let Some(worker) = &row.worker { br; span .hint { "by " (worker) } }
            }
            td { (row.kind) }
            td { (row.lane) }
            td { (row.tenant) }
            @if with_nodes { td { (row.node.as_deref().unwrap_or("–")) } }
            td .number { (row.attempt) " of " (row.max_attempts) }
            td { (time(row.submitted_at)) }
            td .number { (took(row.submitted_at, row.finished_at)) }
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

/// The agent's name, without the life that holds the lease.
pub(crate) fn holder(worker: &str) -> &str {
    worker.split_once('#').map_or(worker, |(name, _)| name)
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
            tasks.link(Some(cursor)),
            format!("/tasks?cursor={cursor}&state=completed&kind=a.b&q=50%20%25%20%26%20more")
        );
    }

    fn row(id: TaskId) -> Row {
        Row {
            id,
            state: TaskState::Available,
            name: String::new(),
            kind: String::new(),
            lane: String::new(),
            tenant: String::new(),
            attempt: 0,
            max_attempts: 1,
            submitted_at: Timestamp(0),
            finished_at: None,
            error: None,
            worker: None,
            node: None,
        }
    }

    #[test]
    fn page_by_page_the_tasks_of_all_nodes_are_shown_once_and_newest_first() {
        let mut all: Vec<TaskId> = (0..400).map(|_| TaskId::fresh()).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        // Unevenly; and a look ends after so many, found or not: a search finds each third.
        for (looked_max, sought) in [(60, 1), (60, 3), (7, 3)] {
            let find = |node: usize, before: Option<TaskId>| {
                let own = all.iter().enumerate();
                let own = own.filter(|(at, _)| usize::from(at % 7 < 2) == node);
                let left = own.filter(|(_, id)| before.is_none_or(|before| **id < before));
                let left: Vec<_> = left.collect();
                let seen = &left[..left.len().min(looked_max)];
                let mut found = Found {
                    tasks: seen
                        .iter()
                        .filter(|(at, _)| at % sought == 0)
                        .map(|(_, id)| row(**id))
                        .collect(),
                    next: seen.last().map(|(_, id)| **id),
                    looked: seen.len(),
                };
                if seen.len() == left.len() {
                    found.next = None;
                }
                if PAGE < found.tasks.len() {
                    found.tasks.truncate(PAGE);
                    found.next = found.tasks.last().map(|row| row.id);
                }
                found
            };
            let (mut cursor, mut shown) = (None, Vec::new());
            for page in 0.. {
                assert!(page < 400, "it does not end");
                let found = merged((0..3).map(|node| find(node, cursor)).collect());
                assert!(found.tasks.len() <= PAGE);
                shown.extend(found.tasks.iter().map(|row| row.id));
                cursor = found.next;
                if cursor.is_none() {
                    break;
                }
            }
            let wanted = all.iter().enumerate().filter(|(at, _)| at % sought == 0);
            let wanted: Vec<TaskId> = wanted.map(|(_, id)| *id).collect();
            assert_eq!(
                shown, wanted,
                "{looked_max} looked at, each {sought}th sought"
            );
        }
    }
}
