//! Journaled steps, and how soon a task that is submitted is picked up.
//!
//! `cargo bench -p regrow-runtime --bench journal`. Every step is durable before its task
//! goes on; the disk's own rate of 4 KiB appends with `fdatasync` stands beside it.

#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

mod node;

use std::convert::Infallible;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use regrow_runtime::journal::Journal;
use regrow_runtime::json::Json;
use regrow_runtime::queue::task::{Lease, NewTask};
use regrow_runtime::queue::{ClaimRequest, Queue};
use tokio::task::JoinSet;

use node::{Node, histogram, micros, ms};

const SPAN: Duration = Duration::from_secs(4);
/// Bytes of a step's output.
const OUTPUT: usize = 200;

fn request() -> ClaimRequest {
    ClaimRequest {
        worker: "bench".into(),
        kinds: vec!["bench".to_owned()],
        max: 1,
        wait: Duration::from_secs(10),
        lease: Duration::from_secs(600),
    }
}

async fn leased(queue: &Queue) -> Lease {
    let payload = Json::of(&"x".repeat(200)).expect("JSON");
    let task = NewTask::new("bench", payload);
    queue.submit(task).await.expect("room");
    let leases = queue.claim(&request()).await.expect("open");
    leases.into_iter().next().expect("as many tasks as callers")
}

/// Records steps, fifty for each task, until the time is over.
async fn caller(queue: Queue, until: Instant) -> Vec<u64> {
    let mut took = Vec::new();
    while Instant::now() < until {
        let lease = leased(&queue).await;
        let journal = Journal::new(queue.clone(), &lease);
        for number in 0..50 {
            let started = Instant::now();
            let work = async { Ok::<_, Infallible>("y".repeat(OUTPUT)) };
            let key = format!("step-{number}");
            let output: String = journal.step(&key, &number, work).await.expect("recorded");
            assert_eq!(output.len(), OUTPUT);
            took.push(micros(started));
        }
        let done = queue.complete(lease.task.id, lease.epoch, Json::null());
        done.await.expect("held");
    }
    took
}

async fn steps(path: &Path, callers: usize) {
    let node = Node::start(path).await;
    let started = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..callers {
        running.spawn(caller(node.queue.clone(), started + SPAN));
    }
    let mut latency = histogram();
    for took in running.join_all().await.into_iter().flatten() {
        latency.saturating_record(took);
    }
    let rate = latency.len() as f64 / started.elapsed().as_secs_f64();
    println!(
        "steps   sqlite, synchronous=FULL, output {OUTPUT} B, c={callers:<4} {rate:>8.0} steps/s  \
         p50 {:>6.2} p99 {:>6.2} ms",
        ms(&latency, 0.5),
        ms(&latency, 0.99)
    );
    node.stop().await;
}

/// From the beginning of a submission until a worker that waits has the lease.
async fn pickup(path: &Path) {
    let node = Node::start(path).await;
    let (mut latency, mut submits) = (histogram(), histogram());
    let started = Instant::now();
    while started.elapsed() < SPAN {
        let queue = node.queue.clone();
        let mut worker = JoinSet::new();
        worker.spawn(async move {
            let leases = queue.claim(&request()).await.expect("open");
            (Instant::now(), leases.into_iter().next().expect("one"))
        });
        tokio::task::yield_now().await;
        let submitted = Instant::now();
        let task = NewTask::new("bench", Json::null());
        node.queue.submit(task).await.expect("room");
        submits.saturating_record(micros(submitted));
        let (at, lease) = worker.join_next().await.expect("one").expect("no panic");
        let took = at.saturating_duration_since(submitted).as_micros();
        latency.saturating_record(u64::try_from(took).unwrap_or(u64::MAX).max(1));
        let done = node
            .queue
            .complete(lease.task.id, lease.epoch, Json::null());
        done.await.expect("held");
    }
    println!(
        "pickup  sqlite, synchronous=FULL, one at a time: submit to lease p50 {:.2} p95 {:.2} \
         p99 {:.2} ms; acknowledged after p50 {:.2} ms",
        ms(&latency, 0.5),
        ms(&latency, 0.95),
        ms(&latency, 0.99),
        ms(&submits, 0.5)
    );
    node.stop().await;
}

/// What the disk does by itself: append 4 KiB and flush, one at a time.
fn raw(dir: &Path) {
    let mut file = std::fs::File::create(dir.join("raw")).expect("writable");
    let (mut latency, started) = (histogram(), Instant::now());
    while started.elapsed() < Duration::from_secs(2) {
        let one = Instant::now();
        file.write_all(&[7; 4_096]).expect("written");
        file.sync_data().expect("flushed");
        latency.saturating_record(micros(one));
    }
    println!(
        "raw     append 4 KiB + fdatasync: p50 {:.2} p99 {:.2} ms",
        ms(&latency, 0.5),
        ms(&latency, 0.99)
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let dir = tempfile::tempdir().expect("temporary directory");
    raw(dir.path());
    for callers in [1, 16, 256] {
        let path = dir.path().join(callers.to_string());
        runtime.block_on(steps(&path, callers));
    }
    runtime.block_on(pickup(&dir.path().join("pickup")));
}
