//! Requests and their refusals, ends that take their time, significant children, shutdown.

use super::*;

#[test]
fn a_child_in_backoff_can_be_terminated_and_then_restarted_or_deleted() {
    let backoff = Backoff {
        first: Duration::from_secs(1),
        ..Backoff::default()
    };
    let mut stage = Stage::open(spec(Strategy::OneForOne).backoff(backoff), &abc());
    stage.exits("a", error());
    stage.exits("a", error());
    assert_eq!(
        stage.ask(Request::Restart("a".into())),
        Some(Err(Refusal::Restarting))
    );
    assert_eq!(
        stage.ask(Request::Delete("a".into())),
        Some(Err(Refusal::Restarting))
    );
    assert_eq!(
        stage.ask(Request::Kill("a".into())),
        Some(Err(Refusal::NotRunning))
    );
    stage.log();
    assert_eq!(stage.ask(Request::Terminate("a".into())), Some(Ok(())));
    stage.pass(Duration::from_secs(60));
    assert!(stage.log().is_empty(), "terminated means not restarted");
    assert_eq!(stage.ask(Request::Restart("a".into())), Some(Ok(())));
    assert_eq!(stage.log(), ["+a"]);
    stage.ask(Request::Terminate("a".into()));
    assert_eq!(stage.ask(Request::Delete("a".into())), Some(Ok(())));
    assert_eq!(
        stage.ask(Request::Terminate("a".into())),
        Some(Err(Refusal::NotFound))
    );
}

#[test]
fn when_the_cause_of_a_groups_backoff_is_terminated_the_others_start() {
    let backoff = Backoff {
        first: Duration::from_secs(1),
        ..Backoff::default()
    };
    let mut stage = Stage::open(spec(Strategy::OneForAll).backoff(backoff), &abc());
    stage.exits("b", error());
    stage.exits("b", error());
    stage.log();
    stage.ask(Request::Terminate("b".into()));
    assert_eq!(stage.log(), ["+a", "+c"]);
    assert_eq!(stage.state("b"), Some(NodeState::Stopped));
}

#[test]
fn requests_are_refused_as_otp_refuses_them() {
    let mut stage = Stage::open(spec(Strategy::OneForOne), &abc());
    let start = |spec: ChildSpec| Request::Start(Arc::new(spec));
    assert_eq!(
        stage.ask(start(child("a"))),
        Some(Err(Refusal::AlreadyStarted))
    );
    assert_eq!(
        stage.ask(Request::Restart("a".into())),
        Some(Err(Refusal::Running))
    );
    assert_eq!(
        stage.ask(Request::Delete("a".into())),
        Some(Err(Refusal::Running))
    );
    stage.ask(Request::Terminate("a".into()));
    assert_eq!(
        stage.ask(start(child("a"))),
        Some(Err(Refusal::AlreadyPresent))
    );
    let significant = child("d").restart(Restart::Transient).significant();
    let refused = SpecError::SignificantWithoutAutoShutdown("d".into());
    assert_eq!(
        stage.ask(start(significant)),
        Some(Err(Refusal::Invalid(refused)))
    );
    for request in [
        Request::Terminate("z".into()),
        Request::Restart("z".into()),
        Request::Delete("z".into()),
        Request::Kill("z".into()),
        Request::Renew("z".into()),
    ] {
        assert_eq!(stage.ask(request), Some(Err(Refusal::NotFound)));
    }
}

#[test]
fn a_new_child_that_fails_to_start_is_discarded_and_not_counted() {
    let mut stage = Stage::open(spec(Strategy::OneForOne), &abc());
    stage.failing = vec!["d"];
    let refused = Refusal::StartFailed(StartError::new("no"));
    let start = Request::Start(Arc::new(child("d")));
    assert_eq!(stage.ask(start.clone()), Some(Err(refused)));
    assert_eq!(stage.state("d"), None);
    assert_eq!(stage.engine.intensity.left(stage.now), 3);
    assert_eq!(stage.ask(start), Some(Ok(())));
}

#[test]
fn a_child_added_during_a_group_restart_starts_in_its_turn() {
    let backoff = Backoff {
        first: Duration::from_secs(1),
        ..Backoff::default()
    };
    let mut stage = Stage::open(spec(Strategy::OneForAll).backoff(backoff), &abc());
    stage.exits("b", error());
    stage.exits("b", error());
    stage.log();
    assert_eq!(
        stage.ask(Request::Start(Arc::new(child("d")))),
        None,
        "it has to wait"
    );
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.log(), ["+a", "+b", "+c", "+d"]);
    assert_eq!(stage.replies.values().last(), Some(&Ok(())));
}

#[test]
fn a_child_that_ignores_its_grace_is_killed_and_one_that_survives_is_abandoned() {
    let grace = Shutdown::Timeout(Duration::from_secs(2));
    let mut stage = Stage::open(spec(Strategy::OneForOne), &[child("a").shutdown(grace)]);
    stage.stubborn = vec!["a"];
    stage.log();
    assert_eq!(stage.ask(Request::Terminate("a".into())), None);
    stage.pass(Duration::from_secs(2));
    assert_eq!(stage.log(), ["x a"]);
    assert_eq!(stage.replies[&0], Ok(()));

    stage.ask(Request::Restart("a".into()));
    stage.stuck = vec!["a"];
    let abandoned = stage.lives["a"];
    assert_eq!(stage.ask(Request::Kill("a".into())), None);
    stage.log();
    stage.pass(Duration::from_secs(5));
    let left_behind = Change::Abandoned {
        generation: abandoned.generation,
    };
    assert!(
        stage
            .notices
            .iter()
            .any(|notice| notice.change == left_behind)
    );
    assert_eq!(stage.log(), ["+a"], "a killed permanent child comes back");
    let commands = stage
        .engine
        .on(Event::Exited(abandoned, ExitReason::Killed), stage.now);
    assert_eq!(commands, [], "the end of an abandoned life changes nothing");
    assert_eq!(stage.state("a"), Some(NodeState::Running));
}

#[test]
fn brutal_children_are_killed_and_infinite_ones_waited_for() {
    let children = [
        child("a").shutdown(Shutdown::Infinity),
        child("b").shutdown(Shutdown::Brutal),
    ];
    let mut stage = Stage::open(spec(Strategy::OneForOne), &children);
    stage.stubborn = vec!["a"];
    stage.log();
    stage.on(Event::Stop);
    assert_eq!(stage.log(), ["x b"]);
    stage.pass(Duration::from_secs(1_000_000));
    assert_eq!(stage.exit, None);
    stage.exits("a", ExitReason::Normal);
    assert_eq!(stage.exit, Some(SHUTDOWN));
}

#[test]
fn a_start_that_takes_too_long_is_called_off_and_counts() {
    let mut stage = Stage::open(spec(Strategy::OneForOne), &[child("a")]);
    stage.slow = vec!["a"];
    stage.exits("a", error());
    stage.slow.clear();
    stage.log();
    stage.pass(Duration::from_secs(60));
    assert_eq!(stage.log(), ["x a", "+a"]);
    assert_eq!(
        stage.engine.intensity.left(stage.now),
        2,
        "the first crash is long forgotten"
    );
}

#[test]
fn a_start_that_comes_through_after_it_was_called_off_is_ended() {
    let mut stage = Stage::open(spec(Strategy::OneForOne), &[]);
    stage.slow = vec!["a"];
    stage.stuck = vec!["a"];
    assert_eq!(stage.ask(Request::Start(Arc::new(child("a")))), None);
    assert_eq!(stage.ask(Request::Terminate("a".into())), None);
    let cancelled = Refusal::StartFailed(StartError::Cancelled);
    assert_eq!(stage.replies[&0], Err(cancelled));
    let life = stage.lives["a"];
    assert!(stage.engine.awaits_start(life));
    stage.on(Event::Started(life));
    assert_eq!(stage.log(), ["-a"]);
    assert_eq!(stage.replies[&1], Ok(()));
}

#[test]
fn significant_children_take_their_supervisor_along() {
    let significant = |id: &str| child(id).restart(Restart::Transient).significant();
    let children = [significant("a"), significant("b"), child("c")];
    let any = spec(Strategy::OneForOne).auto_shutdown(AutoShutdown::AnySignificant);
    let mut stage = Stage::open(any, &children);
    stage.exits("a", error());
    assert_eq!(stage.exit, None, "an abnormal end restarts it");
    stage.ask(Request::Terminate("b".into()));
    assert_eq!(stage.exit, None, "an ordered end does not count");
    stage.log();
    stage.exits("a", ExitReason::Normal);
    assert_eq!(stage.log(), ["-c"]);
    let cause = ShutdownCause::SignificantEnded("a".into());
    assert_eq!(stage.exit, Some(ExitReason::Shutdown(cause)));

    let all = spec(Strategy::OneForOne).auto_shutdown(AutoShutdown::AllSignificant);
    let mut stage = Stage::open(all, &children);
    stage.exits("a", ExitReason::Normal);
    assert_eq!(stage.exit, None, "b still runs");
    stage.exits("b", SHUTDOWN);
    assert!(stage.exit.is_some());
}

#[test]
fn a_significant_member_stopped_with_its_group_does_not_count() {
    let children = [
        child("a"),
        child("b").restart(Restart::Temporary).significant(),
    ];
    let any = spec(Strategy::OneForAll).auto_shutdown(AutoShutdown::AnySignificant);
    let mut stage = Stage::open(any, &children);
    stage.log();
    stage.exits("a", error());
    assert_eq!(stage.log(), ["-b", "+a"]);
    assert_eq!(stage.exit, None);
}

#[test]
fn a_renewed_child_comes_back_without_being_counted() {
    let mut stage = Stage::open(spec(Strategy::OneForOne), &abc());
    stage.log();
    assert_eq!(stage.ask(Request::Renew("b".into())), Some(Ok(())));
    assert_eq!(stage.log(), ["-b", "+b"]);
    assert_eq!(stage.engine.intensity.left(stage.now), 3);
}

#[test]
fn a_dynamic_supervisor_forgets_who_ends_for_good_and_stops_all_at_once() {
    let dynamic = SupervisorSpec::dynamic("sup")
        .children_max(3)
        .backoff(Backoff::OFF);
    let mut stage = Stage::open(dynamic, &[]);
    for id in ["a", "b", "c"] {
        let spec = child(id).restart(Restart::Transient);
        assert_eq!(stage.ask(Request::Start(Arc::new(spec))), Some(Ok(())));
    }
    let refused = stage.ask(Request::Start(Arc::new(child("d"))));
    assert_eq!(refused, Some(Err(Refusal::AtCapacity(3))));
    stage.exits("a", ExitReason::Normal);
    assert_eq!(stage.state("a"), None);
    assert_eq!(
        stage.ask(Request::Start(Arc::new(child("d")))),
        Some(Ok(()))
    );
    stage.ask(Request::Terminate("b".into()));
    assert_eq!(stage.state("b"), None);
    stage.stubborn = vec!["d"];
    stage.log();
    stage.on(Event::Stop);
    assert_eq!(stage.log(), ["-c"], "c need not wait for d");
    stage.exits("d", SHUTDOWN);
    assert_eq!(stage.exit, Some(SHUTDOWN));
}

#[test]
fn a_shutdown_in_the_middle_of_a_group_restart_starts_nobody() {
    let mut stage = Stage::open(spec(Strategy::OneForAll), &abc());
    stage.slow = vec!["b"];
    stage.exits("c", error());
    stage.log();
    stage.on(Event::Stop);
    assert_eq!(stage.log(), ["x b", "-a"]);
    assert_eq!(stage.exit, Some(SHUTDOWN));
}

#[test]
fn a_killed_supervisor_kills_all_its_children_first() {
    let mut stage = Stage::open(spec(Strategy::OneForOne), &abc());
    stage.stubborn = vec!["c"];
    stage.on(Event::Stop);
    stage.log();
    stage.on(Event::Kill);
    assert_eq!(stage.log(), ["x c", "x b", "x a"]);
    assert_eq!(stage.exit, Some(ExitReason::Killed));
}

#[test]
fn a_child_that_chooses_not_to_start_is_no_failure() {
    let mut stage = Stage::closed(spec(Strategy::OneForOne), &abc());
    stage.slow = vec!["b"];
    stage.on(Event::Boot);
    stage.on(Event::StartFailed(stage.lives["b"], StartError::Ignored));
    assert_eq!(stage.log(), ["+a", "+c"]);
    assert_eq!(stage.state("b"), Some(NodeState::Stopped));
}
