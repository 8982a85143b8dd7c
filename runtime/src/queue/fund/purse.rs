//! What this node's memory knows of its part of a fund (pure).

use super::{Draw, Drawn, EARMARKED, IDLE, Standing, limited, total};
use crate::clock::Timestamp;
use crate::queue::budget::{Amounts, Limits, Period, Scope, Unit};

/// See the module above.
#[derive(Clone, Debug, Default)]
pub(crate) struct Purse {
    /// What may have been spent and set aside at most, since this life began.
    allowed: Amounts,
    /// What was spent.
    charged: Amounts,
    heard: Standing,
    /// Others wait who could get something.
    contended: bool,
    /// The last ask was in vain.
    waits: bool,
    /// What was drawn for tasks that wait here, and when.
    earmarked: (Amounts, Timestamp),
    /// When something was set aside or spent.
    used_at: Timestamp,
    /// The row may say more than this memory counts on.
    untold: bool,
    /// The limits changed: what is not used goes back, whatever they were.
    recalled: bool,
    /// When the fund was last heard of.
    heard_at: Option<Timestamp>,
}

/// Pause between two looks at a fund that cannot give what is needed.
const LOOK: std::time::Duration = std::time::Duration::from_secs(1);

impl Purse {
    /// Goes on with what was spent as it is stored.
    pub(crate) fn resume(&mut self, charged: Amounts) {
        self.charged = charged;
        self.untold = true;
    }

    /// What this life has spent.
    pub(crate) fn charged(&self) -> Amounts {
        self.charged
    }

    /// Something was spent.
    pub(crate) fn charge(&mut self, amounts: Amounts, now: Timestamp) {
        self.charged = self.charged.plus(amounts);
        self.used_at = now;
    }

    /// Something was set aside.
    pub(crate) fn touch(&mut self, now: Timestamp) {
        self.used_at = now;
    }

    /// What was drawn for tasks that wait here: it is not given back at once.
    pub(crate) fn earmark(&mut self, needs: Amounts, now: Timestamp) {
        self.earmarked = (needs, now);
    }

    /// The limits are others now.
    pub(crate) fn recall(&mut self, limits: Limits, period: Option<Period>) {
        self.heard.limits = limits;
        self.heard.period = period;
        self.recalled = true;
    }

    /// Others wait who could get something, or do not any more.
    pub(crate) fn contend(&mut self, contended: bool) {
        self.contended = contended;
    }

    /// What is missing here to set aside `needs` beside what is.
    pub(crate) fn lacks(&self, reserved: Amounts, needs: Amounts) -> Amounts {
        let used = self.used(reserved);
        let lacks = used.plus(needs).minus(self.allowed);
        limited(&self.heard.limits, needed(needs, lacks))
    }

    fn used(&self, reserved: Amounts) -> Amounts {
        self.charged.plus(reserved)
    }

    /// What all lives have spent since the fund counts, as far as it is known here.
    pub(crate) fn spent(&self) -> Amounts {
        let own = self.charged.minus(self.heard.base);
        self.heard.spent_beside.plus(own)
    }

    /// What is set aside here, or may be spent elsewhere.
    pub(crate) fn set_aside(&self, reserved: Amounts) -> Amounts {
        limited(&self.heard.limits, self.heard.kept_beside).plus(reserved)
    }

    /// What could be there for `needs`, if everything came back that is not spent and not set
    /// aside here.
    pub(crate) fn may_come(&self, reserved: Amounts, needs: Amounts) -> bool {
        let used = self.spent().plus(reserved).plus(needs);
        let limits = &self.heard.limits;
        limited(limits, used).fits(total(limits, self.heard.granted))
    }

    /// Something may have to be told or asked before long: what the fund says, or what is left.
    pub(crate) fn is_at_rest(&self, reserved: Amounts) -> bool {
        let left = self.allowed.minus(self.used(reserved));
        reserved.is_zero() && left.is_zero() && !self.untold && !self.recalled && !self.waits
    }

    /// There is more than is used here.
    pub(crate) fn has_more(&self, reserved: Amounts) -> bool {
        !self.allowed.minus(self.used(reserved)).is_zero()
    }

    /// What to tell the fund for whoever needs `needs` now; nothing if it is here. What goes
    /// back is not counted on any more.
    pub(crate) fn ask(&mut self, scope: &Scope, reserved: Amounts, needs: Amounts) -> Option<Draw> {
        let lacks = self.lacks(reserved, needs);
        if lacks.is_zero() {
            return None;
        }
        // Who waits keeps nothing he does not use.
        let mut draw = self.keeping(scope, reserved, Amounts::ZERO);
        let lacks = self.used(reserved).plus(needs).minus(draw.keep);
        draw.least = limited(&self.heard.limits, needed(needs, lacks));
        draw.again = self.waits;
        Some(draw)
    }

    /// What to tell the fund by itself: `needs` is what the first of those needs who wait here
    /// and could get it, if it is not here; `waiting` if anybody waits.
    pub(crate) fn look(
        &mut self,
        scope: &Scope,
        reserved: Amounts,
        needs: Amounts,
        waiting: bool,
        now: Timestamp,
    ) -> Option<Draw> {
        if let Some(draw) = self.ask(scope, reserved, needs) {
            return Some(draw);
        }
        // What was set aside without room: since others spent more than they had set aside,
        // or before there was a limit.
        let covered = self.allowed.at_least(self.charged);
        let owed = limited(&self.heard.limits, self.used(reserved).minus(covered));
        let old = self.heard_at.is_none_or(|at| LOOK <= now.since(at));
        if !owed.is_zero() && (old || !self.waits) {
            let mut draw = self.keeping(scope, reserved, Amounts::ZERO);
            draw.least = owed;
            draw.again = self.waits;
            return Some(draw);
        }
        let (promised, at) = self.earmarked;
        let promised = if now.since(at) < EARMARKED {
            promised
        } else {
            Amounts::ZERO
        };
        let more = self.has_more(reserved);
        let back = if self.recalled {
            Some(Amounts::ZERO)
        } else if self.contended || IDLE <= now.since(self.used_at) {
            Some(promised)
        } else {
            None
        };
        if let Some(promised) = back.filter(|_| more) {
            let draw = self.keeping(scope, reserved, promised);
            if draw.settled_first {
                return Some(draw);
            }
        }
        self.recalled &= waiting;
        let period = self.heard.period;
        let over = period.is_some_and(|period| period.end(self.heard.since) <= now);
        if self.untold || self.recalled || (old && (waiting || over)) {
            return Some(self.tell(scope, reserved));
        }
        None
    }

    /// Tells the fund what is kept, all of it.
    pub(crate) fn tell(&mut self, scope: &Scope, reserved: Amounts) -> Draw {
        self.keeping(scope, reserved, Amounts::MAX)
    }

    /// Keeps what is used, and `promised` of the rest.
    fn keeping(&mut self, scope: &Scope, reserved: Amounts, promised: Amounts) -> Draw {
        let before = self.allowed;
        self.allowed = before.at_most(self.used(reserved).plus(promised));
        let keep = self.allowed.at_least(self.charged);
        Draw {
            scope: scope.clone(),
            keep,
            owed: self.used(reserved).minus(keep),
            settled_first: self.allowed != before || !self.charged.fits(self.allowed),
            least: Amounts::ZERO,
            again: false,
        }
    }

    /// What became of a draw.
    pub(crate) fn answered(&mut self, draw: &Draw, drawn: &Drawn, now: Timestamp) {
        self.allowed = draw.keep.plus(drawn.granted);
        self.heard = drawn.standing;
        self.heard_at = Some(now);
        self.contended = drawn.contended;
        self.waits = !draw.least.fits(drawn.granted);
        if !drawn.granted.is_zero() {
            self.used_at = now;
        }
        self.untold = false;
        self.recalled = false;
    }

    /// Nobody knows what became of a draw.
    pub(crate) fn untold(&mut self) {
        self.untold = true;
    }
}

/// Of those units only of which something is needed.
fn needed(needs: Amounts, lacks: Amounts) -> Amounts {
    let units = Unit::ALL.into_iter().filter(|unit| 0 < needs.of(*unit));
    units.fold(Amounts::ZERO, |sum, unit| sum.with(unit, lacks.of(unit)))
}

#[cfg(test)]
impl Purse {
    pub(crate) fn allowed(&self) -> Amounts {
        self.allowed
    }
}
