//! Whatever is sent, the answer is a clear refusal and never a 5xx.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::node::{Node, Setup, assert_problem, body};

const UNKNOWN: &str = "0198c5f2-7c1e-7b3a-9d55-0f2b8c6a1e44";

async fn raw(node: &Node, method: Method, path: &str, sent: Vec<u8>) -> (u16, Value) {
    let request = node.client.request(method, format!("{}{path}", node.url));
    let request = request
        .header("content-type", "application/json")
        .body(sent);
    let response = request.send().await.expect("an answer");
    let kind = response.headers()["content-type"].clone();
    assert_eq!(kind, "application/problem+json", "{path}");
    (response.status().as_u16(), body(response).await)
}

#[tokio::test]
async fn bodies_that_are_no_json_are_refused_everywhere() {
    let node = Node::volatile().await;
    let (mut nul, mut latin) = (br#"{"kind":"a"#.to_vec(), br#"{"kind":""#.to_vec());
    nul.extend(b"\0\"}");
    latin.extend(b"\xe9\"}");
    let deep = "[".repeat(200_000).into_bytes();
    let deep_object = r#"{"a":"#.repeat(100_000).into_bytes();
    let bodies: [&[u8]; 12] = [
        b"",
        b" ",
        b"{",
        b"}",
        b"nonsense",
        b"[",
        b"\"text\"",
        b"{\"kind\":}",
        &nul,
        &latin,
        &deep,
        &deep_object,
    ];
    let routes = [
        (Method::POST, "/v1/tasks".to_owned()),
        (Method::POST, "/v1/leases".to_owned()),
        (Method::POST, format!("/v1/leases/{UNKNOWN}/heartbeat")),
        (Method::POST, format!("/v1/leases/{UNKNOWN}/complete")),
        (Method::POST, format!("/v1/leases/{UNKNOWN}/fail")),
        (Method::POST, format!("/v1/leases/{UNKNOWN}/release")),
        (Method::PUT, "/v1/queue/max_size".to_owned()),
    ];
    for (method, path) in routes {
        for sent in bodies {
            let answer = raw(&node, method.clone(), &path, sent.to_vec()).await;
            assert_problem(&answer, 400, "invalid_json");
        }
    }
}

#[tokio::test]
async fn every_wrong_field_is_named() {
    let node = Node::volatile().await;
    let long = "x".repeat(5_000);
    let deep: Value = (0..101).fold(json!(1), |inner, _| json!([inner]));
    let table = [
        (json!({}), "kind"),
        (json!({ "kind": null }), "kind"),
        (json!({ "kind": 7 }), "kind"),
        (json!({ "kind": "" }), "kind"),
        (json!({ "kind": "UPPER" }), "kind"),
        (json!({ "kind": "a\u{0}b" }), "kind"),
        (json!({ "kind": long }), "kind"),
        (json!({ "kind": "k", "goal": long }), "goal"),
        (json!({ "kind": "k", "goal": "a\u{0}" }), "goal"),
        (json!({ "kind": "k", "priority": "urgent" }), "priority"),
        (json!({ "kind": "k", "priority": 1 }), "priority"),
        (json!({ "kind": "k", "class": ["a"] }), "class"),
        (json!({ "kind": "k", "class": "" }), "class"),
        (json!({ "kind": "k", "tenant": "a\nb" }), "tenant"),
        (
            json!({ "kind": "k", "idempotency_key": 5 }),
            "idempotency_key",
        ),
        (
            json!({ "kind": "k", "idempotency_key": "" }),
            "idempotency_key",
        ),
        (json!({ "kind": "k", "run_at": -1 }), "run_at"),
        (json!({ "kind": "k", "run_at": "tomorrow" }), "run_at"),
        (json!({ "kind": "k", "run_at": u64::MAX }), "run_at"),
        (
            json!({ "kind": "k", "run_at": "1960-01-01T00:00:00Z" }),
            "run_at",
        ),
        (json!({ "kind": "k", "deadline_ms": 0 }), "deadline_ms"),
        (json!({ "kind": "k", "deadline_ms": -5 }), "deadline_ms"),
        (json!({ "kind": "k", "deadline_ms": 1.5 }), "deadline_ms"),
        (
            json!({ "kind": "k", "deadline_ms": u64::MAX }),
            "deadline_ms",
        ),
        (json!({ "kind": "k", "max_attempts": 0 }), "max_attempts"),
        (json!({ "kind": "k", "max_attempts": "3" }), "max_attempts"),
        (
            json!({ "kind": "k", "max_attempts": 4_294_967_297_u64 }),
            "max_attempts",
        ),
        (json!({ "kind": "k", "depends_on": "x" }), "depends_on"),
        (json!({ "kind": "k", "depends_on": ["x"] }), "depends_on"),
        (json!({ "kind": "k", "depends_on": [null] }), "depends_on"),
        (json!({ "kind": "k", "payload": deep }), "payload"),
        (json!({ "kind": "k", "sudo": true }), "sudo"),
        (json!({ "kind": "k", "": true }), ""),
    ];
    for (task, field) in table {
        let answer = node.send("/v1/tasks", task.clone()).await;
        assert_problem(&answer, 422, "validation_failed");
        let problems = answer.1["problems"].as_array().expect("problems");
        assert_eq!(problems[0]["field"], field, "{task}: {}", answer.1);
    }
    let (_, queue) = node.look("/v1/queue").await;
    assert_eq!(queue["counters"]["accepted"], 0);
}

#[tokio::test]
async fn several_problems_are_told_in_one_answer() {
    let node = Node::volatile().await;
    let task = json!({ "kind": 1, "priority": "x", "max_attempts": 0, "what": 1 });
    let answer = node.send("/v1/tasks", task).await;
    assert_problem(&answer, 422, "validation_failed");
    let problems = answer.1["problems"].as_array().expect("problems");
    let fields: Vec<&Value> = problems.iter().map(|it| &it["field"]).collect();
    for field in ["kind", "priority", "max_attempts", "what"] {
        assert!(fields.contains(&&json!(field)), "{field}: {fields:?}");
    }
}

#[tokio::test]
async fn claims_and_effects_check_their_bounds() {
    let node = Node::volatile().await;
    let many: Vec<String> = (0..65).map(|n| format!("k{n}")).collect();
    let claims = [
        (json!({}), "kinds"),
        (json!({ "kinds": [] }), "kinds"),
        (json!({ "kinds": "k" }), "kinds"),
        (json!({ "kinds": ["NO"] }), "kinds"),
        (json!({ "kinds": many }), "kinds"),
        (json!({ "kinds": ["k"], "max": 0 }), "max"),
        (json!({ "kinds": ["k"], "max": 1_001 }), "max"),
        (json!({ "kinds": ["k"], "wait_ms": 60_001 }), "wait_ms"),
        (json!({ "kinds": ["k"], "wait_ms": -1 }), "wait_ms"),
        (json!({ "kinds": ["k"], "lease_ms": 999 }), "lease_ms"),
        (json!({ "kinds": ["k"], "lease_ms": 3_600_001 }), "lease_ms"),
        (json!({ "kinds": ["k"], "worker": "a\u{0}" }), "worker"),
        (
            json!({ "kinds": ["k"], "worker": "w".repeat(129) }),
            "worker",
        ),
    ];
    for (claim, field) in claims {
        let answer = node.send("/v1/leases", claim.clone()).await;
        assert_problem(&answer, 422, "validation_failed");
        assert_eq!(answer.1["problems"][0]["field"], field, "{claim}");
    }
    for effect in ["heartbeat", "complete", "fail", "release"] {
        let path = format!("/v1/leases/{UNKNOWN}/{effect}");
        for epoch in [
            json!(null),
            json!(-1),
            json!("1"),
            json!(u64::MAX),
            json!(1.5),
        ] {
            let answer = node.send(&path, json!({ "epoch": epoch })).await;
            assert_problem(&answer, 422, "validation_failed");
        }
        let missing = node.send(&path, json!({})).await;
        assert_problem(&missing, 422, "validation_failed");
        let unknown = node.send(&path, json!({ "epoch": 1 })).await;
        assert_problem(&unknown, 404, "task_not_found");
        let path = format!("/v1/leases/nonsense/{effect}");
        let nonsense = node.send(&path, json!({ "epoch": 1 })).await;
        assert_problem(&nonsense, 400, "invalid_parameter");
    }
    for max_size in [
        json!({}),
        json!({ "max_size": 0 }),
        json!({ "max_size": "many" }),
    ] {
        let request = node.client.put(format!("{}/v1/queue/max_size", node.url));
        let answer = Node::ask(request.json(&max_size)).await;
        assert_problem(&answer, 422, "validation_failed");
    }
}

#[tokio::test]
async fn wrong_paths_methods_types_and_queries_are_refused() {
    let node = Node::volatile().await;
    for path in [
        "/nowhere",
        "/v1",
        "/v1/nothing",
        "/v1/tasks/",
        "/../etc/passwd",
        "/%ff",
    ] {
        assert_problem(&node.look(path).await, 404, "not_found");
    }
    for path in [
        "/v1/tasks/nonsense",
        "/v1/tasks/%00",
        "/v1/tasks/%ff/tree",
        "/v1/tasks/1/events",
    ] {
        assert_problem(&node.look(path).await, 400, "invalid_parameter");
    }
    for rest in ["", "/tree", "/events", "?wait_ms=5"] {
        let path = format!("/v1/tasks/{UNKNOWN}{rest}");
        assert_problem(&node.look(&path).await, 404, "task_not_found");
    }
    for verb in ["cancel", "retry"] {
        let path = format!("/v1/tasks/{UNKNOWN}/{verb}");
        assert_problem(&node.send(&path, json!({})).await, 404, "task_not_found");
    }
    for query in [
        "state=none",
        "limit=0",
        "limit=501",
        "limit=-1",
        "limit=x",
        "cursor=x",
        "parent=x",
        "what=1",
        "limit=1&limit=2",
    ] {
        let answer = node.look(&format!("/v1/tasks?{query}")).await;
        assert_problem(&answer, 400, "invalid_parameter");
    }
    let forgotten = node.look(&format!("/v1/tasks?cursor={UNKNOWN}")).await;
    assert_problem(&forgotten, 400, "invalid_parameter");
    let response = node
        .client
        .delete(format!("{}/v1/tasks", node.url))
        .send()
        .await;
    let response = response.expect("an answer");
    let allow = response.headers()["allow"]
        .to_str()
        .expect("text")
        .to_owned();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    let answer = (response.status().as_u16(), body(response).await);
    assert_problem(&answer, 405, "method_not_allowed");
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "json",
        "\u{e9}",
    ] {
        let request = node
            .post("/v1/tasks")
            .header("content-type", kind.as_bytes());
        let answer = Node::ask(request.body(r#"{"kind":"k"}"#)).await;
        assert_problem(&answer, 415, "unsupported_media_type");
    }
    let untyped = Node::ask(node.post("/v1/tasks").body(r#"{"kind":"k"}"#)).await;
    assert_problem(&untyped, 415, "unsupported_media_type");
    let talkative = node.send("/v1/queue/pause", json!({ "please": 1 })).await;
    assert_problem(&talkative, 422, "validation_failed");
}

#[tokio::test]
async fn large_bodies_are_refused_with_the_limit() {
    let mut setup = Setup::default();
    setup.limits.result_bytes_max = 1 << 20;
    let node = Node::start(setup).await;
    for bytes in [2 << 20, 3 << 20, 20 << 20] {
        let sent = format!(r#"{{"kind":"k","payload":"{}"}}"#, "x".repeat(bytes));
        let answer = raw(&node, Method::POST, "/v1/tasks", sent.into_bytes()).await;
        assert_problem(&answer, 413, "body_too_large");
        assert_eq!(answer.1["max_bytes"], 2 << 20);
    }
    // Within the body's limit, above the queue's for one payload.
    let task = json!({ "kind": "k", "payload": "x".repeat((1 << 20) + 1) });
    let answer = node.send("/v1/tasks", task).await;
    assert_problem(&answer, 422, "validation_failed");
    assert_eq!(answer.1["problems"][0]["field"], "payload");
    node.submit("k").await;
    let lease = node.lease("k").await;
    let path = format!(
        "/v1/leases/{}/complete",
        lease["task"]["id"].as_str().expect("id")
    );
    let result = json!({ "epoch": lease["epoch"], "result": "x".repeat((1 << 20) + 1) });
    let answer = node.send(&path, result).await;
    assert_problem(&answer, 413, "result_too_large");
    let (status, _) = node.send(&path, json!({ "epoch": lease["epoch"] })).await;
    assert_eq!(status, 200, "the lease still held");
}

#[tokio::test]
async fn slow_and_broken_senders_are_cut_off() {
    let mut setup = Setup::default();
    setup.config.body_timeout = Duration::from_millis(200);
    setup.config.header_timeout = Duration::from_millis(200);
    let node = Node::start(setup).await;
    let address = node.url.trim_start_matches("http://").to_owned();
    let talk = async |sent: &[u8]| {
        let mut stream = TcpStream::connect(&address).await.expect("a connection");
        stream.write_all(sent).await.expect("sent");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    };
    let head = "POST /v1/tasks HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let slow_body = format!("{head}content-length: 50\r\nconnection: close\r\n\r\n{{");
    let answer = talk(slow_body.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("body_too_slow"), "{answer}");
    let slow_head = talk(head.as_bytes()).await;
    assert!(
        slow_head.is_empty() || slow_head.starts_with("HTTP/1.1 408"),
        "{slow_head}"
    );
    for nonsense in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n\r\n\r\n\0",
    ] {
        let answer = talk(nonsense).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
            "{answer}"
        );
    }
    assert_eq!(node.look("/health").await.0, 200);
}

#[tokio::test]
async fn pages_of_other_origins_and_rebound_names_reach_nothing() {
    let node = Node::volatile().await;
    let request = node
        .post("/v1/queue/pause")
        .header("origin", "https://evil.example");
    assert_problem(&Node::ask(request).await, 403, "cross_origin");
    let request = node.get("/v1/tasks").header("host", "evil.example");
    assert_problem(&Node::ask(request).await, 421, "wrong_host");
    assert_eq!(node.look("/v1/queue").await.1["paused"], false);
}
