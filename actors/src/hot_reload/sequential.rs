//! Tests that may be looked at after every observation.
//!
//! A p-value that is computed again after each outcome falls below any threshold sooner or later,
//! also where there is nothing to find. Here evidence is the capital of a gambler who bets, fairly
//! or at a disadvantage, on there being something: if there is nothing, the chance that he *ever*
//! multiplies his capital by 1/a is at most a (J. Ville, 1939). So a test that stops as soon as the
//! capital has been multiplied so much errs at a rate of at most a, whenever and however often it is
//! looked at, and wherever it is stopped.
//!
//! After G. Shafer, "Testing by betting", JRSS A 184 (2021), and I. Waudby-Smith and A. Ramdas,
//! "Estimating means of bounded random variables by betting", JRSS B 86 (2024).

use serde::{Deserialize, Serialize};

use crate::exact::Exact;

/// Shares of the capital that may be staked, as parts of what could be lost: several gamblers, for
/// large effects and for small ones, who pool what they have.
const STAKES: [f64; 6] = [0.5, 0.25, 0.12, 0.06, 0.03, 0.015];

/// Evidence that observations are, on average, above zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wager {
    /// The logarithm of each gambler's capital, who began with 1.
    capital: [Exact; STAKES.len()],
    /// The logarithm of the highest that their mean capital ever was.
    highest: Exact,
}

impl Default for Wager {
    fn default() -> Self {
        Self {
            capital: [Exact(0.0); STAKES.len()],
            highest: Exact(0.0),
        }
    }
}

impl Wager {
    /// Takes in an observation that is at least `-loss`. Where there is nothing to find its mean,
    /// given all that was seen before, is at most 0; `loss` was known before it was seen.
    pub fn observe(&mut self, observation: f64, loss: f64) {
        // Below that it would not be what it is said to be.
        let part = (observation / loss.max(f64::MIN_POSITIVE)).max(-1.0);
        for (Exact(capital), stake) in self.capital.iter_mut().zip(STAKES) {
            *capital += (stake * part).ln_1p();
        }
        self.highest.0 = self.highest.0.max(self.capital());
    }

    /// The logarithm of the mean capital.
    fn capital(&self) -> f64 {
        let most = self
            .capital
            .iter()
            .fold(f64::MIN, |most, one| most.max(one.0));
        let parts: f64 = self.capital.iter().map(|one| (one.0 - most).exp()).sum();
        most + (parts / STAKES.len() as f64).ln()
    }

    /// Whether the evidence was ever so strong that it is wrong at most at this rate.
    #[must_use]
    pub fn convinces(&self, error_rate: f64) -> bool {
        -error_rate.ln() <= self.highest.0
    }

    /// The rate at which evidence as strong as the strongest so far is wrong: an always-valid
    /// p-value, 1 before there is any.
    #[must_use]
    pub fn doubt(&self) -> f64 {
        (-self.highest.0).exp().min(1.0)
    }
}

/// Evidence that one of two does better than the other, from calls that are given to either by lot.
///
/// Each call is weighed by the chance that it had to go where it went (D. G. Horvitz and D. J.
/// Thompson, JASA 47, 1952), so the shares may change from call to call; and both are compared on
/// the same stream, so a world that changes favours neither.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// That the candidate does better.
    better: Wager,
    /// That it does worse.
    worse: Wager,
    /// Values seen, and their sum: what is usual, for either.
    seen: u64,
    #[serde(with = "crate::exact")]
    sum: f64,
}

impl Comparison {
    /// Takes in a value between 0 and 1 of a call that had the chance `share`, between 0 and 1
    /// exclusive, to go to the candidate.
    pub fn observe(&mut self, to_candidate: bool, share: f64, value: f64) {
        let usual = (self.sum + 0.5) / (self.seen as f64 + 1.0);
        let weight = if to_candidate {
            1.0 / share
        } else {
            -1.0 / (1.0 - share)
        };
        let difference = weight * (value - usual);
        let (below, above) = (usual, 1.0 - usual);
        // The worst that can be seen: the candidate at 0, or the other at 1; and the other way.
        let losses = (below / share).max(above / (1.0 - share));
        let gains = (above / share).max(below / (1.0 - share));
        self.better.observe(difference, losses);
        self.worse.observe(-difference, gains);
        self.seen += 1;
        self.sum += value;
    }

    /// Evidence that the candidate does better.
    #[must_use]
    pub fn better(&self) -> &Wager {
        &self.better
    }

    /// Evidence that it does worse.
    #[must_use]
    pub fn worse(&self) -> &Wager {
        &self.worse
    }

    /// Values seen.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen
    }
}

/// Evidence that values are, on average, above a level, and that they are below another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    #[serde(with = "crate::exact")]
    at_least: f64,
    #[serde(with = "crate::exact")]
    as_was: f64,
    above: Wager,
    below: Wager,
}

impl Level {
    /// Tells values above `at_least` from values below `as_was`; both are between 0 and 1.
    #[must_use]
    pub fn new(at_least: f64, as_was: f64) -> Self {
        Self {
            at_least,
            as_was,
            above: Wager::default(),
            below: Wager::default(),
        }
    }

    /// Takes in a value between 0 and 1.
    pub fn observe(&mut self, value: f64) {
        self.above.observe(value - self.at_least, self.at_least);
        self.below.observe(self.as_was - value, 1.0 - self.as_was);
    }

    /// Evidence that they are above the first.
    #[must_use]
    pub fn above(&self) -> &Wager {
        &self.above
    }

    /// Evidence that they are below the second.
    #[must_use]
    pub fn below(&self) -> &Wager {
        &self.below
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::Xoshiro256PlusPlus;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    /// How many of 1,000 comparisons convince at 5 % within 1,000 calls, where the candidate's
    /// chance of success is higher by `lead`; and how many do by a test that was made for one look.
    fn convinced(lead: f64, share: impl Fn(u64) -> f64) -> (u32, u32) {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(11);
        let (mut ours, mut naive) = (0, 0);
        for _ in 0..1_000 {
            let mut comparison = Comparison::default();
            let (mut counts, mut sums, mut peeked) = ([0.0_f64; 2], [0.0_f64; 2], false);
            for call in 0..1_000 {
                let share = share(call);
                let to_candidate = random.random_bool(share);
                // The world gets better while it is looked at.
                let chance = 0.4 + call as f64 / 5_000.0;
                let lead = if to_candidate { lead } else { 0.0 };
                let value = f64::from(u8::from(random.random_bool(chance + lead)));
                comparison.observe(to_candidate, share, value);
                let arm = usize::from(to_candidate);
                counts[arm] += 1.0;
                sums[arm] += value;
                if 30 <= call && counts[0] * counts[1] != 0.0 {
                    let means = [sums[0] / counts[0], sums[1] / counts[1]];
                    let spread = |arm: usize| means[arm] * (1.0 - means[arm]) / counts[arm];
                    let z = (means[1] - means[0]) / (spread(0) + spread(1)).sqrt();
                    peeked |= 1.645 < z;
                }
            }
            ours += u32::from(comparison.better().convinces(0.05));
            naive += u32::from(peeked);
        }
        (ours, naive)
    }

    #[test]
    fn identical_ones_convince_no_more_often_than_stated_and_peeking_at_a_z_test_does() {
        for (name, share) in [
            ("half", (|_| 0.5) as fn(u64) -> f64),
            ("a tenth", |_| 0.1),
            ("changing", |call| if call % 200 < 100 { 0.05 } else { 0.5 }),
        ] {
            let (ours, naive) = convinced(0.0, share);
            println!("of 1,000 identical, share {name}: {ours}, by peeking {naive}");
            assert!(ours <= 50, "{ours} of 1,000 at 5 %");
            // What this test has to be able to see.
            assert!(150 < naive, "{naive}");
        }
    }

    #[test]
    fn better_ones_convince_and_worse_ones_do_not() {
        let (better, worse) = (convinced(0.2, |_| 0.5).0, convinced(-0.2, |_| 0.5).0);
        println!("of 1,000: {better} better ones, {worse} worse ones");
        assert!(900 < better && worse == 0);
    }

    #[test]
    fn a_level_is_told_from_another() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(12);
        // Values around `mean` for 1,000 steps: how often they are found above, and below.
        let mut found = |mean: f64| {
            let (mut above, mut below) = (0, 0);
            for _ in 0..500 {
                let mut level = Level::new(0.6, 0.7);
                for _ in 0..1_000 {
                    level.observe((mean + random.random_range(-0.3..0.3_f64)).clamp(0.0, 1.0));
                }
                above += u32::from(level.above().convinces(0.05));
                below += u32::from(level.below().convinces(0.05));
            }
            (above, below)
        };
        // At either level itself there is nothing to find.
        assert!(found(0.6).0 <= 25 && found(0.7).1 <= 25);
        assert!(found(0.7).0 == 500 && found(0.6).1 == 500);
    }

    #[test]
    fn evidence_once_there_stays() {
        let mut wager = Wager::default();
        assert!((wager.doubt() - 1.0).abs() < 1e-12);
        (0..50).for_each(|_| wager.observe(0.5, 0.5));
        let doubt = wager.doubt();
        (0..500).for_each(|_| wager.observe(-0.5, 0.5));
        assert!(wager.convinces(0.001) && wager.doubt() <= doubt && doubt < 0.001);
    }
}
