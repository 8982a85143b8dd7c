//! Looking after the database of a node that runs: check, copy, put back.

use serde_json::json;
use tokio::task::JoinSet;

use crate::node::{NodeProcess, regrow, say};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_made_under_load_holds_what_was_acknowledged_and_a_node_goes_on_from_it() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (data, copy, fresh) = (
        dir.path().join("data"),
        dir.path().join("copy.db"),
        dir.path().join("fresh"),
    );
    let node = NodeProcess::start(&data, &[]).await;
    let task = json!({ "kind": "elsewhere", "payload": "p".repeat(500) });
    let mut acknowledged = Vec::new();
    for _ in 0..50 {
        let (status, answer) = node.post("/v1/tasks", &task).await;
        assert_eq!(status, 201, "{answer}");
        acknowledged.push(answer["id"].as_str().expect("an id").to_owned());
    }
    let claim = json!({ "kinds": ["elsewhere"], "max": 1 });
    let mut load = JoinSet::new();
    for _ in 0..4 {
        let (http, url, task) = (node.http.clone(), node.url.clone(), task.clone());
        load.spawn(async move {
            loop {
                let sent = http.post(format!("{url}/v1/tasks")).json(&task).send();
                sent.await.expect("the node answers");
            }
        });
    }
    let backup = say(regrow()
        .args(["store", "backup", "--data-dir"])
        .args([&data, &copy]));
    assert_eq!(backup.code, Some(0), "{}", backup.err);
    load.shutdown().await;
    // Leased after the copy was made: the copy knows nothing of this epoch.
    let (_, leases) = node.post("/v1/leases", &claim).await;
    let (id, stale) = (leases[0]["task"]["id"].clone(), leases[0]["epoch"].clone());
    let id = id.as_str().expect("an id").to_owned();
    let verified = say(regrow()
        .args(["store", "verify", "--json", "--data-dir"])
        .arg(&data));
    assert_eq!(verified.code, Some(0), "{}", verified.out);
    node.kill().await;

    let again = say(regrow()
        .args(["store", "backup", "--data-dir"])
        .args([&data, &copy]));
    assert_eq!(again.code, Some(1));
    assert!(again.err.contains("already exists"), "{}", again.err);
    let used = say(regrow()
        .args(["store", "restore", "--data-dir"])
        .args([&data, &copy]));
    assert_eq!(used.code, Some(1));
    assert!(used.err.contains("was used before"), "{}", used.err);
    let restored = say(regrow()
        .args(["store", "restore", "--data-dir"])
        .args([&fresh, &copy]));
    assert_eq!(restored.code, Some(0), "{}", restored.err);

    let node = NodeProcess::start(&fresh, &[]).await;
    for known in &acknowledged {
        let (status, _) = node.get(&format!("/v1/tasks/{known}")).await;
        assert_eq!(status, 200, "{known} was acknowledged before the copy");
    }
    let mut given = Vec::new();
    for _ in 0..acknowledged.len() {
        let (_, leases) = node.post("/v1/leases", &claim).await;
        given.push(leases[0]["epoch"].as_u64().expect("an epoch"));
    }
    assert!(given.iter().all(|epoch| stale.as_u64() < Some(*epoch)));
    let done = json!({ "epoch": stale });
    let (status, answer) = node.post(&format!("/v1/leases/{id}/complete"), &done).await;
    assert_eq!(
        (status, answer["code"].as_str()),
        (409, Some("stale_epoch")),
        "{answer}"
    );
}
