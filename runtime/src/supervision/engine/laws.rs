//! Laws of the engine under random events: whatever children, operators and time do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::cycle::{Mode, Stage};
use super::tests::child;
use super::*;
use crate::supervision::child_spec::Shutdown;
use crate::supervision::strategy::{AutoShutdown, Strategy as Restarts};
use crate::supervision::{Backoff, SupervisorSpec};

const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actual {
    Starting,
    Running,
    Asked,
    Killed,
}

/// The world outside the engine, which obeys its commands and notices when one is unlawful.
struct World {
    engine: Engine,
    now: Instant,
    actual: BTreeMap<Life, Actual>,
    /// Given up by the engine, and possibly still alive.
    abandoned: BTreeSet<Life>,
    names: BTreeMap<ChildKey, ChildId>,
    begun: BTreeMap<Life, Instant>,
    unanswered: BTreeMap<u64, ChildId>,
    tickets: u64,
    /// Children that may be down: by order, by choice, or after a normal end.
    may_be_down: BTreeSet<ChildKey>,
    exit: Option<ExitReason>,
}

impl World {
    fn new(spec: SupervisorSpec) -> Self {
        Self {
            engine: Engine::new("sup".into(), spec.policy, &spec.children, 1),
            now: Instant::now(),
            actual: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            names: BTreeMap::new(),
            begun: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            tickets: 0,
            may_be_down: BTreeSet::new(),
            exit: None,
        }
    }

    fn on(&mut self, event: Event) {
        assert_eq!(self.exit, None, "the world ends with the supervisor");
        let commands = self.engine.on(event, self.now);
        for command in commands {
            assert_eq!(
                self.exit, None,
                "nothing follows the exit, but: {command:?}"
            );
            self.obey(command);
        }
        self.check_indexes();
        self.check_backoff_of_groups();
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Start(life) => {
                let before = self.actual.keys().any(|other| other.key == life.key);
                assert!(!before, "two lives of one child: {life:?}");
                self.actual.insert(life, Actual::Starting);
                self.begun.insert(life, self.now);
                let id = self.engine.spec(life.key).map(|spec| spec.id.clone());
                self.names.extend(id.map(|id| (life.key, id)));
                self.may_be_down.remove(&life.key);
            }
            Command::CancelStart(life) => {
                assert_eq!(
                    self.actual.get(&life),
                    Some(&Actual::Starting),
                    "cancelled {life:?}"
                );
                // A start may run out of its minute whenever it likes.
                if self.now < self.begun[&life] + Duration::from_secs(60) {
                    self.check_shutdown_order(life);
                }
                self.actual.insert(life, Actual::Killed);
            }
            Command::Stop(life) => {
                let running = self.actual.insert(life, Actual::Asked);
                assert_eq!(running, Some(Actual::Running), "asked {life:?}");
                self.check_shutdown_order(life);
            }
            Command::Kill(life) => {
                let alive = self.actual.insert(life, Actual::Killed);
                assert!(
                    matches!(alive, Some(Actual::Running | Actual::Asked)),
                    "killed {life:?}"
                );
                if alive == Some(Actual::Running) {
                    self.check_shutdown_order(life);
                }
            }
            Command::Reply(ticket, outcome) => {
                let asked = self
                    .unanswered
                    .remove(&ticket.0)
                    .expect("the ticket was waiting");
                if matches!(outcome, Err(Refusal::StartFailed(_)))
                    && let Some(key) = self.engine.keys.get(&asked)
                {
                    self.may_be_down.insert(*key);
                }
            }
            Command::Announce(Notice {
                child,
                change: Change::Abandoned { generation },
                ..
            }) => {
                let life = self
                    .actual
                    .keys()
                    .copied()
                    .find(|life| life.generation == generation && self.names[&life.key] == child)
                    .expect("only a life that has not ended is abandoned");
                self.actual.remove(&life);
                self.abandoned.insert(life);
            }
            Command::Exit(reason) => {
                assert!(self.actual.is_empty(), "orphans: {:?}", self.actual);
                assert!(
                    self.unanswered.is_empty(),
                    "unanswered: {:?}",
                    self.unanswered
                );
                self.exit = Some(reason);
            }
            Command::Announce(_)
            | Command::Ended(..)
            | Command::Show(_)
            | Command::Forget(_)
            | Command::Booted => {}
        }
    }

    /// While an ordinary supervisor shuts down, the last child alive is the one to go.
    fn check_shutdown_order(&self, life: Life) {
        let in_order = matches!(
            self.engine.mode,
            Mode::Stopping {
                all_asked: false,
                ..
            }
        );
        if in_order && !self.engine.policy.dynamic {
            let last = self.actual.keys().map(|other| other.key).max();
            assert_eq!(Some(life.key), last, "shutdown is out of order");
        }
    }

    fn check_indexes(&self) {
        let engine = &self.engine;
        for (key, child) in &engine.children {
            let alive = matches!(
                child.phase,
                Phase::Starting(_) | Phase::Running | Phase::Ending { .. }
            );
            assert_eq!(engine.alive.contains(key), alive, "{key:?}");
            let held = matches!(child.phase, Phase::Held(_));
            assert_eq!(engine.held.contains(key), held, "{key:?}");
            let timed = child
                .deadline
                .is_some_and(|at| engine.deadlines.contains(&(at, *key)));
            assert_eq!(child.deadline.is_some(), timed, "{key:?}");
            let life = Life {
                key: *key,
                generation: child.generation,
            };
            assert_eq!(
                self.actual.contains_key(&life),
                alive,
                "{key:?} {:?}",
                child.phase
            );
        }
        assert_eq!(engine.keys.len(), engine.children.len());
        assert!(engine.alive.len() + engine.held.len() <= engine.children.len());
        assert!(engine.deadlines.len() <= engine.children.len());
        assert!(engine.waiting.keys().all(|key| engine.alive.contains(key)));
    }

    fn check_backoff_of_groups(&self) {
        if let Mode::Cycling(cycle) = &self.engine.mode
            && cycle.stage == Stage::BackingOff
        {
            let survivor = self.actual.keys().find(|life| cycle.from <= life.key);
            assert_eq!(
                survivor, None,
                "a member runs on during its group's backoff"
            );
        }
    }

    fn pick(&self, among: &[Actual], choice: usize) -> Option<Life> {
        let lives: Vec<Life> = self
            .actual
            .iter()
            .filter(|(_, actual)| among.contains(actual))
            .map(|(life, _)| *life)
            .collect();
        (!lives.is_empty()).then(|| lives[choice % lives.len()])
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::StartReports(choice, result) => {
                let Some(life) = self.pick(&[Actual::Starting], *choice) else {
                    return;
                };
                match result {
                    None => {
                        self.actual.insert(life, Actual::Running);
                        self.on(Event::Started(life));
                    }
                    Some(error) => {
                        self.actual.remove(&life);
                        if *error == StartError::Ignored {
                            self.may_be_down.insert(life.key);
                        }
                        self.on(Event::StartFailed(life, error.clone()));
                    }
                }
            }
            Step::Exits(choice, reason) => {
                let Some(life) = self.pick(&[Actual::Running, Actual::Asked], *choice) else {
                    return;
                };
                self.actual.remove(&life);
                if let Some(spec) = self.engine.spec(life.key)
                    && !spec.restart.applies_to(reason.is_abnormal())
                {
                    self.may_be_down.insert(life.key);
                }
                self.on(Event::Exited(life, reason.clone()));
            }
            Step::Obeys(choice) => self.obeys(*choice),
            Step::Passes(millis) => {
                self.now += Duration::from_millis(*millis);
                self.on(Event::DeadlinePassed);
            }
            Step::Asks(what, id) => {
                let id: ChildId = IDS[id % IDS.len()].into();
                if let Some(key) = self.engine.keys.get(&id)
                    && *what == 1
                    && !self.engine.is_booting()
                {
                    self.may_be_down.insert(*key);
                }
                self.unanswered.insert(self.tickets, id.clone());
                let request = match what {
                    0 => Request::Start(Arc::new(child(id.as_str()))),
                    1 => Request::Terminate(id),
                    2 => Request::Restart(id),
                    3 => Request::Delete(id),
                    4 => Request::Kill(id),
                    _ => Request::Renew(id),
                };
                let ticket = Ticket(self.tickets);
                self.tickets += 1;
                self.on(Event::Request(ticket, request));
            }
            Step::Stale(choice) => {
                let old: Vec<Life> = self
                    .actual
                    .keys()
                    .filter(|life| 1 < life.generation)
                    .map(|life| Life {
                        generation: life.generation - 1,
                        ..*life
                    })
                    .chain(self.abandoned.iter().copied())
                    .collect();
                if let Some(life) = (!old.is_empty()).then(|| old[choice % old.len()]) {
                    assert!(!self.engine.awaits_start(life));
                    let commands = self
                        .engine
                        .on(Event::Exited(life, ExitReason::Killed), self.now);
                    assert_eq!(commands, [], "a stale event of {life:?} changed something");
                }
            }
            Step::Stop => self.on(Event::Stop),
            Step::Kill => self.on(Event::Kill),
        }
    }

    /// One child that was told to end, does.
    fn obeys(&mut self, choice: usize) {
        let Some(life) = self.pick(&[Actual::Asked, Actual::Killed], choice) else {
            return;
        };
        let killed = self.actual.remove(&life) == Some(Actual::Killed);
        let starting = self.engine.awaits_start(life);
        self.on(match (starting, killed) {
            (true, _) => Event::StartFailed(life, StartError::Cancelled),
            (false, true) => Event::Exited(life, ExitReason::Killed),
            (false, false) => Event::Exited(life, ExitReason::Shutdown(ShutdownCause::Requested)),
        });
    }

    /// Lets everything that is under way come to rest, with nothing failing any more.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.exit.is_some() {
                return;
            }
            if self.pick(&[Actual::Starting], 0).is_some() {
                self.step(&Step::StartReports(0, None));
            } else if self.pick(&[Actual::Asked, Actual::Killed], 0).is_some() {
                self.obeys(0);
            } else if let Some(at) = self.engine.next_deadline() {
                self.now = self.now.max(at);
                self.on(Event::DeadlinePassed);
            } else {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// At rest, everyone runs who is not rightly down.
    fn check_rest(&self) {
        assert!(
            self.unanswered.is_empty(),
            "unanswered: {:?}",
            self.unanswered
        );
        for (key, child) in &self.engine.children {
            match child.phase {
                Phase::Running => {}
                Phase::Idle => assert!(
                    self.may_be_down.contains(key),
                    "{:?} stays down without a reason",
                    child.spec
                ),
                Phase::Held(_) | Phase::BackingOff | Phase::Starting(_) | Phase::Ending { .. } => {
                    panic!("{:?} is stuck in {:?}", child.spec, child.phase)
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    StartReports(usize, Option<StartError>),
    Exits(usize, ExitReason),
    Obeys(usize),
    Passes(u64),
    Asks(u8, usize),
    Stale(usize),
    Stop,
    Kill,
}

fn reasons() -> impl Strategy<Value = ExitReason> {
    prop_oneof![
        Just(ExitReason::Normal),
        Just(ExitReason::Shutdown(ShutdownCause::Requested)),
        Just(ExitReason::Killed),
        Just(ExitReason::Error("bad".into())),
        Just(ExitReason::Panic("boom".into())),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let failures = prop_oneof![
        8 => Just(None),
        2 => Just(Some(StartError::new("no"))),
        1 => Just(Some(StartError::Ignored)),
    ];
    prop_oneof![
        12 => (any::<usize>(), failures).prop_map(|(choice, result)| Step::StartReports(choice, result)),
        6 => (any::<usize>(), reasons()).prop_map(|(choice, reason)| Step::Exits(choice, reason)),
        8 => any::<usize>().prop_map(Step::Obeys),
        4 => (0_u64..70_000).prop_map(Step::Passes),
        6 => (0_u8..6, any::<usize>()).prop_map(|(what, id)| Step::Asks(what, id)),
        2 => any::<usize>().prop_map(Step::Stale),
        1 => Just(Step::Stop),
        1 => Just(Step::Kill),
    ]
}

fn child_specs() -> impl Strategy<Value = Vec<ChildSpec>> {
    let restart = prop_oneof![
        Just(Restart::Permanent),
        Just(Restart::Transient),
        Just(Restart::Temporary)
    ];
    let shutdown = prop_oneof![
        Just(Shutdown::Brutal),
        Just(Shutdown::Timeout(Duration::from_secs(1))),
        Just(Shutdown::Infinity),
    ];
    prop::collection::vec((restart, shutdown, any::<bool>()), 0..4).prop_map(|children| {
        children
            .into_iter()
            .zip(IDS)
            .map(|((restart, shutdown, significant), id)| {
                let spec = child(id).restart(restart).shutdown(shutdown);
                let significant = significant && restart != Restart::Permanent;
                if significant {
                    spec.significant()
                } else {
                    spec
                }
            })
            .collect()
    })
}

fn supervisors() -> impl Strategy<Value = SupervisorSpec> {
    let strategy = prop_oneof![
        Just(Restarts::OneForOne),
        Just(Restarts::OneForAll),
        Just(Restarts::RestForOne)
    ];
    let auto_shutdown = prop_oneof![
        Just(AutoShutdown::AnySignificant),
        Just(AutoShutdown::AllSignificant)
    ];
    let backoff = prop_oneof![Just(Backoff::OFF), Just(Backoff::default())];
    (
        strategy,
        any::<bool>(),
        auto_shutdown,
        backoff,
        0_usize..8,
        child_specs(),
    )
        .prop_map(
            |(strategy, dynamic, auto_shutdown, backoff, restarts_max, children)| {
                let spec = match dynamic {
                    true => SupervisorSpec::dynamic("sup"),
                    false => SupervisorSpec::new("sup", strategy),
                };
                let spec = spec
                    .auto_shutdown(auto_shutdown)
                    .backoff(backoff)
                    .intensity(restarts_max, Duration::from_secs(5));
                children.into_iter().fold(spec, SupervisorSpec::child)
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_events_breaks_the_laws(
        spec in supervisors(),
        steps in prop::collection::vec(steps(), 0..60),
    ) {
        let mut world = World::new(spec);
        world.on(Event::Boot);
        for step in &steps {
            if world.exit.is_some() {
                break;
            }
            world.step(step);
        }
        world.settle();
        if world.exit.is_none() {
            world.check_rest();
            world.on(Event::Stop);
            world.settle();
        }
        prop_assert!(world.exit.is_some(), "it ends when asked to");
    }
}
