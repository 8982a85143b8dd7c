//! What is particular to the shared database: fences, takeovers, cut connections, plans.

mod batches;
mod columns;
mod funds;
mod hand_over;
mod registry;
mod renewal;
mod sharing;
mod signals;
mod ties;

use std::time::Duration;

use sqlx::{AssertSqlSafe, Execute};
use tokio::task::JoinSet;

use super::read::listing;
use super::write::{self, CommitError, Fence};
use super::*;
use crate::events::EventBus;
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::queue::control::QueueLimits;
use crate::queue::error::LeaseError;
use crate::queue::task::{Lease, NewChild, NewTask, TaskState};
use crate::queue::{ClaimRequest, Queue};
use crate::store::conformance::schema::{Schema, execute};
use crate::store::conformance::shared;
use crate::store::writer::Writer;
use crate::store::{DocumentRow, Store, TaskFilter};

const LEASE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);

/// A node without agents.
struct Node {
    queue: Queue,
    store: Postgres,
    running: JoinSet<()>,
}

impl Node {
    async fn start(schema: &Schema, name: &str, life_term: Duration) -> Self {
        let config = PostgresConfig {
            instance: "the same".to_owned(),
            life_term,
            ..shared(schema, name)
        };
        let store = Postgres::open(config).await.expect("sound");
        let clock = store.clock().await.expect("open");
        let writer = Writer::new(Store::Postgres(store.clone()));
        let (bus, limits) = (EventBus::default(), QueueLimits::default());
        let queue = Queue::open(writer, bus, limits, clock, 1);
        let queue = queue.await.expect("readable");
        let mut running = JoinSet::new();
        running.spawn(queue.clone().run_writer());
        let keeper = queue.clone();
        running.spawn(async move { keeper.keep_time().await });
        let keeper = queue.clone();
        running.spawn(async move { keeper.keep_life().await });
        Self {
            queue,
            store,
            running,
        }
    }

    /// A life so long that nobody takes over while the test runs.
    async fn steady(schema: &Schema, name: &str) -> Self {
        Self::start(schema, name, Duration::from_secs(600)).await
    }

    async fn submit(&self) -> TaskId {
        let task = NewTask::new("a", Json::null());
        self.queue.submit(task).await.expect("accepted").id
    }

    async fn claim(&self) -> Lease {
        let mut leases = self.queue.claim(&asking()).await.expect("open");
        leases.pop().expect("something became claimable")
    }

    /// Dies as a killed process does.
    async fn die(mut self) {
        self.running.shutdown().await;
    }

    async fn stop(mut self) {
        self.queue.writer().close().await;
        self.running.shutdown().await;
    }
}

/// For one task.
fn asking() -> ClaimRequest {
    ClaimRequest {
        worker: "w".into(),
        kinds: vec!["a".to_owned()],
        max: 1,
        wait: SOON,
        lease: LEASE,
    }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(SOON, future).await;
    waited.unwrap_or_else(|_| panic!("{what} did not happen"))
}

fn document(key: &str) -> Changes {
    let row = DocumentRow {
        space: "test",
        key: key.to_owned(),
        body: Some(Json::null()),
        at: Timestamp(1),
    };
    Changes {
        documents: vec![row],
        ..Changes::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_replaced_writes_nothing_and_says_by_whom() {
    let schema = Schema::create().await;
    let old = Node::steady(&schema, "same").await;
    let id = old.submit().await;
    let lease = old.claim().await;
    old.queue.settle().await.expect("open");
    let new = Node::steady(&schema, "same").await;
    let again = new.claim().await;
    assert_eq!(again.task.id, id);
    assert!(lease.epoch < again.epoch);
    let late = old.queue.writer().write(document("late")).await;
    let refused = late.expect_err("fenced");
    let StoreError::Superseded { node, by } = &refused else {
        panic!("{refused}");
    };
    assert_eq!((&**node, &**by), ("same", "node `same` (life 2)"));
    assert!(!refused.is_retryable());
    let told = soon("the notice", old.queue.writer().superseded()).await;
    assert_eq!(told.to_string(), refused.to_string());
    // It does not act any more: not even on what it has in memory.
    assert!(old.queue.claim_now(&asking()).is_err());
    let beat = old.queue.heartbeat(id, lease.epoch, LEASE).await;
    assert!(
        matches!(beat, Err(LeaseError::Store(StoreError::Superseded { .. }))),
        "{beat:?}"
    );
    let done = old.queue.complete(id, lease.epoch, Json::null()).await;
    assert!(done.is_err());
    let kept = new.store.document("test", "late").await.expect("readable");
    assert!(kept.is_none(), "nothing was written");
    new.queue
        .complete(id, again.epoch, Json::null())
        .await
        .expect("held");
    soon("the end of a stopped node", old.stop()).await;
    new.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_node_that_writes_nothing_is_told_by_its_renewal() {
    let schema = Schema::create().await;
    let term = Duration::from_millis(600);
    let old = Node::start(&schema, "same", term).await;
    let new = Node::steady(&schema, "same").await;
    let told = soon("the notice", old.queue.writer().superseded()).await;
    assert!(matches!(told, StoreError::Superseded { .. }), "{told}");
    new.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tasks_of_a_dead_node_move_to_another_with_higher_epochs() {
    let schema = Schema::create().await;
    let term = Duration::from_millis(900);
    let heir = Node::start(&schema, "first", term).await;
    let other = Node::start(&schema, "second", term).await;
    let own = heir.submit().await;
    let held = other.submit().await;
    let lease = other.claim().await;
    assert!(Epoch(2 << 32) < lease.epoch, "of the second life");
    let child = NewChild {
        task: NewTask::new("b", Json::null()),
        after: vec![],
    };
    let parent = other.submit().await;
    let second = other.claim().await;
    other
        .queue
        .suspend(parent, second.epoch, vec![child])
        .await
        .expect("held");
    other.queue.settle().await.expect("open");
    assert_eq!(heir.claim().await.task.id, own);
    // A clone of the queue goes on after its node: as a process does that was only paused.
    let zombie = other.queue.clone();
    let loose = other.submit().await;
    other.die().await;
    // It gives a lease that no store ever hears of.
    let unheard = zombie.claim_now(&asking()).expect("it does not know yet");
    assert_eq!(unheard[0].task.id, loose);
    let taken = soon("the takeover", heir.claim()).await;
    assert_eq!((taken.task.id, taken.losses), (held, 1));
    assert!(lease.epoch < taken.epoch, "{} {}", lease.epoch, taken.epoch);
    let again = heir.claim().await;
    assert_eq!(again.task.id, loose);
    assert!(unheard[0].epoch < again.epoch);
    let running = JoinSet::from_iter([zombie.clone().run_writer()]);
    let late = zombie.complete(held, lease.epoch, Json::null()).await;
    assert!(
        matches!(late, Err(LeaseError::Store(StoreError::Superseded { .. }))),
        "{late:?}"
    );
    drop(running);
    heir.queue
        .complete(held, taken.epoch, Json::null())
        .await
        .expect("held");
    // The family came along: the parent wakes when its child ends.
    let view = heir.queue.task(parent).await.expect("readable");
    assert_eq!(view.expect("kept").state(), TaskState::Waiting);
    let family = TaskFilter {
        parent: Some(parent),
        limit: 9,
        ..TaskFilter::default()
    };
    let children = heir.queue.tasks(&family).await.expect("readable");
    heir.queue.cancel(children[0].body.id).await.expect("live");
    assert_eq!(soon("the wake-up", heir.claim()).await.task.id, parent);
    // What was inherited is read again after a failure, and once only.
    heir.queue.settle().await.expect("open");
    heir.store.cut_writer().await;
    while heir.queue.writer().write(document("after")).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        heir.queue.stats().states["executing"],
        3,
        "own, loose, parent"
    );
    heir.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_in_order_is_inherited_without_waiting_for_its_term() {
    let schema = Schema::create().await;
    let term = Duration::from_millis(900);
    let heir = Node::start(&schema, "first", term).await;
    let other = Node::steady(&schema, "second").await;
    let id = other.submit().await;
    other.stop().await;
    assert_eq!(soon("the takeover", heir.claim()).await.task.id, id);
    heir.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_replaces_a_life_while_it_commits() {
    let schema = Schema::create().await;
    let old = Node::steady(&schema, "same").await;
    // Somebody reads the table that the commit is about to write.
    let mut reading = schema.connect().await;
    let lock = "BEGIN; LOCK TABLE document IN SHARE MODE";
    execute(&mut reading, lock.to_owned()).await;
    let in_flight = document("in flight");
    let mut committing = std::pin::pin!(old.queue.writer().write(in_flight));
    let pause = Duration::from_millis(400);
    let early = tokio::time::timeout(pause, &mut committing).await;
    assert!(early.is_err(), "the commit did not wait");
    let mut starting = std::pin::pin!(Node::steady(&schema, "same"));
    let early = tokio::time::timeout(pause, &mut starting).await;
    assert!(early.is_err(), "the start did not wait for the commit");
    // Renewing changes no key, so it waits for nobody.
    let renewed = tokio::time::timeout(pause, old.store.renew_life(0)).await;
    renewed.expect("at once").expect("alive");
    execute(&mut reading, "ROLLBACK".to_owned()).await;
    soon("the commit", committing).await.expect("kept");
    let new = soon("the start", starting).await;
    let kept = new.store.document("test", "in flight").await;
    assert!(kept.expect("readable").is_some());
    let late = old.queue.writer().write(document("late")).await;
    assert!(matches!(late, Err(StoreError::Superseded { .. })));
    new.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_connection_of_a_life_writes_no_more() {
    let schema = Schema::create().await;
    let node = Node::steady(&schema, "node").await;
    let fence = Fence {
        boot: 1,
        session: 1,
    };
    let mut older = schema.connect().await;
    write::commit(&mut older, "node", fence, &document("before"))
        .await
        .expect("the present session");
    node.store.reopen().await.expect("alive");
    let late = write::commit(&mut older, "node", fence, &document("late")).await;
    assert!(matches!(late, Err(CommitError::Fenced)), "{late:?}");
    node.queue
        .writer()
        .write(document("now"))
        .await
        .expect("the new session");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_connection_ends_what_the_older_one_left_open() {
    let schema = Schema::create().await;
    let node = Node::steady(&schema, "node").await;
    {
        let mut writer = node.store.0.writer.lock().await;
        let connection = writer.connection.as_mut().expect("open");
        let open = "BEGIN; SELECT boot FROM life WHERE boot = 1 FOR KEY SHARE; \
            INSERT INTO document VALUES ('test', 'half', 'null', 1)";
        execute(connection, open.to_owned()).await;
        // The machine behind it is gone: nothing closes the connection.
        std::mem::forget(writer.connection.take());
    }
    soon("the reopening", node.store.reopen())
        .await
        .expect("alive");
    let half = node.store.document("test", "half").await;
    assert!(half.expect("readable").is_none());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_connection_waits_for_whatever_writes_for_its_life() {
    let schema = Schema::create().await;
    let node = Node::steady(&schema, "node").await;
    let mut older = schema.connect().await;
    let open = "BEGIN; SELECT boot FROM life WHERE boot = 1 FOR KEY SHARE; \
        INSERT INTO document VALUES ('test', 'older', 'null', 1)";
    execute(&mut older, open.to_owned()).await;
    let store = node.store.clone();
    let mut reopening = std::pin::pin!(store.reopen());
    let early = tokio::time::timeout(Duration::from_millis(400), &mut reopening).await;
    assert!(early.is_err(), "it did not wait");
    execute(&mut older, "COMMIT".to_owned()).await;
    soon("the reopening", reopening).await.expect("alive");
    let kept = node.store.document("test", "older").await;
    assert!(kept.expect("readable").is_some());
    node.stop().await;
}

/// A takeover whose answer was lost, met by a recovery before it is looked at again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_inherited_unheard_comes_with_the_next_recovery() {
    let schema = Schema::create().await;
    let heir = Node::steady(&schema, "first").await;
    let other = Node::steady(&schema, "second").await;
    let held = other.submit().await;
    other.claim().await;
    other.queue.settle().await.expect("open");
    let loose = other.submit().await;
    let zombie = other.queue.clone();
    other.die().await;
    let unheard = zombie.claim_now(&asking()).expect("it does not know yet");
    assert_eq!(unheard[0].task.id, loose);
    schema
        .run("UPDATE life SET ended = true, heir = 1 WHERE boot = 2")
        .await;
    heir.store.cut_writer().await;
    while heir.queue.writer().write(document("any")).await.is_err() {
        tokio::task::yield_now().await;
    }
    let first = heir.claim().await;
    assert_eq!((first.task.id, first.losses), (held, 1));
    let second = heir.claim().await;
    assert_eq!(second.task.id, loose);
    assert!(unheard[0].epoch < first.epoch.min(second.epoch));
    // It is not read a second time.
    for lease in [first, second] {
        let done = heir
            .queue
            .complete(lease.task.id, lease.epoch, Json::null());
        done.await.expect("held");
    }
    assert!(heir.store.take_over().await.expect("alive").is_none());
    heir.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lives_without_tasks_are_forgotten() {
    let schema = Schema::create().await;
    for _ in 0..4 {
        Node::steady(&schema, "node").await.stop().await;
    }
    let node = Node::steady(&schema, "node").await;
    node.submit().await;
    node.stop().await;
    let later = "UPDATE life SET lease_until = lease_until - interval '2 hours'";
    schema.run(later).await;
    let node = Node::steady(&schema, "node").await;
    let lives = schema.number("SELECT count(*) FROM life").await;
    assert_eq!(lives, 2, "the present one and the one that owns a task");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_may_have_a_key_that_no_index_takes() {
    let schema = Schema::create().await;
    let node = Node::steady(&schema, "node").await;
    node.submit().await;
    let lease = node.claim().await;
    let journal = crate::journal::Journal::new(node.queue.clone(), &lease);
    // Of many different characters, so that it cannot be compressed.
    let key: String = (0..20_000_u32)
        .filter_map(|n| char::from_u32(0x4e00 + n * 7_919 % 20_000))
        .collect();
    for output in [1_u32, 2] {
        let work = async move { Ok::<u32, std::io::Error>(output) };
        assert_eq!(journal.step(&key, "in", work).await.expect("held"), 1);
    }
    node.stop().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_without_the_password() {
    let config = PostgresConfig {
        url: "postgres://me:s3cret@127.0.0.1:1/tasks"
            .parse()
            .expect("an address"),
        node: "node".to_owned(),
        instance: "the same".to_owned(),
        life_term: LEASE,
    };
    let refused = Postgres::open(config).await.expect_err("nobody is there");
    assert!(matches!(refused, OpenError::Unreachable { .. }));
    let text = refused.to_string();
    assert!(text.contains("postgres://127.0.0.1:1/tasks"), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let schema = Schema::create().await;
    let open = Postgres::open(shared(&schema, "node")).await;
    open.expect("sound").close().await;
    let newer = "INSERT INTO _sqlx_migrations \
        (version, description, success, checksum, execution_time) \
        VALUES (9999, 'from the future', true, '', 0)";
    schema.run(newer).await;
    let refused = Postgres::open(shared(&schema, "node")).await;
    let Err(OpenError::Newer { migration, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(migration, 9999);
}

/// The plan that the writer's connection uses, on tables without a row or a statistic.
async fn plan(connection: &mut PgConnection, statement: &str) -> String {
    let parameters = (1..100).take_while(|n| statement.contains(&format!("${n}")));
    let nulls = vec!["NULL"; parameters.count()].join(", ");
    let prepare = format!("DEALLOCATE ALL; PREPARE one AS {statement}");
    execute(connection, prepare).await;
    let explain = AssertSqlSafe(format!("EXPLAIN EXECUTE one({nulls})"));
    let rows = sqlx::query(explain).persistent(false).fetch_all(connection);
    let lines: Vec<String> = rows
        .await
        .expect("a plan")
        .iter()
        .map(|row| row.get(0))
        .collect();
    lines.join("\n")
}

#[tokio::test]
async fn the_writers_statements_scan_no_table() {
    let schema = Schema::create().await;
    let config = shared(&schema, "node");
    let store = Postgres::open(config.clone()).await.expect("sound");
    let (mut connection, _) = writing(&config).await.expect("open");
    let statements = [
        write::statements::ACCEPTED_AND_ENDED,
        write::statements::ROWS,
        write::REOPENED,
        write::BLOBS,
        write::OLD_BLOBS,
        write::FORGET_BLOBS,
        super::ledger::BUDGETS,
        super::ledger::RESERVATIONS,
        super::ledger::RESERVATIONS_ENDED,
        super::ledger::APPROVALS,
        super::fund::CHARGE,
        super::fund::FUNDS,
        write::DOCUMENTS,
        write::DELETED_DOCUMENTS,
        write::OLD,
    ];
    for statement in statements.into_iter().chain(write::FORGET) {
        let plan = plan(&mut connection, statement).await;
        assert!(!plan.contains("Seq Scan"), "{statement}\n{plan}");
    }
    let old = plan(&mut connection, write::OLD).await;
    assert!(old.contains("task_end_age"), "{old}");
    store.close().await;
}

#[tokio::test]
async fn listings_are_read_in_the_order_of_an_index() {
    let schema = Schema::create().await;
    let store = Postgres::open(shared(&schema, "node"))
        .await
        .expect("sound");
    let fill = "INSERT INTO task SELECT n, gen_random_uuid(), 'k' || n % 50, '{}', null, \
         'normal', 'c', 't', null, CASE n % 10 WHEN 0 THEN gen_random_uuid() END, '', 1, n, null, \
         null FROM generate_series(1, 20000) n; \
        INSERT INTO task_run SELECT n, 1, 'available', 0, 0, 0, n, null, null, false, null, 1 \
         FROM generate_series(1, 10000) n; \
        INSERT INTO task_end SELECT n, CASE n % 100 WHEN 0 THEN 'discarded' ELSE 'completed' END, \
         n, 1, 0, 1, null, null, 1 FROM generate_series(10001, 20000) n; ANALYZE";
    schema.run(fill).await;
    let filter = |state| TaskFilter {
        state,
        limit: 20,
        ..TaskFilter::default()
    };
    let table = [
        (filter(None), "task_pkey"),
        (filter(Some(TaskState::Available)), "task_run_pkey"),
        (filter(Some(TaskState::Completed)), "task_end_pkey"),
        (filter(Some(TaskState::Discarded)), "task_end_unhappy"),
    ];
    let mut connection = schema.connect().await;
    for (filter, index) in table {
        let sql = listing(&filter).build().sql().as_str().to_owned();
        let plan = plan_with(&mut connection, &sql, &filter).await;
        assert!(plan.contains(index), "{sql}\n{plan}");
        assert!(!plan.contains("Sort"), "sorted by hand: {sql}\n{plan}");
    }
    store.close().await;
}

async fn plan_with(connection: &mut PgConnection, sql: &str, filter: &TaskFilter) -> String {
    let prepare = format!("DEALLOCATE ALL; PREPARE one AS {sql}");
    execute(connection, prepare).await;
    let explain = format!("EXPLAIN EXECUTE one({})", filter.limit);
    let rows = sqlx::query(AssertSqlSafe(explain)).persistent(false);
    let rows = rows.fetch_all(connection).await.expect("a plan");
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    lines.join("\n")
}

/// Every table and column of the file, as far as it is not particular to one of the two.
#[tokio::test]
async fn whatever_a_file_keeps_the_database_keeps_as_well() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut data_dir = crate::store::data_dir::DataDir::open(dir.path()).expect("free");
    let sqlite = crate::store::sqlite::Sqlite::open(&mut data_dir)
        .await
        .expect("sound");
    let file = dir.path().join(crate::store::sqlite::FILE);
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
    let mut file = options.connect().await.expect("open");
    let of_file = sqlx::query(
        "SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c \
         WHERE t.type = 'table' AND t.name NOT LIKE '\\_sqlx%' ESCAPE '\\'",
    );
    let of_file = of_file.fetch_all(&mut file).await.expect("readable");
    let mut wanted: Vec<(String, String)> =
        of_file.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(50 < wanted.len(), "{wanted:?}");
    drop((file, sqlite));

    let schema = Schema::create().await;
    let store = Postgres::open(shared(&schema, "node"))
        .await
        .expect("sound");
    let of_database = sqlx::query(
        "SELECT table_name::text, column_name::text FROM information_schema.columns \
         WHERE table_schema = current_schema()",
    );
    let mut connection = schema.connect().await;
    let found = of_database.fetch_all(&mut connection).await;
    let found: Vec<(String, String)> = found
        .expect("readable")
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    wanted.retain(|column| !found.contains(column));
    assert!(
        wanted.is_empty(),
        "migrations/postgres lacks what migrations/sqlite has: {wanted:?}"
    );
    store.close().await;
}
