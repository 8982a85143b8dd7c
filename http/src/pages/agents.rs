//! `/agents`: all agents, of this node, of the others, and those that the cluster places.
//!
//! Another node is asked for the same page, as data: it looks through its own agents and says how
//! many there are and what the first of them are.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};
use regrow_runtime::access::scope::Scope;
use serde::{Deserialize, Serialize};

use super::agent::{Menu, menu, standing};
use super::frame::Place;
use super::live::{Page, answer};
use super::parts::{NEEDS_OPERATE, nothing, pill};
use super::tasks::escaped;
use super::visit::Visit;
use super::words::{Tone, beginning, count, several};
use crate::auth::Caller;
use crate::elsewhere;
use crate::error::ApiError;
use crate::params::Params;
use crate::routes::{Answer, ok};
use crate::state::{AgentView, ApiState};

/// Agents on a page; more are counted, and found by a search.
const SHOWN_MAX: usize = 100;
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
    if visit.relayed {
        return ok(&page.own(&visit.state));
    }
    answer(page, visit).await
}

struct AgentsPage {
    query: Option<String>,
    role: Option<String>,
}

/// An agent as its node tells it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Told {
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

impl From<AgentView> for Told {
    fn from(agent: AgentView) -> Self {
        Self {
            id: agent.id,
            role: agent.role,
            state: agent.state,
            healthy: agent.healthy,
            generation: agent.generation,
            restarts: agent.restarts,
            last_exit: agent.last_exit,
            mailbox_depth: agent.mailbox_depth as u64,
            detail: agent.detail,
            node: String::new(),
        }
    }
}

/// What a look through agents found: those that need a look first.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Found {
    agents: Vec<Told>,
    /// How many are as wanted.
    wanted: u64,
    /// How many there are.
    all: u64,
    roles: BTreeSet<String>,
}

impl Found {
    fn bounded(mut self) -> Self {
        self.agents.sort_by_cached_key(|agent| {
            let is_well = agent.healthy || agent.state == "stopped";
            (is_well, std::cmp::Reverse(agent.restarts))
        });
        self.agents.truncate(SHOWN_MAX);
        self
    }

    fn add(&mut self, node: &str, part: Self) {
        let agents = part.agents.into_iter().map(|agent| Told {
            node: node.to_owned(),
            ..agent
        });
        self.agents.extend(agents);
        self.wanted += part.wanted;
        self.all += part.all;
        self.roles.extend(part.roles);
    }
}

impl AgentsPage {
    /// What this node's agents are.
    fn own(&self, state: &ApiState) -> Found {
        let all = state.agents.agents();
        let mut found = Found {
            all: all.len() as u64,
            roles: all.iter().map(|agent| agent.role.clone()).collect(),
            ..Found::default()
        };
        for agent in all {
            let texts = [
                Some(state.node.as_str()),
                agent.last_exit.as_deref(),
                agent.detail.as_deref(),
            ];
            if self.wants(&agent.id, &agent.role, &texts) {
                found.wanted += 1;
                found.agents.push(agent.into());
            }
        }
        found.bounded()
    }

    /// What the agents of all nodes are, and why of some nothing is known.
    async fn everybody(
        &self,
        state: &ApiState,
        caller: &Caller,
    ) -> (Found, BTreeMap<String, String>) {
        let (mut found, mut unknown) = (Found::default(), BTreeMap::new());
        found.add(&state.node, self.own(state));
        let given = [("q", &self.query), ("role", &self.role)];
        let pairs = given.into_iter().filter_map(|(name, value)| {
            let value = value.as_ref()?;
            Some(format!("{name}={}", escaped(value)))
        });
        let target = format!("/agents?{}", pairs.collect::<Vec<_>>().join("&"));
        for (node, said) in elsewhere::gathered(state, caller, &target).await {
            let part = said.and_then(|said| {
                let part: Result<Found, _> = serde_json::from_value(said);
                part.map_err(|error| error.to_string())
            });
            match part {
                Ok(part) => found.add(&node, part),
                Err(why) => drop(unknown.insert(node, why)),
            }
        }
        (found.bounded(), unknown)
    }

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
        let (all, unknown) = self.everybody(state, &caller).await;
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
        Ok(html! {
            div .title { h1 { "Agents" } p .lead { (several(all.all, "agent runs", "agents run")) " on " (several(nodes.len().saturating_sub(unknown.len()) as u64, "node", "nodes")) "." } }
            (self.form(&all.roles))
            @for (node, why) in &unknown {
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
                header { h2 { "Running" } span .hint { (several(all.wanted, "agent", "agents")) ", those that need a look first" } }
                @if all.agents.is_empty() { (nothing("No agent is like that.", &html! { p { a href="/agents" { "Show all agents" } } })) }
                @else { (running(&all.agents, &state.node)) }
                @if (all.agents.len() as u64) < all.wanted {
                    p .hint { (count(all.wanted - all.agents.len() as u64)) " more are not shown; search for them, or go through the " a href="/tree" { "tree" } "." }
                }
            }
        })
    }
}

impl AgentsPage {
    fn form(&self, roles: &BTreeSet<String>) -> Markup {
        html! {
            form #filter .filter method="get" action="/agents" role="search" hx-morph-skip {
                label for="q" .unseen { "Search" }
                input #q name="q" type="search" value=[self.query.as_deref()] data-search maxlength="100" placeholder="Name, role, node, exit or what it does";
                label for="role" .unseen { "Role" }
                select #role name="role" data-submit {
                    option value="" { "every role" }
                    @for role in roles { option value=(role) selected[self.role.as_deref() == Some(role)] { (role) } }
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

fn running(agents: &[Told], here: &str) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Running agents" {
            table .list {
                thead {
                    tr { th { "Agent" } th { "Role" } th { "Node" } th { "State" } th .number { "Life" } th .number { "Restarts" } th .number { "Mailbox" } th { "Does" } th { "Last exit" } }
                }
                tbody {
                    @for agent in agents {
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
