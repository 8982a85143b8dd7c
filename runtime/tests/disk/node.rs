//! A small node over a data directory.

use std::path::Path;
use std::time::Duration;

use regrow_runtime::clock::Clock;
use regrow_runtime::events::EventBus;
use regrow_runtime::queue::control::QueueLimits;
use regrow_runtime::queue::{ClaimRequest, Queue};
use regrow_runtime::store::Store;
use regrow_runtime::store::data_dir::DataDir;
use regrow_runtime::store::sqlite::Sqlite;
use regrow_runtime::store::writer::Writer;
use tokio::task::JoinSet;

pub(crate) struct Node {
    pub(crate) queue: Queue,
    running: JoinSet<()>,
    _dir: DataDir,
}

impl Node {
    /// Opens what is there; the error says what is wrong with it.
    pub(crate) async fn open(dir: &Path) -> Result<Self, String> {
        let mut dir = DataDir::open(dir).map_err(|error| error.to_string())?;
        let store = Sqlite::open(&mut dir).await;
        let store = Store::Sqlite(store.map_err(|error| error.to_string())?);
        let limits = QueueLimits {
            losses_max: 10_000,
            max_size: 1_000_000,
            ..QueueLimits::default()
        };
        let (bus, clock) = (EventBus::default(), Clock::system());
        let queue = Queue::open(Writer::new(store), bus, limits, clock, 1).await;
        let queue = queue.map_err(|error| error.to_string())?;
        let mut running = JoinSet::new();
        running.spawn(queue.clone().run_writer());
        let keeper = queue.clone();
        running.spawn(async move { keeper.keep_time().await });
        Ok(Self {
            queue,
            running,
            _dir: dir,
        })
    }

    pub(crate) async fn close(mut self) {
        self.queue.writer().close().await;
        self.running.shutdown().await;
    }
}

/// Whatever there is, or comes within `wait`.
pub(crate) fn request(worker: &str, wait: Duration) -> ClaimRequest {
    ClaimRequest {
        worker: worker.into(),
        kinds: vec!["load".to_owned()],
        max: 2,
        wait,
        lease: Duration::from_secs(600),
    }
}
