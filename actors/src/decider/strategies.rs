//! Which of the strategies that propose candidates is asked next.
//!
//! Thompson sampling (W. R. Thompson, "On the likelihood that one unknown probability exceeds
//! another", Biometrika 25, 1933): of each strategy's belief, a Beta distribution over the share of
//! its candidates that come to stay, one draw; the highest is asked. Strategies that do well are
//! asked more often, none is forgotten, and one that is new is tried soon.
//!
//! What was good once need not be so for ever: when a strategy has more than [`COUNTED_MAX`]
//! endings, both its counts are halved.

use std::collections::BTreeMap;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

/// Endings of one strategy that are counted before both counts are halved.
pub const COUNTED_MAX: u32 = 64;

/// How candidates of one strategy ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Came to stay.
    pub kept: u32,
    /// Were rejected, or rolled back.
    pub dropped: u32,
}

/// What is known of each strategy; of those in the settings only, so that it is bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Strategies(BTreeMap<String, Record>);

impl Strategies {
    /// Counts how a candidate of a strategy ended.
    pub fn ended(&mut self, strategy: &str, kept: bool) {
        let record = self.0.entry(strategy.to_owned()).or_default();
        if kept {
            record.kept += 1;
        } else {
            record.dropped += 1;
        }
        if COUNTED_MAX < record.kept + record.dropped {
            record.kept /= 2;
            record.dropped /= 2;
        }
    }

    /// Forgets those that are not offered any more.
    pub fn retain(&mut self, offered: &[String]) {
        self.0.retain(|name, _| offered.contains(name));
    }

    /// What is known of one.
    #[must_use]
    pub fn record(&self, strategy: &str) -> Record {
        self.0.get(strategy).copied().unwrap_or_default()
    }

    /// The strategy of `offered` that is asked; the same one for the same `seed` and knowledge.
    /// `None` when none is offered.
    #[must_use]
    pub fn choose<'a>(&self, offered: &'a [String], seed: u64) -> Option<&'a str> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut best: Option<(f64, &str)> = None;
        for name in offered {
            let record = self.record(name);
            let kept = gamma(record.kept + 1, &mut random);
            let draw = kept / (kept + gamma(record.dropped + 1, &mut random));
            if best.is_none_or(|(highest, _)| highest < draw) {
                best = Some((draw, name));
            }
        }
        best.map(|(_, name)| name)
    }
}

/// A draw of the gamma distribution: as many exponential ones together. Two of them make a Beta.
fn gamma(shape: u32, random: &mut Xoshiro256PlusPlus) -> f64 {
    (0..shape)
        .map(|_| -(1.0 - random.random::<f64>()).ln())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_strategy_is_asked_more_often_and_one_that_becomes_better_is_found() {
        let offered = ["bred".to_owned(), "written".to_owned()];
        let mut random = Xoshiro256PlusPlus::seed_from_u64(5);
        let mut known = Strategies::default();
        let mut asked = [0, 0];
        for round in 0..1_000 {
            // After half of the time the other one is better.
            let likely = if round < 500 { [0.6, 0.2] } else { [0.2, 0.6] };
            let name = known.choose(&offered, round).expect("two are offered");
            let place = usize::from(name == offered[1]);
            asked[place] += usize::from((400..500).contains(&round) || 900 <= round);
            if round == 499 {
                assert!(80 < asked[0], "{asked:?}");
                asked = [0, 0];
            }
            known.ended(&offered[place], random.random_bool(likely[place]));
        }
        assert!(80 < asked[1], "{asked:?}");
        let record = known.record("written");
        assert!(record.kept + record.dropped <= COUNTED_MAX);
    }

    #[test]
    fn without_knowledge_all_are_asked_about_as_often() {
        let offered = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let known = Strategies::default();
        let mut asked = BTreeMap::new();
        for seed in 0..3_000 {
            *asked
                .entry(known.choose(&offered, seed).expect("three"))
                .or_insert(0) += 1;
        }
        assert!(
            asked.values().all(|times| (900..1_100).contains(times)),
            "{asked:?}"
        );
        assert_eq!(known.choose(&[], 1), None);
        assert_eq!(known.choose(&offered, 7), known.choose(&offered, 7));
    }
}
