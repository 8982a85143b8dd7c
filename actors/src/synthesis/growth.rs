//! Making expressions by chance: from nothing, and from others.

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _};
use regrow_modules::expression::{
    Arithmetic, Columns, Comparison, Expression, Fold, Function, Node, Sort,
};
use serde::{Deserialize, Serialize};

/// What a search may say.
#[derive(Debug, Clone)]
pub struct Grammar {
    columns: Columns,
    /// Columns that are used, by their place.
    used: Vec<u8>,
    /// Constants are drawn from about -2 to this.
    constants: f64,
    /// Whether expressions may look at other rows than their own.
    whole_row: bool,
    /// What is known already: where the search begins.
    examples: Vec<Expression>,
}

/// A grammar as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredGrammar {
    pub(super) columns: Vec<String>,
    used: Vec<u8>,
    constants: f64,
    whole_row: bool,
    examples: Vec<String>,
}

impl Grammar {
    /// Expressions over `columns` with constants up to about `constants`, beginning with
    /// `examples`. Only those of the row itself, unless [`with_whole_row`](Self::with_whole_row).
    ///
    /// # Panics
    ///
    /// When an example is over other columns.
    pub fn new(columns: &Columns, constants: f64, examples: Vec<Expression>) -> Self {
        assert!(
            examples.iter().all(|example| example.columns() == columns),
            "examples are over the same columns"
        );
        Self {
            columns: columns.clone(),
            used: (0..columns.number())
                .filter_map(|at| u8::try_from(at).ok())
                .collect(),
            constants,
            whole_row: false,
            examples,
        }
    }

    /// Expressions that may also fold over the rows and look at their neighbours.
    #[must_use]
    pub fn with_whole_row(mut self) -> Self {
        self.whole_row = true;
        self
    }

    /// Expressions that never speak of a column.
    #[must_use]
    pub fn without(mut self, column: &str) -> Self {
        let names = self.columns.names();
        self.used
            .retain(|at| names[usize::from(*at)] != column || names.len() == 1);
        self
    }

    pub(super) fn stored(&self) -> StoredGrammar {
        StoredGrammar {
            columns: self.columns.names().to_vec(),
            used: self.used.clone(),
            constants: self.constants,
            whole_row: self.whole_row,
            examples: self.examples.iter().map(ToString::to_string).collect(),
        }
    }

    pub(super) fn from_stored(stored: &StoredGrammar, columns: Columns) -> Self {
        let read = |text: &String| Expression::parse(text, &columns).ok();
        Self {
            examples: stored.examples.iter().filter_map(read).collect(),
            used: stored.used.clone(),
            constants: stored.constants,
            whole_row: stored.whole_row,
            columns,
        }
    }
}

/// Makes expressions of a grammar.
pub(super) struct Breeder<'a> {
    pub(super) grammar: &'a Grammar,
    pub(super) random: &'a mut Xoshiro256PlusPlus,
}

const ARITHMETIC: [Arithmetic; 9] = [
    Arithmetic::Add,
    Arithmetic::Add,
    Arithmetic::Subtract,
    Arithmetic::Subtract,
    Arithmetic::Multiply,
    Arithmetic::Multiply,
    Arithmetic::Divide,
    Arithmetic::Lesser,
    Arithmetic::Greater,
];
const FUNCTIONS: [Function; 3] = [Function::Negate, Function::Absolute, Function::Root];
const FOLDS: [Fold; 4] = [Fold::Least, Fold::Most, Fold::Mean, Fold::Sum];

impl Breeder<'_> {
    /// One of the examples, or an expression grown from nothing.
    pub(super) fn founder(&mut self) -> Option<Expression> {
        if self.random.random_bool(0.2)
            && let Some(example) = self.grammar.examples.choose(self.random)
        {
            return Some(example.clone());
        }
        let nodes = self.grown(Sort::Number, 4);
        Expression::new(nodes, &self.grammar.columns).ok()
    }

    /// A changed copy of `mother`, perhaps with a part of `father`.
    pub(super) fn child(&mut self, mother: &Expression, father: &Expression) -> Option<Expression> {
        match self.random.random_range(0..100) {
            0..30 => self.crossed(mother, father),
            30..50 => {
                let at = self.place(mother);
                let depth = self.random.random_range(1..=3);
                let graft = self.grown(mother.nodes()[at].sort(), depth);
                mother.with_subtree(at, &graft).ok()
            }
            50..85 => self.retuned(mother),
            85..93 => self.respelled(mother),
            // A part of it may do as well as the whole.
            _ => {
                let at = self.place(mother);
                let part = &mother.nodes()[at..mother.subtree_end(at)];
                Expression::new(part.to_vec(), mother.columns()).ok()
            }
        }
    }

    fn place(&mut self, of: &Expression) -> usize {
        self.random.random_range(0..of.nodes().len())
    }

    /// A subtree of `mother` gives way to one of `father`.
    fn crossed(&mut self, mother: &Expression, father: &Expression) -> Option<Expression> {
        let at = self.place(mother);
        let sort = mother.nodes()[at].sort();
        let same = |from: &usize| father.nodes()[*from].sort() == sort;
        let places: Vec<usize> = (0..father.nodes().len()).filter(same).collect();
        let from = *places.choose(self.random)?;
        mother
            .with_subtree(at, &father.nodes()[from..father.subtree_end(from)])
            .ok()
    }

    /// One or two constants move.
    fn retuned(&mut self, of: &Expression) -> Option<Expression> {
        let mut nodes = of.nodes().to_vec();
        let constant = |at: &usize| matches!(nodes[*at], Node::Number(_));
        let places: Vec<usize> = (0..nodes.len()).filter(constant).collect();
        for _ in 0..self.random.random_range(1..=2) {
            let at = *places.choose(self.random)?;
            if let Node::Number(number) = &mut nodes[at] {
                *number = match self.random.random_range(0..4) {
                    0 => *number + f64::from(self.random.random_range(-3..=3_i32)),
                    1 => *number * self.random.random_range(0.7..1.3),
                    2 => *number + self.random.random_range(-0.25..0.25),
                    _ => (self.random.random::<f64>() * self.grammar.constants).round(),
                };
            }
        }
        Expression::new(nodes, of.columns()).ok()
    }

    /// One node becomes another of the same shape.
    fn respelled(&mut self, of: &Expression) -> Option<Expression> {
        let at = self.place(of);
        let mut nodes = of.nodes().to_vec();
        nodes[at] = match nodes[at] {
            Node::Column(_) => self.column(),
            Node::Arithmetic(_) => Node::Arithmetic(*ARITHMETIC.choose(self.random)?),
            Node::Function(_) => Node::Function(*FUNCTIONS.choose(self.random)?),
            Node::Comparison(_) => self.comparison(),
            Node::Fold(_) => Node::Fold(*FOLDS.choose(self.random)?),
            Node::Both => Node::Either,
            Node::Either => Node::Both,
            Node::Previous => Node::Next,
            Node::Next => Node::Previous,
            same @ (Node::Number(_) | Node::Rows | Node::Not | Node::Choose | Node::Count) => same,
        };
        Expression::new(nodes, of.columns()).ok()
    }

    fn column(&mut self) -> Node {
        Node::Column(*self.grammar.used.choose(self.random).unwrap_or(&0))
    }

    fn comparison(&mut self) -> Node {
        let comparisons = [Comparison::Less, Comparison::AtMost];
        Node::Comparison(comparisons[self.random.random_range(0..2)])
    }

    /// A random subtree of a sort, at most about `depth` levels deep.
    fn grown(&mut self, sort: Sort, depth: usize) -> Vec<Node> {
        let mut nodes = Vec::new();
        self.grow(sort, depth, &mut nodes);
        nodes
    }

    fn grow(&mut self, sort: Sort, depth: usize, nodes: &mut Vec<Node>) {
        let below = depth.saturating_sub(1);
        if sort == Sort::Truth {
            let (node, below) = if 0 < depth && self.random.random_range(0..8) == 0 {
                (
                    [Node::Both, Node::Either][self.random.random_range(0..2)],
                    below,
                )
            } else {
                // Comparisons of long terms are rarely of use.
                (self.comparison(), below.min(2))
            };
            return self.grow_under(node, below, nodes);
        }
        if depth == 0 || self.random.random_bool(0.25) {
            let leaf = self.leaf();
            nodes.push(leaf);
            return;
        }
        let kinds = if self.grammar.whole_row { 18 } else { 13 };
        let node = match self.random.random_range(0..kinds) {
            0..8 => Node::Arithmetic(ARITHMETIC[self.random.random_range(0..ARITHMETIC.len())]),
            8..12 => Node::Choose,
            12 => Node::Function(FUNCTIONS[self.random.random_range(0..FUNCTIONS.len())]),
            13 => Node::Fold(FOLDS[self.random.random_range(0..FOLDS.len())]),
            14 => Node::Count,
            15 => Node::Previous,
            16 => Node::Next,
            _ => Node::Rows,
        };
        self.grow_under(node, below, nodes);
    }

    fn grow_under(&mut self, node: Node, below: usize, nodes: &mut Vec<Node>) {
        nodes.push(node);
        for sort in node.operands() {
            self.grow(*sort, below, nodes);
        }
    }

    /// A column, more often than not; otherwise a small constant, a large one or a fine one.
    fn leaf(&mut self) -> Node {
        match self.random.random_range(0..10) {
            0..7 => self.column(),
            7 => Node::Number(f64::from(self.random.random_range(-2..=8_i32))),
            8 => Node::Number((self.random.random::<f64>() * self.grammar.constants).round()),
            _ => Node::Number(f64::from(self.random.next_u32() % 400) / 100.0),
        }
    }
}
