//! Who is restarted after which end.

use std::time::Duration;

use regrow_runtime::mailbox::Stop;
use regrow_runtime::supervision::{
    Backoff, Change, ExitReason, NodeState, Restart, ShutdownCause, Strategy, SupervisorSpec,
};

use crate::probe_actor::{Journal, Order, Stage, Subject};

fn supervisor(strategy: Strategy) -> SupervisorSpec {
    SupervisorSpec::new("root", strategy)
        .intensity(10, Duration::from_secs(5))
        .backoff(Backoff::OFF)
}

#[tokio::test]
async fn a_panicking_child_is_restarted_alone() {
    let journal = Journal::default();
    let (one, two) = (Subject::new("one", &journal), Subject::new("two", &journal));
    let spec = supervisor(Strategy::OneForOne)
        .child(one.spec())
        .child(two.spec());
    let mut stage = Stage::open(spec).await;
    let (first, other) = (one.ping().await, two.ping().await);
    one.tell(Order::Panic);
    let seen = stage.until_restarted("one").await;
    let Change::Restarted {
        reason,
        restarts,
        restarts_left,
        generation,
        ..
    } = seen.change
    else {
        unreachable!("until_restarted returns restarts only")
    };
    assert_eq!(reason, Some(ExitReason::Panic("boom".into())));
    assert_eq!((generation, restarts, restarts_left), (2, 1, 9));
    assert_ne!(one.ping().await, first);
    assert_eq!(two.ping().await, other);
    let exit = stage.shut_down().await;
    assert!(exit.was_requested());
    assert_eq!(
        journal.take(),
        ["+one", "+two", "-one", "+one", "-two", "-one"]
    );
    assert_eq!(journal.alive(), 0);
}

#[tokio::test]
async fn one_for_all_stops_in_reverse_and_starts_in_order() {
    let journal = Journal::default();
    let subjects = ["a", "b", "c"].map(|name| Subject::new(name, &journal));
    let spec = subjects
        .iter()
        .fold(supervisor(Strategy::OneForAll), |spec, subject| {
            spec.child(subject.spec())
        });
    let mut stage = Stage::open(spec).await;
    subjects[1].tell(Order::Fail);
    stage.until_restarted("c").await;
    assert_eq!(
        journal.take(),
        ["+a", "+b", "+c", "-b", "-c", "-a", "+a", "+b", "+c"]
    );
    stage.shut_down().await;
    assert_eq!(journal.take(), ["-c", "-b", "-a"]);
}

#[tokio::test]
async fn a_transient_child_that_ends_in_order_stays_down() {
    for how in [Stop::Normal, Stop::Shutdown] {
        let journal = Journal::default();
        let subject = Subject::new("one", &journal);
        let spec =
            supervisor(Strategy::OneForOne).child(subject.spec().restart(Restart::Transient));
        let mut stage = Stage::open(spec).await;
        subject.tell(Order::Stop(how));
        let expected = match how {
            Stop::Normal => ExitReason::Normal,
            Stop::Shutdown => ExitReason::Shutdown(ShutdownCause::Requested),
        };
        assert_eq!(stage.until_exited("one").await, expected);
        let children = stage
            .root
            .supervisor()
            .which_children()
            .await
            .expect("it runs");
        assert_eq!(children[0].state, NodeState::Stopped);
        assert_eq!(journal.alive(), 0);
    }
}

#[tokio::test]
async fn a_killed_member_of_a_group_takes_the_later_ones_along() {
    let journal = Journal::default();
    let subjects = ["a", "b", "c"].map(|name| Subject::new(name, &journal));
    let spec = subjects
        .iter()
        .fold(supervisor(Strategy::RestForOne), |spec, subject| {
            spec.child(subject.spec())
        });
    let mut stage = Stage::open(spec).await;
    journal.take();
    stage
        .root
        .supervisor()
        .kill_child("b")
        .await
        .expect("b runs");
    stage.until_restarted("c").await;
    assert_eq!(journal.take(), ["-b", "-c", "+b", "+c"]);
}

#[tokio::test]
async fn a_failed_restart_is_tried_again_until_the_intensity_is_used_up() {
    let journal = Journal::default();
    let one = Subject::new("one", &journal);
    let spec = supervisor(Strategy::OneForOne).intensity(3, Duration::from_secs(5));
    let mut stage = Stage::open(spec.child(one.spec())).await;
    journal.fail_start("one", 2);
    one.tell(Order::Panic);
    let seen = stage.until_restarted("one").await;
    let Change::Restarted {
        restarts,
        restarts_left,
        ..
    } = seen.change
    else {
        unreachable!("until_restarted returns restarts only")
    };
    assert_eq!((restarts, restarts_left), (3, 0));
    one.tell(Order::Panic);
    let exit = stage.root.exited().await;
    assert!(!exit.was_requested());
    assert_eq!(
        journal.take(),
        ["+one", "-one", "!one", "!one", "+one", "-one"]
    );
}

/// The reason why a restart waits for the old task and not for the news of its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_state_is_gone_before_its_successor_starts() {
    for end in [Order::Panic, Order::Fail, Order::Stop(Stop::Normal)] {
        let journal = Journal::default();
        let one = Subject::new("one", &journal);
        let mut stage = Stage::open(supervisor(Strategy::OneForOne).child(one.spec())).await;
        one.tell(Order::Linger(Duration::from_millis(30)));
        one.tell(end);
        stage.until_restarted("one").await;
        assert_eq!(journal.take(), ["+one", "-one", "+one"]);
    }
}

#[tokio::test(start_paused = true)]
async fn last_words_that_never_end_do_not_delay_a_restart_for_ever() {
    let journal = Journal::default();
    let one = Subject::new("one", &journal).stop_takes(Duration::from_secs(3600));
    let mut stage = Stage::open(supervisor(Strategy::OneForOne).child(one.spec())).await;
    let began = tokio::time::Instant::now();
    one.tell(Order::Fail);
    let reason = stage.until_exited("one").await;
    assert_eq!(
        reason,
        ExitReason::Error("bad input".into()),
        "not the cut, but its cause"
    );
    stage.until_restarted("one").await;
    assert_eq!(began.elapsed().as_secs(), 5);
    assert_eq!(journal.take(), ["+one", "-one", "+one"]);
}
