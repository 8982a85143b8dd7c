//! One table of expectations, held against guests in every language: what runs in the sandbox does
//! not depend on what it was written in.

use std::sync::LazyLock;

use regrow_modules::capability::Grants;
use regrow_modules::expression::{Columns, Expression};
use regrow_modules::host::{
    Attribute, CallError, Direction, GuestError, Host, HostLimits, Metering, Prepared, Running,
    Scalar, Start, State,
};
use regrow_modules::inspection::SizeLimits;
use regrow_modules::policy::{self, Manifest};

use crate::guests::{TICKS, ears, guest, observation, prepared, running};
use crate::scripts::loaded;

const JAVASCRIPT: &str = include_str!("../../../examples/strategies/javascript/cheapest.js");
const C: &[u8] = include_bytes!("../../../examples/strategies/c/cheapest.wasm");
const RUST: &[u8] = include_bytes!("../../../examples/strategies/rust/cheapest.wasm");

/// What a guest does beyond deciding.
struct Guest {
    language: &'static str,
    prepared: Prepared,
    /// Takes the parameter `weight`, counts, and hands its counts on.
    has_state: bool,
    scores: bool,
}

/// All of them choose the row with the lowest price plus delay.
async fn guests() -> Vec<Guest> {
    let script = loaded(JAVASCRIPT).await.expect("loaded");
    vec![
        whole("JavaScript", script),
        whole("C", prepared(C)),
        whole("Rust", prepared(RUST)),
        Guest {
            language: "expression",
            prepared: prepared(&expression()),
            has_state: false,
            scores: true,
        },
        Guest {
            language: "WebAssembly text",
            prepared: prepared(&text()),
            has_state: false,
            scores: false,
        },
    ]
}

fn whole(language: &'static str, prepared: Prepared) -> Guest {
    Guest {
        language,
        prepared,
        has_state: true,
        scores: true,
    }
}

fn expression() -> Vec<u8> {
    let columns = Columns::new(["price", "delay"]).expect("names");
    let parsed = Expression::parse("-(price + delay)", &columns).expect("an expression");
    let manifest = Manifest {
        name: "cheapest".to_owned(),
        version: "1.0.0".to_owned(),
        kinds: vec!["offers".to_owned()],
    };
    policy::component(&parsed, &manifest).expect("a component")
}

/// The same by hand. Features lie at parameter 4, their number is parameter 5. The answer is
/// built at 2048, its one parameter at 2304, texts at 2560.
fn text() -> Vec<u8> {
    let describe = "
        (i32.store (i32.const 1024) (i32.const 2560)) (i32.store (i32.const 1028) (i32.const 8))
        (i32.store (i32.const 1032) (i32.const 2568)) (i32.store (i32.const 1036) (i32.const 5))
        (i32.store (i32.const 1052) (i32.const 2584)) (i32.store (i32.const 1056) (i32.const 1))
        (i32.store (i32.const 2584) (i32.const 2592)) (i32.store (i32.const 2588) (i32.const 6))
        (i32.const 1024)";
    let decide = "(local $row i32) (local $best i32) (local $cost f64) (local $least f64)
        (if (i32.or (i32.eqz (local.get 5)) (i32.and (local.get 5) (i32.const 1)))
          (then
            (i32.store8 (i32.const 2048) (i32.const 1))
            (i32.store8 (i32.const 2056) (i32.const 0))
            (i32.store (i32.const 2060) (i32.const 2600))
            (i32.store (i32.const 2064) (i32.const 4))
            (return (i32.const 2048))))
        (local.set $least (f64.const inf))
        (loop $next
          (local.set $cost (f64.add
            (f64.load (i32.add (local.get 4) (i32.shl (local.get $row) (i32.const 4))))
            (f64.load offset=8 (i32.add (local.get 4) (i32.shl (local.get $row) (i32.const 4))))))
          (if (f64.lt (local.get $cost) (local.get $least))
            (then (local.set $least (local.get $cost)) (local.set $best (local.get $row))))
          (local.set $row (i32.add (local.get $row) (i32.const 1)))
          (br_if $next (i32.lt_u (i32.shl (local.get $row) (i32.const 1)) (local.get 5))))
        (i32.store8 (i32.const 2048) (i32.const 0))
        (i32.store (i32.const 2056) (i32.const 2576)) (i32.store (i32.const 2060) (i32.const 6))
        (f64.store (i32.const 2064) (f64.const 1))
        (i32.store (i32.const 2072) (i32.const 2304)) (i32.store (i32.const 2076) (i32.const 1))
        (i32.store (i32.const 2080) (i32.const 0)) (i32.store (i32.const 2084) (i32.const 0))
        (i32.store (i32.const 2304) (i32.const 2604)) (i32.store (i32.const 2308) (i32.const 3))
        (i32.store8 (i32.const 2312) (i32.const 2))
        (i64.store (i32.const 2320) (i64.extend_i32_u (local.get $best)))
        (i32.const 2048)";
    let words = r#"(data (i32.const 2560) "cheapest1.0.0\00\00\00choose\00\00")
        (data (i32.const 2592) "offers\00\00rowsrow")"#;
    guest(&[("describe", describe), ("decide", decide)], words)
}

async fn begun(guest: &Guest, parameters: Vec<Attribute>) -> Running {
    let mut running = guest
        .prepared
        .instance(TICKS, ears())
        .await
        .expect("an instance");
    let start = Start {
        parameters,
        ..Start::default()
    };
    running.init(&start).await.expect(guest.language);
    running
}

fn weight(val: Scalar) -> Vec<Attribute> {
    vec![Attribute {
        key: "weight".to_owned(),
        val,
    }]
}

fn row(action: &regrow_modules::host::Action) -> &Scalar {
    &action.params[0].val
}

/// Rows of price and delay, and the row that is chosen when a unit of delay costs 1, and 10.
const OFFERS: [(&[f64], i64, i64); 7] = [
    (&[5.0, 1.0], 0, 0),
    (&[5.0, 1.0, 3.0, 2.0], 1, 0),
    (&[5.0, 1.0, 3.0, 4.0, 4.0, 1.0], 2, 2),
    // The first of equals.
    (&[2.0, 2.0, 3.0, 1.0, 1.0, 3.0], 0, 1),
    (&[-1.0, 0.0, -2.0, 0.0], 1, 1),
    (&[1e300, 0.0, 1e299, 0.0], 1, 1),
    (&[0.1, 0.2, 0.3, 0.0], 1, 1),
];

#[tokio::test]
async fn every_guest_says_who_it_is_and_decides_the_same() {
    for guest in guests().await {
        let language = guest.language;
        let mut one = begun(&guest, Vec::new()).await;
        let described = one.describe().await.expect(language);
        assert_eq!(
            (described.name.as_str(), described.version.as_str()),
            ("cheapest", "1.0.0"),
            "{language}"
        );
        assert_eq!(described.kinds, ["offers"], "{language}");
        assert_eq!(
            guest.prepared.inspection().wants,
            Grants::NONE,
            "{language}"
        );
        for (offers, wanted, _) in OFFERS {
            let action = one.decide(&observation(offers)).await.expect(language);
            assert_eq!(
                (action.kind.as_str(), action.confidence),
                ("choose", 1.0),
                "{language}"
            );
            assert_eq!(action.params[0].key, "row", "{language}");
            assert_eq!(
                row(&action),
                &Scalar::Integer(wanted),
                "{language}: {offers:?}"
            );
        }
    }
}

#[tokio::test]
async fn every_guest_refuses_what_is_no_table_and_goes_on() {
    for guest in guests().await {
        let language = guest.language;
        let mut one = begun(&guest, Vec::new()).await;
        for features in [&[][..], &[1.0], &[1.0, 2.0, 3.0]] {
            let refused = one.decide(&observation(features)).await;
            assert!(
                matches!(&refused, Err(CallError::Refused(GuestError::InvalidInput(why))) if why.contains("row")),
                "{language}: {refused:?}"
            );
        }
        let action = one.decide(&observation(&[1.0, 1.0])).await.expect(language);
        assert_eq!(row(&action), &Scalar::Integer(0), "{language}");
    }
}

#[tokio::test]
async fn a_batch_is_answered_one_by_one_and_scores_follow_the_same_order() {
    for guest in guests().await {
        let language = guest.language;
        let mut one = begun(&guest, Vec::new()).await;
        // The text answers nothing to a batch, which breaks the rule of as many answers.
        if guest.scores {
            let odd = observation(&[1.0]);
            let mut asked: Vec<_> = OFFERS.iter().map(|(rows, ..)| observation(rows)).collect();
            asked.insert(3, odd);
            let mut answers = one.decide_batch(&asked).await.expect(language);
            let refused = answers.remove(3);
            assert!(
                matches!(refused, Err(GuestError::InvalidInput(_))),
                "{language}"
            );
            for (answer, (offers, wanted, _)) in answers.iter().zip(OFFERS) {
                let action = answer.as_ref().expect(language);
                assert_eq!(
                    row(action),
                    &Scalar::Integer(wanted),
                    "{language}: {offers:?}"
                );
            }
            let scores = one.score(&[5.0, 1.0, 3.0, 2.5], 2).await.expect(language);
            assert_eq!(scores, [-6.0, -5.5], "{language}");
        } else {
            assert!(one.decide_batch(&[observation(&[1.0, 1.0])]).await.is_err());
            assert!(!one.is_alive());
        }
    }
}

#[tokio::test]
async fn parameters_count_and_wrong_ones_are_refused() {
    for guest in guests().await.into_iter().filter(|guest| guest.has_state) {
        let language = guest.language;
        for ten in [Scalar::Integer(10), Scalar::Number(10.0)] {
            let mut one = begun(&guest, weight(ten)).await;
            for (offers, _, wanted) in OFFERS {
                let action = one.decide(&observation(offers)).await.expect(language);
                assert_eq!(
                    row(&action),
                    &Scalar::Integer(wanted),
                    "{language}: {offers:?}"
                );
            }
        }
        let mut one = guest
            .prepared
            .instance(TICKS, ears())
            .await
            .expect(language);
        let start = Start {
            parameters: weight(Scalar::Text("ten".to_owned())),
            ..Start::default()
        };
        let refused = one.init(&start).await;
        assert!(
            matches!(&refused, Err(CallError::Refused(GuestError::InvalidInput(why))) if why.contains("weight must be a number")),
            "{language}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn each_takes_over_from_each_and_the_state_stays_exact() {
    let guests: Vec<Guest> = guests()
        .await
        .into_iter()
        .filter(|it| it.has_state)
        .collect();
    let mut handed: Option<State> = None;
    let (mut decided, mut earned) = (0_u64, 0.0);
    for way in [Direction::Upgrade, Direction::Downgrade] {
        for from in &guests {
            for to in &guests {
                let mut old = begun(from, Vec::new()).await;
                if let Some(state) = &handed {
                    old.code_change(way, state).await.expect(from.language);
                }
                for (offers, ..) in OFFERS {
                    old.decide(&observation(offers)).await.expect(from.language);
                    old.feedback(1, 0.1).await.expect(from.language);
                    decided += 1;
                    earned += 0.1;
                }
                // What was refused was not decided.
                old.decide(&observation(&[1.0]))
                    .await
                    .expect_err("no table");
                let state = old.snapshot().await.expect(from.language);
                assert_eq!((state.version.as_str(), state.schema), ("1.0.0", 1));
                let mut wanted = decided.to_le_bytes().to_vec();
                wanted.extend(f64::to_le_bytes(earned));
                assert_eq!(state.data, wanted, "{}", from.language);

                let mut new = begun(to, Vec::new()).await;
                new.code_change(way, &state).await.expect(to.language);
                let kept = new.snapshot().await.expect(to.language);
                assert_eq!(
                    kept.data, state.data,
                    "{} to {}",
                    from.language, to.language
                );
                let short = State {
                    data: vec![1],
                    ..state.clone()
                };
                let refused = new.code_change(way, &short).await;
                assert!(
                    matches!(
                        &refused,
                        Err(CallError::Refused(GuestError::InvalidInput(_)))
                    ),
                    "{refused:?}"
                );
                let unknown = State { schema: 9, ..state };
                let refused = new.code_change(way, &unknown).await;
                assert!(
                    matches!(
                        &refused,
                        Err(CallError::Refused(GuestError::InvalidInput(_)))
                    ),
                    "{refused:?}"
                );
                handed = Some(kept);
            }
        }
    }
}

#[tokio::test]
async fn the_same_calls_give_the_same_answers_every_time() {
    for guest in guests().await {
        let mut seen = Vec::new();
        for _ in 0..2 {
            let mut one = begun(&guest, Vec::new()).await;
            let mut answers = Vec::new();
            for number in 0..50_u32 {
                let rows: Vec<f64> = (0..8)
                    .map(|at| f64::from((number * 31 + at * 17) % 13))
                    .collect();
                answers.push(one.decide(&observation(&rows)).await);
            }
            seen.push(answers);
        }
        assert_eq!(seen[0], seen[1], "{}", guest.language);
    }
}

/// An engine that counts instructions.
static CHECKING: LazyLock<Host> = LazyLock::new(|| {
    let limits = HostLimits {
        instances_max: 8,
        ..HostLimits::default()
    };
    Host::new(limits, Metering::Fuel).expect("an engine")
});

#[tokio::test]
async fn no_guest_outruns_its_fuel_and_each_costs_the_same_every_time() {
    let rows: Vec<f64> = (0..2_000).map(f64::from).collect();
    for (language, bytes) in [
        ("C", C.to_vec()),
        ("Rust", RUST.to_vec()),
        ("expression", expression()),
        ("WebAssembly text", text()),
    ] {
        let sizes = SizeLimits::UNTRUSTED;
        let prepared = CHECKING
            .prepare(&bytes, &sizes, Grants::telemetry())
            .expect(language);
        let mut spent = Vec::new();
        for _ in 0..2 {
            let mut one = prepared.instance(10_000_000, ears()).await.expect(language);
            one.decide(&observation(&rows)).await.expect(language);
            spent.push(10_000_000 - one.fuel_left().expect("counted"));
        }
        assert_eq!(spent[0], spent[1], "{language}");
        assert!(
            2_000 < spent[0],
            "{language}: {} for a thousand rows",
            spent[0]
        );
        let mut starved = prepared
            .instance(spent[0] / 2, ears())
            .await
            .expect(language);
        let ended = starved.decide(&observation(&rows)).await;
        assert_eq!(ended, Err(CallError::OutOfFuel), "{language}");
        assert_eq!(
            starved.decide(&observation(&rows)).await,
            Err(CallError::Gone)
        );
    }
}

#[tokio::test]
async fn more_than_its_memory_holds_ends_a_guest_and_not_the_host() {
    // Three megabytes of arguments: more than the block that the one in C has.
    let rows = vec![1.0; 400_000];
    let mut small = running(C, TICKS).await;
    let ended = small.decide(&observation(&rows)).await;
    assert!(matches!(ended, Err(CallError::Trapped(_))), "{ended:?}");
    for guest in guests()
        .await
        .into_iter()
        .filter(|guest| guest.language == "Rust")
    {
        let mut large = begun(&guest, Vec::new()).await;
        let action = large
            .decide(&observation(&rows))
            .await
            .expect("enough memory");
        assert_eq!(row(&action), &Scalar::Integer(0));
    }
}
