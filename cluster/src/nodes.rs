//! What operators ask of nodes: take no more agents, give all away, go on; and who is there.
//!
//! What was asked of a node is noted for all nodes to see, under its name: it outlives the
//! node's restarts, and whoever asks. The node itself gives its agents away; of one that
//! cannot, the others take them when its life has run out.

mod explained;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use regrow_runtime::clock::Timestamp;
use regrow_runtime::json::Json;
use regrow_runtime::registry::{Life, Standing};
use regrow_runtime::store::StoreError;
use serde::{Deserialize, Serialize};

pub use self::explained::{Explanation, Loss, Lost, Planned};
use crate::agents::{AgentError, Agents};
use crate::exchange::Exchange;
use crate::member::NodeName;
use crate::placing::Placer;
use crate::report::NodeReport;
use crate::roster::Roster;
use crate::watchdog::{self, Order, Watched};

/// What a node is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stance {
    /// It keeps its agents and takes no more.
    Cordoned,
    /// It takes none and gives away those that it has.
    Draining,
    /// It owns nothing, because it is not trusted: until somebody releases it. Kept as a
    /// judgement; of earlier versions there may be notes.
    Quarantined,
}

impl Stance {
    /// Whether it gives its agents away.
    #[must_use]
    pub fn gives_away(self) -> bool {
        self != Self::Cordoned
    }
}

/// What is noted of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What it is asked to do.
    pub stance: Stance,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when.
    #[serde(with = "crate::instant")]
    pub at: Timestamp,
}

/// The note of a node, if there is one that this version understands.
#[must_use]
pub fn note_of(standing: &Standing, node: &str) -> Option<Note> {
    let note = standing.notes.get(node)?;
    serde_json::from_str(note.as_str()).ok()
}

/// A node as the store knows it.
#[derive(Clone, Debug, Serialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its life, while it has one.
    pub life: Option<Life>,
    /// How long its life lasts without another renewal, in milliseconds.
    pub lease_left_ms: Option<u64>,
    /// It is the node that was asked.
    pub here: bool,
    /// Agents that it owns.
    pub agents: usize,
    /// What it is asked to do, unless nothing in particular.
    pub note: Option<Note>,
    /// How it stands with the watchdogs.
    pub watched: Watched,
    /// What it offers, and how busy it is, as it said last.
    pub report: Option<NodeReport>,
    /// What is heard of it through gossip, where this node gossips.
    pub heard: Option<Heard>,
    /// How this node is connected to it, or why not.
    pub session: Option<SessionView>,
}

/// How this node is connected to another one.
#[derive(Clone, Debug, Serialize)]
pub struct SessionView {
    /// `joining`, `ready`, `leaving`, or `failed` when the latest attempt was.
    pub state: &'static str,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "since")]
    pub since: Option<Timestamp>,
    /// Whether this node dialled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialled_here: Option<bool>,
    /// Why the latest attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

fn since<S: serde::Serializer>(at: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => to.collect_str(at),
        None => to.serialize_none(),
    }
}

impl SessionView {
    fn of(exchange: &Exchange, name: &str) -> Option<Self> {
        let name = NodeName::from(name);
        let session = exchange.sessions().borrow().get(&name).cloned();
        match session {
            Some(session) => Some(Self {
                state: session.state.as_str(),
                since: Some(session.since),
                dialled_here: Some(session.is_dialled_here),
                error: None,
            }),
            None => exchange.failure(&name).map(|error| Self {
                state: "failed",
                since: None,
                dialled_here: None,
                error: Some(error),
            }),
        }
    }
}

/// What is heard of a node through gossip.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Heard {
    /// `joining`, `up`, `down` or `left`.
    pub status: &'static str,
    /// Which of its lives.
    pub incarnation: u64,
    /// Where it takes gossip.
    pub address: String,
    /// Where it takes sessions with other nodes.
    pub gateway: Option<String>,
    /// Where its HTTP surface is.
    pub http: Option<String>,
    /// Which version it runs.
    pub version: Option<String>,
    /// Share of its queue in use.
    pub load: Option<f64>,
    /// Tasks that wait with it for a worker, by kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub backlog: BTreeMap<String, u64>,
    /// How doubtful it is, as silence in mean intervals between heartbeats.
    pub phi: Option<f64>,
    /// For how long it has not been heard.
    pub silent_ms: Option<u64>,
    /// What it says of itself.
    #[serde(skip)]
    pub report: Option<NodeReport>,
}

impl Heard {
    /// What it says of itself while it is up, and how long ago it was heard.
    fn said(&self) -> Option<(NodeReport, Duration)> {
        let report = self.report.as_ref().filter(|_| self.status == "up")?;
        let age = Duration::from_millis(self.silent_ms.unwrap_or(0));
        Some((report.clone(), age))
    }
}

#[cfg(test)]
impl Heard {
    pub(crate) fn of(status: &'static str) -> Self {
        Self {
            status,
            incarnation: 1,
            address: String::new(),
            gateway: None,
            http: None,
            version: None,
            load: None,
            backlog: BTreeMap::new(),
            phi: None,
            silent_ms: None,
            report: None,
        }
    }
}

/// What is heard of other nodes, by their names. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct HeardOf(Arc<Mutex<BTreeMap<String, Heard>>>);

impl HeardOf {
    /// This is what is heard by now.
    pub fn replace(&self, heard: BTreeMap<String, Heard>) {
        *self.0.lock() = heard;
    }

    fn all(&self) -> BTreeMap<String, Heard> {
        self.0.lock().clone()
    }

    /// Whether gossip has those up or down that it has an opinion of.
    pub(crate) fn up_or_down(&self) -> Vec<(String, bool)> {
        let heard = self.0.lock();
        let opinions = heard.iter().filter_map(|(name, heard)| match heard.status {
            "up" => Some((name.clone(), true)),
            "down" => Some((name.clone(), false)),
            _ => None,
        });
        opinions.collect()
    }

    /// What those say of themselves that are up, and how long ago they were heard.
    pub(crate) fn reports(&self) -> BTreeMap<String, (NodeReport, Duration)> {
        let heard = self.0.lock();
        let reports = heard
            .iter()
            .filter_map(|(name, heard)| Some((name.clone(), heard.said()?)));
        reports.collect()
    }

    /// The same of one node.
    pub(crate) fn report(&self, node: &str) -> Option<(NodeReport, Duration)> {
        self.0.lock().get(node)?.said()
    }
}

/// What a life said of itself, as the registry has it.
fn report_of(standing: &Standing, node: &str, life: Option<Life>) -> Option<NodeReport> {
    let reported = standing.reports.get(node)?;
    let report: NodeReport = serde_json::from_str(reported.body.as_str()).ok()?;
    (Some(report.life) == life).then_some(report)
}

/// Asks things of nodes. Cheap to clone.
#[derive(Clone)]
pub struct Nodes {
    roster: Roster,
    agents: Agents,
    placer: Placer,
    exchange: Exchange,
}

impl Nodes {
    /// Asks through this node's roster, and what it hears and decides; `exchange` knows whom
    /// it is connected to.
    #[must_use]
    pub fn new(roster: Roster, placer: Placer, exchange: Exchange) -> Self {
        Self {
            agents: Agents::new(roster.clone()),
            roster,
            placer,
            exchange,
        }
    }

    /// All nodes that live, are connected, or of which something is noted or heard, by name.
    /// `here` is the name of the node that is asked.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn list(&self, here: &str) -> Result<Vec<NodeView>, StoreError> {
        let (standing, me) = (self.roster.read().await?, self.roster.life()?);
        let heard = self.placer.heard().all();
        let mut nodes: BTreeMap<String, NodeView> = BTreeMap::new();
        let names = standing.notes.keys().cloned();
        let lives = standing.lives.iter().map(|(life, node)| (*life, node));
        let name_of = |life: Life, node: &str| match life == me {
            true => here.to_owned(),
            false => node.to_owned(),
        };
        for (life, node) in lives {
            let name = name_of(life, &node.node);
            let owned = |row: &&regrow_runtime::registry::AgentRow| row.owner == Some(life);
            let left = (node.left != Duration::MAX).then_some(node.left);
            let view = NodeView {
                life: Some(life),
                lease_left_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
                here: life == me,
                agents: standing.agents.values().filter(owned).count(),
                note: note_of(&standing, &name),
                watched: self.placer.watched(&standing, &name),
                report: report_of(&standing, &name, Some(life)),
                heard: heard.get(&name).cloned(),
                session: SessionView::of(&self.exchange, &name),
                name: name.clone(),
            };
            // Of two lives of one name the later one counts.
            nodes.insert(name, view);
        }
        let sessions = self.exchange.sessions();
        let connected: Vec<String> = sessions.borrow().keys().map(ToString::to_string).collect();
        let judged = standing.judgements.keys().cloned();
        let names = names.chain(judged).chain(heard.keys().cloned());
        for name in names.chain(connected) {
            nodes.entry(name.clone()).or_insert_with(|| NodeView {
                life: None,
                lease_left_ms: None,
                here: false,
                agents: 0,
                note: note_of(&standing, &name),
                watched: self.placer.watched(&standing, &name),
                report: None,
                heard: heard.get(&name).cloned(),
                session: SessionView::of(&self.exchange, &name),
                name,
            });
        }
        Ok(nodes.into_values().collect())
    }

    /// Why this node is not to be sent requests yet, if that depends on others.
    #[must_use]
    pub fn unready(&self) -> Option<String> {
        self.roster.unready()
    }

    /// The other nodes that gossip or the gateway knows of, whether they are there or not.
    #[must_use]
    pub fn others(&self) -> Vec<NodeName> {
        let heard = self.placer.heard().0.lock();
        let mut names: BTreeSet<NodeName> = heard.keys().map(|name| name.as_str().into()).collect();
        names.extend(self.exchange.sessions().borrow().keys().cloned());
        names.into_iter().collect()
    }

    /// Where a node's HTTP surface is, as it says through gossip.
    #[must_use]
    pub fn http_of(&self, node: &str) -> Option<String> {
        self.placer.heard().0.lock().get(node)?.http.clone()
    }

    /// Of these nodes the one whose queue has most room, as it says through gossip; `None` if all
    /// are full.
    #[must_use]
    pub fn roomiest(&self, among: &[NodeName]) -> Option<NodeName> {
        let heard = self.placer.heard().0.lock();
        let load = |name: &NodeName| heard.get(name.as_str())?.load;
        // Who says nothing of its load comes last.
        let loads = among.iter().map(|name| (load(name).unwrap_or(0.999), name));
        let free = loads.filter(|(load, _)| *load < 1.0);
        free.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)))
            .map(|(_, name)| name.clone())
    }

    /// Those of these nodes with whom tasks of one of `kinds` wait for a worker, as they say through
    /// gossip; most first.
    #[must_use]
    pub fn waiting_at(&self, kinds: &[String], among: &[NodeName]) -> Vec<(NodeName, u64)> {
        let heard = self.placer.heard().0.lock();
        let waiting = |name: &NodeName| {
            let backlog = &heard.get(name.as_str())?.backlog;
            let waiting = kinds
                .iter()
                .filter_map(|kind| backlog.get(kind))
                .sum::<u64>();
            (0 < waiting).then(|| (waiting, name.clone()))
        };
        let mut waiting: Vec<_> = among.iter().filter_map(waiting).collect();
        waiting.sort_by(|a, b| b.cmp(a));
        waiting.into_iter().map(|(n, name)| (name, n)).collect()
    }

    /// What a node is asked to do, unless nothing in particular.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn stance(&self, node: &str) -> Result<Option<Stance>, StoreError> {
        let standing = self.roster.read().await?;
        if watchdog::is_quarantined(&standing, node) {
            return Ok(Some(Stance::Quarantined));
        }
        Ok(note_of(&standing, node).map(|note| note.stance))
    }

    /// Asks a node to do something, from now on and over its restarts; `None` releases it: from
    /// what it was asked, and from quarantine, after which it is on probation.
    ///
    /// # Errors
    ///
    /// [`AgentError::NoSuchNode`] if there is none of that name, and nothing is noted of it.
    pub async fn ask(
        &self,
        here: &str,
        node: &str,
        stance: Option<Stance>,
        reason: Option<String>,
    ) -> Result<Option<Note>, AgentError> {
        let known = self.list(here).await?;
        if !known.iter().any(|view| view.name == node) {
            let alive: Vec<String> = known.into_iter().map(|view| view.name).collect();
            return Err(AgentError::NoSuchNode {
                to: node.to_owned(),
                alive: alive.join(", "),
            });
        }
        if let Roster::Stored(registry) = &self.roster {
            let config = self.placer.watchdog();
            let judge = |it| watchdog::order(registry, here, node, it, reason.clone(), config);
            match stance {
                Some(Stance::Quarantined) => {
                    judge(Order::Pin).await?;
                    return Ok(None);
                }
                None => judge(Order::Release).await?,
                Some(Stance::Cordoned | Stance::Draining) => {}
            }
        }
        let at = self.roster.clock().now();
        let note = stance.map(|stance| Note { stance, reason, at });
        // Notes are plain data; they cannot fail to be JSON.
        let body = note.as_ref().and_then(|note| Json::of(note).ok());
        self.roster.note(node, body).await?;
        // That a node is kept out is judged rather than noted.
        Ok(note.filter(|note| note.stance != Stance::Quarantined))
    }
}
