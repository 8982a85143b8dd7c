//! Evaluation in the process itself: a whole table at once, operation by operation.
//!
//! Each operation runs over a lane of all rows before the next one begins, which the compiler
//! turns into vector instructions; what is the same for all rows is computed once. Lanes are taken
//! from and given back to a [`Scratch`], so that a long evaluation allocates nothing.

use super::{Arithmetic, Comparison, Expression, Fold, Function, Node};

/// Choices to score: as many rows as there are choices, as many columns as features.
///
/// Held column by column.
#[derive(Debug, Clone, Default)]
pub struct Table {
    cells: Vec<f64>,
    rows: usize,
    width: usize,
}

impl Table {
    /// An empty table of `width` columns.
    pub fn new(width: usize) -> Self {
        Self {
            cells: Vec::new(),
            rows: 0,
            width,
        }
    }

    /// Forgets the cells and makes room for `rows` rows, filled by `fill(column, lane)`, which is
    /// called once for each column.
    pub fn refill(&mut self, rows: usize, mut fill: impl FnMut(usize, &mut [f64])) {
        self.rows = rows;
        self.cells.resize(rows * self.width, 0.0);
        for column in 0..self.width {
            fill(column, &mut self.cells[column * rows..][..rows]);
        }
    }

    /// A table from rows that follow one another, as modules take it; cells of an incomplete last
    /// row are left out.
    pub fn from_rows(cells: &[f64], width: usize) -> Self {
        let mut table = Self::new(width);
        let rows = cells.len().checked_div(width).unwrap_or(0);
        table.refill(rows, |column, lane| {
            for (row, cell) in lane.iter_mut().enumerate() {
                *cell = cells[row * width + column];
            }
        });
        table
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The cells of a column, row by row.
    pub fn column(&self, at: usize) -> &[f64] {
        &self.cells[at * self.rows..][..self.rows]
    }
}

/// Lanes that evaluations use again.
#[derive(Debug, Default)]
pub struct Scratch {
    free: Vec<Vec<f64>>,
}

impl Scratch {
    fn lane(&mut self, rows: usize) -> Vec<f64> {
        let mut lane = self.free.pop().unwrap_or_default();
        lane.clear();
        lane.reserve(rows);
        lane
    }

    fn give_back(&mut self, value: Value) {
        if let Value::Lane(lane) = value {
            self.free.push(lane);
        }
    }
}

/// What a subtree gave. A truth is 1 or 0.
enum Value {
    /// The same in every row.
    One(f64),
    /// A number for each row.
    Lane(Vec<f64>),
}

/// A walk over the nodes of one expression.
struct Walk<'a> {
    nodes: &'a [Node],
    table: &'a Table,
    scratch: &'a mut Scratch,
    at: usize,
}

impl Expression {
    /// The score of each row, in their order, written to `scores`; what is not a number becomes
    /// negative infinity.
    ///
    /// # Panics
    ///
    /// When the table has fewer columns than the expression may name.
    pub fn evaluate(&self, table: &Table, scratch: &mut Scratch, scores: &mut Vec<f64>) {
        assert!(
            self.columns.number() <= table.width(),
            "a table of {} columns for an expression over {}",
            table.width(),
            self.columns.number()
        );
        scores.clear();
        if table.rows() == 0 {
            return;
        }
        let mut walk = Walk {
            nodes: &self.nodes,
            table,
            scratch,
            at: 0,
        };
        let value = walk.next();
        match &value {
            Value::One(number) => scores.resize(table.rows(), score(*number)),
            Value::Lane(lane) => scores.extend(lane.iter().map(|number| score(*number))),
        }
        scratch.give_back(value);
    }

    /// The row with the highest score, the first of equals; `None` for a table without rows.
    pub fn choose(&self, table: &Table, scratch: &mut Scratch) -> Option<usize> {
        let mut scores = scratch.lane(table.rows());
        self.evaluate(table, scratch, &mut scores);
        let best = best(&scores);
        scratch.give_back(Value::Lane(scores));
        best
    }
}

/// The place of the highest score, the first of equals.
fn best(scores: &[f64]) -> Option<usize> {
    let mut best = None;
    let mut highest = f64::NEG_INFINITY;
    for (row, score) in scores.iter().enumerate() {
        if best.is_none() || highest < *score {
            best = Some(row);
            highest = *score;
        }
    }
    best
}

/// Added up one after another: sums of floats depend on their order.
fn sum(lane: &[f64]) -> Option<f64> {
    lane.iter().copied().reduce(|sum, x| sum + x)
}

fn score(number: f64) -> f64 {
    if number.is_nan() {
        f64::NEG_INFINITY
    } else {
        number
    }
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

impl Walk<'_> {
    fn next(&mut self) -> Value {
        let node = self.nodes[self.at];
        self.at += 1;
        match node {
            Node::Number(number) => Value::One(number),
            Node::Rows => Value::One(self.rows()),
            Node::Column(column) => {
                let mut lane = self.scratch.lane(self.table.rows());
                lane.extend_from_slice(self.table.column(usize::from(column)));
                Value::Lane(lane)
            }
            Node::Function(function) => self.function(function),
            Node::Arithmetic(operation) => self.arithmetic(operation),
            Node::Comparison(comparison) => self.comparison(comparison),
            Node::Both => self.zip(|x, y| x * y),
            Node::Either => self.zip(|x, y| if x == 1.0 { x } else { y }),
            Node::Not => self.map(|x| 1.0 - x),
            Node::Choose => self.choice(),
            Node::Fold(fold) => self.fold(fold),
            Node::Count => self.fold(Fold::Sum),
            Node::Previous => self.neighbour(|lane| {
                let last = lane.len() - 1;
                lane.copy_within(..last, 1);
            }),
            Node::Next => self.neighbour(|lane| lane.copy_within(1.., 0)),
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "tables have far fewer than 2^53 rows"
    )]
    fn rows(&self) -> f64 {
        self.table.rows() as f64
    }

    fn function(&mut self, function: Function) -> Value {
        match function {
            Function::Negate => self.map(|x| -x),
            Function::Absolute => self.map(f64::abs),
            Function::Root => self.map(|x| if x < 0.0 { 0.0 } else { x.sqrt() }),
            Function::Floor => self.map(f64::floor),
        }
    }

    fn arithmetic(&mut self, operation: Arithmetic) -> Value {
        match operation {
            Arithmetic::Add => self.zip(|x, y| x + y),
            Arithmetic::Subtract => self.zip(|x, y| x - y),
            Arithmetic::Multiply => self.zip(|x, y| x * y),
            Arithmetic::Divide => self.zip(|x, y| if y == 0.0 { 0.0 } else { x / y }),
            Arithmetic::Lesser => self.zip(|x, y| if y < x { y } else { x }),
            Arithmetic::Greater => self.zip(|x, y| if x < y { y } else { x }),
        }
    }

    fn comparison(&mut self, comparison: Comparison) -> Value {
        match comparison {
            Comparison::Less => self.zip(|x, y| truth(x < y)),
            Comparison::AtMost => self.zip(|x, y| truth(x <= y)),
            Comparison::Equal => self.zip(|x, y| truth(x == y)),
        }
    }

    fn map(&mut self, of: impl Fn(f64) -> f64) -> Value {
        match self.next() {
            Value::One(number) => Value::One(of(number)),
            Value::Lane(mut lane) => {
                for cell in &mut lane {
                    *cell = of(*cell);
                }
                Value::Lane(lane)
            }
        }
    }

    fn zip(&mut self, of: impl Fn(f64, f64) -> f64) -> Value {
        let left = self.next();
        let right = self.next();
        match (left, right) {
            (Value::One(x), Value::One(y)) => Value::One(of(x, y)),
            (Value::Lane(mut lane), Value::One(y)) => {
                for x in &mut lane {
                    *x = of(*x, y);
                }
                Value::Lane(lane)
            }
            (Value::One(x), Value::Lane(mut lane)) => {
                for y in &mut lane {
                    *y = of(x, *y);
                }
                Value::Lane(lane)
            }
            (Value::Lane(mut lane), Value::Lane(right)) => {
                for (x, y) in lane.iter_mut().zip(&right) {
                    *x = of(*x, *y);
                }
                self.scratch.give_back(Value::Lane(right));
                Value::Lane(lane)
            }
        }
    }

    /// All three operands are computed: nothing has effects, and lanes know no branches.
    fn choice(&mut self) -> Value {
        let truth = self.next();
        let holds = self.next();
        let otherwise = self.next();
        let mut lane = match truth {
            Value::One(truth) => {
                let (taken, left) = if truth == 1.0 {
                    (holds, otherwise)
                } else {
                    (otherwise, holds)
                };
                self.scratch.give_back(left);
                return taken;
            }
            Value::Lane(lane) => lane,
        };
        for (row, cell) in lane.iter_mut().enumerate() {
            let taken = if *cell == 1.0 { &holds } else { &otherwise };
            *cell = match taken {
                Value::One(number) => *number,
                Value::Lane(numbers) => numbers[row],
            };
        }
        self.scratch.give_back(holds);
        self.scratch.give_back(otherwise);
        Value::Lane(lane)
    }

    fn fold(&mut self, fold: Fold) -> Value {
        let mut value = self.next();
        if let Value::One(number) = value {
            // Written out, so that sums round as they do over rows.
            let mut lane = self.scratch.lane(self.table.rows());
            lane.resize(self.table.rows(), number);
            value = Value::Lane(lane);
        }
        let Value::Lane(lane) = &value else {
            unreachable!("made a lane above")
        };
        let folded = match fold {
            Fold::Least => lane
                .iter()
                .copied()
                .reduce(|least, x| if x < least { x } else { least }),
            Fold::Most => lane
                .iter()
                .copied()
                .reduce(|most, x| if most < x { x } else { most }),
            Fold::Sum => sum(lane),
            Fold::Mean => sum(lane).map(|sum| sum / self.rows()),
        };
        self.scratch.give_back(value);
        Value::One(folded.unwrap_or(0.0))
    }

    fn neighbour(&mut self, shift: impl Fn(&mut [f64])) -> Value {
        let mut value = self.next();
        if let Value::Lane(lane) = &mut value {
            shift(lane);
        }
        value
    }
}
