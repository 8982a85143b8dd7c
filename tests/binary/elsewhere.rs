//! What another node has, asked of any node: without a database that they share, and with one.

use serde_json::{Value, json};

use crate::node::{NodeProcess, PATIENCE, regrow, say};
use crate::peers::{Cluster, Peer, until_connected, until_node};
use crate::schema::Schema;

/// Nodes without workers of their own, connected to each other.
pub(crate) async fn connected(peers: &[&Peer]) -> Vec<NodeProcess> {
    let mut nodes = Vec::new();
    for peer in peers {
        nodes.push(peer.start().await);
    }
    for (node, me) in nodes.iter().zip(peers) {
        for other in peers.iter().filter(|other| other.name != me.name) {
            until_connected(node, other.name).await;
        }
    }
    nodes
}

fn path(task: &Value, rest: &str) -> String {
    let id = task["id"].as_str().expect("an id");
    format!("/v1/tasks/{id}{rest}")
}

fn lease_path(task: &Value, verb: &str) -> String {
    let id = task["id"].as_str().expect("an id");
    format!("/v1/leases/{id}/{verb}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_shown_and_ordered_about_from_every_node() {
    let cluster = Cluster::new();
    let a = cluster.peer("a", &[]);
    let b = cluster.peer("b", &[a.address]);
    let c = cluster.peer("c", &[a.address]);
    let nodes = connected(&[&a, &b, &c]).await;
    let [one, two, three] = &nodes[..] else {
        unreachable!("three")
    };

    let (status, task) = one
        .post("/v1/tasks", &json!({ "kind": "slow", "payload": 7 }))
        .await;
    assert_eq!((status, &task["node"]), (201, &Value::Null));
    for rest in ["", "?wait_ms=1", "/explain", "/tree", "/steps", "/context"] {
        let (status, seen) = two.get(&path(&task, rest)).await;
        assert_eq!(
            (status, &seen["node"]),
            (200, &json!("a")),
            "{rest}: {seen}"
        );
    }
    let (_, seen) = three.get(&path(&task, "")).await;
    assert_eq!((&seen["id"], &seen["payload"]), (&task["id"], &json!(7)));

    let (status, ended) = two.post(&path(&task, "/cancel"), &json!({})).await;
    assert_eq!(
        (status, &ended["state"]),
        (200, &json!("cancelled")),
        "{ended}"
    );
    let (status, again) = three.post(&path(&task, "/cancel"), &json!({})).await;
    assert_eq!(
        (status, &again["code"]),
        (409, &json!("wrong_state")),
        "as its node says"
    );
    let (status, back) = three.post(&path(&task, "/retry"), &json!({})).await;
    assert_eq!(
        (status, &back["state"]),
        (200, &json!("available")),
        "{back}"
    );

    // A person decides at any node, and who waits for the end elsewhere hears of it.
    let asked = json!({ "kind": "slow", "requires_approval": true });
    let (_, held) = one.post("/v1/tasks", &asked).await;
    let approval = held["approval"]["id"]
        .as_str()
        .expect("a question")
        .to_owned();
    let (status, seen) = two.get(&format!("/v1/approvals/{approval}")).await;
    assert_eq!((status, &seen["state"]), (200, &json!("open")), "{seen}");
    let deny = json!({ "decision": "deny", "by": "eva" });
    let (waiting, deciding) = (
        path(&held, "?wait_ms=20000"),
        format!("/v1/approvals/{approval}"),
    );
    let (waited, decided) = tokio::join!(three.get(&waiting), two.post(&deciding, &deny),);
    assert_eq!(decided.0, 200, "{}", decided.1);
    assert_eq!(waited.1["state"], "cancelled", "{}", waited.1);

    // A lease is settled where it was given; elsewhere its node is named.
    let (_, leases) = one.post("/v1/leases", &json!({ "kinds": ["slow"] })).await;
    let epoch = leases[0]["epoch"].clone();
    assert_eq!(leases[0]["task"]["id"], task["id"]);
    let done = json!({ "epoch": epoch, "result": 1 });
    let (status, wrong) = two.post(&lease_path(&task, "complete"), &done).await;
    assert_eq!(
        (status, &wrong["code"]),
        (421, &json!("wrong_node")),
        "{wrong}"
    );
    let right = one.url.strip_prefix("http://").expect("plain HTTP");
    assert_eq!(
        (&wrong["node"], &wrong["http"]),
        (&json!("a"), &json!(right))
    );
    let (status, _) = one.post(&lease_path(&task, "complete"), &done).await;
    assert_eq!(status, 200);

    // What nobody has is not there; with a node away that is not certain.
    let unknown = format!("/v1/tasks/{}", "0190a6a0-0000-7000-8000-000000000000");
    let (status, nothing) = two.get(&unknown).await;
    assert_eq!((status, &nothing["code"]), (404, &json!("task_not_found")));
    let mut nodes = nodes;
    let (three, two) = (nodes.pop().expect("c"), nodes.pop().expect("b"));
    nodes.pop().expect("a").kill().await;
    until_node(&two, "a", |node| node["session"]["state"] != "ready").await;
    let (status, away) = two.get(&path(&task, "")).await;
    assert_eq!(
        (status, &away["code"]),
        (503, &json!("node_away")),
        "{away}"
    );
    assert_eq!(away["away"], json!(["a"]));
    let back = a.start().await;
    until_connected(&two, "a").await;
    let (status, seen) = two.get(&path(&task, "")).await;
    assert_eq!(
        (status, &seen["state"]),
        (200, &json!("completed")),
        "{seen}"
    );
    for node in [back, two, three] {
        node.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_finds_no_room_goes_to_a_node_with_room_once() {
    let cluster = Cluster::new();
    let mut a = cluster.peer("a", &[]);
    a.set("REGROW_QUEUE__MAX_SIZE", "1");
    let b = cluster.peer("b", &[a.address]);
    let nodes = connected(&[&a, &b]).await;
    let [one, two] = &nodes[..] else {
        unreachable!("two")
    };
    let task = |key: &str| json!({ "kind": "slow", "idempotency_key": key });
    let (status, here) = one.post("/v1/tasks", &task("first")).await;
    assert_eq!((status, &here["node"]), (201, &Value::Null), "{here}");
    let (status, there) = one.post("/v1/tasks", &task("second")).await;
    assert_eq!((status, &there["node"]), (201, &json!("b")), "{there}");
    let (status, seen) = two.get(&path(&there, "")).await;
    assert_eq!(
        (status, &seen["node"]),
        (200, &Value::Null),
        "b has it itself: {seen}"
    );

    // Repeated, also when there is room here by now, it is the same task.
    let (status, _) = one.post(&path(&here, "/cancel"), &json!({})).await;
    assert_eq!(status, 200);
    let (status, again) = one.post("/v1/tasks", &task("second")).await;
    assert_eq!((status, &again["id"]), (200, &there["id"]), "{again}");

    // Whom operators let take nothing more gives new tasks to others, too.
    for (verb, undo) in [
        ("queue/drain", "queue/resume"),
        ("cluster/nodes/a/cordon", "cluster/nodes/a/release"),
    ] {
        let (status, told) = one.post(&format!("/v1/{verb}"), &json!({})).await;
        assert_eq!(status, 200, "{told}");
        let began = tokio::time::Instant::now();
        loop {
            let (status, taken) = one.post("/v1/tasks", &json!({ "kind": "slow" })).await;
            assert_eq!(status, 201, "{taken}");
            if taken["node"] == "b" {
                break;
            }
            let (status, _) = one.post(&path(&taken, "/cancel"), &json!({})).await;
            assert_eq!(status, 200);
            assert!(began.elapsed() < PATIENCE, "{verb} changes nothing");
        }
        let (status, _) = one.post(&format!("/v1/{undo}"), &json!({})).await;
        assert_eq!(status, 200);
    }
    for node in nodes {
        node.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_health_of_every_node_and_agent_is_shown_by_any_node() {
    let cluster = Cluster::new();
    let a = cluster.peer("a", &[]);
    let b = cluster.peer("b", &[a.address]);
    let mut nodes = connected(&[&a, &b]).await;
    let (status, seen) = nodes[0].get("/v1/cluster/nodes?health=true").await;
    assert_eq!(status, 200);
    for node in seen["nodes"].as_array().expect("a list") {
        assert!(node["health"]["checks"]["store"].is_object(), "{node}");
    }
    let (_, listed) = nodes[0].get("/v1/agents?cluster=true&role=worker").await;
    let agents = listed["agents"].as_array().expect("a list");
    for name in ["a", "b"] {
        assert!(agents.iter().any(|agent| agent["node"] == name), "{listed}");
    }
    assert!(
        agents.iter().all(|agent| agent["role"] == "worker"),
        "{listed}"
    );

    nodes.pop().expect("b").kill().await;
    until_node(&nodes[0], "b", |node| node["session"]["state"] != "ready").await;
    let (_, listed) = nodes[0].get("/v1/agents?cluster=true").await;
    assert!(listed["unknown"]["b"].is_string(), "{listed}");
    let url = &nodes[0].url;
    for (verb, expected) in [
        (
            &["agents", "list", "--cluster"][..],
            "of b nothing is known",
        ),
        (&["cluster", "nodes"], "unknown"),
    ] {
        let shown = say(regrow().args(verb).env("REGROW_URL", url));
        assert!(shown.out.contains(expected), "{}", shown.out);
    }
    nodes.pop().expect("a").kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_shared_database_a_lease_at_the_wrong_node_names_the_right_one() {
    let schema = Schema::create().await;
    let cluster = Cluster::new();
    let mut a = cluster.peer("a", &[]);
    let mut b = cluster.peer("b", &[a.address]);
    for peer in [&mut a, &mut b] {
        peer.set("REGROW_STORE__DATABASE_URL", &schema.url());
    }
    let nodes = connected(&[&a, &b]).await;
    let (_, task) = nodes[0].post("/v1/tasks", &json!({ "kind": "slow" })).await;
    let (_, leases) = nodes[0]
        .post("/v1/leases", &json!({ "kinds": ["slow"] }))
        .await;
    let held = json!({ "epoch": leases[0]["epoch"] });
    let (status, wrong) = nodes[1].post(&lease_path(&task, "heartbeat"), &held).await;
    assert_eq!(
        (status, &wrong["code"]),
        (421, &json!("wrong_node")),
        "{wrong}"
    );
    let right = nodes[0].url.strip_prefix("http://").expect("plain HTTP");
    assert_eq!(
        (&wrong["node"], &wrong["http"]),
        (&json!("a"), &json!(right))
    );
    let (status, renewed) = nodes[0].post(&lease_path(&task, "heartbeat"), &held).await;
    assert_eq!(status, 200, "{renewed}");
    for node in nodes {
        node.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_id_is_in_the_logs_of_both_nodes_that_a_task_passes_through() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let cluster = Cluster::new();
    let mut a = cluster.peer("a", &[]);
    a.set("REGROW_QUEUE__MAX_SIZE", "1");
    let mut b = cluster.peer("b", &[a.address]);
    for peer in [&mut a, &mut b] {
        peer.set("REGROW_LOG__FORMAT", "json");
        peer.set(
            "REGROW_LOG__FILTER",
            "info,regrow_http=debug,regrow_actors=debug",
        );
    }
    let nodes = connected(&[&a, &b]).await;
    let (status, _) = nodes[0].post("/v1/tasks", &json!({ "kind": "slow" })).await;
    assert_eq!(status, 201, "a is full now");
    let journey = json!({ "kind": "rehearsal.journey", "payload": { "steps": 2, "step_ms": 1 } });
    let answer = nodes[0]
        .http
        .post(format!("{}/v1/tasks", nodes[0].url))
        .header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"))
        .json(&journey)
        .send()
        .await
        .expect("an answer");
    let task: Value = answer.json().await.expect("JSON");
    assert_eq!(
        (&task["node"], &task["trace_id"]),
        (&json!("b"), &json!(TRACE))
    );
    let (_, done) = nodes[0].get(&path(&task, "?wait_ms=20000")).await;
    assert_eq!(
        (&done["state"], &done["trace_id"]),
        (&json!("completed"), &json!(TRACE))
    );

    let of = |peer: &Peer| -> Vec<Value> {
        let logged = peer.logged().into_iter();
        logged.filter(|line| line["trace_id"] == TRACE).collect()
    };
    let route = json!("/v1/tasks");
    let asked = |lines: &[Value]| lines.iter().any(|line| line["route"] == route);
    assert!(asked(&of(&a)), "{:?}", a.logged());
    assert!(asked(&of(&b)), "{:?}", b.logged());
    let worked = |line: &Value| line["task_id"] == task["id"] && line["agent_id"].is_string();
    let began = tokio::time::Instant::now();
    // The end is told to whoever waits before it is logged.
    while !of(&b).iter().any(worked) {
        assert!(began.elapsed() < PATIENCE, "{:?}", b.logged());
        tokio::task::yield_now().await;
    }
    for node in nodes {
        node.kill().await;
    }
}
