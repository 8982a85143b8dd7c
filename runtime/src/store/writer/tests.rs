//! The writer over a store in memory.

use super::*;
use crate::store::DocumentRow;

fn document(key: &str) -> Changes {
    let body = Some(crate::json::Json::null());
    let row = DocumentRow {
        space: "test",
        key: key.to_owned(),
        body,
        at: crate::clock::Timestamp(1),
    };
    Changes {
        documents: vec![row],
        ..Changes::default()
    }
}

fn no_recovery(writer: &Writer) -> Recover {
    let writer = writer.clone();
    Box::new(move || {
        writer.readmit();
        Box::pin(async { Ok(()) })
    })
}

#[tokio::test]
async fn what_is_pending_when_the_writer_closes_is_still_committed() {
    let store = Store::volatile();
    let writer = Writer::new(store.clone());
    let (done, outcome) = oneshot::channel();
    writer.push(document("a"), Vec::new(), Told::Waiting(done));
    tokio::join!(
        writer
            .clone()
            .run(no_recovery(&writer), Box::new(|_, _| ())),
        writer.close()
    );
    outcome.await.expect("callback ran").expect("committed");
    assert!(matches!(
        writer.write(document("b")).await,
        Err(StoreError::Closed)
    ));
}

#[tokio::test]
async fn the_next_batch_begins_when_all_who_were_answered_have_asked_again() {
    let writer = Writer::new(Store::volatile());
    let waits = |until| Returning { callers: 2, until };
    let push = || {
        let (done, outcome) = oneshot::channel();
        writer.push(document("a"), Vec::new(), Told::Waiting(done));
        outcome
    };
    let long = Instant::now() + Duration::from_secs(600);
    let first = push();
    writer.push(document("b"), Vec::new(), Told::Nobody);
    let mut gathering = std::pin::pin!(writer.gather(waits(long)));
    for _ in 0..3 {
        let polled = futures::poll!(gathering.as_mut());
        assert!(polled.is_pending(), "one of two asked");
    }
    let second = push();
    gathering.await;
    drop((first, second));
    // And no longer than it is worth: the others may not come.
    let alone = Writer::new(Store::volatile());
    alone.gather(waits(Instant::now())).await;
    assert!(Returning::after(1, Duration::from_secs(1)).is_none());
    assert!(Returning::after(RETURNING_MAX + 1, Duration::from_secs(1)).is_none());
    let short = Returning::after(2, Duration::from_secs(1)).expect("worth it");
    assert!(short.until <= Instant::now() + RETURNING_WAIT);
}

#[tokio::test]
async fn a_failed_commit_fails_all_that_is_pending_and_recovers_before_the_next() {
    let store = Store::volatile();
    let writer = Writer::new(store.clone());
    let run = tokio::task::JoinSet::from_iter([writer
        .clone()
        .run(no_recovery(&writer), Box::new(|_, _| ()))]);
    let Store::Volatile(volatile) = &store else {
        unreachable!("made above")
    };
    volatile.fail_next_commit();
    assert!(writer.write(document("a")).await.is_err());
    while writer.write(document("b")).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert!(store.document("test", "a").await.expect("read").is_none());
    assert!(store.document("test", "b").await.expect("read").is_some());
    writer.close().await;
    run.join_all().await;
}

#[tokio::test]
async fn a_loop_that_panicked_rereads_the_store_before_it_goes_on() {
    let store = Store::volatile();
    let writer = Writer::new(store.clone());
    let mut run = tokio::task::JoinSet::from_iter([writer.clone().run(
        no_recovery(&writer),
        Box::new(|_, _| panic!("a bug in what follows a commit")),
    )]);
    writer.push(Changes::default(), Vec::new(), Told::Nobody);
    assert!(run.join_next().await.expect("ended").is_err());
    assert!(matches!(writer.refusal(), Some(StoreError::Recovering)));
    run.spawn(
        writer
            .clone()
            .run(no_recovery(&writer), Box::new(|_, _| ())),
    );
    while writer.write(document("a")).await.is_err() {
        tokio::task::yield_now().await;
    }
    writer.close().await;
    run.join_all().await;
}
