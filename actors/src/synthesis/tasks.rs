//! The search's tasks: what the roles hand to each other through the queue.
//!
//! A [`SEARCH`] is seen through in [`STRETCH`]es, one after the other: each begins with the search as
//! the one before left it, so that no task's children, payload or result grows with the whole. A
//! stretch proposes a generation at a time, and has it [tried](TRY) in parts, by whichever Workers
//! there are. What a generation is depends on the seed and on what came of those before, not on who
//! tried them, when, or how often somebody was killed over it: the same goal gives the same champion.

use regrow_modules::expression::Expression;
use regrow_runtime::clock::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Grammar, Settings, Stored};
use crate::exact::Exact;
use crate::packing::{self, Family, Split};

/// The whole search; for the Planner.
pub const SEARCH: &str = "improve.search";
/// Some generations in a row; for the Planner.
pub const STRETCH: &str = "improve.stretch";
/// Candidates to be tried; for a Worker.
pub const TRY: &str = "improve.try";

/// Generations of a stretch.
pub const STRETCH_GENERATIONS: u64 = 25;
/// The best of a search that are tried on the instances for validation.
pub const FINALISTS: usize = 24;

/// Payload of [`SEARCH`]: a strategy is sought that packs instances of a family into few bins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchGoal {
    /// The instances.
    pub family: Family,
    /// What is drawn by lot follows from this.
    pub seed: u64,
    /// Generations, at most 1,000,000.
    pub generations: u64,
    /// No generation begins after this. What is found by then depends on how fast it went; the
    /// result says after how many generations, which gives the same again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Candidates of a generation, at most 4,096.
    #[serde(default = "batch")]
    pub batch: usize,
    /// Tasks that a generation is tried in, at most 64: how many Workers it can keep busy.
    #[serde(default = "parts")]
    pub parts: usize,
    /// Instances that candidates are tried on, at most 1,000.
    #[serde(default = "training")]
    pub training: u64,
    /// Instances that the champion is chosen by, at most 1,000.
    #[serde(default = "validation")]
    pub validation: u64,
    /// Whether candidates may look at the other bins as well.
    #[serde(default)]
    pub whole_row: bool,
    /// How the search is run.
    #[serde(default = "settings")]
    pub settings: Settings,
}

fn batch() -> usize {
    64
}

fn parts() -> usize {
    4
}

fn training() -> u64 {
    6
}

fn validation() -> u64 {
    10
}

fn settings() -> Settings {
    Settings {
        // They travel from stretch to stretch.
        remembered_max: 10_000,
        ..Settings::default()
    }
}

impl SearchGoal {
    /// A goal with everything as usual.
    #[must_use]
    pub fn new(family: Family, seed: u64, generations: u64) -> Self {
        Self {
            family,
            seed,
            generations,
            until: None,
            batch: batch(),
            parts: parts(),
            training: training(),
            validation: validation(),
            whole_row: false,
            settings: settings(),
        }
    }

    /// What is wrong with it.
    ///
    /// # Errors
    ///
    /// In words, with the value that was found and the range that is allowed.
    pub fn check(&self) -> Result<(), String> {
        let Settings {
            islands, members, ..
        } = self.settings;
        let (Family::Weibull { items } | Family::Uniform { items }) = self.family;
        for (name, value, most) in [
            ("items", u64::from(items), 100_000),
            ("generations", self.generations, 1_000_000),
            ("batch", self.batch as u64, 4_096),
            ("parts", self.parts as u64, 64),
            ("training", self.training, 1_000),
            ("validation", self.validation, 1_000),
            ("settings.islands", islands as u64, 64),
            ("settings.members", members as u64, 1_000),
            ("settings.nodes_max", self.settings.nodes_max as u64, 256),
            (
                "settings.tournament",
                self.settings.tournament as u64,
                1_000,
            ),
            (
                "settings.remembered_max",
                self.settings.remembered_max as u64,
                100_000,
            ),
        ] {
            if !(1..=most).contains(&value) {
                return Err(format!("`{name}` is {value}, not 1 to {most}"));
            }
        }
        Ok(())
    }

    /// What candidates may say. They begin with what is known: best fit, and nothing else.
    #[must_use]
    pub fn grammar(&self) -> Grammar {
        let columns = packing::columns();
        let best_fit = Expression::parse("-after", &columns).expect("an expression");
        let grammar = Grammar::new(&columns, f64::from(self.family.size()), vec![best_fit]);
        if self.whole_row {
            return grammar.with_whole_row();
        }
        grammar.without("many")
    }
}

/// Payload of [`STRETCH`]; the task depends on the stretch before it, if there is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stretch {
    /// What is sought.
    pub goal: SearchGoal,
    /// Which stretch, from 0 on.
    pub number: u64,
}

/// Result of [`STRETCH`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stretched {
    /// The search as it stands.
    pub search: Stored,
    /// Generations so far, over all stretches.
    pub generations: u64,
    /// Whether there is to be no further one.
    pub over: bool,
}

/// Payload of [`TRY`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TryCandidates {
    /// The instances' family,
    pub family: Family,
    /// which of its instances,
    pub split: Split,
    /// and how many of them.
    pub instances: u64,
    /// Which generation of the search, from 0 on; `None` for the choice of the champion.
    pub generation: Option<u64>,
    /// Which part of it, from 0 on.
    pub part: usize,
    /// What to try, and the cost above which trying may end.
    pub candidates: Vec<(String, Exact)>,
}

/// Result of [`TRY`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// What each cost, in the candidates' order: the share of bins above the bound.
    pub costs: Vec<Exact>,
}

/// Result of [`SEARCH`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Champion {
    /// The strategy.
    pub strategy: String,
    /// Bins above the bound on the instances for training, as a share of it; with what its nodes
    /// cost.
    pub training: f64,
    /// The same on those for validation, without.
    pub validation: f64,
    /// Generations that it took.
    pub generations: u64,
    /// Candidates that were tried.
    pub tried: u64,
    /// The seed that it came of.
    pub seed: u64,
}
