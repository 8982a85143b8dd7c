//! What is spoken with receivers: gRPC and HTTP, in TLS and without.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::{Duration, Instant, sleep};

use crate::certified::Certified;
use crate::node::{NodeProcess, PATIENCE};
use crate::receiver::{Beside, Receiver};

const PROTOCOLS: [&str; 2] = ["grpc", "http/protobuf"];

/// Lets a task end, so that there is a span to tell.
async fn ended_task(node: &NodeProcess) {
    let (status, task) = node.post("/v1/tasks", &json!({ "kind": "k" })).await;
    assert_eq!(status, 201, "{task}");
    let path = format!("/v1/tasks/{}/cancel", task["id"].as_str().expect("an id"));
    assert_eq!(node.post(&path, &json!({})).await.0, 200);
}

async fn receiver(protocol: &str, certified: &Certified) -> Receiver {
    match protocol {
        "grpc" => Receiver::over_grpc(Some(certified)).await,
        _ => Receiver::over_https(certified).await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_protocols_go_in_tls_with_certificates_of_both_ends_headers_and_gzip() {
    let certified = Certified::make();
    let [authority, certificate, key] =
        ["ca.pem", "sender.pem", "sender.key"].map(|name| certified.named(name));
    for protocol in PROTOCOLS {
        let receiver = receiver(protocol, &certified).await;
        let endpoint = format!("https://localhost:{}", receiver.address.port());
        let dir = tempfile::tempdir().expect("temporary directory");
        let settings = [
            ("REGROW_NODE__NAME", "sender"),
            ("REGROW_TELEMETRY__ENDPOINT", &*endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", &authority),
            ("REGROW_TELEMETRY__CERTIFICATE", &certificate),
            ("REGROW_TELEMETRY__KEY", &key),
            // Ours go before those of the standard.
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20other"),
            ("REGROW_TELEMETRY__HEADERS", "authorization=Bearer%20s3cret"),
            ("REGROW_TELEMETRY__COMPRESSION", "gzip"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("OTEL_BLRP_SCHEDULE_DELAY", "50"),
        ];
        let node = NodeProcess::start(dir.path(), &settings).await;
        ended_task(&node).await;
        let spans = receiver
            .until_spans(|spans| spans.iter().any(|span| span.name == "task k"))
            .await;
        assert!(spans.iter().all(|span| span.node == "sender"), "{spans:?}");
        let deadline = Instant::now() + PATIENCE;
        while receiver.lines().await.is_empty() {
            assert!(Instant::now() < deadline, "{protocol}: no line came");
            sleep(Duration::from_millis(20)).await;
        }
        let expected = Beside {
            authorization: Some("Bearer s3cret".to_owned()),
            encoding: Some("gzip".to_owned()),
        };
        for beside in receiver.requests().await {
            assert_eq!(beside, expected, "{protocol}");
        }
        let (_, shown) = node.get("/v1/config").await;
        let shown = shown.to_string();
        assert!(shown.contains("authorization=***"), "{shown}");
        assert!(
            !shown.contains("s3cret") && !shown.contains("Basic"),
            "{shown}"
        );
        node.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_no_trusted_authority_vouches_for_is_sent_nothing_and_the_log_says_why() {
    let (certified, other) = (Certified::make(), Certified::make());
    let [certificate, key] = ["sender.pem", "sender.key"].map(|name| certified.named(name));
    for (protocol, host, authority) in [
        ("grpc", "localhost", other.named("ca.pem")),
        ("http/protobuf", "localhost", other.named("ca.pem")),
        // The right one, by a name that its certificate does not have.
        ("grpc", "127.0.0.1", certified.named("ca.pem")),
        ("http/protobuf", "127.0.0.1", certified.named("ca.pem")),
    ] {
        let receiver = receiver(protocol, &certified).await;
        let endpoint = format!("https://{host}:{}", receiver.address.port());
        let dir = tempfile::tempdir().expect("temporary directory");
        let settings = [
            ("REGROW_TELEMETRY__ENDPOINT", &*endpoint),
            ("REGROW_TELEMETRY__PROTOCOL", protocol),
            ("REGROW_TELEMETRY__AUTHORITY", &authority),
            ("REGROW_TELEMETRY__CERTIFICATE", &certificate),
            ("REGROW_TELEMETRY__KEY", &key),
            ("REGROW_TELEMETRY__TIMEOUT", "200ms"),
            ("REGROW_LOG__FORMAT", "json"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ];
        let (path, deadline) = (dir.path().join("log"), Instant::now() + 2 * PATIENCE);
        let log = std::fs::File::create(&path).expect("writable");
        let node = NodeProcess::start_logging(dir.path(), &settings, log.into()).await;
        ended_task(&node).await;
        loop {
            let text = crate::metrics::scraped(&node).await;
            if text.contains("regrow_telemetry_spans_total{outcome=\"failed\"} 1") {
                break;
            }
            assert!(Instant::now() < deadline, "{protocol} {host}: {text}");
            sleep(Duration::from_millis(20)).await;
        }
        assert!(receiver.spans().await.is_empty() && receiver.requests().await.is_empty());
        let said = std::fs::read_to_string(&path).expect("a log");
        let mut lines = said
            .lines()
            .filter(|line| line.contains("does not take them"));
        let line = lines
            .find(|line| line.contains("spans"))
            .unwrap_or_default();
        assert!(
            line.contains("certificate"),
            "{protocol} {host}: {line}\n{said}"
        );
        node.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orderly_stop_sends_what_is_left_over_grpc_as_well() {
    let receiver = Receiver::over_grpc(None).await;
    let endpoint = receiver.url();
    let dir = tempfile::tempdir().expect("temporary directory");
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("REGROW_NODE__NAME", "stops"),
        // Longer than any test: only the stop can send it.
        ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "3600000"),
    ];
    let mut node = NodeProcess::start(dir.path(), &settings).await;
    ended_task(&node).await;
    assert!(receiver.requests().await.is_empty());
    node.signal(Signal::SIGTERM);
    assert_eq!(node.ended().await, Some(0));
    let spans = receiver.until_spans(|spans| !spans.is_empty()).await;
    let names: BTreeSet<&str> = spans.iter().map(|span| &*span.name).collect();
    assert_eq!(names, BTreeSet::from(["task k"]));
    let lines = receiver.lines().await;
    assert!(lines.iter().any(|line| line.body == "stopped"), "{lines:?}");
    let plain = receiver.requests().await;
    assert!(
        plain.iter().all(|beside| *beside == Beside::default()),
        "{plain:?}"
    );
}
