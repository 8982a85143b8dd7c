//! How long agents are nowhere when their node is lost, and how often one is taken for lost that is
//! not: real nodes on hosts of their own, three and then ten, with one PostgreSQL.
//!
//! - *killed*, *black-holed*: from `kill -9`, or from when every link of the node is cut, until the
//!   last of its agents runs on another node. The node comes back between trials.
//! - *false convictions*: lives that were taken over, and peers that gossip took for down, although
//!   nothing was wrong with the node but 20 % of all packets lost, or pauses of 2 s.
//! - *in two places*: agents that still ran on the lost node when they ran elsewhere.
//!
//! `REGROW_LOSS_TRIALS`: trials of each kind and size (5). `REGROW_LOSS_NODES`: sizes (`3,10`).
//! `REGROW_LOSS_AUTHORITY`: `database`, or `quorum` for nodes without one; there, lives that were taken
//! over and stale effects are not counted.

#[path = "../tests/network/cluster.rs"]
#[expect(dead_code, reason = "its nodes stay of the version that they are")]
mod cluster;
#[path = "../runtime/tests/database/schema.rs"]
mod schema;
#[path = "../tests/network/witness.rs"]
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use regrow_testnet::{Rules, admit, enter};
use serde_json::json;
use tokio::time::{Instant, sleep};

use self::cluster::{Authority, Cluster, Node, PATIENCE, Plan};
use self::witness::Seen;

/// Agents placed, per node.
const AGENTS: usize = 2;
/// How long packets are lost.
const LOSSY: Duration = Duration::from_secs(40);
/// How long a node is paused.
const PAUSE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    // Before there are threads.
    let entered = enter();
    match admit(&entered, "node_loss") {
        Ok(true) => {}
        Ok(false) => return ExitCode::SUCCESS,
        Err(forbidden) => {
            tell(&forbidden.to_string());
            return ExitCode::FAILURE;
        }
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(measure());
    ExitCode::SUCCESS
}

async fn measure() {
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or(default.to_owned());
    let trials = setting("REGROW_LOSS_TRIALS", "5")
        .parse()
        .expect("a number of trials");
    let sizes = setting("REGROW_LOSS_NODES", "3,10");
    let authority = match setting("REGROW_LOSS_AUTHORITY", "database").as_str() {
        "quorum" => Authority::Quorum,
        _ => Authority::Database,
    };
    let build = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    tell(&format!("build: {build}; load before: {}", load()));
    let mut all = BTreeMap::<Kind, Vec<Duration>>::new();
    for nodes in sizes.split(',') {
        let nodes = nodes.parse().expect("a number of nodes");
        let plan = Plan {
            seed: 1,
            nodes,
            authority,
            life_term: None,
            dns: None,
            program: None,
        };
        let mut trial = Trials::start(&plan).await;
        for kind in [Kind::Killed, Kind::BlackHoled] {
            let mut times = Vec::new();
            for _ in 0..trials {
                times.push(trial.lose(kind).await);
            }
            tell(&format!("{nodes} nodes, {kind:?}: {}", figures(&mut times)));
            all.entry(kind).or_default().extend(times);
        }
        trial.doubt(trials).await;
        let seen = trial.seen().await;
        let stale = seen.after_the_end + seen.under_a_lower_epoch + seen.owners_replaced;
        tell(&format!(
            "{nodes} nodes: {} in two places, {stale} stale effects; load {}",
            trial.in_two_places,
            load()
        ));
    }
    for (kind, mut times) in all {
        tell(&format!("all, {kind:?}: {}", figures(&mut times)));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Killed,
    BlackHoled,
}

struct Trials {
    cluster: Cluster,
    agents: BTreeSet<String>,
    rng: SmallRng,
    in_two_places: usize,
}

impl Trials {
    async fn start(plan: &Plan) -> Self {
        let cluster = Cluster::start(plan).await;
        let agents: BTreeSet<String> = (1..=plan.nodes * AGENTS)
            .map(|number| format!("scout-{number}"))
            .collect();
        cluster.place(&agents).await;
        cluster.until_running(&agents, cluster.nodes.iter()).await;
        let rng = SmallRng::seed_from_u64(plan.seed);
        Self {
            cluster,
            agents,
            rng,
            in_two_places: 0,
        }
    }

    /// Loses a node that has agents, measures, and brings it back.
    async fn lose(&mut self, kind: Kind) -> Duration {
        // At any point of a renewal's period.
        sleep(Duration::from_millis(self.rng.random_range(0..1_500))).await;
        let (node, agents) = self.owner().await;
        let others: Vec<Arc<Node>> = self
            .cluster
            .nodes
            .iter()
            .filter(|other| other.name != node.name)
            .cloned()
            .collect();
        match kind {
            Kind::Killed => node.signal(Signal::SIGKILL),
            Kind::BlackHoled => self.cluster.network.set_around(&node.name, Rules::CUT),
        }
        let took = self.cluster.until_running(&agents, others.iter()).await;
        match kind {
            Kind::Killed => drop(node.ended().await),
            Kind::BlackHoled => {
                let still = node.running().await.unwrap_or_default();
                let twice = still.keys().filter(|id| agents.contains(*id)).count();
                self.in_two_places += twice;
                self.cluster.network.set_all(Rules::default());
                if self.cluster.authority() == Authority::Database {
                    // It finds that it was succeeded.
                    node.ended().await;
                }
            }
        }
        if kind == Kind::Killed || self.cluster.authority() == Authority::Database {
            node.start();
        }
        node.until_ready().await;
        self.cluster.until_all_heard().await;
        self.even_out().await;
        took
    }

    async fn seen(&self) -> Seen {
        match &self.cluster.database {
            Some(database) => database.seen().await,
            None => Seen::default(),
        }
    }

    /// A node that has agents, and those.
    async fn owner(&mut self) -> (Arc<Node>, BTreeSet<String>) {
        let began = Instant::now();
        loop {
            let nodes = &self.cluster.nodes;
            let node = nodes.choose(&mut self.rng).expect("there are nodes");
            let agents = node.running().await.unwrap_or_default();
            if !agents.is_empty() {
                return (node.clone(), agents.into_keys().collect());
            }
            assert!(began.elapsed() < PATIENCE, "nobody has an agent");
        }
    }

    /// Waits until all agents run, after each node was given its share.
    async fn even_out(&self) {
        let nodes = &self.cluster.nodes;
        let began = Instant::now();
        loop {
            let rebalanced = nodes[0].post("/v1/cluster/rebalance", &json!({})).await;
            // Without a database nothing is decided until a quorum hears each other again.
            if rebalanced
                .as_ref()
                .is_some_and(|(status, _)| (200..300).contains(status))
            {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{rebalanced:?}");
            sleep(Duration::from_millis(50)).await;
        }
        sleep(Duration::from_millis(500)).await;
        self.cluster.until_running(&self.agents, nodes.iter()).await;
    }

    /// Counts false convictions: by lives, by gossip, and agents that a node stopped by itself.
    async fn doubt(&mut self, pauses: u32) {
        let lossy = Rules {
            loss: 0.2,
            ..Rules::default()
        };
        self.cluster.network.set_all(lossy);
        let found = self.watch(LOSSY).await;
        self.cluster.network.set_all(Rules::default());
        tell(&format!(
            "{} nodes, {LOSSY:?} of 20 % loss: {found}",
            self.cluster.nodes.len()
        ));
        self.mend().await;
        let mut total = Convictions::default();
        for _ in 0..pauses {
            let nodes = &self.cluster.nodes;
            let node = nodes
                .choose(&mut self.rng)
                .expect("there are nodes")
                .clone();
            node.signal(Signal::SIGSTOP);
            let watching = self.watch(PAUSE + PAUSE);
            let pausing = async {
                sleep(PAUSE).await;
                node.signal(Signal::SIGCONT);
            };
            let (found, ()) = tokio::join!(watching, pausing);
            total.add(&found);
            self.mend().await;
        }
        let nodes = self.cluster.nodes.len();
        tell(&format!(
            "{nodes} nodes, {pauses} pauses of {PAUSE:?}: {total}"
        ));
    }

    /// Starts those again that ended, and waits until all is well.
    async fn mend(&self) {
        let began = Instant::now();
        loop {
            self.cluster.start_ended();
            let readies = self
                .cluster
                .nodes
                .iter()
                .map(|node| node.get("/health/ready"));
            let readies = futures::future::join_all(readies).await;
            if readies
                .iter()
                .all(|ready| ready.as_ref().is_some_and(|(status, _)| *status == 200))
            {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "not all nodes are ready");
            sleep(Duration::from_millis(50)).await;
        }
        self.cluster
            .until_running(&self.agents, self.cluster.nodes.iter())
            .await;
        self.cluster.until_all_heard().await;
    }

    async fn watch(&self, time: Duration) -> Convictions {
        let began = Instant::now();
        let before = self.seen().await.taken_over;
        let given_up = || {
            let logs = self
                .cluster
                .nodes
                .iter()
                .map(|node| std::fs::read_to_string(node.log()));
            let gave_up = |log: String| log.matches("was not renewed in time").count();
            logs.map(|log| log.map(gave_up).unwrap_or(0)).sum::<usize>()
        };
        let given_up_before = given_up();
        let mut convictions = Convictions::default();
        let mut down = BTreeSet::new();
        while began.elapsed() < time {
            for node in &self.cluster.nodes {
                let now = node.known(|node| node["heard"]["status"] == "down").await;
                for other in now {
                    if down.insert((node.name.clone(), other)) {
                        convictions.by_gossip += 1;
                    }
                }
                let up = node.heard_up().await;
                down.retain(|(by, of)| *by != node.name || !up.contains(of));
            }
            sleep(Duration::from_millis(200)).await;
        }
        let after = self.seen().await.taken_over;
        convictions.lives = after - before;
        convictions.given_up = given_up() - given_up_before;
        convictions
    }
}

#[derive(Debug, Default)]
struct Convictions {
    /// Lives that another node took over.
    lives: i64,
    /// Nodes that stopped their agents by themselves, since they were not renewed in time.
    given_up: usize,
    /// Peers that a node took for down.
    by_gossip: usize,
}

impl Convictions {
    fn add(&mut self, other: &Self) {
        self.lives += other.lives;
        self.given_up += other.given_up;
        self.by_gossip += other.by_gossip;
    }
}

impl std::fmt::Display for Convictions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            lives,
            given_up,
            by_gossip,
        } = self;
        write!(
            f,
            "{lives} lives taken over, {given_up} times a node stopped its own agents, {by_gossip} times \
             a node took a peer for down"
        )
    }
}

/// Nearest rank, in milliseconds.
fn figures(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let rank = |percent: usize| {
        let rank = (times.len() * percent).div_ceil(100).max(1) - 1;
        times.get(rank).map_or(0, Duration::as_millis)
    };
    format!(
        "{} trials: p50 {} ms, p99 {} ms, max {} ms",
        times.len(),
        rank(50),
        rank(99),
        rank(100)
    )
}

/// Processes that want to run, over a minute, and cores.
fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!(
        "{} on {cores} cores",
        load.split(' ').next().unwrap_or("unknown")
    )
}

#[expect(clippy::print_stdout, reason = "figures are this program's output")]
fn tell(line: &str) {
    println!("{line}");
}
