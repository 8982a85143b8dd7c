//! What this node knows, said as a store's registry would.

use std::collections::BTreeMap;
use std::time::Duration;

use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::{AgentId, Epoch};
use regrow_runtime::json::Json;
use regrow_runtime::registry::{AgentRow, Life, LiveNode, Standing};

use super::Carrying;
use crate::entry::Entry;
use crate::member::{Member, NodeName};
use crate::membership::Status;
use crate::node::Stands;
use crate::nodes::{Note, Stance};
use crate::quarantine::Confinement;
use crate::spec_registry::Version;

/// Room for the places of founders in the number of a life.
const FOUNDERS_BITS: u32 = 10;

/// Entries of agents as JSON, with the versions that they are of: most are asked for again before
/// they change.
pub(super) type Rendered = BTreeMap<AgentId, (Version, Json)>;

impl Carrying {
    /// Everybody who counts, and all agents.
    ///
    /// An agent that is on its way to this node or from it has no owner: nobody acts for it.
    pub(super) fn standing(&mut self) -> Standing {
        let mut rendered = std::mem::take(&mut self.rendered);
        let mut standing = Standing::default();
        let counted = self.node.membership().counted();
        for member in counted.iter().chain([self.node.me()]) {
            let live = LiveNode {
                node: member.name.as_str().into(),
                left: self.left(member),
            };
            standing.lives.insert(self.life_of(member), live);
        }
        let has_said = |agent: &Entry, owner: &Member| {
            let placed = agent.placed.as_ref();
            owner != self.node.me() && placed.is_some_and(|at| at.node == owner.name.as_str())
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
            let known = rendered.remove(id);
            let known = known.filter(|(version, _)| *version == entry.version);
            // Entries are plain data; they cannot fail to be JSON.
            let json = known.map_or_else(
                || Json::of(agent).unwrap_or_else(|_| Json::null()),
                |(_, json)| json,
            );
            let version = entry.version.clone();
            self.rendered.insert(id.clone(), (version, json.clone()));
            let row = AgentRow {
                id: id.clone(),
                revision: entry.version.number,
                epoch,
                owner: owner.map(|owner| self.life_of(owner)),
                entry: json,
            };
            standing.agents.insert(id.clone(), row);
        }
        standing.notes = self.notes();
        standing
    }

    /// A member's life as a number.
    pub(super) fn life_of(&self, member: &Member) -> Life {
        let founders = &self.shared.settings.founders;
        let place = founders.iter().position(|name| *name == member.name);
        let place = place.map_or(0, |place| place as u64 + 1);
        Life(member.incarnation.0 << FOUNDERS_BITS | place)
    }

    /// Whose life a number is.
    pub(super) fn name_of(&self, life: Life) -> Option<NodeName> {
        let place = usize::try_from(life.0 & ((1 << FOUNDERS_BITS) - 1)).ok()?;
        let founders = &self.shared.settings.founders;
        founders.iter().nth(place.checked_sub(1)?).cloned()
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

    fn notes(&self) -> BTreeMap<String, Json> {
        let mut notes = BTreeMap::new();
        for name in self.shared.settings.founders.iter() {
            let noted = self.node.notes().get(name);
            let note = noted.or_else(|| self.kept_out(name));
            if let Some(note) = note.and_then(|note| Json::of(&note).ok()) {
                notes.insert(name.to_string(), note);
            }
        }
        notes
    }

    /// What the watchdog decided of a node, in the form of a note.
    fn kept_out(&self, name: &NodeName) -> Option<Note> {
        let quarantine = self.node.quarantine();
        if !quarantine.is_quarantined(name) {
            return None;
        }
        let term = match quarantine.confinement(name) {
            Confinement::Quarantined {
                term_ms: Some(term),
                ..
            } => format!("it kept failing; for {} s", term / 1_000),
            Confinement::Quarantined { term_ms: None, .. } => "until it is released".to_owned(),
            Confinement::Probation { .. } | Confinement::Free => return None,
        };
        Some(Note {
            stance: Stance::Quarantined,
            reason: Some(term),
            at: Timestamp(0),
        })
    }
}
