//! Verbs about the node: its queue, its agents, its health; and a node that is not there.

use std::process::Stdio;

use regrow_runtime::json::Json;
use regrow_runtime::queue::task::NewTask;

use crate::served::{Node, Ran, command};

#[tokio::test]
async fn the_queue_is_shown_and_turned() {
    let node = Node::start().await;
    node.submit("k").await;
    let stats = node.regrow(&["queue", "stats"]).await;
    assert!(stats.out.contains("1 of 100000 (0 %)"), "{stats:?}");
    let concurrency = node.regrow(&["queue", "concurrency"]).await;
    assert!(
        concurrency.out.contains("3 of 8 workers"),
        "{concurrency:?}"
    );
    let concurrency = node.regrow(&["queue", "concurrency", "--json"]).await;
    assert_eq!(concurrency.json()[0]["queue_size"], 1);
    for (verb, expected) in [("pause", "paused"), ("drain", "draining")] {
        let ran = node.regrow(&["queue", verb]).await;
        assert!(ran.out.contains(expected), "{ran:?}");
    }
    let refused = node.regrow(&["run", "g"]).await;
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("(draining)"), "{refused:?}");
    let open = node.regrow(&["queue", "resume"]).await;
    assert!(open.out.contains("open"), "{open:?}");
    let max = node.regrow(&["queue", "set-max", "9", "--json"]).await;
    assert_eq!(max.json()["max_size"], 9);
    let max = node
        .regrow(&["queue", "set-max", "default", "--json"])
        .await;
    assert_eq!(max.json()["max_size"], 100_000);
    assert_eq!(node.regrow(&["queue", "set-max", "many"]).await.code, 2);
    let unsure = node.regrow(&["queue", "clear"]).await;
    assert_eq!(unsure.code, 2);
    assert!(unsure.err.contains("--yes"), "{unsure:?}");
    assert_eq!(node.queue.stats().size, 1);
    let cleared = node.regrow(&["queue", "clear", "--yes"]).await;
    assert_eq!(cleared.out.trim(), "1 tasks cancelled");
}

#[tokio::test]
async fn agents_and_health_are_shown_without_tricks_on_the_terminal() {
    let node = Node::start().await;
    let agents = node.regrow(&["agents", "list"]).await;
    assert!(agents.out.contains("worker-1") && agents.out.contains("bang"));
    assert!(!agents.out.contains('\u{1b}'), "{agents:?}");
    let none = node.regrow(&["agents", "list", "--role", "critic"]).await;
    assert_eq!(none.out.trim(), "no agent plays the role critic");
    let health = node.regrow(&["health"]).await;
    assert_eq!(health.code, 0, "{health:?}");
    assert!(health.out.contains("store"), "{health:?}");
}

#[tokio::test]
async fn a_node_that_is_not_there_is_named_with_the_way_out() {
    let way_out = "start one with `regrow node` or set REGROW_URL";
    let cases = [
        ("http://127.0.0.1:1", 1, way_out),
        ("https://127.0.0.1:1", 2, "speaks no TLS"),
        ("nonsense", 2, "REGROW_URL"),
        ("ftp://127.0.0.1", 2, "http://"),
    ];
    for (url, code, expected) in cases {
        let output = command(url, &["queue", "stats"]).output().await;
        let ran = Ran::new(&output.expect("it ran"));
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.err.contains(expected), "{ran:?}");
        assert_eq!(ran.out, "");
    }
}

#[tokio::test]
async fn a_reader_that_leaves_early_is_no_error() {
    let node = Node::start().await;
    for _ in 0..300 {
        node.submit("k").await;
    }
    let mut child = node
        .command(&["tasks", "list", "--limit", "300"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    let ran = Ran::new(&child.wait_with_output().await.expect("it ended"));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[tokio::test]
async fn rules_are_set_from_the_command_line_and_a_waiting_task_is_explained() {
    let node = Node::start().await;
    let nameless = node.regrow(&["queue", "set-limit", "", "1"]).await;
    assert_eq!(nameless.code, 2, "{nameless:?}");
    for verb in [
        &["queue", "set-weight", "class", "bulk", "0.5"][..],
        &["queue", "set-limit", "k", "2"],
        &["queue", "set-default-limit", "3"],
        &["queue", "set-rate", "mail", "--units", "60", "--per", "1m"],
        &["queue", "set-resource", "gpu", "--slots", "1"],
        &[
            "queue",
            "set-resource",
            "tokens",
            "--units",
            "9",
            "--per",
            "1s",
            "--burst",
            "20",
        ],
    ] {
        let ran = node.regrow(verb).await;
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    let rules = node.regrow(&["queue", "rules", "--json"]).await.json();
    assert_eq!(rules["class_weights"]["bulk"], 0.5);
    assert_eq!(rules["rates"]["mail"]["period_ms"], 60_000);
    assert_eq!(rules["gates"]["resource/tokens"]["total"], 20);
    let shown = node.regrow(&["queue", "rules"]).await;
    assert!(shown.out.contains("resource/gpu"), "{shown:?}");
    let removed = node
        .regrow(&["queue", "set-rate", "mail", "--remove"])
        .await;
    assert_eq!(removed.code, 0, "{removed:?}");
    let unclear = node.regrow(&["queue", "set-rate", "mail"]).await;
    assert_eq!(unclear.code, 2, "{unclear:?}");
    node.queue
        .submit(NewTask::new("nobody", Json::null()))
        .await
        .expect("room");
    let listed = node.regrow(&["tasks", "list", "--json"]).await.json();
    let id = listed["tasks"][0]["id"].as_str().expect("an id");
    let why = node.regrow(&["tasks", "explain", id]).await;
    assert!(
        why.out
            .contains("no_worker: no worker asks for tasks of kind nobody"),
        "{why:?}"
    );
}
