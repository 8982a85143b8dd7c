//! Tokens, and the record of what operators did.

use std::time::Duration;

use super::{Subject, conforms, json};
use crate::access::audit::chain::{Action, Break, By, Head, Outcome, Verifier};
use crate::access::audit::{Audit, chains, page};
use crate::access::keyring::{CreateError, Keyring, NewToken, Refused};
use crate::access::place::Place;
use crate::access::scope::{Scope, Scopes};
use crate::clock::Clock;
use crate::store::{Changes, DocumentRow};

fn place(subject: &Subject) -> Place {
    Place::Store(subject.queue.writer().clone())
}

async fn keyring(subject: &Subject) -> Keyring {
    let clock = subject.queue.clock();
    let opened = Keyring::open(place(subject), clock).await;
    opened.expect("readable")
}

fn new(name: &str, term: Option<Duration>) -> NewToken {
    NewToken {
        name: name.to_owned(),
        scopes: Scopes::of([Scope::Read]),
        term,
    }
}

async fn a_token_is_taken_until_it_is_revoked_or_expires_and_survives_a_restart(subject: Subject) {
    let ring = keyring(&subject).await;
    assert!(ring.is_empty());
    let (token, secret) = ring.create(new("ci", None), "local").await.expect("made");
    assert_eq!(ring.check(secret.reveal()).expect("taken").name, "ci");
    let taken = ring.create(new("ci", None), "local").await.err();
    assert!(
        matches!(taken, Some(CreateError::NameTaken(_))),
        "{taken:?}"
    );
    let short = Some(Duration::ZERO);
    let (_, over) = ring.create(new("short", short), "ci").await.expect("made");
    let refused = ring.check(over.reveal()).expect_err("its time is over");
    assert!(matches!(refused, Refused::Expired { .. }), "{refused}");

    let subject = subject.reopen().await;
    let ring = keyring(&subject).await;
    assert_eq!(ring.check(secret.reveal()).expect("taken").id, token.id);
    let listed = ring.list().await.expect("readable");
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().any(|it| it.used_at.is_some()));
    let other = crate::access::secret::Secret::generate();
    assert_eq!(ring.check(other.reveal()), Err(Refused::Unknown));
    assert_eq!(ring.revoke("nobody").await.expect("open"), []);
    assert_eq!(ring.revoke("ci").await.expect("open").len(), 1);
    let refused = ring.check(secret.reveal()).expect_err("revoked");
    assert!(matches!(refused, Refused::Revoked { .. }), "{refused}");
    assert!(!ring.is_empty(), "the last token opens nothing");
    let again = ring.create(new("ci", None), "local").await;
    assert!(again.is_ok(), "the name is free again");
}

async fn secrets_are_not_in_the_store(subject: Subject) {
    let ring = keyring(&subject).await;
    let (token, secret) = ring.create(new("ci", None), "local").await.expect("made");
    let store = subject.queue.writer().store();
    let kept = store.documents("token", "", 9).await.expect("readable");
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].key, token.id);
    let body = kept[0].body.as_str();
    assert!(!body.contains(&secret.reveal()[7..20]), "{body}");
}

fn action(target: &str) -> Action {
    Action {
        what: "POST /v1/queue/pause".into(),
        target: target.into(),
        request: Some("r".into()),
        body: None,
    }
}

async fn act(audit: &Audit, target: &str) {
    let asked = audit.asked(By::local(), action(target)).await;
    let outcome = Outcome {
        status: 200,
        detail: None,
    };
    let told = audit.answered(asked.expect("open"), By::local(), action(target), outcome);
    told.await.expect("open");
}

/// Reads everything in pages of `limit`.
async fn verify(place: &Place, limit: usize) -> Result<u64, Break> {
    let known = chains(place).await.expect("readable");
    let [(name, head)] = known.as_slice() else {
        panic!("{known:?}")
    };
    let mut verifier = Verifier::new(name, head, Vec::new());
    loop {
        let lines = page(place, name, verifier.n(), limit).await;
        let lines = lines.expect("readable").expect("there");
        if lines.is_empty() {
            break;
        }
        lines.iter().try_for_each(|line| verifier.follow(line))?;
    }
    let n = verifier.n();
    verifier.finish(head).map(|()| n)
}

async fn a_chain_goes_on_after_a_restart_and_tampering_is_found(subject: Subject) {
    let audit =
        |subject: &Subject| Audit::new(place(subject), subject.queue.clock(), "a", "a.1".into());
    let writer = audit(&subject);
    // Not one after the other: the order in which they are handed over counts.
    let acts = (0..20).map(|n| {
        let writer = writer.clone();
        async move { act(&writer, &format!("/{n}")).await }
    });
    futures::future::join_all(acts).await;
    let subject = subject.reopen().await;
    let writer = audit(&subject);
    act(&writer, "/last").await;
    let place = place(&subject);
    assert_eq!(verify(&place, 7).await, Ok(42));

    let store = subject.queue.writer().store();
    let all = store
        .documents("audit", "a.1/", 100)
        .await
        .expect("readable");
    let put = async |key: &str, body| {
        let changes = Changes {
            documents: vec![DocumentRow {
                space: "audit",
                key: key.to_owned(),
                body,
                at: subject.queue.clock().now(),
            }],
            ..Changes::default()
        };
        subject.queue.writer().write(changes).await.expect("open");
    };
    let (fifth, sixth) = (&all[42 - 5], &all[42 - 6]);
    let changed = json(&fifth.body.as_str().replace("pause", "clear"));
    put(&fifth.key, Some(changed)).await;
    assert_eq!(verify(&place, 100).await, Err(Break::Changed(5)));
    put(&fifth.key, None).await;
    let missing = Break::Missing {
        expected: 5,
        found: 6,
    };
    assert_eq!(verify(&place, 100).await, Err(missing));
    put(&fifth.key, Some(sixth.body.clone())).await;
    put(&sixth.key, Some(fifth.body.clone())).await;
    assert!(verify(&place, 100).await.is_err(), "in another order");
    put(&fifth.key, Some(fifth.body.clone())).await;
    put(&sixth.key, Some(sixth.body.clone())).await;
    assert_eq!(verify(&place, 100).await, Ok(42));
    put(&all[0].key, None).await;
    let cut = Break::Cut {
        expected: 42,
        found: 41,
    };
    assert_eq!(verify(&place, 100).await, Err(cut));
}

async fn a_pruned_chain_still_holds(subject: Subject) {
    let place = place(&subject);
    let audit = Audit::new(place.clone(), subject.queue.clock(), "a", "a.1".into());
    for n in 0..3 {
        act(&audit, &format!("/{n}")).await;
    }
    assert_eq!(audit.prune(Duration::from_secs(60)).await.expect("open"), 0);
    let taken = audit.prune(Duration::ZERO).await.expect("open");
    assert_eq!(taken, 5, "the last entry stays");
    assert_eq!(verify(&place, 100).await, Ok(6));
    act(&audit, "/3").await;
    assert_eq!(verify(&place, 100).await, Ok(8));
    let lines = page(&place, "a.1", 0, 100).await.expect("readable");
    assert_eq!(lines.expect("there").len(), 3);
}

async fn pages_reach_over_round_numbers(subject: Subject) {
    let place = place(&subject);
    let clock = Clock::system();
    let audit = Audit::new(place.clone(), clock, "a", "a.1".into());
    let acts = (0..1_003).map(|_| audit.asked(By::local(), action("/")));
    for written in futures::future::join_all(acts).await {
        written.expect("open");
    }
    assert_eq!(verify(&place, 400).await, Ok(1_003));
    let lines = page(&place, "a.1", 998, 3).await.expect("readable");
    let lines = lines.expect("there");
    let numbers: Vec<u64> = lines
        .iter()
        .map(|line| line.entry().expect("an entry").n)
        .collect();
    assert_eq!(numbers, [999, 1_000, 1_001]);
    let none = page(&place, "b", 0, 3).await.expect("readable");
    assert!(none.is_none());
    let (_, head): (String, Head) = chains(&place).await.expect("readable").remove(0);
    assert_eq!((head.n, head.first), (1_003, 1));
}

conforms!(
    a_token_is_taken_until_it_is_revoked_or_expires_and_survives_a_restart,
    secrets_are_not_in_the_store,
    a_chain_goes_on_after_a_restart_and_tampering_is_found,
    a_pruned_chain_still_holds,
    pages_reach_over_round_numbers,
);
