//! The same expression with fewer nodes.
//!
//! Only what changes no score in any table: constants are computed, and what cannot matter is left
//! out. `x * 0` stays, for `x` may be infinite.

use super::{Arithmetic, Expression, Fold, Function, Node, Scratch, Table};

impl Expression {
    /// An expression that gives the same scores for every table, with at most as many nodes.
    #[must_use]
    pub fn simplified(&self) -> Self {
        let mut nodes = self.nodes.clone();
        loop {
            let mut at = 0;
            let simpler = self.simplify(&nodes, &mut at);
            if simpler.len() == nodes.len() {
                break;
            }
            nodes = simpler;
        }
        Self {
            nodes,
            columns: self.columns.clone(),
        }
    }

    /// The subtree at `at`, simplified from its leaves up; `at` moves behind it.
    fn simplify(&self, nodes: &[Node], at: &mut usize) -> Vec<Node> {
        let node = nodes[*at];
        *at += 1;
        let operands: Vec<Vec<Node>> = node
            .operands()
            .iter()
            .map(|_| self.simplify(nodes, at))
            .collect();
        if node == Node::Choose
            && let Some(holds) = self.constant_truth(&operands[0])
        {
            return operands[if holds { 1 } else { 2 }].clone();
        }
        if let Some(simpler) = shortcut(node, &operands) {
            return simpler;
        }
        let mut whole = vec![node];
        whole.extend(operands.into_iter().flatten());
        self.constant(&whole)
            .map_or(whole, |number| vec![Node::Number(number)])
    }

    /// Whether a truth holds, if it is the same in every row of every table.
    fn constant_truth(&self, truth: &[Node]) -> Option<bool> {
        let mut whole = vec![Node::Choose];
        whole.extend_from_slice(truth);
        whole.extend([Node::Number(1.0), Node::Number(0.0)]);
        Some(self.constant(&whole)? == 1.0)
    }

    /// The value of a subtree that is the same in every row of every table.
    fn constant(&self, nodes: &[Node]) -> Option<f64> {
        let varies = |node: &Node| {
            matches!(
                node,
                Node::Column(_) | Node::Rows | Node::Count | Node::Fold(Fold::Sum | Fold::Mean)
            )
        };
        if nodes.len() == 1 || nodes.iter().any(varies) {
            return None;
        }
        let whole = Self::new(nodes.to_vec(), &self.columns).ok()?;
        let mut table = Table::new(self.columns.number());
        table.refill(1, |_, _| {});
        let mut scores = Vec::new();
        whole.evaluate(&table, &mut Scratch::default(), &mut scores);
        // What is no number becomes the lowest score, which is no number's place inside.
        scores.first().copied().filter(|number| number.is_finite())
    }
}

/// What a node comes to, given its simplified operands.
fn shortcut(node: Node, operands: &[Vec<Node>]) -> Option<Vec<Node>> {
    let number = |of: &Vec<Node>| match of.as_slice() {
        [Node::Number(number)] => Some(*number),
        _ => None,
    };
    let same_in_all_rows = |of: &Vec<Node>| matches!(of.as_slice(), [Node::Number(_) | Node::Rows]);
    match node {
        Node::Function(Function::Negate) => {
            (operands[0][0] == Node::Function(Function::Negate)).then(|| operands[0][1..].to_vec())
        }
        Node::Not => (operands[0][0] == Node::Not).then(|| operands[0][1..].to_vec()),
        Node::Function(Function::Absolute | Function::Floor) => {
            (operands[0][0] == node).then(|| operands[0].clone())
        }
        Node::Arithmetic(Arithmetic::Subtract) if number(&operands[1]) == Some(0.0) => {
            // `x - 0` is `x` for every `x`; `x + 0` is not, for -0.
            is_positive_zero(&operands[1]).then(|| operands[0].clone())
        }
        Node::Arithmetic(Arithmetic::Multiply | Arithmetic::Divide)
            if number(&operands[1]) == Some(1.0) =>
        {
            Some(operands[0].clone())
        }
        Node::Arithmetic(Arithmetic::Multiply) if number(&operands[0]) == Some(1.0) => {
            Some(operands[1].clone())
        }
        Node::Arithmetic(Arithmetic::Lesser | Arithmetic::Greater) | Node::Both | Node::Either
            if identical(&operands[0], &operands[1]) =>
        {
            Some(operands[0].clone())
        }
        Node::Choose if identical(&operands[1], &operands[2]) => Some(operands[1].clone()),
        Node::Fold(Fold::Least | Fold::Most) | Node::Previous | Node::Next
            if same_in_all_rows(&operands[0]) || folds(&operands[0]) =>
        {
            Some(operands[0].clone())
        }
        Node::Number(_)
        | Node::Column(_)
        | Node::Rows
        | Node::Function(_)
        | Node::Arithmetic(_)
        | Node::Comparison(_)
        | Node::Both
        | Node::Either
        | Node::Choose
        | Node::Fold(_)
        | Node::Count
        | Node::Previous
        | Node::Next => None,
    }
}

/// The same to the bit: 0 and -0 are equal, but not the same.
fn identical(left: &[Node], right: &[Node]) -> bool {
    let same = |(x, y): (&Node, &Node)| match (x, y) {
        (Node::Number(x), Node::Number(y)) => x.to_bits() == y.to_bits(),
        _ => x == y,
    };
    left.len() == right.len() && left.iter().zip(right).all(same)
}

fn is_positive_zero(nodes: &[Node]) -> bool {
    matches!(nodes, [Node::Number(zero)] if zero.to_bits() == 0)
}

/// Whether a subtree begins with what is the same in every row.
fn folds(nodes: &[Node]) -> bool {
    matches!(nodes[0], Node::Fold(_) | Node::Count)
}
