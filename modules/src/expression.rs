//! A typed language for strategies that choose: it scores every row of a table of choices, and the
//! choice with the highest score is taken.
//!
//! ```text
//! if left - item <= 2 then 100 else most(left) - left
//! ```
//!
//! An expression sees the whole table, not one row alone: `least`, `most`, `sum` and `mean` fold a
//! number over all rows, `count` counts the rows where something holds, `previous` and `next` look
//! at the neighbours. So it can say what a function of one row cannot: "the fullest one, unless
//! many are like it".
//!
//! It has no loops, no state and no way to fail: every expression ends after a number of steps that
//! is its size times the number of rows, and gives a number for every row. Numbers are 64-bit
//! floats; an operation that has no answer gives one all the same (`x / 0` is 0, the root of a
//! negative number is 0), and a score that is no number counts as the lowest. The native
//! [evaluation](Expression::evaluate) and the compiled module give the same bits.
//!
//! Trees are kept flat, in prefix order: the subtree at a place is the run of nodes that begins
//! there, so cutting and grafting, which synthesis does a million times, is copying slices.

mod compile;
mod evaluate;
mod node;
mod parse;
mod show;
mod simplify;

use std::sync::Arc;

pub use evaluate::{Scratch, Table};
pub use node::{Arithmetic, Comparison, Fold, Function, Node, Sort};
pub use parse::SyntaxError;

/// Nodes of one expression: more is neither readable nor quick.
pub const NODES_MAX: usize = 256;

/// Levels of one expression: what recursion over it may need of a stack.
pub const DEPTH_MAX: usize = 48;

/// Columns of a table.
pub const COLUMNS_MAX: usize = 32;

/// The names of a table's columns, in their order; what an expression may speak of.
///
/// Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns(Arc<[String]>);

/// Why names cannot be those of columns.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ColumnsError {
    /// Nothing to choose by, or more than [`COLUMNS_MAX`].
    #[error("{0} columns; a table has 1 to {COLUMNS_MAX}")]
    Number(usize),
    /// Not a lowercase word, a word of the language, or there twice.
    #[error("{0:?} cannot be the name of a column: {1}")]
    Name(String, &'static str),
}

impl Columns {
    /// Columns of these names.
    ///
    /// # Errors
    ///
    /// [`ColumnsError`] for no name, too many, one that is not a lowercase word of letters, digits
    /// and underscores, a word of the language, or a name that is there twice.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, ColumnsError> {
        let mut known: Vec<String> = Vec::new();
        for name in names {
            let refused = |why| Err(ColumnsError::Name(name.to_owned(), why));
            let mut letters = name.chars();
            if !letters
                .next()
                .is_some_and(|first| first.is_ascii_lowercase())
                || !letters
                    .all(|rest| rest.is_ascii_lowercase() || rest.is_ascii_digit() || rest == '_')
            {
                return refused("names are lowercase words of letters, digits and underscores");
            }
            if parse::is_reserved(name) {
                return refused("the language uses this word");
            }
            if known.iter().any(|other| other == name) {
                return refused("it is there twice");
            }
            known.push(name.to_owned());
        }
        if known.is_empty() || COLUMNS_MAX < known.len() {
            return Err(ColumnsError::Number(known.len()));
        }
        Ok(Self(known.into()))
    }

    /// The names, in order.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Their number.
    pub fn number(&self) -> usize {
        self.0.len()
    }
}

/// Why nodes are no expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// An operand is missing, or nodes are left over.
    #[error("the nodes do not make one whole tree")]
    Torn,
    /// A truth where a number is needed, or the other way about.
    #[error("node {0} has the wrong sort for its place")]
    Sort(usize),
    /// A column that the table does not have.
    #[error("node {0} names a column that is not there")]
    Column(usize),
    /// A constant that is no finite number.
    #[error("node {0} is a number that is not finite")]
    NotFinite(usize),
    /// More than [`NODES_MAX`] nodes.
    #[error("more than {NODES_MAX} nodes")]
    TooLarge,
    /// More than [`DEPTH_MAX`] levels.
    #[error("more than {DEPTH_MAX} levels")]
    TooDeep,
}

/// A whole, well-typed expression that gives a number for each row.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    nodes: Vec<Node>,
    columns: Columns,
}

impl Expression {
    /// The expression of these nodes in prefix order.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] when they are not one whole, well-typed tree within the limits.
    pub fn new(nodes: Vec<Node>, columns: &Columns) -> Result<Self, ShapeError> {
        node::check(&nodes, columns.number())?;
        Ok(Self {
            nodes,
            columns: columns.clone(),
        })
    }

    /// Reads an expression as people write it.
    ///
    /// # Errors
    ///
    /// [`SyntaxError`] with the place and what was expected there.
    pub fn parse(text: &str, columns: &Columns) -> Result<Self, SyntaxError> {
        parse::parse(text, columns)
    }

    /// Its nodes, in prefix order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The columns it may speak of.
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// Where the subtree that begins at `at` ends (exclusive).
    ///
    /// # Panics
    ///
    /// When there is no node at `at`.
    pub fn subtree_end(&self, at: usize) -> usize {
        node::subtree_end(&self.nodes, at).expect("whole by construction")
    }

    /// With the subtree at `at` exchanged for `graft`.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] when the graft has another sort or the result would be too large.
    pub fn with_subtree(&self, at: usize, graft: &[Node]) -> Result<Self, ShapeError> {
        let end = node::subtree_end(&self.nodes, at).ok_or(ShapeError::Torn)?;
        let mut nodes = Vec::with_capacity(at + graft.len() + self.nodes.len() - end);
        nodes.extend_from_slice(&self.nodes[..at]);
        nodes.extend_from_slice(graft);
        nodes.extend_from_slice(&self.nodes[end..]);
        Self::new(nodes, &self.columns)
    }
}

#[cfg(test)]
pub(crate) mod random;
#[cfg(test)]
mod tests;
