//! What holds after any order of changes, and each refusal.

use proptest::prelude::*;

use super::*;
use crate::code::source::Source;

const AGENT: &str = "packer";

fn at(now: u64) -> Change<'static> {
    Change {
        agent: AGENT,
        by: "ann",
        now: Timestamp(now),
    }
}

fn new(version: &str, text: &str, wants: &[&str]) -> NewVersion {
    let source = Source::Expression {
        columns: vec!["left".to_owned()],
        text: text.to_owned(),
    };
    NewVersion {
        version: version.to_owned(),
        source: source.facts(),
        module: ModuleFacts {
            hash: text.to_owned(),
            bytes: 1,
            functions: 1,
            wants: wants.iter().map(|&name| name.to_owned()).collect(),
            scores: true,
            name: AGENT.to_owned(),
            says_version: version.to_owned(),
            state_schema: 0,
            accepts_schemas: vec![0],
            kinds: Vec::new(),
        },
        notes: None,
    }
}

fn names<'a>(versions: impl Iterator<Item = &'a Version>) -> Vec<&'a str> {
    versions.map(|it| it.version.as_str()).collect()
}

/// Versions `a`, `b` and `c`, promoted in this order.
fn three() -> Ledger {
    let mut ledger = Ledger::default();
    for (now, name) in ["a", "b", "c"].into_iter().enumerate() {
        let change = at(now as u64);
        ledger.stage(change, new(name, name, &[])).expect("room");
        ledger.promote(change, name).expect("there");
    }
    ledger
}

fn active(ledger: &Ledger) -> &str {
    ledger.active().map_or("none", |it| it.version.as_str())
}

#[test]
fn rolling_back_goes_back_step_by_step_and_never_to_what_was_taken_back() {
    let mut ledger = three();
    assert_eq!(active(&ledger), "c");
    ledger.roll_back(at(10)).expect("something before");
    assert_eq!(active(&ledger), "b");
    let taken_back = ledger.version(AGENT, "c").expect("there");
    assert_eq!(ledger.standing(taken_back), Standing::Archived);
    assert_eq!(taken_back.retired_at, Some(Timestamp(10)));
    ledger.roll_back(at(11)).expect("something before");
    assert_eq!(active(&ledger), "a");
    let nothing = ledger.roll_back(at(12));
    assert!(
        matches!(nothing, Err(CodeError::NothingBefore(_))),
        "{nothing:?}"
    );
    ledger.promote(at(13), "c").expect("still there");
    ledger.roll_back(at(14)).expect("something before");
    assert_eq!(active(&ledger), "a");
}

#[test]
fn promoting_what_was_active_before_makes_no_circle() {
    let mut ledger = three();
    ledger.promote(at(4), "a").expect("there");
    assert_eq!(ledger.previous().map(|it| it.version.as_str()), Some("c"));
    for expected in ["c", "b"] {
        ledger.roll_back(at(5)).expect("something before");
        assert_eq!(active(&ledger), expected);
    }
    assert!(ledger.roll_back(at(6)).is_err());
}

#[test]
fn the_same_again_changes_nothing_and_another_source_is_refused() {
    let mut ledger = three();
    let before = ledger.clone();
    ledger.stage(at(9), new("b", "b", &[])).expect("the same");
    ledger.promote(at(9), "c").expect("active already");
    ledger.pin(at(9), "c", false).expect("not pinned already");
    ledger.grant(at(9), BTreeSet::new()).expect("what it has");
    assert_eq!(ledger, before);
    let other = ledger.stage(at(9), new("b", "other", &[]));
    assert!(matches!(other, Err(CodeError::Exists { .. })), "{other:?}");
    assert_eq!(ledger, before);
}

#[test]
fn what_an_agent_is_not_granted_is_not_promoted_and_what_runs_keeps_what_it_wants() {
    let mut ledger = three();
    ledger
        .stage(at(4), new("d", "d", &["clock", "log"]))
        .expect("room");
    let refused = ledger.promote(at(4), "d");
    let Err(CodeError::NotGranted { missing, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(missing, ["clock"]);
    assert_eq!(active(&ledger), "c");
    ledger
        .grant(at(5), BTreeSet::from(["clock".to_owned()]))
        .expect("free");
    ledger.promote(at(5), "d").expect("granted");
    let refused = ledger.grant(at(6), BTreeSet::new());
    assert!(
        matches!(refused, Err(CodeError::Wanted { .. })),
        "{refused:?}"
    );
    ledger.roll_back(at(7)).expect("something before");
    ledger
        .grant(at(8), BTreeSet::new())
        .expect("not wanted any more");
    assert!(ledger.promote(at(9), "d").is_err());
}

#[test]
fn what_is_in_use_is_not_removed_and_unknown_versions_are_told_from_known_ones() {
    let mut ledger = three();
    ledger.pin(at(4), "a", true).expect("there");
    for kept in ["a", "b", "c"] {
        let refused = ledger.remove(at(5), kept);
        assert!(
            matches!(refused, Err(CodeError::InUse { .. })),
            "{kept}: {refused:?}"
        );
    }
    ledger.pin(at(6), "a", false).expect("there");
    ledger.remove(at(7), "a").expect("archived");
    let gone = ledger.remove(at(8), "a").expect_err("gone").to_string();
    assert!(gone.contains("it has c, b"), "{gone}");
    let none = Ledger::default().roll_back(at(0));
    assert!(matches!(none, Err(CodeError::NoCode(_))), "{none:?}");
}

#[test]
fn retention_takes_the_oldest_and_spares_what_is_used_or_pinned() {
    let mut ledger = three();
    for name in ["d", "e", "f", "g"] {
        ledger.stage(at(100), new(name, name, &[])).expect("room");
    }
    ledger.pin(at(100), "d", true).expect("there");
    let retention = Retention {
        age: Duration::from_millis(50),
        count: 3,
    };
    assert!(
        ledger.tidy(retention, Timestamp(100)),
        "four may go, three may stay"
    );
    assert_eq!(names(ledger.versions()), ["g", "f", "e", "d", "c", "b"]);
    assert!(
        !ledger.tidy(retention, Timestamp(149)),
        "not a moment too soon"
    );
    assert!(ledger.tidy(retention, Timestamp(150)));
    assert_eq!(names(ledger.versions()), ["d", "c", "b"]);
    let expired = ledger.history().filter(|note| note.what == Deed::Expired);
    assert_eq!(expired.count(), 4);
}

#[test]
fn when_all_places_are_taken_the_oldest_goes_unless_none_may() {
    let mut ledger = Ledger::default();
    for n in 0..=VERSIONS_MAX {
        let name = format!("v{n}");
        ledger
            .stage(at(n as u64), new(&name, &name, &[]))
            .expect("room");
    }
    assert_eq!(ledger.versions().count(), VERSIONS_MAX);
    assert!(ledger.version(AGENT, "v0").is_err());
    for n in 1..=VERSIONS_MAX {
        ledger.pin(at(500), &format!("v{n}"), true).expect("there");
    }
    let full = ledger.stage(at(501), new("late", "late", &[]));
    assert!(matches!(full, Err(CodeError::Full(_))), "{full:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Stage(u8, u8),
    Promote(u8),
    RollBack,
    Pin(u8, bool),
    Remove(u8),
    Tidy,
}

fn step() -> impl Strategy<Value = Step> {
    let version = 0_u8..8;
    prop_oneof![
        (version.clone(), 0_u8..2).prop_map(|(version, text)| Step::Stage(version, text)),
        version.clone().prop_map(Step::Promote),
        Just(Step::RollBack),
        (version.clone(), any::<bool>()).prop_map(|(version, pinned)| Step::Pin(version, pinned)),
        version.prop_map(Step::Remove),
        Just(Step::Tidy),
    ]
}

proptest! {
    #[test]
    fn whatever_is_done_the_ledger_stays_whole(steps in prop::collection::vec(step(), 0..120)) {
        let mut ledger = Ledger::default();
        let retention = Retention { age: Duration::from_millis(20), count: 2 };
        for (now, step) in steps.into_iter().enumerate() {
            let (before, change) = (ledger.clone(), at(now as u64));
            let name = |version: u8| format!("v{version}");
            let done = match &step {
                Step::Stage(version, text) => {
                    ledger.stage(change, new(&name(*version), &text.to_string(), &[]))
                }
                Step::Promote(version) => ledger.promote(change, &name(*version)),
                Step::RollBack => ledger.roll_back(change),
                Step::Pin(version, pinned) => ledger.pin(change, &name(*version), *pinned),
                Step::Remove(version) => ledger.remove(change, &name(*version)),
                Step::Tidy => {
                    ledger.tidy(retention, change.now);
                    Ok(())
                }
            };
            if done.is_err() {
                prop_assert_eq!(&ledger, &before, "a refusal changes nothing: {:?}", step);
            }
            // What runs never goes by itself, and nothing but a promotion or rollback changes it.
            let (was, is) = (before.active().map(|it| it.n), ledger.active().map(|it| it.n));
            if !matches!(step, Step::Promote(_) | Step::RollBack) {
                prop_assert_eq!(was, is, "{:?}", step);
                prop_assert_eq!(before.previous().map(|it| it.n), ledger.previous().map(|it| it.n));
            }
            for pinned in before.versions().filter(|it| it.pinned) {
                prop_assert!(ledger.versions().any(|it| it.n == pinned.n), "a pin holds");
            }
            // A version is never changed.
            for known in before.versions() {
                if let Some(same) = ledger.versions().find(|it| it.n == known.n) {
                    prop_assert_eq!(&same.source, &known.source);
                    prop_assert_eq!(&same.version, &known.version);
                }
            }
            let names: BTreeSet<&str> = names(ledger.versions()).into_iter().collect();
            prop_assert_eq!(names.len(), ledger.versions().count(), "a name is one version's");
            let line: BTreeSet<u64> = ledger.line.iter().copied().collect();
            prop_assert_eq!(line.len(), ledger.line.len(), "each is in the line once");
            prop_assert!(line.iter().all(|n| ledger.numbered(*n).is_some()), "and is there");
            prop_assert!(ledger.versions.len() <= VERSIONS_MAX);
            prop_assert!(ledger.history.len() <= HISTORY_MAX);
            let text = serde_json::to_string(&ledger).expect("JSON");
            prop_assert_eq!(serde_json::from_str::<Ledger>(&text).expect("read"), ledger.clone());
        }
    }
}
