//! Versions of agents' code: what is durable, what stays whole, and what nodes do to each other.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, join_all};
use rand::{RngExt as _, SeedableRng as _};

use super::{Backend, Subject, conforms, shared};
use crate::access::place::Place;
use crate::code::keeper::CodeStore;
use crate::code::ledger::{Retention, Standing};
use crate::code::source::Source;
use crate::code::vetting::{ModuleFacts, Rejection, Vetting};
use crate::code::{Code, CodeError, NewCode};
use crate::json::Json;
use crate::store::postgres::Postgres;
use crate::store::{DocumentRow, Store, Swap};

/// Lets pass whatever does not say `wrong`.
struct Lenient;

impl Vetting for Lenient {
    fn capabilities(&self) -> &[&'static str] {
        &["log"]
    }

    fn vet<'a>(
        &'a self,
        agent: &'a str,
        version: &'a str,
        source: &'a Source,
    ) -> BoxFuture<'a, Result<ModuleFacts, Rejection>> {
        let text = source.text().unwrap_or_default();
        let wrong = text.contains("wrong").then(|| Rejection::Refused {
            step: "parse",
            why: "it says so".to_owned(),
        });
        let about = ModuleFacts {
            hash: "0".repeat(64),
            bytes: 1,
            functions: 1,
            wants: Vec::new(),
            scores: true,
            name: agent.to_owned(),
            says_version: version.to_owned(),
            state_schema: 0,
            accepts_schemas: vec![0],
            kinds: Vec::new(),
        };
        async move { wrong.map_or(Ok(about), Err) }.boxed()
    }
}

fn code_with(subject: &Subject, retention: Retention) -> Code {
    let place = Place::Store(subject.queue.writer().clone());
    let store = CodeStore::new(place, subject.queue.clock(), retention);
    Code::new(store, std::sync::Arc::new(Lenient))
}

fn code(subject: &Subject) -> Code {
    code_with(subject, Retention::default())
}

fn new(version: &str, text: &str, promote: bool) -> NewCode {
    NewCode {
        version: version.to_owned(),
        source: Source::Expression {
            columns: vec!["left".to_owned()],
            text: text.to_owned(),
        },
        notes: None,
        promote,
    }
}

/// Every version has its source and every source a version. Looked at again if something was
/// written meanwhile: what a killed node had begun may come just now.
async fn is_whole(subject: &Subject, code: &Code) {
    loop {
        let before = code.store().agents().await.expect("readable");
        let (mut wanted, mut damaged) = (BTreeSet::new(), Vec::new());
        for (agent, ledger) in &before {
            let checked = code.store().check(agent).await.expect("readable");
            damaged.extend(checked.damaged);
            wanted.extend(
                ledger
                    .versions()
                    .map(|it| format!("{agent}/{}", it.source.hash)),
            );
        }
        let store = subject.queue.writer().store();
        let sources = store
            .documents("code_source", "", 10_000)
            .await
            .expect("readable");
        let there: BTreeSet<String> = sources.into_iter().map(|it| it.key).collect();
        if code.store().agents().await.expect("readable") == before {
            assert_eq!(damaged, []);
            assert_eq!(there, wanted);
            return;
        }
    }
}

async fn versions_are_staged_promoted_and_taken_back_and_survive_a_restart(subject: Subject) {
    let stage = code(&subject);
    let (_, first) = stage
        .stage("a", new("1", "left", true), "ann")
        .await
        .expect("kept");
    assert_eq!((first.n, first.staged_by.as_str()), (1, "ann"));
    stage
        .stage("a", new("2", "-left", false), "ben")
        .await
        .expect("kept");
    let again = stage
        .stage("a", new("2", "-left", false), "ann")
        .await
        .expect("the same");
    assert_eq!(again.1.staged_by, "ben");
    let other = stage.stage("a", new("2", "left * 2", false), "ann").await;
    assert!(matches!(other, Err(CodeError::Exists { .. })), "{other:?}");
    let wrong = stage.stage("a", new("3", "wrong", true), "ann").await;
    assert!(matches!(wrong, Err(CodeError::Rejected(_))), "{wrong:?}");
    for (agent, version) in [
        ("a/b", "1"),
        ("", "1"),
        ("a", ""),
        ("a", "-1"),
        ("a", "1 2"),
    ] {
        let refused = stage.stage(agent, new(version, "left", false), "ann").await;
        assert!(
            matches!(refused, Err(CodeError::Invalid { .. })),
            "{agent:?} {version:?}"
        );
    }
    stage
        .store()
        .promote("a", "2", "ann")
        .await
        .expect("staged");

    let subject = subject.reopen().await;
    let code = code(&subject);
    let (ledger, version, source) = code.store().source("a", "2").await.expect("there");
    assert_eq!(source.text(), Some("-left"));
    assert_eq!(ledger.standing(&version), Standing::Active);
    let ledger = code
        .store()
        .roll_back("a", "ann")
        .await
        .expect("something before");
    assert_eq!(ledger.active().map(|it| it.version.as_str()), Some("1"));
    let history: Vec<_> = ledger
        .history()
        .map(|note| (note.by.as_str(), note.of.as_str()))
        .collect();
    assert_eq!(history[..3], [("ann", "1"), ("ann", "2"), ("ben", "2")]);
    let nobody = code.store().promote("b", "1", "ann").await;
    assert!(matches!(nobody, Err(CodeError::NoCode(_))), "{nobody:?}");
    is_whole(&subject, &code).await;
}

async fn sources_go_with_the_last_version_that_has_them(subject: Subject) {
    let retention = Retention {
        age: Duration::from_secs(3_600),
        count: 2,
    };
    let code = code_with(&subject, retention);
    // Two names for one source, and the same source of another agent.
    code.stage("a", new("1", "left", true), "ann")
        .await
        .expect("kept");
    code.stage("a", new("2", "left", false), "ann")
        .await
        .expect("kept");
    code.stage("b", new("1", "left", true), "ann")
        .await
        .expect("kept");
    code.store()
        .remove("a", "2", "ann")
        .await
        .expect("staged only");
    is_whole(&subject, &code).await;
    code.store().source("a", "1").await.expect("still there");
    for n in 3..9 {
        let version = n.to_string();
        code.stage("a", new(&version, &format!("left * {n}"), false), "ann")
            .await
            .expect("kept");
    }
    let ledger = code.store().ledger("a").await.expect("there");
    let left: Vec<&str> = ledger.versions().map(|it| it.version.as_str()).collect();
    assert_eq!(left, ["8", "7", "1"]);
    is_whole(&subject, &code).await;
}

async fn what_was_tampered_with_is_found_and_never_promoted(subject: Subject) {
    let code = code(&subject);
    code.stage("a", new("1", "left", true), "ann")
        .await
        .expect("kept");
    code.stage("a", new("2", "left + 1", false), "ann")
        .await
        .expect("kept");
    code.stage("a", new("3", "left + 2", false), "ann")
        .await
        .expect("kept");
    let source = |version| {
        let code = code.clone();
        async move {
            code.store()
                .source("a", version)
                .await
                .expect("there")
                .1
                .source
                .hash
        }
    };
    let evil = Json::of(&new("2", "evil", false).source).expect("JSON");
    let row = |hash: String, body| DocumentRow {
        space: "code_source",
        key: format!("a/{hash}"),
        body,
        at: subject.queue.clock().now(),
    };
    let rows = vec![
        row(source("2").await, Some(evil)),
        row(source("3").await, None),
    ];
    let place = Place::Store(subject.queue.writer().clone());
    place.write(rows).await.expect("open");
    let checked = code.store().check("a").await.expect("readable");
    assert_eq!(checked.sound, 1);
    assert!(checked.damaged["2"].contains("has the hash"), "{checked:?}");
    assert!(checked.damaged["3"].contains("is not there"), "{checked:?}");
    for version in ["2", "3"] {
        let refused = code.store().promote("a", version, "ann").await;
        assert!(
            matches!(refused, Err(CodeError::Damaged { .. })),
            "{refused:?}"
        );
    }
}

async fn changes_made_at_once_are_all_there_afterwards(subject: Subject) {
    let code = code(&subject);
    let staged = (0..12).map(|n| {
        let code = code.clone();
        async move {
            let version = n.to_string();
            let new = new(&version, &format!("left + {n}"), n % 3 == 0);
            code.stage("a", new, "ann").await.expect("kept")
        }
    });
    join_all(staged).await;
    let ledger = code.store().ledger("a").await.expect("there");
    let numbers: BTreeSet<u64> = ledger.versions().map(|it| it.n).collect();
    assert_eq!(numbers, (1..=12).collect());
    is_whole(&subject, &code).await;
}

async fn a_node_that_is_killed_leaves_all_of_a_change_or_nothing(mut subject: Subject) {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    for round in 0..12_u32 {
        let code = code(&subject);
        let mut answered = BTreeSet::new();
        let busy = async {
            for n in 0.. {
                let version = format!("{round}.{n}");
                let new = new(&version, &format!("left + {round} + {n}"), n % 2 == 0);
                code.stage("a", new, "ann").await.expect("kept");
                answered.insert(version);
                tokio::task::yield_now().await;
            }
        };
        // Anywhere between two of its steps.
        let steps = random.random_range(0..60_u32);
        let cut = async {
            for _ in 0..steps {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = busy => {}
            () = cut => {}
        }
        drop(code);
        subject = subject.kill().await;
        let code = self::code(&subject);
        is_whole(&subject, &code).await;
        let there = code.store().agents().await.expect("readable");
        let there = there
            .get("a")
            .map(|ledger| ledger.versions().map(|it| it.version.clone()).collect());
        let there: BTreeSet<String> = there.unwrap_or_default();
        // Retention leaves some twenty; the latest that was answered is among them.
        let latest = answered
            .iter()
            .filter_map(|it| it.split_once('.')?.1.parse::<u32>().ok())
            .max();
        if let Some(n) = latest {
            assert!(there.contains(&format!("{round}.{n}")), "{n} of {there:?}");
        }
    }
}

conforms!(
    versions_are_staged_promoted_and_taken_back_and_survive_a_restart,
    sources_go_with_the_last_version_that_has_them,
    what_was_tampered_with_is_found_and_never_promoted,
    changes_made_at_once_are_all_there_afterwards,
    a_node_that_is_killed_leaves_all_of_a_change_or_nothing,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_a_database_lose_no_change_of_each_other() {
    let subject = Subject::postgres().await;
    let Backend::Postgres(schema) = &subject.backend else {
        unreachable!("it was asked for");
    };
    let other = Postgres::open(shared(schema, "other"))
        .await
        .expect("sound");
    other.next_boot().await.expect("a life");
    let clock = other.clock().await.expect("open");
    let place = Place::Store(crate::store::writer::Writer::new(Store::Postgres(
        other.clone(),
    )));
    let there = CodeStore::new(place, clock, Retention::default());
    let (here, there) = (
        code(&subject),
        Code::new(there, std::sync::Arc::new(Lenient)),
    );
    let staged = (0..10).map(|n| {
        let code = if n % 2 == 0 {
            here.clone()
        } else {
            there.clone()
        };
        async move {
            let version = n.to_string();
            loop {
                let new = new(&version, &format!("left + {n}"), false);
                match code.stage("a", new, "ann").await {
                    // The others were faster ten times.
                    Err(CodeError::Contended(_)) => {}
                    staged => return staged.expect("kept"),
                }
            }
        }
    });
    join_all(staged).await;
    let ledger = there.store().ledger("a").await.expect("there");
    assert_eq!(ledger.versions().count(), 10);
    is_whole(&subject, &here).await;

    // One that was decided upon something else writes nothing.
    let outdated = Swap {
        space: "code",
        key: "a".to_owned(),
        before: None,
        rows: vec![DocumentRow {
            space: "code",
            key: "a".to_owned(),
            body: Some(Json::null()),
            at: clock.now(),
        }],
    };
    assert!(!other.swap(&outdated).await.expect("alive"));
    assert_eq!(there.store().ledger("a").await.expect("there"), ledger);
}
