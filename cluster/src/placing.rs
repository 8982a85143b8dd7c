//! Where agents of the registry belong, as each node works it out for itself.
//!
//! All nodes read the same rows, place the agents that nobody owns one after the other on the
//! same facts, and draw the same lots: each takes those that fall to it. Where facts differ for
//! a moment, two nodes may want the same agent, and the registry gives it to one; or none wants
//! it, and after a while the next one in the ranking does.
//!
//! Agents of a node that was lost are placed together: who looks while others take theirs
//! already goes through all of them nevertheless, and so decides as they did.

mod deal;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use regrow_runtime::ids::{AgentId, Epoch};
use regrow_runtime::json::Json;
use regrow_runtime::registry::{Life, Standing};
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use self::deal::{Dealt, Decided, decide, request, seat};
use crate::director::Placing;
use crate::member::NodeName;
use crate::nodes::{HeardOf, Stance, note_of};
use crate::placement::scr::Figures;
use crate::placement::{Board, Decision, NodeFacts, Policies};
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
    /// This node is another life since it said something of itself.
    renewed: Notify,
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
        let mut board = Board {
            policies: &config.policies,
            nodes: nodes.into_values().collect(),
        };
        deal::seat(&mut board, &dealt(here, standing));
        board
    }

    /// Where all agents go that no living node owns, decided one after the other.
    pub(crate) fn decide(&self, here: (Life, &str), standing: &Standing) -> Vec<Decided> {
        let agents = dealt(here, standing);
        if !agents.iter().any(|agent| agent.free) {
            return Vec::new();
        }
        deal::decide(&mut self.board(here, standing), &agents)
    }

    /// What a life says of itself, and how long ago: `here` is this node's.
    pub(crate) fn report(
        &self,
        here: Life,
        node: &str,
        life: Life,
    ) -> Option<(NodeReport, Duration)> {
        let report = match life == here {
            true => self.said().map(|own| (own, Duration::ZERO)),
            false => self.0.heard.report(node),
        };
        report.filter(|(report, _)| report.life == life)
    }

    /// What is known of a life by what it says of itself; nothing of what was asked of its node, or
    /// judged.
    pub(crate) fn known(&self, here: Life, node: &str, life: Life) -> NodeFacts {
        facts_of(self.report(here, node, life), self.0.config.facts_max_age)
    }

    /// This node is another life from now on, and says so at once.
    pub(crate) fn live(&self, life: Life) {
        if let Some(own) = &mut *self.0.own.lock()
            && own.life != life
        {
            own.life = life;
            own.number += 1;
            self.0.renewed.notify_one();
        }
    }

    /// Returns when this node has become another life, which others are to hear of soon.
    /// Cancellation safe, for one who waits.
    pub async fn renewed(&self) {
        self.0.renewed.notified().await;
    }
}

impl Placing for Placer {
    fn verdicts(&self, me: &Me, standing: &Standing) -> BTreeMap<AgentId, Verdict> {
        let decided = self.decide((me.life, &me.name), standing);
        let now = Instant::now();
        let epoch_of = |id: &AgentId| {
            standing
                .agents
                .get(id)
                .map_or(Epoch::NEVER, |row| row.epoch)
        };
        let mut waiting = self.0.waiting.lock();
        waiting.retain(|id, (epoch, _)| {
            let mut free = decided.iter();
            *epoch == epoch_of(id) && free.any(|it| it.id == *id)
        });
        let mut room = TAKEN_AT_ONCE_MAX;
        let verdicts = decided.into_iter().map(|it| {
            let waits = waiting.entry(it.id.clone());
            let (_, since) = waits.or_insert((epoch_of(&it.id), now));
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

/// All agents of the registry that this version understands.
fn dealt<'a>(here: (Life, &str), standing: &'a Standing) -> Vec<Dealt<'a>> {
    let nodes = living(here, standing);
    let name_of = |life: Life| {
        let known = nodes.iter().find(|(_, of)| **of == life);
        known.map(|(name, _)| NodeName::from(name.as_str()))
    };
    let rows = standing.agents.values().filter_map(|row| {
        let entry = understood(row)?;
        let lives = |life: &Life| standing.lives.contains_key(life);
        let assigned = entry.assigned.as_ref().filter(|to| lives(&to.life));
        let owner = row.owner.filter(lives);
        let placed = entry.placed.as_ref();
        Some(Dealt {
            id: &row.id,
            on: owner.or(assigned.map(|to| to.life)).and_then(name_of),
            free: owner.is_none() && assigned.is_none(),
            lost: match (owner, assigned) {
                (Some(_), _) => placed.and_then(|placed| placed.lost),
                (None, Some(to)) => to.lost,
                (None, None) => row.owner,
            },
            entry: Cow::Owned(entry),
        })
    });
    rows.collect()
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
    let mut facts = facts_of(report, config.facts_max_age);
    facts.cordoned |= matches!(stance, Some(Stance::Cordoned | Stance::Draining));
    facts.quarantined = stance == Some(Stance::Quarantined) || is_quarantined(standing, name);
    facts.share_permille = watched(standing, name, &config.watchdog).share_permille;
    facts
}

/// What a node says of itself, so long ago, as facts.
fn facts_of(report: Option<(NodeReport, Duration)>, max_age: Duration) -> NodeFacts {
    let mut facts = NodeFacts::idle();
    let Some((report, age)) = report else {
        facts.silent = true;
        return facts;
    };
    let fresh = age < max_age;
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
    facts.cordoned = report.leaving;
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
