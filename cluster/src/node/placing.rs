//! Where agents go that nobody has, and where those go that may not stay.
//!
//! Where there is a database, every node works it out for itself, and claims what falls to it. Where
//! there is none, it is decided by whoever may write the agent's entry: the first of the members,
//! while nobody owns the agent. It writes who is to take it, and that one claims it. So all decisions
//! are made one after the other on one board, and what is kept of them is part of the entry. To be
//! named gives no right: a node owns what a quorum let it claim, and claims nothing that its own
//! offer does not fit, whoever named it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use regrow_runtime::ids::AgentId;
use regrow_runtime::json::Json;
use regrow_runtime::registry::Life;

use super::claims::{Hosting, Purpose, Stage};
use super::{AuthorityKind, Command, Decider, Node};
use crate::entry::{Assigned, Entry};
use crate::local_time::{LocalTime, millis};
use crate::member::{Member, NodeName};
use crate::membership::Status;
use crate::placement::{Board, Decision, NoPlace, NodeFacts, admit};
use crate::placing::{Dealt, Decided, decide, request, seat};

/// Room for the places of founders in the number of a life.
const FOUNDERS_BITS: u32 = 10;
/// For so long nobody is placed while somebody who was let in has not said what it offers: all
/// others would get what belongs to it.
const SILENCE_PATIENCE: Duration = Duration::from_secs(2);

/// What whoever decides remembers of an agent that it assigned.
#[derive(Clone, Debug)]
pub(super) struct Assigning {
    to: Life,
    since: LocalTime,
    /// Those who did not take it in time.
    passed: BTreeSet<Life>,
}

impl Node {
    /// What is known of the nodes by what they say of themselves: in the place of all that was
    /// known before. Of whom nothing is known, nothing is expected, and nothing is given to it.
    pub fn learn_facts(&mut self, facts: BTreeMap<Member, NodeFacts>) {
        self.facts = facts;
    }

    /// A member's life as a number that is no other node's.
    #[must_use]
    pub fn life_of(&self, member: &Member) -> Life {
        let place = self.founders.iter().position(|name| *name == member.name);
        let place = place.map_or(0, |place| place as u64 + 1);
        Life(member.incarnation.0 << FOUNDERS_BITS | place)
    }

    /// Whose life a number is.
    #[must_use]
    pub fn name_of(&self, life: Life) -> Option<NodeName> {
        let place = usize::try_from(life.0 & ((1 << FOUNDERS_BITS) - 1)).ok()?;
        self.founders.iter().nth(place.checked_sub(1)?).cloned()
    }

    /// Decides where agents go that nobody has, if it is this node that has to. Happens by itself
    /// with each tick; at once for whoever has just changed an entry.
    pub fn place(&mut self, now: LocalTime) -> Vec<Command> {
        let mut out = Vec::new();
        self.assign(now, &mut out);
        out
    }

    /// Why an agent goes nowhere that is to run and that nobody has, as far as this node knows.
    #[must_use]
    pub fn waits(&self, agent: &AgentId, now: LocalTime) -> Option<NoPlace> {
        let decided = self.decided(now);
        let mine = decided.into_iter().find(|it| it.id == *agent)?;
        mine.decision.outcome.err()
    }

    /// Where an agent of this node would go that may not stay.
    #[must_use]
    pub fn refuge(&self, agent: &AgentId, now: LocalTime) -> Option<Decision> {
        let entry = self.specs.get(agent)?;
        let mut board = self.board(now);
        board.nodes.remove(&self.me().name);
        let mut others = self.dealt();
        others.retain(|other| other.id != agent);
        seat(&mut board, &others);
        let decision = board.place(&request(agent, None, entry));
        decision.outcome.is_ok().then_some(decision)
    }

    /// Whether this node may run an agent by what it offers itself.
    pub(super) fn fits_here(&self, entry: &Entry) -> bool {
        self.fits(self.me(), entry) == Some(true)
    }

    /// Whether a node may run an agent by what it offers, if that is known.
    pub(super) fn fits(&self, member: &Member, entry: &Entry) -> Option<bool> {
        let facts = self.facts.get(member).filter(|facts| !facts.silent)?;
        let placement = &entry.spec.placement;
        Some(admit(placement, &member.name, &facts.labels, &facts.taints).is_ok())
    }

    /// Claims agents that nobody has, where it is this node's turn.
    pub(super) fn claim_unowned(&mut self, now: LocalTime, out: &mut Vec<Command>) {
        let mine = match self.config.authority {
            AuthorityKind::Quorum => self.assigned_here(),
            AuthorityKind::Database => self.due_here(now),
        };
        let me = &self.membership.me().name;
        if mine.is_empty() || !self.consent.may_act(now) || self.quarantine.is_quarantined(me) {
            return;
        }
        for agent in mine {
            self.begin_claim(&agent, Purpose::Own, now);
            self.press(&agent, now, out);
        }
    }

    /// What was assigned to this life, fits it, and is nobody's.
    fn assigned_here(&self) -> Vec<AgentId> {
        let me = self.life_of(self.me());
        let mine = self.specs.entries().filter(|(agent, entry)| {
            let entry = entry.agent.as_ref().filter(|entry| entry.is_to_run());
            entry.is_some_and(|entry| {
                let assigned = entry.assigned.as_ref();
                assigned.is_some_and(|to| to.life == me)
                    && !self.hosted.contains_key(*agent)
                    && self.owner(agent).is_none()
                    && self.fits_here(entry)
            })
        });
        mine.map(|(agent, _)| agent.clone()).collect()
    }

    /// What falls to this node, where each works that out for itself: whom an agent belongs to gets
    /// it first, then the next one in the ranking, each for as long as a claim is tried.
    fn due_here(&mut self, now: LocalTime) -> Vec<AgentId> {
        let decided = self.decided(now);
        let mut since = std::mem::take(&mut self.unowned_since);
        since.retain(|agent, _| decided.iter().any(|it| it.id == *agent));
        let me = &self.me().name;
        let mine = decided.into_iter().filter_map(|it| {
            let since = *since.entry(it.id.clone()).or_insert(now);
            let turns = millis(now.since(since)) / self.turn_ms();
            let ranking = it.decision.ranking();
            let place = usize::try_from(turns).unwrap_or(0) % ranking.len().max(1);
            let fits = self.specs.get(&it.id).is_some_and(|it| self.fits_here(it));
            (fits && ranking.get(place) == Some(&me)).then_some(it.id)
        });
        let mine = mine.collect();
        self.unowned_since = since;
        mine
    }

    fn turn_ms(&self) -> u64 {
        millis(self.config.claim_patience).max(1) * 2
    }

    /// Says who is to take what nobody has. For the first of the members, whose word about these
    /// agents stands.
    pub(super) fn assign(&mut self, now: LocalTime, out: &mut Vec<Command>) {
        let first = self.membership.counted().first() == Some(self.me());
        let decides = first && self.membership.is_settled() && self.consent.may_act(now);
        if self.config.authority != AuthorityKind::Quorum || !decides {
            self.assigning.clear();
            self.silent_since.clear();
            return;
        }
        self.pass_over(now);
        if self.awaits_facts(now) {
            return;
        }
        for it in self.decided(now) {
            if it.decision.outcome.is_ok() && self.decider(&it.id, now) == Decider::Here {
                self.assign_one(it, now, out);
            }
        }
    }

    fn assign_one(&mut self, it: Decided, now: LocalTime, out: &mut Vec<Command>) {
        let Decided {
            id,
            lost,
            mut decision,
        } = it;
        let candidates = self.candidates();
        let life = |name: &NodeName| {
            let member = candidates.iter().find(|member| member.name == *name);
            member.map(|member| self.life_of(member))
        };
        let passed = self.assigning.get(&id).map(|it| it.passed.clone());
        let mut passed = passed.unwrap_or_default();
        let ranking = decision.ranking().into_iter();
        let ranking: Vec<(NodeName, Life)> = ranking
            .filter_map(|name| Some((name.clone(), life(name)?)))
            .collect();
        let chosen = ranking.iter().find(|(_, life)| !passed.contains(life));
        let (to, life) = match (chosen, ranking.first()) {
            (Some(chosen), _) => chosen.clone(),
            (None, Some(first)) => {
                // Everybody had his turn: from the beginning.
                passed.clear();
                first.clone()
            }
            (None, None) => return,
        };
        let best = decision.outcome.clone();
        decision.outcome = Ok(to.clone());
        let mut because = decision.because();
        if let Some(best) = best.ok().filter(|best| *best != to) {
            because = format!("{best} did not take it in time; {because}");
        }
        let Some(mut entry) = self.specs.get(&id).cloned() else {
            return;
        };
        entry.assigned = Some(Assigned {
            to: to.to_string(),
            life,
            because,
            lost,
        });
        // Decisions are plain data; they cannot fail to be JSON.
        entry.decision = Json::of(&decision.kept()).ok();
        // It is known, so there is room for it; and if this node may not write any more, whoever
        // may assigns it.
        if let Ok(Some(_)) = self.write_entry(&id, Some(entry)) {
            let assigning = Assigning {
                to: life,
                since: now,
                passed,
            };
            self.assigning.insert(id.clone(), assigning);
            out.extend(self.tell_spec(&id));
        }
    }

    /// Who was named and has not taken an agent in time is passed over.
    fn pass_over(&mut self, now: LocalTime) {
        let mut assigning = std::mem::take(&mut self.assigning);
        let waits = |agent: &AgentId| {
            let entry = self.specs.get(agent).filter(|entry| entry.is_to_run());
            let assigned = entry.and_then(|entry| entry.assigned.as_ref());
            assigned.filter(|_| self.owner(agent).is_none() && !self.hosted.contains_key(agent))
        };
        assigning.retain(|agent, _| waits(agent).is_some());
        for (agent, _) in self.specs.entries() {
            let Some(to) = waits(agent).map(|assigned| assigned.life) else {
                continue;
            };
            let fresh = Assigning {
                to,
                since: now,
                passed: BTreeSet::new(),
            };
            let known = assigning.entry(agent.clone()).or_insert(fresh);
            if known.to != to {
                (known.to, known.since) = (to, now);
            }
            if self.turn_ms() <= millis(now.since(known.since)) {
                known.passed.insert(to);
            }
        }
        self.assigning = assigning;
    }

    /// Whether somebody has yet to say what it offers.
    fn awaits_facts(&mut self, now: LocalTime) -> bool {
        let silent = self.candidates().into_iter().filter(|member| {
            let known = self.facts.get(member);
            self.takes_agents(&member.name) && known.is_none_or(|facts| facts.silent)
        });
        let silent: BTreeSet<Member> = silent.collect();
        self.silent_since
            .retain(|member, _| silent.contains(member));
        for member in silent {
            self.silent_since.entry(member).or_insert(now);
        }
        let mut since = self.silent_since.values();
        since.any(|since| now.since(*since) < SILENCE_PATIENCE)
    }

    /// Where all agents would go that nobody has and nobody is about to take.
    fn decided(&self, now: LocalTime) -> Vec<Decided> {
        let agents = self.dealt();
        if !agents.iter().any(|it| it.free && it.entry.is_to_run()) {
            return Vec::new();
        }
        let mut board = self.board(now);
        seat(&mut board, &agents);
        decide(&mut board, &agents)
    }

    /// Nobody sits on it yet.
    fn board(&self, now: LocalTime) -> Board<'_> {
        let nodes = self.candidates().into_iter().map(|member| {
            let mut facts = self.facts.get(&member).cloned().unwrap_or(NodeFacts {
                silent: true,
                ..NodeFacts::idle()
            });
            facts.cordoned |= self.notes.is_noted(&member.name);
            facts.quarantined = self.quarantine.is_quarantined(&member.name);
            facts.share_permille = self.quarantine.share(&member.name, now);
            (member.name, facts)
        });
        Board {
            policies: &self.policies,
            nodes: nodes.collect(),
        }
    }

    /// All agents as they stand.
    fn dealt(&self) -> Vec<Dealt<'_>> {
        let members: BTreeMap<Life, NodeName> = self
            .counted()
            .into_iter()
            .map(|member| (self.life_of(&member), member.name))
            .collect();
        let all = self.specs.entries().filter_map(|(id, entry)| {
            let entry = entry.agent.as_ref()?;
            let owner = match self.hosted.get(id) {
                Some(hosting) => Some(bound_for(hosting).unwrap_or(self.me())),
                None => self.owner(id).map(|(owner, _)| owner),
            };
            let passed = self.assigning.get(id).map(|it| &it.passed);
            let passed = |life: &Life| passed.is_some_and(|passed| passed.contains(life));
            let named = entry.assigned.as_ref();
            let named = named.filter(|to| members.contains_key(&to.life) && !passed(&to.life));
            let placed = entry.placed.as_ref();
            Some(Dealt {
                id,
                on: match (owner, named) {
                    (Some(owner), _) => Some(owner.name.clone()),
                    (None, Some(to)) => members.get(&to.life).cloned(),
                    (None, None) => None,
                },
                free: owner.is_none() && named.is_none(),
                lost: match (owner, named) {
                    (Some(_), _) => placed.and_then(|placed| placed.lost),
                    (None, Some(to)) => to.lost,
                    (None, None) => {
                        let life = placed.and_then(|placed| placed.life);
                        life.filter(|life| !members.contains_key(life))
                    }
                },
                entry: Cow::Borrowed(entry),
            })
        });
        all.collect()
    }

    /// The lives that are not over.
    fn counted(&self) -> Vec<Member> {
        match self.config.authority {
            AuthorityKind::Database => self.lives.open_lives().map(|(member, _)| member).collect(),
            AuthorityKind::Quorum => self.membership.counted().iter().cloned().collect(),
        }
    }

    /// Members who may get agents now, if nothing was asked of them or judged.
    fn candidates(&self) -> Vec<Member> {
        let up = |member: &Member| match self.config.authority {
            AuthorityKind::Database => true,
            AuthorityKind::Quorum => self.membership.view().status(member) == Some(Status::Up),
        };
        let mut all = self.counted();
        all.retain(|member| up(member) && self.reaches(member));
        all
    }

    /// Whether nothing keeps agents from a node.
    fn takes_agents(&self, node: &NodeName) -> bool {
        !self.quarantine.is_quarantined(node) && !self.notes.is_noted(node)
    }
}

/// To whom an agent of this node is on its way.
fn bound_for(hosting: &Hosting) -> Option<&Member> {
    match &hosting.stage {
        Stage::Moving(source) => Some(source.target()),
        Stage::Claiming(claiming) => claiming.target(),
        Stage::Waiting { .. } | Stage::Running | Stage::Stopping => None,
    }
}
