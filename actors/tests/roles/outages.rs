//! Outcomes that the store does not take at once, or never.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use regrow_actors::agent::AgentLimits;
use regrow_actors::agent::behaviour::{Failure, Outcome};
use regrow_runtime::queue::task::TaskState;
use tokio::sync::Notify;

use crate::stage::{JOB, Stage, scripted};

#[tokio::test(start_paused = true)]
async fn an_outcome_is_offered_again_until_the_store_takes_it() {
    let runs = Arc::new(AtomicU32::new(0));
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (counted, begin, go) = (runs.clone(), begun.clone(), go_on.clone());
    let behaviour = scripted(move |_| {
        let (runs, begun, go_on) = (counted.clone(), begin.clone(), go.clone());
        async move {
            runs.fetch_add(1, Ordering::SeqCst);
            begun.notify_one();
            go_on.notified().await;
            Outcome::completed("precious")
        }
    });
    let limits = AgentLimits {
        lease: Duration::from_secs(3),
        grace: Duration::from_secs(1),
    };
    let stage = Stage::with(behaviour, 1, limits).await;
    let id = stage.submit(JOB, &()).await;
    begun.notified().await;
    // The lease is durable before the disk fills up.
    stage.queue.pause().await.expect("stored");
    stage.queue.resume().await.expect("stored");
    // A full disk, for far longer than the lease.
    stage.disk.fail_next_commit();
    go_on.notify_one();
    for _ in 0..1_200 {
        stage.disk.fail_next_commit();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let view = stage.ended(id).await;
    assert_eq!(view.state(), TaskState::Completed);
    assert_eq!(
        runs.load(Ordering::SeqCst),
        1,
        "finished work was done again"
    );
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn a_result_that_is_too_large_is_not_tried_again() {
    let behaviour = scripted(|_| async { Outcome::completed(&"x".repeat(33 << 20)) });
    let stage = Stage::with(behaviour, 1, AgentLimits::default()).await;
    let id = stage.submit(JOB, &()).await;
    let end = stage.ended(id).await.end.expect("it ended");
    assert_eq!((end.state, end.attempt), (TaskState::Discarded, 1));
    let error = end.error.expect("a reason");
    assert!(error.contains("bytes"), "{error}");
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_is_not_tried_again_and_a_retryable_one_is() {
    let behaviour = scripted(|context| async move {
        match context.payload::<bool>()? {
            true => Err(Failure::Permanent("never".to_owned())),
            false => Err(Failure::Retryable("not now".to_owned())),
        }
    });
    let stage = Stage::with(behaviour, 1, AgentLimits::default()).await;
    for (permanent, attempts, error) in [(true, 1, "never"), (false, 5, "not now")] {
        let id = stage.submit(JOB, &permanent).await;
        let end = stage.ended(id).await.end.expect("it ended");
        assert_eq!((end.state, end.attempt), (TaskState::Discarded, attempts));
        assert_eq!(end.error.as_deref(), Some(error));
    }
    stage.strike().await;
}
