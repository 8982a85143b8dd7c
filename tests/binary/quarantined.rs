//! Nodes that are kept out for a while, on real node processes.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::node::{NodeProcess, PATIENCE, regrow, say};
use crate::schema::Schema;

async fn node(dir: &TempDir, url: &str, name: &str, more: &[(&str, &str)]) -> NodeProcess {
    let mut settings = vec![
        ("REGROW_STORE__DATABASE_URL", url),
        ("REGROW_NODE__NAME", name),
        ("REGROW_AGENTS__WORKERS", "0"),
        ("REGROW_AGENTS__CRITICS", "0"),
        ("REGROW_CLUSTER__WATCHDOG__TERM", "15s"),
        ("REGROW_CLUSTER__WATCHDOG__PROBATION", "4s"),
    ];
    settings.extend(more);
    NodeProcess::start(dir.path(), &settings).await
}

/// How `asked` sees the node of that name.
async fn seen(asked: &NodeProcess, name: &str) -> Value {
    let (status, answer) = asked.get("/v1/cluster/nodes").await;
    assert_eq!(status, 200, "{answer}");
    let nodes = answer["nodes"].as_array().expect("a list");
    let found = nodes.iter().find(|node| node["name"] == name);
    found.cloned().unwrap_or_default()
}

async fn until(asked: &NodeProcess, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let node = seen(asked, name).await;
        if wanted(&node) {
            return node;
        }
        assert!(began.elapsed() < 2 * PATIENCE, "still {node}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn stands(state: &'static str) -> impl Fn(&Value) -> bool {
    move |node| node["watched"]["state"] == state
}

async fn node_of(asked: &NodeProcess, agent: &str) -> Value {
    let (_, answer) = asked.get(&format!("/v1/agents/{agent}")).await;
    answer["placed"]["node"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_freezes_three_times_is_kept_out_for_a_term_although_it_is_up_again() {
    let schema = Schema::create().await;
    let url = schema.url();
    let dirs = [(); 3].map(|()| tempfile::tempdir().expect("temporary directory"));
    let settings = [
        ("REGROW_STORE__LIFE_TERM", "1s"),
        // Here only who goes down counts.
        ("REGROW_CLUSTER__WATCHDOG__STALL_AFTER", "10s"),
        // However slow the machine is, the first time is remembered at the third.
        ("REGROW_CLUSTER__WATCHDOG__HALF_LIFE", "10m"),
    ];
    let a = node(&dirs[0], &url, "a", &settings).await;
    let b = node(&dirs[1], &url, "b", &settings).await;
    let mut c = node(&dirs[2], &url, "c", &settings).await;
    until(&a, "c", |node| node["report"].is_object()).await;
    let mut freezes = 0;
    while seen(&a, "c").await["watched"]["state"] != "quarantined" {
        freezes += 1;
        assert!(freezes <= 5, "{}", seen(&a, "c").await);
        until(&a, "c", |node| node["life"].is_u64()).await;
        // Both have seen it alive: who has not cannot see that it goes.
        sleep(Duration::from_millis(2_500)).await;
        c.signal(Signal::SIGSTOP);
        until(&a, "c", |node| node["life"].is_null()).await;
        c.signal(Signal::SIGCONT);
        assert_eq!(c.ended().await, Some(1), "it finds that it was succeeded");
        sleep(Duration::from_millis(1_500)).await;
        c = node(&dirs[2], &url, "c", &settings).await;
    }
    println!("kept out after {freezes} freezes");
    assert!((3..=4).contains(&freezes), "{freezes}");

    let spec = json!({ "id": "bound", "role": "worker", "placement": { "node": "c" },
        "intensity": { "restarts_max": 50, "within_ms": 60_000 } });
    let (status, made) = a.post("/v1/agents", &spec).await;
    assert_eq!(status, 201, "{made}");

    // It is up, and nevertheless owns nothing and gets nothing; all see the same.
    let kept = until(&b, "c", |node| node["life"].is_u64()).await;
    assert!(stands("quarantined")(&kept), "{kept}");
    let reason = kept["watched"]["reason"].as_str().expect("why");
    assert!(reason.contains("went_down"), "{reason}");
    assert_eq!(kept["watched"]["share_permille"], 0);
    let (_, why) = a.get("/v1/cluster/explain/bound").await;
    assert!(why.to_string().contains("quarantined"), "{why}");
    let mut looks = 0;
    loop {
        // In this order: whoever owns it does so while the node is judged, or before.
        let (owner, node) = (node_of(&a, "bound").await, seen(&a, "c").await);
        if !stands("quarantined")(&node) {
            break;
        }
        looks += 1;
        assert!(owner.is_null(), "{owner} has it while {node}");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(0 < looks);

    // Then it is on probation, and in the end a node like others.
    let watched = until(&b, "c", |node| !stands("quarantined")(node)).await;
    assert!(stands("probation")(&watched), "{watched}");
    until(&a, "c", stands("free")).await;
    let began = Instant::now();
    while node_of(&a, "bound").await != "c" {
        assert!(began.elapsed() < PATIENCE);
        sleep(Duration::from_millis(50)).await;
    }

    // Operators keep it out for as long as they like, and let it back.
    let order = |verb: &str, asked: &NodeProcess| {
        say(regrow().args([
            "cluster",
            verb,
            "c",
            "--reason",
            "a fan is loud",
            "--url",
            &asked.url,
        ]))
    };
    assert_eq!(order("quarantine", &b).code, Some(0));
    let pinned = until(&a, "c", stands("quarantined")).await;
    assert_eq!(pinned["watched"]["pinned"], true);
    until(&a, "c", |node| node["agents"] == 0).await;
    let shown = say(regrow().args(["cluster", "nodes", "--url", &a.url]));
    assert!(
        shown.out.contains("until released: a fan is loud"),
        "{}",
        shown.out
    );
    assert_eq!(order("release", &a).code, Some(0));
    until(&b, "c", |node| !stands("quarantined")(node)).await;
    until(&a, "c", |node| node["agents"] == 1).await;
    for node in [a, b, c] {
        node.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_event_loop_stalls_says_so_and_the_others_keep_it_out() {
    let schema = Schema::create().await;
    let url = schema.url();
    let dirs = [(); 3].map(|()| tempfile::tempdir().expect("temporary directory"));
    // Its life goes on while it stalls: it is up all the time.
    let settings = [
        ("REGROW_STORE__LIFE_TERM", "60s"),
        ("REGROW_CLUSTER__WATCHDOG__THRESHOLD", "900"),
        // Others stall a little, too, on a machine that is overbooked.
        ("REGROW_CLUSTER__WATCHDOG__STALL_AFTER", "3s"),
        ("REGROW_CLUSTER__WATCHDOG__SLOW_AFTER", "30s"),
    ];
    let a = node(&dirs[0], &url, "a", &settings).await;
    let b = node(&dirs[1], &url, "b", &settings).await;
    let c = node(&dirs[2], &url, "c", &settings).await;
    let life = until(&a, "c", |node| node["report"].is_object()).await["life"].clone();
    sleep(Duration::from_millis(2_500)).await;
    let mut stalls = 0;
    while !stands("quarantined")(&seen(&a, "c").await) {
        stalls += 1;
        assert!(stalls <= 10, "{}", seen(&a, "c").await);
        c.signal(Signal::SIGSTOP);
        sleep(Duration::from_millis(3_500)).await;
        c.signal(Signal::SIGCONT);
        // Until it has said so, and the others have looked.
        sleep(Duration::from_secs(4)).await;
    }
    println!("kept out after {stalls} stalls");
    let kept = seen(&b, "c").await;
    let reason = kept["watched"]["reason"].as_str().expect("why");
    assert!(reason.contains("stalled"), "{reason}");
    assert_eq!(kept["life"], life, "it was up all the time");
    for name in ["a", "b"] {
        assert!(!stands("quarantined")(&seen(&c, name).await));
    }
    for node in [a, b, c] {
        node.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_leaves_its_tasks_to_the_others_until_it_is_released() {
    let schema = Schema::create().await;
    let url = schema.url();
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("temporary directory"));
    let settings = [
        ("REGROW_AGENTS__WORKERS", "2"),
        ("REGROW_REHEARSAL__ENABLED", "true"),
    ];
    let a = node(&dirs[0], &url, "a", &settings).await;
    let b = node(&dirs[1], &url, "b", &settings).await;
    let leased = async |node: &NodeProcess| {
        let (_, stats) = node.get("/v1/queue").await;
        stats["counters"]["leased"].as_u64().expect("a count")
    };
    let run = async |asked: &NodeProcess, count: usize| {
        let mut ids = Vec::new();
        for _ in 0..count {
            let task =
                json!({ "kind": "rehearsal.journey", "payload": { "steps": 1, "step_ms": 1 } });
            let (status, made) = asked.post("/v1/tasks", &task).await;
            assert_eq!(status, 201, "{made}");
            ids.push(made["id"].as_str().expect("an id").to_owned());
        }
        for id in ids {
            let (_, done) = asked.get(&format!("/v1/tasks/{id}?wait_ms=20000")).await;
            assert_eq!(done["state"], "completed", "{done}");
        }
    };
    run(&a, 4).await;
    let (status, _) = a.post("/v1/cluster/nodes/a/drain", &json!({})).await;
    assert_eq!(status, 200);
    // What it had asked for before it heard of that comes still.
    sleep(Duration::from_secs(2)).await;
    let (before, of_other) = (leased(&a).await, leased(&b).await);
    run(&a, 12).await;
    assert_eq!(leased(&a).await, before, "its own workers took some");
    assert_eq!(leased(&b).await, of_other + 12);

    let (status, _) = a.post("/v1/cluster/nodes/a/release", &json!({})).await;
    assert_eq!(status, 200);
    let (status, _) = a.post("/v1/cluster/nodes/b/cordon", &json!({})).await;
    assert_eq!(status, 200);
    sleep(Duration::from_secs(2)).await;
    let of_other = leased(&b).await;
    run(&b, 6).await;
    assert_eq!(leased(&b).await, of_other, "its own workers took some");
    a.kill().await;
    b.kill().await;
}
