//! Leasing, renewing and settling over HTTP.

use std::time::Duration;

use regrow_http::state::Phase;
use regrow_runtime::queue::control::QueueLimits;
use serde_json::{Value, json};

use crate::node::{Node, Setup, assert_problem};

fn path(lease: &Value, effect: &str) -> String {
    let id = lease["task"]["id"].as_str().expect("an id");
    format!("/v1/leases/{id}/{effect}")
}

#[tokio::test]
async fn a_worker_leases_renews_and_completes() {
    for node in Node::both().await {
        let id = node.submit("k").await;
        let (status, leases) = node
            .send(
                "/v1/leases",
                json!({ "kinds": ["k"], "worker": "w1", "max": 10 }),
            )
            .await;
        assert_eq!(status, 200);
        let leases = leases.as_array().expect("exactly an array").clone();
        assert_eq!(leases.len(), 1);
        let lease = &leases[0];
        assert_eq!(lease["task"]["id"], id);
        assert_eq!(lease["task"]["payload"], json!({ "n": 1 }));
        assert_eq!(lease["attempt"], 1);
        // A lease is given before it is durable, a task is shown as it is durable.
        Node::until("the lease is durable", async || {
            let (_, shown) = node.look(&format!("/v1/tasks/{id}")).await;
            shown["state"] == "executing"
                && shown["worker"] == "w1"
                && shown["lease_until"] == lease["expires_at"]
        })
        .await;

        let beat = json!({ "epoch": lease["epoch"], "lease_ms": 90_000 });
        let (status, renewal) = node.send(&path(lease, "heartbeat"), beat).await;
        assert_eq!(status, 200);
        assert_eq!(renewal["cancel_requested"], false);
        assert!(lease["expires_at"].as_str() < renewal["expires_at"].as_str());

        let done = json!({ "epoch": lease["epoch"], "result": { "sum": 3 } });
        for _ in 0..2 {
            let (status, ended) = node.send(&path(lease, "complete"), done.clone()).await;
            assert_eq!((status, &ended["state"]), (200, &json!("completed")));
        }
        let (_, shown) = node.look(&format!("/v1/tasks/{id}")).await;
        assert_eq!(shown["result"], json!({ "sum": 3 }));
        assert!(shown["finished_at"].is_string());
        assert_eq!(shown["lease_until"], json!(null));
    }
}

#[tokio::test]
async fn a_stale_epoch_changes_nothing_and_names_the_current_one() {
    for node in Node::both().await {
        let id = node.submit("k").await;
        let old = node.lease("k").await;
        let handed_back = json!({ "epoch": old["epoch"] });
        assert_eq!(node.send(&path(&old, "release"), handed_back).await.0, 200);
        let new = node.lease("k").await;
        assert!(old["epoch"].as_u64() < new["epoch"].as_u64());
        for effect in ["heartbeat", "complete", "fail", "release"] {
            let refused = node
                .send(&path(&old, effect), json!({ "epoch": old["epoch"] }))
                .await;
            assert_problem(&refused, 409, "stale_epoch");
            assert_eq!(refused.1["current_epoch"], new["epoch"], "{effect}");
            assert_eq!(refused.1["state"], "executing");
        }
        let (_, shown) = node.look(&format!("/v1/tasks/{id}")).await;
        assert_eq!(shown["result"], json!(null));
        let done = json!({ "epoch": new["epoch"], "result": 1 });
        assert_eq!(node.send(&path(&new, "complete"), done).await.0, 200);
        let refused = node
            .send(&path(&old, "complete"), json!({ "epoch": old["epoch"] }))
            .await;
        assert_problem(&refused, 409, "stale_epoch");
        assert_eq!(refused.1["state"], "completed");
    }
}

#[tokio::test]
async fn a_failed_attempt_is_retried_and_a_final_one_discarded() {
    let mut limits = QueueLimits::default();
    limits.backoff.first = Duration::from_millis(1);
    let node = Node::start(Setup {
        limits,
        ..Setup::default()
    })
    .await;
    let id = node.submit("k").await;
    let lease = node.lease("k").await;
    let failed = json!({ "epoch": lease["epoch"], "error": "no\u{0} \u{1b}[31mluck" });
    let (status, now) = node.send(&path(&lease, "fail"), failed).await;
    assert_eq!((status, &now["state"]), (200, &json!("retryable")));
    let lease = node.lease("k").await;
    assert_eq!(lease["attempt"], 2);
    let (_, shown) = node.look(&format!("/v1/tasks/{id}")).await;
    assert_eq!(shown["last_error"], "no\u{fffd} \u{fffd}[31mluck");
    let long = "é".repeat(500_000);
    let failed = json!({ "epoch": lease["epoch"], "error": long, "retryable": false });
    let (status, now) = node.send(&path(&lease, "fail"), failed).await;
    assert_eq!((status, &now["state"]), (200, &json!("discarded")));
    let (_, shown) = node.look(&format!("/v1/tasks/{id}")).await;
    let error = shown["error"].as_str().expect("an error");
    assert!(error.len() < 100_000 && error.starts_with('é'), "it is cut");

    let (status, again) = node.send(&format!("/v1/tasks/{id}/retry"), json!({})).await;
    assert_eq!(status, 200, "{again}");
    assert_eq!(again["state"], "available");
    let running = node.send(&format!("/v1/tasks/{id}/retry"), json!({})).await;
    assert_problem(&running, 409, "wrong_state");
}

#[tokio::test]
async fn a_long_poll_is_answered_when_a_task_arrives() {
    for node in Node::both().await {
        let claim = json!({ "kinds": ["other", "k"], "wait_ms": 15_000 });
        let (leases, id) = tokio::join!(node.send("/v1/leases", claim), async {
            node.submit("else").await;
            node.submit("k").await
        });
        assert_eq!(leases.1[0]["task"]["id"], id);
    }
}

#[tokio::test]
async fn a_poll_for_nothing_is_answered_with_an_empty_list() {
    let node = Node::volatile().await;
    for wait in [0, 30] {
        let claim = json!({ "kinds": ["k"], "wait_ms": wait });
        assert_eq!(node.send("/v1/leases", claim).await, (200, json!([])));
    }
}

#[tokio::test]
async fn a_client_that_went_away_is_given_no_lease() {
    let node = Node::volatile().await;
    let claim = json!({ "kinds": ["k"], "wait_ms": 60_000 });
    for _ in 0..20 {
        let request = node.post("/v1/leases").json(&claim).send();
        let gone = tokio::time::timeout(Duration::from_millis(30), request).await;
        assert!(gone.is_err(), "it waited");
    }
    // Whoever was dropped must be seen to be gone before the task arrives.
    Node::until("the waiting requests have ended", async || {
        let (_, health) = node.look("/health/deep").await;
        health["checks"]["requests"]["waiting"] == 0
    })
    .await;
    node.submit("k").await;
    let lease = node.lease("k").await;
    assert_eq!(lease["attempt"], 1);
    assert_eq!(lease["losses"], 0);
}

#[tokio::test]
async fn a_paused_queue_gives_no_lease_until_it_is_resumed() {
    let node = Node::volatile().await;
    assert_eq!(
        node.send("/v1/queue/pause", json!({})).await.1["paused"],
        true
    );
    node.submit("k").await;
    let claim = json!({ "kinds": ["k"], "wait_ms": 50 });
    assert_eq!(node.send("/v1/leases", claim).await.1, json!([]));
    let claim = json!({ "kinds": ["k"], "wait_ms": 15_000 });
    let (leases, resumed) = tokio::join!(
        node.send("/v1/leases", claim),
        node.send("/v1/queue/resume", json!({}))
    );
    assert_eq!(resumed.0, 200);
    assert_eq!(leases.1.as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn many_tasks_are_leased_at_once_in_order_of_urgency() {
    let node = Node::volatile().await;
    for n in 0..60 {
        let priority = if n % 2 == 0 { "low" } else { "critical" };
        let task = json!({ "kind": "k", "payload": n, "priority": priority });
        assert_eq!(node.send("/v1/tasks", task).await.0, 201);
    }
    let (_, leases) = node
        .send("/v1/leases", json!({ "kinds": ["k"], "max": 50 }))
        .await;
    let leases = leases.as_array().expect("an array");
    assert_eq!(leases.len(), 50);
    let urgent = |lease: &Value| lease["task"]["priority"] == "critical";
    assert!(leases[..30].iter().all(urgent));
    let mut epochs: Vec<u64> = leases
        .iter()
        .filter_map(|it| it["epoch"].as_u64())
        .collect();
    epochs.dedup();
    assert_eq!(epochs.len(), 50);
}

#[tokio::test]
async fn large_payloads_end_an_answer_early_and_none_is_lost() {
    let node = Node::volatile().await;
    for _ in 0..12 {
        let task = json!({ "kind": "k", "payload": "x".repeat(1_000_000) });
        assert_eq!(node.send("/v1/tasks", task).await.0, 201);
    }
    let claim = json!({ "kinds": ["k"], "max": 1_000 });
    let mut leased = 0;
    for _ in 0..12 {
        let (_, leases) = node.send("/v1/leases", claim.clone()).await;
        let count = leases.as_array().expect("an array").len();
        assert!(count <= 9, "{count} payloads of 1 MB in one answer");
        leased += count;
    }
    assert_eq!(leased, 12);
}

#[tokio::test]
async fn a_stopping_node_wakes_those_who_wait_and_still_takes_results() {
    let node = Node::volatile().await;
    node.submit("k").await;
    let lease = node.lease("k").await;
    let claim = json!({ "kinds": ["k"], "wait_ms": 60_000 });
    let (waiting, ()) = tokio::join!(node.send("/v1/leases", claim.clone()), async {
        Node::until("the claim waits", async || {
            let (_, health) = node.look("/health/deep").await;
            health["checks"]["requests"]["waiting"] == 1
        })
        .await;
        node.lifecycle.enter(Phase::Stopping);
    });
    assert_eq!(waiting, (200, json!([])));
    assert_problem(&node.send("/v1/leases", claim).await, 503, "stopping");
    let done = json!({ "epoch": lease["epoch"] });
    assert_eq!(node.send(&path(&lease, "complete"), done).await.0, 200);
}

#[tokio::test]
async fn a_holder_is_told_to_stop_when_its_task_is_cancelled() {
    let node = Node::volatile().await;
    let id = node.submit("k").await;
    let lease = node.lease("k").await;
    let (status, asked) = node
        .send(&format!("/v1/tasks/{id}/cancel"), json!({}))
        .await;
    assert_eq!((status, &asked["state"]), (200, &json!("executing")));
    let beat = json!({ "epoch": lease["epoch"] });
    let (_, renewal) = node.send(&path(&lease, "heartbeat"), beat).await;
    assert_eq!(renewal["cancel_requested"], true);
    let failed = json!({ "epoch": lease["epoch"], "error": "stopped" });
    let (_, now) = node.send(&path(&lease, "fail"), failed).await;
    assert_eq!(now["state"], "cancelled");
}
