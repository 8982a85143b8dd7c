//! A node on a PostgreSQL server, as a user meets it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::node::{NodeProcess, PATIENCE, regrow, say};
use crate::schema::Schema;

/// Settings of a node on that database, without agents that would run what is submitted.
fn settings(url: &str) -> [(&str, &str); 2] {
    [
        ("REGROW_STORE__DATABASE_URL", url),
        ("REGROW_STORE__LIFE_TERM", "1s"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_finds_its_tasks_in_the_database() {
    let schema = Schema::create().await;
    let url = schema.url();
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = NodeProcess::start(dir.path(), &settings(&url)).await;
    let (_, health) = node.get("/health/deep").await;
    assert!(health.to_string().contains("\"postgres\""), "{health}");
    let task = json!({ "kind": "nobodys", "payload": { "n": 1 }, "idempotency_key": "k" });
    let (status, accepted) = node.post("/v1/tasks", &task).await;
    assert_eq!(status, 201, "{accepted}");
    let claim = json!({ "kinds": ["nobodys"], "max": 1, "wait_ms": 0, "lease_ms": 60_000 });
    let (_, leases) = node.post("/v1/leases", &claim).await;
    let epoch = leases[0]["epoch"].as_u64().expect("an epoch");
    node.kill().await;

    assert!(
        !dir.path().join("regrow.db").exists(),
        "the database is elsewhere"
    );
    let node = NodeProcess::start(dir.path(), &settings(&url)).await;
    let (status, repeated) = node.post("/v1/tasks", &task).await;
    assert_eq!((status, &repeated["id"]), (200, &accepted["id"]));
    let (_, leases) = node.post("/v1/leases", &claim).await;
    let id = accepted["id"].as_str().expect("an id");
    let now = leases[0]["epoch"].as_u64().expect("claimable again");
    assert!(epoch < now);
    let stale = json!({ "epoch": epoch, "result": null });
    let path = format!("/v1/leases/{id}/complete");
    let (status, answer) = node.post(&path, &stale).await;
    assert_eq!(status, 409, "{answer}");
    let current = json!({ "epoch": now, "result": null });
    let (status, answer) = node.post(&path, &current).await;
    assert!((200..300).contains(&status), "{answer}");
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_nodes_with_one_name_the_later_waits_until_the_first_is_gone() {
    let schema = Schema::create().await;
    let url = schema.url();
    let first_dir = tempfile::tempdir().expect("temporary directory");
    let second_dir = tempfile::tempdir().expect("temporary directory");
    let mut command = regrow();
    command
        .args([
            "node",
            "--http",
            "127.0.0.1:0",
            "--name",
            "same",
            "--data-dir",
        ])
        .arg(first_dir.path())
        .envs(settings(&url))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut first = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .expect("the node starts");
    while !first_dir.path().join("node.json").exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let refused = say(regrow()
        .args(["node", "--http", "127.0.0.1:0", "--name", "same"])
        .arg("--data-dir")
        .arg(second_dir.path())
        .envs(settings(&url)));
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    assert!(
        refused
            .err
            .contains("another node named `same` is running on this database (life 1)"),
        "{}",
        refused.err
    );

    // The first is only paused; its life runs out, and it learns of that when it goes on.
    let pid = first.id().and_then(|pid| i32::try_from(pid).ok());
    let pid = nix::unistd::Pid::from_raw(pid.expect("it runs"));
    let signal = |signal| nix::sys::signal::kill(pid, signal).expect("signalled");
    signal(nix::sys::signal::Signal::SIGSTOP);
    let mut second_settings = settings(&url).to_vec();
    second_settings.push(("REGROW_NODE__NAME", "same"));
    let second = NodeProcess::start(second_dir.path(), &second_settings).await;
    signal(nix::sys::signal::Signal::SIGCONT);
    let mut said = String::new();
    let mut stderr = first.stderr.take().expect("piped");
    let ended = tokio::time::timeout(PATIENCE, async {
        stderr.read_to_string(&mut said).await.expect("text");
        first.wait().await.expect("waited for")
    });
    let ended = ended.await.expect("the first node ends");
    assert_eq!(ended.code(), Some(1), "{said}");
    let succeeded = "has taken over the tasks of this node";
    assert!(
        said.contains("node `same` (life ") && said.contains(succeeded),
        "{said}"
    );
    let (status, _) = second.get("/health/ready").await;
    assert_eq!(status, 200, "the other one serves");
    second.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_does_not_matter_which_node_is_asked() {
    let schema = Schema::create().await;
    let url = schema.url();
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("temporary directory"));
    let named = |name| {
        let [database, term] = settings(&url);
        [database, term, ("REGROW_NODE__NAME", name)]
    };
    let its = NodeProcess::start(dirs[0].path(), &named("its")).await;
    let other = NodeProcess::start(dirs[1].path(), &named("other")).await;
    let task = json!({ "kind": "k", "requires_approval": true });
    let (_, accepted) = its.post("/v1/tasks", &task).await;
    let id = accepted["id"].as_str().expect("an id");
    let question = accepted["approval"]["id"].as_str().expect("a question");
    let (_, shown) = other.get(&format!("/v1/tasks/{id}")).await;
    assert_eq!(shown["approval"], accepted["approval"]);
    let (_, why) = other.get(&format!("/v1/tasks/{id}/explain")).await;
    assert_eq!(why["reasons"][0]["code"], "approval", "{why}");
    let after = json!({ "kind": "after", "depends_on": [id] });
    let (status, after) = other.post("/v1/tasks", &after).await;
    assert_eq!(status, 201, "{after}");
    let path = format!("/v1/approvals/{question}");
    let yes = json!({ "decision": "approve" });
    let (status, decided) = other.post(&path, &yes).await;
    assert_eq!((status, &decided["state"]), (200, &json!("approved")));

    let done = |node: &NodeProcess, kind: &str| {
        let claim = json!({ "kinds": [kind], "max": 1, "wait_ms": 20_000, "lease_ms": 60_000 });
        let (http, base) = (node.http.clone(), node.url.clone());
        async move {
            let asked = http
                .post(format!("{base}/v1/leases"))
                .json(&claim)
                .send()
                .await;
            let leases: Value = asked.expect("answered").json().await.expect("leases");
            let id = leases[0]["id"]
                .as_str()
                .or(leases[0]["task"]["id"].as_str());
            let id = id.unwrap_or_else(|| panic!("{leases}")).to_owned();
            let done = json!({ "epoch": leases[0]["epoch"], "result": null });
            let path = format!("{base}/v1/leases/{id}/complete");
            let done = http.post(path).json(&done).send().await.expect("answered");
            assert!(done.status().is_success());
            id
        }
    };
    assert_eq!(done(&its, "k").await, id);
    assert_eq!(json!(done(&other, "after").await), after["id"]);

    let (_, unwanted) = its.post("/v1/tasks", &json!({ "kind": "never" })).await;
    let cancel = format!(
        "/v1/tasks/{}/cancel",
        unwanted["id"].as_str().expect("an id")
    );
    let (status, cancelled) = other.post(&cancel, &json!({})).await;
    assert_eq!((status, &cancelled["state"]), (200, &json!("cancelled")));

    let (status, _) = its.post("/v1/queue/pause", &json!({})).await;
    assert_eq!(status, 200);
    let paused = Instant::now();
    while other.get("/v1/queue").await.1["paused"] != json!(true) {
        assert!(paused.elapsed() < Duration::from_secs(2), "not heard");
    }

    // Whoever takes over from a node carries out what it was asked.
    let (_, orphan) = its.post("/v1/tasks", &json!({ "kind": "never" })).await;
    let orphan = format!("/v1/tasks/{}/cancel", orphan["id"].as_str().expect("an id"));
    its.kill().await;
    let (status, cancelled) = other.post(&orphan, &json!({})).await;
    assert_eq!(
        (status, &cancelled["state"]),
        (200, &json!("cancelled")),
        "{cancelled}"
    );
    other.kill().await;
}

#[test]
fn a_database_that_cannot_be_reached_stops_the_start() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let said = say(regrow()
        .args(["node", "--http", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path())
        .args(["--database-url", "postgres://me:s3cret@127.0.0.1:1/tasks"]));
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(
        said.err
            .contains("database postgres://127.0.0.1:1/tasks cannot be reached"),
        "{}",
        said.err
    );
    assert!(!said.err.contains("s3cret"), "{}", said.err);
    assert!(!dir.path().join("regrow.db").exists(), "it fell back");
}

#[test]
fn upkeep_of_a_file_is_refused_when_the_tasks_are_elsewhere() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for verb in [&["verify"][..], &["backup", "copy"], &["restore", "copy"]] {
        let said = say(regrow()
            .arg("store")
            .args(verb)
            .arg("--data-dir")
            .arg(dir.path())
            .env(
                "REGROW_STORE__DATABASE_URL",
                "postgres://me:s3cret@db.example/tasks",
            ));
        assert_eq!(said.code, Some(2), "{}", said.err);
        assert!(said.err.contains("pg_dump"), "{}", said.err);
        assert!(!said.err.contains("s3cret"), "{}", said.err);
    }
}

#[test]
fn the_configuration_in_force_is_printed_without_the_password() {
    for arguments in [&["--print-config"][..], &["--print-config", "--json"]] {
        let said = say(regrow()
            .args(["node", "--config", "/dev/null"])
            .args(arguments)
            .env(
                "REGROW_STORE__DATABASE_URL",
                "postgres://me:s3cret@db.example/tasks",
            ));
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert!(said.out.contains("postgres://db.example:5432/tasks"));
        assert!(!said.out.contains("s3cret"), "{}", said.out);
    }
}
