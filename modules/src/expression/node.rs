//! What expressions are made of, and when nodes make a whole one.

use super::{DEPTH_MAX, NODES_MAX, ShapeError};

/// What a subtree stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sort {
    /// A 64-bit float.
    Number,
    /// Whether something holds.
    Truth,
}

/// One step of an expression; its operands follow it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Node {
    /// A constant; always finite.
    Number(f64),
    /// The row's value in a column.
    Column(u8),
    /// How many rows there are.
    Rows,
    /// One number to another, row by row.
    Function(Function),
    /// Two numbers to one, row by row.
    Arithmetic(Arithmetic),
    /// Two numbers compared, row by row.
    Comparison(Comparison),
    /// Both truths hold.
    Both,
    /// At least one truth holds.
    Either,
    /// The truth does not hold.
    Not,
    /// The first number where the truth holds, the second elsewhere.
    Choose,
    /// A number over all rows.
    Fold(Fold),
    /// How many rows a truth holds in.
    Count,
    /// The number in the row before; in the first row, its own.
    Previous,
    /// The number in the row after; in the last row, its own.
    Next,
}

/// Functions of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Function {
    /// `-x`
    Negate,
    /// `abs(x)`
    Absolute,
    /// `sqrt(x)`; 0 for a negative number.
    Root,
    /// `floor(x)`
    Floor,
}

/// Operations on two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// `x + y`
    Add,
    /// `x - y`
    Subtract,
    /// `x * y`
    Multiply,
    /// `x / y`; 0 where `y` is 0.
    Divide,
    /// `min(x, y)`: `y` where `y < x`, otherwise `x`.
    Lesser,
    /// `max(x, y)`: `y` where `x < y`, otherwise `x`.
    Greater,
}

/// Comparisons of two numbers; none holds for what is not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// `x < y`
    Less,
    /// `x <= y`
    AtMost,
    /// `x == y`
    Equal,
}

/// Numbers over all rows; 0 over none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fold {
    /// `least(x)`
    Least,
    /// `most(x)`
    Most,
    /// `sum(x)`, added up in the order of the rows.
    Sum,
    /// `mean(x)`: the sum over the number of rows.
    Mean,
}

impl Node {
    /// The sort of the subtree that begins with it.
    pub fn sort(self) -> Sort {
        match self {
            Self::Comparison(_) | Self::Both | Self::Either | Self::Not => Sort::Truth,
            Self::Number(_)
            | Self::Column(_)
            | Self::Rows
            | Self::Function(_)
            | Self::Arithmetic(_)
            | Self::Choose
            | Self::Fold(_)
            | Self::Count
            | Self::Previous
            | Self::Next => Sort::Number,
        }
    }

    /// The sorts of its operands, in order.
    pub fn operands(self) -> &'static [Sort] {
        use Sort::{Number, Truth};
        match self {
            Self::Number(_) | Self::Column(_) | Self::Rows => &[],
            Self::Function(_) | Self::Fold(_) | Self::Previous | Self::Next => &[Number],
            Self::Arithmetic(_) | Self::Comparison(_) => &[Number, Number],
            Self::Both | Self::Either => &[Truth, Truth],
            Self::Not | Self::Count => &[Truth],
            Self::Choose => &[Truth, Number, Number],
        }
    }
}

/// Where the subtree at `at` ends (exclusive), or nothing if it does not.
pub(super) fn subtree_end(nodes: &[Node], at: usize) -> Option<usize> {
    let mut missing = 1;
    let mut end = at;
    while 0 < missing {
        missing += nodes.get(end)?.operands().len();
        missing -= 1;
        end += 1;
    }
    Some(end)
}

/// Whether the nodes are one whole tree that gives a number, within the limits.
pub(super) fn check(nodes: &[Node], columns: usize) -> Result<(), ShapeError> {
    if NODES_MAX < nodes.len() {
        return Err(ShapeError::TooLarge);
    }
    // What is still expected: sorts with their levels, the next one last.
    let mut expected = vec![(Sort::Number, 1)];
    for (at, node) in nodes.iter().enumerate() {
        let (sort, depth) = expected.pop().ok_or(ShapeError::Torn)?;
        if node.sort() != sort {
            return Err(ShapeError::Sort(at));
        }
        if DEPTH_MAX < depth {
            return Err(ShapeError::TooDeep);
        }
        match node {
            Node::Number(value) if !value.is_finite() => return Err(ShapeError::NotFinite(at)),
            Node::Column(column) if columns <= usize::from(*column) => {
                return Err(ShapeError::Column(at));
            }
            Node::Number(_)
            | Node::Column(_)
            | Node::Rows
            | Node::Function(_)
            | Node::Arithmetic(_)
            | Node::Comparison(_)
            | Node::Both
            | Node::Either
            | Node::Not
            | Node::Choose
            | Node::Fold(_)
            | Node::Count
            | Node::Previous
            | Node::Next => {}
        }
        let operands = node.operands().iter().rev();
        expected.extend(operands.map(|sort| (*sort, depth + 1)));
    }
    if expected.is_empty() {
        Ok(())
    } else {
        Err(ShapeError::Torn)
    }
}
