//! What goes up and what goes down: giving up, nesting, orphans, shutdown.

use std::time::Duration;

use regrow_runtime::actor::StartError;
use regrow_runtime::mailbox::Stop;
use regrow_runtime::supervision::{
    AutoShutdown, Backoff, Change, ExitReason, Restart, Root, Shutdown, ShutdownCause, Strategy,
    SupervisorSpec,
};

use crate::probe_actor::{Journal, Order, Stage, Subject};

fn supervisor(name: &str, restarts_max: usize) -> SupervisorSpec {
    SupervisorSpec::new(name, Strategy::OneForOne)
        .intensity(restarts_max, Duration::from_secs(5))
        .backoff(Backoff::OFF)
}

#[tokio::test]
async fn a_supervisor_that_gives_up_is_restarted_by_its_own_with_all_its_children() {
    let journal = Journal::default();
    let (one, two) = (Subject::new("one", &journal), Subject::new("two", &journal));
    let inner = supervisor("inner", 1).child(one.spec()).child(two.spec());
    let inner_handle = inner.handle();
    let mut stage = Stage::open(supervisor("root", 3).child(inner.into_child())).await;
    let (first_of_two, _) = (two.ping().await, one.ping().await);
    one.tell(Order::Panic);
    stage.until_restarted("one").await;
    one.tell(Order::Panic);
    let reason = stage.until_exited("inner").await;
    let ExitReason::Shutdown(ShutdownCause::IntensityReached(report)) = reason else {
        panic!("inner gave up, but: {reason}")
    };
    assert_eq!(&*report.supervisor, "root/inner");
    assert_eq!(report.child.as_str(), "one");
    assert_eq!(report.reason, ExitReason::Panic("boom".into()));
    stage.until_restarted("inner").await;
    assert_ne!(two.ping().await, first_of_two);
    let count = inner_handle
        .count_children()
        .await
        .expect("the handle survives the restart");
    assert_eq!((count.specs, count.active), (2, 2));
    let expected = [
        "+one", "+two", "-one", "+one", "-one", "-two", "+one", "+two",
    ];
    assert_eq!(journal.take(), expected);
}

#[tokio::test]
async fn a_root_that_gives_up_reports_the_whole_chain() {
    let journal = Journal::default();
    let one = Subject::new("one", &journal);
    let inner = supervisor("inner", 0).child(one.spec());
    let stage = Stage::open(supervisor("root", 0).child(inner.into_child())).await;
    one.tell(Order::Fail);
    let exit = stage.root.exited().await;
    assert!(!exit.was_requested());
    let report = exit.to_string();
    for part in [
        "`root` allows 0 restarts",
        "`root/inner` allows 0",
        "error: bad input",
        "one",
    ] {
        assert!(report.contains(part), "`{part}` is missing in:\n{report}");
    }
    let json = serde_json::to_value(&exit).expect("a report is JSON");
    assert_eq!(json["reason"]["kind"], "shutdown");
    assert_eq!(json["tree"]["children"][0]["id"], "inner");
    assert_eq!(journal.alive(), 0);
}

#[tokio::test]
async fn a_transient_supervisor_that_gives_up_stays_down() {
    let journal = Journal::default();
    let one = Subject::new("one", &journal);
    let inner = supervisor("inner", 0).child(one.spec());
    let spec = supervisor("root", 3).child(inner.into_child().restart(Restart::Transient));
    let mut stage = Stage::open(spec).await;
    one.tell(Order::Panic);
    stage.until_exited("inner").await;
    let count = stage
        .root
        .supervisor()
        .count_children()
        .await
        .expect("it runs");
    assert_eq!((count.specs, count.active, count.supervisors), (1, 0, 1));
}

#[tokio::test]
async fn a_supervisor_whose_boot_fails_stops_what_it_had_started_in_reverse() {
    let journal = Journal::default();
    let subjects = ["a", "b", "c"].map(|name| Subject::new(name, &journal));
    journal.fail_start("c", 1);
    let inner = subjects
        .iter()
        .fold(supervisor("inner", 3), |inner, subject| {
            inner.child(subject.spec())
        });
    let outer = Subject::new("outer", &journal);
    let spec = supervisor("root", 3)
        .child(outer.spec())
        .child(inner.into_child());
    let error = Root::start(spec).await.expect_err("c does not start");
    assert_eq!(
        journal.take(),
        ["+outer", "+a", "+b", "!c", "-b", "-a", "-outer"]
    );
    let text = "child `inner` failed to start: child `c` failed to start: told to fail";
    assert_eq!(error, StartError::Failed(text.into()));
}

#[tokio::test]
async fn dropping_the_root_kills_every_descendant() {
    let journal = Journal::default();
    let subjects = ["a", "b", "c"].map(|name| Subject::new(name, &journal));
    let inner = supervisor("inner", 3)
        .child(subjects[0].spec())
        .child(subjects[1].spec());
    let middle = supervisor("middle", 3).child(inner.into_child());
    let spec = supervisor("root", 3)
        .child(middle.into_child())
        .child(subjects[2].spec());
    let stage = Stage::open(spec).await;
    assert_eq!(journal.alive(), 3);
    drop(stage);
    journal.until_alive(0).await;
}

#[tokio::test]
async fn a_killed_supervisor_ends_only_after_its_children() {
    let journal = Journal::default();
    let (one, two) = (Subject::new("one", &journal), Subject::new("two", &journal));
    let inner = supervisor("inner", 3).child(one.spec()).child(two.spec());
    let mut stage = Stage::open(supervisor("root", 3).child(inner.into_child())).await;
    one.hang().await;
    journal.take();
    stage
        .root
        .supervisor()
        .kill_child("inner")
        .await
        .expect("inner runs");
    let ended: std::collections::BTreeSet<String> = journal
        .take()
        .into_iter()
        .filter(|line| line.starts_with('-'))
        .collect();
    assert_eq!(ended.into_iter().collect::<Vec<_>>(), ["-one", "-two"]);
    stage.until_restarted("inner").await;
    assert_eq!(journal.alive(), 2, "one life of each, not two");
    one.ping().await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_gives_each_child_its_grace_and_then_kills() {
    let journal = Journal::default();
    let quick = Subject::new("quick", &journal);
    let slow = Subject::new("slow", &journal).stop_takes(Duration::from_secs(3));
    let stuck = Subject::new("stuck", &journal);
    let brutal = Subject::new("brutal", &journal).stop_takes(Duration::from_secs(3600));
    let spec = supervisor("root", 3)
        .child(quick.spec())
        .child(slow.spec())
        .child(stuck.spec())
        .child(brutal.spec().shutdown(Shutdown::Brutal));
    let mut stage = Stage::open(spec).await;
    stuck.hang().await;
    journal.take();
    let began = tokio::time::Instant::now();
    stage.root.shutdown();
    assert_eq!(stage.until_exited("brutal").await, ExitReason::Killed);
    assert_eq!(stage.until_exited("stuck").await, ExitReason::Killed);
    let requested = ExitReason::Shutdown(ShutdownCause::Requested);
    assert_eq!(stage.until_exited("slow").await, requested);
    stage.root.exited().await;
    assert_eq!(journal.take(), ["-brutal", "-stuck", "-slow", "-quick"]);
    assert_eq!(
        began.elapsed().as_secs(),
        5 + 3,
        "stuck had its grace, slow took its time"
    );
}

#[tokio::test]
async fn a_significant_child_that_finishes_ends_its_supervisor() {
    let journal = Journal::default();
    let (job, helper) = (
        Subject::new("job", &journal),
        Subject::new("helper", &journal),
    );
    let spec = supervisor("root", 3)
        .auto_shutdown(AutoShutdown::AnySignificant)
        .child(job.spec().restart(Restart::Transient).significant())
        .child(helper.spec());
    let stage = Stage::open(spec).await;
    job.tell(Order::Stop(Stop::Normal));
    let exit = stage.root.exited().await;
    let cause = ShutdownCause::SignificantEnded("job".into());
    assert_eq!(exit.reason, ExitReason::Shutdown(cause));
    assert_eq!(journal.alive(), 0);
}

/// The only real wait in these tests: a state whose drop blocks a thread cannot be hurried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_stuck_in_blocking_code_is_abandoned_and_its_successor_started() {
    let journal = Journal::default();
    let one = Subject::new("one", &journal);
    let spec = supervisor("root", 3)
        .kill_wait(Duration::from_millis(20))
        .child(one.spec());
    let mut stage = Stage::open(spec).await;
    let first = one.ping().await;
    one.tell(Order::Linger(Duration::from_millis(400)));
    one.ping().await;
    stage
        .root
        .supervisor()
        .kill_child("one")
        .await
        .expect("one runs");
    stage
        .until(|seen| matches!(seen.change, Change::Abandoned { generation: 1 }))
        .await;
    stage.until_restarted("one").await;
    assert_ne!(one.ping().await, first);
    journal.until_alive(1).await;
    let view = stage
        .root
        .tree()
        .find("root/one")
        .expect("one is in the tree");
    assert_eq!(view.generation, 2, "its late end changed nothing");
}
