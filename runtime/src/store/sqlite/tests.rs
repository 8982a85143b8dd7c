//! What is particular to the file: damage, strangers, full disks, plans.

use std::fs;
use std::path::Path;

use sqlx::{Execute, Row};

use super::read::listing;
use super::*;
use crate::clock::Clock;
use crate::events::EventBus;
use crate::ids::TaskId;
use crate::json::Json;
use crate::queue::Queue;
use crate::queue::control::QueueLimits;
use crate::queue::task::{NewTask, TaskState};
use crate::store::writer::Writer;
use crate::store::{Store, TaskFilter};

async fn open(path: &Path) -> Result<Sqlite, OpenError> {
    let mut dir = DataDir::open(path)?;
    Sqlite::open(&mut dir).await
}

/// A database with `tasks` tasks in it; closed in order, or with its log left behind.
async fn filled(path: &Path, tasks: usize, in_order: bool) {
    let sqlite = open(path).await.expect("new");
    let writer = Writer::new(Store::Sqlite(sqlite));
    let (bus, limits) = (EventBus::default(), QueueLimits::default());
    let queue = Queue::open(writer, bus, limits, Clock::system(), 1);
    let queue = queue.await.expect("readable");
    let running = tokio::task::JoinSet::from_iter([queue.clone().run_writer()]);
    let payload = Json::of(&"p".repeat(2_000)).expect("JSON");
    let submissions = (0..tasks).map(|_| queue.submit(NewTask::new("a", payload.clone())));
    for submitted in futures::future::join_all(submissions).await {
        submitted.expect("accepted");
    }
    let (db, wal) = (path.join("regrow.db"), path.join("regrow.db-wal"));
    if in_order {
        queue.writer().close().await;
        running.join_all().await;
        return;
    }
    // As a killed process leaves it: copied while open, put back after closing.
    let files = [db, wal].map(|file| (fs::read(&file).expect("readable"), file));
    queue.writer().close().await;
    running.join_all().await;
    for (bytes, file) in files {
        fs::write(file, bytes).expect("writable");
    }
}

fn contents(path: &Path) -> Vec<(String, Vec<u8>)> {
    ["regrow.db", "regrow.db-wal", "VERSION"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), fs::read(path.join(name)).ok()?)))
        .filter(|(_, bytes)| !bytes.is_empty())
        .collect()
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_left_as_it_is() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 5] = [
        ("garbage instead of a header", |file| file[..100].fill(0xA5)),
        ("another kind of file", |file| {
            *file = b"%PDF-1.7 not a database".repeat(400)
        }),
        ("pages overwritten", |file| {
            for page in file.chunks_mut(4_096).skip(2) {
                page[..64].fill(0xFF);
            }
        }),
        ("cut in the middle", |file| file.truncate(file.len() / 2)),
        ("cut within a page", |file| {
            file.truncate(file.len() - 1_000)
        }),
    ];
    for (name, damage) in damages {
        let dir = tempfile::tempdir().expect("temporary directory");
        filled(dir.path(), 200, true).await;
        let file = dir.path().join("regrow.db");
        let mut bytes = fs::read(&file).expect("readable");
        damage(&mut bytes);
        fs::write(&file, bytes).expect("writable");
        let before = contents(dir.path());
        let refused = open(dir.path()).await;
        assert!(
            matches!(refused, Err(OpenError::Corrupted { .. })),
            "{name}: {refused:?}"
        );
        assert!(contents(dir.path()) == before, "{name}: not left as it was");
    }
}

#[tokio::test]
async fn a_damaged_file_with_a_log_beside_it_is_refused_and_both_are_left() {
    let dir = tempfile::tempdir().expect("temporary directory");
    filled(dir.path(), 300, true).await;
    filled(dir.path(), 5, false).await;
    let file = dir.path().join("regrow.db");
    let mut bytes = fs::read(&file).expect("readable");
    for page in bytes.chunks_mut(4_096).skip(2) {
        page.fill(0xFF);
    }
    fs::write(&file, bytes).expect("writable");
    let before = contents(dir.path());
    let refused = open(dir.path()).await;
    assert!(
        matches!(refused, Err(OpenError::Corrupted { .. })),
        "{refused:?}"
    );
    assert!(contents(dir.path()) == before, "left as they were");
}

#[tokio::test]
async fn a_log_that_a_killed_process_left_is_read() {
    let dir = tempfile::tempdir().expect("temporary directory");
    filled(dir.path(), 300, false).await;
    let sqlite = open(dir.path()).await.expect("sound");
    assert_eq!(sqlite.snapshot().await.expect("readable").live.len(), 300);
}

#[tokio::test]
async fn many_live_tasks_are_read_by_two_threads_and_each_once() {
    let dir = tempfile::tempdir().expect("temporary directory");
    filled(dir.path(), 3, true).await;
    let sqlite = open(dir.path()).await.expect("sound");
    // Copies of the three under other names; every hundredth is more than a plain task.
    let copies = "WITH RECURSIVE n (i) AS (SELECT 4 UNION ALL SELECT i + 1 FROM n WHERE i < 20100) \
         INSERT INTO task (seq, id, kind, payload, goal, priority, class, tenant, depends_on, \
             max_attempts, submitted_at, deadline) \
         SELECT i, printf('00000000-0000-7000-8000-%012d', i), kind, i, \
             CASE i % 100 WHEN 0 THEN 'goal ' || i END, priority, class, 'tenant ' || (i % 7), \
             depends_on, max_attempts, submitted_at, CASE i % 100 WHEN 0 THEN i END \
         FROM n JOIN task t ON t.seq = 1; \
         INSERT INTO task_run SELECT t.seq, r.state, r.attempt, r.losses, r.epoch, r.run_at, \
             r.lease_until, r.worker, r.cancel_requested, \
             CASE t.seq % 100 WHEN 50 THEN 'error ' || t.seq END, r.events, r.retries \
         FROM task t JOIN task_run r ON r.seq = 1 WHERE 3 < t.seq;";
    let writer = sqlite.writer().expect("open");
    let copied = writer.with(move |connection| {
        connection
            .execute_batch(copies)
            .map_err(|error| failure("copy tasks", &error))
    });
    copied.await.expect("written");
    let snapshot = sqlite.snapshot().await.expect("readable");
    assert_eq!((snapshot.live.len(), snapshot.next_seq), (20_100, 20_101));
    for (seq, (body, run)) in (1..).zip(&snapshot.live) {
        assert_eq!(body.seq, seq, "in order of acceptance, each once");
        if 3 < seq {
            assert_eq!(body.payload.as_str(), seq.to_string());
            assert_eq!(*body.tenant, format!("tenant {}", seq % 7));
            let special = |rest, text: &str| (seq % 100 == rest).then(|| format!("{text} {seq}"));
            assert_eq!(body.goal, special(0, "goal"));
            assert_eq!(run.last_error, special(50, "error"));
            let deadline = (seq % 100 == 0).then_some(crate::clock::Timestamp(seq));
            assert_eq!(body.deadline, deadline);
        }
    }
}

#[tokio::test]
async fn a_used_directory_without_its_database_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    filled(dir.path(), 1, true).await;
    fs::remove_file(dir.path().join("regrow.db")).expect("writable");
    let refused = open(dir.path()).await;
    assert!(matches!(refused, Err(OpenError::Missing(_))), "{refused:?}");
    assert!(!dir.path().join("regrow.db").exists());
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let sqlite = open(dir.path()).await.expect("new");
    let newer = "INSERT INTO _sqlx_migrations \
        (version, description, success, checksum, execution_time) \
        VALUES (9999, 'from the future', true, x'00', 0)";
    let writer = sqlite.writer().expect("open");
    let written = writer.with(|connection| {
        connection
            .execute(newer, [])
            .map_err(|error| failure("forge a migration", &error))
    });
    assert_eq!(written.await.expect("written"), 1);
    sqlite.close().await;
    let before = contents(dir.path());
    let refused = open(dir.path()).await;
    assert!(
        matches!(
            refused,
            Err(OpenError::Newer {
                migration: 9999,
                ..
            })
        ),
        "{refused:?}"
    );
    let same = contents(dir.path()).into_iter().eq(before);
    assert!(same, "left as it was");
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("file");
    fs::write(&file, "not a directory").expect("writable");
    let refused = open(&file.join("data")).await;
    assert!(matches!(refused, Err(OpenError::DataDir(_))), "{refused:?}");
}

#[tokio::test]
async fn a_task_forgotten_while_it_is_reopened_fails_the_commit() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let sqlite = open(dir.path()).await.expect("new");
    let changes = Changes {
        reopened: vec![77],
        ..Changes::default()
    };
    assert!(sqlite.commit(Arc::new(changes)).await.is_err());
}

async fn plan(sqlite: &Sqlite, sql: &str) -> String {
    let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
    let rows = sqlx::query(explain)
        .fetch_all(&sqlite.0.readers)
        .await
        .expect("a plan");
    let lines: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
    lines.join("\n")
}

#[tokio::test]
async fn the_hot_statements_use_their_indexes() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let sqlite = open(dir.path()).await.expect("new");
    let filter = |state, parent| TaskFilter {
        state,
        parent,
        limit: 20,
        ..TaskFilter::default()
    };
    let table = [
        (filter(Some(TaskState::Retryable), None), "task_run_state"),
        (filter(Some(TaskState::Discarded), None), "task_end_unhappy"),
        (filter(None, Some(TaskId::fresh())), "task_parent"),
    ];
    for (filter, index) in table {
        let sql = listing(&filter).build().sql().as_str().to_owned();
        let plan = plan(&sqlite, &sql).await;
        assert!(plan.contains(index), "{sql}\n{plan}");
        assert!(
            !plan.contains("TEMP B-TREE"),
            "sorted by hand: {sql}\n{plan}"
        );
    }
}
