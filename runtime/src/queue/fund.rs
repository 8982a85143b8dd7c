//! Budgets that nodes on one database share: what each may spend by itself (pure).
//!
//! Escrow (O'Neil, "The escrow transactional method", TODS 1986), as for gates
//! ([`allotment`](super::allotment)). A budget is a *fund*: a row with the limits. Each life
//! has a *purse* of it: how much it may have spent, counted from the beginning of the life and
//! never taken back below what it has spent or set aside. A node reserves against its purse in
//! memory, and writes what it has spent into a row of its own in the transaction of the
//! effect. Purses are filled and emptied in small transactions beside that.
//!
//! Everything a life counts only grows, so nothing has to be reset at one moment on all nodes.
//! A period ends when the first exchange behind its end notes what each life had spent by
//! then (its *base*); purses go on with what they have, which counts against the new period.
//! So at any time
//!
//! ```text
//! spent by lives that are gone + sum of (max(allowed, charged) - base)  <=  limit + granted
//! ```
//!
//! unless a step cost more than was set aside for it, or a limit was lowered below what is
//! out: then nothing is given until it holds again. The left side is never less than what was
//! spent and is set aside, for a memory never counts on more than its row says: a purse is
//! made smaller in memory before the row says so, and larger after.
//!
//! A life that has ended keeps its purse until its heir has charged what was under way there
//! and says so; then what is left of it is free again.
//!
//! Whoever asks keeps nothing that he does not use while he waits, gets all he needs or
//! nothing, and others give back what they do not use while somebody waits who could get
//! it. So what is left cannot lie about in parts that help nobody.

pub(crate) mod purse;
#[cfg(test)]
mod tests;

use std::time::Duration;

use super::allotment::ASKED_WITHIN;
use super::budget::{Amounts, BudgetRow, Limits, Period, Scope, Unit};
use crate::clock::Timestamp;

/// What a life tells a fund, and asks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Draw {
    pub(crate) scope: Scope,
    /// How much it may have spent at most, since it began.
    pub(crate) keep: Amounts,
    /// It follows from charges that have to be durable before others hear of it.
    pub(crate) settled_first: bool,
    /// What it has set aside besides, since it charged what an ended life had under way: it
    /// gets so much of what that one leaves behind.
    pub(crate) owed: Amounts,
    /// What it needs on top of that, at least; zero asks for nothing.
    pub(crate) least: Amounts,
    /// It asked before in vain.
    pub(crate) again: bool,
}

/// How a fund stands for one life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) limits: Limits,
    pub(crate) period: Option<Period>,
    /// Since when it counts.
    pub(crate) since: Timestamp,
    pub(crate) granted: Amounts,
    /// What other lives spent since then.
    pub(crate) spent_beside: Amounts,
    /// What other lives may still spend.
    pub(crate) kept_beside: Amounts,
    /// What this life had spent before.
    pub(crate) base: Amounts,
    /// What nobody was given.
    pub(crate) free: Amounts,
}

/// What became of a draw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drawn {
    /// What it may spend on top of what it kept.
    pub(crate) granted: Amounts,
    /// Others wait who could get something.
    pub(crate) contended: bool,
    pub(crate) standing: Standing,
}

/// A life's part of a fund.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) life: i64,
    /// What it may have spent at most, since it began.
    pub(crate) allowed: Amounts,
    /// What it has spent, since it began; written by nobody but itself.
    pub(crate) charged: Amounts,
    /// What of that an earlier period counts.
    pub(crate) base: Amounts,
    /// What it needs and has not got; zero when it does not wait.
    pub(crate) wanted: Amounts,
    /// Since when it waits, by the database's clock.
    pub(crate) since: Timestamp,
    /// When it last asked.
    pub(crate) at: Timestamp,
    /// The life has not ended.
    pub(crate) lives: bool,
    /// It has ended, and whatever it had under way was charged by its heir.
    pub(crate) settled: bool,
}

impl Holder {
    /// What it has spent and may spend, of what the present period counts.
    fn taken(&self) -> Amounts {
        self.allowed.at_least(self.charged).minus(self.base)
    }

    fn waits(&self, now: Timestamp) -> bool {
        self.lives && !self.wanted.is_zero() && now.since(self.at) <= ASKED_WITHIN
    }
}

/// A fund as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fund {
    /// `spent`: by lives whose purses are gone.
    pub(crate) row: BudgetRow,
    pub(crate) holders: Vec<Holder>,
}

impl Fund {
    /// Applies the draw of `life` at `now`, by the database's clock.
    pub(crate) fn exchange(&mut self, life: i64, draw: &Draw, now: Timestamp) -> Drawn {
        self.roll(now);
        let mut left = Amounts::ZERO;
        for gone in self.holders.extract_if(.., |holder| holder.settled) {
            left = left.plus(gone.allowed.minus(gone.charged));
            let spent = gone.charged.minus(gone.base);
            self.row.spent = self.row.spent.plus(spent);
        }
        let own = self.holders.iter().position(|holder| holder.life == life);
        let own = own.map(|own| self.holders.swap_remove(own));
        let mut own = own.unwrap_or_default();
        own.life = life;
        own.lives = true;
        // It may have got that before, and not heard of it.
        left = left.plus(own.allowed.minus(draw.keep));
        own.allowed = draw.keep;
        let others = || self.holders.iter();
        let sum = |of: &dyn Fn(&Holder) -> Amounts| {
            others().fold(Amounts::ZERO, |sum, holder| sum.plus(of(holder)))
        };
        let spent_beside = sum(&|one| one.charged.minus(one.base)).plus(self.row.spent);
        let kept_beside = sum(&|one| one.allowed.minus(one.charged));
        let taken = spent_beside.plus(kept_beside).plus(own.taken());
        let free = self.total().minus(taken);
        let waited = own.waits(now);
        let since = if waited { own.since } else { now };
        let mut line: Vec<&Holder> = others().filter(|one| one.waits(now)).collect();
        let contended = !line.is_empty();
        // Earlier ones who can be served now are: they ask again in a moment. One that cannot
        // holds up nobody.
        line.retain(|one| (one.since, one.life) < (since, life));
        line.sort_unstable_by_key(|one| (one.since, one.life));
        let spare = line.iter().fold(free, |spare, one| {
            if one.wanted.fits(spare) {
                spare.minus(one.wanted)
            } else {
                spare
            }
        });
        let least = self.limited(draw.least);
        let asks = !least.is_zero();
        let granted = if !asks || !least.fits(spare) {
            Amounts::ZERO
        } else if contended {
            least
        } else {
            let sharers = 1 + others().filter(|one| one.lives).count() as u64;
            // Halves, so that exchanges are few while there is much, and exact at the end.
            self.limited(least.at_least(spare.divided_by(2 * sharers)))
        };
        let served = !granted.is_zero();
        let granted = granted.at_least(self.limited(draw.owed.at_most(left)));
        own.allowed = own.allowed.plus(granted);
        // Who needs more than could ever come back does not keep others from using it.
        let possible = least.fits(free.plus(kept_beside));
        let waits = asks && !served && possible;
        own.wanted = if waits { least } else { Amounts::ZERO };
        (own.since, own.at) = (since, now);
        let standing = Standing {
            limits: self.row.limits,
            period: self.row.period,
            since: self.row.since,
            granted: self.row.granted,
            spent_beside,
            kept_beside,
            base: own.base,
            free: free.minus(granted),
        };
        self.holders.push(own);
        Drawn {
            granted,
            contended,
            standing,
        }
    }

    /// Counts from zero if another period has begun: what lives may still spend stays, and
    /// counts in this one.
    pub(crate) fn roll(&mut self, now: Timestamp) {
        let Some(period) = self.row.period else {
            return;
        };
        if now < period.end(self.row.since) {
            return;
        }
        self.row.since = period.start(now);
        self.row.spent = Amounts::ZERO;
        self.row.granted = Amounts::ZERO;
        let mut out = Amounts::ZERO;
        for holder in &mut self.holders {
            holder.base = holder.charged;
            out = out.plus(holder.taken());
        }
        // What was granted and is out is not taken back.
        self.row.granted = self.limited(out.minus(self.total()));
    }

    /// What was spent since it counts.
    pub(crate) fn spent(&self) -> Amounts {
        let holders = self.holders.iter();
        holders.fold(self.row.spent, |sum, holder| {
            sum.plus(holder.charged.minus(holder.base))
        })
    }

    /// The limits and what was granted; of a unit without a limit, everything.
    fn total(&self) -> Amounts {
        total(&self.row.limits, self.row.granted)
    }

    /// Nothing of units that are not limited.
    fn limited(&self, amounts: Amounts) -> Amounts {
        limited(&self.row.limits, amounts)
    }
}

pub(crate) fn total(limits: &Limits, granted: Amounts) -> Amounts {
    Unit::ALL.into_iter().fold(Amounts::ZERO, |sum, unit| {
        let limit = limits
            .of(unit)
            .map_or(u64::MAX, |limit| limit.saturating_add(granted.of(unit)));
        sum.with(unit, limit)
    })
}

pub(crate) fn limited(limits: &Limits, amounts: Amounts) -> Amounts {
    let limited = Unit::ALL
        .into_iter()
        .filter(|unit| limits.of(*unit).is_some());
    limited.fold(Amounts::ZERO, |sum, unit| sum.with(unit, amounts.of(unit)))
}

/// What nodes tell each other of a fund: its limits, and how much this life has spent.
#[derive(Clone, Debug)]
pub struct FundNews {
    /// `spent` is of lives that are gone.
    pub(crate) row: BudgetRow,
    /// Grows with each change of the limits.
    pub(crate) version: i64,
    /// What this life had spent by then, since it began; `None` where that is not read, and
    /// memory knows.
    pub(crate) charged: Option<Amounts>,
}

/// What this life has spent of a fund since it began; of several for one scope the last counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChargeRow {
    /// Whose fund.
    pub scope: Scope,
    /// All of it.
    pub charged: Amounts,
}

/// What a person grants on top of a fund's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRow {
    /// Whose fund.
    pub scope: Scope,
    /// How much more.
    pub more: Amounts,
}

/// Purses that nobody uses are emptied after this long; at once, if others wait.
pub(crate) const IDLE: Duration = Duration::from_secs(2);
/// What was drawn for tasks that wait is kept for them this long while others wait.
pub(crate) const EARMARKED: Duration = Duration::from_secs(1);
/// Funds in one transaction at most.
pub(crate) const DRAWS_MAX: usize = 256;
