//! apalis on PostgreSQL: two workers with 100 tasks at a time each and batches of 500, no
//! second write per task for its start. It keeps completed jobs.

use std::time::Duration;

use apalis::prelude::*;
use apalis_postgres::{Config, PgPool, PostgresStorage};
use peer_tally::{Failed, Orders, Outcome, Payload, Tally, Workload, batch, report, single};
use sqlx::postgres::PgPoolOptions;

const WORKERS: usize = 2;
const CONCURRENCY: usize = 100;
const BATCH: usize = 500;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let orders = Orders::given()?;
    let pool = PgPoolOptions::new()
        .max_connections(20)
        .connect(&orders.url)
        .await?;
    PostgresStorage::setup(&pool).await?;
    let config = Config::default()
        .queue("noop")
        .batch_size(BATCH)
        .lock_tasks(false);
    let storage = PostgresStorage::<Payload>::new(&pool).with_config(config);
    let add = async |numbers: Vec<usize>| {
        let tasks = numbers.into_iter().map(|n| orders.payload(n)).collect();
        storage.clone().push_bulk(tasks).await
    };
    let mut outcome = match orders.workload {
        Workload::Drain => {
            for numbers in orders.batches(500) {
                add(numbers).await?;
            }
            sqlx::query("VACUUM ANALYZE").execute(&pool).await?;
            // It takes only tasks whose second has passed.
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            let tally = Tally::new(&orders);
            let mut running = tokio::task::JoinSet::new();
            for number in 0..WORKERS {
                let (counting, storage) = (tally.clone(), storage.clone());
                running.spawn(
                    WorkerBuilder::new(format!("noop-{number}"))
                        .backend(storage.poll_with_interval(Duration::from_millis(50)))
                        .concurrency(CONCURRENCY)
                        .build(move |payload: Payload| {
                            counting.ran(payload.n);
                            std::future::ready(Ok::<(), BoxDynError>(()))
                        })
                        .run(),
                );
            }
            let unfinished = async || {
                sqlx::query_scalar::<_, i64>(
                    "SELECT count(*) FROM apalis.jobs WHERE status <> 'Done'",
                )
                .fetch_one(&pool)
                .await
            };
            let mut outcome = tally.drained(&orders, unfinished).await?;
            running.shutdown().await;
            tally.verdict(&mut outcome);
            outcome.batch = BATCH;
            outcome.tuning = format!(
                "{WORKERS} workers, concurrency {CONCURRENCY}, batch_size {BATCH}, lock_tasks off"
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
            outcome.tuning = "push, pool of 20".to_owned();
            outcome
        }
        Workload::Batch => {
            let mut outcome = batch(&orders, add).await?;
            held(&pool, &mut outcome).await?;
            outcome.tuning = "push_bulk".to_owned();
            outcome
        }
    };
    outcome.durability = sqlx::query_scalar(
        "SELECT format('synchronous_commit=%s, fsync=%s', current_setting('synchronous_commit'), \
         current_setting('fsync'))",
    )
    .fetch_one(&pool)
    .await?;
    report("apalis-postgres", outcome)
}

async fn held(pool: &PgPool, outcome: &mut Outcome) -> Result<(), Failed> {
    let (rows, distinct) = sqlx::query_as(
        "SELECT count(*), count(DISTINCT convert_from(job, 'UTF8')::jsonb->>'n') FROM apalis.jobs",
    )
    .fetch_one(pool)
    .await?;
    outcome.held(rows, distinct);
    Ok(())
}
