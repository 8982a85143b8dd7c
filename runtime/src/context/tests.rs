//! The context with a real supervisor and a real writer, through crashes of both.

use std::collections::HashMap;

use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::*;
use crate::store::Store;
use crate::store::data_dir::DataDir;
use crate::store::sqlite::Sqlite;
use crate::supervision::{Backoff, Root, RootHandle, Supervisor};

struct Stage {
    context: Context,
    supervisor: Supervisor,
    committing: watch::Sender<bool>,
    _commits: JoinSet<()>,
    _root: RootHandle,
}

impl Stage {
    async fn open(config: ContextConfig, store: Store) -> Self {
        let writer = Writer::new(store);
        let (committing, may_commit) = watch::channel(true);
        let mut commits = JoinSet::new();
        commits.spawn(commit(writer.clone(), may_commit));
        let (context, spec) = Context::supervisor(config, &writer, Clock::system());
        let spec = spec
            .intensity(10_000, Duration::from_secs(60))
            .backoff(Backoff::OFF);
        let supervisor = spec.handle();
        let root = Root::start(spec).await.expect("the shards start");
        Self {
            context,
            supervisor,
            committing,
            _commits: commits,
            _root: root,
        }
    }

    /// From now on nothing is committed, as with a disk that hangs.
    fn halt_commits(&self) {
        self.committing.send_replace(false);
    }

    fn resume_commits(&self) {
        self.committing.send_replace(true);
    }
}

/// The writer's loop; while it may not commit it is not dropped, only not polled.
async fn commit(writer: Writer, mut may_commit: watch::Receiver<bool>) {
    let readmitting = writer.clone();
    let recover = move || {
        readmitting.readmit();
        Box::pin(async { Ok(()) }) as _
    };
    let mut run = std::pin::pin!(writer.run(Box::new(recover), Box::new(|_, _| ())));
    while may_commit.wait_for(|may| *may).await.is_ok() {
        tokio::select! {
            biased;
            _ = may_commit.wait_for(|may| !*may) => {}
            () = &mut run => return,
        }
    }
}

fn attrs(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn text(text: &str) -> Json {
    Json::of(text).expect("text is JSON")
}

fn one_shard() -> ContextConfig {
    ContextConfig {
        shards: NonZeroU32::MIN,
        ..ContextConfig::default()
    }
}

#[tokio::test]
async fn what_was_written_is_read_listed_counted_and_found_again_by_another_process() {
    let store = Store::volatile();
    let tasks: Vec<TaskId> = (0..20).map(|_| TaskId::fresh()).collect();
    let stage = Stage::open(ContextConfig::default(), store.clone()).await;
    for task in &tasks {
        let attrs = attrs(json!({"goal": "read"}));
        let written = stage.context.upsert(*task, attrs, None).await;
        assert_eq!(written.expect("fits").version, 1);
    }
    let last = tasks[7];
    let status = ContextStatus::Completed;
    let changed = stage.context.set_status(last, status).await.expect("fits");
    assert_eq!(stage.context.get(last), Some(changed));
    assert_eq!(stage.context.list(500).len(), 20);
    assert_eq!(stage.context.list(3).len(), 3);
    let stats = stage.context.stats();
    assert_eq!((stats.entries, stats.shards.len()), (20, 8));
    drop(stage);
    let fewer_shards = ContextConfig {
        shards: NonZeroU32::new(3).expect("not zero"),
        ..ContextConfig::default()
    };
    let again = Stage::open(fewer_shards, store).await;
    let found = again.context.get(last).expect("is durable");
    assert_eq!((found.status, found.version), (status, 2));
    assert_eq!(again.context.stats().entries, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_shards_under_load_loses_and_repeats_no_acknowledged_finding() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut dir = DataDir::open(folder.path()).expect("opens");
    let store = Store::Sqlite(Sqlite::open(&mut dir).await.expect("opens"));
    let config = ContextConfig {
        shards: NonZeroU32::new(2).expect("not zero"),
        ..ContextConfig::default()
    };
    let stage = Stage::open(config, store.clone()).await;
    let mut authors = JoinSet::new();
    let (settled, mut settlements) = mpsc::channel(1);
    for author in 0..12 {
        let settled = settled.clone();
        let context = stage.context.clone();
        let task = TaskId::fresh();
        authors.spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0..60 {
                let finding = format!("{author}-{n}");
                match context.add_finding(task, text(&finding)).await {
                    Ok(_) => acknowledged.push(finding),
                    // Too many lives went by meanwhile: surely not recorded.
                    Err(ContextError::Unavailable { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
                settled.send(()).await.expect("the test listens");
            }
            (task, acknowledged)
        });
    }
    drop(settled);
    let (mut seen, mut kills) = (0, 0);
    while settlements.recv().await.is_some() {
        seen += 1;
        if seen % 12 == 0 {
            let shard = format!("shard-{}", kills % 2);
            let killed = stage.supervisor.kill_child(shard).await;
            kills += usize::from(killed.is_ok());
        }
    }
    assert!(kills > 20, "only {kills} kills: the test proved little");
    let mut expected = HashMap::new();
    while let Some(author) = authors.join_next().await {
        let (task, acknowledged) = author.expect("the author ends");
        expected.insert(task, acknowledged);
    }
    assert_eq!(expected.len(), 12);
    drop(stage);
    // What another process would find, not what memory says.
    let documents = store.documents(shard::SPACE, "", 100).await.expect("reads");
    let found: HashMap<TaskId, Vec<String>> = documents
        .iter()
        .map(|document| {
            let record: ContextRecord = document.body.decode().expect("decodes");
            let bodies = record.findings.iter().map(|finding| &finding.body);
            let findings = bodies.map(|body| body.decode().expect("is text"));
            (record.task, findings.collect())
        })
        .collect();
    assert_eq!(found, expected);
}

#[tokio::test(start_paused = true)]
async fn a_failed_commit_restarts_the_shard_from_the_store() {
    let store = Store::volatile();
    let Store::Volatile(volatile) = store.clone() else {
        unreachable!("made above")
    };
    let stage = Stage::open(one_shard(), store).await;
    let task = TaskId::fresh();
    let before = stage.context.add_finding(task, text("kept")).await;
    let before = before.expect("fits");
    volatile.fail_next_commit();
    let lost = stage.context.add_finding(task, text("lost")).await;
    assert!(matches!(lost, Err(ContextError::Store(_))));
    assert_eq!(stage.context.get(task), Some(before));
    let after = stage.context.add_finding(task, text("after")).await;
    let after = after.expect("the shard is back");
    let bodies: Vec<&str> = after.findings.iter().map(|f| f.body.as_str()).collect();
    assert_eq!((bodies, after.version), (vec!["\"kept\"", "\"after\""], 2));
}

#[tokio::test(start_paused = true)]
async fn readers_and_watchers_do_not_see_what_is_not_durable() {
    let stage = Stage::open(one_shard(), Store::volatile()).await;
    let task = TaskId::fresh();
    let mut watch = stage.context.watch(task).expect("room");
    assert_eq!(watch.current(), None);
    stage.halt_commits();
    let mut write = std::pin::pin!(stage.context.add_finding(task, text("x")));
    let early = tokio::time::timeout(Duration::from_secs(1), &mut write).await;
    assert!(early.is_err(), "acknowledged before the commit");
    assert_eq!(stage.context.get(task), None);
    assert_eq!(stage.context.stats().shards[0].writes_in_flight, 1);
    stage.resume_commits();
    let written = write.await.expect("is committed");
    assert_eq!(stage.context.get(task), Some(Arc::clone(&written)));
    assert_eq!(watch.changed().await, Some(Some(written)));
}

#[tokio::test(start_paused = true)]
async fn a_write_handed_over_before_a_kill_is_answered_and_built_upon() {
    let stage = Stage::open(one_shard(), Store::volatile()).await;
    let task = TaskId::fresh();
    stage.halt_commits();
    let context = stage.context.clone();
    let mut first = JoinSet::new();
    first.spawn(async move { context.add_finding(task, text("first")).await });
    while stage.context.stats().shards[0].writes_in_flight == 0 {
        tokio::task::yield_now().await;
    }
    let killed = stage.supervisor.kill_child("shard-0").await;
    killed.expect("the shard runs");
    let context = stage.context.clone();
    let mut second = JoinSet::new();
    second.spawn(async move { context.add_finding(task, text("second")).await });
    stage.resume_commits();
    let first = first.join_next().await.expect("one").expect("ends");
    assert_eq!(first.expect("was recorded").version, 1);
    let second = second.join_next().await.expect("one").expect("ends");
    assert_eq!(second.expect("was recorded").version, 2);
}

#[tokio::test(start_paused = true)]
async fn a_watch_survives_the_shard() {
    let stage = Stage::open(one_shard(), Store::volatile()).await;
    let task = TaskId::fresh();
    let mut watch = stage.context.watch(task).expect("room");
    let killed = stage.supervisor.kill_child("shard-0").await;
    killed.expect("the shard runs");
    let written = stage.context.add_finding(task, text("x")).await;
    assert_eq!(watch.changed().await, Some(written.ok()));
}

#[tokio::test(start_paused = true)]
async fn an_ended_task_is_forgotten_after_the_retention_and_a_waiting_one_is_not() {
    let store = Store::volatile();
    let stage = Stage::open(one_shard(), store.clone()).await;
    let (ended, waiting) = (TaskId::fresh(), TaskId::fresh());
    for (task, status) in [
        (ended, ContextStatus::Completed),
        (waiting, ContextStatus::Waiting),
    ] {
        let written = stage.context.set_status(task, status).await;
        written.expect("fits");
    }
    let mut watch = stage.context.watch(ended).expect("room");
    watch.current();
    let began = Instant::now();
    assert_eq!(watch.changed().await, Some(None));
    let kept = began.elapsed();
    let ContextConfig {
        retention,
        sweep_period,
        ..
    } = one_shard();
    assert!(retention <= kept && kept <= retention + sweep_period * 2);
    assert_eq!(stage.context.get(ended), None);
    assert!(stage.context.get(waiting).is_some());
    assert_eq!(stage.context.stats().swept, 1);
    let key = ended.to_string();
    let stored = store.document(shard::SPACE, &key).await.expect("reads");
    assert!(stored.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_full_shard_refuses_new_tasks_and_still_takes_changes() {
    let config = ContextConfig {
        keys_max: 2,
        ..one_shard()
    };
    let stage = Stage::open(config, Store::volatile()).await;
    let known = TaskId::fresh();
    for task in [known, TaskId::fresh()] {
        let written = stage.context.add_finding(task, text("x")).await;
        written.expect("fits");
    }
    let refused = stage.context.add_finding(TaskId::fresh(), text("x")).await;
    assert!(matches!(refused, Err(ContextError::Full { .. })));
    let changed = stage.context.add_finding(known, text("y")).await;
    assert_eq!(changed.expect("fits").version, 2);
}

#[tokio::test(start_paused = true)]
async fn writes_that_pile_up_before_a_slow_disk_are_refused() {
    let config = ContextConfig {
        writes_in_flight_max: 2,
        ..one_shard()
    };
    let stage = Stage::open(config, Store::volatile()).await;
    stage.halt_commits();
    let mut writes = JoinSet::new();
    for _ in 0..3 {
        let context = stage.context.clone();
        writes.spawn(async move { context.add_finding(TaskId::fresh(), text("x")).await });
    }
    let first = writes.join_next().await.expect("one").expect("ends");
    assert!(matches!(first, Err(ContextError::Busy { .. })));
    stage.resume_commits();
    while let Some(write) = writes.join_next().await {
        write.expect("ends").expect("is committed");
    }
}

#[tokio::test(start_paused = true)]
async fn watching_too_many_tasks_is_refused_until_somebody_stops() {
    let config = ContextConfig {
        watched_max: 1,
        ..one_shard()
    };
    let stage = Stage::open(config, Store::volatile()).await;
    let first = stage.context.watch(TaskId::fresh()).expect("room");
    let second = stage.context.watch(TaskId::fresh());
    assert!(matches!(second, Err(ContextError::TooManyWatched(1))));
    drop(first);
    assert!(stage.context.watch(TaskId::fresh()).is_ok());
}
