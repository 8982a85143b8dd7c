//! What operators and health may order, and how a supervisor answers while it restarts.

use std::time::Duration;

use regrow_runtime::actor::StartError;
use regrow_runtime::mailbox::TrySendError;
use regrow_runtime::supervision::{
    Backoff, Change, ChildKind, ExitReason, NodeState, Refusal, Restart, Strategy, SupervisorSpec,
};

use crate::probe_actor::{Journal, Order, Stage, Subject};

fn supervisor(strategy: Strategy) -> SupervisorSpec {
    SupervisorSpec::new("root", strategy)
        .intensity(10, Duration::from_secs(5))
        .backoff(Backoff::OFF)
}

#[tokio::test]
async fn a_hung_child_is_killed_and_comes_back() {
    let journal = Journal::default();
    let one = Subject::new("one", &journal);
    let mut stage = Stage::open(supervisor(Strategy::OneForOne).child(one.spec())).await;
    let first = one.ping().await;
    one.hang().await;
    stage
        .root
        .supervisor()
        .kill_child("one")
        .await
        .expect("one runs");
    let seen = stage.until_restarted("one").await;
    let Change::Restarted {
        reason,
        restarts_left,
        ..
    } = seen.change
    else {
        unreachable!("until_restarted returns restarts only")
    };
    assert_eq!(reason, Some(ExitReason::Killed), "killed is abnormal");
    assert_eq!(restarts_left, 9, "and it counts");
    assert_ne!(one.ping().await, first);
    assert_eq!(journal.take(), ["+one", "-one", "+one"]);
}

#[tokio::test]
async fn a_killed_transient_child_comes_back_and_a_temporary_one_does_not() {
    let journal = Journal::default();
    let (transient, temporary) = (Subject::new("tr", &journal), Subject::new("te", &journal));
    let spec = supervisor(Strategy::OneForOne)
        .child(transient.spec().restart(Restart::Transient))
        .child(temporary.spec().restart(Restart::Temporary));
    let mut stage = Stage::open(spec).await;
    let root = stage.root.supervisor();
    root.kill_child("te").await.expect("te runs");
    root.kill_child("tr").await.expect("tr runs");
    stage.until_restarted("tr").await;
    assert_eq!(root.kill_child("te").await, Err(Refusal::NotFound));
}

#[tokio::test]
async fn stopped_stays_stopped_until_somebody_restarts_it() {
    let journal = Journal::default();
    let (one, two) = (Subject::new("one", &journal), Subject::new("two", &journal));
    let spec = supervisor(Strategy::OneForOne)
        .child(one.spec())
        .child(two.spec());
    let mut stage = Stage::open(spec).await;
    let root = stage.root.supervisor();
    root.terminate_child("one").await.expect("one runs");
    assert!(matches!(
        one.address.try_send(Order::Panic),
        Err(TrySendError::NotRunning(_))
    ));
    two.tell(Order::Panic);
    stage.until_restarted("two").await;
    assert_eq!(
        root.which_children().await.expect("it runs")[0].state,
        NodeState::Stopped
    );
    root.restart_child("one").await.expect("one is down");
    one.ping().await;
    assert_eq!(root.restart_child("one").await, Err(Refusal::Running));
    root.terminate_child("one").await.expect("one runs");
    root.delete_child("one").await.expect("one is down");
    assert_eq!(root.restart_child("one").await, Err(Refusal::NotFound));
    assert_eq!(
        journal.take(),
        ["+one", "+two", "-one", "-two", "+two", "+one", "-one"]
    );
}

#[tokio::test]
async fn a_child_added_later_stops_first() {
    let journal = Journal::default();
    let (one, two) = (Subject::new("one", &journal), Subject::new("two", &journal));
    let stage = Stage::open(supervisor(Strategy::OneForOne).child(one.spec())).await;
    let root = stage.root.supervisor();
    root.start_child(two.spec()).await.expect("two is new");
    assert_eq!(
        root.start_child(two.spec()).await,
        Err(Refusal::AlreadyStarted)
    );
    root.terminate_child("two").await.expect("two runs");
    assert_eq!(
        root.start_child(two.spec()).await,
        Err(Refusal::AlreadyPresent)
    );
    root.restart_child("two").await.expect("two is down");
    journal.take();
    stage.shut_down().await;
    assert_eq!(journal.take(), ["-two", "-one"]);
    assert_eq!(
        root.start_child(two.spec()).await,
        Err(Refusal::SupervisorDown)
    );
}

#[tokio::test]
async fn a_child_that_does_not_start_is_not_kept() {
    let journal = Journal::default();
    let one = Subject::new("one", &journal);
    let stage = Stage::open(supervisor(Strategy::OneForOne)).await;
    let root = stage.root.supervisor();
    journal.fail_start("one", 1);
    let refused = Refusal::StartFailed(StartError::new("told to fail"));
    assert_eq!(root.start_child(one.spec()).await, Err(refused));
    assert_eq!(root.count_children().await.expect("it runs").specs, 0);
    root.start_child(one.spec())
        .await
        .expect("it may start now");
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_answers_while_a_child_is_in_backoff() {
    let journal = Journal::default();
    let one = Subject::new("one", &journal);
    let day = Duration::from_secs(24 * 3600);
    let backoff = Backoff {
        first: day,
        longest: day,
        stable_after: day,
    };
    let spec = supervisor(Strategy::OneForAll)
        .backoff(backoff)
        .child(one.spec());
    let mut stage = Stage::open(spec).await;
    one.tell(Order::Panic);
    stage.until_restarted("one").await;
    one.tell(Order::Panic);
    stage.until_exited("one").await;
    let root = stage.root.supervisor();
    let began = tokio::time::Instant::now();
    assert_eq!(
        root.which_children().await.expect("it runs")[0].state,
        NodeState::BackingOff
    );
    root.terminate_child("one")
        .await
        .expect("it waits for its restart");
    assert_eq!(
        root.which_children().await.expect("it runs")[0].state,
        NodeState::Stopped
    );
    root.restart_child("one").await.expect("it is down");
    one.ping().await;
    one.tell(Order::Panic);
    stage.until_exited("one").await;
    stage.shut_down().await;
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "nobody waited for the backoff"
    );
    assert_eq!(journal.alive(), 0);
}

#[tokio::test]
async fn a_renewed_child_starts_afresh_and_does_not_count() {
    let journal = Journal::default();
    let one = Subject::new("one", &journal);
    let spec = supervisor(Strategy::OneForOne).intensity(0, Duration::from_secs(5));
    let mut stage = Stage::open(spec.child(one.spec())).await;
    let first = one.ping().await;
    stage
        .root
        .supervisor()
        .renew_child("one")
        .await
        .expect("one runs");
    stage.until_restarted("one").await;
    assert_ne!(one.ping().await, first);
}

#[tokio::test]
async fn a_dynamic_supervisor_counts_and_forgets() {
    let journal = Journal::default();
    let agents = SupervisorSpec::dynamic("agents").children_max(2);
    let handle = agents.handle();
    let stage = Stage::open(supervisor(Strategy::OneForOne).child(agents.into_child())).await;
    let (a, b, c) = (
        Subject::new("a", &journal),
        Subject::new("b", &journal),
        Subject::new("c", &journal),
    );
    handle.start_child(a.spec()).await.expect("there is room");
    handle.start_child(b.spec()).await.expect("there is room");
    assert_eq!(
        handle.start_child(c.spec()).await,
        Err(Refusal::AtCapacity(2))
    );
    handle.terminate_child("a").await.expect("a runs");
    assert_eq!(handle.restart_child("a").await, Err(Refusal::NotFound));
    handle
        .start_child(c.spec())
        .await
        .expect("there is room again");
    let count = handle.count_children().await.expect("it runs");
    assert_eq!(
        (count.specs, count.active, count.workers, count.supervisors),
        (2, 2, 2, 0)
    );
    let kinds = stage
        .root
        .supervisor()
        .which_children()
        .await
        .expect("it runs");
    assert_eq!(kinds[0].kind, ChildKind::Supervisor);
    stage.shut_down().await;
    assert_eq!(journal.alive(), 0);
}
