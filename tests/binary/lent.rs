//! A node's own agents do what waits at nodes with which it shares no database.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::elsewhere::connected;
use crate::node::{NodeProcess, PATIENCE};
use crate::peers::{Cluster, Peer, until_connected};

const NAMES: [&str; 3] = ["a", "b", "c"];
const STEPS: u64 = 4;

/// Three nodes; `owner` and `third` say what is special about the first and the last.
struct Stage {
    peers: Vec<Peer>,
    nodes: Vec<Option<NodeProcess>>,
    tasks: Vec<String>,
}

impl Stage {
    async fn set(cluster: &Cluster, owner: &[(&str, &str)], third: &[(&str, &str)]) -> Self {
        let mut peers: Vec<Peer> = Vec::new();
        for name in NAMES {
            let seeds: Vec<_> = peers.iter().map(|peer| peer.address).collect();
            let mut peer = cluster.peer(name, &seeds);
            peer.set("REGROW_AGENTS__LEASE", "2s");
            peer.set("REGROW_AGENTS__GRACE", "1s");
            peer.set("REGROW_AGENTS__WORKERS", "3");
            let special = match name {
                "a" => owner,
                "c" => third,
                _ => &[],
            };
            for (name, value) in special {
                peer.set(name, value);
            }
            peers.push(peer);
        }
        let nodes = connected(&peers.iter().collect::<Vec<_>>()).await;
        Self {
            peers,
            nodes: nodes.into_iter().map(Some).collect(),
            tasks: Vec::new(),
        }
    }

    fn node(&self, at: usize) -> &NodeProcess {
        self.nodes[at].as_ref().expect("up")
    }

    async fn submit(&mut self, count: usize) {
        for _ in 0..count {
            let task = json!({
                "kind": "rehearsal.journey",
                "payload": { "steps": STEPS, "step_ms": 20 },
                "max_attempts": 1,
            });
            let (status, task) = self.node(0).post("/v1/tasks", &task).await;
            assert_eq!((status, &task["node"]), (201, &Value::Null), "{task}");
            self.tasks
                .push(task["id"].as_str().expect("an id").to_owned());
        }
    }

    async fn kill(&mut self, at: usize) {
        self.nodes[at].take().expect("up").kill().await;
    }

    async fn start(&mut self, at: usize) {
        self.nodes[at] = Some(self.peers[at].start().await);
    }

    /// How many have completed, as the owner says.
    async fn completed(&self) -> usize {
        let mut completed = 0;
        for id in &self.tasks {
            let (status, task) = self.node(0).get(&format!("/v1/tasks/{id}")).await;
            assert_eq!(status, 200, "lost: {task}");
            assert_eq!(task["error"], Value::Null, "lost: {task}");
            completed += usize::from(task["state"] == "completed");
        }
        completed
    }

    async fn until_completed(&self, count: usize) {
        let began = Instant::now();
        loop {
            let completed = self.completed().await;
            if count <= completed {
                return;
            }
            let waited = began.elapsed();
            assert!(waited < 4 * PATIENCE, "{completed} of {count}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until an agent of the node called `name` works on something of the owner's; submits
    /// `more` journeys whenever there is nothing left to do.
    async fn until_worked_by(&mut self, name: &str, more: usize) {
        let began = Instant::now();
        loop {
            let path = "/v1/tasks?state=executing&limit=100";
            let (_, page) = self.node(0).get(path).await;
            let tasks = page["tasks"].as_array().expect("a list");
            let mark = format!("{name}/worker-");
            let is_its = |task: &Value| {
                let worker = task["worker"].as_str();
                worker.is_some_and(|worker| worker.starts_with(&mark))
            };
            if tasks.iter().any(is_its) {
                return;
            }
            if tasks.is_empty() {
                self.submit(more).await;
            }
            assert!(began.elapsed() < PATIENCE, "{name} does nothing: {page}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Every step of every journey is on record once, and none was begun after it was.
    async fn settle(&self) -> String {
        let mut losses = 0;
        // Under which epoch each step is on record.
        let mut recorded: BTreeMap<(String, u64), u64> = BTreeMap::new();
        for id in &self.tasks {
            let (_, task) = self.node(0).get(&format!("/v1/tasks/{id}")).await;
            losses += task["losses"].as_u64().expect("a number");
            assert_eq!(task["result"], json!({ "steps": STEPS }), "{task}");
            let (_, log) = self.node(0).get(&format!("/v1/tasks/{id}/events")).await;
            let lines = log["events"].as_array().expect("a list");
            let count = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).count();
            assert_eq!(count("completed"), 1, "{log}");
            assert_eq!(count("step_recorded") as u64, STEPS, "{log}");
            let (_, steps) = self.node(0).get(&format!("/v1/tasks/{id}/steps")).await;
            for step in steps["steps"].as_array().expect("a list") {
                let number = step["output"].as_u64().expect("a number");
                let epoch = step["epoch"].as_u64().expect("a number");
                recorded.insert((id.clone(), number), epoch);
            }
        }
        let mut ran: Vec<((String, u64), u64)> = Vec::new();
        let mut by = BTreeMap::new();
        for peer in &self.peers {
            let trace = peer.log().with_file_name("rehearsal.trace");
            let trace = std::fs::read_to_string(trace).unwrap_or_default();
            by.insert(peer.name, trace.lines().count());
            for line in trace.lines() {
                let words: Vec<&str> = line.split(' ').collect();
                let [verb, task, step, epoch] = words[..] else {
                    continue;
                };
                let number = |text: &str| text.parse::<u64>().expect("a number");
                // Whoever lost a lease may still read what a later holder recorded.
                if verb == "ran" {
                    ran.push(((task.to_owned(), number(step)), number(epoch)));
                }
            }
        }
        for (step, epoch) in &ran {
            let record = recorded[step];
            assert!(
                *epoch <= record,
                "{step:?} was on record under {record} and ran again under {epoch}"
            );
        }
        format!(
            "{} journeys, {} steps run for {} on record, 0 lost, 0 doubled, {losses} leases lost; \
             lines by node {by:?}",
            self.tasks.len(),
            ran.len(),
            self.tasks.len() as u64 * STEPS,
        )
    }

    async fn end(self) {
        for node in self.nodes.into_iter().flatten() {
            node.kill().await;
        }
    }
}

/// Requests that a node has put to others so far.
async fn asked(node: &NodeProcess) -> u64 {
    let answer = node.http.get(format!("{}/metrics", node.url)).send().await;
    let text = answer.expect("an answer").text().await.expect("text");
    let lines = text.lines().filter(|line| {
        let of_desk = line.contains("topic=\"desk\"") && line.contains("direction=\"sent\"");
        line.starts_with("regrow_gateway_messages_total") && of_desk
    });
    let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    counts.sum::<f64>() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn journeys_of_a_node_without_workers_are_made_by_others_whoever_of_them_dies() {
    let cluster = Cluster::new();
    let mut stage = Stage::set(&cluster, &[("REGROW_AGENTS__WORKERS", "0")], &[]).await;
    stage.submit(60).await;
    for name in ["b", "c"] {
        stage.until_worked_by(name, 10).await;
    }
    stage.until_completed(10).await;

    // A borrower dies with what its agents hold: their leases run out at the owner.
    stage.kill(2).await;
    stage.until_completed(20).await;
    stage.start(2).await;

    // The owner dies: its tasks wait for it, and who held one gives it up.
    stage.until_worked_by("b", 10).await;
    stage.kill(0).await;
    stage.start(0).await;
    until_connected(stage.node(0), "b").await;
    stage.until_completed(stage.tasks.len()).await;
    println!("borrower and owner killed: {}", stage.settle().await);

    // Nobody is asked for work any more.
    let began = Instant::now();
    let mut before = asked(stage.node(1)).await;
    assert!(0 < before, "the figure counts");
    loop {
        sleep(Duration::from_secs(2)).await;
        let after = asked(stage.node(1)).await;
        if before == after {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{before} and then {after}");
        before = after;
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_borrower_that_is_stopped_hands_back_what_it_does_not_finish_and_who_may_not_takes_nothing()
 {
    let cluster = Cluster::new();
    let own_only = [("REGROW_AGENTS__BORROW", "false")];
    let mut stage = Stage::set(&cluster, &[("REGROW_AGENTS__WORKERS", "0")], &own_only).await;
    let long = json!({
        "kind": "rehearsal.journey", "payload": { "steps": 2, "step_ms": 10_000 },
    });
    let (status, task) = stage.node(0).post("/v1/tasks", &long).await;
    assert_eq!(status, 201, "{task}");
    stage.until_worked_by("b", 0).await;
    let stopping = stage.nodes[1].as_ref().expect("up");
    stopping.signal(nix::sys::signal::Signal::SIGTERM);
    // Its grace is not enough for the second step.
    let id = task["id"].as_str().expect("an id");
    let code = stage.nodes[1].as_mut().expect("up").ended().await;
    assert_eq!(code, Some(0));
    // Longer than another would need to hear of it.
    sleep(Duration::from_secs(3)).await;
    let (_, task) = stage.node(0).get(&format!("/v1/tasks/{id}")).await;
    assert_eq!(
        (&task["state"], &task["losses"]),
        (&json!("available"), &json!(0)),
        "{task}"
    );
    stage.nodes[1] = None;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_is_planned_checked_and_reviewed_by_the_agents_of_others() {
    let cluster = Cluster::new();
    let site = cluster.path().join("site");
    std::fs::create_dir(&site).expect("created");
    for page in 0..6 {
        let text = format!(
            "# Page {page}\n\n[next](page{}.md) [gone](gone.md)\n",
            (page + 1) % 6
        );
        std::fs::write(site.join(format!("page{page}.md")), text).expect("written");
    }
    // What is remembered stays with the node that has the task: only that is left to its agents.
    let owner = [
        ("REGROW_AGENTS__WORKERS", "0"),
        ("REGROW_AGENTS__PLANNERS", "0"),
        ("REGROW_AGENTS__CRITICS", "0"),
    ];
    let stage = Stage::set(&cluster, &owner, &[]).await;
    let goal = json!({ "kind": "audit", "payload": { "path": site } });
    let (status, task) = stage.node(0).post("/v1/tasks", &goal).await;
    assert_eq!(status, 201, "{task}");
    let id = task["id"].as_str().expect("an id");
    let began = Instant::now();
    let ended = loop {
        let (_, task) = stage
            .node(1)
            .get(&format!("/v1/tasks/{id}?wait_ms=5000"))
            .await;
        if task["finished_at"] != Value::Null {
            break task;
        }
        assert!(began.elapsed() < 2 * PATIENCE, "{task}");
    };
    assert_eq!(
        (&ended["state"], &ended["node"]),
        (&json!("completed"), &json!("a")),
        "{ended}"
    );
    let (_, context) = stage.node(0).get(&format!("/v1/tasks/{id}/context")).await;
    assert_eq!(context["context"]["attrs"]["files"], 6, "{context}");
    let (_, tree) = stage.node(0).get(&format!("/v1/tasks/{id}/tree")).await;
    let children = tree["tree"]["children"].as_array().expect("a list");
    assert!(3 < children.len(), "{tree}");
    for child in children {
        assert_eq!(child["state"], "completed", "{tree}");
    }
    stage.end().await;
}
