//! Getting, keeping and giving back agents.

use std::collections::BTreeSet;

use regrow_runtime::ids::{AgentId, Epoch};

use super::message::{Body, Command};
use super::{AuthorityKind, Node};
use crate::authority::Question;
use crate::hand_off::{HandOffMessage, Source};
use crate::local_time::LocalTime;
use crate::member::Member;
use crate::membership::Status;
use crate::ownership::{Claim, ClaimRefused};

/// Epochs start at the generation of the members, so that a cluster whose nodes have all
/// forgotten goes on above its earlier ones. There is room for a million claims of an agent in
/// a generation, and for lives numbered by the seconds since 1970 on a thousand nodes.
const CLAIMS_BITS: u32 = 20;

/// An agent that this node has, or is about to have.
#[derive(Clone, Debug)]
pub(super) struct Hosting {
    pub(super) epoch: Epoch,
    /// The latest epoch under which it ran here: the right by which its owner writes, whatever
    /// becomes of a later claim.
    pub(super) held: Option<Epoch>,
    pub(super) stage: Stage,
    /// The fence of the hand-off by which it came, to answer a commit that is said again.
    pub(super) taken_under: Option<Epoch>,
}

#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// Asking for it.
    Claiming(Claiming),
    /// Accepted; whoever had it may still act.
    Waiting { start_at: LocalTime },
    /// It runs here.
    Running,
    /// It is being handed over.
    Moving(Source),
    /// It is given back as soon as nothing of it runs here any more.
    Stopping,
}

#[derive(Clone, Debug)]
pub(super) struct Claiming {
    pub(super) claim: Claim,
    pub(super) purpose: Purpose,
    votes: BTreeSet<Option<Member>>,
    /// Who refused it last, since somebody else may own the agent.
    refusals: BTreeSet<Member>,
    since: LocalTime,
}

/// What a claim is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To run an agent that nobody has.
    Own,
    /// To fence one's own agent, before it is handed to this member.
    Fence { target: Member },
    /// To take what is handed over under this fence.
    Take { source: Member, fence: Epoch },
}

impl Claiming {
    pub(super) fn is_fence(&self) -> bool {
        self.target().is_some()
    }

    /// Whom a fenced agent is to be handed to.
    pub(super) fn target(&self) -> Option<&Member> {
        match &self.purpose {
            Purpose::Fence { target } => Some(target),
            Purpose::Own | Purpose::Take { .. } => None,
        }
    }
}

impl Hosting {
    pub(super) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running)
    }

    pub(super) fn forget_votes(&mut self) {
        if let Stage::Claiming(claiming) = &mut self.stage {
            claiming.votes.clear();
            claiming.refusals.clear();
        }
    }
}

impl Node {
    /// Begins to claim an agent; the votes are asked for with the next tick at the latest.
    pub(super) fn begin_claim(&mut self, agent: &AgentId, purpose: Purpose, now: LocalTime) {
        let (from, fence) = match &purpose {
            Purpose::Take { source, fence } => (Some(source.clone()), *fence),
            Purpose::Own | Purpose::Fence { .. } => (None, Epoch::NEVER),
        };
        let floor = match self.config.authority {
            AuthorityKind::Quorum => self.membership.generation() << CLAIMS_BITS,
            AuthorityKind::Database => 0,
        };
        let claimed = self.claimed.get(agent).copied().unwrap_or(Epoch::NEVER);
        let written = self
            .specs
            .entry(agent)
            .and_then(|entry| entry.version.under);
        let written = written.map_or(Epoch::NEVER, |under| under.epoch);
        let known = self
            .register
            .highest(agent)
            .max(fence)
            .max(claimed)
            .max(written);
        let epoch = Epoch(known.0.max(floor) + 1);
        self.claimed.insert(agent.clone(), epoch);
        let taken_under = match &purpose {
            Purpose::Take { fence, .. } => Some(*fence),
            Purpose::Own | Purpose::Fence { .. } => None,
        };
        let claim = Claim {
            agent: agent.clone(),
            claimant: self.me().clone(),
            epoch,
            from,
        };
        let claiming = Claiming {
            claim,
            purpose,
            votes: BTreeSet::new(),
            refusals: BTreeSet::new(),
            since: now,
        };
        let hosting = Hosting {
            epoch,
            held: self.hosted.get(agent).and_then(|hosting| hosting.held),
            stage: Stage::Claiming(claiming),
            taken_under,
        };
        self.hosted.insert(agent.clone(), hosting);
    }

    pub(super) fn tick_claims(&mut self, now: LocalTime, out: &mut Vec<Command>) {
        self.drop_unwanted(out);
        let agents: Vec<AgentId> = self.hosted.keys().cloned().collect();
        for agent in agents {
            self.press(&agent, now, out);
        }
        self.claim_unowned(now, out);
    }

    /// Votes on another member's claim.
    pub(super) fn vote(&mut self, claim: Claim, from: &Member, out: &mut Vec<Command>) {
        let outcome = self.decide(&claim);
        self.send(&from.name, Body::Claimed { claim, outcome }, out);
    }

    /// A voter decided about a claim of this node; nobody's name is the database's.
    pub(super) fn claimed(
        &mut self,
        by: Option<&Member>,
        claim: Claim,
        outcome: Result<(), ClaimRefused>,
        now: LocalTime,
        out: &mut Vec<Command>,
    ) {
        let Some(hosting) = self.hosted.get_mut(&claim.agent) else {
            return;
        };
        let Stage::Claiming(claiming) = &mut hosting.stage else {
            return;
        };
        if claiming.claim != claim {
            return;
        }
        match outcome {
            Ok(()) => {
                claiming.votes.insert(by.cloned());
                if let Some(by) = by {
                    claiming.refusals.remove(by);
                }
                self.count(&claim.agent, now, out);
            }
            Err(refused) => match by {
                Some(by) => self.refused(&claim.agent, by, &refused, now, out),
                None => self.fail(&claim.agent, now, out),
            },
        }
    }

    /// One of several voters refused a claim. Others may still be enough; if not, whoever else
    /// asks for the agent is not kept waiting.
    fn refused(
        &mut self,
        agent: &AgentId,
        by: &Member,
        refused: &ClaimRefused,
        now: LocalTime,
        out: &mut Vec<Command>,
    ) {
        let Some(hosting) = self.hosted.get_mut(agent) else {
            return;
        };
        let Stage::Claiming(claiming) = &mut hosting.stage else {
            return;
        };
        let lasts = match refused {
            ClaimRefused::Behind { .. } | ClaimRefused::Owned { .. } => !claiming.is_fence(),
            // It may not have heard yet.
            ClaimRefused::Over | ClaimRefused::Quarantined => false,
        };
        if !lasts {
            return;
        }
        claiming.refusals.insert(by.clone());
        let refusals = &claiming.refusals;
        let may_be = self.membership.enough(&|member| !refusals.contains(member));
        if !may_be {
            self.fail(agent, now, out);
        }
    }

    /// Begins to give an agent back: nothing is done for it from now on, and others may have
    /// it as soon as it has stopped ([`Node::stopped`]).
    pub fn give_back(&mut self, agent: &AgentId, out: &mut Vec<Command>) {
        if let Some(hosting) = self.hosted.get_mut(agent)
            && !matches!(hosting.stage, Stage::Stopping)
        {
            hosting.stage = Stage::Stopping;
            out.push(Command::Stop {
                agent: agent.clone(),
            });
        }
    }

    /// Nothing of the agent runs here any more, as [`Command::Stop`] asked. Of an agent that is
    /// not being given back it says nothing.
    pub fn stopped(&mut self, agent: &AgentId) -> Vec<Command> {
        let mut out = Vec::new();
        let stopping = |hosting: &&Hosting| matches!(hosting.stage, Stage::Stopping);
        if let Some(epoch) = self.hosted.get(agent).filter(stopping).map(|h| h.epoch) {
            self.hosted.remove(agent);
            self.release(agent, epoch, &mut out);
        }
        out
    }

    /// Stops everything without giving it back: this life is over.
    pub(super) fn stop_all(&mut self, out: &mut Vec<Command>) {
        let hosted = std::mem::take(&mut self.hosted).into_keys();
        let prepared = std::mem::take(&mut self.prepared).into_keys();
        out.extend(hosted.chain(prepared).map(|agent| Command::Stop { agent }));
    }

    pub(super) fn give_up_if_quarantined(&mut self, out: &mut Vec<Command>) {
        if !self.quarantine.is_quarantined(&self.membership.me().name) {
            return;
        }
        let agents: Vec<AgentId> = self.hosted.keys().cloned().collect();
        for agent in agents {
            self.give_back(&agent, out);
        }
        let prepared = std::mem::take(&mut self.prepared).into_keys();
        out.extend(prepared.map(|agent| Command::Stop { agent }));
    }

    fn decide(&mut self, claim: &Claim) -> Result<(), ClaimRefused> {
        if self.quarantine.is_quarantined(&claim.claimant.name) {
            return Err(ClaimRefused::Quarantined);
        }
        // Nobody watches over who does not count: what it owned could never be taken from it.
        if self.membership.view().status(&claim.claimant) != Some(Status::Up) {
            return Err(ClaimRefused::Over);
        }
        let view = self.membership.view();
        let register = std::sync::Arc::make_mut(&mut self.register);
        register.claim(claim, |member| view.is_over(member))
    }

    /// Does what is due for an agent.
    pub(super) fn press(&mut self, agent: &AgentId, now: LocalTime, out: &mut Vec<Command>) {
        let Some(hosting) = self.hosted.get(agent) else {
            return;
        };
        match &hosting.stage {
            Stage::Claiming(claiming) => {
                let claim = claiming.claim.clone();
                if self.config.claim_patience <= now.since(claiming.since) {
                    self.fail(agent, now, out);
                } else {
                    self.canvass(claim, now, out);
                }
            }
            // Not on what was overwritten elsewhere.
            Stage::Waiting { start_at }
                if *start_at <= now
                    && self.consent.may_act(now)
                    && self.is_caught_up(agent, now) =>
            {
                self.run(agent, out);
            }
            Stage::Waiting { .. } | Stage::Running | Stage::Moving(_) | Stage::Stopping => {}
        }
    }

    /// Asks all voters, again those who were asked: asking twice is asking once.
    fn canvass(&mut self, claim: Claim, now: LocalTime, out: &mut Vec<Command>) {
        match self.config.authority {
            AuthorityKind::Database => out.push(Command::Ask(Question::Claim(claim))),
            AuthorityKind::Quorum => {
                let voters = self.membership.counted().iter();
                let others: Vec<Member> = voters
                    .filter(|voter| *voter != self.me())
                    .cloned()
                    .collect();
                for voter in &others {
                    self.send(&voter.name, Body::Claim(claim.clone()), out);
                }
                let outcome = self.decide(&claim);
                let me = self.me().clone();
                self.claimed(Some(&me), claim, outcome, now, out);
            }
        }
    }

    /// Goes on if the votes are enough.
    fn count(&mut self, agent: &AgentId, now: LocalTime, out: &mut Vec<Command>) {
        let Some(hosting) = self.hosted.get_mut(agent) else {
            return;
        };
        let Stage::Claiming(claiming) = &hosting.stage else {
            return;
        };
        let accepted = match self.config.authority {
            AuthorityKind::Database => claiming.votes.contains(&None),
            AuthorityKind::Quorum => {
                let voted = |member: &Member| claiming.votes.contains(&Some(member.clone()));
                self.membership.enough(&voted)
            }
        };
        if !accepted {
            return;
        }
        match claiming.purpose.clone() {
            Purpose::Own if self.config.authority == AuthorityKind::Quorum => {
                let start_at = now.after(self.config.down_removal_margin);
                hosting.stage = Stage::Waiting { start_at };
            }
            Purpose::Own => self.run(agent, out),
            Purpose::Fence { target } => {
                let patience = self.config.hand_off_patience;
                let source = Source::new(agent.clone(), hosting.epoch, target, patience, now);
                hosting.stage = Stage::Moving(source);
                out.push(Command::Snapshot {
                    agent: agent.clone(),
                });
            }
            Purpose::Take { source, fence } => {
                self.prepared.remove(agent);
                self.run(agent, out);
                let taken = HandOffMessage::Taken {
                    agent: agent.clone(),
                    fence,
                };
                self.send(&source.name, Body::HandOff(taken), out);
            }
        }
    }

    pub(super) fn run(&mut self, agent: &AgentId, out: &mut Vec<Command>) {
        if let Some(hosting) = self.hosted.get_mut(agent) {
            hosting.stage = Stage::Running;
            hosting.held = Some(hosting.epoch);
            out.push(Command::Start {
                agent: agent.clone(),
                epoch: hosting.epoch,
            });
        }
    }

    fn fail(&mut self, agent: &AgentId, now: LocalTime, out: &mut Vec<Command>) {
        let Some(hosting) = self.hosted.get(agent) else {
            return;
        };
        if let Stage::Claiming(claiming) = &hosting.stage
            && let Purpose::Take { source, fence } = claiming.purpose.clone()
        {
            let agent = agent.clone();
            self.prepared.remove(&agent);
            self.send(
                &source.name,
                Body::HandOff(HandOffMessage::Abort { agent, fence }),
                out,
            );
        }
        self.give_back(agent, out);
        if self.config.authority == AuthorityKind::Database {
            // Somebody else may be luckier.
            self.unowned_since.insert(agent.clone(), now);
        }
    }

    fn release(&mut self, agent: &AgentId, epoch: Epoch, out: &mut Vec<Command>) {
        let (agent, member) = (agent.clone(), self.me().clone());
        match self.config.authority {
            AuthorityKind::Database => out.push(Command::Ask(Question::Release {
                agent,
                member,
                epoch,
            })),
            AuthorityKind::Quorum => {
                let register = std::sync::Arc::make_mut(&mut self.register);
                register.release(&agent, &member, epoch);
            }
        }
    }

    /// Gives back what should not run, and what this node is said to own and knows nothing of:
    /// the answer to a claim was lost.
    fn drop_unwanted(&mut self, out: &mut Vec<Command>) {
        let wanted: BTreeSet<&AgentId> = self.specs.wanted().map(|spec| &spec.id).collect();
        let hosted = self.hosted.keys().filter(|agent| !wanted.contains(agent));
        let unwanted: Vec<AgentId> = hosted.cloned().collect();
        let me = self.membership.me();
        let mut forgotten = Vec::new();
        for agent in wanted {
            let owners = self.register.owners(agent, |_| false);
            let mine = owners
                .filter(|(owner, _)| *owner == me)
                .map(|(_, epoch)| epoch)
                .next();
            if let Some(epoch) = mine
                && !self.hosted.contains_key(agent)
            {
                forgotten.push((agent.clone(), epoch));
            }
        }
        for agent in unwanted {
            self.give_back(&agent, out);
        }
        for (agent, epoch) in forgotten {
            self.release(&agent, epoch, out);
        }
    }
}
