//! Sequences of items, made from a seed.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

/// Where an instance's items come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Bins of 100; sizes are Weibull of shape 3 and scale 45, rounded, from 1 to 100: as in the
    /// published experiment, where there are 5,000.
    Weibull {
        /// Items of an instance.
        items: u32,
    },
    /// Bins of 150; sizes are uniform from 20 to 100: the families `u120` to `u1000` of the
    /// OR-Library (Falkenauer, "A hybrid grouping genetic algorithm for bin packing", 1996).
    Uniform {
        /// Items of an instance.
        items: u32,
    },
}

/// What instances are for. Those of one are none of another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Strategies are bred on them.
    Training,
    /// A strategy is chosen by them.
    Validation,
    /// What is chosen is held against others on them, once.
    Test,
}

impl Split {
    /// The first of as many seeds as anybody needs.
    pub fn first_seed(self) -> u64 {
        match self {
            Self::Training => 0,
            Self::Validation => 1 << 32,
            Self::Test => 2 << 32,
        }
    }
}

/// Items in the order in which they arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    size: u16,
    items: Vec<u16>,
}

impl Family {
    /// The size of its bins.
    pub fn size(self) -> u16 {
        match self {
            Self::Weibull { .. } => 100,
            Self::Uniform { .. } => 150,
        }
    }

    /// The instance of a seed: the same one on every machine.
    pub fn instance(self, seed: u64) -> Instance {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        match self {
            Self::Weibull { items } => Instance {
                size: self.size(),
                items: (0..items).map(|_| weibull(random.random())).collect(),
            },
            Self::Uniform { items } => Instance {
                size: self.size(),
                items: (0..items).map(|_| random.random_range(20..=100)).collect(),
            },
        }
    }

    /// Instances of `number` seeds from `first` on.
    pub fn instances(self, first: u64, number: u64) -> Vec<Instance> {
        (first..first + number)
            .map(|seed| self.instance(seed))
            .collect()
    }
}

/// The size at a place between 0 and 1 of the distribution.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 1 and 100"
)]
fn weibull(place: f64) -> u16 {
    let size = 45.0 * (-(1.0 - place).ln()).cbrt();
    size.round().clamp(1.0, 100.0) as u16
}

impl Instance {
    /// An instance of these items; `None` if an item is empty or does not fit into a bin.
    pub fn new(size: u16, items: Vec<u16>) -> Option<Self> {
        let fits = |item: &u16| (1..=size).contains(item);
        items.iter().all(fits).then_some(Self { size, items })
    }

    /// The size of a bin.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The items.
    pub fn items(&self) -> &[u16] {
        &self.items
    }

    /// The fewest bins that could do (L1): the sizes of all items over the size of a bin.
    pub fn bound(&self) -> u32 {
        let whole: u64 = self.items.iter().map(|item| u64::from(*item)).sum();
        u32::try_from(whole.div_ceil(u64::from(self.size.max(1)))).expect("no more than items")
    }
}
