//! One suite for every store, through the queue as its callers see it.
//!
//! Each sentence is a function over a [`Subject`]; `conforms!` runs it on each store. A
//! further store adds a [`Backend`] and a module to the macro. PostgreSQL is a real server:
//! see [`schema`].

mod access;
mod carriage;
mod code;
mod durability;
mod journal;
mod leases;
mod listing;
mod registry;
mod scheduling;
#[path = "../../tests/database/schema.rs"]
pub(super) mod schema;
mod spending;

use std::time::Duration;

use tokio::task::JoinSet;

use self::schema::Schema;
use super::Store;
use super::data_dir::DataDir;
use super::postgres::{Postgres, PostgresConfig};
use super::sqlite::Sqlite;
use super::writer::Writer;
use crate::events::EventBus;
use crate::ids::TaskId;
use crate::json::Json;
use crate::queue::control::QueueLimits;
use crate::queue::retry::RetryBackoff;
use crate::queue::task::{Lease, NewTask, TaskState};
use crate::queue::{ClaimRequest, Queue};

/// Long enough for anything that is going to happen at all.
const SOON: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_secs(60);

pub(super) enum Backend {
    Memory(Store),
    Sqlite(tempfile::TempDir),
    Postgres(Schema),
}

/// A queue over one store, which can be closed or killed and opened again.
pub(super) struct Subject {
    backend: Backend,
    limits: QueueLimits,
    pub(super) queue: Queue,
    running: JoinSet<()>,
    _dir: Option<DataDir>,
}

pub(super) fn limits() -> QueueLimits {
    QueueLimits {
        backoff: RetryBackoff {
            first: Duration::from_millis(2),
            max: Duration::from_millis(8),
        },
        losses_max: 3,
        ..QueueLimits::default()
    }
}

impl Subject {
    pub(super) async fn memory() -> Self {
        Self::start(Backend::Memory(Store::volatile()), limits()).await
    }

    pub(super) async fn sqlite() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        Self::start(Backend::Sqlite(dir), limits()).await
    }

    pub(super) async fn postgres() -> Self {
        Self::start(Backend::Postgres(Schema::create().await), limits()).await
    }

    async fn start(backend: Backend, limits: QueueLimits) -> Self {
        let (store, dir) = match &backend {
            Backend::Memory(store) => (store.clone(), None),
            Backend::Sqlite(dir) => {
                let mut dir = DataDir::open(dir.path()).expect("free");
                let store = Sqlite::open(&mut dir).await.expect("sound");
                (Store::Sqlite(store), Some(dir))
            }
            Backend::Postgres(schema) => {
                let store = Postgres::open(shared(schema, "node")).await.expect("sound");
                (Store::Postgres(store), None)
            }
        };
        let (bus, clock) = (EventBus::default(), store.clock().await.expect("open"));
        let queue = Queue::open(Writer::new(store), bus, limits.clone(), clock, 1);
        let queue = queue.await.expect("readable");
        let mut running = JoinSet::new();
        running.spawn(queue.clone().run_writer());
        let keeper = queue.clone();
        running.spawn(async move { keeper.keep_time().await });
        let keeper = queue.clone();
        running.spawn(async move { keeper.keep_life().await });
        Self {
            backend,
            limits,
            queue,
            running,
            _dir: dir,
        }
    }

    /// Ends the node in order and starts another on the same store.
    pub(super) async fn reopen(self) -> Self {
        self.queue.writer().close().await;
        self.kill().await
    }

    /// Drops the node as it stands and starts another on the same store.
    pub(super) async fn kill(mut self) -> Self {
        self.running.shutdown().await;
        let Self {
            backend,
            limits,
            queue,
            _dir,
            ..
        } = self;
        drop((queue, _dir));
        Self::start(backend, limits).await
    }

    pub(super) async fn submit(&self, task: NewTask) -> TaskId {
        self.queue.submit(task).await.expect("accepted").id
    }

    /// Leases `max` tasks at most, waiting for the first.
    pub(super) async fn claim(&self, worker: &str, lease: Duration) -> Lease {
        let request = ClaimRequest {
            worker: worker.into(),
            kinds: vec!["a".to_owned(), "b".to_owned()],
            max: 1,
            wait: SOON,
            lease,
        };
        let mut leases = self.queue.claim(&request).await.expect("open");
        leases.pop().expect("something became claimable")
    }

    /// Nothing is claimable at this moment.
    pub(super) fn is_idle(&self) -> bool {
        let request = ClaimRequest {
            worker: "idle".into(),
            kinds: vec!["a".to_owned(), "b".to_owned()],
            max: 1,
            wait: Duration::ZERO,
            lease: LEASE,
        };
        self.queue.claim_now(&request).expect("open").is_empty()
    }

    pub(super) async fn state(&self, id: TaskId) -> TaskState {
        let view = self.queue.task(id).await.expect("readable");
        view.expect("there").state()
    }

    /// Waits until the task stands there durably.
    pub(super) async fn reaches(&self, id: TaskId, state: TaskState) {
        let mut events = self.queue.events_bus().subscribe();
        let reached = async {
            while self.state(id).await != state {
                events.next().await.expect("the bus lives");
            }
        };
        let waited = tokio::time::timeout(SOON, reached).await;
        waited.unwrap_or_else(|_| panic!("{id} never became {state}"));
    }
}

/// For a node of that name on a shared database.
pub(super) fn shared(schema: &Schema, node: &str) -> PostgresConfig {
    PostgresConfig {
        url: schema.url().parse().expect("an address"),
        node: node.to_owned(),
        instance: "the same".to_owned(),
        life_term: Duration::from_secs(30),
    }
}

pub(super) fn task() -> NewTask {
    NewTask::new("a", Json::null())
}

pub(super) fn json(text: &str) -> Json {
    Json::parse(text.to_owned()).expect("JSON")
}

macro_rules! conforms {
    ($($sentence:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $sentence() {
                super::$sentence(super::Subject::memory().await).await;
            })*
        }
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $sentence() {
                super::$sentence(super::Subject::sqlite().await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $sentence() {
                super::$sentence(super::Subject::postgres().await).await;
            })*
        }
    };
}
use conforms;
