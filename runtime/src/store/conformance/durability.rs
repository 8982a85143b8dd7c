//! What survives, what is deduplicated, and what a failed commit leaves behind.

use futures::future::join_all;

use super::{LEASE, Subject, conforms, json, task};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::journal::{Journal, StepError};
use crate::json::Json;
use crate::queue::Submission;
use crate::queue::error::{AdmitError, LeaseError};
use crate::queue::task::{NewChild, NewTask, TaskEventKind, TaskState};
use crate::store::{Changes, DocumentRow, Store};

conforms! {
    an_acknowledged_task_is_there_after_a_kill_exactly_as_submitted,
    one_key_means_one_task,
    each_of_many_tasks_has_its_own_answer_and_what_was_accepted_is_kept,
    many_are_completed_at_once_each_under_its_own_lease,
    the_switches_persist,
    a_finished_step_is_replayed_and_a_changed_one_is_refused,
    a_step_that_runs_twice_at_once_has_one_output,
    a_step_under_a_lost_lease_is_not_recorded,
    documents_are_put_listed_and_deleted,
    old_tasks_are_forgotten_but_not_what_a_live_one_refers_to,
    a_failed_commit_loses_nothing_acknowledged_and_the_node_goes_on,
    a_closed_queue_refuses_and_has_kept_everything,
    a_log_is_whole_however_the_task_came_to_its_end,
}

async fn an_acknowledged_task_is_there_after_a_kill_exactly_as_submitted(subject: Subject) {
    let strange = "tab\t quote\" nul\0 backslash\\ emoji 🌱 é \u{2028}";
    let payload = json(r#"{"b":1.50,"a":["\u0000","\ud83c\udf31",null],"n":12345678901234567890}"#);
    let new = NewTask {
        goal: Some(strange.to_owned()),
        class: Some("12".to_owned()),
        tenant: Some("null".to_owned()),
        deadline: Some(Timestamp(253_402_300_799_999)),
        max_attempts: Some(7),
        ..NewTask::new("0.5", payload.clone())
    };
    let id = subject.submit(new).await;
    let subject = subject.kill().await;
    let view = subject
        .queue
        .task(id)
        .await
        .expect("readable")
        .expect("kept");
    let body = &view.body;
    assert_eq!(body.goal.as_deref(), Some(strange));
    assert_eq!(
        (&*body.class, &*body.tenant, &*body.kind),
        ("12", "null", "0.5")
    );
    assert_eq!((&body.payload, body.max_attempts), (&payload, 7));
    assert_eq!(body.deadline, Some(Timestamp(253_402_300_799_999)));
    assert_eq!(view.state(), TaskState::Available);
}

async fn each_of_many_tasks_has_its_own_answer_and_what_was_accepted_is_kept(subject: Subject) {
    let keyed = |key: &str| NewTask {
        idempotency_key: Some(key.to_owned()),
        ..task()
    };
    let known = subject.submit(keyed("known")).await;
    let lease = subject.claim("w", LEASE).await;
    let done = subject
        .queue
        .complete(lease.task.id, lease.epoch, json("1"));
    done.await.expect("held");
    let after = |on: TaskId| NewTask {
        depends_on: vec![on],
        ..task()
    };
    let first = subject.submit(task()).await;
    let answers = subject
        .queue
        .submit_all(vec![
            keyed("new"),
            keyed("known"),
            NewTask::new("NO KIND", Json::null()),
            keyed("new"),
            after(known),
            after(TaskId::fresh()),
            after(first),
        ])
        .await;
    let [new, again, invalid, twice, ready, unknown, waiting] = &answers[..] else {
        panic!("{answers:?}");
    };
    let accepted = |answer: &Result<Submission, AdmitError>, repeated| {
        let answer = answer.as_ref().expect("accepted");
        assert_eq!(answer.repeated, repeated);
        answer.id
    };
    assert_eq!(accepted(again, true), known);
    assert_eq!(accepted(twice, true), accepted(new, false));
    assert!(matches!(invalid, Err(AdmitError::Invalid(_))));
    assert!(matches!(unknown, Err(AdmitError::Dependency { .. })));
    let (ready, waiting) = (accepted(ready, false), accepted(waiting, false));
    let subject = subject.kill().await;
    assert_eq!(subject.state(ready).await, TaskState::Available);
    assert_eq!(subject.state(waiting).await, TaskState::Waiting);
    assert!(subject.queue.submit_all(Vec::new()).await.is_empty());
    subject.queue.writer().close().await;
    let refused = subject.queue.submit_all(vec![task(), task()]).await;
    assert!(matches!(
        refused[..],
        [Err(AdmitError::Store(_)), Err(AdmitError::Store(_))]
    ));
}

async fn many_are_completed_at_once_each_under_its_own_lease(subject: Subject) {
    let mut leases = Vec::new();
    for _ in 0..3 {
        subject.submit(task()).await;
        leases.push(subject.claim("w", LEASE).await);
    }
    let stale = &leases[2];
    let freed = subject.queue.release(stale.task.id, stale.epoch).await;
    freed.expect("held");
    let mut done: Vec<(TaskId, Epoch, Json)> = leases
        .iter()
        .map(|lease| (lease.task.id, lease.epoch, json("[1]")))
        .collect();
    done.push(done[0].clone());
    done.push((TaskId::fresh(), Epoch(1), json("1")));
    for _ in 0..2 {
        let answers = subject.queue.complete_all(done.clone()).await;
        assert!(matches!(
            answers[..],
            [
                Ok(()),
                Ok(()),
                Err(LeaseError::Stale { .. }),
                Ok(()),
                Err(LeaseError::Unknown(_))
            ]
        ));
    }
    let subject = subject.kill().await;
    for (lease, state) in leases.iter().zip([
        TaskState::Completed,
        TaskState::Completed,
        TaskState::Available,
    ]) {
        assert_eq!(subject.state(lease.task.id).await, state);
    }
}

async fn one_key_means_one_task(subject: Subject) {
    let keyed = || NewTask {
        idempotency_key: Some("k".to_owned()),
        ..task()
    };
    let together = join_all((0..20).map(|_| subject.queue.submit(keyed()))).await;
    let mut ids: Vec<TaskId> = together
        .iter()
        .map(|one| one.as_ref().expect("accepted").id)
        .collect();
    ids.dedup();
    let [id] = ids[..] else {
        panic!("{ids:?}");
    };
    let lease = subject.claim("w", LEASE).await;
    assert!(subject.is_idle());
    subject
        .queue
        .complete(id, lease.epoch, json("1"))
        .await
        .expect("held");
    assert_eq!(subject.submit(keyed()).await, id);
    let subject = subject.kill().await;
    let repeated = subject.queue.submit(keyed()).await.expect("known");
    assert_eq!((repeated.id, repeated.repeated), (id, true));
    let other = NewTask {
        tenant: Some("other".to_owned()),
        ..keyed()
    };
    assert_ne!(subject.submit(other).await, id);
}

async fn the_switches_persist(subject: Subject) {
    subject.submit(task()).await;
    subject.queue.pause().await.expect("open");
    subject.queue.set_max_size(Some(1)).await.expect("open");
    let subject = subject.kill().await;
    assert!(subject.is_idle(), "paused");
    let full = subject.queue.submit(task()).await;
    assert!(matches!(full, Err(AdmitError::Full { max_size: 1, .. })));
    subject.queue.set_max_size(None).await.expect("open");
    subject.queue.drain().await.expect("open");
    let subject = subject.kill().await;
    let draining = subject.queue.submit(task()).await;
    assert!(matches!(draining, Err(AdmitError::Draining)));
    subject.queue.resume().await.expect("open");
    let subject = subject.kill().await;
    subject.submit(task()).await;
    subject.claim("w", LEASE).await;
}

async fn never() -> Result<u32, std::io::Error> {
    panic!("a recorded step ran again")
}

async fn a_finished_step_is_replayed_and_a_changed_one_is_refused(subject: Subject) {
    subject.submit(task()).await;
    let lease = subject.claim("w", LEASE).await;
    let journal = Journal::new(subject.queue.clone(), &lease);
    let work = async { Ok::<u32, std::io::Error>(42) };
    assert_eq!(journal.step("draft", "in", work).await.expect("done"), 42);
    let subject = subject.kill().await;
    let lease = subject.claim("w", LEASE).await;
    let journal = Journal::new(subject.queue.clone(), &lease);
    assert_eq!(
        journal
            .step("draft", "in", never())
            .await
            .expect("replayed"),
        42
    );
    let changed = journal.step("draft", "other", never()).await;
    assert!(matches!(changed, Err(StepError::Diverged { .. })));
    let failing = async { Err::<u32, _>(std::io::Error::other("no")) };
    let failed = journal.step("second", "in", failing).await;
    assert!(matches!(failed, Err(StepError::Work { .. })));
    let work = async { Ok::<u32, std::io::Error>(7) };
    assert_eq!(
        journal
            .step("second", "in", work)
            .await
            .expect("runs again"),
        7
    );
}

async fn a_step_that_runs_twice_at_once_has_one_output(subject: Subject) {
    subject.submit(task()).await;
    let lease = subject.claim("w", LEASE).await;
    let journal = Journal::new(subject.queue.clone(), &lease);
    // Each waits for all the others, so that all have looked before any has finished.
    let together = tokio::sync::Barrier::new(4);
    let step = |n: u32| {
        let (journal, together) = (&journal, &together);
        async move {
            let work = async {
                together.wait().await;
                Ok::<u32, std::io::Error>(n)
            };
            journal.step("same", "in", work).await.expect("recorded")
        }
    };
    let outputs = join_all((0..4).map(step)).await;
    assert!(
        outputs.iter().all(|output| *output == outputs[0]),
        "{outputs:?}"
    );
    let id = subject.submit(task()).await;
    assert_eq!(
        subject.state(id).await,
        TaskState::Available,
        "nobody else was hurt"
    );
}

async fn a_step_under_a_lost_lease_is_not_recorded(subject: Subject) {
    subject.submit(task()).await;
    let lease = subject.claim("first", LEASE).await;
    let zombie = Journal::new(subject.queue.clone(), &lease);
    assert_eq!(subject.queue.reclaim("first"), 1);
    let lease = subject.claim("second", LEASE).await;
    let late = zombie.step("draft", "in", async { Ok::<u32, std::io::Error>(1) });
    let Err(StepError::Lease { cause, .. }) = late.await else {
        panic!("a stale step was recorded");
    };
    assert!(matches!(cause, LeaseError::Stale { .. }));
    let journal = Journal::new(subject.queue.clone(), &lease);
    let work = async { Ok::<u32, std::io::Error>(2) };
    assert_eq!(journal.step("draft", "in", work).await.expect("done"), 2);
}

fn document(key: &str, body: Option<&str>) -> DocumentRow {
    DocumentRow {
        space: "test",
        key: key.to_owned(),
        body: body.map(json),
        at: Timestamp(5),
    }
}

async fn documents_are_put_listed_and_deleted(subject: Subject) {
    let documents = vec![
        document("a/1", Some("1")),
        document("a/2", Some("2")),
        document("a/2", None),
        document("a/2", Some("3")),
        document("a_", Some("4")),
        document("a/3", Some("5")),
        document("a/3", None),
    ];
    let changes = Changes {
        documents,
        ..Changes::default()
    };
    subject
        .queue
        .writer()
        .write(changes)
        .await
        .expect("written");
    let subject = subject.kill().await;
    let store = subject.queue.writer().store();
    let listed = store.documents("test", "a/", 10).await.expect("readable");
    let listed: Vec<(&str, &str)> = listed
        .iter()
        .map(|found| (found.key.as_str(), found.body.as_str()))
        .collect();
    assert_eq!(listed, [("a/2", "3"), ("a/1", "1")]);
    let one = store.document("test", "a_").await.expect("readable");
    assert_eq!(one.map(|found| found.body), Some(json("4")));
    assert!(
        store
            .document("test", "a/3")
            .await
            .expect("readable")
            .is_none()
    );
    assert!(
        store
            .document("other", "a_")
            .await
            .expect("readable")
            .is_none()
    );
}

async fn old_tasks_are_forgotten_but_not_what_a_live_one_refers_to(subject: Subject) {
    let done = async |kind: &str| {
        let id = subject.submit(NewTask::new(kind, json("0"))).await;
        let lease = subject.claim("w", LEASE).await;
        subject
            .queue
            .complete(id, lease.epoch, json("1"))
            .await
            .expect("held");
        id
    };
    let (forgotten, needed) = (done("a").await, done("a").await);
    let parent = subject.submit(task()).await;
    let lease = subject.claim("w", LEASE).await;
    let children = vec![NewChild {
        task: task(),
        after: vec![],
    }];
    subject
        .queue
        .suspend(parent, lease.epoch, children)
        .await
        .expect("held");
    let child = subject.claim("w", LEASE).await;
    let follower = NewTask {
        depends_on: vec![needed, child.task.id],
        ..task()
    };
    let follower = subject.submit(follower).await;
    subject
        .queue
        .complete(child.task.id, child.epoch, json("1"))
        .await
        .expect("held");
    let changes = Changes {
        prune_before: Some(Timestamp(u64::MAX >> 1)),
        ..Changes::default()
    };
    subject
        .queue
        .writer()
        .write(changes)
        .await
        .expect("written");
    assert!(
        subject
            .queue
            .task(forgotten)
            .await
            .expect("readable")
            .is_none()
    );
    assert!(
        subject
            .queue
            .events(forgotten, 0, 9)
            .await
            .expect("readable")
            .is_empty()
    );
    for kept in [needed, child.task.id, parent, follower] {
        assert!(subject.queue.task(kept).await.expect("readable").is_some());
    }
    let subject = subject.kill().await;
    let mut next = vec![
        subject.claim("w", LEASE).await.task.id,
        subject.claim("w", LEASE).await.task.id,
    ];
    next.sort_unstable();
    assert_eq!(next, [parent, follower]);
}

async fn a_failed_commit_loses_nothing_acknowledged_and_the_node_goes_on(subject: Subject) {
    let kept = subject.submit(task()).await;
    let lease = subject.claim("w", LEASE).await;
    subject.queue.settle().await.expect("open");
    let store = subject.queue.writer().store().clone();
    let big = format!("\"{}\"", "x".repeat(200_000));
    let refused = loop {
        match &store {
            Store::Volatile(store) => store.fail_next_commit(),
            Store::Sqlite(store) => store.limit_pages(Some(1)).await,
            Store::Postgres(store) => store.cut_writer().await,
        }
        match subject.queue.submit(NewTask::new("b", json(&big))).await {
            Err(refused) => break refused,
            // The failure met what the keeper commits now and then.
            Ok(one) => drop(subject.queue.cancel(one.id).await),
        }
    };
    assert!(matches!(refused, AdmitError::Store(ref error) if error.is_retryable()));
    if let Store::Sqlite(store) = &store {
        store.limit_pages(None).await;
    }
    let id = loop {
        match subject.queue.submit(task()).await {
            Ok(one) => break one.id,
            Err(AdmitError::Store(error)) if error.is_retryable() => {
                tokio::task::yield_now().await;
            }
            Err(other) => panic!("{other}"),
        }
    };
    let still = subject.queue.heartbeat(kept, lease.epoch, LEASE).await;
    if still.is_ok() {
        subject
            .queue
            .complete(kept, lease.epoch, json("1"))
            .await
            .expect("held");
        let subject = subject.kill().await;
        assert_eq!(subject.state(kept).await, TaskState::Completed);
        assert_eq!(subject.claim("w", LEASE).await.task.id, id);
        assert!(subject.is_idle(), "nothing refused was kept");
    } else {
        // The claim itself was in the lost batch; its epoch is stale then.
        assert!(matches!(still, Err(LeaseError::Stale { .. })));
    }
}

async fn a_closed_queue_refuses_and_has_kept_everything(subject: Subject) {
    let submitting: Vec<_> = (0..50).map(|_| subject.queue.submit(task())).collect();
    let (answers, ()) = tokio::join!(join_all(submitting), subject.queue.writer().close());
    let accepted: Vec<TaskId> = answers
        .into_iter()
        .filter_map(Result::ok)
        .map(|one| one.id)
        .collect();
    assert!(subject.queue.submit(task()).await.is_err());
    subject.queue.writer().close().await;
    let subject = subject.kill().await;
    for id in accepted {
        assert_eq!(subject.state(id).await, TaskState::Available);
    }
}

/// Lines lie in three places; a task that lives again has had an end.
async fn a_log_is_whole_however_the_task_came_to_its_end(subject: Subject) {
    use TaskEventKind::{
        Cancelled, Completed, Discarded, Failed, Leased, Retried, StepRecorded, Submitted,
    };
    let kinds = async |subject: &Subject, id| -> Vec<TaskEventKind> {
        let log = subject.queue.events(id, 0, 100).await.expect("readable");
        assert!(log.iter().zip(1..).all(|(line, n)| line.n == n), "{log:?}");
        log.iter().map(|line| line.kind).collect()
    };
    // Between decisions, so that each is in a commit of its own.
    let settled = async |subject: &Subject| subject.queue.settle().await.expect("open");
    let at_once = subject.submit(task()).await;
    subject.queue.cancel(at_once).await.expect("live");
    assert_eq!(kinds(&subject, at_once).await, [Submitted, Cancelled]);
    let id = subject
        .submit(NewTask {
            max_attempts: Some(1),
            ..task()
        })
        .await;
    let lease = subject.claim("w", LEASE).await;
    settled(&subject).await;
    let journal = Journal::new(subject.queue.clone(), &lease);
    let work = async { Ok::<u32, std::io::Error>(1) };
    journal.step("s", "in", work).await.expect("held");
    let why = "nul\0 quote\" line\nend";
    let failed = subject.queue.fail(id, lease.epoch, why.to_owned(), false);
    failed.await.expect("held");
    let mut expected = vec![Submitted, Leased, StepRecorded, Failed, Discarded];
    let known = kinds(&subject, id).await;
    expected.retain(|kind| *kind != Failed || known.contains(kind));
    assert_eq!(known, expected);
    let subject = subject.kill().await;
    assert_eq!(kinds(&subject, id).await, expected);
    // Twice, with nothing and with something between two ends.
    subject.queue.retry(id).await.expect("discarded");
    subject.queue.cancel(id).await.expect("live");
    expected.extend([Retried, Cancelled]);
    assert_eq!(kinds(&subject, id).await, expected);
    subject.queue.retry(id).await.expect("cancelled");
    let lease = subject.claim("w", LEASE).await;
    settled(&subject).await;
    subject
        .queue
        .complete(id, lease.epoch, json("1"))
        .await
        .expect("held");
    expected.extend([Retried, Leased, Completed]);
    assert_eq!(kinds(&subject, id).await, expected);
    let subject = subject.kill().await;
    assert_eq!(kinds(&subject, id).await, expected);
    let log = subject.queue.events(id, 0, 100).await.expect("readable");
    let told = |kind| log.iter().find(|line| line.kind == kind);
    let told = told(Discarded).and_then(|line| line.detail.as_deref());
    assert!(told.is_some_and(|told| told.contains(why)), "{told:?}");
    for after in 0..=log.len() {
        let page = subject.queue.events(id, after as u64, 2).await;
        let page: Vec<u64> = page.expect("readable").iter().map(|line| line.n).collect();
        let rest: Vec<u64> = log.iter().map(|line| line.n).skip(after).take(2).collect();
        assert_eq!(page, rest);
    }
}
