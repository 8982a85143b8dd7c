//! The core module of a policy: its functions as the canonical ABI calls them.

use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, DataSection, ExportKind, ExportSection, Function,
    FunctionSection, GlobalSection, GlobalType, Ieee64, Instruction, MemArg, MemorySection,
    MemoryType, Module, TypeSection, ValType,
};

use super::Manifest;
use super::layout::{ANSWER_BYTES, ATTRIBUTE_BYTES, INVALID_INPUT, Layout};
use crate::expression::Expression;

/// Where the next allocation goes.
const HEAP: u32 = 0;

/// Bytes of a page of memory.
const PAGE: u32 = 65_536;

/// Bytes of an `observation`, and where its features lie in it.
const OBSERVATION_BYTES: u32 = 48;
const FEATURES: u64 = 24;

/// Numbers of the functions that others call, in the order of [`functions`].
const SCORE: u32 = 0;
const ALLOCATE: u32 = 1;
const TAKE_BACK: u32 = 3;
const DECIDE_INTO: u32 = 4;

/// A function: its number, its types, its body, and the name it is exported by.
struct Written {
    parameters: &'static [ValType],
    results: &'static [ValType],
    body: Function,
    export: Option<&'static str>,
    /// Whether memory is taken back after it.
    takes_back: bool,
}

use ValType::{F64, I32, I64};

pub(super) fn core_module(expression: &Expression, manifest: &Manifest) -> Vec<u8> {
    let layout = Layout::of(manifest, expression.columns().names());
    let columns = u32::try_from(expression.columns().number()).expect("few columns");
    let functions = functions(expression, &layout, columns);

    let mut types = TypeSection::new();
    let mut declared = FunctionSection::new();
    let mut exports = ExportSection::new();
    let mut code = CodeSection::new();
    exports.export("memory", ExportKind::Memory, 0);
    for (number, function) in (0_u32..).zip(&functions) {
        types.ty().function(
            function.parameters.iter().copied(),
            function.results.iter().copied(),
        );
        declared.function(number);
        code.function(&function.body);
        if let Some(name) = function.export {
            exports.export(name, ExportKind::Func, number);
            if function.takes_back {
                let after = format!("cabi_post_{name}");
                exports.export(&after, ExportKind::Func, TAKE_BACK);
            }
        }
    }

    let mut memories = MemorySection::new();
    memories.memory(MemoryType {
        minimum: u64::from(layout.heap.div_ceil(PAGE)),
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    let mut globals = GlobalSection::new();
    let heap = GlobalType {
        val_type: I32,
        mutable: true,
        shared: false,
    };
    globals.global(heap, &ConstExpr::i32_const(layout.heap.cast_signed()));
    let mut data = DataSection::new();
    let begin = ConstExpr::i32_const(Layout::begin().cast_signed());
    data.active(0, &begin, layout.data.iter().copied());

    let mut module = Module::new();
    module.section(&types).section(&declared).section(&memories);
    module
        .section(&globals)
        .section(&exports)
        .section(&code)
        .section(&data);
    module.finish()
}

fn functions(expression: &Expression, layout: &Layout, columns: u32) -> Vec<Written> {
    let inner = |parameters, results, body| Written {
        parameters,
        results,
        body,
        export: None,
        takes_back: false,
    };
    let exported = |export, parameters, results, body| Written {
        parameters,
        results,
        body,
        export: Some(export),
        takes_back: true,
    };
    let fixed = |export, parameters, address: u32| {
        let body = written(&[], [Instruction::I32Const(address.cast_signed())]);
        exported(export, parameters, &[I32], body)
    };
    vec![
        inner(&[I32, I32, I32], &[], expression.compiled()),
        inner(&[I32], &[I32], allocate()),
        Written {
            export: Some("cabi_realloc"),
            ..inner(&[I32, I32, I32, I32], &[I32], realloc())
        },
        inner(&[I32], &[], take_back(layout)),
        inner(&[I32, I32, I32, I32], &[], decide_into(layout, columns)),
        fixed(
            "regrow:strategy/strategy@0.1.0#describe",
            &[],
            layout.manifest,
        ),
        fixed(
            "regrow:strategy/strategy@0.1.0#init",
            &[I64, I32, I32, I32, I32],
            layout.fine,
        ),
        exported(
            "regrow:strategy/strategy@0.1.0#decide",
            &[I64, I64, I32, I32, I32, I32, I32, I32, I32, I32],
            &[I32],
            decide(layout),
        ),
        exported(
            "regrow:strategy/strategy@0.1.0#decide-batch",
            &[I32, I32],
            &[I32],
            decide_batch(layout),
        ),
        fixed(
            "regrow:strategy/strategy@0.1.0#handle",
            &[I32, I32, I32, I32, I32, I32, I32, I64],
            layout.no_tasks,
        ),
        Written {
            takes_back: false,
            ..exported(
                "regrow:strategy/strategy@0.1.0#feedback",
                &[I64, F64],
                &[],
                written(&[], []),
            )
        },
        fixed("regrow:strategy/strategy@0.1.0#snapshot", &[], layout.state),
        fixed(
            "regrow:strategy/strategy@0.1.0#code-change",
            &[I32, I32, I32, I32, I32, I32],
            layout.fine,
        ),
        exported(
            "regrow:strategy/scoring@0.1.0#score",
            &[I32, I32, I32],
            &[I32],
            score_table(layout, columns),
        ),
    ]
}

fn written<'a>(locals: &[ValType], code: impl IntoIterator<Item = Instruction<'a>>) -> Function {
    let mut body = Function::new(locals.iter().map(|kind| (1, *kind)));
    for instruction in code {
        body.instruction(&instruction);
    }
    body.instruction(&Instruction::End);
    body
}

fn word(offset: u64) -> MemArg {
    MemArg {
        offset,
        align: 2,
        memory_index: 0,
    }
}

fn double(offset: u64) -> MemArg {
    MemArg {
        align: 3,
        ..word(offset)
    }
}

fn byte(offset: u64) -> MemArg {
    MemArg {
        align: 0,
        ..word(offset)
    }
}

fn constant(of: u32) -> Instruction<'static> {
    Instruction::I32Const(of.cast_signed())
}

/// `allocate(bytes) -> address`, at a multiple of eight; traps when the host gives no more memory.
fn allocate() -> Function {
    use Instruction::{
        End, GlobalGet, GlobalSet, I32Add, I32And, I32Const, I32Eq, I32GtU, I32LtU, I32Shl,
        I32ShrU, I32Sub, If, LocalGet, LocalTee, MemoryGrow, MemorySize, Unreachable,
    };
    let (bytes, at, end) = (0, 1, 2);
    written(
        &[I32, I32],
        [
            GlobalGet(HEAP),
            I32Const(7),
            I32Add,
            I32Const(-8),
            I32And,
            LocalTee(at),
            LocalGet(bytes),
            I32Add,
            LocalTee(end),
            // Around the end of the address space.
            LocalGet(at),
            I32LtU,
            If(BlockType::Empty),
            Unreachable,
            End,
            LocalGet(end),
            MemorySize(0),
            I32Const(16),
            I32Shl,
            I32GtU,
            If(BlockType::Empty),
            LocalGet(end),
            MemorySize(0),
            I32Const(16),
            I32Shl,
            I32Sub,
            constant(PAGE - 1),
            I32Add,
            I32Const(16),
            I32ShrU,
            MemoryGrow(0),
            I32Const(-1),
            I32Eq,
            If(BlockType::Empty),
            Unreachable,
            End,
            End,
            LocalGet(end),
            GlobalSet(HEAP),
            LocalGet(at),
        ],
    )
}

/// `cabi_realloc(old, old bytes, alignment, bytes) -> address`: always new memory, for nothing is
/// taken back before the call ends.
fn realloc() -> Function {
    use Instruction::{Call, I32LtU, LocalGet, LocalTee, MemoryCopy, Select};
    let (old, old_bytes, bytes, new) = (0, 1, 3, 4);
    written(
        &[I32],
        [
            LocalGet(bytes),
            Call(ALLOCATE),
            LocalTee(new),
            LocalGet(old),
            LocalGet(old_bytes),
            LocalGet(bytes),
            LocalGet(old_bytes),
            LocalGet(bytes),
            I32LtU,
            Select,
            MemoryCopy {
                src_mem: 0,
                dst_mem: 0,
            },
            LocalGet(new),
        ],
    )
}

/// Forgets all that was handed out since the call began.
fn take_back(layout: &Layout) -> Function {
    written(&[], [constant(layout.heap), Instruction::GlobalSet(HEAP)])
}

/// `decide_into(table, cells, answer, attribute)`: writes a `result<action, error>` to `answer`,
/// and the action's one parameter to `attribute`.
fn decide_into(layout: &Layout, columns: u32) -> Function {
    use Instruction::{
        BrIf, Call, Else, End, F64Const, F64Gt, F64Load, F64Store, I32Add, I32Const, I32DivU,
        I32Eqz, I32LtU, I32Mul, I32Or, I32RemU, I32Store, I32Store8, I64ExtendI32U, I64Store, If,
        LocalGet, LocalSet, LocalTee, Loop,
    };
    let (table, cells, answer, attribute) = (0, 1, 2, 3);
    let (rows, scores, row, best, highest) = (4, 5, 6, 7, 8);
    let text = |text: super::layout::Text, at: u32, offset: u64| {
        [
            LocalGet(at),
            constant(text.at),
            I32Store(word(offset)),
            LocalGet(at),
            constant(text.bytes),
            I32Store(word(offset + 4)),
        ]
    };
    let refused = [
        LocalGet(cells),
        I32Eqz,
        LocalGet(cells),
        constant(columns),
        I32RemU,
        I32Or,
        If(BlockType::Empty),
        LocalGet(answer),
        I32Const(1),
        I32Store8(byte(0)),
        LocalGet(answer),
        I32Const(i32::from(INVALID_INPUT)),
        I32Store8(byte(8)),
    ];
    let score = [
        Else,
        LocalGet(cells),
        constant(columns),
        I32DivU,
        LocalTee(rows),
        I32Const(8),
        I32Mul,
        Call(ALLOCATE),
        LocalSet(scores),
        LocalGet(table),
        LocalGet(rows),
        LocalGet(scores),
        Call(SCORE),
    ];
    // The first of the highest.
    let choose = [
        I32Const(0),
        LocalTee(row),
        LocalSet(best),
        LocalGet(scores),
        F64Load(double(0)),
        LocalSet(highest),
        Loop(BlockType::Empty),
        LocalGet(scores),
        F64Load(double(0)),
        LocalGet(highest),
        F64Gt,
        If(BlockType::Empty),
        LocalGet(scores),
        F64Load(double(0)),
        LocalSet(highest),
        LocalGet(row),
        LocalSet(best),
        End,
        LocalGet(scores),
        I32Const(8),
        I32Add,
        LocalSet(scores),
        LocalGet(row),
        I32Const(1),
        I32Add,
        LocalTee(row),
        LocalGet(rows),
        I32LtU,
        BrIf(0),
        End,
    ];
    let answered = [
        LocalGet(answer),
        I32Const(0),
        I32Store8(byte(0)),
        LocalGet(answer),
        F64Const(Ieee64::from(1.0)),
        F64Store(double(16)),
        LocalGet(answer),
        LocalGet(attribute),
        I32Store(word(24)),
        LocalGet(answer),
        I32Const(1),
        I32Store(word(28)),
        // No payload: a list of no bytes, anywhere.
        LocalGet(answer),
        LocalGet(answer),
        I32Store(word(32)),
        LocalGet(answer),
        I32Const(0),
        I32Store(word(36)),
        // The scalar is an integer.
        LocalGet(attribute),
        I32Const(2),
        I32Store8(byte(8)),
        LocalGet(attribute),
        LocalGet(best),
        I64ExtendI32U,
        I64Store(double(16)),
    ];
    let code = refused
        .into_iter()
        .chain(text(layout.not_a_table, answer, 12))
        .chain(score)
        .chain(choose)
        .chain(answered)
        .chain(text(layout.choose, answer, 8))
        .chain(text(layout.row, attribute, 0))
        .chain([End]);
    written(&[I32, I32, I32, I32, F64], code)
}

fn decide(layout: &Layout) -> Function {
    use Instruction::{Call, LocalGet};
    let (features, cells) = (4, 5);
    written(
        &[],
        [
            LocalGet(features),
            LocalGet(cells),
            constant(layout.answer),
            constant(layout.attribute),
            Call(DECIDE_INTO),
            constant(layout.answer),
        ],
    )
}

fn decide_batch(layout: &Layout) -> Function {
    use Instruction::{
        Br, Call, End, I32Add, I32Const, I32Eqz, I32Load, I32Mul, I32Store, I32Sub, If, LocalGet,
        LocalSet, LocalTee, Loop,
    };
    let (observation, left, answer, attribute) = (0, 1, 2, 3);
    let onwards = |of: u32, by: u32| [LocalGet(of), constant(by), I32Add, LocalSet(of)];
    let code = [
        LocalGet(left),
        constant(ANSWER_BYTES),
        I32Mul,
        Call(ALLOCATE),
        LocalSet(answer),
        LocalGet(left),
        constant(ATTRIBUTE_BYTES),
        I32Mul,
        Call(ALLOCATE),
        LocalSet(attribute),
        constant(layout.answer),
        LocalGet(answer),
        I32Store(word(0)),
        constant(layout.answer),
        LocalGet(left),
        I32Store(word(4)),
        Loop(BlockType::Empty),
        LocalGet(left),
        If(BlockType::Empty),
        LocalGet(observation),
        I32Load(word(FEATURES)),
        LocalGet(observation),
        I32Load(word(FEATURES + 4)),
        LocalGet(answer),
        LocalGet(attribute),
        Call(DECIDE_INTO),
    ];
    let next = [
        LocalGet(left),
        I32Const(1),
        I32Sub,
        LocalTee(left),
        I32Eqz,
        I32Eqz,
        If(BlockType::Empty),
        Br(2),
        End,
        End,
        End,
        constant(layout.answer),
    ];
    let code = code
        .into_iter()
        .chain(onwards(observation, OBSERVATION_BYTES))
        .chain(onwards(answer, ANSWER_BYTES))
        .chain(onwards(attribute, ATTRIBUTE_BYTES))
        .chain(next);
    written(&[I32, I32], code)
}

/// `score(table, width)`: no scores for what is no table of this policy's width.
fn score_table(layout: &Layout, columns: u32) -> Function {
    use Instruction::{
        Call, End, I32Const, I32DivU, I32Eq, I32Eqz, I32Mul, I32RemU, I32Store, If, LocalGet,
        LocalSet,
    };
    let (table, cells, width, rows, scores) = (0, 1, 2, 3, 4);
    written(
        &[I32, I32],
        [
            LocalGet(width),
            constant(columns),
            I32Eq,
            If(BlockType::Empty),
            LocalGet(cells),
            constant(columns),
            I32RemU,
            I32Eqz,
            If(BlockType::Empty),
            LocalGet(cells),
            constant(columns),
            I32DivU,
            LocalSet(rows),
            End,
            End,
            LocalGet(rows),
            I32Const(8),
            I32Mul,
            Call(ALLOCATE),
            LocalSet(scores),
            LocalGet(table),
            LocalGet(rows),
            LocalGet(scores),
            Call(SCORE),
            constant(layout.answer),
            LocalGet(scores),
            I32Store(word(0)),
            constant(layout.answer),
            LocalGet(rows),
            I32Store(word(4)),
            constant(layout.answer),
        ],
    )
}
