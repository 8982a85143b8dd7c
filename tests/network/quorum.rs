//! What agents did where a quorum says whose they are: each leaves a line on its node's disk
//! whenever it claims a task or starts a step, with the epoch under which it acts and the time.
//!
//! All processes read the clock of one machine, in whole milliseconds.

use std::collections::BTreeMap;

use super::cluster::Cluster;
use super::witness::Seen;

/// An act of an agent.
struct Act {
    at: u64,
    agent: String,
    epoch: u64,
}

/// What the nodes' agents did, and what of it under an epoch after a later one had begun.
pub(crate) fn seen(cluster: &Cluster) -> Seen {
    let mut acts = Vec::new();
    for node in &cluster.nodes {
        let lines = std::fs::read_to_string(node.dir.join("rehearsal.acts"));
        acts.extend(lines.unwrap_or_default().lines().filter_map(read));
    }
    Seen {
        effects: i64::try_from(acts.len()).expect("a count"),
        after_the_end: stale(acts),
        ..Seen::default()
    }
}

/// A line such as `acted scout-1 3 1790000000000`.
fn read(line: &str) -> Option<Act> {
    let mut words = line.split(' ').skip(1);
    Some(Act {
        agent: words.next()?.to_owned(),
        epoch: words.next()?.parse().ok()?,
        at: words.next()?.parse().ok()?,
    })
}

fn stale(mut acts: Vec<Act>) -> i64 {
    acts.sort_by_key(|act| (act.at, act.epoch));
    // The latest epoch of each agent, and when it first acted under it.
    let mut latest: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut stale = 0;
    for act in acts {
        let known = latest.entry(act.agent).or_insert((act.epoch, act.at));
        if known.0 < act.epoch {
            *known = (act.epoch, act.at);
        }
        // In the same millisecond nobody can say who came first.
        stale += i64::from(act.epoch < known.0 && known.1 < act.at);
    }
    stale
}

/// What counts as stale: part of the tests, as no run is to show it.
pub(crate) fn an_act_under_an_epoch_after_a_later_one_is_stale() {
    let count = |lines: &[&str]| stale(lines.iter().filter_map(|line| read(line)).collect());
    assert_eq!(
        count(&[
            "acted a 1 10",
            "acted a 1 20",
            "acted a 2 30",
            "acted b 1 40"
        ]),
        0
    );
    assert_eq!(
        count(&[
            "acted a 2 30",
            "acted a 1 31",
            "acted a 1 29",
            "acted a 1 30"
        ]),
        1
    );
    assert_eq!(count(&["", "acted a", "acted a x 1"]), 0);
}
