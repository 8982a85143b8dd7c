//! `/events`: what happens, as it happens.
//!
//! The bus is watched while somebody looks, and for a moment longer: preparing events costs the
//! queue something, and costs nothing while nobody does. Of very many those are shown that came
//! last, and the others counted. What is durable is in the tasks' logs.

use std::collections::VecDeque;
use std::time::Duration;

use maud::{Markup, html};
use parking_lot::Mutex;
use regrow_runtime::clock::Timestamp;
use regrow_runtime::events::Event;
use regrow_runtime::queue::task::TaskEventKind;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::frame::Place;
use super::live::{Page, answer};
use super::parts::{nothing, pill, task_link};
use super::visit::Visit;
use super::words::{self, Tone, beginning, count};
use crate::error::{ApiError, Code};
use crate::params::Params;
use crate::routes::Answer;
use crate::state::ApiState;

/// Events of each sort that are kept.
const KEPT_MAX: usize = 300;
/// Events that are taken from the bus within a period; more are counted.
const TAKEN_MAX: usize = 200;
/// That period.
const PERIOD: Duration = Duration::from_millis(500);
/// How long watching goes on after the last look.
const PATIENCE: Duration = Duration::from_secs(20);
/// Lines on the page.
const SHOWN_MAX: usize = 200;

/// What was seen of late.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    seen: Mutex<Seen>,
    looked: Notify,
}

#[derive(Debug, Default)]
struct Seen {
    tasks: VecDeque<Event>,
    runtime: VecDeque<Event>,
    since: Option<Timestamp>,
    missed: u64,
    looked_at: Option<Instant>,
}

impl Recent {
    /// Watches while somebody looks, for as long as it is polled.
    pub(crate) async fn keep(state: ApiState) {
        let recent = &state.pages.recent;
        loop {
            recent.looked.notified().await;
            let mut bus = state.queue.events_bus().subscribe();
            recent.seen.lock().since = Some(state.queue.clock().now());
            let mut pause = tokio::time::interval(PERIOD);
            while recent.is_watched() {
                pause.tick().await;
                for _ in 0..TAKEN_MAX {
                    let Ok(next) = tokio::time::timeout(Duration::ZERO, bus.next()).await else {
                        break;
                    };
                    match next {
                        Some(event) => recent.add(event),
                        None => return,
                    }
                }
                recent.seen.lock().missed = bus.dropped();
            }
            *recent.seen.lock() = Seen::default();
        }
    }

    fn add(&self, event: Event) {
        let mut seen = self.seen.lock();
        // What happens often must not drive out what is rare.
        let kept = match &event {
            Event::Task { .. } => &mut seen.tasks,
            Event::Runtime { .. } => &mut seen.runtime,
        };
        if KEPT_MAX <= kept.len() {
            kept.pop_front();
        }
        kept.push_back(event);
    }

    fn is_watched(&self) -> bool {
        let at = self.seen.lock().looked_at;
        at.is_some_and(|at| at.elapsed() < PATIENCE)
    }

    /// Somebody looks.
    fn look(&self, page: &Events) -> (Vec<Event>, Option<Timestamp>, u64) {
        let mut seen = self.seen.lock();
        let is_new = seen.looked_at.is_none();
        seen.looked_at = Some(Instant::now());
        let tasks = seen.tasks.iter().filter(|_| page.tasks);
        let runtime = seen.runtime.iter().filter(|_| page.runtime);
        let wanted = tasks.chain(runtime).filter(|event| page.wants(event));
        let looked = (wanted.cloned().collect(), seen.since, seen.missed);
        drop(seen);
        if is_new {
            self.looked.notify_one();
        }
        looked
    }
}

/// `GET /events`
pub(crate) async fn show(visit: Visit, mut params: Params) -> Answer {
    let given = |text: Option<String>| {
        text.map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
    };
    let of = given(params.text("of"));
    let page = Events {
        query: given(params.text("q")),
        tasks: !matches!(of.as_deref(), Some("runtime")),
        runtime: !matches!(of.as_deref(), Some("tasks")),
    };
    params.finish()?;
    if !matches!(of.as_deref(), None | Some("runtime" | "tasks")) {
        let detail = "of must be `tasks` or `runtime`, or be left out";
        return Err(ApiError::new(Code::InvalidParameter, detail));
    }
    answer(page, visit).await
}

struct Events {
    query: Option<String>,
    tasks: bool,
    runtime: bool,
}

impl Page for Events {
    const PLACE: Place = Place::Events;

    fn title(&self) -> String {
        "Events".to_owned()
    }

    async fn draw(&self, visit: &Visit) -> Result<Markup, ApiError> {
        let (mut events, since, missed) = visit.state.pages.recent.look(self);
        events.sort_by_key(|event| std::cmp::Reverse(at(event)));
        events.truncate(SHOWN_MAX);
        Ok(html! {
            div .title { h1 { "Events" } p .lead { "What happens on this node, the newest first." } }
            (self.form())
            p .hint {
                @if let Some(since) = since { "Watched since " (words::clock(since)) " UTC, because somebody looks; " }
                @if 0 < missed { (count(missed)) " events were too many to show; " }
                "what happened to a task before is in its log, and how a child ended last in the " a href="/tree" { "tree" } "."
            }
            @if events.is_empty() {
                @if self.query.is_none() && self.tasks && self.runtime {
                    (nothing("Nothing has happened since.", &html! { p { "What happens appears here by itself." } }))
                } @else {
                    (nothing("Nothing has happened yet that is like that.", &html! { p { "It appears here by itself; " a href="/events" { "show all" } "." } }))
                }
            } @else { (table(&events)) }
        })
    }
}

fn at(event: &Event) -> Timestamp {
    match event {
        Event::Task { event, .. } => event.at,
        Event::Runtime { at, .. } => *at,
    }
}

impl Events {
    fn wants(&self, event: &Event) -> bool {
        let Some(sought) = self.query.as_ref().map(|query| query.to_lowercase()) else {
            return true;
        };
        let has = |text: &str| text.to_lowercase().contains(&sought);
        match event {
            Event::Task { id, event } => {
                has(&id.to_string())
                    || has(event.kind.as_str())
                    || has(words::event(event.kind).0)
                    || event.detail.as_deref().is_some_and(has)
            }
            Event::Runtime {
                subject,
                what,
                detail,
                ..
            } => has(subject) || has(what) || has(detail),
        }
    }

    fn form(&self) -> Markup {
        let of = match (self.tasks, self.runtime) {
            (true, false) => "tasks",
            (false, _) => "runtime",
            (true, true) => "",
        };
        html! {
            form #filter .filter method="get" action="/events" role="search" hx-morph-skip {
                label for="q" .unseen { "Search" }
                input #q name="q" type="search" value=[self.query.as_deref()] data-search maxlength="100" placeholder="Task, child, node, what happened";
                label for="of" .unseen { "Of what" }
                select #of name="of" data-submit {
                    @for (value, text) in [("", "tasks and runtime"), ("tasks", "tasks"), ("runtime", "agents, children and nodes")] {
                        option value=(value) selected[of == value] { (text) }
                    }
                }
                button type="submit" { "Search" }
            }
        }
    }
}

/// How something in the runtime is said.
fn happened(what: &str) -> (String, Tone) {
    let tone = match what {
        "child_started" => Tone::Calm,
        "child_restarted" => Tone::Good,
        "child_exited" => Tone::Attention,
        "child_start_failed" | "child_abandoned" | "supervisor_gave_up" | "node_quarantined" => {
            Tone::Bad
        }
        _ => Tone::Active,
    };
    (what.replace('_', " "), tone)
}

fn table(events: &[Event]) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Events" {
            table .list {
                thead { tr { th { "When (UTC)" } th { "What" } th { "Who" } th { "Detail" } } }
                tbody {
                    @for event in events {
                        @match event {
                            Event::Task { id, event } => {
                                @let (text, tone) = words::event(event.kind);
                                tr #(format!("e-{id}-{}", event.n)) .fresh[event.kind == TaskEventKind::Failed] {
                                    td { time datetime=(event.at) title=(event.at) { (words::clock(event.at)) } }
                                    td { (pill(tone, text)) }
                                    td { "task " (task_link(*id)) }
                                    td .text { (beginning(event.detail.as_deref().unwrap_or(""), 160)) }
                                }
                            }
                            Event::Runtime { at, subject, what, detail } => {
                                @let (text, tone) = happened(what);
                                tr {
                                    td { time datetime=(at) title=(at) { (words::clock(*at)) } }
                                    td { (pill(tone, &text)) }
                                    td .text { (subject) }
                                    td .text { (beginning(detail, 240)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
