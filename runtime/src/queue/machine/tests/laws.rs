//! Laws that hold after every step of any history, with crashes and failed commits in it.

use std::time::Duration;

use proptest::prelude::*;

use super::accounts::limited;
use super::world::{KINDS, World};
use crate::clock::Timestamp;
use crate::ids::TaskId;
use crate::json::Json;
use crate::queue::budget::Scope;
use crate::queue::control::{Control, QueueLimits};
use crate::queue::retry::RetryBackoff;
use crate::queue::rules::{Rate, Resource, Rules, Weight};
use crate::queue::task::{Lane, NewChild, NewTask, OnChildFailure, TaskEventKind, TaskTerms};

#[derive(Clone, Debug)]
enum Op {
    Submit(Submit),
    Claim(u64),
    Complete(usize),
    Fail(usize, bool),
    Release(usize),
    Renew(usize),
    Step(usize, u8),
    Suspend(usize, Vec<(Submit, Option<usize>)>),
    Reserve(usize, u8, u64, bool),
    Pay(usize, u8, u64),
    GiveBack(usize, u8),
    WaitForBudget(usize, u8, u64),
    Ask(usize, u8, Option<u64>),
    Answer(usize, bool, Option<u64>),
    Raise(u64),
    Cancel(usize),
    Retry(usize),
    RetryPart(usize),
    Clear,
    Reclaim,
    Pause(bool),
    MaxSize(Option<u64>),
    Limit(Option<u64>),
    Slots(u64),
    Weight(usize, u32),
    Pass(u64),
    Commit(usize),
    FailCommit(usize),
    Crash(usize),
}

#[derive(Clone, Debug)]
struct Submit {
    lane: usize,
    kind: usize,
    key: Option<u8>,
    on: Vec<usize>,
    delay: Option<u64>,
    deadline: Option<u64>,
    attempts: Option<u32>,
    flow: (usize, usize),
    key_limited: Option<usize>,
    rated: bool,
    slots: bool,
    tokens: bool,
    expires: Option<u64>,
    budget: Option<u64>,
    careful: bool,
    policy: OnChildFailure,
}

fn submit() -> impl Strategy<Value = Submit> {
    (
        0..4_usize,
        0..2_usize,
        prop::option::weighted(0.2, 0..4_u8),
        prop::collection::vec(any::<usize>(), 0..3),
        prop::option::weighted(0.2, 0..20_000_u64),
        prop::option::weighted(0.15, 0..60_000_u64),
        prop::option::of(1..3_u32),
        (0..2_usize, 0..2_usize),
        (
            prop::option::weighted(0.3, 0..2_usize),
            prop::bool::weighted(0.2),
            prop::bool::weighted(0.2),
            prop::bool::weighted(0.2),
            prop::option::weighted(0.1, 0..60_000_u64),
        ),
        prop::option::weighted(0.4, 0..60_u64),
        prop::bool::weighted(0.1),
        (0..3_u32, any::<bool>()).prop_map(|(retries, fail)| OnChildFailure { retries, fail }),
    )
        .prop_map(
            |(
                lane,
                kind,
                key,
                on,
                delay,
                deadline,
                attempts,
                flow,
                gates,
                budget,
                careful,
                policy,
            )| Submit {
                lane,
                kind,
                key,
                on,
                delay,
                deadline,
                attempts,
                flow,
                key_limited: gates.0,
                rated: gates.1,
                slots: gates.2,
                tokens: gates.3,
                expires: gates.4,
                budget,
                careful,
                policy,
            },
        )
}

fn op() -> impl Strategy<Value = Op> {
    let family = prop::collection::vec((submit(), prop::option::of(0..3_usize)), 0..4);
    prop_oneof![
        8 => submit().prop_map(Op::Submit),
        10 => (1..60_000_u64).prop_map(Op::Claim),
        6 => any::<usize>().prop_map(Op::Complete),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(i, r)| Op::Fail(i, r)),
        2 => any::<usize>().prop_map(Op::Release),
        2 => any::<usize>().prop_map(Op::Renew),
        3 => (any::<usize>(), 0..3_u8).prop_map(|(i, k)| Op::Step(i, k)),
        5 => (any::<usize>(), family).prop_map(|(i, f)| Op::Suspend(i, f)),
        6 => (any::<usize>(), 0..3_u8, 0..30_u64, any::<bool>())
            .prop_map(|(i, k, n, afresh)| Op::Reserve(i, k, n, afresh)),
        4 => (any::<usize>(), 0..3_u8, 0..30_u64).prop_map(|(i, k, n)| Op::Pay(i, k, n)),
        2 => (any::<usize>(), 0..3_u8).prop_map(|(i, k)| Op::GiveBack(i, k)),
        4 => (any::<usize>(), 0..3_u8, 0..80_u64).prop_map(|(i, k, n)| Op::WaitForBudget(i, k, n)),
        2 => (any::<usize>(), 3..5_u8, prop::option::of(0..90_000_u64))
            .prop_map(|(i, k, patience)| Op::Ask(i, k, patience)),
        5 => (any::<usize>(), prop::bool::weighted(0.8), prop::option::of(0..50_u64))
            .prop_map(|(i, yes, grant)| Op::Answer(i, yes, grant)),
        1 => (0..20_u64).prop_map(Op::Raise),
        2 => any::<usize>().prop_map(Op::Cancel),
        3 => any::<usize>().prop_map(Op::Retry),
        3 => any::<usize>().prop_map(Op::RetryPart),
        1 => Just(Op::Clear),
        1 => Just(Op::Reclaim),
        1 => any::<bool>().prop_map(Op::Pause),
        1 => prop::option::of(0..12_u64).prop_map(Op::MaxSize),
        1 => prop::option::of(1..3_u64).prop_map(Op::Limit),
        1 => (2..4_u64).prop_map(Op::Slots),
        1 => (0..2_usize, 10..5_000_u32).prop_map(|(c, w)| Op::Weight(c, w)),
        5 => (0..40_000_u64).prop_map(Op::Pass),
        12 => (1..6_usize).prop_map(Op::Commit),
        1 => (0..4_usize).prop_map(Op::FailCommit),
        1 => (0..4_usize).prop_map(Op::Crash),
    ]
}

fn limits() -> QueueLimits {
    QueueLimits {
        max_size: 40,
        leased_max: 9,
        losses_max: 4,
        backoff: RetryBackoff {
            first: Duration::from_millis(500),
            max: Duration::from_secs(10),
        },
        ..QueueLimits::default()
    }
}

fn pick<T: Copy>(from: &[T], at: usize) -> Option<T> {
    from.get(at.checked_rem(from.len())?).copied()
}

const NAMES: [&str; 2] = ["x", "y"];

fn terms(submit: &Submit, after: impl Fn(u64) -> Timestamp) -> TaskTerms {
    let mut terms = TaskTerms {
        expires_at: submit.expires.map(after),
        concurrency_key: submit.key_limited.map(|key| NAMES[key].to_owned()),
        rate_key: submit.rated.then(|| "r".to_owned()),
        budget: submit.budget.map(limited),
        requires_approval: submit.careful,
        on_child_failure: submit.policy,
        ..TaskTerms::default()
    };
    if submit.slots {
        terms.needs.insert("slots".to_owned(), 2);
    }
    if submit.tokens {
        terms.needs.insert("tokens".to_owned(), 3);
    }
    terms
}

/// Rates that stay the same; limits and slots may change.
fn rules() -> Rules {
    let rate = |units, period_ms, burst| Rate {
        units,
        period_ms,
        burst,
    };
    let mut rules = Rules {
        default_limit: Some(2),
        ..Rules::default()
    };
    rules.rates.insert("r".to_owned(), rate(1, 5_000, 2));
    rules
        .resources
        .insert("slots".to_owned(), Resource::Slots(3));
    let tokens = Resource::Refill(rate(1, 2_000, 7));
    rules.resources.insert("tokens".to_owned(), tokens);
    rules
}

fn task(world: &World, submit: &Submit) -> NewTask {
    let known = &world.known;
    let after = |ms: u64| Timestamp(world.now.0 + ms);
    NewTask {
        priority: Lane::ALL[submit.lane],
        idempotency_key: submit.key.map(|key| format!("key {key}")),
        run_at: submit.delay.map(after),
        deadline: submit.deadline.map(after),
        max_attempts: submit.attempts,
        depends_on: submit.on.iter().filter_map(|on| pick(known, *on)).collect(),
        class: Some(NAMES[submit.flow.0].to_owned()),
        tenant: Some(NAMES[submit.flow.1].to_owned()),
        terms: Some(Box::new(terms(submit, after))),
        ..NewTask::new(KINDS[submit.kind], Json::null())
    }
}

/// Refusals are answers: only what is accepted has consequences, and the world checks them.
fn apply(world: &mut World, op: Op) {
    let leases = world.leases.clone();
    let held = |at: usize| pick(&leases, at);
    // Most older leases are stale, and a stale one spends nothing.
    let recent = |at: usize| pick(&leases[leases.len().saturating_sub(3)..], at);
    match op {
        Op::Submit(submit) => {
            let task = task(world, &submit);
            let _ = world.submit(task);
        }
        Op::Claim(lease_ms) => drop(world.claim_for("w", Duration::from_millis(lease_ms))),
        Op::Complete(at) => drop(held(at).map(|lease| world.complete(lease))),
        Op::Fail(at, retryable) => drop(held(at).map(|lease| world.fail(lease, retryable))),
        Op::Release(at) => drop(held(at).map(|lease| world.release(lease))),
        Op::Renew(at) => {
            if let Some((id, epoch)) = held(at) {
                let _ = world
                    .machine
                    .heartbeat(id, epoch, Duration::from_secs(9), world.now);
            }
        }
        Op::Step(at, key) => drop(held(at).map(|lease| world.step(lease, &format!("s{key}")))),
        Op::Suspend(at, family) => {
            let children: Vec<NewChild> = family
                .iter()
                .enumerate()
                .map(|(position, (submit, after))| NewChild {
                    task: NewTask {
                        idempotency_key: None,
                        ..task(world, submit)
                    },
                    after: after
                        .iter()
                        .copied()
                        .filter(|after| *after < position)
                        .collect(),
                })
                .collect();
            drop(held(at).map(|lease| world.suspend(lease, children)));
        }
        Op::Reserve(at, key, amount, afresh) => {
            drop(recent(at).map(|lease| world.reserve(lease, &format!("s{key}"), amount, afresh)));
        }
        Op::Pay(at, key, amount) => {
            // A step may cost less than was set aside for it; what costs more is charged as
            // it is, and breaks the law.
            if let Some(lease) = recent(at)
                && let Some(most) = world.machine.ledger.reserved(lease.0, &format!("s{key}"))
            {
                drop(world.pay(lease, &format!("s{key}"), amount.min(most.tokens)));
            }
        }
        Op::GiveBack(at, key) => {
            drop(recent(at).map(|lease| world.give_back(lease, &format!("s{key}"))));
        }
        Op::WaitForBudget(at, key, needs) => {
            drop(recent(at).map(|lease| world.wait_for_budget(lease, &format!("s{key}"), needs)));
        }
        Op::Ask(at, key, patience) => {
            let patience = patience.map(Duration::from_millis);
            drop(held(at).map(|lease| world.ask(lease, &format!("q{key}"), patience)));
        }
        Op::Answer(at, approved, grant) => {
            let asked = pick(&world.questions(), at);
            drop(asked.map(|id| world.answer(id, approved, grant)));
        }
        Op::Raise(more) => {
            let node = world.machine.budget(&Scope::Node, world.now);
            let limit = node.and_then(|node| node.limits.tokens).unwrap_or(0);
            world.set_budget(Scope::Node, limited(limit + more), None);
        }
        Op::Cancel(at) => drop(pick(&world.known, at).map(|id| world.cancel(id))),
        Op::Retry(at) => drop(pick(&world.known, at).map(|id| world.retry(id))),
        Op::RetryPart(at) => drop(pick(&world.known, at).map(|id| world.retry_part(id))),
        Op::Clear => {
            world.machine.clear(world.now);
            world.hand_over(Vec::new());
        }
        Op::Reclaim => {
            world.machine.reclaim("w", world.now);
            world.hand_over(Vec::new());
        }
        Op::Pause(paused) => world.turn(|control| control.paused = paused),
        Op::Limit(limit) => world.turn(|control| control.rules.default_limit = limit),
        Op::Slots(slots) => world.turn(|control| {
            let slots = Resource::Slots(slots);
            control.rules.resources.insert("slots".to_owned(), slots);
        }),
        Op::Weight(class, weight) => world.turn(|control| {
            let weight = Weight::new(f64::from(weight) / 1_000.0).expect("within bounds");
            control
                .rules
                .class_weights
                .insert(NAMES[class].to_owned(), weight);
        }),
        Op::MaxSize(max_size) => world.turn(|control| control.max_size = max_size),
        Op::Pass(ms) => world.pass(Duration::from_millis(ms)),
        Op::Commit(count) => world.commit(count),
        Op::FailCommit(kept) => world.fail_commit(kept),
        Op::Crash(kept) => world.restart(kept),
    }
}

/// Every task's log tells a story that can have happened.
fn read_log(world: &World, id: TaskId) {
    let mut woken = false;
    let mut over = false;
    let mut claimable = true;
    for kind in world.log_of(id) {
        assert!(
            !over || kind == TaskEventKind::Retried,
            "{kind:?} after the end"
        );
        match kind {
            TaskEventKind::Submitted | TaskEventKind::Retried => {
                (over, claimable, woken) = (false, true, false);
            }
            TaskEventKind::Available => {
                assert!(!woken, "woken more than once");
                (claimable, woken) = (true, true);
            }
            TaskEventKind::Leased => {
                assert!(claimable, "leased while it could not be");
                (claimable, woken) = (false, false);
            }
            TaskEventKind::Released | TaskEventKind::LeaseLost => claimable = true,
            TaskEventKind::Failed | TaskEventKind::StepRecorded => {}
            TaskEventKind::Suspended | TaskEventKind::CancelRequested => {}
            TaskEventKind::Approved | TaskEventKind::Denied | TaskEventKind::BudgetCharged => {}
            TaskEventKind::ApprovalAsked => claimable = false,
            // It may come back, and is available then.
            TaskEventKind::Carried => (claimable, woken) = (false, false),
            TaskEventKind::Completed | TaskEventKind::Discarded | TaskEventKind::Cancelled => {
                over = true;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_acknowledged_is_lost_and_nothing_stands_still(
        ops in prop::collection::vec(op(), 1..150)
    ) {
        let mut world = World::new(limits());
        world.turn(|control| control.rules = rules());
        world.set_budget(Scope::Node, limited(40), None);
        world.settle();
        for op in ops {
            apply(&mut world, op);
            world.check();
        }
        // Faults off: whatever is there finishes.
        world.turn(|control| {
            *control = Control {
                rules: rules(),
                ..Control::default()
            };
        });
        world.settle();
        let mut rounds = 0;
        while !world.machine.tasks.is_empty() {
            rounds += 1;
            prop_assert!(rounds < 3_000, "stands still: {:?}", world.machine.tasks);
            match world.claim() {
                Some(lease) => world.complete((lease.task.id, lease.epoch)).expect("held"),
                None => match world.questions().first() {
                Some(question) => world.answer(*question, true, None).expect("open"),
                None => world.pass(Duration::from_secs(40)),
                },
            }
            world.settle();
            world.check();
        }
        prop_assert!(world.machine.timers.is_empty());
        prop_assert_eq!(world.machine.stats(world.now).bytes, 0);
        for id in world.known.clone() {
            prop_assert!(world.view(id).is_some_and(|view| view.end.is_some()));
            read_log(&world, id);
        }
    }
}
