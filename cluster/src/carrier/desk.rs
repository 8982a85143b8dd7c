//! What is asked of agents and nodes: decided by one node each, told to all.
//!
//! A change of an agent is decided by its owner, or by the first member while it has none: so
//! two changes at once are made one after the other. While nobody decides, since the agent moves
//! or who decides changes, it waits. It is acknowledged when it is on this node's disk and a quorum
//! of members has told that it knows; if something else took its place before, that is not known.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use regrow_runtime::ids::{AgentId, Epoch};
use regrow_runtime::json::Json;
use regrow_runtime::registry::{AgentChange, Change, Changed, Life};
use regrow_runtime::store::StoreError;
use tokio::sync::oneshot;

use super::frame::{Asked, Frame, Outcome};
use super::{Carrying, entry_of};
use crate::local_time::LocalTime;
use crate::member::{Incarnation, NodeName};
use crate::node::{Decider, Spread, Stands};
use crate::spec_registry::{Entry, Version};

/// Longest wait of a change.
const PATIENCE: Duration = Duration::from_secs(3);
/// Changes that may wait at once.
pub(super) const WAITING_MAX: usize = 4_096;

/// Who waits for what came of a change.
pub(super) enum Waits {
    Here(oneshot::Sender<Result<Changed, StoreError>>),
    There { node: NodeName, number: u64 },
}

/// A change that was made here and is not known widely yet.
struct Spreading {
    agent: AgentId,
    version: Version,
    epoch: Epoch,
    until: LocalTime,
    waits: Waits,
}

/// An agent to give away, to whom, and who waits for it.
struct Giving {
    agent: AgentId,
    to: Option<Life>,
    waits: oneshot::Sender<Result<Changed, StoreError>>,
}

/// A change that nobody decides about yet.
struct Deferred {
    change: AgentChange,
    until: LocalTime,
    waits: Waits,
}

/// A note that was made here and is not known widely yet.
struct Noting {
    node: NodeName,
    version: Version,
    until: LocalTime,
    waits: oneshot::Sender<Result<(), StoreError>>,
}

/// A change that another node decides about.
struct Asking {
    of: NodeName,
    until: LocalTime,
    waits: oneshot::Sender<Result<Changed, StoreError>>,
}

/// Everything that is waited for.
pub(super) struct Desk {
    deferred: Vec<Deferred>,
    spreading: Vec<Spreading>,
    noting: Vec<Noting>,
    asking: BTreeMap<u64, Asking>,
    /// The number of the next question. An earlier process of this node may still be answered.
    next: u64,
    /// Agents that this node's director gives away as soon as what was changed of them before is
    /// known: whoever has them next could not say whether it was.
    giving: Vec<Giving>,
    /// Agents that have stopped here and are given back as soon as that is so.
    stopped: BTreeSet<AgentId>,
    /// Moves that this node's director waits for, by agent.
    moving: BTreeMap<AgentId, oneshot::Sender<Result<Changed, StoreError>>>,
}

/// Numbers of questions that one life has to itself.
const QUESTIONS: u64 = 1 << 24;

impl Desk {
    /// The desk of a life.
    pub(super) fn of(incarnation: Incarnation) -> Self {
        Self {
            deferred: Vec::new(),
            spreading: Vec::new(),
            noting: Vec::new(),
            giving: Vec::new(),
            stopped: BTreeSet::new(),
            asking: BTreeMap::new(),
            next: incarnation.0.wrapping_mul(QUESTIONS),
            moving: BTreeMap::new(),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        let here = self.deferred.len() + self.spreading.len() + self.noting.len();
        WAITING_MAX <= here + self.asking.len() + self.moving.len() + self.giving.len()
    }

    /// Whether a change of the agent that was made here is not known widely yet.
    fn is_spreading(&self, agent: &AgentId) -> bool {
        self.spreading.iter().any(|it| it.agent == *agent)
    }
}

/// Nothing is decided without a quorum.
fn unheard() -> StoreError {
    StoreError::Failed {
        attempt: "change an agent or a note",
        cause: "this node does not hear enough of the cluster's founders at present; \
                `regrow cluster nodes` shows whom it hears"
            .into(),
    }
}

/// Nobody decided in time.
fn undecided() -> StoreError {
    StoreError::Failed {
        attempt: "change an agent",
        cause:
            "nothing was changed: it moves, or who decides about it has just been lost; try again"
                .into(),
    }
}

/// What was written was replaced before enough knew it.
fn replaced() -> StoreError {
    StoreError::Failed {
        attempt: "change an agent or a note",
        cause: "somebody else wrote before it was known widely; it may have been made: look, and \
                ask again if it was not"
            .into(),
    }
}

impl Carrying {
    /// Somebody on this node asks for a change.
    pub(super) fn asked_here(
        &mut self,
        change: AgentChange,
        waits: oneshot::Sender<Result<Changed, StoreError>>,
    ) {
        let now = self.now();
        if self.desk.is_full() || !self.node.is_authorised(now) {
            let _ = waits.send(Err(unheard()));
            return;
        }
        if let Change::Give { to, .. } = &change.change {
            let (agent, to) = (change.id, *to);
            self.desk.giving.push(Giving { agent, to, waits });
            return;
        }
        self.route(change, now.after(PATIENCE), Waits::Here(waits));
    }

    /// Another node asks for a change.
    pub(super) fn asked_there(&mut self, node: NodeName, number: u64, asked: Asked) {
        let (id, now) = (asked.id.clone(), self.now());
        let waits = Waits::There { node, number };
        match asked.change() {
            Some(change) if !self.desk.is_full() && self.node.is_authorised(now) => {
                self.route(change, now.after(PATIENCE), waits);
            }
            _ => self.answer(&id, waits, Ok(Changed::Outdated)),
        }
    }

    /// Decides, asks whoever does, or waits until somebody does.
    fn route(&mut self, change: AgentChange, until: LocalTime, waits: Waits) {
        let now = self.now();
        match (self.node.decider(&change.id, now), waits) {
            (Decider::Here, waits) => self.decide(&change, until, waits),
            (Decider::There(of), Waits::Here(waits)) => {
                // Owners alone give away, and that is not asked of others.
                let Some(asked) = Asked::of(&change) else {
                    return;
                };
                let number = self.desk.next;
                self.desk.next = number.wrapping_add(1);
                let asking = Asking {
                    of: of.clone(),
                    until,
                    waits,
                };
                self.desk.asking.insert(number, asking);
                self.cast(&of, Frame::Ask { number, asked });
            }
            // Whoever asked knew less, or more: it looks again.
            (Decider::There(_), waits) => self.answer(&change.id, waits, Ok(Changed::Outdated)),
            (Decider::Nobody, waits) => self.desk.deferred.push(Deferred {
                change,
                until,
                waits,
            }),
        }
    }

    /// What came of a change that another node decided about.
    pub(super) fn answered(
        &mut self,
        from: &NodeName,
        number: u64,
        outcome: Outcome,
        entry: Option<Box<(AgentId, Entry)>>,
    ) {
        // Read one's own writes.
        if let Some(entry) = entry {
            self.node.learn_specs([*entry]);
        }
        let asked = self.desk.asking.get(&number);
        if asked.is_none_or(|asking| asking.of != *from) {
            return;
        }
        if let Some(asking) = self.desk.asking.remove(&number) {
            let _ = asking.waits.send(match outcome {
                Outcome::Done { revision, epoch } => Ok(Changed::Done { revision, epoch }),
                Outcome::Outdated => Ok(Changed::Outdated),
                Outcome::Unknown => Err(replaced()),
            });
        }
    }

    fn decide(&mut self, change: &AgentChange, until: LocalTime, waits: Waits) {
        let known = self.node.specs().entry(&change.id);
        let revision = known
            .filter(|entry| entry.agent.is_some())
            .map(|entry| entry.version.number);
        if revision != change.revision {
            return self.answer(&change.id, waits, Ok(Changed::Outdated));
        }
        let entry = match &change.change {
            Change::Keep { entry } => match entry_of(entry) {
                Some(mut entry) => {
                    // Nobody is shown it with the entry, so nobody says it again.
                    let known = known.and_then(|known| known.agent.as_ref());
                    entry.decision = known.and_then(|known| known.decision.clone());
                    Some(entry)
                }
                None => return self.answer(&change.id, waits, Ok(Changed::Outdated)),
            },
            Change::Remove | Change::Give { .. } => None,
        };
        let version = match self.node.write_entry(&change.id, entry) {
            Ok(Some(version)) => version,
            // Too many, or somebody else writes by now.
            Ok(None) | Err(_) => return self.answer(&change.id, waits, Ok(Changed::Outdated)),
        };
        self.spread(&change.id);
        let commands = self.node.place(self.now());
        self.obey(commands);
        self.desk.spreading.push(Spreading {
            agent: change.id.clone(),
            version,
            epoch: self.epoch(&change.id),
            until,
            waits,
        });
    }

    /// An operator's word about a node.
    pub(super) fn asked_to_note(
        &mut self,
        node: NodeName,
        note: Option<&Json>,
        waits: oneshot::Sender<Result<(), StoreError>>,
    ) {
        let now = self.now();
        if self.desk.is_full() || !self.node.is_authorised(now) {
            let _ = waits.send(Err(unheard()));
            return;
        }
        self.noted(&node, note);
        let Some(version) = self.node.notes().version(&node).cloned() else {
            return;
        };
        let until = now.after(PATIENCE);
        self.desk.noting.push(Noting {
            node,
            version,
            until,
            waits,
        });
        let commands = self.node.tell_all();
        self.obey(commands);
    }

    /// This node's director gives an agent away that has stopped: to another node, or to
    /// whoever takes it.
    fn give(
        &mut self,
        agent: &AgentId,
        to: Option<Life>,
        waits: oneshot::Sender<Result<Changed, StoreError>>,
    ) {
        let now = self.now();
        let mut decision = None;
        let target = match to {
            Some(life) => self.node.name_of(life),
            // It may not stay here, and is to run.
            None if self.node.specs().get(agent).is_some_and(|e| e.is_to_run()) => {
                let refuge = self.node.refuge(agent, now);
                let target = refuge.as_ref().and_then(|it| it.outcome.clone().ok());
                // Decisions are plain data; they cannot fail to be JSON.
                decision = refuge.and_then(|it| Json::of(&it.kept()).ok());
                target
            }
            None => None,
        };
        if !matches!(self.node.stands(agent), Some((Stands::Runs, _))) {
            let _ = waits.send(Ok(Changed::Outdated));
            return;
        }
        let begun = match &target {
            Some(target) => {
                self.head_for(agent, target, decision);
                self.node.hand_off(agent, target, now)
            }
            None => Err(crate::node::HandOffRefused::Unreachable),
        };
        match begun {
            Ok(()) => {
                self.desk.moving.insert(agent.clone(), waits);
            }
            Err(reason) if to.is_some() => {
                tracing::warn!(%agent, %reason, "a move is called off");
                self.stays(agent);
                let _ = waits.send(Ok(Changed::Outdated));
            }
            Err(_) => {
                self.let_go(agent);
                let revision = self.version(agent).map_or(0, |version| version.number);
                let epoch = self.epoch(agent);
                let _ = waits.send(Ok(Changed::Done { revision, epoch }));
            }
        }
    }

    /// Tells those who wait what has come of it, or that it is not known.
    pub(super) fn settle(&mut self) {
        let now = self.now();
        for deferred in std::mem::take(&mut self.desk.deferred) {
            let Deferred {
                change,
                until,
                waits,
            } = deferred;
            match now < until {
                true => self.route(change, until, waits),
                false => self.answer(&change.id, waits, Err(undecided())),
            }
        }
        for spreading in std::mem::take(&mut self.desk.spreading) {
            let Spreading { agent, version, .. } = &spreading;
            let known = self.node.spread(agent, version);
            let outcome = match known {
                Spread::Widely if self.kept(agent, version) => {
                    let (revision, epoch) = (version.number, spreading.epoch);
                    Ok(Changed::Done { revision, epoch })
                }
                Spread::Replaced => Err(replaced()),
                Spread::Widely | Spread::Partly if spreading.until <= now => Err(unheard()),
                Spread::Widely | Spread::Partly => {
                    self.desk.spreading.push(spreading);
                    continue;
                }
            };
            let agent = agent.clone();
            self.answer(&agent, spreading.waits, outcome);
        }
        for noting in std::mem::take(&mut self.desk.noting) {
            let Noting { node, version, .. } = &noting;
            let outcome = match self.node.note_spread(node, version) {
                Spread::Widely if self.kept_note(node, version) => Ok(()),
                Spread::Replaced => Err(replaced()),
                Spread::Widely | Spread::Partly if noting.until <= now => Err(unheard()),
                Spread::Widely | Spread::Partly => {
                    self.desk.noting.push(noting);
                    continue;
                }
            };
            let _ = noting.waits.send(outcome);
        }
        for giving in std::mem::take(&mut self.desk.giving) {
            let Giving { agent, to, waits } = giving;
            match self.desk.is_spreading(&agent) {
                true => self.desk.giving.push(Giving { agent, to, waits }),
                false => self.give(&agent, to, waits),
            }
        }
        for agent in std::mem::take(&mut self.desk.stopped) {
            self.has_stopped(agent);
        }
        let late: Vec<u64> = self
            .desk
            .asking
            .iter()
            .filter(|(_, asking)| asking.until <= now)
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            if let Some(asking) = self.desk.asking.remove(&number) {
                let _ = asking.waits.send(Err(unheard()));
            }
        }
        let moving = std::mem::take(&mut self.desk.moving);
        for (agent, waits) in moving {
            match self.node.stands(&agent) {
                Some((Stands::Moves | Stands::Coming, _)) => {
                    self.desk.moving.insert(agent, waits);
                }
                // Whatever came of it, the next look tells.
                Some((Stands::Runs | Stands::Stops, _)) | None => {
                    let _ = waits.send(Ok(Changed::Outdated));
                }
            }
        }
    }

    /// An agent that is to stop does not run here any more.
    pub(super) fn has_stopped(&mut self, agent: AgentId) {
        if !matches!(self.node.stands(&agent), Some((Stands::Stops, _))) {
            return;
        }
        if self.desk.is_spreading(&agent) {
            self.desk.stopped.insert(agent);
            return;
        }
        self.released(&agent);
        let commands = self.node.stopped(&agent);
        self.obey(commands);
    }

    fn answer(&mut self, agent: &AgentId, waits: Waits, outcome: Result<Changed, StoreError>) {
        match waits {
            Waits::Here(waits) => {
                // Whoever asked may have stopped waiting.
                let _ = waits.send(outcome);
            }
            Waits::There { node, number } => {
                let outcome = outcome.map_or(Outcome::Unknown, Outcome::from);
                let entry = self.node.specs().entry(agent).cloned();
                let answer = Frame::Answer {
                    number,
                    outcome,
                    entry: entry.map(|entry| Box::new((agent.clone(), entry))),
                };
                self.cast(&node, answer);
            }
        }
    }

    fn version(&self, agent: &AgentId) -> Option<Version> {
        let entry = self.node.specs().entry(agent)?;
        Some(entry.version.clone())
    }

    fn epoch(&self, agent: &AgentId) -> Epoch {
        self.node
            .owner(agent)
            .map_or(Epoch::NEVER, |(_, epoch)| epoch)
    }
}
