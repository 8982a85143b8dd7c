//! Spending and asking: each rule by itself.

use std::collections::HashMap;
use std::time::Duration;

use super::accounts::limited;
use super::world::{World, now};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::json::Json;
use crate::queue::approval::{ApprovalError, Reason};
use crate::queue::budget::{Period, Scope, Shortfall};
use crate::queue::control::QueueLimits;
use crate::queue::error::LeaseError;
use crate::queue::task::{Lease, NewChild, NewTask, TaskEventKind, TaskState, TaskTerms};

fn world() -> World {
    World::new(QueueLimits::default())
}

fn with(terms: TaskTerms) -> NewTask {
    NewTask {
        terms: Some(Box::new(terms)),
        ..NewTask::new("a", Json::null())
    }
}

fn budgeted(amount: u64) -> NewTask {
    with(TaskTerms {
        budget: Some(limited(amount)),
        ..TaskTerms::default()
    })
}

fn submitted(world: &mut World, task: NewTask) -> TaskId {
    let id = world.submit(task).expect("room");
    world.settle();
    id
}

fn held(lease: &Lease) -> (TaskId, Epoch) {
    (lease.task.id, lease.epoch)
}

fn claimed(world: &mut World) -> (TaskId, Epoch) {
    let lease = world.claim().expect("claimable");
    held(&lease)
}

fn spent(world: &World, scope: Scope) -> (u64, u64) {
    let view = world.machine.budget(&scope, world.now).expect("a budget");
    (view.spent.tokens, view.reserved.tokens)
}

fn shortfall(refused: Result<(), LeaseError>) -> Shortfall {
    match refused {
        Err(LeaseError::OverBudget(shortfall)) => *shortfall,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_step_is_reserved_before_and_charged_with_its_record_once() {
    let mut world = world();
    let id = submitted(&mut world, budgeted(100));
    let lease = claimed(&mut world);
    world.reserve(lease, "s", 60, false).expect("room");
    world
        .reserve(lease, "s", 60, false)
        .expect("the same again");
    assert_eq!(spent(&world, Scope::Task(id)), (0, 60));
    let short = shortfall(world.reserve(lease, "t", 41, false));
    assert_eq!((short.short[0].missing, short.short[0].reserved), (1, 60));
    assert!(world.pay(lease, "s", 30).expect("held"));
    assert!(!world.pay(lease, "s", 30).expect("held"), "on record");
    assert_eq!(spent(&world, Scope::Task(id)), (30, 0));
    world.reserve(lease, "t", 41, false).expect("room again");
    world.settle();
    world.check();
}

#[test]
fn a_stale_epoch_spends_nothing() {
    let mut world = world();
    submitted(&mut world, budgeted(100));
    let stale = claimed(&mut world);
    world.reserve(stale, "s", 10, false).expect("room");
    world.pass(Duration::from_secs(60));
    world.settle();
    let lease = claimed(&mut world);
    assert_ne!(stale.1, lease.1);
    let refused = [
        world.reserve(stale, "t", 1, false).err(),
        world.give_back(stale, "s").err(),
        world.pay(stale, "s", 1).err(),
        world.wait_for_budget(stale, "s", 1_000).err(),
        world.ask(stale, "q", None).err(),
    ];
    for refused in refused {
        assert!(matches!(refused, Some(LeaseError::Stale { .. })));
    }
}

#[test]
fn a_reservation_whose_outcome_is_unknown_is_charged_in_full_however_the_lease_ends() {
    type End = fn(&mut World, (TaskId, Epoch));
    let table: [(&str, End); 7] = [
        ("expired", |w, _| w.pass(Duration::from_secs(60))),
        ("killed", |w, _| {
            w.settle();
            w.restart(0);
        }),
        ("released", |w, l| w.release(l).expect("held")),
        ("failed", |w, l| assert!(w.fail(l, true).is_ok())),
        ("completed", |w, l| w.complete(l).expect("held")),
        ("suspended", |w, l| w.suspend(l, Vec::new()).expect("held")),
        ("asked", |w, l| assert!(w.ask(l, "q", None).is_ok())),
    ];
    for (name, end) in table {
        let mut world = world();
        world.set_budget(Scope::Node, limited(1_000), None);
        submitted(&mut world, budgeted(100));
        let lease = claimed(&mut world);
        world.reserve(lease, "s", 60, false).expect("room");
        end(&mut world, lease);
        world.settle();
        world.check();
        assert_eq!(spent(&world, Scope::Node), (60, 0), "{name}");
    }
}

#[test]
fn a_step_taken_afresh_charges_what_the_abandoned_try_may_have_cost() {
    let mut world = world();
    let id = submitted(&mut world, budgeted(100));
    let lease = claimed(&mut world);
    world.reserve(lease, "s", 40, true).expect("room");
    world.reserve(lease, "s", 40, true).expect("room");
    assert_eq!(spent(&world, Scope::Task(id)), (40, 40));
    assert!(world.give_back(lease, "s").expect("held"));
    assert!(!world.give_back(lease, "s").expect("held"), "once");
    assert_eq!(spent(&world, Scope::Task(id)), (40, 0));
    world.settle();
    world.check();
}

#[test]
fn a_node_that_takes_no_work_does_only_what_is_tied_to_it() {
    let mut world = world();
    let _root = submitted(&mut world, budgeted(100));
    let lease = claimed(&mut world);
    submitted(&mut world, NewTask::new("a", Json::null()));
    let below = NewChild {
        task: NewTask::new("a", Json::null()),
        after: Vec::new(),
    };
    world.suspend(lease, vec![below]).expect("held");
    world.settle();
    let child = *world.known.last().expect("made");
    let bound = |world: &mut World| {
        let (now, worker) = (world.now, super::world::worker("own"));
        let lease = Duration::from_secs(30);
        world.machine.claim_bound(&["b", "a"], &worker, lease, now)
    };
    assert!(bound(&mut world).is_none(), "nobody else could do it");
    world.machine.share();
    let lease = bound(&mut world).expect("below a budget");
    assert_eq!(lease.task.id, child);
    assert!(bound(&mut world).is_none(), "the other is left for others");
}

#[test]
fn a_tree_spends_together_and_its_budget_outlives_its_root() {
    let mut world = world();
    let root = submitted(&mut world, budgeted(100));
    let lease = claimed(&mut world);
    let child = NewChild {
        task: budgeted(30),
        after: Vec::new(),
    };
    let plain = NewChild {
        task: NewTask::new("a", Json::null()),
        after: Vec::new(),
    };
    world.suspend(lease, vec![child, plain]).expect("held");
    world.settle();
    let (first, second) = (claimed(&mut world), claimed(&mut world));
    let short = shortfall(world.reserve(first, "s", 40, false));
    assert_eq!(short.short[0].scope, Scope::Task(first.0), "its own");
    world.reserve(first, "s", 30, false).expect("room");
    let short = shortfall(world.reserve(second, "s", 71, false));
    assert_eq!(short.short[0].scope, Scope::Task(root));
    world.cancel(root);
    world.settle();
    assert_eq!(world.state(root), Some(TaskState::Cancelled));
    world.settle();
    world.restart(0);
    world.settle();
    world.check();
    // Both children were asked to stop and have let go: nothing spends from it any more.
    assert!(
        world
            .machine
            .budget(&Scope::Task(root), world.now)
            .is_none()
    );
    assert!(world.retry(second.0), "its tree's budget is brought back");
    world.settle();
    assert_eq!(spent(&world, Scope::Task(root)), (30, 0));
}

#[test]
fn an_exhausted_budget_asks_and_more_of_it_wakes_the_task_once() {
    let mut world = world();
    let id = submitted(&mut world, budgeted(10));
    let lease = claimed(&mut world);
    let short = shortfall(world.reserve(lease, "s", 25, false));
    let asked = world.wait_for_budget(lease, "s", 25).expect("held");
    let asked = asked.expect("it waits");
    world.settle();
    world.check();
    assert_eq!(world.state(id), Some(TaskState::AwaitingApproval));
    let holdup = world.machine.holdup(id).expect("it waits");
    assert_eq!(holdup.request.reason, Reason::Budget { shortfall: short });
    assert!(world.claim().is_none(), "no slot is held");
    world.restart(0);
    world.answer(asked, true, None).expect("open");
    let again = world.answer(asked, true, None);
    assert!(matches!(again, Err(ApprovalError::Unknown(_))), "decided");
    world.settle();
    let lease = claimed(&mut world);
    world.reserve(lease, "s", 25, false).expect("granted");
    assert!(
        world.reserve(lease, "t", 1, false).is_err(),
        "no more than that"
    );
    world.settle();
    world.check();
}

#[test]
fn a_denied_budget_ends_the_task_with_the_reason() {
    let mut world = world();
    let id = submitted(&mut world, budgeted(10));
    let lease = claimed(&mut world);
    let asked = world.wait_for_budget(lease, "s", 25).expect("held");
    world
        .answer(asked.expect("it waits"), false, None)
        .expect("open");
    world.settle();
    let end = world.view(id).and_then(|view| view.end).expect("ended");
    assert_eq!(end.state, TaskState::Cancelled);
    assert!(end.error.is_some_and(|error| error.contains("by me")));
}

#[test]
fn room_that_comes_back_wakes_as_many_as_fit_in_their_order() {
    let mut world = world();
    world.set_budget(Scope::Node, limited(30), None);
    let ids: Vec<TaskId> = (0..4)
        .map(|_| submitted(&mut world, NewTask::new("a", Json::null())))
        .collect();
    let first = claimed(&mut world);
    world.reserve(first, "s", 30, false).expect("room");
    for _ in 0..3 {
        let lease = claimed(&mut world);
        shortfall(world.reserve(lease, "s", 10, false));
        let asked = world.wait_for_budget(lease, "s", 10).expect("held");
        asked.expect("it waits");
    }
    world.pay(first, "s", 10).expect("held");
    world.settle();
    world.check();
    let states: Vec<_> = ids[1..].iter().map(|id| world.state(*id)).collect();
    let (woken, waits) = (
        Some(TaskState::Available),
        Some(TaskState::AwaitingApproval),
    );
    assert_eq!(states, [woken, woken, waits]);
    for _ in 0..2 {
        let lease = claimed(&mut world);
        world.reserve(lease, "s", 10, false).expect("room");
    }
    world.set_budget(Scope::Node, limited(39), None);
    world.settle();
    assert_eq!(world.state(ids[3]), waits, "not enough yet");
    world.set_budget(Scope::Node, limited(40), None);
    world.settle();
    assert_eq!(world.state(ids[3]), woken);
}

#[test]
fn a_budget_per_day_counts_from_zero_at_midnight_and_wakes_who_waits() {
    let mut world = world();
    world.now = Timestamp(86_400_000 * 20_000 + 1_000);
    world.set_budget(
        Scope::Tenant("default".into()),
        limited(10),
        Some(Period::Day),
    );
    let id = submitted(&mut world, NewTask::new("a", Json::null()));
    let lease = claimed(&mut world);
    world.reserve(lease, "s", 10, false).expect("room");
    world.pay(lease, "s", 10).expect("held");
    let asked = world.wait_for_budget(lease, "t", 5).expect("held");
    asked.expect("it waits");
    world.pass(Duration::from_secs(86_000));
    world.settle();
    assert_eq!(world.state(id), Some(TaskState::AwaitingApproval));
    world.restart(0);
    world.pass(Duration::from_secs(1_000));
    world.settle();
    assert_eq!(world.state(id), Some(TaskState::Available));
    assert_eq!(spent(&world, Scope::Tenant("default".into())), (0, 0));
}

#[test]
fn a_step_that_cost_more_than_was_reserved_is_charged_as_it_is() {
    let mut world = world();
    let id = submitted(&mut world, budgeted(100));
    let lease = claimed(&mut world);
    world.reserve(lease, "s", 60, false).expect("room");
    world.pay(lease, "s", 130).expect("held");
    assert_eq!(spent(&world, Scope::Task(id)), (130, 0));
    let short = shortfall(world.reserve(lease, "t", 1, false));
    assert_eq!(short.short[0].missing, 31);
}

#[test]
fn a_question_is_answered_once_and_the_answer_is_a_recorded_step() {
    for approved in [true, false] {
        let mut world = world();
        let id = submitted(&mut world, NewTask::new("a", Json::null()));
        let lease = claimed(&mut world);
        let asked = world
            .ask(lease, "q", None)
            .expect("held")
            .expect("it waits");
        world.settle();
        world.restart(0);
        world.settle();
        assert!(world.claim().is_none(), "it waits over a restart");
        world.answer(asked, approved, None).expect("open");
        assert!(world.answer(asked, true, None).is_err(), "decided");
        world.settle();
        world.check();
        let seq = world.view(id).expect("kept").body.seq;
        let step = now(world.store.step(seq, "q"))
            .expect("readable")
            .expect("recorded");
        assert!(step.output.json.as_str().contains(&format!("{approved}")));
        assert_eq!(claimed(&mut world).0, id);
        assert!(world.claim().is_none(), "woken once");
    }
}

#[test]
fn a_question_nobody_answers_in_time_counts_as_denied() {
    let mut world = world();
    let id = submitted(&mut world, NewTask::new("a", Json::null()));
    let lease = claimed(&mut world);
    let patience = Some(Duration::from_secs(60));
    let asked = world
        .ask(lease, "q", patience)
        .expect("held")
        .expect("it waits");
    world.pass(Duration::from_secs(59));
    world.settle();
    assert_eq!(world.state(id), Some(TaskState::AwaitingApproval));
    world.restart(0);
    world.pass(Duration::from_secs(1));
    world.settle();
    world.check();
    assert_eq!(world.state(id), Some(TaskState::Available));
    assert!(world.answer(asked, true, None).is_err(), "too late");
    assert!(world.log_of(id).contains(&TaskEventKind::Denied));
}

#[test]
fn a_task_that_needs_consent_does_not_start_before_and_asks_again_when_retried() {
    let mut world = world();
    let careful = || {
        with(TaskTerms {
            requires_approval: true,
            ..TaskTerms::default()
        })
    };
    let first = submitted(&mut world, NewTask::new("b", Json::null()));
    let id = submitted(
        &mut world,
        NewTask {
            depends_on: vec![first],
            ..careful()
        },
    );
    let lease = claimed(&mut world);
    assert_eq!(lease.0, first);
    world.complete(lease).expect("held");
    world.settle();
    assert!(world.claim().is_none());
    let denied = world.questions()[0];
    world.answer(denied, false, None).expect("open");
    world.settle();
    assert_eq!(world.state(id), Some(TaskState::Cancelled));
    assert!(world.retry(id));
    world.settle();
    world.check();
    assert!(world.claim().is_none(), "a retry is no consent");
    let asked = world.questions()[0];
    assert_ne!(asked, denied);
    world.answer(asked, true, None).expect("open");
    world.settle();
    assert_eq!(claimed(&mut world).0, id);
}

#[test]
fn consent_may_come_before_what_the_task_depends_on() {
    let mut world = world();
    let first = submitted(&mut world, NewTask::new("a", Json::null()));
    let terms = TaskTerms {
        requires_approval: true,
        ..TaskTerms::default()
    };
    let second = NewTask {
        depends_on: vec![first],
        ..with(terms)
    };
    let second = submitted(&mut world, second);
    let asked = world.questions()[0];
    world.answer(asked, true, None).expect("open");
    world.settle();
    assert_eq!(world.state(second), Some(TaskState::Waiting));
    let lease = claimed(&mut world);
    world.complete(lease).expect("held");
    world.settle();
    assert_eq!(claimed(&mut world).0, second);
}

#[test]
fn a_cancelled_task_takes_its_question_with_it() {
    let mut world = world();
    let id = submitted(&mut world, NewTask::new("a", Json::null()));
    let lease = claimed(&mut world);
    let asked = world
        .ask(lease, "q", None)
        .expect("held")
        .expect("it waits");
    world.cancel(id);
    assert!(world.answer(asked, true, None).is_err());
    world.settle();
    world.check();
    let row = now(world.store.approval(asked))
        .expect("readable")
        .expect("kept");
    assert_eq!(row.state.as_str(), "withdrawn");
}

#[test]
fn who_fits_goes_on_although_one_before_him_never_will() {
    let mut world = world();
    world.set_budget(Scope::Node, limited(100), None);
    let big = submitted(&mut world, with(TaskTerms::default()));
    let small = submitted(&mut world, with(TaskTerms::default()));
    let running = submitted(&mut world, with(TaskTerms::default()));
    let (a, b, c) = (
        claimed(&mut world),
        claimed(&mut world),
        claimed(&mut world),
    );
    assert_eq!([a.0, b.0, c.0], [big, small, running]);
    world.reserve(c, "s", 100, false).expect("room");
    world.wait_for_budget(a, "s", 1_000).expect("held");
    world.wait_for_budget(b, "s", 10).expect("held");
    world.settle();
    assert!(world.pay(c, "s", 50).expect("held"));
    world.settle();
    assert_eq!(world.state(small), Some(TaskState::Available));
}

#[test]
fn a_new_period_wakes_who_fits() {
    let mut world = world();
    world.set_budget(Scope::Node, limited(100), Some(Period::Day));
    let big = submitted(&mut world, with(TaskTerms::default()));
    let small = submitted(&mut world, with(TaskTerms::default()));
    let running = submitted(&mut world, with(TaskTerms::default()));
    let (a, b, c) = (
        claimed(&mut world),
        claimed(&mut world),
        claimed(&mut world),
    );
    assert_eq!([a.0, b.0, c.0], [big, small, running]);
    world.reserve(c, "s", 100, false).expect("room");
    assert!(world.pay(c, "s", 100).expect("held"));
    world.wait_for_budget(a, "s", 1_000).expect("held");
    world.wait_for_budget(b, "s", 10).expect("held");
    world.settle();
    world.complete(c).expect("held");
    world.pass(Duration::from_secs(3 * 24 * 3600));
    world.settle();
    assert_eq!(world.state(small), Some(TaskState::Available));
}

#[test]
fn a_larger_estimate_for_a_step_is_another_try_and_charges_the_first() {
    let mut world = world();
    let id = submitted(&mut world, budgeted(100));
    let lease = claimed(&mut world);
    world.reserve(lease, "s", 10, false).expect("room");
    world.reserve(lease, "s", 25, false).expect("room");
    assert_eq!(spent(&world, Scope::Task(id)), (10, 25));
    world
        .reserve(lease, "s", 20, false)
        .expect("no more than that");
    assert_eq!(spent(&world, Scope::Task(id)), (10, 25));
    world.settle();
    world.check();
}

#[test]
fn what_was_spent_while_a_retry_read_the_store_stays_spent() {
    let mut world = world();
    let root = submitted(&mut world, budgeted(100));
    let lease = claimed(&mut world);
    world.settle();
    // Read before the last task of the tree spends and ends.
    let scope = Scope::Task(root);
    world.machine.hold_budgets(&[root]);
    let stale = now(world.store.budget(&scope))
        .expect("readable")
        .expect("kept");
    world.reserve(lease, "s", 60, false).expect("room");
    world.pay(lease, "s", 60).expect("held");
    world.fail(lease, false).expect("held");
    world.settle();
    let view = now(world.store.task(root))
        .expect("readable")
        .expect("kept");
    let reopened = world
        .machine
        .reopen(view, &HashMap::new(), &[stale], world.now);
    reopened.expect("it failed");
    world.machine.let_go_budgets(&[root]);
    assert_eq!(spent(&world, scope), (60, 0));
}

#[test]
fn a_budget_that_nobody_spends_from_is_put_away_when_the_reader_is_done() {
    let mut world = world();
    let root = submitted(&mut world, budgeted(100));
    let lease = claimed(&mut world);
    world.machine.hold_budgets(&[root]);
    world.fail(lease, false).expect("held");
    world.settle();
    let scope = Scope::Task(root);
    assert!(world.machine.budget(&scope, world.now).is_some());
    world.machine.let_go_budgets(&[root]);
    assert!(world.machine.budget(&scope, world.now).is_none());
}

#[test]
fn reservations_are_numbered_on_after_failed_commits() {
    let mut world = world();
    submitted(&mut world, budgeted(100));
    let lease = claimed(&mut world);
    world.settle();
    for key in ["s", "t", "u"] {
        // The accounts complain about a number that comes twice.
        world.fail_commit(0);
        world.reserve(lease, key, 1, false).expect("room");
        world.settle();
        world.check();
    }
}
