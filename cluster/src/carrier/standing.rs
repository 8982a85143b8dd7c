//! What this node knows, said as a store's registry would.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::{AgentId, Epoch};
use regrow_runtime::json::Json;
use regrow_runtime::registry::{AgentRow, Judgement, LiveNode, Reported, Standing};

use super::Carrying;
use crate::entry::Entry;
use crate::local_time::millis;
use crate::member::Member;
use crate::membership::Status;
use crate::node::Stands;
use crate::nodes::Stance;
use crate::quarantine::{Authority, Confinement};
use crate::spec_registry::Version;
use crate::watchdog::Judged;

/// Entries of agents as JSON, with the versions that they are of: most are asked for again before
/// they change.
pub(super) type Rendered = BTreeMap<AgentId, (Version, Json)>;

impl Carrying {
    /// What is known by now of what nodes offer and how busy they are; and what this node holds of
    /// their troubles, for people to see.
    pub(super) fn learn_facts(&mut self) {
        let me = self.node.life_of(self.node.me());
        let members = self.node.membership().counted().iter();
        let members: BTreeSet<&Member> = members.chain([self.node.me()]).collect();
        let facts = members.into_iter().map(|member| {
            let life = self.node.life_of(member);
            (
                member.clone(),
                self.placer.known(me, member.name.as_str(), life),
            )
        });
        let facts = facts.collect();
        self.node.learn_facts(facts);
        let (now, own) = (self.now(), &self.node.me().name);
        let others = self
            .shared
            .settings
            .founders
            .iter()
            .filter(|name| *name != own);
        let scores = others.map(|name| (name.to_string(), self.node.quarantine().score(name, now)));
        self.placer.score(scores.collect());
    }

    /// Everybody who counts, and all agents.
    ///
    /// An agent that is on its way to this node or from it has no owner: nobody acts for it. That of
    /// one that was lost is the life that had it, as in a store.
    pub(super) fn standing(&mut self) -> Standing {
        let mut rendered = std::mem::take(&mut self.rendered);
        let mut standing = Standing::default();
        let counted = self.node.membership().counted();
        for member in counted.iter().chain([self.node.me()]) {
            let live = LiveNode {
                node: member.name.as_str().into(),
                left: self.left(member),
            };
            standing.lives.insert(self.node.life_of(member), live);
        }
        let has_said = |agent: &Entry, owner: &Member| {
            let placed = agent.placed.as_ref().filter(|_| owner != self.node.me());
            placed.is_some_and(|at| {
                // An earlier life of the same node may have.
                let life = at.life.is_none_or(|life| life == self.node.life_of(owner));
                life && at.node == owner.name.as_str()
            })
        };
        for (id, entry) in self.node.specs().entries() {
            let Some(agent) = &entry.agent else { continue };
            let (owner, epoch) = match self.node.stands(id) {
                Some((Stands::Runs, epoch)) => (Some(self.node.me()), epoch),
                Some((Stands::Coming | Stands::Moves | Stands::Stops, epoch)) => (None, epoch),
                None => match self.node.owner(id) {
                    // Who has claimed it and waits until it may start has not said so yet.
                    Some((owner, epoch)) if has_said(agent, owner) => (Some(owner), epoch),
                    Some((_, epoch)) => (None, epoch),
                    None => (None, Epoch::NEVER),
                },
            };
            let lost = || {
                let claimed = self.node.stands(id).is_some() || self.node.owner(id).is_some();
                let life = agent.placed.as_ref().and_then(|placed| placed.life);
                life.filter(|life| !claimed && !standing.lives.contains_key(life))
            };
            let owner = owner.map(|owner| self.node.life_of(owner)).or_else(lost);
            let known = rendered.remove(id);
            let known = known.filter(|(version, _)| *version == entry.version);
            // Entries are plain data; they cannot fail to be JSON.
            let json = known.map_or_else(
                || Json::of(&without_decision(agent)).unwrap_or_else(|_| Json::null()),
                |(_, json)| json,
            );
            let version = entry.version.clone();
            self.rendered.insert(id.clone(), (version, json.clone()));
            let row = AgentRow {
                id: id.clone(),
                revision: entry.version.number,
                epoch,
                owner,
                entry: json,
            };
            standing.agents.insert(id.clone(), row);
        }
        standing.notes = self.notes();
        standing.judgements = self.judgements();
        standing.reports = self.reports(&standing);
        standing
    }

    /// Why an agent is where it is, or goes where it is to go.
    pub(super) fn decision(&self, agent: &AgentId) -> Option<Json> {
        self.node.specs().get(agent)?.decision.clone()
    }

    /// What nodes say of themselves, as this one heard it.
    fn reports(&self, standing: &Standing) -> BTreeMap<String, Reported> {
        let me = self.node.life_of(self.node.me());
        let lives = standing
            .lives
            .iter()
            .map(|(life, node)| (*life, &*node.node));
        let said = lives.filter_map(|(life, name)| {
            let (report, age) = self.placer.report(me, name, life)?;
            let body = Json::of(&report).ok()?;
            Some((name.to_owned(), Reported { life, age, body }))
        });
        said.collect()
    }

    /// Who is kept out or on probation, in the form of a store's judgements.
    fn judgements(&self) -> BTreeMap<String, Judgement> {
        let now = self.now();
        let judged = self
            .node
            .quarantine()
            .held()
            .filter_map(|(name, record, since)| {
                let age = now.since(since);
                let noted = self.node.notes().get(name).and_then(|note| note.reason);
                let reason = match (record.authority, record.confinement) {
                    (Authority::Operator, Confinement::Quarantined { .. }) => {
                        noted.unwrap_or_else(|| "an operator keeps it out".to_owned())
                    }
                    (Authority::Operator, _) => "an operator released it".to_owned(),
                    (Authority::Watchdog, Confinement::Quarantined { .. }) => {
                        "it went down too often of late".to_owned()
                    }
                    (Authority::Watchdog, Confinement::Probation { .. }) => {
                        "its term is over".to_owned()
                    }
                    (Authority::Watchdog, Confinement::Free) => "its probation is over".to_owned(),
                };
                let at = Timestamp(self.shared.clock.now().0.saturating_sub(millis(age)));
                let judged = Judged {
                    record: record.clone(),
                    reason,
                    at,
                };
                let judgement = Judgement {
                    revision: record.number,
                    age,
                    body: Json::of(&judged).ok()?,
                };
                Some((name.to_string(), judgement))
            });
        judged.collect()
    }

    /// For how long a member goes on without another word, as far as can be known here.
    fn left(&self, member: &Member) -> Duration {
        if member == self.node.me() {
            let until = self.node.acts_until();
            return until.map_or(Duration::ZERO, |until| until.since(self.now()));
        }
        let up = self.node.membership().view().status(member) == Some(Status::Up);
        match up && self.node.hears(member) {
            true => Duration::MAX,
            false => Duration::ZERO,
        }
    }

    /// What operators asked of nodes. That one is kept out is a judgement, as long as it is.
    fn notes(&self) -> BTreeMap<String, Json> {
        let mut notes = BTreeMap::new();
        for name in self.shared.settings.founders.iter() {
            let kept_out = self.node.quarantine().is_quarantined(name);
            let note = self.node.notes().get(name);
            let note = note.filter(|note| note.stance != Stance::Quarantined || !kept_out);
            if let Some(note) = note.and_then(|note| Json::of(&note).ok()) {
                notes.insert(name.to_string(), note);
            }
        }
        notes
    }
}

/// What everybody reads each second.
fn without_decision(entry: &Entry) -> Entry {
    Entry {
        decision: None,
        ..entry.clone()
    }
}
