//! Finding strategies without a model: expressions are bred, tried, and bred again.
//!
//! Genetic programming on typed trees (J. R. Koza, "Genetic Programming", 1992; D. J. Montana,
//! "Strongly typed genetic programming", 1995), in a steady state on several islands that exchange
//! their best now and then. What keeps it from drowning in its own children:
//!
//! - *Simplification*: every child is simplified before anybody looks at it, so the search walks
//!   over what expressions mean, not over how long they can be said.
//! - *Novelty*: what was proposed before is not proposed again, and of two members of an island
//!   that cost the same the younger takes the place of the older.
//! - *Parsimony*: each node costs a little, so that of two equally good ones the shorter stays.
//!
//! The search knows nothing of the problem. It [proposes](Search::propose) a batch of candidates;
//! whoever asked tries them, wherever and in whatever order; it [absorbs](Search::absorb) what they
//! cost. A batch depends on the seed, its number and what was absorbed before, on nothing else: a
//! search that is stored between two batches goes on as if it had never stopped.
//!
//! Pure: no clock, no I/O; every random number comes from the seed.

mod growth;
mod island;
pub mod tasks;

use std::collections::BTreeSet;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};
use regrow_modules::expression::{Columns, Expression};
use serde::{Deserialize, Serialize};

use crate::exact::Exact;
use growth::Breeder;
pub use growth::Grammar;
use island::Island;

/// How a search is run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Islands that breed by themselves.
    pub islands: usize,
    /// Members of each.
    pub members: usize,
    /// Contestants for becoming a parent, and for being replaced.
    pub tournament: usize,
    /// Most nodes of a candidate.
    pub nodes_max: usize,
    /// What a node costs, in the unit of the problem's cost.
    pub node_cost: f64,
    /// Batches after which islands exchange their best.
    pub exchange_every: u64,
    /// Candidates that are remembered so as not to be proposed again; the search forgets all of
    /// them when there are more.
    pub remembered_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            islands: 4,
            members: 60,
            tournament: 4,
            nodes_max: 60,
            node_cost: 2e-6,
            exchange_every: 40,
            remembered_max: 1_000_000,
        }
    }
}

/// Something to try.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The island it was bred on.
    pub island: usize,
    /// What to try.
    pub expression: Expression,
    /// Above this cost it has no chance to stay: trying can end as soon as that is clear.
    pub hopeless: f64,
}

/// A search under way.
#[derive(Debug, Clone)]
pub struct Search {
    grammar: Grammar,
    settings: Settings,
    seed: u64,
    /// Batches proposed so far.
    batches: u64,
    /// Candidates absorbed so far.
    tried: u64,
    islands: Vec<Island>,
    remembered: BTreeSet<u64>,
}

/// A search as it is stored between two batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    seed: u64,
    batches: u64,
    tried: u64,
    settings: Settings,
    grammar: growth::StoredGrammar,
    islands: Vec<Vec<(String, Exact)>>,
    remembered: BTreeSet<u64>,
}

/// Why a stored search cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stored search cannot be read: {0}")]
pub struct Unreadable(String);

impl Search {
    /// A search that has tried nothing yet.
    pub fn new(grammar: Grammar, settings: Settings, seed: u64) -> Self {
        Self {
            grammar,
            settings,
            seed,
            batches: 0,
            tried: 0,
            islands: vec![Island::default(); settings.islands.max(1)],
            remembered: BTreeSet::new(),
        }
    }

    /// Up to `number` candidates that were never proposed before. Fewer when chance finds nothing
    /// new.
    pub fn propose(&mut self, number: usize) -> Vec<Candidate> {
        self.batches += 1;
        if self
            .batches
            .is_multiple_of(self.settings.exchange_every.max(1))
        {
            self.exchange();
        }
        if self.settings.remembered_max < self.remembered.len() {
            self.remembered.clear();
        }
        let mut random = self.random();
        let mut candidates = Vec::with_capacity(number);
        // Most draws are new; where a small grammar is exhausted, there has to be an end.
        for draw in 0..number.saturating_mul(20) {
            if candidates.len() == number {
                break;
            }
            let at = draw % self.islands.len();
            let island = &self.islands[at];
            let breeder = Breeder {
                grammar: &self.grammar,
                random: &mut random,
            };
            let Some(child) = island.child(breeder, &self.settings) else {
                continue;
            };
            let child = child.simplified();
            if self.settings.nodes_max < child.nodes().len()
                || !self.remembered.insert(named(&child))
            {
                continue;
            }
            candidates.push(Candidate {
                island: at,
                expression: child,
                hopeless: island.hopeless(&self.settings),
            });
        }
        candidates
    }

    /// Takes in what a candidate cost; lower is better, and what is not a number is the worst.
    pub fn absorb(&mut self, candidate: Candidate, cost: f64) {
        self.tried += 1;
        let nodes = candidate.expression.nodes().len();
        let cost = charged(cost, nodes, self.settings.node_cost);
        let mut random = self.random();
        let places = candidate.island % self.islands.len();
        self.islands[places].take_in(candidate.expression, cost, &self.settings, &mut random);
    }

    /// The best `number` of each island, cheapest first; costs include what their nodes cost.
    pub fn best(&self, number: usize) -> Vec<(f64, &Expression)> {
        let mut best: Vec<_> = self
            .islands
            .iter()
            .flat_map(|island| island.best(number))
            .collect();
        best.sort_by(|left, right| left.0.total_cmp(&right.0));
        best.dedup_by(|right, left| right.1 == left.1);
        best
    }

    /// Candidates tried so far.
    pub fn tried(&self) -> u64 {
        self.tried
    }

    /// Copies each island's best to the next one.
    fn exchange(&mut self) {
        let mut random = self.random();
        let travellers: Vec<_> = self
            .islands
            .iter()
            .map(|island| {
                island
                    .best(1)
                    .first()
                    .map(|(cost, best)| (*cost, (*best).clone()))
            })
            .collect();
        let islands = self.islands.len();
        for (from, traveller) in travellers.into_iter().enumerate() {
            if let Some((cost, expression)) = traveller {
                let to = &mut self.islands[(from + 1) % islands];
                to.take_in(expression, cost, &self.settings, &mut random);
            }
        }
    }

    /// Random numbers of their own for every batch and every candidate absorbed.
    fn random(&self) -> Xoshiro256PlusPlus {
        let mut seeds = Xoshiro256PlusPlus::seed_from_u64(self.seed);
        let mixed = seeds.random::<u64>() ^ self.batches.rotate_left(32) ^ self.tried;
        Xoshiro256PlusPlus::seed_from_u64(mixed)
    }

    /// The search as it can be stored.
    pub fn stored(&self) -> Stored {
        Stored {
            seed: self.seed,
            batches: self.batches,
            tried: self.tried,
            settings: self.settings,
            grammar: self.grammar.stored(),
            islands: self.islands.iter().map(Island::stored).collect(),
            remembered: self.remembered.clone(),
        }
    }

    /// Goes on with a stored search.
    ///
    /// # Errors
    ///
    /// [`Unreadable`] when what is stored was not written by this version of the language.
    pub fn resume(stored: Stored) -> Result<Self, Unreadable> {
        let unreadable = |error: &dyn std::fmt::Display| Unreadable(error.to_string());
        let columns: Columns = Columns::new(stored.grammar.columns.iter().map(String::as_str))
            .map_err(|error| unreadable(&error))?;
        let mut islands = Vec::with_capacity(stored.islands.len());
        for members in stored.islands {
            let mut island = Vec::with_capacity(members.len());
            for (text, Exact(cost)) in members {
                let member = Expression::parse(&text, &columns);
                island.push((cost, member.map_err(|error| unreadable(&error))?));
            }
            islands.push(Island::from_members(island));
        }
        if islands.is_empty() {
            return Err(Unreadable("it has no islands".to_owned()));
        }
        Ok(Self {
            grammar: Grammar::from_stored(&stored.grammar, columns),
            settings: stored.settings,
            seed: stored.seed,
            batches: stored.batches,
            tried: stored.tried,
            islands,
            remembered: stored.remembered,
        })
    }
}

/// What a candidate is remembered by.
fn named(candidate: &Expression) -> u64 {
    let hash = blake3::hash(candidate.to_string().as_bytes());
    let (first, _) = hash.as_bytes().split_first_chunk().expect("32 bytes");
    u64::from_le_bytes(*first)
}

/// A cost with what the nodes cost; the worst for what is no number.
fn charged(cost: f64, nodes: usize, node_cost: f64) -> f64 {
    if cost.is_nan() {
        return f64::INFINITY;
    }
    cost + f64::from(u32::try_from(nodes).unwrap_or(u32::MAX)) * node_cost
}

#[cfg(test)]
mod tests;
