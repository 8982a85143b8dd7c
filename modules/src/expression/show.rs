//! Writing expressions as people read them; what [parsing](super::Expression::parse) reads back.

use std::fmt;

use super::{Arithmetic, Comparison, Expression, Fold, Function, Node};

/// How tightly an operator binds; operands that bind less are written in parentheses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Binding {
    Choice,
    Either,
    Both,
    Not,
    Comparison,
    Sum,
    Product,
    Negation,
    Whole,
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut at = 0;
        let mut page = String::new();
        write(self, &mut at, Binding::Choice, &mut page);
        f.write_str(&page)
    }
}

/// Writes the subtree at `at`, in parentheses if it binds less than its place wants.
fn write(of: &Expression, at: &mut usize, wanted: Binding, page: &mut String) {
    let node = of.nodes[*at];
    *at += 1;
    let binds = binding(node);
    let wrap = binds < wanted;
    if wrap {
        page.push('(');
    }
    match node {
        Node::Number(number) => push_number(number, page),
        Node::Column(column) => page.push_str(&of.columns.names()[usize::from(column)]),
        Node::Rows => page.push_str("rows"),
        Node::Function(Function::Negate) => {
            page.push('-');
            // `-3` is a constant, not the negation of one.
            if let Node::Number(number) = of.nodes[*at] {
                *at += 1;
                page.push('(');
                push_number(number, page);
                page.push(')');
            } else {
                write(of, at, Binding::Whole, page);
            }
        }
        Node::Arithmetic(Arithmetic::Lesser | Arithmetic::Greater) => {
            call(of, at, name(node), 2, page);
        }
        Node::Function(_) | Node::Fold(_) | Node::Count | Node::Previous | Node::Next => {
            call(of, at, name(node), 1, page);
        }
        Node::Arithmetic(_) | Node::Comparison(_) | Node::Both | Node::Either => {
            // Left to right: the right operand of a chain stands in parentheses.
            let chained = !matches!(node, Node::Comparison(_));
            let (left, right) = if chained {
                (binds, tighter(binds))
            } else {
                (tighter(binds), tighter(binds))
            };
            write(of, at, left, page);
            page.push(' ');
            page.push_str(name(node));
            page.push(' ');
            write(of, at, right, page);
        }
        Node::Not => {
            page.push_str("not ");
            write(of, at, Binding::Not, page);
        }
        Node::Choose => {
            page.push_str("if ");
            write(of, at, Binding::Either, page);
            page.push_str(" then ");
            write(of, at, Binding::Sum, page);
            page.push_str(" else ");
            write(of, at, Binding::Choice, page);
        }
    }
    if wrap {
        page.push(')');
    }
}

/// The shortest digits that read back as the same number.
fn push_number(number: f64, page: &mut String) {
    let size = number.abs();
    if size == 0.0 || (1e-5..1e15).contains(&size) {
        page.push_str(&number.to_string());
    } else {
        page.push_str(&format!("{number:e}"));
    }
}

fn call(of: &Expression, at: &mut usize, name: &str, operands: usize, page: &mut String) {
    page.push_str(name);
    page.push('(');
    for operand in 0..operands {
        if 0 < operand {
            page.push_str(", ");
        }
        write(of, at, Binding::Choice, page);
    }
    page.push(')');
}

pub(super) fn tighter(binds: Binding) -> Binding {
    match binds {
        Binding::Choice => Binding::Either,
        Binding::Either => Binding::Both,
        Binding::Both => Binding::Not,
        Binding::Not => Binding::Comparison,
        Binding::Comparison => Binding::Sum,
        Binding::Sum => Binding::Product,
        Binding::Product => Binding::Negation,
        Binding::Negation | Binding::Whole => Binding::Whole,
    }
}

fn binding(node: Node) -> Binding {
    match node {
        Node::Choose => Binding::Choice,
        Node::Either => Binding::Either,
        Node::Both => Binding::Both,
        Node::Not => Binding::Not,
        Node::Comparison(_) => Binding::Comparison,
        Node::Arithmetic(Arithmetic::Add | Arithmetic::Subtract) => Binding::Sum,
        Node::Arithmetic(Arithmetic::Multiply | Arithmetic::Divide) => Binding::Product,
        Node::Function(Function::Negate) => Binding::Negation,
        // A negative constant looks like a negation.
        Node::Number(number) if number.is_sign_negative() => Binding::Negation,
        Node::Number(_)
        | Node::Column(_)
        | Node::Rows
        | Node::Function(_)
        | Node::Arithmetic(_)
        | Node::Fold(_)
        | Node::Count
        | Node::Previous
        | Node::Next => Binding::Whole,
    }
}

/// The word or sign of an operation.
pub(super) fn name(node: Node) -> &'static str {
    match node {
        Node::Number(_) | Node::Column(_) => "",
        Node::Rows => "rows",
        Node::Function(Function::Negate) => "-",
        Node::Function(Function::Absolute) => "abs",
        Node::Function(Function::Root) => "sqrt",
        Node::Function(Function::Floor) => "floor",
        Node::Arithmetic(Arithmetic::Add) => "+",
        Node::Arithmetic(Arithmetic::Subtract) => "-",
        Node::Arithmetic(Arithmetic::Multiply) => "*",
        Node::Arithmetic(Arithmetic::Divide) => "/",
        Node::Arithmetic(Arithmetic::Lesser) => "min",
        Node::Arithmetic(Arithmetic::Greater) => "max",
        Node::Comparison(Comparison::Less) => "<",
        Node::Comparison(Comparison::AtMost) => "<=",
        Node::Comparison(Comparison::Equal) => "==",
        Node::Both => "and",
        Node::Either => "or",
        Node::Not => "not",
        Node::Choose => "if",
        Node::Fold(Fold::Least) => "least",
        Node::Fold(Fold::Most) => "most",
        Node::Fold(Fold::Sum) => "sum",
        Node::Fold(Fold::Mean) => "mean",
        Node::Count => "count",
        Node::Previous => "previous",
        Node::Next => "next",
    }
}
