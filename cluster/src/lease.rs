//! The right to act until a deadline, without comparing clocks (pure).
//!
//! Whoever *holds* counts from before it asked: the answer was given later, so the truth is
//! never shorter than what it believes. Whoever wants to *take* counts from after it last saw
//! a sign of the holder. Both count on their own clock; all that is assumed of clocks is that
//! none runs faster or slower than true time by more than `drift_ppm`. With that the holder
//! has stopped before its right can be taken (Gray and Cheriton, "Leases", SOSP 1989).
//!
//! A deadline cannot help a process that is stopped between looking at its clock and acting.
//! What must not happen even then is fenced by epoch where the effect lands: see
//! [`ownership`](crate::ownership).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::local_time::{LocalTime, millis};

/// Rounds of asking that may be under way at once; the answer to an older one counts for
/// nothing.
const ROUNDS_MAX: usize = 32;

/// How long leases last, and how far clocks may be off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTerms {
    /// How long a holder may act after it last asked, on its own clock. Longer bears longer
    /// silences; shorter makes a dead holder's work available sooner.
    pub term: Duration,
    /// How long before the end a holder stops, so that what it is doing ends in time.
    pub stop_within: Duration,
    /// By how much a clock may run faster or slower than true time, in parts per million.
    /// Quartz is within 200; the default of 10,000 (1 %) also bears machines that are slewed.
    pub drift_ppm: u32,
}

impl Default for LeaseTerms {
    fn default() -> Self {
        Self {
            term: Duration::from_secs(2),
            stop_within: Duration::from_millis(200),
            drift_ppm: 10_000,
        }
    }
}

impl LeaseTerms {
    /// Until when a holder may act that asked at `asked_at` and was answered.
    #[must_use]
    pub fn holder_until(&self, asked_at: LocalTime) -> LocalTime {
        asked_at.after(self.term.saturating_sub(self.stop_within))
    }

    /// How long whoever takes must have seen no sign of the holder.
    ///
    /// At least `term * (1 + drift) / (1 - drift)`: the holder's clock may be the slowest
    /// that is allowed, and the taker's the fastest. Two milliseconds more, since both
    /// clocks are read in whole ones.
    #[must_use]
    pub fn takeover_after(&self) -> Duration {
        let drift = u64::from(self.drift_ppm.min(999_999));
        let term = millis(self.term).saturating_mul(1_000_000 + drift);
        Duration::from_millis(term.div_ceil(1_000_000 - drift) + 2)
    }
}

/// The holder's side: whom it asked when, and who answered.
///
/// `V` names whoever can answer: the one database, or each member of a cluster without one.
#[derive(Clone, Debug)]
pub struct Holder<V> {
    terms: LeaseTerms,
    /// Rounds that were asked, oldest first.
    rounds: VecDeque<(u64, LocalTime)>,
    next_round: u64,
    /// When the latest round was asked that each has answered.
    answered: BTreeMap<V, LocalTime>,
    until: Option<LocalTime>,
}

impl<V: Ord + Clone> Holder<V> {
    /// Holds nothing.
    #[must_use]
    pub fn new(terms: LeaseTerms) -> Self {
        Self {
            terms,
            rounds: VecDeque::new(),
            next_round: 0,
            answered: BTreeMap::new(),
            until: None,
        }
    }

    /// Begins a round at `now`, which is read before anything is sent. The number goes with
    /// the question and comes back with each answer.
    pub fn ask(&mut self, now: LocalTime) -> u64 {
        let round = self.next_round;
        self.next_round += 1;
        if self.rounds.len() == ROUNDS_MAX {
            self.rounds.pop_front();
        }
        self.rounds.push_back((round, now));
        round
    }

    /// `by` answered `round` with consent; `enough` says whether those for whom it is given a
    /// test are a quorum. Repeated and late answers do no harm.
    pub fn answered(&mut self, by: &V, round: u64, enough: impl Fn(&dyn Fn(&V) -> bool) -> bool) {
        let Some(&(_, asked_at)) = self.rounds.iter().find(|(number, _)| *number == round) else {
            return;
        };
        let latest = self.answered.entry(by.clone()).or_insert(asked_at);
        *latest = asked_at.max(*latest);
        self.recount(enough);
    }

    /// Whether those who answered since the latest [`Holder::forget_answers`] are enough.
    pub fn has_quorum(&self, enough: impl Fn(&dyn Fn(&V) -> bool) -> bool) -> bool {
        enough(&|voter| self.answered.contains_key(voter))
    }

    /// Until when its holder may act; the past if it does not hold.
    #[must_use]
    pub fn until(&self) -> Option<LocalTime> {
        self.until
    }

    /// Whether its holder may act at `now`. To be asked before each effect.
    #[must_use]
    pub fn may_act(&self, now: LocalTime) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// What was answered counts no more for what comes; what is held lasts to its end.
    pub fn forget_answers(&mut self) {
        self.answered.clear();
        self.rounds.clear();
    }

    /// Holds nothing any more, at once.
    pub fn give_up(&mut self) {
        self.forget_answers();
        self.until = None;
    }

    /// The latest instant at or after which enough of them were asked and have answered.
    fn recount(&mut self, enough: impl Fn(&dyn Fn(&V) -> bool) -> bool) {
        let mut asked: Vec<LocalTime> = self.answered.values().copied().collect();
        asked.sort_unstable_by(|one, other| other.cmp(one));
        let quorum = asked
            .into_iter()
            .find(|since| enough(&|voter| self.answered.get(voter).is_some_and(|at| since <= at)));
        if let Some(asked_at) = quorum {
            self.until = self.until.max(Some(self.terms.holder_until(asked_at)));
        }
    }
}

/// The taker's side: since when no sign of a holder was seen.
///
/// A sign is a change of its `renewals`, a number that each renewal raises.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    renewals: u64,
    unchanged_since: LocalTime,
}

impl Watch {
    /// Begins to watch; `now` is read after the row was.
    #[must_use]
    pub fn new(renewals: u64, now: LocalTime) -> Self {
        Self {
            renewals,
            unchanged_since: now,
        }
    }

    /// The row was read again; `now` is read after it was.
    pub fn see(&mut self, renewals: u64, now: LocalTime) {
        if self.renewals != renewals {
            *self = Self::new(renewals, now);
        }
    }

    /// The renewals after which to end the holder's right, if it may be ended at `now`. To
    /// be compared and set where the row is: a renewal in between saves the holder.
    #[must_use]
    pub fn may_take(&self, terms: &LeaseTerms, now: LocalTime) -> Option<u64> {
        let silent = now.since(self.unchanged_since);
        (terms.takeover_after() <= silent).then_some(self.renewals)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a clock shows at true time `at`, in microseconds; `ppm` is its error.
    fn reading(at: u64, ppm: i64, origin: u64) -> LocalTime {
        let rate = u64::try_from(1_000_000 + ppm).expect("less than 100 %");
        LocalTime(origin + at * rate / 1_000_000 / 1_000)
    }

    fn one(test: &dyn Fn(&()) -> bool) -> bool {
        test(&())
    }

    #[test]
    fn a_lease_counts_from_the_question_and_not_from_the_answer() {
        let terms = LeaseTerms::default();
        let mut holder = Holder::new(terms);
        let round = holder.ask(LocalTime(1_000));
        assert!(!holder.may_act(LocalTime(1_000)));
        holder.answered(&(), round, one);
        assert!(holder.may_act(LocalTime(2_799)));
        assert!(!holder.may_act(LocalTime(2_800)));
    }

    #[test]
    fn a_quorum_is_as_old_as_the_oldest_answer_that_it_needs() {
        let mut holder = Holder::new(LeaseTerms::default());
        let two_of_three = |test: &dyn Fn(&u8) -> bool| 2 <= (0..3).filter(|v| test(v)).count();
        let first = holder.ask(LocalTime(0));
        let second = holder.ask(LocalTime(500));
        holder.answered(&0, second, two_of_three);
        assert_eq!(holder.until(), None);
        holder.answered(&1, first, two_of_three);
        assert_eq!(holder.until(), Some(LocalTime(1_800)));
        holder.answered(&2, second, two_of_three);
        assert_eq!(holder.until(), Some(LocalTime(2_300)));
    }

    #[test]
    fn forgetting_answers_keeps_what_is_held_and_giving_up_does_not() {
        let mut holder = Holder::new(LeaseTerms::default());
        let round = holder.ask(LocalTime(0));
        holder.answered(&(), round, one);
        holder.forget_answers();
        holder.answered(&(), round, one);
        assert!(!holder.has_quorum(one));
        assert!(holder.may_act(LocalTime(1_000)));
        holder.give_up();
        assert!(!holder.may_act(LocalTime(0)));
    }

    #[test]
    fn a_renewal_starts_the_watch_anew() {
        let terms = LeaseTerms::default();
        let after = u64::try_from(terms.takeover_after().as_millis()).expect("short");
        let mut watch = Watch::new(7, LocalTime(0));
        assert_eq!(watch.may_take(&terms, LocalTime(after - 1)), None);
        assert_eq!(watch.may_take(&terms, LocalTime(after)), Some(7));
        watch.see(8, LocalTime(after));
        assert_eq!(watch.may_take(&terms, LocalTime(after)), None);
    }

    proptest! {
        /// True times in microseconds: the holder asks, the table answers later, the taker
        /// reads the row later still. Clocks run as wrongly as is allowed, from any origin.
        #[test]
        fn the_holder_has_stopped_before_its_lease_can_be_taken(
            term_ms in 10_u64..20_000,
            drift in 0_u32..300_000,
            holder_ppm in -1.0_f64..=1.0,
            taker_ppm in -1.0_f64..=1.0,
            asked in 0_u64..5_000_000,
            travel in 0_u64..5_000_000,
            origins in (0_u64..1_000_000, 0_u64..1_000_000),
        ) {
            let terms = LeaseTerms {
                term: Duration::from_millis(term_ms),
                stop_within: Duration::ZERO,
                drift_ppm: drift,
            };
            let ppm = |part: f64| (part * f64::from(drift)) as i64;
            let mut holder = Holder::new(terms);
            let round = holder.ask(reading(asked, ppm(holder_ppm), origins.0));
            holder.answered(&(), round, one);
            let seen_at = asked + travel;
            let watch = Watch::new(1, reading(seen_at, ppm(taker_ppm), origins.1));
            // Every true instant at which both are of the opinion that they may.
            let length = term_ms * 4_000;
            for step in 0..400 {
                let at = seen_at + step * length / 400;
                let acts = holder.may_act(reading(at, ppm(holder_ppm), origins.0));
                let takes = watch
                    .may_take(&terms, reading(at, ppm(taker_ppm), origins.1))
                    .is_some();
                prop_assert!(!(acts && takes), "at {at} us");
            }
        }
    }
}
