//! Real actors that hang, are busy, or stand still, under a real supervisor (D-04).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::remedy::Condition;
use super::*;
use crate::actor::Crash;
use crate::actor::{Actor, StartError};
use crate::events::{Event, Subscription};
use crate::mailbox::{Address, Mailbox, Observation, Reply};
use crate::observe::observer;
use crate::supervision::{Backoff, Root, RootHandle, Strategy, SupervisorSpec};

/// Longest wait for anything; reached only when a test fails.
const SOON: Duration = Duration::from_secs(120);

enum Order {
    /// Never returns from the handler.
    Hang(Reply<()>),
    /// Spends this long in the handler, at an await point.
    Dawdle(Duration),
    /// Burns a core elsewhere until the flag is set.
    Compute(Arc<AtomicBool>),
}

struct Agent;

impl Actor for Agent {
    type Msg = Order;
    type Args = ();
    type State = JoinSet<()>;

    async fn start(&self, _: &Mailbox<Order>, (): ()) -> Result<JoinSet<()>, StartError> {
        Ok(JoinSet::new())
    }

    async fn handle(
        &self,
        _: &Mailbox<Order>,
        order: Order,
        work: &mut JoinSet<()>,
    ) -> Result<(), Crash> {
        match order {
            Order::Hang(began) => {
                began.send(());
                std::future::pending::<()>().await;
            }
            Order::Dawdle(time) => tokio::time::sleep(time).await,
            Order::Compute(stop) => {
                work.spawn_blocking(move || {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
        }
        Ok(())
    }

    fn observe(&self, work: &JoinSet<()>) -> Observation {
        Observation {
            in_flight: work.len(),
            ..Observation::default()
        }
    }
}

/// A tree `root` with `agents`, and health watching it.
struct Stage {
    agents: Vec<Address<Order>>,
    supervisor: Supervisor,
    health: Health,
    events: Subscription,
    config: HealthConfig,
    clock: Clock,
    root: RootHandle,
}

impl Stage {
    async fn open(count: usize, config: HealthConfig, restarts_max: usize) -> Self {
        Self::open_with(count, config, restarts_max, true).await
    }

    async fn open_with(
        count: usize,
        config: HealthConfig,
        restarts_max: usize,
        remediable: bool,
    ) -> Self {
        assert_eq!(config.problems(), Vec::<String>::new());
        let mut agents_spec = SupervisorSpec::dynamic("agents")
            .intensity(restarts_max, Duration::from_secs(5))
            .backoff(Backoff::OFF);
        let agents: Vec<Address<Order>> = (0..count).map(|_| Address::new()).collect();
        for (n, address) in agents.iter().enumerate() {
            agents_spec = agents_spec.child(agent(n, address));
        }
        let supervisor = agents_spec.handle();
        let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(agents_spec.into_child());
        let root = Root::start(spec).await.expect("the tree starts");
        let (bus, clock) = (EventBus::default(), Clock::system());
        let events = bus.subscribe();
        let path = if remediable {
            "root/agents"
        } else {
            "root/other"
        };
        let cared_for = Remediable {
            path: path.into(),
            supervisor: supervisor.clone(),
        };
        let (health, monitor) =
            Health::monitor(config, root.tree(), vec![cared_for], bus.clone(), clock);
        for child in [observer(root.tree(), bus), monitor] {
            let started = root.supervisor().start_child(child).await;
            started.expect("the child starts");
        }
        Self {
            agents,
            supervisor,
            health,
            events,
            config,
            clock,
            root,
        }
    }

    async fn hang(&self, n: usize) {
        let running = self.agents[n].running(SOON).await.expect("it runs");
        running.call(Order::Hang, SOON).await.expect("it hangs");
    }

    /// Waits for an event about an agent; returns what it says.
    async fn until(&mut self, n: usize, wanted: &str) -> String {
        let path = path(n);
        let wait = async {
            loop {
                let Some(event) = self.events.next().await else {
                    panic!("the bus is gone");
                };
                if let Event::Runtime {
                    subject,
                    what,
                    detail,
                    ..
                } = event
                    && subject == path
                {
                    if what == wanted {
                        return detail;
                    }
                    assert!(what != "convicted" || wanted != "healed", "{detail}");
                }
            }
        };
        let found = tokio::time::timeout(SOON, wait).await;
        found.unwrap_or_else(|_| panic!("{path} was never {wanted}"))
    }

    async fn until_condition(&mut self, n: usize, wanted: Condition) -> Arc<HealthReport> {
        let wait = async {
            loop {
                let report = self.health.next_report().await.expect("the monitor runs");
                if report.find(&path(n)).is_some_and(|a| a.condition == wanted) {
                    return report;
                }
            }
        };
        let found = tokio::time::timeout(SOON, wait).await;
        found.unwrap_or_else(|_| panic!("agent {n} never was {wanted:?}"))
    }

    fn generation(&self, n: usize) -> u64 {
        let node = self.root.tree().find(&path(n)).expect("it is in the tree");
        node.generation
    }
}

fn path(n: usize) -> String {
    format!("root/agents/agent-{n}")
}

fn agent(n: usize, address: &Address<Order>) -> ChildSpec {
    ChildSpec::actor(format!("agent-{n}"), address, || (Agent, ())).role("worker")
}

#[tokio::test(start_paused = true)]
async fn a_hung_agent_is_killed_and_regrown_within_a_bounded_time() {
    let mut stage = Stage::open(2, HealthConfig::default(), 10).await;
    stage.until_condition(0, Condition::Healthy).await;
    let other = stage.generation(1);
    let before = stage.generation(0);
    stage.hang(0).await;
    let hung_at = Instant::now();
    stage.until(0, "suspected").await;
    stage.until(0, "convicted").await;
    stage.until(0, "child_restarted").await;
    let took = hung_at.elapsed();
    let bound = stage.config.conviction_within();
    assert!(took <= bound, "took {took:?}, bound {bound:?}");
    stage.until(0, "healed").await;
    assert_ne!(stage.generation(0), before);
    assert_eq!(stage.generation(1), other);
    let report = stage.health.report();
    assert_eq!(report.find(&path(1)).map(|a| a.convictions), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_answers_again_is_cleared_and_keeps_its_life() {
    let mut stage = Stage::open(1, HealthConfig::default(), 10).await;
    stage.until_condition(0, Condition::Healthy).await;
    let before = stage.generation(0);
    let dawdle = Order::Dawdle(Duration::from_millis(2_300));
    stage.agents[0].try_send(dawdle).expect("it runs");
    stage.until(0, "suspected").await;
    stage.until(0, "healed").await;
    assert_eq!(stage.generation(0), before);
    let report = stage.health.report();
    let agent = report.find(&path(0)).expect("is in the report");
    assert!(agent.alive && agent.ready && agent.progressing);
    assert_eq!((agent.convictions, agent.cause.as_deref()), (0, None));
}

#[tokio::test(start_paused = true)]
async fn an_agent_with_a_long_queue_of_slow_messages_is_busy_and_left_alone() {
    let mut stage = Stage::open(1, HealthConfig::default(), 10).await;
    stage.until_condition(0, Condition::Healthy).await;
    let before = stage.generation(0);
    for _ in 0..100 {
        let dawdle = Order::Dawdle(Duration::from_millis(300));
        stage.agents[0].try_send(dawdle).expect("there is room");
    }
    let report = stage.until_condition(0, Condition::Busy).await;
    let agent = report.find(&path(0)).expect("is in the report");
    assert!(agent.alive && !agent.ready && agent.progressing);
    stage.until_condition(0, Condition::Healthy).await;
    assert_eq!(stage.generation(0), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_agent_is_regrown_while_agents_that_burn_all_cores_are_not_touched() {
    let config = HealthConfig {
        period: Duration::from_millis(200),
        deadline: Duration::from_millis(200),
        policy: RemedyPolicy {
            silence_min: Duration::from_millis(400),
            ..RemedyPolicy::default()
        },
        ..HealthConfig::default()
    };
    let mut stage = Stage::open(3, config, 10).await;
    stage.until_condition(0, Condition::Healthy).await;
    let before: Vec<u64> = (0..3).map(|n| stage.generation(n)).collect();
    let stop = Arc::new(AtomicBool::new(false));
    for n in [1, 2, 1, 2] {
        let compute = Order::Compute(Arc::clone(&stop));
        stage.agents[n].try_send(compute).expect("it runs");
    }
    stage.hang(0).await;
    let hung_at = Instant::now();
    stage.until(0, "child_restarted").await;
    let took = hung_at.elapsed();
    stage.until_condition(0, Condition::Healthy).await;
    let busy = [1, 2].map(|n| stage.generation(n));
    let report = stage.health.report();
    stop.store(true, Ordering::Relaxed);
    assert_ne!(stage.generation(0), before[0]);
    assert_eq!(busy, before[1..]);
    for n in [1, 2] {
        let agent = report.find(&path(n)).expect("is in the report");
        assert_eq!((agent.in_flight, agent.convictions), (2, 0));
    }
    assert!(took < Duration::from_secs(10), "took {took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_hangs_in_every_life_is_parked_with_the_cause_shown() {
    let mut stage = Stage::open(1, HealthConfig::default(), 10).await;
    for _ in 0..stage.config.policy.kills_before_park {
        stage.hang(0).await;
        stage.until(0, "child_restarted").await;
        stage.until(0, "healed").await;
    }
    stage.hang(0).await;
    let cause = stage.until(0, "parked").await;
    assert!(cause.contains("silent for"), "{cause}");
    let report = stage.until_condition(0, Condition::Parked).await;
    let agent = report.find(&path(0)).expect("is remembered");
    assert_eq!(agent.cause.as_deref(), Some(&*cause));
    assert!(!agent.alive && !agent.ready);
    assert_eq!(report.unwell().count(), 1);
    assert!(stage.root.tree().find(&path(0)).is_none(), "it is stopped");
    let again = stage.supervisor.start_child(agent_again(&stage)).await;
    again.expect("a person may start it again");
    let report = stage.until_condition(0, Condition::Healthy).await;
    assert_eq!(report.find(&path(0)).map(|a| a.convictions), Some(0));
}

fn agent_again(stage: &Stage) -> ChildSpec {
    agent(0, &stage.agents[0])
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_nobody_may_kill_is_only_reported() {
    let mut stage = Stage::open_with(1, HealthConfig::default(), 10, false).await;
    stage.until_condition(0, Condition::Healthy).await;
    let before = stage.generation(0);
    stage.hang(0).await;
    stage.until(0, "convicted").await;
    for _ in 0..30 {
        let report = stage.health.next_report().await.expect("the monitor runs");
        let agent = report.find(&path(0)).expect("is in the report");
        assert_eq!(agent.condition, Condition::Convicted);
        assert!(!agent.remediable);
    }
    assert_eq!(stage.generation(0), before);
}

#[tokio::test(start_paused = true)]
async fn many_hung_agents_are_regrown_without_exhausting_their_supervisor() {
    let config = HealthConfig {
        remedies_max: 2,
        ..HealthConfig::default()
    };
    let mut stage = Stage::open(20, config, 2).await;
    stage.until_condition(19, Condition::Healthy).await;
    for n in 0..20 {
        stage.hang(n).await;
    }
    stage.until_condition(0, Condition::Suspect).await;
    let wait = async {
        loop {
            let report = stage.health.next_report().await.expect("the monitor runs");
            let regrown = (0..20).filter_map(|n| report.find(&path(n)));
            if regrown
                .filter(|a| a.condition == Condition::Healthy)
                .count()
                == 20
            {
                return;
            }
        }
    };
    let healed = tokio::time::timeout(SOON, wait).await;
    healed.expect("all are regrown in time");
    let agents = stage.root.tree().find("root/agents").expect("runs");
    assert_eq!((agents.restarts, agents.children.len()), (0, 20));
}

#[tokio::test(start_paused = true)]
async fn a_report_is_stale_before_the_first_round_and_when_the_monitor_is_gone() {
    let mut stage = Stage::open(1, HealthConfig::default(), 10).await;
    let age_max = stage.config.period * 3;
    assert!(HealthReport::default().is_stale(stage.clock.now(), age_max));
    let report = stage.until_condition(0, Condition::Healthy).await;
    assert!(!report.is_stale(stage.clock.now(), age_max));
    let stopped = stage.root.supervisor().terminate_child("monitor").await;
    stopped.expect("it runs");
    tokio::time::advance(age_max * 2).await;
    let last = stage.health.report();
    assert!(last.is_stale(stage.clock.now(), age_max));
    assert!(last.find(&path(0)).is_some(), "the last report is readable");
}

#[test]
fn a_configuration_that_cannot_work_says_everything_that_is_wrong() {
    let config = HealthConfig {
        deadline: Duration::from_secs(2),
        probes_max: 0,
        ..HealthConfig::default()
    };
    assert_eq!(config.problems().len(), 2, "{:?}", config.problems());
}
