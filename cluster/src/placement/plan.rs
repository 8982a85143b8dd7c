//! Levelling the cluster: which agents should move (pure).
//!
//! A plan is a list of moves, each with the decision behind it. A move that comes to nothing
//! leaves its agent where it is, and the next plan sees it again.

use std::collections::{BTreeMap, VecDeque};

use regrow_runtime::ids::AgentId;
use serde::Serialize;

use super::{AGENTS_MAX, Board, Decision, NodeFacts, Request, requirements};
use crate::member::NodeName;

/// One move of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Move {
    /// Which agent.
    pub agent: AgentId,
    /// Where it is.
    pub from: NodeName,
    /// Where it goes.
    pub to: NodeName,
    /// Why there.
    pub decision: Decision,
}

/// Plans to level the cluster with at most `moves_max` moves.
///
/// First go those that may not be where they are. Then, from whoever is fullest for its size
/// to the best of those that are emptier, while that makes the two more equal by more than one
/// agent. Each agent moves at most once. A plan for a level cluster is empty, so planning again
/// and again comes to rest.
pub fn rebalance<'a>(
    agents: impl IntoIterator<Item = (NodeName, Request<'a>)>,
    board: &mut Board<'_>,
    moves_max: usize,
) -> Vec<Move> {
    let mut on: BTreeMap<NodeName, VecDeque<Request<'a>>> = BTreeMap::new();
    let mut moves = Vec::new();
    for (node, request) in agents {
        let misplaced = board.nodes.get(&node).is_some_and(|facts| {
            let fit = requirements::admit(request.placement, &node, &facts.labels, &facts.taints);
            !facts.silent && fit.is_err()
        });
        let step = match misplaced && moves.len() < moves_max {
            true => attempt(board, &node, &request, |_| true),
            false => None,
        };
        match step {
            Some(step) => moves.push(step),
            None => on.entry(node).or_default().push_back(request),
        }
    }
    while moves.len() < moves_max {
        let fullest = on
            .iter()
            .filter(|(_, agents)| !agents.is_empty())
            .filter_map(|(name, _)| Some((filled(board.nodes.get(name)?, 0), name.clone())))
            .max_by(|one, other| one.0.total_cmp(&other.0).then_with(|| other.1.cmp(&one.1)));
        let Some((level, from)) = fullest else {
            break;
        };
        let Some(request) = on.get_mut(&from).and_then(VecDeque::pop_front) else {
            break;
        };
        // Only nodes that stay emptier than this one is now are an improvement. An agent that
        // fits on none of them is passed over for good.
        moves.extend(attempt(board, &from, &request, |target| {
            filled(target, 1) < level
        }));
    }
    moves
}

/// Moves an agent to the best node among those that are `eligible`, if there is one.
fn attempt(
    board: &mut Board<'_>,
    from: &NodeName,
    request: &Request<'_>,
    eligible: impl Fn(&NodeFacts) -> bool,
) -> Option<Move> {
    let mut others = board.clone();
    others
        .nodes
        .retain(|name, facts| name != from && eligible(facts));
    // One node decides here, and knows all that it did: the best of all heaps nothing up.
    let decision = others.choose(request, usize::MAX);
    let to = decision.outcome.clone().ok()?;
    board.shift(request.group(), from, &to);
    Some(Move {
        agent: request.agent.clone(),
        from: from.clone(),
        to,
        decision,
    })
}

/// How full a node is for its size and its share, with this many more.
fn filled(facts: &NodeFacts, more: usize) -> f64 {
    let share = facts.share_permille.clamp(1, 1_000) as f64 / 1_000.0;
    let bound = facts.agents_max.unwrap_or(AGENTS_MAX).max(1) as f64;
    (facts.agents + more) as f64 / (bound * share)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regrow_runtime::agent_spec::Placement;

    use super::*;
    use crate::placement::Policies;

    fn nodes(agents: &[(usize, usize)]) -> BTreeMap<NodeName, NodeFacts> {
        let facts = agents.iter().enumerate().map(|(n, (agents, max))| {
            let facts = NodeFacts {
                agents: *agents,
                agents_max: Some(*max),
                ..NodeFacts::idle()
            };
            (NodeName::from(format!("n{n}").as_str()), facts)
        });
        facts.collect()
    }

    fn named(node: &NodeName, count: usize) -> Vec<AgentId> {
        (0..count)
            .map(|n| AgentId::new(format!("{node}-{n}")))
            .collect()
    }

    fn request<'a>(agent: &'a AgentId, placement: &'a Placement) -> Request<'a> {
        Request {
            agent,
            placement,
            role: "worker",
            asked_of: None,
            seed: 3,
        }
    }

    #[test]
    fn who_may_not_be_where_he_is_goes_first_and_no_more_go_than_are_needed() {
        let policies = Policies::default();
        let mut all = nodes(&[(3, 10), (9, 10), (0, 10)]);
        let zone = |value: &str| [("zone".to_owned(), value.to_owned())].into();
        all.get_mut(&"n2".into()).expect("there").labels = zone("a");
        let (free, bound) = (
            Placement::default(),
            Placement {
                required: zone("a"),
                ..Placement::default()
            },
        );
        let (first, second) = (NodeName::from("n0"), NodeName::from("n1"));
        let (of_first, of_second) = (named(&first, 3), named(&second, 9));
        let on_first = of_first.iter().enumerate().map(|(n, agent)| {
            let placement = if n == 2 { &bound } else { &free };
            (first.clone(), request(agent, placement))
        });
        let on_second = of_second
            .iter()
            .map(|agent| (second.clone(), request(agent, &free)));
        let mut board = Board {
            policies: &policies,
            nodes: all,
        };
        let moves = rebalance(on_first.chain(on_second), &mut board, 100);
        assert_eq!(
            (&moves[0].agent, &moves[0].to),
            (&of_first[2], &"n2".into())
        );
        // 2, 9 and 1 become 4, 4 and 4: five more, all from where there are too many.
        assert_eq!(moves.len(), 6);
        assert!(moves[1..].iter().all(|step| step.from == second));
        assert!(board.nodes.values().all(|facts| facts.agents == 4));
    }

    proptest! {
        #[test]
        fn levelling_comes_to_rest_and_makes_nobody_fuller_than_the_fullest_was(
            sizes in prop::collection::vec((0_usize..12, 1_usize..20), 1..6),
            moves_max in 1_usize..8,
        ) {
            let sizes: Vec<(usize, usize)> =
                sizes.into_iter().map(|(agents, max)| (agents.min(max), max)).collect();
            let (policies, placement) = (Policies::default(), Placement::default());
            let mut board = Board { policies: &policies, nodes: nodes(&sizes) };
            let mut on: BTreeMap<AgentId, NodeName> = board
                .nodes
                .iter()
                .flat_map(|(node, facts)| {
                    named(node, facts.agents).into_iter().map(|agent| (agent, node.clone()))
                })
                .collect();
            let fullest = board.nodes.values().map(|facts| filled(facts, 0)).fold(0.0, f64::max);
            let mut rounds = 0;
            loop {
                let agents = on.clone();
                let requests = agents
                    .iter()
                    .map(|(agent, node)| (node.clone(), request(agent, &placement)));
                let moves = rebalance(requests, &mut board, moves_max);
                prop_assert!(moves.len() <= moves_max);
                if moves.is_empty() {
                    break;
                }
                for step in moves {
                    let before = on.insert(step.agent.clone(), step.to.clone());
                    prop_assert_eq!(before, Some(step.from.clone()));
                }
                rounds += 1;
                prop_assert!(rounds < 200, "it never comes to rest");
                let nodes = board.nodes.values();
                prop_assert!(nodes.clone().all(|facts| filled(facts, 0) <= fullest + 1e-9));
            }
            // Nobody is left whose move would make two nodes more equal.
            for from in board.nodes.values().filter(|facts| 0 < facts.agents) {
                let room = board.nodes.values().filter(|it| Some(it.agents) < it.agents_max);
                for to in room {
                    prop_assert!(filled(from, 0) <= filled(to, 1) + 1e-9);
                }
            }
        }
    }
}
