//! Is there an order of a task's calls that its rules allow?
//!
//! The search of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993), with
//! Lowe's memory of what was tried ("Testing for linearizability", 2017).

use std::collections::HashSet;
use std::time::Duration;

/// Since the run began.
pub(crate) type Moment = Duration;

/// What a call asked for, and what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Submitted,
    /// Got a lease that lasts until `until` unless it is renewed.
    Claimed {
        epoch: u64,
        until: Moment,
    },
    Renewed {
        epoch: u64,
        until: Moment,
    },
    Completed {
        epoch: u64,
    },
    /// Handed back, or failed with another attempt to come.
    GivenUp {
        epoch: u64,
    },
    /// Anything that was refused as stale.
    Refused {
        epoch: u64,
    },
}

/// A call of one client on one task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) began: Moment,
    pub(crate) ended: Moment,
    pub(crate) call: Call,
}

/// How a task stands by its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stand {
    Unknown,
    /// Waits; the latest lease had this epoch.
    Free(u64),
    Leased {
        epoch: u64,
        until: Moment,
    },
    Completed(u64),
}

/// Leases are given and end by a clock of whole milliseconds.
const GRAIN: Duration = Duration::from_millis(2);

impl Stand {
    /// How the task stands after `call`, or `None` if the call could not be told that.
    fn after(self, call: Call) -> Option<Self> {
        match (self, call) {
            (Self::Unknown, Call::Submitted) => Some(Self::Free(0)),
            (Self::Free(before), Call::Claimed { epoch, until }) if before < epoch => {
                Some(Self::Leased { epoch, until })
            }
            (Self::Leased { epoch, .. }, Call::Renewed { epoch: of, until }) if epoch == of => {
                Some(Self::Leased { epoch, until })
            }
            (
                Self::Leased { epoch, .. } | Self::Completed(epoch),
                Call::Completed { epoch: of },
            ) if epoch == of => Some(Self::Completed(epoch)),
            (Self::Leased { epoch, .. }, Call::GivenUp { epoch: of }) if epoch == of => {
                Some(Self::Free(epoch))
            }
            (Self::Free(_) | Self::Completed(_), Call::Refused { .. }) => Some(self),
            (Self::Leased { epoch, .. }, Call::Refused { epoch: of }) if epoch != of => Some(self),
            _ => None,
        }
    }
}

/// Looks for an order; says how the longest attempt ended if there is none.
pub(crate) fn check(history: &[Operation]) -> Result<(), String> {
    assert!(history.len() <= 128, "{} calls on one task", history.len());
    let mut search = Search {
        history,
        tried: HashSet::new(),
        longest: Vec::new(),
        order: Vec::new(),
    };
    if search.extend(0, Stand::Unknown, Moment::ZERO) {
        return Ok(());
    }
    let told: Vec<String> = history.iter().map(|one| format!("{one:?}")).collect();
    let longest: Vec<Call> = search.longest.iter().map(|i| history[*i].call).collect();
    Err(format!(
        "no order explains\n  {}\nthe longest that could be begun: {longest:?}",
        told.join("\n  ")
    ))
}

struct Search<'a> {
    history: &'a [Operation],
    tried: HashSet<(u128, Stand)>,
    longest: Vec<usize>,
    order: Vec<usize>,
}

impl Search<'_> {
    /// Places the calls that are not in `placed` yet, none of them before `now`.
    fn extend(&mut self, placed: u128, stand: Stand, now: Moment) -> bool {
        if self.longest.len() < self.order.len() {
            self.longest.clone_from(&self.order);
        }
        if placed.count_ones() as usize == self.history.len() {
            return true;
        }
        if !self.tried.insert((placed, stand)) {
            return false;
        }
        let open = |i: &usize| placed & (1 << i) == 0;
        // Whatever comes next is placed before the first of the others ends.
        let first_end = (0..self.history.len())
            .filter(open)
            .map(|i| self.history[i].ended)
            .min()
            .unwrap_or(Moment::MAX);
        for i in (0..self.history.len()).filter(open) {
            let Operation { began, ended, call } = self.history[i];
            if first_end < began {
                continue;
            }
            let at = now.max(began);
            let mut stands = vec![(stand, at)];
            if let Stand::Leased { epoch, until } = stand
                && until <= ended + GRAIN
            {
                // The lease may have run out before this call took effect.
                let at = at.max(until.saturating_sub(GRAIN));
                stands.push((Stand::Free(epoch), at));
            }
            for (stand, at) in stands {
                let Some(after) = stand.after(call).filter(|_| at <= ended + GRAIN) else {
                    continue;
                };
                self.order.push(i);
                if self.extend(placed | 1 << i, after, at.min(ended)) {
                    return true;
                }
                self.order.pop();
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls as (began, ended, call), in milliseconds.
    type Calls<'a> = &'a [(u64, u64, Call)];

    fn history(calls: Calls<'_>) -> Vec<Operation> {
        let moment = Duration::from_millis;
        calls
            .iter()
            .map(|(began, ended, call)| Operation {
                began: moment(*began),
                ended: moment(*ended),
                call: *call,
            })
            .collect()
    }

    fn claimed(epoch: u64, until: u64) -> Call {
        let until = Duration::from_millis(until);
        Call::Claimed { epoch, until }
    }

    #[test]
    fn what_the_rules_allow_passes() {
        let lost_and_done = [
            (0, 10, Call::Submitted),
            (20, 21, claimed(5, 50)),
            (70, 71, claimed(6, 170)),
            (75, 80, Call::Refused { epoch: 5 }),
            (75, 90, Call::Completed { epoch: 6 }),
            (95, 99, Call::Completed { epoch: 6 }),
        ];
        check(&history(&lost_and_done)).expect("allowed");
        let begun_together = [
            (0, 10, Call::Submitted),
            (5, 12, claimed(5, 100)),
            (11, 40, Call::GivenUp { epoch: 5 }),
            (12, 39, claimed(7, 100)),
            (20, 60, Call::Completed { epoch: 7 }),
        ];
        check(&history(&begun_together)).expect("allowed");
    }

    #[test]
    fn what_the_rules_forbid_is_found() {
        let begin = [(0, 10, Call::Submitted), (20, 21, claimed(5, 1_000))];
        let forbidden: [(&str, Calls<'_>); 7] = [
            ("two leases at once", &[(30, 31, claimed(6, 1_000))]),
            (
                "completed under two epochs",
                &[
                    (30, 31, Call::Completed { epoch: 5 }),
                    (30, 31, Call::Completed { epoch: 6 }),
                ],
            ),
            (
                "completed under a stale epoch",
                &[
                    (30, 31, Call::GivenUp { epoch: 5 }),
                    (40, 41, claimed(6, 1_000)),
                    (50, 51, Call::Completed { epoch: 5 }),
                ],
            ),
            (
                "leased after its end",
                &[
                    (30, 31, Call::Completed { epoch: 5 }),
                    (2_000, 2_001, claimed(6, 3_000)),
                ],
            ),
            (
                "an epoch twice",
                &[
                    (30, 31, Call::GivenUp { epoch: 5 }),
                    (40, 41, claimed(5, 1_000)),
                ],
            ),
            (
                "a lease that ended before its time",
                &[(30, 31, Call::Refused { epoch: 5 })],
            ),
            (
                "renewed, and given to another all the same",
                &[
                    (
                        30,
                        31,
                        Call::Renewed {
                            epoch: 5,
                            until: Duration::from_millis(2_000),
                        },
                    ),
                    (1_100, 1_101, claimed(6, 3_000)),
                ],
            ),
        ];
        for (what, calls) in forbidden {
            let calls = history(&[&begin[..], calls].concat());
            assert!(check(&calls).is_err(), "{what} passed");
        }
    }
}
