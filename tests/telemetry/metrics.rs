//! Metrics as those who scrape them read them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::node::{NodeProcess, PATIENCE};
use crate::peers::Cluster;
use crate::prometheus::{Prometheus, tool};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// The node's metrics in Prometheus' text format.
pub(crate) async fn scraped(node: &NodeProcess) -> String {
    let answer = node.http.get(format!("{}/metrics", node.url)).send().await;
    answer.expect("an answer").text().await.expect("text")
}

/// The sum of all series of each name; a histogram's are `…_count`, `…_sum` and `…_bucket`.
fn sums(text: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let name = series.split('{').next().unwrap_or(series);
        let value: f64 = value.parse().expect("a number");
        *sums.entry(name.to_owned()).or_default() += value;
    }
    sums
}

/// The names that have a kind: families.
pub(crate) fn families(text: &str) -> BTreeSet<String> {
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    kinds
        .filter_map(|line| line.split(' ').next())
        .map(ToOwned::to_owned)
        .collect()
}

/// Submits, works on and ends tasks in all ways there are.
pub(crate) async fn load(node: &NodeProcess) {
    let budget = json!({ "tokens": 1_000 });
    let set = node.http.put(format!("{}/v1/budgets/node", node.url));
    let set = set.json(&budget).send().await.expect("an answer");
    assert!(set.status().is_success(), "{:?}", set.text().await);
    for n in 0..6 {
        let task = json!({ "kind": "load", "payload": n, "max_attempts": 1, "priority": "high" });
        let sent = node
            .http
            .post(format!("{}/v1/tasks", node.url))
            .header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"))
            .json(&task)
            .send()
            .await
            .expect("an answer");
        assert_eq!(sent.status(), 201);
    }
    let asked = json!({ "kinds": ["load"], "max": 6, "wait_ms": 20_000, "lease_ms": 60_000 });
    let (status, leases) = node.post("/v1/leases", &asked).await;
    assert_eq!(status, 200, "{leases}");
    let leases = leases["leases"]
        .as_array()
        .or(leases.as_array())
        .expect("leases")
        .clone();
    assert_eq!(leases.len(), 6);
    for (n, lease) in leases.iter().enumerate() {
        let id = lease["task"]["id"].as_str().expect("an id");
        let epoch = &lease["epoch"];
        let cost = json!({ "tokens_in": 10, "tokens_out": 5, "calls": 1 });
        let step = json!({ "epoch": epoch, "key": "look", "input": n, "output": n, "cost": cost });
        let (status, said) = node.post(&format!("/v1/leases/{id}/steps"), &step).await;
        assert!(status < 300, "{said}");
        let (verb, body) = match n {
            0 => (
                "fail",
                json!({ "epoch": epoch, "error": "no", "retryable": false }),
            ),
            1 => ("release", json!({ "epoch": epoch })),
            _ => ("complete", json!({ "epoch": epoch, "result": n })),
        };
        let (status, said) = node.post(&format!("/v1/leases/{id}/{verb}"), &body).await;
        assert!(status < 300, "{said}");
    }
    let stale = json!({ "epoch": leases[5]["epoch"].as_u64().map(|it| it - 1), "result": 1 });
    let id = leases[5]["task"]["id"].as_str().expect("an id");
    let (status, said) = node
        .post(&format!("/v1/leases/{id}/complete"), &stale)
        .await;
    assert_eq!(status, 409, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_sound_to_promtool_and_move_under_load() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = NodeProcess::start(dir.path(), &[]).await;
    let before = sums(&scraped(&node).await);
    load(&node).await;
    let moved = [
        "regrow_tasks_accepted_total",
        "regrow_tasks_ended_total",
        "regrow_leases_given_total",
        "regrow_steps_recorded_total",
        "regrow_stale_effects_refused_total",
        "regrow_budget_spent_total",
        "regrow_queue_wait_seconds_count",
        "regrow_attempt_seconds_count",
        "regrow_task_seconds_count",
        "regrow_step_seconds_count",
        "regrow_store_commit_seconds_count",
        "regrow_store_batch_callers_count",
        "regrow_http_requests_total",
        "regrow_http_request_seconds_count",
        "regrow_probe_seconds_count",
        "regrow_event_loop_lag_seconds_count",
        "process_cpu_seconds_total",
    ];
    let of = |sums: &BTreeMap<String, f64>, name: &str| sums.get(name).copied().unwrap_or(0.0);
    let deadline = Instant::now() + PATIENCE;
    let (text, after) = loop {
        let text = scraped(&node).await;
        let after = sums(&text);
        let still: Vec<_> = moved
            .iter()
            .filter(|name| of(&after, name) <= of(&before, name))
            .collect();
        // Gauges follow within a second.
        if still.is_empty() && 0.0 < of(&after, "regrow_budget_used_ratio") {
            break (text, after);
        }
        assert!(Instant::now() < deadline, "did not move: {still:?}");
        sleep(std::time::Duration::from_millis(20)).await;
    };
    let rose = |name: &str| of(&after, name) - of(&before, name);
    assert_eq!(rose("regrow_tasks_accepted_total"), 6.0);
    assert_eq!(rose("regrow_leases_given_total"), 6.0);
    assert_eq!(rose("regrow_attempt_seconds_count"), 6.0);
    assert_eq!(
        rose("regrow_task_seconds_count"),
        5.0,
        "one was handed back"
    );
    assert_eq!(
        rose("regrow_budget_spent_total"),
        6.0 * 16.0,
        "15 tokens and a call each"
    );
    assert!((of(&after, "regrow_budget_used_ratio") - 0.09).abs() < 1e-9);
    assert!(
        text.contains("regrow_tasks_accepted_total{lane=\"high\"} 6\n"),
        "{text}"
    );
    let said = tool("promtool", &["check", "metrics"], Path::new("."), &text);
    assert_eq!(said, "", "promtool has something to say");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_that_is_described_is_there_in_a_cluster_and_none_has_ids() {
    let cluster = Cluster::new();
    let a = cluster.peer("a", &[]);
    let mut b = cluster.peer("b", &[a.address]);
    b.set("REGROW_AGENTS__ADAPTIVE", "true");
    let (one, two) = (a.start().await, b.start().await);
    crate::peers::until_connected(&one, "b").await;
    load(&one).await;
    // Asked of the other node, it goes from one to the other.
    let (_, task) = one.post("/v1/tasks", &json!({ "kind": "rest" })).await;
    let path = format!("/v1/tasks/{}", task["id"].as_str().expect("an id"));
    assert_eq!(two.get(&path).await.0, 200);
    // Only when something goes wrong, where nodes share a database, or with a receiver.
    let rare = BTreeSet::from([
        "regrow_tasks_refused_total",
        "regrow_restarts_total",
        "regrow_restart_seconds",
        "regrow_remedies_total",
        "regrow_health_verdicts_total",
        "regrow_gateway_not_sent_total",
        "regrow_gateway_dropped_total",
        "regrow_gateway_turned_away_total",
        "regrow_node_troubles_total",
        "regrow_discovery_names_asked_total",
        "regrow_gossip_datagrams_dropped_total",
        "regrow_gossip_datagrams_under_accepted_secret_total",
        "regrow_placed_agent_start_seconds",
        "regrow_telemetry_spans_total",
        "regrow_telemetry_log_lines_total",
    ]);
    let deadline = Instant::now() + PATIENCE;
    let text = loop {
        let text = scraped(&one).await + &scraped(&two).await;
        let there = families(&text);
        let missing: Vec<_> = described()
            .into_iter()
            .filter(|name| !there.contains(name) && !rare.contains(&**name))
            .collect();
        if missing.is_empty() {
            break text;
        }
        assert!(Instant::now() < deadline, "missing: {missing:?}");
        sleep(std::time::Duration::from_millis(50)).await;
    };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let labels = line.rsplit_once(' ').map_or("", |(series, _)| series);
        assert!(!labels.contains("-7"), "an id is a label: {line}");
        let series = labels.split_once('{').map_or("", |(_, labels)| labels);
        for label in series.split(',').filter_map(|one| one.split('=').next()) {
            let known = [
                "lane",
                "state",
                "then",
                "reason",
                "cause",
                "role",
                "remedy",
                "side",
                "name",
                "topic",
                "kind",
                "direction",
                "route",
                "method",
                "status",
                "le",
                "unit",
                "scope",
                "version",
                "outcome",
                "trouble",
                "verdict",
                "",
                "}",
            ];
            assert!(
                known.contains(&label),
                "the label `{label}` is not known: {line}"
            );
        }
    }
}

/// The names of the sources, as the unit test of the HTTP crate holds them against the help texts.
pub(crate) fn described() -> BTreeSet<String> {
    let file = include_str!("../../http/src/exposition/described.rs");
    let sources = [
        include_str!("../../runtime/src/metrics.rs"),
        include_str!("../../http/src/observe.rs"),
        include_str!("../../cluster/src/gossip.rs"),
        include_str!("../../cluster/src/gossip/counts.rs"),
        include_str!("../../cluster/src/discovery.rs"),
        include_str!("../../cluster/src/exchange/counts.rs"),
        include_str!("../../cluster/src/transport/listener.rs"),
        include_str!("../../cluster/src/transport/gateway.rs"),
        file,
    ];
    let names = sources
        .iter()
        .flat_map(|text| text.split(": &str = \"").skip(1));
    let names = names.filter_map(|rest| rest.split('"').next());
    let names: BTreeSet<String> = names
        .filter(|name| name.starts_with("regrow_") && name.is_ascii())
        .map(ToOwned::to_owned)
        .collect();
    assert!(60 < names.len(), "only {} were found", names.len());
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_scrapes_the_node_and_finds_the_trace_behind_a_bucket() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = NodeProcess::start(dir.path(), &[]).await;
    let prometheus = Prometheus::scraping(&node.url);
    load(&node).await;
    prometheus
        .until("/api/v1/targets", |said| {
            let target = &said["data"]["activeTargets"][0];
            let problem = target["lastError"].as_str().unwrap_or_default();
            // A loaded machine may be slow; what is refused is not understood.
            let slow = problem.is_empty() || problem.contains("deadline exceeded");
            assert!(slow, "the scrape failed: {target}");
            (target["health"] == "up").then_some(())
        })
        .await;
    for metric in [
        "regrow_task_seconds",
        "regrow_queue_wait_seconds",
        "regrow_http_request_seconds",
    ] {
        let path = format!("/api/v1/query_exemplars?query={metric}_bucket&start=0&end=99999999999");
        prometheus
            .until(&path, |said| {
                let series = said["data"].as_array()?;
                let exemplars = series.iter().filter_map(|one| one["exemplars"].as_array());
                let found = |one: &Value| one["labels"]["trace_id"] == TRACE;
                exemplars.flatten().any(found).then_some(())
            })
            .await;
    }
    prometheus
        .until(
            "/api/v1/query?query=sum(regrow_tasks_accepted_total)",
            |said| (said["data"]["result"][0]["value"][1] == "6").then_some(()),
        )
        .await;
}
