//! What operators ask of nodes: take no more agents, give all away, go on; and who is there.
//!
//! What was asked of a node is noted for all nodes to see, under its name: it outlives the
//! node's restarts, and whoever asks. The node itself gives its agents away; of one that
//! cannot, the others take them when its life has run out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::AgentId;
use regrow_runtime::json::Json;
use regrow_runtime::registry::{Life, Registry, Standing};
use regrow_runtime::store::StoreError;
use serde::{Deserialize, Serialize};

use crate::agents::{AgentError, Agents};
use crate::entry::Entry;
use crate::exchange::Exchange;
use crate::member::NodeName;
use crate::placing::place;
use crate::reconcile::{Me, Verdict, understood};

/// What a node is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stance {
    /// It keeps its agents and takes no more.
    Cordoned,
    /// It takes none and gives away those that it has.
    Draining,
    /// The same, because it is not trusted: until somebody releases it.
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
    /// How doubtful it is, as silence in mean intervals between heartbeats.
    pub phi: Option<f64>,
    /// For how long it has not been heard.
    pub silent_ms: Option<u64>,
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
}

/// Why an agent is where it is, and what would become of it.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The agent.
    pub agent: crate::agents::Known,
    /// In words.
    pub why: String,
    /// What would be decided if its node died now.
    pub if_its_node_died: String,
}

/// A move that evens out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// Which agent.
    pub agent: AgentId,
    /// From this node,
    pub from: String,
    /// to this one.
    pub to: String,
}

/// Asks things of nodes. Cheap to clone.
#[derive(Clone)]
pub struct Nodes {
    registry: Registry,
    agents: Agents,
    heard: HeardOf,
    exchange: Exchange,
}

impl Nodes {
    /// Asks through this node's registry; `heard` is what it hears through gossip, and
    /// `exchange` knows whom it is connected to.
    #[must_use]
    pub fn new(registry: Registry, heard: HeardOf, exchange: Exchange) -> Self {
        Self {
            agents: Agents::new(registry.clone()),
            registry,
            heard,
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
        let (standing, me) = (self.registry.read().await?, self.registry.life()?);
        let heard = self.heard.all();
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
                heard: heard.get(&name).cloned(),
                session: SessionView::of(&self.exchange, &name),
                name: name.clone(),
            };
            // Of two lives of one name the later one counts.
            nodes.insert(name, view);
        }
        let sessions = self.exchange.sessions();
        let connected: Vec<String> = sessions.borrow().keys().map(ToString::to_string).collect();
        for name in names.chain(heard.keys().cloned()).chain(connected) {
            nodes.entry(name.clone()).or_insert_with(|| NodeView {
                life: None,
                lease_left_ms: None,
                here: false,
                agents: 0,
                note: note_of(&standing, &name),
                heard: heard.get(&name).cloned(),
                session: SessionView::of(&self.exchange, &name),
                name,
            });
        }
        Ok(nodes.into_values().collect())
    }

    /// Asks a node to do something, from now on and over its restarts; `None` releases it.
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
        let at = self.registry.clock().now();
        let note = stance.map(|stance| Note { stance, reason, at });
        // Notes are plain data; they cannot fail to be JSON.
        let body = note.as_ref().and_then(|note| Json::of(note).ok());
        self.registry.note(node, body).await?;
        Ok(note)
    }

    /// Why an agent is where it is, and where it would go if its node died.
    ///
    /// # Errors
    ///
    /// [`AgentError`]
    pub async fn explain(&self, here: &str, id: &AgentId) -> Result<Explanation, AgentError> {
        let agent = self.agents.show(id).await?;
        let mut standing = self.registry.read().await?;
        let entry = agent.entry.clone();
        let why = match (&agent.node, &entry.placed) {
            (Some(node), Some(placed)) => {
                format!(
                    "it is on {node} since {} ({}): {}",
                    placed.at, placed.reason, placed.because
                )
            }
            _ if !entry.wanted => "it is stopped".to_owned(),
            (None, _) => match &entry.parked {
                Some(parked) => format!("it is parked: {parked}"),
                None => self.would(here, &standing, id, &entry),
            },
            (Some(node), None) => format!("it is on {node}"),
        };
        let owner = standing.agents.get(id).and_then(|row| row.owner);
        if let Some(owner) = owner {
            standing.lives.remove(&owner);
        }
        let if_its_node_died = match entry.is_to_run() {
            true => self.would(here, &standing, id, &entry),
            false => "nothing: it is not to run".to_owned(),
        };
        Ok(Explanation {
            agent,
            why,
            if_its_node_died,
        })
    }

    fn would(&self, here: &str, standing: &Standing, id: &AgentId, entry: &Entry) -> String {
        let own = self.registry.life().ok();
        for (life, node) in &standing.lives {
            let name = if Some(*life) == own {
                here
            } else {
                &*node.node
            };
            let me = Me {
                life: *life,
                name: name.to_owned(),
                draining: false,
            };
            match place(&me, standing, id, entry) {
                Verdict::Here(because) => return format!("{name} would take it: {because}"),
                Verdict::Nowhere(why) => return format!("it would wait: {why}"),
                Verdict::Elsewhere => {}
            }
        }
        "it would wait: no node is alive".to_owned()
    }

    /// Moves agents from nodes with many to nodes with few, until no two differ by more than
    /// one; returns what was asked for. With `dry_run` nothing is.
    ///
    /// # Errors
    ///
    /// [`AgentError`]; some of it may have been asked for.
    pub async fn rebalance(&self, here: &str, dry_run: bool) -> Result<Vec<Planned>, AgentError> {
        let standing = self.registry.read().await?;
        let me = self.registry.life()?;
        let plan = even_out(&standing, |life| match life == me {
            true => here.to_owned(),
            false => standing.lives[&life].node.to_string(),
        });
        if !dry_run {
            for planned in &plan {
                self.agents
                    .hand_off(&planned.agent, &planned.to, "rebalance")
                    .await?;
            }
        }
        Ok(plan)
    }
}

/// Moves after which no two nodes that take agents differ by more than one agent (pure).
/// Agents that belong on one node, and those that move already, stay out of it.
fn even_out(standing: &Standing, name: impl Fn(Life) -> String) -> Vec<Planned> {
    let mut owned: BTreeMap<Life, Vec<AgentId>> = BTreeMap::new();
    for life in standing.lives.keys() {
        if note_of(standing, &name(*life)).is_none() {
            owned.insert(*life, Vec::new());
        }
    }
    let mut counts: BTreeMap<Life, usize> = owned.keys().map(|life| (*life, 0)).collect();
    for row in standing.agents.values() {
        let Some(entry) = understood(row) else {
            continue;
        };
        if let Some(count) = row.owner.and_then(|owner| counts.get_mut(&owner)) {
            *count += 1;
        }
        let free = entry.spec.placement.node.is_none() && entry.move_to.is_none();
        if free && let Some(here) = row.owner.and_then(|owner| owned.get_mut(&owner)) {
            here.push(row.id.clone());
        }
    }
    let mut plan = Vec::new();
    loop {
        let least = counts.iter().min_by_key(|(_, count)| **count);
        let most = counts
            .iter()
            .filter(|(life, _)| owned.get(life).is_some_and(|agents| !agents.is_empty()))
            .max_by_key(|(_, count)| **count);
        let (Some((to, few)), Some((from, many))) = (least, most) else {
            return plan;
        };
        if *many <= few + 1 {
            return plan;
        }
        let (to, from) = (*to, *from);
        let Some(agent) = owned.get_mut(&from).and_then(Vec::pop) else {
            return plan;
        };
        plan.push(Planned {
            agent,
            from: name(from),
            to: name(to),
        });
        *counts.entry(from).or_default() -= 1;
        *counts.entry(to).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use regrow_runtime::agent_spec::AgentSpec;
    use regrow_runtime::ids::Epoch;
    use regrow_runtime::registry::{AgentRow, LiveNode};
    use regrow_runtime::role::Role;

    use super::*;

    proptest! {
        #[test]
        fn afterwards_no_two_nodes_differ_by_more_than_one(
            owners in prop::collection::vec(1_u64..5, 0..40),
            cordoned in prop::option::of(1_u64..5),
        ) {
            let mut standing = Standing::default();
            for life in 1..5 {
                let node: Arc<str> = format!("n{life}").into();
                let left = Duration::from_secs(1);
                standing.lives.insert(Life(life), LiveNode { node, left });
            }
            if let Some(life) = cordoned {
                let note = Note { stance: Stance::Cordoned, reason: None, at: Timestamp(0) };
                standing.notes.insert(format!("n{life}"), Json::of(&note).expect("JSON"));
            }
            for (n, owner) in owners.iter().enumerate() {
                let id = AgentId::new(format!("a{n}"));
                let entry = Entry::new(AgentSpec::new(id.clone(), Role::Worker));
                let row = AgentRow {
                    id: id.clone(),
                    revision: 1,
                    epoch: Epoch(1),
                    owner: Some(Life(*owner)),
                    entry: Json::of(&entry).expect("JSON"),
                };
                standing.agents.insert(id, row);
            }
            let mut counts = [0_i64; 5];
            for owner in &owners {
                counts[usize::try_from(*owner).expect("small")] += 1;
            }
            for planned in even_out(&standing, |life| format!("n{}", life.0)) {
                let at = |name: &str| name[1..].parse::<usize>().expect("a number");
                counts[at(&planned.from)] -= 1;
                counts[at(&planned.to)] += 1;
            }
            let open = (1..5).filter(|life| Some(*life) != cordoned);
            let open: Vec<i64> =
                open.map(|life| counts[usize::try_from(life).expect("small")]).collect();
            let (most, least) = (open.iter().max(), open.iter().min());
            prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1));
        }
    }
}
