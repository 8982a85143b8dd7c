//! apalis on SQLite: one worker with 100 tasks at a time and batches of 500. Its `setup`
//! sets `synchronous=OFF`, under which a power cut loses what was acknowledged; here every
//! connection is set to FULL after it. It keeps completed jobs.
//!
//! The variant `analyze` gives SQLite statistics before the drain. Without them it scans the
//! whole batch for each acknowledgement, and every running task for each batch.

use std::str::FromStr;
use std::time::Duration;

use apalis::prelude::*;
use apalis_sqlite::{Config, SqlitePool, SqliteStorage};
use peer_tally::{Failed, Orders, Outcome, Payload, Tally, Workload, batch, report, single};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

const CONCURRENCY: usize = 100;
const BATCH: usize = 500;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let orders = Orders::given()?;
    let options = SqliteConnectOptions::from_str(&format!("sqlite://{}", orders.url))?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(30));
    // Through a pool of its own, so that no connection keeps what `setup` switches off.
    let first = SqlitePool::connect_with(options.clone()).await?;
    SqliteStorage::setup(&first).await?;
    first.close().await;
    // More connections than one collide on SQLite's only write lock.
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await?;
    let config = Config::default()
        .queue("noop")
        .batch_size(BATCH)
        .lock_tasks(false);
    let storage = SqliteStorage::<Payload>::new(&pool).with_config(config);
    let add = async |numbers: Vec<usize>| {
        let tasks = numbers.into_iter().map(|n| orders.payload(n)).collect();
        storage.clone().push_bulk(tasks).await
    };
    let mut outcome = match orders.workload {
        Workload::Drain => {
            for numbers in orders.batches(500) {
                add(numbers).await?;
            }
            let analyze = orders.variant == "analyze";
            if analyze {
                sqlx::query("ANALYZE").execute(&pool).await?;
            }
            // It takes only tasks whose second has passed.
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            let tally = Tally::new(&orders);
            let (counting, backend) = (tally.clone(), storage.clone());
            let running = tokio::spawn(
                WorkerBuilder::new("noop")
                    .backend(backend.poll_with_interval(Duration::from_millis(50)))
                    .concurrency(CONCURRENCY)
                    .build(move |payload: Payload| {
                        counting.ran(payload.n);
                        std::future::ready(Ok::<(), BoxDynError>(()))
                    })
                    .run(),
            );
            let unfinished = async || {
                sqlx::query_scalar::<_, i64>("SELECT count(*) FROM Jobs WHERE status <> 'Done'")
                    .fetch_one(&pool)
                    .await
            };
            let mut outcome = tally.drained(&orders, unfinished).await?;
            running.abort();
            tally.verdict(&mut outcome);
            outcome.batch = BATCH;
            outcome.tuning = format!(
                "concurrency {CONCURRENCY}, batch_size {BATCH}, lock_tasks off, pool of 1, \
                 synchronous FULL instead of its OFF{}",
                if analyze {
                    ", ANALYZE after loading"
                } else {
                    ""
                }
            );
            outcome
        }
        Workload::Single => {
            let (orders_, storage) = (orders.clone(), storage.clone());
            let submit = move |n| {
                let (mut storage, task) = (storage.clone(), orders_.payload(n));
                async move { storage.push(task).await }
            };
            let mut outcome = single(&orders, submit).await?;
            held(&pool, &mut outcome).await?;
            outcome.tuning = "push, pool of 1, synchronous FULL".to_owned();
            outcome
        }
        Workload::Batch => {
            let mut outcome = batch(&orders, add).await?;
            held(&pool, &mut outcome).await?;
            outcome.tuning = "push_bulk, synchronous FULL".to_owned();
            outcome
        }
    };
    let synchronous = sqlx::query_scalar("PRAGMA synchronous")
        .fetch_one(&pool)
        .await?;
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(&pool)
        .await?;
    outcome.durability = peer_tally::sqlite_durability(synchronous, &journal);
    report("apalis-sqlite", outcome)
}

async fn held(pool: &SqlitePool, outcome: &mut Outcome) -> Result<(), Failed> {
    let (rows, distinct) = sqlx::query_as(
        "SELECT count(*), count(DISTINCT json_extract(CAST(job AS TEXT), '$.n')) FROM Jobs",
    )
    .fetch_one(pool)
    .await?;
    outcome.held(rows, distinct);
    Ok(())
}
