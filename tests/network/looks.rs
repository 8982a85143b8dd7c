//! Looks at all nodes, one after the other, all the time: does an agent run on two at once?
//!
//! Two looks at two nodes are never at the same time. So an agent runs twice only if a node has it in
//! one life before and after a look at another node that has it, too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::{Cluster, Node};

/// Longest wait for a node that may be frozen.
const ANSWER: Duration = Duration::from_millis(250);
/// How long a node that was paused may take to look at the clock, on a machine that is busy.
const WAKING: Duration = Duration::from_secs(1);
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(15);

/// What was seen at one node; nothing if it did not answer.
type Look = BTreeMap<String, Value>;

/// What one node had at its latest look, and which agents were seen elsewhere since.
#[derive(Default)]
struct Latest {
    look: Look,
    elsewhere: BTreeSet<String>,
}

#[derive(Default)]
struct Found {
    looks: u64,
    twice: Vec<String>,
    /// How often an agent ran twice right after its node had been paused.
    waking: u64,
    woke_at: Option<Instant>,
}

/// Looks until it is dropped.
pub(crate) struct Looks {
    found: Arc<Mutex<Found>>,
    _looking: JoinSet<()>,
}

impl Looks {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let found = Arc::new(Mutex::default());
        let mut looking = JoinSet::new();
        looking.spawn(look(cluster.nodes.clone(), Arc::clone(&found)));
        Self {
            found,
            _looking: looking,
        }
    }

    /// A node goes on that was paused: it may run what is somebody else's until it looks at the
    /// clock, which nobody can keep it from. What that has for effects is for others to find.
    pub(crate) fn woke(&self) {
        self.found.lock().woke_at = Some(Instant::now());
    }

    /// Looks so far; what ran twice, in words; and how often it did right after a pause.
    pub(crate) fn so_far(&self) -> (u64, Vec<String>, u64) {
        let found = self.found.lock();
        (found.looks, found.twice.clone(), found.waking)
    }
}

async fn look(nodes: Vec<Arc<Node>>, found: Arc<Mutex<Found>>) {
    let mut latest: BTreeMap<String, Latest> = BTreeMap::new();
    loop {
        for node in &nodes {
            let running = timeout(ANSWER, node.running()).await;
            let running = running.ok().flatten().unwrap_or_default();
            let mut found = found.lock();
            found.looks += 1;
            let twice = note(&mut latest, &node.name, running);
            match found.woke_at.is_some_and(|at| at.elapsed() < WAKING) {
                true => found.waking += twice.len() as u64,
                false => found.twice.extend(twice),
            }
        }
        sleep(PAUSE).await;
    }
}

/// Takes a look into account (pure); returns what ran here all the while and elsewhere as well.
fn note(latest: &mut BTreeMap<String, Latest>, node: &str, look: Look) -> Vec<String> {
    for (other, known) in latest.iter_mut() {
        if other != node {
            known.elsewhere.extend(look.keys().cloned());
        }
    }
    let before = latest.remove(node).unwrap_or_default();
    let stayed = look
        .iter()
        .filter(|(id, life)| before.look.get(*id) == Some(life));
    let twice = stayed.filter(|(id, _)| before.elsewhere.contains(*id));
    let twice = twice
        .map(|(id, _)| format!("{id} ran on {node} and elsewhere"))
        .collect();
    let now = Latest {
        look,
        elsewhere: BTreeSet::new(),
    };
    latest.insert(node.to_owned(), now);
    twice
}

/// What counts as running twice: part of the tests, as no run is to show it.
pub(crate) fn looks_tell_an_agent_that_runs_twice_from_one_that_moved() {
    let look = |lives: &[(&str, u64)]| -> Look {
        lives
            .iter()
            .map(|(id, life)| ((*id).to_owned(), Value::from(*life)))
            .collect()
    };
    let mut latest = BTreeMap::new();
    // It moves, and comes back as another life.
    assert_eq!(note(&mut latest, "a", look(&[("x", 1)])), [""; 0]);
    assert_eq!(note(&mut latest, "b", look(&[("x", 1)])), [""; 0]);
    assert_eq!(note(&mut latest, "a", look(&[])), [""; 0]);
    assert_eq!(note(&mut latest, "b", look(&[])), [""; 0]);
    assert_eq!(note(&mut latest, "a", look(&[("x", 2)])), [""; 0]);
    // It runs on b, and on a before and after.
    assert_eq!(note(&mut latest, "b", look(&[("x", 2)])), [""; 0]);
    let twice = note(&mut latest, "a", look(&[("x", 2)]));
    assert_eq!(twice, ["x ran on a and elsewhere"]);
}
