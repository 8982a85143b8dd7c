//! Scripts that want to break out, hold on, or take everything.

use regrow_modules::host::{CallError, GuestError, Scalar, ScriptError, Task};

use crate::guests::{TICKS, ears, observation};
use crate::scripts::{loaded, loaded_within, script, script_with};

/// Ticks to fill a memory in, on a machine that is busy.
const PATIENCE: u64 = 20_000;

#[tokio::test]
async fn endless_loops_end_when_loaded_and_when_called() {
    let ended = loaded_within("for (;;) {}", 20).await;
    assert_eq!(ended.err(), Some(ScriptError::Call(CallError::OutOfTime)));
    let jobs =
        "const more = () => Promise.resolve().then(more); more(); export function decide() {}";
    let ended = loaded_within(jobs, 20).await;
    assert_eq!(ended.err(), Some(ScriptError::Call(CallError::OutOfTime)));

    for body in [
        "for (;;) {}",
        "try { for (;;) {} } finally { for (;;) {} }",
        "const f = async () => { for (;;) await null; }; return f();",
        "return { get kind() { for (;;) {} } };",
        "return { kind: 'x', params: new Proxy({}, { ownKeys() { for (;;) {} } }) };",
        "throw { toString() { for (;;) {} } };",
        "/(a+)+$/.test('a'.repeat(40) + 'b'); for (;;) {}",
        "[3, 2, 1].sort(() => { for (;;) {} });",
    ] {
        let source = format!("export function decide() {{ {body} }}");
        let mut spinner = script_with(&source, 100).await;
        let ended = spinner.decide(&observation(&[])).await;
        assert_eq!(ended, Err(CallError::OutOfTime), "{body}");
        assert_eq!(
            spinner.decide(&observation(&[])).await,
            Err(CallError::Gone)
        );
    }
}

#[tokio::test]
async fn memory_ends_and_the_script_is_told_or_ended() {
    for body in [
        "const all = []; for (;;) all.push(new Uint8Array(65536));",
        "let text = 'xy'; for (;;) text += text;",
        "const all = []; for (;;) all.push({ a: [] });",
        "new ArrayBuffer(1 << 30);",
        "'x'.repeat(1 << 29);",
        "new Array(1 << 28).fill(0);",
        "const all = new Map(); for (let i = 0; ; i++) all.set(i, [i]);",
        "2n ** (2n ** 40n);",
        "JSON.stringify(Array.from({ length: 64 }, () => 'y'.repeat(1 << 18)));",
    ] {
        let source = format!("export function decide() {{ {body} return {{ kind: 'x' }}; }}");
        let mut bomb = script_with(&source, PATIENCE).await;
        let ended = bomb.decide(&observation(&[])).await;
        assert!(
            matches!(
                &ended,
                Err(CallError::Refused(GuestError::Internal(_)) | CallError::Trapped(_))
            ),
            "{body}: {ended:?}"
        );
    }
    // Told, not killed: what it did not keep is free again.
    let mut told = script_with(
        "let bombed = false;
         export function decide() {
           if (!bombed) {
             bombed = true;
             const all = [];
             for (;;) all.push(new Uint8Array(65536));
           }
           return { kind: 'fine' };
         }",
        PATIENCE,
    )
    .await;
    let first = told.decide(&observation(&[])).await;
    let Err(CallError::Refused(GuestError::Internal(why))) = &first else {
        panic!("{first:?}");
    };
    assert!(why.contains("out of memory"), "{why}");
    assert_eq!(
        told.decide(&observation(&[])).await.expect("decided").kind,
        "fine"
    );
}

#[tokio::test]
async fn recursion_ends_with_an_error_that_says_so_and_goes_deep_enough_before() {
    for body in [
        "const f = (n) => f(n + 1) + 1; f(0);",
        "const f = (n) => [1].map(() => f(n + 1)); f(0);",
        "const o = { toString() { return '' + this; } }; return '' + o;",
        "const o = { toJSON() { return JSON.stringify(this); } }; JSON.stringify(o);",
        "const p = new Proxy({}, { get(t, k, r) { return r[k]; } }); p.x;",
        "class A { get x() { return new A().x; } } new A().x;",
        "const g = function* () { yield* g(); }; [...g()];",
        "const o = {}; o[Symbol.toPrimitive] = () => +o; +o;",
        "[1, 2].sort(function f() { return [1, 2].sort(f).length; });",
        "'a'.replace(/a/, function f(x) { return x.replace(/a/, f); });",
        "Reflect.construct(function F() { new F(); }, []);",
        "const f = (...all) => f(...all, 1); f();",
    ] {
        let source = format!("export function decide() {{ {body} return {{ kind: 'x' }}; }}");
        let mut deep = script(&source).await;
        let ended = deep.decide(&observation(&[])).await;
        let Err(CallError::Refused(GuestError::Internal(why))) = &ended else {
            panic!("{body}: {ended:?}");
        };
        assert!(
            why.contains("Maximum call stack size exceeded"),
            "{body}: {why}"
        );
        assert!(deep.is_alive());
    }
    let mut deep = script(
        "export function decide() {
           let depth = 0;
           const down = (tree) => { depth += 1; return down([tree, depth]) + 1; };
           try { down([]); } catch {}
           return { kind: 'x', params: { depth } };
         }",
    )
    .await;
    let action = deep.decide(&observation(&[])).await.expect("decided");
    let Scalar::Integer(depth) = action.params[0].val else {
        panic!("{action:?}");
    };
    assert!(200 < depth, "only {depth} calls deep");
}

#[tokio::test]
async fn what_makes_the_interpreter_itself_recurse_is_contained() {
    for body in [
        "let deep = []; for (let i = 0; i < 200000; i++) deep = [deep]; JSON.stringify(deep);",
        "JSON.parse('['.repeat(200000));",
        "eval('('.repeat(100000));",
        "eval('['.repeat(3000) + ']'.repeat(3000));",
        "eval('{'.repeat(100000));",
        "eval('-'.repeat(100000) + '1');",
        "new RegExp('('.repeat(100000) + ')'.repeat(100000));",
        "let f = () => 1; for (let i = 0; i < 100000; i++) f = f.bind(null); f();",
        "let p = {}; for (let i = 0; i < 100000; i++) p = new Proxy(p, {}); p.x;",
        "let s = 'a'; for (let i = 0; i < 100000; i++) s = [s]; String(s);",
    ] {
        let source = format!("export function decide() {{ {body} return {{ kind: 'x' }}; }}");
        let ended = script_with(&source, PATIENCE)
            .await
            .decide(&observation(&[]))
            .await;
        assert!(
            matches!(
                &ended,
                Ok(_) | Err(CallError::Trapped(_) | CallError::Refused(GuestError::Internal(_)))
            ),
            "{body}: {ended:?}"
        );
    }
}

#[tokio::test]
async fn answers_that_are_too_large_do_not_reach_the_host() {
    for answer in [
        "{ kind: 'k'.repeat(4 << 20) }",
        "{ kind: 'x', payload: new Uint8Array(4 << 20) }",
        "{ kind: 'x', params: Object.fromEntries(Array.from({ length: 60000 }, (_, i) => ['k' + i, i])) }",
        "{ kind: 'x', params: Object.fromEntries(Array.from({ length: 70000 }, (_, i) => [i, i])) }",
    ] {
        let source = format!("export function decide() {{ return {answer}; }}");
        let ended = script(&source).await.decide(&observation(&[])).await;
        assert!(
            matches!(
                &ended,
                Err(CallError::Trapped(_) | CallError::Refused(GuestError::Internal(_)))
            ),
            "{answer}: {ended:?}"
        );
    }
    // The text of an error is cut, within a character if need be.
    let long = "export function decide() { throw new Error('ä'.repeat(1 << 20)); }";
    let ended = script(long).await.decide(&observation(&[])).await;
    let Err(CallError::Refused(GuestError::Internal(why))) = ended else {
        panic!("{ended:?}");
    };
    assert!(1000 < why.len() && why.len() <= 1024, "{}", why.len());
}

#[tokio::test]
async fn tricks_on_what_everything_inherits_from_harm_only_the_script() {
    let mut tricky = script(
        "Object.defineProperty(Object.prototype, 'kind', { get() { return 'inherited'; }, set() { throw 1; } });
         Object.defineProperty(Object.prototype, 'params', { get() { throw new Error('inherited params'); } });
         Function.prototype.call = Function.prototype.apply = () => { throw new Error('called'); };
         Math.random = JSON.stringify = JSON.parse = () => { throw new Error('gone'); };
         globalThis.Object = globalThis.Array = globalThis.Promise = undefined;
         Error.prepareStackTrace = () => { throw new Error('stack'); };
         export function decide({ features }) { return { params: undefined, payload: String(features[0]) }; }
         export function snapshot() { return { a: 1 }; }",
    )
    .await;
    let action = tricky.decide(&observation(&[4.5])).await.expect("decided");
    assert_eq!(
        (action.kind.as_str(), action.payload.as_slice()),
        ("inherited", &b"4.5"[..])
    );
    assert_eq!(
        tricky.snapshot().await.expect("a state").data,
        br#"{"a":1}"#
    );

    // What is made for it does not go through its setters; what it makes itself may.
    let mut barred = script(
        "Object.defineProperty(Array.prototype, 0, { set() { throw new Error('set'); } });
         Object.defineProperty(Object.prototype, 'seq', { set() { throw new Error('set'); } });
         export function decide({ seq, features }) { return { kind: `${seq} ${features[0]}` }; }",
    )
    .await;
    let action = barred.decide(&observation(&[4.5])).await.expect("decided");
    assert_eq!(action.kind, "1 4.5");
}

#[tokio::test]
async fn lists_that_change_while_they_are_read_are_read_once() {
    let mut shrinking = script(
        "export function score(rows, width) {
           const scores = Array.from({ length: rows.length / width }, () => 1);
           Object.defineProperty(scores, 0, { get() { scores.length = 1; return 1; } });
           return scores;
         }
         export function decide() {
           const bytes = new Uint8Array(16);
           return { get kind() { bytes.buffer.transfer(); return 'x'; }, payload: bytes };
         }",
    )
    .await;
    let refused = shrinking.score(&[1.0, 2.0, 3.0], 1).await;
    assert!(
        matches!(&refused, Err(CallError::Refused(_))),
        "{refused:?}"
    );
    let refused = shrinking.decide(&observation(&[])).await;
    assert!(
        matches!(&refused, Err(CallError::Refused(GuestError::Internal(why))) if why.contains("detached")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn there_is_nothing_to_reach_outside() {
    let names = "['require', 'process', 'std', 'os', 'fetch', 'XMLHttpRequest', 'WebSocket', 'Deno', 'Bun',
         'setTimeout', 'setInterval', 'performance', 'SharedArrayBuffer', 'Atomics', 'WebAssembly', 'print',
         'scriptArgs', 'navigator', 'importScripts', 'Worker', 'load', 'read']";
    let source = format!(
        "export function decide() {{
           return {{ kind: {names}.filter((name) => typeof globalThis[name] !== 'undefined').join() }};
         }}
         export async function handle() {{ await import('std'); }}"
    );
    let mut alone = script(&source).await;
    assert_eq!(
        alone.decide(&observation(&[])).await.expect("decided").kind,
        ""
    );
    let task = Task {
        id: String::new(),
        kind: String::new(),
        input: Vec::new(),
        deadline: None,
    };
    let import = alone.handle(&task).await;
    assert!(
        matches!(&import, Err(CallError::Refused(GuestError::Internal(why))) if why.contains("'std' cannot be imported")),
        "{import:?}"
    );
}

#[tokio::test]
async fn many_scripts_come_and_go_and_thousands_of_lines_take_no_memory() {
    let prepared = loaded("let kept = []; export function decide({ seq }) { kept.push(seq); return { kind: String(kept.length) }; }")
        .await
        .expect("loaded");
    for _ in 0..200 {
        let mut one = prepared.instance(TICKS, ears()).await.expect("an instance");
        let action = one.decide(&observation(&[])).await.expect("decided");
        assert_eq!(action.kind, "1", "nothing of the one before is left");
    }
    let mut loud = script_with(
        "export function decide() {
           for (let i = 0; i < 5000; i++) {
             console.error('line', i, 'x'.repeat(1000));
             metrics.count('lines');
             new TextDecoder().decode(new TextEncoder().encode('ä'.repeat(500)));
           }
           return { kind: 'done' };
         }",
        PATIENCE,
    )
    .await;
    assert_eq!(
        loud.decide(&observation(&[])).await.expect("decided").kind,
        "done"
    );
}
