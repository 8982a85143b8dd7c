//! `/`: how the node and its neighbours are, in one look.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use maud::{Markup, html};
use regrow_runtime::queue::approval::{ApprovalFilter, ApprovalState};
use regrow_runtime::queue::budget::BudgetView;
use regrow_runtime::queue::control::QueueStats;
use regrow_runtime::queue::task::{Lane, TaskState, TaskView};
use regrow_runtime::store::TaskFilter;

use super::alerts::{Alert, Facts, alerts, most_used};
use super::frame::Place;
use super::history::{Counts, Sample, rate, rates, within};
use super::live::{Memo, Page, answer};
use super::parts::{bar, line, none, nothing, panel, task_link, tile, time};
use super::visit::Visit;
use super::words::{self, Tone, count, several};
use crate::error::ApiError;
use crate::params::Params;
use crate::routes::Answer;
use crate::state::{AgentView, ApiState, Phase};

/// Over which figures per second are taken.
const WINDOW: Duration = Duration::from_secs(10);
/// What counts as of late in the alerts.
const LATE: Duration = Duration::from_secs(60);
/// How long what is read from the store is good for, however many look.
const TERM: Duration = Duration::from_secs(2);
/// Tasks and questions that are listed.
const LISTED_MAX: u32 = 6;
/// Agents that are named when they are not well.
const UNWELL_MAX: usize = 20;

/// `GET /`
pub(crate) async fn show(visit: Visit, params: Params) -> Answer {
    params.finish()?;
    answer(Overview, visit).await
}

struct Overview;

/// What the agents of this node are doing, counted.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    roles: BTreeMap<String, Role>,
    unwell: Vec<String>,
    count: usize,
}

#[derive(Debug, Default)]
struct Role {
    agents: u64,
    unwell: u64,
    restarts: u64,
}

impl Crew {
    fn of(agents: &[AgentView]) -> Self {
        let mut crew = Self::default();
        for agent in agents {
            let role = crew.roles.entry(agent.role.clone()).or_default();
            role.agents += 1;
            role.restarts += agent.restarts;
            crew.count += 1;
            // What was stopped on purpose is as it should be.
            if !agent.healthy && agent.state != "stopped" {
                role.unwell += 1;
                if crew.unwell.len() < UNWELL_MAX {
                    crew.unwell.push(agent.id.clone());
                }
            }
        }
        crew
    }
}

/// What is read from the store, once for all who look.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    budgets: Vec<BudgetView>,
    questions: usize,
    given_up: Vec<TaskView>,
    nodes: Option<Vec<regrow_cluster::nodes::NodeView>>,
}

/// What is shown to many, and asked for once.
#[derive(Debug)]
pub(crate) struct Looks {
    crew: Memo<Crew>,
    stored: Memo<Stored>,
}

impl Default for Looks {
    fn default() -> Self {
        Self {
            crew: Memo::new(TERM / 2),
            stored: Memo::new(TERM),
        }
    }
}

impl Looks {
    async fn crew(&self, state: &ApiState) -> Arc<Crew> {
        self.crew
            .get(async { Crew::of(&state.agents.agents()) })
            .await
    }

    async fn stored(&self, state: &ApiState) -> Arc<Stored> {
        self.stored.get(stored(state)).await
    }
}

/// What cannot be read is left out: the store's trouble is an alert of its own.
async fn stored(state: &ApiState) -> Stored {
    let open = ApprovalFilter {
        state: Some(ApprovalState::Open),
        task: None,
        before: None,
        limit: 100,
    };
    let given_up = TaskFilter {
        state: Some(TaskState::Discarded),
        limit: LISTED_MAX,
        ..TaskFilter::default()
    };
    let (budgets, questions, given_up, nodes) = tokio::join!(
        state.queue.budgets(),
        state.queue.approvals(&open),
        state.queue.tasks(&given_up),
        state.nodes.list(&state.node),
    );
    Stored {
        budgets: budgets.unwrap_or_default(),
        questions: questions.map_or(0, |open| open.len()),
        given_up: given_up.unwrap_or_default(),
        nodes: nodes.ok(),
    }
}

impl Page for Overview {
    const PLACE: Place = Place::Overview;

    fn title(&self) -> String {
        "Overview".to_owned()
    }

    async fn draw(&self, visit: &Visit) -> Result<Markup, ApiError> {
        let state = &visit.state;
        let looks = &state.pages.looks;
        let (crew, stored) = tokio::join!(looks.crew(state), looks.stored(state));
        let stats = state.queue.stats();
        let samples = state.pages.history.samples();
        let phase = state.lifecycle.phase();
        let of_late = |count: fn(&Counts) -> u64| within(&samples, LATE, count).0;
        let found = alerts(&Facts {
            out_of_service: (phase != Phase::Ready)
                .then(|| format!("The node is {}", phase.as_str())),
            store: state.queue.writer().refusal().map(|it| it.to_string()),
            queue: Some(&stats),
            unwell: crew.unwell.iter().map(String::as_str).collect(),
            refused: of_late(|counts| counts.refused),
            discarded: of_late(|counts| counts.discarded),
            leases_lost: of_late(|counts| counts.leases_lost),
            questions: stored.questions,
            budgets: &stored.budgets,
            nodes: stored.nodes.as_deref(),
        });
        Ok(html! {
            div .title {
                h1 { "Overview" }
                p .lead { (verdict(&found)) }
            }
            (alerts_shown(&found))
            (tiles(state, &stats, &samples))
            div .columns {
                (panel("Waiting, by lane", &html! { a href="/queue" { "The queue" } }, &lanes(&stats)))
                (panel("Tasks, by state", &html! { a href="/tasks" { "All tasks" } }, &states(&stats)))
                (panel("Agents of this node", &html! { a href="/agents" { "All agents" } }, &agents(&crew)))
                (panel("Nodes", &html! { a href="/cluster" { "The cluster" } }, &nodes(stored.nodes.as_deref())))
                (panel("Budgets", &none(), &budgets(&stored.budgets)))
                (panel(
                    "Given up of late",
                    &html! { a href="/tasks?state=discarded" { "All of them" } },
                    &given_up(&stored.given_up),
                ))
            }
        })
    }
}

fn verdict(found: &[Alert]) -> String {
    let looks = found.iter().filter(|it| Tone::Attention <= it.tone).count();
    match looks {
        0 => "Everything runs as it should.".to_owned(),
        _ => format!(
            "{} a look.",
            several(looks as u64, "thing needs", "things need")
        ),
    }
}

fn alerts_shown(found: &[Alert]) -> Markup {
    html! {
        @if !found.is_empty() {
            ul .alerts aria-label="What to look at" {
                @for alert in found {
                    li .(alert.tone.class()) {
                        p {
                            b { (alert.text) } ". " span .hint { (alert.way_out) }
                            @if alert.link != "/" { " " a href=(alert.link) { "Show" } }
                        }
                    }
                }
            }
        }
    }
}

fn per_second(rate: Option<f64>) -> String {
    rate.map_or_else(
        || "…".to_owned(),
        |rate| format!("{} / s", words::decimal(rate)),
    )
}

fn tiles(state: &ApiState, stats: &QueueStats, samples: &[Sample]) -> Markup {
    let counters = stats.counters;
    let chart = |name: &str, count: fn(&Counts) -> u64| {
        line(
            &rates(samples, count),
            &format!("{name} per second, the last 10 minutes"),
        )
    };
    let standing = |values: Vec<f64>, label: &str| line(&values, label);
    let executing = stats.states.get("executing").copied().unwrap_or(0);
    let failed = within(samples, LATE, |counts| counts.failed).0;
    let durations = state.pages.history.durations();
    let commits = &durations.commits;
    html! {
        div .tiles {
            (tile("Completed", &per_second(rate(samples, WINDOW, |it| it.completed)), &html! {
                p .hint { (count(counters.completed)) " since the start" }
                (chart("Tasks completed", |it| it.completed))
            }))
            (tile("Accepted", &per_second(rate(samples, WINDOW, |it| it.accepted)), &html! {
                p .hint {
                    (count(counters.accepted)) " since the start"
                    @if 0 < counters.refused { ", " (count(counters.refused)) " refused" }
                }
                (chart("Tasks accepted", |it| it.accepted))
            }))
            (tile("Waiting", &count(stats.size), &html! {
                p .hint {
                    (words::percent(stats.utilization())) " of " (count(stats.max_size)) " places"
                    @if let Some(wait) = durations.waits.quantile(0.5) { "; a task waits " (words::seconds(wait)) " (p50)" }
                }
                (standing(samples.iter().map(|it| it.size as f64).collect(), "Tasks waiting, the last 10 minutes"))
            }))
            (tile("Running", &count(executing), &html! {
                p .hint { (count(counters.leased)) " leases given" }
                (standing(samples.iter().map(|it| it.executing as f64).collect(), "Tasks running, the last 10 minutes"))
            }))
            (tile("Failed attempts", &count(failed), &html! {
                p .hint {
                    "in the last minute; " (count(counters.failed)) " since the start, "
                    (count(counters.discarded)) " given up"
                }
                (chart("Failed attempts", |it| it.failed))
            }))
            (tile("Commit to the store", &quantile(commits.quantile(0.99)), &html! {
                p .hint {
                    "p99; p50 " (quantile(commits.quantile(0.5))) ", "
                    (several(commits.count(), "commit", "commits")) " in 10 minutes"
                }
                @if let Some(probe) = durations.probes.quantile(0.99) {
                    p .hint { "Agents answer probes in " (words::seconds(probe)) " (p99)" }
                }
            }))
        }
    }
}

fn quantile(measured: Option<f64>) -> String {
    measured.map_or_else(|| "–".to_owned(), words::seconds)
}

fn lanes(stats: &QueueStats) -> Markup {
    let most = stats.lanes.values().copied().max().unwrap_or(0).max(1);
    html! {
        table {
            thead { tr { th { "Lane" } th .number { "Tasks" } th .wide { "" } } }
            tbody {
                @for lane in Lane::ALL {
                    @let waiting = stats.lanes.get(lane.as_str()).copied().unwrap_or(0);
                    tr {
                        td { (lane.as_str()) }
                        td .number { (count(waiting)) }
                        td .wide {
                            (bar(waiting as f64 / most as f64, Tone::Active,
                                &format!("{} in lane {}", several(waiting, "task", "tasks"), lane.as_str())))
                        }
                    }
                }
            }
        }
        @if 0 < stats.parked {
            p .hint { (several(stats.parked, "task waits", "tasks wait")) " at a limit, a rate or a resource." }
        }
    }
}

fn states(stats: &QueueStats) -> Markup {
    html! {
        table {
            thead { tr { th { "State" } th .number { "Tasks" } } }
            tbody {
                @for state in TaskState::ALL.into_iter().filter(|state| !state.is_terminal()) {
                    @let known = stats.states.get(state.as_str()).copied().unwrap_or(0);
                    tr {
                        td { a href=(format!("/tasks?state={state}")) { (super::parts::state(state)) } }
                        td .number { (count(known)) }
                    }
                }
                @for (name, state, known) in [
                    ("completed since the start", TaskState::Completed, stats.counters.completed),
                    ("given up since the start", TaskState::Discarded, stats.counters.discarded),
                    ("cancelled since the start", TaskState::Cancelled, stats.counters.cancelled),
                ] {
                    tr {
                        td { a href=(format!("/tasks?state={state}")) { (super::parts::pill(words::state(state).1, name)) } }
                        td .number { (count(known)) }
                    }
                }
            }
        }
    }
}

fn agents(crew: &Crew) -> Markup {
    if crew.count == 0 {
        let then = html! { p { "Set " code { "agents.workers" } " or start one with "
        code { "regrow agents start NAME --role worker" } "." } };
        return nothing("No agent runs on this node.", &then);
    }
    html! {
        table {
            thead { tr { th { "Role" } th .number { "Agents" } th .number { "Not well" } th .number { "Restarts" } } }
            tbody {
                @for (name, role) in &crew.roles {
                    tr {
                        td { (name) }
                        td .number { (count(role.agents)) }
                        td .number .bad[0 < role.unwell] { (count(role.unwell)) }
                        td .number { (count(role.restarts)) }
                    }
                }
            }
        }
    }
}

fn nodes(nodes: Option<&[regrow_cluster::nodes::NodeView]>) -> Markup {
    let Some(nodes) = nodes else {
        return nothing("The store cannot say which nodes there are.", &none());
    };
    html! {
        table {
            thead { tr { th { "Node" } th { "State" } th .number { "Agents placed" } th .number { "Load" } } }
            tbody {
                @for node in nodes {
                    tr {
                        td { (node.name) @if node.here { " " span .hint { "(this one)" } } }
                        td { (node_state(node)) }
                        td .number { (count(node.agents as u64)) }
                        td .number {
                            @match &node.report {
                                Some(report) => { (words::percent(f64::from(report.load_permille) / 1e3)) }
                                None => { "–" }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// How a node stands, in a word.
fn node_state(node: &regrow_cluster::nodes::NodeView) -> Markup {
    let heard = node.heard.as_ref().map(|heard| heard.status);
    let (tone, text) = match (node.watched.state, &node.note, heard, node.life) {
        ("quarantined", ..) => (Tone::Bad, "in quarantine"),
        (_, _, Some("down"), _) => (Tone::Bad, "not heard"),
        (_, _, _, None) if !node.here => (Tone::Quiet, "away"),
        ("probation", ..) => (Tone::Attention, "on probation"),
        (_, Some(_), ..) => (Tone::Attention, "takes no agents"),
        _ => (Tone::Good, "up"),
    };
    super::parts::pill(tone, text)
}

fn budgets(budgets: &[BudgetView]) -> Markup {
    let limited: Vec<(&BudgetView, f64, &str)> = budgets
        .iter()
        .filter_map(|budget| most_used(budget).map(|(part, unit)| (budget, part, unit)))
        .collect();
    if limited.is_empty() {
        let then = html! { p { "Set one with " code { "regrow budget set node --usd 5 --period day" } "." } };
        return nothing("Nothing is limited: no budget is set.", &then);
    }
    html! {
        table {
            thead { tr { th { "Budget" } th .number { "Spent" } th .wide { "" } } }
            tbody {
                @for (budget, part, unit) in limited {
                    tr {
                        td { (budget.scope.to_string()) }
                        td .number {
                            (words::money(budget.spent.micros))
                            @if let Some(limit) = budget.limits.micros {
                                span .hint { " of " (words::money(limit.saturating_add(budget.granted.micros))) }
                            }
                        }
                        td .wide {
                            @let tone = if 0.8 <= part { Tone::Bad } else { Tone::Active };
                            (bar(part, tone, &format!("{} of its {unit} is spent", words::percent(part))))
                        }
                    }
                }
            }
        }
    }
}

fn given_up(tasks: &[TaskView]) -> Markup {
    if tasks.is_empty() {
        return nothing("No task that is kept was given up.", &none());
    }
    html! {
        table {
            thead { tr { th { "Task" } th { "Why" } th { "When" } } }
            tbody {
                @for view in tasks {
                    @let end = view.end.as_ref();
                    tr {
                        td { (task_link(view.body.id)) " " (view.body.kind) }
                        td .text { (words::beginning(end.and_then(|end| end.error.as_deref()).unwrap_or("no reason was given"), 90)) }
                        td { @if let Some(end) = end { (time(end.finished_at)) } }
                    }
                }
            }
        }
    }
}
