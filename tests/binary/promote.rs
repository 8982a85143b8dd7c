//! Moving a node's tasks to a database, as a user does it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::node::{NodeProcess, PATIENCE, regrow, say};
use crate::schema::Schema;

/// The agent, once it stands like that.
async fn placed(node: &NodeProcess, id: &str, state: &str) -> Value {
    let began = Instant::now();
    loop {
        let (_, answer) = node.get(&format!("/v1/agents/{id}")).await;
        if answer["placed"]["state"] == state {
            return answer["placed"].clone();
        }
        assert!(began.elapsed() < PATIENCE, "still {answer}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_node_moves_and_its_workers_do_not_notice() {
    let schema = Schema::create().await;
    let database = schema.url();
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = NodeProcess::start(dir.path(), &[]).await;
    let task = json!({ "kind": "nobodys", "idempotency_key": "k" });
    let (_, accepted) = node.post("/v1/tasks", &task).await;
    let claim = json!({ "kinds": ["nobodys"], "max": 1, "lease_ms": 600_000 });
    let (_, leases) = node.post("/v1/leases", &claim).await;
    let (id, epoch) = (accepted["id"].as_str().expect("an id"), &leases[0]["epoch"]);
    for name in ["scout", "idle"] {
        let spec = json!({ "id": name, "role": "worker" });
        let (status, made) = node.post("/v1/agents", &spec).await;
        assert_eq!(status, 201, "{made}");
    }
    assert_eq!(node.post("/v1/agents/idle/stop", &json!({})).await.0, 202);
    let before = placed(&node, "scout", "owned").await;
    placed(&node, "idle", "stopped").await;

    let promote = |to: &str| {
        let mut command = regrow();
        command
            .args(["store", "promote", "--url", &node.url, "--to", to])
            .arg("--json");
        say(&mut command)
    };
    let nobody = promote("postgres://me:s3cret@127.0.0.1:1/tasks");
    assert_eq!(nobody.code, Some(1), "{}", nobody.err);
    assert!(nobody.err.contains("cannot be reached"), "{}", nobody.err);
    assert!(nobody.err.contains("as before"), "{}", nobody.err);
    let both = format!("{}{}", nobody.out, nobody.err);
    assert!(!both.contains("s3cret"), "{both}");
    let moved = promote(&database);
    assert_eq!(moved.code, Some(0), "{}", moved.err);
    let told: Value = serde_json::from_str(&moved.out).expect("JSON");
    assert_eq!(
        (&told["phase"], &told["store"]),
        (&json!("done"), &json!("postgres"))
    );
    let again = promote(&database);
    assert_eq!(again.code, Some(1), "{}", again.out);
    assert!(again.err.contains("not in a file"), "{}", again.err);

    // Agents came along, and one that was told something does it.
    placed(&node, "idle", "stopped").await;
    let after = placed(&node, "scout", "owned").await;
    assert_eq!(
        (&after["node"], after.get("restarts")),
        (&before["node"], None)
    );
    assert_ne!(after["epoch"], before["epoch"]);
    let (status, why) = node.get("/v1/cluster/explain/scout").await;
    assert_eq!(
        (status, &why["decision"]["policy"]),
        (200, &json!("balanced"))
    );
    let told = json!({ "kind": "sleep", "payload": { "ms": 1 } });
    let (status, message) = node.post("/v1/agents/scout/messages", &told).await;
    assert_eq!(status, 201, "{message}");
    let path = format!(
        "/v1/tasks/{}?wait_ms=20000",
        message["id"].as_str().expect("an id")
    );
    let (_, done) = node.get(&path).await;
    assert!(
        done["attempt"].as_u64().is_some_and(|attempt| 0 < attempt),
        "{done}"
    );

    let complete = json!({ "epoch": epoch, "result": 7 });
    let path = format!("/v1/leases/{id}/complete");
    let (status, answer) = node.post(&path, &complete).await;
    assert!((200..300).contains(&status), "{answer}");
    let (status, repeated) = node.post("/v1/tasks", &task).await;
    assert_eq!((status, repeated["id"].as_str()), (200, Some(id)));
    let (_, health) = node.get("/health/deep").await;
    assert!(health.to_string().contains("\"postgres\""), "{health}");
    node.kill().await;

    let refused = say(regrow()
        .args(["node", "--http", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path()));
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    assert!(
        refused.err.contains("set store.database_url"),
        "{}",
        refused.err
    );
    let sound = say(regrow()
        .args(["store", "verify", "--data-dir"])
        .arg(dir.path()));
    assert_eq!(sound.code, Some(0), "{}", sound.err);
    let settings = [("REGROW_STORE__DATABASE_URL", database.as_str())];
    let node = NodeProcess::start(dir.path(), &settings).await;
    let (_, shown) = node.get(&format!("/v1/tasks/{id}")).await;
    assert_eq!(
        (&shown["state"], &shown["result"]),
        (&json!("completed"), &json!(7))
    );
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_moves_while_no_node_runs_on_it() {
    let schema = Schema::create().await;
    let database = schema.url();
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = NodeProcess::start(dir.path(), &[]).await;
    let (_, accepted) = node.post("/v1/tasks", &json!({ "kind": "nobodys" })).await;
    let promote = || {
        let mut command = regrow();
        command
            .args(["store", "promote", "--to", &database, "--data-dir"])
            .arg(dir.path());
        say(&mut command)
    };
    let running = promote();
    assert_eq!(running.code, Some(2), "{}", running.err);
    assert!(
        running.err.contains("leave out --data-dir"),
        "{}",
        running.err
    );
    node.kill().await;
    let moved = promote();
    assert_eq!(moved.code, Some(0), "{}", moved.err);
    assert!(
        moved.out.contains("set store.database_url"),
        "{}",
        moved.out
    );
    let again = promote();
    assert_eq!(again.code, Some(1), "{}", again.out);
    assert!(again.err.contains("were moved to"), "{}", again.err);
    let settings = [("REGROW_STORE__DATABASE_URL", database.as_str())];
    let node = NodeProcess::start(dir.path(), &settings).await;
    let id = accepted["id"].as_str().expect("an id");
    let (_, shown) = node.get(&format!("/v1/tasks/{id}")).await;
    assert_eq!(shown["state"], json!("available"));
    node.kill().await;
}
