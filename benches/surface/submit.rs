//! Durable submissions over HTTP, beside the same queue without HTTP in between.

use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use regrow_runtime::json::Json;
use regrow_runtime::queue::task::NewTask;
use tokio::task::JoinSet;

use crate::caller::{Caller, request};
use crate::node::{Node, histogram, micros, ms};
use crate::process::Process;
use crate::{Part, median};

/// Bytes in a task's payload, before the quotes.
pub(crate) const PAYLOAD: usize = 200;
const SPAN: Duration = Duration::from_secs(4);
const ROUNDS: usize = 3;
/// Callers, and tasks per call.
const ROWS: [(usize, usize); 4] = [(1, 1), (16, 1), (128, 1), (8, 256)];

pub(crate) fn payload() -> String {
    format!("\"{}\"", "x".repeat(PAYLOAD))
}

fn task() -> NewTask {
    NewTask::new("bench", Json::parse(payload()).expect("JSON"))
}

/// What callers saw together.
struct Seen {
    rate: f64,
    calls: Histogram<u64>,
}

impl Seen {
    fn of(told: Vec<Vec<u64>>, batch: usize, took: Duration) -> Self {
        let mut calls = histogram();
        for us in told.into_iter().flatten() {
            calls.saturating_record(us);
        }
        let rate = (calls.len() as usize * batch) as f64 / took.as_secs_f64();
        Self { rate, calls }
    }
}

async fn without(path: &Path, callers: usize, batch: usize, span: Duration) -> Seen {
    let node = Node::start(path).await;
    let began = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..callers {
        let queue = node.queue.clone();
        running.spawn(async move {
            let mut calls = Vec::new();
            while began.elapsed() < span {
                let one = Instant::now();
                match batch {
                    1 => drop(queue.submit(task()).await.expect("room")),
                    _ => {
                        let tasks = (0..batch).map(|_| task()).collect();
                        let accepted = queue.submit_all(tasks).await;
                        assert!(accepted.iter().all(Result::is_ok));
                    }
                }
                calls.push(micros(one));
            }
            calls
        });
    }
    let told = running.join_all().await;
    let seen = Seen::of(told, batch, began.elapsed());
    node.stop().await;
    seen
}

async fn over_http(path: &Path, callers: usize, batch: usize, span: Duration) -> (Seen, Duration) {
    let node = Process::start(path, &[]).await;
    let one = format!("{{\"kind\":\"bench\",\"payload\":{}}}", payload());
    let (body, expected) = match batch {
        1 => (one, 201),
        _ => (format!("[{}]", vec![one; batch].join(",")), 200),
    };
    let asked = request("POST", "/v1/tasks", "", &body);
    let mut all = Vec::new();
    for _ in 0..callers {
        all.push(Caller::to(node.address).await);
    }
    let (began, before) = (Instant::now(), node.used());
    let mut running = JoinSet::new();
    for mut caller in all {
        let asked = asked.clone();
        running.spawn(async move {
            let mut calls = Vec::new();
            while began.elapsed() < span {
                let one = Instant::now();
                let (status, said) = caller.call(&asked).await;
                assert_eq!(status, expected, "{}", String::from_utf8_lossy(said));
                calls.push(micros(one));
            }
            calls
        });
    }
    let told = running.join_all().await;
    let seen = Seen::of(told, batch, began.elapsed());
    // What was acknowledged is there.
    let mut caller = Caller::to(node.address).await;
    let (_, said) = caller.get("/v1/queue").await;
    let said: serde_json::Value = serde_json::from_slice(said).expect("JSON");
    let there = said["size"].as_u64().expect("a size");
    assert_eq!(there, seen.calls.len() * batch as u64, "{said}");
    (seen, node.used() - before)
}

pub(crate) async fn measure(part: Part) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let span = part.time(SPAN);
    println!(
        "submit, payload {PAYLOAD} B, SQLite synchronous=FULL; http: POST /v1/tasks on loopback, \
         callers and node on the same cores"
    );
    for (callers, batch) in ROWS {
        let (mut rates, mut http, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let (mut calls, mut calls_http) = (histogram(), histogram());
        let mut cost = Vec::new();
        for round in 0..ROUNDS {
            let path = |what: &str| dir.path().join(format!("{what}-{callers}-{batch}-{round}"));
            let plain = without(&path("without"), callers, batch, span).await;
            let (served, used) = over_http(&path("http"), callers, batch, span).await;
            cost.push(used.as_secs_f64() * 1e6 / (served.calls.len() as f64 * batch as f64));
            ratios.push(served.rate / plain.rate);
            rates.push(plain.rate);
            http.push(served.rate);
            calls.add(&plain.calls).expect("the same bounds");
            calls_http.add(&served.calls).expect("the same bounds");
        }
        println!(
            "c={callers:<4} {batch:>3} per call: in process {:>8.0}/s p50 {:>6.2} p99 {:>6.2} ms, \
             http {:>8.0}/s p50 {:>6.2} p99 {:>6.2} ms, {:>5.1} us of the node's processor each; \
             ratio {:.2} (median of {ROUNDS} rounds; target 0.60)",
            median(rates),
            ms(&calls, 0.5),
            ms(&calls, 0.99),
            median(http),
            ms(&calls_http, 0.5),
            ms(&calls_http, 0.99),
            median(cost),
            median(ratios),
        );
    }
}
