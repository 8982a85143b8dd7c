//! One module exchanged for another under calls: nothing is lost, nothing answered twice.

use regrow_modules::host::{CallError, Direction, Prepared, Start, State};
use regrow_modules::swap::{Back, Ready, Seat, SwapError, Swapped, Terms, rehearse};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::guests::{TICKS, ears, guest, observation, prepared};

/// Swaps while calls go on.
const SWAPS: usize = 10_000;

const ANSWER_OK: &str = "(i32.store8 (i32.const 2048) (i32.const 0)) (i32.const 2048)";

/// Counts its calls and says the number, under a name of one letter.
fn counting(name: char, code_change: &str) -> Vec<u8> {
    counting_unless(name, "", code_change)
}

/// The same, with something before each decision.
fn counting_unless(name: char, before: &str, code_change: &str) -> Vec<u8> {
    let heap = "(global.set $heap (i32.const 65536))";
    let letter = format!("(i32.store8 (i32.const 4104) (i32.const {}))", name as u32);
    let decide = format!(
        "{before} {heap} {letter}
         (global.set $count (i64.add (global.get $count) (i64.const 1)))
         (i64.store (i32.const 4096) (global.get $count))
         (i32.store (i32.const 2056) (i32.const 4104)) (i32.store (i32.const 2060) (i32.const 1))
         (f64.store (i32.const 2064) (f64.const 1))
         (i32.store (i32.const 2072) (i32.const 4096)) (i32.store (i32.const 2076) (i32.const 0))
         (i32.store (i32.const 2080) (i32.const 4096)) (i32.store (i32.const 2084) (i32.const 8))
         {ANSWER_OK}"
    );
    let snapshot = format!(
        "{heap} {letter}
         (i64.store (i32.const 4096) (global.get $count))
         (i32.store (i32.const 2052) (i32.const 4104)) (i32.store (i32.const 2056) (i32.const 1))
         (i32.store (i32.const 2060) (i32.const 1))
         (i32.store (i32.const 2064) (i32.const 4096)) (i32.store (i32.const 2068) (i32.const 8))
         {ANSWER_OK}"
    );
    // Of states it understands those of layout 1.
    let describe = "(i32.store (i32.const 3000) (i32.const 1))
         (i32.store (i32.const 1040) (i32.const 1))
         (i32.store (i32.const 1044) (i32.const 3000)) (i32.store (i32.const 1048) (i32.const 1))
         (i32.const 1024)";
    let functions = [
        ("describe", describe),
        ("decide", decide.as_str()),
        ("snapshot", snapshot.as_str()),
        ("code-change", code_change),
    ];
    guest(&functions, "(global $count (mut i64) (i64.const 0))")
}

fn takes_over() -> String {
    format!(
        "(if (i32.ne (local.get 5) (i32.const 8)) (then (unreachable)))
         (global.set $count (i64.load (local.get 4)))
         (global.set $heap (i32.const 65536)) {ANSWER_OK}"
    )
}

/// Says `internal` and nothing else.
const REFUSES: &str = "(i32.store8 (i32.const 2048) (i32.const 1))
    (i32.store8 (i32.const 2052) (i32.const 6))
    (i32.store (i32.const 2056) (i32.const 4104)) (i32.store (i32.const 2060) (i32.const 0))
    (i32.const 2048)";

/// Takes a newer version's state over, and refuses an older one's way.
fn upgrades_only() -> String {
    format!(
        "(if (result i32) (i32.eqz (local.get 0)) (then {}) (else {REFUSES}))",
        takes_over()
    )
}

fn terms() -> Terms {
    Terms {
        allowance: TICKS,
        surroundings: ears(),
        start: Start::default(),
    }
}

async fn seat(module: &Prepared) -> Seat {
    let begun = Seat::begin(module.clone(), terms(), None).await;
    begun.expect("begun")
}

/// The letter of whoever answered, and the number that it said.
async fn call(seat: &mut Seat) -> Result<(String, i64), CallError> {
    let action = seat.decide(&observation(&[1.0])).await?;
    let number = action.payload.try_into().map(i64::from_le_bytes);
    Ok((action.kind, number.expect("eight bytes")))
}

async fn ready(seat: &mut Seat, module: &Prepared) -> Result<Ready, SwapError> {
    let state = seat.snapshot().await?;
    let dry = observation(&[1.0]);
    rehearse(module, seat.terms(), &state, Direction::Upgrade, Some(&dry)).await
}

enum Asked {
    Call(i64),
    Snapshot(oneshot::Sender<State>),
    Swap(Box<Ready>, oneshot::Sender<Swapped>),
}

/// Owns the seat: one message after the other, swaps between two calls. Says how many it answered.
async fn own(
    mut seat: Seat,
    mut calls: mpsc::Receiver<Asked>,
    mut swaps: mpsc::Receiver<Asked>,
) -> i64 {
    let mut answered = 0;
    loop {
        let asked = tokio::select! {
            biased;
            Some(asked) = swaps.recv() => asked,
            asked = calls.recv() => match asked {
                Some(asked) => asked,
                None => return answered,
            },
        };
        match asked {
            Asked::Call(n) => {
                let (_, number) = call(&mut seat).await.expect("answered");
                assert_eq!(number, n, "each call is counted once, by whoever answers");
                answered = n;
            }
            Asked::Snapshot(reply) => {
                let _ = reply.send(seat.snapshot().await.expect("a state"));
            }
            Asked::Swap(next, reply) => {
                let (swapped, _forgotten) =
                    seat.swap(*next, Direction::Upgrade).await.expect("swapped");
                let _ = reply.send(swapped);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_swaps_under_calls_at_full_rate_lose_and_repeat_nothing() {
    let modules = ['a', 'b'].map(|name| prepared(&counting(name, &takes_over())));
    let seat = seat(&modules[0]).await;
    let terms = seat.terms().clone();
    let (to_call, calls) = mpsc::channel(256);
    let (to_swap, swaps) = mpsc::channel(1);
    let mut running = JoinSet::new();
    running.spawn(own(seat, calls, swaps));
    let calling = async {
        for n in 1.. {
            if to_call.send(Asked::Call(n)).await.is_err() {
                return n;
            }
            if to_swap.is_closed() {
                return n;
            }
        }
        0
    };
    let swapping = async {
        let (mut pauses, mut last) = (Vec::new(), 0);
        for round in 0..SWAPS {
            let (reply, state) = oneshot::channel();
            to_swap
                .send(Asked::Snapshot(reply))
                .await
                .map_err(drop)
                .expect("there");
            let state = state.await.expect("a state");
            let module = &modules[(round + 1) % 2];
            let next = rehearse(module, &terms, &state, Direction::Upgrade, None).await;
            let (reply, swapped) = oneshot::channel();
            let next = Box::new(next.expect("rehearsed"));
            to_swap
                .send(Asked::Swap(next, reply))
                .await
                .map_err(drop)
                .expect("there");
            let swapped = swapped.await.expect("swapped");
            let state: [u8; 8] = swapped.state.data.try_into().expect("eight bytes");
            let count = i64::from_le_bytes(state);
            assert!(last <= count, "what it counted never goes back");
            last = count;
            pauses.push(swapped.pause);
        }
        pauses
    };
    let mut pauses = tokio::select! {
        pauses = swapping => pauses,
        called = calling => unreachable!("calls ended after {called}"),
    };
    drop(to_call);
    drop(to_swap);
    let answered = running.join_next().await.expect("one").expect("no panic");
    pauses.sort();
    let at = |share: usize| pauses[(pauses.len() - 1) * share / 100];
    println!(
        "{answered} calls, {SWAPS} swaps, pause p50 {:?} p99 {:?}",
        at(50),
        at(99)
    );
    assert!(0 < answered);
}

#[tokio::test]
async fn a_swap_carries_the_state_and_going_back_keeps_what_came_after() {
    let [first, second] = ['a', 'b'].map(|name| prepared(&counting(name, &takes_over())));
    let mut seat = seat(&first).await;
    for _ in 0..3 {
        call(&mut seat).await.expect("answered");
    }
    let next = ready(&mut seat, &second).await.expect("rehearsed");
    let (_, forgotten) = seat.swap(next, Direction::Upgrade).await.expect("swapped");
    assert!(forgotten.is_none());
    assert_eq!(
        call(&mut seat).await,
        Ok(("b".to_owned(), 4)),
        "and no call of the rehearsal"
    );
    let back = seat.go_back().await.expect("parked");
    assert!(matches!(back, Back::Carried(_)), "{back:?}");
    assert_eq!(call(&mut seat).await, Ok(("a".to_owned(), 5)));
    let nothing = seat.go_back().await;
    assert!(
        matches!(nothing, Err(SwapError::NothingParked)),
        "{nothing:?}"
    );
}

#[tokio::test]
async fn a_module_that_does_not_take_the_newer_state_goes_on_where_it_was_left() {
    let first = prepared(&counting('a', &upgrades_only()));
    let second = prepared(&counting('b', &takes_over()));
    let mut seat = seat(&first).await;
    for _ in 0..3 {
        call(&mut seat).await.expect("answered");
    }
    let next = ready(&mut seat, &second).await.expect("rehearsed");
    seat.swap(next, Direction::Upgrade).await.expect("swapped");
    assert_eq!(call(&mut seat).await, Ok(("b".to_owned(), 4)));
    let back = seat.go_back().await.expect("parked");
    assert!(matches!(back, Back::AsItWas { .. }), "{back:?}");
    assert_eq!(
        call(&mut seat).await,
        Ok(("a".to_owned(), 4)),
        "as it was left, after three"
    );
}

#[tokio::test]
async fn one_that_breaks_down_is_gone_back_from_to_where_its_predecessor_was() {
    let first = prepared(&counting('a', &takes_over()));
    let breaks = "(if (i64.ge_s (global.get $count) (i64.const 2)) (then (unreachable)))";
    let second = prepared(&counting_unless('b', breaks, &takes_over()));
    let mut seat = seat(&first).await;
    assert_eq!(call(&mut seat).await, Ok(("a".to_owned(), 1)));
    let next = ready(&mut seat, &second)
        .await
        .expect("well in the rehearsal");
    seat.swap(next, Direction::Upgrade).await.expect("swapped");
    assert_eq!(call(&mut seat).await, Ok(("b".to_owned(), 2)));
    let broken = call(&mut seat).await;
    assert!(matches!(broken, Err(CallError::Trapped(_))), "{broken:?}");
    assert!(!seat.is_alive());
    let back = seat.go_back().await.expect("parked");
    assert!(matches!(back, Back::AsItWas { .. }), "{back:?}");
    assert!(seat.is_alive());
    assert_eq!(call(&mut seat).await, Ok(("a".to_owned(), 2)));
}

#[tokio::test]
async fn what_cannot_take_over_is_found_out_before_and_leaves_the_old_one_untouched() {
    let first = prepared(&counting('a', &takes_over()));
    let mut seat = seat(&first).await;
    call(&mut seat).await.expect("answered");
    let refusing = prepared(&counting('b', REFUSES));
    let refused = ready(&mut seat, &refusing).await;
    assert!(
        matches!(refused, Err(SwapError::CodeChange(CallError::Refused(_)))),
        "{refused:?}"
    );
    let breaking = prepared(&counting('b', "(unreachable)"));
    let refused = ready(&mut seat, &breaking).await;
    assert!(
        matches!(refused, Err(SwapError::CodeChange(CallError::Trapped(_)))),
        "{refused:?}"
    );
    // One that says that it knows no layout of state at all.
    let stranger = prepared(&guest(&[], ""));
    let refused = ready(&mut seat, &stranger).await;
    assert!(
        matches!(refused, Err(SwapError::Layout { found: 1, .. })),
        "{refused:?}"
    );
    let state = State {
        version: "1".to_owned(),
        schema: 1,
        data: vec![0; regrow_modules::swap::STATE_BYTES_MAX + 1],
    };
    let large = rehearse(&first, seat.terms(), &state, Direction::Upgrade, None).await;
    assert!(matches!(large, Err(SwapError::TooLarge(_))), "{large:?}");
    assert_eq!(call(&mut seat).await, Ok(("a".to_owned(), 2)));
}

#[tokio::test]
async fn a_crash_goes_on_from_the_state_that_was_kept() {
    let module = prepared(&counting('a', &takes_over()));
    let mut seat = seat(&module).await;
    for _ in 0..7 {
        call(&mut seat).await.expect("answered");
    }
    let kept = seat.snapshot().await.expect("a state");
    call(&mut seat)
        .await
        .expect("answered, and lost with the crash");
    drop(seat);
    let mut seat = Seat::begin(module, terms(), Some(&kept))
        .await
        .expect("begun");
    assert_eq!(call(&mut seat).await, Ok(("a".to_owned(), 8)));
}
