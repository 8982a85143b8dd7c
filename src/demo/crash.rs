//! `regrow demo --crash`: a real node does real work while it is being killed.
//!
//! Customers submit journeys, a courier delivers parcels over HTTP, the documentation of a
//! directory is audited. Meanwhile workers are made to panic and to hang, and the whole
//! node is killed with `kill -9`, at moments that a seed decides. In the end every
//! acknowledgement is held against the store.

pub(super) mod customers;
pub(super) mod ledger;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use regrow_runtime::store::data_dir::DataDir;
use regrow_runtime::store::sqlite::{OpenError, Sqlite};
use regrow_runtime::store::{Store, StoreError};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use self::customers::Stage;
pub(crate) use self::ledger::{Ledger, Percentiles};
use self::ledger::{Witnessed, read_log};
use super::process::{Launch, NodeProcess, ProcessError};

/// Journeys submitted.
const JOURNEYS: u32 = 300;
/// Parcels submitted.
const PARCELS: u32 = 24;
/// Workers of the node.
const WORKERS: u32 = 4;
/// Workers made to panic.
const PANICS: u32 = 3;
/// Workers made to hang.
const HANGS: u32 = 2;
/// Longest wait for everything acknowledged to end, once the disturbances are over.
pub(super) const SETTLE_TIMEOUT: Duration = Duration::from_secs(45);
/// Longest wait for a hung agent's successor.
const REGROW_TIMEOUT: Duration = Duration::from_secs(10);

/// What the rehearsal is told.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// Decides every moment and choice.
    pub(crate) seed: u64,
    /// How often the node is killed.
    pub(crate) kills: u32,
    /// The directory whose documentation is audited.
    pub(crate) path: PathBuf,
    /// Where the node keeps its data; new for each run.
    pub(crate) data_dir: PathBuf,
}

/// The rehearsal itself could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CrashError {
    /// The node process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Not everything acknowledged ended in time.
    #[error("not everything acknowledged ended within {SETTLE_TIMEOUT:?}; {0}")]
    NotSettled(String),
    /// A fault could not be injected, or its victim did not come back.
    #[error("{0}")]
    Fault(String),
    /// The store could not be opened for the accounts.
    #[error("the store cannot be opened for the accounts")]
    Open(#[from] OpenError),
    /// The store could not be read for the accounts.
    #[error("the store cannot be read for the accounts")]
    Read(#[from] StoreError),
    /// The HTTP client could not be made.
    #[error("no HTTP client")]
    Http(#[from] reqwest::Error),
}

#[derive(Clone, Copy, Debug)]
enum Disturbance {
    Kill,
    Panic,
    Hang,
}

/// Says what happens, for a person who watches.
pub(crate) type Tell = Arc<dyn Fn(String) + Send + Sync>;

/// Carries the rehearsal out.
///
/// # Errors
///
/// [`CrashError`] when it could not be carried out; what it found is in the ledger.
pub(crate) async fn run(script: &Script, tell: Tell) -> Result<Ledger, CrashError> {
    let http = reqwest::Client::builder()
        .timeout(Duration::from_secs(5))
        .connect_timeout(Duration::from_millis(500))
        .build()?;
    let trace = script.data_dir.join("rehearsal.trace");
    let launch = Launch {
        data_dir: script.data_dir.clone(),
        settings: settings(),
    };
    let mut node = launch.start(&http).await?;
    let (url, watched) = watch::channel(node.url.clone());
    let witnessed = Arc::new(Mutex::new(Witnessed::default()));
    let stage = Stage {
        http: http.clone(),
        url: watched,
        witnessed: witnessed.clone(),
    };

    let mut rng = SmallRng::seed_from_u64(script.seed);
    let mut work = JoinSet::new();
    work.spawn(customers::travel(stage.clone(), rng.random(), JOURNEYS));
    work.spawn(customers::deliver(stage.clone(), rng.random(), PARCELS));
    let payload = json!({ "path": script.path });
    let audit = stage.clone();
    work.spawn(async move {
        audit.submit("audit".to_owned(), "audit", payload).await;
    });

    for disturbance in disturbances(script.kills, &mut rng) {
        sleep(Duration::from_millis(rng.random_range(150..700))).await;
        match disturbance {
            Disturbance::Kill => {
                tell(format!("kill -9 of the node ({})", node.url));
                node = kill_and_restart(node, &launch, &stage, &url, &tell).await?;
            }
            Disturbance::Panic => {
                let (victim, _) = victim(&stage, &mut rng).await?;
                inject(&stage, &victim, "panic").await?;
                tell(format!("{victim} panics"));
            }
            Disturbance::Hang => {
                let (victim, took) = hang(&stage, &mut rng, &tell).await?;
                tell(format!(
                    "{victim} was killed and regrown after {} ms",
                    took.as_millis()
                ));
                witnessed.lock().hang_recoveries.push(took);
            }
        }
    }
    tell("no more disturbances; waiting for what is left".to_owned());
    settle(&stage, &mut work).await?;
    let status = node.stop(Duration::from_secs(20)).await?;

    let logged = read_log(&read(&launch.log()));
    let store = open(&script.data_dir).await?;
    let witnessed = std::mem::take(&mut *witnessed.lock());
    let mut ledger =
        Ledger::settle(script.seed, &witnessed, &logged, &read(&trace), &store).await?;
    if !status.success() {
        ledger
            .complaints
            .push(format!("the node's orderly stop ended with {status}"));
    }
    expect_faults(&mut ledger, script);
    Ok(ledger)
}

/// Short periods, so that a minute is enough.
fn settings() -> Vec<(&'static str, String)> {
    [
        ("REGROW_REHEARSAL__ENABLED", "true"),
        ("REGROW_LOG__FORMAT", "json"),
        ("REGROW_AGENTS__LEASE", "3s"),
        ("REGROW_AGENTS__GRACE", "2s"),
        ("REGROW_HEALTH__PERIOD", "200ms"),
        ("REGROW_HEALTH__DEADLINE", "150ms"),
        ("REGROW_HEALTH__SILENCE_MIN", "500ms"),
        ("REGROW_HEALTH__BACKOFF", "500ms"),
        ("REGROW_QUEUE__RETRY_FIRST", "50ms"),
        ("REGROW_QUEUE__RETRY_MAX", "1s"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into_iter()
    .chain([("REGROW_AGENTS__WORKERS", WORKERS.to_string())])
    .collect()
}

/// All disturbances, in an order that the seed decides.
fn disturbances(kills: u32, rng: &mut SmallRng) -> Vec<Disturbance> {
    let mut all = Vec::new();
    all.extend((0..kills).map(|_| Disturbance::Kill));
    all.extend((0..PANICS).map(|_| Disturbance::Panic));
    all.extend((0..HANGS).map(|_| Disturbance::Hang));
    all.shuffle(rng);
    all
}

async fn kill_and_restart(
    node: NodeProcess,
    launch: &Launch,
    stage: &Stage,
    url: &watch::Sender<String>,
    tell: &Tell,
) -> Result<NodeProcess, CrashError> {
    let since = Instant::now();
    node.kill().await?;
    let node = launch.start(&stage.http).await?;
    let took = since.elapsed();
    url.send_replace(node.url.clone());
    stage.witnessed.lock().node_recoveries.push(took);
    tell(format!(
        "the node is ready again after {} ms",
        took.as_millis()
    ));
    Ok(node)
}

/// A worker that runs, and which life it is in.
async fn victim(stage: &Stage, rng: &mut SmallRng) -> Result<(String, u64), CrashError> {
    let victim = format!("worker-{}", rng.random_range(1..=WORKERS));
    let since = Instant::now();
    while since.elapsed() < REGROW_TIMEOUT {
        // It may just be regrowing from an earlier fault.
        if let Some(generation) = generations(stage).await.get(&victim) {
            return Ok((victim, *generation));
        }
        sleep(Duration::from_millis(10)).await;
    }
    Err(CrashError::Fault(format!(
        "{victim} did not run within {REGROW_TIMEOUT:?}"
    )))
}

/// Makes a worker suffer.
async fn inject(stage: &Stage, victim: &str, fault: &str) -> Result<(), CrashError> {
    let body = json!({ "fault": fault });
    let path = format!("/v1/agents/{victim}/inject");
    for _ in 0..100 {
        match stage.post(&path, &body).await {
            Some((status, _)) if status.is_success() => return Ok(()),
            Some(_) | None => sleep(Duration::from_millis(20)).await,
        }
    }
    Err(CrashError::Fault(format!(
        "the node refuses to make {victim} {fault}"
    )))
}

/// Makes a worker hang, and waits until its successor runs.
async fn hang(
    stage: &Stage,
    rng: &mut SmallRng,
    tell: &Tell,
) -> Result<(String, Duration), CrashError> {
    let (victim, before) = victim(stage, rng).await?;
    let since = Instant::now();
    inject(stage, &victim, "hang").await?;
    tell(format!("{victim} hangs"));
    while since.elapsed() < REGROW_TIMEOUT {
        sleep(Duration::from_millis(10)).await;
        let now = generations(stage).await.get(&victim).copied();
        if now.is_some_and(|now| before < now) {
            return Ok((victim, since.elapsed()));
        }
    }
    Err(CrashError::Fault(format!(
        "{victim} hung and was not regrown within {REGROW_TIMEOUT:?}"
    )))
}

/// Which life each running agent is in.
async fn generations(stage: &Stage) -> HashMap<String, u64> {
    let answer = stage.get("/v1/agents").await.unwrap_or_default();
    let agents = answer["agents"].as_array().into_iter().flatten();
    agents
        .filter(|agent| agent["state"] == "running")
        .filter_map(|agent| {
            Some((
                agent["id"].as_str()?.to_owned(),
                agent["generation"].as_u64()?,
            ))
        })
        .collect()
}

/// Waits until everything was submitted, and everything acknowledged has ended.
async fn settle(stage: &Stage, work: &mut JoinSet<()>) -> Result<(), CrashError> {
    let over = async {
        while work.join_next().await.is_some() {}
        loop {
            let live: u64 = match stage.get("/v1/queue").await {
                Some(queue) => queue["states"]
                    .as_object()
                    .map(|states| states.values().filter_map(serde_json::Value::as_u64).sum())
                    .unwrap_or(u64::MAX),
                None => u64::MAX,
            };
            if live == 0 {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    if timeout(SETTLE_TIMEOUT, over).await.is_err() {
        let queue = stage.get("/v1/queue").await.unwrap_or_default();
        return Err(CrashError::NotSettled(format!("the queue: {queue}")));
    }
    Ok(())
}

async fn open(data_dir: &std::path::Path) -> Result<Store, OpenError> {
    let mut dir = DataDir::open(data_dir)?;
    Ok(Store::Sqlite(Sqlite::open(&mut dir).await?))
}

fn read(path: &std::path::Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// A rehearsal in which nothing went wrong proves nothing.
fn expect_faults(ledger: &mut Ledger, script: &Script) {
    let restarted = |reason: &str| -> u64 {
        let matching = ledger
            .restarts
            .iter()
            .filter(|(cause, _)| cause.ends_with(reason));
        matching.map(|(_, count)| count).sum()
    };
    let found = [
        (
            "kills of the node",
            ledger.node_kills,
            u64::from(script.kills),
        ),
        ("restarts after a panic", restarted("panic"), 1),
        ("restarts after a hang", restarted("killed"), 1),
        ("stale completions refused", ledger.stale_refused, 1),
    ];
    for (what, count, least) in found {
        if count < least {
            ledger.complaints.push(format!(
                "only {count} {what}, at least {least} were intended"
            ));
        }
    }
}
