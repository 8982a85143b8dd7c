//! What a failed child means for its parent, and bringing the failed part back.

use std::time::Duration;

use super::world::World;
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::queue::control::QueueLimits;
use crate::queue::error::{AdmitError, LeaseError};
use crate::queue::task::{
    Lease, NewChild, NewTask, OnChildFailure, TaskEventKind, TaskState, TaskTerms,
};
use crate::trace::TraceContext;

const HOUR: Duration = Duration::from_secs(3_600);

fn world() -> World {
    World::new(QueueLimits::default())
}

fn with(policy: OnChildFailure) -> NewTask {
    NewTask {
        terms: Some(Box::new(TaskTerms {
            on_child_failure: policy,
            ..TaskTerms::default()
        })),
        max_attempts: Some(1),
        ..NewTask::new("a", Json::null())
    }
}

fn child(after: Vec<usize>) -> NewChild {
    NewChild {
        task: with(OnChildFailure::default()),
        after,
    }
}

fn failing(retries: u32) -> OnChildFailure {
    OnChildFailure {
        retries,
        fail: true,
    }
}

fn held(lease: &Lease) -> (TaskId, Epoch) {
    (lease.task.id, lease.epoch)
}

fn claimed(world: &mut World) -> (TaskId, Epoch) {
    let lease = world.claim().expect("claimable");
    held(&lease)
}

/// A parent that waits for children, and their ids.
fn family(
    world: &mut World,
    policy: OnChildFailure,
    children: Vec<NewChild>,
) -> (TaskId, Vec<TaskId>) {
    let parent = world.submit(with(policy)).expect("room");
    world.settle();
    let lease = claimed(world);
    let before = world.known.len();
    world.suspend(lease, children).expect("held");
    world.settle();
    (parent, world.known[before..].to_vec())
}

fn error_of(world: &World, id: TaskId) -> String {
    let end = world.view(id).and_then(|view| view.end).expect("ended");
    end.error.expect("a reason")
}

#[test]
fn a_parent_fails_with_its_child_and_takes_the_others_along() {
    let mut world = world();
    let children = vec![child(vec![]), child(vec![]), child(vec![0])];
    let (parent, ids) = family(&mut world, failing(0), children);
    let lease = claimed(&mut world);
    world.settle();
    assert!(world.fail(lease, true).is_ok());
    // Cut off here, nobody could tell any more that a child had failed.
    world.restart(1);
    world.settle();
    world.check();
    assert_eq!(world.state(parent), Some(TaskState::Discarded));
    let error = error_of(&world, parent);
    assert!(
        error.contains(&ids[0].to_string()) && error.contains("broke"),
        "{error}"
    );
    assert_eq!(world.state(ids[1]), Some(TaskState::Cancelled));
    assert_eq!(world.state(ids[2]), Some(TaskState::Cancelled));
    assert!(world.claim().is_none());
}

#[test]
fn a_failure_climbs_as_far_as_parents_fail_with_their_children() {
    let mut world = world();
    let (top, _) = family(
        &mut world,
        OnChildFailure::default(),
        vec![NewChild {
            task: with(failing(0)),
            after: vec![],
        }],
    );
    let middle = claimed(&mut world);
    let inner = NewChild {
        task: with(failing(0)),
        after: vec![],
    };
    world.suspend(middle, vec![inner]).expect("held");
    world.settle();
    let inner = claimed(&mut world);
    world.suspend(inner, vec![child(vec![])]).expect("held");
    world.settle();
    let leaf = claimed(&mut world);
    assert!(world.fail(leaf, false).is_ok());
    world.settle();
    world.check();
    assert_eq!(world.state(inner.0), Some(TaskState::Discarded));
    assert_eq!(world.state(middle.0), Some(TaskState::Discarded));
    assert_eq!(
        world.state(top),
        Some(TaskState::Available),
        "it sees for itself"
    );
}

#[test]
fn a_failed_part_is_tried_again_before_its_parent_fails() {
    let mut world = world();
    let children = vec![child(vec![]), child(vec![0])];
    let (parent, ids) = family(&mut world, failing(2), children);
    for round in 0..3 {
        let lease = claimed(&mut world);
        assert_eq!(lease.0, ids[0], "what depends on it waits meanwhile");
        let state = world.fail(lease, round == 0).expect("held");
        world.settle();
        world.restart(0);
        world.check();
        let expected = match round {
            2 => TaskState::Discarded,
            _ => TaskState::Retryable,
        };
        assert_eq!(state, expected, "round {round}");
        world.pass(HOUR);
        world.settle();
    }
    assert_eq!(world.state(parent), Some(TaskState::Discarded));
    assert_eq!(world.state(ids[1]), Some(TaskState::Cancelled));
}

#[test]
fn the_failed_part_of_an_ended_family_comes_back_and_the_rest_stays() {
    let mut world = world();
    let children = vec![child(vec![]), child(vec![]), child(vec![1])];
    let (parent, ids) = family(&mut world, failing(0), children);
    let done = claimed(&mut world);
    world.complete(done).expect("held");
    let lease = claimed(&mut world);
    assert!(world.fail(lease, false).is_ok());
    world.settle();
    assert_eq!(world.state(parent), Some(TaskState::Discarded));
    assert_eq!(
        world.retry_part(parent),
        Some(3),
        "parent, failed and follower"
    );
    world.settle();
    world.check();
    assert_eq!(world.state(parent), Some(TaskState::Waiting));
    assert_eq!(world.state(ids[0]), Some(TaskState::Completed));
    world.restart(0);
    world.settle();
    for expected in [ids[1], ids[2], parent] {
        let lease = claimed(&mut world);
        assert_eq!(lease.0, expected);
        assert!(
            world.claim().is_none(),
            "one after the other, and the parent once"
        );
        world.complete(lease).expect("held");
        world.settle();
    }
    assert_eq!(world.retry_part(parent), None, "it completed");
}

#[test]
fn the_failed_part_below_a_waiting_parent_comes_back() {
    let mut world = world();
    let children = vec![child(vec![]), child(vec![])];
    let (parent, ids) = family(&mut world, OnChildFailure::default(), children);
    let lease = claimed(&mut world);
    assert!(world.fail(lease, false).is_ok());
    world.settle();
    assert_eq!(world.retry_part(parent), Some(1));
    world.settle();
    world.check();
    for _ in 0..2 {
        assert_eq!(world.state(parent), Some(TaskState::Waiting));
        let lease = claimed(&mut world);
        assert!(ids.contains(&lease.0));
        world.complete(lease).expect("held");
        world.settle();
    }
    let lease = claimed(&mut world);
    assert_eq!(lease.0, parent);
    assert_eq!(world.retry_part(parent), None, "it executes");
}

#[test]
fn waiting_for_an_ancestor_is_refused_at_any_distance() {
    let mut world = world();
    let (top, _) = family(&mut world, OnChildFailure::default(), vec![child(vec![])]);
    let middle = claimed(&mut world);
    world.suspend(middle, vec![child(vec![])]).expect("held");
    world.settle();
    let inner = claimed(&mut world);
    for ancestor in [top, middle.0, inner.0] {
        let mut circle = child(vec![]);
        circle.task.depends_on = vec![ancestor];
        let refused = world.suspend(inner, vec![circle]);
        let Err(LeaseError::Children(AdmitError::Dependency { dependency, .. })) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(dependency, ancestor);
    }
    world.complete(inner).expect("the lease still holds");
}

#[test]
fn a_lease_lost_too_often_is_a_failed_part_too() {
    let limits = QueueLimits {
        losses_max: 1,
        ..QueueLimits::default()
    };
    let mut world = World::new(limits);
    let parent = world.submit(with(failing(1))).expect("room");
    world.settle();
    let lease = claimed(&mut world);
    world.suspend(lease, vec![child(vec![])]).expect("held");
    world.settle();
    for _ in 0..2 {
        assert_eq!(world.state(parent), Some(TaskState::Waiting));
        claimed(&mut world);
        world.pass(HOUR);
        world.settle();
        world.pass(HOUR);
        world.settle();
    }
    world.check();
    assert_eq!(world.state(parent), Some(TaskState::Discarded));
    assert!(!world.log_of(parent).contains(&TaskEventKind::Available));
}

#[test]
fn a_part_whose_time_to_start_has_passed_does_not_come_back() {
    let mut world = world();
    let task = NewTask {
        terms: Some(Box::new(TaskTerms {
            expires_at: Some(world.now.after(Duration::from_secs(10))),
            ..TaskTerms::default()
        })),
        ..NewTask::new("a", Json::null())
    };
    let id = world.submit(task).expect("room");
    world.settle();
    world.pass(Duration::from_secs(20));
    world.settle();
    assert_eq!(world.state(id), Some(TaskState::Discarded));
    assert_eq!(world.retry_part(id), None);
}

#[test]
fn a_family_has_one_trace_down_to_the_last_of_it() {
    let said: TraceContext = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        .parse()
        .expect("a traceparent");
    for own in [Some(said), None] {
        let mut world = world();
        let root = NewTask {
            terms: own.map(|trace| {
                Box::new(TaskTerms {
                    trace: Some(trace),
                    ..TaskTerms::default()
                })
            }),
            ..NewTask::new("a", Json::null())
        };
        let root = world.submit(root).expect("room");
        let expected = own.unwrap_or_else(|| TraceContext::of_task(root));
        for generation in 0..4 {
            world.settle();
            let lease = world.claim().expect("claimable");
            assert_eq!(
                lease.task.trace(),
                expected,
                "generation {generation}, {own:?}"
            );
            let child = NewChild {
                task: NewTask::new("a", Json::null()),
                after: Vec::new(),
            };
            world.suspend(held(&lease), vec![child]).expect("it waits");
        }
    }
}
