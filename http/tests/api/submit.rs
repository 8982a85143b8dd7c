//! Submitting tasks and looking at them.

use regrow_runtime::queue::control::QueueLimits;
use serde_json::{Value, json};

use crate::node::{Node, Setup, assert_problem, body};

#[tokio::test]
async fn a_task_is_accepted_with_its_place_and_shown_flat() {
    for node in Node::both().await {
        let task = json!({
            "kind": "sum", "payload": { "b": 1, "a": [1.50, "é\u{1f600}"] }, "goal": "add\nthem",
            "priority": "high", "class": "batch", "tenant": "acme", "idempotency_key": "k1",
            "deadline_ms": 60_000, "max_attempts": 3, "depends_on": [], "run_at": null,
        });
        let response = node.post("/v1/tasks").json(&task).send().await;
        let response = response.expect("an answer");
        assert_eq!(response.status(), 201);
        let place = response.headers()["location"]
            .to_str()
            .expect("text")
            .to_owned();
        assert!(response.headers().contains_key("x-request-id"));
        let accepted = body(response).await;
        let (status, shown) = node.look(&place).await;
        assert_eq!(status, 200);
        assert_eq!(shown, accepted);
        assert_eq!(
            place,
            format!("/v1/tasks/{}", shown["id"].as_str().expect("id"))
        );
        for (key, value) in [
            ("state", json!("available")),
            ("kind", json!("sum")),
            ("payload", task["payload"].clone()),
            ("goal", json!("add\nthem")),
            ("priority", json!("high")),
            ("class", json!("batch")),
            ("tenant", json!("acme")),
            ("idempotency_key", json!("k1")),
            ("attempt", json!(0)),
            ("max_attempts", json!(3)),
            ("losses", json!(0)),
            ("epoch", json!(0)),
            ("worker", json!(null)),
            ("result", json!(null)),
            ("finished_at", json!(null)),
            ("parent", json!(null)),
            ("depends_on", json!([])),
        ] {
            assert_eq!(shown[key], value, "{key}");
        }
        for key in ["submitted_at", "run_at", "deadline"] {
            let text = shown[key].as_str().unwrap_or_default();
            assert!(
                text.starts_with("20") && text.ends_with('Z'),
                "{key}: {text}"
            );
        }
    }
}

#[tokio::test]
async fn the_payload_comes_back_as_the_text_it_was() {
    let node = Node::volatile().await;
    let raw = r#"{"kind":"k","payload":{ "z":1.50,  "big":123456789012345678901234567890 }}"#;
    let request = node.post("/v1/tasks").body(raw);
    let request = request.header("content-type", "application/json; charset=utf-8");
    let text = request.send().await.expect("an answer").text().await;
    let expected = r#""payload":{ "z":1.50,  "big":123456789012345678901234567890 }"#;
    assert!(text.expect("text").contains(expected));
}

#[tokio::test]
async fn each_of_a_list_of_tasks_has_an_answer_of_its_own() {
    for node in Node::both().await {
        let keyed = json!({ "kind": "k", "idempotency_key": "same", "payload": [1] });
        let list = json!([
            keyed,
            { "kind": "NO" },
            { "kind": "k", "typo": 1 },
            keyed,
            7,
            { "kind": "k" },
        ]);
        let (status, answers) = node.send("/v1/tasks", list).await;
        assert_eq!(status, 200);
        let of = |key: &str| -> Vec<Value> {
            let answers = answers.as_array().expect("a list").iter();
            answers.map(|answer| answer[key].clone()).collect()
        };
        assert_eq!(
            json!(of("status")),
            json!([201, 422, 422, 200, 400, 201]),
            "{answers}"
        );
        let codes = of("code");
        assert_eq!(
            [&codes[1], &codes[2], &codes[4]],
            ["validation_failed", "validation_failed", "invalid_json"]
        );
        assert_eq!(answers[0]["id"], answers[3]["id"]);
        assert_eq!(answers[3]["repeated"], true);
        for place in [0, 5] {
            let id = answers[place]["id"].as_str().expect("an id");
            let (_, shown) = node.look(&format!("/v1/tasks/{id}")).await;
            assert_eq!(shown["state"], "available");
        }
        let (status, none) = node.send("/v1/tasks", json!([])).await;
        assert_eq!((status, none), (200, json!([])));
        let refused = node.send("/v1/tasks", json!(vec![&keyed; 1_001])).await;
        assert_problem(&refused, 422, "validation_failed");
    }
}

#[tokio::test]
async fn a_repeated_key_is_answered_with_the_first_task() {
    for node in Node::both().await {
        let task = json!({ "kind": "k", "idempotency_key": "same" });
        let (first, one) = node.send("/v1/tasks", task.clone()).await;
        let (second, two) = node.send("/v1/tasks", task.clone()).await;
        assert_eq!((first, second), (201, 200));
        assert_eq!(one["id"], two["id"]);
        let other = json!({ "kind": "k", "idempotency_key": "same", "tenant": "other" });
        let (third, three) = node.send("/v1/tasks", other).await;
        assert_eq!(third, 201);
        assert_ne!(one["id"], three["id"]);
    }
}

#[tokio::test]
async fn a_goal_without_a_kind_is_for_the_planner() {
    let node = Node::volatile().await;
    let (status, task) = node.send("/v1/tasks", json!({ "goal": "tidy up" })).await;
    assert_eq!(status, 201);
    assert_eq!(task["kind"], "plan");
    assert_eq!(task["payload"], json!({ "goal": "tidy up" }));
}

#[tokio::test]
async fn a_start_may_be_given_as_text_or_as_a_number() {
    let node = Node::volatile().await;
    for run_at in [
        json!("2999-01-02T03:04:05.5+01:00"),
        json!(32_472_237_845_500_u64),
    ] {
        let (status, task) = node
            .send("/v1/tasks", json!({ "kind": "k", "run_at": run_at }))
            .await;
        assert_eq!(status, 201, "{task}");
        assert_eq!(task["state"], "scheduled");
        assert_eq!(task["run_at"], "2999-01-02T02:04:05.5Z");
    }
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_when_to_retry() {
    let limits = QueueLimits {
        max_size: 2,
        ..QueueLimits::default()
    };
    let node = Node::start(Setup {
        limits,
        ..Setup::default()
    })
    .await;
    node.submit("k").await;
    node.submit("k").await;
    let response = node
        .post("/v1/tasks")
        .json(&json!({ "kind": "k" }))
        .send()
        .await;
    let response = response.expect("an answer");
    let retry_after = response.headers()["retry-after"].to_str().expect("text");
    assert!(1 <= retry_after.parse::<u64>().expect("seconds"));
    let kind = response.headers()["content-type"].to_str().expect("text");
    assert_eq!(kind, "application/problem+json");
    let answer = (response.status().as_u16(), body(response).await);
    assert_problem(&answer, 429, "queue_full");
    assert_eq!(
        (&answer.1["size"], &answer.1["max_size"]),
        (&json!(2), &json!(2))
    );
    let (_, queue) = node.look("/v1/queue").await;
    assert_eq!(queue["size"], 2);

    let lease = node.lease("k").await;
    assert_eq!(lease["attempt"], 1);
    node.submit("k").await;
}

#[tokio::test]
async fn a_draining_queue_takes_nothing_until_it_is_resumed() {
    let node = Node::volatile().await;
    assert_eq!(node.send("/v1/queue/drain", json!({})).await.0, 200);
    let refused = node.send("/v1/tasks", json!({ "kind": "k" })).await;
    assert_problem(&refused, 503, "draining");
    assert_eq!(node.send("/v1/queue/resume", json!({})).await.0, 200);
    node.submit("k").await;
}

#[tokio::test]
async fn dependencies_must_exist() {
    let node = Node::volatile().await;
    let unknown = "0198c5f2-7c1e-7b3a-9d55-0f2b8c6a1e44";
    let task = json!({ "kind": "k", "depends_on": [unknown] });
    let refused = node.send("/v1/tasks", task).await;
    assert_problem(&refused, 422, "dependency_failed");
    assert_eq!(refused.1["dependency"], unknown);

    let first = node.submit("k").await;
    let task = json!({ "kind": "k", "depends_on": [first] });
    let (status, second) = node.send("/v1/tasks", task).await;
    assert_eq!((status, &second["state"]), (201, &json!("waiting")));
}
