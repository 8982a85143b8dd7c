//! Moving a node's tasks from its file to a database while it works: all of them, once, with
//! the leases that are out, and whatever is killed.
//!
//! The tests of kills run this program as their victim. `REGROW_KILLS` sets how often, and
//! `REGROW_SEED` replays a run's moments.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "the victim speaks on its standard output; a test may panic"
)]

mod everything;
mod kills;
mod refusals;
#[path = "../database/rows.rs"]
mod rows;
#[path = "../database/schema.rs"]
mod schema;

use std::path::Path;
use std::time::Duration;

use regrow_runtime::events::EventBus;
use regrow_runtime::queue::Queue;
use regrow_runtime::queue::control::QueueLimits;
use regrow_runtime::store::Store;
use regrow_runtime::store::data_dir::DataDir;
use regrow_runtime::store::postgres::{Postgres, PostgresConfig};
use regrow_runtime::store::sqlite::{self, OpenError, Sqlite};
use regrow_runtime::store::writer::Writer;
use tokio::task::JoinSet;

const LEASE: Duration = Duration::from_secs(600);

fn database(url: &str, node: &str) -> PostgresConfig {
    PostgresConfig {
        url: url.parse().expect("an address"),
        node: node.to_owned(),
        instance: "the same".to_owned(),
        life_term: Duration::from_secs(3),
    }
}

/// A node without agents.
struct Node {
    queue: Queue,
    running: JoinSet<()>,
    _dir: DataDir,
}

impl Node {
    /// On the file, or on the database if that is where the tasks are.
    async fn start(dir: &Path, url: &str) -> Self {
        let mut dir = DataDir::open(dir).expect("free");
        let store = match Sqlite::open(&mut dir).await {
            Ok(file) => Store::Sqlite(file),
            Err(OpenError::Promoted { mark, .. }) => {
                let store = Postgres::open(database(url, "n")).await.expect("sound");
                store.confirm(&mark).await.expect("they are there");
                Store::Postgres(store)
            }
            Err(other) => panic!("{other}"),
        };
        let limits = QueueLimits {
            losses_max: 10_000,
            ..QueueLimits::default()
        };
        let (bus, clock) = (EventBus::default(), store.clock().await.expect("open"));
        let queue = Queue::open(Writer::new(store), bus, limits, clock, 1).await;
        let queue = queue.expect("readable");
        let mut running = JoinSet::new();
        running.spawn(queue.clone().run_writer());
        let keeper = queue.clone();
        running.spawn(async move { keeper.keep_time().await });
        let keeper = queue.clone();
        running.spawn(async move { keeper.keep_life().await });
        Self {
            queue,
            running,
            _dir: dir,
        }
    }

    fn store(&self) -> &'static str {
        self.queue.writer().store().name()
    }

    async fn stop(mut self) {
        self.queue.writer().close().await;
        self.running.shutdown().await;
    }
}

async fn is_marked(dir: &Path) -> bool {
    let mark = sqlite::export::mark(&dir.join(sqlite::FILE)).await;
    // A file that was killed while it was made cannot be read, and is not marked.
    mark.is_ok_and(|mark| mark.is_some())
}
