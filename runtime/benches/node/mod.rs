//! A node's queue on a store, for benches, and what they print.

use std::path::Path;
use std::time::Instant;

use hdrhistogram::Histogram;
use regrow_runtime::clock::Clock;
use regrow_runtime::events::EventBus;
use regrow_runtime::queue::Queue;
use regrow_runtime::queue::control::QueueLimits;
use regrow_runtime::store::Store;
use regrow_runtime::store::data_dir::DataDir;
use regrow_runtime::store::sqlite::Sqlite;
use regrow_runtime::store::writer::Writer;
use tokio::task::JoinSet;

/// A queue that runs: its writer commits, its keeper keeps the time.
pub(crate) struct Node {
    pub(crate) queue: Queue,
    running: JoinSet<()>,
    _dir: DataDir,
}

impl Node {
    /// On a SQLite file in the directory `path`.
    pub(crate) async fn start(path: &Path) -> Self {
        let mut dir = DataDir::open(path).expect("free");
        let store = Store::Sqlite(Sqlite::open(&mut dir).await.expect("sound"));
        let limits = QueueLimits {
            max_size: 5_000_000,
            max_bytes: 8 << 30,
            ..QueueLimits::default()
        };
        let (bus, clock) = (EventBus::default(), Clock::system());
        let queue = Queue::open(Writer::new(store), bus, limits, clock, 1).await;
        let queue = queue.expect("readable");
        let mut running = JoinSet::new();
        running.spawn(queue.clone().run_writer());
        let keeper = queue.clone();
        running.spawn(async move { keeper.keep_time().await });
        Self {
            queue,
            running,
            _dir: dir,
        }
    }

    pub(crate) async fn stop(mut self) {
        self.queue.writer().close().await;
        self.running.shutdown().await;
    }
}

/// Durations in microseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("bounds in order")
}

pub(crate) fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros())
        .unwrap_or(u64::MAX)
        .max(1)
}

pub(crate) fn ms(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1_000.0
}
