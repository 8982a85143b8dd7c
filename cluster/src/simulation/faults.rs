//! What goes wrong, and what operators do meanwhile.

use rand::RngExt;
use rand::seq::IteratorRandom;

use super::Sabotage;
use super::process::Pause;
use super::world::Event;
use super::world::World;
use crate::node::{AuthorityKind, Decider, Spread};

/// A kind of fault, or of an operator's act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Two groups that do not hear each other.
    Partition,
    /// Some links carry nothing in one direction.
    OneWay,
    /// One node hears nobody, or is heard by nobody, or both.
    Isolation,
    /// The process of a node is killed; it may lose its disk.
    Crash,
    /// The process stands still while its clock runs on.
    Pause,
    /// The machine sleeps, and its clock with it.
    Sleep,
    /// Messages are lost, doubled, and take long.
    Storm,
    /// Some nodes do not reach the database.
    DatabaseAway,
    /// An agent is handed to another node.
    HandOff,
    /// An operator pins a node's quarantine.
    Pin,
    /// An operator releases a node.
    Release,
    /// An agent is stopped, or wanted again.
    Switch,
}

impl Fault {
    /// Its name in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Partition => "partition",
            Self::OneWay => "one_way",
            Self::Isolation => "isolation",
            Self::Crash => "crash",
            Self::Pause => "pause",
            Self::Sleep => "sleep",
            Self::Storm => "storm",
            Self::DatabaseAway => "database_away",
            Self::HandOff => "hand_off",
            Self::Pin => "pin",
            Self::Release => "release",
            Self::Switch => "switch",
        }
    }

    /// What may happen. A machine whose clock sleeps is beyond what leases are made for: only
    /// the database's fence holds then.
    fn of(authority: AuthorityKind) -> &'static [Self] {
        match authority {
            AuthorityKind::Database => &[
                Self::Partition,
                Self::OneWay,
                Self::Isolation,
                Self::Crash,
                Self::Crash,
                Self::Pause,
                Self::Pause,
                Self::Sleep,
                Self::Storm,
                Self::DatabaseAway,
                Self::DatabaseAway,
                Self::HandOff,
                Self::HandOff,
                Self::HandOff,
                Self::Pin,
                Self::Release,
                Self::Switch,
            ],
            AuthorityKind::Quorum => &[
                Self::Partition,
                Self::Partition,
                Self::OneWay,
                Self::Isolation,
                Self::Isolation,
                Self::Crash,
                Self::Crash,
                Self::Pause,
                Self::Pause,
                Self::Storm,
                Self::HandOff,
                Self::HandOff,
                Self::HandOff,
                Self::Pin,
                Self::Release,
                Self::Switch,
            ],
        }
    }
}

impl World {
    /// Something goes wrong, and something else soon after.
    pub(super) fn fault(&mut self) {
        if self.quiet_since.is_some() {
            return;
        }
        let next = self.now + self.rng.random_range(200..2_500);
        self.schedule.push(next, Event::Fault);
        let kinds = Fault::of(self.config.authority);
        let kind = kinds[self.rng.random_range(0..kinds.len())];
        *self.report.faults.entry(kind.as_str()).or_default() += 1;
        self.note(kind.as_str());
        let count = self.machines.len();
        let node = self.rng.random_range(0..count);
        match kind {
            Fault::Partition | Fault::OneWay | Fault::Isolation | Fault::DatabaseAway => {
                self.cut(kind, node);
                self.heal_later();
            }
            Fault::Storm => {
                self.network.lost = self.rng.random_range(0..300);
                self.network.doubled = self.rng.random_range(0..200);
                self.network.delay_max = [50, 400, 2_500][self.rng.random_range(0..3)];
                self.heal_later();
            }
            Fault::Crash => {
                if self.machines[node].node.is_some() {
                    let lose_disk = self.rng.random_bool(0.25);
                    self.crash(node, lose_disk);
                    let back = self.now + self.rng.random_range(50..6_000);
                    self.schedule.push(back, Event::Restart { node });
                }
            }
            Fault::Pause => self.pause(node, false),
            Fault::Sleep => self.pause(node, true),
            Fault::HandOff => self.hand_off(),
            Fault::Pin | Fault::Release => {
                let victim = self.names[self.rng.random_range(0..count)].clone();
                let machine = &mut self.machines[node];
                let local = machine.clock.local(self.now);
                if let Some(core) = machine.node.as_mut() {
                    core.write_quarantine(|quarantine| {
                        if kind == Fault::Pin {
                            quarantine.pin(&victim, local);
                        } else {
                            quarantine.release(&victim, local);
                        }
                    });
                }
                self.invariants
                    .quarantine
                    .operator_wrote(machine, node, self.now);
            }
            Fault::Switch => self.change(true),
        }
    }

    /// The faults are over: everything works, everyone is back, nobody is pinned.
    pub(super) fn calm(&mut self) {
        self.quiet_since = Some(self.now);
        self.network.heal();
        for node in 0..self.machines.len() {
            if self.machines[node].node.is_none() {
                self.schedule.push(self.now + 500, Event::Restart { node });
            }
            let machine = &mut self.machines[node];
            let local = machine.clock.local(self.now);
            if let Some(core) = machine.node.as_mut() {
                for name in &self.names {
                    core.write_quarantine(|quarantine| quarantine.release(name, local));
                }
            }
            self.invariants
                .quarantine
                .operator_wrote(machine, node, self.now);
        }
    }

    fn heal_later(&mut self) {
        let at = self.now + self.rng.random_range(300..7_000);
        self.schedule.push(at, Event::Heal);
    }

    fn cut(&mut self, kind: Fault, node: usize) {
        let count = self.machines.len();
        let sides: Vec<bool> = (0..count).map(|_| self.rng.random_bool(0.5)).collect();
        let (mute, deaf) =
            [(true, true), (true, false), (false, true)][self.rng.random_range(0..3)];
        for from in 0..count {
            if kind == Fault::DatabaseAway && sides[from] {
                self.network.cut_database(from);
            }
            for to in 0..count {
                let cut = match kind {
                    Fault::Partition => sides[from] != sides[to],
                    Fault::OneWay => self.rng.random_bool(0.3),
                    Fault::Isolation => from != to && (from == node && mute || to == node && deaf),
                    Fault::DatabaseAway
                    | Fault::Crash
                    | Fault::Pause
                    | Fault::Sleep
                    | Fault::Storm
                    | Fault::HandOff
                    | Fault::Pin
                    | Fault::Release
                    | Fault::Switch => false,
                };
                if cut {
                    self.network.cut(from, to);
                }
            }
        }
    }

    fn pause(&mut self, node: usize, asleep: bool) {
        let until = self.now + self.rng.random_range(100..7_000);
        let machine = &mut self.machines[node];
        if machine.node.is_none() || machine.pause.is_some() {
            return;
        }
        machine.pause = Some(Pause {
            until,
            asleep,
            since: self.now,
        });
        self.invariants.owner.clocks_slept |= asleep;
        let process = machine.process;
        self.schedule.push(until, Event::Resume { node, process });
    }

    fn hand_off(&mut self) {
        let agent = self.agents[self.rng.random_range(0..self.agents.len())].clone();
        let target = self.names[self.rng.random_range(0..self.names.len())].clone();
        let acts = |n: &usize| {
            self.machines[*n]
                .acts(&agent, self.now, self.options.sabotage)
                .is_some()
        };
        let Some(owner) = (0..self.machines.len()).filter(acts).choose(&mut self.rng) else {
            return;
        };
        let machine = &mut self.machines[owner];
        let local = machine.clock.local(self.now);
        if let Some(core) = machine.node.as_mut() {
            // Refusals are expected: the target may be this node, or seem gone.
            let _ = core.hand_off(&agent, &target, local);
        }
    }

    /// Somebody asks whichever node decides to let an agent run no more, or again if `toggles`; all
    /// changes are noted in the agent's entry.
    pub(super) fn change(&mut self, toggles: bool) {
        let agent = self.agents[self.rng.random_range(0..self.agents.len())].clone();
        let decides = |node: &usize| {
            let machine = &self.machines[*node];
            let local = machine.clock.local(self.now);
            let core = machine.node.as_ref().filter(|_| machine.pause.is_none());
            core.is_some_and(|core| core.decider(&agent, local) == Decider::Here)
        };
        // There may be several who think so.
        let deciders = (0..self.machines.len()).filter(decides);
        let Some(node) = deciders.choose(&mut self.rng) else {
            return;
        };
        let machine = &mut self.machines[node];
        let Some(core) = machine.node.as_mut() else {
            return;
        };
        let Some(mut known) = core.specs().get(&agent).cloned() else {
            return;
        };
        match known.wanted {
            _ if !toggles => {}
            true => known.stop(),
            false => known.start(),
        }
        let change = self.invariants.changes.note(&mut known);
        // It is known, so there is room for it.
        let Ok(Some(version)) = core.write_entry(&agent, Some(known)) else {
            return;
        };
        let commands = core.tell_spec(&agent);
        machine.changes.push((agent, version, change));
        self.obey(node, commands);
    }

    /// Whoever asked for a change hears of it when it is known widely.
    pub(super) fn acknowledge(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        let Some(core) = &machine.node else { return };
        if self.database.is_some() {
            // Without a claim in the database nothing says whose word stands.
            machine.changes.clear();
        }
        let mut known = Vec::new();
        let unheard = self.options.sabotage == Sabotage::AcknowledgedUnheard;
        machine.changes.retain(|(agent, version, change)| {
            let spread = match unheard {
                true => Spread::Widely,
                false => core.spread(agent, version),
            };
            if spread == Spread::Widely {
                known.push((agent.clone(), *change));
            }
            spread == Spread::Partly
        });
        for (agent, change) in known {
            let broken = self.invariants.changes.acknowledged(&agent, change);
            self.violated(broken.map(|detail| ("acknowledged_changes", detail)));
        }
    }
}
