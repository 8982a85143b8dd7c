//! `/agents`: all agents, of this node, of the others, and those that the cluster places.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use maud::{Markup, html};
use regrow_runtime::access::scope::Scope;
use serde::Deserialize;

use super::agent::{Menu, menu, standing};
use super::frame::Place;
use super::live::{Memo, Page, answer};
use super::parts::{NEEDS_OPERATE, nothing, pill};
use super::visit::Visit;
use super::words::{Tone, beginning, count, several};
use crate::auth::Caller;
use crate::elsewhere;
use crate::error::ApiError;
use crate::params::Params;
use crate::routes::Answer;
use crate::state::ApiState;

/// Agents on a page; more are counted, and found by a search.
const SHOWN_MAX: usize = 100;
/// How long what the nodes say is good for.
const TERM: Duration = Duration::from_secs(1);
/// What a placed agent may be from here.
const ROLES: [&str; 4] = ["worker", "planner", "critic", "memory"];

/// `GET /agents`
pub(crate) async fn show(visit: Visit, mut params: Params) -> Answer {
    let given = |text: Option<String>| {
        text.map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
    };
    let page = AgentsPage {
        query: given(params.text("q")),
        role: given(params.text("role")),
    };
    params.finish()?;
    answer(page, visit).await
}

struct AgentsPage {
    query: Option<String>,
    role: Option<String>,
}

/// An agent as its node tells it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Told {
    id: String,
    role: String,
    state: String,
    healthy: bool,
    generation: u64,
    restarts: u64,
    last_exit: Option<String>,
    mailbox_depth: u64,
    detail: Option<String>,
    #[serde(skip)]
    node: String,
}

/// What all nodes say.
#[derive(Debug, Default)]
pub(crate) struct Everybody {
    agents: Vec<Told>,
    unknown: BTreeMap<String, String>,
}

/// Gathered once for all who look.
#[derive(Debug)]
pub(crate) struct AgentsLook(Memo<Everybody>);

impl Default for AgentsLook {
    fn default() -> Self {
        Self(Memo::new(TERM))
    }
}

async fn everybody(state: &ApiState, caller: &Caller) -> Everybody {
    let mut found = Everybody::default();
    for agent in state.agents.agents() {
        found.agents.push(Told {
            id: agent.id,
            role: agent.role,
            state: agent.state,
            healthy: agent.healthy,
            generation: agent.generation,
            restarts: agent.restarts,
            last_exit: agent.last_exit,
            mailbox_depth: agent.mailbox_depth as u64,
            detail: agent.detail,
            node: state.node.clone(),
        });
    }
    for (node, said) in elsewhere::gathered(state, caller, "/v1/agents").await {
        let told = said.and_then(|mut said| {
            let agents: Result<Vec<Told>, _> = serde_json::from_value(said["agents"].take());
            agents.map_err(|error| error.to_string())
        });
        match told {
            Ok(agents) => found.agents.extend(agents.into_iter().map(|agent| Told {
                node: node.clone(),
                ..agent
            })),
            Err(why) => drop(found.unknown.insert(node, why)),
        }
    }
    found
}

impl AgentsPage {
    fn wants(&self, id: &str, role: &str, rest: &[Option<&str>]) -> bool {
        let fits = |text: &str| {
            let sought = self.query.as_ref().map(|query| query.to_lowercase());
            sought.is_none_or(|sought| text.to_lowercase().contains(&sought))
        };
        let of_role = self.role.as_ref().is_none_or(|wanted| wanted == role);
        of_role && (fits(id) || fits(role) || rest.iter().flatten().any(|text| fits(text)))
    }
}

impl Page for AgentsPage {
    const PLACE: Place = Place::Agents;

    fn title(&self) -> String {
        "Agents".to_owned()
    }

    async fn draw(&self, visit: &Visit) -> Result<Markup, ApiError> {
        let state = &visit.state;
        let caller = visit.caller()?;
        let all: Arc<Everybody> = state.pages.agents.0.get(everybody(state, &caller)).await;
        // What runs is told also while the store is away.
        let placed = state.cluster.list().await.unwrap_or_default();
        let may = visit.may(Scope::Operate);
        let barred = (!may).then(|| NEEDS_OPERATE.to_owned());
        let mut nodes: Vec<String> = vec![state.node.clone()];
        nodes.extend(
            state
                .nodes
                .others()
                .into_iter()
                .map(|name| name.to_string()),
        );
        let known: Vec<_> = placed
            .iter()
            .filter(|it| {
                self.wants(
                    it.id.as_str(),
                    it.entry.spec.role.as_str(),
                    &[it.node.as_deref(), it.entry.parked.as_deref()],
                )
            })
            .collect();
        let mut own: Vec<&Told> = all
            .agents
            .iter()
            .filter(|agent| {
                self.wants(
                    &agent.id,
                    &agent.role,
                    &[
                        Some(&agent.node),
                        agent.last_exit.as_deref(),
                        agent.detail.as_deref(),
                    ],
                )
            })
            .collect();
        own.sort_by_key(|agent| {
            (
                agent.healthy || agent.state == "stopped",
                std::cmp::Reverse(agent.restarts),
            )
        });
        let mut roles: Vec<&str> = all.agents.iter().map(|agent| agent.role.as_str()).collect();
        roles.sort_unstable();
        roles.dedup();
        Ok(html! {
            div .title { h1 { "Agents" } p .lead { (several(all.agents.len() as u64, "agent runs", "agents run")) " on " (several(1 + nodes.len() as u64 - 1, "node", "nodes")) "." } }
            (self.form(&roles))
            @for (node, why) in &all.unknown {
                p .told .attention { "What runs on " (node) " is not known: " (why) }
            }
            section .panel {
                header { h2 { "Placed by the cluster" } span .hint { (several(known.len() as u64, "agent", "agents")) } }
                @if known.is_empty() {
                    (nothing("The cluster places no agent like that.", &html! { p { "One that is placed goes on elsewhere when its node dies." } }))
                } @else {
                    div .scroll tabindex="0" role="region" aria-label="Placed agents" {
                        table .list {
                            thead { tr { th { "Agent" } th { "Role" } th { "State" } th { "Node" } th .number { "Lease epoch" } th { "Why there" } th { "" } } }
                            tbody {
                                @for it in known.iter().take(SHOWN_MAX) {
                                    tr #(format!("placed-{}", it.id)) {
                                        td { a href=(format!("/agents/{}", it.id)) { (it.id) } }
                                        td { (it.entry.spec.role) }
                                        td { (standing(it)) }
                                        td { (it.node.as_deref().unwrap_or("–")) }
                                        td .number { (it.epoch) }
                                        td .text { (because(it)) }
                                        td { (menu(&Menu { id: it.id.as_str(), known: Some(it), runs: it.entry.is_to_run(), nodes: &nodes, barred: barred.clone() })) }
                                    }
                                }
                            }
                        }
                    }
                    @if SHOWN_MAX < known.len() { p .hint { (count((known.len() - SHOWN_MAX) as u64)) " more are not shown; search for them." } }
                }
                (start(may))
            }
            section .panel {
                header { h2 { "Running" } span .hint { (several(own.len() as u64, "agent", "agents")) ", those that need a look first" } }
                @if own.is_empty() { (nothing("No agent is like that.", &html! { p { a href="/agents" { "Show all agents" } } })) }
                @else { (running(&own, &state.node)) }
                @if SHOWN_MAX < own.len() { p .hint { (count((own.len() - SHOWN_MAX) as u64)) " more are not shown; search for them." } }
            }
        })
    }
}

impl AgentsPage {
    fn form(&self, roles: &[&str]) -> Markup {
        html! {
            form #filter .filter method="get" action="/agents" role="search" hx-morph-skip {
                label for="q" .unseen { "Search" }
                input #q name="q" type="search" value=[self.query.as_deref()] data-search maxlength="100" placeholder="Name, role, node, exit or what it does";
                label for="role" .unseen { "Role" }
                select #role name="role" data-submit {
                    option value="" { "every role" }
                    @for role in roles { option value=(role) selected[self.role.as_deref() == Some(*role)] { (role) } }
                }
                button type="submit" { "Search" }
                @if self.query.is_some() || self.role.is_some() { a .button href="/agents" { "Show all" } }
            }
        }
    }
}

fn because(known: &regrow_cluster::agents::Known) -> String {
    match (&known.entry.parked, &known.entry.placed) {
        (Some(parked), _) => parked.clone(),
        (None, Some(placed)) => beginning(&placed.because, 120),
        (None, None) => String::new(),
    }
}

fn running(agents: &[&Told], here: &str) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Running agents" {
            table .list {
                thead {
                    tr { th { "Agent" } th { "Role" } th { "Node" } th { "State" } th .number { "Life" } th .number { "Restarts" } th .number { "Mailbox" } th { "Does" } th { "Last exit" } }
                }
                tbody {
                    @for agent in agents.iter().take(SHOWN_MAX) {
                        @let (tone, text) = match (agent.state.as_str(), agent.healthy) {
                            ("running", true) => (Tone::Good, "running"),
                            ("running", false) => (Tone::Bad, "does not answer"),
                            ("stopped", _) => (Tone::Quiet, "stopped"),
                            _ => (Tone::Attention, "on its way"),
                        };
                        tr #(format!("own-{}-{}", agent.node, agent.id)) {
                            td { @if agent.node == here { a href=(format!("/agents/{}", agent.id)) { (agent.id) } } @else { (agent.id) } }
                            td { (agent.role) }
                            td { (agent.node) }
                            td { (pill(tone, text)) }
                            td .number { (agent.generation) }
                            td .number { (count(agent.restarts)) }
                            td .number { (count(agent.mailbox_depth)) }
                            td .text { (beginning(agent.detail.as_deref().unwrap_or(""), 100)) }
                            td .text { (beginning(agent.last_exit.as_deref().unwrap_or(""), 100)) }
                        }
                    }
                }
            }
        }
    }
}

fn start(may: bool) -> Markup {
    html! {
        form .row .inline hx-morph-skip hx-post="/v1/agents" hx-swap="none" data-done="It is placed" {
            label for="new-id" { "Start one named" }
            input #new-id name="id" required maxlength="56" size="16" spellcheck="false" disabled[!may];
            label for="new-role" { "as" }
            select #new-role name="role" disabled[!may] { @for role in ROLES { option value=(role) { (role) } } }
            button type="submit" disabled[!may] title=[(!may).then_some(NEEDS_OPERATE)] { "Start" }
            p .problem role="alert" {}
        }
    }
}
