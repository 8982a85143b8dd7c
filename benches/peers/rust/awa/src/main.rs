//! awa on PostgreSQL, as its own throughput benchmark sets it up, with more workers: 2,000,
//! polling every 50 ms. It keeps completed jobs.

use std::time::Duration;

use awa::model::insert::params_with;
use awa::model::migrations;
use awa::{
    Client, InsertOpts, JobArgs, JobResult, QueueConfig, insert_many_copy_from_pool, insert_with,
};
use peer_tally::{Failed, Orders, Outcome, Tally, Workload, batch, report, single};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

#[derive(Clone, Debug, Deserialize, JobArgs, Serialize)]
struct Noop {
    n: i64,
    text: String,
}

const WORKERS: u32 = 2_000;

fn noop(orders: &Orders, n: usize) -> Noop {
    let payload = orders.payload(n);
    Noop {
        n: payload.n,
        text: payload.text,
    }
}

fn options() -> InsertOpts {
    InsertOpts {
        queue: "noop".into(),
        ..InsertOpts::default()
    }
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let orders = Orders::given()?;
    let pool = PgPoolOptions::new()
        .max_connections(20)
        .connect(&orders.url)
        .await?;
    migrations::run(&pool).await?;
    let add = async |numbers: Vec<usize>| -> Result<(), Failed> {
        let mut jobs = Vec::with_capacity(numbers.len());
        for n in numbers {
            jobs.push(params_with(&noop(&orders, n), options())?);
        }
        insert_many_copy_from_pool(&pool, &jobs).await?;
        Ok(())
    };
    let mut outcome = match orders.workload {
        Workload::Drain => {
            for numbers in orders.batches(500) {
                add(numbers).await?;
            }
            sqlx::query("VACUUM ANALYZE").execute(&pool).await?;
            let tally = Tally::new(&orders);
            let counting = tally.clone();
            let client = Client::builder(pool.clone())
                .queue(
                    "noop",
                    QueueConfig {
                        max_workers: WORKERS,
                        poll_interval: Duration::from_millis(50),
                        ..QueueConfig::default()
                    },
                )
                .register::<Noop, _, _>(move |job: Noop, _| {
                    counting.ran(job.n);
                    std::future::ready(Ok(JobResult::Completed))
                })
                .build()?;
            client.start().await?;
            let unfinished = async || {
                sqlx::query_scalar::<_, i64>(
                    "SELECT $1 - count(*) FROM awa.jobs WHERE state = 'completed'",
                )
                .bind(orders.tasks as i64)
                .fetch_one(&pool)
                .await
            };
            let mut outcome = tally.drained(&orders, unfinished).await?;
            client.shutdown(Duration::from_secs(5)).await;
            tally.verdict(&mut outcome);
            outcome.batch = QueueConfig::default().claim_batch_size;
            outcome.tuning = format!("max_workers {WORKERS}, poll_interval 50 ms");
            outcome
        }
        Workload::Single => {
            let (orders_, pool_) = (orders.clone(), pool.clone());
            let submit = move |n| {
                let (pool, job) = (pool_.clone(), noop(&orders_, n));
                async move { insert_with(&pool, &job, options()).await.map(|_| ()) }
            };
            let mut outcome = single(&orders, submit).await?;
            held(&pool, &mut outcome).await?;
            outcome.tuning = "insert_with, pool of 20".to_owned();
            outcome
        }
        Workload::Batch => {
            let mut outcome = batch(&orders, add).await?;
            held(&pool, &mut outcome).await?;
            outcome.tuning = "insert_many_copy".to_owned();
            outcome
        }
    };
    outcome.durability = sqlx::query_scalar(
        "SELECT format('synchronous_commit=%s, fsync=%s', current_setting('synchronous_commit'), \
         current_setting('fsync'))",
    )
    .fetch_one(&pool)
    .await?;
    report("awa", outcome)
}

async fn held(pool: &PgPool, outcome: &mut Outcome) -> Result<(), Failed> {
    let (rows, distinct) =
        sqlx::query_as("SELECT count(*), count(DISTINCT args->>'n') FROM awa.jobs")
            .fetch_one(pool)
            .await?;
    outcome.held(rows, distinct);
    Ok(())
}
