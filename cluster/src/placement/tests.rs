//! Who gets what, by the balanced policy.

use proptest::prelude::*;

use super::*;

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

fn request<'a>(agent: &'a AgentId, placement: &'a Placement, seed: u64) -> Request<'a> {
    Request {
        agent,
        placement,
        role: "planner",
        asked_of: None,
        seed,
    }
}

fn choose(placement: &Placement, nodes: &BTreeMap<NodeName, NodeFacts>) -> Decision {
    let (agent, policies) = (AgentId::new("x"), Policies::default());
    let mut board = Board {
        policies: &policies,
        nodes: nodes.clone(),
    };
    board.place(&request(&agent, placement, 7))
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
        Some(Exclusion::Unfit(Unfit::Label("zone=1".into()))),
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
        load_permille: Some(50),
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
fn a_node_of_which_nothing_is_known_gets_nothing_and_one_that_fell_silent_counts_as_busy() {
    let unknown = NodeFacts {
        silent: true,
        ..with_agents(0)
    };
    let stale = NodeFacts {
        load_permille: None,
        ..with_agents(0)
    };
    let all = nodes(&[("a", unknown), ("b", stale), ("c", with_agents(8))]);
    let decision = choose(&Placement::default(), &all);
    assert_eq!(decision.outcome, Ok("c".into()));
    assert_eq!(decision.candidates[0].excluded, Some(Exclusion::Silent));
    let because = decision.because();
    assert!(
        because.contains("drawn with b") && because.contains("1 ruled out"),
        "{because}"
    );
}

#[test]
fn a_group_without_a_zone_is_spread_over_nodes() {
    let placement = Placement {
        spread: Some("crawlers".into()),
        ..Placement::default()
    };
    let policies = Policies::default();
    let mut board = Board {
        policies: &policies,
        nodes: nodes(&[
            ("a", with_agents(0)),
            ("b", with_agents(5)),
            ("c", with_agents(9)),
        ]),
    };
    let agents: Vec<AgentId> = (0..4).map(|n| AgentId::new(format!("x{n}"))).collect();
    for (seed, agent) in (0..).zip(&agents[..3]) {
        board
            .place(&request(agent, &placement, seed))
            .outcome
            .expect("room");
    }
    let agents_on: Vec<usize> = board.nodes.values().map(|facts| facts.agents).collect();
    assert_eq!(agents_on, [1, 6, 10], "one on each, however full it is");
    // On c there is no room for a second one.
    let fourth = board.place(&request(&agents[3], &placement, 9));
    assert_ne!(fourth.outcome, Ok("c".into()));
}

#[test]
fn the_best_by_score_follow_the_chosen_one_and_of_many_candidates_few_are_kept() {
    let facts = (0..40).map(|n| {
        let name = NodeName::from(format!("n{n:02}").as_str());
        (
            name,
            NodeFacts {
                agents: n,
                agents_max: Some(50),
                ..NodeFacts::idle()
            },
        )
    });
    let decision = choose(&Placement::default(), &facts.collect());
    let ranking: Vec<NodeName> = decision.ranking().into_iter().cloned().collect();
    assert_eq!(Ok(&ranking[0]), decision.outcome.as_ref());
    assert!(decision.drawn.contains(&ranking[1]));
    assert_eq!(ranking.len(), 40);
    let kept = decision.kept();
    assert_eq!((kept.candidates.len(), kept.left_out), (16, 24));
    for name in &ranking[..2] {
        assert!(
            kept.candidates
                .iter()
                .any(|candidate| candidate.node == *name)
        );
    }
}

#[test]
fn two_choices_over_stale_figures_spread_what_the_best_of_all_would_heap_up() {
    let count = 20;
    let stale: BTreeMap<NodeName, NodeFacts> = (0..count)
        .map(|n| {
            let name = NodeName::from(format!("n{n:02}").as_str());
            (name, with_agents(n / 7))
        })
        .collect();
    let (placement, policies) = (Placement::default(), Policies::default());
    let mut placed: BTreeMap<NodeName, usize> = BTreeMap::new();
    for seed in 0..100 {
        let agent = AgentId::new(format!("x{seed}"));
        // A board for each: none knows what the others decide.
        let mut board = Board {
            policies: &policies,
            nodes: stale.clone(),
        };
        let decision = board.place(&request(&agent, &placement, seed));
        *placed.entry(decision.outcome.expect("room")).or_default() += 1;
    }
    // The best of all would have got all hundred.
    let most = placed.values().max().copied().unwrap_or(0);
    assert!(most <= 20, "{placed:?}");
}

proptest! {
    #[test]
    fn many_agents_placed_at_one_look_fill_equal_nodes_evenly(
        seeds in prop::collection::vec(any::<u64>(), 100),
        count in 3_usize..6,
    ) {
        let policies = Policies::default();
        let facts = (0..count).map(|n| {
            (NodeName::from(format!("n{n}").as_str()), NodeFacts::idle())
        });
        let mut board = Board { policies: &policies, nodes: facts.collect() };
        let placement = Placement::default();
        for (n, seed) in seeds.iter().enumerate() {
            let agent = AgentId::new(format!("x{n}"));
            board.place(&request(&agent, &placement, *seed));
        }
        let on: Vec<usize> = board.nodes.values().map(|facts| facts.agents).collect();
        let (most, least) = (on.iter().max(), on.iter().min());
        prop_assert_eq!(on.iter().sum::<usize>(), 100);
        prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 8), "{:?}", on);
    }

    #[test]
    fn nobody_gets_an_agent_that_he_may_not_have(
        offers in prop::collection::vec((0_u8..3, 0_u8..3, 0_usize..4, any::<bool>()), 1..6),
        wants in (0_u8..3, 0_u8..3),
        seed in any::<u64>(),
        scr in any::<bool>(),
    ) {
        let label = |n: u8| [("zone".to_owned(), n.to_string())].into();
        let facts = offers.iter().enumerate().map(|(n, (zone, taint, agents, quarantined))| {
            let facts = NodeFacts {
                labels: label(*zone),
                taints: (*taint != 0).then(|| taint.to_string()).into_iter().collect(),
                agents: *agents,
                agents_max: Some(3),
                quarantined: *quarantined,
                ..NodeFacts::idle()
            };
            (NodeName::from(format!("n{n}").as_str()), facts)
        });
        let all: BTreeMap<NodeName, NodeFacts> = facts.collect();
        let placement = Placement {
            required: label(wants.0),
            tolerates: vec![wants.1.to_string()],
            policy: scr.then_some(PolicyName::Scr),
            ..Placement::default()
        };
        let (agent, policies) = (AgentId::new("x"), Policies::default());
        let mut board = Board { policies: &policies, nodes: all.clone() };
        let decision = board.place(&request(&agent, &placement, seed));
        let may = |facts: &NodeFacts| {
            !facts.quarantined
                && facts.agents < 3
                && facts.labels == placement.required
                && facts.taints.iter().all(|taint| placement.tolerates.contains(taint))
        };
        match decision.outcome {
            Ok(chosen) => prop_assert!(may(&all[&chosen])),
            Err(_) => prop_assert!(!all.values().any(may)),
        }
    }
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
