//! Nodes that agree on who may act, without a database, as processes.

use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::node::{NodeProcess, PATIENCE, regrow, say};
use crate::peers::{Cluster, Peer, until_connected};

pub(crate) const NAMES: [&str; 3] = ["a", "b", "c"];

/// Three founders; the first is where the others look.
pub(crate) fn founders(cluster: &Cluster) -> Vec<Peer> {
    let mut peers: Vec<Peer> = Vec::new();
    for name in NAMES {
        let seeds: Vec<_> = peers.iter().map(|peer| peer.address).collect();
        let mut peer = cluster.peer(name, &seeds);
        peer.set("REGROW_CLUSTER__FOUNDERS", "a,b,c");
        peer.set("REGROW_AGENTS__WORKERS", "0");
        peer.set("REGROW_AGENTS__LEASE", "2s");
        peer.set("REGROW_AGENTS__GRACE", "1s");
        peers.push(peer);
    }
    peers
}

/// Asks `asked` until what it knows of the agent is as wanted.
pub(crate) async fn until(asked: &NodeProcess, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let (status, agent) = asked.get(&format!("/v1/agents/{id}")).await;
        if status == 200 && wanted(&agent["placed"]) {
            return agent["placed"].clone();
        }
        assert!(began.elapsed() < PATIENCE, "still {status} {agent}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Posts until it is taken: without a quorum nothing is, for a moment.
pub(crate) async fn post(asked: &NodeProcess, path: &str, body: &Value) -> Value {
    let began = Instant::now();
    loop {
        let (status, answer) = asked.post(path, body).await;
        if (200..300).contains(&status) {
            return answer;
        }
        assert!(
            began.elapsed() < PATIENCE && status != 422,
            "{path}: {status} {answer}"
        );
        sleep(Duration::from_millis(100)).await;
    }
}

/// The agents that run on a node.
async fn running(node: &NodeProcess) -> Vec<String> {
    let (status, answer) = node.get("/v1/agents").await;
    assert_eq!(status, 200, "{answer}");
    let agents = answer["agents"].as_array().expect("a list");
    let scouts = agents
        .iter()
        .filter(|agent| agent["state"] == "running")
        .filter_map(|agent| agent["id"].as_str())
        .filter(|id| id.starts_with("scout"));
    scouts.map(ToOwned::to_owned).collect()
}

async fn until_none_run(node: &NodeProcess) {
    let began = Instant::now();
    loop {
        let running = running(node).await;
        if running.is_empty() {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "still {running:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Work for whichever agents own the node it is given to.
async fn give_work(node: &NodeProcess, journeys: usize) {
    for _ in 0..journeys {
        let journey = json!({
            "kind": "rehearsal.journey", "payload": { "steps": 20, "step_ms": 20 },
        });
        let (status, answer) = node.post("/v1/tasks", &journey).await;
        assert_eq!(status, 201, "{answer}");
    }
}

/// Whether a task was completed by a worker of its own node: under an epoch that it was leased
/// under. One that was carried ends as it ended elsewhere.
fn made_here(events: &Value) -> bool {
    let events = events["events"].as_array().expect("a list");
    let epoch_of = |kind: &str| {
        let last = events.iter().rev().find(|line| line["kind"] == kind);
        last.map(|line| line["epoch"].clone())
    };
    epoch_of("completed").is_some_and(|epoch| epoch_of("leased") == Some(epoch))
}

/// Waits until as many messages to scout-1 were done, and none is left.
async fn until_done(nodes: &[Option<NodeProcess>], told: usize) {
    let began = Instant::now();
    loop {
        let (mut done, mut seen) = (0, Vec::new());
        for node in nodes.iter().flatten() {
            let (status, answer) = node.get("/v1/tasks?kind=agent.scout-1&limit=100").await;
            assert_eq!(status, 200, "{answer}");
            for task in answer["tasks"].as_array().expect("a list") {
                let path = format!("/v1/tasks/{}", task["id"].as_str().expect("an id"));
                let (_, events) = node.get(&format!("{path}/events")).await;
                done += usize::from(made_here(&events));
                if task["state"] != "completed" {
                    let (_, task) = node.get(&path).await;
                    seen.push(task);
                }
            }
        }
        assert!(done <= told, "{done} of {told} were done");
        if done == told && seen.is_empty() {
            return;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "{done} of {told} are done, left are {seen:?}"
        );
        sleep(Duration::from_millis(100)).await;
    }
}

/// What agents did, on all nodes: how often, and how often under an epoch after a later one.
fn acts(root: &Path) -> (usize, Vec<String>) {
    let mut acts = Vec::new();
    for name in NAMES {
        let text = std::fs::read_to_string(root.join(name).join("rehearsal.acts"));
        for line in text.unwrap_or_default().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().expect("a number");
            acts.push((number(3), words[1].to_owned(), number(2), name));
        }
    }
    acts.sort();
    let mut latest = std::collections::BTreeMap::new();
    let mut stale = Vec::new();
    for (at, agent, epoch, node) in &acts {
        let before = latest.entry(agent.clone()).or_insert((*epoch, *at));
        // Clocks of processes are of one machine, and read in whole milliseconds.
        if *epoch < before.0 && before.1 + 2 < *at {
            stale.push(format!(
                "{agent} on {node} under {epoch} at {at}, after {before:?}"
            ));
        }
        *before = (*before).max((*epoch, *at));
    }
    (acts.len(), stale)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_go_on_elsewhere_and_nobody_acts_under_a_stale_epoch() {
    let cluster = Cluster::new();
    let peers = founders(&cluster);
    // None is ready before all are there.
    let nodes = join_all(peers.iter().map(Peer::start)).await;
    let mut nodes: Vec<_> = nodes.into_iter().map(Some).collect();
    let node = |nodes: &Vec<Option<NodeProcess>>, name: &str| {
        NAMES
            .iter()
            .position(|one| *one == name)
            .filter(|at| nodes[*at].is_some())
    };
    for (n, scout) in ["scout-1", "scout-2", "scout-3"].into_iter().enumerate() {
        let spec = json!({
            "id": scout, "role": "worker", "intensity": { "restarts_max": 20, "within_ms": 60_000 },
        });
        let asked = nodes[n].as_ref().expect("up");
        post(asked, "/v1/agents", &spec).await;
    }
    for asked in nodes.iter().flatten() {
        give_work(asked, 30).await;
    }
    let owned = |agent: &Value| agent["state"] == "owned";
    let a = nodes[0].as_ref().expect("up");
    let first = until(a, "scout-1", owned).await;
    for scout in ["scout-2", "scout-3"] {
        until(a, scout, owned).await;
    }

    // kill -9.
    let killed = node(&nodes, first["node"].as_str().expect("a name")).expect("up");
    nodes[killed].take().expect("up").kill().await;
    let other = (killed + 1) % 3;
    let asked = nodes[other].as_ref().expect("up");
    let since = Instant::now();
    let second = until(asked, "scout-1", |agent| {
        owned(agent) && agent["node"] != first["node"]
    })
    .await;
    println!("killed: elsewhere after {:?}", since.elapsed());
    assert!(first["epoch"].as_u64() < second["epoch"].as_u64());
    assert_eq!(second["restarts"].as_array().map(Vec::len), Some(1));
    nodes[killed] = Some(peers[killed].start().await);
    for (n, one) in nodes.iter().enumerate() {
        let others = (0..3).filter(|other| *other != n);
        for other in others {
            until_connected(one.as_ref().expect("up"), NAMES[other]).await;
        }
    }

    // SIGSTOP until it is taken over, then SIGCONT: it stops its agents, and rejoins.
    let frozen = node(&nodes, second["node"].as_str().expect("a name")).expect("up");
    let asked = nodes[(frozen + 1) % 3].as_ref().expect("up");
    let sleeper = nodes[frozen].as_ref().expect("up");
    // All three are members again: otherwise nobody may go on without the sleeper.
    let began = Instant::now();
    loop {
        let (_, answer) = asked.get("/v1/cluster/nodes").await;
        let listed = answer["nodes"].as_array().cloned().unwrap_or_default();
        let alive = listed.iter().filter(|node| node["life"].is_u64());
        if alive.count() == 3 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "still {answer}");
        sleep(Duration::from_millis(50)).await;
    }
    sleeper.signal(Signal::SIGSTOP);
    let since = Instant::now();
    let third = until(asked, "scout-1", |agent| {
        owned(agent) && agent["node"] != second["node"]
    })
    .await;
    println!("frozen: elsewhere after {:?}", since.elapsed());
    sleeper.signal(Signal::SIGCONT);
    until(sleeper, "scout-1", |agent| agent["node"] == third["node"]).await;

    // Told at any node, durable at the owner's; under one key it is one, whoever is asked.
    let mut told = 0;
    for n in 0..4 {
        let message = json!({
            "kind": "rehearsal.journey", "payload": { "steps": 10, "step_ms": 20 },
            "idempotency_key": format!("message {n}"),
        });
        let path = "/v1/agents/scout-1/messages";
        let taken = post(asked, path, &message).await;
        let (status, again) = sleeper.post(path, &message).await;
        assert_eq!(
            (status, &again["id"]),
            (200, &taken["id"]),
            "{taken} {again}"
        );
        told += 1;
    }

    // By order, asked of any node. What was told goes along.
    let target = NAMES[frozen];
    let began = Instant::now();
    loop {
        let to = json!({ "to": target });
        let (status, answer) = asked.post("/v1/agents/scout-1/handoff", &to).await;
        if status == 202 || answer["code"] == "same_node" {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{status} {answer}");
        sleep(Duration::from_millis(100)).await;
    }
    let there = until(asked, "scout-1", |agent| {
        owned(agent) && agent["node"] == target
    });
    let there = there.await;
    assert_eq!(
        there["restarts"].as_array().map(Vec::len),
        Some(2),
        "{there}"
    );

    until_done(&nodes, told).await;

    // Two of three are lost: the third stops.
    let last = nodes[frozen].as_ref().expect("up");
    give_work(last, 30).await;
    let began = Instant::now();
    while !running(last).await.contains(&"scout-1".to_owned()) {
        assert!(began.elapsed() < PATIENCE, "it does not run");
        sleep(Duration::from_millis(20)).await;
    }
    for n in (0..3).filter(|n| *n != frozen) {
        nodes[n].take().expect("up").kill().await;
    }
    let last = nodes[frozen].as_ref().expect("up");
    until_none_run(last).await;
    let (status, refused) = last.post("/v1/agents/scout-1/stop", &json!({})).await;
    assert_eq!(status, 503, "nobody decides alone: {refused}");

    // All are back: it goes on.
    let others = (0..3).filter(|n| *n != frozen);
    let back = join_all(others.clone().map(|n| peers[n].start())).await;
    for (n, node) in others.zip(back) {
        nodes[n] = Some(node);
    }
    let asked = nodes[(frozen + 1) % 3].as_ref().expect("up");
    let again = until(asked, "scout-1", |agent| {
        owned(agent) && there["epoch"].as_u64() < agent["epoch"].as_u64()
    });
    let again = again.await;
    let shown = say(regrow()
        .args(["cluster", "placement"])
        .env("REGROW_URL", &asked.url));
    assert!(shown.out.contains("scout-1"), "{} {}", shown.out, shown.err);

    // An orderly stop gives agents away without counting it.
    let leaving = node(&nodes, again["node"].as_str().expect("a name")).expect("up");
    let asked = nodes[(leaving + 1) % 3].as_ref().expect("up");
    nodes[leaving].as_ref().expect("up").signal(Signal::SIGTERM);
    let moved = until(asked, "scout-1", |agent| {
        owned(agent) && agent["node"] != again["node"]
    });
    let moved = moved.await;
    assert_eq!(
        moved["restarts"].as_array().map(Vec::len),
        again["restarts"].as_array().map(Vec::len),
        "{moved}"
    );
    let mut left = nodes[leaving].take().expect("up");
    assert_eq!(left.ended().await, Some(0));
    for one in nodes.into_iter().flatten() {
        one.kill().await;
    }
    let (acts, stale) = acts(cluster.path());
    println!("{acts} acts, {} under a stale epoch", stale.len());
    assert!(100 < acts, "next to nothing was done: {acts}");
    assert!(stale.is_empty(), "{stale:?}");
}

/// Where an agent runs, on however many nodes.
async fn scouts_on(nodes: &[NodeProcess]) -> usize {
    let running = join_all(nodes.iter().map(running)).await;
    running.iter().filter(|agents| !agents.is_empty()).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_that_waits_for_readiness_alone_never_stops_all_agents() {
    let cluster = Cluster::new();
    let mut peers = founders(&cluster);
    for peer in &mut peers {
        // Nobody is missed or gives up because a machine is busy.
        peer.set("REGROW_CLUSTER__CONSENT_TERM", "10s");
        peer.set("REGROW_CLUSTER__STABLE_AFTER", "5s");
    }
    // One of three is nobody's member, and says so.
    let mut nodes = vec![peers[0].start_alive().await];
    let (status, answer) = nodes[0].get("/health/ready").await;
    assert_eq!(status, 503, "{answer}");
    let reason = answer["reasons"][0].as_str().unwrap_or_default();
    assert!(
        reason.contains("all founders") && reason.contains("a, b, c"),
        "{answer}"
    );
    let (status, answer) = nodes[0].get("/health/deep").await;
    assert_eq!(
        (status, &answer["checks"]["membership"]["status"]),
        (200, &json!("warning"))
    );
    // It is let in with the others.
    nodes.extend(join_all(peers[1..].iter().map(Peer::start)).await);
    let began = Instant::now();
    while nodes[0].get("/health/ready").await.0 != 200 {
        assert!(began.elapsed() < PATIENCE, "the first is not let in");
        sleep(Duration::from_millis(20)).await;
    }
    for scout in ["scout-1", "scout-2", "scout-3"] {
        let spec = json!({ "id": scout, "role": "worker" });
        post(&nodes[0], "/v1/agents", &spec).await;
    }
    let began = Instant::now();
    while scouts_on(&nodes).await == 0 {
        assert!(began.elapsed() < PATIENCE, "nothing runs");
        sleep(Duration::from_millis(20)).await;
    }
    for (n, peer) in peers.iter().enumerate() {
        // As a machine that goes down without a word: the others have to do without it, and may
        // not miss another one before it counts again.
        nodes.remove(n).kill().await;
        nodes.insert(n, peer.start().await);
        // Whoever counts acts, or is about to: nobody waits for anything but time.
        let (status, answer) = nodes[n].get("/health/ready").await;
        assert_eq!(status, 200, "{answer}");
    }
    for one in nodes {
        one.kill().await;
    }
    for peer in &peers {
        let log = std::fs::read_to_string(peer.log()).expect("a log");
        let gave_up = ["was not renewed in time", "comes back as a new life"];
        let gave_up = gave_up.map(|what| log.lines().find(|line| line.contains(what)));
        assert_eq!(gave_up, [None, None], "{} stopped its agents", peer.name);
    }
}

#[test]
fn founders_that_cannot_be_are_refused_with_all_problems_at_once() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let settings = [
        ("REGROW_CLUSTER__FOUNDERS", "a,b,b"),
        ("REGROW_CLUSTER__SPLIT_BRAIN", "static-quorum:1"),
        ("REGROW_CLUSTER__DOWN_REMOVAL_MARGIN", "10ms"),
        ("REGROW_NODE__NAME", "z"),
        ("REGROW_STORE__DATABASE_URL", "postgres://localhost/x"),
    ];
    let mut command = regrow();
    command
        .args(["node", "--check", "--data-dir"])
        .arg(dir.path());
    let said = say(command.envs(settings));
    assert_ne!(said.code, Some(0));
    for problem in [
        "expected names that differ",
        "`z`, among them",
        "beside `store.database_url`",
        "without `cluster.listen`",
        "a quorum of 1 of 2",
        "shorter than what consent lasts",
    ] {
        assert!(said.err.contains(problem), "{problem} in {}", said.err);
    }
}
