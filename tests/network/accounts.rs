//! The accounts of a run: what was promised, held against the store, the traces of what ran, and
//! what the database saw.

use std::time::Duration;

use regrow_runtime::ids::TaskId;
use regrow_runtime::queue::task::{TaskEventKind, TaskState};
use regrow_runtime::store::data_dir::DataDir;
use regrow_runtime::store::sqlite::Sqlite;
use regrow_runtime::store::{Store, StoreError};

use super::cluster::Cluster;
use super::ledger::{Ledger, Logged, Witnessed};
use super::quorum;
use super::witness::{Seen, open};

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Accounts {
    pub(crate) ledger: Ledger,
    pub(crate) seen: Seen,
    pub(crate) looks: u64,
    /// Agents that were seen on two nodes at once.
    pub(crate) twice: Vec<String>,
    /// How often one was right after its node had been paused.
    pub(crate) waking: u64,
    /// From each disturbance until all agents ran elsewhere, or again.
    pub(crate) recoveries: Vec<Duration>,
    /// Nodes that ended by themselves and were started again, with their exit codes.
    pub(crate) restarted: Vec<(String, Option<i32>)>,
}

/// The files of nodes that have no database.
async fn files(cluster: &Cluster) -> Vec<Store> {
    let mut stores = Vec::new();
    for node in &cluster.nodes {
        let mut dir = DataDir::open(&node.dir).expect("the node has ended");
        let file = Sqlite::open(&mut dir).await.expect("a sound file");
        stores.push(Store::Sqlite(file));
    }
    stores
}

/// Where a task was done, and as what: a message goes from file to file after its agent, and ends
/// in each as it ended in the next.
async fn follow(mut id: TaskId, stores: &[Store]) -> Result<(usize, TaskId), StoreError> {
    let mut at = 0;
    loop {
        let mut log = Vec::new();
        for (number, store) in stores.iter().enumerate() {
            let found = store.events(id, 0, u32::MAX).await?;
            if !found.is_empty() {
                (at, log) = (number, found);
            }
        }
        // Leased after that, it was carried back and done here.
        let left = log.iter().rev().find_map(|line| {
            if line.kind == TaskEventKind::Leased {
                return Some(None);
            }
            let taken = line.detail.as_deref()?.strip_prefix("taken by ")?;
            let is_left = line.kind == TaskEventKind::Carried;
            is_left.then(|| taken.rsplit(' ').next()?.parse().ok())
        });
        match left.flatten() {
            Some(next) if next != id => id = next,
            _ => return Ok((at, id)),
        }
    }
}

/// How many of these tasks have not completed where they were acknowledged.
async fn unheard(witnessed: &Witnessed, stores: &[Store]) -> Result<u64, StoreError> {
    let mut unheard = 0;
    for id in witnessed.acknowledged.values().flatten() {
        let mut completed = false;
        for store in stores {
            let view = store.task(*id).await?;
            completed |= view.is_some_and(|view| view.state() == TaskState::Completed);
        }
        unheard += u64::from(!completed);
    }
    Ok(unheard)
}

/// Each acknowledgement is held against the store in which its task ends.
async fn ledger(
    seed: u64,
    witnessed: &Witnessed,
    trace: &str,
    stores: &[Store],
) -> Result<Ledger, StoreError> {
    let mut shares: Vec<Witnessed> = stores.iter().map(|_| Witnessed::default()).collect();
    for (key, ids) in &witnessed.acknowledged {
        for id in ids {
            let (at, last) = follow(*id, stores).await?;
            let share = shares[at].acknowledged.entry(key.clone());
            share.or_default().push(last);
        }
    }
    let unheard = unheard(witnessed, stores).await?;
    let mut total = Ledger::default();
    for (share, store) in shares.iter().zip(stores) {
        let one = Ledger::settle(seed, share, &Logged::default(), trace, store).await?;
        total.seed = seed;
        total.acknowledged += one.acknowledged;
        total.completed += one.completed;
        total.lost += one.lost;
        total.doubled += one.doubled;
        total.rerun += one.rerun;
        total.steps_recorded += one.steps_recorded;
        total.steps_interrupted += one.steps_interrupted;
        total.complaints.extend(one.complaints);
    }
    if unheard != total.lost {
        let of = format!("{unheard} have no end where they were acknowledged");
        total.complaints.push(of);
    }
    Ok(total)
}

impl Accounts {
    /// Settles, when the nodes have stopped.
    pub(crate) async fn settle(
        seed: u64,
        cluster: &Cluster,
        witnessed: &Witnessed,
        looks: (u64, Vec<String>, u64),
        recoveries: Vec<Duration>,
        restarted: Vec<(String, Option<i32>)>,
    ) -> Self {
        let mut trace = String::new();
        for node in &cluster.nodes {
            let file = node.dir.join("rehearsal.trace");
            trace.push_str(&std::fs::read_to_string(file).unwrap_or_default());
        }
        let (stores, seen) = match &cluster.database {
            Some(database) => (vec![open(&database.schema).await], database.seen().await),
            None => (files(cluster).await, quorum::seen(cluster)),
        };
        let ledger = ledger(seed, witnessed, &trace, &stores).await;
        Self {
            ledger: ledger.expect("the stores are readable"),
            seen,
            looks: looks.0,
            twice: looks.1,
            waking: looks.2,
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
        assert!(10 < seen.effects, "{seen:?}");
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
             looks, {} in two places and {} right after a pause; {taken_over} lives taken over, {} nodes ended by themselves; \
             recovered after {millis:?} ms",
            self.looks,
            self.twice.len(),
            self.waking,
            self.restarted.len(),
        )
    }
}
