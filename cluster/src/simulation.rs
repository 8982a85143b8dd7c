//! A whole cluster in one thread, from a seed (pure).
//!
//! A world is a handful of [`Node`](crate::node::Node)s with clocks that run wrongly, a
//! network that loses, doubles, delays, overtakes and parts, disks that may be lost, and a
//! database or none. Nodes crash, stand still and come back; agents are handed over,
//! quarantined, stopped and started in between. Nodes offer labels and taints, which may be others
//! after a restart, and agents ask for some. After every event each invariant that must
//! *never* be broken is checked; when the faults have stopped, the world has to come to rest
//! with everything owned. The same options give the same trace, event by event.
//!
//! What carries the nodes (sockets, actors, disks) is not in here; that is tested by killing
//! real processes.

mod clock;
mod faults;
pub mod gossip;
mod invariants;
mod network;
mod offers;
mod process;
mod trace;
mod world;

use std::collections::BTreeMap;

use serde::Serialize;

pub use self::faults::Fault;
use self::world::World;
use crate::node::AuthorityKind;

/// A deliberate mistake, to see that it is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sabotage {
    /// None: the nodes as they are.
    #[default]
    Nothing,
    /// The database lets effects through whatever their epoch.
    NoFencing,
    /// That a node is heard again ends its quarantine (what SCR does).
    QuarantineClearedByUp,
    /// The target of a hand-off runs the agent as soon as it has the snapshot.
    HandOffWithoutCommit,
    /// Survivors start agents as soon as their claim is accepted.
    NoMargin,
    /// A change of an agent is acknowledged as soon as whoever decides about it has written it.
    AcknowledgedUnheard,
    /// A holder goes on for 1.5 s after its lease ran out.
    LongTrust,
    /// What a node offered in its first life counts for all later ones.
    StaleOffers,
}

/// Which world to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Options {
    /// Decides everything that is not said here.
    pub seed: u64,
    /// How many nodes; 3 to 5 by the seed if unset. Fewer than 1 are 1, more than 9 are 9.
    pub nodes: Option<usize>,
    /// Events while faults happen, at least 1; afterwards the world has to come to rest.
    pub steps: u64,
    /// With or without a database; by the seed if unset.
    #[serde(skip)]
    pub authority: Option<AuthorityKind>,
    /// What to break.
    pub sabotage: Sabotage,
}

impl Options {
    /// A world of the seed, with nothing broken.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self {
            seed,
            nodes: None,
            steps: 3_000,
            authority: None,
            sabotage: Sabotage::Nothing,
        }
    }
}

/// What was broken, where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The invariant, by the name of its file.
    pub invariant: &'static str,
    /// After which event.
    pub step: u64,
    /// At which true time, in milliseconds.
    pub at_ms: u64,
    /// Who did what.
    pub detail: String,
}

/// What a world came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// How many nodes it had.
    pub nodes: usize,
    /// Whether it had a database.
    pub database: bool,
    /// Events in all, the time after the faults included.
    pub events: u64,
    /// True time that passed, in milliseconds.
    pub simulated_ms: u64,
    /// FNV-1a over every event: the same options give the same hash.
    pub trace: String,
    /// Faults that happened, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Effects that were let through.
    pub effects: u64,
    /// Effects that were refused as stale.
    pub refused: u64,
    /// How often an agent began to run somewhere.
    pub starts: u64,
    /// Tasks that were acknowledged.
    pub acknowledged: u64,
    /// How long after the last fault everything was owned and at rest, in milliseconds.
    pub recovered_ms: Option<u64>,
    /// The first broken invariant, if any. The world stopped there.
    pub violation: Option<Violation>,
}

/// Runs one world to its end.
#[must_use]
pub fn run(options: &Options) -> Report {
    let steps = options.steps.max(1);
    World::new(&Options { steps, ..*options }).run()
}

#[cfg(test)]
mod tests;
