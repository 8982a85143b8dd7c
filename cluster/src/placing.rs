//! Where agents of the registry belong, as each node works it out for itself.
//!
//! All nodes read the same rows, place the agents that nobody owns one after the other on the
//! same facts, and draw the same lots: each takes those that fall to it. Where facts differ for
//! a moment, two nodes may want the same agent, and the registry gives it to one; or none wants
//! it, and after a while the next one in the ranking does.
//!
//! Agents of a node that was lost are placed together: who looks while others take theirs
//! already goes through all of them nevertheless, and so decides as they did.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use regrow_runtime::ids::{AgentId, Epoch};
use regrow_runtime::json::Json;
use regrow_runtime::registry::{AgentRow, Life, Standing};
use tokio::time::Instant;

use crate::director::Placing;
use crate::entry::Entry;
use crate::member::NodeName;
use crate::nodes::{HeardOf, Stance, note_of};
use crate::placement::scr::Figures;
use crate::placement::{Board, Decision, NodeFacts, Policies, Request};
use crate::quarantine::QuarantineConfig;
use crate::reconcile::{Chosen, Me, Verdict, understood};
use crate::report::NodeReport;
use crate::watchdog::{Watched, is_quarantined, watched};

/// New agents that a node takes at one look. The next look is when one of them is taken: by
/// then it sees what others took meanwhile.
const TAKEN_AT_ONCE_MAX: usize = 4;

/// How a node works out where agents belong.
#[derive(Clone, Debug)]
pub struct PlacerConfig {
    /// How to choose.
    pub policies: Policies,
    /// From this age on what a node said of its load counts as unknown.
    pub facts_max_age: Duration,
    /// When nodes are kept out, and for how long.
    pub watchdog: QuarantineConfig,
    /// For so long each node in the ranking leaves an agent to the one before it.
    pub patience: Duration,
}

impl Default for PlacerConfig {
    fn default() -> Self {
        Self {
            policies: Policies::default(),
            facts_max_age: Duration::from_secs(15),
            watchdog: QuarantineConfig::default(),
            patience: Duration::from_secs(2),
        }
    }
}

/// Works out where agents belong. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Placer(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    config: PlacerConfig,
    heard: HeardOf,
    /// What this node said of itself last.
    own: Mutex<Option<NodeReport>>,
    /// How this node's watchdog scores the others.
    scores: Mutex<BTreeMap<String, u64>>,
    /// Since when agents wait, by the epoch under which they do.
    waiting: Mutex<BTreeMap<AgentId, (Epoch, Instant)>>,
    draining: AtomicBool,
}

/// Where an agent goes that no living node owns.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) id: AgentId,
    /// The life that was lost, if it had one.
    pub(crate) lost: Option<Life>,
    pub(crate) decision: Decision,
    epoch: Epoch,
}

/// An agent that is to be placed, or was placed after the same loss as one that is.
struct Candidate<'a> {
    row: &'a AgentRow,
    entry: Entry,
    /// The life that was lost.
    lost: Option<Life>,
    free: bool,
}

impl Placer {
    /// `heard`: what is heard of other nodes through gossip.
    #[must_use]
    pub fn new(config: PlacerConfig, heard: HeardOf) -> Self {
        Self(Arc::new(Inner {
            config,
            heard,
            ..Inner::default()
        }))
    }

    /// This node takes no agents from now on, and gives those away that it has.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
    }

    /// What is heard of other nodes through gossip.
    #[must_use]
    pub fn heard(&self) -> &HeardOf {
        &self.0.heard
    }

    /// What this node says of itself from now on.
    pub fn say(&self, report: NodeReport) {
        *self.0.own.lock() = Some(report);
    }

    /// What this node said of itself last.
    #[must_use]
    pub fn said(&self) -> Option<NodeReport> {
        self.0.own.lock().clone()
    }

    /// When nodes are kept out, and for how long.
    #[must_use]
    pub fn watchdog(&self) -> QuarantineConfig {
        self.0.config.watchdog
    }

    /// This node's watchdog scores the others so.
    pub(crate) fn score(&self, scores: BTreeMap<String, u64>) {
        *self.0.scores.lock() = scores;
    }

    /// How a node stands with the watchdogs, and with this node's.
    pub(crate) fn watched(&self, standing: &Standing, node: &str) -> Watched {
        Watched {
            score: self.0.scores.lock().get(node).copied(),
            ..watched(standing, node, &self.0.config.watchdog)
        }
    }

    /// The nodes that live, with what is known of each, as `here` knows it.
    pub(crate) fn board(&self, here: (Life, &str), standing: &Standing) -> Board<'_> {
        let config = &self.0.config;
        let (own, heard) = (self.said(), self.0.heard.reports());
        let mut nodes = BTreeMap::new();
        for (name, life) in living(here, standing) {
            let report = match life == here.0 {
                true => own.clone().map(|own| (own, Duration::ZERO)),
                false => newest(life, standing.reports.get(&name), heard.get(&name)),
            };
            let facts = facts(&name, standing, report, config);
            nodes.insert(life, (NodeName::from(name.as_str()), facts));
        }
        for row in standing.agents.values() {
            let owner = row.owner.and_then(|owner| nodes.get_mut(&owner));
            if let (Some((_, facts)), Some(entry)) = (owner, understood(row)) {
                facts.count(request(&row.id, None, &entry).group());
            }
        }
        Board {
            policies: &config.policies,
            nodes: nodes.into_values().collect(),
        }
    }

    /// Where all agents go that no living node owns, decided one after the other.
    pub(crate) fn decide(&self, here: (Life, &str), standing: &Standing) -> Vec<Decided> {
        let candidates = candidates(standing);
        if candidates.is_empty() {
            return Vec::new();
        }
        let mut board = self.board(here, standing);
        for Candidate { row, entry, .. } in candidates.iter().filter(|it| !it.free) {
            let owner = row.owner.and_then(|owner| name_of(here, standing, owner));
            if let Some(facts) = owner.and_then(|name| board.nodes.get_mut(&NodeName::from(name))) {
                facts.discount(request(&row.id, None, entry).group());
            }
        }
        let mut decided = Vec::new();
        for candidate in &candidates {
            let Candidate { row, entry, .. } = candidate;
            let decision = board.place(&request(&row.id, candidate.lost, entry));
            if candidate.free {
                decided.push(Decided {
                    id: row.id.clone(),
                    lost: candidate.lost,
                    decision,
                    epoch: row.epoch,
                });
            }
        }
        decided
    }
}

impl Placing for Placer {
    fn verdicts(&self, me: &Me, standing: &Standing) -> BTreeMap<AgentId, Verdict> {
        let decided = self.decide((me.life, &me.name), standing);
        let now = Instant::now();
        let mut waiting = self.0.waiting.lock();
        waiting.retain(|id, (epoch, _)| {
            let mut free = decided.iter();
            free.any(|it| (&it.id, &it.epoch) == (id, epoch))
        });
        let mut room = TAKEN_AT_ONCE_MAX;
        let verdicts = decided.into_iter().map(|it| {
            let waits = waiting.entry(it.id.clone());
            let (_, since) = waits.or_insert((it.epoch, now));
            let (waited, patience) = (now.duration_since(*since), self.0.config.patience);
            let mut verdict = verdict(&me.name, it.decision, waited, patience);
            if it.lost.is_none() && matches!(verdict, Verdict::Here(_)) {
                match room.checked_sub(1) {
                    Some(left) => room = left,
                    None => verdict = Verdict::Elsewhere,
                }
            }
            (it.id, verdict)
        });
        verdicts.collect()
    }

    fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::SeqCst)
    }
}

/// What a decision means for the node `me`, for an agent that has waited that long (pure).
fn verdict(me: &str, decision: Decision, waited: Duration, patience: Duration) -> Verdict {
    if let Err(reason) = &decision.outcome {
        return Verdict::Nowhere(reason.to_string());
    }
    let ranking = decision.ranking();
    let Some(rank) = ranking.iter().position(|name| name.as_str() == me) else {
        return Verdict::Elsewhere;
    };
    let turn = patience * u32::try_from(rank).unwrap_or(u32::MAX);
    if waited < turn {
        return Verdict::Elsewhere;
    }
    let mut because = decision.because();
    if rank != 0 {
        because = format!("{} did not take it in {waited:.0?}; {because}", ranking[0]);
    }
    Verdict::Here(Chosen {
        because,
        // Decisions are plain data; they cannot fail to be JSON.
        decision: Json::of(&decision.kept()).ok(),
    })
}

/// All that are to be placed, and those that were placed already after the same losses.
fn candidates(standing: &Standing) -> Vec<Candidate<'_>> {
    let free = |row: &AgentRow| {
        row.owner
            .is_none_or(|owner| !standing.lives.contains_key(&owner))
    };
    let mut rows = standing.agents.values();
    if !rows.any(free) {
        return Vec::new();
    }
    let mut candidates: Vec<Candidate<'_>> = standing
        .agents
        .values()
        .filter_map(|row| {
            let entry = understood(row)?;
            let free = free(row);
            let lost = match free {
                true => row.owner,
                false => entry.placed.as_ref().and_then(|placed| placed.lost),
            };
            entry.is_to_run().then_some(Candidate {
                row,
                entry,
                lost,
                free,
            })
        })
        .collect();
    let losses: BTreeSet<Life> = candidates
        .iter()
        .filter(|candidate| candidate.free)
        .filter_map(|candidate| candidate.lost)
        .collect();
    candidates.retain(|it| it.free || it.lost.is_some_and(|lost| losses.contains(&lost)));
    match candidates.iter().any(|candidate| candidate.free) {
        true => candidates,
        false => Vec::new(),
    }
}

fn name_of<'a>(here: (Life, &'a str), standing: &'a Standing, life: Life) -> Option<&'a str> {
    match life == here.0 {
        true => Some(here.1),
        false => standing.lives.get(&life).map(|node| &*node.node),
    }
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

/// Nodes that may own agents, each in the latest of its lives.
pub(crate) fn living(here: (Life, &str), standing: &Standing) -> BTreeMap<String, Life> {
    let mut living = BTreeMap::new();
    for (life, node) in &standing.lives {
        if *life == here.0 {
            living.insert(here.1.to_owned(), *life);
        } else if !node.left.is_zero() {
            // One that is about to be ended takes nothing any more.
            living.insert(node.node.to_string(), *life);
        }
    }
    living
}

/// The newer of what the registry and gossip say of a life, and how old it is.
fn newest(
    life: Life,
    registry: Option<&regrow_runtime::registry::Reported>,
    gossip: Option<&(NodeReport, Duration)>,
) -> Option<(NodeReport, Duration)> {
    let registry = registry.and_then(|reported| {
        let report = serde_json::from_str::<NodeReport>(reported.body.as_str()).ok()?;
        Some((report, reported.age))
    });
    let both = registry.into_iter().chain(gossip.cloned());
    both.filter(|(report, _)| report.life == life)
        .max_by_key(|(report, _)| report.number)
}

/// What is known of a node, but for the agents that it has.
fn facts(
    name: &str,
    standing: &Standing,
    report: Option<(NodeReport, Duration)>,
    config: &PlacerConfig,
) -> NodeFacts {
    let stance = note_of(standing, name).map(|note| note.stance);
    let share_permille = watched(standing, name, &config.watchdog).share_permille;
    let mut facts = NodeFacts {
        cordoned: matches!(stance, Some(Stance::Cordoned | Stance::Draining)),
        quarantined: stance == Some(Stance::Quarantined) || is_quarantined(standing, name),
        share_permille,
        ..NodeFacts::idle()
    };
    let Some((report, age)) = report else {
        facts.silent = true;
        return facts;
    };
    let fresh = age < config.facts_max_age;
    facts.labels = report.offer.labels;
    facts.taints = report.offer.taints;
    facts.agents_max = report.offer.agents_max;
    facts.load_permille = fresh.then_some(report.load_permille);
    facts.scr = match fresh {
        true => report.scr,
        false => Figures::unreachable(),
    };
    facts.scr.agents = 0;
    facts.scr.capabilities = report.offer.capabilities;
    facts.age_ms = u64::try_from(age.as_millis()).ok();
    facts.version = Some(report.version);
    facts.cordoned |= report.leaving;
    facts
}

/// FNV-1a: the same on every node and in every version.
pub(crate) fn draw(id: &AgentId, node: &str) -> u64 {
    let bytes = id.as_str().bytes().chain([0]).chain(node.bytes());
    bytes.fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests;
