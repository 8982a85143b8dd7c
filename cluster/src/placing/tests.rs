//! Nodes that work out by themselves where the same agents belong.

use std::collections::BTreeSet;

use regrow_runtime::agent_spec::AgentSpec;
use regrow_runtime::registry::{AgentRow, LiveNode, Reported};
use regrow_runtime::role::Role;

use super::*;
use crate::entry::Entry;
use crate::nodes::Heard;
use crate::report::Offer;

const NODES: u64 = 3;

fn report(life: u64, load_permille: u32) -> NodeReport {
    NodeReport {
        load_permille,
        ..NodeReport::first(Life(life), "1", Offer::default())
    }
}

fn reported(report: &NodeReport, age: Duration) -> Reported {
    Reported {
        life: report.life,
        age,
        body: Json::of(report).expect("JSON"),
    }
}

/// Three nodes that said what there is to say, and these agents with their owners.
fn standing(owners: &[Option<u64>]) -> Standing {
    let mut standing = Standing::default();
    for life in 1..=NODES {
        let name = format!("n{life}");
        let node = LiveNode {
            node: name.as_str().into(),
            left: Duration::from_secs(1),
        };
        standing.lives.insert(Life(life), node);
        let said = reported(&report(life, 0), Duration::ZERO);
        standing.reports.insert(name, said);
    }
    for (n, owner) in owners.iter().enumerate() {
        add(&mut standing, &format!("a{n:03}"), *owner, |_| {});
    }
    standing
}

fn add(standing: &mut Standing, id: &str, owner: Option<u64>, change: impl FnOnce(&mut Entry)) {
    let id = AgentId::new(id);
    let mut entry = Entry::new(AgentSpec::new(id.clone(), Role::Worker));
    change(&mut entry);
    let row = AgentRow {
        id: id.clone(),
        revision: 1,
        epoch: Epoch(7),
        owner: owner.map(Life),
        entry: Json::of(&entry).expect("JSON"),
    };
    standing.agents.insert(id, row);
}

fn me(life: u64) -> Me {
    Me {
        life: Life(life),
        name: format!("n{life}"),
        draining: false,
    }
}

fn placer(life: u64) -> Placer {
    let placer = Placer::default();
    placer.say(report(life, 0));
    placer
}

/// Which nodes would take each agent, if each looked once and took all that fall to it.
fn takers(standing: &Standing) -> BTreeMap<AgentId, Vec<u64>> {
    let mut takers: BTreeMap<AgentId, Vec<u64>> = BTreeMap::new();
    for life in 1..=NODES {
        let here = format!("n{life}");
        for Decided { id, decision, .. } in placer(life).decide((Life(life), &here), standing) {
            let takes = takers.entry(id).or_default();
            let verdict = verdict(&here, decision, Duration::ZERO, Duration::from_secs(1));
            if matches!(verdict, Verdict::Here(_)) {
                takes.push(life);
            }
        }
    }
    takers
}

#[tokio::test(start_paused = true)]
async fn a_hundred_agents_that_begin_at_once_fall_to_three_nodes_evenly_and_each_to_one() {
    let takers = takers(&standing(&[None; 100]));
    assert_eq!(takers.len(), 100);
    assert!(takers.values().all(|by| by.len() == 1), "{takers:?}");
    for life in 1..=NODES {
        let count = takers.values().filter(|by| **by == [life]).count();
        assert!((30..=37).contains(&count), "{count} fall to n{life}");
    }
}

/// Nodes look one after the other, in an order of chance, and each has taken what it wanted
/// before it looks again; agents appear while they do.
#[tokio::test(start_paused = true)]
async fn agents_that_appear_while_nodes_look_are_spread_evenly_too() {
    use rand::{RngExt, SeedableRng};
    for seed in 0..20 {
        let mut rng = rand::rngs::Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut world = standing(&[]);
        let placers: Vec<Placer> = (1..=NODES).map(placer).collect();
        let mut made = 0;
        // What each decided to take, and has not taken yet.
        let mut wants: [Vec<AgentId>; 3] = Default::default();
        while made < 100 || world.agents.values().any(|row| row.owner.is_none()) {
            if made < 100 && rng.random_bool(0.4) {
                add(
                    &mut world,
                    &format!("x{:03}", rng.random_range(0..1_000_000)),
                    None,
                    |_| {},
                );
                made += 1;
            }
            let n = rng.random_range(0..3_u64);
            let index = usize::try_from(n).expect("small");
            match wants[index].pop() {
                Some(id) => {
                    let row = world.agents.get_mut(&id).expect("there");
                    row.owner = row.owner.or(Some(Life(n + 1)));
                }
                None => {
                    let verdicts = placers[index].verdicts(&me(n + 1), &world);
                    let here = verdicts.into_iter();
                    let here = here.filter(|(_, verdict)| matches!(verdict, Verdict::Here(_)));
                    wants[index] = here.map(|(id, _)| id).collect();
                }
            }
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        let total = world.agents.len();
        for life in 1..=NODES {
            let owned = world
                .agents
                .values()
                .filter(|row| row.owner == Some(Life(life)));
            let count = owned.count();
            assert!(
                total / 3 - 5 <= count && count <= total / 3 + 6,
                "seed {seed}: n{life} has {count} of {total}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_first_choice_does_not_take_goes_to_the_next_one_after_a_while() {
    let world = standing(&[None]);
    let takers = takers(&world);
    let first = takers.values().next().expect("one agent")[0];
    let decision = placer(1).decide((Life(1), "n1"), &world).remove(0).decision;
    let ranking: Vec<String> = decision.ranking().iter().map(ToString::to_string).collect();
    assert_eq!(ranking[0], format!("n{first}"));
    let patience = PlacerConfig::default().patience;
    for (rank, name) in (0_u32..).zip(&ranking) {
        let life: u64 = name[1..].parse().expect("a number");
        let placer = placer(life);
        placer.verdicts(&me(life), &world);
        let began = Instant::now();
        while !matches!(
            placer.verdicts(&me(life), &world).values().next(),
            Some(Verdict::Here(_))
        ) {
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        let waited = began.elapsed();
        assert!(patience * rank <= waited && waited <= patience * rank + patience / 2);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_foretold_for_the_loss_of_a_node_is_what_the_others_do_when_it_is_lost() {
    let owners: Vec<Option<u64>> = (0..40).map(|n| Some(1 + n % NODES)).collect();
    let world = standing(&owners);
    let mut lost = world.clone();
    lost.lives.remove(&Life(2));
    // Foretold by n2 itself, done by the others.
    let foretold = placer(2).decide((Life(2), "n2"), &lost);
    let done = takers(&lost);
    let mut seen = BTreeSet::new();
    for Decided { id, decision, .. } in foretold {
        let node = decision.outcome.expect("room").to_string();
        let takers: Vec<String> = done[&id].iter().map(|life| format!("n{life}")).collect();
        assert_eq!(takers, [node.as_str()], "{id}");
        seen.insert(node);
    }
    assert_eq!(seen.len(), 2, "they go to both");
    // Nor does it matter who has taken what when a slow one looks first.
    for (taken, (id, by)) in done.iter().enumerate() {
        if taken % 3 == 0 {
            continue;
        }
        let row = lost.agents.get_mut(id).expect("there");
        let mut entry = understood(row).expect("ours");
        entry.placed = Some(crate::entry::Placed {
            node: format!("n{}", by[0]),
            at: regrow_runtime::clock::Timestamp(0),
            reason: "node loss".to_owned(),
            because: String::new(),
            lost: row.owner,
            life: None,
        });
        (row.owner, row.entry) = (Some(Life(by[0])), Json::of(&entry).expect("JSON"));
        for (id, takers) in takers(&lost) {
            assert_eq!(takers, done[&id], "{id} when {taken} were taken");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_belongs_on_one_node_waits_for_it() {
    let mut world = standing(&[Some(1), Some(1)]);
    add(&mut world, "x", None, |entry| {
        entry.spec.placement.node = Some("n1".to_owned());
    });
    let id = AgentId::new("x");
    assert_eq!(takers(&world)[&id], [1]);
    world.lives.remove(&Life(1));
    assert_eq!(takers(&world)[&id], [0_u64; 0]);
}

#[test]
fn what_a_life_offers_holds_and_what_it_said_of_its_load_grows_old() {
    let zone: BTreeMap<String, String> = [("zone".to_owned(), "a".to_owned())].into();
    let mut world = standing(&[]);
    let offer = Offer {
        labels: zone.clone(),
        ..Offer::default()
    };
    let said = NodeReport {
        load_permille: 300,
        ..NodeReport::first(Life(2), "1", offer)
    };
    let facts = |world: &Standing, placer: &Placer| {
        let board = placer.board((Life(1), "n1"), world);
        board.nodes[&NodeName::from("n2")].clone()
    };
    let old = reported(&said, Duration::from_secs(60));
    world.reports.insert("n2".to_owned(), old);
    let known = facts(&world, &placer(1));
    assert_eq!((known.labels, known.load_permille), (zone, None));

    // Gossip has a newer word of the same life.
    let heard = HeardOf::default();
    let word = Heard {
        report: Some(NodeReport {
            number: 2,
            load_permille: 100,
            ..said.clone()
        }),
        ..Heard::of("up")
    };
    heard.replace([("n2".to_owned(), word)].into());
    let placer = Placer::new(PlacerConfig::default(), heard);
    assert_eq!(facts(&world, &placer).load_permille, Some(100));

    // What an earlier life said is nothing.
    let mut next = world.lives.remove(&Life(2)).expect("there");
    next.left = Duration::from_secs(2);
    world.lives.insert(Life(9), next);
    assert!(facts(&world, &placer).silent);
}
