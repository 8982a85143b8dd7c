//! Rules, gates and expiry: what of them outlasts a node.

use std::time::Duration;

use super::{LEASE, Subject, conforms, json, task};
use crate::queue::rules::{Rate, Resource, Weight};
use crate::queue::task::{NewTask, TaskState, TaskTerms};

fn with(terms: TaskTerms) -> NewTask {
    NewTask {
        terms: Some(Box::new(terms)),
        ..task()
    }
}

async fn rules_outlast_the_node(subject: Subject) {
    let change = subject.queue.change_rules(|rules| {
        let weight = Weight::new(0.25).expect("within bounds");
        rules.class_weights.insert("bulk".to_owned(), weight);
        rules.default_limit = Some(7);
        rules.resources.insert("gpu".to_owned(), Resource::Slots(2));
    });
    change.await.expect("valid");
    let (before, _) = subject.queue.rules(0);
    let subject = subject.kill().await;
    assert_eq!(subject.queue.rules(0).0, before);
    let refused = subject
        .queue
        .change_rules(|rules| rules.default_limit = Some(0));
    assert!(refused.await.is_err());
    assert_eq!(subject.queue.rules(0).0, before);
}

async fn a_rate_that_was_used_up_stays_used_up_over_a_restart(subject: Subject) {
    let change = subject.queue.change_rules(|rules| {
        let rate = Rate {
            units: 1,
            period_ms: 3_600_000,
            burst: 2,
        };
        rules.rates.insert("hourly".to_owned(), rate);
    });
    change.await.expect("valid");
    for _ in 0..3 {
        let terms = TaskTerms {
            rate_key: Some("hourly".to_owned()),
            ..TaskTerms::default()
        };
        subject.submit(with(terms)).await;
    }
    for _ in 0..2 {
        let lease = subject.claim("w", LEASE).await;
        let done = subject
            .queue
            .complete(lease.task.id, lease.epoch, json("1"));
        done.await.expect("held");
    }
    assert!(subject.is_idle());
    let subject = subject.kill().await;
    assert!(subject.is_idle());
    let (_, gates) = subject.queue.rules(9);
    assert_eq!(
        (gates["rate/hourly"].free, gates["rate/hourly"].parked),
        (Some(0), 1)
    );
}

async fn units_of_a_killed_node_are_free_again(subject: Subject) {
    let change = subject.queue.change_rules(|rules| {
        rules.resources.insert("gpu".to_owned(), Resource::Slots(1));
        rules.limits.insert("k".to_owned(), 1);
    });
    change.await.expect("valid");
    let mut terms = TaskTerms {
        concurrency_key: Some("k".to_owned()),
        ..TaskTerms::default()
    };
    terms.needs.insert("gpu".to_owned(), 1);
    let ids = [
        subject.submit(with(terms.clone())).await,
        subject.submit(with(terms)).await,
    ];
    let lease = subject.claim("w", LEASE).await;
    assert_eq!(lease.task.id, ids[0]);
    assert!(subject.is_idle());
    let subject = subject.kill().await;
    let again = subject.claim("w", LEASE).await;
    assert!(subject.is_idle(), "one slot is one slot");
    let stale = subject.queue.complete(ids[0], lease.epoch, json("1")).await;
    assert!(stale.is_err());
    assert!(subject.is_idle(), "a stale holder gives nothing back");
    let done = subject
        .queue
        .complete(again.task.id, again.epoch, json("1"));
    done.await.expect("held");
    let next = subject.claim("w", LEASE).await;
    assert_ne!(next.task.id, again.task.id);
}

async fn a_task_expires_while_nobody_asks_for_it(subject: Subject) {
    let terms = TaskTerms {
        expires_at: Some(subject.queue.clock().now().after(Duration::from_millis(30))),
        ..TaskTerms::default()
    };
    let id = subject.submit(with(terms.clone())).await;
    let view = subject
        .queue
        .task(id)
        .await
        .expect("readable")
        .expect("there");
    assert_eq!(view.body.terms.as_deref(), Some(&terms));
    subject.reaches(id, TaskState::Discarded).await;
    let why = subject
        .queue
        .why(id)
        .await
        .expect("readable")
        .expect("known");
    assert!(
        why.here()
            .is_some_and(|why| why.reasons[0].text.contains("expired")),
        "{why:?}"
    );
}

async fn whoever_waits_is_called_when_his_gate_opens(subject: Subject) {
    let change = subject
        .queue
        .change_rules(|rules| rules.default_limit = Some(1));
    change.await.expect("valid");
    let terms = TaskTerms {
        concurrency_key: Some("k".to_owned()),
        ..TaskTerms::default()
    };
    subject.submit(with(terms.clone())).await;
    let second = subject.submit(with(terms)).await;
    let first = subject.claim("w", LEASE).await;
    let (next, done) = tokio::join!(subject.claim("w", LEASE), async {
        tokio::task::yield_now().await;
        let result = json("1");
        subject
            .queue
            .complete(first.task.id, first.epoch, result)
            .await
    });
    done.expect("held");
    assert_eq!(next.task.id, second);
}

conforms!(
    rules_outlast_the_node,
    a_rate_that_was_used_up_stays_used_up_over_a_restart,
    units_of_a_killed_node_are_free_again,
    a_task_expires_while_nobody_asks_for_it,
    whoever_waits_is_called_when_his_gate_opens,
);
