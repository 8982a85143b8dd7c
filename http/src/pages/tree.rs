//! `/tree`: who supervises whom, on this node and the others, as it stands now.
//!
//! A supervisor of thousands shows those that need a look, then as many others as fit; the rest
//! is counted. Another node says of itself what its own `GET /v1/tree` says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use maud::{Markup, html};
use regrow_cluster::agents::Known;
use regrow_runtime::access::scope::Scope;
use regrow_runtime::clock::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::agent::{Menu, menu};
use super::frame::Place;
use super::live::{Memo, Page, answer};
use super::parts::{nothing, pill, time};
use super::visit::Visit;
use super::words::{Tone, beginning, count, several};
use crate::auth::Caller;
use crate::elsewhere;
use crate::error::ApiError;
use crate::params::Params;
use crate::routes::Answer;
use crate::state::ApiState;

/// Children of one supervisor that are shown.
pub(crate) const SHOWN_MAX: usize = 60;
/// How long an end is news.
const NEWS: Duration = Duration::from_secs(15);
/// How long what other nodes say is good for.
const TERM: Duration = Duration::from_secs(1);

/// `GET /tree`
pub(crate) async fn show(visit: Visit, params: Params) -> Answer {
    params.finish()?;
    answer(TreePage, visit).await
}

struct TreePage;

/// One line of a tree, as a node tells it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Branch {
    id: String,
    path: String,
    kind: String,
    role: String,
    state: String,
    generation: u64,
    restarts: u64,
    mailbox_depth: Option<u64>,
    started_at: Option<Timestamp>,
    last_exit: Option<Exit>,
    children: Vec<Branch>,
    /// Children that are left out here.
    left_out: usize,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Exit {
    text: String,
    at: Timestamp,
}

impl Branch {
    fn is_well(&self) -> bool {
        matches!(self.state.as_str(), "running" | "stopped")
    }

    fn needs_a_look(&self) -> bool {
        !self.is_well() || 0 < self.restarts
    }

    /// Leaves out what is too much: those that need a look stay before the others.
    fn bounded(mut self) -> Self {
        if SHOWN_MAX < self.children.len() {
            let mut kept = 0;
            let all = self.children.len();
            let looks = self.children.iter().filter(|it| it.needs_a_look()).count();
            let mut room = SHOWN_MAX.saturating_sub(looks);
            self.children.retain(|child| {
                let keep = if child.needs_a_look() {
                    kept < SHOWN_MAX
                } else if 0 < room {
                    room -= 1;
                    true
                } else {
                    false
                };
                kept += usize::from(keep);
                keep
            });
            self.left_out = all - self.children.len();
        }
        self.children = self.children.into_iter().map(Self::bounded).collect();
        self
    }
}

/// What each node says of itself, or why nothing is known.
pub(crate) type Trees = BTreeMap<String, Result<Branch, String>>;

/// The trees, gathered once for all who look.
#[derive(Debug)]
pub(crate) struct TreeLook(Memo<Trees>);

impl Default for TreeLook {
    fn default() -> Self {
        Self(Memo::new(TERM))
    }
}

async fn trees(state: &ApiState, caller: &Caller) -> Trees {
    let read = |tree: Value| {
        let branch: Result<Branch, _> = serde_json::from_value(tree);
        branch
            .map(Branch::bounded)
            .map_err(|error| error.to_string())
    };
    let others = elsewhere::gathered(state, caller, "/v1/tree")
        .await
        .into_iter();
    let mut trees: Trees = others
        .map(|(node, said)| (node, said.and_then(read)))
        .collect();
    trees.insert(state.node.clone(), read(state.agents.tree()));
    trees
}

impl Page for TreePage {
    const PLACE: Place = Place::Tree;

    fn title(&self) -> String {
        "Tree".to_owned()
    }

    async fn draw(&self, visit: &Visit) -> Result<Markup, ApiError> {
        let state = &visit.state;
        let caller = visit.caller()?;
        let trees: Arc<Trees> = state.pages.tree.0.get(trees(state, &caller)).await;
        let placed = state.cluster.list().await.unwrap_or_default();
        let placed: BTreeMap<&str, &Known> = placed.iter().map(|it| (it.id.as_str(), it)).collect();
        let nodes: Vec<String> = trees.keys().cloned().collect();
        let drawing = Drawing {
            now: state.queue.clock().now(),
            placed,
            nodes: &nodes,
            may: visit.may(Scope::Operate),
        };
        let here = &state.node;
        let mut order: Vec<&String> = trees.keys().collect();
        order.sort_by_key(|name| (*name != here, *name));
        Ok(html! {
            div .title {
                h1 { "Tree" }
                p .lead { "Who runs under whom. What fails is started again by the line above it." }
            }
            @for name in order {
                section .panel aria-label=(format!("Node {name}")) {
                    header {
                        h2 { (name) @if name == here { " " span .hint { "this node" } } }
                        @match &trees[name] {
                            Ok(root) => { span .hint { (totals(root)) } }
                            Err(_) => { (pill(Tone::Bad, "not known")) }
                        }
                    }
                    @match &trees[name] {
                        Ok(root) => { (drawing.table(root, name, name == here)) }
                        Err(why) => {
                            (nothing(&format!("Its tree is not known: {why}."), &html! { p { a href="/cluster" { "How the nodes stand" } } }))
                        }
                    }
                }
            }
        })
    }
}

fn totals(root: &Branch) -> String {
    let mut sum = (0, 0, 0);
    add(root, &mut sum);
    let (children, restarts, unwell) = sum;
    let mut text = format!(
        "{}, {}",
        several(children, "child", "children"),
        several(restarts, "restart", "restarts")
    );
    if 0 < unwell {
        text.push_str(&format!(", {} not running", count(unwell)));
    }
    text
}

fn add(branch: &Branch, sum: &mut (u64, u64, u64)) {
    for child in &branch.children {
        sum.0 += 1;
        sum.1 += child.restarts;
        sum.2 += u64::from(!child.is_well());
        add(child, sum);
    }
    sum.0 += branch.left_out as u64;
}

struct Drawing<'a> {
    now: Timestamp,
    placed: BTreeMap<&'a str, &'a Known>,
    nodes: &'a [String],
    may: bool,
}

impl Drawing<'_> {
    fn table(&self, root: &Branch, node: &str, here: bool) -> Markup {
        html! {
            div .scroll tabindex="0" role="region" aria-label=(format!("Tree of {node}")) {
                table .list .tree {
                    thead {
                        tr {
                            th { "Name" } th { "Role" } th { "State" } th .number { "Life" } th .number { "Restarts" }
                            th { "Last exit" } th .number { "Mailbox" } th { "Running since" } th .number { "Lease epoch" } th { "" }
                        }
                    }
                    tbody { (self.rows(root, 0, node, here)) }
                }
            }
        }
    }

    fn rows(&self, branch: &Branch, depth: usize, node: &str, here: bool) -> Markup {
        html! {
            (self.row(branch, depth, node, here))
            @for child in &branch.children { (self.rows(child, depth + 1, node, here)) }
            @if 0 < branch.left_out {
                tr { td colspan="10" .(indent(depth + 1)) {
                    span .hint { (several(branch.left_out as u64, "more child runs", "more children run")) " as it should; " a href="/agents" { "the agents" } " can be searched." }
                } }
            }
        }
    }

    fn row(&self, branch: &Branch, depth: usize, node: &str, here: bool) -> Markup {
        let ended = branch.last_exit.as_ref();
        let fresh = ended.is_some_and(|exit| self.now.since(exit.at) < NEWS) && 0 < branch.restarts;
        let known = self.placed.get(branch.id.as_str()).copied();
        let is_agent = branch.kind == "worker"
            && (branch.path.starts_with("root/agents/") || branch.path.starts_with("root/placed/"));
        let (tone, text) = match branch.state.as_str() {
            "running" if fresh => (Tone::Attention, "regrown"),
            "running" => (Tone::Good, "running"),
            "stopped" => (Tone::Quiet, "stopped"),
            "backing_off" => (Tone::Bad, "backing off"),
            "restarting" => (Tone::Bad, "restarting"),
            "starting" => (Tone::Active, "starting"),
            "stopping" => (Tone::Active, "stopping"),
            _ => (Tone::Calm, "not known"),
        };
        // A new life is a new line, which the style sheet lets light up.
        let id = format!(
            "l-{node}-{}-{}",
            branch.path.replace('/', "-"),
            branch.generation
        );
        html! {
            tr #(id) .fresh[fresh] {
                td .(indent(depth)) {
                    @if is_agent { a href=(format!("/agents/{}", branch.id)) { (branch.id) } }
                    @else { b { (branch.id) } }
                }
                td { (branch.role) }
                td { (pill(tone, text)) }
                td .number { (branch.generation) }
                td .number { (count(branch.restarts)) }
                td .text {
                    @if let Some(exit) = ended {
                        span .error[fresh] { (beginning(&exit.text, 80)) } " " span .hint { (time(exit.at)) }
                    } @else { span .hint { "none" } }
                }
                td .number { @match branch.mailbox_depth { Some(depth) => { (count(depth)) } None => { "–" } } }
                td { @match branch.started_at { Some(at) => { (time(at)) } None => { "–" } } }
                td .number { @if let Some(known) = known { (known.epoch) } @else { "–" } }
                td {
                    @if is_agent {
                        (menu(&Menu {
                            id: &branch.id,
                            known,
                            runs: branch.state != "stopped",
                            nodes: self.nodes,
                            barred: self.barred(known, node, here),
                        }))
                    }
                }
            }
        }
    }

    fn barred(&self, known: Option<&Known>, node: &str, here: bool) -> Option<String> {
        if !self.may {
            return Some(super::parts::NEEDS_OPERATE.to_owned());
        }
        (known.is_none() && !here).then(|| format!("It belongs to {node} alone: order it there"))
    }
}

/// How far a line is moved in, as a class.
fn indent(depth: usize) -> &'static str {
    ["in0", "in1", "in2", "in3", "in4", "in5"][depth.min(5)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_thousands_those_that_need_a_look_are_shown() {
        let child = |n: u64, restarts| Branch {
            id: format!("worker-{n}"),
            state: "running".to_owned(),
            restarts,
            ..Branch::default()
        };
        let root = Branch {
            children: (0..10_000)
                .map(|n| child(n, u64::from(n % 1_000 == 999)))
                .collect(),
            ..Branch::default()
        };
        let root = root.bounded();
        assert_eq!(root.children.len(), SHOWN_MAX);
        assert_eq!(root.left_out, 10_000 - SHOWN_MAX);
        assert_eq!(
            root.children.iter().filter(|it| 0 < it.restarts).count(),
            10
        );
        assert!(
            totals(&root).starts_with("10,000 children, 10 restarts"),
            "{}",
            totals(&root)
        );
    }
}
