//! One row of the side-by-side table against other job queues: ours.
//!
//! `cargo xtask bench peers` runs this program as it runs the peers under `benches/peers`:
//! orders come in `PEER_ORDERS`, the report leaves as one line of JSON on standard output.
//! Without orders it drains 40,000 tasks from a SQLite file in a temporary directory.
//!
//! Each of a few workers claims up to so many tasks ([`WORKERS_CLAIM`]), runs them (they only
//! count themselves) and completes each with a call of its own. Results, the tasks and their
//! logs are kept.

#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use regrow_runtime::events::EventBus;
use regrow_runtime::json::Json;
use regrow_runtime::queue::control::QueueLimits;
use regrow_runtime::queue::task::{NewTask, TaskState};
use regrow_runtime::queue::{ClaimRequest, Queue};
use regrow_runtime::store::data_dir::DataDir;
use regrow_runtime::store::postgres::{Postgres, PostgresConfig};
use regrow_runtime::store::sqlite::Sqlite;
use regrow_runtime::store::writer::Writer;
use regrow_runtime::store::{Store, TaskFilter};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

/// Claims in flight, and tasks per claim: all of them are in flight together. Orders with a
/// variant such as `2x256` have it otherwise.
const WORKERS_CLAIM: (usize, usize) = (4, 128);

type Failed = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Workload {
    Drain,
    Single,
    Batch,
}

#[derive(Clone, Debug, Deserialize)]
struct Orders {
    workload: Workload,
    tasks: usize,
    callers: usize,
    seconds: f64,
    batch: usize,
    payload_bytes: usize,
    /// `postgres://…`, or the path that the database file gets.
    url: String,
    #[serde(default)]
    variant: String,
}

#[derive(Debug, Deserialize, Serialize)]
struct Payload {
    n: usize,
    text: String,
}

impl Orders {
    fn task(&self, n: usize) -> NewTask {
        let bare = format!(r#"{{"n":{n},"text":""}}"#).len();
        let text = "x".repeat(self.payload_bytes.saturating_sub(bare));
        NewTask::new("noop", Json::of(&Payload { n, text }).expect("JSON"))
    }

    fn workers_and_claim(&self) -> Result<(usize, usize), Failed> {
        match self.variant.split_once('x') {
            Some((workers, claim)) => Ok((workers.parse()?, claim.parse()?)),
            None => Ok(WORKERS_CLAIM),
        }
    }
}

#[derive(Debug, Default, Serialize)]
struct Outcome {
    tasks: usize,
    unfinished: usize,
    seconds: f64,
    lost: usize,
    doubled: usize,
    batch: usize,
    tuning: String,
    durability: &'static str,
    version: &'static str,
}

struct Node {
    queue: Queue,
    running: JoinSet<()>,
    durability: &'static str,
    _dir: Option<DataDir>,
}

impl Node {
    async fn start(url: &str) -> Result<Self, Failed> {
        let (store, dir) = if url.starts_with("postgres://") {
            let shared = PostgresConfig {
                url: url.parse()?,
                node: "bench".to_owned(),
                instance: "the same".to_owned(),
                life_term: Duration::from_secs(30),
            };
            (Store::Postgres(Postgres::open(shared).await?), None)
        } else {
            // A data directory of ours in place of the one file that peers get.
            let mut dir = DataDir::open(Path::new(url))?;
            (Store::Sqlite(Sqlite::open(&mut dir).await?), Some(dir))
        };
        let durability = match &store {
            Store::Postgres(_) => "synchronous_commit=on, fsync of the server",
            Store::Sqlite(_) => "synchronous=FULL, journal_mode=wal",
            Store::Volatile(_) => "none",
        };
        let clock = store.clock().await?;
        let limits = QueueLimits {
            max_size: 5_000_000,
            max_bytes: 8 << 30,
            ..QueueLimits::default()
        };
        let bus = EventBus::default();
        let queue = Queue::open(Writer::new(store), bus, limits, clock, 1).await?;
        let mut running = JoinSet::new();
        running.spawn(queue.clone().run_writer());
        let keeper = queue.clone();
        running.spawn(async move { keeper.keep_time().await });
        if matches!(queue.writer().store(), Store::Postgres(_)) {
            let keeper = queue.clone();
            running.spawn(async move { keeper.keep_life().await });
        }
        Ok(Self {
            queue,
            running,
            durability,
            _dir: dir,
        })
    }

    async fn stop(mut self) {
        self.queue.writer().close().await;
        self.running.shutdown().await;
    }
}

async fn submit(queue: &Queue, orders: &Orders, numbers: Vec<usize>) -> Result<(), Failed> {
    try_join_all(numbers.into_iter().map(|n| queue.submit(orders.task(n)))).await?;
    Ok(())
}

async fn work(queue: Queue, max: usize, counts: Arc<Vec<AtomicU32>>) -> Result<(), Failed> {
    let request = ClaimRequest {
        worker: "bench".into(),
        kinds: vec!["noop".to_owned()],
        max,
        wait: Duration::ZERO,
        lease: Duration::from_secs(600),
    };
    loop {
        let leases = queue.claim(&request).await?;
        if leases.is_empty() {
            return Ok(());
        }
        let done = leases.iter().map(|lease| async {
            let payload: Payload = lease.task.payload.decode()?;
            counts[payload.n].fetch_add(1, Ordering::Relaxed);
            let completed = queue.complete(lease.task.id, lease.epoch, Json::null());
            completed.await.map_err(Failed::from)
        });
        try_join_all(done).await?;
    }
}

/// The clock starts before the first claim (a peer's starts with its first execution) and
/// stops when the last completion was acknowledged.
async fn drain(queue: &Queue, orders: &Orders) -> Result<Outcome, Failed> {
    for first in (0..orders.tasks).step_by(500) {
        let numbers = (first..orders.tasks.min(first + 500)).collect();
        submit(queue, orders, numbers).await?;
    }
    let counts: Arc<Vec<AtomicU32>> =
        Arc::new((0..orders.tasks).map(|_| AtomicU32::new(0)).collect());
    let (count, claim) = orders.workers_and_claim()?;
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..count {
        workers.spawn(work(queue.clone(), claim, counts.clone()));
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    let seconds = started.elapsed().as_secs_f64();
    let counts = || counts.iter().map(|count| count.load(Ordering::Relaxed));
    Ok(Outcome {
        tasks: orders.tasks,
        seconds,
        lost: counts().filter(|count| *count == 0).count(),
        doubled: counts().map(|count| count.saturating_sub(1) as usize).sum(),
        batch: claim,
        tuning: format!("{count} claims of {claim}, a call per completion"),
        ..Outcome::default()
    })
}

async fn single(queue: &Queue, orders: &Arc<Orders>) -> Result<Outcome, Failed> {
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let until = started + Duration::from_secs_f64(orders.seconds);
    let mut callers = JoinSet::new();
    for _ in 0..orders.callers {
        let (queue, orders, next) = (queue.clone(), orders.clone(), next.clone());
        callers.spawn(async move {
            while Instant::now() < until {
                let n = next.fetch_add(1, Ordering::Relaxed);
                queue.submit(orders.task(usize::try_from(n)?)).await?;
            }
            Ok::<(), Failed>(())
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    Ok(Outcome {
        tasks: usize::try_from(next.load(Ordering::Relaxed))?,
        seconds: started.elapsed().as_secs_f64(),
        batch: 1,
        tuning: "submit".to_owned(),
        ..Outcome::default()
    })
}

async fn batch(queue: &Queue, orders: &Orders) -> Result<Outcome, Failed> {
    let started = Instant::now();
    for first in (0..orders.tasks).step_by(orders.batch) {
        let numbers = (first..orders.tasks.min(first + orders.batch)).collect();
        submit(queue, orders, numbers).await?;
    }
    Ok(Outcome {
        tasks: orders.tasks,
        seconds: started.elapsed().as_secs_f64(),
        batch: orders.batch,
        tuning: "submit, as many calls at once as a batch has tasks".to_owned(),
        ..Outcome::default()
    })
}

/// Reads the store again after a restart: what was acknowledged has to be there, once.
async fn compare(outcome: &mut Outcome, orders: &Orders) -> Result<(), Failed> {
    let node = Node::start(&orders.url).await?;
    let state = match orders.workload {
        Workload::Drain => Some(TaskState::Completed),
        Workload::Single | Workload::Batch => None,
    };
    let (mut rows, mut seen) = (0_usize, HashSet::new());
    let mut filter = TaskFilter {
        state,
        limit: 1_000,
        ..TaskFilter::default()
    };
    loop {
        let page = node.queue.tasks(&filter).await?;
        let Some(last) = page.last() else { break };
        filter.before = Some(last.body.id);
        for view in &page {
            rows += 1;
            seen.insert(view.body.payload.decode::<Payload>()?.n);
        }
    }
    outcome.lost += outcome.tasks.saturating_sub(seen.len());
    outcome.doubled += rows - seen.len();
    node.stop().await;
    Ok(())
}

async fn run(orders: Arc<Orders>) -> Result<Outcome, Failed> {
    let node = Node::start(&orders.url).await?;
    let mut outcome = match orders.workload {
        Workload::Drain => drain(&node.queue, &orders).await?,
        Workload::Single => single(&node.queue, &orders).await?,
        Workload::Batch => batch(&node.queue, &orders).await?,
    };
    outcome.durability = node.durability;
    outcome.version = env!("CARGO_PKG_VERSION");
    node.stop().await;
    compare(&mut outcome, &orders).await?;
    Ok(outcome)
}

fn main() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let orders = match std::env::var("PEER_ORDERS") {
        Ok(text) => serde_json::from_str(&text)?,
        Err(_) => Orders {
            workload: Workload::Drain,
            tasks: 40_000,
            callers: 16,
            seconds: 4.0,
            batch: 500,
            payload_bytes: 200,
            url: dir.path().join("peer").display().to_string(),
            variant: String::new(),
        },
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(run(Arc::new(orders)))?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}
