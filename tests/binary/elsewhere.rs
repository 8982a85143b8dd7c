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

/// The kind and data of every line of a task's log behind one, as a stream until its end.
async fn followed(node: &NodeProcess, task: &Value, after: u64) -> (u16, Vec<(String, Value)>) {
    let events = format!("{}{}", node.url, path(task, "/events"));
    let request = node.http.get(events).header("accept", "text/event-stream");
    let request = match after {
        0 => request,
        after => request.header("last-event-id", after.to_string()),
    };
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    let text = answer.text().await.expect("a stream that ends");
    let frames = text.split("\n\n").filter_map(|frame| {
        let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
        let data = serde_json::from_str(field("data: ")?).ok()?;
        Some((field("event: ")?.to_owned(), data))
    });
    (status, frames.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_shown_and_ordered_about_from_every_node() {
    let cluster = Cluster::new();
    let a = cluster.peer("a", &[]);
    let mut b = cluster.peer("b", &[a.address]);
    b.set("REGROW_HTTP__BODY_BYTES_MAX", "16777216");
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

    // A lease is settled at any node, by the one that gave it.
    let (_, leases) = one.post("/v1/leases", &json!({ "kinds": ["slow"] })).await;
    let epoch = leases[0]["epoch"].clone();
    assert_eq!(leases[0]["task"]["id"], task["id"]);
    let done = json!({ "epoch": epoch, "result": 1 });
    let (status, stale) = two
        .post(&lease_path(&task, "complete"), &json!({ "epoch": 1 }))
        .await;
    assert_eq!(
        (status, &stale["code"]),
        (409, &json!("stale_epoch")),
        "{stale}"
    );
    // Too large to travel: the worker is told where to bring it.
    let large = json!({ "epoch": epoch, "result": "x".repeat(7 << 20) });
    let (status, wrong) = two.post(&lease_path(&task, "complete"), &large).await;
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
    // Its log, followed at another node until it ended, and resumed at a third.
    let completes = lease_path(&task, "complete");
    let (followed_there, completed) =
        tokio::join!(followed(two, &task, 0), two.post(&completes, &done));
    assert_eq!(completed.0, 200, "{}", completed.1);
    let (status, lines) = followed_there;
    let kinds: Vec<&str> = lines.iter().map(|line| line.0.as_str()).collect();
    assert_eq!(
        (status, kinds.last()),
        (200, Some(&"completed")),
        "{kinds:?}"
    );
    assert!(kinds.contains(&"leased"), "{kinds:?}");
    let last = lines.len() as u64;
    let (status, rest) = followed(three, &task, last - 1).await;
    assert_eq!((status, &rest[..]), (200, &lines[lines.len() - 1..]));
    let (status, rest) = followed(three, &task, last).await;
    assert_eq!((status, rest.len()), (204, 0), "nothing follows");

    // One list of all, page by page; here are the tasks of a, and one of c.
    let (status, other) = three.post("/v1/tasks", &json!({ "kind": "slow" })).await;
    assert_eq!(status, 201, "{other}");
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = format!("/v1/tasks?cluster=true&kind=slow&limit=2{cursor}");
        let (status, page) = two.get(&page).await;
        assert_eq!((status, &page["unknown"]), (200, &json!({})), "{page}");
        for task in page["tasks"].as_array().expect("a list") {
            seen.push((task["node"].clone(), task["id"].clone()));
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let expected = [
        (json!("c"), &other),
        (json!("a"), &held),
        (json!("a"), &task),
    ];
    let expected = expected.map(|(node, task)| (node, task["id"].clone()));
    assert_eq!(seen, expected);
    let (status, bad) = two.get("/v1/tasks?cluster=true&cursor=x").await;
    assert_eq!(
        (status, &bad["code"]),
        (400, &json!("invalid_parameter")),
        "{bad}"
    );

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
    let (status, part) = two.get("/v1/tasks?cluster=true").await;
    assert_eq!(status, 200, "{part}");
    assert!(part["unknown"]["a"].is_string(), "{part}");
    assert_eq!(part["tasks"].as_array().map(Vec::len), Some(1), "{part}");
    let verbs = ["tasks", "list", "--cluster"];
    let shown = say(regrow().args(verbs).env("REGROW_URL", &two.url));
    for expected in ["the tasks of a are missing", "NODE", "slow"] {
        assert!(shown.out.contains(expected), "{}", shown.out);
    }
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
