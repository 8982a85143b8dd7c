//! `regrow demo --cluster N`: real nodes share one database and their agents while nodes are
//! killed, frozen and drained; without a database see [`agreed`](super::agreed).
//!
//! Customers submit journeys all the while, to whichever node answers. In the end every
//! acknowledgement is held against the store, as in the rehearsal of a crash; besides, every
//! agent has to run, on one node.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use regrow_runtime::queue::task::TaskState;
use regrow_runtime::store::data_dir::DataDirError;
use regrow_runtime::store::postgres::{self, DatabaseUrl, Postgres, PostgresConfig};
use regrow_runtime::store::{Store, StoreError, sqlite};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::crash::customers::{self, Stage};
use super::crash::ledger::{Ledger, Witnessed, read_log};
use super::crash::{CrashError, SETTLE_TIMEOUT, Tell};
use super::process::{Launch, NodeProcess, ProcessError};

/// Journeys submitted.
pub(super) const JOURNEYS: u32 = 200;
/// Agents placed, per node.
pub(super) const AGENTS: u32 = 2;
/// How long a node's life lasts without renewal.
const LIFE_TERM: &str = "2s";
/// Longest wait for agents to be where they belong.
pub(super) const MOVE_TIMEOUT: Duration = Duration::from_secs(30);

/// What the rehearsal is told.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// Decides every moment and choice.
    pub(crate) seed: u64,
    /// How many nodes.
    pub(crate) nodes: u32,
    /// The database that they share, if any; a schema of its own is made in it, and dropped if
    /// all went well.
    pub(crate) database: Option<DatabaseUrl>,
    /// Where the nodes keep what else they need; new for each run.
    pub(crate) data_dir: PathBuf,
}

/// The accounts.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Accounts {
    /// Those of the tasks.
    #[serde(flatten)]
    pub(crate) ledger: Ledger,
    /// Agents placed.
    pub(crate) agents: u64,
    /// Of those, agents that run on one node in the end.
    pub(crate) agents_running: u64,
    /// From `kill -9` of a node to the last of its agents running elsewhere.
    pub(crate) killed_ms: u64,
    /// From a node's freeze to the last of its agents running elsewhere.
    pub(crate) frozen_ms: u64,
    /// From the order to drain a node to its last agent running elsewhere.
    pub(crate) drained_ms: u64,
}

impl Accounts {
    /// Nothing was lost, doubled or run again, and every agent runs.
    pub(crate) fn is_clean(&self) -> bool {
        self.ledger.is_clean() && self.agents == self.agents_running
    }
}

/// The rehearsal itself could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// A node, or its work.
    #[error(transparent)]
    Crash(#[from] CrashError),
    /// A node process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The database.
    #[error(transparent)]
    Open(#[from] postgres::OpenError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The HTTP client could not be made.
    #[error("no HTTP client")]
    Http(#[from] reqwest::Error),
    /// A node's own database file.
    #[error(transparent)]
    File(#[from] sqlite::OpenError),
    /// A node's directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// What the nodes share besides.
    #[error("cannot make ready what the nodes need")]
    Place(#[source] std::io::Error),
    /// Agents did not get to where they belong.
    #[error("{0}")]
    Stuck(String),
}

/// The nodes of the rehearsal.
pub(super) struct Nodes {
    pub(super) http: reqwest::Client,
    pub(super) launches: BTreeMap<String, Launch>,
    pub(super) running: BTreeMap<String, NodeProcess>,
    pub(super) url: watch::Sender<String>,
}

impl Nodes {
    pub(super) async fn start(&mut self, name: &str) -> Result<(), ClusterError> {
        let node = self.launches[name].start(&self.http).await?;
        self.running.insert(name.to_owned(), node);
        self.ask_somebody();
        Ok(())
    }

    /// Starts them all at once: they may be waiting for each other.
    pub(super) async fn start_all(&mut self) -> Result<(), ClusterError> {
        let (http, launches) = (&self.http, &self.launches);
        let starts = launches.iter().map(async |(name, launch)| {
            let node = launch.start(http).await?;
            Ok::<_, ClusterError>((name.clone(), node))
        });
        let started = futures::future::try_join_all(starts).await?;
        self.running.extend(started);
        self.ask_somebody();
        Ok(())
    }

    /// A node that was taken runs again.
    pub(super) fn put_back(&mut self, name: &str, node: NodeProcess) {
        self.running.insert(name.to_owned(), node);
        self.ask_somebody();
    }

    /// Customers and this rehearsal ask a node that runs.
    fn ask_somebody(&self) {
        if let Some(node) = self.running.values().next() {
            self.url.send_replace(node.url.clone());
        }
    }

    pub(super) fn take(&mut self, name: &str) -> Result<NodeProcess, ClusterError> {
        let node = self.running.remove(name);
        self.ask_somebody();
        node.ok_or_else(|| ClusterError::Stuck(format!("{name} does not run")))
    }
}

/// Carries the rehearsal out.
///
/// # Errors
///
/// [`ClusterError`] when it could not be carried out; what it found is in the accounts.
pub(crate) async fn run(script: &Script, tell: Tell) -> Result<Accounts, ClusterError> {
    match &script.database {
        Some(database) => share(script, database, tell).await,
        None => super::agreed::run(script, tell).await,
    }
}

/// Gives up on a node that is frozen sooner than it may go on.
pub(super) fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .timeout(Duration::from_secs(5))
        .connect_timeout(Duration::from_millis(500))
        .build()
}

/// All agents run, and none of them on the node that is gone.
pub(super) fn elsewhere(gone: &str, count: usize) -> impl Fn(&Map) -> bool + use<> {
    let gone = gone.to_owned();
    move |map: &Map| map.len() == count && map.values().all(|node| *node != gone)
}

/// The rehearsal with a database that all nodes share.
async fn share(
    script: &Script,
    shared: &DatabaseUrl,
    tell: Tell,
) -> Result<Accounts, ClusterError> {
    let http = client()?;
    let schema = format!("regrow_demo_{}", std::process::id());
    let database = postgres::make_schema(shared, &schema).await?;
    let (url, watched) = watch::channel(String::new());
    let witnessed = Arc::new(Mutex::new(Witnessed::default()));
    let stage = Stage {
        http: http.clone(),
        url: watched,
        witnessed: witnessed.clone(),
    };
    let names: Vec<String> = (1..=script.nodes).map(|n| format!("node-{n}")).collect();
    let launches = names.iter().map(|name| {
        let launch = Launch {
            data_dir: script.data_dir.join(name),
            settings: with_database(name, &database),
        };
        (name.clone(), launch)
    });
    let mut nodes = Nodes {
        http,
        launches: launches.collect(),
        running: BTreeMap::new(),
        url,
    };
    for name in &names {
        nodes.start(name).await?;
    }
    tell(format!("{} nodes share {shared}", names.len()));

    let mut rng = SmallRng::seed_from_u64(script.seed);
    let mut work = JoinSet::new();
    work.spawn(customers::travel(stage.clone(), rng.random(), JOURNEYS));
    let agents: Vec<String> = (1..=script.nodes * AGENTS)
        .map(|n| format!("scout-{n}"))
        .collect();
    for agent in &agents {
        place(&stage, agent).await?;
    }
    let everywhere = |map: &Map| map.len() == agents.len();
    map(&stage, everywhere, "placed").await?;
    show(&stage, &tell, "placed").await?;

    let killed = &names[rng.random_range(0..names.len())];
    pause(&mut rng).await;
    tell(format!("kill -9 of {killed}"));
    let since = Instant::now();
    nodes.take(killed)?.kill().await?;
    let without = |gone: &str| elsewhere(gone, agents.len());
    map(&stage, without(killed), "taken over").await?;
    let killed_ms = millis(since);
    show(
        &stage,
        &tell,
        &format!("all elsewhere after {killed_ms} ms"),
    )
    .await?;
    nodes.start(killed).await?;
    tell(format!("{killed} is back"));
    stage.witnessed.lock().node_recoveries.push(since.elapsed());

    // Whoever is frozen has to own something: that is what shows that it was succeeded.
    rebalance(&stage, &agents, names.len()).await?;
    show(&stage, &tell, "evened out").await?;
    let frozen = names[rng.random_range(0..names.len())].clone();
    pause(&mut rng).await;
    tell(format!("{frozen} is frozen (SIGSTOP)"));
    let since = Instant::now();
    let sleeper = nodes.take(&frozen)?;
    sleeper.signal(Signal::SIGSTOP);
    map(&stage, without(&frozen), "taken over").await?;
    let frozen_ms = millis(since);
    show(
        &stage,
        &tell,
        &format!("all elsewhere after {frozen_ms} ms"),
    )
    .await?;
    sleeper.signal(Signal::SIGCONT);
    let status = sleeper.ended(MOVE_TIMEOUT).await?;
    let mut complaints = Vec::new();
    if status.success() {
        complaints.push(format!("{frozen} did not find that it was succeeded"));
    }
    tell(format!(
        "{frozen} goes on, finds that it was succeeded, and ends ({status}); it is started again"
    ));
    nodes.start(&frozen).await?;

    let drained = names[rng.random_range(0..names.len())].clone();
    rebalance(&stage, &agents, names.len()).await?;
    show(&stage, &tell, "evened out").await?;
    pause(&mut rng).await;
    tell(format!("{drained} is drained"));
    let since = Instant::now();
    post(
        &stage,
        &format!("/v1/cluster/nodes/{drained}/drain"),
        &json!({}),
    )
    .await?;
    map(&stage, without(&drained), "drained").await?;
    let drained_ms = millis(since);
    show(
        &stage,
        &tell,
        &format!("all elsewhere after {drained_ms} ms"),
    )
    .await?;
    post(
        &stage,
        &format!("/v1/cluster/nodes/{drained}/release"),
        &json!({}),
    )
    .await?;

    tell("no more disturbances; waiting for what is left".to_owned());
    settle(&stage, &mut work).await?;
    let running = map(&stage, everywhere, "running").await?;
    for (name, node) in std::mem::take(&mut nodes.running) {
        let status = node.stop(Duration::from_secs(20)).await?;
        if !status.success() {
            complaints.push(format!("the orderly stop of {name} ended with {status}"));
        }
    }

    let (mut trace, mut log) = (String::new(), String::new());
    for launch in nodes.launches.values() {
        trace.push_str(&read(&launch.data_dir.join("rehearsal.trace")));
        log.push_str(&read(&launch.log()));
    }
    let store = Postgres::open(PostgresConfig {
        url: database,
        node: "accounts".to_owned(),
        instance: "accounts".to_owned(),
        life_term: Duration::from_secs(60),
    });
    let store = Store::Postgres(store.await?);
    let witnessed = std::mem::take(&mut *witnessed.lock());
    let mut ledger =
        Ledger::settle(script.seed, &witnessed, &read_log(&log), &trace, &store).await?;
    ledger.complaints.append(&mut complaints);
    let accounts = Accounts {
        ledger,
        agents: agents.len() as u64,
        agents_running: running.len() as u64,
        killed_ms,
        frozen_ms,
        drained_ms,
    };
    if accounts.is_clean() {
        postgres::drop_schema(shared, &schema).await?;
    }
    Ok(accounts)
}

/// Waits until everything that was acknowledged has ended. Each task is asked for: it may be on
/// any node, and a node's queue tells of its own ones only.
async fn settle(stage: &Stage, work: &mut JoinSet<()>) -> Result<(), ClusterError> {
    let mut live = Vec::new();
    let over = async {
        while work.join_next().await.is_some() {}
        let acknowledged = stage.witnessed.lock().acknowledged.clone();
        live.extend(acknowledged.into_values().flatten());
        loop {
            let mut still = Vec::new();
            for id in &live {
                let task = stage.get(&format!("/v1/tasks/{id}")).await;
                let state = task.and_then(|task| task["state"].as_str()?.parse().ok());
                if !state.is_some_and(TaskState::is_terminal) {
                    still.push(*id);
                }
            }
            live = still;
            if live.is_empty() {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    if timeout(SETTLE_TIMEOUT, over).await.is_err() {
        return Err(CrashError::NotSettled(format!("tasks {live:?}")).into());
    }
    Ok(())
}

/// Short periods, so that a minute is enough.
pub(super) fn settings(name: &str) -> Vec<(&'static str, String)> {
    [
        ("REGROW_REHEARSAL__ENABLED", "true"),
        ("REGROW_LOG__FORMAT", "json"),
        ("REGROW_AGENTS__LEASE", "3s"),
        ("REGROW_AGENTS__GRACE", "2s"),
        ("REGROW_AGENTS__WORKERS", "2"),
        ("REGROW_QUEUE__RETRY_FIRST", "50ms"),
        ("REGROW_QUEUE__RETRY_MAX", "1s"),
        ("REGROW_NODE__NAME", name),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

fn with_database(name: &str, database: &DatabaseUrl) -> Vec<(&'static str, String)> {
    let mut settings = settings(name);
    settings.extend([
        ("REGROW_STORE__LIFE_TERM", LIFE_TERM.to_owned()),
        (
            "REGROW_STORE__DATABASE_URL",
            database.with_password().to_owned(),
        ),
    ]);
    settings
}

pub(super) async fn pause(rng: &mut SmallRng) {
    sleep(Duration::from_millis(rng.random_range(300..900))).await;
}

pub(super) fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn read(path: &std::path::Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

pub(super) async fn place(stage: &Stage, agent: &str) -> Result<(), ClusterError> {
    let intensity = json!({ "restarts_max": 20, "within_ms": 60_000 });
    let spec = json!({ "id": agent, "role": "worker", "intensity": intensity });
    post(stage, "/v1/agents", &spec).await
}

/// Posts until a node has taken it.
pub(super) async fn post(stage: &Stage, path: &str, body: &Value) -> Result<(), ClusterError> {
    let since = Instant::now();
    let mut last = String::new();
    while since.elapsed() < MOVE_TIMEOUT {
        match stage.post(path, body).await {
            Some((status, _)) if status.is_success() => return Ok(()),
            // An earlier try whose answer was lost.
            Some((_, answer)) if answer["code"] == "agent_exists" => return Ok(()),
            Some((_, answer)) => last = answer.to_string(),
            None => "no answer".clone_into(&mut last),
        }
        sleep(Duration::from_millis(50)).await;
    }
    Err(ClusterError::Stuck(format!("{path} was not taken: {last}")))
}

/// Which agent runs on which node.
pub(super) type Map = BTreeMap<String, String>;

/// The map as soon as it is as `wanted`.
pub(super) async fn map(
    stage: &Stage,
    wanted: impl Fn(&Map) -> bool,
    what: &str,
) -> Result<Map, ClusterError> {
    let mut seen = Map::new();
    let there = async {
        loop {
            let placed = stage.get("/v1/cluster/placement").await.unwrap_or_default();
            let owned = placed["placed"].as_array().into_iter().flatten();
            seen = owned
                .filter(|agent| agent["state"] == "owned")
                .filter_map(|agent| {
                    let (id, node) = (agent["id"].as_str()?, agent["node"].as_str()?);
                    Some((id.to_owned(), node.to_owned()))
                })
                .collect();
            if wanted(&seen) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(MOVE_TIMEOUT, there).await.is_err() {
        let stuck = format!("the agents were not {what} within {MOVE_TIMEOUT:?}: {seen:?}");
        return Err(ClusterError::Stuck(stuck));
    }
    Ok(seen)
}

pub(super) async fn rebalance(
    stage: &Stage,
    agents: &[String],
    nodes: usize,
) -> Result<(), ClusterError> {
    post(stage, "/v1/cluster/rebalance", &json!({})).await?;
    let most = agents.len().div_ceil(nodes);
    let even = |map: &Map| {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for node in map.values() {
            *counts.entry(node).or_default() += 1;
        }
        map.len() == agents.len() && counts.values().all(|count| *count <= most)
    };
    map(stage, even, "evened out").await.map(drop)
}

/// Tells which agents each node has.
pub(super) async fn show(stage: &Stage, tell: &Tell, what: &str) -> Result<(), ClusterError> {
    let map = map(stage, |_| true, "known").await?;
    let mut nodes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (agent, node) in map {
        nodes.entry(node).or_default().push(agent);
    }
    let nodes: Vec<String> = nodes
        .into_iter()
        .map(|(node, agents)| format!("{node}: {}", agents.join(" ")))
        .collect();
    tell(format!("{what}; {}", nodes.join(" | ")));
    Ok(())
}
