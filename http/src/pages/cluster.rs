//! `/cluster`: the nodes, what is asked of them, and where agents are and would go.

use maud::{Markup, html};
use regrow_cluster::nodes::{Loss, NodeView, Planned, Stance};
use regrow_runtime::access::scope::Scope;

use super::agent::standing;
use super::frame::Place;
use super::live::{Page, answer};
use super::parts::{NEEDS_OPERATE, Order, none, nothing, panel, pill, time};
use super::tasks::escaped;
use super::visit::Visit;
use super::words::{self, Tone, beginning, count, several};
use crate::error::ApiError;
use crate::params::Params;
use crate::routes::Answer;

/// Rows of a table.
const ROWS_MAX: usize = 100;

/// `GET /cluster`, with `if_lost=NODE` for what would become of a node's agents, and with
/// `plan=rebalance` for what evening out would move.
pub(crate) async fn show(visit: Visit, mut params: Params) -> Answer {
    let page = Cluster {
        if_lost: params.text("if_lost").filter(|name| !name.is_empty()),
        plans: params.text("plan").is_some(),
    };
    params.finish()?;
    answer(page, visit).await
}

struct Cluster {
    if_lost: Option<String>,
    plans: bool,
}

impl Page for Cluster {
    const PLACE: Place = Place::Cluster;

    fn title(&self) -> String {
        "Cluster".to_owned()
    }

    async fn draw(&self, visit: &Visit) -> Result<Markup, ApiError> {
        let state = &visit.state;
        let nodes = state.nodes.list(&state.node).await?;
        let placed = state.cluster.list().await?;
        let loss = match &self.if_lost {
            Some(node) => Some(state.nodes.if_lost(&state.node, node).await),
            None => None,
        };
        let plan = match self.plans {
            true => Some(state.nodes.rebalance(&state.node, true).await?),
            false => None,
        };
        let may = visit.may(Scope::Operate);
        Ok(html! {
            div .title { h1 { "Cluster" } p .lead { (several(nodes.len() as u64, "node is known", "nodes are known")) "." } }
            @for node in &nodes { (card(node, may)) }
            @match &loss {
                Some(Ok(loss)) => { (lost(loss)) }
                Some(Err(error)) => { p .told .bad { (error) } }
                None => {}
            }
            (panel("Placement", &html! { a href="/agents" { "All agents" } }, &html! {
                div .orders {
                    (Order {
                        text: "Rebalance", to: "/v1/cluster/rebalance", with: "{}",
                        question: Some("Rebalance? Agents move from full nodes to emptier ones; each stops and starts once."),
                        done: "Agents move", barred: (!may).then_some(NEEDS_OPERATE),
                    }.button())
                    a .button href="/cluster?plan=rebalance" { "What would it move?" }
                }
                @if let Some(plan) = &plan { (planned(plan)) }
                @if placed.is_empty() {
                    (nothing("The cluster places no agent.", &html! { p { "Start one on the page of the " a href="/agents" { "agents" } "; it goes on elsewhere when its node dies." } }))
                } @else {
                    div .scroll tabindex="0" role="region" aria-label="Placement" {
                        table .list {
                            thead { tr { th { "Agent" } th { "State" } th { "Node" } th .number { "Lease epoch" } th { "Since" } th { "What spoke for it" } } }
                            tbody {
                                @for it in placed.iter().take(ROWS_MAX) {
                                    @let there = it.entry.placed.as_ref();
                                    tr #(format!("p-{}", it.id)) {
                                        td { a href=(format!("/agents/{}", it.id)) { (it.id) } }
                                        td { (standing(it)) }
                                        td { (it.node.as_deref().unwrap_or("–")) }
                                        td .number { (it.epoch) }
                                        td { @if let Some(there) = there { (time(there.at)) } }
                                        td .text { @if let Some(there) = there { (there.reason) ": " (beginning(&there.because, 160)) } }
                                    }
                                }
                            }
                        }
                    }
                    @if ROWS_MAX < placed.len() { p .hint { (count((placed.len() - ROWS_MAX) as u64)) " more are not shown; search among the agents." } }
                }
            }))
        })
    }
}

fn standing_of(node: &NodeView) -> (Tone, String) {
    let heard = node.heard.as_ref().map(|heard| heard.status);
    let (tone, text) = match (node.watched.state, heard, node.life) {
        ("quarantined", ..) if node.watched.pinned => (Tone::Bad, "kept out until it is released"),
        ("quarantined", ..) => (Tone::Bad, "in quarantine"),
        (_, Some("down"), _) => (Tone::Bad, "not heard"),
        (_, _, None) if !node.here => (Tone::Quiet, "away"),
        ("probation", ..) => (Tone::Attention, "on probation"),
        _ => match node.note.as_ref().map(|note| note.stance) {
            Some(Stance::Cordoned) => (Tone::Attention, "cordoned"),
            Some(Stance::Draining) => (Tone::Attention, "draining"),
            Some(Stance::Quarantined) => (Tone::Bad, "kept out"),
            None => (Tone::Good, "up"),
        },
    };
    (tone, text.to_owned())
}

fn card(node: &NodeView, may: bool) -> Markup {
    let (tone, text) = standing_of(node);
    let name = &node.name;
    let heading = html! {
        span .row {
            @if node.here { span .hint { "this node" } }
            @if let Some(http) = node.heard.as_ref().and_then(|heard| heard.http.as_deref()).filter(|_| !node.here) {
                a .hint href=(format!("http://{http}/")) { "Its own pages" }
            }
            (pill(tone, &text))
        }
    };
    html! {
        section .panel #(format!("node-{name}")) aria-label=(format!("Node {name}")) {
            header { h2 { (name) } (heading) }
            (facts(node))
            (orders(node, may))
        }
    }
}

fn facts(node: &NodeView) -> Markup {
    let fact = |name: &str, value: Markup| html! { div { dt { (name) } dd { (value) } } };
    let heard = node.heard.as_ref();
    let report = node.report.as_ref();
    let watched = &node.watched;
    let version = heard.and_then(|heard| heard.version.clone());
    let version = version.or_else(|| report.map(|report| report.version.clone()));
    html! {
        dl .facts {
            (fact("Agents placed", html! { (count(node.agents as u64)) @if let Some(max) = report.and_then(|it| it.offer.agents_max) { " of " (max) } }))
            @if let Some(report) = report {
                (fact("Load", html! { (words::percent(f64::from(report.load_permille) / 1e3)) }))
                @if !report.offer.labels.is_empty() {
                    (fact("Labels", html! { @for (key, value) in &report.offer.labels { code { (key) "=" (value) } " " } }))
                }
                @if !report.offer.taints.is_empty() {
                    (fact("Taints", html! { @for taint in &report.offer.taints { code { (taint) } " " } }))
                }
            }
            @if let Some(left) = node.lease_left_ms { (fact("Life lasts, unless renewed", html! { (lasts(left)) })) }
            @if let Some(heard) = heard {
                @if let Some(phi) = heard.phi { (fact("Suspicion (phi)", html! { (words::decimal((phi * 10.0).round() / 10.0)) })) }
                (fact("Gossip", html! { (heard.status) " at " code { (heard.address) } }))
                (fact("Incarnation", html! { (heard.incarnation) }))
            }
            @if let Some(session) = &node.session {
                (fact("Session", html! {
                    (session.state)
                    @if let Some(error) = &session.error { ": " span .error { (beginning(error, 120)) } }
                }))
            }
            @if let Some(score) = watched.score {
                (fact("Flap score", html! { (words::decimal(score as f64 / 1e3)) " of " (words::decimal(watched.threshold as f64 / 1e3)) }))
            }
            @if watched.state != "free" {
                @if let Some(left) = watched.left_ms { (fact("For another", html! { (words::span(std::time::Duration::from_secs(left / 1_000))) })) }
                (fact("May have of its agents", html! { (words::percent(watched.share_permille as f64 / 1e3)) }))
            }
            @if let Some(reason) = &watched.reason { (fact("Why", html! { (reason) })) }
            @if let Some(note) = &node.note {
                (fact("Asked", html! { (time(note.at)) @if let Some(reason) = &note.reason { ": " (reason) } }))
            }
            @if let Some(version) = version.filter(|version| !version.is_empty()) { (fact("Version", html! { (version) })) }
        }
    }
}

/// A lease that is renewed all the time is told roughly, or the page would never rest.
fn lasts(left_ms: u64) -> String {
    match left_ms {
        0 => "it has run out".to_owned(),
        1..=1_000 => "less than a second".to_owned(),
        _ => "seconds".to_owned(),
    }
}

fn orders(node: &NodeView, may: bool) -> Markup {
    let name = escaped(&node.name);
    let barred = (!may).then_some(NEEDS_OPERATE);
    let free = node.note.is_none() && node.watched.state == "free";
    let cordoned = node
        .note
        .as_ref()
        .is_some_and(|note| note.stance == Stance::Cordoned);
    let draining = node
        .note
        .as_ref()
        .is_some_and(|note| note.stance == Stance::Draining);
    let order = |verb: &str, text, question: Option<&str>, done, not_now: Option<&str>| {
        let to = format!("/v1/cluster/nodes/{name}/{verb}");
        Order {
            text,
            to: &to,
            with: r#"{"reason":"asked on the cluster's page"}"#,
            question,
            done,
            barred: barred.or(not_now),
        }
        .button()
    };
    let drain = format!(
        "Drain {}? It gives all its agents away and takes none.",
        node.name
    );
    let keep_out = format!(
        "Quarantine {}? It owns nothing until somebody releases it.",
        node.name
    );
    html! {
        div .orders {
            (order("cordon", "Cordon", None, "It takes no more agents", cordoned.then_some("It is cordoned")))
            (order("drain", "Drain", Some(&drain), "It gives its agents away", draining.then_some("It drains already")))
            (order("quarantine", "Quarantine", Some(&keep_out), "It is kept out", (node.watched.state == "quarantined").then_some("It is in quarantine")))
            (order("release", "Release", None, "It takes agents again", free.then_some("Nothing is asked of it")))
            @if node.life.is_some() { a .button href=(format!("/cluster?if_lost={name}")) { "What if it died?" } }
        }
    }
}

fn lost(loss: &Loss) -> Markup {
    let content = html! {
        @if loss.agents.is_empty() { (nothing("It owns no agent: nothing would move.", &none())) } @else {
            div .scroll tabindex="0" role="region" aria-label="What if" {
                table .list {
                    thead { tr { th { "Agent" } th { "Would go to" } th { "Because" } } }
                    tbody {
                        @for it in loss.agents.iter().take(ROWS_MAX) {
                            tr {
                                td { a href=(format!("/agents/{}", it.agent)) { (it.agent) } }
                                td { (it.goes_to.as_deref().unwrap_or("nowhere")) }
                                td .text { (beginning(&it.because, 240)) }
                            }
                        }
                    }
                }
            }
            @if ROWS_MAX < loss.agents.len() { p .hint { (loss.agents.len() - ROWS_MAX) " more are not shown." } }
        }
    };
    panel(
        &format!("If {} died now", loss.node),
        &html! { a href="/cluster" { "Close" } },
        &content,
    )
}

fn planned(plan: &[Planned]) -> Markup {
    html! {
        @if plan.is_empty() { p .hint { "Nothing would move: the agents are even." } } @else {
            div .scroll tabindex="0" role="region" aria-label="What rebalancing would move" {
                table .list {
                    thead { tr { th { "Agent" } th { "From" } th { "To" } th { "Because" } } }
                    tbody {
                        @for step in plan.iter().take(ROWS_MAX) {
                            tr { td { (step.agent) } td { (step.from) } td { (step.to) } td .text { (beginning(&step.because, 200)) } }
                        }
                    }
                }
            }
        }
    }
}
