//! A node under load that remembers what it was told, and the count at the end.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use regrow_runtime::clock::Clock;
use regrow_runtime::events::EventBus;
use regrow_runtime::ids::{Epoch, TaskId};
use regrow_runtime::journal::{Journal, StepError};
use regrow_runtime::json::Json;
use regrow_runtime::queue::control::QueueLimits;
use regrow_runtime::queue::error::{AdmitError, LeaseError};
use regrow_runtime::queue::task::{Lease, NewTask, TaskState};
use regrow_runtime::queue::{ClaimRequest, Queue};
use regrow_runtime::store::postgres::{Postgres, PostgresConfig};
use regrow_runtime::store::writer::Writer;
use regrow_runtime::store::{Changes, DocumentRow, Store, StoreError};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::schema::Schema;

/// How long a life lasts in these tests.
pub(crate) const LIFE_TERM: Duration = Duration::from_millis(1_500);
/// Longest time that the last tasks may take.
const FINISH_MAX: Duration = Duration::from_secs(60);
const SUBMITTERS: u64 = 4;
const WORKERS: usize = 6;

/// A node without agents.
pub(crate) struct Node {
    pub(crate) queue: Queue,
    name: &'static str,
    running: JoinSet<()>,
}

impl Node {
    pub(crate) async fn start(url: &str, name: &'static str) -> Self {
        Self::begin(url, name, None).await
    }

    /// A node whose clock shows something else.
    pub(crate) async fn start_at(url: &str, name: &'static str, clock: Clock) -> Self {
        Self::begin(url, name, Some(clock)).await
    }

    async fn begin(url: &str, name: &'static str, clock: Option<Clock>) -> Self {
        let config = PostgresConfig {
            url: url.parse().expect("an address"),
            node: name.to_owned(),
            instance: "the same".to_owned(),
            life_term: LIFE_TERM,
        };
        let store = Store::Postgres(Postgres::open(config).await.expect("sound"));
        let clock = match clock {
            Some(clock) => clock,
            None => store.clock().await.expect("open"),
        };
        let limits = QueueLimits {
            losses_max: 10_000,
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
        Self {
            queue,
            name,
            running,
        }
    }

    /// Writes something.
    pub(crate) async fn touch(&self) -> Result<(), StoreError> {
        let row = DocumentRow {
            space: "test",
            key: "touched".to_owned(),
            body: Some(Json::null()),
            at: self.queue.clock().now(),
        };
        let changes = Changes {
            documents: vec![row],
            ..Changes::default()
        };
        self.queue.writer().write(changes).await
    }

    /// Submits and claims a few tasks, in order of their ids.
    pub(crate) async fn claim_some(&self, worker: &str) -> Vec<TaskId> {
        for _ in 0..5 {
            let task = NewTask::new("work", Json::null());
            self.queue.submit(task).await.expect("accepted");
        }
        let mut claimed = self.claim_now(worker);
        self.touch().await.expect("the claims are durable");
        claimed.sort_unstable();
        assert_eq!(claimed.len(), 5);
        claimed
    }

    /// Claims what is there.
    pub(crate) fn claim_now(&self, worker: &str) -> Vec<TaskId> {
        let leases = self.queue.claim_now(&request(worker, 100));
        let ids = leases.expect("open").into_iter().map(|one| one.task.id);
        ids.collect()
    }

    pub(crate) async fn stop(mut self) {
        self.queue.writer().close().await;
        self.running.shutdown().await;
    }

    /// Dies as a killed process does.
    pub(crate) async fn die(mut self) {
        self.running.shutdown().await;
    }
}

fn request(worker: &str, max: usize) -> ClaimRequest {
    ClaimRequest {
        worker: worker.into(),
        kinds: vec!["work".to_owned()],
        max,
        wait: Duration::from_millis(200),
        lease: Duration::from_secs(600),
    }
}

#[derive(Default)]
struct Told {
    /// Acknowledged submissions, by idempotency key.
    submitted: HashMap<String, TaskId>,
    completed: HashMap<TaskId, Epoch>,
    /// Steps on record and under which epoch each did its work.
    steps: HashMap<TaskId, u64>,
    doubled: u64,
}

#[derive(Default)]
struct Shared {
    told: Mutex<Told>,
    /// Acknowledged submissions and completions.
    answers: AtomicU64,
    stopping: AtomicBool,
}

/// Submitters and workers on one node.
pub(crate) struct Load {
    shared: Arc<Shared>,
    submitters: JoinSet<()>,
    workers: JoinSet<()>,
}

/// What came of it.
pub(crate) struct Counted {
    acknowledged: usize,
    completed: usize,
    steps: usize,
    lost: u64,
    doubled: u64,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged, {} completed, {} steps; lost {}, doubled {}",
            self.acknowledged, self.completed, self.steps, self.lost, self.doubled
        )
    }
}

impl Counted {
    pub(crate) fn check(&self) {
        assert_eq!((self.lost, self.doubled), (0, 0), "{self}");
        assert!(20 < self.completed, "no load: {self}");
    }
}

impl Load {
    pub(crate) fn start(node: &Node) -> Self {
        let shared = Arc::new(Shared::default());
        let (mut submitters, mut workers) = (JoinSet::new(), JoinSet::new());
        for submitter in 0..SUBMITTERS {
            let prefix = format!("{}-{submitter}", node.name);
            submitters.spawn(submit(node.queue.clone(), shared.clone(), prefix));
        }
        for worker in 0..WORKERS {
            let name = format!("{}-w{worker}", node.name);
            workers.spawn(work(node.queue.clone(), shared.clone(), name));
        }
        Self {
            shared,
            submitters,
            workers,
        }
    }

    /// Returns when the node has acknowledged some more.
    pub(crate) async fn serves_again(&self) {
        let before = self.shared.answers.load(Ordering::SeqCst);
        while self.shared.answers.load(Ordering::SeqCst) < before + 5 {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends the load, waits until all that was accepted is done, and counts.
    pub(crate) async fn finish(mut self, node: &Node, schema: &Schema) -> Counted {
        self.shared.stopping.store(true, Ordering::SeqCst);
        while let Some(done) = self.submitters.join_next().await {
            done.expect("a submitter is sound");
        }
        let all_done = async {
            while 0 < node.queue.stats().states.values().sum::<u64>() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(FINISH_MAX, all_done).await;
        waited.unwrap_or_else(|_| panic!("not finished: {:?}", node.queue.stats()));
        // What the workers were told they have said by now, or they failed.
        while let Some(done) = self.workers.join_next().await {
            done.expect("a worker is sound");
        }
        let told = std::mem::take(&mut *self.shared.told.lock());
        let mut counted = Counted {
            acknowledged: told.submitted.len(),
            completed: told.completed.len(),
            steps: told.steps.len(),
            lost: 0,
            doubled: told.doubled,
        };
        for id in told.submitted.values() {
            let view = node.queue.task(*id).await.expect("readable");
            match view.map(|view| view.state()) {
                Some(TaskState::Completed) => {}
                other => {
                    println!("{id} is lost: {other:?}");
                    counted.lost += 1;
                }
            }
        }
        // A key that was acknowledged once may not stand for two tasks.
        let keyed = format!(
            "SELECT count(*) FROM task WHERE idempotency_key LIKE '{}-%'",
            node.name
        );
        let stored = schema.number(keyed).await.unsigned_abs();
        let known = told.submitted.len() as u64;
        counted.doubled += stored.saturating_sub(known);
        counted.lost += known.saturating_sub(stored);
        let twice = "SELECT count(*) FROM task t LEFT JOIN task_end e ON e.seq = t.seq \
            WHERE 1 < regexp_count(t.log || COALESCE(e.log, ''), ',\"completed\"') \
            + (SELECT count(*) FROM task_event v WHERE v.seq = t.seq AND v.kind = 'completed')";
        counted.doubled += schema.number(twice).await.unsigned_abs();
        counted
    }
}

/// Submits under one key until that is acknowledged, then under the next.
async fn submit(queue: Queue, shared: Arc<Shared>, prefix: String) {
    let mut n = 0;
    while !shared.stopping.load(Ordering::SeqCst) {
        n += 1;
        let key = format!("{prefix}-{n}");
        let id = loop {
            let task = NewTask {
                idempotency_key: Some(key.clone()),
                ..NewTask::new("work", Json::null())
            };
            match queue.submit(task).await {
                Ok(submission) => break submission.id,
                Err(AdmitError::Store(error)) if error.is_retryable() => {
                    sleep(Duration::from_millis(2)).await;
                }
                Err(other) => panic!("{other}"),
            }
        };
        shared.told.lock().submitted.insert(key, id);
        shared.answers.fetch_add(1, Ordering::SeqCst);
        // Enough to be hurt in the middle of something.
        sleep(Duration::from_millis(1)).await;
    }
}

async fn work(queue: Queue, shared: Arc<Shared>, worker: String) {
    let request = request(&worker, 2);
    loop {
        let leases = match queue.claim(&request).await {
            Ok(leases) => leases,
            Err(error) if error.is_retryable() => {
                sleep(Duration::from_millis(2)).await;
                continue;
            }
            Err(_) => return,
        };
        let stopping = shared.stopping.load(Ordering::SeqCst);
        if stopping && leases.is_empty() && queue.stats().states.values().sum::<u64>() == 0 {
            return;
        }
        for lease in leases {
            work_on(&queue, &shared, &lease).await;
        }
    }
}

/// Everything a worker is told about one lease; a lost lease ends it.
async fn work_on(queue: &Queue, shared: &Shared, lease: &Lease) {
    let (id, epoch) = (lease.task.id, lease.epoch);
    let journal = Journal::new(queue.clone(), lease);
    let recorded = loop {
        let work = async { Ok::<u64, std::io::Error>(epoch.0) };
        match journal.step("only", &id, work).await {
            Ok(recorded) => break recorded,
            Err(StepError::Lease { .. }) => {
                match queue.heartbeat(id, epoch, request("", 1).lease).await {
                    // The record failed with its batch; the lease did not.
                    Ok(_) => sleep(Duration::from_millis(2)).await,
                    Err(_) => return,
                }
            }
            Err(StepError::Lookup { .. }) => sleep(Duration::from_millis(2)).await,
            Err(other) => panic!("{other}"),
        }
    };
    {
        let mut told = shared.told.lock();
        let before = told.steps.insert(id, recorded);
        if before.is_some_and(|before| before != recorded) {
            println!("{id}: a finished step ran again");
            told.doubled += 1;
        }
    }
    loop {
        match queue.complete(id, epoch, Json::null()).await {
            Ok(()) => break,
            Err(LeaseError::Store(error)) if error.is_retryable() => {
                sleep(Duration::from_millis(2)).await;
            }
            Err(_) => return,
        }
    }
    shared.answers.fetch_add(1, Ordering::SeqCst);
    let mut told = shared.told.lock();
    if told.completed.insert(id, epoch).is_some() {
        println!("{id} completed twice");
        told.doubled += 1;
    }
}
