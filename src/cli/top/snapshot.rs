//! What a node said of itself at one moment, as far as it is shown.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// Paths that are asked for, by the name of the part.
pub(super) const PARTS: [(&str, &str); 6] = [
    ("health", "/health/deep"),
    ("queue", "/v1/queue"),
    ("tree", "/v1/tree"),
    ("agents", "/v1/agents"),
    ("nodes", "/v1/cluster/nodes"),
    ("tasks", "/v1/tasks?limit=100"),
];

/// The parts that answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) health: Health,
    pub(super) queue: QueueNow,
    pub(super) tree: Branch,
    pub(super) placed: Vec<Placed>,
    pub(super) nodes: Vec<Node>,
    pub(super) tasks: Vec<Task>,
    /// Parts that did not answer, with why.
    pub(super) missing: Vec<String>,
}

impl Snapshot {
    /// Reads what answered; fields that are not known are left out.
    pub(super) fn read(parts: &BTreeMap<&'static str, Value>, missing: Vec<String>) -> Self {
        let part = |name: &str| parts.get(name).cloned().unwrap_or_default();
        let agents: Agents = read(part("agents"));
        let nodes: Nodes = read(part("nodes"));
        let tasks: Tasks = read(part("tasks"));
        Self {
            health: read(part("health")),
            queue: read(part("queue")),
            tree: read(part("tree")),
            placed: agents.placed,
            nodes: nodes.nodes,
            tasks: tasks.tasks,
            missing,
        }
    }
}

fn read<T: Default + for<'a> Deserialize<'a>>(value: Value) -> T {
    serde_json::from_value(value).unwrap_or_default()
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Health {
    pub(super) status: String,
    pub(super) version: String,
    pub(super) uptime_seconds: u64,
    pub(super) checks: BTreeMap<String, Check>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Check {
    pub(super) status: String,
    pub(super) detail: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct QueueNow {
    pub(super) size: u64,
    pub(super) max_size: u64,
    pub(super) bytes: u64,
    pub(super) paused: bool,
    pub(super) draining: bool,
    pub(super) parked: u64,
    pub(super) states: BTreeMap<String, u64>,
    pub(super) lanes: BTreeMap<String, u64>,
    pub(super) kinds: BTreeMap<String, u64>,
    pub(super) counters: BTreeMap<String, u64>,
    pub(super) fairness: Fairness,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Fairness {
    pub(super) classes: BTreeMap<String, Share>,
    pub(super) tenants: BTreeMap<String, Share>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Share {
    pub(super) waiting: u64,
    pub(super) share: f64,
    pub(super) fair_share: f64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Branch {
    pub(super) id: String,
    pub(super) path: String,
    pub(super) kind: String,
    pub(super) state: String,
    pub(super) restarts: u64,
    pub(super) mailbox_depth: Option<u64>,
    pub(super) uptime_ms: Option<u64>,
    pub(super) last_exit: Value,
    pub(super) children: Vec<Branch>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Agents {
    placed: Vec<Placed>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Placed {
    pub(super) id: String,
    pub(super) state: String,
    pub(super) node: Option<String>,
    pub(super) epoch: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Nodes {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) here: bool,
    pub(super) agents: u64,
    pub(super) lease_left_ms: Option<u64>,
    pub(super) note: Value,
    pub(super) session: Value,
    pub(super) heard: Value,
    pub(super) watched: Value,
    pub(super) report: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tasks {
    tasks: Vec<Task>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Task {
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) state: String,
    pub(super) priority: String,
    pub(super) attempt: u64,
    pub(super) max_attempts: u64,
    pub(super) worker: Option<String>,
    pub(super) error: Option<String>,
    pub(super) last_error: Option<String>,
}
