//! Orderly stops: finished work is kept, unfinished work is handed back.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::node::{NodeProcess, PATIENCE};

const REHEARSAL: (&str, &str) = ("REGROW_REHEARSAL__ENABLED", "true");

/// Submits a journey and waits until a worker is on its way.
async fn under_way(node: &NodeProcess, steps: u32, step_ms: u64) -> String {
    let task = json!({
        "kind": "rehearsal.journey", "payload": { "steps": steps, "step_ms": step_ms },
    });
    let (status, answer) = node.post("/v1/tasks", &task).await;
    assert_eq!(status, 201, "{answer}");
    let id = answer["id"].as_str().expect("an id").to_owned();
    let deadline = Instant::now() + PATIENCE;
    while node.get(&format!("/v1/tasks/{id}")).await.1["state"] != "executing" {
        assert!(Instant::now() < deadline, "nobody took the task");
        sleep(Duration::from_millis(5)).await;
    }
    id
}

/// A signal has been seen when the node no longer calls itself ready.
async fn until_not_ready(node: &NodeProcess) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = node
            .http
            .get(format!("{}/health/ready", node.url))
            .send()
            .await;
        if answer.map_or(true, |answer| answer.status() == 503) {
            return;
        }
        assert!(Instant::now() < deadline, "the signal was not seen");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn sigterm_lets_work_finish_within_the_grace() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut node = NodeProcess::start(dir.path(), &[REHEARSAL]).await;
    let id = under_way(&node, 2, 300).await;
    node.signal(Signal::SIGTERM);
    assert_eq!(node.ended().await, Some(0));
    let node = NodeProcess::start(dir.path(), &[REHEARSAL, ("REGROW_AGENTS__WORKERS", "0")]).await;
    let (_, task) = node.get(&format!("/v1/tasks/{id}")).await;
    assert_eq!(task["state"], "completed", "{task}");
}

#[tokio::test]
async fn sigterm_hands_unfinished_work_back_without_counting_the_attempt() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let settings = [REHEARSAL, ("REGROW_AGENTS__GRACE", "200ms")];
    let mut node = NodeProcess::start(dir.path(), &settings).await;
    let id = under_way(&node, 1, 10_000).await;
    let asked = Instant::now();
    node.signal(Signal::SIGTERM);
    assert_eq!(node.ended().await, Some(0));
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "took {:?}",
        asked.elapsed()
    );
    let node = NodeProcess::start(dir.path(), &[("REGROW_AGENTS__WORKERS", "0")]).await;
    let (_, task) = node.get(&format!("/v1/tasks/{id}")).await;
    let found = (
        task["state"].as_str(),
        task["attempt"].as_u64(),
        task["losses"].as_u64(),
    );
    assert_eq!(found, (Some("available"), Some(0), Some(0)), "{task}");
}

#[tokio::test]
async fn a_stopping_node_still_takes_what_workers_outside_have_done() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut node = NodeProcess::start(dir.path(), &[REHEARSAL]).await;
    let (_, parcel) = node.post("/v1/tasks", &json!({ "kind": "parcel" })).await;
    let claim = json!({ "kinds": ["parcel"], "max": 1, "lease_ms": 60_000 });
    let (_, leases) = node.post("/v1/leases", &claim).await;
    let id = parcel["id"].as_str().expect("an id");
    assert_eq!(leases[0]["task"]["id"], id, "{leases}");
    // An agent at work keeps the node up for a while.
    under_way(&node, 1, 1_500).await;
    node.signal(Signal::SIGTERM);
    until_not_ready(&node).await;
    let (status, refusal) = node.post("/v1/leases", &claim).await;
    assert_eq!(status, 503, "{refusal}");
    let done = json!({ "epoch": leases[0]["epoch"], "result": "delivered" });
    let (status, answer) = node.post(&format!("/v1/leases/{id}/complete"), &done).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(node.ended().await, Some(0));
    let node = NodeProcess::start(dir.path(), &[]).await;
    let (_, task) = node.get(&format!("/v1/tasks/{id}")).await;
    assert_eq!(task["state"], "completed", "{task}");
}

#[tokio::test]
async fn sigterm_hands_back_what_workers_elsewhere_hold() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut node = NodeProcess::start(dir.path(), &[]).await;
    let task = json!({ "kind": "parcel", "payload": 1 });
    let (_, accepted) = node.post("/v1/tasks", &task).await;
    let claim = json!({ "kinds": ["parcel"], "wait_ms": 10_000, "lease_ms": 600_000 });
    let (status, leases) = node.post("/v1/leases", &claim).await;
    assert_eq!(status, 200, "{leases}");
    let epoch = leases[0]["epoch"].as_u64().expect("an epoch");
    node.signal(Signal::SIGTERM);
    assert_eq!(node.ended().await, Some(0));
    let node = NodeProcess::start(dir.path(), &[]).await;
    let id = accepted["id"].as_str().expect("an id");
    let (_, task) = node.get(&format!("/v1/tasks/{id}")).await;
    let found = (
        task["state"].as_str(),
        task["attempt"].as_u64(),
        task["losses"].as_u64(),
    );
    assert_eq!(found, (Some("available"), Some(0), Some(0)), "{task}");
    let late = json!({ "epoch": epoch, "result": "too late" });
    let (status, answer) = node.post(&format!("/v1/leases/{id}/complete"), &late).await;
    assert_eq!(
        (status, answer["code"].as_str()),
        (409, Some("stale_epoch")),
        "{answer}"
    );
}

#[tokio::test]
async fn a_second_signal_ends_the_node_at_once() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let settings = [REHEARSAL, ("REGROW_AGENTS__GRACE", "1h")];
    let mut node = NodeProcess::start(dir.path(), &settings).await;
    under_way(&node, 1, 10_000).await;
    node.signal(Signal::SIGTERM);
    until_not_ready(&node).await;
    node.signal(Signal::SIGTERM);
    assert_eq!(node.ended().await, Some(1));
}
