//! Health and metrics.

use std::sync::Arc;

use regrow_http::state::Phase;
use regrow_runtime::queue::control::QueueLimits;
use regrow_runtime::store::Store;
use serde_json::json;

use crate::node::{Buggy, Node, Setup, assert_problem};

#[tokio::test]
async fn a_node_is_alive_in_every_phase_and_ready_in_one() {
    let node = Node::volatile().await;
    let (status, alive) = node.look("/health").await;
    assert_eq!((status, &alive["status"]), (200, &json!("ok")));
    assert_eq!(alive["version"], "1.2.3");
    assert!(alive["uptime_seconds"].is_u64());
    assert_eq!(node.look("/health/ready").await.0, 200);
    node.lifecycle.enter(Phase::Stopping);
    let (status, ready) = node.look("/health/ready").await;
    assert_eq!((status, &ready["status"]), (503, &json!("not_ready")));
    assert_eq!(ready["reasons"], json!(["the node is stopping"]));
    assert_eq!(node.look("/health").await.0, 200);
    node.lifecycle.enter(Phase::Ready);
    assert_eq!(
        node.lifecycle.phase(),
        Phase::Stopping,
        "phases do not return"
    );
}

#[tokio::test]
async fn the_deep_check_looks_at_every_part() {
    for node in Node::both().await {
        let (status, health) = node.look("/health/deep").await;
        assert_eq!(
            (status, &health["status"]),
            (200, &json!("warning")),
            "{health}"
        );
        let checks = &health["checks"];
        assert_eq!(checks["store"]["status"], "ok");
        assert_eq!(checks["store"]["backend"], node.store.name());
        assert_eq!(checks["queue"]["status"], "ok");
        assert_eq!(checks["agents"]["status"], "warning");
        assert_eq!(checks["agents"]["unhealthy"], 1);
        assert!(checks["disk"]["detail"].is_string());
        node.send("/v1/queue/pause", json!({})).await;
        let (_, health) = node.look("/health/deep").await;
        let queue = &health["checks"]["queue"];
        assert_eq!(
            (&queue["status"], &queue["paused"]),
            (&json!("warning"), &json!(true))
        );
    }
}

#[tokio::test]
async fn a_queue_warns_from_three_quarters_and_fails_when_it_is_full() {
    let limits = QueueLimits {
        max_size: 4,
        ..QueueLimits::default()
    };
    let node = Node::start(Setup {
        limits,
        ..Setup::default()
    })
    .await;
    for (expected, status) in [("ok", 200), ("ok", 200), ("warning", 200), ("failed", 503)] {
        node.submit("k").await;
        let (found, health) = node.look("/health/deep").await;
        assert_eq!(found, status, "{health}");
        assert_eq!(health["checks"]["queue"]["status"], expected);
    }
    node.lease("k").await;
    assert_eq!(node.look("/health/deep").await.0, 200);
}

#[tokio::test]
async fn a_store_that_cannot_write_fails_the_deep_check_and_heals() {
    let node = Node::volatile().await;
    let Store::Volatile(volatile) = &node.store else {
        unreachable!("made above")
    };
    volatile.fail_next_commit();
    let (status, health) = node.look("/health/deep").await;
    assert_eq!(status, 503);
    assert_eq!(health["checks"]["store"]["status"], "failed");
    Node::until("the store has healed", async || {
        node.look("/health/deep").await.0 == 200 && node.look("/health/ready").await.0 == 200
    })
    .await;
}

#[tokio::test]
async fn a_full_disk_is_told_to_the_submitter_and_repeating_helps() {
    let node = Node::volatile().await;
    let Store::Volatile(volatile) = &node.store else {
        unreachable!("made above")
    };
    volatile.fail_next_commit();
    let task = json!({ "kind": "k", "idempotency_key": "once" });
    let failed = node.send("/v1/tasks", task.clone()).await;
    assert_problem(&failed, 507, "disk_full");
    Node::until("the submission is accepted", async || {
        node.send("/v1/tasks", task.clone()).await.0 == 201
    })
    .await;
    assert_eq!(node.look("/v1/queue").await.1["size"], 1);
}

#[tokio::test]
async fn metrics_are_text_and_health_answers_when_requests_are_refused() {
    let mut setup = Setup::default();
    setup.config.waits_max = 1;
    let node = Node::start(setup).await;
    let response = node.get("/metrics").send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    let kind = response.headers()["content-type"].to_str().expect("text");
    assert!(kind.starts_with("text/plain; version=0.0.4"));
    let claim = json!({ "kinds": ["k"], "wait_ms": 15_000 });
    let (first, refused) = tokio::join!(node.send("/v1/leases", claim.clone()), async {
        Node::until("the claim waits", async || {
            let (_, health) = node.look("/health/deep").await;
            health["checks"]["requests"]["waiting"] == 1
        })
        .await;
        let refused = node.send("/v1/leases", claim.clone()).await;
        node.submit("k").await;
        refused
    });
    assert_problem(&refused, 503, "overloaded");
    assert_eq!(first.1.as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_bug_ends_one_request_and_not_the_server() {
    let node = Node::start(Setup {
        agents: Arc::new(Buggy),
        ..Setup::default()
    })
    .await;
    let answer = node.look("/v1/tree").await;
    assert_problem(&answer, 500, "internal");
    assert!(
        !answer.1["detail"]
            .as_str()
            .expect("text")
            .contains("purpose")
    );
    assert_eq!(node.look("/v1/agents").await.0, 200);
}
