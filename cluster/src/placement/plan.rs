//! Moving many agents: drain a node, or level the cluster (pure).
//!
//! A plan is a list of hand-offs, each with the decision behind it, made from facts that are
//! some intervals old. [`Progress`] carries it out a few at a time; a hand-off that comes to
//! nothing leaves its agent where it is and is reported, and the next plan sees it again.
//! Cordoning is no plan: it is a fact about a node ([`NodeFacts::cordoned`]) that keeps new
//! agents away and moves none.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::Rng;
use regrow_runtime::ids::AgentId;
use serde::Serialize;

use super::{Decision, NoPlace, NodeFacts, Policy, Request, Reservations, place};
use crate::local_time::LocalTime;
use crate::member::NodeName;

/// One hand-off of a plan.
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

/// What to move, and what cannot be.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    /// In this order.
    pub moves: Vec<Move>,
    /// Agents that have nowhere to go. A drained node keeps them until that changes.
    pub stuck: Vec<(AgentId, NoPlace)>,
}

/// Plans to empty a node. The node is cordoned first, so that it is nobody's target.
pub fn drain<'a>(
    node: &NodeName,
    agents: impl IntoIterator<Item = Request<'a>>,
    policy: &Policy,
    nodes: &BTreeMap<NodeName, NodeFacts>,
    now: LocalTime,
    rng: &mut impl Rng,
) -> Plan {
    let mut facts = nodes.clone();
    if let Some(drained) = facts.get_mut(node) {
        drained.cordoned = true;
    }
    let mut plan = Plan::default();
    for request in agents {
        plan.add(node, &request, policy, &mut facts, now, rng);
    }
    plan
}

/// Plans to level the cluster with at most `moves_max` hand-offs: from whoever is fullest for
/// its size to whoever is emptiest, while that makes the two more equal by more than one
/// agent. A plan for a level cluster is empty, so planning again and again comes to rest.
pub fn rebalance<'a>(
    agents: impl IntoIterator<Item = (NodeName, Request<'a>)>,
    policy: &Policy,
    nodes: &BTreeMap<NodeName, NodeFacts>,
    moves_max: usize,
    now: LocalTime,
    rng: &mut impl Rng,
) -> Plan {
    let mut facts = nodes.clone();
    let mut on: BTreeMap<NodeName, VecDeque<Request<'a>>> = BTreeMap::new();
    for (node, request) in agents {
        on.entry(node).or_default().push_back(request);
    }
    let mut plan = Plan::default();
    // Agents that fit nowhere else are passed over once each.
    let mut tries: usize = on.values().map(VecDeque::len).sum();
    while plan.moves.len() < moves_max && 0 < tries {
        tries -= 1;
        let mut levels: Vec<(f64, NodeName)> = facts
            .iter()
            .map(|(name, facts)| (filled(facts, 0), name.clone()))
            .collect();
        levels.sort_by(|one, other| one.0.total_cmp(&other.0).then_with(|| one.1.cmp(&other.1)));
        let fullest = levels.iter().rev().map(|(_, name)| name);
        let Some(from) = fullest
            .into_iter()
            .find(|name| on.get(name).is_some_and(|a| !a.is_empty()))
        else {
            break;
        };
        let Some(request) = on.get_mut(from).and_then(VecDeque::pop_front) else {
            break;
        };
        let after = filled(&facts[from], 0);
        // Only nodes that stay emptier than this one is now are an improvement.
        let mut emptier = facts.clone();
        emptier.retain(|_, target| filled(target, 1) < after);
        let mut attempt = Plan::default();
        attempt.add(from, &request, policy, &mut emptier, now, rng);
        for step in attempt.moves {
            shift(&mut facts, &step, &request);
            plan.moves.push(step);
        }
    }
    plan
}

impl Plan {
    fn add(
        &mut self,
        from: &NodeName,
        request: &Request<'_>,
        policy: &Policy,
        facts: &mut BTreeMap<NodeName, NodeFacts>,
        now: LocalTime,
        rng: &mut impl Rng,
    ) {
        let nothing = Reservations::new(std::time::Duration::ZERO);
        let decision = place(policy, request, facts, &nothing, now, rng);
        match decision.outcome.clone() {
            Ok(to) => {
                let step = Move {
                    agent: request.agent.clone(),
                    from: from.clone(),
                    to,
                    decision,
                };
                shift(facts, &step, request);
                self.moves.push(step);
            }
            Err(reason) => self.stuck.push((request.agent.clone(), reason)),
        }
    }
}

/// What the facts will be after a move.
fn shift(facts: &mut BTreeMap<NodeName, NodeFacts>, step: &Move, request: &Request<'_>) {
    if let Some(from) = facts.get_mut(&step.from) {
        from.agents = from.agents.saturating_sub(1);
        from.scr.agents = from.scr.agents.saturating_sub(1);
        if let Some(count) = from.groups.get_mut(request.group) {
            *count = count.saturating_sub(1);
        }
    }
    if let Some(to) = facts.get_mut(&step.to) {
        to.agents += 1;
        to.scr.agents += 1;
        *to.groups.entry(request.group.to_owned()).or_default() += 1;
    }
}

/// How full a node is for its size and its share, with this many more.
fn filled(facts: &NodeFacts, more: usize) -> f64 {
    let share = facts.share_permille.clamp(1, 1_000) as f64 / 1_000.0;
    (facts.agents + more) as f64 / (facts.agents_max.unwrap_or(1_000) as f64 * share)
}

/// A plan on its way: which hand-offs to begin now, and how they ended.
#[derive(Clone, Debug)]
pub struct Progress {
    waiting: VecDeque<Move>,
    under_way: BTreeSet<AgentId>,
    at_once_max: usize,
    moved: usize,
    failed: Vec<AgentId>,
}

impl Progress {
    /// Begins with at most `at_once_max` hand-offs at a time.
    #[must_use]
    pub fn new(plan: Plan, at_once_max: usize) -> Self {
        Self {
            waiting: plan.moves.into(),
            under_way: BTreeSet::new(),
            at_once_max: at_once_max.max(1),
            moved: 0,
            failed: Vec::new(),
        }
    }

    /// The hand-offs to begin now. Each is to be reported by [`Progress::ended`].
    pub fn begin(&mut self) -> Vec<Move> {
        let free = self.at_once_max.saturating_sub(self.under_way.len());
        let begun: Vec<Move> = self.waiting.drain(..free.min(self.waiting.len())).collect();
        self.under_way
            .extend(begun.iter().map(|step| step.agent.clone()));
        begun
    }

    /// A hand-off ended. One that was not begun, or ended already, changes nothing.
    pub fn ended(&mut self, agent: &AgentId, moved: bool) {
        if self.under_way.remove(agent) {
            if moved {
                self.moved += 1;
            } else {
                self.failed.push(agent.clone());
            }
        }
    }

    /// Begins no more; what is under way goes on.
    pub fn abort(&mut self) {
        self.waiting.clear();
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_empty()
    }

    /// How many agents moved, and which stayed.
    #[must_use]
    pub fn outcome(&self) -> (usize, &[AgentId]) {
        (self.moved, &self.failed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus;

    use super::*;
    use regrow_runtime::agent_spec::Placement;

    fn rng() -> Xoshiro256PlusPlus {
        Xoshiro256PlusPlus::seed_from_u64(3)
    }

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

    #[test]
    fn a_drained_node_is_emptied_as_far_as_others_have_room() {
        let all = nodes(&[(5, 10), (2, 4), (3, 4)]);
        let (node, placement) = (NodeName::from("n0"), Placement::default());
        let agents = named(&node, 5);
        let requests = agents.iter().map(|agent| Request {
            agent,
            placement: &placement,
            group: "worker",
            class: None,
            here: &node,
        });
        let plan = drain(
            &node,
            requests,
            &Policy::Balanced,
            &all,
            LocalTime(0),
            &mut rng(),
        );
        assert_eq!(plan.moves.len(), 3);
        assert!(
            plan.moves
                .iter()
                .all(|step| step.from == node && step.to != node)
        );
        let stuck = [
            ("n0-3", NoPlace::ClusterConstrained),
            ("n0-4", NoPlace::ClusterConstrained),
        ];
        assert_eq!(
            plan.stuck,
            stuck.map(|(agent, why)| (AgentId::new(agent), why))
        );
    }

    #[test]
    fn a_plan_goes_on_a_few_at_a_time_and_says_what_stayed() {
        let all = nodes(&[(3, 10), (0, 10)]);
        let (node, placement) = (NodeName::from("n0"), Placement::default());
        let agents = named(&node, 3);
        let requests = agents.iter().map(|agent| Request {
            agent,
            placement: &placement,
            group: "worker",
            class: None,
            here: &node,
        });
        let plan = drain(
            &node,
            requests,
            &Policy::Balanced,
            &all,
            LocalTime(0),
            &mut rng(),
        );
        let mut progress = Progress::new(plan, 2);
        assert_eq!(progress.begin().len(), 2);
        assert!(progress.begin().is_empty());
        progress.ended(&agents[0], true);
        progress.ended(&agents[0], false);
        progress.ended(&agents[1], false);
        assert_eq!(progress.begin().len(), 1);
        assert!(!progress.is_over());
        progress.ended(&agents[2], true);
        assert!(progress.is_over());
        assert_eq!(progress.outcome(), (2, &agents[1..2]));
    }

    proptest! {
        #[test]
        fn levelling_comes_to_rest_and_makes_nobody_fuller_than_the_fullest_was(
            sizes in prop::collection::vec((0_usize..12, 1_usize..20), 1..6),
            moves_max in 1_usize..8,
        ) {
            let sizes: Vec<(usize, usize)> =
                sizes.into_iter().map(|(agents, max)| (agents.min(max), max)).collect();
            let mut all = nodes(&sizes);
            let placement = Placement::default();
            let mut on: BTreeMap<AgentId, NodeName> = all
                .iter()
                .flat_map(|(node, facts)| named(node, facts.agents).into_iter().map(|a| (a, node.clone())))
                .collect();
            let fullest = all.values().map(|facts| filled(facts, 0)).fold(0.0, f64::max);
            let mut rounds = 0;
            loop {
                let agents = on.clone();
                let here = NodeName::from("n0");
                let requests = agents.iter().map(|(agent, node)| {
                    let request =
                        Request { agent, placement: &placement,
            group: "worker", class: None, here: &here };
                    (node.clone(), request)
                });
                let plan = rebalance(requests, &Policy::Balanced, &all, moves_max, LocalTime(0), &mut rng());
                prop_assert!(plan.moves.len() <= moves_max);
                if plan.moves.is_empty() {
                    break;
                }
                for step in plan.moves {
                    prop_assert_eq!(on.insert(step.agent.clone(), step.to.clone()), Some(step.from.clone()));
                    all.get_mut(&step.from).expect("known").agents -= 1;
                    all.get_mut(&step.to).expect("known").agents += 1;
                }
                rounds += 1;
                prop_assert!(rounds < 200, "it never comes to rest");
                prop_assert!(all.values().all(|facts| filled(facts, 0) <= fullest + 1e-9));
            }
            // Nobody is left whose move would make two nodes more equal.
            for from in all.values().filter(|facts| 0 < facts.agents) {
                for to in all.values().filter(|facts| Some(facts.agents) < facts.agents_max) {
                    prop_assert!(filled(from, 0) <= filled(to, 1) + 1e-9);
                }
            }
        }
    }
}
