//! The two demos, as a newcomer runs them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::node::{NodeProcess, PATIENCE, Said, regrow, say};
use crate::schema::Schema;

fn demo(tree: &Path, data: &Path) -> (Said, Value) {
    let said = say(regrow()
        .arg("demo")
        .arg(tree)
        .args(["--json", "--data-dir"])
        .arg(data));
    let outcome = serde_json::from_str(&said.out).unwrap_or_default();
    (said, outcome)
}

#[test]
fn an_audit_reports_what_is_wrong_and_then_what_was_fixed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (tree, data) = (dir.path().join("tree"), dir.path().join("data"));
    fs::create_dir(&tree).expect("created");
    fs::write(
        tree.join("README.md"),
        "# Hello\n\nSee [the guide](guide.md).\n",
    )
    .expect("written");
    let (said, first) = demo(&tree, &data);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(first["summary"]["errors"], 1, "{first}");
    assert_eq!(first["summary"]["new"], Value::Null, "{first}");
    let report = fs::read_to_string(data.join("report.md")).expect("a report");
    assert!(report.contains("guide.md"), "{report}");
    let json: Value =
        serde_json::from_slice(&fs::read(data.join("report.json")).expect("a report"))
            .expect("JSON");
    assert!(json.is_object());

    fs::write(tree.join("guide.md"), "# Guide\n").expect("written");
    let (said, second) = demo(&tree, &data);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let summary = &second["summary"];
    assert_eq!(
        (summary["errors"].as_u64(), summary["fixed"].as_u64()),
        (Some(0), Some(1))
    );
}

#[test]
fn an_empty_directory_is_audited_without_findings() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (tree, data) = (dir.path().join("tree"), dir.path().join("data"));
    fs::create_dir(&tree).expect("created");
    let (said, outcome) = demo(&tree, &data);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(outcome["summary"]["files_planned"], 0, "{outcome}");
}

#[tokio::test]
async fn an_audit_whose_process_was_killed_is_gone_on_with() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let tree = fs::canonicalize(dir.path()).expect("there").join("tree");
    let data = dir.path().join("data");
    fs::create_dir(&tree).expect("created");
    fs::write(tree.join("README.md"), "# Hello\n\n[gone](gone.md)\n").expect("written");
    // Without workers it gets as far as its first wave.
    let node = NodeProcess::start(&data, &[("REGROW_AGENTS__WORKERS", "0")]).await;
    let task = json!({ "kind": "audit", "payload": { "path": tree } });
    let (status, task) = node.post("/v1/tasks", &task).await;
    assert_eq!(status, 201, "{task}");
    let id = task["id"].as_str().expect("an id");
    let deadline = Instant::now() + PATIENCE;
    while node.get(&format!("/v1/tasks/{id}")).await.1["state"] != "waiting" {
        assert!(Instant::now() < deadline, "nobody planned the audit");
        sleep(Duration::from_millis(5)).await;
    }
    node.kill().await;

    let said = say(regrow().arg("demo").arg(&tree).arg("--data-dir").arg(&data));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(
        said.err.contains(&format!("going on with the audit {id}")),
        "{}",
        said.err
    );
    assert!(said.out.contains("1 of 1 file checked"), "{}", said.out);
    let reports: Vec<String> = fs::read_dir(data.join("reports"))
        .expect("reports")
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert_eq!(reports, [id], "the audit was begun anew");
}

#[test]
fn a_rehearsal_ends_with_a_clean_ledger() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut command = regrow();
    command
        .arg("demo")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/docs"))
        .args(["--crash", "--json", "--seed", "7", "--data-dir"])
        .arg(dir.path());
    let said = say(&mut command);
    assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);
    let ledger: Value = serde_json::from_str(&said.out).expect("JSON");
    for clean in ["lost", "doubled", "rerun"] {
        assert_eq!(ledger[clean], 0, "{ledger}");
    }
    assert_eq!(ledger["acknowledged"], ledger["completed"], "{ledger}");
    assert_eq!(ledger["node_kills"], 3, "{ledger}");
    assert!(
        ledger["acknowledged"]
            .as_u64()
            .is_some_and(|count| 300 < count),
        "{ledger}"
    );
    assert!(
        ledger["stale_refused"]
            .as_u64()
            .is_some_and(|count| 0 < count),
        "{ledger}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_killed_frozen_and_drained_loses_and_doubles_nothing() {
    let schema = Schema::create().await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let said = say(regrow()
        .args([
            "demo",
            "--cluster",
            "3",
            "--json",
            "--seed",
            "11",
            "--data-dir",
        ])
        .arg(dir.path())
        .env("REGROW_STORE__DATABASE_URL", schema.server()));
    assert_eq!(said.code, Some(0), "{}\n{}", said.err, said.out);
    let accounts: Value = serde_json::from_str(&said.out).expect("JSON");
    for (what, count) in [
        ("lost", 0),
        ("doubled", 0),
        ("rerun", 0),
        ("acknowledged", 200),
    ] {
        assert_eq!(accounts[what], count, "{what}: {accounts}");
    }
    assert_eq!(accounts["agents"], accounts["agents_running"]);
    assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
}

#[test]
fn a_cluster_without_a_database_loses_and_doubles_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut command = regrow();
    command.args(["demo", "--cluster", "3", "--no-database", "--json"]);
    let said = say(command.args(["--seed", "7", "--data-dir"]).arg(dir.path()));
    assert_eq!(said.code, Some(0), "{}\n{}", said.err, said.out);
    let accounts: Value = serde_json::from_str(&said.out).expect("JSON");
    for (what, count) in [
        ("lost", 0),
        ("doubled", 0),
        ("rerun", 0),
        ("acknowledged", 198),
        ("agents_running", 6),
    ] {
        assert_eq!(accounts[what], count, "{what}: {accounts}");
    }
    assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);

    let two = say(regrow().args(["demo", "--cluster", "2", "--no-database"]));
    assert_eq!(two.code, Some(2), "{}", two.err);
    assert!(two.err.contains("at least 3"), "{}", two.err);
}

/// Whether a server is installed is known to whoever runs the tests: they need one.
#[test]
fn a_cluster_starts_a_database_of_its_own_if_it_is_told_of_none() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let said = say(regrow()
        .args(["demo", "--cluster", "2", "--seed", "5", "--data-dir"])
        .arg(dir.path()));
    assert_eq!(said.code, Some(0), "{}\n{}", said.err, said.out);
    assert!(said.out.contains("starting a PostgreSQL"), "{}", said.out);
    assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
}

#[test]
fn a_cluster_on_a_database_that_is_none_says_what_is_wrong() {
    let said = say(regrow().args(["demo", "--cluster", "3", "--database-url", "mysql://x"]));
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("--database-url"), "{}", said.err);
}
