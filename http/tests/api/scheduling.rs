//! Weights, limits, rates, resources, and why a task waits.

use serde_json::{Value, json};

use crate::node::{Node, assert_problem};

async fn put(node: &Node, path: &str, body: Value) -> (u16, Value) {
    let url = node.get(path).build().expect("a request").url().clone();
    Node::ask(reqwest::Client::new().put(url).json(&body)).await
}

async fn delete(node: &Node, path: &str) -> (u16, Value) {
    let url = node.get(path).build().expect("a request").url().clone();
    Node::ask(reqwest::Client::new().delete(url)).await
}

#[tokio::test]
async fn rules_are_set_shown_and_removed_live() {
    for node in Node::both().await {
        let weights = json!({ "class": { "bulk": 0.5 }, "tenant": { "acme": 3 } });
        let (status, rules) = put(&node, "/v1/queue/weights", weights).await;
        assert_eq!(
            (status, &rules["class_weights"]["bulk"]),
            (200, &json!(0.5))
        );
        let (_, rules) = put(
            &node,
            "/v1/queue/weights",
            json!({ "class": { "bulk": null } }),
        )
        .await;
        assert_eq!(rules["class_weights"], json!({}));
        assert_eq!(rules["tenant_weights"]["acme"], json!(3.0));
        put(&node, "/v1/queue/limits", json!({ "default": 4 })).await;
        put(&node, "/v1/queue/limits/a%20key", json!({ "limit": 2 })).await;
        let rate = json!({ "units": 60, "period_ms": 60_000, "burst": 5 });
        put(&node, "/v1/queue/rates/mail", rate.clone()).await;
        put(&node, "/v1/queue/resources/gpu", json!({ "slots": 1 })).await;
        let tokens = json!({ "units": 1000, "period_ms": 60_000 });
        put(&node, "/v1/queue/resources/tokens", tokens).await;
        let (status, rules) = node.look("/v1/queue/rules").await;
        assert_eq!(status, 200);
        assert_eq!(rules["default_limit"], 4);
        assert_eq!(rules["limits"]["a key"], 2);
        assert_eq!(rules["rates"]["mail"], rate);
        assert_eq!(rules["gates"]["resource/gpu"]["free"], 1);
        assert_eq!(rules["gates"]["resource/tokens"]["total"], 1000);
        for path in ["limits/a%20key", "rates/mail", "resources/gpu"] {
            assert_eq!(delete(&node, &format!("/v1/queue/{path}")).await.0, 200);
        }
        let (_, rules) = node.look("/v1/queue/rules").await;
        assert_eq!(
            (&rules["limits"], &rules["rates"]),
            (&json!({}), &json!({}))
        );
        for (path, body) in [
            ("weights", json!({ "class": { "bulk": 0 } })),
            ("limits", json!({})),
            ("limits/k", json!({ "limit": 0 })),
            ("rates/k", json!({ "units": 1 })),
            ("resources/k", json!({ "slots": "many" })),
        ] {
            let answer = put(&node, &format!("/v1/queue/{path}"), body).await;
            assert_problem(&answer, 422, "validation_failed");
        }
    }
}

#[tokio::test]
async fn a_task_states_its_terms_and_is_told_why_it_waits() {
    for node in Node::both().await {
        put(&node, "/v1/queue/resources/gpu", json!({ "slots": 1 })).await;
        let task = json!({
            "kind": "k", "concurrency_key": "c", "rate_key": "r", "needs": { "gpu": 1 },
            "expires_at": "2100-01-01T00:00:00Z",
        });
        let (status, first) = node.send("/v1/tasks", task.clone()).await;
        assert_eq!(status, 201, "{first}");
        assert_eq!(first["needs"], json!({ "gpu": 1 }));
        assert_eq!(
            (&first["concurrency_key"], &first["rate_key"]),
            (&json!("c"), &json!("r"))
        );
        assert!(
            first["expires_at"]
                .as_str()
                .expect("text")
                .starts_with("2100-01-01")
        );
        let (_, second) = node.send("/v1/tasks", task).await;
        node.lease("k").await;
        let id = second["id"].as_str().expect("an id");
        let (status, why) = node.look(&format!("/v1/tasks/{id}/explain")).await;
        assert_eq!(status, 200, "{why}");
        assert_eq!(why["state"], "available");
        let reason = &why["reasons"][0];
        assert_eq!(
            (&reason["code"], &reason["resource"]),
            (&json!("resource"), &json!("gpu"))
        );
        assert_eq!((&reason["needs"], &reason["free"]), (&json!(1), &json!(0)));
        assert!(
            reason["text"]
                .as_str()
                .expect("words")
                .contains("0 of 1 are free")
        );
        for refused in [
            json!({ "kind": "k", "needs": { "gpu": 2 } }),
            json!({ "kind": "k", "needs": { "tpu": 1 } }),
            json!({ "kind": "k", "needs": [] }),
            json!({ "kind": "k", "expires_ms": 0 }),
            json!({ "kind": "k", "expires_ms": 5, "expires_at": 5 }),
            json!({ "kind": "k", "concurrency_key": "" }),
        ] {
            let answer = node.send("/v1/tasks", refused).await;
            assert_problem(&answer, 422, "validation_failed");
        }
        let nobody = "/v1/tasks/01890a5d-ac96-774b-bcce-b302099a8057/explain";
        assert_problem(&node.look(nobody).await, 404, "task_not_found");
    }
}

#[tokio::test]
async fn shares_stand_beside_weights() {
    let node = Node::volatile().await;
    put(
        &node,
        "/v1/queue/weights",
        json!({ "class": { "bulk": 3 } }),
    )
    .await;
    for class in ["bulk", "quick"] {
        node.send("/v1/tasks", json!({ "kind": "k", "class": class }))
            .await;
    }
    node.lease("k").await;
    let (_, queue) = node.look("/v1/queue").await;
    let classes = &queue["fairness"]["classes"];
    assert_eq!(classes["bulk"]["fair_share"], 0.75, "{queue}");
    let shares = ["bulk", "quick"].map(|class| classes[class]["share"].as_f64().expect("a share"));
    assert_eq!(shares.iter().sum::<f64>(), 1.0);
}
