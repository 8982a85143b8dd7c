//! Recorded steps: replayed, bounded, fenced, and their large documents stored once.

use super::{LEASE, Subject, conforms, json, task};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::journal::StepError;
use crate::journal::remote::{OfferedStep, Recorded};
use crate::json::Json;
use crate::queue::budget::Cost;
use crate::queue::error::LeaseError;
use crate::store::{Changes, Store};

conforms! {
    a_worker_elsewhere_records_a_step_once_and_reads_it_back,
    a_step_offered_under_another_epoch_is_refused,
    steps_are_listed_as_they_finished_with_what_they_cost,
    a_large_document_is_stored_once_and_goes_with_its_last_step,
}

fn offered(key: &str, input: Json, output: Json) -> OfferedStep {
    OfferedStep {
        key: key.to_owned(),
        input,
        output,
        cost: Some(Cost {
            tokens_in: 900,
            tokens_out: 100,
            micros: 1_500_000,
            calls: 1,
            millis: 250,
        }),
        started_at: None,
    }
}

async fn offer(
    subject: &Subject,
    (id, epoch): (TaskId, Epoch),
    step: OfferedStep,
) -> Result<Recorded, StepError<std::convert::Infallible>> {
    subject.queue.offer_step(id, epoch, step).await
}

async fn a_worker_elsewhere_records_a_step_once_and_reads_it_back(subject: Subject) {
    let id = subject.submit(task()).await;
    let lease = subject.claim("w", LEASE).await;
    let first = offer(
        &subject,
        (id, lease.epoch),
        offered("a", json("1"), json("10")),
    )
    .await;
    assert!(matches!(first, Ok(Recorded::Now)), "{first:?}");
    let again = offer(
        &subject,
        (id, lease.epoch),
        offered("a", json("1"), json("11")),
    )
    .await;
    let Ok(Recorded::Before(step)) = again else {
        panic!("{again:?}");
    };
    assert_eq!(step.output.json, json("10"), "the first record stands");
    let subject = subject.kill().await;
    let lease = subject.claim("w", LEASE).await;
    let step = subject.queue.step_of(id, "a").await.expect("readable");
    assert_eq!(step.expect("kept").output.json, json("10"));
    let other = offer(
        &subject,
        (id, lease.epoch),
        offered("a", json("2"), json("12")),
    )
    .await;
    let Err(StepError::Diverged {
        recorded, offered, ..
    }) = other
    else {
        panic!("{other:?}");
    };
    assert_eq!((recorded, offered), (json("1"), json("2")));
    assert!(
        subject
            .queue
            .step_of(id, "b")
            .await
            .expect("readable")
            .is_none()
    );
}

async fn a_step_offered_under_another_epoch_is_refused(subject: Subject) {
    let id = subject.submit(task()).await;
    let first = subject.claim("first", LEASE).await;
    subject.queue.reclaim("first");
    let second = subject.claim("second", LEASE).await;
    let stale = async |epoch| {
        let late = offer(&subject, (id, epoch), offered("a", json("1"), json("2"))).await;
        let Err(StepError::Lease { cause, .. }) = late else {
            panic!("{late:?}");
        };
        assert!(matches!(cause, LeaseError::Stale { .. }), "{cause:?}");
    };
    stale(first.epoch).await;
    let done = subject.queue.complete(id, second.epoch, json("1")).await;
    done.expect("held");
    stale(second.epoch).await;
    assert!(
        subject
            .queue
            .step_of(id, "a")
            .await
            .expect("readable")
            .is_none()
    );
}

async fn steps_are_listed_as_they_finished_with_what_they_cost(subject: Subject) {
    let id = subject.submit(task()).await;
    let lease = subject.claim("w", LEASE).await;
    for key in ["c", "a", "b"] {
        let step = offered(key, json("null"), json("1"));
        offer(&subject, (id, lease.epoch), step)
            .await
            .expect("held");
        // So that each finishes in a millisecond of its own.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let subject = subject.kill().await;
    let keys = async |after, limit| {
        let steps = subject.queue.steps_of(id, after, limit).await;
        let steps = steps.expect("readable").expect("a task");
        assert!(steps.iter().all(|step| step.epoch == lease.epoch));
        let tokens = steps
            .iter()
            .map(|step| step.cost.map(|cost| cost.amounts().tokens));
        assert!(tokens.into_iter().all(|tokens| tokens == Some(1_000)));
        steps.into_iter().map(|step| step.key).collect::<Vec<_>>()
    };
    assert_eq!(keys(None, 10).await, ["c", "a", "b"]);
    assert_eq!(keys(Some("c"), 1).await, ["a"]);
    assert!(keys(Some("gone"), 10).await.is_empty());
    let nobody = subject.queue.steps_of(TaskId::fresh(), None, 1).await;
    assert!(nobody.expect("readable").is_none());
}

async fn blobs(store: &Store) -> usize {
    match store {
        Store::Sqlite(store) => store.blobs().await,
        Store::Postgres(store) => store.blobs().await,
        Store::Volatile(_) => usize::MAX,
    }
}

async fn a_large_document_is_stored_once_and_goes_with_its_last_step(subject: Subject) {
    let large = Json::of(&"x".repeat(100_000)).expect("JSON");
    let mut ids = Vec::new();
    for key in ["a", "b"] {
        let id = subject.submit(task()).await;
        let lease = subject.claim("w", LEASE).await;
        let step = offered(key, large.clone(), large.clone());
        offer(&subject, (id, lease.epoch), step)
            .await
            .expect("held");
        let done = subject.queue.complete(id, lease.epoch, json("1")).await;
        done.expect("held");
        ids.push(id);
    }
    // The newest task is never forgotten.
    subject.submit(task()).await;
    let subject = subject.kill().await;
    let store = subject.queue.writer().store().clone();
    assert!([1, usize::MAX].contains(&blobs(&store).await));
    let step = subject.queue.step_of(ids[0], "a").await.expect("readable");
    let step = step.expect("kept");
    assert_eq!((&step.input.json, &step.output.json), (&large, &large));
    let listed = subject.queue.steps_of(ids[1], None, 9).await;
    let listed = listed.expect("readable").expect("a task");
    assert_eq!(listed[0].output.json, Json::null());
    assert_eq!(listed[0].output.hash, step.output.hash);
    let changes = Changes {
        prune_before: Some(Timestamp(u64::MAX >> 1)),
        ..Changes::default()
    };
    let written = subject.queue.writer().write(changes).await;
    written.expect("written");
    assert!([0, usize::MAX].contains(&blobs(&store).await));
}
