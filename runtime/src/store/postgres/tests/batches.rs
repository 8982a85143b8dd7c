//! What a batch is to the server: one statement, under the fence, all or nothing.

use std::sync::Arc;

use super::*;
use crate::ids::Epoch;
use crate::queue::task::{Lane, TaskBody, TaskEvent, TaskEventKind, TaskRun};
use crate::store::HandedOver;

/// A task that is accepted, as it is handed to the store.
fn accepted(seq: u64) -> Changes {
    let id = TaskId::from(uuid::Uuid::now_v7());
    let body = TaskBody {
        id,
        seq,
        kind: "a".into(),
        payload: Json::null(),
        goal: None,
        priority: Lane::Normal,
        class: "c".into(),
        tenant: "t".into(),
        idempotency_key: None,
        parent: None,
        depends_on: vec![id],
        max_attempts: 1,
        submitted_at: Timestamp(1),
        deadline: None,
        terms: None,
    };
    let run = TaskRun {
        state: TaskState::Available,
        attempt: 0,
        losses: 0,
        epoch: Epoch(0),
        run_at: Timestamp(1),
        lease_until: None,
        worker: None,
        cancel_requested: false,
        last_error: None,
        events: 2,
        retries: 0,
    };
    let line = |n, kind| TaskEvent {
        n,
        at: Timestamp(1),
        kind,
        epoch: None,
        detail: None,
    };
    Changes {
        bodies: vec![Arc::new(body)],
        runs: vec![(seq, run)],
        events: vec![
            (id, seq, line(1, TaskEventKind::Submitted)),
            // Of a task of another batch, so that it takes a row of its own.
            (id, seq + 1, line(2, TaskEventKind::Available)),
        ],
        ..Changes::default()
    }
}

async fn rows(schema: &Schema) -> i64 {
    let all = "SELECT (SELECT count(*) FROM task) + (SELECT count(*) FROM task_run) \
        + (SELECT count(*) FROM task_event) + (SELECT count(*) FROM task_dependency)";
    schema.number(all).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_that_was_ended_writes_no_row_of_a_batch() {
    let schema = Schema::create().await;
    let node = Node::steady(&schema, "node").await;
    let mut connection = schema.connect().await;
    let fences = [(1, 1, true), (1, 2, false), (2, 1, false)];
    for (boot, session, holds) in fences {
        let fence = Fence { boot, session };
        let before = rows(&schema).await;
        let seq = 7 + before.unsigned_abs();
        let done = write::commit(&mut connection, "node", fence, &accepted(seq)).await;
        assert_eq!(done.is_ok(), holds, "{fence:?} {done:?}");
        let written = rows(&schema).await - before;
        assert_eq!(written, if holds { 4 } else { 0 }, "{fence:?}");
    }
    schema.run("UPDATE life SET ended = true").await;
    let fence = Fence {
        boot: 1,
        session: 1,
    };
    let late = write::commit(&mut connection, "node", fence, &accepted(99)).await;
    assert!(matches!(late, Err(CommitError::Fenced)), "{late:?}");
    assert_eq!(rows(&schema).await, 4);
    node.die().await;
}

/// Its statement began, and saw the life alive, before that was ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_waits_for_the_end_of_its_life_writes_nothing() {
    let schema = Schema::create().await;
    let node = Node::steady(&schema, "node").await;
    let mut heir = schema.connect().await;
    let ending = "BEGIN; SELECT boot FROM life WHERE boot = 1 FOR UPDATE; \
        UPDATE life SET ended = true, heir = 2 WHERE boot = 1";
    execute(&mut heir, ending.to_owned()).await;
    let mut connection = schema.connect().await;
    let fence = Fence {
        boot: 1,
        session: 1,
    };
    let changes = accepted(7);
    let mut late = std::pin::pin!(write::commit(&mut connection, "node", fence, &changes));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut late).await;
    assert!(early.is_err(), "it did not wait: {early:?}");
    execute(&mut heir, "COMMIT".to_owned()).await;
    let late = soon("the answer", late).await;
    assert!(matches!(late, Err(CommitError::Fenced)), "{late:?}");
    assert_eq!(rows(&schema).await, 0);
    node.die().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_ends_a_life_waits_for_the_batch_under_way_and_sees_it() {
    let schema = Schema::create().await;
    let node = Node::steady(&schema, "node").await;
    // Holds the batch up behind its fence, until it is known whether its key is taken.
    let mut other = schema.connect().await;
    let same_key = "BEGIN; INSERT INTO task SELECT 1, gen_random_uuid(), 'a', '{}', null, \
        'normal', 'default', 'default', 'k', null, '', 1, 1, null, null";
    execute(&mut other, same_key.to_owned()).await;
    let queue = node.queue.clone();
    let mut submitting = JoinSet::new();
    submitting.spawn(async move {
        let task = NewTask {
            idempotency_key: Some("k".to_owned()),
            ..NewTask::new("a", Json::null())
        };
        queue.submit(task).await
    });
    let pid = node.store.0.writer.lock().await.backend.pid;
    let waits = format!("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = {pid}");
    soon("the batch", async {
        while schema.number(waits.as_str()).await == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut heir = schema.connect().await;
    let mut ending = std::pin::pin!(
        sqlx::query("SELECT boot FROM life WHERE boot = 1 FOR UPDATE").execute(&mut heir)
    );
    let early = tokio::time::timeout(Duration::from_millis(300), &mut ending).await;
    assert!(early.is_err(), "it did not wait: {early:?}");
    execute(&mut other, "ROLLBACK".to_owned()).await;
    soon("the lock", ending).await.expect("locked");
    assert_eq!(rows(&schema).await, 2, "a body and a run");
    submitting.join_all().await;
    node.die().await;
}

/// The latest statement of the writer's connection.
async fn latest(pid: i32, schema: &Schema) -> String {
    let mut connection = schema.connect().await;
    let row = sqlx::query("SELECT query FROM pg_stat_activity WHERE pid = $1").bind(pid);
    let row = row.fetch_one(&mut connection).await.expect("alive");
    row.get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_from_its_submission_to_its_end_takes_one_statement_per_batch() {
    let schema = Schema::create().await;
    let node = Node::steady(&schema, "node").await;
    let pid = node.store.0.writer.lock().await.backend.pid;
    let one_statement = async |what: &str| {
        let latest = latest(pid, &schema).await;
        // The end of a transaction would be a statement of its own. The server shows how a
        // statement begins.
        let shown = latest.len() == 1_023 && write::statements::ROWS.starts_with(&latest);
        assert!(shown, "{what}: {latest}");
        // Another one, so that it cannot be taken for the next.
        let other = node.queue.writer().write(document(what)).await;
        other.expect("alive");
    };
    node.submit().await;
    one_statement("submitted").await;
    let lease = node.claim().await;
    node.queue.settle().await.expect("open");
    one_statement("leased").await;
    let journal = crate::journal::Journal::new(node.queue.clone(), &lease);
    let work = async { Ok::<u32, std::io::Error>(1) };
    journal.step("a step", "in", work).await.expect("held");
    one_statement("a step").await;
    let done = node
        .queue
        .complete(lease.task.id, lease.epoch, Json::null());
    done.await.expect("held");
    one_statement("completed").await;
    // As if another node had handed it over, and a third one wanted it.
    let came = Changes {
        taken_in: vec![7],
        ..accepted(1)
    };
    node.queue.writer().write(came).await.expect("alive");
    one_statement("taken in").await;
    let leaves = Changes {
        handed_over: vec![handed(1, 1)],
        ..Changes::default()
    };
    node.queue.writer().write(leaves).await.expect("alive");
    one_statement("handed over").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_on_its_way_to_the_server_before_anybody_waits_for_it() {
    let schema = Schema::create().await;
    let opened = Postgres::open(shared(&schema, "node")).await;
    let store = Store::Postgres(opened.expect("sound"));
    store.next_boot().await.expect("a life");
    // The first time the server has to hear of the statement.
    let first = store.commit(Arc::new(accepted(7)));
    first.await.expect("committed");
    let begun = store.commit(Arc::new(accepted(9)));
    soon("the batch", async {
        while rows(&schema).await == 4 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    begun.await.expect("committed");
    store.close().await;
}

fn handed(seq: u64, to: i64) -> HandedOver {
    let id = TaskId::from(uuid::Uuid::now_v7());
    HandedOver {
        seq,
        id,
        to,
        after: Epoch(7),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_changes_and_leaves_in_one_batch_leaves_as_it_stands_then() {
    let schema = Schema::create().await;
    let mut nodes = Vec::new();
    for name in ["giver", "taker"] {
        let mut node = Node::steady(&schema, name).await;
        // Neither takes the task in by itself.
        node.running.shutdown().await;
        nodes.push(node);
    }
    let mut connection = schema.connect().await;
    let there = Changes {
        events: Vec::new(),
        handed_over: vec![handed(7, 2)],
        ..accepted(7)
    };
    let mut back = Changes {
        taken_in: vec![7],
        handed_over: vec![handed(7, 1)],
        runs: accepted(7).runs,
        ..Changes::default()
    };
    back.runs[0].1.attempt = 3;
    for (boot, changes, expected) in [(1, there, 22), (2, back, 311)] {
        let fence = Fence { boot, session: 1 };
        let done = write::commit(&mut connection, "node", fence, &changes).await;
        done.expect("committed");
        let stands = "SELECT r.attempt * 100 + r.owner * 10 + h.to_life FROM task_run r \
            JOIN handed h ON h.seq = r.seq";
        assert_eq!(schema.number(stands).await, expected, "{changes:?}");
    }
    for node in nodes {
        node.die().await;
    }
}
