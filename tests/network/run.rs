//! One run: a cluster under load and under watch, that is disturbed, recovers, and settles.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::accounts::Accounts;
use super::cluster::{Authority, Cluster, Node, PATIENCE, Plan};
use super::load::Load;
use super::looks::Looks;
use super::tell;

/// Agents placed, per node.
const AGENTS: usize = 2;

/// A cluster that is disturbed.
pub(crate) struct Run {
    scenario: &'static str,
    seed: u64,
    /// Decides every moment and choice.
    pub(crate) rng: SmallRng,
    pub(crate) cluster: Cluster,
    pub(crate) agents: BTreeSet<String>,
    load: Load,
    looks: Looks,
    recoveries: Vec<Duration>,
    restarted: Vec<(String, Option<i32>)>,
}

/// The seed of a run, and how often it is disturbed: from the environment, or by chance and once.
pub(crate) fn seed_and_rounds() -> (u64, u32) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let rounds = number("REGROW_NETWORK_ROUNDS").and_then(|rounds| u32::try_from(rounds).ok());
    let seed = number("REGROW_NETWORK_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    (seed, rounds.unwrap_or(1))
}

impl Run {
    /// Three nodes that find each other by their addresses, under load.
    pub(crate) async fn start(scenario: &'static str, seed: u64, authority: Authority) -> Self {
        Self::start_with(scenario, seed, authority, None).await
    }

    /// The same, with nodes that begin with another program than that of this version.
    pub(crate) async fn start_with(
        scenario: &'static str,
        seed: u64,
        authority: Authority,
        program: Option<PathBuf>,
    ) -> Self {
        let plan = Plan {
            seed,
            nodes: 3,
            authority,
            life_term: Some("2s"),
            dns: None,
            program,
        };
        tell(&format!(
            "{scenario}: seed {seed} (REGROW_NETWORK_SEED repeats its choices)"
        ));
        Self::over(scenario, seed, Cluster::start(&plan).await).await
    }

    /// The same over a cluster that has formed.
    pub(crate) async fn over(scenario: &'static str, seed: u64, cluster: Cluster) -> Self {
        let agents: BTreeSet<String> = (1..=cluster.nodes.len() * AGENTS)
            .map(|number| format!("scout-{number}"))
            .collect();
        cluster.place(&agents).await;
        cluster.until_running(&agents, cluster.nodes.iter()).await;
        let load = Load::start(&cluster, &agents, seed);
        Self {
            scenario,
            seed,
            rng: SmallRng::seed_from_u64(seed),
            looks: Looks::start(&cluster),
            load,
            agents,
            cluster,
            recoveries: Vec::new(),
            restarted: Vec::new(),
        }
    }

    /// A node that has agents to lose, by chance.
    pub(crate) async fn any_owner(&mut self) -> Arc<Node> {
        let began = Instant::now();
        loop {
            let node = self.cluster.nodes.choose(&mut self.rng);
            let node = node.expect("there are nodes").clone();
            if node
                .running()
                .await
                .is_some_and(|agents| !agents.is_empty())
            {
                return node;
            }
            assert!(began.elapsed() < PATIENCE, "no node has an agent");
        }
    }

    /// Lets a node go on that was paused.
    pub(crate) fn wake(&self, node: &Node) {
        self.looks.woke();
        node.signal(Signal::SIGCONT);
    }

    /// Lets the load go on for a while, by chance within bounds.
    pub(crate) async fn go_on(&mut self, millis: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.rng.random_range(millis))).await;
    }

    /// The same for so long, while nodes that end are started again.
    pub(crate) async fn go_on_for(&mut self, time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time {
            self.restarted.extend(self.cluster.start_ended());
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until all agents run on other nodes than this one.
    pub(crate) async fn elsewhere(&mut self, lost: &Node) {
        let others = self
            .cluster
            .nodes
            .iter()
            .filter(|node| node.name != lost.name);
        let took = self.cluster.until_running(&self.agents, others).await;
        self.recoveries.push(took);
    }

    /// Nothing disturbs any more: waits until every node is ready, hears all others, and all
    /// agents run; nodes that end meanwhile are started again.
    pub(crate) async fn recover(&mut self) {
        let began = Instant::now();
        loop {
            self.restarted.extend(self.cluster.start_ended());
            if self.is_well().await {
                break;
            }
            let Self { scenario, seed, .. } = self;
            assert!(
                began.elapsed() < PATIENCE,
                "{scenario}: seed {seed}: does not recover"
            );
            sleep(Duration::from_millis(20)).await;
        }
        self.recoveries.push(began.elapsed());
        // The load goes on over it.
        let before = self.load.acknowledged();
        let began = Instant::now();
        while self.load.acknowledged() < before + 10 {
            assert!(
                began.elapsed() < PATIENCE,
                "nothing is acknowledged any more"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn is_well(&self) -> bool {
        let nodes = &self.cluster.nodes;
        let mut running = BTreeSet::new();
        for node in nodes {
            let ready = node.get("/health/ready").await;
            let heard = node.heard_up().await;
            let here = node.running().await;
            let hears_all = nodes.iter().all(|other| heard.contains(&other.name));
            if ready.is_none_or(|(status, _)| status != 200) || !hears_all {
                return false;
            }
            running.extend(here.unwrap_or_default().into_keys());
        }
        running == self.agents
    }

    /// Recovers, waits until all that was acknowledged has ended, stops the nodes, and settles.
    pub(crate) async fn finish(mut self) {
        self.recover().await;
        let witnessed = self.load.finish().await;
        let began = Instant::now();
        loop {
            let live = live(&self.cluster).await;
            if live == Some(0) {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{live:?} tasks do not end");
            call_home(&self.cluster).await;
            sleep(Duration::from_millis(200)).await;
        }
        let looks = self.looks.so_far();
        drop(self.looks);
        // Before the orderly stop, after which others take the lives over.
        let taken_over = match &self.cluster.database {
            Some(database) => database.seen().await.taken_over,
            None => 0,
        };
        for node in &self.cluster.nodes {
            node.signal(Signal::SIGTERM);
        }
        for node in &self.cluster.nodes {
            let status = node.ended().await;
            assert!(
                status.success(),
                "the orderly stop of {} ended with {status}",
                node.name
            );
        }
        let accounts = Accounts::settle(
            self.seed,
            &self.cluster,
            &witnessed,
            looks,
            self.recoveries,
            self.restarted,
        );
        let mut accounts = accounts.await;
        accounts.seen.taken_over = taken_over;
        tell(&accounts.tell(self.scenario));
        accounts.assert_clean();
    }
}

/// Tasks that have not ended; `None` if a node does not say.
async fn live(cluster: &Cluster) -> Option<i64> {
    if let Some(database) = &cluster.database {
        return Some(
            database
                .schema
                .number("SELECT count(*) FROM task_run")
                .await,
        );
    }
    let mut live = 0;
    for node in &cluster.nodes {
        let (_, queue) = node.get("/v1/queue").await?;
        live += queue["size"].as_i64()?;
    }
    Some(live)
}

/// Where there is no database, a message that had been begun waits where its finished steps are
/// on record until its agent is there again: as an operator would, asks the agent to go there.
async fn call_home(cluster: &Cluster) {
    if cluster.authority() == Authority::Database {
        return;
    }
    for node in &cluster.nodes {
        let here = node.running().await.unwrap_or_default();
        for state in ["available", "retryable"] {
            let waiting = node.get(&format!("/v1/tasks?state={state}")).await;
            let (_, waiting) = waiting.unwrap_or_default();
            let kinds = waiting["tasks"].as_array().into_iter().flatten();
            for agent in kinds.filter_map(|task| task["kind"].as_str()?.strip_prefix("agent.")) {
                if !here.contains_key(agent) {
                    let to = json!({ "to": node.name });
                    // Refused while it is on its way: asked again soon.
                    let _ = node.post(&format!("/v1/agents/{agent}/handoff"), &to).await;
                }
            }
        }
    }
}
