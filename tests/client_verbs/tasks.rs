//! Verbs about tasks.

use std::process::Stdio;

use regrow_runtime::journal::remote::OfferedStep;
use regrow_runtime::json::Json;
use regrow_runtime::queue::budget::Cost;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::served::{Node, Ran};

#[tokio::test]
async fn a_goal_is_submitted_and_its_result_waited_for() {
    let node = Node::start().await;
    let (ran, ()) = tokio::join!(
        node.regrow(&["run", "tidy up", "--wait", "--priority", "high"]),
        node.complete("plan", json!({ "done": true }))
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out.trim(), "{\n  \"done\": true\n}");
    let listed = node.regrow(&["tasks", "list", "--json"]).await.json();
    assert_eq!(listed["tasks"][0]["goal"], "tidy up");
    assert_eq!(listed["tasks"][0]["priority"], "high");
}

#[tokio::test]
async fn only_a_completed_task_is_a_success() {
    let node = Node::start().await;
    let (ran, ()) = tokio::join!(node.regrow(&["run", "g", "--kind", "k", "--wait"]), async {
        let lease = node.lease("k").await;
        let (id, epoch) = (lease.task.id, lease.epoch);
        let failed = node.queue.fail(id, epoch, "no luck".into(), false);
        failed.await.expect("failed");
    });
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("discarded"), "{ran:?}");
    assert!(ran.err.contains("no luck"), "{ran:?}");
    assert_eq!(ran.out, "");

    let hasty = ["run", "g", "--kind", "k", "--wait", "--timeout", "50ms"];
    let waited = node.regrow(&hasty).await;
    assert_eq!(waited.code, 1);
    let expected = "still available after 50ms";
    assert!(waited.err.contains(expected), "{waited:?}");
}

#[tokio::test]
async fn a_task_is_read_from_a_file_or_from_standard_input() {
    let node = Node::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("task.json");
    std::fs::write(&path, r#"{"kind":"k","payload":{"x": 1.50}}"#).expect("written");
    let path = path.to_str().expect("UTF-8");
    let ran = node.regrow(&["run", "--file", path, "--json"]).await;
    assert!(ran.out.contains(r#""payload":{"x": 1.50}"#), "{ran:?}");

    let mut child = node
        .command(&["run", "--file", "-", "--kind", "other", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let task = br#"{"kind":"k"}"#;
    stdin.write_all(task).await.expect("written");
    drop(stdin);
    let ran = Ran::new(&child.wait_with_output().await.expect("it ended"));
    assert_eq!(ran.json()["kind"], "other");

    std::fs::write(path, "{ nonsense").expect("written");
    for (path, expected) in [
        (path, "holds no JSON task"),
        ("/no/such/file", "cannot read /no/such/file"),
    ] {
        let ran = node.regrow(&["run", "--file", path]).await;
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains(expected), "{ran:?}");
    }
}

#[tokio::test]
async fn many_tasks_of_one_file_are_submitted_together_and_those_refused_are_named() {
    let node = Node::start().await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("UTF-8");
    let lines = (0..2_500).map(|n| format!("{{\"kind\":\"k\",\"payload\":{n}}}\n"));
    std::fs::write(path, lines.collect::<String>()).expect("writable");
    let ran = node.regrow(&["run", "--file", path]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out.lines().count(), 2_500);
    assert_eq!(node.queue.stats().size, 2_500);

    std::fs::write(path, "{\"kind\":\"k\"}\n{\"kind\":\"NO\"}\n").expect("writable");
    let ran = node.regrow(&["run", "--file", path]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("task 2 was refused: "), "{ran:?}");
    assert!(ran.err.contains("1 of 2 tasks were refused"), "{ran:?}");
    assert_eq!(node.queue.stats().size, 2_501);
    let ran = node.regrow(&["run", "--file", path, "--json"]).await;
    let answers: Value =
        serde_json::from_str(ran.out.lines().next().expect("a line")).expect("JSON");
    assert_eq!(answers[1]["code"], "validation_failed");

    let ran = node.regrow(&["run", "--file", path, "--wait"]).await;
    assert_eq!(ran.code, 2, "{ran:?}");
}

#[tokio::test]
async fn every_problem_of_a_refused_task_is_told() {
    let node = Node::start().await;
    let refused = ["run", "g", "--kind", "NO", "--priority", "urgent"];
    let ran = node.regrow(&refused).await;
    assert_eq!(ran.code, 1);
    let expected = "priority is not known: `urgent` is not one of";
    assert!(ran.err.contains(expected), "{ran:?}");
    let ran = node.regrow(&[&refused[..], &["--json"]].concat()).await;
    assert_eq!(ran.code, 1);
    let problem: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(problem["code"], "validation_failed");
}

#[tokio::test]
async fn tasks_are_listed_shown_cancelled_and_retried() {
    let node = Node::start().await;
    let empty = node.regrow(&["tasks", "list"]).await;
    assert!(empty.out.contains("no tasks yet"), "{empty:?}");
    let (id, other) = (node.submit("k").await, node.submit("other").await);
    let listed = node.regrow(&["tasks", "list", "--kind", "k"]).await;
    assert!(listed.out.starts_with("ID"), "{listed:?}");
    assert!(listed.out.contains(&id) && !listed.out.contains(&other));
    let cut = node.regrow(&["tasks", "list", "--limit", "1"]).await;
    assert!(cut.out.contains("and more"), "{cut:?}");
    let none = node
        .regrow(&["tasks", "list", "--state", "discarded"])
        .await;
    assert!(none.out.contains("no tasks match"), "{none:?}");

    let shown = node.regrow(&["tasks", "show", &id]).await;
    let state = shown.out.lines().find(|line| line.starts_with("state"));
    assert!(state.is_some_and(|line| line.ends_with("  available")));
    let shown = node.regrow(&["tasks", "show", &id, "--json"]).await;
    assert_eq!(shown.json()["id"], id);
    let cancelled = node.regrow(&["tasks", "cancel", &id]).await;
    assert_eq!(cancelled.out.trim(), format!("task {id} is cancelled"));
    let again = node.regrow(&["tasks", "cancel", &id]).await;
    assert_eq!(again.code, 1);
    assert!(again.err.contains("already ended"), "{again:?}");
    let retried = node.regrow(&["tasks", "retry", &id]).await;
    let expected = format!("task {id} is available again");
    assert_eq!(retried.out.trim(), expected);
    let unknown = node.regrow(&["tasks", "show", "../queue"]).await;
    assert_eq!(unknown.code, 1);
    assert!(unknown.err.contains("is not a task id"), "{unknown:?}");
}

#[tokio::test]
async fn the_finished_steps_of_a_task_are_shown_with_their_cost() {
    let node = Node::start().await;
    let id = node.submit("k").await;
    let none = node.regrow(&["tasks", "steps", &id]).await;
    assert_eq!(none.out, "no step of it is finished\n", "{none:?}");
    let lease = node.lease("k").await;
    let step = OfferedStep {
        key: "ask the model/1".into(),
        input: Json::null(),
        output: Json::of(&json!({ "words": 3 })).expect("JSON"),
        cost: Some(Cost {
            tokens_out: 35,
            ..Cost::default()
        }),
        started_at: None,
    };
    let recorded = node.queue.offer_step(lease.task.id, lease.epoch, step);
    recorded.await.expect("recorded");
    let listed = node.regrow(&["tasks", "steps", &id]).await;
    assert!(listed.out.contains("tokens_out 35"), "{listed:?}");
    assert!(!listed.out.contains("tokens_in"), "{listed:?}");
    let one = ["tasks", "steps", &id, "--key", "ask the model/1"];
    let shown = node.regrow(&one).await;
    assert!(shown.out.contains("\"words\": 3"), "{shown:?}");
    for n in 0..210 {
        let step = OfferedStep {
            key: format!("{n}"),
            input: Json::null(),
            output: Json::null(),
            cost: None,
            started_at: None,
        };
        let recorded = node.queue.offer_step(lease.task.id, lease.epoch, step);
        recorded.await.expect("recorded");
    }
    // More than fit one page of the node.
    let many = node
        .regrow(&["tasks", "steps", &id, "--limit", "205"])
        .await;
    assert_eq!(many.out.lines().count(), 1 + 205 + 1, "{many:?}");
    assert!(many.out.contains("show them with --limit 410"), "{many:?}");
    let all = node
        .regrow(&["tasks", "steps", &id, "--limit", "410"])
        .await;
    assert_eq!(all.out.lines().count(), 1 + 211, "{all:?}");
    let unknown = node.regrow(&["tasks", "steps", &id, "--key", "x"]).await;
    assert_eq!(unknown.code, 1);
    assert!(unknown.err.contains("step_not_found"), "{unknown:?}");
}

#[tokio::test]
async fn events_are_listed_and_followed_to_the_end() {
    let node = Node::start().await;
    let id = node.submit("k").await;
    let mut child = node
        .command(&["tasks", "events", &id, "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let first = lines.next_line().await.expect("read").expect("a line");
    assert!(first.contains("submitted"), "{first}");
    node.complete("k", json!(1)).await;
    let mut rest = Vec::new();
    while let Some(line) = lines.next_line().await.expect("read") {
        rest.push(line);
    }
    let last = rest.last().expect("more lines");
    assert!(last.contains("completed"), "{rest:?}");
    assert_eq!(child.wait().await.expect("ended").code(), Some(0));
    let listed = node.regrow(&["tasks", "events", &id]).await;
    assert_eq!(listed.out.lines().count(), 1 + rest.len());
    let json = node.regrow(&["tasks", "events", &id, "--json"]).await;
    assert_eq!(json.json()["events"][0]["kind"], "submitted");
}

#[tokio::test]
async fn what_was_given_up_is_shown_by_its_reason_and_tried_again() {
    let node = Node::start().await;
    for reason in ["no such model", "line 7 is odd", "line 12 is odd"] {
        node.submit("k").await;
        let lease = node.lease("k").await;
        let failed = node
            .queue
            .fail(lease.task.id, lease.epoch, reason.into(), false);
        failed.await.expect("held");
    }
    let shown = node.regrow(&["queue", "dead-letters", "--json"]).await;
    assert_eq!(shown.json()[0]["count"], 2, "{shown:?}");
    let unsure = node.regrow(&["queue", "replay", "--error", "odd"]).await;
    assert_eq!(unsure.code, 2);
    assert!(unsure.err.contains("2 tasks"), "{unsure:?}");
    let replayed = node
        .regrow(&["queue", "replay", "--error", "odd", "--yes"])
        .await;
    assert_eq!(replayed.code, 0, "{replayed:?}");
    assert_eq!(replayed.out.trim(), "2 tasks are tried again");
    let left = node.regrow(&["queue", "dead-letters"]).await;
    assert!(
        left.out.contains("no such model") && !left.out.contains("odd"),
        "{left:?}"
    );
    let nothing = node
        .regrow(&["queue", "dead-letters", "--kind", "other"])
        .await;
    assert_eq!(nothing.out.trim(), "no task was given up");
}
