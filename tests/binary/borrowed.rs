//! Workers lease what waits at other nodes, where no database is shared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::elsewhere::connected;
use crate::node::{NodeProcess, PATIENCE};
use crate::peers::{Cluster, Peer, until_connected};

const KIND: &str = "walk";
/// The shortest that a worker may ask for.
const LEASE_MS: u64 = 1_000;

/// What workers did, by task.
#[derive(Default)]
struct Ledger {
    /// Epochs under which a completion was acknowledged.
    completed: BTreeMap<String, BTreeSet<u64>>,
    /// Outcomes that were refused for their epoch.
    stale: usize,
    /// Leases by the node that was asked for them.
    leases: BTreeMap<&'static str, usize>,
}

type Shared = Arc<Mutex<Ledger>>;

/// A worker that asks one node, whatever that one answers, until it is dropped.
async fn work(url: String, http: reqwest::Client, asked: &'static str, ledger: Shared) {
    let post = async |path: &str, body: &Value| -> Option<(u16, Value)> {
        let request = http.post(format!("{url}{path}")).json(body);
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().await.ok()?))
    };
    let claim = json!({ "kinds": [KIND], "wait_ms": 1_000, "lease_ms": LEASE_MS });
    loop {
        let Some((200, leases)) = post("/v1/leases", &claim).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        for lease in leases.as_array().expect("a list") {
            *ledger.lock().leases.entry(asked).or_default() += 1;
            let id = lease["task"]["id"].as_str().expect("an id").to_owned();
            let epoch = lease["epoch"].as_u64().expect("a number");
            let held = json!({ "epoch": epoch, "lease_ms": LEASE_MS });
            post(&format!("/v1/leases/{id}/heartbeat"), &held).await;
            let step = json!({ "epoch": epoch, "key": "walked", "input": 1, "output": 2 });
            post(&format!("/v1/leases/{id}/steps"), &step).await;
            sleep(Duration::from_millis(5)).await;
            let done = json!({ "epoch": epoch, "result": id });
            let path = format!("/v1/leases/{id}/complete");
            loop {
                let answer = post(&path, &done).await;
                assert!(!matches!(answer, Some((404, _))), "lost: {answer:?}");
                match answer {
                    Some((200, _)) => {
                        let mut ledger = ledger.lock();
                        ledger.completed.entry(id).or_default().insert(epoch);
                        break;
                    }
                    // The lease is over: somebody else has it, or had it.
                    Some((409, _)) => {
                        ledger.lock().stale += 1;
                        break;
                    }
                    // Its node is away, or this one died: repeating it is harmless.
                    Some(_) | None => sleep(Duration::from_millis(50)).await,
                }
            }
        }
    }
}

struct Stage {
    peers: Vec<Peer>,
    nodes: Vec<Option<NodeProcess>>,
    workers: Vec<JoinSet<()>>,
    ledger: Shared,
    tasks: Vec<String>,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Stage {
    async fn set(cluster: &Cluster) -> Self {
        let mut peers: Vec<Peer> = Vec::new();
        for name in NAMES {
            let seeds: Vec<_> = peers.iter().map(|peer| peer.address).collect();
            let mut peer = cluster.peer(name, &seeds);
            peer.set("REGROW_AGENTS__WORKERS", "0");
            peers.push(peer);
        }
        let nodes = connected(&peers.iter().collect::<Vec<_>>()).await;
        Self {
            peers,
            nodes: nodes.into_iter().map(Some).collect(),
            workers: (0..3).map(|_| JoinSet::new()).collect(),
            ledger: Shared::default(),
            tasks: Vec::new(),
        }
    }

    fn node(&self, at: usize) -> &NodeProcess {
        self.nodes[at].as_ref().expect("up")
    }

    async fn submit(&mut self, count: usize) {
        for _ in 0..count {
            let task = json!({ "kind": KIND, "max_attempts": 1 });
            let (status, task) = self.node(0).post("/v1/tasks", &task).await;
            assert_eq!((status, &task["node"]), (201, &Value::Null), "{task}");
            self.tasks
                .push(task["id"].as_str().expect("an id").to_owned());
        }
    }

    fn hire(&mut self, at: usize, count: usize) {
        for _ in 0..count {
            let (url, http) = (self.node(at).url.clone(), self.node(at).http.clone());
            self.workers[at].spawn(work(url, http, NAMES[at], self.ledger.clone()));
        }
    }

    async fn until_completed(&self, count: usize) {
        let began = Instant::now();
        while self.ledger.lock().completed.len() < count {
            let ledger = self.ledger.lock().completed.len();
            assert!(began.elapsed() < 2 * PATIENCE, "{ledger} of {count}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn kill(&mut self, at: usize) {
        self.nodes[at].take().expect("up").kill().await;
    }

    /// Everything has completed at the node that took it, once. Says what that came to.
    async fn settle(&self) -> String {
        let began = Instant::now();
        let mut doubled = 0;
        for id in &self.tasks {
            loop {
                let (_, task) = self.node(0).get(&format!("/v1/tasks/{id}")).await;
                if task["state"] == "completed" {
                    assert_eq!(&task["result"], id);
                    break;
                }
                assert_eq!(task["error"], Value::Null, "lost: {task}");
                assert!(began.elapsed() < 2 * PATIENCE, "lost: {task}");
                sleep(Duration::from_millis(20)).await;
            }
            let (_, log) = self.node(0).get(&format!("/v1/tasks/{id}/events")).await;
            let lines = log["events"].as_array().expect("a list");
            for kind in ["completed", "step_recorded"] {
                let of_kind = lines.iter().filter(|line| line["kind"] == kind);
                doubled += of_kind.count().saturating_sub(1);
            }
        }
        let ledger = self.ledger.lock();
        doubled += ledger.completed.values().filter(|it| 1 < it.len()).count();
        assert_eq!(doubled, 0, "{:?}", ledger.completed);
        format!(
            "{} acknowledged, 0 lost, 0 doubled; {} outcomes refused as stale; leases by the node \
             asked: {:?}",
            self.tasks.len(),
            ledger.stale,
            ledger.leases
        )
    }

    async fn end(self) {
        for mut workers in self.workers {
            workers.shutdown().await;
        }
        for node in self.nodes.into_iter().flatten() {
            node.kill().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_one_node_are_done_by_workers_of_the_others_whoever_of_them_dies() {
    let cluster = Cluster::new();
    let mut stage = Stage::set(&cluster).await;
    stage.submit(90).await;
    stage.hire(1, 3);
    stage.hire(2, 3);
    stage.until_completed(15).await;

    // A borrower dies with what its workers hold: their leases run out at the owner.
    stage.kill(2).await;
    stage.until_completed(45).await;

    // The owner dies: its tasks wait for it.
    stage.kill(0).await;
    sleep(Duration::from_millis(200)).await;
    stage.nodes[0] = Some(stage.peers[0].start().await);
    until_connected(stage.node(1), "a").await;
    println!("borrower and owner killed: {}", stage.settle().await);
    assert!(!stage.ledger.lock().leases.contains_key("a"));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_at_every_node_share_what_was_submitted_to_one() {
    let cluster = Cluster::new();
    let mut stage = Stage::set(&cluster).await;
    for at in 0..3 {
        stage.hire(at, 2);
    }
    let began = Instant::now();
    // Until somebody of each node had his part.
    while stage.ledger.lock().leases.len() < 3 {
        stage.submit(20).await;
        assert!(began.elapsed() < 2 * PATIENCE, "not shared");
    }
    println!("workers at every node: {}", stage.settle().await);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_or_drained_node_takes_nothing_from_others_and_owners_keep_their_rules() {
    let cluster = Cluster::new();
    let a = cluster.peer("a", &[]);
    let b = cluster.peer("b", &[a.address]);
    let nodes = connected(&[&a, &b]).await;
    let [one, two] = &nodes[..] else {
        unreachable!("two")
    };
    let claim = json!({ "kinds": [KIND], "wait_ms": 4_000, "max": 9 });
    let now = json!({ "kinds": [KIND] });

    // One at a time, as the owner's limit says, whoever asks.
    let limit = json!({ "limit": 1 });
    let put = one.http.put(format!("{}/v1/queue/limits/key", one.url));
    let put = put.json(&limit).send().await.expect("an answer");
    assert!(
        put.status().is_success(),
        "{}",
        put.text().await.expect("text")
    );
    for _ in 0..2 {
        let task = json!({ "kind": KIND, "concurrency_key": "key" });
        let (status, task) = one.post("/v1/tasks", &task).await;
        assert_eq!(status, 201, "{task}");
    }

    for (verb, undo) in [
        ("queue/pause", "queue/resume"),
        ("cluster/nodes/b/cordon", "cluster/nodes/b/release"),
    ] {
        let (status, _) = two.post(&format!("/v1/{verb}"), &json!({})).await;
        assert_eq!(status, 200);
        // What is asked of a node is believed for a second.
        sleep(Duration::from_millis(1_100)).await;
        let (status, leases) = two.post("/v1/leases", &claim).await;
        assert_eq!((status, &leases), (200, &json!([])), "{verb}");
        let (status, _) = two.post(&format!("/v1/{undo}"), &json!({})).await;
        assert_eq!(status, 200);
    }
    let began = Instant::now();
    let leases = loop {
        let (status, leases) = two.post("/v1/leases", &claim).await;
        assert_eq!(status, 200, "{leases}");
        if leases.as_array().is_some_and(|leases| !leases.is_empty()) {
            break leases;
        }
        assert!(began.elapsed() < PATIENCE, "nothing is borrowed");
    };
    assert_eq!(leases.as_array().map(Vec::len), Some(1), "{leases}");
    let (_, leased) = one.post("/v1/leases", &now).await;
    assert_eq!(leased, json!([]), "the other waits for its turn");
    let id = leases[0]["task"]["id"].as_str().expect("an id");
    // A lease is given before it is on the disk.
    loop {
        let (_, task) = one.get(&format!("/v1/tasks/{id}")).await;
        if task["worker"] == "b/http" {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{task}");
        sleep(Duration::from_millis(20)).await;
    }
    let done = json!({ "epoch": leases[0]["epoch"] });
    let (status, done) = two.post(&format!("/v1/leases/{id}/release"), &done).await;
    assert_eq!(status, 200, "{done}");
    for node in nodes {
        node.kill().await;
    }
}
