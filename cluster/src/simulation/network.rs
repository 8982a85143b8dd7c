//! Links between nodes, and to the database: cut in one direction or both, slow and lossy.

use rand::{Rng, RngExt};

/// What happens to one message: how late each of its copies arrives, in milliseconds.
pub(super) type Copies = [Option<u64>; 2];

#[derive(Clone, Debug)]
pub(super) struct Network {
    nodes: usize,
    /// Whether nothing gets from one node to another.
    cut: Vec<bool>,
    database_cut: Vec<bool>,
    /// Messages lost and doubled, in thousandths.
    pub(super) lost: u32,
    pub(super) doubled: u32,
    /// The longest delay, in milliseconds.
    pub(super) delay_max: u64,
}

impl Network {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            nodes,
            cut: vec![false; nodes * nodes],
            database_cut: vec![false; nodes],
            lost: 0,
            doubled: 0,
            delay_max: 20,
        }
    }

    /// Everything works again.
    pub(super) fn heal(&mut self) {
        *self = Self::new(self.nodes);
    }

    pub(super) fn cut(&mut self, from: usize, to: usize) {
        self.cut[from * self.nodes + to] = true;
    }

    /// Whether nothing gets from one node to another.
    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut[from * self.nodes + to]
    }

    pub(super) fn cut_database(&mut self, node: usize) {
        self.database_cut[node] = true;
    }

    pub(super) fn carry(&self, from: usize, to: usize, rng: &mut impl Rng) -> Copies {
        self.pass(self.cut[from * self.nodes + to], rng)
    }

    /// To or from the database.
    pub(super) fn carry_database(&self, node: usize, rng: &mut impl Rng) -> Copies {
        let [first, _] = self.pass(self.database_cut[node], rng);
        // A connection doubles nothing.
        [first, None]
    }

    fn pass(&self, cut: bool, rng: &mut impl Rng) -> Copies {
        if cut || rng.random_range(0..1_000) < self.lost {
            return [None, None];
        }
        let first = Some(1 + rng.random_range(0..self.delay_max));
        let doubled = rng.random_range(0..1_000) < self.doubled;
        let second = doubled.then(|| 1 + rng.random_range(0..self.delay_max * 4));
        [first, second]
    }
}
