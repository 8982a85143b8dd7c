//! Modules that want to break out, hold on, or take everything.

use std::time::Duration;

use regrow_modules::capability::{Capability, Grants};
use regrow_modules::host::{CallError, PrepareError};
use regrow_modules::inspection::{Refusal, SizeLimits};

use crate::guests::{HOST, TICKS, ears, guest, observation, prepared, running};

const SPIN: &str = "(loop (br 0)) (unreachable)";

#[tokio::test]
async fn an_endless_loop_ends_within_its_ticks_and_its_neighbours_get_their_turns() {
    let mut spinner = running(&guest(&[("decide", SPIN)], ""), 20).await;
    let observation = observation(&[]);
    let mut turns = 0_u32;
    let ended = {
        let spinning = spinner.decide(&observation);
        tokio::pin!(spinning);
        loop {
            tokio::select! {
                biased;
                ended = &mut spinning => break ended,
                () = tokio::task::yield_now() => turns += 1,
            }
        }
    };
    assert_eq!(ended, Err(CallError::OutOfTime));
    assert!(10 <= turns, "{turns} turns for the neighbours in 20 ticks");
    assert!(!spinner.is_alive());
    assert_eq!(spinner.decide(&observation).await, Err(CallError::Gone));
}

#[tokio::test]
async fn a_loop_at_the_start_ends_too() {
    let spins = guest(&[], "(func $spin (loop (br 0))) (start $spin)");
    let ended = prepared(&spins).instance(5, ears()).await;
    assert_eq!(ended.err(), Some(CallError::OutOfTime));
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_the_instance_gone() {
    let mut spinner = running(&guest(&[("decide", SPIN)], ""), TICKS).await;
    let observation = observation(&[]);
    let dropped = tokio::time::timeout(Duration::from_millis(20), spinner.decide(&observation));
    assert!(dropped.await.is_err());
    assert_eq!(spinner.decide(&observation).await, Err(CallError::Gone));
}

#[tokio::test]
async fn memory_ends_at_its_limit_and_the_module_is_told() {
    // Grows a page at a time until it is refused, then answers ok with nothing.
    let grows = "(loop $more
           (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
         (i32.store (i32.const 4096) (memory.size))
         (i32.const 2048)";
    let state = "(i32.store8 (i32.const 2048) (i32.const 0))
         (i32.store (i32.const 2052) (i32.const 4096))
         (i32.store (i32.const 2060) (memory.size))
         (i32.store (i32.const 2064) (i32.const 4096))
         (i32.const 2048)";
    let mut bomb = running(&guest(&[("init", grows), ("snapshot", state)], ""), TICKS).await;
    bomb.init(&Default::default())
        .await
        .expect("told, not trapped");
    let pages = bomb.snapshot().await.expect("a state").schema;
    assert_eq!(pages, 16 * 16, "16 MiB in pages of 64 KiB");
}

#[tokio::test]
async fn what_breaks_down_or_breaks_the_rules_is_contained() {
    let list = |bytes: &str| {
        format!(
            "(i32.store8 (i32.const 2048) (i32.const 0))
             (i32.store (i32.const 2052) (i32.const 4096))
             (i32.store (i32.const 2064) (i32.const 4096))
             (i32.store (i32.const 2068) (i32.const {bytes}))
             (i32.const 2048)"
        )
    };
    let not_utf8 = "(i32.store8 (i32.const 4096) (i32.const 255))
         (i32.store8 (i32.const 2048) (i32.const 0))
         (i32.store (i32.const 2052) (i32.const 4096))
         (i32.store (i32.const 2056) (i32.const 1))
         (i32.const 2048)";
    let cases = [
        ("a trap", "(unreachable)".to_owned()),
        (
            "division by zero",
            "(i32.div_u (i32.const 1) (i32.const 0))".to_owned(),
        ),
        ("out of its memory", "(i32.load (i32.const -8))".to_owned()),
        ("an address outside", "(i32.const -16)".to_owned()),
        ("an unaligned address", "(i32.const 2049)".to_owned()),
        (
            "no such variant",
            "(i32.store8 (i32.const 2048) (i32.const 7)) (i32.const 2048)".to_owned(),
        ),
        ("a list of four gigabytes", list("-1")),
        ("a list of two megabytes", list("2097152")),
        ("text that is none", not_utf8.to_owned()),
    ];
    for (what, body) in cases {
        let mut broken = running(&guest(&[("snapshot", &body)], ""), TICKS).await;
        let ended = broken.snapshot().await;
        assert!(
            matches!(ended, Err(CallError::Trapped(_))),
            "{what}: {ended:?}"
        );
        assert_eq!(broken.snapshot().await, Err(CallError::Gone), "{what}");
    }
}

#[tokio::test]
async fn endless_recursion_ends_at_the_end_of_the_stack() {
    let deep = "(func $deep (param i32) (result i32)
        (i32.add (call $deep (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))";
    let mut deep = running(
        &guest(&[("snapshot", "(call $deep (i32.const 0))")], deep),
        TICKS,
    )
    .await;
    let ended = deep.snapshot().await;
    let Err(CallError::Trapped(why)) = ended else {
        panic!("{ended:?}");
    };
    assert!(why.contains("stack"), "{why}");
}

#[tokio::test]
async fn many_names_for_the_same_text_do_not_multiply_it_in_the_host() {
    // One million kinds, all of them the same seven megabytes.
    let overlapping = "(local $at i32)
        (local.set $at (i32.const 8388608))
        (drop (memory.grow (i32.const 220)))
        (loop $more
          (i32.store (local.get $at) (i32.const 65536))
          (i32.store (i32.add (local.get $at) (i32.const 4)) (i32.const 7000000))
          (local.set $at (i32.add (local.get $at) (i32.const 8)))
          (br_if $more (i32.lt_u (local.get $at) (i32.const 14000000))))
        (i32.store (i32.const 1052) (i32.const 8388608))
        (i32.store (i32.const 1056) (i32.const 700000))
        (i32.const 1024)";
    let mut bomb = running(&guest(&[("describe", overlapping)], ""), TICKS).await;
    let ended = bomb.describe().await;
    assert!(matches!(ended, Err(CallError::Trapped(_))), "{ended:?}");
}

#[tokio::test]
async fn what_was_not_granted_is_refused_by_name_before_anything_runs() {
    let rolls = r#"(import "regrow:strategy/rand@0.1.0" "next" (func $next (result i64)))"#;
    let bytes = guest(&[], rolls);
    let refused = HOST.prepare(&bytes, &SizeLimits::UNTRUSTED, Grants::telemetry());
    let Err(error @ PrepareError::NotGranted(_)) = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(error.to_string(), "it wants rand, which it was not granted");
    let granted = [Capability::Rand].into_iter().collect();
    HOST.prepare(&bytes, &SizeLimits::UNTRUSTED, granted)
        .expect("granted");
}

#[tokio::test]
async fn random_numbers_are_the_same_for_the_same_seed_and_no_others() {
    let rolls = r#"(import "regrow:strategy/rand@0.1.0" "next" (func $next (result i64)))"#;
    let state = "(i32.store8 (i32.const 2048) (i32.const 0))
         (i32.store (i32.const 2052) (i32.const 4096))
         (i32.store (i32.const 2060) (i32.wrap_i64 (call $next)))
         (i32.store (i32.const 2064) (i32.const 4096))
         (i32.const 2048)";
    let bytes = guest(&[("snapshot", state)], rolls);
    let granted = [Capability::Rand].into_iter().collect();
    let prepared = HOST
        .prepare(&bytes, &SizeLimits::UNTRUSTED, granted)
        .expect("granted");
    let mut rolled = Vec::new();
    for seed in [7, 7, 8] {
        let mut guest = prepared.instance(TICKS, ears()).await.expect("an instance");
        let start = regrow_modules::host::Start {
            seed,
            ..Default::default()
        };
        guest.init(&start).await.expect("begun");
        rolled.push((guest.snapshot().await, guest.snapshot().await));
    }
    assert_eq!(rolled[0], rolled[1]);
    assert_ne!(rolled[0], rolled[2]);
    assert_ne!(rolled[0].0, rolled[0].1);
}

#[test]
fn what_is_not_a_module_for_this_host_is_refused_with_the_reason() {
    let refused =
        |bytes: &[u8], sizes: &SizeLimits| match HOST.prepare(bytes, sizes, Grants::telemetry()) {
            Err(PrepareError::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        };
    let untrusted = SizeLimits::UNTRUSTED;
    let core = wat::parse_str("(module)").expect("text");
    assert!(
        refused(&core, &untrusted)
            .to_string()
            .contains("a core module")
    );
    let bare = wat::parse_str("(component)").expect("text");
    assert_eq!(refused(&bare, &untrusted), Refusal::NoStrategy);
    assert!(matches!(refused(b"hello", &untrusted), Refusal::Invalid(_)));
    assert!(matches!(refused(b"", &untrusted), Refusal::Invalid(_)));

    let whole = guest(&[], "");
    for cut in [1, whole.len() / 2, whole.len() - 1] {
        assert!(
            matches!(refused(&whole[..cut], &untrusted), Refusal::Invalid(_)),
            "{cut}"
        );
    }
    let many = "(func)".repeat(5_001);
    let refusal = refused(&guest(&[], &many), &untrusted);
    assert!(
        matches!(
            refusal,
            Refusal::TooLarge {
                what: "functions",
                ..
            }
        ),
        "{refusal}"
    );
    let long = format!("(func {})", "(drop (i32.const 1))".repeat(60_000));
    let refusal = refused(&guest(&[], &long), &untrusted);
    assert!(
        matches!(
            refusal,
            Refusal::TooLarge {
                what: "bytes of one function",
                ..
            }
        ),
        "{refusal}"
    );
    let small = SizeLimits {
        bytes: 100,
        ..untrusted
    };
    assert!(matches!(refused(&whole, &small), Refusal::TooLarge { .. }));

    let threads = guest(&[], "");
    drop(threads);
    let wasi = wat::parse_str(r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#);
    let refusal = refused(&wasi.expect("text"), &untrusted);
    assert!(matches!(refusal, Refusal::NoStrategy), "{refusal}");
}

#[tokio::test]
async fn flipped_bits_are_refused_or_contained() {
    let whole = guest(&[("decide", "(i32.const 2048)")], "");
    let mut refused = 0;
    for at in (0..whole.len()).step_by(7) {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        match HOST.prepare(&changed, &SizeLimits::UNTRUSTED, Grants::telemetry()) {
            Err(_) => refused += 1,
            Ok(prepared) => {
                if let Ok(mut guest) = prepared.instance(50, ears()).await {
                    let _ = guest.decide(&observation(&[])).await;
                    let _ = guest.snapshot().await;
                }
            }
        }
    }
    assert!(0 < refused, "no change was ever noticed");
}
