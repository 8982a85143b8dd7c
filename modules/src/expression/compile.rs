//! From an expression to the body of a WebAssembly function that scores a table.
//!
//! The function takes a table whose rows follow one another in memory, and writes a score for each
//! row. Each fold is a loop of its own over all rows, before the loop that scores; neighbours are
//! computed anew at the neighbour's row, so nothing is written but the scores. It gives the same
//! bits as the native evaluation: both add up in the order of the rows, and both know `min`, `max`,
//! division and roots as [`Node`] says them.

use wasm_encoder::{BlockType, Function as Body, Ieee64, Instruction, MemArg, ValType};

use super::{Arithmetic, Comparison, Expression, Fold, Function, Node};

/// Bytes of a cell.
const CELL: u32 = 8;

/// Parameter: address of the first row.
const FIRST: u32 = 0;
/// Parameter: number of rows.
const ROWS: u32 = 1;
/// Parameter: address of the first score.
const SCORES: u32 = 2;
/// Local: address of the last row.
const LAST: u32 = 3;
/// Local: address of the row that a loop is at.
const AT: u32 = 4;
/// Locals that are there before the expression's own.
const FIXED: u32 = 5;

/// Writes the function `(first: i32, rows: i32, scores: i32)`.
struct Emitter<'a> {
    nodes: &'a [Node],
    /// Bytes of a row.
    stride: u32,
    code: Vec<Instruction<'static>>,
    /// Types of the locals after the fixed ones.
    locals: Vec<ValType>,
    /// The local that holds the value of the fold that begins at a node.
    folded: Vec<Option<u32>>,
}

impl Expression {
    /// The function `(first: i32, rows: i32, scores: i32)` that writes the score of each row of a
    /// table with this expression's columns; with no rows it does nothing.
    pub(crate) fn compiled(&self) -> Body {
        let mut emitter = Emitter {
            nodes: &self.nodes,
            stride: CELL * u32::try_from(self.columns.number()).expect("few columns"),
            code: Vec::new(),
            locals: Vec::new(),
            folded: vec![None; self.nodes.len()],
        };
        emitter.function();
        let mut locals = vec![(2, ValType::I32)];
        locals.extend(emitter.locals.iter().map(|kind| (1, *kind)));
        let mut body = Body::new(locals);
        for instruction in &emitter.code {
            body.instruction(instruction);
        }
        body.instruction(&Instruction::End);
        body
    }
}

fn cell(column: u8) -> MemArg {
    MemArg {
        offset: u64::from(u32::from(column) * CELL),
        align: 3,
        memory_index: 0,
    }
}

fn number(of: f64) -> Instruction<'static> {
    Instruction::F64Const(Ieee64::from(of))
}

impl Emitter<'_> {
    fn push(&mut self, instructions: impl IntoIterator<Item = Instruction<'static>>) {
        self.code.extend(instructions);
    }

    fn local(&mut self, kind: ValType) -> u32 {
        self.locals.push(kind);
        FIXED + u32::try_from(self.locals.len()).expect("few locals") - 1
    }

    fn stride(&self) -> i32 {
        self.stride.cast_signed()
    }

    fn function(&mut self) {
        use Instruction::{
            End, F64Eq, F64Store, I32Add, I32Const, I32Eqz, I32Mul, I32Sub, If, LocalGet, LocalSet,
            LocalTee, Return, Select,
        };
        let stride = self.stride();
        self.push([LocalGet(ROWS), I32Eqz, If(BlockType::Empty), Return, End]);
        self.push([LocalGet(FIRST), LocalGet(ROWS), I32Const(1), I32Sub]);
        self.push([I32Const(stride), I32Mul, I32Add, LocalSet(LAST)]);
        self.folds(0);

        let score = self.local(ValType::F64);
        self.begin_rows();
        // The scores are as many as the rows: one moves along with the other.
        self.push([LocalGet(SCORES)]);
        self.row(0, AT);
        // What is not a number is not equal to itself.
        self.push([LocalTee(score), number(f64::NEG_INFINITY)]);
        self.push([LocalGet(score), LocalGet(score), F64Eq, Select]);
        self.push([F64Store(cell(0))]);
        self.push([LocalGet(SCORES), I32Const(8), I32Add, LocalSet(SCORES)]);
        self.end_rows();
    }

    /// Opens a loop over all rows, of which there is at least one.
    fn begin_rows(&mut self) {
        use Instruction::{LocalGet, LocalSet, Loop};
        self.push([LocalGet(FIRST), LocalSet(AT), Loop(BlockType::Empty)]);
    }

    fn end_rows(&mut self) {
        use Instruction::{BrIf, End, I32Add, I32Const, I32LeU, LocalGet, LocalTee};
        let stride = self.stride();
        self.push([LocalGet(AT), I32Const(stride), I32Add, LocalTee(AT)]);
        self.push([LocalGet(LAST), I32LeU, BrIf(0), End]);
    }

    /// Computes every fold in the subtree at `at`, inner ones first.
    fn folds(&mut self, at: usize) {
        let end = super::node::subtree_end(self.nodes, at).expect("whole by construction");
        // In prefix order what is inside comes after what it is inside of.
        for at in (at..end).rev() {
            match self.nodes[at] {
                Node::Fold(fold) => self.fold(Some(fold), at),
                Node::Count => self.fold(None, at),
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
                | Node::Previous
                | Node::Next => {}
            }
        }
    }

    /// Computes the fold that begins at `at`; without one, it counts.
    fn fold(&mut self, fold: Option<Fold>, at: usize) {
        use Instruction::{
            Else, End, F64Add, F64ConvertI32U, F64Div, F64Lt, I32Eq, If, LocalGet, LocalSet, Select,
        };
        let folded = self.local(ValType::F64);
        let value = self.local(ValType::F64);
        self.begin_rows();
        self.row(at + 1, AT);
        if fold.is_none() {
            self.push([F64ConvertI32U]);
        }
        self.push([LocalSet(value), LocalGet(AT), LocalGet(FIRST), I32Eq]);
        self.push([If(BlockType::Empty), LocalGet(value), LocalSet(folded)]);
        self.push([Else]);
        match fold {
            Some(Fold::Least) => {
                self.push([LocalGet(value), LocalGet(folded)]);
                self.push([LocalGet(value), LocalGet(folded), F64Lt, Select]);
            }
            Some(Fold::Most) => {
                self.push([LocalGet(value), LocalGet(folded)]);
                self.push([LocalGet(folded), LocalGet(value), F64Lt, Select]);
            }
            Some(Fold::Sum | Fold::Mean) | None => {
                self.push([LocalGet(folded), LocalGet(value), F64Add])
            }
        }
        self.push([LocalSet(folded), End]);
        self.end_rows();
        if fold == Some(Fold::Mean) {
            self.push([LocalGet(folded), LocalGet(ROWS), F64ConvertI32U, F64Div]);
            self.push([LocalSet(folded)]);
        }
        self.folded[at] = Some(folded);
    }

    /// Leaves the value of the subtree at `at` for the row at the address in `row` on the stack: a
    /// float for a number, 1 or 0 for a truth. Returns where the subtree ends.
    fn row(&mut self, at: usize, row: u32) -> usize {
        use Instruction::{
            F64Add, F64ConvertI32U, F64Eq, F64Le, F64Load, F64Lt, F64Mul, F64Sub, I32And, I32Eqz,
            I32Or, LocalGet, Select,
        };
        let node = self.nodes[at];
        match node {
            Node::Number(constant) => self.push([number(constant)]),
            Node::Column(column) => self.push([LocalGet(row), F64Load(cell(column))]),
            Node::Rows => self.push([LocalGet(ROWS), F64ConvertI32U]),
            Node::Function(function) => return self.function_of(function, at + 1, row),
            Node::Arithmetic(operation) => {
                let middle = self.row(at + 1, row);
                let end = self.row(middle, row);
                match operation {
                    Arithmetic::Add => self.push([F64Add]),
                    Arithmetic::Subtract => self.push([F64Sub]),
                    Arithmetic::Multiply => self.push([F64Mul]),
                    Arithmetic::Divide | Arithmetic::Lesser | Arithmetic::Greater => {
                        self.two_kept(operation);
                    }
                }
                return end;
            }
            Node::Comparison(comparison) => {
                let middle = self.row(at + 1, row);
                let end = self.row(middle, row);
                self.push([match comparison {
                    Comparison::Less => F64Lt,
                    Comparison::AtMost => F64Le,
                    Comparison::Equal => F64Eq,
                }]);
                return end;
            }
            Node::Both | Node::Either => {
                let middle = self.row(at + 1, row);
                let end = self.row(middle, row);
                self.push([if node == Node::Both { I32And } else { I32Or }]);
                return end;
            }
            Node::Not => {
                let end = self.row(at + 1, row);
                self.push([I32Eqz]);
                return end;
            }
            Node::Choose => {
                // Wasm asks for what is chosen by last.
                let truth = self.local(ValType::I32);
                let holds = self.row(at + 1, row);
                self.push([Instruction::LocalSet(truth)]);
                let otherwise = self.row(holds, row);
                let end = self.row(otherwise, row);
                self.push([LocalGet(truth), Select]);
                return end;
            }
            Node::Fold(_) | Node::Count => {
                let folded = self.folded[at].expect("folds are computed before they are used");
                self.push([LocalGet(folded)]);
                return super::node::subtree_end(self.nodes, at).expect("whole by construction");
            }
            Node::Previous | Node::Next => return self.neighbour(node, at + 1, row),
        }
        at + 1
    }

    fn function_of(&mut self, function: Function, at: usize, row: u32) -> usize {
        use Instruction::{F64Abs, F64Floor, F64Lt, F64Neg, F64Sqrt, LocalGet, LocalTee, Select};
        let root = match function {
            Function::Root => Some(self.local(ValType::F64)),
            Function::Negate | Function::Absolute | Function::Floor => None,
        };
        if root.is_some() {
            self.push([number(0.0)]);
        }
        let end = self.row(at, row);
        match (function, root) {
            (Function::Negate, _) => self.push([F64Neg]),
            (Function::Absolute, _) => self.push([F64Abs]),
            (Function::Floor, _) => self.push([F64Floor]),
            (Function::Root, Some(kept)) => {
                self.push([LocalTee(kept), F64Sqrt]);
                self.push([LocalGet(kept), number(0.0), F64Lt, Select]);
            }
            (Function::Root, None) => unreachable!("a root keeps its operand"),
        }
        end
    }

    /// An operation that looks at its two operands, which are on the stack, twice.
    fn two_kept(&mut self, operation: Arithmetic) {
        use Instruction::{F64Div, F64Eq, F64Lt, LocalGet, LocalSet, Select};
        let y = self.local(ValType::F64);
        let x = self.local(ValType::F64);
        self.push([LocalSet(y), LocalSet(x)]);
        match operation {
            Arithmetic::Divide => {
                self.push([number(0.0), LocalGet(x), LocalGet(y), F64Div]);
                self.push([LocalGet(y), number(0.0), F64Eq, Select]);
            }
            Arithmetic::Lesser => {
                self.push([
                    LocalGet(y),
                    LocalGet(x),
                    LocalGet(y),
                    LocalGet(x),
                    F64Lt,
                    Select,
                ]);
            }
            Arithmetic::Greater => {
                self.push([
                    LocalGet(y),
                    LocalGet(x),
                    LocalGet(x),
                    LocalGet(y),
                    F64Lt,
                    Select,
                ]);
            }
            Arithmetic::Add | Arithmetic::Subtract | Arithmetic::Multiply => {
                unreachable!("one instruction each")
            }
        }
    }

    /// The subtree at `at`, at the row before or after; at the table's edge, at the row itself.
    fn neighbour(&mut self, node: Node, at: usize, row: u32) -> usize {
        use Instruction::{I32Add, I32Const, I32Eq, LocalGet, LocalSet, Select};
        let beside = self.local(ValType::I32);
        let (edge, step) = if node == Node::Previous {
            (FIRST, -self.stride())
        } else {
            (LAST, self.stride())
        };
        self.push([LocalGet(row), LocalGet(row), I32Const(step), I32Add]);
        self.push([
            LocalGet(row),
            LocalGet(edge),
            I32Eq,
            Select,
            LocalSet(beside),
        ]);
        self.row(at, beside)
    }
}
