//! `regrow demo --cluster N` without a database: real nodes agree among themselves on who may
//! act, while nodes are killed, frozen and drained.
//!
//! Customers submit journeys to a node of their own each, and wait for it while it is away: its
//! disk is the only one that has them. In the end every acknowledgement is held against that
//! disk; besides, every agent has to run, on one node, and none may have acted under an epoch
//! after a later one.

use std::collections::BTreeMap;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use regrow_runtime::store::Store;
use regrow_runtime::store::data_dir::DataDir;
use regrow_runtime::store::sqlite::Sqlite;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::{
    AGENTS, Accounts, ClusterError, JOURNEYS, MOVE_TIMEOUT, Map, Nodes, Script, elsewhere, map,
    millis, pause, place, post, read, rebalance, show,
};
use super::crash::customers::{self, Stage};
use super::crash::ledger::{Ledger, Witnessed, read_log};
use super::crash::{CrashError, SETTLE_TIMEOUT, Tell};
use super::process::Launch;

/// Carries the rehearsal out.
///
/// # Errors
///
/// [`ClusterError`] when it could not be carried out; what it found is in the accounts.
pub(super) async fn run(script: &Script, tell: Tell) -> Result<Accounts, ClusterError> {
    let http = super::cluster::client()?;
    let names: Vec<String> = (1..=script.nodes).map(|n| format!("node-{n}")).collect();
    let (url, watched) = watch::channel(String::new());
    let mut nodes = Nodes {
        http: http.clone(),
        launches: launches(script, &names).map_err(ClusterError::Place)?,
        running: BTreeMap::new(),
        url,
    };
    let stage = Stage {
        http: http.clone(),
        url: watched,
        witnessed: Arc::default(),
    };
    nodes.start_all().await?;
    tell(format!(
        "{} nodes without a database agree on who may act",
        names.len()
    ));

    let mut rng = SmallRng::seed_from_u64(script.seed);
    let mut work = JoinSet::new();
    let mut own: BTreeMap<String, (watch::Sender<String>, Stage)> = BTreeMap::new();
    for name in &names {
        let (url, watched) = watch::channel(nodes.running[name].url.clone());
        let stage = Stage {
            http: http.clone(),
            url: watched,
            witnessed: Arc::new(Mutex::new(Witnessed::default())),
        };
        let journeys = JOURNEYS / script.nodes;
        work.spawn(customers::travel(stage.clone(), rng.random(), journeys));
        own.insert(name.clone(), (url, stage));
    }
    let agents: Vec<String> = (1..=script.nodes * AGENTS)
        .map(|n| format!("scout-{n}"))
        .collect();
    for agent in &agents {
        place(&stage, agent).await?;
    }
    let everywhere = |map: &Map| map.len() == agents.len();
    map(&stage, everywhere, "placed").await?;
    show(&stage, &tell, "placed").await?;
    let without = |gone: &str| elsewhere(gone, agents.len());

    let killed = &names[rng.random_range(0..names.len())];
    pause(&mut rng).await;
    tell(format!("kill -9 of {killed}"));
    let since = Instant::now();
    nodes.take(killed)?.kill().await?;
    map(&stage, without(killed), "taken over").await?;
    let killed_ms = millis(since);
    let after = format!("all elsewhere after {killed_ms} ms");
    show(&stage, &tell, &after).await?;
    nodes.start(killed).await?;
    let (url, own_stage) = &own[killed];
    url.send_replace(nodes.running[killed].url.clone());
    own_stage
        .witnessed
        .lock()
        .node_recoveries
        .push(since.elapsed());
    all_members(&stage, &names).await?;
    tell(format!("{killed} is back, and a member again"));

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
    let after = format!("all elsewhere after {frozen_ms} ms");
    show(&stage, &tell, &after).await?;
    sleeper.signal(Signal::SIGCONT);
    nodes.put_back(&frozen, sleeper);
    all_members(&stage, &names).await?;
    tell(format!(
        "{frozen} goes on, finds that the others went on without it, stops its agents, and is a \
         member again"
    ));

    let drained = names[rng.random_range(0..names.len())].clone();
    rebalance(&stage, &agents, names.len()).await?;
    show(&stage, &tell, "evened out").await?;
    pause(&mut rng).await;
    tell(format!("{drained} is drained"));
    let since = Instant::now();
    let order = format!("/v1/cluster/nodes/{drained}/drain");
    post(&stage, &order, &json!({})).await?;
    map(&stage, without(&drained), "drained").await?;
    let drained_ms = millis(since);
    let after = format!("all elsewhere after {drained_ms} ms");
    show(&stage, &tell, &after).await?;
    let order = format!("/v1/cluster/nodes/{drained}/release");
    post(&stage, &order, &json!({})).await?;

    tell("no more disturbances; waiting for what is left".to_owned());
    for (_, stage) in own.values() {
        settle(stage, &mut work).await?;
    }
    let running = map(&stage, everywhere, "running").await?;
    let mut ledger = Ledger::default();
    let stopping = std::mem::take(&mut nodes.running);
    for node in stopping.values() {
        node.signal(Signal::SIGTERM);
    }
    for (name, node) in stopping {
        let status = node.ended(Duration::from_secs(30)).await?;
        if !status.success() {
            let complaint = format!("the orderly stop of {name} ended with {status}");
            ledger.complaints.push(complaint);
        }
    }
    // Agents do what waits at other nodes, too.
    let dirs = nodes.launches.values().map(|launch| &launch.data_dir);
    let traces = dirs.map(|dir| read(&dir.join("rehearsal.trace")));
    let trace: String = traces.collect();
    for (name, launch) in &nodes.launches {
        let mut dir = DataDir::open(&launch.data_dir)?;
        let store = Store::Sqlite(Sqlite::open(&mut dir).await?);
        let log = read_log(&read(&launch.log()));
        let witnessed = std::mem::take(&mut *own[name].1.witnessed.lock());
        let of_node = Ledger::settle(script.seed, &witnessed, &log, &trace, &store).await?;
        ledger.add(of_node);
    }
    let dirs = nodes.launches.values().map(|launch| &*launch.data_dir);
    let (acts, mut stale) = acts(dirs);
    tell(format!(
        "agents acted {acts} times, {} times under an epoch after a later one",
        stale.len()
    ));
    ledger.doubled += stale.len() as u64;
    ledger.complaints.append(&mut stale);
    Ok(Accounts {
        ledger,
        agents: agents.len() as u64,
        agents_running: running.len() as u64,
        killed_ms,
        frozen_ms,
        drained_ms,
    })
}

/// How each node is started, with addresses that nobody uses.
fn launches(script: &Script, names: &[String]) -> std::io::Result<BTreeMap<String, Launch>> {
    let secret = script.data_dir.join("secret");
    // Lives as long as the rehearsal, and is known to nobody else.
    std::fs::write(
        &secret,
        format!("{:x}{:x}", rand::random::<u128>(), rand::random::<u128>()),
    )?;
    let mut addresses = Vec::new();
    for _ in names {
        let udp = UdpSocket::bind("127.0.0.1:0")?;
        let address = udp.local_addr()?;
        let tcp = TcpListener::bind(address)?;
        addresses.push((address, udp, tcp));
    }
    let seeds: Vec<String> = addresses.iter().map(|(at, ..)| at.to_string()).collect();
    let launch =
        |(name, (address, ..)): (&String, &(std::net::SocketAddr, UdpSocket, TcpListener))| {
            let mut settings = super::cluster::settings(name);
            settings.extend([
                ("REGROW_CLUSTER__LISTEN", address.to_string()),
                ("REGROW_CLUSTER__SEEDS", seeds.join(",")),
                ("REGROW_CLUSTER__SECRET_FILE", secret.display().to_string()),
                ("REGROW_CLUSTER__FOUNDERS", names.join(",")),
            ]);
            let data_dir = script.data_dir.join(name);
            (name.clone(), Launch { data_dir, settings })
        };
    Ok(names.iter().zip(&addresses).map(launch).collect())
}

/// Waits until every node is a member that is heard: the next disturbance may then cost one.
async fn all_members(stage: &Stage, names: &[String]) -> Result<(), ClusterError> {
    let mut seen = String::new();
    let there = async {
        loop {
            let nodes = stage.get("/v1/cluster/nodes").await.unwrap_or_default();
            let listed = nodes["nodes"].as_array().into_iter().flatten();
            let heard = listed
                .filter(|node| node["life"].is_u64() && node["lease_left_ms"].as_u64() != Some(0));
            if heard.count() == names.len() {
                return;
            }
            seen = nodes.to_string();
            sleep(Duration::from_millis(50)).await;
        }
    };
    if timeout(MOVE_TIMEOUT, there).await.is_err() {
        let stuck = format!("not all nodes were members within {MOVE_TIMEOUT:?}: {seen}");
        return Err(ClusterError::Stuck(stuck));
    }
    Ok(())
}

/// Waits until everything that a node acknowledged has ended.
async fn settle(stage: &Stage, work: &mut JoinSet<()>) -> Result<(), ClusterError> {
    let over = async {
        while work.join_next().await.is_some() {}
        let acknowledged = stage.witnessed.lock().acknowledged.clone();
        for id in acknowledged.into_values().flatten() {
            let path = format!("/v1/tasks/{id}?wait_ms=1000");
            loop {
                let task = stage.get(&path).await.unwrap_or_default();
                let state = task["state"].as_str().and_then(|state| state.parse().ok());
                let state: Option<regrow_runtime::queue::task::TaskState> = state;
                if state.is_some_and(regrow_runtime::queue::task::TaskState::is_terminal) {
                    break;
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
    };
    timeout(SETTLE_TIMEOUT, over)
        .await
        .map_err(|_| CrashError::NotSettled("tasks of a node".to_owned()).into())
}

/// What agents did on all nodes: how often, and what they did under an epoch after somebody
/// had acted under a later one.
fn acts<'a>(dirs: impl Iterator<Item = &'a Path>) -> (usize, Vec<String>) {
    let mut acts: Vec<(u64, String, u64)> = Vec::new();
    for dir in dirs {
        for line in read(&dir.join("rehearsal.acts")).lines() {
            let mut words = line.split(' ').skip(1);
            let act = (|| {
                let (agent, epoch) = (words.next()?, words.next()?.parse().ok()?);
                Some((words.next()?.parse().ok()?, agent.to_owned(), epoch))
            })();
            acts.extend(act);
        }
    }
    acts.sort();
    let mut latest: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut stale = Vec::new();
    for (at, agent, epoch) in &acts {
        let before = latest.entry(agent).or_insert((*epoch, *at));
        // The processes' clocks are of one machine, and read in whole milliseconds.
        if *epoch < before.0 && before.1 + 2 < *at {
            stale.push(format!(
                "{agent} acted under {epoch} at {at}, after {before:?}"
            ));
        }
        *before = (*before).max((*epoch, *at));
    }
    (acts.len(), stale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_act_under_an_epoch_after_a_later_one_is_found() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        for node in [&one, &other] {
            std::fs::create_dir(node).expect("created");
        }
        let acted = |node: &Path, lines: &str| {
            std::fs::write(node.join("rehearsal.acts"), lines).expect("written");
        };
        acted(&one, "acted x 1 100\nacted x 1 200\nacted y 1 900\n");
        acted(&other, "acted x 2 300\nacted x 2 400\n");
        let counted = || acts([&*one, &*other].into_iter());
        assert_eq!(counted(), (5, Vec::new()));
        acted(&one, "acted x 1 100\nacted x 1 350\n");
        assert_eq!(counted().1.len(), 1);
    }
}
