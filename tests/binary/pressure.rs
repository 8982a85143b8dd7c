//! SIGTERM while everybody goes on asking: the node ends in time, hands every lease back, and
//! keeps what it acknowledged.

#![expect(clippy::panic, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::node::{NodeProcess, PATIENCE};
use crate::schema::Schema;

/// Longest time from the signal to the end of the process.
const STOP_MAX: Duration = Duration::from_secs(10);
const SUBMITTERS: usize = 6;
const WORKERS: usize = 3;
/// The load goes on until the node ends; the signal comes after this many answers.
const ANSWERS: usize = 300;

/// What callers were told.
#[derive(Default)]
struct Told {
    accepted: Vec<String>,
    completed: Vec<String>,
    /// Leases that nobody settles.
    held: Vec<String>,
}

/// Calls of one client; `None` once the node is gone or refuses.
async fn post(http: &reqwest::Client, url: &str, body: &Value) -> Option<(u16, Value)> {
    let answer = http.post(url).json(body).send().await.ok()?;
    let status = answer.status().as_u16();
    Some((status, answer.json().await.ok()?))
}

fn id_of(task: &Value) -> String {
    task["id"].as_str().expect("an id").to_owned()
}

/// Submits work for agents and for workers outside, until the node is gone.
async fn submit(http: reqwest::Client, url: String, told: Arc<Mutex<Told>>) {
    let tasks = [
        json!({ "kind": "rehearsal.journey", "payload": { "steps": 2, "step_ms": 5 } }),
        json!({ "kind": "rehearsal.journey", "payload": { "steps": 1, "step_ms": 10_000 } }),
        json!({ "kind": "parcel", "payload": "x" }),
        json!({ "kind": "parcel", "payload": "y" }),
    ];
    for task in tasks.iter().cycle() {
        match post(&http, &format!("{url}/v1/tasks"), task).await {
            Some((201, accepted)) => told.lock().accepted.push(id_of(&accepted)),
            // A node that is stopping refuses; whoever asks goes on asking.
            Some((503, _)) => sleep(Duration::from_millis(1)).await,
            Some((status, answer)) => panic!("{status}: {answer}"),
            None => return,
        }
    }
}

/// Completes every other task that it gets, and keeps the rest.
async fn work(http: reqwest::Client, url: String, told: Arc<Mutex<Told>>) {
    let claim = json!({ "kinds": ["parcel"], "max": 2, "wait_ms": 1_000, "lease_ms": 600_000 });
    loop {
        let leases = match post(&http, &format!("{url}/v1/leases"), &claim).await {
            Some((200, leases)) => leases,
            Some((503, _)) => {
                sleep(Duration::from_millis(1)).await;
                continue;
            }
            Some((status, answer)) => panic!("{status}: {answer}"),
            None => return,
        };
        for (n, lease) in leases.as_array().expect("leases").iter().enumerate() {
            let id = id_of(&lease["task"]);
            if n == 1 {
                told.lock().held.push(id);
                continue;
            }
            let done = json!({ "epoch": lease["epoch"], "result": "delivered" });
            match post(&http, &format!("{url}/v1/leases/{id}/complete"), &done).await {
                Some((200, _)) => told.lock().completed.push(id),
                Some((status, answer)) if status != 409 && status != 503 => {
                    panic!("{status}: {answer}")
                }
                _ => {}
            }
        }
    }
}

async fn a_stop_under_pressure_loses_nothing(settings: &[(&str, &str)]) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let with = |more: &[(&'static str, &'static str)]| {
        let mut all = settings.to_vec();
        all.extend_from_slice(more);
        all
    };
    let busy = with(&[
        ("REGROW_REHEARSAL__ENABLED", "true"),
        ("REGROW_AGENTS__GRACE", "1s"),
    ]);
    let mut node = NodeProcess::start(dir.path(), &busy).await;
    let told = Arc::new(Mutex::new(Told::default()));
    let mut load = JoinSet::new();
    for _ in 0..SUBMITTERS {
        load.spawn(submit(node.http.clone(), node.url.clone(), told.clone()));
    }
    for _ in 0..WORKERS {
        load.spawn(work(node.http.clone(), node.url.clone(), told.clone()));
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let enough = {
            let told = told.lock();
            ANSWERS < told.accepted.len() && 10 < told.held.len() && 10 < told.completed.len()
        };
        if enough {
            break;
        }
        assert!(Instant::now() < deadline, "the load never got going");
        sleep(Duration::from_millis(5)).await;
    }
    let asked = Instant::now();
    node.signal(Signal::SIGTERM);
    assert_eq!(node.ended().await, Some(0));
    let took = asked.elapsed();
    assert!(took < STOP_MAX, "it took {took:?}");
    while let Some(ended) = load.join_next().await {
        ended.expect("a client is sound");
    }
    let told = std::mem::take(&mut *told.lock());

    let node = NodeProcess::start(dir.path(), &with(&[("REGROW_AGENTS__WORKERS", "0")])).await;
    for id in &told.accepted {
        let (status, task) = node.get(&format!("/v1/tasks/{id}")).await;
        assert_eq!(status, 200, "{id} was acknowledged and is lost");
        assert_ne!(task["state"], "executing", "{task}");
        // No stop counts as an attempt or a loss: whoever did not finish has none.
        if task["state"] != "completed" {
            let found = (
                task["state"].as_str(),
                task["attempt"].as_u64(),
                task["losses"].as_u64(),
            );
            assert_eq!(found, (Some("available"), Some(0), Some(0)), "{task}");
        }
    }
    for id in &told.completed {
        let (_, task) = node.get(&format!("/v1/tasks/{id}")).await;
        assert_eq!(task["state"], "completed", "{task}");
    }
    for id in &told.held {
        let (_, task) = node.get(&format!("/v1/tasks/{id}")).await;
        assert_eq!(task["state"], "available", "{task}");
    }
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_file() {
    a_stop_under_pressure_loses_nothing(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_database_server() {
    let schema = Schema::create().await;
    let url = schema.url();
    let settings = [
        ("REGROW_STORE__DATABASE_URL", url.as_str()),
        ("REGROW_STORE__LIFE_TERM", "3s"),
    ];
    a_stop_under_pressure_loses_nothing(&settings).await;
}
