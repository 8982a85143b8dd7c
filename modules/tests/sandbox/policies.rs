//! What is computed in the sandbox is what the expression says.

use regrow_modules::expression::{Columns, Expression};
use regrow_modules::host::{
    CallError, Direction, GuestError, Host, HostLimits, Metering, Scalar, Start,
};
use regrow_modules::inspection::{self, SizeLimits};
use regrow_modules::policy::{self, Manifest};

use crate::guests::{TICKS, ears, observation, running};

fn columns() -> Columns {
    Columns::new(["item", "left"]).expect("names")
}

fn manifest() -> Manifest {
    Manifest {
        name: "packing".to_owned(),
        version: "1.2.3".to_owned(),
        kinds: vec!["item".to_owned(), "pallet".to_owned()],
    }
}

fn compiled(text: &str) -> Vec<u8> {
    let expression = Expression::parse(text, &columns()).expect("an expression");
    policy::component(&expression, &manifest()).expect("a component")
}

#[tokio::test]
async fn a_policy_answers_every_question_of_the_interface() {
    let bytes = compiled("-(left - item)");
    let seen = inspection::inspect(&bytes, &SizeLimits::UNTRUSTED).expect("inspected");
    assert!(seen.scores);
    assert_eq!(format!("{:?}", seen.wants), "{}");

    let mut policy = running(&bytes, TICKS).await;
    let described = policy.describe().await.expect("described");
    assert_eq!(
        (described.name.as_str(), described.version.as_str()),
        ("packing", "1.2.3")
    );
    assert_eq!(described.kinds, ["item", "pallet"]);
    assert_eq!(
        (described.state_schema, described.accepts_schemas),
        (0, vec![0])
    );
    policy.init(&Start::default()).await.expect("begun");

    let chosen = policy
        .decide(&observation(&[3.0, 9.0, 3.0, 4.0, 3.0, 100.0]))
        .await;
    let chosen = chosen.expect("decided");
    assert_eq!(chosen.kind, "choose");
    assert_eq!(chosen.params[0].key, "row");
    assert_eq!(chosen.params[0].val, Scalar::Integer(1));
    let scores = policy
        .score(&[3.0, 9.0, 3.0, 4.0], 2)
        .await
        .expect("scored");
    assert_eq!(scores, [-6.0, -1.0]);

    let many: Vec<_> = (0..50)
        .map(|one| observation(&[1.0, 9.0, 1.0, if one % 2 == 0 { 3.0 } else { 20.0 }]))
        .collect();
    let answers = policy.decide_batch(&many).await.expect("decided");
    let rows: Vec<_> = answers
        .into_iter()
        .map(|answer| answer.expect("a choice").params[0].val.clone())
        .collect();
    let wanted: Vec<_> = (0..50).map(|one| Scalar::Integer((one + 1) % 2)).collect();
    assert_eq!(rows, wanted);
    assert_eq!(
        policy.decide_batch(&[]).await.expect("nothing to decide"),
        []
    );

    policy.feedback(1, 0.5).await.expect("heard");
    let state = policy.snapshot().await.expect("a state");
    assert_eq!(
        (state.version.as_str(), state.schema, state.data.len()),
        ("1.2.3", 0, 0)
    );
    policy
        .code_change(Direction::Upgrade, &state)
        .await
        .expect("taken over");
}

#[tokio::test]
async fn what_is_no_table_is_refused_with_the_columns_and_harms_nothing() {
    let mut policy = running(&compiled("left"), TICKS).await;
    for features in [vec![], vec![1.0], vec![1.0, 2.0, 3.0]] {
        let refused = policy.decide(&observation(&features)).await;
        let Err(CallError::Refused(GuestError::InvalidInput(why))) = refused else {
            panic!("{refused:?}");
        };
        assert!(why.contains("item, left"), "{why}");
    }
    let odd = [observation(&[1.0]), observation(&[1.0, 2.0])];
    let answers = policy
        .decide_batch(&odd)
        .await
        .expect("answered one by one");
    assert!(answers[0].is_err() && answers[1].is_ok());
    // The wrong width gives no scores, which breaks the rules: the host gives the module up.
    assert!(
        policy
            .score(&[], 2)
            .await
            .expect("no rows, no scores")
            .is_empty()
    );
    assert!(policy.score(&[1.0, 2.0, 3.0], 3).await.is_err());
    assert!(!policy.is_alive());
}

#[tokio::test]
async fn a_hundred_thousand_calls_take_no_more_memory_than_one() {
    let mut policy = running(&compiled("most(left) - left"), TICKS).await;
    let table: Vec<f64> = (0..2_000).map(f64::from).collect();
    for _ in 0..2_000 {
        // 16 KB of arguments and 8 KB of scores each: 48 MB, in 16 MB of memory.
        policy.score(&table, 2).await.expect("scored");
        policy
            .decide(&observation(&table[..200]))
            .await
            .expect("decided");
    }
}

#[tokio::test]
async fn fuel_is_counted_to_the_instruction_and_runs_out() {
    let limits = HostLimits {
        instances_max: 4,
        ..HostLimits::default()
    };
    let checking = Host::new(limits, Metering::Fuel).expect("an engine");
    let prepared = checking
        .prepare(
            &compiled("sum(left) / rows"),
            &SizeLimits::UNTRUSTED,
            Default::default(),
        )
        .expect("prepared");
    let mut spent = Vec::new();
    for _ in 0..3 {
        let mut policy = prepared
            .instance(1_000_000, ears())
            .await
            .expect("an instance");
        policy
            .decide(&observation(&[1.0, 2.0, 3.0, 4.0]))
            .await
            .expect("decided");
        spent.push(1_000_000 - policy.fuel_left().expect("counted"));
    }
    assert!(0 < spent[0] && spent[0] < 10_000, "{spent:?}");
    assert!(spent.iter().all(|fuel| *fuel == spent[0]), "{spent:?}");

    let mut starved = prepared
        .instance(spent[0] / 2, ears())
        .await
        .expect("an instance");
    let ended = starved.decide(&observation(&[1.0, 2.0, 3.0, 4.0])).await;
    assert_eq!(ended, Err(CallError::OutOfFuel));
}
