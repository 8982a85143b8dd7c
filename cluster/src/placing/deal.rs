//! All agents and all nodes on one board: who is where, and where those go that nobody has (pure).
//!
//! The same for whoever places: the nodes of a registry, each for itself, and the one that decides
//! where nodes agree among themselves; and for what would happen if a node died.

use std::borrow::Cow;
use std::collections::BTreeSet;

use regrow_runtime::ids::AgentId;
use regrow_runtime::registry::Life;

use super::draw;
use crate::entry::Entry;
use crate::member::NodeName;
use crate::placement::{Board, Decision, Request};

/// An agent as it stands.
#[derive(Clone, Debug)]
pub(crate) struct Dealt<'a> {
    pub(crate) id: &'a AgentId,
    pub(crate) entry: Cow<'a, Entry>,
    /// The node that has it, or is about to, if that one may be given agents.
    pub(crate) on: Option<NodeName>,
    /// Nobody has it, and nobody is about to.
    pub(crate) free: bool,
    /// The life whose loss freed it; of one that is not free, the life whose loss brought it to
    /// where it is.
    pub(crate) lost: Option<Life>,
}

/// Where an agent goes that nobody has.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) id: AgentId,
    /// The life that was lost, if it had one.
    pub(crate) lost: Option<Life>,
    pub(crate) decision: Decision,
}

/// What is asked for an agent; the lot is drawn anew for every node that it loses.
pub(crate) fn request<'a>(id: &'a AgentId, lost: Option<Life>, entry: &'a Entry) -> Request<'a> {
    Request {
        agent: id,
        placement: &entry.spec.placement,
        role: entry.spec.role.as_str(),
        asked_of: entry.asked_of.as_deref(),
        seed: draw(id, &lost.map_or(0, |life| life.0).to_string()),
    }
}

/// Counts every agent where it is.
pub(crate) fn seat(board: &mut Board<'_>, agents: &[Dealt<'_>]) {
    for agent in agents {
        let facts = agent.on.as_ref().and_then(|on| board.nodes.get_mut(on));
        if let Some(facts) = facts {
            facts.count(request(agent.id, None, &agent.entry).group());
        }
    }
}

/// Where all agents go that are to run and that nobody has, decided one after the other, on a board
/// on which the others are counted.
///
/// Those that were placed after the same losses are gone through once more: whoever looks later
/// decides as if it had looked before them.
pub(crate) fn decide(board: &mut Board<'_>, agents: &[Dealt<'_>]) -> Vec<Decided> {
    let to_run = || agents.iter().filter(|it| it.entry.is_to_run());
    if !to_run().any(|it| it.free) {
        return Vec::new();
    }
    let losses: BTreeSet<Life> = to_run()
        .filter(|it| it.free)
        .filter_map(|it| it.lost)
        .collect();
    let again = |it: &&Dealt<'_>| it.free || it.lost.is_some_and(|lost| losses.contains(&lost));
    for agent in to_run().filter(again).filter(|it| !it.free) {
        let facts = agent.on.as_ref().and_then(|on| board.nodes.get_mut(on));
        if let Some(facts) = facts {
            facts.discount(request(agent.id, None, &agent.entry).group());
        }
    }
    let mut decided = Vec::new();
    for agent in to_run().filter(again) {
        let decision = board.place(&request(agent.id, agent.lost, &agent.entry));
        if agent.free {
            decided.push(Decided {
                id: agent.id.clone(),
                lost: agent.lost,
                decision,
            });
        }
    }
    decided
}
