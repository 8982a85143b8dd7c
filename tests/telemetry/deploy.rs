//! What lies under `deploy/`: rules, routes, dashboards, held against the programs that read them
//! and against a node that runs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::metrics::{families, load, scraped};
use crate::node::PATIENCE;
use crate::peers::{Cluster, until_connected};
use crate::prometheus::tool;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(deploy().join(path)).expect("readable")
}

/// Every alert there is, by the rules' own text.
fn alerts() -> BTreeSet<String> {
    let rules = read("prometheus/rules/regrow.yml");
    let lines = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    lines.map(ToOwned::to_owned).collect()
}

#[test]
fn rules_fire_when_they_should_and_each_of_them_is_tested() {
    let tests = deploy().join("prometheus/tests");
    let said = tool("promtool", &["test", "rules", "regrow.yml"], &tests, "");
    assert!(said.contains("SUCCESS"), "{said}");
    let said = tool(
        "promtool",
        &["check", "rules", "../rules/regrow.yml"],
        &tests,
        "",
    );
    assert!(said.contains("SUCCESS"), "{said}");
    let text = read("prometheus/tests/regrow.yml");
    let tested: BTreeSet<String> = text
        .split("alertname: ")
        .skip(1)
        .filter(|rest| {
            !rest
                .lines()
                .nth(1)
                .unwrap_or_default()
                .contains("exp_alerts: []")
        })
        .map(|rest| rest.lines().next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(tested, alerts(), "each alert fires in a test");
}

#[test]
fn prometheus_and_alertmanager_take_their_configurations() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let token = dir.path().join("token");
    std::fs::write(&token, "secret").expect("written");
    let config = read("prometheus/prometheus.yml").replace(
        "/etc/prometheus/secrets/regrow-token",
        &token.display().to_string(),
    );
    std::fs::write(dir.path().join("prometheus.yml"), config).expect("written");
    std::fs::create_dir(dir.path().join("rules")).expect("created");
    let rules = read("prometheus/rules/regrow.yml");
    std::fs::write(dir.path().join("rules/regrow.yml"), rules).expect("written");
    let said = tool(
        "promtool",
        &["check", "config", "prometheus.yml"],
        dir.path(),
        "",
    );
    assert!(said.contains("1 rule files found"), "{said}");

    let routes = deploy().join("alertmanager");
    let said = tool("amtool", &["check-config", "alertmanager.yml"], &routes, "");
    assert!(said.contains("SUCCESS"), "{said}");
    for (alert, severity, receiver) in [
        ("RegrowTaskStuck", "warning", "people"),
        ("RegrowDuplicateOwner", "critical", "pager"),
        ("RegrowBudgetBurn", "warning", "budget"),
    ] {
        let (alert, severity) = (format!("alertname={alert}"), format!("severity={severity}"));
        let asked = [
            "config",
            "routes",
            "test",
            "--config.file=alertmanager.yml",
            &alert,
            &severity,
        ];
        let said = tool("amtool", &asked, &routes, "");
        assert_eq!(said.lines().next(), Some(receiver), "{said}");
    }
}

/// Names of metrics in a text with expressions.
fn named(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = text.split(|c: char| !is_part(c));
    let names = words.filter(|word| {
        (word.starts_with("regrow_") || word.starts_with("process_")) && !word.contains(':')
    });
    names
        .map(|name| {
            let stems = ["_bucket", "_count", "_sum"];
            let stem = stems.iter().find_map(|suffix| name.strip_suffix(suffix));
            stem.unwrap_or(name).to_owned()
        })
        .collect()
}

fn expressions(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let expressions = targets
        .flatten()
        .filter_map(|target| target["expr"].as_str());
    expressions.map(ToOwned::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_of_a_rule_or_a_panel_is_told_by_a_running_node() {
    let rules = read("prometheus/rules/regrow.yml");
    let rules: Vec<&str> = rules
        .lines()
        .filter(|line| !line.contains("summary:") && !line.contains("description:"))
        .collect();
    let dashboard: Value =
        serde_json::from_str(&read("grafana/dashboards/regrow.json")).expect("JSON");
    let expressions = expressions(&dashboard);
    assert!(30 < expressions.len());
    let wanted = named(&(rules.join("\n") + &expressions.join("\n")));
    assert!(30 < wanted.len(), "{wanted:?}");

    let cluster = Cluster::new();
    let a = cluster.peer("a", &[]);
    let b = cluster.peer("b", &[a.address]);
    let (one, two) = (a.start().await, b.start().await);
    until_connected(&one, "b").await;
    load(&one).await;
    // What only trouble brings about: a crash, and a queue that is full.
    let crash = json!({ "fault": "panic" });
    let (status, said) = one.post("/v1/agents/worker-1/inject", &crash).await;
    assert!(status < 300, "{said}");
    for node in [&one, &two] {
        let narrow = node.http.put(format!("{}/v1/queue/max_size", node.url));
        let narrow = narrow
            .json(&json!({ "max_size": 1 }))
            .send()
            .await
            .expect("an answer");
        assert!(narrow.status().is_success(), "{:?}", narrow.text().await);
    }
    // The first fills this node, the second the other, where it is passed on to.
    let task = json!({ "kind": "none" });
    let mut refused = false;
    for _ in 0..4 {
        refused = one.post("/v1/tasks", &task).await.0 == 429;
    }
    assert!(refused, "both are full");

    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = scraped(&one).await;
        let there = families(&text);
        let missing: Vec<_> = wanted.difference(&there).collect();
        if missing.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{missing:?} are not told");
        sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[test]
fn the_dashboard_is_whole_and_its_expressions_parse() {
    let text = read("grafana/dashboards/regrow.json");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<u64> = panels
        .iter()
        .filter_map(|panel| panel["id"].as_u64())
        .collect();
    assert_eq!(ids.len(), panels.len(), "numbers of panels are used once");
    // As rules, since promtool parses those.
    let mut rules = "groups:\n  - name: panels\n    rules:\n".to_owned();
    for (n, expression) in expressions(&dashboard).iter().enumerate() {
        let expression = expression
            .replace("$__rate_interval", "5m")
            .replace("$instance", ".*");
        rules += &format!(
            "      - record: panel:{n}\n        expr: {}\n",
            json!(expression)
        );
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    std::fs::write(dir.path().join("panels.yml"), rules).expect("written");
    let said = tool(
        "promtool",
        &["check", "rules", "panels.yml"],
        dir.path(),
        "",
    );
    assert!(said.contains("SUCCESS"), "{said}");
    let source = read("grafana/provisioning/datasources/prometheus.yml");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let uid = panel["datasource"]["uid"].as_str().expect("a source");
        assert!(
            source.contains(&format!("uid: {uid}")),
            "{uid} is not provisioned"
        );
    }
}
