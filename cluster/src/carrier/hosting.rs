//! What follows when this node gets an agent, keeps it, or lets it go.

use std::collections::BTreeSet;

use regrow_runtime::ids::{AgentId, Epoch};
use regrow_runtime::json::Json;
use regrow_runtime::metrics as names;
use tracing::{info, warn};

use super::Carrying;
use crate::entry::{Entry, Move};
use crate::member::NodeName;
use crate::node::{Command, Stands};
use crate::nodes::{Note, Stance};
use crate::reconcile::{Taking, take};

impl Carrying {
    /// This node may act for an agent from now on. The director starts it when it looks.
    pub(super) fn got(&mut self, agent: &AgentId, epoch: Epoch) -> Vec<Command> {
        let now = self.shared.clock.now();
        let Some(before) = self.node.specs().get(agent).cloned() else {
            return Vec::new();
        };
        let mut entry = before.clone();
        let me = self.node.me().name.clone();
        if !self.ran.insert(agent.clone()) {
            // It stays after all.
            info!(%agent, %epoch, "a move came to nothing; the agent goes on here");
            entry.move_to = None;
        } else {
            let planned = entry.move_to.take().filter(|asked| asked.to == me.as_str());
            let assigned = entry.assigned.take().filter(|_| planned.is_none());
            let lost = planned.is_none() && entry.placed.is_some();
            let (reason, because) = match (&planned, &entry.placed) {
                (Some(asked), Some(placed)) => (
                    asked.reason.clone(),
                    format!("asked for; it came from {}", placed.node),
                ),
                (Some(asked), None) => (asked.reason.clone(), "asked for".to_owned()),
                (None, _) => {
                    let reason = if lost { "node loss" } else { "start" };
                    let because = assigned.as_ref().map(|to| to.because.clone());
                    // Handed over without anybody having noted it.
                    let because = because.unwrap_or_else(|| "it was handed over".to_owned());
                    (reason.to_owned(), because)
                }
            };
            if let Some(asked) = &planned {
                // Why it was where it is no more says nothing about the new place.
                entry.decision = asked.decision.clone().or_else(|| Json::of(asked).ok());
            }
            let taking = Taking {
                lost,
                life: assigned.and_then(|to| to.lost),
                reason,
                because,
            };
            // A move was counted by whoever gave it away.
            metrics::counter!(names::PLACED_ASSIGNED).increment(u64::from(planned.is_none()));
            take(&mut entry, me.as_str(), taking, now);
            if let Some(placed) = &mut entry.placed {
                placed.life = Some(self.node.life_of(self.node.me()));
            }
        }
        if entry == before {
            return Vec::new();
        }
        self.write(agent, entry);
        self.node.tell_spec(agent)
    }

    /// Notes for the target of a hand-off that it is one, if nobody did.
    pub(super) fn head_for(&mut self, agent: &AgentId, target: &NodeName, decision: Option<Json>) {
        let asked_at = self.shared.clock.now();
        let Some(mut entry) = self.node.specs().get(agent).cloned() else {
            return;
        };
        if entry.move_to.is_none() {
            entry.move_to = Some(Move {
                to: target.to_string(),
                asked_at,
                reason: "drain".to_owned(),
                decision,
            });
            self.write(agent, entry);
        }
    }

    /// A move is called off.
    pub(super) fn stays(&mut self, agent: &AgentId) {
        if let Some(mut entry) = self.node.specs().get(agent).cloned()
            && entry.move_to.take().is_some()
        {
            self.write(agent, entry);
            self.spread(agent);
        }
    }

    /// Gives an agent back that has stopped here in order: whoever takes it counts no restart.
    pub(super) fn let_go(&mut self, agent: &AgentId) {
        self.released(agent);
        let mut commands = Vec::new();
        self.node.give_back(agent, &mut commands);
        commands.extend(self.node.stopped(agent));
        self.obey(commands);
    }

    /// The director said what runs here: the rest has stopped.
    pub(super) fn runs(&mut self, running: &BTreeSet<AgentId>) {
        let hosted = self.node.hosted();
        let stopped =
            hosted.filter(|(id, _, stands)| *stands == Stands::Stops && !running.contains(*id));
        let stopped: Vec<AgentId> = stopped.map(|(id, ..)| id.clone()).collect();
        for agent in stopped {
            self.has_stopped(agent);
        }
    }

    /// Nobody has the agent, and nobody lost it.
    pub(super) fn released(&mut self, agent: &AgentId) {
        self.ran.remove(agent);
        if let Some(mut entry) = self.node.specs().get(agent).cloned()
            && entry.placed.take().is_some()
        {
            self.write(agent, entry);
            self.spread(agent);
        }
    }

    /// An operator's word about a node.
    pub(super) fn noted(&mut self, node: &NodeName, note: Option<&Json>) {
        let note: Option<Note> = note.and_then(|note| note.decode().ok());
        let now = self.now();
        let quarantined = note
            .as_ref()
            .is_some_and(|note| note.stance == Stance::Quarantined);
        self.node.write_quarantine(|quarantine| {
            if quarantined {
                quarantine.pin(node, now);
            } else if quarantine.is_quarantined(node) {
                quarantine.release(node, now);
            }
        });
        self.node.write_note(node, note.as_ref());
    }

    /// Tells everyone what is known of an agent.
    pub(super) fn spread(&mut self, agent: &AgentId) {
        let commands = self.node.tell_spec(agent);
        self.obey(commands);
    }

    fn write(&mut self, agent: &AgentId, entry: Entry) {
        // It is known, so there is room for it; and if this node may not write any more, whoever
        // may says how it stands.
        if let Err(full) = self.node.write_entry(agent, Some(entry)) {
            warn!(%full, "cannot write what is known of an agent");
        }
    }
}
