//! graphile_worker (the Rust port), tuned as its benches are: a local queue filled in
//! batches and completions written in batches. It deletes finished jobs.

use std::time::Duration;

use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, TaskHandler, WorkerContext, WorkerOptions,
};
use peer_tally::{Failed, Orders, Payload, Tally, Workload, batch, report, single};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

#[derive(Clone, Deserialize, Serialize)]
struct Noop(Payload);

#[derive(Clone, Debug)]
struct Counting(std::sync::Arc<Tally>);

impl TaskHandler for Noop {
    const IDENTIFIER: &'static str = "noop";

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        if let Some(tally) = context.get_ext::<Counting>() {
            tally.0.ran(self.0.n);
        }
        Ok::<(), String>(())
    }
}

const JOBS: &str = "graphile_worker._private_jobs";
const CONCURRENCY: usize = 24;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let orders = Orders::given()?;
    let pool = PgPoolOptions::new()
        .max_connections(CONCURRENCY as u32 + 2)
        .connect(&orders.url)
        .await?;
    let tally = Tally::new(&orders);
    let worker = WorkerOptions::default()
        .pg_pool(pool.clone())
        .schema("graphile_worker")
        .concurrency(CONCURRENCY)
        .poll_interval(Duration::from_millis(100))
        .local_queue(LocalQueueConfig::default().with_size(500))
        .complete_job_batch_delay(Duration::ZERO)
        .fail_job_batch_delay(Duration::ZERO)
        .listen_os_shutdown_signals(false)
        .add_extension(Counting(tally.clone()))
        .define_job::<Noop>()
        .init()
        .await?;
    let utils = worker.create_utils();
    let add = async |numbers: Vec<usize>| {
        let jobs: Vec<(Noop, JobSpec)> = numbers
            .into_iter()
            .map(|n| (Noop(orders.payload(n)), JobSpec::default()))
            .collect();
        let jobs: Vec<(Noop, &JobSpec)> =
            jobs.iter().map(|(job, spec)| (job.clone(), spec)).collect();
        utils.add_jobs(&jobs).await.map(|_| ())
    };
    let mut outcome = match orders.workload {
        Workload::Drain => {
            for numbers in orders.batches(500) {
                add(numbers).await?;
            }
            sqlx::query("VACUUM ANALYZE").execute(&pool).await?;
            let worker = std::sync::Arc::new(worker);
            let running = tokio::spawn({
                let worker = worker.clone();
                async move { worker.run().await }
            });
            let open = async || {
                sqlx::query_scalar::<_, i64>("SELECT count(*) FROM graphile_worker._private_jobs")
                    .fetch_one(&pool)
                    .await
            };
            let mut outcome = tally.drained(&orders, open).await?;
            worker.request_shutdown();
            running.await??;
            tally.verdict(&mut outcome);
            outcome.batch = 500;
            outcome.tuning =
                format!("concurrency {CONCURRENCY}, local_queue 500, complete_job_batch_delay 0");
            outcome
        }
        Workload::Single => {
            let (orders_, utils) = (orders.clone(), utils.clone());
            let submit = move |n| {
                let (utils, job) = (utils.clone(), Noop(orders_.payload(n)));
                async move { utils.add_job(job, JobSpec::default()).await.map(|_| ()) }
            };
            let mut outcome = single(&orders, submit).await?;
            held(&pool, &mut outcome).await?;
            outcome.tuning = format!("add_job, pool of {}", CONCURRENCY + 2);
            outcome
        }
        Workload::Batch => {
            let mut outcome = batch(&orders, add).await?;
            held(&pool, &mut outcome).await?;
            outcome.tuning = "add_jobs".to_owned();
            outcome
        }
    };
    outcome.durability = sqlx::query_scalar(
        "SELECT format('synchronous_commit=%s, fsync=%s', current_setting('synchronous_commit'), \
         current_setting('fsync'))",
    )
    .fetch_one(&pool)
    .await?;
    report("graphile_worker", outcome)
}

async fn held(pool: &PgPool, outcome: &mut peer_tally::Outcome) -> Result<(), Failed> {
    let sql = format!("SELECT count(*), count(DISTINCT payload->>'n') FROM {JOBS}");
    let (rows, distinct) = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .fetch_one(pool)
        .await?;
    outcome.held(rows, distinct);
    Ok(())
}
