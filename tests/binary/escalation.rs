//! What restarts cannot mend ends the process, with a report and a code that says so.

use std::process::Stdio;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::node::{NodeProcess, PATIENCE};

#[tokio::test]
async fn a_root_that_gives_up_ends_the_process_with_a_report() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let settings = [
        ("REGROW_REHEARSAL__ENABLED", "true"),
        // The first panic already ends the agents' supervisor; the root bears three of those.
        ("REGROW_AGENTS__RESTARTS_MAX", "0"),
    ];
    let said = tempfile::NamedTempFile::new().expect("temporary file");
    let output = Stdio::from(said.reopen().expect("reopened"));
    let mut node = NodeProcess::start_saying(dir.path(), &settings, output).await;
    let deadline = Instant::now() + PATIENCE;
    let panic = json!({ "fault": "panic" });
    let code = loop {
        // Refused while the tree is being rebuilt.
        let _ = node.try_post("/v1/agents/worker-1/inject", &panic).await;
        if let Some(code) = node.has_ended() {
            break code;
        }
        assert!(Instant::now() < deadline, "the node bears everything");
        sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(code, Some(1));
    let report = std::fs::read_to_string(said.path()).expect("readable");
    for expected in ["root", "agents", "restart intensity"] {
        assert!(
            report.contains(expected),
            "{expected} is missing in:\n{report}"
        );
    }
}

#[tokio::test]
async fn a_rebuilt_branch_serves_on_the_same_address() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let settings = [
        ("REGROW_REHEARSAL__ENABLED", "true"),
        ("REGROW_AGENTS__RESTARTS_MAX", "0"),
    ];
    let node = NodeProcess::start(dir.path(), &settings).await;
    let (_, before) = node.get("/v1/tree").await;
    let injected = node
        .post("/v1/agents/worker-1/inject", &json!({ "fault": "panic" }))
        .await;
    assert_eq!(injected.0, 200);
    let deadline = Instant::now() + PATIENCE;
    let agents = |tree: &serde_json::Value| {
        let branches = tree["children"].as_array().cloned().unwrap_or_default();
        branches
            .into_iter()
            .find(|branch| branch["id"] == "agents")
            .unwrap_or_default()
    };
    loop {
        let tree = node.http.get(format!("{}/v1/tree", node.url)).send().await;
        if let Ok(answer) = tree
            && let Ok(tree) = answer.json::<serde_json::Value>().await
            && agents(&before)["generation"].as_u64() < agents(&tree)["generation"].as_u64()
        {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "the agents' branch was not rebuilt"
        );
        sleep(std::time::Duration::from_millis(10)).await;
    }
    let task = json!({ "kind": "plan", "payload": { "goal": "write a poem" } });
    let (status, accepted) = node.post("/v1/tasks", &task).await;
    assert_eq!(status, 201, "{accepted}");
    let id = accepted["id"].as_str().expect("an id");
    let (_, ended) = node.get(&format!("/v1/tasks/{id}?wait_ms=20000")).await;
    assert_eq!(ended["state"], "discarded", "{ended}");
}
