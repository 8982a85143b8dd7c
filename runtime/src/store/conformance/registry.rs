//! Who owns an agent: one at a time, under an epoch that only grows.

use super::{Subject, conforms, json};
use crate::ids::{AgentId, Epoch};
use crate::registry::{AgentChange, AgentRow, Change, Changed, Life, Registry};

fn id() -> AgentId {
    AgentId::new("scout")
}

async fn found(registry: &Registry) -> Option<AgentRow> {
    let standing = registry.read().await.expect("readable");
    standing.agents.get(&id()).cloned()
}

async fn change(registry: &Registry, revision: Option<u64>, change: Change) -> Changed {
    let asked = AgentChange {
        id: id(),
        revision,
        change,
    };
    registry.change(&asked).await.expect("open")
}

fn give(to: Option<Life>) -> Change {
    Change::Give {
        to,
        entry: json("{}"),
        decision: None,
    }
}

fn done(changed: Changed) -> (u64, Epoch) {
    match changed {
        Changed::Done { revision, epoch } => (revision, epoch),
        Changed::Outdated => panic!("outdated"),
    }
}

async fn a_change_that_was_decided_on_another_revision_is_refused(subject: Subject) {
    let registry = subject.queue.registry();
    let me = registry.life().expect("alive");
    let (first, _) = done(change(registry, None, give(Some(me))).await);
    assert_eq!(change(registry, None, give(None)).await, Changed::Outdated);
    let keep = Change::Keep {
        entry: json(r#"{"role":"worker"}"#),
    };
    let (second, epoch) = done(change(registry, Some(first), keep.clone()).await);
    assert!(first < second);
    for stale in [give(None), keep, Change::Remove] {
        let refused = change(registry, Some(first), stale).await;
        assert_eq!(refused, Changed::Outdated);
    }
    let row = found(registry).await.expect("there");
    assert_eq!(
        (row.revision, row.epoch, row.owner),
        (second, epoch, Some(me))
    );
    assert_eq!(row.entry.as_str(), r#"{"role":"worker"}"#);
}

async fn epochs_grow_with_every_owner_also_when_the_agent_is_made_again(subject: Subject) {
    let registry = subject.queue.registry();
    let me = registry.life().expect("alive");
    let mut epochs = Vec::new();
    for _ in 0..2 {
        let (revision, epoch) = done(change(registry, None, give(Some(me))).await);
        epochs.push(epoch);
        let (revision, epoch) = done(change(registry, Some(revision), give(None)).await);
        epochs.push(epoch);
        done(change(registry, Some(revision), Change::Remove).await);
        assert!(found(registry).await.is_none());
    }
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
}

async fn the_owner_is_over_with_his_life_and_succeeded_under_a_higher_epoch(subject: Subject) {
    let before = subject.queue.registry().clone();
    let first = before.life().expect("alive");
    let (revision, epoch) = done(change(&before, None, give(Some(first))).await);
    let subject = subject.kill().await;
    let registry = subject.queue.registry();
    let me = registry.life().expect("alive");
    assert!(first < me);
    let standing = registry.read().await.expect("readable");
    let row = &standing.agents[&id()];
    assert_eq!((row.revision, row.owner), (revision, Some(first)));
    assert!(standing.lives.contains_key(&me) && !standing.lives.contains_key(&first));
    let (_, later) = done(change(registry, Some(revision), give(Some(me))).await);
    assert!(epoch < later);
}

/// Why an agent is where it is stays with it until somebody says otherwise, and goes with it.
async fn what_led_to_an_owner_is_kept_with_the_agent(subject: Subject) {
    let registry = subject.queue.registry();
    let me = registry.life().expect("alive");
    let because = |decision: &str| Change::Give {
        to: Some(me),
        entry: json("{}"),
        decision: Some(json(decision)),
    };
    let kept = async || registry.decision(&id()).await.expect("readable");
    assert_eq!(kept().await, None);
    let (revision, _) = done(change(registry, None, because("1")).await);
    assert_eq!(kept().await, Some(json("1")));
    let (revision, _) = done(change(registry, Some(revision), give(None)).await);
    assert_eq!(kept().await, Some(json("1")));
    let (revision, _) = done(change(registry, Some(revision), because("2")).await);
    assert_eq!(kept().await, Some(json("2")));
    done(change(registry, Some(revision), Change::Remove).await);
    assert_eq!(kept().await, None);
}

async fn of_two_who_judge_at_once_one_is_told_to_look_again(subject: Subject) {
    let registry = subject.queue.registry();
    let judge = async |seen, body| registry.judge("n", seen, json(body)).await.expect("open");
    let (first, _) = done(judge(None, "1").await);
    assert_eq!(judge(None, "2").await, Changed::Outdated);
    let (second, _) = done(judge(Some(first), "3").await);
    assert_eq!(judge(Some(first), "4").await, Changed::Outdated);
    let subject = subject.kill().await;
    let standing = subject.queue.registry().nodes().await.expect("readable");
    let stands = &standing.judgements["n"];
    assert_eq!((stands.revision, &stands.body), (second, &json("3")));
}

async fn what_a_node_says_of_itself_is_read_with_its_life(subject: Subject) {
    let registry = subject.queue.registry();
    for body in ["1", "2"] {
        registry.report(json(body)).await.expect("open");
    }
    let standing = registry.nodes().await.expect("readable");
    let said: Vec<_> = standing.reports.values().collect();
    assert_eq!(said.len(), 1);
    let me = registry.life().expect("alive");
    assert_eq!((said[0].life, &said[0].body), (me, &json("2")));
    assert!(standing.lives.contains_key(&me));
}

conforms!(
    what_led_to_an_owner_is_kept_with_the_agent,
    of_two_who_judge_at_once_one_is_told_to_look_again,
    what_a_node_says_of_itself_is_read_with_its_life,
    a_change_that_was_decided_on_another_revision_is_refused,
    epochs_grow_with_every_owner_also_when_the_agent_is_made_again,
    the_owner_is_over_with_his_life_and_succeeded_under_a_higher_epoch,
);
