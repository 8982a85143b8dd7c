//! The journal over HTTP.

use serde_json::{Value, json};

use crate::node::{Node, assert_problem};

fn steps(lease: &Value) -> String {
    let id = lease["task"]["id"].as_str().expect("an id");
    format!("/v1/leases/{id}/steps")
}

#[tokio::test]
async fn a_worker_records_a_step_and_the_next_one_reads_it() {
    for node in Node::both().await {
        node.submit("k").await;
        let lease = node.lease("k").await;
        let (epoch, path) = (&lease["epoch"], steps(&lease));
        let asked = node.look(&format!("{path}/draft%201")).await;
        assert_problem(&asked, 404, "step_not_found");
        let step = json!({
            "epoch": epoch, "key": "draft 1", "input": { "a": 1, "b": 2 }, "output": "text",
            "cost": { "tokens_in": 9, "usd": 0.0000015, "seconds": 1.25 },
        });
        let (status, answer) = node.send(&path, step).await;
        assert_eq!(
            (status, &answer["recorded"]),
            (200, &json!(true)),
            "{answer}"
        );
        // The same document with its members in another order.
        let again = json!({ "epoch": epoch, "key": "draft 1", "input": { "b": 2, "a": 1 }, "output": "other" });
        let (status, answer) = node.send(&path, again).await;
        assert_eq!((status, &answer["recorded"]), (200, &json!(false)));
        assert_eq!(answer["output"], "text", "what is on record stands");
        let (status, step) = node.look(&format!("{path}/draft%201")).await;
        assert_eq!((status, &step["output"]), (200, &json!("text")));
        let cost = json!({ "tokens_in": 9, "tokens_out": 0, "usd": 0.000002, "calls": 0, "seconds": 1.25 });
        assert_eq!(step["cost"], cost);
        let changed = json!({ "epoch": epoch, "key": "draft 1", "input": 7 });
        let refused = node.send(&path, changed).await;
        assert_problem(&refused, 409, "step_diverged");
        assert_eq!(refused.1["recorded"], json!({ "a": 1, "b": 2 }));
        assert_eq!(refused.1["offered"], 7);
        let stale = json!({ "epoch": 1, "key": "draft 2" });
        assert_problem(&node.send(&path, stale).await, 409, "stale_epoch");
    }
}

#[tokio::test]
async fn steps_are_listed_in_pages_without_their_large_documents() {
    let node = Node::volatile().await;
    let id = node.submit("k").await;
    let lease = node.lease("k").await;
    let large = "x".repeat(70_000);
    for key in ["a", "b", "c"] {
        let step = json!({ "epoch": lease["epoch"], "key": key, "input": large, "output": 1 });
        assert_eq!(node.send(&steps(&lease), step).await.0, 200);
    }
    let (_, page) = node.look(&format!("/v1/tasks/{id}/steps?limit=2")).await;
    assert_eq!(page["steps"].as_array().map(Vec::len), Some(2));
    assert_eq!(page["steps"][0]["input"], json!(null));
    assert_eq!(
        page["steps"][0]["input_hash"].as_str().map(str::len),
        Some(64)
    );
    let cursor = page["next_cursor"].as_str().expect("more").to_owned();
    let rest = format!("/v1/tasks/{id}/steps?limit=2&cursor={cursor}");
    let (_, rest) = node.look(&rest).await;
    assert_eq!(rest["steps"].as_array().map(Vec::len), Some(1));
    assert_eq!(rest["next_cursor"], json!(null));
    let (_, whole) = node.look(&format!("/v1/tasks/{id}/steps/a")).await;
    assert_eq!(whole["input"], json!(large));
}

#[tokio::test]
async fn a_step_that_makes_no_sense_is_refused_with_all_that_is_wrong() {
    let node = Node::volatile().await;
    node.submit("k").await;
    let lease = node.lease("k").await;
    let wrong = json!({ "epoch": lease["epoch"], "cost": { "usd": -1, "dollars": 2 } });
    let refused = node.send(&steps(&lease), wrong).await;
    assert_problem(&refused, 422, "validation_failed");
    let detail = refused.1["detail"].as_str().expect("text");
    for expected in [
        "key is missing",
        "cost.usd is -1",
        "cost.dollars is not known",
    ] {
        assert!(detail.contains(expected), "{detail}");
    }
}
