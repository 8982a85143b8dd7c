//! Families of tasks over HTTP.

use serde_json::{Value, json};

use crate::node::{Node, assert_problem};

fn path(lease: &Value, effect: &str) -> String {
    let id = lease["task"]["id"].as_str().expect("an id");
    format!("/v1/leases/{id}/{effect}")
}

async fn state(node: &Node, id: &str) -> Value {
    node.look(&format!("/v1/tasks/{id}")).await.1["state"].clone()
}

#[tokio::test]
async fn a_worker_hands_work_down_with_its_plan_and_finds_both_again() {
    for node in Node::both().await {
        let id = node.submit("plan").await;
        let lease = node.lease("plan").await;
        let family = |lease: &Value| {
            json!({
                "epoch": lease["epoch"],
                "children": [{ "kind": "k", "payload": 1 }, { "kind": "k", "after": [0] }],
                "step": { "key": "plan", "input": "goal", "output": ["a", "b"] },
            })
        };
        let (status, waits) = node.send(&path(&lease, "children"), family(&lease)).await;
        assert_eq!(
            (status, &waits["state"]),
            (200, &json!("waiting")),
            "{waits}"
        );
        assert_eq!(
            (&waits["inserted"], &waits["lease_held"]),
            (&json!(2), &json!(false))
        );
        let stale = node.send(&path(&lease, "children"), family(&lease)).await;
        assert_problem(&stale, 409, "stale_epoch");
        for _ in 0..2 {
            let child = node.lease("k").await;
            assert_eq!(child["task"]["parent"], json!(id));
            let done = json!({ "epoch": child["epoch"], "result": 1 });
            assert_eq!(node.send(&path(&child, "complete"), done).await.0, 200);
        }
        let lease = node.lease("plan").await;
        let (status, again) = node.send(&path(&lease, "children"), family(&lease)).await;
        assert_eq!((status, &again["inserted"]), (200, &json!(0)), "{again}");
        assert_eq!(
            again["output"],
            json!(["a", "b"]),
            "the plan on record stands"
        );
        let done = json!({ "epoch": lease["epoch"] });
        assert_eq!(node.send(&path(&lease, "complete"), done).await.0, 200);
    }
}

#[tokio::test]
async fn children_that_make_no_sense_are_refused_by_their_position() {
    let node = Node::volatile().await;
    node.submit("plan").await;
    let lease = node.lease("plan").await;
    let wrong = json!({
        "epoch": lease["epoch"],
        "children": [{ "kind": "k", "dead_line": 1 }, 7],
    });
    let refused = node.send(&path(&lease, "children"), wrong).await;
    assert_problem(&refused, 422, "validation_failed");
    let detail = refused.1["detail"].as_str().expect("text");
    assert!(
        detail.contains("children[0].dead_line is not known"),
        "{detail}"
    );
    assert!(detail.contains("children[1]"), "{detail}");
}

#[tokio::test]
async fn a_family_fails_as_it_was_asked_to_and_its_failed_part_is_retried() {
    let node = Node::volatile().await;
    let task = json!({ "kind": "plan", "on_child_failure": { "retry": 1 } });
    let (status, parent) = node.send("/v1/tasks", task).await;
    assert_eq!(status, 201, "{parent}");
    assert_eq!(
        parent["on_child_failure"],
        json!({ "retry": 1, "then": "fail" })
    );
    let id = parent["id"].as_str().expect("an id");
    let lease = node.lease("plan").await;
    let family = json!({ "epoch": lease["epoch"], "children": [{ "kind": "k" }] });
    assert_eq!(node.send(&path(&lease, "children"), family).await.0, 200);
    for expected in ["retryable", "discarded"] {
        let child = node.lease("k").await;
        let no = json!({ "epoch": child["epoch"], "error": "no", "retryable": false });
        let (_, failed) = node.send(&path(&child, "fail"), no).await;
        assert_eq!(failed["state"], expected);
    }
    assert_eq!(state(&node, id).await, "discarded");
    let retry = format!("/v1/tasks/{id}/retry?part=true");
    let (status, waits) = node.send(&retry, json!({})).await;
    assert_eq!(
        (status, &waits["state"]),
        (200, &json!("waiting")),
        "{waits}"
    );
    let child = node.lease("k").await;
    let done = json!({ "epoch": child["epoch"], "result": 1 });
    assert_eq!(node.send(&path(&child, "complete"), done).await.0, 200);
    let lease = node.lease("plan").await;
    assert_eq!(lease["task"]["id"], json!(id));
}
