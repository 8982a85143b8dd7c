//! Tasks per second over one pool: one node, through another node, four together.
//!
//! `cargo xtask bench pool` starts a temporary PostgreSQL for it. So many tasks are in flight
//! at once; whoever submitted one submits the next when it was completed. The nodes are queues
//! in one process, each with connections of its own, on the machine of the server.

#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use hdrhistogram::Histogram;
use metrics::{Counter, Gauge, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};
use regrow_runtime::events::EventBus;
use regrow_runtime::json::Json;
use regrow_runtime::queue::control::QueueLimits;
use regrow_runtime::queue::task::NewTask;
use regrow_runtime::queue::{ClaimRequest, Queue};
use regrow_runtime::store::Store;
use regrow_runtime::store::postgres::{Postgres, PostgresConfig};
use regrow_runtime::store::writer::Writer;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinSet;

#[path = "../tests/database/schema.rs"]
mod schema;

use schema::{Schema, execute};

/// Bytes of a task's payload.
const PAYLOAD: usize = 200;
const SPAN: Duration = Duration::from_secs(5);
/// How long a snapshot is pinned.
const PINNED: Duration = Duration::from_secs(16);
/// Claims in flight on a node, and tasks per claim.
const WORKERS: usize = 8;
const CLAIM: usize = 64;
/// Tasks whose way to a waiting worker is timed.
const PICKUPS: usize = 300;

/// Sums the batch sizes that the writers report.
#[derive(Default)]
struct Batches {
    callers: AtomicU64,
    commits: AtomicU64,
}

impl Batches {
    fn mean_since_last(&self) -> f64 {
        let callers = self.callers.swap(0, Ordering::Relaxed);
        let commits = self.commits.swap(0, Ordering::Relaxed);
        callers as f64 / commits.max(1) as f64
    }
}

impl HistogramFn for Batches {
    fn record(&self, value: f64) {
        self.callers.fetch_add(value as u64, Ordering::Relaxed);
        self.commits.fetch_add(1, Ordering::Relaxed);
    }
}

struct Recorder(Arc<Batches>);

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> metrics::Histogram {
        if key.name() == regrow_runtime::metrics::STORE_BATCH {
            metrics::Histogram::from_arc(self.0.clone())
        } else {
            metrics::Histogram::noop()
        }
    }
}

struct Node {
    queue: Queue,
    running: JoinSet<()>,
}

impl Node {
    async fn start(schema: &Schema, name: &str) -> Self {
        let config = PostgresConfig {
            url: schema.url().parse().expect("an address"),
            node: name.to_owned(),
            instance: "the same".to_owned(),
            life_term: Duration::from_secs(30),
        };
        let store = Store::Postgres(Postgres::open(config).await.expect("sound"));
        let clock = store.clock().await.expect("open");
        let limits = QueueLimits {
            max_size: 5_000_000,
            max_bytes: 8 << 30,
            ..QueueLimits::default()
        };
        let queue = Queue::open(Writer::new(store), EventBus::default(), limits, clock, 1);
        let queue = queue.await.expect("readable");
        let mut running = JoinSet::new();
        running.spawn(queue.clone().run_writer());
        let keeper = queue.clone();
        running.spawn(async move { keeper.keep_time().await });
        let keeper = queue.clone();
        running.spawn(async move { keeper.keep_life().await });
        Self { queue, running }
    }

    async fn all(schema: &Schema, count: usize) -> Vec<Self> {
        let mut nodes = Vec::new();
        for n in 0..count {
            nodes.push(Self::start(schema, &format!("n{n}")).await);
        }
        // Each sees that it is not alone, and hears the others.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        nodes
    }

    async fn stop(mut self) {
        self.queue.writer().close().await;
        self.running.shutdown().await;
    }
}

#[derive(Deserialize, Serialize)]
struct Payload {
    slot: usize,
    text: String,
}

fn task(slot: usize) -> NewTask {
    let bare = format!(r#"{{"slot":{slot},"text":""}}"#).len();
    let text = "x".repeat(PAYLOAD.saturating_sub(bare));
    NewTask::new("noop", Json::of(&Payload { slot, text }).expect("JSON"))
}

fn request(worker: &str, max: usize) -> ClaimRequest {
    ClaimRequest {
        worker: worker.into(),
        kinds: vec!["noop".to_owned()],
        max,
        wait: Duration::from_millis(500),
        lease: Duration::from_secs(600),
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("bounds in order")
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn ms(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1_000.0
}

struct Flow {
    slots: Vec<Notify>,
    stop: AtomicBool,
    submitted: AtomicU64,
    executed: AtomicU64,
    times: Mutex<Histogram<u64>>,
}

async fn submit(queue: Queue, slot: usize, flow: Arc<Flow>) {
    let mut times = histogram();
    while !flow.stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        queue.submit(task(slot)).await.expect("room");
        flow.submitted.fetch_add(1, Ordering::Relaxed);
        flow.slots[slot].notified().await;
        times.saturating_record(micros(started));
    }
    flow.times.lock().await.add(times).expect("same bounds");
}

async fn work(queue: Queue, worker: String, flow: Arc<Flow>) {
    let request = request(&worker, CLAIM);
    loop {
        let leases = queue.claim(&request).await.expect("open");
        let done = leases.iter().map(|lease| async {
            let payload: Payload = lease.task.payload.decode().expect("as submitted");
            flow.executed.fetch_add(1, Ordering::Relaxed);
            let completed = queue.complete(lease.task.id, lease.epoch, Json::null());
            completed.await.expect("held");
            flow.slots[payload.slot].notify_one();
        });
        join_all(done).await;
    }
}

/// Tasks per second from `givers` through `takers`.
async fn flow(
    what: &str,
    schema: &Schema,
    givers: &[&Node],
    takers: &[&Node],
    (in_flight, span): (usize, Duration),
    batches: &Batches,
) -> f64 {
    let flow = Arc::new(Flow {
        slots: (0..in_flight).map(|_| Notify::new()).collect(),
        stop: AtomicBool::new(false),
        submitted: AtomicU64::new(0),
        executed: AtomicU64::new(0),
        times: Mutex::new(histogram()),
    });
    let before = ended(schema).await;
    batches.mean_since_last();
    let mut workers = JoinSet::new();
    for (n, node) in takers.iter().enumerate() {
        for w in 0..WORKERS {
            workers.spawn(work(node.queue.clone(), format!("w{n}-{w}"), flow.clone()));
        }
    }
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for slot in 0..in_flight {
        let queue = givers[slot % givers.len()].queue.clone();
        callers.spawn(submit(queue, slot, flow.clone()));
    }
    tokio::time::sleep(span).await;
    flow.stop.store(true, Ordering::Relaxed);
    while let Some(done) = callers.join_next().await {
        done.expect("no panic");
    }
    let seconds = started.elapsed().as_secs_f64();
    workers.shutdown().await;
    let submitted = flow.submitted.load(Ordering::Relaxed);
    let executed = flow.executed.load(Ordering::Relaxed);
    let lost = submitted.saturating_sub(ended(schema).await - before);
    let times = flow.times.lock().await;
    let rate = submitted as f64 / seconds;
    println!(
        "{what}, {in_flight:>4} in flight: {rate:>6.0} tasks/s, p50 {:.1} ms, p99 {:.1} ms; \
         {:.0} callers per commit; lost {lost}, doubled {}",
        ms(&times, 0.5),
        ms(&times, 0.99),
        batches.mean_since_last(),
        executed.saturating_sub(submitted),
    );
    rate
}

async fn ended(schema: &Schema) -> u64 {
    let ended = schema.number("SELECT count(*) FROM task_end").await;
    ended.unsigned_abs()
}

/// From the answer to a submission until a waiting worker has the task.
async fn pickup(what: &str, giver: &Node, taker: &Node) {
    let (told, mut hears) = tokio::sync::mpsc::channel(1);
    let queue = taker.queue.clone();
    let mut worker = JoinSet::new();
    worker.spawn(async move {
        let request = request("w", 1);
        loop {
            for lease in queue.claim(&request).await.expect("open") {
                told.try_send((lease.task.id, Instant::now()))
                    .expect("heard");
                let done = queue.complete(lease.task.id, lease.epoch, Json::null());
                done.await.expect("held");
            }
        }
    });
    let mut times = histogram();
    for _ in 0..PICKUPS {
        tokio::time::sleep(Duration::from_millis(35)).await;
        let id = giver.queue.submit(task(0)).await.expect("room").id;
        let answered = Instant::now();
        let (taken, at) = hears.recv().await.expect("it works");
        assert_eq!(taken, id);
        let time = at.saturating_duration_since(answered);
        times.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1));
    }
    worker.shutdown().await;
    println!(
        "pickup {what}: p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms ({PICKUPS} tasks, one at a time)",
        ms(&times, 0.5),
        ms(&times, 0.95),
        ms(&times, 0.99),
    );
}

async fn settings(schema: &Schema) {
    let fsync = schema.text("SHOW fsync").await;
    let commit = schema.text("SHOW synchronous_commit").await;
    let version = schema.text("SHOW server_version").await;
    println!(
        "PostgreSQL {version} on this machine, fsync {fsync}, synchronous_commit {commit}; payload \
         {PAYLOAD} B; {WORKERS} claims of up to {CLAIM} per node, a call per submission and completion"
    );
}

async fn run(batches: Arc<Batches>) {
    let only = std::env::args().nth(1).filter(|arg| !arg.starts_with('-'));
    let wants = |part: &str| only.as_ref().is_none_or(|only| only == part);
    let schema = Schema::create().await;
    settings(&schema).await;
    if wants("one") {
        let schema = Schema::create().await;
        let nodes = Node::all(&schema, 1).await;
        for in_flight in [256, 1_024] {
            let one = [&nodes[0]];
            flow("one node", &schema, &one, &one, (in_flight, SPAN), &batches).await;
        }
        pickup("on the same node", &nodes[0], &nodes[0]).await;
        join_all(nodes.into_iter().map(Node::stop)).await;
    }
    if wants("other") {
        let schema = Schema::create().await;
        let nodes = Node::all(&schema, 2).await;
        for in_flight in [256, 1_024] {
            let (from, to) = ([&nodes[0]], [&nodes[1]]);
            let what = "through another node";
            flow(what, &schema, &from, &to, (in_flight, SPAN), &batches).await;
        }
        pickup("through another node", &nodes[0], &nodes[1]).await;
        join_all(nodes.into_iter().map(Node::stop)).await;
    }
    if wants("four") {
        let schema = Schema::create().await;
        let nodes = Node::all(&schema, 4).await;
        let all: Vec<&Node> = nodes.iter().collect();
        for in_flight in [256, 1_024] {
            flow(
                "four nodes",
                &schema,
                &all,
                &all,
                (in_flight, SPAN),
                &batches,
            )
            .await;
        }
        join_all(nodes.into_iter().map(Node::stop)).await;
    }
    if wants("pinned") {
        let mut rates = Vec::new();
        for pinned in [false, true] {
            let schema = Schema::create().await;
            let nodes = Node::all(&schema, 2).await;
            let mut old = schema.connect().await;
            if pinned {
                let pin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM task";
                execute(&mut old, pin.to_owned()).await;
            }
            let (from, to) = ([&nodes[0]], [&nodes[1]]);
            let what = match pinned {
                true => "through another node, snapshot pinned for 16 s",
                false => "through another node, no snapshot, for 16 s",
            };
            rates.push(flow(what, &schema, &from, &to, (1_024, PINNED), &batches).await);
            drop(old);
            join_all(nodes.into_iter().map(Node::stop)).await;
        }
        println!("kept with a pinned snapshot: {:.2}", rates[1] / rates[0]);
    }
}

fn main() {
    let batches = Arc::new(Batches::default());
    metrics::set_global_recorder(Recorder(batches.clone())).expect("the first");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(run(batches));
}
