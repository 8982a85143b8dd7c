//! Carrying out what nodes want, and what their agents do.

use rand::RngExt;
use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::{AgentId, Epoch};

use super::{ACT_MS, Event, TICK_MS, World};
use crate::authority::Question;
use crate::entry::Placed;
use crate::local_time::millis;
use crate::member::Member;
use crate::node::{Command, Message};
use crate::simulation::Sabotage;
use crate::simulation::process::Loaded;

impl World {
    /// One event happens. What is meant for a process that stands still waits for it, and
    /// what is meant for one that is gone is lost.
    pub(super) fn happen(&mut self, event: Event) {
        if let Some(node) = event.node()
            && let Some(pause) = self.machines[node].pause
        {
            // In any order: nothing says that a process first looks at its clock.
            let late = self.rng.random_range(0..5);
            self.schedule.push(pause.until.max(self.now) + late, event);
            return;
        }
        match event {
            Event::Tick { node, process } if self.runs(node, process) => self.tick(node, process),
            Event::Act { node, process } if self.runs(node, process) => self.act(node, process),
            Event::FromDatabase {
                node,
                process,
                answer,
            } if self.runs(node, process) => {
                let local = self.machines[node].clock.local(self.now);
                let commands = self.machines[node]
                    .node
                    .as_mut()
                    .map(|n| n.answered(answer, local));
                self.obey(node, commands.unwrap_or_default());
            }
            Event::Tick { .. } | Event::Act { .. } | Event::FromDatabase { .. } => {}
            Event::Deliver { to, message } => self.deliver(to, *message),
            Event::ToDatabase {
                node,
                process,
                question,
            } => self.ask(node, process, question),
            Event::Effect {
                agent,
                member,
                epoch,
            } => self.effect_at_database(agent, member, epoch),
            Event::Task {
                to,
                from,
                task,
                agent,
            } => self.task_arrived(to, from, task, &agent),
            Event::Done { to, task } => {
                if self.machines[to].node.is_some() {
                    self.machines[to].disk.tasks.remove(&task);
                }
            }
            Event::Submit => self.submit(),
            Event::Fault => self.fault(),
            Event::Heal => self.network.heal(),
            Event::Resume { node, process } => self.resume(node, process),
            Event::Restart { node } => {
                if self.machines[node].node.is_none() {
                    self.boot(node);
                }
            }
        }
    }

    fn runs(&self, node: usize, process: u64) -> bool {
        self.machines[node].process == process && self.machines[node].node.is_some()
    }

    fn resume(&mut self, node: usize, process: u64) {
        let machine = &mut self.machines[node];
        if machine.process == process
            && let Some(pause) = machine.pause.take()
            && pause.asleep
        {
            machine.clock.slept(self.now - pause.since);
        }
    }

    fn tick(&mut self, node: usize, process: u64) {
        self.hear_offers(node);
        let machine = &mut self.machines[node];
        let local = machine.clock.local(self.now);
        let commands = machine.node.as_mut().map(|n| n.tick(local, &mut self.rng));
        let due = machine.node.as_ref().and_then(|n| n.due(local));
        self.obey(node, commands.unwrap_or_default());
        let regular = TICK_MS + self.rng.random_range(0..20);
        let due = due.map_or(regular, |due| millis(due.since(local)) + 1);
        let next = self.now + regular.min(due);
        self.schedule.push(next, Event::Tick { node, process });
    }

    fn deliver(&mut self, to: usize, message: Message) {
        let machine = &mut self.machines[to];
        let local = machine.clock.local(self.now);
        let Some(node) = machine.node.as_mut() else {
            return;
        };
        let from = message.tidings.from.name.clone();
        let commands = node.hear(message, local);
        if self.options.sabotage == Sabotage::QuarantineClearedByUp {
            node.write_quarantine(|quarantine| quarantine.release(&from, local));
        }
        self.obey(to, commands);
    }

    pub(in crate::simulation) fn obey(&mut self, node: usize, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Send { to, message } => self.send(node, &to, message),
                Command::Ask(question) => {
                    let process = self.machines[node].process;
                    let [late, _] = self.network.carry_database(node, &mut self.rng);
                    if let Some(late) = late {
                        let event = Event::ToDatabase {
                            node,
                            process,
                            question,
                        };
                        self.schedule.push(self.now + late, event);
                    }
                }
                Command::Start { agent, epoch } => {
                    self.note(format_args!("start {node} {agent} {epoch}"));
                    self.report.starts += 1;
                    self.machines[node]
                        .loaded
                        .insert(agent.clone(), Loaded::Running);
                    let told = self.placed(node, &agent);
                    self.obey(node, told);
                }
                Command::Prepare { agent, snapshot } => {
                    let fence = snapshot.try_into().map_or(0, u64::from_le_bytes);
                    let fence = Epoch(fence);
                    self.machines[node]
                        .loaded
                        .insert(agent, Loaded::Prepared { fence });
                }
                Command::Snapshot { agent } => self.snapshot(node, &agent),
                Command::Stop { agent } => {
                    self.note(format_args!("stop {node} {agent}"));
                    self.machines[node].loaded.remove(&agent);
                    let core = self.machines[node].node.as_mut();
                    let commands = core.map(|core| core.stopped(&agent));
                    self.obey(node, commands.unwrap_or_default());
                }
                Command::Returned(me) => self.note(format_args!("returned {me}")),
                Command::Exit => self.crash(node, false),
            }
        }
    }

    /// Who runs an agent without a database says so, on top of what it knows.
    fn placed(&mut self, node: usize, agent: &AgentId) -> Vec<Command> {
        let core = self.machines[node].node.as_mut();
        let Some(core) = core.filter(|_| self.database.is_none()) else {
            return Vec::new();
        };
        let Some(mut known) = core.specs().get(agent).cloned() else {
            return Vec::new();
        };
        known.round += 1;
        let assigned = known.assigned.take();
        known.placed = Some(Placed {
            node: core.me().name.to_string(),
            at: Timestamp(self.now),
            reason: "start".to_owned(),
            because: String::new(),
            lost: assigned.and_then(|to| to.lost),
            life: Some(core.life_of(core.me())),
        });
        match core.write_entry(agent, Some(known)) {
            Ok(Some(_)) => core.tell_spec(agent),
            Ok(None) | Err(_) => Vec::new(),
        }
    }

    fn send(&mut self, from: usize, to: &crate::member::NodeName, message: Box<Message>) {
        let Some(to) = self.names.iter().position(|name| name == to) else {
            return;
        };
        let [first, second] = self.network.carry(from, to, &mut self.rng);
        if let Some(late) = second {
            let message = message.clone();
            self.schedule
                .push(self.now + late, Event::Deliver { to, message });
        }
        if let Some(late) = first {
            self.schedule
                .push(self.now + late, Event::Deliver { to, message });
        }
    }

    /// The state of an agent: here, the epoch under which it is offered.
    fn snapshot(&mut self, node: usize, agent: &AgentId) {
        let machine = &mut self.machines[node];
        let local = machine.clock.local(self.now);
        let Some(core) = machine.node.as_mut() else {
            return;
        };
        let fence = core.fence(agent).unwrap_or(Epoch::NEVER);
        let commands = core.snapshot_taken(agent, fence.0.to_le_bytes().to_vec(), local);
        self.obey(node, commands);
    }

    fn ask(&mut self, node: usize, process: u64, question: Question) {
        let Some(database) = self.database.as_mut() else {
            return;
        };
        let Some(answer) = database.ask(question) else {
            return;
        };
        let [late, _] = self.network.carry_database(node, &mut self.rng);
        if let Some(late) = late {
            let event = Event::FromDatabase {
                node,
                process,
                answer,
            };
            self.schedule.push(self.now + late, event);
        }
    }

    /// The agents of a process do what they have to do.
    fn act(&mut self, node: usize, process: u64) {
        for agent in self.agents.clone() {
            let Some(epoch) = self.machines[node].acts(&agent, self.now, self.options.sabotage)
            else {
                continue;
            };
            let Some(member) = self.machines[node].node.as_ref().map(|n| n.me().clone()) else {
                continue;
            };
            if self.database.is_some() {
                let [late, _] = self.network.carry_database(node, &mut self.rng);
                if let Some(late) = late {
                    let event = Event::Effect {
                        agent,
                        member,
                        epoch,
                    };
                    self.schedule.push(self.now + late, event);
                }
            } else {
                self.effect(&agent, &member, epoch);
            }
        }
        self.pass_tasks(node);
        let next = self.now + ACT_MS + self.rng.random_range(0..20);
        self.schedule.push(next, Event::Act { node, process });
    }

    fn effect_at_database(&mut self, agent: AgentId, member: Member, epoch: Epoch) {
        let Some(database) = &self.database else {
            return;
        };
        let fenced = self.options.sabotage != Sabotage::NoFencing;
        if fenced && database.check(&agent, &member, epoch).is_err() {
            self.report.refused += 1;
            return;
        }
        self.effect(&agent, &member, epoch);
        let task = self
            .stored
            .iter()
            .find(|(_, of)| **of == agent)
            .map(|(task, _)| *task);
        if let Some(task) = task {
            self.stored.remove(&task);
            self.invariants.tasks.done(task);
        }
    }

    /// Something happened in the world that cannot be taken back.
    fn effect(&mut self, agent: &AgentId, member: &Member, epoch: Epoch) {
        self.report.effects += 1;
        self.note(format_args!("effect {agent} {member} {epoch}"));
        let broken = self.invariants.epochs.effect(agent, member, epoch);
        self.violated(broken.map(|detail| ("stale_epochs", detail)));
    }

    /// Somebody submits a task to any node that runs.
    fn submit(&mut self) {
        if self.quiet_since.is_some() {
            return;
        }
        self.schedule
            .push(self.now + self.rng.random_range(200..1_500), Event::Submit);
        if self.database.is_none() {
            self.change(false);
        }
        let node = self.rng.random_range(0..self.machines.len());
        let agent = self.agents[self.rng.random_range(0..self.agents.len())].clone();
        let machine = &mut self.machines[node];
        if machine.node.is_none() || machine.pause.is_some() {
            return;
        }
        // With a database the task is acknowledged once it is committed there; without one,
        // once it is on the disk of the node.
        let task = self.next_task;
        if self.database.is_some() {
            if self.network.carry_database(node, &mut self.rng)[0].is_none() {
                return;
            }
            self.stored.insert(task, agent);
        } else {
            machine.disk.tasks.insert(task, agent);
        }
        self.next_task += 1;
        self.report.acknowledged += 1;
        self.invariants.tasks.acknowledged(task);
    }

    /// Passes tasks on this node's disk to whoever owns their agents.
    fn pass_tasks(&mut self, node: usize) {
        let waiting: Vec<(u64, AgentId)> = {
            let tasks = self.machines[node].disk.tasks.iter();
            tasks
                .take(4)
                .map(|(task, agent)| (*task, agent.clone()))
                .collect()
        };
        for (task, agent) in waiting {
            let Some(core) = self.machines[node].node.as_ref() else {
                return;
            };
            let owner = core.owner(&agent).map(|(owner, _)| owner.name.clone());
            let Some(owner) = owner.and_then(|name| self.names.iter().position(|n| *n == name))
            else {
                continue;
            };
            if owner == node {
                self.task_arrived(node, node, task, &agent);
            } else if let [Some(late), _] = self.network.carry(node, owner, &mut self.rng) {
                let event = Event::Task {
                    to: owner,
                    from: node,
                    task,
                    agent,
                };
                self.schedule.push(self.now + late, event);
            }
        }
    }

    /// The owner does the task if it may; otherwise it is passed again.
    fn task_arrived(&mut self, node: usize, from: usize, task: u64, agent: &AgentId) {
        let machine = &self.machines[node];
        let Some(epoch) = machine.acts(agent, self.now, self.options.sabotage) else {
            return;
        };
        let Some(member) = machine.node.as_ref().map(|n| n.me().clone()) else {
            return;
        };
        self.effect(agent, &member, epoch);
        self.invariants.tasks.done(task);
        if node == from {
            self.machines[node].disk.tasks.remove(&task);
        } else if let [Some(late), _] = self.network.carry(node, from, &mut self.rng) {
            self.schedule
                .push(self.now + late, Event::Done { to: from, task });
        }
    }
}
