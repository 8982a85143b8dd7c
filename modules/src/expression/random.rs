//! Random expressions, for tests.

use proptest::prelude::*;

use super::{Arithmetic, Comparison, Fold, Function, Node};

/// Any whole expression over `columns` columns, not too deep.
pub(crate) fn any_nodes(columns: u8) -> impl Strategy<Value = Vec<Node>> {
    let leaf = prop_oneof![
        any::<f64>()
            .prop_filter("finite", |number| number.is_finite())
            .prop_map(Node::Number),
        (-4_i32..5).prop_map(|number| Node::Number(f64::from(number))),
        (0..columns).prop_map(Node::Column),
        Just(Node::Rows),
    ]
    .prop_map(|node| vec![node]);
    leaf.prop_recursive(6, 48, 3, |number| {
        let function = prop::sample::select(vec![
            Node::Function(Function::Negate),
            Node::Function(Function::Absolute),
            Node::Function(Function::Root),
            Node::Function(Function::Floor),
            Node::Fold(Fold::Least),
            Node::Fold(Fold::Most),
            Node::Fold(Fold::Sum),
            Node::Fold(Fold::Mean),
            Node::Previous,
            Node::Next,
        ]);
        let arithmetic = prop::sample::select(vec![
            Node::Arithmetic(Arithmetic::Add),
            Node::Arithmetic(Arithmetic::Subtract),
            Node::Arithmetic(Arithmetic::Multiply),
            Node::Arithmetic(Arithmetic::Divide),
            Node::Arithmetic(Arithmetic::Lesser),
            Node::Arithmetic(Arithmetic::Greater),
        ]);
        let one = (function, number.clone()).prop_map(|(node, x)| joined(node, [x]));
        let two = (arithmetic, number.clone(), number.clone())
            .prop_map(|(node, x, y)| joined(node, [x, y]));
        let truth = any_truth(number.clone());
        let count = truth.clone().prop_map(|truth| joined(Node::Count, [truth]));
        let choose = (truth, number.clone(), number)
            .prop_map(|(truth, x, y)| joined(Node::Choose, [truth, x, y]));
        prop_oneof![3 => two, 2 => one, 1 => count, 2 => choose]
    })
}

fn any_truth(
    number: impl Strategy<Value = Vec<Node>> + Clone + 'static,
) -> impl Strategy<Value = Vec<Node>> + Clone {
    let comparison = prop::sample::select(vec![
        Node::Comparison(Comparison::Less),
        Node::Comparison(Comparison::AtMost),
        Node::Comparison(Comparison::Equal),
    ]);
    (comparison, number.clone(), number)
        .prop_map(|(node, x, y)| joined(node, [x, y]))
        .prop_recursive(2, 6, 2, |truth| {
            let pair = prop::sample::select(vec![Node::Both, Node::Either]);
            prop_oneof![
                (pair, truth.clone(), truth.clone()).prop_map(|(node, x, y)| joined(node, [x, y])),
                truth.prop_map(|x| joined(Node::Not, [x])),
            ]
        })
}

fn joined<const N: usize>(node: Node, operands: [Vec<Node>; N]) -> Vec<Node> {
    [node]
        .into_iter()
        .chain(operands.into_iter().flatten())
        .collect()
}
