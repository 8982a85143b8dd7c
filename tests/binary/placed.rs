//! Agents that the cluster places, on real node processes.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::node::{NodeProcess, PATIENCE};
use crate::proxy::Proxy;
use crate::schema::Schema;

async fn node(dir: &TempDir, url: &str, name: &str) -> NodeProcess {
    let settings = [
        ("REGROW_STORE__DATABASE_URL", url),
        ("REGROW_STORE__LIFE_TERM", "1s"),
        ("REGROW_NODE__NAME", name),
        ("REGROW_REHEARSAL__ENABLED", "true"),
    ];
    NodeProcess::start(dir.path(), &settings).await
}

/// Asks `asked` until what it knows of the agent is as wanted.
async fn until(asked: &NodeProcess, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let (status, agent) = asked.get(&format!("/v1/agents/{id}")).await;
        assert_eq!(status, 200, "{agent}");
        if wanted(&agent["placed"]) {
            return agent["placed"].clone();
        }
        assert!(began.elapsed() < PATIENCE, "still {agent}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn epoch(agent: &Value) -> u64 {
    agent["epoch"].as_u64().expect("an epoch")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_goes_on_elsewhere_when_its_node_is_killed_frozen_or_stopped() {
    let schema = Schema::create().await;
    let url = schema.url();
    let dirs = [(); 3].map(|()| tempfile::tempdir().expect("temporary directory"));
    let a = node(&dirs[0], &url, "a").await;
    let b = node(&dirs[1], &url, "b").await;
    let mut c = node(&dirs[2], &url, "c").await;

    let spec = json!({ "id": "scout", "role": "worker", "intensity": { "restarts_max": 9, "within_ms": 60_000 } });
    let (status, made) = a.post("/v1/agents", &spec).await;
    assert_eq!(status, 201, "{made}");
    let (status, again) = b.post("/v1/agents", &spec).await;
    assert_eq!((status, &again["code"]), (409, &json!("agent_exists")));
    let mut placed = until(&a, "scout", |agent| agent["state"] == "owned").await;

    // By order: from wherever it is to b, then to c. Asked of any node.
    for to in ["b", "c"] {
        let before = epoch(&placed);
        if placed["node"] == to {
            continue;
        }
        let (status, asked) = a
            .post("/v1/agents/scout/handoff", &json!({ "to": to }))
            .await;
        assert_eq!(status, 202, "{asked}");
        let there = until(&a, "scout", |agent| {
            agent["node"] == to && agent["state"] == "owned"
        });
        placed = there.await;
        assert!(before < epoch(&placed), "{placed}");
        assert_eq!(placed.get("restarts"), None, "a move is no restart");
    }
    let (_, refused) = a
        .post("/v1/agents/scout/handoff", &json!({ "to": "nowhere" }))
        .await;
    assert_eq!(refused["code"], "node_not_found");

    // A message told while its node is frozen is done by its next life, once.
    c.signal(Signal::SIGSTOP);
    let told = json!({
        "kind": "rehearsal.journey", "payload": { "steps": 3, "step_ms": 1 }, "idempotency_key": "k",
    });
    let (status, task) = a.post("/v1/agents/scout/messages", &told).await;
    assert_eq!(status, 201, "{task}");
    let elsewhere = until(&a, "scout", |agent| {
        agent["node"] != "c" && agent["state"] == "owned"
    });
    let elsewhere = elsewhere.await;
    assert!(epoch(&placed) < epoch(&elsewhere));
    assert_eq!(elsewhere["restarts"].as_array().map(Vec::len), Some(1));
    let (status, repeated) = b.post("/v1/agents/scout/messages", &told).await;
    assert_eq!((status, &repeated["id"]), (200, &task["id"]));
    let path = format!(
        "/v1/tasks/{}?wait_ms=20000",
        task["id"].as_str().expect("an id")
    );
    let (_, done) = a.get(&path).await;
    assert_eq!(
        (&done["state"], &done["result"]["steps"]),
        (&json!("completed"), &json!(3))
    );
    // The frozen one finds that it was succeeded, and ends.
    c.signal(Signal::SIGCONT);
    assert_eq!(c.ended().await, Some(1));

    // Killed for real, then stopped in order: nothing of the kind is counted for the latter.
    let (mut dying, mut left) = match elsewhere["node"] == "a" {
        true => (a, b),
        false => (b, a),
    };
    dying.signal(Signal::SIGKILL);
    assert_eq!(dying.ended().await, None);
    let moved = until(&left, "scout", |agent| {
        agent["state"] == "owned" && agent["node"] != elsewhere["node"]
    });
    let moved = moved.await;
    assert_eq!(moved["restarts"].as_array().map(Vec::len), Some(2));
    let d = node(&dirs[2], &url, "d").await;
    left.signal(Signal::SIGTERM);
    let moved = until(&d, "scout", |agent| agent["node"] == "d").await;
    assert_eq!(moved["restarts"].as_array().map(Vec::len), Some(2));
    assert_eq!(left.ended().await, Some(0));

    for (verb, state) in [("stop", "stopped"), ("start", "owned")] {
        let (status, asked) = d
            .post(&format!("/v1/agents/scout/{verb}"), &json!({}))
            .await;
        assert_eq!(status, 202, "{asked}");
        let wanted =
            |agent: &Value| agent["state"] == state && agent["node"].is_null() == (verb == "stop");
        until(&d, "scout", wanted).await;
    }
    d.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_crashes_too_often_is_parked_with_its_last_words() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let settings = [("REGROW_REHEARSAL__ENABLED", "true")];
    let node = NodeProcess::start(dir.path(), &settings).await;
    let spec = json!({ "id": "scout", "role": "worker", "intensity": { "restarts_max": 1, "within_ms": 60_000 } });
    let (status, made) = node.post("/v1/agents", &spec).await;
    assert_eq!(status, 201, "{made}");
    until(&node, "scout", |agent| agent["state"] == "owned").await;
    let mut crashes = 0;
    let began = Instant::now();
    let parked = loop {
        let (_, agent) = node.get("/v1/agents/scout").await;
        if agent["placed"]["state"] == "parked" {
            break agent["placed"]["parked"].as_str().expect("why").to_owned();
        }
        let (status, _) = node
            .post("/v1/agents/scout/inject", &json!({ "fault": "panic" }))
            .await;
        crashes += u32::from(status == 200);
        assert!(began.elapsed() < PATIENCE, "still {agent}");
        sleep(Duration::from_millis(50)).await;
    };
    assert!(
        2 <= crashes && parked.contains("rehearsed panic"),
        "{parked}"
    );

    // It is parked for good, until somebody asks for it: also over a restart of the node.
    node.kill().await;
    let node = NodeProcess::start(dir.path(), &settings).await;
    until(&node, "scout", |agent| agent["state"] == "parked").await;
    let (status, _) = node.post("/v1/agents/scout/start", &json!({})).await;
    assert_eq!(status, 202);
    let running = until(&node, "scout", |agent| agent["state"] == "owned").await;
    assert_eq!(running.get("restarts"), None);
    node.kill().await;
    let node = NodeProcess::start(dir.path(), &settings).await;
    let back = until(&node, "scout", |agent| agent["state"] == "owned").await;
    assert!(epoch(&running) < epoch(&back));
    node.kill().await;
}

/// The agent as it runs on the node that is asked, which may have lost its store.
async fn runs_on(node: &NodeProcess, id: &str) -> bool {
    let (status, answer) = node.get("/v1/agents").await;
    assert_eq!(status, 200, "{answer}");
    let agents = answer["agents"].as_array().expect("a list");
    let mut running = agents.iter().filter(|agent| agent["state"] == "running");
    running.any(|agent| agent["id"] == id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_stops_its_agents_before_another_node_runs_them() {
    let schema = Schema::create().await;
    let proxy = Proxy::start(schema.server()).await;
    let through = schema.url_through(&proxy.url());
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("temporary directory"));
    let cut_off = node(&dirs[0], &through, "a").await;
    let (status, made) = cut_off
        .post("/v1/agents", &json!({ "id": "scout", "role": "worker" }))
        .await;
    assert_eq!(status, 201, "{made}");
    until(&cut_off, "scout", |agent| agent["state"] == "owned").await;
    while !runs_on(&cut_off, "scout").await {
        sleep(Duration::from_millis(10)).await;
    }
    let other = node(&dirs[1], &schema.url(), "b").await;
    proxy.block();
    let began = Instant::now();
    loop {
        // Asked in this order: whatever is true of the other holds when the first is asked.
        let (_, agent) = other.get("/v1/agents/scout").await;
        let runs = runs_on(&cut_off, "scout").await;
        if agent["placed"]["node"] == "b" {
            assert!(!runs, "it runs on both: {agent}");
            break;
        }
        assert!(began.elapsed() < PATIENCE, "still {agent}");
        sleep(Duration::from_millis(5)).await;
    }
    cut_off.kill().await;
    other.kill().await;
}
