//! The tasks of all nodes in one list, newest first.
//!
//! Each node is asked for a page of its own, at once, and the pages are merged. A node that does
//! not answer is named with the reason, and its tasks are missing; a later page has them if it is
//! back. Bounded by what one page may hold, times the number of nodes.

use std::collections::BTreeMap;

use axum::response::Response;
use regrow_cluster::member::NodeName;
use regrow_runtime::ids::TaskId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::auth::Caller;
use crate::error::{ApiError, Code};
use crate::routes::ok;
use crate::state::ApiState;

/// Where the next page begins at each node, as `NODE:ID` or `NODE:-`, with commas in between. A
/// node that is not named begins with its newest task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor(BTreeMap<String, Option<TaskId>>);

impl Cursor {
    /// # Errors
    ///
    /// [`Code::InvalidParameter`]
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        let one = |part: &str| {
            let (node, id) = part.rsplit_once(':')?;
            let id = match id {
                "-" => None,
                id => Some(id.parse().ok()?),
            };
            Some((node.to_owned(), id))
        };
        let parts: Option<BTreeMap<_, _>> = text.split(',').map(one).collect();
        parts.map(Self).ok_or_else(|| {
            let detail = "cursor must be the next_cursor of a list with cluster=true";
            ApiError::new(Code::InvalidParameter, detail)
        })
    }

    fn text(&self) -> String {
        let one = |(node, id): (&String, &Option<TaskId>)| match id {
            Some(id) => format!("{node}:{id}"),
            None => format!("{node}:-"),
        };
        self.0.iter().map(one).collect::<Vec<_>>().join(",")
    }
}

/// A page of one node.
#[derive(Debug, Deserialize)]
struct OfNode {
    tasks: Vec<Box<RawValue>>,
    next_cursor: Option<TaskId>,
}

/// What is left of a page, oldest first, and whether another one follows.
type Rest = (Vec<(TaskId, Box<RawValue>)>, bool);

#[derive(Deserialize)]
struct Named {
    id: TaskId,
}

/// A page of all.
#[derive(Debug, Serialize)]
struct Merged {
    tasks: Vec<Box<RawValue>>,
    /// Where the next page begins; null on the last.
    next_cursor: Option<String>,
    /// Why of some nodes nothing is in it.
    unknown: BTreeMap<String, String>,
}

/// `query` is what the client asked for, without its cursor and its limit; `here` gives this
/// node's own page behind a task, as JSON.
pub(crate) async fn listed(
    state: &ApiState,
    caller: &Caller,
    query: &str,
    cursor: Cursor,
    limit: usize,
    here: impl AsyncFnOnce(Option<TaskId>) -> Result<String, ApiError>,
) -> Result<Response, ApiError> {
    let mut pages = BTreeMap::new();
    let mut unknown = BTreeMap::new();
    let mut take = |node: String, page: Result<OfNode, String>| match page {
        Ok(page) => drop(pages.insert(node, page)),
        Err(why) => drop(unknown.insert(node, why)),
    };
    let is_done = |node: &str| cursor.0.get(node) == Some(&None);
    let target = |node: &NodeName| {
        let after = cursor.0.get(node.as_str()).copied();
        let cursor = match after {
            Some(None) => return None,
            Some(Some(id)) => format!("&cursor={id}"),
            None => String::new(),
        };
        Some(format!("/v1/tasks?limit={limit}{cursor}{query}"))
    };
    let others = super::gathered_by(state, caller, target);
    if !is_done(&state.node) {
        let after = cursor.0.get(&state.node).copied().flatten();
        let page = serde_json::from_str(&here(after).await?);
        take(state.node.clone(), page.map_err(|error| error.to_string()));
    }
    for (node, page) in others.await {
        take(node, page.and_then(|told| super::heard(&told)));
    }
    ok(&merge(pages, unknown, cursor, limit))
}

/// The newest tasks of all pages. Behind the last task of a page that goes on nothing older of
/// others is taken: what follows there may be newer.
fn merge(
    pages: BTreeMap<String, OfNode>,
    unknown: BTreeMap<String, String>,
    mut cursor: Cursor,
    limit: usize,
) -> Merged {
    let id_of = |task: &RawValue| serde_json::from_str::<Named>(task.get()).map(|it| it.id);
    let mut rest: BTreeMap<String, Rest> = BTreeMap::new();
    for (node, page) in pages {
        let tasks = page.tasks.into_iter();
        let mut tasks: Vec<_> = tasks
            .filter_map(|task| Some((id_of(&task).ok()?, task)))
            .collect();
        tasks.reverse();
        rest.insert(node, (tasks, page.next_cursor.is_some()));
    }
    let mut tasks = Vec::new();
    while tasks.len() < limit {
        if rest
            .values()
            .any(|(tasks, goes_on)| tasks.is_empty() && *goes_on)
        {
            break;
        }
        let heads = rest
            .iter()
            .filter_map(|(node, (tasks, _))| Some((tasks.last()?.0, node)));
        let Some((id, node)) = heads.max().map(|(id, node)| (id, node.clone())) else {
            break;
        };
        let task = rest.get_mut(&node).and_then(|(tasks, _)| tasks.pop());
        tasks.extend(task.and_then(|(_, task)| named(&node, &task)));
        cursor.0.insert(node, Some(id));
    }
    let mut goes_on = false;
    for (node, (tasks, more)) in rest {
        if tasks.is_empty() && !more {
            cursor.0.insert(node, None);
        } else {
            goes_on = true;
        }
    }
    Merged {
        tasks,
        next_cursor: goes_on.then(|| cursor.text()),
        unknown,
    }
}

/// The task with the node that has it.
fn named(node: &str, task: &RawValue) -> Option<Box<RawValue>> {
    let rest = task.get().strip_prefix('{')?;
    // Names of nodes need no escapes: letters, digits and a few signs.
    RawValue::from_string(format!("{{\"node\":\"{node}\",{rest}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(ids: &[TaskId], goes_on: bool) -> OfNode {
        let task = |id: &TaskId| RawValue::from_string(format!("{{\"id\":\"{id}\"}}"));
        OfNode {
            tasks: ids.iter().map(|id| task(id).expect("JSON")).collect(),
            next_cursor: ids.last().copied().filter(|_| goes_on),
        }
    }

    fn ids(merged: &Merged) -> Vec<TaskId> {
        let id = |task: &str| serde_json::from_str::<Named>(task).expect("an id").id;
        merged.tasks.iter().map(|task| id(task.get())).collect()
    }

    #[test]
    fn page_by_page_every_task_of_every_node_is_listed_once_and_newest_first() {
        let mut all: Vec<TaskId> = (0..50).map(|_| TaskId::fresh()).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        let names = ["a", "b", "c"];
        // Unevenly, and c has none.
        let of = |node: usize| -> Vec<TaskId> {
            let numbered = all.iter().enumerate();
            let own = numbered.filter(|(at, _)| usize::from(at % 7 < 2) == node);
            own.map(|(_, id)| *id).collect()
        };
        for (limit, size) in [(1, 1), (5, 5), (7, 3), (100, 100)] {
            let (mut cursor, mut seen) = (Cursor::default(), Vec::new());
            for _ in 0..200 {
                let mut pages = BTreeMap::new();
                for (number, node) in names.iter().enumerate() {
                    let after = cursor.0.get(*node).copied();
                    if after == Some(None) {
                        continue;
                    }
                    let left: Vec<TaskId> = of(number)
                        .into_iter()
                        .filter(|id| after.flatten().is_none_or(|after| *id < after))
                        .collect();
                    let cut = left.len().min(size);
                    pages.insert((*node).to_owned(), page(&left[..cut], cut < left.len()));
                }
                let merged = merge(pages, BTreeMap::new(), cursor.clone(), limit);
                assert!(merged.tasks.len() <= limit);
                seen.extend(ids(&merged));
                match merged.next_cursor {
                    Some(next) => cursor = Cursor::parse(&next).expect("our own"),
                    None => break,
                }
            }
            assert_eq!(seen, all, "{limit} of pages of {size}");
        }
    }

    #[test]
    fn a_node_that_did_not_answer_is_named_and_keeps_its_place() {
        let (id, other) = (TaskId::fresh(), TaskId::fresh());
        let cursor = Cursor::parse(&format!("a:{id},b:{other}")).expect("a cursor");
        let unknown = BTreeMap::from([("b".to_owned(), "away".to_owned())]);
        let pages = BTreeMap::from([("a".to_owned(), page(&[id, other], true))]);
        let merged = merge(pages, unknown.clone(), cursor, 1);
        assert_eq!(merged.unknown, unknown);
        let next = Cursor::parse(&merged.next_cursor.expect("more")).expect("our own");
        assert_eq!(next.0["b"], Some(other));
        let first = merged.tasks[0].get();
        assert!(first.starts_with("{\"node\":\"a\",\"id\""), "{first}");
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        for text in ["", "x", "a:", "a:b", "a:-,"] {
            assert!(Cursor::parse(text).is_err(), "{text:?}");
        }
        let cursor = Cursor::parse("a:-,b.c-d:0190a6a0-0000-7000-8000-000000000000");
        assert_eq!(cursor.expect("one").0.len(), 2);
    }
}
