//! The whole audit, by all four roles.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use regrow_actors::audit::Limits;
use regrow_actors::audit::tasks::{
    AUDIT, AuditGoal, AuditOutcome, CHECK, CheckBatch, CheckedBatch, LINKS, RECORD, REVIEW, Review,
};
use regrow_actors::catalog::Crew;
use regrow_actors::planner::PLAN;
use regrow_runtime::ids::TaskId;
use regrow_runtime::json::Json;
use regrow_runtime::queue::ClaimRequest;
use regrow_runtime::queue::task::{Lease, NewTask, TaskEventKind, TaskState, TaskView};
use regrow_runtime::store::TaskFilter;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::stage::Stage;

/// A tree of documentation in a temporary directory, and a place for reports.
struct Tree {
    dir: tempfile::TempDir,
}

impl Tree {
    fn new(files: &[(&str, &str)]) -> Self {
        let tree = Self {
            dir: tempfile::tempdir().expect("temporary directory"),
        };
        fs::create_dir(tree.root()).expect("created");
        for (path, content) in files {
            tree.write(path, content);
        }
        tree
    }

    /// Several batches of files with a broken link each.
    fn large() -> Self {
        let tree = Self::new(&[("README.md", "# Start\n\nSee [one](doc-0.md).\n")]);
        for number in 0..200 {
            let next = (number + 1) % 200;
            let text = format!(
                "# Document {number}\n\nOn to [the next](doc-{next}.md), never to [none](gone-{number}.md).\n"
            );
            tree.write(&format!("doc-{number}.md"), &text);
        }
        tree
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn reports(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn write(&self, path: &str, content: &str) {
        fs::write(self.root().join(path), content).expect("written");
    }

    fn goal(&self) -> AuditGoal {
        AuditGoal {
            path: self.root(),
            limits: Limits::default(),
        }
    }

    /// What the latest report holds against the tree: rule, path and line.
    fn findings(&self) -> BTreeSet<(String, String, u64)> {
        let report: Value = read_json(&self.reports().join("report.json"));
        let findings = report["run"]["findings"].as_array().expect("findings");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        findings
            .iter()
            .map(|one| {
                let line = one["line"].as_u64().expect("a line");
                (text(&one["rule"]), text(&one["path"]), line)
            })
            .collect()
    }
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("readable")).expect("JSON")
}

fn result<T: DeserializeOwned>(view: TaskView) -> T {
    assert_eq!(view.state(), TaskState::Completed, "{view:?}");
    let result = view.end.and_then(|end| end.result).expect("a result");
    result.decode().expect("of this type")
}

async fn children(stage: &Stage, parent: TaskId, kind: &str) -> Vec<TaskView> {
    let filter = TaskFilter {
        parent: Some(parent),
        kind: Some(kind.to_owned()),
        limit: u32::MAX,
        ..TaskFilter::default()
    };
    let mut children = stage.queue.tasks(&filter).await.expect("readable");
    children.reverse();
    children
}

async fn audit(stage: &Stage, tree: &Tree) -> AuditOutcome {
    let id = stage.submit(AUDIT, &tree.goal()).await;
    result(stage.ended(id).await)
}

#[tokio::test]
async fn a_second_audit_says_what_is_new_and_what_is_fixed() {
    let tree = Tree::new(&[
        ("README.md", "# Hello\n\n[a](a.md) [b](b.md)\n"),
        ("a.md", "# A\n\n[gone](gone.md)\n"),
        ("b.md", "# B\n"),
    ]);
    let stage = Stage::with_crew(&tree.reports(), |_| {}).await;
    let first = audit(&stage, &tree).await.summary;
    assert_eq!((first.errors, first.files_checked), (1, 3), "{first:?}");
    assert_eq!((first.new, first.fixed), (None, None));
    assert!(first.complete);

    tree.write("a.md", "# A\n");
    tree.write("b.md", "# B\n\n[lost](lost.md)\n");
    let second = audit(&stage, &tree).await;
    let summary = second.summary;
    assert_eq!((summary.new, summary.fixed), (Some(1), Some(1)));
    assert_eq!(
        tree.findings(),
        BTreeSet::from([("broken-link".to_owned(), "b.md".to_owned(), 3)])
    );
    for report in [&second.report_md, &tree.reports().join("report.md")] {
        let text = fs::read_to_string(report).expect("a report");
        assert!(text.contains("lost.md"), "{text}");
    }
    let names = fs::read_dir(tree.reports()).expect("readable");
    let names: BTreeSet<String> = names
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    let expected = ["report.json", "report.md", "reports"].map(str::to_owned);
    assert_eq!(names, BTreeSet::from(expected), "drafts were left behind");
    stage.strike().await;
}

#[tokio::test]
async fn an_empty_tree_is_audited_without_findings() {
    let tree = Tree::new(&[]);
    let stage = Stage::with_crew(&tree.reports(), |_| {}).await;
    let summary = audit(&stage, &tree).await.summary;
    assert_eq!((summary.files_planned, summary.files_checked), (0, 0));
    assert!(tree.findings().is_empty());
    stage.strike().await;
}

#[tokio::test]
async fn a_goal_in_words_is_audited_and_one_that_needs_a_model_is_refused_for_good() {
    let tree = Tree::new(&[("README.md", "# Hello\n\n[gone](gone.md)\n")]);
    let stage = Stage::with_crew(&tree.reports(), |_| {}).await;
    let goal = format!("audit the docs in {}", tree.root().display());
    let id = stage.submit(PLAN, &json!({ "goal": goal })).await;
    let outcome: AuditOutcome = result(stage.ended(id).await);
    assert_eq!(outcome.summary.errors, 1);

    let id = stage.submit(PLAN, &json!({ "goal": "write a poem" })).await;
    let end = stage.ended(id).await.end.expect("it ended");
    assert_eq!((end.state, end.attempt), (TaskState::Discarded, 1));
    let error = end.error.expect("a reason");
    assert!(
        error.contains("needs a model and none is configured")
            && error.contains("audit the documentation of a directory"),
        "{error}"
    );
    stage.strike().await;
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_refused_for_good() {
    let tree = Tree::new(&[]);
    let stage = Stage::with_crew(&tree.reports(), |_| {}).await;
    let goal = AuditGoal {
        path: tree.root().join("nowhere"),
        limits: Limits::default(),
    };
    let id = stage.submit(AUDIT, &goal).await;
    let end = stage.ended(id).await.end.expect("it ended");
    assert_eq!((end.state, end.attempt), (TaskState::Discarded, 1));
    assert!(end.error.is_some_and(|error| error.contains("nowhere")));
    stage.strike().await;
}

#[tokio::test]
async fn an_audit_ends_once_and_alike_whoever_is_killed_on_the_way() {
    let tree = Tree::large();
    let stage = Stage::with_crew(&tree.reports(), |_| {}).await;
    audit(&stage, &tree).await;
    let expected = tree.findings();
    assert_eq!(expected.len(), 200);
    stage.strike().await;

    let killed = Arc::new(AtomicU32::new(0));
    // How many kills strike before an audit is over depends on the machine.
    for seed in 0_u64.. {
        if 6 <= seed && 12 < killed.load(Ordering::Relaxed) {
            break;
        }
        assert!(seed < 100, "audits end before anybody is killed");
        let mut rng = SmallRng::seed_from_u64(seed);
        let stage = Arc::new(Stage::with_crew(&tree.reports(), |crew| crew.planners = 2).await);
        let names: Vec<String> = stage.agents.keys().map(ToString::to_string).collect();
        fs::remove_file(tree.reports().join("report.json")).expect("a report was written");
        let id = stage.submit(AUDIT, &tree.goal()).await;
        let mut kills = JoinSet::new();
        let (watched, killed) = (stage.clone(), killed.clone());
        kills.spawn(async move {
            let mut events = watched.queue.events_bus().subscribe();
            for _ in 0..12 {
                for _ in 0..rng.random_range(1..15) {
                    events.next().await.expect("the bus lives");
                }
                // Planners most of all.
                let victim = match rng.random_bool(0.5) {
                    true => "planner-1",
                    false => names.choose(&mut rng).expect("agents"),
                };
                // Refused while it is being regrown already.
                let struck = watched.crew.kill_child(victim.to_owned()).await;
                killed.fetch_add(u32::from(struck.is_ok()), Ordering::Relaxed);
            }
        });
        let outcome: AuditOutcome = result(stage.ended(id).await);
        kills.shutdown().await;
        assert_eq!(tree.findings(), expected, "seed {seed}");
        assert!(outcome.summary.complete, "seed {seed}");
        let log = stage.log(id).await;
        let count = |kind| log.iter().filter(|one| **one == kind).count();
        assert_eq!(count(TaskEventKind::Completed), 1, "seed {seed}: {log:?}");
        // The survey and the report, each once; two waves.
        assert_eq!(
            count(TaskEventKind::StepRecorded),
            2,
            "seed {seed}: {log:?}"
        );
        assert_eq!(count(TaskEventKind::Suspended), 2, "seed {seed}: {log:?}");
        assert_eq!(children(&stage, id, RECORD).await.len(), 1, "seed {seed}");
        assert_eq!(children(&stage, id, CHECK).await.len(), 4, "seed {seed}");
        Arc::into_inner(stage).expect("nobody else").strike().await;
    }
}

/// Claims a task of `kind` as a worker from outside.
async fn claim(stage: &Stage, kind: &str) -> Lease {
    let request = ClaimRequest {
        worker: "outside".into(),
        kinds: vec![kind.to_owned()],
        max: 1,
        wait: Duration::from_secs(30),
        lease: Duration::from_secs(60),
    };
    let mut leases = stage.queue.claim(&request).await.expect("claimable");
    leases.pop().expect("a task of this kind")
}

#[tokio::test]
async fn a_dead_lettered_check_fails_the_audit() {
    let tree = Tree::new(&[("README.md", "# Hello\n")]);
    let stage = Stage::with_crew(&tree.reports(), |crew: &mut Crew| crew.workers = 0).await;
    let id = stage.submit(AUDIT, &tree.goal()).await;
    let check = claim(&stage, CHECK).await;
    let why = "the disk has a hole".to_owned();
    let state = stage
        .queue
        .fail(check.task.id, check.epoch, why, false)
        .await;
    assert_eq!(state.expect("it was ours"), TaskState::Discarded);
    let end = stage.ended(id).await.end.expect("it ended");
    assert_eq!(end.state, TaskState::Discarded);
    let error = end.error.expect("a reason");
    assert!(
        error.contains("the audit is incomplete") && error.contains("the disk has a hole"),
        "{error}"
    );
    assert!(
        !tree.reports().join("report.md").exists(),
        "a report was written all the same"
    );
    stage.strike().await;
}

#[tokio::test]
async fn an_audit_is_finished_once_its_failed_parts_were_tried_again() {
    let tree = Tree::new(&[("README.md", "# Hello\n\n[gone](gone.md)\n")]);
    let stage = Stage::with_crew(&tree.reports(), |crew: &mut Crew| crew.workers = 0).await;
    let id = stage.submit(AUDIT, &tree.goal()).await;
    let check = claim(&stage, CHECK).await;
    let why = "the disk has a hole".to_owned();
    let failed = stage.queue.fail(check.task.id, check.epoch, why, false);
    failed.await.expect("it was ours");
    assert_eq!(stage.ended(id).await.state(), TaskState::Discarded);
    for kind in [CHECK, LINKS, REVIEW] {
        for child in children(&stage, id, kind).await {
            stage
                .queue
                .retry(child.body.id)
                .await
                .expect("it had ended");
        }
    }
    stage.queue.retry(id).await.expect("it had ended");
    check_and(&stage, |_, _| {}).await;
    links_by_hand(&stage).await;
    let outcome: AuditOutcome = result(stage.ended(id).await);
    assert_eq!(outcome.summary.errors, 1, "{:?}", outcome.summary);
    assert_eq!(children(&stage, id, CHECK).await.len(), 1);
    stage.strike().await;
}

/// A worker from outside that checks by asking a real one first, then lets `meddle` have a
/// say before the result is handed in.
async fn check_and(stage: &Stage, meddle: impl FnOnce(&CheckBatch, &mut CheckedBatch)) {
    let lease = claim(stage, CHECK).await;
    let batch: CheckBatch = lease.task.payload.decode().expect("a batch");
    let site = regrow_actors::audit::Site::open(&batch.root, &batch.limits).expect("there");
    let reports = batch.paths.iter();
    let mut checked = CheckedBatch {
        reports: reports
            .map(|path| regrow_actors::audit::check_file(&site, path))
            .collect(),
        round: batch.round,
    };
    meddle(&batch, &mut checked);
    let result = Json::of(&checked).expect("JSON");
    let done = stage.queue.complete(lease.task.id, lease.epoch, result);
    done.await.expect("it was ours");
}

async fn links_by_hand(stage: &Stage) {
    let lease = claim(stage, LINKS).await;
    let none = Json::of(&json!({ "orphans": [] })).expect("JSON");
    let done = stage.queue.complete(lease.task.id, lease.epoch, none);
    done.await.expect("it was ours");
}

#[tokio::test]
async fn a_file_that_changed_before_its_review_is_sent_back_and_checked_again() {
    let tree = Tree::new(&[
        ("README.md", "# Hello\n\n[gone](gone.md)\n"),
        ("a.md", "# A\n\n[lost](lost.md)\n"),
    ]);
    let stage = Stage::with_crew(&tree.reports(), |crew: &mut Crew| crew.workers = 0).await;
    let id = stage.submit(AUDIT, &tree.goal()).await;
    check_and(&stage, |_, _| {
        tree.write(
            "README.md",
            "# Hello\n\nnow [a](a.md), but [none](none.md)\n",
        );
    })
    .await;
    links_by_hand(&stage).await;
    check_and(&stage, |batch, _| {
        assert_eq!(
            (batch.round, batch.paths.as_slice()),
            (1, &["README.md".to_owned()][..])
        );
    })
    .await;
    let outcome: AuditOutcome = result(stage.ended(id).await);
    let found = |path: &str| ("broken-link".to_owned(), path.to_owned(), 3);
    assert_eq!(
        tree.findings(),
        BTreeSet::from([found("README.md"), found("a.md")])
    );
    let text = fs::read_to_string(&outcome.report_md).expect("a report");
    assert!(
        text.contains("none.md") && !text.contains("gone.md"),
        "{text}"
    );
    assert_eq!(outcome.summary.rejected, 0, "{:?}", outcome.summary);
    stage.strike().await;
}

#[tokio::test]
async fn what_nobody_covers_is_sent_back_twice_and_then_fails_the_audit() {
    let tree = Tree::new(&[("README.md", "# Hello\n")]);
    let stage = Stage::with_crew(&tree.reports(), |crew: &mut Crew| crew.workers = 0).await;
    let id = stage.submit(AUDIT, &tree.goal()).await;
    check_and(&stage, |_, checked| checked.reports.clear()).await;
    links_by_hand(&stage).await;
    for _ in 0..2 {
        check_and(&stage, |_, checked| checked.reports.clear()).await;
    }
    let end = stage.ended(id).await.end.expect("it ended");
    assert_eq!(end.state, TaskState::Discarded);
    assert_eq!(
        end.error.as_deref(),
        Some(
            "the audit is incomplete: 1 of 1 files were not covered after 3 rounds, \
             among them README.md"
        )
    );
    assert!(
        !tree.reports().join("report.md").exists(),
        "a report was written all the same"
    );
    let reviews = children(&stage, id, REVIEW).await;
    let rounds: Vec<u32> = reviews
        .into_iter()
        .map(|review| result::<Review>(review).round)
        .collect();
    assert_eq!(rounds, [0, 0, 1, 2]);
    stage.strike().await;
}

#[tokio::test]
async fn an_invented_finding_is_rejected_and_not_reported() {
    let tree = Tree::new(&[
        (
            "README.md",
            "# Hello\n\n[gone](gone.md) [guide](guide.md)\n",
        ),
        ("guide.md", "# Guide\n"),
    ]);
    let stage = Stage::with_crew(&tree.reports(), |crew: &mut Crew| crew.workers = 0).await;
    let id = stage.submit(AUDIT, &tree.goal()).await;
    let invent = |_: &CheckBatch, checked: &mut CheckedBatch| {
        let position = checked
            .reports
            .iter()
            .position(|one| one.path == "README.md");
        let position = position.expect("it was checked");
        let mut report = serde_json::to_value(&checked.reports[position]).expect("JSON");
        report["findings"][0]["evidence"] = json!("guide.md");
        checked.reports[position] = serde_json::from_value(report).expect("a report");
    };
    check_and(&stage, invent).await;
    links_by_hand(&stage).await;
    for _ in 0..2 {
        check_and(&stage, invent).await;
    }
    let outcome: AuditOutcome = result(stage.ended(id).await);
    assert!(tree.findings().is_empty(), "{:?}", tree.findings());
    assert_eq!(outcome.summary.rejected, 1, "{:?}", outcome.summary);
    stage.strike().await;
}

#[tokio::test]
async fn an_audit_is_not_held_up_by_what_a_client_set_for_it() {
    let tree = Tree::new(&[("README.md", "# Hello\n")]);
    let stage = Stage::with_crew(&tree.reports(), |_| {}).await;
    let mut task = NewTask::new(AUDIT, Json::of(&tree.goal()).expect("JSON"));
    task.max_attempts = Some(1);
    let id = stage.submit_task(task).await;
    let outcome: AuditOutcome = result(stage.ended(id).await);
    assert_eq!(outcome.summary.files_checked, 1);
    stage.strike().await;
}
