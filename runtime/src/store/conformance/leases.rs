//! Leases, order, outcomes and families.

use std::time::Duration;

use super::{LEASE, Subject, conforms, json, task};
use crate::ids::{Epoch, TaskId};
use crate::queue::error::{ControlError, LeaseError};
use crate::queue::task::{Lane, NewChild, NewTask, TaskEventKind, TaskState};

conforms! {
    urgent_lanes_go_first_and_a_lane_is_first_in_first_out,
    a_lease_that_ran_out_is_given_to_another_and_its_holder_is_refused,
    a_renewed_lease_lasts,
    completing_twice_is_harmless_and_another_epoch_is_refused_even_after_a_restart,
    a_released_task_is_claimable_at_once_and_has_lost_no_attempt,
    a_task_fails_until_its_attempts_are_used_up_and_can_be_retried,
    two_who_retry_a_task_revive_it_once,
    a_task_that_kills_its_holders_is_discarded,
    a_family_survives_a_restart,
    what_depends_on_a_failed_task_is_cancelled,
    a_dependency_that_completes_during_the_submission_is_found,
    a_cancelled_task_ends_at_once_or_when_its_holder_lets_go,
    clearing_spares_what_executes,
}

fn child(on: Vec<TaskId>, after: Vec<usize>) -> NewChild {
    NewChild {
        task: NewTask {
            depends_on: on,
            ..task()
        },
        after,
    }
}

async fn refused_everywhere(subject: &Subject, id: TaskId, epoch: Epoch) {
    let queue = &subject.queue;
    let answers = [
        queue.complete(id, epoch, json("1")).await.err(),
        queue.fail(id, epoch, "late".into(), true).await.err(),
        queue.release(id, epoch).await.err(),
        queue.suspend(id, epoch, vec![]).await.err(),
        queue.heartbeat(id, epoch, LEASE).await.err(),
    ];
    for answer in answers {
        assert!(
            matches!(answer, Some(LeaseError::Stale { .. })),
            "{answer:?}"
        );
    }
}

async fn urgent_lanes_go_first_and_a_lane_is_first_in_first_out(subject: Subject) {
    let mut expected = Vec::new();
    for priority in Lane::ALL.into_iter().rev() {
        let of_lane = || NewTask { priority, ..task() };
        let pair = [
            subject.submit(of_lane()).await,
            subject.submit(of_lane()).await,
        ];
        expected.splice(0..0, pair);
    }
    for id in expected {
        assert_eq!(subject.claim("w", LEASE).await.task.id, id);
    }
    assert!(subject.is_idle());
}

async fn a_lease_that_ran_out_is_given_to_another_and_its_holder_is_refused(subject: Subject) {
    let id = subject.submit(task()).await;
    let first = subject.claim("slow", Duration::from_millis(20)).await;
    let second = subject.claim("other", LEASE).await;
    assert_eq!((second.task.id, second.losses), (id, 1));
    assert!(first.epoch < second.epoch);
    refused_everywhere(&subject, id, first.epoch).await;
    subject
        .queue
        .complete(id, second.epoch, json("2"))
        .await
        .expect("held");
    refused_everywhere(&subject, id, first.epoch).await;
    let subject = subject.reopen().await;
    refused_everywhere(&subject, id, first.epoch).await;
}

async fn a_renewed_lease_lasts(subject: Subject) {
    let id = subject.submit(task()).await;
    let lease = subject.claim("w", Duration::from_secs(5)).await;
    let renewed = subject
        .queue
        .heartbeat(id, lease.epoch, LEASE)
        .await
        .expect("held");
    assert!(lease.expires_at < renewed.expires_at);
    assert!(!renewed.cancel_requested);
}

async fn completing_twice_is_harmless_and_another_epoch_is_refused_even_after_a_restart(
    subject: Subject,
) {
    let id = subject.submit(task()).await;
    let epoch = subject.claim("w", LEASE).await.epoch;
    for _ in 0..2 {
        subject
            .queue
            .complete(id, epoch, json("[1]"))
            .await
            .expect("held");
    }
    let subject = subject.kill().await;
    subject
        .queue
        .complete(id, epoch, json("[2]"))
        .await
        .expect("repeated");
    let end = subject
        .queue
        .task(id)
        .await
        .expect("readable")
        .and_then(|view| view.end);
    assert_eq!(end.and_then(|end| end.result), Some(json("[1]")));
    refused_everywhere(&subject, id, Epoch(epoch.0 + 1)).await;
    let nobody = subject
        .queue
        .complete(TaskId::fresh(), epoch, json("1"))
        .await;
    assert!(matches!(nobody, Err(LeaseError::Unknown(_))));
}

async fn a_released_task_is_claimable_at_once_and_has_lost_no_attempt(subject: Subject) {
    let id = subject.submit(task()).await;
    let first = subject.claim("w", LEASE).await;
    subject.queue.release(id, first.epoch).await.expect("held");
    let second = subject.claim("w", LEASE).await;
    assert_eq!((second.attempt, second.losses), (1, 0));
    assert!(first.epoch < second.epoch);
}

async fn a_task_fails_until_its_attempts_are_used_up_and_can_be_retried(subject: Subject) {
    let id = subject
        .submit(NewTask {
            max_attempts: Some(2),
            ..task()
        })
        .await;
    for expected in [TaskState::Retryable, TaskState::Discarded] {
        let lease = subject.claim("w", LEASE).await;
        let state = subject
            .queue
            .fail(id, lease.epoch, "no luck".into(), true)
            .await;
        assert_eq!(state.expect("held"), expected);
    }
    let view = subject
        .queue
        .task(id)
        .await
        .expect("readable")
        .expect("kept");
    assert_eq!(
        view.end.and_then(|end| end.error).as_deref(),
        Some("no luck")
    );
    let subject = subject.reopen().await;
    subject.queue.retry(id).await.expect("a dead letter");
    let subject = subject.kill().await;
    let lease = subject.claim("w", LEASE).await;
    assert_eq!((lease.task.id, lease.attempt), (id, 1));
    subject
        .queue
        .complete(id, lease.epoch, json("1"))
        .await
        .expect("held");
    let again = subject.queue.retry(id).await;
    assert!(matches!(again, Err(ControlError::WrongState { .. })));
}

async fn two_who_retry_a_task_revive_it_once(subject: Subject) {
    let id = subject.submit(task()).await;
    for _ in 0..20 {
        subject.queue.cancel(id).await.expect("live");
        let tries = futures::future::join_all((0..4).map(|_| subject.queue.retry(id))).await;
        assert_eq!(tries.iter().filter(|one| one.is_ok()).count(), 1);
    }
}

async fn a_task_that_kills_its_holders_is_discarded(subject: Subject) {
    let id = subject.submit(task()).await;
    for life in 0..3 {
        let worker = format!("w{life}");
        subject.claim(&worker, LEASE).await;
        assert_eq!(subject.queue.reclaim(&worker), 1);
    }
    subject.reaches(id, TaskState::Discarded).await;
}

async fn a_family_survives_a_restart(subject: Subject) {
    let outside = subject.submit(task()).await;
    let done = subject.claim("w", LEASE).await;
    subject
        .queue
        .complete(outside, done.epoch, json("0"))
        .await
        .expect("held");
    let parent = subject.submit(task()).await;
    let lease = subject.claim("w", LEASE).await;
    let children = vec![child(vec![outside], vec![]), child(vec![], vec![0])];
    subject
        .queue
        .suspend(parent, lease.epoch, children)
        .await
        .expect("held");
    refused_everywhere(&subject, parent, lease.epoch).await;
    let mut subject = subject.kill().await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let lease = subject.claim("w", LEASE).await;
        assert_eq!(lease.task.parent, Some(parent));
        assert!(subject.is_idle(), "the other comes after");
        assert_eq!(subject.state(parent).await, TaskState::Waiting);
        let id = lease.task.id;
        subject
            .queue
            .complete(id, lease.epoch, json("1"))
            .await
            .expect("held");
        seen.push(id);
        subject = subject.kill().await;
    }
    assert!(seen[0] < seen[1], "in the order of their positions");
    let lease = subject.claim("w", LEASE).await;
    assert_eq!((lease.task.id, lease.attempt, lease.losses), (parent, 1, 0));
    assert!(subject.is_idle());
}

async fn what_depends_on_a_failed_task_is_cancelled(subject: Subject) {
    let first = subject.submit(task()).await;
    let on = |id| NewTask {
        depends_on: vec![id],
        ..task()
    };
    let second = subject.submit(on(first)).await;
    let third = subject.submit(on(second)).await;
    let lease = subject.claim("w", LEASE).await;
    subject
        .queue
        .fail(first, lease.epoch, "no".into(), false)
        .await
        .expect("held");
    let subject = subject.kill().await;
    subject.reaches(third, TaskState::Cancelled).await;
    assert_eq!(subject.state(second).await, TaskState::Cancelled);
    assert!(subject.queue.submit(on(first)).await.is_err());
    assert!(subject.queue.submit(on(TaskId::fresh())).await.is_err());
}

async fn a_dependency_that_completes_during_the_submission_is_found(subject: Subject) {
    for _ in 0..50 {
        let first = subject.submit(task()).await;
        let lease = subject.claim("w", LEASE).await;
        let second = NewTask {
            depends_on: vec![first],
            ..task()
        };
        let (done, submitted) = tokio::join!(
            subject.queue.complete(first, lease.epoch, json("1")),
            subject.queue.submit(second)
        );
        done.expect("held");
        let second = submitted.expect("its dependency completed").id;
        let lease = subject.claim("w", LEASE).await;
        assert_eq!(lease.task.id, second);
        subject
            .queue
            .complete(second, lease.epoch, json("1"))
            .await
            .expect("held");
    }
}

async fn a_cancelled_task_ends_at_once_or_when_its_holder_lets_go(subject: Subject) {
    let idle = subject.submit(task()).await;
    assert_eq!(
        subject.queue.cancel(idle).await.expect("live"),
        TaskState::Cancelled
    );
    assert!(subject.queue.cancel(idle).await.is_err());
    let id = subject.submit(task()).await;
    let lease = subject.claim("w", LEASE).await;
    assert_eq!(
        subject.queue.cancel(id).await.expect("live"),
        TaskState::Executing
    );
    let renewed = subject
        .queue
        .heartbeat(id, lease.epoch, LEASE)
        .await
        .expect("held");
    assert!(renewed.cancel_requested);
    subject.queue.release(id, lease.epoch).await.expect("held");
    let subject = subject.kill().await;
    assert_eq!(subject.state(id).await, TaskState::Cancelled);
    let log = subject.queue.events(id, 0, 100).await.expect("readable");
    let kinds: Vec<TaskEventKind> = log.iter().map(|event| event.kind).collect();
    use TaskEventKind::{CancelRequested, Cancelled, Leased, Submitted};
    assert_eq!(kinds, [Submitted, Leased, CancelRequested, Cancelled]);
    assert!(log.iter().zip(1..).all(|(event, n)| event.n == n));
}

async fn clearing_spares_what_executes(subject: Subject) {
    let executing = subject.submit(task()).await;
    let lease = subject.claim("w", LEASE).await;
    for _ in 0..10 {
        subject.submit(task()).await;
    }
    assert_eq!(subject.queue.clear().await.expect("open"), 10);
    let subject_stats = subject.queue.stats();
    assert_eq!(subject_stats.size, 0);
    subject
        .queue
        .complete(executing, lease.epoch, json("1"))
        .await
        .expect("held");
    assert!(subject.kill().await.is_idle());
}
