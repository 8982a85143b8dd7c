//! The world: what is due next, and what comes of it.

mod carry;
mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use regrow_runtime::agent_spec::AgentSpec;
use regrow_runtime::ids::AgentId;
use regrow_runtime::role::Role;

pub(super) use self::schedule::Event;
use self::schedule::Schedule;
use super::clock::Clock;
use super::invariants::Invariants;
use super::network::Network;
use super::offers;
use super::process::{Disk, Machine};
use super::trace::Trace;
use super::{Options, Report, Sabotage, Violation};
use crate::authority::Database;
use crate::entry::Entry;
use crate::member::{Incarnation, Member, NodeName};
use crate::node::{AuthorityKind, Node, NodeConfig};
use crate::spec_registry::{SpecRegistry, Under};

/// How often a node's core is called.
pub(super) const TICK_MS: u64 = 250;
/// How often the agents of a node do something.
const ACT_MS: u64 = 150;
/// How long after the last fault the world may take to come to rest.
const PATIENCE_MS: u64 = 120_000;

/// Everything there is.
pub(super) struct World {
    pub(super) options: Options,
    pub(super) config: NodeConfig,
    pub(super) rng: Xoshiro256PlusPlus,
    pub(super) now: u64,
    pub(super) machines: Vec<Machine>,
    pub(super) names: Vec<NodeName>,
    pub(super) founders: Arc<BTreeSet<NodeName>>,
    pub(super) agents: Vec<AgentId>,
    pub(super) network: Network,
    pub(super) database: Option<Database>,
    /// Tasks that the database holds.
    pub(super) stored: BTreeMap<u64, AgentId>,
    pub(super) schedule: Schedule,
    pub(super) invariants: Invariants,
    pub(super) quiet_since: Option<u64>,
    pub(super) next_task: u64,
    trace: Trace,
    pub(super) report: Report,
}

impl World {
    pub(super) fn new(options: &Options) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(options.seed);
        let drawn = rng.random_range(3..=5);
        let count = options.nodes.unwrap_or(drawn).clamp(1, 9);
        let database = rng.random_bool(0.5);
        let authority = options.authority.unwrap_or(match database {
            true => AuthorityKind::Database,
            false => AuthorityKind::Quorum,
        });
        let config = config(authority, options.sabotage, &mut rng);
        let names: Vec<NodeName> = (0..count)
            .map(|n| NodeName::from(["a", "b", "c", "d", "e", "f", "g", "h", "i"][n]))
            .collect();
        let agents = (0..rng.random_range(1..=4)).map(|n| AgentId::new(format!("agent-{n}")));
        let mut world = Self {
            options: *options,
            config,
            now: 0,
            machines: Vec::new(),
            founders: Arc::new(names.iter().cloned().collect()),
            agents: agents.collect(),
            network: Network::new(count),
            database: (authority == AuthorityKind::Database).then(Database::default),
            stored: BTreeMap::new(),
            schedule: Schedule::default(),
            invariants: Invariants::default(),
            quiet_since: None,
            next_task: 0,
            trace: Trace::new(),
            report: empty_report(options, count, authority),
            names,
            rng,
        };
        for _ in 0..count {
            let clock = Clock::random(config.terms.drift_ppm, &mut world.rng);
            let offer = offers::offer(options, &mut world.rng);
            world.machines.push(Machine {
                first_offer: offer.clone(),
                offer,
                heard: BTreeMap::new(),
                heard_at: 0,
                heard_in: 0,
                node: None,
                loaded: BTreeMap::new(),
                changes: Vec::new(),
                clock,
                pause: None,
                process: 0,
                incarnation: Incarnation(0),
                disk: Disk {
                    specs: SpecRegistry::new(64),
                    tasks: BTreeMap::new(),
                },
            });
        }
        for agent in world.agents.clone() {
            let mut spec = AgentSpec::new(agent, Role::Worker);
            spec.placement = offers::placement(options, &mut world.rng);
            let written = world.machines[0].disk.specs.put(
                Entry::new(spec),
                Under::default(),
                &world.names[0],
            );
            debug_assert!(written.is_ok(), "a few agents fit");
        }
        for node in 0..count {
            world.boot(node);
        }
        if 0 < options.steps {
            let first = world.rng.random_range(200..3_000);
            world.schedule.push(first, Event::Fault);
        }
        world.schedule.push(500, Event::Submit);
        world
    }

    /// Runs to the end: until all is at rest after the faults, or an invariant is broken.
    pub(super) fn run(mut self) -> Report {
        while self.report.violation.is_none() && self.step() && !self.is_over() {}
        self.report.simulated_ms = self.now;
        self.report.trace = self.trace.to_string();
        self.report
    }

    /// One event. Returns whether there was one.
    pub(super) fn step(&mut self) -> bool {
        let Some((at, event)) = self.schedule.pop() else {
            return false;
        };
        self.now = at;
        self.report.events += 1;
        self.trace.number(at);
        self.trace.number(event.kind());
        if self.report.events == self.options.steps {
            self.calm();
        }
        let node = event.node();
        self.happen(event);
        if let Some(node) = node {
            self.acknowledge(node);
        }
        let broken = self.check(node);
        self.violated(broken);
        true
    }

    fn check(&mut self, node: Option<usize>) -> Option<(&'static str, String)> {
        let mut invariants = std::mem::take(&mut self.invariants);
        let broken = invariants.check(self, node);
        self.invariants = invariants;
        broken
    }

    pub(super) fn violated(&mut self, broken: Option<(&'static str, String)>) {
        let Some((invariant, detail)) = broken else {
            return;
        };
        if self.report.violation.is_none() {
            self.report.violation = Some(Violation {
                invariant,
                step: self.report.events,
                at_ms: self.now,
                detail,
            });
        }
    }

    /// Whether the faults have stopped and everything is at rest again, or too late for that.
    fn is_over(&mut self) -> bool {
        let Some(since) = self.quiet_since else {
            return false;
        };
        if !self.report.events.is_multiple_of(16) {
            return false;
        }
        match super::invariants::recovery::unrest(self) {
            None => {
                self.report.recovered_ms = Some(self.now - since);
                true
            }
            Some(unrest) if since + PATIENCE_MS < self.now => {
                self.violated(Some(("recovery", unrest)));
                true
            }
            Some(_) => false,
        }
    }

    /// Starts a process on a machine, as a new life.
    pub(super) fn boot(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        machine.process += 1;
        machine.incarnation = Incarnation(machine.incarnation.0 + 1);
        let me = Member::new(self.names[node].clone(), machine.incarnation);
        let local = machine.clock.local(self.now);
        let specs = machine.disk.specs.clone();
        let founders = Arc::clone(&self.founders);
        machine.node = Some(Node::new(me, self.config, founders, specs, local));
        machine.loaded.clear();
        let process = machine.process;
        if self.rng.random_bool(0.25) {
            self.machines[node].offer = offers::offer(&self.options, &mut self.rng);
        }
        let late = self.rng.random_range(0..TICK_MS);
        self.schedule
            .push(self.now + late, Event::Tick { node, process });
        self.schedule
            .push(self.now + late + 10, Event::Act { node, process });
    }

    /// The process is gone, with everything that was not on its disk.
    pub(super) fn crash(&mut self, node: usize, lose_disk: bool) {
        let machine = &mut self.machines[node];
        if let Some(node) = machine.node.take() {
            machine.incarnation = node.me().incarnation;
            machine.disk.specs = node.specs().clone();
        }
        machine.process += 1;
        machine.loaded.clear();
        machine.changes.clear();
        machine.pause = None;
        if lose_disk {
            machine.disk.specs = SpecRegistry::new(64);
            let lost = std::mem::take(&mut machine.disk.tasks);
            self.invariants.tasks.disk_lost(lost.keys());
            self.invariants.changes.disk_lost();
        }
    }

    pub(super) fn note(&mut self, what: impl std::fmt::Display) {
        self.trace.text(what);
    }

    /// The nodes that run, those that stand still included.
    pub(super) fn up(&self) -> impl Iterator<Item = (usize, &Node)> {
        let machines = self.machines.iter().enumerate();
        machines.filter_map(|(n, machine)| Some((n, machine.node.as_ref()?)))
    }
}

/// A configuration that the seed varies, within what the promises are made for.
fn config(
    authority: AuthorityKind,
    sabotage: Sabotage,
    rng: &mut Xoshiro256PlusPlus,
) -> NodeConfig {
    let mut config = NodeConfig::under(authority);
    config.split_brain.stable_after = Duration::from_millis(rng.random_range(250..=1_000));
    config.detector.acceptable_pause = Duration::from_millis(rng.random_range(0..=400));
    config.quarantine.term = Duration::from_secs(6);
    config.quarantine.term_max = Duration::from_secs(12);
    config.quarantine.half_life = Duration::from_secs(20);
    config.quarantine.probation = Duration::from_secs(4);
    if sabotage == Sabotage::NoMargin {
        config.down_removal_margin = Duration::ZERO;
    }
    config
}

fn empty_report(options: &Options, nodes: usize, authority: AuthorityKind) -> Report {
    Report {
        seed: options.seed,
        nodes,
        database: authority == AuthorityKind::Database,
        events: 0,
        simulated_ms: 0,
        trace: String::new(),
        faults: BTreeMap::new(),
        effects: 0,
        refused: 0,
        starts: 0,
        acknowledged: 0,
        recovered_ms: None,
        violation: None,
    }
}
