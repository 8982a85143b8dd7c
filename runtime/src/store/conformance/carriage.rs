//! Tasks that are carried to and from other nodes' queues, over crashes.

use std::collections::BTreeSet;

use super::{LEASE, Subject, conforms, json, task};
use crate::ids::{Epoch, TaskId};
use crate::queue::carriage::{EndElsewhere, Hop, Lineage, Parcel};
use crate::queue::task::{NewTask, TaskState};

conforms! {
    what_is_set_aside_stays_so_until_it_ended_where_it_went,
    what_comes_back_goes_on_as_what_it_was_and_late_arrivals_change_nothing,
    what_is_received_twice_is_one_task_and_says_where_it_came_from,
    a_child_that_was_carried_is_called_off_with_its_parent_and_not_before_it_ended,
}

fn completed(result: &str) -> EndElsewhere {
    EndElsewhere {
        state: TaskState::Completed,
        result: Some(json(result)),
        error: None,
    }
}

fn parcel(subject: &Subject, id: TaskId) -> Parcel {
    let parcels = subject.queue.parcels();
    let parcel = parcels.into_iter().find(|parcel| parcel.body.id == id);
    parcel.expect("it is away")
}

async fn set_aside(subject: &Subject, id: TaskId) -> Parcel {
    let kinds = BTreeSet::from(["a".to_owned()]);
    let idle = subject.queue.idle(&kinds, 10).into_iter();
    let (_, seen) = idle
        .into_iter()
        .find(|(idle, _)| *idle == id)
        .expect("idle");
    let queue = &subject.queue;
    assert!(
        !queue
            .set_aside(id, Epoch(seen.0 + 7), "b")
            .await
            .expect("open")
    );
    assert!(queue.set_aside(id, seen, "b").await.expect("open"));
    assert!(!queue.set_aside(id, seen, "c").await.expect("open"), "once");
    parcel(subject, id)
}

async fn what_is_set_aside_stays_so_until_it_ended_where_it_went(subject: Subject) {
    let id = subject.submit(task()).await;
    let after = NewTask {
        depends_on: vec![id],
        ..task()
    };
    let after = subject.submit(after).await;
    let lost = subject.claim("w", LEASE).await;
    subject.queue.release(id, lost.epoch).await.expect("held");
    let away = set_aside(&subject, id).await;
    let subject = subject.kill().await;
    assert!(subject.is_idle(), "nobody may claim it");
    assert_eq!(subject.state(id).await, TaskState::Waiting);
    let stale = subject.queue.complete(id, lost.epoch, json("0")).await;
    assert!(stale.is_err(), "a lease from before has no effect");
    assert_eq!(parcel(&subject, id).hop, away.hop);

    let there = TaskId::fresh();
    subject
        .queue
        .delivered(id, away.hop, there)
        .await
        .expect("open");
    let subject = subject.kill().await;
    assert_eq!(parcel(&subject, id).away.task, Some(there));
    assert_eq!(
        subject.queue.clear().await.expect("open"),
        1,
        "not what is elsewhere"
    );
    assert_eq!(subject.state(after).await, TaskState::Cancelled);
    subject.queue.retry(after).await.expect("cancelled");

    let other = Hop {
        number: away.hop.number + 1,
        ..away.hop
    };
    let queue = &subject.queue;
    queue
        .ended_elsewhere(id, other, completed("1"))
        .await
        .expect("open");
    assert_eq!(subject.state(id).await, TaskState::Waiting, "another way");
    queue
        .ended_elsewhere(id, away.hop, completed("2"))
        .await
        .expect("open");
    subject.reaches(after, TaskState::Available).await;
    let subject = subject.kill().await;
    let end = subject.queue.task(id).await.expect("readable");
    let end = end.and_then(|view| view.end).expect("it ended");
    assert_eq!(
        (end.state, end.result),
        (TaskState::Completed, Some(json("2")))
    );
    assert!(subject.queue.parcels().is_empty());
    let kept = subject
        .queue
        .writer()
        .store()
        .documents("carried", "", 9)
        .await;
    assert!(kept.expect("readable").is_empty(), "nothing is left of it");
}

async fn what_comes_back_goes_on_as_what_it_was_and_late_arrivals_change_nothing(subject: Subject) {
    let id = subject.submit(task()).await;
    let first = set_aside(&subject, id).await;
    let back = Hop {
        number: first.hop.number + 1,
        ..first.hop
    };
    let copy = || NewTask {
        idempotency_key: Some(first.key()),
        ..task()
    };
    let late = subject
        .queue
        .receive(copy(), first.hop)
        .await
        .expect("taken");
    assert_eq!((late.id, late.repeated), (id, true));
    assert_eq!(
        subject.state(id).await,
        TaskState::Waiting,
        "it has left since"
    );
    let came = subject.queue.receive(copy(), back).await.expect("taken");
    assert_eq!((came.id, came.repeated), (id, true));
    let subject = subject.kill().await;
    assert!(subject.queue.parcels().is_empty());

    let second = set_aside(&subject, id).await;
    assert_eq!(second.hop.number, back.number + 1);
    let again = subject.queue.receive(copy(), back).await.expect("taken");
    assert_eq!((again.id, again.repeated), (id, true));
    assert_eq!(
        subject.state(id).await,
        TaskState::Waiting,
        "that was before"
    );
    subject.queue.cancel(id).await.expect("it lives");
    assert!(parcel(&subject, id).cancel_requested);
    let third = Hop {
        number: second.hop.number + 1,
        ..back
    };
    subject.queue.receive(copy(), third).await.expect("taken");
    let subject = subject.kill().await;
    assert_eq!(
        subject.state(id).await,
        TaskState::Cancelled,
        "when it is back"
    );
    let over = subject.queue.receive(copy(), third).await.expect("taken");
    assert_eq!((over.id, over.repeated), (id, true));
}

async fn what_is_received_twice_is_one_task_and_says_where_it_came_from(subject: Subject) {
    let hop = Hop {
        lineage: Lineage {
            task: TaskId::fresh(),
            epoch: Epoch(7),
        },
        number: 3,
    };
    let copy = |key: &str| NewTask {
        idempotency_key: Some(key.to_owned()),
        ..task()
    };
    let first = subject.queue.receive(copy("key"), hop).await.expect("room");
    assert!(!first.repeated);
    let subject = subject.kill().await;
    let again = subject.queue.receive(copy("key"), hop).await.expect("room");
    assert_eq!((again.id, again.repeated), (first.id, true));
    let view = subject.queue.task(first.id).await.expect("readable");
    let came = view.and_then(|view| view.body.terms.as_ref()?.came);
    assert_eq!(came, Some(hop));

    // Ended, it is still that one; what was retried where it came from is another.
    subject.queue.cancel(first.id).await.expect("it lives");
    let late = subject.queue.receive(copy("key"), hop).await.expect("room");
    assert_eq!((late.id, late.repeated), (first.id, true));
    let lineage = Lineage {
        epoch: Epoch(9),
        ..hop.lineage
    };
    let retried = Hop { lineage, number: 1 };
    let other = subject
        .queue
        .receive(copy("key"), retried)
        .await
        .expect("room");
    assert!(!other.repeated && other.id != first.id);
    let again = subject
        .queue
        .receive(copy("key"), retried)
        .await
        .expect("room");
    assert_eq!((again.id, again.repeated), (other.id, true));
}

async fn a_child_that_was_carried_is_called_off_with_its_parent_and_not_before_it_ended(
    subject: Subject,
) {
    let parent = subject.submit(task()).await;
    let lease = subject.claim("w", LEASE).await;
    let child = crate::queue::task::NewChild {
        task: task(),
        after: Vec::new(),
    };
    let queue = &subject.queue;
    queue
        .suspend(parent, lease.epoch, vec![child])
        .await
        .expect("held");
    let filter = crate::store::TaskFilter {
        parent: Some(parent),
        limit: 1,
        ..crate::store::TaskFilter::default()
    };
    let child = queue.tasks(&filter).await.expect("readable")[0].body.id;
    subject.reaches(child, TaskState::Available).await;
    let away = set_aside(&subject, child).await;
    queue.cancel(parent).await.expect("it lives");
    assert_eq!(subject.state(child).await, TaskState::Waiting);
    assert!(
        parcel(&subject, child).cancel_requested,
        "it is called off there"
    );
    let end = EndElsewhere {
        state: TaskState::Cancelled,
        result: None,
        error: None,
    };
    queue
        .ended_elsewhere(child, away.hop, end)
        .await
        .expect("open");
    assert_eq!(
        subject.kill().await.state(child).await,
        TaskState::Cancelled
    );
}
