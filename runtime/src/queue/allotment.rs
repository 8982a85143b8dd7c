//! Units that nodes on one database share: what each may give out by itself (pure).
//!
//! Escrow (O'Neil, "The escrow transactional method", TODS 1986): the shared *pool* knows
//! what there is, and each node's life holds an *allotment* of it, taken and given back in
//! small transactions of its own. A node decides in its memory and gives out only what it was
//! allotted, so the allotments bound what all nodes give out together.
//!
//! A node never counts on more than its row in the database says: units are taken off its
//! memory before they are given back, and added after they were granted. Whatever becomes of
//! a transaction or a node, no unit is there twice.
//!
//! Slots are free again once their allotment is; those of a life that ended are free at once,
//! for its leases are lost with it. Units that refill are a [`Meter`] of what was used up,
//! and permits on top of it that were allotted and not used yet: since permits count against
//! the meter's level until their use is reported, in whatever span of `d` all nodes together
//! start at most `burst + d * units / period`. Permits of a life that ended count as used.
//!
//! Whoever does not get what he needs stays in the pool's line: later ones leave enough for
//! the earlier ones, and nobody gets a part that helps nobody. Meanwhile those who hold units
//! they do not use give them back, and nobody keeps more than an equal share.

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::gate::{Discipline, GateKey, Meter};
use super::rules::Rate;
use crate::clock::Timestamp;

/// Whoever has not asked again for so long stands in line no more.
pub(crate) const ASKED_WITHIN: Duration = Duration::from_secs(3);

/// How the units of a pool come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Terms {
    /// So many, each held while a task executes.
    Slots(u64),
    /// Used up by a start.
    Refill(Rate),
}

impl Terms {
    /// The terms of a gate, unless nothing limits it.
    pub(crate) fn of(discipline: Discipline<'_>) -> Option<Self> {
        match discipline {
            Discipline::Open => None,
            Discipline::Held(slots) => Some(Self::Slots(slots)),
            Discipline::Refill(rate) => Some(Self::Refill(*rate)),
        }
    }

    pub(crate) fn refills(&self) -> bool {
        matches!(self, Self::Refill(_))
    }

    /// Units that there may be at once.
    pub(crate) fn total(&self) -> u64 {
        match self {
            Self::Slots(slots) => *slots,
            Self::Refill(rate) => rate.burst,
        }
    }
}

/// A pool's name. Slots and units that refill are never one pool, also where the rules turn
/// the one into the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PoolKey {
    pub(crate) refills: bool,
    pub(crate) gate: GateKey,
}

/// What the name of every pool of slots begins with.
pub(crate) const SLOTS: &str = "slots/";

impl PoolKey {
    /// As it is stored.
    pub(crate) fn name(&self) -> String {
        let gate = self.gate.name();
        if self.refills {
            format!("refill/{gate}")
        } else {
            format!("{SLOTS}{gate}")
        }
    }
}

/// What a life tells a pool, and asks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) pool: PoolKey,
    pub(crate) terms: Terms,
    /// What it keeps of its allotment.
    pub(crate) keep: u64,
    /// What goes back.
    pub(crate) back: u64,
    /// Permits it has used since it last said so.
    pub(crate) used: u64,
    /// How long ago the last of them was used at least.
    pub(crate) used_ago: Duration,
    /// The fewest further units that help; 0 asks for none.
    pub(crate) least: u64,
    /// The most that are of use.
    pub(crate) most: u64,
    /// It asked before in vain.
    pub(crate) again: bool,
}

/// What became of a wish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Units that were granted on top of what was kept.
    pub(crate) granted: u64,
    /// Others stand in line.
    pub(crate) contended: bool,
    /// Lives that hold units or stand in line, this one included.
    pub(crate) sharers: u64,
    /// When there may be enough by the passing of time alone.
    pub(crate) opens_in: Option<Duration>,
}

/// A life's part of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) life: i64,
    /// Its allotment.
    pub(crate) units: u64,
    /// What it needs and has not got; 0 when it does not stand in line.
    pub(crate) wanted: u64,
    /// Since when it stands in line, by the database's clock.
    pub(crate) since: Timestamp,
    /// When it last asked.
    pub(crate) at: Timestamp,
    /// The life has not ended.
    pub(crate) lives: bool,
}

impl Holder {
    pub(crate) fn stands_in_line(&self, now: Timestamp) -> bool {
        self.lives && 0 < self.wanted && now.since(self.at) <= ASKED_WITHIN
    }
}

/// A pool as the database has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    pub(crate) meter: Meter,
    pub(crate) holders: Vec<Holder>,
}

impl Pool {
    /// Applies the wish of `life` at `now`, by the database's clock.
    pub(crate) fn exchange(&mut self, life: i64, wish: &Wish, now: Timestamp) -> Answer {
        self.bury(&wish.terms, now);
        if let Terms::Refill(rate) = &wish.terms {
            let ago = u64::try_from(wish.used_ago.as_millis()).unwrap_or(u64::MAX);
            let at = Timestamp(now.0.saturating_sub(ago));
            self.meter.charge(rate, wish.used, at);
        }
        let own = self.holders.iter().position(|holder| holder.life == life);
        let own = own.map(|own| self.holders.swap_remove(own));
        let waited = own.filter(|own| own.stands_in_line(now));
        let since = waited.map_or(now, |own| own.since);
        let taken = self.holders.iter().map(|holder| holder.units);
        let taken = taken.fold(wish.keep, u64::saturating_add);
        let line = self.holders.iter().filter(|one| one.stands_in_line(now));
        let earlier = line
            .clone()
            .filter(|one| (one.since, one.life) < (since, life));
        let promised = earlier.map(|one| one.wanted).fold(0, u64::saturating_add);
        let contended = line.count() != 0;
        let shares = |one: &&Holder| 0 < one.units || one.stands_in_line(now);
        let sharers = 1 + self.holders.iter().filter(shares).count() as u64;
        let free = self
            .level(&wish.terms, now)
            .saturating_sub(taken.saturating_add(promised));
        let fair = (wish.terms.total() / sharers).saturating_sub(wish.keep);
        let most = if contended {
            wish.most.min(fair).max(wish.least)
        } else {
            wish.most.max(wish.least)
        };
        let granted = if 0 < wish.least && wish.least <= free {
            most.min(free)
        } else {
            0
        };
        let wanted = if granted == 0 { wish.least } else { 0 };
        let opens_in = match &wish.terms {
            Terms::Refill(rate) if 0 < wanted => {
                let needed = taken.saturating_add(promised).saturating_add(wanted);
                let opens_at = self.meter.opens_at(rate, needed, now);
                opens_at.map(|at| at.since(now))
            }
            Terms::Slots(_) | Terms::Refill(_) => None,
        };
        let units = wish.keep.saturating_add(granted);
        if 0 < units || 0 < wanted {
            self.holders.push(Holder {
                life,
                units,
                wanted,
                since,
                at: now,
                lives: true,
            });
        }
        Answer {
            granted,
            contended,
            sharers,
            opens_in,
        }
    }

    /// What lives that have ended held comes back, or counts as used.
    fn bury(&mut self, terms: &Terms, now: Timestamp) {
        for gone in self.holders.extract_if(.., |holder| !holder.lives) {
            if let Terms::Refill(rate) = terms {
                self.meter.charge(rate, gone.units, now);
            }
        }
    }

    fn level(&self, terms: &Terms, now: Timestamp) -> u64 {
        match terms {
            Terms::Slots(slots) => *slots,
            Terms::Refill(rate) => self.meter.level(rate, now),
        }
    }

    /// Nothing of it has to be kept.
    pub(crate) fn is_idle(&self, now: Timestamp) -> bool {
        self.holders.is_empty() && self.meter.is_full(now)
    }
}
