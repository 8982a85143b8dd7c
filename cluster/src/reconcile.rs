//! What a node does about the agents: what the registry says against what runs here (pure).
//!
//! The registry is the authority. A node runs what it owns under the epoch that stands, and
//! nothing else; it takes what nobody owns, or whose owner is over, if placement says that it
//! belongs here. Each decision is a single step of one agent, tried against the revision that
//! it was decided on: whoever is late is told so, reads again and decides again.

use std::collections::BTreeMap;

use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::{AgentId, Epoch};
use regrow_runtime::json::Json;
use regrow_runtime::registry::{AgentRow, Life, Standing};

use crate::entry::{Entry, LastExit, Placed};

#[cfg(test)]
mod tests;

/// An agent as it stands on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Under which epoch it was started.
    pub epoch: Epoch,
    /// Which round it was started for.
    pub round: u64,
    /// How many kills had been asked for when it was started, or killed last.
    pub kills: u64,
    /// How it ended; `None` while it runs.
    pub ended: Option<Ended>,
}

/// How an agent ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// In words.
    pub reason: String,
    /// It crashed, or was killed.
    pub abnormal: bool,
}

/// Where an agent without an owner belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To this node, and what spoke for it.
    Here(Chosen),
    /// To another one, which will take it.
    Elsewhere,
    /// To none that lives, and why not.
    Nowhere(String),
}

/// Why an agent belongs to this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// In a line.
    pub because: String,
    /// The decision with its terms, to be kept.
    pub decision: Option<Json>,
}

/// One step with one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Change its row: the entry, with the same owner.
    Keep(Box<Entry>),
    /// Give it an owner, or none.
    Give {
        /// Who.
        to: Option<Life>,
        /// What is known of it from now on.
        entry: Box<Entry>,
        /// Why there, to be kept.
        decision: Option<Json>,
    },
    /// Start it here.
    Start {
        /// What the registry says.
        entry: Box<Entry>,
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Stop it here, in order, and forget it.
    Stop,
    /// Kill it here, as if it had crashed.
    Kill {
        /// How many kills have been asked for by now.
        kills: u64,
    },
    /// It ended here and concerns this node no more.
    Forget,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Me {
    /// Its life.
    pub life: Life,
    /// Its name.
    pub name: String,
    /// It takes no agents and gives those away that it has.
    pub draining: bool,
}

/// The next step of each agent for which there is one.
///
/// `locals`: all that was started here and not forgotten. `place`: where an agent belongs that
/// nobody owns. `now` is read from the store's clock.
pub fn decide(
    me: &Me,
    standing: &Standing,
    locals: &BTreeMap<AgentId, Local>,
    place: impl Fn(&AgentId, &Entry) -> Verdict,
    now: Timestamp,
) -> BTreeMap<AgentId, Step> {
    let mut steps = BTreeMap::new();
    for (id, row) in &standing.agents {
        let local = locals.get(id);
        let step = match understood(row) {
            Some(entry) => next(me, standing, row, entry, local, &place, now),
            // Of a later version of the program: left to those who understand it.
            None => local.map(gone),
        };
        if let Some(step) = step {
            steps.insert(id.clone(), step);
        }
    }
    for (id, local) in locals {
        if !standing.agents.contains_key(id) {
            steps.insert(id.clone(), gone(local));
        }
    }
    steps
}

/// The entry of a row, if this version understands it.
#[must_use]
pub fn understood(row: &AgentRow) -> Option<Entry> {
    serde_json::from_str(row.entry.as_str()).ok()
}

/// What is not this node's any more.
fn gone(local: &Local) -> Step {
    match local.ended {
        Some(_) => Step::Forget,
        None => Step::Stop,
    }
}

fn next(
    me: &Me,
    standing: &Standing,
    row: &AgentRow,
    entry: Entry,
    local: Option<&Local>,
    place: impl Fn(&AgentId, &Entry) -> Verdict,
    now: Timestamp,
) -> Option<Step> {
    if row.owner == Some(me.life) {
        return owned(me, standing, row, entry, local, now);
    }
    if let Some(local) = local {
        return Some(gone(local));
    }
    let taken = row
        .owner
        .is_some_and(|owner| standing.lives.contains_key(&owner));
    if taken || !entry.is_to_run() || me.draining {
        return None;
    }
    match place(&row.id, &entry) {
        Verdict::Here(chosen) => Some(taken_in(me, row, entry, chosen, now)),
        Verdict::Elsewhere | Verdict::Nowhere(_) => None,
    }
}

/// Takes an agent that nobody owns. One whose node was lost has been restarted by that.
fn taken_in(me: &Me, row: &AgentRow, mut entry: Entry, chosen: Chosen, now: Timestamp) -> Step {
    let taking = Taking {
        lost: row.owner.is_some(),
        life: row.owner,
        reason: if row.owner.is_some() {
            "node loss"
        } else {
            "start"
        }
        .to_owned(),
        because: chosen.because,
    };
    let taken = take(&mut entry, &me.name, taking, now);
    Step::Give {
        to: taken.then_some(me.life),
        entry: Box::new(entry),
        decision: chosen.decision.filter(|_| taken),
    }
}

/// How a node comes by an agent.
pub(crate) struct Taking {
    /// It was lost with the node that had it,
    pub(crate) lost: bool,
    /// in this life, if that is known.
    pub(crate) life: Option<Life>,
    /// What for.
    pub(crate) reason: String,
    /// What spoke for it.
    pub(crate) because: String,
}

/// Notes that node `me` takes an agent. One that was restarted too often is parked instead;
/// returns whether it was taken.
pub(crate) fn take(entry: &mut Entry, me: &str, taking: Taking, now: Timestamp) -> bool {
    if taking.lost {
        let node = entry
            .placed
            .as_ref()
            .map_or("?", |placed| placed.node.as_str());
        entry.last_exit = Some(LastExit {
            reason: format!("its node {node} was lost"),
            node: node.to_owned(),
            at: now,
        });
        if entry.count_restart(now).is_err() {
            let why = too_often(entry);
            entry.park(why);
            return false;
        }
    }
    entry.placed = Some(Placed {
        node: me.to_owned(),
        at: now,
        reason: taking.reason,
        because: taking.because,
        lost: taking.life,
        life: None,
    });
    true
}

fn too_often(entry: &Entry) -> String {
    let last = entry.last_exit.as_ref();
    format!(
        "reached max restart intensity: {} restarts in {:?} are allowed, on all nodes together; \
         its last life ended with: {}",
        entry.spec.intensity.restarts_max,
        entry.spec.intensity.within(),
        last.map_or("?", |exit| exit.reason.as_str()),
    )
}

/// The next step of an agent that this node owns.
fn owned(
    me: &Me,
    standing: &Standing,
    row: &AgentRow,
    mut entry: Entry,
    local: Option<&Local>,
    now: Timestamp,
) -> Option<Step> {
    let runs = local.is_some_and(|local| local.ended.is_none());
    if !entry.is_to_run() {
        return Some(match local {
            Some(local) => gone(local),
            None => Step::Give {
                to: None,
                entry: Box::new(entry),
                decision: None,
            },
        });
    }
    if let Some(asked) = entry.move_to.clone() {
        let target = standing
            .lives
            .iter()
            .find(|(_, node)| *node.node == *asked.to);
        return Some(match target {
            // Stopped first, so that it never runs twice; then given away in one step.
            Some((life, _)) if *life != me.life => match local {
                Some(local) => gone(local),
                None => {
                    entry.move_to = None;
                    entry.placed = Some(Placed {
                        node: asked.to.clone(),
                        at: now,
                        reason: asked.reason.clone(),
                        because: format!("asked for; it came from {}", me.name),
                        lost: None,
                        life: None,
                    });
                    Step::Give {
                        to: Some(*life),
                        entry: Box::new(entry),
                        // Why it was where it is no more says nothing about the new place.
                        decision: asked.decision.clone().or_else(|| Json::of(&asked).ok()),
                    }
                }
            },
            // It is there, or its target is not: the move is called off.
            _ => {
                entry.move_to = None;
                Step::Keep(Box::new(entry))
            }
        });
    }
    if me.draining {
        return Some(match local {
            Some(local) => gone(local),
            None => Step::Give {
                to: None,
                entry: Box::new(entry),
                decision: None,
            },
        });
    }
    let Some(local) = local else {
        return Some(Step::Start {
            entry: Box::new(entry),
            epoch: row.epoch,
        });
    };
    if local.epoch != row.epoch || local.round != entry.round {
        return Some(gone(local));
    }
    if runs {
        return (local.kills < entry.kills).then_some(Step::Kill { kills: entry.kills });
    }
    let ended = local.ended.as_ref()?;
    entry.last_exit = Some(LastExit {
        reason: ended.reason.clone(),
        node: me.name.clone(),
        at: now,
    });
    if !entry.spec.restart.applies_to(ended.abnormal) {
        let why = format!("it ended with: {}", ended.reason);
        entry.park(why);
    } else if entry.count_restart(now).is_err() {
        let why = too_often(&entry);
        entry.park(why);
    } else {
        entry.round += 1;
    }
    Some(Step::Keep(Box::new(entry)))
}
