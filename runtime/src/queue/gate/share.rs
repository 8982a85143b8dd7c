//! What this node was allotted of the gates that nodes on one database share (pure).
//!
//! See [`allotment`](crate::queue::allotment): here stands what the node's memory counts on,
//! and what follows from who waits at a gate: what to ask for, and what to give back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{GateKey, Gates};
use crate::clock::Timestamp;
use crate::queue::allotment::{Answer, PoolKey, Terms, Wish};
use crate::queue::rules::Rules;

/// Units that nobody here uses go back after this long; at once, if others stand in line.
const IDLE: Duration = Duration::from_secs(2);
/// While others stand in line: how long whoever was granted units goes on with them before the
/// next one's turn, and how long after that his equal share is kept for the next task. For
/// tasks that wait at another gate, too: every node asks for a task's gates in the same order,
/// so that no two wait for each other for longer.
const TURN: Duration = Duration::from_millis(50);
/// Gates in one transaction at most.
pub(crate) const WISHES_MAX: usize = 256;

/// This node's part of a pool.
#[derive(Debug, Default)]
struct Share {
    /// What was allotted: slots, held or free; or permits that are not used yet.
    units: u64,
    /// Permits used since the pool was told.
    used: u64,
    used_at: Timestamp,
    granted_at: Timestamp,
    /// Units came back since the last look; when that was seen last.
    returned: bool,
    active_at: Timestamp,
    /// Since when more is free than anybody here needs.
    idle_since: Option<Timestamp>,
    /// Others stood in line when last heard.
    contended: bool,
    sharers: u64,
    /// It stands in line itself.
    waits: bool,
}

/// This node's part of all pools.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    by_pool: BTreeMap<PoolKey, Share>,
    /// Gates where something happened.
    needy: BTreeSet<GateKey>,
    /// Gates that asked in vain, and ask again after a while.
    waiting: BTreeSet<GateKey>,
}

/// What waits at a gate, as far as somebody here claims tasks of its kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Demand {
    /// Units that would pass it now.
    pub(crate) units: u64,
    /// Units of tasks that wait at a later one of their gates.
    pub(crate) later: u64,
    /// What the first of those needs who wait because it is closed; 0 if nobody does.
    pub(crate) first: u64,
}

impl Shares {
    /// Units of a pool that may be given out, held ones included.
    pub(super) fn allotted(&self, gate: &GateKey, terms: &Terms) -> u64 {
        let pool = PoolKey {
            refills: terms.refills(),
            gate: gate.clone(),
        };
        self.by_pool.get(&pool).map_or(0, |share| share.units)
    }

    /// Permits were used.
    pub(super) fn use_up(&mut self, gate: &GateKey, units: u64, now: Timestamp) {
        let pool = PoolKey {
            refills: true,
            gate: gate.clone(),
        };
        if let Some(share) = self.by_pool.get_mut(&pool) {
            debug_assert!(units <= share.units, "only what is free is taken");
            share.units = share.units.saturating_sub(units);
            share.used = share.used.saturating_add(units);
            share.used_at = now;
        }
    }

    /// Something happened at a gate after which it may need or give back units.
    pub(super) fn touch(&mut self, gate: &GateKey) {
        if !self.needy.contains(gate) && !self.waiting.contains(gate) {
            self.needy.insert(gate.clone());
        }
    }

    /// Slots came back.
    pub(super) fn returned(&mut self, gate: &GateKey) {
        let pool = PoolKey {
            refills: false,
            gate: gate.clone(),
        };
        if let Some(share) = self.by_pool.get_mut(&pool) {
            share.returned = true;
            if share.contended {
                self.touch(gate);
            }
        }
    }

    /// Others stand in line at these pools.
    fn contend(&mut self, pools: &BTreeSet<PoolKey>) {
        for (pool, share) in &mut self.by_pool {
            share.contended = pools.contains(pool);
            if share.contended {
                share.sharers = share.sharers.max(2);
            }
        }
    }
}

impl Gates {
    /// From here on this node gives out only what it was allotted.
    pub(crate) fn share(&mut self) {
        self.shares.get_or_insert_default();
    }

    /// Whether nodes share these gates.
    pub(crate) fn are_shared(&self) -> bool {
        self.shares.is_some()
    }

    /// Goes on with what an older memory of this node was allotted.
    pub(crate) fn keep_shares(&mut self, old: &mut Self) {
        self.shares = old.shares.take();
        let Some(shares) = &mut self.shares else {
            return;
        };
        let gates: Vec<GateKey> = shares
            .by_pool
            .keys()
            .map(|pool| pool.gate.clone())
            .collect();
        shares.needy.extend(gates);
    }

    /// Gates that may have something to ask or to give back.
    pub(crate) fn is_needy(&self) -> bool {
        let needy = self.shares.as_ref().map(|shares| !shares.needy.is_empty());
        needy.unwrap_or_default()
    }

    /// Every gate of which this node has units is looked at, for those that became idle, and
    /// every one at which tasks wait. Others stand in line at `contended`.
    pub(crate) fn look_around(&mut self, contended: &BTreeSet<PoolKey>) {
        if let Some(shares) = &mut self.shares {
            shares.contend(contended);
            let gates = shares.by_pool.keys().map(|pool| pool.gate.clone());
            let gates: Vec<GateKey> = gates.collect();
            shares.needy.extend(gates);
        }
        self.look_at_crowds();
    }

    /// Tasks may be claimed now that were not before.
    pub(crate) fn look_at_crowds(&mut self) {
        if let Some(shares) = &mut self.shares {
            let crowded = self.gates.iter().filter(|(_, gate)| 0 < gate.parked);
            shares.needy.extend(crowded.map(|(key, _)| key.clone()));
        }
    }

    /// The pools of which this node has units.
    pub(crate) fn pools(&self) -> Vec<PoolKey> {
        let shares = self.shares.as_ref();
        shares.map_or_else(Vec::new, |shares| shares.by_pool.keys().cloned().collect())
    }

    /// Others stand in line where this node has units.
    pub(crate) fn are_contended(&self) -> bool {
        let shares = self.shares.as_ref();
        shares.is_some_and(|shares| shares.by_pool.values().any(|share| share.contended))
    }

    /// Some of the gates where something happened, which have to be looked at now.
    pub(crate) fn needy(&mut self) -> Vec<GateKey> {
        let Some(shares) = &mut self.shares else {
            return Vec::new();
        };
        let mut needy = std::mem::take(&mut shares.waiting);
        needy.append(&mut shares.needy);
        let mut needy = needy.into_iter();
        let first = needy.by_ref().take(WISHES_MAX).collect();
        shares.needy = needy.collect();
        first
    }

    /// What to tell the pools of a gate, if there is anything. What goes back is taken off at
    /// once; what was used is told once, unless it is [told again](Self::untold).
    pub(crate) fn wishes(
        &mut self,
        gate: &GateKey,
        demand: Demand,
        rules: &Rules,
        now: Timestamp,
    ) -> Vec<Wish> {
        let terms = Terms::of(gate.discipline(rules));
        let held = self.gates.get(gate).map_or(0, |gate| gate.held);
        let Some(shares) = &mut self.shares else {
            return Vec::new();
        };
        let mut wishes = Vec::new();
        for refills in [false, true] {
            let pool = PoolKey {
                refills,
                gate: gate.clone(),
            };
            let current = terms.filter(|terms| terms.refills() == refills);
            let Some(share) = shares.by_pool.get_mut(&pool) else {
                let Some(terms) = current.filter(|_| 0 < demand.first) else {
                    continue;
                };
                let held = if refills { 0 } else { held };
                shares.by_pool.insert(pool.clone(), Share::default());
                wishes.push(wish(pool, terms, 0, held, demand));
                continue;
            };
            let Some(terms) = current else {
                // Nothing limits it any more, or in another way: all of it goes back.
                let back = share.units;
                shares.by_pool.remove(&pool);
                let terms = Terms::Slots(0);
                let nothing = wish(pool, terms, 0, 0, Demand::default());
                wishes.push(Wish { back, ..nothing });
                continue;
            };
            let held = if refills { 0 } else { held };
            let keep = share.keep(&terms, held, demand, now);
            let back = share.units - keep;
            share.units = keep;
            let mut wish = wish(pool, terms, keep, held, demand);
            if wish.least == 0 && back == 0 && !(share.contended && 0 < share.used) {
                if keep == 0 && share.used == 0 {
                    shares.by_pool.remove(&wish.pool);
                }
                continue;
            }
            wish.back = back;
            wish.again = share.waits;
            wish.used = std::mem::take(&mut share.used);
            wish.used_ago = now.since(share.used_at);
            wishes.push(wish);
        }
        wishes
    }

    /// A wish came to nothing, or nobody knows.
    pub(crate) fn untold(&mut self, wish: &Wish, now: Timestamp) {
        if let Some(shares) = &mut self.shares {
            if 0 < wish.used
                && let Some(share) = shares.by_pool.get_mut(&wish.pool)
            {
                share.used = share.used.saturating_add(wish.used);
                share.used_at = now;
            }
            shares.needy.insert(wish.pool.gate.clone());
        }
    }

    /// What became of a wish. True if there are more units now.
    pub(crate) fn answered(&mut self, wish: &Wish, answer: &Answer, now: Timestamp) -> bool {
        let Some(shares) = &mut self.shares else {
            return false;
        };
        if let Some(share) = shares.by_pool.get_mut(&wish.pool) {
            share.contended = answer.contended;
            share.sharers = answer.sharers;
            share.waits = answer.granted == 0 && 0 < wish.least;
            share.idle_since = None;
            if 0 < answer.granted {
                share.units = share.units.saturating_add(answer.granted);
                share.granted_at = now;
            }
        } else if 0 < answer.granted {
            // The rules changed meanwhile: it goes back at the next look.
            let share = Share {
                units: answer.granted,
                ..Share::default()
            };
            shares.by_pool.insert(wish.pool.clone(), share);
        }
        if answer.granted == 0 && 0 < wish.least {
            shares.waiting.insert(wish.pool.gate.clone());
        }
        0 < answer.granted
    }
}

impl Share {
    /// How much of the allotment is kept.
    fn keep(&mut self, terms: &Terms, held: u64, demand: Demand, now: Timestamp) -> u64 {
        let held = held.min(self.units);
        let free = self.units - held;
        if std::mem::take(&mut self.returned) {
            self.active_at = now;
        }
        let useful = demand.units.saturating_add(demand.later);
        if self.contended {
            self.idle_since = None;
            let active_at = self.active_at.max(self.used_at);
            let useful = if now.since(self.granted_at) < TURN {
                useful
            } else if now.since(active_at) < TURN {
                let fair = terms.total() / self.sharers.max(1);
                let useful = useful.min(fair.saturating_sub(held));
                // Who needs more than an equal share waits for his turn in the line of all.
                if useful < demand.first { 0 } else { useful }
            } else {
                0
            };
            return held + free.min(useful);
        }
        if free <= useful {
            self.idle_since = None;
            return self.units;
        }
        let since = *self.idle_since.get_or_insert(now);
        if now.since(since) < IDLE {
            return self.units;
        }
        self.idle_since = None;
        held + useful
    }
}

/// Asks for what the first needs who waits, for the rest of those, and for a share of what
/// may come.
fn wish(pool: PoolKey, terms: Terms, keep: u64, held: u64, demand: Demand) -> Wish {
    let wanted = held.saturating_add(demand.first);
    let least = if demand.first == 0 {
        0
    } else {
        wanted.saturating_sub(keep)
    };
    let ahead = if pool.refills { 0 } else { held / 4 };
    let most = held.saturating_add(demand.units).saturating_add(ahead);
    let most = most.min(terms.total()).saturating_sub(keep).max(least);
    Wish {
        pool,
        terms,
        keep,
        back: 0,
        used: 0,
        used_ago: Duration::ZERO,
        least,
        most: if least == 0 { 0 } else { most },
        again: false,
    }
}
