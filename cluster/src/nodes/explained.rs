//! Why agents are where they are, what would become of them, and which should move.
//!
//! What would happen if a node died is worked out by the function that decides it when one
//! does, on the same rows and lots: it comes true unless something changes before.

use regrow_runtime::ids::AgentId;
use regrow_runtime::json::Json;
use regrow_runtime::registry::{Life, Standing};
use serde::Serialize;

use super::Nodes;
use crate::agents::{AgentError, Known};
use crate::entry::Entry;
use crate::placement::{Decision, plan};
use crate::placing::{living, request};
use crate::reconcile::understood;

/// Moves of one plan: each is a commit, and a restart of an agent.
const MOVES_MAX: usize = 1_000;

/// Why an agent is where it is, and what would become of it.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The agent.
    pub agent: Known,
    /// In words.
    pub why: String,
    /// The decision that brought it there, with all its terms, as it was kept then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Json>,
    /// What would be decided if its node died now, in words.
    pub if_its_node_died: String,
    /// The same with all its terms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what_if: Option<Decision>,
}

/// What would become of a node's agents if it died now.
#[derive(Clone, Debug, Serialize)]
pub struct Loss {
    /// The node.
    pub node: String,
    /// Its agents, by name.
    pub agents: Vec<Lost>,
}

/// What would become of one agent.
#[derive(Clone, Debug, Serialize)]
pub struct Lost {
    /// Which.
    pub agent: AgentId,
    /// Where it would go; nowhere if it would wait, or be parked.
    pub goes_to: Option<String>,
    /// Why.
    pub because: String,
    /// The decision with its terms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
}

/// A move that evens out.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    /// Which agent.
    pub agent: AgentId,
    /// From this node,
    pub from: String,
    /// to this one.
    pub to: String,
    /// Why there.
    pub because: String,
}

impl Nodes {
    /// Why an agent is where it is, and where it would go if its node died.
    ///
    /// # Errors
    ///
    /// [`AgentError`]
    pub async fn explain(&self, here: &str, id: &AgentId) -> Result<Explanation, AgentError> {
        let agent = self.agents.show(id).await?;
        let standing = self.roster.read().await?;
        let decision = self.roster.decision(id).await?;
        let here = (self.roster.life()?, here);
        let entry = &agent.entry;
        let why = match (&agent.node, &entry.placed) {
            (Some(node), Some(placed)) => format!(
                "it is on {node} since {} ({}): {}",
                placed.at, placed.reason, placed.because
            ),
            _ if !entry.wanted => "it is stopped".to_owned(),
            (None, _) => match &entry.parked {
                Some(parked) => format!("it is parked: {parked}"),
                None if let Some(to) = &entry.assigned => {
                    format!("{} is about to take it: {}", to.to, to.because)
                }
                None => {
                    let decided = self.placer.decide(here, &standing);
                    let mine = decided.into_iter().find(|it| it.id == *id);
                    mine.map_or_else(
                        || "it is about to be placed".to_owned(),
                        |mine| mine.decision.explain(),
                    )
                }
            },
            (Some(node), None) => format!("it is on {node}"),
        };
        let lost = match &agent.node {
            Some(node) => self.lost(here, &standing, node),
            None => Vec::new(),
        };
        let lost = lost.into_iter().find(|lost| lost.agent == *id);
        let if_its_node_died = match &lost {
            Some(lost) => match &lost.goes_to {
                Some(node) => format!("{node} would take it: {}", lost.because),
                None => lost.because.clone(),
            },
            None if entry.is_to_run() => "nothing: it has no node".to_owned(),
            None => "nothing: it is not to run".to_owned(),
        };
        Ok(Explanation {
            // Of an agent that is nowhere the last decision explains nothing.
            decision: decision.filter(|_| agent.node.is_some()),
            agent,
            why,
            if_its_node_died,
            what_if: lost.and_then(|lost| lost.decision),
        })
    }

    /// What would become of all agents of a node if it died now.
    ///
    /// # Errors
    ///
    /// [`AgentError::NoSuchNode`], [`AgentError::Store`]
    pub async fn if_lost(&self, here: &str, node: &str) -> Result<Loss, AgentError> {
        let standing = self.roster.read().await?;
        let here = (self.roster.life()?, here);
        let alive = living(here, &standing);
        if !alive.contains_key(node) {
            let alive: Vec<String> = alive.into_keys().collect();
            return Err(AgentError::NoSuchNode {
                to: node.to_owned(),
                alive: alive.join(", "),
            });
        }
        Ok(Loss {
            node: node.to_owned(),
            agents: self.lost(here, &standing, node),
        })
    }

    fn lost(&self, here: (Life, &str), standing: &Standing, node: &str) -> Vec<Lost> {
        let mut left = standing.clone();
        let Some(life) = living(here, standing).get(node).copied() else {
            return Vec::new();
        };
        left.lives.remove(&life);
        let now = self.roster.clock().now();
        // One that crashes too often is parked by the loss, and stands in nobody's way.
        let parked: Vec<(AgentId, Entry)> = (left.agents.values())
            .filter(|row| row.owner == Some(life))
            .filter_map(|row| Some((row.id.clone(), understood(row)?)))
            .filter(|(_, entry)| entry.is_to_run())
            .filter(|(_, entry)| entry.clone().count_restart(now).is_err())
            .collect();
        let decided = self.placer.decide(here, &left).into_iter();
        let of_node = decided.filter(|it| it.lost == Some(life));
        let lost = of_node.map(|it| {
            let (agent, decision) = (it.id, it.decision);
            if let Some((_, entry)) = parked.iter().find(|(id, _)| *id == agent) {
                let allowed = entry.spec.intensity.restarts_max;
                return Lost {
                    agent,
                    goes_to: None,
                    because: format!("it would be parked: {allowed} restarts are allowed"),
                    decision: None,
                };
            }
            let goes_to = decision.outcome.as_ref().ok().map(ToString::to_string);
            Lost {
                because: match &decision.outcome {
                    Ok(_) => decision.because(),
                    Err(reason) => format!("it would wait: {reason}"),
                },
                agent,
                goes_to,
                decision: Some(decision.kept()),
            }
        });
        lost.collect()
    }

    /// Moves agents that may not be where they are, and evens the rest out, by the scores by
    /// which agents are placed, and as few as that takes; returns what was asked for. With
    /// `dry_run` nothing is.
    ///
    /// # Errors
    ///
    /// [`AgentError`]; some of it may have been asked for.
    pub async fn rebalance(&self, here: &str, dry_run: bool) -> Result<Vec<Planned>, AgentError> {
        let standing = self.roster.read().await?;
        let here = (self.roster.life()?, here);
        let names: Vec<(String, Life)> = living(here, &standing).into_iter().collect();
        let name = |life: Life| names.iter().find(|(_, other)| *other == life);
        // Those that move already, or are not to run, stay out of it.
        let entries = standing.agents.values().filter_map(|row| {
            let entry = understood(row)?;
            let (node, _) = name(row.owner?)?;
            let stays = entry.is_to_run() && entry.move_to.is_none();
            stays.then_some((row, entry, node.as_str()))
        });
        let entries: Vec<_> = entries.collect();
        let requests = entries.iter().map(|(row, entry, node)| {
            let request = request(&row.id, None, entry);
            ((*node).into(), request)
        });
        let mut board = self.placer.board(here, &standing);
        let moves = plan::rebalance(requests, &mut board, MOVES_MAX);
        let mut planned = Vec::new();
        for step in moves {
            let (because, to) = (step.decision.because(), step.to.to_string());
            if !dry_run {
                let decision = Json::of(&step.decision.kept()).ok();
                self.agents
                    .move_to(&step.agent, &to, "rebalance", decision)
                    .await?;
            }
            planned.push(Planned {
                agent: step.agent,
                from: step.from.to_string(),
                to,
                because,
            });
        }
        Ok(planned)
    }
}
