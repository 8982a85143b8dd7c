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

conforms!(
    a_change_that_was_decided_on_another_revision_is_refused,
    epochs_grow_with_every_owner_also_when_the_agent_is_made_again,
    the_owner_is_over_with_his_life_and_succeeded_under_a_higher_epoch,
);
