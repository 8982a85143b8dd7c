//! Who gets what, by the balanced policy.

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

use super::*;

fn rng() -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(7)
}

fn nodes(facts: &[(&str, NodeFacts)]) -> BTreeMap<NodeName, NodeFacts> {
    facts
        .iter()
        .map(|(name, facts)| (NodeName::from(*name), facts.clone()))
        .collect()
}

fn with_agents(agents: usize) -> NodeFacts {
    NodeFacts {
        agents,
        agents_max: Some(10),
        ..NodeFacts::idle()
    }
}

fn labelled(label: &str, value: &str) -> NodeFacts {
    NodeFacts {
        labels: [(label.to_owned(), value.to_owned())].into(),
        ..with_agents(0)
    }
}

fn none() -> Reservations {
    Reservations::new(Duration::from_secs(5))
}

fn choose(placement: &Placement, nodes: &BTreeMap<NodeName, NodeFacts>) -> Decision {
    let agent = AgentId::new("x");
    let here = NodeName::from("a");
    let request = Request {
        agent: &agent,
        placement,
        group: "planner",
        class: None,
        here: &here,
    };
    place(
        &Policy::Balanced,
        &request,
        nodes,
        &none(),
        LocalTime(0),
        &mut rng(),
    )
}

#[test]
fn of_two_nodes_the_emptier_is_chosen_and_the_decision_says_why() {
    let decision = choose(
        &Placement::default(),
        &nodes(&[("a", with_agents(4)), ("b", with_agents(1))]),
    );
    assert_eq!(decision.outcome, Ok("b".into()));
    let text = decision.explain();
    assert!(
        text.starts_with("x goes to b by policy balanced\n  a -50.00, filled -50.00"),
        "{text}"
    );
    assert!(text.ends_with("; chosen"), "{text}");
}

#[test]
fn required_labels_taints_cordons_quarantines_and_bounds_exclude() {
    let placement = Placement {
        required: [("zone".to_owned(), "1".to_owned())].into(),
        tolerates: vec!["old".to_owned()],
        ..Placement::default()
    };
    let zone = || labelled("zone", "1");
    let tainted = |taint: &str| NodeFacts {
        taints: [taint.to_owned()].into(),
        ..zone()
    };
    let all = nodes(&[
        ("a", labelled("zone", "2")),
        ("b", tainted("gpu")),
        (
            "c",
            NodeFacts {
                cordoned: true,
                ..zone()
            },
        ),
        (
            "d",
            NodeFacts {
                quarantined: true,
                ..zone()
            },
        ),
        (
            "e",
            NodeFacts {
                agents: 10,
                ..zone()
            },
        ),
        ("f", tainted("old")),
    ]);
    let decision = choose(&placement, &all);
    assert_eq!(decision.outcome, Ok("f".into()));
    let out: Vec<Option<Exclusion>> = decision
        .candidates
        .into_iter()
        .map(|c| c.excluded)
        .collect();
    let expected = [
        Some(Exclusion::Unfit(Unfit::Label("zone".into()))),
        Some(Exclusion::Unfit(Unfit::Taint("gpu".into()))),
        Some(Exclusion::Cordoned),
        Some(Exclusion::Quarantined),
        Some(Exclusion::Full {
            agents: 10,
            max: 10,
        }),
        None,
    ];
    assert_eq!(out, expected);
}

#[test]
fn a_preferred_label_outweighs_a_little_load() {
    let placement = Placement {
        preferred: [("disk".to_owned(), "ssd".to_owned())].into(),
        ..Placement::default()
    };
    let fast = NodeFacts {
        load_permille: 50,
        ..labelled("disk", "ssd")
    };
    let decision = choose(
        &placement,
        &nodes(&[("a", with_agents(0)), ("b", fast.clone())]),
    );
    assert_eq!(decision.outcome, Ok("b".into()));
    let laden = NodeFacts { agents: 2, ..fast };
    let decision = choose(&placement, &nodes(&[("a", with_agents(0)), ("b", laden)]));
    assert_eq!(decision.outcome, Ok("a".into()));
}

#[test]
fn a_group_is_spread_over_zones_before_load_counts() {
    let placement = Placement {
        spread_by: Some("zone".into()),
        ..Placement::default()
    };
    let member = |zone: &str, of_group: usize, agents: usize| NodeFacts {
        groups: [("planner".to_owned(), of_group)].into(),
        agents,
        ..labelled("zone", zone)
    };
    let all = nodes(&[
        ("a", member("1", 1, 1)),
        ("b", member("1", 0, 0)),
        ("c", member("2", 0, 9)),
    ]);
    let decision = choose(&placement, &all);
    assert_eq!(
        decision.outcome,
        Ok("c".into()),
        "nobody of the group is in zone 2"
    );
    assert_eq!(decision.candidates[1].excluded, Some(Exclusion::Crowded));
}

#[test]
fn a_node_on_probation_counts_as_smaller() {
    let probation = NodeFacts {
        share_permille: 100,
        ..with_agents(0)
    };
    let decision = choose(
        &Placement::default(),
        &nodes(&[("a", probation), ("b", with_agents(5))]),
    );
    assert_eq!(decision.outcome, Ok("b".into()));
}

#[test]
fn what_was_placed_counts_until_it_shows_in_the_figures() {
    let agent = AgentId::new("x");
    let (a, now) = (NodeName::from("a"), LocalTime(1_000));
    let all = nodes(&[("a", with_agents(0)), ("b", with_agents(2))]);
    let mut reserved = none();
    for n in 0..4 {
        reserved.reserve(&AgentId::new(format!("r{n}")), &a, now);
    }
    let placement = Placement::default();
    let request = Request {
        agent: &agent,
        placement: &placement,
        group: "planner",
        class: None,
        here: &a,
    };
    let at = |reserved: &Reservations, now| {
        place(&Policy::Balanced, &request, &all, reserved, now, &mut rng()).outcome
    };
    assert_eq!(at(&reserved, now), Ok("b".into()));
    assert_eq!(
        at(&reserved, now.after(Duration::from_secs(5))),
        Ok(a.clone()),
        "expired"
    );
    for n in 0..3 {
        reserved.settle(&AgentId::new(format!("r{n}")));
    }
    assert_eq!(at(&reserved, now), Ok(a.clone()));
}

#[test]
fn two_choices_over_stale_figures_spread_what_the_best_of_all_would_heap_up() {
    let count = 20;
    let stale: BTreeMap<NodeName, NodeFacts> = (0..count)
        .map(|n| {
            (
                NodeName::from(format!("n{n:02}").as_str()),
                with_agents(n / 7),
            )
        })
        .collect();
    let (placement, here) = (Placement::default(), NodeName::from("a"));
    let mut rng = rng();
    let mut placed: BTreeMap<NodeName, usize> = BTreeMap::new();
    for n in 0..100 {
        let agent = AgentId::new(format!("x{n}"));
        let request = Request {
            agent: &agent,
            placement: &placement,
            group: "planner",
            class: None,
            here: &here,
        };
        let decision = place(
            &Policy::Balanced,
            &request,
            &stale,
            &none(),
            LocalTime(0),
            &mut rng,
        );
        *placed.entry(decision.outcome.expect("room")).or_default() += 1;
    }
    // The best of all would have got all hundred.
    let most = placed.values().max().copied().unwrap_or(0);
    assert!(most <= 20, "{placed:?}");
}

#[test]
fn what_would_happen_if_a_node_died_is_asked_without_doing_it() {
    let all = nodes(&[
        ("a", with_agents(2)),
        ("b", with_agents(0)),
        ("c", with_agents(1)),
    ]);
    let agents = [AgentId::new("x"), AgentId::new("y")];
    let (placement, here) = (Placement::default(), NodeName::from("b"));
    let requests = agents.iter().map(|agent| Request {
        agent,
        placement: &placement,
        group: "planner",
        class: None,
        here: &here,
    });
    let plans = what_if(
        &Policy::Balanced,
        &"a".into(),
        requests,
        &all,
        LocalTime(0),
        &mut rng(),
    );
    let targets: Vec<_> = plans.into_iter().map(|plan| plan.outcome).collect();
    // The second sees the first on b, where there are then as many as on c.
    assert_eq!(targets, [Ok("b".into()), Ok("b".into())]);
    assert_eq!(all.len(), 3);
}

#[test]
fn no_node_at_all_is_said_to_be_unhealthy() {
    let nowhere = choose(&Placement::default(), &BTreeMap::new());
    assert_eq!(nowhere.outcome, Err(NoPlace::NoHealthyNodes));
    assert!(
        nowhere
            .explain()
            .starts_with("x goes nowhere: no healthy nodes")
    );
}
