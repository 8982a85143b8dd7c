//! Handing agents over, on both sides.

use regrow_runtime::ids::{AgentId, Epoch};

use super::Node;
use super::claims::{Purpose, Stage};
use super::message::{Body, Command};
use crate::hand_off::{HandOffMessage, Prepared, SourceStep};
use crate::local_time::LocalTime;
use crate::member::{Member, NodeName};

/// Why a hand-off was not begun. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandOffRefused {
    /// The agent does not run here, or moves already.
    #[error("the agent does not run on this node; ask its owner")]
    NotHere,
    /// The target is this node.
    #[error("the agent is on that node already")]
    SameNode,
    /// The target is not known, or seems to be gone.
    #[error("the target cannot be reached")]
    Unreachable,
    /// The target is kept out.
    #[error("the target is quarantined; release it first")]
    Quarantined,
    /// The target takes no agents.
    #[error("the target is cordoned or drained; release it first")]
    TakesNone,
    /// The target's labels or taints are not what the agent asks for.
    #[error("the target does not fit what the agent requires; choose another one")]
    Unfit,
}

impl Node {
    /// Begins to hand an agent that runs here to `target`. From now on it does nothing until
    /// it runs there, or again here.
    ///
    /// # Errors
    ///
    /// [`HandOffRefused`] says why it was not begun.
    pub fn hand_off(
        &mut self,
        agent: &AgentId,
        target: &NodeName,
        now: LocalTime,
    ) -> Result<(), HandOffRefused> {
        let hosting = self
            .hosted
            .get(agent)
            .filter(|hosting| hosting.is_running());
        if hosting.is_none() || !self.consent.may_act(now) {
            return Err(HandOffRefused::NotHere);
        }
        if *target == self.me().name {
            return Err(HandOffRefused::SameNode);
        }
        if self.quarantine.is_quarantined(target) {
            return Err(HandOffRefused::Quarantined);
        }
        if self.notes.is_noted(target) {
            return Err(HandOffRefused::TakesNone);
        }
        let life = self.peers.get(target).filter(|peer| !peer.suspected);
        let target = life
            .and_then(|peer| peer.life.clone())
            .ok_or(HandOffRefused::Unreachable)?;
        let entry = self.specs.get(agent);
        if entry.is_some_and(|entry| self.fits(&target, entry) == Some(false)) {
            return Err(HandOffRefused::Unfit);
        }
        self.begin_claim(agent, Purpose::Fence { target }, now);
        Ok(())
    }

    /// Under which epoch an agent that is being handed over was fenced.
    #[must_use]
    pub fn fence(&self, agent: &AgentId) -> Option<Epoch> {
        match &self.hosted.get(agent)?.stage {
            Stage::Moving(source) => Some(source.fence()),
            Stage::Claiming(_) | Stage::Waiting { .. } | Stage::Running | Stage::Stopping => None,
        }
    }

    /// The state of an agent was taken, as [`Command::Snapshot`] asked.
    pub fn snapshot_taken(
        &mut self,
        agent: &AgentId,
        snapshot: Vec<u8>,
        now: LocalTime,
    ) -> Vec<Command> {
        let mut out = Vec::new();
        if let Some(hosting) = self.hosted.get_mut(agent)
            && let Stage::Moving(source) = &mut hosting.stage
        {
            let step = source.snapshot_taken(snapshot, now);
            self.step(agent, step, now, &mut out);
        }
        out
    }

    pub(super) fn tick_moves(&mut self, now: LocalTime, out: &mut Vec<Command>) {
        let mut steps = Vec::new();
        for (agent, hosting) in &self.hosted {
            if let Stage::Moving(source) = &hosting.stage {
                let target_is_over = self.is_over(source.target());
                steps.push((agent.clone(), source.tick(target_is_over, now)));
            }
        }
        for (agent, step) in steps {
            self.step(&agent, step, now, out);
        }
        let late = self
            .prepared
            .iter()
            .filter(|(agent, prepared)| prepared.until <= now && !self.hosted.contains_key(*agent));
        let late: Vec<AgentId> = late.map(|(agent, _)| agent.clone()).collect();
        for agent in late {
            self.prepared.remove(&agent);
            out.push(Command::Stop { agent });
        }
    }

    pub(super) fn hear_hand_off(
        &mut self,
        message: HandOffMessage,
        from: &Member,
        now: LocalTime,
        out: &mut Vec<Command>,
    ) {
        match message {
            HandOffMessage::Offer {
                agent,
                fence,
                snapshot,
            } => self.offered(agent, fence, snapshot, from, now, out),
            HandOffMessage::Commit { agent, fence } => {
                self.told_to_commit(agent, fence, from, now, out)
            }
            HandOffMessage::Ready { ref agent, .. }
            | HandOffMessage::Taken { ref agent, .. }
            | HandOffMessage::Abort { ref agent, .. } => {
                let agent = agent.clone();
                self.told(&agent, &message, from, now, out);
            }
        }
    }

    fn offered(
        &mut self,
        agent: AgentId,
        fence: Epoch,
        snapshot: Vec<u8>,
        from: &Member,
        now: LocalTime,
        out: &mut Vec<Command>,
    ) {
        let offer = Prepared {
            source: from.clone(),
            fence,
            until: now.after(self.config.hand_off_patience * 2),
        };
        let known = self.prepared.get(&agent);
        let same = known.is_some_and(|known| known.source == offer.source && known.fence == fence);
        let later = known.is_none_or(|known| known.fence < fence);
        let quarantined = self.quarantine.is_quarantined(&self.me().name);
        let entry = self.specs.get(&agent);
        let accepts = !self.hosted.contains_key(&agent)
            && self.consent.may_act(now)
            && !quarantined
            && entry.is_none_or(|entry| self.fits_here(entry));
        if accepts && (same || later) {
            if !same {
                self.prepared.insert(agent.clone(), offer);
                out.push(Command::Prepare {
                    agent: agent.clone(),
                    snapshot,
                });
            }
            self.send(
                &from.name,
                Body::HandOff(HandOffMessage::Ready { agent, fence }),
                out,
            );
        } else if !same {
            self.send(
                &from.name,
                Body::HandOff(HandOffMessage::Abort { agent, fence }),
                out,
            );
        }
    }

    fn told_to_commit(
        &mut self,
        agent: AgentId,
        fence: Epoch,
        from: &Member,
        now: LocalTime,
        out: &mut Vec<Command>,
    ) {
        if let Some(hosting) = self.hosted.get(&agent)
            && hosting.taken_under == Some(fence)
        {
            // Said again: the answer is on its way, or was lost.
            if !matches!(hosting.stage, Stage::Claiming(_)) {
                self.send(
                    &from.name,
                    Body::HandOff(HandOffMessage::Taken { agent, fence }),
                    out,
                );
            }
            return;
        }
        let prepared = self.prepared.get(&agent);
        let is_prepared = prepared.is_some_and(|p| p.source == *from && p.fence == fence);
        // What it asks for came with the offer at the latest.
        let fits = self.specs.get(&agent);
        let fits = fits.is_some_and(|entry| self.fits_here(entry));
        if is_prepared && fits && !self.hosted.contains_key(&agent) {
            let source = from.clone();
            self.begin_claim(&agent, Purpose::Take { source, fence }, now);
            self.tick_claims(now, out);
        } else {
            self.send(
                &from.name,
                Body::HandOff(HandOffMessage::Abort { agent, fence }),
                out,
            );
        }
    }

    fn told(
        &mut self,
        agent: &AgentId,
        message: &HandOffMessage,
        from: &Member,
        now: LocalTime,
        out: &mut Vec<Command>,
    ) {
        if let Some(hosting) = self.hosted.get_mut(agent)
            && let Stage::Moving(source) = &mut hosting.stage
            && source.target() == from
        {
            let step = source.heard(message, now);
            self.step(agent, step, now, out);
        } else if matches!(message, HandOffMessage::Abort { .. })
            && self.prepared.get(agent).is_some_and(|prepared| {
                prepared.source == *from && prepared.fence == message.subject().1
            })
            && !self.hosted.contains_key(agent)
        {
            self.prepared.remove(agent);
            out.push(Command::Stop {
                agent: agent.clone(),
            });
        }
    }

    fn step(&mut self, agent: &AgentId, step: SourceStep, now: LocalTime, out: &mut Vec<Command>) {
        let target = match self.hosted.get(agent).map(|hosting| &hosting.stage) {
            Some(Stage::Moving(source)) => source.target().name.clone(),
            Some(_) | None => return,
        };
        match step {
            SourceStep::Wait => {}
            SourceStep::Send(message) => self.send(&target, Body::HandOff(message), out),
            SourceStep::Resume(abort) => {
                self.run(agent, out);
                self.send(&target, Body::HandOff(abort), out);
            }
            SourceStep::ClaimBack => self.begin_claim(agent, Purpose::Own, now),
            SourceStep::Stop => {
                self.hosted.remove(agent);
                out.push(Command::Stop {
                    agent: agent.clone(),
                });
            }
        }
    }
}
