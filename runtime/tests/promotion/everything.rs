//! Everything that a file can hold goes along, and what is out stays valid.

use std::time::Duration;

use regrow_runtime::ids::TaskId;
use regrow_runtime::journal::Journal;
use regrow_runtime::json::Json;
use regrow_runtime::queue::ClaimRequest;
use regrow_runtime::queue::approval::{Answer, Question};
use regrow_runtime::queue::asking::Asking;
use regrow_runtime::queue::budget::{Amounts, Limits, Period, Scope};
use regrow_runtime::queue::error::LeaseError;
use regrow_runtime::queue::promotion::Phase;
use regrow_runtime::queue::task::{Lease, NewChild, NewTask, TaskState, TaskTerms};
use regrow_runtime::store::{Changes, DocumentRow, StoreError};

use crate::schema::Schema;
use crate::{LEASE, Node, database, is_marked, rows};

async fn claim(node: &Node, kind: &str) -> Lease {
    let request = ClaimRequest {
        worker: "w".into(),
        kinds: vec![kind.to_owned()],
        max: 1,
        wait: Duration::from_secs(5),
        lease: LEASE,
    };
    let leases = node.queue.claim(&request).await.expect("open");
    leases.into_iter().next().expect("claimable")
}

async fn submit(node: &Node, task: NewTask) -> TaskId {
    node.queue.submit(task).await.expect("accepted").id
}

async fn step(journal: &Journal, key: &str, output: &str) -> String {
    let work = async { Ok::<_, std::io::Error>(output.to_owned()) };
    journal.step(key, "in", work).await.expect("held")
}

fn tokens(tokens: u64) -> Amounts {
    Amounts {
        tokens,
        ..Amounts::ZERO
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_a_file_holds_goes_along_and_nobody_notices() {
    let schema = Schema::create().await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = Node::start(dir.path(), &schema.url()).await;
    let queue = &node.queue;
    let large = "y".repeat(100_000);

    // Ended tasks, one in each way, with steps large and small.
    let done = submit(&node, NewTask::new("done", Json::null())).await;
    let lease = claim(&node, "done").await;
    let journal = Journal::new(queue.clone(), &lease);
    step(&journal, "small", "x").await;
    step(&journal, "large", &large).await;
    let result = Json::parse("{\"odd\":\"\\u0000\"}".to_owned()).expect("JSON");
    queue
        .complete(done, lease.epoch, result)
        .await
        .expect("held");
    let failed = submit(&node, NewTask::new("failed", Json::null())).await;
    let lease = claim(&node, "failed").await;
    let told = queue.fail(failed, lease.epoch, "no\0\u{1a}\t\\".into(), false);
    assert_eq!(told.await.expect("held"), TaskState::Discarded);

    // A task that executes, with a step, a budget and something set aside.
    let limits = Limits {
        tokens: Some(100),
        ..Limits::default()
    };
    let terms = TaskTerms {
        budget: Some(limits),
        concurrency_key: Some("key".into()),
        ..TaskTerms::default()
    };
    let priced = NewTask {
        idempotency_key: Some("once".into()),
        goal: Some("go \u{1f331}".into()),
        terms: Some(Box::new(terms)),
        ..NewTask::new("held", Json::null())
    };
    let held = submit(&node, priced.clone()).await;
    let lease = claim(&node, "held").await;
    let journal = Journal::new(queue.clone(), &lease);
    step(&journal, "before", &large).await;
    let reserved = queue.reserve(held, lease.epoch, "dear", tokens(60), false);
    reserved.await.expect("room");

    // A parent that waits, one that waits for a person, one for later.
    let parent = submit(&node, NewTask::new("parent", Json::null())).await;
    let parents = claim(&node, "parent").await;
    let child = |after| NewChild {
        task: NewTask::new("child", Json::null()),
        after,
    };
    let children = vec![child(vec![]), child(vec![0])];
    let suspended = queue.suspend(parent, parents.epoch, children);
    suspended.await.expect("held");
    let asking = submit(&node, NewTask::new("asks", Json::null())).await;
    let asks = claim(&node, "asks").await;
    let question = Question {
        question: "may I?".into(),
        scope: None,
        options: Vec::new(),
    };
    let asked = queue.ask(asking, asks.epoch, "may", question, None).await;
    let Asking::Waits {
        approval: question, ..
    } = asked.expect("held")
    else {
        panic!("it was asked for the first time");
    };
    let now = queue.clock().now();
    let later = NewTask {
        run_at: Some(now.after(Duration::from_secs(3_600))),
        ..NewTask::new("later", Json::null())
    };
    let later = submit(&node, later).await;

    // What belongs to no task.
    let operated = queue.set_budget(Scope::Tenant("default".into()), limits, Some(Period::Day));
    operated.await.expect("set");
    let cheap = queue.reserve(held, lease.epoch, "cheap", tokens(7), false);
    cheap.await.expect("room");
    let cheap = queue.give_back(held, lease.epoch, "cheap", tokens(7));
    assert!(cheap.await.expect("held"));
    queue.set_max_size(Some(77)).await.expect("turned");
    let document = |key: &str, body: Option<Json>| DocumentRow {
        space: "memory",
        key: key.to_owned(),
        body,
        at: now,
    };
    let noted = |key, body| {
        let changes = Changes {
            documents: vec![document(key, body)],
            ..Changes::default()
        };
        queue.writer().write(changes)
    };
    noted("odd\0key", Some(Json::null())).await.expect("noted");
    noted("gone", Some(Json::null())).await.expect("noted");
    noted("gone", None).await.expect("forgotten");

    let before = rows::of_file(dir.path());
    assert!(
        before.values().all(|rows| !rows.is_empty()),
        "a table was forgotten: {before:?}"
    );
    queue
        .promote(database(&schema.url(), "n"))
        .await
        .expect("moved");
    assert_eq!(node.store(), "postgres");
    assert!(is_marked(dir.path()).await);
    let progress = queue.promotion();
    assert_eq!(progress.phase, Phase::Done, "{progress:?}");
    assert_eq!(progress.copied.rows, progress.copied.of);

    let after = rows::of_database(&schema, &before).await;
    for (table, rows) in &before {
        // NUL is written in another way there; the journal below reads it back.
        let same = |text: &str| {
            text.replace("\u{1a}\u{1a}", "\u{1a}")
                .replace("\u{1a}0", "\0")
        };
        let rows: Vec<_> = rows
            .iter()
            .map(|row| row.iter().map(|(k, v)| (k, same(v))).collect::<Vec<_>>())
            .collect();
        let there: Vec<_> = after[table]
            .iter()
            .map(|row| row.iter().map(|(k, v)| (k, same(v))).collect::<Vec<_>>())
            .collect();
        assert_eq!(rows, there, "{table}");
    }

    // Nobody noticed.
    assert_eq!(step(&journal, "before", "again").await, large, "ran again");
    let renewed = queue.heartbeat(held, lease.epoch, LEASE).await;
    renewed.expect("the lease that was out still holds");
    let spent = queue.budget(&Scope::Task(held)).await.expect("a budget");
    assert_eq!((spent.spent.tokens, spent.reserved.tokens), (7, 60));
    let given = queue.give_back(held, lease.epoch, "dear", tokens(5));
    given.await.expect("held");
    let tenant = queue.budget(&Scope::Tenant("default".into())).await;
    assert_eq!(
        tenant.expect("a budget").spent,
        tokens(12),
        "before and after"
    );
    let over = queue.reserve(held, lease.epoch, "more", tokens(89), false);
    assert!(matches!(over.await, Err(LeaseError::OverBudget(_))));
    let completed = queue.complete(held, lease.epoch, Json::null());
    completed.await.expect("held");
    let stale = queue.complete(asking, asks.epoch, Json::null()).await;
    assert!(matches!(stale, Err(LeaseError::Stale { .. })), "{stale:?}");
    let again = queue.submit(priced).await.expect("the first");
    assert_eq!((again.id, again.repeated), (held, true));
    let answer = Answer {
        approved: true,
        by: "ada".into(),
        ..Answer::default()
    };
    queue.answer(question, answer).await.expect("open");
    let answered = claim(&node, "asks").await;
    assert!(asks.epoch < answered.epoch, "epochs go on above");
    for _ in 0..2 {
        let child = claim(&node, "child").await;
        let done = queue.complete(child.task.id, child.epoch, Json::null());
        done.await.expect("held");
    }
    assert_eq!(claim(&node, "parent").await.task.id, parent, "woken");
    let fresh = submit(&node, NewTask::new("fresh", Json::null())).await;
    assert_eq!(queue.stats().max_size, 77);
    let log = queue.events(failed, 0, 10).await.expect("readable");
    let last = log.last().expect("lines");
    assert_eq!(last.detail.as_deref(), Some("no\0\u{1a}\t\\"), "{last:?}");
    node.stop().await;

    // The file is kept as it was, and a start goes on with the database.
    let node = Node::start(dir.path(), &schema.url()).await;
    assert_eq!(node.store(), "postgres");
    let settled = node.queue.writer().write(Changes::default());
    settled.await.expect("what the start decided is durable");
    for (id, state) in [
        (done, TaskState::Completed),
        (failed, TaskState::Discarded),
        (held, TaskState::Completed),
        (parent, TaskState::Available),
        (asking, TaskState::Available),
        (later, TaskState::Scheduled),
        (fresh, TaskState::Available),
    ] {
        let view = node.queue.task(id).await.expect("readable").expect("kept");
        // A lease that was out at the stop is lost first.
        let lost = view.state() == TaskState::Retryable;
        let state_now = if lost {
            TaskState::Available
        } else {
            view.state()
        };
        assert_eq!(state_now, state, "{id}");
    }
    assert_eq!(node.queue.stats().max_size, 77);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_wait_and_are_not_refused_while_much_is_written() {
    let schema = Schema::create().await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = Node::start(dir.path(), &schema.url()).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..6 {
        let (queue, stop) = (node.queue.clone(), stop.clone());
        clients.spawn(async move {
            let mut submitted = Vec::new();
            let request = ClaimRequest {
                worker: format!("w{client}").into(),
                kinds: vec!["k".to_owned()],
                max: 2,
                wait: Duration::ZERO,
                lease: LEASE,
            };
            while !stop.is_cancelled() {
                let id = queue.submit(NewTask::new("k", Json::null())).await;
                submitted.push(id.expect("nobody is refused").id);
                for lease in queue.claim(&request).await.expect("open") {
                    let journal = Journal::new(queue.clone(), &lease);
                    step(&journal, "only", "x").await;
                    let done = queue.complete(lease.task.id, lease.epoch, Json::null());
                    done.await.expect("held");
                }
            }
            submitted
        });
    }
    while node.queue.stats().counters.completed < 500 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let moved = node.queue.promote(database(&schema.url(), "n")).await;
    moved.expect("moved");
    let at_the_move = node.queue.stats().counters.completed;
    while node.queue.stats().counters.completed < at_the_move + 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    let submitted: Vec<TaskId> = clients.join_all().await.into_iter().flatten().collect();
    let progress = node.queue.promotion();
    println!("{} submitted; {progress:?}", submitted.len());
    for id in &submitted {
        let view = node.queue.task(*id).await.expect("readable");
        assert!(view.is_some(), "{id} is lost");
    }
    let known = schema.number("SELECT count(*) FROM task").await;
    assert_eq!(known.unsigned_abs(), submitted.len() as u64);
    let twice = "SELECT count(*) FROM (SELECT t.seq FROM task t LEFT JOIN task_run r \
        ON r.seq = t.seq LEFT JOIN task_end e ON e.seq = t.seq \
        WHERE (r.seq IS NULL) = (e.seq IS NULL)) AS odd";
    assert_eq!(schema.number(twice).await, 0, "neither or both");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_writer_ends_a_move_and_the_file_goes_on() {
    let schema = Schema::create().await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = Node::start(dir.path(), &schema.url()).await;
    let id = submit(&node, NewTask::new("k", Json::null())).await;
    let queue = node.queue.clone();
    let moving = queue.promote(database(&schema.url(), "n"));
    let (moved, ()) = tokio::join!(moving, node.stop());
    if !is_marked(dir.path()).await {
        moved.expect_err("it was not moved");
    }
    assert!(matches!(
        queue.submit(NewTask::new("k", Json::null())).await,
        Err(regrow_runtime::queue::error::AdmitError::Store(
            StoreError::Closed
        ))
    ));
    drop(queue);
    let node = Node::start(dir.path(), &schema.url()).await;
    let view = node.queue.task(id).await.expect("readable");
    assert_eq!(view.expect("kept").state(), TaskState::Available);
    node.stop().await;
}
