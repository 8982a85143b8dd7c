//! riverqueue (the Rust client of River) on PostgreSQL or, if the address is a path, on
//! SQLite: 1,000 workers and a fetch cooldown of 5 ms. It keeps completed jobs for a day.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use peer_tally::{Failed, Orders, Outcome, Tally, Workload, batch, report, single};
use riverqueue::migrate::{PostgresMigrator, SqliteMigrator};
use riverqueue::sqlx::postgres::PgPoolOptions;
use riverqueue::sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use riverqueue::sqlx::{self, PgPool, SqlitePool};
use riverqueue::{
    BoxError, Client, ClientBuilder, Job, JobArgs, QueueConfig, WorkContext, WorkOutcome, Workers,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Deserialize, JobArgs, Serialize)]
#[river(kind = "noop")]
struct Noop {
    n: i64,
    text: String,
}

const WORKERS: usize = 1_000;
const COOLDOWN: Duration = Duration::from_millis(5);

/// The store, for the questions River has no call for.
#[derive(Clone)]
enum Held {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

impl Held {
    async fn open(url: &str) -> Result<(Self, ClientBuilder), Failed> {
        if url.starts_with("postgres://") {
            let pool = PgPoolOptions::new()
                .max_connections(20)
                .connect(url)
                .await?;
            PostgresMigrator::new(pool.clone()).migrate_up().await?;
            return Ok((Self::Postgres(pool.clone()), Client::builder(pool)));
        }
        let options = SqliteConnectOptions::from_str(&format!("sqlite://{url}"))?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        // As its manual shows.
        let pool = SqlitePoolOptions::new()
            .max_connections(5)
            .connect_with(options)
            .await?;
        SqliteMigrator::new(pool.clone()).migrate_up().await?;
        Ok((Self::Sqlite(pool.clone()), Client::builder(pool)))
    }

    async fn unfinished(&self) -> Result<i64, Failed> {
        let sql = "SELECT count(*) FROM river_job WHERE state <> 'completed'";
        Ok(match self {
            Self::Postgres(pool) => sqlx::query_scalar(sql).fetch_one(pool).await?,
            Self::Sqlite(pool) => sqlx::query_scalar(sql).fetch_one(pool).await?,
        })
    }

    async fn compare(&self, outcome: &mut Outcome) -> Result<(), Failed> {
        let (rows, distinct) = match self {
            Self::Postgres(pool) => {
                sqlx::query_as("SELECT count(*), count(DISTINCT args->>'n') FROM river_job")
                    .fetch_one(pool)
                    .await?
            }
            Self::Sqlite(pool) => {
                sqlx::query_as(
                    "SELECT count(*), count(DISTINCT json_extract(args, '$.n')) FROM river_job",
                )
                .fetch_one(pool)
                .await?
            }
        };
        outcome.held(rows, distinct);
        Ok(())
    }

    /// Statistics for the planner, as a database in use has them.
    async fn analyze(&self) -> Result<(), Failed> {
        match self {
            Self::Postgres(pool) => sqlx::query("VACUUM ANALYZE")
                .execute(pool)
                .await
                .map(|_| ())?,
            Self::Sqlite(pool) => sqlx::query("ANALYZE").execute(pool).await.map(|_| ())?,
        }
        Ok(())
    }

    async fn durability(&self) -> Result<String, Failed> {
        Ok(match self {
            Self::Postgres(pool) => {
                sqlx::query_scalar(
                    "SELECT format('synchronous_commit=%s, fsync=%s', \
                     current_setting('synchronous_commit'), current_setting('fsync'))",
                )
                .fetch_one(pool)
                .await?
            }
            Self::Sqlite(pool) => {
                let synchronous = sqlx::query_scalar("PRAGMA synchronous")
                    .fetch_one(pool)
                    .await?;
                let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
                    .fetch_one(pool)
                    .await?;
                peer_tally::sqlite_durability(synchronous, &journal)
            }
        })
    }

    fn connections(&self) -> u32 {
        match self {
            Self::Postgres(pool) => pool.options().get_max_connections(),
            Self::Sqlite(pool) => pool.options().get_max_connections(),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let orders = Orders::given()?;
    let tally = Tally::new(&orders);
    let (held, builder) = Held::open(&orders.url).await?;
    let mut workers = Workers::new();
    let counting = tally.clone();
    workers.add_fn(move |_: WorkContext, job: Job<Noop>| {
        let counting: Arc<Tally> = counting.clone();
        async move {
            counting.ran(job.args.n);
            Ok::<_, BoxError>(WorkOutcome::Complete)
        }
    })?;
    let client = builder
        .workers(workers)
        .queue(
            "default",
            QueueConfig::new(WORKERS).with_fetch_cooldown(COOLDOWN),
        )
        .build()?;
    let noop = {
        let orders = orders.clone();
        move |n| {
            let payload = orders.payload(n);
            Noop {
                n: payload.n,
                text: payload.text,
            }
        }
    };
    let add = async |numbers: Vec<usize>| {
        client
            .insert_many(numbers.into_iter().map(&noop))
            .await
            .map(|_| ())
    };
    let mut outcome = match orders.workload {
        Workload::Drain => {
            for numbers in orders.batches(500) {
                add(numbers).await?;
            }
            held.analyze().await?;
            let mut running = client.start()?;
            let mut outcome = tally
                .drained(&orders, async || held.unfinished().await)
                .await?;
            running.stop().await?;
            tally.verdict(&mut outcome);
            outcome.batch = WORKERS;
            outcome.tuning = format!(
                "max_workers {WORKERS}, fetch_cooldown 5 ms, pool of {}",
                held.connections()
            );
            outcome
        }
        Workload::Single => {
            let client = client.clone();
            let submit = move |n| {
                let (client, job) = (client.clone(), noop(n));
                async move { client.insert(job).await.map(|_| ()) }
            };
            let mut outcome = single(&orders, submit).await?;
            held.compare(&mut outcome).await?;
            outcome.tuning = format!("insert, pool of {}", held.connections());
            outcome
        }
        Workload::Batch => {
            let mut outcome = batch(&orders, add).await?;
            held.compare(&mut outcome).await?;
            outcome.tuning = "insert_many".to_owned();
            outcome
        }
    };
    outcome.durability = held.durability().await?;
    report("riverqueue", outcome)
}
