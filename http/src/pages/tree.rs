//! `/tree`: who supervises whom, on this node and the others, as it stands now.
//!
//! A supervisor of thousands shows those that need a look, then as many others as fit; the rest
//! is counted, and shown page by page under the supervisor's own address. Another node is asked for
//! the same page, as data: what travels and what is drawn is bounded, however many run there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use maud::{Markup, html};
use regrow_cluster::agents::Known;
use regrow_runtime::access::scope::Scope;
use regrow_runtime::clock::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::agent::{Menu, menu};
use super::frame::Place;
use super::live::{Memo, Page, answer};
use super::parts::{nothing, pill, time};
use super::tasks::escaped;
use super::visit::Visit;
use super::words::{Tone, beginning, count, several};
use crate::auth::Caller;
use crate::elsewhere;
use crate::error::{ApiError, Code};
use crate::params::Params;
use crate::routes::{Answer, ok};
use crate::state::ApiState;

/// Children of one supervisor that are shown.
pub(crate) const SHOWN_MAX: usize = 60;
/// How long an end is news.
const NEWS: Duration = Duration::from_secs(15);
/// How long what other nodes say is good for.
const TERM: Duration = Duration::from_secs(1);

/// `GET /tree`, with `node`, `path` and `from` for the children of one supervisor.
pub(crate) async fn show(visit: Visit, mut params: Params) -> Answer {
    let node = params.text("node");
    let path = params.text("path");
    let from = params.number("from", 0..=u64::from(u32::MAX)).unwrap_or(0);
    params.finish()?;
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let state = &visit.state;
    if visit.relayed {
        return match path {
            Some(path) => ok(&own_level(state, &path, from)?),
            None => ok(&own(state).map_err(unreadable)?),
        };
    }
    match path {
        Some(path) => {
            let node = node.unwrap_or_else(|| state.node.clone());
            answer(LevelPage { node, path, from }, visit).await
        }
        None => answer(TreePage, visit).await,
    }
}

fn unreadable(why: String) -> ApiError {
    ApiError::new(Code::Internal, format!("the tree cannot be read: {why}"))
}

struct TreePage;

/// The children of one supervisor, page by page.
struct LevelPage {
    node: String,
    path: String,
    from: usize,
}

/// How many run below a line, and how they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Below {
    children: u64,
    restarts: u64,
    unwell: u64,
}

/// One line of a tree, as a node tells it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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
    /// All that run below it, left out or not.
    below: Below,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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

    /// Counts what runs below each line.
    fn counted(mut self) -> Self {
        let children = self.children.into_iter().map(Self::counted);
        self.children = children.collect();
        self.below = Below::default();
        for child in &self.children {
            self.below.children += 1 + child.below.children;
            self.below.restarts += child.restarts + child.below.restarts;
            self.below.unwell += u64::from(!child.is_well()) + child.below.unwell;
        }
        self
    }

    /// The line at `path`.
    fn find(self, path: &str) -> Option<Self> {
        if self.path == path {
            return Some(self);
        }
        let on_the_way = |child: &Self| {
            let rest = path.strip_prefix(child.path.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let next = self.children.into_iter().find(on_the_way)?;
        next.find(path)
    }

    /// The children from `from` on, as many as are shown at once, without what is below them.
    fn level(mut self, from: usize) -> Self {
        let all = self.children.len();
        let children = self.children.into_iter().skip(from).take(SHOWN_MAX);
        self.children = children
            .map(|child| Self {
                children: Vec::new(),
                ..child
            })
            .collect();
        self.left_out = all - self.children.len();
        self
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

fn read(tree: Value) -> Result<Branch, String> {
    serde_json::from_value(tree).map_err(|error| error.to_string())
}

/// This node's tree, bounded.
fn own(state: &ApiState) -> Result<Branch, String> {
    Ok(read(state.agents.tree())?.counted().bounded())
}

/// The children of one supervisor of this node, from `from` on.
fn own_level(state: &ApiState, path: &str, from: usize) -> Result<Branch, ApiError> {
    let tree = read(state.agents.tree()).map_err(unreadable)?.counted();
    let found = tree.find(path).map(|found| found.level(from));
    found.ok_or_else(|| {
        let detail = format!("nothing runs at {path} on node {}", state.node);
        ApiError::new(Code::NotFound, detail)
    })
}

async fn trees(state: &ApiState, caller: &Caller) -> Trees {
    let others = elsewhere::gathered(state, caller, "/tree")
        .await
        .into_iter();
    let mut trees: Trees = others
        .map(|(node, said)| (node, said.and_then(read)))
        .collect();
    trees.insert(state.node.clone(), own(state));
    trees
}

impl Page for LevelPage {
    const PLACE: Place = Place::Tree;

    fn title(&self) -> String {
        format!("{} of {}", self.path, self.node)
    }

    async fn draw(&self, visit: &Visit) -> Result<Markup, ApiError> {
        let state = &visit.state;
        let here = self.node == state.node;
        let branch = match here {
            true => own_level(state, &self.path, self.from)?,
            false => {
                let caller = visit.caller()?;
                let target = format!("/tree?path={}&from={}", escaped(&self.path), self.from);
                let said = elsewhere::said_by(state, &caller, &self.node, &target).await;
                said.and_then(read)
                    .map_err(|why| ApiError::new(Code::NotFound, why))?
            }
        };
        let placed = state.cluster.list().await.unwrap_or_default();
        let nodes = nodes_of(state);
        let drawing = Drawing::new(visit, &placed, &nodes);
        let (shown, all) = (
            branch.children.len(),
            branch.children.len() + branch.left_out,
        );
        let link = |from: usize| level_link(&self.node, &self.path, from);
        Ok(html! {
            nav .trail aria-label="Where this is" { a href="/tree" { "Tree" } " / " (self.node) }
            div .title {
                h1 { (branch.id) }
                p .lead { (totals(&branch)) }
            }
            @if shown == 0 { (nothing("Nothing runs below it here.", &html! { p { a href=(link(0)) { "From the first" } } })) }
            @else { (drawing.table(&Branch { left_out: 0, ..branch.clone() }, &self.node, here)) }
            div .pager {
                p .hint { (count((self.from + shown.min(1)) as u64)) " to " (count((self.from + shown) as u64)) " of " (count(all as u64)) "." }
                @if 0 < self.from { a .button rel="prev" href=(link(self.from.saturating_sub(SHOWN_MAX))) { "Before" } }
                @if self.from + shown < all { a .button rel="next" href=(link(self.from + shown)) { "After" } }
            }
        })
    }
}

fn level_link(node: &str, path: &str, from: usize) -> String {
    format!(
        "/tree?node={}&path={}&from={from}",
        escaped(node),
        escaped(path)
    )
}

/// Where an agent may go.
fn nodes_of(state: &ApiState) -> Vec<String> {
    let others = state.nodes.others().into_iter();
    let mut nodes: Vec<String> = others.map(|name| name.to_string()).collect();
    nodes.push(state.node.clone());
    nodes.sort();
    nodes.dedup();
    nodes
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
        let nodes: Vec<String> = trees.keys().cloned().collect();
        let drawing = Drawing::new(visit, &placed, &nodes);
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
    let Below {
        children,
        restarts,
        unwell,
    } = root.below;
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

struct Drawing<'a> {
    now: Timestamp,
    placed: BTreeMap<&'a str, &'a Known>,
    nodes: &'a [String],
    may: bool,
}

impl<'a> Drawing<'a> {
    fn new(visit: &Visit, placed: &'a [Known], nodes: &'a [String]) -> Self {
        Self {
            now: visit.state.queue.clock().now(),
            placed: placed.iter().map(|it| (it.id.as_str(), it)).collect(),
            nodes,
            may: visit.may(Scope::Operate),
        }
    }

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
                    a href=(level_link(node, &branch.path, 0)) { "All " (count((branch.children.len() + branch.left_out) as u64)) " children" }
                    span .hint { " of which " (count(branch.left_out as u64)) " are not shown here" }
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
                    // Another node's own agents may have the names of this one's.
                    @if is_agent && (here || known.is_some()) { a href=(format!("/agents/{}", branch.id)) { (branch.id) } }
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

    fn child(n: u64, restarts: u64) -> Branch {
        Branch {
            id: format!("worker-{n}"),
            path: format!("root/agents/worker-{n}"),
            state: "running".to_owned(),
            restarts,
            ..Branch::default()
        }
    }

    fn ten_thousand() -> Branch {
        let agents = Branch {
            path: "root/agents".to_owned(),
            state: "running".to_owned(),
            children: (0..10_000)
                .map(|n| child(n, u64::from(n % 1_000 == 999)))
                .collect(),
            ..Branch::default()
        };
        Branch {
            path: "root".to_owned(),
            children: vec![agents],
            ..Branch::default()
        }
    }

    #[test]
    fn of_thousands_those_that_need_a_look_are_shown() {
        let root = ten_thousand().counted().bounded();
        let agents = &root.children[0];
        assert_eq!(agents.children.len(), SHOWN_MAX);
        assert_eq!(agents.left_out, 10_000 - SHOWN_MAX);
        let again = agents.children.iter().filter(|it| 0 < it.restarts);
        assert_eq!(again.count(), 10);
        assert_eq!(totals(&root), "10,001 children, 10 restarts");
        let bytes = serde_json::to_vec(&root).expect("JSON").len();
        assert!(bytes < 32 << 10, "{bytes} bytes travel");
    }

    #[test]
    fn page_by_page_every_child_of_a_supervisor_is_shown_once() {
        let mut shown = Vec::new();
        for page in 0.. {
            let tree = ten_thousand().counted();
            let level = tree.find("root/agents").expect("there").level(shown.len());
            assert!(level.children.len() <= SHOWN_MAX && page < 1_000);
            assert_eq!(level.below.children, 10_000);
            if level.children.is_empty() {
                break;
            }
            shown.extend(level.children.into_iter().map(|it| it.id));
        }
        let all: Vec<String> = (0..10_000).map(|n| format!("worker-{n}")).collect();
        assert_eq!(shown, all);
        assert!(ten_thousand().find("root/agents/worker-77").is_some());
        assert!(ten_thousand().find("root/agent").is_none());
    }
}
