//! What membership costs as the cluster grows: chitchat's gossip, without its sockets.
//!
//! Each interval a node raises its heartbeat and talks to a few random peers; each talk is
//! three messages (what I know, what you lack of it and I lack, what you lack). So a node
//! sends as many messages in a cluster of a hundred as in one of ten; only messages grow, by
//! an entry per member. The rest of the simulator does not use this: nodes without a database
//! talk to everyone, since everyone has to consent.

use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use crate::detector::{Arrivals, DetectorConfig, Threshold};
use crate::local_time::{LocalTime, millis};

/// Which cluster to measure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GossipOptions {
    /// Decides who talks to whom.
    pub seed: u64,
    /// How many nodes.
    pub nodes: usize,
    /// To how many peers a node talks in each interval.
    pub fan_out: usize,
    /// How often.
    pub interval: Duration,
    /// How many intervals before one node dies, and again after.
    pub intervals: u64,
    /// Messages lost, in thousandths.
    pub lost_permille: u32,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GossipReport {
    /// Messages sent per node and second, in all three steps, while all nodes live.
    pub messages_per_node_per_second: f64,
    /// Entries in a message, on average.
    pub entries_per_message: f64,
    /// How long a fact took to every node that lives, at most, in milliseconds.
    pub spread_ms: u64,
    /// How long until every node suspected the dead one, in milliseconds; nothing if some
    /// never did.
    pub detected_ms: Option<u64>,
    /// Suspicions of nodes that lived.
    pub wrong_suspicions: u64,
}

/// One node's knowledge of the heartbeats of all.
struct Gossiper {
    heartbeats: Vec<u64>,
    arrivals: Vec<Arrivals>,
}

impl Gossiper {
    /// Takes in what is newer; returns how many entries that were.
    fn learn(&mut self, other: &[u64], config: &DetectorConfig, now: LocalTime) -> u64 {
        let mut learned = 0;
        for (n, heartbeat) in other.iter().enumerate() {
            if self.heartbeats[n] < *heartbeat {
                self.heartbeats[n] = *heartbeat;
                self.arrivals[n].heard(config, now);
                learned += 1;
            }
        }
        learned
    }
}

/// Runs a cluster, kills its last node half-way, and counts.
#[must_use]
pub fn measure(options: &GossipOptions) -> GossipReport {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(options.seed);
    let (count, interval) = (options.nodes.max(2), millis(options.interval).max(1));
    let config = DetectorConfig {
        initial_interval: options.interval,
        max_interval: options.interval * 20,
        ..DetectorConfig::default()
    };
    let threshold = Threshold::of(&config);
    let gossiper = |_| Gossiper {
        heartbeats: vec![0; count],
        arrivals: vec![Arrivals::new(LocalTime(0)); count],
    };
    let mut nodes: Vec<Gossiper> = (0..count).map(gossiper).collect();
    // Each node's interval begins at another time, as theirs do.
    let phases: Vec<u64> = (0..count).map(|_| rng.random_range(0..interval)).collect();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|n| phases[*n]);
    let (mut messages, mut entries, mut wrong) = (0_u64, 0_u64, 0_u64);
    let (dead, dies_at) = (count - 1, options.intervals);
    // The fact is the heartbeat that the first node raises when it is well under way.
    let mut fact: Option<(u64, u64)> = None;
    let (mut spread, mut detected) = (None, None);
    for round in 1..=options.intervals * 2 {
        for &n in &order {
            let now = LocalTime(round * interval + phases[n]);
            if n == dead && dies_at < round {
                continue;
            }
            nodes[n].heartbeats[n] += 1;
            if n == 0 && round == dies_at / 2 {
                fact = Some((nodes[0].heartbeats[0], now.0));
            }
            let peers = (0..count)
                .filter(|peer| *peer != n)
                .sample(&mut rng, options.fan_out);
            for peer in peers {
                let (sent, told) = talk(&mut nodes, n, peer, &config, now, &mut |rng_step| {
                    let gone = peer == dead && dies_at < round && 0 < rng_step;
                    gone || rng.random_range(0..1_000) < options.lost_permille
                });
                // Afterwards a node is missing among those who send.
                if round <= dies_at {
                    messages += sent;
                    entries += told;
                }
            }
        }
        let now = LocalTime(round * interval + interval);
        let living = || (0..count).filter(|n| *n != dead || round <= dies_at);
        if let (Some((heartbeat, at)), None) = (fact, spread)
            && living().all(|n| heartbeat <= nodes[n].heartbeats[0])
        {
            spread = Some(now.0 - at);
        }
        // Whoever has not been heard of for a while at the start is not suspected wrongly.
        if round < 10 {
            continue;
        }
        let suspects =
            |n: usize, other: usize| nodes[n].arrivals[other].suspect_at(&config, threshold) <= now;
        let others = |n: usize| living().filter(move |other| *other != n);
        wrong += living()
            .map(|n| others(n).filter(|m| suspects(n, *m)).count() as u64)
            .sum::<u64>();
        if dies_at < round && detected.is_none() && living().all(|n| suspects(n, dead)) {
            detected = Some(now.0 - (dies_at + 1) * interval);
        }
    }
    let seconds = (options.intervals * interval) as f64 / 1_000.0;
    GossipReport {
        messages_per_node_per_second: messages as f64 / count as f64 / seconds,
        entries_per_message: entries as f64 / messages.max(1) as f64,
        spread_ms: spread.unwrap_or(u64::MAX),
        detected_ms: detected,
        wrong_suspicions: wrong,
    }
}

/// One talk in three messages. Returns how many were sent, and with how many entries.
fn talk(
    nodes: &mut [Gossiper],
    from: usize,
    to: usize,
    config: &DetectorConfig,
    now: LocalTime,
    lost: &mut impl FnMut(u32) -> bool,
) -> (u64, u64) {
    // The first message names what is known: an entry for each.
    let mut entries = nodes[from].heartbeats.len() as u64;
    if lost(0) || lost(1) {
        return (1, entries);
    }
    let theirs = nodes[to].heartbeats.clone();
    let mine = nodes[from].heartbeats.clone();
    entries += theirs.len() as u64;
    if lost(1) {
        return (2, entries);
    }
    entries += nodes[from].learn(&theirs, config, now);
    if !lost(1) {
        nodes[to].learn(&mine, config, now);
    }
    (3, entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(nodes: usize) -> GossipReport {
        measure(&GossipOptions {
            seed: 1,
            nodes,
            fan_out: 3,
            interval: Duration::from_millis(500),
            intervals: 60,
            lost_permille: 10,
        })
    }

    #[test]
    fn a_node_of_a_hundred_sends_no_more_messages_than_one_of_ten() {
        let reports = [10, 30, 100].map(of);
        for report in reports {
            println!("{report:?}");
            // Three talks of three messages each half second are 18, less what is lost.
            assert!(
                (report.messages_per_node_per_second - 17.5).abs() < 0.6,
                "{report:?}"
            );
            assert_eq!(report.wrong_suspicions, 0, "{report:?}");
        }
        let [ten, _, hundred] = reports;
        assert!(hundred.spread_ms <= 3_000, "{hundred:?}");
        assert!(ten.detected_ms.is_some_and(|ms| ms <= 5_000), "{ten:?}");
        assert!(
            hundred.detected_ms.is_some_and(|ms| ms <= 8_000),
            "{hundred:?}"
        );
    }
}
