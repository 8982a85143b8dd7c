//! A plan as a graph of named tasks, validated before anything is inserted (pure).

use std::collections::HashMap;

use regrow_runtime::queue::task::{NewChild, NewTask};

/// Tasks of one plan; more are a plan that has gone wrong.
pub const NODES_MAX: usize = 10_000;

/// One task of a plan.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name within the plan.
    pub name: String,
    /// The task.
    pub task: NewTask,
    /// Names of the tasks that must complete first.
    pub after: Vec<String>,
}

/// A plan that cannot be carried out. Nothing was inserted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Nothing to do.
    #[error("plan has no tasks")]
    Empty,
    /// Too much to do.
    #[error("plan has {0} tasks, at most {NODES_MAX}; split the goal")]
    TooLarge(usize),
    /// Two tasks of one name.
    #[error("plan has two tasks named `{0}`")]
    Duplicate(String),
    /// A task waits for one that is not in the plan.
    #[error("task `{name}` comes after `{missing}`, which is not in the plan")]
    Missing {
        /// The task.
        name: String,
        /// What it waits for.
        missing: String,
    },
    /// Tasks that wait for each other.
    #[error("tasks wait for each other: {}", .0.join(", "))]
    Cycle(Vec<String>),
    /// A kind that no role of this node runs.
    #[error("task `{name}` has kind `{kind}`, which no role runs; known: {known}")]
    UnknownKind {
        /// The task.
        name: String,
        /// Its kind.
        kind: String,
        /// The kinds there are.
        known: String,
    },
}

/// Orders a plan so that every task comes after those it waits for, keeping the given
/// order otherwise (Kahn, "Topological sorting of large networks", 1962).
///
/// # Errors
///
/// [`PlanError`], for the first thing found wrong.
pub fn validate(nodes: Vec<Node>, known_kinds: &[&str]) -> Result<Vec<NewChild>, PlanError> {
    if nodes.is_empty() {
        return Err(PlanError::Empty);
    }
    if NODES_MAX < nodes.len() {
        return Err(PlanError::TooLarge(nodes.len()));
    }
    let mut index = HashMap::with_capacity(nodes.len());
    for (position, node) in nodes.iter().enumerate() {
        if index.insert(node.name.clone(), position).is_some() {
            return Err(PlanError::Duplicate(node.name.clone()));
        }
        if !known_kinds.contains(&node.task.kind.as_str()) {
            return Err(PlanError::UnknownKind {
                name: node.name.clone(),
                kind: node.task.kind.clone(),
                known: known_kinds.join(", "),
            });
        }
    }
    let mut waits_for: Vec<Vec<usize>> = Vec::with_capacity(nodes.len());
    let mut releases: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (position, node) in nodes.iter().enumerate() {
        let mut before = Vec::with_capacity(node.after.len());
        for name in &node.after {
            let Some(&earlier) = index.get(name) else {
                return Err(PlanError::Missing {
                    name: node.name.clone(),
                    missing: name.clone(),
                });
            };
            before.push(earlier);
        }
        before.sort_unstable();
        before.dedup();
        for &earlier in &before {
            releases[earlier].push(position);
        }
        waits_for.push(before);
    }
    let mut open: Vec<usize> = waits_for.iter().map(Vec::len).collect();
    let mut ready: std::collections::BTreeSet<usize> = (0..nodes.len())
        .filter(|position| open[*position] == 0)
        .collect();
    let mut placed = vec![None; nodes.len()];
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(position) = ready.pop_first() {
        placed[position] = Some(order.len());
        order.push(position);
        for &later in &releases[position] {
            open[later] -= 1;
            if open[later] == 0 {
                ready.insert(later);
            }
        }
    }
    if order.len() < nodes.len() {
        let stuck = nodes
            .iter()
            .zip(&placed)
            .filter(|(_, place)| place.is_none())
            .map(|(node, _)| node.name.clone())
            .collect();
        return Err(PlanError::Cycle(stuck));
    }
    let mut tasks: Vec<Option<NewTask>> = nodes.into_iter().map(|node| Some(node.task)).collect();
    Ok(order
        .into_iter()
        .filter_map(|position| {
            let after = waits_for[position]
                .iter()
                .filter_map(|one| placed[*one])
                .collect();
            tasks[position].take().map(|task| NewChild { task, after })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regrow_runtime::json::Json;

    use super::*;

    fn node(name: &str, after: &[&str]) -> Node {
        Node {
            name: name.to_owned(),
            task: NewTask::new("k", Json::null()),
            after: after.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn what_is_wrong_with_a_plan_is_said_by_name() {
        let cases = [
            (vec![], "plan has no tasks"),
            (
                vec![node("a", &[]), node("a", &[])],
                "plan has two tasks named `a`",
            ),
            (
                vec![node("a", &["b"])],
                "task `a` comes after `b`, which is not in the plan",
            ),
            (
                vec![
                    node("a", &["c"]),
                    node("b", &["a"]),
                    node("c", &["b"]),
                    node("d", &[]),
                ],
                "tasks wait for each other: a, b, c",
            ),
            (vec![node("a", &["a"])], "tasks wait for each other: a"),
        ];
        for (nodes, expected) in cases {
            let refused = validate(nodes, &["k"]).expect_err(expected);
            assert_eq!(refused.to_string(), expected);
        }
        let refused = validate(vec![node("a", &[])], &["x", "y"]).expect_err("unknown kind");
        assert!(refused.to_string().contains("known: x, y"), "{refused}");
    }

    proptest! {
        #[test]
        fn every_task_comes_after_those_it_waits_for(
            edges in prop::collection::vec((0_usize..40, 0_usize..40), 0..200),
            shuffle in prop::collection::vec(any::<u32>(), 40)
        ) {
            // Edges from smaller to larger labels make an acyclic graph; the labels are then
            // given out of order.
            let mut nodes: Vec<Node> = (0..40).map(|i| node(&i.to_string(), &[])).collect();
            for (a, b) in edges {
                if a != b {
                    nodes[a.max(b)].after.push(a.min(b).to_string());
                }
            }
            let mut keyed: Vec<(u32, Node)> = shuffle.into_iter().zip(nodes).collect();
            keyed.sort_by_key(|(key, _)| *key);
            let children = validate(keyed.into_iter().map(|(_, n)| n).collect(), &["k"])
                .expect("acyclic");
            prop_assert_eq!(children.len(), 40);
            for (position, child) in children.iter().enumerate() {
                prop_assert!(child.after.iter().all(|earlier| *earlier < position));
            }
        }
    }
}
