//! Scores worked out by hand from the formula.

use regrow_runtime::agent_spec::Placement;
use regrow_runtime::ids::AgentId;

use super::*;

fn scored(weights: &Weights, class: Option<&str>, here: &str, figures: Figures) -> Entry {
    let facts = NodeFacts {
        scr: figures,
        ..NodeFacts::idle()
    };
    entry(weights, class, Some(here), &"b".into(), &facts)
}

fn busy() -> Figures {
    Figures {
        queue_size: 7,
        queue_max_size: 30,
        queue_growth_per_sec: 1.25,
        agents: 4,
        agent_growth_per_sec: 0.5,
        unhealthy: 1,
        recent_down_events: 2,
        ..Figures::default()
    }
}

#[test]
fn an_idle_node_scores_a_hundred_and_the_one_that_was_asked_two_more() {
    let weights = Weights::default();
    assert_eq!(scored(&weights, None, "a", Figures::default()).score, 100.0);
    assert_eq!(scored(&weights, None, "b", Figures::default()).score, 102.0);
}

#[test]
fn every_term_counts_and_the_sum_is_rounded_to_two_decimals() {
    // 100 - 7 - 7/30 * 30 - 12.5 - 2.5 - 4 - 15 - 10 = 42
    assert_eq!(scored(&Weights::default(), None, "a", busy()).score, 42.0);
    // 7/31 * 30 = 6.774193...: 42.2258... without the rounding.
    let odd = Figures {
        queue_max_size: 31,
        ..busy()
    };
    assert_eq!(scored(&Weights::default(), None, "a", odd).score, 42.23);
}

#[test]
fn shrinking_brings_nothing() {
    let shrinking = Figures {
        queue_growth_per_sec: -3.0,
        agent_growth_per_sec: -1.0,
        ..Figures::default()
    };
    assert_eq!(
        scored(&Weights::default(), None, "a", shrinking).score,
        100.0
    );
}

#[test]
fn an_unreachable_node_is_scored_as_a_thousand_of_everything() {
    // 100 - 1000 - 30 - 1000 - 15000 - 40
    let entry = scored(&Weights::default(), None, "a", Figures::unreachable());
    assert_eq!(entry.score, -16_970.0);
    assert_eq!(entry.queue_utilization, 1.0);
}

#[test]
fn bounds_are_reached_when_they_are_met() {
    let weights = Weights {
        max_agents_per_node: Some(4),
        max_queue_per_node: Some(8),
        ..Weights::default()
    };
    let entry = scored(&weights, None, "a", busy());
    assert!(entry.agent_capacity_exceeded && !entry.queue_capacity_exceeded && entry.constrained);
    assert_eq!(entry.score, 42.0 - 500.0);
}

#[test]
fn a_queue_without_a_bound_in_its_figures_counts_as_one_of_one() {
    let figures = Figures {
        queue_size: 3,
        queue_max_size: 0,
        ..Figures::default()
    };
    assert_eq!(figures.utilization(), 1.0);
    assert_eq!(
        scored(&Weights::default(), None, "a", figures).score,
        100.0 - 3.0 - 30.0
    );
}

#[test]
fn a_class_of_work_that_is_wished_for_costs_a_hundred_and_one_that_is_required_excludes() {
    let able = |names: &[&str]| Figures {
        capabilities: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Figures::default()
    };
    let mut weights = Weights::default();
    assert_eq!(
        scored(&weights, Some("cpu"), "a", able(&[])).score,
        100.0,
        "not switched on"
    );
    weights.workload_routing = true;
    assert_eq!(
        scored(&weights, Some("cpu"), "a", able(&["cpu"])).score,
        110.0
    );
    assert_eq!(scored(&weights, Some("cpu"), "a", able(&["io"])).score, 0.0);
    assert_eq!(
        scored(&weights, Some("unheard"), "a", able(&[])).score,
        100.0
    );
    let nodes = |names: &[&str]| {
        let facts = NodeFacts {
            scr: able(names),
            ..NodeFacts::idle()
        };
        BTreeMap::from([(NodeName::from("b"), facts)])
    };
    let agent = AgentId::new("x");
    let request = Request {
        agent: &agent,
        placement: &Placement {
            class: Some("cpu".to_owned()),
            ..Placement::default()
        },
        role: "worker",
        asked_of: Some("a"),
        seed: 0,
    };
    // Another node's capabilities are seen, and without `strict` it is merely worse.
    assert_eq!(
        place(&weights, &request, &nodes(&["io"])).outcome,
        Ok("b".into())
    );
    weights.strict = true;
    assert_eq!(
        scored(&weights, Some("cpu"), "a", able(&["io"])).score,
        -1_900.0
    );
    let refused = place(&weights, &request, &nodes(&["io"])).outcome;
    assert_eq!(refused, Err(NoPlace::ClusterConstrained));
    assert_eq!(
        place(&weights, &request, &nodes(&["cpu"])).outcome,
        Ok("b".into())
    );
}

#[test]
fn the_best_that_may_is_picked_and_otherwise_the_error_says_what_was_in_the_way() {
    let weights = Weights {
        max_agents_per_node: Some(10),
        ..Weights::default()
    };
    let agent = AgentId::new("x");
    let request = Request {
        agent: &agent,
        placement: &Placement::default(),
        role: "worker",
        asked_of: Some("c"),
        seed: 0,
    };
    let full = Figures {
        queue_size: 98,
        queue_max_size: 100,
        ..Figures::default()
    };
    let crowded = Figures {
        agents: 10,
        ..Figures::default()
    };
    let of = |figures: Figures, quarantined: bool| NodeFacts {
        scr: figures,
        quarantined,
        ..NodeFacts::idle()
    };
    let pick = |nodes: &[(&str, NodeFacts)]| {
        let nodes = nodes
            .iter()
            .map(|(name, facts)| (NodeName::from(*name), facts.clone()));
        place(&weights, &request, &nodes.collect()).outcome
    };
    let idle = of(Figures::default(), false);
    assert_eq!(
        pick(&[("a", idle.clone()), ("b", idle.clone())]),
        Ok("a".into()),
        "of equals"
    );
    assert_eq!(
        pick(&[("a", idle.clone()), ("c", idle.clone())]),
        Ok("c".into()),
        "this node"
    );
    assert_eq!(
        pick(&[("a", of(full.clone(), false)), ("b", of(busy(), false))]),
        Ok("b".into())
    );
    assert_eq!(pick(&[]), Err(NoPlace::NoHealthyNodes));
    assert_eq!(
        pick(&[("a", of(Figures::default(), true))]),
        Err(NoPlace::NoHealthyNodes)
    );
    let both = [
        ("a", of(full.clone(), false)),
        ("b", of(Figures::default(), true)),
    ];
    assert_eq!(pick(&both), Err(NoPlace::ClusterBackpressured));
    let both = [("a", of(full, false)), ("b", of(crowded, false))];
    assert_eq!(pick(&both), Err(NoPlace::ClusterConstrained));
}

#[test]
fn the_cluster_takes_nothing_in_when_it_is_full_on_average_or_one_node_is() {
    let of = |size| Figures {
        queue_size: size,
        queue_max_size: 100,
        ..Figures::default()
    };
    let weights = Weights::default();
    let full = |sizes: &[u64]| {
        let figures: Vec<Figures> = sizes.iter().map(|size| of(*size)).collect();
        is_backpressured(&weights, figures.iter())
    };
    assert!(!full(&[]) && !full(&[84, 85]));
    assert!(full(&[85, 85]) && full(&[0, 0, 98]));
}

#[test]
fn halves_of_a_hundredth_go_away_from_zero_and_other_numbers_by_their_exact_value() {
    let cases = [
        (0.125, 0.13),
        (-0.125, -0.13),
        (0.375, 0.38),
        (1.115, 1.11),
        (1.005, 1.0),
        (2.675, 2.67),
    ];
    for (value, rounded) in cases {
        assert_eq!(round(value), rounded, "{value}");
    }
}
