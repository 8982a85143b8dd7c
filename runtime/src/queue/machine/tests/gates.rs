//! Gates: who passes, who waits, and that nobody waits for ever.

use std::time::Duration;

use super::world::{KINDS, World, worker};
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::queue::control::QueueLimits;
use crate::queue::error::AdmitError;
use crate::queue::explain::Cause;
use crate::queue::rules::{Rate, Resource, Rules};
use crate::queue::task::{Lane, Lease, NewTask, TaskState, TaskTerms};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn world(rules: Rules) -> World {
    let mut world = World::new(QueueLimits {
        max_size: 1_000_000,
        ..QueueLimits::default()
    });
    world.turn(|control| control.rules = rules);
    world.settle();
    world
}

fn gpus(slots: u64) -> Rules {
    let mut rules = Rules::default();
    rules
        .resources
        .insert("gpu".to_owned(), Resource::Slots(slots));
    rules
}

fn needing(kind: &str, gpus: u64) -> NewTask {
    let mut terms = TaskTerms::default();
    terms.needs.insert("gpu".to_owned(), gpus);
    NewTask {
        terms: Some(Box::new(terms)),
        ..NewTask::new(kind, Json::null())
    }
}

fn keyed(key: &str) -> NewTask {
    let terms = TaskTerms {
        concurrency_key: Some(key.to_owned()),
        ..TaskTerms::default()
    };
    NewTask {
        terms: Some(Box::new(terms)),
        ..NewTask::new("a", Json::null())
    }
}

fn held(lease: &Lease) -> (TaskId, Epoch) {
    (lease.task.id, lease.epoch)
}

fn accepted(world: &mut World, task: NewTask) -> TaskId {
    let id = world.submit(task).expect("room");
    world.settle();
    id
}

#[test]
fn a_key_at_its_limit_does_not_hold_up_others_behind_it() {
    let mut world = world(Rules {
        default_limit: Some(1),
        ..Rules::default()
    });
    let first = accepted(&mut world, keyed("x"));
    let second = accepted(&mut world, keyed("x"));
    let other = accepted(&mut world, keyed("y"));
    let plain = world.accepted();
    let lease = world.claim().expect("claimable");
    assert_eq!(lease.task.id, first);
    assert_eq!(world.claim().map(|lease| lease.task.id), Some(other));
    assert_eq!(world.claim().map(|lease| lease.task.id), Some(plain));
    assert!(world.claim().is_none());
    world.complete(held(&lease)).expect("held");
    world.settle();
    assert_eq!(world.claim().map(|lease| lease.task.id), Some(second));
}

#[test]
fn however_a_lease_ends_its_units_come_back_once() {
    type Ending = fn(&mut World, (TaskId, Epoch));
    let endings: [Ending; 8] = [
        |w, l| w.complete(l).expect("held"),
        |w, l| assert!(w.fail(l, true).is_ok()),
        |w, l| assert!(w.fail(l, false).is_ok()),
        |w, l| w.release(l).expect("held"),
        |w, l| w.suspend(l, Vec::new()).expect("held"),
        |w, _| w.pass(MINUTE),
        |w, _| assert_eq!(w.machine.reclaim("w", w.now), 1),
        |w, _| w.restart(9),
    ];
    for (row, end) in endings.into_iter().enumerate() {
        let mut world = world(gpus(2));
        accepted(&mut world, needing("a", 2));
        let lease = world.claim().expect("claimable");
        world.settle();
        let free = |world: &World| world.machine.gates(9, world.now)["resource/gpu"].free;
        assert_eq!(free(&world), Some(0));
        end(&mut world, held(&lease));
        world.hand_over(Vec::new());
        world.settle();
        world.check();
        assert_eq!(free(&world), Some(2), "row {row}");
        assert!(world.complete(held(&lease)).is_err() || row == 0);
        assert_eq!(free(&world), Some(2), "row {row}, a late holder");
    }
}

#[test]
fn what_can_never_be_met_is_refused_at_once() {
    let mut world = world(gpus(2));
    for (task, words) in [
        (needing("a", 3), "of which there are 2 in all"),
        (needing("a", 0), "leave it out"),
    ] {
        match world.submit(task) {
            Err(AdmitError::Invalid(problems)) => {
                assert!(problems[0].contains(words), "{problems:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    world.turn(|control| control.rules = Rules::default());
    assert!(matches!(
        world.submit(needing("a", 1)),
        Err(AdmitError::Invalid(_))
    ));
}

#[test]
fn changed_limits_count_at_once_and_spare_who_runs() {
    let mut world = world(gpus(1));
    for _ in 0..3 {
        accepted(&mut world, needing("a", 1));
    }
    let first = world.claim().expect("one slot");
    assert!(world.claim().is_none());
    world.turn(|control| control.rules = gpus(2));
    world.settle();
    let second = world.claim().expect("a second slot");
    world.turn(|control| control.rules = gpus(1));
    world.settle();
    world.complete(held(&first)).expect("held");
    world.settle();
    assert!(world.claim().is_none(), "one executes, and one may");
    world.complete(held(&second)).expect("held");
    world.settle();
    assert!(world.claim().is_some());
}

#[test]
fn a_rate_lets_its_burst_pass_and_then_one_after_another_by_itself() {
    let mut rules = Rules::default();
    let rate = Rate {
        units: 1,
        period_ms: 10_000,
        burst: 2,
    };
    rules.rates.insert("mail".to_owned(), rate);
    let mut world = world(rules);
    for _ in 0..5 {
        let terms = TaskTerms {
            rate_key: Some("mail".to_owned()),
            ..TaskTerms::default()
        };
        let task = NewTask {
            terms: Some(Box::new(terms)),
            ..NewTask::new("a", Json::null())
        };
        accepted(&mut world, task);
    }
    let mut started = Vec::new();
    for second in 0..60 {
        while let Some(lease) = world.claim() {
            started.push(second);
            world.complete(held(&lease)).expect("held");
        }
        if second == 15 {
            world.settle();
            world.restart(0);
            world.settle();
        }
        world.pass(SECOND);
    }
    assert_eq!(started, [0, 0, 10, 20, 30]);
}

/// Small tasks of an urgent lane come without end; a low one that needs everything starts.
#[test]
fn a_task_that_needs_much_is_not_starved_by_those_that_need_little() {
    let mut world = world(gpus(4));
    let big = NewTask {
        priority: Lane::Low,
        ..needing("b", 4)
    };
    let big = accepted(&mut world, big);
    let mut running: Vec<(u64, (TaskId, Epoch))> = Vec::new();
    for second in 0..400_u64 {
        let small = NewTask {
            priority: Lane::Critical,
            ..needing("a", 1)
        };
        accepted(&mut world, small.clone());
        accepted(&mut world, small);
        while let Some(lease) = world.claim() {
            if lease.task.id == big {
                assert!(120 <= second, "it has waited for its slack");
                return;
            }
            running.push((second, held(&lease)));
        }
        // Each takes three seconds, so that some are always out.
        running.retain(|(since, lease)| {
            let done = since + 3 <= second;
            if done {
                world.complete(*lease).expect("held");
            }
            !done
        });
        world.settle();
        world.pass(SECOND);
    }
    panic!("starved");
}

#[test]
fn units_are_not_saved_for_a_kind_that_nobody_claims() {
    let mut world = world(gpus(2));
    let lease = {
        accepted(&mut world, needing("a", 1));
        world.claim().expect("claimable")
    };
    let big = NewTask {
        priority: Lane::Critical,
        ..needing("c", 2)
    };
    accepted(&mut world, big);
    let next = accepted(&mut world, needing("a", 1));
    world.pass(SECOND);
    let claimed = world
        .machine
        .claim(&KINDS, &worker("w"), MINUTE, 1, world.now);
    assert_eq!(claimed.first().map(|lease| lease.task.id), Some(next));
    drop(lease);
}

#[test]
fn many_tasks_at_a_closed_gate_are_not_looked_at_by_each_claim() {
    let mut world = world(gpus(1));
    for _ in 0..5_000 {
        world.submit(needing("a", 1)).expect("room");
    }
    world.settle();
    assert_eq!(world.machine.gates.parked() as usize, 5_000 - 16);
    let lease = world.claim().expect("claimable");
    assert!(world.claim().is_none());
    assert_eq!(
        world.machine.gates.parked(),
        4_999,
        "the few in front joined the others"
    );
    let depth: usize = world.machine.backlog.per_lane().iter().sum();
    assert_eq!(depth, 0, "nobody is left to be looked at");
    world.complete(held(&lease)).expect("held");
    let depth: usize = world.machine.backlog.per_lane().iter().sum();
    assert_eq!(depth, 16);
    world.settle();
    assert!(world.claim().is_some());
}

#[test]
fn a_task_that_nobody_started_in_time_is_discarded_and_one_that_started_is_not() {
    let mut world = world(Rules::default());
    let expiring = |world: &World| NewTask {
        terms: Some(Box::new(TaskTerms {
            expires_at: Some(world.now.after(SECOND)),
            ..TaskTerms::default()
        })),
        ..NewTask::new("a", Json::null())
    };
    let (started, late) = (expiring(&world), expiring(&world));
    let started = accepted(&mut world, started);
    let late = accepted(&mut world, late);
    let lease = world.claim().expect("claimable");
    assert_eq!(lease.task.id, started);
    world.pass(2 * SECOND);
    world.settle();
    assert_eq!(world.state(late), Some(TaskState::Discarded));
    let end = world.view(late).and_then(|view| view.end).expect("ended");
    assert!(end.error.is_some_and(|error| error.contains("expired")));
    assert!(!world.retry(late), "its time is over");
    world.release(held(&lease)).expect("held");
    world.settle();
    world.pass(MINUTE);
    assert_eq!(world.claim().map(|lease| lease.task.id), Some(started));
}

#[test]
fn every_reason_to_wait_is_told() {
    let mut world = world(gpus(1));
    let codes = |world: &World, id: TaskId| -> Vec<String> {
        let explanation = world.machine.explain(id, world.now).expect("live");
        let reasons = explanation.reasons.iter();
        reasons
            .map(|reason| {
                assert!(!reason.text.is_empty());
                let json = serde_json::to_value(reason).expect("JSON");
                json["code"].as_str().expect("a code").to_owned()
            })
            .collect()
    };
    let plain = world.submit(NewTask::new("a", Json::null())).expect("room");
    assert_eq!(codes(&world, plain), ["storing"]);
    world.settle();
    assert_eq!(codes(&world, plain), ["no_worker", "position"]);
    world.turn(|control| control.paused = true);
    assert!(world.claim().is_none());
    assert_eq!(codes(&world, plain), ["paused", "position"]);
    world.turn(|control| control.paused = false);
    world.settle();
    let lease = world.claim().expect("claimable");
    assert_eq!(codes(&world, plain), ["leased"]);
    let depends = NewTask {
        depends_on: vec![plain],
        ..NewTask::new("a", Json::null())
    };
    let depends = accepted(&mut world, depends);
    assert_eq!(codes(&world, depends), ["dependency"]);
    let later = NewTask {
        run_at: Some(world.now.after(MINUTE)),
        ..NewTask::new("a", Json::null())
    };
    let later = accepted(&mut world, later);
    assert_eq!(codes(&world, later), ["scheduled"]);
    world.fail(held(&lease), true).expect("held");
    assert_eq!(codes(&world, plain), ["backoff"]);
    accepted(&mut world, needing("a", 1));
    let waits = accepted(&mut world, needing("a", 1));
    world.claim().expect("the first");
    assert!(world.claim().is_none());
    assert_eq!(codes(&world, waits), ["resource"]);
    let explanation = world.machine.explain(waits, world.now).expect("live");
    let Cause::Resource { needs: 1, gate, .. } = &explanation.reasons[0].cause else {
        panic!("{explanation:?}");
    };
    assert_eq!((gate.total, gate.free, gate.parked), (Some(1), Some(0), 1));
}

#[test]
fn nothing_is_saved_for_whoever_can_never_pass() {
    let mut rules = gpus(4);
    rules.resources.insert("lic".to_owned(), Resource::Slots(1));
    let mut world = world(rules);
    let mut both = TaskTerms::default();
    both.needs.insert("gpu".to_owned(), 4);
    both.needs.insert("lic".to_owned(), 1);
    let both = NewTask {
        terms: Some(Box::new(both)),
        ..NewTask::new("a", Json::null())
    };
    accepted(&mut world, both);
    world.turn(|control| {
        control.rules.resources.remove("lic");
    });
    world.settle();
    world.pass(10 * MINUTE);
    assert!(world.claim().is_none());
    let small = accepted(&mut world, needing("a", 1));
    assert_eq!(world.claim().map(|lease| lease.task.id), Some(small));
}
