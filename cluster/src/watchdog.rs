//! A node's watch over the others, on a registry that they share.
//!
//! It sees troubles ([`observation`](crate::observation)), keeps scores
//! ([`quarantine`](crate::quarantine)), and writes a judgement by compare-and-set: of two nodes
//! that judge at once one is told to look again. What stands in the registry holds for all; how
//! long it has stood is counted by the store's clock, so a term ends at the same time for all,
//! also for those that began later.
//!
//! Scores are each node's own, and forgotten with it: whoever judges has seen the troubles
//! itself. A node never judges itself; it says what is wrong with it, and the others judge.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::time::Duration;

use regrow_runtime::clock::Timestamp;
use regrow_runtime::json::Json;
use regrow_runtime::metrics as names;
use regrow_runtime::registry::{Changed, Registry, Standing};
use regrow_runtime::store::StoreError;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::agents::AgentError;
use crate::local_time::LocalTime;
use crate::member::NodeName;
use crate::observation::{Observer, Sight};
use crate::placing::{Placer, living};
use crate::quarantine::{Confinement, Quarantine, QuarantineConfig, QuarantineRecord, Trouble};
use crate::report::NodeReport;

/// A node that was heard of so lately counts as one of all, also while it has no life.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Troubles of a node that a judgement names.
const NAMED_MAX: usize = 8;
/// Tries against judgements of others.
const TRIES_MAX: usize = 16;

/// What all nodes hold of one, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// Whether it is kept out.
    pub record: QuarantineRecord,
    /// Why.
    pub reason: String,
    /// Since when, by the store's clock.
    #[serde(with = "crate::instant")]
    pub at: Timestamp,
}

/// How a node stands with the watchdogs, for people to see.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Watched {
    /// `free`, `quarantined` or `probation`.
    pub state: &'static str,
    /// An operator keeps it out, until it is released.
    pub pinned: bool,
    /// What is left of its term or probation, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
    /// What share of a full node's agents it may get, in thousandths.
    pub share_permille: u64,
    /// Its score as the node sees it that is asked, in thousandths; `None` of itself.
    pub score: Option<u64>,
    /// At this score it is kept out.
    pub threshold: u64,
    /// Why it stands as it does, and who said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A node stands otherwise than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Which.
    pub node: NodeName,
    /// `node_quarantined`, `node_on_probation` or `node_released`.
    pub what: &'static str,
    /// Why.
    pub reason: String,
}

/// What stands of a node, and for how long it has.
#[must_use]
pub fn judged(standing: &Standing, node: &str) -> Option<(Judged, Duration)> {
    let judgement = standing.judgements.get(node)?;
    let judged = serde_json::from_str(judgement.body.as_str()).ok()?;
    Some((judged, judgement.age))
}

/// Whether the node must own nothing.
#[must_use]
pub fn is_quarantined(standing: &Standing, node: &str) -> bool {
    let judged = judged(standing, node);
    judged.is_some_and(|(it, _)| matches!(it.record.confinement, Confinement::Quarantined { .. }))
}

/// How the node stands, but for its score.
#[must_use]
pub fn watched(standing: &Standing, node: &str, config: &QuarantineConfig) -> Watched {
    let mut watched = Watched {
        state: "free",
        pinned: false,
        left_ms: None,
        share_permille: 1_000,
        score: None,
        threshold: config.threshold,
        reason: None,
    };
    let Some((judged, age)) = judged(standing, node) else {
        return watched;
    };
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let age = millis(age);
    match judged.record.confinement {
        Confinement::Quarantined { term_ms, .. } => {
            watched.state = "quarantined";
            watched.pinned = term_ms.is_none();
            watched.left_ms = term_ms.map(|term| term.saturating_sub(age));
            watched.share_permille = 0;
        }
        Confinement::Probation { .. } => {
            let whole = millis(config.probation).max(1);
            watched.state = "probation";
            watched.left_ms = Some(whole.saturating_sub(age));
            watched.share_permille = (age.min(whole) * 1_000 / whole).max(1);
        }
        Confinement::Free => return watched,
    }
    watched.reason = Some(format!("{} (by {})", judged.reason, judged.record.writer));
    watched
}

/// Watches over the other nodes.
pub struct Watchdog {
    registry: Registry,
    me: NodeName,
    placer: Placer,
    quarantine: Quarantine,
    observer: Observer,
    /// What each node was seen in lately.
    troubles: BTreeMap<NodeName, VecDeque<Trouble>>,
    origin: Instant,
    adopted: bool,
}

impl Watchdog {
    /// The watchdog of the node called `me`.
    #[must_use]
    pub fn new(registry: Registry, me: &str, placer: Placer) -> Self {
        let me = NodeName::from(me);
        Self {
            quarantine: Quarantine::new(me.clone(), placer.watchdog()),
            registry,
            me,
            placer,
            observer: Observer::default(),
            troubles: BTreeMap::new(),
            origin: Instant::now(),
            adopted: false,
        }
    }

    /// This node stood still: what it missed is held against nobody.
    pub fn forget(&mut self) {
        self.observer.forget();
    }

    /// Looks at the others, judges, and returns who stands otherwise than at the last look.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; some judgements may have been written. Looking again is right.
    pub async fn look(&mut self) -> Result<Vec<Told>, StoreError> {
        let standing = self.registry.nodes().await?;
        let now = self.now();
        let told = self.adopt(&standing, now);
        let sights = self.sights(&standing);
        for (node, trouble) in self.observer.look(&sights, now) {
            metrics::counter!(names::NODE_TROUBLES, "trouble" => trouble.as_str()).increment(1);
            info!(%node, trouble = trouble.as_str(), "a node was seen in trouble");
            let named = self.troubles.entry(node.clone()).or_default();
            named.push_back(trouble);
            if NAMED_MAX < named.len() {
                named.pop_front();
            }
            self.quarantine.trouble(&node, trouble, sights.len(), now);
        }
        self.troubles.retain(|node, _| sights.contains_key(node));
        self.quarantine.tick(now);
        let scores = sights.keys().filter(|node| **node != self.me);
        let scores = scores.map(|node| (node.to_string(), self.quarantine.score(node, now)));
        self.placer.score(scores.collect());
        let written: Vec<(NodeName, QuarantineRecord)> = self
            .quarantine
            .records()
            .filter(|(node, record)| {
                let stands = judged(&standing, node.as_str());
                stands.is_none_or(|(it, _)| it.record != **record)
            })
            .map(|(node, record)| (node.clone(), record.clone()))
            .collect();
        for (node, record) in written {
            let reason = self.reason(&node, &record);
            let seen = standing.judgements.get(node.as_str());
            let judged = Judged {
                record,
                reason,
                at: self.registry.clock().now(),
            };
            // Whoever was earlier is heard of at the next look.
            write(
                &self.registry,
                node.as_str(),
                seen.map(|it| it.revision),
                &judged,
            )
            .await?;
        }
        Ok(told)
    }

    fn now(&self) -> LocalTime {
        // Begins late enough that what stood before can be told.
        LocalTime(1 << 40).after(self.origin.elapsed())
    }

    /// Follows what stands in the registry.
    fn adopt(&mut self, standing: &Standing, now: LocalTime) -> Vec<Told> {
        let mut records = BTreeMap::new();
        let mut told = Vec::new();
        let mut kept_out = 0_u32;
        for name in standing.judgements.keys() {
            let Some((judged, age)) = judged(standing, name) else {
                continue;
            };
            let node = NodeName::from(name.as_str());
            let before = self.quarantine.confinement(&node);
            let confinement = judged.record.confinement;
            kept_out += u32::from(matches!(confinement, Confinement::Quarantined { .. }));
            if self.adopted && before != confinement {
                told.push(Told {
                    node: node.clone(),
                    what: match confinement {
                        Confinement::Quarantined { .. } => "node_quarantined",
                        Confinement::Probation { .. } => "node_on_probation",
                        Confinement::Free => "node_released",
                    },
                    reason: judged.reason,
                });
            }
            records.insert(node, (judged.record, now.before(age)));
        }
        metrics::gauge!(names::NODES_QUARANTINED).set(kept_out);
        self.quarantine.adopt(records);
        self.adopted = true;
        told
    }

    fn sights(&self, standing: &Standing) -> BTreeMap<NodeName, Sight> {
        let Ok(own) = self.registry.life() else {
            return BTreeMap::new();
        };
        let mut sights: BTreeMap<NodeName, Sight> = BTreeMap::new();
        let lives = standing
            .lives
            .iter()
            .map(|(life, node)| (&*node.node, *life));
        for (name, life) in lives.chain(
            living((own, self.me.as_str()), standing)
                .iter()
                .map(|(name, life)| (name.as_str(), *life)),
        ) {
            let sight = sights.entry(NodeName::from(name)).or_default();
            // Of two lives of one name the later one counts.
            sight.life = sight.life.max(Some(life));
        }
        for (name, reported) in &standing.reports {
            let node = NodeName::from(name.as_str());
            if reported.age < REMEMBERED || sights.contains_key(&node) {
                let report = serde_json::from_str::<NodeReport>(reported.body.as_str());
                sights.entry(node).or_default().report = report.ok();
            }
        }
        for (name, up) in self.placer.heard().up_or_down() {
            if let Some(sight) = sights.get_mut(&NodeName::from(name.as_str())) {
                sight.up = Some(up);
            }
        }
        sights
    }

    /// Why a record was written, in words.
    fn reason(&self, node: &NodeName, record: &QuarantineRecord) -> String {
        match record.confinement {
            Confinement::Quarantined { .. } => {
                let mut counts: BTreeMap<Trouble, usize> = BTreeMap::new();
                for trouble in self.troubles.get(node).into_iter().flatten() {
                    *counts.entry(*trouble).or_default() += 1;
                }
                let mut text = "in trouble of late:".to_owned();
                for (trouble, count) in counts {
                    // Writing to a string cannot fail.
                    let _ = write!(text, " {} {count}x", trouble.as_str());
                }
                text
            }
            Confinement::Probation { .. } => "its term is over".to_owned(),
            Confinement::Free => "its probation is over".to_owned(),
        }
    }
}

async fn write(
    registry: &Registry,
    node: &str,
    seen: Option<u64>,
    judged: &Judged,
) -> Result<bool, StoreError> {
    // Judgements are plain data; they cannot fail to be JSON.
    let Ok(body) = Json::of(judged) else {
        return Ok(false);
    };
    let changed = registry.judge(node, seen, body).await?;
    let done = matches!(changed, Changed::Done { .. });
    if done {
        warn!(node, confinement = ?judged.record.confinement, reason = judged.reason, "a node was judged");
    }
    Ok(done)
}

/// What an operator orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Keep it out until it is released.
    Pin,
    /// Let it back, on probation.
    Release,
}

/// Carries out what an operator orders of a node's quarantine; a release of one that is not
/// quarantined changes nothing. Durable when it returns.
///
/// # Errors
///
/// [`AgentError::Store`]; it may have been carried out.
pub(crate) async fn order(
    registry: &Registry,
    here: &str,
    node: &str,
    order: Order,
    reason: Option<String>,
    config: QuarantineConfig,
) -> Result<(), AgentError> {
    for _ in 0..TRIES_MAX {
        let standing = registry.nodes().await?;
        let name = NodeName::from(node);
        let mut quarantine = Quarantine::new(here.into(), config);
        let now = LocalTime(1 << 40);
        if let Some((judged, age)) = judged(&standing, node) {
            let record = (judged.record, now.before(age));
            quarantine.adopt([(name.clone(), record)].into());
        }
        let before = quarantine.confinement(&name);
        match order {
            Order::Pin => quarantine.pin(&name, now),
            Order::Release => quarantine.release(&name, now),
        }
        if order == Order::Release && quarantine.confinement(&name) == before {
            return Ok(());
        }
        let Some((_, record)) = quarantine.records().find(|(it, _)| **it == name) else {
            return Ok(());
        };
        let judged = Judged {
            record: record.clone(),
            reason: reason.clone().unwrap_or_else(|| match order {
                Order::Pin => "an operator keeps it out".to_owned(),
                Order::Release => "an operator released it".to_owned(),
            }),
            at: registry.clock().now(),
        };
        let seen = standing.judgements.get(node).map(|it| it.revision);
        if write(registry, node, seen, &judged).await? {
            return Ok(());
        }
    }
    Err(AgentError::ContendedNode(node.to_owned()))
}
