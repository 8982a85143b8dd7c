//! What the Rust peers share: their orders, the count of executions, the report.
//!
//! The same as `node/tally.mjs` and `python/tally.py`. Orders come in `PEER_ORDERS`, the
//! report leaves as one line of JSON on standard output.

use std::future::Future;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Whatever went wrong: the program ends with it.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// Work off `tasks` tasks that are there already.
    Drain,
    /// `callers` callers, each submitting one task after the other.
    Single,
    /// One caller, `batch` tasks in each call.
    Batch,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Orders {
    pub workload: Workload,
    pub tasks: usize,
    pub callers: usize,
    pub seconds: f64,
    pub batch: usize,
    pub payload_bytes: usize,
    pub limit_seconds: f64,
    /// Of the server, or the path of the file.
    pub url: String,
    /// A way of running that the peer knows by this word; empty for the usual one.
    #[serde(default)]
    pub variant: String,
}

impl Orders {
    pub fn given() -> Result<Arc<Self>, Failed> {
        let text = std::env::var("PEER_ORDERS").map_err(|_| "PEER_ORDERS is not set")?;
        Ok(Arc::new(serde_json::from_str(&text)?))
    }

    /// A JSON object of `payload_bytes` bytes that carries the task's number.
    pub fn payload(&self, n: usize) -> Payload {
        let bare = format!(r#"{{"n":{n},"text":""}}"#).len();
        Payload {
            n: n as i64,
            text: "x".repeat(self.payload_bytes.saturating_sub(bare)),
        }
    }

    /// The numbers of all tasks, `size` at a time.
    pub fn batches(&self, size: usize) -> impl Iterator<Item = Vec<usize>> + use<> {
        let tasks = self.tasks;
        (0..tasks)
            .step_by(size)
            .map(move |first| (first..tasks.min(first + size)).collect())
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Payload {
    pub n: i64,
    pub text: String,
}

/// Counts executions by task. The clock starts with the first.
#[derive(Debug)]
pub struct Tally {
    counts: Vec<AtomicU32>,
    distinct: AtomicU64,
    started: OnceLock<Instant>,
}

impl Tally {
    pub fn new(orders: &Orders) -> Arc<Self> {
        Arc::new(Self {
            counts: (0..orders.tasks).map(|_| AtomicU32::new(0)).collect(),
            distinct: AtomicU64::new(0),
            started: OnceLock::new(),
        })
    }

    pub fn ran(&self, n: i64) {
        self.started.get_or_init(Instant::now);
        if self.counts[n as usize].fetch_add(1, Ordering::Relaxed) == 0 {
            self.distinct.fetch_add(1, Ordering::Release);
        }
    }

    /// Waits until every task ran and `unfinished` (in the store) answers 0.
    pub async fn drained<E: Into<Failed>>(
        &self,
        orders: &Orders,
        unfinished: impl AsyncFn() -> Result<i64, E>,
    ) -> Result<Outcome, Failed> {
        let limit = Instant::now() + Duration::from_secs_f64(orders.limit_seconds);
        while self.distinct.load(Ordering::Acquire) < orders.tasks as u64 && Instant::now() < limit
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let mut left = unfinished().await.map_err(Into::into)?;
        while 0 < left && Instant::now() < limit {
            tokio::time::sleep(Duration::from_millis(2)).await;
            left = unfinished().await.map_err(Into::into)?;
        }
        Ok(Outcome {
            tasks: orders.tasks - left as usize,
            unfinished: left as usize,
            seconds: self
                .started
                .get()
                .map_or(orders.limit_seconds, |at| at.elapsed().as_secs_f64()),
            ..Outcome::default()
        })
    }

    /// Adds what was lost and doubled; to be asked after the workers have stopped.
    pub fn verdict(&self, outcome: &mut Outcome) {
        let counts = || {
            self.counts
                .iter()
                .map(|count| count.load(Ordering::Acquire))
        };
        let ran = counts().filter(|count| 0 < *count).count();
        outcome.doubled = counts().map(|count| count.saturating_sub(1) as usize).sum();
        outcome.lost = self.counts.len().saturating_sub(outcome.unfinished + ran);
    }
}

/// What is reported.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// Durably done.
    pub tasks: usize,
    /// Not done when time was up.
    pub unfinished: usize,
    pub seconds: f64,
    pub lost: usize,
    pub doubled: usize,
    /// Tasks per call or claim.
    pub batch: usize,
    pub tuning: String,
    /// As the store itself answers.
    pub durability: String,
}

impl Outcome {
    /// What the store holds against what was acknowledged.
    pub fn held(&mut self, rows: i64, distinct: i64) {
        self.lost = self.tasks.saturating_sub(distinct as usize);
        self.doubled = (rows - distinct).max(0) as usize;
    }
}

/// One closed loop per caller; `submit` returns when its task is durable.
pub async fn single<F, W, E>(orders: &Orders, submit: F) -> Result<Outcome, Failed>
where
    F: Fn(usize) -> W + Send + Sync + 'static,
    W: Future<Output = Result<(), E>> + Send,
    E: Into<Failed>,
{
    let (submit, next) = (Arc::new(submit), Arc::new(AtomicU64::new(0)));
    let started = Instant::now();
    let until = started + Duration::from_secs_f64(orders.seconds);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..orders.callers {
        let (submit, next) = (submit.clone(), next.clone());
        callers.spawn(async move {
            while Instant::now() < until {
                let n = next.fetch_add(1, Ordering::Relaxed);
                submit(n as usize).await.map_err(Into::into)?;
            }
            Ok::<(), Failed>(())
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    Ok(Outcome {
        tasks: next.load(Ordering::Relaxed) as usize,
        seconds: started.elapsed().as_secs_f64(),
        batch: 1,
        ..Outcome::default()
    })
}

/// One caller, one call of `submit` per batch.
pub async fn batch<E: Into<Failed>>(
    orders: &Orders,
    submit: impl AsyncFn(Vec<usize>) -> Result<(), E>,
) -> Result<Outcome, Failed> {
    let started = Instant::now();
    for numbers in orders.batches(orders.batch) {
        submit(numbers).await.map_err(Into::into)?;
    }
    Ok(Outcome {
        tasks: orders.tasks,
        seconds: started.elapsed().as_secs_f64(),
        batch: orders.batch,
        ..Outcome::default()
    })
}

/// What SQLite's `PRAGMA synchronous` and `PRAGMA journal_mode` answer, in words.
pub fn sqlite_durability(synchronous: i64, journal: &str) -> String {
    let level = match synchronous {
        0 => "OFF",
        1 => "NORMAL",
        2 => "FULL",
        3 => "EXTRA",
        _ => "unknown",
    };
    format!("synchronous={level}, journal_mode={journal}")
}

/// Prints the report, with the peer's version from the lock file it was built with.
#[expect(clippy::print_stdout, reason = "the report is this program's output")]
pub fn report(package: &str, outcome: Outcome) -> Result<(), Failed> {
    let name = format!("name = \"{package}\"");
    let version = include_str!("../../Cargo.lock")
        .lines()
        .skip_while(|line| *line != name)
        .find_map(|line| line.strip_prefix("version = "))
        .unwrap_or("unknown")
        .trim_matches('"');
    let mut line = serde_json::to_value(outcome)?;
    line["version"] = version.into();
    println!("{line}");
    Ok(())
}
