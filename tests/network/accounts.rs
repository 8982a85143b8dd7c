//! The accounts of a run: what was promised, held against the store, the traces of what ran, and
//! what the database saw.

use std::time::Duration;

use super::cluster::Cluster;
use super::ledger::{Ledger, Logged, Witnessed};
use super::witness::{Seen, open};

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Accounts {
    pub(crate) ledger: Ledger,
    pub(crate) seen: Seen,
    pub(crate) looks: u64,
    /// Agents that were seen on two nodes at once.
    pub(crate) twice: Vec<String>,
    /// From each disturbance until all agents ran elsewhere, or again.
    pub(crate) recoveries: Vec<Duration>,
    /// Nodes that ended by themselves and were started again, with their exit codes.
    pub(crate) restarted: Vec<(String, Option<i32>)>,
}

impl Accounts {
    /// Settles, when the nodes have stopped.
    pub(crate) async fn settle(
        seed: u64,
        cluster: &Cluster,
        witnessed: &Witnessed,
        looks: (u64, Vec<String>),
        recoveries: Vec<Duration>,
        restarted: Vec<(String, Option<i32>)>,
    ) -> Self {
        let mut trace = String::new();
        for node in &cluster.nodes {
            let file = node.dir.join("rehearsal.trace");
            trace.push_str(&std::fs::read_to_string(file).unwrap_or_default());
        }
        let store = open(&cluster.schema).await;
        let logged = Logged::default();
        let ledger = Ledger::settle(seed, witnessed, &logged, &trace, &store).await;
        Self {
            ledger: ledger.expect("the store is readable"),
            seen: cluster.witness.seen(&cluster.schema).await,
            looks: looks.0,
            twice: looks.1,
            recoveries,
            restarted,
        }
    }

    /// Nothing was lost, doubled, run again, stale, or in two places.
    pub(crate) fn assert_clean(&self) {
        let Self {
            ledger,
            seen,
            twice,
            ..
        } = self;
        assert!(ledger.is_clean(), "{ledger:#?}");
        let stale = (
            seen.after_the_end,
            seen.under_a_lower_epoch,
            seen.owners_replaced,
        );
        assert_eq!(stale, (0, 0, 0), "stale effects: {seen:?}");
        assert_eq!(*twice, [""; 0], "ran on two nodes at once");
        // A run in which nothing happened proves nothing.
        assert!(10 < ledger.acknowledged, "{ledger:?}");
        assert!((ledger.acknowledged as i64) < seen.effects, "{seen:?}");
    }

    pub(crate) fn tell(&self, scenario: &str) -> String {
        let Ledger {
            seed,
            acknowledged,
            lost,
            doubled,
            rerun,
            steps_interrupted,
            ..
        } = self.ledger;
        let Seen {
            effects,
            after_the_end,
            under_a_lower_epoch,
            taken_over,
            ..
        } = self.seen;
        let stale = after_the_end + under_a_lower_epoch;
        let millis: Vec<u128> = self.recoveries.iter().map(Duration::as_millis).collect();
        format!(
            "{scenario}: seed {seed}: {acknowledged} acknowledged, {lost} lost, {doubled} doubled, {rerun} \
             steps run again, {steps_interrupted} interrupted; {effects} effects, {stale} stale; {} \
             looks, {} in two places; {taken_over} lives taken over, {} nodes ended by themselves; \
             recovered after {millis:?} ms",
            self.looks,
            self.twice.len(),
            self.restarted.len(),
        )
    }
}
