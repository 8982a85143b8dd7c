//! `kill -9` under load from outside: every acknowledged id is there afterwards.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::node::NodeProcess;

/// Rounds of load and `kill -9`.
const ROUNDS: u64 = 4;
/// Callers at once.
const CALLERS: u64 = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_task_survives_kill_nine_under_load() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let settings = [("REGROW_AGENTS__WORKERS", "2")];
    let mut acknowledged: Vec<String> = Vec::new();
    let mut completed: Vec<(String, u64)> = Vec::new();
    for round in 0..ROUNDS {
        let node = Arc::new(NodeProcess::start(dir.path(), &settings).await);
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            callers.spawn(load(node.clone(), round, caller));
        }
        sleep(Duration::from_millis(150 + 90 * round)).await;
        // The callers keep what was answered before the node died.
        let node_url = node.url.clone();
        let pid = node_pid(dir.path());
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        )
        .expect("killed");
        while let Some(caller) = callers.join_next().await {
            let (accepted, finished) = caller.expect("no caller panics");
            acknowledged.extend(accepted);
            completed.extend(finished);
        }
        drop(node);
        assert!(node_url.starts_with("http://127.0.0.1"));
    }
    assert!(
        100 < acknowledged.len(),
        "only {} acknowledged: no load",
        acknowledged.len()
    );
    assert!(
        10 < completed.len(),
        "only {} completed: no load",
        completed.len()
    );
    let node = NodeProcess::start(dir.path(), &settings).await;
    let mut lost = Vec::new();
    for id in &acknowledged {
        let (status, _) = node.get(&format!("/v1/tasks/{id}")).await;
        if status != 200 {
            lost.push(id.clone());
        }
    }
    assert_eq!(
        lost,
        Vec::<String>::new(),
        "of {} acknowledged",
        acknowledged.len()
    );
    for (id, epoch) in &completed {
        let (_, task) = node.get(&format!("/v1/tasks/{id}")).await;
        assert_eq!(task["state"], "completed", "{task}");
        let stale = json!({ "epoch": epoch - 1, "result": "again" });
        let (status, answer) = node
            .post(&format!("/v1/leases/{id}/complete"), &stale)
            .await;
        assert_eq!(
            (status, answer["code"].as_str()),
            (409, Some("stale_epoch")),
            "{answer}"
        );
    }
    println!(
        "{} acknowledged, {} completed, 0 lost",
        acknowledged.len(),
        completed.len()
    );
    node.kill().await;
}

fn node_pid(data_dir: &std::path::Path) -> i32 {
    let text = std::fs::read(data_dir.join("node.json")).expect("announced");
    let said: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    said["pid"]
        .as_i64()
        .and_then(|pid| i32::try_from(pid).ok())
        .expect("a pid")
}

/// Submits, leases and completes until the node is gone. Returns what was acknowledged.
async fn load(
    node: Arc<NodeProcess>,
    round: u64,
    caller: u64,
) -> (Vec<String>, Vec<(String, u64)>) {
    let (mut accepted, mut completed) = (Vec::new(), Vec::new());
    for number in 0_u64.. {
        let key = format!("{round}.{caller}.{number}");
        let task = json!({ "kind": "parcel", "payload": number, "idempotency_key": key });
        let Some((status, answer)) = node.try_post("/v1/tasks", &task).await else {
            break;
        };
        assert_eq!(status, 201, "{answer}");
        accepted.push(answer["id"].as_str().expect("an id").to_owned());
        let claim = json!({ "kinds": ["parcel"], "max": 1, "lease_ms": 60_000 });
        let Some((status, leases)) = node.try_post("/v1/leases", &claim).await else {
            break;
        };
        assert_eq!(status, 200, "{leases}");
        for lease in leases.as_array().expect("leases") {
            let id = lease["task"]["id"].as_str().expect("an id").to_owned();
            let epoch = lease["epoch"].as_u64().expect("an epoch");
            let done = json!({ "epoch": epoch, "result": number });
            let path = format!("/v1/leases/{id}/complete");
            if let Some((status, answer)) = node.try_post(&path, &done).await {
                assert_eq!(status, 200, "{answer}");
                completed.push((id, epoch));
            }
        }
    }
    (accepted, completed)
}
