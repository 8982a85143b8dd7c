//! `/agents/{id}`: one agent, why it is where it is, and what may be ordered of it.

use maud::{Markup, html};
use regrow_cluster::agents::{AgentError, AgentState, Known};
use regrow_cluster::nodes::Explanation;
use regrow_runtime::access::scope::Scope;
use regrow_runtime::ids::AgentId;
use regrow_runtime::json::Json;

use super::frame::Place;
use super::live::{Page, answer};
use super::parts::{NEEDS_OPERATE, Order, instant, none, panel, pill, time};
use super::task::document;
use super::visit::Visit;
use super::words::{Tone, count, millis};
use crate::error::ApiError;
use crate::params::{NamePath, Params};
use crate::routes::Answer;
use crate::state::AgentView;

/// `GET /agents/{id}`
pub(crate) async fn show(visit: Visit, NamePath(id): NamePath, params: Params) -> Answer {
    params.finish()?;
    answer(Agent(id), visit).await
}

struct Agent(String);

/// What may be ordered of an agent from where it is listed.
pub(crate) struct Menu<'a> {
    /// Its name.
    pub(crate) id: &'a str,
    /// What the cluster knows of it, if it places it.
    pub(crate) known: Option<&'a Known>,
    /// It is to run.
    pub(crate) runs: bool,
    /// Where it may go.
    pub(crate) nodes: &'a [String],
    /// Why nothing can be ordered.
    pub(crate) barred: Option<String>,
}

/// The orders behind one button.
pub(crate) fn menu(of: &Menu<'_>) -> Markup {
    html! {
        details .menu #(format!("menu-{}", of.id)) {
            summary aria-label=(format!("Orders for {}", of.id)) { "Orders" }
            div { (orders(of)) }
        }
    }
}

/// The orders, side by side.
pub(crate) fn orders(of: &Menu<'_>) -> Markup {
    let id = of.id;
    let barred = of.barred.as_deref();
    let order = |verb: &str, text, question: Option<&str>, done, not_now: Option<&str>| {
        let to = format!("/v1/agents/{id}/{verb}");
        let barred = barred.or(not_now);
        Order {
            text,
            to: &to,
            with: "",
            question,
            done,
            barred,
        }
        .button()
    };
    let stopped = (!of.runs).then_some("It is stopped");
    let kill = format!(
        "Kill {id}? It ends as if it had crashed, and is started again; what it works on goes on from its last finished step."
    );
    let stop = format!(
        "Stop {id}? What it works on is handed back; it stays stopped until it is started."
    );
    let owner = of.known.and_then(|known| known.node.as_deref());
    let targets: Vec<&String> = of
        .nodes
        .iter()
        .filter(|name| Some(name.as_str()) != owner)
        .collect();
    html! {
        div .orders {
            (order("start", "Start", None, "It is started", of.runs.then_some("It runs")))
            (order("restart", "Restart", None, "It is started anew", stopped))
            (order("stop", "Stop", Some(&stop), "It is stopped", stopped))
            (order("kill", "Kill", Some(&kill), "It was killed", stopped))
        }
        @if of.known.is_some() && !targets.is_empty() {
            form .row .inline hx-morph-skip hx-post=(format!("/v1/agents/{id}/handoff")) hx-swap="none" data-done="It moves" {
                label for=(format!("to-{id}")) { "Hand over to" }
                select id=(format!("to-{id}")) name="to" disabled[barred.is_some()] {
                    @for name in targets { option value=(name) { (name) } }
                }
                button type="submit" disabled[barred.is_some()] title=[barred] { "Hand over" }
                p .problem role="alert" {}
            }
        }
    }
}

/// How the cluster's agent stands, in words.
pub(crate) fn standing(known: &Known) -> Markup {
    let (tone, text) = match known.state {
        AgentState::Owned => (Tone::Good, "runs"),
        AgentState::Moving => (Tone::Active, "moves"),
        AgentState::Lost => (Tone::Bad, "lost, is taken over"),
        AgentState::Unplaced => (Tone::Attention, "waits for a node"),
        AgentState::Parked => (Tone::Bad, "parked"),
        AgentState::Stopped => (Tone::Quiet, "stopped"),
    };
    pill(tone, text)
}

impl Page for Agent {
    const PLACE: Place = Place::Agents;

    fn title(&self) -> String {
        format!("Agent {}", self.0)
    }

    async fn draw(&self, visit: &Visit) -> Result<Markup, ApiError> {
        let state = &visit.state;
        let here = state
            .agents
            .agents()
            .into_iter()
            .find(|agent| agent.id == self.0);
        let explained = state
            .nodes
            .explain(&state.node, &AgentId::new(self.0.clone()))
            .await;
        let explained = match (explained, &here) {
            (Ok(explained), _) => Some(explained),
            (Err(AgentError::Unknown(_) | AgentError::Store(_)), Some(_)) => None,
            (Err(error), _) => return Err(error.into()),
        };
        let known = explained.as_ref().map(|explained| &explained.agent);
        let mut nodes: Vec<String> = vec![state.node.clone()];
        nodes.extend(
            state
                .nodes
                .others()
                .into_iter()
                .map(|name| name.to_string()),
        );
        let is_to_run = known.map_or_else(
            || here.as_ref().is_some_and(|agent| agent.state != "stopped"),
            |known| known.entry.is_to_run(),
        );
        let barred = (!visit.may(Scope::Operate)).then(|| NEEDS_OPERATE.to_owned());
        Ok(html! {
            nav .trail aria-label="Where this is" { a href="/agents" { "Agents" } }
            div .title {
                h1 { (self.0) }
                p .row {
                    @if let Some(known) = known {
                        (standing(known))
                        span .hint { (known.entry.spec.role) @if let Some(node) = &known.node { " on " (node) } }
                    } @else if let Some(agent) = &here {
                        (condition(agent)) span .hint { (agent.role) " on " (state.node) ", which it belongs to" }
                    }
                }
            }
            (orders(&Menu { id: &self.0, known, runs: is_to_run, nodes: &nodes, barred }))
            @if let Some(explained) = &explained { (why(explained)) }
            @if let Some(agent) = &here { (panel("On this node", &none(), &life(agent))) }
            @if let Some(known) = known { (panel("What is known of it in the cluster", &none(), &entry(known))) }
            @if let Some(explained) = &explained { (decisions(explained)) }
        })
    }
}

/// How an agent of this node is, in a word.
pub(crate) fn condition(agent: &AgentView) -> Markup {
    let (tone, text) = match (agent.state.as_str(), agent.healthy) {
        ("running", true) => (Tone::Good, "running"),
        ("running", false) => (Tone::Bad, "does not answer"),
        ("stopped", _) => (Tone::Quiet, "stopped"),
        ("backing_off", _) => (Tone::Bad, "backing off"),
        ("restarting", _) => (Tone::Bad, "restarting"),
        _ => (Tone::Active, "starting or stopping"),
    };
    pill(tone, text)
}

fn why(explained: &Explanation) -> Markup {
    let content = html! {
        ul .reasons {
            li { (explained.why) }
            li { "If its node died: " (explained.if_its_node_died) }
        }
    };
    panel("Why it is where it is", &none(), &content)
}

fn decisions(explained: &Explanation) -> Markup {
    let what_if = explained
        .what_if
        .as_ref()
        .and_then(|decision| Json::of(decision).ok());
    html! {
        @if let Some(decision) = &explained.decision {
            (panel("The decision that brought it there, with its terms", &none(), &document(decision)))
        }
        @if let Some(decision) = &what_if {
            (panel("What would be decided if its node died now", &none(), &document(decision)))
        }
    }
}

fn life(agent: &AgentView) -> Markup {
    let fact = |name: &str, value: Markup| html! { div { dt { (name) } dd { (value) } } };
    html! {
        dl .facts {
            (fact("State", condition(agent)))
            (fact("Does", html! { (agent.detail.as_deref().unwrap_or("nothing at the moment")) }))
            (fact("Life", html! { (agent.generation) }))
            (fact("Restarts", html! { (count(agent.restarts)) }))
            (fact("Last exit", html! { (agent.last_exit.as_deref().unwrap_or("none")) }))
            (fact("Mailbox", html! { (agent.mailbox_depth) }))
            @if let Some(at) = agent.started_at { (fact("Running since", time(at))) }
        }
    }
}

fn entry(known: &Known) -> Markup {
    let entry = &known.entry;
    let fact = |name: &str, value: Markup| html! { div { dt { (name) } dd { (value) } } };
    let intensity = entry.spec.intensity;
    html! {
        dl .facts {
            (fact("Lease epoch", html! { code { (known.epoch) } }))
            (fact("May restart", html! { (intensity.restarts_max) " times within " (millis(intensity.within_ms)) }))
            (fact("Restarts that count", html! { (entry.restarts.len()) }))
            @if let Some(parked) = &entry.parked { (fact("Parked", html! { (parked) })) }
            @if let Some(exit) = &entry.last_exit {
                (fact("Last exit", html! { (exit.reason) " on " (exit.node) ", " (time(exit.at)) }))
            }
            @if let Some(placed) = &entry.placed {
                (fact("Placed", html! { "on " (placed.node) " for " (placed.reason) }))
                (fact("Since", instant(placed.at)))
            }
            @if let Some(going) = &entry.move_to { (fact("Goes to", html! { (going.to) ": " (going.reason) })) }
        }
    }
}
