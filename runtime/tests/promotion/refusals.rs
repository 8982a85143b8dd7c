//! What a move refuses, and what it leaves behind then: nothing.

use std::collections::BTreeSet;

use regrow_runtime::json::Json;
use regrow_runtime::queue::carriage::EndElsewhere;
use regrow_runtime::queue::task::{NewTask, TaskState};
use regrow_runtime::store::data_dir::DataDir;
use regrow_runtime::store::postgres::Postgres;
use regrow_runtime::store::promotion::{Mark, PromotionError, promote_file};
use regrow_runtime::store::sqlite::{self, OpenError, Sqlite, upkeep};
use regrow_runtime::store::{Changes, DocumentRow, StoreError, TaskFilter};

use crate::schema::Schema;
use crate::{Node, database, is_marked};

async fn with_a_task(dir: &std::path::Path, url: &str) -> Node {
    let node = Node::start(dir, url).await;
    let task = NewTask {
        idempotency_key: Some("key".into()),
        ..NewTask::new("k", Json::null())
    };
    node.queue.submit(task).await.expect("accepted");
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_with_a_namesake_or_another_file_is_refused() {
    let schema = Schema::create().await;
    let url = schema.url();
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("temporary directory"));
    let first = with_a_task(dirs[0].path(), &url).await;
    let second = with_a_task(dirs[1].path(), &url).await;
    let moved = first.queue.promote(database(&url, "n")).await;
    moved.expect("the first");
    let refused = second.queue.promote(database(&url, "n")).await;
    assert!(
        matches!(refused, Err(PromotionError::NameTaken { .. })),
        "{refused:?}"
    );
    let refused = second.queue.promote(database(&url, "other")).await;
    assert!(
        matches!(refused, Err(PromotionError::Occupied { .. })),
        "{refused:?}"
    );
    let refused = first.queue.promote(database(&url, "n")).await;
    assert!(
        matches!(refused, Err(PromotionError::NotAFile("postgres"))),
        "{refused:?}"
    );
    assert_eq!(schema.number("SELECT count(*) FROM task").await, 1);
    assert_eq!(second.store(), "sqlite");
    let accepted = second.queue.submit(NewTask::new("k", Json::null())).await;
    accepted.expect("it works on");
    second.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_whose_tasks_are_being_carried_stays_until_they_ended() {
    let schema = Schema::create().await;
    let url = schema.url();
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = with_a_task(dir.path(), &url).await;
    let (id, seen) = node.queue.idle(&BTreeSet::from(["k".to_owned()]), 1)[0];
    assert!(node.queue.set_aside(id, seen, "b").await.expect("open"));
    let refused = node.queue.promote(database(&url, "n")).await;
    assert!(
        matches!(refused, Err(PromotionError::Carried(1))),
        "{refused:?}"
    );
    assert_eq!(node.store(), "sqlite");

    let hop = node.queue.parcels()[0].hop;
    let end = EndElsewhere {
        state: TaskState::Completed,
        result: None,
        error: None,
    };
    let ended = node.queue.ended_elsewhere(id, hop, end).await;
    ended.expect("open");
    let moved = node.queue.promote(database(&url, "n")).await;
    moved.expect("nothing is carried any more");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_without_a_node_stays_as_well_while_its_tasks_are_carried() {
    let schema = Schema::create().await;
    let url = schema.url();
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = with_a_task(dir.path(), &url).await;
    let (id, seen) = node.queue.idle(&BTreeSet::from(["k".to_owned()]), 1)[0];
    assert!(node.queue.set_aside(id, seen, "b").await.expect("open"));
    node.stop().await;
    let promote = async || {
        let mut owned = DataDir::open(dir.path()).expect("free");
        promote_file(&mut owned, database(&url, "n"), |_| ()).await
    };
    let refused = promote().await;
    let Err(PromotionError::CarriedFromFile { count: 1, .. }) = &refused else {
        panic!("{refused:?}");
    };
    let said = refused.err().map(|error| error.to_string());
    let said = said.expect("refused");
    for part in [id.to_string().as_str(), "to b", "cancel"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!is_marked(dir.path()).await);
    // It was not even opened.
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()";
    assert_eq!(schema.number(tables).await, 0);

    let node = Node::start(dir.path(), &url).await;
    let hop = node.queue.parcels()[0].hop;
    let end = EndElsewhere {
        state: TaskState::Completed,
        result: None,
        error: None,
    };
    let ended = node.queue.ended_elsewhere(id, hop, end).await;
    ended.expect("open");
    node.stop().await;
    promote().await.expect("nothing is carried any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_collides_is_said_and_what_was_copied_is_taken_back() {
    let schema = Schema::create().await;
    let url = schema.url();
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = with_a_task(dir.path(), &url).await;
    // Another node has a task under the same key.
    let target = Postgres::open(database(&url, "other"))
        .await
        .expect("sound");
    schema
        .run(
            "INSERT INTO task (seq, id, kind, payload, priority, class, tenant, idempotency_key, \
             depends_on, max_attempts, submitted_at) VALUES (5::bigint << 32, \
             '0198c5f2-7c1e-7b3a-9d55-0f2b8c6a1e44', 'k', 'null', 'normal', 'default', 'default', \
             'key', '', 1, 1)",
        )
        .await;
    drop(target);
    let refused = node.queue.promote(database(&url, "n")).await;
    let Err(PromotionError::Collides { what, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(what.contains("task_key"), "{what}");
    assert!(!is_marked(dir.path()).await);
    let left = "SELECT (SELECT count(*) FROM task) + (SELECT count(*) FROM promotion)";
    assert_eq!(schema.number(left).await, 1);
    schema.run("DELETE FROM task").await;
    let moved = node.queue.promote(database(&url, "n")).await;
    moved.expect("nothing is in the way any more");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_of_another_node_is_neither_replaced_nor_removed() {
    let schema = Schema::create().await;
    let url = schema.url();
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = with_a_task(dir.path(), &url).await;
    let note = |space, key: &str| {
        let row = DocumentRow {
            space,
            key: key.to_owned(),
            body: Some(Json::null()),
            at: node.queue.clock().now(),
        };
        let changes = Changes {
            documents: vec![row],
            ..Changes::default()
        };
        node.queue.writer().write(changes)
    };
    note("memory", "both").await.expect("noted");
    note("memory", "ours").await.expect("noted");
    let target = Postgres::open(database(&url, "other"))
        .await
        .expect("sound");
    schema
        .run("INSERT INTO document VALUES ('memory', 'both', '\"theirs\"', 1)")
        .await;
    drop(target);
    let refused = node.queue.promote(database(&url, "n")).await;
    let Err(PromotionError::Collides { what, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(what, "the document memory/both");
    let theirs = "SELECT count(*) FROM document WHERE body = '\"theirs\"'";
    assert_eq!(schema.number(theirs).await, 1);
    assert_eq!(schema.number("SELECT count(*) FROM document").await, 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_moves_without_a_node_and_is_then_a_backup() {
    let schema = Schema::create().await;
    let url = schema.url();
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = with_a_task(dir.path(), &url).await;
    node.stop().await;
    let mut owned = DataDir::open(dir.path()).expect("free");
    let moved = promote_file(&mut owned, database(&url, "n"), |_| ()).await;
    assert!(0 < moved.expect("moved").rows);
    let refused = Sqlite::open(&mut owned)
        .await
        .expect_err("moved")
        .to_string();
    assert!(refused.contains("set store.database_url"), "{refused}");
    drop(owned);
    let node = Node::start(dir.path(), &url).await;
    assert_eq!(node.store(), "postgres");
    assert_eq!(node.queue.stats().states["available"], 1);
    node.stop().await;

    // It can be put back, as it was then.
    let fresh = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join(sqlite::FILE);
    let restored = upkeep::restore(&file, fresh.path()).await;
    restored.expect("a sound file");
    let node = Node::start(fresh.path(), &url).await;
    assert_eq!(node.store(), "sqlite");
    assert_eq!(node.queue.stats().states["available"], 1);
    let refused = node.queue.promote(database(&url, "m")).await;
    assert!(
        matches!(refused, Err(PromotionError::MovedBefore(_))),
        "{refused:?}"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_without_the_tasks_is_not_taken_for_the_one_that_has_them() {
    let schemas = [Schema::create().await, Schema::create().await];
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = with_a_task(dir.path(), &schemas[0].url()).await;
    let moved = node.queue.promote(database(&schemas[0].url(), "n")).await;
    moved.expect("moved");
    node.stop().await;
    let mut owned = DataDir::open(dir.path()).expect("free");
    let Err(OpenError::Promoted { mark, .. }) = Sqlite::open(&mut owned).await else {
        panic!("it was moved");
    };
    let wrong = Postgres::open(database(&schemas[1].url(), "n")).await;
    let refused = wrong.expect("sound").confirm(&mark).await;
    assert!(
        matches!(refused, Err(StoreError::Unreadable { .. })),
        "{refused:?}"
    );
}

/// A node that was killed between the file's mark and the life that owns the tasks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_start_makes_up_for_what_a_kill_left_out() {
    let schema = Schema::create().await;
    let url = schema.url();
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = with_a_task(dir.path(), &url).await;
    node.queue
        .promote(database(&url, "n"))
        .await
        .expect("moved");
    node.stop().await;
    // As it was before the life began.
    schema
        .run("DELETE FROM life; UPDATE promotion SET state = 'prepared'")
        .await;
    let node = Node::start(dir.path(), &url).await;
    assert_eq!(node.queue.stats().states["available"], 1);
    let done = "SELECT count(*) FROM promotion WHERE state = 'done'";
    assert_eq!(schema.number(done).await, 1);
    let mark: Option<Mark> = sqlite::export::mark(&dir.path().join(sqlite::FILE))
        .await
        .expect("readable");
    assert!(mark.is_some());
    let all = TaskFilter {
        limit: 10,
        ..TaskFilter::default()
    };
    let tasks = node.queue.tasks(&all);
    let tasks = tasks.await.expect("readable");
    assert_eq!(tasks[0].state(), TaskState::Available);
    node.stop().await;
}
