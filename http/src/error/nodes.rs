//! Failures that have to do with other nodes.

use std::time::Duration;

use regrow_cluster::member::NodeName;
use regrow_runtime::ids::TaskId;
use serde_json::Value;

use super::{ApiError, Code};

/// When a node that is away may be back.
const BACK_AFTER: Duration = Duration::from_secs(5);

fn named(nodes: &[NodeName]) -> String {
    let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
    names.join(", ")
}

impl ApiError {
    /// The lease's task is another node's, whose HTTP surface is at `http` if that is known.
    pub(crate) fn wrong_node(task: TaskId, node: &str, http: Option<String>) -> Self {
        let at = http
            .as_ref()
            .map(|http| format!(", at {http}"))
            .unwrap_or_default();
        let detail = format!(
            "task {task} is with node {node}{at}: a lease is renewed and settled at the node that \
             gave it"
        );
        Self::new(Code::WrongNode, detail)
            .with("task", task.to_string())
            .with("node", node)
            .with("http", http.map_or(Value::Null, Value::from))
    }

    /// A stream that another node would have to carry on.
    pub(crate) fn streams_here(node: &str) -> Self {
        let detail = format!("streams do not travel between nodes; ask node {node} itself");
        Self::new(Code::WrongNode, detail).with("node", node)
    }

    /// Nobody who answers has it, and these do not answer. Nothing was changed.
    pub(crate) fn away(nodes: &[NodeName]) -> Self {
        let detail = format!(
            "no node that answers has it; it may be with a node that is away: {}",
            named(nodes)
        );
        Self::new(Code::NodeAway, detail)
            .with("away", named_values(nodes))
            .retry_after(BACK_AFTER)
    }

    /// These nodes did not answer in time, and may have done what was asked.
    pub(crate) fn unsure(nodes: &[NodeName]) -> Self {
        let detail = format!(
            "no answer from {}; a change may have been made there or not. Look, or repeat a \
             submission with the same idempotency key",
            named(nodes)
        );
        Self::new(Code::TimedOut, detail)
            .with("away", named_values(nodes))
            .retry_after(BACK_AFTER)
    }
}

fn named_values(nodes: &[NodeName]) -> Vec<Value> {
    nodes.iter().map(|node| node.as_str().into()).collect()
}
