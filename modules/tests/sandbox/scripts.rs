//! Strategies whose source is text: what they can say, what they are told, and what is wrong
//! with them.

use std::sync::LazyLock;

use regrow_modules::capability::{Capability, Grants};
use regrow_modules::host::{
    Attribute, CallError, Direction, Fault, GuestError, Observation, Position, Prepared, Running,
    SOURCE_BYTES_MAX, Scalar, ScriptError, Start, State, Task,
};

use crate::guests::{Ears, HOST, TICKS, ears, observation};

/// Compiled once for all tests.
static SHELL: LazyLock<Prepared> = LazyLock::new(|| HOST.shell().expect("a shell"));

fn everything() -> Grants {
    Capability::ALL.into_iter().collect()
}

pub(crate) async fn loaded(source: &str) -> Result<Prepared, ScriptError> {
    loaded_within(source, TICKS).await
}

pub(crate) async fn loaded_within(source: &str, ticks: u64) -> Result<Prepared, ScriptError> {
    SHELL.script(source, everything(), ticks).await
}

/// An instance that began its work.
pub(crate) async fn script(source: &str) -> Running {
    script_with(source, TICKS).await
}

pub(crate) async fn script_with(source: &str, ticks: u64) -> Running {
    let prepared = match loaded(source).await {
        Ok(prepared) => prepared,
        Err(ScriptError::Faulty(fault)) => unreachable!("{}", fault.shown_in(source)),
        Err(other) => unreachable!("{other}"),
    };
    let mut script = prepared.instance(ticks, ears()).await.expect("an instance");
    script.init(&Start::default()).await.expect("begun");
    script
}

async fn faulty(source: &str) -> Fault {
    match loaded(source).await {
        Err(ScriptError::Faulty(fault)) => fault,
        other => unreachable!("{source}: {other:?}"),
    }
}

/// The refusal of a decision, and what it stumbled over.
async fn refused(source: &str) -> (GuestError, Fault) {
    let mut script = script(source).await;
    let refusal = match script.decide(&observation(&[1.0])).await {
        Err(CallError::Refused(refusal)) => refusal,
        other => unreachable!("{source}: {other:?}"),
    };
    let fault = script.last_fault().await.expect("asked").expect("a fault");
    // It can be called again, and says the same.
    let again = script.decide(&observation(&[1.0])).await;
    assert_eq!(again, Err(CallError::Refused(refusal.clone())), "{source}");
    (refusal, fault)
}

fn at(line: u32, column: u32) -> Option<Position> {
    Some(Position { line, column })
}

#[tokio::test]
async fn a_script_is_told_everything_and_can_answer_everything() {
    let mut script = script(
        "export function decide(seen) {
           return {
             kind: seen.kind + '/' + seen.features.length,
             confidence: 0.5,
             params: { ...seen.attrs, seq: seen.seq, at: seen.at, sum: seen.features[0] + 0.5 },
             payload: new Uint8Array([...seen.payload].reverse()),
           };
         }
         export function handle(task) {
           const text = new TextDecoder().decode(task.input);
           return { output: `${task.id} ${task.kind} ${text} ${task.deadline}`, score: 0.25 };
         }",
    )
    .await;
    let attr = |key: &str, val| Attribute {
        key: key.to_owned(),
        val,
    };
    let attrs = vec![
        attr("nothing", Scalar::Null),
        attr("yes", Scalar::Boolean(true)),
        attr("large", Scalar::Integer(i64::MIN)),
        attr("small", Scalar::Integer(-3)),
        attr("half", Scalar::Number(0.5)),
        attr("text", Scalar::Text("zwölf €, 🦀".to_owned())),
        attr("bytes", Scalar::Bytes(vec![0, 255])),
        attr("__proto__", Scalar::Integer(7)),
    ];
    let seen = Observation {
        seq: 1 << 60,
        at: 1_700_000_000_123,
        kind: "offer".to_owned(),
        features: vec![2.0, f64::INFINITY],
        attrs: attrs.clone(),
        payload: vec![1, 2, 3],
    };
    let action = script.decide(&seen).await.expect("decided");
    assert_eq!(action.kind, "offer/2");
    assert_eq!(action.confidence, 0.5);
    assert_eq!(action.payload, [3, 2, 1]);
    let mut wanted = attrs;
    wanted.push(attr("seq", Scalar::Integer(1 << 60)));
    wanted.push(attr("at", Scalar::Integer(1_700_000_000_123)));
    wanted.push(attr("sum", Scalar::Number(2.5)));
    assert_eq!(action.params, wanted);

    let task = Task {
        id: "t1".to_owned(),
        kind: "greet".to_owned(),
        input: "grüß".into(),
        deadline: Some(5),
    };
    let outcome = script.handle(&task).await.expect("done");
    assert_eq!(outcome.output, "t1 greet grüß 5".as_bytes());
    assert_eq!(outcome.score, Some(0.25));
}

#[tokio::test]
async fn a_strategy_may_be_exported_as_one_object_and_may_promise_its_answers() {
    let mut script = script(
        "export default {
           prefix: 'go-',
           async decide({ kind }) {
             await null;
             return { kind: this.prefix + kind };
           },
         };",
    )
    .await;
    let action = script.decide(&observation(&[])).await.expect("decided");
    assert_eq!(
        (action.kind.as_str(), action.confidence, action.params.len()),
        ("go-item", 1.0, 0)
    );
}

#[tokio::test]
async fn faults_of_loading_say_where_and_what() {
    let no_end = faulty("export function decide() {\n  return { kind: 'x' ;\n}").await;
    assert!(no_end.message.starts_with("SyntaxError"), "{no_end:?}");
    assert_eq!(no_end.at.map(|at| at.line), Some(2), "{no_end:?}");

    let thrown =
        faulty("const a = 1;\n\n  undefinedFunction(a);\nexport function decide() {}").await;
    assert_eq!(
        thrown.message,
        "ReferenceError: undefinedFunction is not defined"
    );
    assert_eq!(thrown.at, at(3, 3));

    let nothing = faulty("const x = 1;").await;
    assert!(
        nothing.message.contains("decide, handle and score"),
        "{nothing:?}"
    );
    assert_eq!(nothing.at, None);

    let import = faulty("import _ from 'lodash';\nexport function decide() {}").await;
    assert!(
        import.message.contains("'lodash' cannot be imported"),
        "{import:?}"
    );

    let no_function = faulty("export const decide = 5;").await;
    assert!(
        no_function
            .message
            .contains("decide is exported, and is no function")
    );

    let odd = faulty("export const manifest = { version: 3 }; export function decide() {}").await;
    assert_eq!(
        odd.message,
        "TypeError: manifest.version must be text, not a number"
    );

    let pending = faulty("await new Promise(() => {}); export function decide() {}").await;
    assert!(
        pending.message.contains("nothing will ever fulfil"),
        "{pending:?}"
    );

    let word = faulty("throw 'a word'").await;
    assert_eq!((word.message.as_str(), word.at), ("a word", None));
}

#[tokio::test]
async fn faults_of_deciding_say_where_and_the_script_goes_on() {
    let (refusal, fault) =
        refused("function inner(x) {\n  return x.a.b;\n}\nexport function decide(o) {\n  return inner(o);\n}")
            .await;
    assert_eq!(
        fault.message,
        "TypeError: cannot read property 'b' of undefined"
    );
    assert_eq!(fault.at.map(|at| at.line), Some(2), "{fault:?}");
    assert!(
        fault.stack.contains("at inner (strategy.js:2:"),
        "{fault:?}"
    );
    assert!(
        fault.stack.contains("at decide (strategy.js:5:"),
        "{fault:?}"
    );
    assert_eq!(refusal, GuestError::Internal(fault.message));

    for (code, wanted) in [
        (
            "invalid-input",
            GuestError::InvalidInput("Error: no".to_owned()),
        ),
        (
            "unsupported",
            GuestError::Unsupported("Error: no".to_owned()),
        ),
        (
            "unavailable",
            GuestError::Unavailable("Error: no".to_owned()),
        ),
        ("timed-out", GuestError::TimedOut),
        ("cancelled", GuestError::Cancelled),
        (
            "anything else",
            GuestError::Internal("Error: no".to_owned()),
        ),
    ] {
        let source = format!(
            "export function decide() {{ throw Object.assign(new Error('no'), {{ code: '{code}' }}); }}"
        );
        assert_eq!(refused(&source).await.0, wanted);
    }
}

#[tokio::test]
async fn answers_that_are_none_are_refused_with_what_was_expected() {
    for (answer, wanted) in [
        (
            "undefined",
            "the answer of decide must be an object such as { kind: \"choose\", params: { row: 0 } }, not undefined",
        ),
        (
            "'choose'",
            "the answer of decide must be an object such as { kind: \"choose\", params: { row: 0 } }, not text",
        ),
        ("({})", "kind of the answer must be text, not undefined"),
        (
            "({ kind: 5 })",
            "kind of the answer must be text, not a number",
        ),
        (
            "({ kind: 'x', confidence: '1' })",
            "confidence must be a number, not text",
        ),
        (
            "({ kind: 'x', confidence: NaN })",
            "confidence must be from 0 to 1",
        ),
        (
            "({ kind: 'x', confidence: 2 })",
            "confidence must be from 0 to 1",
        ),
        (
            "({ kind: 'x', params: 1 })",
            "params must be an object, not a number",
        ),
        (
            "({ kind: 'x', params: { row: {} } })",
            "params.row must be null, a boolean, a number, text or a Uint8Array, not an object",
        ),
        (
            "({ kind: 'x', params: { n: 2n ** 64n } })",
            "params.n does not fit in 64 bits",
        ),
        (
            "({ kind: 'x', payload: [1] })",
            "payload must be text or a Uint8Array, not an array",
        ),
        (
            "new Promise(() => {})",
            "it waits for a promise that nothing will ever fulfil",
        ),
        ("({ get kind() { throw new Error('got you') } })", "got you"),
        (
            "new Proxy({}, { get() { throw new Error('trap') } })",
            "trap",
        ),
        (
            "({ kind: 'x', params: new Proxy({}, { ownKeys() { throw new Error('keys') } }) })",
            "keys",
        ),
        ("Promise.reject(new Error('later'))", "later"),
    ] {
        let source = format!("export function decide() {{ return {answer}; }}");
        let (_, fault) = refused(&source).await;
        assert!(fault.message.ends_with(wanted), "{answer}: {fault:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_shown_is_a_fault_all_the_same() {
    for thrown in [
        "Symbol('x')",
        "null",
        "{ toString() { throw 1 } }",
        "new Proxy(new Error('x'), { get() { throw 2 } })",
        "Object.create(null)",
        "Object.defineProperty(new Error('x'), 'stack', { get() { throw 3 } })",
        "Object.defineProperty(new Error('x'), 'code', { get() { throw 4 } })",
    ] {
        let source = format!("export function decide() {{ throw ({thrown}); }}");
        let (refusal, _) = refused(&source).await;
        assert!(
            matches!(refusal, GuestError::Internal(_)),
            "{thrown}: {refusal:?}"
        );
    }
    // Halves of surrogate pairs are no text.
    let mut lone = script("export function decide() { return { kind: 'a\\uD800b' }; }").await;
    let action = lone.decide(&observation(&[])).await.expect("decided");
    assert_eq!(action.kind, "a\u{FFFD}b");
}

#[tokio::test]
async fn state_goes_from_version_to_version_as_json_or_bytes() {
    let first = "export const manifest = { name: 'n', version: '1.0.0', stateSchema: 1 };
        let seen = 0;
        export function decide() { seen += 1; return { kind: 'x' }; }
        export function snapshot() { return { seen, big: [1, 2] }; }";
    let second =
        "export const manifest = { version: '2.0.0', stateSchema: 2, acceptsSchemas: [1, 2] };
        let seen = 0;
        export function decide() { return { kind: String(seen) }; }
        export function snapshot() { return new Uint8Array([seen]); }
        export function codeChange(direction, old) {
          seen = direction === 'upgrade' ? old.value.seen * 10 : old.data[0];
        }";
    let mut old = script(first).await;
    for _ in 0..3 {
        old.decide(&observation(&[])).await.expect("decided");
    }
    let state = old.snapshot().await.expect("a state");
    assert_eq!((state.version.as_str(), state.schema), ("1.0.0", 1));
    assert_eq!(state.data, br#"{"seen":3,"big":[1,2]}"#);

    let mut new = script(second).await;
    let described = new.describe().await.expect("described");
    assert_eq!(
        (described.name.as_str(), described.version.as_str()),
        ("script", "2.0.0")
    );
    assert_eq!(
        (described.state_schema, described.accepts_schemas),
        (2, vec![1, 2])
    );
    new.code_change(Direction::Upgrade, &state)
        .await
        .expect("taken over");
    assert_eq!(
        new.decide(&observation(&[])).await.expect("decided").kind,
        "30"
    );
    let bytes = new.snapshot().await.expect("a state");
    assert_eq!((bytes.schema, bytes.data.as_slice()), (2, &[30][..]));
    new.code_change(Direction::Downgrade, &bytes)
        .await
        .expect("taken back");

    // The first accepts no schema but its own, and has no function for a state.
    let other = old.code_change(Direction::Downgrade, &bytes).await;
    assert!(
        matches!(&other, Err(CallError::Refused(GuestError::InvalidInput(_)))),
        "{other:?}"
    );
    let own = old.code_change(Direction::Upgrade, &state).await;
    assert!(
        matches!(&own, Err(CallError::Refused(GuestError::Unsupported(_)))),
        "{own:?}"
    );
    let empty = State {
        data: Vec::new(),
        ..state
    };
    old.code_change(Direction::Upgrade, &empty)
        .await
        .expect("nothing to take over");

    let unwritable = "export function decide() {} export function snapshot() { const a = {}; a.a = a; return a; }";
    let circle = script(unwritable).await.snapshot().await;
    assert!(
        matches!(&circle, Err(CallError::Refused(GuestError::Internal(why))) if why.contains("circular")),
        "{circle:?}"
    );
}

#[tokio::test]
async fn what_is_declared_and_granted_is_told_and_nothing_else() {
    let source = |wants: &str| {
        format!(
            "export const manifest = {{ capabilities: [{wants}] }};
             const early = [Date.now(), Math.random()];
             export function decide() {{
               console.log('seen', {{ a: 1 }});
               return {{ kind: 'x', params: {{
                 early: early[0], now: Date.now(), year: new Date().getFullYear(), roll: Math.random() }} }};
             }}"
        )
    };
    let mut seen = observation(&[]);
    seen.at = 86_400_000;
    let mut rolls = Vec::new();
    for (wants, seed, now) in [
        ("", 7, 86_400_000),
        ("", 7, 86_400_000),
        ("", 8, 86_400_000),
        ("'clock'", 7, 1_700_000_000_000),
        ("'rand'", 7, 86_400_000),
        ("'rand', 'clock'", 7, 1_700_000_000_000),
    ] {
        let prepared = loaded(&source(wants)).await.expect("loaded");
        let listens = ears();
        let mut script = prepared
            .instance(TICKS, listens.clone())
            .await
            .expect("an instance");
        let start = Start {
            seed,
            ..Start::default()
        };
        script.init(&start).await.expect("begun");
        let action = script.decide(&seen).await.expect("decided");
        assert_eq!(
            action.params[0].val,
            Scalar::Integer(0),
            "no clock while it is loaded"
        );
        assert_eq!(action.params[1].val, Scalar::Integer(now), "{wants}");
        rolls.push(action.params[3].val.clone());
        let lines = listens.lines.lock().expect("unpoisoned").clone();
        assert_eq!(lines, ["Info seen {\"a\":1} []"]);
    }
    assert_eq!(rolls[0], rolls[1], "the same seed");
    assert_ne!(rolls[0], rolls[2], "another seed");
    assert_eq!(rolls[4], rolls[5]);

    let denied = SHELL
        .script(&source("'clock', 'rand'"), Grants::telemetry(), TICKS)
        .await;
    assert_eq!(
        denied.err(),
        Some(ScriptError::NotGranted(vec![
            Capability::Clock,
            Capability::Rand
        ]))
    );
    let unknown = loaded(&source("'network'")).await.err();
    assert_eq!(unknown, Some(ScriptError::Unknown("network".to_owned())));

    // Without telemetry nobody listens, and it decides all the same.
    let mute = SHELL
        .script(&source(""), Grants::NONE, TICKS)
        .await
        .expect("loaded");
    let listens: std::sync::Arc<Ears> = ears();
    let mut script = mute
        .instance(TICKS, listens.clone())
        .await
        .expect("an instance");
    script.init(&Start::default()).await.expect("begun");
    script.decide(&seen).await.expect("decided");
    assert!(listens.lines.lock().expect("unpoisoned").is_empty());
}

#[tokio::test]
async fn scores_are_offered_where_the_script_has_them_and_refused_when_it_throws() {
    let mut none = script("export function decide() {}").await;
    assert!(!none.scores());
    assert!(matches!(
        none.score(&[1.0], 1).await,
        Err(CallError::Refused(GuestError::Unsupported(_)))
    ));

    let mut some = script(
        "export function score(rows, width) {
           if (width === 3) throw new Error('three');
           if (width === 4) return [1, 2];
           return Array.from({ length: rows.length / width }, (_, row) => rows[row * width]);
         }",
    )
    .await;
    assert!(some.scores());
    assert_eq!(
        some.score(&[1.0, 2.0, 3.0, 4.0], 2).await.expect("scored"),
        [1.0, 3.0]
    );
    assert!(
        some.score(&[], 2)
            .await
            .expect("nothing to score")
            .is_empty()
    );
    for (rows, width, wanted) in [
        (vec![1.0, 2.0, 3.0], 3, "Error: three (line 2"),
        (vec![1.0; 4], 4, "2 scores for 1 rows"),
    ] {
        let refused = some.score(&rows, width).await;
        let Err(CallError::Refused(GuestError::Internal(why))) = refused else {
            panic!("{refused:?}");
        };
        assert!(why.contains(wanted), "{why}");
    }
    assert!(some.is_alive());
}

#[tokio::test]
async fn a_source_that_is_too_long_or_given_to_no_shell_is_refused() {
    let long = format!("//{}", "x".repeat(SOURCE_BYTES_MAX));
    let found = long.len();
    assert_eq!(
        loaded(&long).await.err(),
        Some(ScriptError::TooLarge { found })
    );
    let script = loaded("export function decide() {}").await.expect("loaded");
    let twice = script
        .script("export function decide() {}", everything(), TICKS)
        .await;
    assert_eq!(twice.err(), Some(ScriptError::NoShell));
    assert_eq!(script.source(), Some("export function decide() {}"));
    let unloaded = SHELL
        .instance(TICKS, ears())
        .await
        .expect("an instance")
        .decide(&observation(&[]))
        .await;
    assert!(
        matches!(
            unloaded,
            Err(CallError::Refused(GuestError::Unsupported(_)))
        ),
        "{unloaded:?}"
    );
}
