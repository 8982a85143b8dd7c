//! Reading expressions as people write them.
//!
//! By precedence climbing (Pratt, 1973); from loose to tight: `if … then … else …`, `or`, `and`,
//! `not`, comparisons (which do not chain), `+ -`, `* /`, the sign, and what stands alone.

use super::show::{Binding, name};
use super::{
    Arithmetic, Columns, Comparison, DEPTH_MAX, Expression, Fold, Function, Node, ShapeError, Sort,
};

/// Longest text that is read, in bytes.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// Operations that are written like calls.
const CALLS: [Node; 12] = [
    Node::Function(Function::Absolute),
    Node::Function(Function::Root),
    Node::Function(Function::Floor),
    Node::Arithmetic(Arithmetic::Lesser),
    Node::Arithmetic(Arithmetic::Greater),
    Node::Fold(Fold::Least),
    Node::Fold(Fold::Most),
    Node::Fold(Fold::Sum),
    Node::Fold(Fold::Mean),
    Node::Count,
    Node::Previous,
    Node::Next,
];

/// Words that are no names of columns, beside those of calls.
const WORDS: [&str; 7] = ["if", "then", "else", "and", "or", "not", "rows"];

/// Why a text is no expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct SyntaxError {
    /// Line of the place, from 1.
    pub line: usize,
    /// Column of the place in its line, in characters, from 1.
    pub column: usize,
    /// What was expected there, and what was found.
    pub what: String,
}

/// Whether a word belongs to the language.
pub(super) fn is_reserved(word: &str) -> bool {
    WORDS.contains(&word) || CALLS.iter().any(|call| name(*call) == word)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Token<'a> {
    Number(f64),
    Word(&'a str),
    Sign(&'a str),
    End,
}

struct Reader<'a> {
    text: &'a str,
    columns: &'a Columns,
    /// The next token, where it begins and where it ends.
    token: Token<'a>,
    begins: usize,
    ends: usize,
}

/// Nodes of a subtree, in prefix order.
type Nodes = Vec<Node>;

/// The expression that `text` says.
pub(super) fn parse(text: &str, columns: &Columns) -> Result<Expression, SyntaxError> {
    if TEXT_BYTES_MAX < text.len() {
        return Err(SyntaxError {
            line: 1,
            column: 1,
            what: format!(
                "the text has {} bytes; the longest that is read has {TEXT_BYTES_MAX}",
                text.len()
            ),
        });
    }
    let mut reader = Reader {
        text,
        columns,
        token: Token::End,
        begins: 0,
        ends: 0,
    };
    reader.advance()?;
    let nodes = reader.expression(Binding::Choice, 0)?;
    if reader.token != Token::End {
        return Err(reader.unexpected("an operator or the end"));
    }
    reader.expect_sort(&nodes, Sort::Number, 0)?;
    Expression::new(nodes, columns).map_err(|error| {
        reader.begins = 0;
        reader.complaint(error.to_string())
    })
}

impl<'a> Reader<'a> {
    fn complaint(&self, what: String) -> SyntaxError {
        let before = &self.text[..self.begins];
        let line_begins = before.rfind('\n').map_or(0, |at| at + 1);
        SyntaxError {
            line: before.matches('\n').count() + 1,
            column: before[line_begins..].chars().count() + 1,
            what,
        }
    }

    fn unexpected(&self, wanted: &str) -> SyntaxError {
        let found = match self.token {
            Token::End => "the end".to_owned(),
            Token::Number(_) | Token::Word(_) | Token::Sign(_) => {
                format!("`{}`", &self.text[self.begins..self.ends])
            }
        };
        self.complaint(format!("expected {wanted}, found {found}"))
    }

    /// Reads the next token.
    fn advance(&mut self) -> Result<(), SyntaxError> {
        let text = self.text;
        let rest = text[self.ends..].trim_start();
        self.begins = text.len() - rest.len();
        let length_while = |of: fn(char) -> bool| rest.find(|c| !of(c)).unwrap_or(rest.len());
        let Some(first) = rest.chars().next() else {
            self.token = Token::End;
            self.ends = text.len();
            return Ok(());
        };
        let length;
        if first.is_ascii_digit() || first == '.' {
            length = number_length(rest);
            let number = rest[..length].parse().ok().filter(|n: &f64| n.is_finite());
            let Some(number) = number else {
                self.ends = self.begins + length;
                return Err(self.complaint(format!("`{}` is not a number", &rest[..length])));
            };
            self.token = Token::Number(number);
        } else if first.is_ascii_lowercase() {
            length = length_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            self.token = Token::Word(&rest[..length]);
        } else {
            let signs = [
                "<=", ">=", "==", "<", ">", "+", "-", "*", "/", "(", ")", ",",
            ];
            let Some(sign) = signs.into_iter().find(|sign| rest.starts_with(sign)) else {
                return Err(self.complaint(format!("`{first}` means nothing here")));
            };
            length = sign.len();
            self.token = Token::Sign(sign);
        }
        self.ends = self.begins + length;
        Ok(())
    }

    fn take(&mut self, wanted: Token<'_>, said: &str) -> Result<(), SyntaxError> {
        if self.token != wanted {
            return Err(self.unexpected(said));
        }
        self.advance()
    }

    /// An expression whose operators bind at least as tightly as `least`.
    fn expression(&mut self, least: Binding, depth: usize) -> Result<Nodes, SyntaxError> {
        if DEPTH_MAX < depth {
            return Err(self.complaint(ShapeError::TooDeep.to_string()));
        }
        let begins = self.begins;
        let mut left = self.operand(depth)?;
        while let Some((operation, swapped, binding)) = self.operator() {
            if binding < least {
                break;
            }
            let comparison = binding == Binding::Comparison;
            let wanted = operation.operands()[0];
            self.expect_sort(&left, wanted, begins)?;
            self.advance()?;
            let begins = self.begins;
            let right = self.expression(super::show::tighter(binding), depth + 1)?;
            self.expect_sort(&right, wanted, begins)?;
            let (first, second) = if swapped {
                (right, left)
            } else {
                (left, right)
            };
            left = [operation].into_iter().chain(first).chain(second).collect();
            if comparison && self.operator().is_some_and(|(_, _, next)| next == binding) {
                return Err(self.unexpected("`and` or `or`, for comparisons do not chain"));
            }
        }
        Ok(left)
    }

    /// The operator that comes next: its node, whether its operands are swapped, how it binds.
    fn operator(&self) -> Option<(Node, bool, Binding)> {
        use Binding::{Both, Comparison as Compared, Either, Product, Sum};
        let (Token::Sign(word) | Token::Word(word)) = self.token else {
            return None;
        };
        Some(match word {
            "or" => (Node::Either, false, Either),
            "and" => (Node::Both, false, Both),
            "<" => (Node::Comparison(Comparison::Less), false, Compared),
            "<=" => (Node::Comparison(Comparison::AtMost), false, Compared),
            ">" => (Node::Comparison(Comparison::Less), true, Compared),
            ">=" => (Node::Comparison(Comparison::AtMost), true, Compared),
            "==" => (Node::Comparison(Comparison::Equal), false, Compared),
            "+" => (Node::Arithmetic(Arithmetic::Add), false, Sum),
            "-" => (Node::Arithmetic(Arithmetic::Subtract), false, Sum),
            "*" => (Node::Arithmetic(Arithmetic::Multiply), false, Product),
            "/" => (Node::Arithmetic(Arithmetic::Divide), false, Product),
            _ => return None,
        })
    }

    fn operand(&mut self, depth: usize) -> Result<Nodes, SyntaxError> {
        let begins = self.begins;
        match self.token {
            Token::Number(number) => {
                self.advance()?;
                Ok(vec![Node::Number(number)])
            }
            Token::Sign("(") => {
                self.advance()?;
                let inner = self.expression(Binding::Choice, depth + 1)?;
                self.take(Token::Sign(")"), "`)`")?;
                Ok(inner)
            }
            Token::Sign("-") => {
                self.advance()?;
                if let Token::Number(number) = self.token {
                    self.advance()?;
                    return Ok(vec![Node::Number(-number)]);
                }
                let begins = self.begins;
                let inner = self.expression(Binding::Whole, depth + 1)?;
                self.expect_sort(&inner, Sort::Number, begins)?;
                Ok(prefixed(Node::Function(Function::Negate), inner))
            }
            Token::Word("not") => {
                self.advance()?;
                let begins = self.begins;
                let inner = self.expression(Binding::Not, depth + 1)?;
                self.expect_sort(&inner, Sort::Truth, begins)?;
                Ok(prefixed(Node::Not, inner))
            }
            Token::Word("if") => self.choice(depth),
            Token::Word("rows") => {
                self.advance()?;
                Ok(vec![Node::Rows])
            }
            Token::Word(word) => {
                if let Some(call) = CALLS.into_iter().find(|call| name(*call) == word) {
                    self.advance()?;
                    return self.call(call, depth);
                }
                let at = self.columns.names().iter().position(|name| name == word);
                let Some(column) = at.and_then(|at| u8::try_from(at).ok()) else {
                    let known = self.columns.names().join(", ");
                    return Err(self.complaint(format!(
                        "`{word}` is neither a column ({known}) nor a word of the language"
                    )));
                };
                self.advance()?;
                Ok(vec![Node::Column(column)])
            }
            Token::Sign(_) | Token::End => {
                self.begins = begins;
                Err(self.unexpected("a number, a column, `(`, `if` or a function"))
            }
        }
    }

    fn call(&mut self, call: Node, depth: usize) -> Result<Nodes, SyntaxError> {
        self.take(Token::Sign("("), "`(`")?;
        let mut nodes = vec![call];
        for (place, sort) in call.operands().iter().enumerate() {
            if 0 < place {
                self.take(Token::Sign(","), "`,`")?;
            }
            let begins = self.begins;
            let operand = self.expression(Binding::Choice, depth + 1)?;
            self.expect_sort(&operand, *sort, begins)?;
            nodes.extend(operand);
        }
        self.take(Token::Sign(")"), "`)`")?;
        Ok(nodes)
    }

    fn choice(&mut self, depth: usize) -> Result<Nodes, SyntaxError> {
        let mut nodes = vec![Node::Choose];
        self.advance()?;
        let parts = [
            (Sort::Truth, Some("then")),
            (Sort::Number, Some("else")),
            (Sort::Number, None),
        ];
        for (sort, then) in parts {
            let begins = self.begins;
            let part = self.expression(Binding::Choice, depth + 1)?;
            self.expect_sort(&part, sort, begins)?;
            nodes.extend(part);
            if let Some(word) = then {
                self.take(Token::Word(word), &format!("`{word}`"))?;
            }
        }
        Ok(nodes)
    }

    fn expect_sort(&mut self, nodes: &Nodes, sort: Sort, begins: usize) -> Result<(), SyntaxError> {
        if nodes[0].sort() == sort {
            return Ok(());
        }
        let said = match sort {
            Sort::Number => "this says whether something holds; a number is needed here",
            Sort::Truth => "this is a number; here it must say whether something holds",
        };
        self.begins = begins;
        Err(self.complaint(said.to_owned()))
    }
}

fn prefixed(node: Node, mut operand: Nodes) -> Nodes {
    operand.insert(0, node);
    operand
}

/// Length of the number at the beginning of `text`: digits, a point, digits, an exponent.
fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let mut at = digits(0);
    if bytes.get(at) == Some(&b'.') {
        at = digits(at + 1);
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let after = digits(at + 1 + sign);
        if at + 1 + sign < after {
            at = after;
        }
    }
    at
}
