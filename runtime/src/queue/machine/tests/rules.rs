//! Each transition by itself, and each mistake that was once made.

use std::time::Duration;

use super::world::World;
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::queue::control::QueueLimits;
use crate::queue::error::{AdmitError, LeaseError};
use crate::queue::task::{Lease, NewChild, NewTask, TaskState};

const MINUTE: Duration = Duration::from_secs(60);

fn world() -> World {
    World::new(QueueLimits::default())
}

fn task() -> NewTask {
    NewTask::new("a", Json::null())
}

fn child() -> NewChild {
    NewChild {
        task: task(),
        after: Vec::new(),
    }
}

fn held(lease: &Lease) -> (TaskId, Epoch) {
    (lease.task.id, lease.epoch)
}

/// A parent that waits for `count` children, which are claimable.
fn family(world: &mut World, count: usize) -> (TaskId, Vec<TaskId>) {
    let parent = world.accepted();
    let lease = world.claim().expect("claimable");
    let before = world.known.len();
    let children = (0..count).map(|_| child()).collect();
    world.suspend(held(&lease), children).expect("held");
    world.settle();
    (parent, world.known[before..].to_vec())
}

#[test]
fn a_task_is_claimable_only_after_its_commit() {
    let mut world = world();
    let id = world.submit(task()).expect("room");
    assert!(world.claim().is_none());
    world.settle();
    assert_eq!(world.claim().map(|lease| lease.task.id), Some(id));
}

#[test]
fn each_outcome_of_a_lease_leads_where_it_should() {
    type Outcome = fn(&mut World, (TaskId, Epoch));
    let table: [(&str, Outcome, TaskState); 8] = [
        (
            "complete",
            |w, l| w.complete(l).expect("held"),
            TaskState::Completed,
        ),
        (
            "fail",
            |w, l| assert!(w.fail(l, true).is_ok()),
            TaskState::Retryable,
        ),
        (
            "give up",
            |w, l| assert!(w.fail(l, false).is_ok()),
            TaskState::Discarded,
        ),
        (
            "release",
            |w, l| w.release(l).expect("held"),
            TaskState::Available,
        ),
        ("expire", |w, _| w.pass(MINUTE), TaskState::Available),
        (
            "suspend",
            |w, l| w.suspend(l, vec![child()]).expect("held"),
            TaskState::Waiting,
        ),
        (
            "suspend alone",
            |w, l| w.suspend(l, vec![]).expect("held"),
            TaskState::Available,
        ),
        (
            "ask to stop",
            |w, l| assert!(w.cancel(l.0).is_some()),
            TaskState::Executing,
        ),
    ];
    for (name, outcome, expected) in table {
        let mut world = world();
        let id = world.accepted();
        let lease = held(&world.claim().expect("claimable"));
        outcome(&mut world, lease);
        world.settle();
        world.check();
        assert_eq!(world.state(id), Some(expected), "{name}");
    }
}

#[test]
fn a_holder_that_was_asked_to_stop_ends_the_task_however_it_lets_go() {
    type LettingGo = fn(&mut World, (TaskId, Epoch));
    let table: [LettingGo; 4] = [
        |w, l| assert!(w.fail(l, true).is_ok()),
        |w, l| w.release(l).expect("held"),
        |w, l| w.suspend(l, vec![child()]).expect("held"),
        |w, _| w.pass(MINUTE),
    ];
    for (row, let_go) in table.into_iter().enumerate() {
        for late in [false, true] {
            let mut world = world();
            let deadline = late.then(|| world.now.after(Duration::from_secs(5)));
            let id = world.submit(NewTask { deadline, ..task() }).expect("room");
            world.settle();
            let lease = held(&world.claim().expect("claimable"));
            match late {
                true => world.pass(Duration::from_secs(6)),
                false => assert!(world.cancel(id).is_some()),
            }
            let_go(&mut world, lease);
            world.settle();
            world.check();
            let ended = if late {
                TaskState::Discarded
            } else {
                TaskState::Cancelled
            };
            assert_eq!(world.state(id), Some(ended), "row {row}, late {late}");
            assert_eq!(world.known.len(), 1, "no child of an ended task");
        }
    }
}

#[test]
fn a_cancelled_lease_is_not_extended_and_says_when_it_really_ends() {
    let mut world = world();
    let id = world.accepted();
    let lease = world.claim().expect("claimable");
    world.cancel(id);
    world.pass(Duration::from_secs(1));
    let renewed = world.machine.heartbeat(id, lease.epoch, MINUTE, world.now);
    assert_eq!(renewed.expect("held"), (lease.expires_at, true));
}

#[test]
fn a_parent_wakes_once_when_its_last_child_has_ended() {
    let mut world = world();
    let (parent, children) = family(&mut world, 3);
    for left in (0..3).rev() {
        assert_eq!(world.state(parent), Some(TaskState::Waiting));
        let lease = world.claim().expect("a child");
        assert!(children.contains(&lease.task.id));
        match left {
            1 => assert!(world.fail(held(&lease), false).is_ok()),
            _ => world.complete(held(&lease)).expect("held"),
        }
        world.settle();
        world.check();
    }
    assert_eq!(world.claim().map(|lease| lease.task.id), Some(parent));
    assert!(world.claim().is_none());
}

#[test]
fn a_retried_child_keeps_its_parent_waiting() {
    let mut world = world();
    let (parent, _) = family(&mut world, 2);
    let failed = world.claim().expect("a child");
    world.fail(held(&failed), false).expect("held");
    world.settle();
    assert!(world.retry(failed.task.id));
    world.settle();
    world.check();
    for _ in 0..2 {
        assert_eq!(world.state(parent), Some(TaskState::Waiting));
        let lease = world.claim().expect("a child");
        world.complete(held(&lease)).expect("held");
        world.settle();
    }
    assert_eq!(world.state(parent), Some(TaskState::Available));
}

#[test]
fn a_retried_task_needs_room_like_a_new_one() {
    let mut world = world();
    let id = world.accepted();
    world.cancel(id);
    world.settle();
    world.turn(|control| control.max_size = Some(0));
    world.settle();
    assert!(!world.retry(id), "the queue is full");
    world.turn(|control| {
        control.max_size = None;
        control.draining = true;
    });
    world.settle();
    assert!(!world.retry(id), "the queue is draining");
    world.turn(|control| control.draining = false);
    world.settle();
    assert!(world.retry(id));
}

#[test]
fn a_retried_parent_waits_for_children_that_have_not_stopped_yet() {
    let mut world = world();
    let (parent, _) = family(&mut world, 1);
    let child = world.claim().expect("the child");
    world.cancel(parent);
    world.settle();
    assert_eq!(world.state(parent), Some(TaskState::Cancelled));
    assert!(world.retry(parent));
    world.settle();
    world.check();
    assert_eq!(world.state(parent), Some(TaskState::Waiting));
    world.release(held(&child)).expect("held");
    world.settle();
    assert_eq!(world.state(parent), Some(TaskState::Available));
}

#[test]
fn a_retried_task_waits_for_its_dependencies_and_is_refused_while_one_failed() {
    let mut world = world();
    let first = world.accepted();
    let second = NewTask {
        depends_on: vec![first],
        ..task()
    };
    let second = world.submit(second).expect("room");
    world.settle();
    world.cancel(first);
    world.settle();
    assert_eq!(world.state(second), Some(TaskState::Cancelled));
    assert!(!world.retry(second), "its dependency failed");
    assert!(world.retry(first));
    world.settle();
    assert!(world.retry(second));
    world.settle();
    assert_eq!(world.state(second), Some(TaskState::Waiting));
    world.restart(0);
    world.settle();
    let lease = world.claim().expect("the first");
    assert_eq!(lease.task.id, first);
    assert!(world.claim().is_none());
    world.complete(held(&lease)).expect("held");
    world.settle();
    assert_eq!(world.claim().map(|lease| lease.task.id), Some(second));
}

#[test]
fn a_completed_task_and_one_past_its_deadline_cannot_be_retried() {
    let mut world = world();
    let done = world.accepted();
    let lease = held(&world.claim().expect("claimable"));
    world.complete(lease).expect("held");
    let deadline = Some(world.now.after(Duration::from_secs(1)));
    let late = world.submit(NewTask { deadline, ..task() }).expect("room");
    world.settle();
    world.pass(MINUTE);
    world.settle();
    assert_eq!(world.state(late), Some(TaskState::Discarded));
    assert!(!world.retry(done));
    assert!(!world.retry(late));
}

#[test]
fn waiting_in_a_circle_is_refused() {
    let mut world = world();
    let parent = world.accepted();
    let follower = NewTask {
        depends_on: vec![parent],
        ..task()
    };
    let follower = world.submit(follower).expect("room");
    world.settle();
    let lease = world.claim().expect("the parent");
    for on in [parent, follower] {
        let mut child = child();
        child.task.depends_on = vec![on];
        let refused = world.suspend(held(&lease), vec![child]);
        let circle = AdmitError::Dependency {
            dependency: on,
            problem: String::new(),
        };
        assert!(matches!(
            (refused, circle),
            (Err(LeaseError::Children(AdmitError::Dependency { .. })), _)
        ));
    }
    world.complete(held(&lease)).expect("the lease still holds");
}

#[test]
fn children_with_an_idempotency_key_are_refused() {
    let mut world = world();
    world.accepted();
    let lease = world.claim().expect("claimable");
    let mut child = child();
    child.task.idempotency_key = Some("key".to_owned());
    let refused = world.suspend(held(&lease), vec![child]);
    assert!(matches!(
        refused,
        Err(LeaseError::Children(AdmitError::Invalid(_)))
    ));
}

#[test]
fn an_instant_that_no_store_can_keep_is_refused() {
    let mut world = world();
    let far = Some(Timestamp(u64::MAX));
    for task in [
        NewTask {
            run_at: far,
            ..task()
        },
        NewTask {
            deadline: far,
            ..task()
        },
    ] {
        assert!(matches!(world.submit(task), Err(AdmitError::Invalid(_))));
    }
}

#[test]
fn a_full_queue_gives_parents_room_for_their_children() {
    let limits = QueueLimits {
        max_size: 2,
        max_bytes: 8,
        ..QueueLimits::default()
    };
    let mut world = World::new(limits);
    world.accepted();
    let lease = world.claim().expect("claimable");
    world.accepted();
    assert!(matches!(
        world.submit(task()),
        Err(AdmitError::FullOfBytes { .. })
    ));
    world
        .suspend(held(&lease), vec![child(), child()])
        .expect("room again");
    world.settle();
    assert!(matches!(world.submit(task()), Err(AdmitError::Full { .. })));
}

#[test]
fn whoever_is_refused_finds_room_when_he_was_told_to_come_again() {
    let limits = QueueLimits {
        max_size: 200,
        ..QueueLimits::default()
    };
    let mut world = World::new(limits);
    let quarter = Duration::from_millis(250);
    let turn = |world: &mut World| {
        if let Some(lease) = world.claim() {
            world.complete(held(&lease)).expect("held");
        }
        world.settle();
        world.pass(quarter);
    };
    for _ in 0..200 {
        world.accepted();
    }
    (0..60).for_each(|_| turn(&mut world));
    world.turn(|control| control.max_size = Some(100));
    world.settle();
    let Err(AdmitError::Full { retry_after, .. }) = world.submit(task()) else {
        panic!("140 wait where 100 may");
    };
    let mut waited = Duration::ZERO;
    while world.submit(task()).is_err() {
        turn(&mut world);
        waited += quarter;
    }
    let off = retry_after.as_secs_f64() / waited.as_secs_f64();
    assert!(
        (0.8..1.25).contains(&off),
        "told {retry_after:?}, was {waited:?}"
    );
}

#[test]
fn no_more_are_leased_than_may_be_and_whoever_waits_is_called_afterwards() {
    let limits = QueueLimits {
        leased_max: 1,
        ..QueueLimits::default()
    };
    let mut world = World::new(limits);
    world.accepted();
    let second = world.accepted();
    let lease = world.claim().expect("one may");
    assert!(world.claim().is_none());
    assert!(world.machine.explain(second, world.now).is_some_and(|why| {
        let mut reasons = why.reasons.iter();
        reasons.any(|reason| reason.text.contains("queue.leased_max"))
    }));
    world.machine.take_outbox();
    world
        .machine
        .release(lease.task.id, lease.epoch, world.now)
        .expect("held");
    assert!(!world.machine.take_outbox().fresh.is_empty());
}

#[test]
fn epochs_grow_even_after_more_leases_than_one_start_can_count() {
    let mut world = world();
    let id = world.accepted();
    world.machine.next_epoch += 1 << 33;
    let lease = world.claim().expect("claimable");
    world.settle();
    world.restart(0);
    world.settle();
    let again = world.claim().expect("claimable");
    assert_eq!(again.task.id, id);
    assert!(lease.epoch < again.epoch);
    assert!(world.complete(held(&lease)).is_err());
}

#[test]
fn the_same_step_is_recorded_once_per_lease() {
    let mut world = world();
    world.accepted();
    let lease = held(&world.claim().expect("claimable"));
    assert!(world.step(lease, "draft").expect("held"));
    assert!(!world.step(lease, "draft").expect("held"));
    world.settle();
    world.check();
}

#[test]
fn a_task_that_loses_every_lease_is_discarded() {
    let limits = QueueLimits {
        losses_max: 3,
        ..QueueLimits::default()
    };
    let mut world = World::new(limits);
    let id = world.accepted();
    let mut leases = 0;
    while world.state(id) != Some(TaskState::Discarded) {
        leases += usize::from(world.claim().is_some());
        world.pass(10 * MINUTE);
        world.settle();
    }
    assert_eq!(leases, 3);
}

#[test]
fn a_deeply_nested_family_ends_with_its_ancestor() {
    let mut world = world();
    let ancestor = world.accepted();
    for _ in 0..5_000 {
        let lease = world.claim().expect("the youngest");
        world.suspend(held(&lease), vec![child()]).expect("held");
        world.settle();
    }
    world.cancel(ancestor);
    world.settle();
    assert!(world.machine.tasks.is_empty());
}

#[test]
fn a_lease_that_was_superseded_stays_so_over_several_failed_commits() {
    let mut world = world();
    world.accepted();
    let first = world.claim().expect("claimable");
    world.settle();
    world.pass(MINUTE);
    let second = world.claim().expect("claimable again");
    assert!(first.epoch < second.epoch);
    world.fail_commit(0);
    world.fail_commit(0);
    assert!(world.complete(held(&first)).is_err());
}

#[test]
fn a_lease_of_an_earlier_life_stays_lost_when_the_first_commit_fails() {
    let mut world = world();
    world.accepted();
    let lease = world.claim().expect("claimable");
    world.settle();
    world.restart(0);
    world.fail_commit(0);
    assert!(world.complete(held(&lease)).is_err());
}

#[test]
fn the_keys_of_ended_tasks_are_remembered_over_a_failed_commit() {
    let mut world = world();
    let keyed = || NewTask {
        idempotency_key: Some("once".to_owned()),
        ..task()
    };
    let id = world.submit(keyed()).expect("room");
    world.settle();
    let lease = held(&world.claim().expect("claimable"));
    world.complete(lease).expect("held");
    world.settle();
    world.fail_commit(0);
    assert_eq!(world.submit(keyed()).expect("known"), id);
}
