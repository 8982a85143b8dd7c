//! Leases of tasks that wait at other nodes, for workers and agents that find nothing here.
//!
//! Where nodes share no database, a task stays with the node that took it, and so does its lease:
//! that node gives it, takes it back when it is not renewed, and is asked about everything that
//! the lease's holder does. What stands here is only where each lease came from, in memory; what
//! was forgotten is asked for at every node.
//!
//! *Who is asked.* Nodes say through gossip of which kinds tasks wait with them. Only those are
//! asked, at most [`ASKED_AT_ONCE`] claims at a time; one that gives nothing after all is left
//! alone for a moment. A node that was paused, cordoned, drained or quarantined takes nothing from
//! others.

mod lent;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::Mutex;
use rand::RngExt as _;
use regrow_cluster::exchange::{Exchange, Topic};
use regrow_cluster::member::NodeName;
use regrow_cluster::nodes::{Nodes, Stance};
use regrow_runtime::ids::TaskId;
use regrow_runtime::queue::Queue;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::task::JoinSet;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::relay::{Asked, ask};
use crate::routes::WAIT_MAX;
use crate::state::ApiState;

/// Leases whose node is remembered.
const LEASES_MAX: usize = 100_000;
/// Leases taken from another node with one claim.
const TAKEN_MAX: u64 = 64;
/// Claims of this node that another one answers at once.
const ASKED_AT_ONCE: usize = 16;
/// Longest wait for an answer to a claim.
const CLAIM: Duration = Duration::from_secs(5);
/// How often is looked where tasks wait, while there are none here, in milliseconds: drawn anew
/// each time, so that workers do not ask together.
const LOOK_MS: std::ops::Range<u64> = 150..400;
/// For how long a node is left alone that gave nothing, in milliseconds: until it has said anew
/// what waits with it.
const REST_MS: std::ops::Range<u64> = 500..1_500;
/// How long it is believed what an operator asks of this node.
const STANCE_FOR: Duration = Duration::from_secs(1);
/// Most bytes of a worker's name.
const WORKER_BYTES_MAX: usize = 128;

/// Claims that were answered with leases of another node (count). Rising: tasks are submitted to
/// other nodes than those with workers.
pub(crate) const LEASES_BORROWED: &str = "regrow_claims_answered_elsewhere_total";

/// How long a claim may wait here, though its worker would wait longer: other nodes are looked at
/// in between.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitsAtMost(pub(crate) Duration);

/// Marks the answer to a claim for which there is nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NothingHere;

/// What this node leases from others, for workers over HTTP and for its own agents: which leases
/// came from where, and who is asked at present. Cheap to clone.
#[derive(Clone)]
pub struct Borrowing(Arc<Inner>);

struct Inner {
    node: String,
    queue: Queue,
    nodes: Nodes,
    exchange: Exchange,
    leases: Mutex<Leases>,
    asked: Mutex<BTreeMap<NodeName, usize>>,
    rests: Mutex<HashMap<(NodeName, String), Instant>>,
    stance: Mutex<Option<(Instant, Option<Stance>)>>,
    /// Claims for agents, and what came too late on its way back.
    apart: Mutex<JoinSet<()>>,
}

impl Borrowing {
    /// For the node called `node`: nothing is borrowed yet.
    #[must_use]
    pub fn new(node: &str, queue: &Queue, nodes: &Nodes, exchange: &Exchange) -> Self {
        Self(Arc::new(Inner {
            node: node.to_owned(),
            queue: queue.clone(),
            nodes: nodes.clone(),
            exchange: exchange.clone(),
            leases: Mutex::default(),
            asked: Mutex::default(),
            rests: Mutex::default(),
            stance: Mutex::default(),
            apart: Mutex::default(),
        }))
    }

    /// Other nodes at which tasks of these kinds wait, and how many, if this one may take some.
    async fn lenders(&self, kinds: &[String]) -> Vec<(NodeName, u64)> {
        let lenders = self.0.nodes.waiting_at(kinds, &self.0.exchange.connected());
        let takes_none = lenders.is_empty() || self.0.queue.is_paused() || self.0.queue.is_shared();
        if takes_none || self.stance().await.is_some() {
            return Vec::new();
        }
        let (kinds, now) = (kinds.join(","), Instant::now());
        let mut rests = self.0.rests.lock();
        rests.retain(|_, until| now < *until);
        let rests = |node: &NodeName| rests.contains_key(&(node.clone(), kinds.clone()));
        let rested = lenders.into_iter().filter(|(node, _)| !rests(node));
        rested.collect()
    }

    /// Leaves a node alone for a moment that gave nothing of these kinds.
    fn rest(&self, node: &NodeName, kinds: &[String]) {
        let rest = Duration::from_millis(rand::rng().random_range(REST_MS));
        let of = (node.clone(), kinds.join(","));
        self.0.rests.lock().insert(of, Instant::now() + rest);
    }

    /// What an operator asks of this node, as of lately.
    pub(super) async fn stance(&self) -> Option<Stance> {
        let known = *self.0.stance.lock();
        if let Some((at, stance)) = known
            && at.elapsed() < STANCE_FOR
        {
            return stance;
        }
        // While the store is away nothing new is known.
        let stance = self.0.nodes.stance(&self.0.node).await.unwrap_or(None);
        *self.0.stance.lock() = Some((Instant::now(), stance));
        stance
    }
}

#[derive(Debug, Default)]
struct Leases {
    nodes: HashMap<TaskId, NodeName>,
    oldest: VecDeque<TaskId>,
}

impl Leases {
    fn remember(&mut self, task: TaskId, node: &NodeName) {
        if self.nodes.insert(task, node.clone()).is_none() {
            self.oldest.push_back(task);
        }
        while LEASES_MAX < self.oldest.len() {
            if let Some(forgotten) = self.oldest.pop_front() {
                self.nodes.remove(&forgotten);
            }
        }
    }
}

/// One claim among those that a node answers.
struct Asking<'a> {
    asked: &'a Mutex<BTreeMap<NodeName, usize>>,
    node: NodeName,
}

impl<'a> Asking<'a> {
    /// One more, unless `max` are under way.
    fn begin(
        asked: &'a Mutex<BTreeMap<NodeName, usize>>,
        node: &NodeName,
        max: usize,
    ) -> Option<Self> {
        let mut counts = asked.lock();
        let under_way = counts.get(node).copied().unwrap_or(0);
        if max <= under_way {
            return None;
        }
        *counts.entry(node.clone()).or_default() += 1;
        let node = node.clone();
        Some(Self { asked, node })
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut counts = self.asked.lock();
        if let Some(count) = counts.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.node);
            }
        }
    }
}

/// What a claim asks for, as far as others may have it.
#[derive(Deserialize)]
struct Wish {
    kinds: Vec<String>,
    #[serde(default)]
    wait_ms: u64,
}

/// Answers a claim: here, or with what waits elsewhere.
///
/// A client that goes away while another node is asked leaves what that one gives to expire.
pub(super) async fn claimed(
    state: &ApiState,
    parts: Parts,
    body: Vec<u8>,
    next: Next,
) -> Result<Response, ApiError> {
    let here = async |slice: Option<Duration>| {
        let mut request = Request::from_parts(parts.clone(), Body::from(body.clone()));
        if let Some(slice) = slice {
            request.extensions_mut().insert(WaitsAtMost(slice));
        }
        next.clone().run(request).await
    };
    let Ok(wish) = serde_json::from_slice::<Wish>(&body) else {
        // The route says what is wrong with it.
        return Ok(here(None).await);
    };
    let (began, wait) = (
        Instant::now(),
        Duration::from_millis(wish.wait_ms).min(WAIT_MAX),
    );
    loop {
        let left = wait.saturating_sub(began.elapsed());
        let lenders = state.borrowing.lenders(&wish.kinds).await;
        if lenders.is_empty() {
            tokio::select! {
                // In this order, so that what was given here is not thrown away.
                biased;
                response = here(Some(left)) => return Ok(response),
                () = until_lent(state, &wish.kinds) => continue,
            }
        }
        let response = here(Some(Duration::ZERO)).await;
        if response.extensions().get::<NothingHere>().is_none() {
            return Ok(response);
        }
        for (node, _) in lenders {
            if let Some(lent) = borrow(state, &parts, &body, &wish, &node).await {
                return Ok(lent);
            }
        }
        if left.is_zero() {
            return Ok(response);
        }
    }
}

/// Returns when tasks of these kinds wait elsewhere.
async fn until_lent(state: &ApiState, kinds: &[String]) {
    loop {
        let pause = Duration::from_millis(rand::rng().random_range(LOOK_MS));
        tokio::time::sleep(pause).await;
        if !state.borrowing.lenders(kinds).await.is_empty() {
            return;
        }
    }
}

/// The answer of another node that leases something.
async fn borrow(
    state: &ApiState,
    parts: &Parts,
    body: &[u8],
    wish: &Wish,
    node: &NodeName,
) -> Option<Response> {
    let _asking = Asking::begin(&state.borrowing.0.asked, node, ASKED_AT_ONCE)?;
    let asked = Asked::copy(parts, passed_on(body, &state.node)?);
    let told = ask(state, node, &asked, CLAIM, None).await.ok();
    let told = told.filter(crate::relay::Told::is_success);
    let tasks = told.as_ref().map(|told| tasks_of(&told.body));
    match (told, tasks) {
        (Some(told), Some(tasks)) if !tasks.is_empty() => {
            let mut leases = state.borrowing.0.leases.lock();
            for task in tasks {
                leases.remember(task, node);
            }
            metrics::counter!(LEASES_BORROWED).increment(1);
            Some(told.into_response(node))
        }
        _ => {
            state.borrowing.rest(node, &wish.kinds);
            None
        }
    }
}

/// The claim as it is passed on: it does not wait, takes no more than a part, and its worker is
/// seen to be of this node.
fn passed_on(body: &[u8], here: &str) -> Option<Vec<u8>> {
    let mut fields: Map<String, Value> = serde_json::from_slice(body).ok()?;
    fields.insert("wait_ms".to_owned(), 0.into());
    let max = fields.get("max").and_then(Value::as_u64).unwrap_or(1);
    fields.insert("max".to_owned(), max.min(TAKEN_MAX).into());
    let worker = fields.get("worker").and_then(Value::as_str);
    let worker = of_node(here, worker.unwrap_or("http"));
    fields.insert("worker".to_owned(), worker.into());
    serde_json::to_vec(&fields).ok()
}

/// How a worker of this node is named at others.
fn of_node(here: &str, worker: &str) -> String {
    let mut worker = format!("{here}/{worker}");
    worker.truncate(worker.floor_char_boundary(WORKER_BYTES_MAX));
    worker
}

/// The tasks that are leased in an answer to a claim.
fn tasks_of(answer: &[u8]) -> Vec<TaskId> {
    #[derive(Deserialize)]
    struct Leased {
        task: Named,
    }
    #[derive(Deserialize)]
    struct Named {
        id: TaskId,
    }
    let leases: Vec<Leased> = serde_json::from_slice(answer).unwrap_or_default();
    leases.into_iter().map(|lease| lease.task.id).collect()
}

/// What the node says that gave a lease, if it was another one; `unknown` is what this node would
/// say.
pub(super) async fn used(
    state: &ApiState,
    task: TaskId,
    asked: &Asked,
    caller: &Caller,
    unknown: Response,
) -> Result<Response, ApiError> {
    if Topic::Desk.bytes_max() - 8_192 < asked.body.len() {
        // Too large to travel: its worker is told where to bring it.
        return super::lease(state, task, caller, unknown).await;
    }
    let remembered = state.borrowing.0.leases.lock().nodes.get(&task).cloned();
    let connected = state.exchange.connected();
    let among = match remembered {
        Some(node) if connected.contains(&node) => vec![node],
        Some(node) => return Err(ApiError::away(&[node])),
        None => connected,
    };
    super::search(state, asked, among).await.answer(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_passed_on_without_waiting_and_with_its_node() {
        let body = br#"{"kinds":["k"],"wait_ms":900,"max":1000,"worker":"w","lease_ms":2000}"#;
        let passed = passed_on(body, "b").expect("an object");
        let passed: Value = serde_json::from_slice(&passed).expect("JSON");
        let expected = serde_json::json!({
            "kinds": ["k"], "wait_ms": 0, "max": 64, "worker": "b/w", "lease_ms": 2000,
        });
        assert_eq!(passed, expected);
        let long = serde_json::json!({ "kinds": ["k"], "worker": "é".repeat(64) });
        let passed = passed_on(long.to_string().as_bytes(), "b").expect("an object");
        let passed: Value = serde_json::from_slice(&passed).expect("JSON");
        let worker = passed["worker"].as_str().expect("a name");
        assert!(worker.len() <= WORKER_BYTES_MAX && worker.starts_with("b/é"));
    }

    #[test]
    fn leases_are_remembered_up_to_a_bound_and_claims_are_counted() {
        let mut leases = Leases::default();
        let first = TaskId::fresh();
        leases.remember(first, &"a".into());
        leases.remember(first, &"b".into());
        assert_eq!(leases.nodes[&first], "b".into());
        for _ in 0..LEASES_MAX {
            leases.remember(TaskId::fresh(), &"c".into());
        }
        assert_eq!(
            (leases.nodes.len(), leases.oldest.len()),
            (LEASES_MAX, LEASES_MAX)
        );
        assert!(!leases.nodes.contains_key(&first));

        let (asked, node) = (Mutex::default(), NodeName::from("a"));
        let held: Vec<_> = (0..ASKED_AT_ONCE)
            .map(|_| Asking::begin(&asked, &node, ASKED_AT_ONCE).expect("room"))
            .collect();
        assert!(Asking::begin(&asked, &node, ASKED_AT_ONCE).is_none());
        drop(held);
        assert!(asked.lock().is_empty());
    }

    #[test]
    fn the_tasks_of_an_answer_are_read() {
        let id = TaskId::fresh();
        let answer = format!("[{{\"task\":{{\"id\":\"{id}\",\"kind\":\"k\"}},\"epoch\":1}}]");
        assert_eq!(tasks_of(answer.as_bytes()), [id]);
        assert!(tasks_of(b"[]").is_empty() && tasks_of(b"{}").is_empty());
    }
}
