//! Who comes back after which end, in which order and after how long, and when the
//! supervisor gives up.

use super::*;

#[test]
fn children_start_in_order_and_stop_in_reverse() {
    let mut stage = Stage::open(spec(Strategy::OneForOne), &abc());
    stage.on(Event::Stop);
    assert_eq!(stage.log(), ["+a", "+b", "+c", "-c", "-b", "-a"]);
    assert_eq!(stage.exit, Some(SHUTDOWN));
}

#[test]
fn a_failed_first_start_stops_those_already_started_and_fails_the_supervisor() {
    let mut stage = Stage::closed(spec(Strategy::OneForOne), &abc());
    stage.failing = vec!["c"];
    stage.on(Event::Boot);
    assert_eq!(stage.log(), ["+a", "+b", "!c", "-b", "-a"]);
    assert_eq!(
        stage.exit,
        Some(ExitReason::Error("child `c` failed to start: no".into()))
    );
}

#[test]
fn restart_types_follow_otps_table() {
    let reasons = [ExitReason::Normal, SHUTDOWN, ExitReason::Killed, error()];
    let panic = ExitReason::Panic("boom".into());
    for reason in reasons.into_iter().chain([panic]) {
        for (restart, restarts) in [
            (Restart::Permanent, true),
            (Restart::Transient, reason.is_abnormal()),
            (Restart::Temporary, false),
        ] {
            let mut stage = Stage::open(spec(Strategy::OneForOne), &[child("a").restart(restart)]);
            stage.exits("a", reason.clone());
            let expected: &[&str] = if restarts { &["+a", "+a"] } else { &["+a"] };
            assert_eq!(stage.log(), expected, "{restart:?} child, {reason}");
            let state = match restart {
                _ if restarts => Some(NodeState::Running),
                Restart::Permanent | Restart::Transient => Some(NodeState::Stopped),
                Restart::Temporary => None,
            };
            assert_eq!(stage.state("a"), state, "{restart:?} child, {reason}");
        }
    }
}

#[test]
fn strategies_restart_whom_otp_restarts() {
    for (strategy, after_b) in [
        (Strategy::OneForOne, &["+b"][..]),
        (Strategy::OneForAll, &["-c", "-a", "+a", "+b", "+c"]),
        (Strategy::RestForOne, &["-c", "+b", "+c"]),
    ] {
        let mut stage = Stage::open(spec(strategy), &abc());
        stage.log();
        stage.exits("b", error());
        assert_eq!(stage.log(), after_b, "{strategy:?}");
    }
}

#[test]
fn members_that_fall_while_their_group_stops_cause_no_second_restart() {
    let mut stage = Stage::open(spec(Strategy::OneForAll), &abc());
    stage.stubborn = vec!["c"];
    stage.exits("b", error());
    stage.exits("a", error());
    stage.stubborn.clear();
    stage.log();
    stage.exits("c", error());
    assert_eq!(stage.log(), ["+a", "+b", "+c"]);
    assert_eq!(
        stage.engine.intensity.left(stage.now),
        2,
        "one restart was counted"
    );
}

#[test]
fn a_group_restart_removes_temporary_members_and_starts_those_that_had_finished() {
    let children = [
        child("a").restart(Restart::Transient),
        child("b").restart(Restart::Temporary),
        child("c"),
    ];
    let mut stage = Stage::open(spec(Strategy::OneForAll), &children);
    stage.exits("a", ExitReason::Normal);
    stage.log();
    stage.exits("c", error());
    assert_eq!(stage.log(), ["-b", "+a", "+c"]);
    assert_eq!(stage.state("b"), None);
}

#[test]
fn a_start_that_fails_in_a_group_restart_counts_and_restarts_the_group_from_there() {
    for (strategy, expected) in [
        (
            Strategy::OneForAll,
            &["-c", "-a", "+a", "!b", "-a", "+a", "+b", "+c"][..],
        ),
        (Strategy::RestForOne, &["-c", "!b", "+b", "+c"]),
    ] {
        let mut stage = Stage::open(spec(strategy), &abc());
        stage.log();
        stage.failing = vec!["b"];
        stage.exits("b", error());
        assert_eq!(stage.log(), expected, "{strategy:?}");
        assert_eq!(
            stage.engine.intensity.left(stage.now),
            1,
            "two restarts were counted"
        );
    }
}

#[test]
fn in_rest_for_one_a_later_start_that_fails_leaves_the_earlier_ones_alone() {
    let mut stage = Stage::open(spec(Strategy::RestForOne), &abc());
    stage.log();
    stage.failing = vec!["c"];
    stage.exits("a", error());
    assert_eq!(stage.log(), ["-c", "-b", "+a", "+b", "!c", "+c"]);
}

#[test]
fn an_earlier_failure_during_a_group_restart_widens_it() {
    let mut stage = Stage::open(spec(Strategy::RestForOne), &abc());
    stage.log();
    stage.slow = vec!["b"];
    stage.exits("b", error());
    assert_eq!(stage.state("c"), Some(NodeState::Restarting));
    stage.slow.clear();
    stage.exits("a", error());
    assert_eq!(stage.log(), ["-c", "x b", "+a", "+b", "+c"]);
    assert_eq!(stage.engine.intensity.left(stage.now), 1);
}

#[test]
fn one_restart_too_many_shuts_the_supervisor_down_in_order() {
    let mut stage = Stage::open(spec(Strategy::OneForOne), &abc());
    for _ in 0..3 {
        stage.exits("b", error());
    }
    stage.log();
    stage.exits("b", error());
    assert_eq!(stage.log(), ["-c", "-a"]);
    let Some(ExitReason::Shutdown(ShutdownCause::IntensityReached(report))) = &stage.exit else {
        panic!("it gave up, but: {:?}", stage.exit)
    };
    assert_eq!((report.child.as_str(), &report.reason), ("b", &error()));
}

#[test]
fn restarts_are_counted_for_all_children_together_and_forgotten_after_the_period() {
    let mut stage = Stage::open(spec(Strategy::OneForOne), &abc());
    for name in ["a", "b", "c"] {
        stage.exits(name, error());
    }
    stage.pass(Duration::from_millis(5001));
    stage.exits("a", error());
    assert_eq!(stage.exit, None);
    for name in ["a", "b", "c"] {
        stage.exits(name, error());
    }
    assert!(stage.exit.is_some());
}

#[test]
fn a_start_that_keeps_failing_uses_up_the_intensity() {
    let mut stage = Stage::open(spec(Strategy::OneForOne), &[child("a")]);
    stage.failing = vec!["a"; 9];
    stage.exits("a", error());
    assert_eq!(stage.log(), ["+a", "!a", "!a", "!a"]);
    assert!(stage.exit.is_some());
}

#[test]
fn an_exit_during_the_boot_is_dealt_with_after_it() {
    let mut stage = Stage::closed(spec(Strategy::OneForOne), &abc());
    stage.slow = vec!["b"];
    stage.on(Event::Boot);
    stage.exits("a", error());
    assert_eq!(stage.log(), ["+a"]);
    stage.on(Event::Started(stage.lives["b"]));
    assert_eq!(stage.log(), ["+c", "+a"]);
}

#[test]
fn backoff_delays_the_second_restart_and_a_stable_run_forgives() {
    let backoff = Backoff {
        first: Duration::from_millis(100),
        longest: Duration::from_secs(1),
        stable_after: Duration::from_secs(10),
    };
    let policy = spec(Strategy::OneForOne)
        .intensity(100, Duration::from_secs(1))
        .backoff(backoff);
    let mut stage = Stage::open(policy, &[child("a")]);
    stage.exits("a", error());
    assert_eq!(stage.log(), ["+a", "+a"], "the first restart is immediate");
    stage.exits("a", error());
    assert_eq!(stage.state("a"), Some(NodeState::BackingOff));
    stage.pass(Duration::from_millis(49));
    assert!(
        stage.log().is_empty(),
        "jitter never shortens the delay below half"
    );
    stage.pass(Duration::from_millis(51));
    assert_eq!(stage.log(), ["+a"]);
    stage.pass(Duration::from_secs(10));
    stage.exits("a", error());
    assert_eq!(stage.log(), ["+a"], "it had been stable");
}

#[test]
fn during_a_groups_backoff_no_member_runs() {
    let backoff = Backoff {
        first: Duration::from_secs(1),
        ..Backoff::default()
    };
    let mut stage = Stage::open(spec(Strategy::OneForAll).backoff(backoff), &abc());
    stage.exits("b", error());
    stage.log();
    stage.exits("b", error());
    assert_eq!(stage.log(), ["-c", "-a"]);
    assert_eq!(stage.state("b"), Some(NodeState::BackingOff));
    assert_eq!(stage.state("a"), Some(NodeState::Restarting));
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.log(), ["+a", "+b", "+c"]);
}
