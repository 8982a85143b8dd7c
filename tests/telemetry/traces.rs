//! Traces and logs as a collector gets them.

use std::collections::{BTreeMap, BTreeSet};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::node::{NodeProcess, PATIENCE};
use crate::peers::free_address;
use crate::receiver::{Receiver, Span};
use crate::schema::Schema;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

async fn submit(node: &NodeProcess, task: &Value, traced: bool) -> Value {
    let mut request = node.http.post(format!("{}/v1/tasks", node.url)).json(task);
    if traced {
        request = request.header("traceparent", format!("00-{TRACE}-{CALLER}-01"));
    }
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), 201);
    answer.json().await.expect("JSON")
}

/// Waits until the task has completed.
async fn completed(node: &NodeProcess, task: &Value) {
    let path = format!(
        "/v1/tasks/{}?wait_ms=20000",
        task["id"].as_str().expect("an id")
    );
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        let (_, now) = node.get(&path).await;
        if now["state"] == "completed" {
            return;
        }
        assert!(Instant::now() < deadline, "{now}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goal_is_one_trace_over_two_nodes_down_to_its_steps_with_true_parents() {
    let schema = Schema::create().await;
    let receiver = Receiver::at("127.0.0.1:0").await;
    let docs = tempfile::tempdir().expect("temporary directory");
    for name in ["a.md", "b.md"] {
        let text = format!("# {name}\n\nSee [the other](b.md) and [nothing](gone.md).\n");
        std::fs::write(docs.path().join(name), text).expect("written");
    }
    let (url, endpoint) = (schema.url(), receiver.url());
    let dirs = [tempfile::tempdir(), tempfile::tempdir()].map(|dir| dir.expect("a directory"));
    // One plans; the other does what was planned.
    let common = [
        ("REGROW_STORE__DATABASE_URL", &*url),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "100"),
        ("REGROW_LOG__FILTER", "info,regrow_actors=debug"),
    ];
    let with = |more: &[(&'static str, &'static str)]| [&common[..], more].concat();
    let plans = with(&[
        ("REGROW_NODE__NAME", "plans"),
        ("REGROW_AGENTS__WORKERS", "0"),
        ("REGROW_AGENTS__CRITICS", "0"),
        ("REGROW_AGENTS__MEMORIES", "0"),
    ]);
    let works = with(&[
        ("REGROW_NODE__NAME", "works"),
        ("REGROW_AGENTS__PLANNERS", "0"),
    ]);
    let one = NodeProcess::start(dirs[0].path(), &plans).await;
    let two = NodeProcess::start(dirs[1].path(), &works).await;
    let goal = format!("audit the docs in {}", docs.path().display());
    let task = submit(
        &one,
        &json!({ "kind": "plan", "payload": { "goal": goal } }),
        true,
    )
    .await;
    assert_eq!(task["trace_id"], TRACE);
    completed(&one, &task).await;

    // The last to end is the first to have begun.
    let id = task["id"].as_str().expect("an id").to_owned();
    let is_root = |span: &Span| span.name == "task plan" && span.attributes["regrow.task.id"] == id;
    let steps = |spans: &[Span]| {
        spans
            .iter()
            .filter(|span| span.name.starts_with("execute_tool"))
            .count()
    };
    let server = |spans: &[Span]| spans.iter().any(|span| span.name == "POST /v1/tasks");
    // Nodes send at their own pace: the trace is whole when every parent is there.
    let spans = receiver
        .until_spans(|spans| {
            let ids: BTreeSet<&str> = spans.iter().map(|span| &*span.id).collect();
            let whole = spans
                .iter()
                .all(|span| span.parent == CALLER || ids.contains(&*span.parent));
            spans.iter().any(is_root) && server(spans) && 1 < steps(spans) && whole
        })
        .await;
    let by_id: BTreeMap<&str, &Span> = spans.iter().map(|span| (&*span.id, span)).collect();
    assert_eq!(by_id.len(), spans.len(), "a span is there twice");
    let nodes: BTreeSet<&str> = spans.iter().map(|span| &*span.node).collect();
    assert_eq!(nodes, BTreeSet::from(["plans", "works"]));
    let mut crossed = 0;
    for span in &spans {
        assert_eq!(span.trace, TRACE, "{span:?}");
        assert!(span.began <= span.ended, "{span:?}");
        let kind = span.name.split(' ').next().expect("a word");
        let parent = by_id.get(&*span.parent);
        let above = parent.map(|parent| parent.name.split(' ').next().expect("a word"));
        match kind {
            "POST" => assert_eq!(span.parent, CALLER),
            "task" if is_root(span) => assert_eq!(above, Some("POST")),
            "task" => assert_eq!(above, Some("task"), "{span:?}"),
            "invoke_agent" => assert_eq!(above, Some("task"), "{span:?}"),
            "plan" | "execute_tool" => assert_eq!(above, Some("invoke_agent"), "{span:?}"),
            other => unreachable!("{other} is not known: {span:?}"),
        }
        if ["invoke_agent", "plan", "execute_tool"].contains(&kind) {
            assert_eq!(span.attributes["gen_ai.operation.name"], kind);
        }
        if let Some(parent) = parent {
            crossed += usize::from(parent.node != span.node);
            assert!(
                parent.began <= span.began + 1_000_000_000,
                "{span:?} before {parent:?}"
            );
        }
        assert_eq!(span.failed, None, "{span:?}");
    }
    assert!(0 < crossed, "no child runs on another node than its parent");
    let planned = spans
        .iter()
        .find(|span| span.name == "plan plan")
        .expect("a plan");
    let children: usize = planned.attributes["regrow.plan.children"]
        .parse()
        .expect("a number");
    assert!(0 < children);

    // Lines belong to the spans in which they were logged.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let lines = receiver.lines().await;
        let tied = lines.iter().filter(|line| {
            let span = by_id.get(&*line.span);
            line.body == "work begins"
                && line.trace == TRACE
                && span.is_some_and(|span| {
                    span.name.starts_with("invoke_agent") && span.node == line.node
                })
        });
        if 1 < tied.count() {
            break;
        }
        assert!(Instant::now() < deadline, "{lines:?}");
        sleep(std::time::Duration::from_millis(20)).await;
    }
    one.kill().await;
    two.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_away_holds_nobody_up_and_gets_what_comes_when_it_is_back() {
    let address = free_address().to_string();
    let endpoint = format!("http://{address}");
    let dir = tempfile::tempdir().expect("temporary directory");
    let settings = [
        ("REGROW_TELEMETRY__ENDPOINT", &*endpoint),
        ("REGROW_NODE__NAME", "alone"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ];
    let mut node = NodeProcess::start(dir.path(), &settings).await;
    // More than waits at once: the rest is dropped, and nobody notices but the counters.
    let tasks: Vec<Value> = (0..500)
        .map(|n| json!({ "kind": "k", "payload": n }))
        .collect();
    for _ in 0..8 {
        let (status, said) = node.post("/v1/tasks", &json!(tasks)).await;
        assert!(status < 300, "{said}");
    }
    let (status, said) = node.post("/v1/queue/clear", &json!({})).await;
    assert!(status < 300, "{said}");
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        let text = crate::metrics::scraped(&node).await;
        let made = text.contains("regrow_telemetry_spans_total{outcome=\"made\"} 4000");
        if made && text.contains("regrow_telemetry_spans_total{outcome=\"failed\"}") {
            break;
        }
        assert!(Instant::now() < deadline, "{text}");
        sleep(std::time::Duration::from_millis(50)).await;
    }
    let receiver = Receiver::at(&address).await;
    let deadline = Instant::now() + 2 * PATIENCE;
    // One that ends while the queue is still full of what was dropped is dropped as well.
    let mut ended = BTreeSet::new();
    let late = loop {
        let late = submit(&node, &json!({ "kind": "late" }), false).await;
        let id = late["id"].as_str().expect("an id").to_owned();
        let path = format!("/v1/tasks/{id}/cancel");
        assert_eq!(node.post(&path, &json!({})).await.0, 200);
        ended.insert(id.replace('-', ""));
        let spans = receiver.spans().await;
        if let Some(late) = spans.into_iter().find(|span| span.name == "task late") {
            break late;
        }
        assert!(
            Instant::now() < deadline,
            "nothing comes although the receiver is back"
        );
        sleep(std::time::Duration::from_millis(50)).await;
    };
    assert!(ended.contains(&late.trace), "it began its own trace");
    assert_eq!(late.parent, "");
    assert_eq!(late.failed.as_deref(), Some("cancelled on request"));
    node.signal(Signal::SIGTERM);
    assert_eq!(node.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orderly_stop_sends_what_is_left() {
    let receiver = Receiver::at("127.0.0.1:0").await;
    let endpoint = receiver.url();
    let dir = tempfile::tempdir().expect("temporary directory");
    let settings = [
        ("REGROW_TELEMETRY__ENDPOINT", &*endpoint),
        ("REGROW_NODE__NAME", "stops"),
        // Longer than any test: only the stop can send it.
        ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "3600000"),
    ];
    let mut node = NodeProcess::start(dir.path(), &settings).await;
    let task = submit(&node, &json!({ "kind": "k" }), true).await;
    let path = format!("/v1/tasks/{}/cancel", task["id"].as_str().expect("an id"));
    assert_eq!(node.post(&path, &json!({})).await.0, 200);
    node.signal(Signal::SIGTERM);
    assert_eq!(node.ended().await, Some(0));
    let spans = receiver.until_spans(|spans| 1 < spans.len()).await;
    let names: BTreeSet<&str> = spans.iter().map(|span| &*span.name).collect();
    assert_eq!(names, BTreeSet::from(["POST /v1/tasks", "task k"]));
    let lines = receiver.lines().await;
    assert!(
        lines
            .iter()
            .any(|line| line.body == "stopped" && line.node == "stops"),
        "{lines:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_a_killed_node_had_under_way_is_in_the_trace_that_its_next_life_tells() {
    let receiver = Receiver::at("127.0.0.1:0").await;
    let endpoint = receiver.url();
    let dir = tempfile::tempdir().expect("temporary directory");
    let settings = [
        ("REGROW_TELEMETRY__ENDPOINT", &*endpoint),
        ("REGROW_NODE__NAME", "regrown"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ];
    let node = NodeProcess::start(dir.path(), &settings).await;
    let task = submit(&node, &json!({ "kind": "k" }), false).await;
    let id = task["id"].as_str().expect("an id");
    let claim = json!({ "kinds": ["k"], "max": 1, "wait_ms": 20_000, "lease_ms": 60_000 });
    let (_, before) = node.post("/v1/leases", &claim).await;
    let told = before[0]["task"]["traceparent"]
        .as_str()
        .expect("a traceparent");
    let (trace, first) = (&told[3..35], &told[36..52]);
    assert_eq!(
        (trace, &told[53..]),
        (&*id.replace('-', ""), "01"),
        "it is kept: {told}"
    );
    // A lease is given before it is durable; once a step is, the lease is as well.
    let step = json!({ "epoch": before[0]["epoch"], "key": "look", "output": 1 });
    let (status, said) = node.post(&format!("/v1/leases/{id}/steps"), &step).await;
    assert!(status < 300, "{said}");
    node.kill().await;

    let node = NodeProcess::start(dir.path(), &settings).await;
    let (_, after) = node.post("/v1/leases", &claim).await;
    let done = json!({ "epoch": after[0]["epoch"], "result": 1 });
    let (status, said) = node.post(&format!("/v1/leases/{id}/complete"), &done).await;
    assert!(status < 300, "{said}");
    // The step's may have been sent before the kill, or not.
    let of_leases = |spans: &[Span]| {
        let leases = spans.iter().filter(|span| span.name == "invoke_agent k");
        leases.count()
    };
    let spans = receiver
        .until_spans(|spans| {
            let ended = spans.iter().any(|span| span.name == "task k");
            ended && 1 < of_leases(spans)
        })
        .await;
    let named =
        |name: &str| -> Vec<&Span> { spans.iter().filter(|span| span.name == name).collect() };
    let (whole, leases) = (named("task k"), named("invoke_agent k"));
    assert_eq!((whole.len(), leases.len()), (1, 2), "{spans:?}");
    assert!(spans.iter().all(|span| span.trace == trace));
    assert_eq!((&*whole[0].parent, &whole[0].failed), ("", &None));
    assert!(
        leases.iter().all(|lease| lease.parent == whole[0].id),
        "{spans:?}"
    );
    assert!(
        leases.iter().all(|lease| whole[0].began <= lease.began),
        "{spans:?}"
    );
    let lost = leases
        .iter()
        .find(|lease| lease.id == first)
        .expect("the first life's");
    assert_eq!(lost.failed.as_deref(), Some("lease lost: node_ended"));
    let kept = leases
        .iter()
        .find(|lease| lease.id != first)
        .expect("the second life's");
    assert_eq!(kept.failed, None);
}
