//! What is asked of agents and nodes: decided by one node each, told to all.
//!
//! A change of an agent is decided by its owner, or by the first member while it has none: so
//! two changes at once are made one after the other. It is acknowledged when it is on this
//! node's disk and a quorum of members has told that it knows.

use std::collections::BTreeMap;
use std::time::Duration;

use regrow_runtime::ids::{AgentId, Epoch};
use regrow_runtime::registry::{AgentChange, Change, Changed};
use regrow_runtime::store::StoreError;
use tokio::sync::oneshot;

use super::frame::{Asked, Frame, Outcome};
use super::{Carrying, entry_of};
use crate::local_time::LocalTime;
use crate::member::NodeName;
use crate::node::Stands;
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

/// A change that another node decides about.
struct Asking {
    until: LocalTime,
    waits: oneshot::Sender<Result<Changed, StoreError>>,
}

/// Everything that is waited for.
#[derive(Default)]
pub(super) struct Desk {
    spreading: Vec<Spreading>,
    asking: BTreeMap<u64, Asking>,
    next: u64,
    /// Moves that this node's director waits for, by agent.
    moving: BTreeMap<AgentId, oneshot::Sender<Result<Changed, StoreError>>>,
}

impl Desk {
    pub(super) fn is_full(&self) -> bool {
        WAITING_MAX <= self.spreading.len() + self.asking.len() + self.moving.len()
    }
}

/// Nothing is decided without a quorum.
fn unheard() -> StoreError {
    StoreError::Failed {
        attempt: "change an agent",
        cause: "this node does not hear enough of the cluster's founders at present; \
                `regrow cluster nodes` shows whom it hears"
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
            let to = *to;
            return self.give(&change.id, to, waits);
        }
        let Some(decider) = self.decider(&change.id) else {
            let _ = waits.send(Err(unheard()));
            return;
        };
        if decider == self.node.me().name {
            return self.decide(&change, Waits::Here(waits));
        }
        let Some(asked) = Asked::of(&change) else {
            return;
        };
        let number = self.desk.next;
        self.desk.next += 1;
        let until = now.after(PATIENCE);
        self.desk.asking.insert(number, Asking { until, waits });
        self.cast(&decider, Frame::Ask { number, asked });
    }

    /// Another node asks for a change.
    pub(super) fn asked_there(&mut self, node: NodeName, number: u64, asked: Asked) {
        let id = asked.id.clone();
        let waits = Waits::There { node, number };
        let mine = self.decider(&id).as_ref() == Some(&self.node.me().name);
        match asked.change() {
            Some(change) if mine && !self.desk.is_full() && self.node.is_authorised(self.now()) => {
                self.decide(&change, waits);
            }
            _ => self.answer(&id, waits, Ok(Changed::Outdated)),
        }
    }

    /// What came of a change that another node decided about.
    pub(super) fn answered(
        &mut self,
        number: u64,
        outcome: Outcome,
        entry: Option<Box<(AgentId, Entry)>>,
    ) {
        // Read one's own writes.
        if let Some(entry) = entry {
            self.node.learn_specs([*entry]);
        }
        if let Some(asking) = self.desk.asking.remove(&number) {
            let _ = asking.waits.send(match outcome {
                Outcome::Done { revision, epoch } => Ok(Changed::Done { revision, epoch }),
                Outcome::Outdated => Ok(Changed::Outdated),
                Outcome::Unknown => Err(unheard()),
            });
        }
    }

    /// Which agent a question was about.
    fn decider(&self, agent: &AgentId) -> Option<NodeName> {
        if self.node.stands(agent).is_some() {
            return Some(self.node.me().name.clone());
        }
        match self.node.owner(agent) {
            Some((owner, _)) if self.node.hears(owner) => Some(owner.name.clone()),
            // Until another one owns it, or it is heard again.
            Some(_) => None,
            None => self.node.first_heard().cloned(),
        }
    }

    fn decide(&mut self, change: &AgentChange, waits: Waits) {
        let known = self.node.specs().entry(&change.id);
        let revision = known
            .filter(|entry| entry.agent.is_some())
            .map(|entry| entry.version.number);
        if revision != change.revision {
            return self.answer(&change.id, waits, Ok(Changed::Outdated));
        }
        let entry = match &change.change {
            Change::Keep { entry } => match entry_of(entry) {
                Some(entry) => Some(entry),
                None => return self.answer(&change.id, waits, Ok(Changed::Outdated)),
            },
            Change::Remove | Change::Give { .. } => None,
        };
        let mut full = false;
        self.node.write_specs(|specs, me| match entry {
            Some(entry) => full = specs.put(entry, me).is_err(),
            None => specs.remove(&change.id, me),
        });
        if full {
            return self.answer(&change.id, waits, Ok(Changed::Outdated));
        }
        let Some(version) = self.version(&change.id) else {
            return;
        };
        self.spread(&change.id);
        self.desk.spreading.push(Spreading {
            agent: change.id.clone(),
            version,
            epoch: self.epoch(&change.id),
            until: self.now().after(PATIENCE),
            waits,
        });
    }

    /// This node's director gives an agent away that has stopped: to another node, or to
    /// whoever takes it.
    fn give(
        &mut self,
        agent: &AgentId,
        to: Option<regrow_runtime::registry::Life>,
        waits: oneshot::Sender<Result<Changed, StoreError>>,
    ) {
        let now = self.now();
        let target = match to {
            Some(life) => self.name_of(life),
            // It may not stay here, and is to run.
            None if self.node.specs().get(agent).is_some_and(|e| e.is_to_run()) => {
                self.node.refuge(agent, now)
            }
            None => None,
        };
        if !matches!(self.node.stands(agent), Some((Stands::Runs, _))) {
            let _ = waits.send(Ok(Changed::Outdated));
            return;
        }
        let begun = match &target {
            Some(target) => {
                self.head_for(agent, target);
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
        let waiting = std::mem::take(&mut self.desk.spreading);
        for spreading in waiting {
            let Spreading { agent, version, .. } = &spreading;
            let kept = self.kept(agent, version);
            if kept && self.node.is_widely_known(agent, version) {
                let (revision, epoch) = (version.number, spreading.epoch);
                let agent = agent.clone();
                self.answer(
                    &agent,
                    spreading.waits,
                    Ok(Changed::Done { revision, epoch }),
                );
            } else if spreading.until <= now {
                let agent = agent.clone();
                self.answer(&agent, spreading.waits, Err(unheard()));
            } else {
                self.desk.spreading.push(spreading);
            }
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
