//! Concurrent clients, and the book they keep.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use regrow_runtime::clock::{Clock, Timestamp};
use regrow_runtime::events::EventBus;
use regrow_runtime::ids::{Epoch, TaskId};
use regrow_runtime::json::Json;
use regrow_runtime::queue::control::QueueLimits;
use regrow_runtime::queue::error::LeaseError;
use regrow_runtime::queue::retry::RetryBackoff;
use regrow_runtime::queue::task::{Lease, NewTask, TaskState};
use regrow_runtime::queue::{ClaimRequest, Queue};
use regrow_runtime::store::Store;
use regrow_runtime::store::data_dir::DataDir;
use regrow_runtime::store::postgres::{Postgres, PostgresConfig};
use regrow_runtime::store::sqlite::Sqlite;
use regrow_runtime::store::writer::Writer;
use tokio::task::JoinSet;

use crate::checker::{Call, Moment, Operation, check};
use crate::schema::Schema;

const CLIENTS: u64 = 12;
const TASKS_PER_CLIENT: usize = 25;
const LEASE: Duration = Duration::from_millis(40);

/// Everything that was called and told.
struct Book {
    started: Instant,
    clock: Clock,
    clock_at_start: Timestamp,
    entries: Mutex<Vec<(TaskId, Operation)>>,
}

impl Book {
    fn new(clock: Clock) -> Self {
        Self {
            started: Instant::now(),
            clock,
            clock_at_start: clock.now(),
            entries: Mutex::default(),
        }
    }

    fn now(&self) -> Moment {
        self.started.elapsed()
    }

    /// An instant of the queue's clock.
    fn moment(&self, at: Timestamp) -> Moment {
        at.since(self.clock_at_start)
    }

    fn note(&self, task: TaskId, began: Moment, call: Call) {
        let ended = self.now();
        let operation = Operation { began, ended, call };
        self.entries.lock().push((task, operation));
    }

    /// Notes a call on a lease: what it was told, or that it was refused.
    fn note_settled<T>(
        &self,
        lease: &Lease,
        began: Moment,
        outcome: Result<T, LeaseError>,
        call: impl FnOnce(T) -> Call,
    ) {
        let call = match outcome {
            Ok(told) => call(told),
            Err(LeaseError::Stale { .. }) => Call::Refused {
                epoch: lease.epoch.0,
            },
            Err(other) => panic!("{other}"),
        };
        self.note(lease.task.id, began, call);
    }
}

async fn client(queue: Queue, book: Arc<Book>, number: u64, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed.wrapping_add(number));
    let request = ClaimRequest {
        worker: format!("client-{number}").into(),
        kinds: vec!["a".to_owned()],
        max: 1,
        wait: Duration::from_millis(300),
        lease: LEASE,
    };
    for _ in 0..TASKS_PER_CLIENT {
        let began = book.now();
        let id = queue.submit(NewTask::new("a", Json::null())).await;
        book.note(id.expect("room").id, began, Call::Submitted);
        work(&queue, &book, &request, &mut rng).await;
    }
    while work(&queue, &book, &request, &mut rng).await {}
}

/// Claims and does something with the lease. False when nothing was claimable for a while.
async fn work(queue: &Queue, book: &Book, request: &ClaimRequest, rng: &mut SmallRng) -> bool {
    let began = book.now();
    let leases = queue.claim(request).await.expect("open");
    let Some(lease) = leases.into_iter().next() else {
        return false;
    };
    let (id, epoch) = (lease.task.id, lease.epoch);
    let until = book.moment(lease.expires_at);
    let claimed = Call::Claimed {
        epoch: epoch.0,
        until,
    };
    book.note(id, began, claimed);
    // About a third holds on for longer than the lease.
    let pause = Duration::from_millis(rng.random_range(0..60));
    match rng.random_range(0..8) {
        0 => return true,
        1 | 2 => tokio::time::sleep(pause).await,
        3 | 4 => {
            tokio::time::sleep(pause / 2).await;
            let began = book.now();
            let renewed = queue.heartbeat(id, epoch, LEASE).await;
            book.note_settled(&lease, began, renewed, |renewal| Call::Renewed {
                epoch: epoch.0,
                until: book.moment(renewal.expires_at),
            });
            tokio::time::sleep(pause).await;
        }
        _ => {}
    }
    let began = book.now();
    let given_up = |_| Call::GivenUp { epoch: epoch.0 };
    match rng.random_range(0..8) {
        0 => {
            let told = queue.release(id, epoch).await;
            book.note_settled(&lease, began, told.map(|()| TaskState::Available), given_up);
        }
        1 => {
            let told = queue.fail(id, epoch, "again".to_owned(), true).await;
            book.note_settled(&lease, began, told, given_up);
        }
        _ => complete(queue, book, &lease, epoch, began).await,
    }
    true
}

/// Twice at the same moment now and then, as somebody does whose first answer was lost.
async fn complete(queue: &Queue, book: &Book, lease: &Lease, epoch: Epoch, began: Moment) {
    let completed = |()| Call::Completed { epoch: epoch.0 };
    let once = async {
        let told = queue.complete(lease.task.id, epoch, Json::null()).await;
        book.note_settled(lease, began, told, completed);
    };
    if epoch.0.is_multiple_of(3) {
        let again = async {
            let told = queue.complete(lease.task.id, epoch, Json::null()).await;
            book.note_settled(lease, began, told, completed);
        };
        tokio::join!(once, again);
    } else {
        once.await;
    }
}

async fn histories_are_linearizable(store: Store) {
    let seed = std::env::var("REGROW_SEED").ok();
    let seed = seed.and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    let clock = store.clock().await.expect("open");
    let limits = QueueLimits {
        backoff: RetryBackoff {
            first: Duration::from_millis(2),
            max: Duration::from_millis(8),
        },
        losses_max: 10_000,
        max_attempts: 1_000,
        ..QueueLimits::default()
    };
    let name = store.name();
    let queue = Queue::open(Writer::new(store), EventBus::default(), limits, clock, 1).await;
    let queue = queue.expect("readable");
    let mut running = JoinSet::new();
    running.spawn(queue.clone().run_writer());
    let keeper = queue.clone();
    running.spawn(async move { keeper.keep_time().await });
    let keeper = queue.clone();
    running.spawn(async move { keeper.keep_life().await });
    let book = Arc::new(Book::new(clock));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(queue.clone(), book.clone(), number, seed));
    }
    clients.join_all().await;
    let mut histories: HashMap<TaskId, Vec<Operation>> = HashMap::new();
    for (task, operation) in book.entries.lock().drain(..) {
        histories.entry(task).or_default().push(operation);
    }
    let count = |wanted: fn(&Call) -> bool| {
        let all = histories.values().flatten();
        all.filter(|operation| wanted(&operation.call)).count()
    };
    let claims = count(|call| matches!(call, Call::Claimed { .. }));
    let refused = count(|call| matches!(call, Call::Refused { .. }));
    println!(
        "REGROW_SEED={seed} {name}: {} tasks, {claims} leases, {refused} refused as stale, \
         over {:.1?}",
        histories.len(),
        book.clock.now().since(book.clock_at_start),
    );
    for (task, history) in &histories {
        check(history).unwrap_or_else(|why| panic!("seed {seed}, {task}: {why}"));
        let view = queue.task(*task).await.expect("readable").expect("kept");
        assert_eq!(view.state(), TaskState::Completed, "{task}");
    }
    assert_eq!(histories.len() as u64, CLIENTS * TASKS_PER_CLIENT as u64);
    assert!(
        histories.len() + 20 < claims && 20 < refused,
        "too little went wrong to prove anything"
    );
    queue.writer().close().await;
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut dir = DataDir::open(dir.path()).expect("free");
    let store = Sqlite::open(&mut dir).await.expect("sound");
    histories_are_linearizable(Store::Sqlite(store)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory() {
    histories_are_linearizable(Store::volatile()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres() {
    let schema = Schema::create().await;
    let config = PostgresConfig {
        url: schema.url().parse().expect("an address"),
        node: "clients".to_owned(),
        instance: "the same".to_owned(),
        life_term: Duration::from_secs(10),
    };
    let store = Postgres::open(config).await.expect("sound");
    histories_are_linearizable(Store::Postgres(store)).await;
}
