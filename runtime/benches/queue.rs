//! Durable tasks per second: submit, claim, complete, each waiting for its commit.
//!
//! `cargo bench -p regrow-runtime --bench queue [cycle|batch|reload] [clients]
//! [delay=MICROSECONDS]`. `cycle` is SQLite, `batch` the same with many tasks per call; with a
//! delay every flush takes so much longer, to stand for a slower disk. Beside them stand the
//! disk's own rate of 4 KiB appends with `fdatasync`, and a bare log that does nothing but what any
//! durable queue must: two records per task, gathered into one write and one flush per batch,
//! in a file allocated beforehand. Compare ratios, machines differ.

#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

mod node;
mod slow_disk;

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};
use regrow_runtime::ids::TaskId;
use regrow_runtime::json::Json;
use regrow_runtime::queue::task::NewTask;
use regrow_runtime::queue::{ClaimRequest, Queue};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use self::node::{Node, histogram, micros, ms};

/// Bytes in a task's payload, before the quotes.
const PAYLOAD: usize = 200;
const SPAN: Duration = Duration::from_secs(4);

/// Sums the batch sizes that the writer reports.
#[derive(Default)]
struct Batches {
    callers: AtomicU64,
    commits: AtomicU64,
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

/// A log and nothing else: whoever appends is answered after the flush that covers it.
#[derive(Clone)]
struct RawLog(std::sync::mpsc::SyncSender<(Vec<u8>, oneshot::Sender<()>)>);

impl RawLog {
    const BYTES: u64 = 1 << 30;

    fn start(path: &Path) -> Self {
        let (appends, waiting) = std::sync::mpsc::sync_channel(4_096);
        let file = std::fs::File::create(path).expect("writable");
        let zeros = vec![0; 1 << 20];
        for _ in 0..Self::BYTES >> 20 {
            (&file).write_all(&zeros).expect("room");
        }
        file.sync_all().expect("flushed");
        std::thread::spawn(move || Self::run(&file, &waiting));
        Self(appends)
    }

    fn run(
        file: &std::fs::File,
        waiting: &std::sync::mpsc::Receiver<(Vec<u8>, oneshot::Sender<()>)>,
    ) {
        let (mut end, mut batch, mut told) = (0, Vec::new(), Vec::new());
        while let Ok(first) = waiting.recv() {
            for (record, done) in std::iter::once(first).chain(waiting.try_iter()) {
                batch.extend(record);
                told.push(done);
            }
            file.write_all_at(&batch, end).expect("written");
            file.sync_data().expect("flushed");
            end = (end + batch.len() as u64) % (Self::BYTES - (16 << 20));
            batch.clear();
            for done in told.drain(..) {
                let _: Result<(), ()> = done.send(());
            }
        }
    }

    async fn append(&self, record: Vec<u8>) {
        let (done, flushed) = oneshot::channel();
        self.0.try_send((record, done)).expect("fewer clients");
        flushed.await.expect("the log runs");
    }
}

/// The same clients over the bare log. Returns tasks per second.
async fn raw_cycle(log: &RawLog, clients: usize) -> f64 {
    let started = Instant::now();
    let until = started + SPAN;
    let mut running = JoinSet::new();
    for _ in 0..clients {
        let log = log.clone();
        running.spawn(async move {
            let mut cycles = Vec::new();
            while Instant::now() < until {
                let one = Instant::now();
                log.append(vec![1; PAYLOAD + 80]).await;
                log.append(vec![2; 48]).await;
                cycles.push(micros(one));
            }
            cycles
        });
    }
    let told = running.join_all().await;
    let seconds = started.elapsed().as_secs_f64();
    let mut cycles = histogram();
    for us in told.iter().flatten() {
        cycles.saturating_record((*us).max(1));
    }
    let rate = cycles.len() as f64 / seconds;
    let (p50, p99) = (ms(&cycles, 0.5), ms(&cycles, 0.99));
    println!(
        "rawlog c={clients:<4} {rate:>8.0} tasks/s  cycle p50 {p50:>7.2} p99 {p99:>7.2} ms  \
         (allocated beforehand, fdatasync per batch)"
    );
    rate
}

/// What the disk does by itself: append 4 KiB and flush, one at a time.
fn raw(dir: &Path) -> f64 {
    let mut file = std::fs::File::create(dir.join("raw")).expect("writable");
    let mut latency = histogram();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        let one = Instant::now();
        file.write_all(&[7; 4_096]).expect("written");
        file.sync_data().expect("flushed");
        latency.saturating_record(micros(one).max(1));
    }
    let rate = latency.len() as f64 / started.elapsed().as_secs_f64();
    let (p50, p99) = (ms(&latency, 0.5), ms(&latency, 0.99));
    println!("raw append 4 KiB + fdatasync: {rate:.0}/s, p50 {p50:.2} ms, p99 {p99:.2} ms");
    p50
}

fn task() -> NewTask {
    let mut payload = "x".repeat(PAYLOAD + 2);
    payload.replace_range(..1, "\"");
    payload.replace_range(PAYLOAD + 1.., "\"");
    NewTask::new("bench", Json::parse(payload).expect("JSON"))
}

fn request(max: usize) -> ClaimRequest {
    ClaimRequest {
        worker: "bench".into(),
        kinds: vec!["bench".to_owned()],
        max,
        wait: Duration::from_secs(10),
        lease: Duration::from_secs(600),
    }
}

#[derive(Default)]
struct Client {
    submits: Vec<u64>,
    cycles: Vec<u64>,
    submitted: Vec<TaskId>,
    completed: Vec<TaskId>,
}

/// Submits, claims and completes `batch` tasks per call.
async fn batch_client(queue: Queue, until: Instant, batch: usize) -> Client {
    let (mut told, mut request) = (Client::default(), request(batch));
    while Instant::now() < until {
        let started = Instant::now();
        let tasks = (0..batch).map(|_| task()).collect();
        let accepted = queue.submit_all(tasks).await;
        told.submits.push(micros(started));
        told.submitted
            .extend(accepted.into_iter().map(|one| one.expect("room").id));
        let mut left = batch;
        while 0 < left {
            request.max = left;
            let leases = queue.claim(&request).await.expect("open");
            left -= leases.len();
            let done = leases.iter();
            let done = done.map(|lease| (lease.task.id, lease.epoch, Json::null()));
            for completed in queue.complete_all(done.collect()).await {
                completed.expect("held");
            }
            told.completed
                .extend(leases.iter().map(|lease| lease.task.id));
        }
        told.cycles.push(micros(started));
    }
    told
}

async fn client(queue: Queue, until: Instant) -> Client {
    let (mut told, request) = (Client::default(), request(1));
    while Instant::now() < until {
        let started = Instant::now();
        let id = queue.submit(task()).await.expect("room").id;
        told.submits.push(micros(started));
        told.submitted.push(id);
        let leases = queue.claim(&request).await.expect("open");
        let lease = leases.first().expect("as many tasks as clients");
        let done = queue.complete(lease.task.id, lease.epoch, Json::null());
        done.await.expect("held");
        told.completed.push(lease.task.id);
        told.cycles.push(micros(started));
    }
    told
}

/// `None`: each call is about one task.
type PerCall = Option<usize>;

/// Returns tasks per second and the median wait for an acknowledgement, in milliseconds.
async fn cycle(path: &Path, clients: usize, per_call: PerCall, batches: &Batches) -> (f64, f64) {
    let node = Node::start(path).await;
    let before = [&batches.callers, &batches.commits].map(|n| n.load(Ordering::Relaxed));
    let started = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..clients {
        let (queue, until) = (node.queue.clone(), started + SPAN);
        match per_call {
            None => running.spawn(client(queue, until)),
            Some(batch) => running.spawn(batch_client(queue, until, batch)),
        };
    }
    let told = running.join_all().await;
    let seconds = started.elapsed().as_secs_f64();
    let after = [&batches.callers, &batches.commits].map(|n| n.load(Ordering::Relaxed));
    let (mut submits, mut cycles) = (histogram(), histogram());
    let (mut submitted, mut completed) = (Vec::new(), Vec::new());
    for one in &told {
        one.submits
            .iter()
            .for_each(|us| submits.saturating_record((*us).max(1)));
        one.cycles
            .iter()
            .for_each(|us| cycles.saturating_record((*us).max(1)));
        submitted.extend(&one.submitted);
        completed.extend(&one.completed);
    }
    let rate = completed.len() as f64 / seconds;
    let all = completed.len();
    completed.sort_unstable();
    completed.dedup();
    let doubled = all - completed.len();
    let mut lost = 0;
    for id in submitted {
        let missing = completed.binary_search(&id).is_err();
        lost += usize::from(missing && node.queue.task(id).await.expect("readable").is_none());
    }
    let batch = match per_call {
        Some(batch) => format!("{batch:>4} tasks per call"),
        None => {
            let commits = (after[1] - before[1]).max(1);
            format!(
                "batch {:>6.1}",
                (after[0] - before[0]) as f64 / commits as f64
            )
        }
    };
    println!(
        "sqlite c={clients:<4} {rate:>8.0} tasks/s  cycle p50 {:>7.2} p99 {:>7.2} ms  \
         submit p50 {:>7.2} p99 {:>7.2} ms  {batch}  lost {lost} doubled {doubled}",
        ms(&cycles, 0.5),
        ms(&cycles, 0.99),
        ms(&submits, 0.5),
        ms(&submits, 0.99),
    );
    node.stop().await;
    (rate, ms(&submits, 0.5))
}

/// Fills the queue to `depth`, times claims there, and the start of a node over it.
async fn reload(depth: usize) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = Node::start(dir.path()).await;
    let started = Instant::now();
    let left = Arc::new(AtomicU64::new(depth as u64));
    let mut running = JoinSet::new();
    for _ in 0..1_024 {
        let (queue, left) = (node.queue.clone(), left.clone());
        running.spawn(async move {
            while left
                .try_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                })
                .is_ok()
            {
                queue.submit(task()).await.expect("room");
            }
        });
    }
    running.join_all().await;
    let fill = depth as f64 / started.elapsed().as_secs_f64();
    let (claims, mut latency) = (500, histogram());
    for _ in 0..claims {
        let one = Instant::now();
        let leases = node.queue.claim_now(&request(1)).expect("open");
        latency.saturating_record(u64::try_from(one.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let lease = leases.first().expect("filled");
        node.queue
            .release(lease.task.id, lease.epoch)
            .await
            .expect("held");
    }
    let (p50, p99) = (
        latency.value_at_quantile(0.5),
        latency.value_at_quantile(0.99),
    );
    node.stop().await;
    let started = Instant::now();
    let node = Node::start(dir.path()).await;
    let first = node.queue.claim_now(&request(1)).expect("open").len();
    let boot = started.elapsed();
    let reading = Instant::now();
    let live = node.queue.writer().store().snapshot().await.expect("sound");
    let reading = reading.elapsed();
    assert_eq!(live.live.len(), depth, "nothing ended");
    drop(live);
    println!(
        "depth {depth:>8}: fill {fill:.0}/s, claim p50 {p50} ns p99 {p99} ns, \
         start to first lease {boot:.2?} ({first} lease), of that reading about {reading:.2?}"
    );
    node.stop().await;
}

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if slow_disk::ran(&asked) {
        return;
    }
    let only: Vec<usize> = asked
        .iter()
        .filter_map(|asked| asked.parse().ok())
        .collect();
    let counts = match &only[..] {
        [] => vec![1, 16, 128, 512],
        only => only.to_vec(),
    };
    let wants = |what: &str| {
        let named = |known: &str| asked.iter().any(|asked| asked == known);
        named(what) || !["cycle", "batch", "reload"].into_iter().any(named)
    };
    let batches = Arc::new(Batches::default());
    metrics::set_global_recorder(Recorder(batches.clone())).expect("the first recorder");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let dir = tempfile::tempdir().expect("temporary directory");
    let flush = raw(dir.path());
    if wants("cycle") {
        println!(
            "submit, claim, complete; payload {PAYLOAD} B; sqlite: synchronous=FULL; \
             batch: decisions per commit"
        );
        let log = RawLog::start(&dir.path().join("log"));
        for &clients in &counts {
            let bare = runtime.block_on(raw_cycle(&log, clients));
            let path = dir.path().join(clients.to_string());
            let (rate, ack) = runtime.block_on(cycle(&path, clients, None, &batches));
            print!("       c={clients:<4} sqlite/rawlog {:.2}", rate / bare);
            match clients {
                1 => println!(", acknowledgement/flush {:.2} (medians)", ack / flush),
                _ => println!(),
            }
        }
    }
    if wants("batch") {
        let path = dir.path().join("batches");
        for (clients, batch) in [(1, 256), (8, 256)] {
            let path = path.join(clients.to_string());
            runtime.block_on(cycle(&path, clients, Some(batch), &batches));
        }
    }
    if wants("reload") {
        for depth in [1_000, 1_000_000] {
            runtime.block_on(reload(depth));
        }
    }
}
