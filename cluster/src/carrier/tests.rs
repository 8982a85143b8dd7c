//! Carriers with their directors, on a network that loses, delays and parts, with agents that
//! act and are counted. One process, a clock that is only moved, everything else from a seed.

mod cluster;
mod hardware;

use std::time::Duration;

use proptest::prelude::*;
use regrow_runtime::agent_spec::AgentSpec;
use regrow_runtime::ids::AgentId;
use regrow_runtime::role::Role;

use self::cluster::Cluster;
use crate::agents::AgentState;
use crate::nodes::Stance;
use crate::report::Offer;

fn spec(name: &str) -> AgentSpec {
    let mut spec = AgentSpec::new(AgentId::new(name), Role::Worker);
    spec.intensity.restarts_max = 50;
    spec
}

#[tokio::test(start_paused = true)]
async fn an_agent_goes_on_elsewhere_when_its_node_is_killed_frozen_or_cut_off() {
    let mut cluster = Cluster::start(1, 3).await;
    let x = AgentId::new("x");
    cluster.create(0, spec("x")).await;
    let first = cluster.runs_on(&x).await;
    cluster.kill(first);
    let second = cluster.runs_elsewhere(&x, first).await;
    cluster.boot(first).await;
    cluster.all_members().await;

    cluster.freeze(second);
    let third = cluster.runs_elsewhere(&x, second).await;
    cluster.thaw(second);
    cluster.all_members().await;

    cluster.isolate(third);
    let fourth = cluster.runs_elsewhere(&x, third).await;
    assert!(!cluster.may_act(third), "a minority acts");
    cluster.heal();
    cluster.all_members().await;
    let known = cluster.agents(fourth).show(&x).await.expect("known");
    assert_eq!(known.entry.restarts.len(), 3, "{known:?}");
    assert_eq!(
        known.entry.last_exit.map(|exit| exit.node),
        Some(cluster.name(third))
    );
    cluster.calm();
}

#[tokio::test(start_paused = true)]
async fn what_operators_ask_is_asked_of_any_node_and_done_by_the_owner() {
    let cluster = Cluster::start(2, 3).await;
    let x = AgentId::new("x");
    cluster.create(1, spec("x")).await;
    let owner = cluster.runs_on(&x).await;
    let other = (owner + 1) % 3;
    let (agents, target) = (cluster.agents(other), cluster.name(other));

    let before = agents.show(&x).await.expect("known").epoch;
    agents
        .hand_off(&x, &target, "hand-off")
        .await
        .expect("asked");
    assert_eq!(cluster.runs_elsewhere(&x, owner).await, other);
    let known = cluster.agents(owner).show(&x).await.expect("known");
    assert!(
        before < known.epoch && known.entry.restarts.is_empty(),
        "{known:?}"
    );
    let placed = known.entry.placed.expect("placed");
    assert_eq!((placed.node, placed.reason.as_str()), (target, "hand-off"));

    let third = cluster.agents((owner + 2) % 3);
    third.kill(&x).await.expect("asked");
    cluster
        .until(|| async {
            let known = third.show(&x).await.expect("known");
            known.entry.restarts.len() == 1 && known.state == AgentState::Owned
        })
        .await;
    third.stop(&x).await.expect("asked");
    cluster.runs_nowhere(&x).await;
    assert_eq!(
        third.show(&x).await.expect("known").state,
        AgentState::Stopped
    );
    third.start(&x).await.expect("asked");
    cluster.runs_on(&x).await;
    third.stop(&x).await.expect("asked");
    cluster.runs_nowhere(&x).await;
    cluster
        .until(|| async { third.remove(&x).await.is_ok() })
        .await;
    assert!(
        cluster
            .agents(owner)
            .list()
            .await
            .expect("a list")
            .is_empty()
    );
    cluster.calm();
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_drained_gives_its_agents_away_and_gets_none_until_it_is_released() {
    let cluster = Cluster::start(3, 3).await;
    for n in 0..6 {
        cluster.create(n % 3, spec(&format!("x{n}"))).await;
    }
    cluster
        .until(|| async { cluster.counts().iter().sum::<usize>() == 6 })
        .await;
    cluster.pass(Duration::from_secs(2)).await;
    let nodes = cluster.nodes(0);
    let (here, drained) = (cluster.name(0), cluster.name(2));
    // Two of three are drawn for each, so it need not be even.
    nodes.rebalance(&here, false).await.expect("asked");
    cluster
        .until(|| async { cluster.counts() == [2, 2, 2] })
        .await;
    cluster.pass(Duration::from_secs(2)).await;
    nodes
        .ask(&here, &drained, Some(Stance::Draining), None)
        .await
        .expect("asked");
    cluster
        .until(|| async { cluster.counts() == [3, 3, 0] })
        .await;
    nodes.ask(&here, &drained, None, None).await.expect("asked");
    cluster.pass(Duration::from_secs(2)).await;
    let moves = nodes.rebalance(&here, false).await.expect("asked");
    assert_eq!(moves.len(), 2, "{moves:?}");
    cluster
        .until(|| async { cluster.counts() == [2, 2, 2] })
        .await;
    cluster.pass(Duration::from_secs(2)).await;

    // Others take what is left at once; who has fewest at that moment may be two nodes' guess.
    nodes
        .ask(&here, &drained, Some(Stance::Quarantined), None)
        .await
        .expect("asked");
    cluster
        .until(|| async {
            let counts = cluster.counts();
            counts[2] == 0 && counts.iter().sum::<usize>() == 6
        })
        .await;
    // Every node knows where they are, in whatever order it heard of it.
    cluster.pass(Duration::from_secs(2)).await;
    for node in 0..3 {
        for known in cluster.agents(node).list().await.expect("a list") {
            assert!(known.node.is_some(), "node {node}: {known:?}");
        }
    }
    for known in cluster.agents(1).list().await.expect("a list") {
        assert!(known.entry.restarts.is_empty(), "a move counted: {known:?}");
    }
    cluster.calm();
}

/// Labels and taints as on a command line.
fn offer(labels: &str, taints: &str) -> Offer {
    let mut offer = Offer::default();
    for (label, value) in labels.split(',').filter_map(|word| word.split_once('=')) {
        offer.labels.insert(label.to_owned(), value.to_owned());
    }
    offer.taints.extend(
        taints
            .split(',')
            .filter(|it| !it.is_empty())
            .map(str::to_owned),
    );
    offer
}

#[tokio::test(start_paused = true)]
async fn agents_go_where_they_fit_and_where_it_was_foretold_when_their_node_is_lost() {
    let offers = [("zone=a", ""), ("zone=b", ""), ("zone=b", "gpu")];
    let offers = offers.map(|(labels, taints)| offer(labels, taints));
    let mut cluster = Cluster::offering(11, offers.into()).await;
    let in_b = |name: &str, tolerates: bool| {
        let mut spec = spec(name);
        spec.placement.required.insert("zone".into(), "b".into());
        spec.placement
            .tolerates
            .extend(tolerates.then(|| "gpu".to_owned()));
        spec
    };
    let ids = ["p", "q", "r", "s", "t", "u"].map(AgentId::new);
    for (n, id) in ids.iter().enumerate() {
        cluster.create(n % 3, in_b(id.as_str(), 2 <= n)).await;
    }
    for (n, id) in ids.iter().enumerate() {
        let on = cluster.runs_on(id).await;
        assert!(on == 1 || (on == 2 && 2 <= n), "{id} is on {on}");
    }
    cluster.pass(Duration::from_secs(1)).await;
    let (nodes, here) = (cluster.nodes(0), cluster.name(0));
    // Everybody who is asked gives the same reasons, with terms.
    for asked in 0..3 {
        let why = cluster
            .nodes(asked)
            .explain(&cluster.name(asked), &ids[0])
            .await;
        let why = why.expect("explained");
        let decision = why.decision.expect("kept").as_str().to_owned();
        assert!(
            decision.contains("lacks the required label zone=b"),
            "{decision}"
        );
        assert!(decision.contains("has the taint gpu"), "{decision}");
        assert!(
            decision.contains("filled") && decision.contains("seed"),
            "{decision}"
        );
        assert!(why.why.contains("policy balanced"), "{}", why.why);
        assert!(
            why.if_its_node_died.contains("it would wait"),
            "{}",
            why.if_its_node_died
        );
    }
    let foretold = nodes
        .if_lost(&here, &cluster.name(1))
        .await
        .expect("foretold");
    assert!(2 <= foretold.agents.len(), "{foretold:?}");
    cluster.kill(1);
    for lost in &foretold.agents {
        let waits = ids[..2].contains(&lost.agent);
        assert_eq!(lost.goes_to.is_none(), waits, "{lost:?}");
        if let Some(node) = &lost.goes_to {
            let on = cluster.runs_elsewhere(&lost.agent, 1).await;
            assert_eq!(cluster.name(on), *node, "{lost:?}");
            let known = cluster.agents(0).show(&lost.agent).await.expect("known");
            assert_eq!(known.entry.restarts.len(), 1, "{known:?}");
            let placed = known.entry.placed.expect("placed");
            assert_eq!(placed.reason, "node loss");
        }
    }
    // Nobody is left who may: they wait, and say so.
    cluster.pass(Duration::from_secs(5)).await;
    for id in &ids[..2] {
        let why = nodes.explain(&here, id).await.expect("explained");
        assert!(why.agent.node.is_none(), "{why:?}");
        assert!(why.why.contains("goes nowhere"), "{}", why.why);
        assert!(why.decision.is_none(), "{why:?}");
    }
    // A word of an operator does not outweigh what they ask for.
    let to = cluster.name(0);
    cluster
        .agents(0)
        .hand_off(&ids[2], &to, "test")
        .await
        .expect("asked");
    cluster.pass(Duration::from_secs(5)).await;
    assert_ne!(cluster.runs_on(&ids[2]).await, 0);
    cluster.boot(1).await;
    for id in &ids[..2] {
        assert_eq!(cluster.runs_on(id).await, 1);
    }
    cluster.calm();
}

#[tokio::test(start_paused = true)]
async fn a_loss_of_the_node_that_an_agent_was_handed_to_counts_where_it_comes_back_to() {
    let mut cluster = Cluster::start(7, 3).await;
    let x = AgentId::new("x");
    cluster.create(0, spec("x")).await;
    let owner = cluster.runs_on(&x).await;
    let (next, third) = ((owner + 1) % 3, (owner + 2) % 3);
    let (agents, nodes) = (cluster.agents(third), cluster.nodes(third));
    let here = cluster.name(third);
    let moved = agents.hand_off(&x, &cluster.name(next), "test").await;
    moved.expect("asked");
    assert_eq!(cluster.runs_elsewhere(&x, owner).await, next);
    // It can only come back.
    let cordoned = nodes.ask(&here, &here, Some(Stance::Cordoned), None).await;
    cordoned.expect("noted");
    cluster.kill(next);
    assert_eq!(cluster.runs_elsewhere(&x, next).await, owner);
    let known = agents.show(&x).await.expect("known").entry;
    assert_eq!(known.restarts.len(), 1, "{known:?}");
    assert_eq!(
        known.last_exit.map(|exit| exit.node),
        Some(cluster.name(next))
    );
    cluster.calm();
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_of_an_agent_that_moves_is_done_where_it_arrives() {
    let cluster = Cluster::start(8, 3).await;
    let x = AgentId::new("x");
    cluster.create(0, spec("x")).await;
    let mut owner = cluster.runs_on(&x).await;
    for round in 1..6 {
        let (next, third) = ((owner + 1) % 3, (owner + 2) % 3);
        let (agents, to) = (cluster.agents(third), cluster.name(next));
        agents.hand_off(&x, &to, "test").await.expect("asked");
        cluster.pass(Duration::from_millis(40 * round)).await;
        let asked = agents.restart(&x).await.expect("asked while it moves");
        assert_eq!(asked.entry.round, 1 + round);
        owner = cluster.runs_elsewhere(&x, owner).await;
        cluster.pass(Duration::from_secs(1)).await;
        let known = agents.show(&x).await.expect("known");
        assert_eq!(known.entry.round, 1 + round, "{known:?}");
    }
    cluster.calm();
}

#[tokio::test(start_paused = true)]
async fn what_is_noted_of_a_node_is_acknowledged_when_it_is_on_disk_and_a_quorum_knows() {
    let mut cluster = Cluster::start(9, 3).await;
    let (nodes, here) = (cluster.nodes(0), cluster.name(0));
    let note = |stance| nodes.ask(&here, "c", stance, None);
    note(Some(Stance::Cordoned)).await.expect("noted");
    let mut known = 0;
    for node in 0..3 {
        known += usize::from(cluster.noted(node, 2).await.is_some());
    }
    assert!(2 <= known, "acknowledged, and known to {known}");
    // Nobody hears of it: it is not acknowledged, and neither is it when nobody consents.
    cluster.isolate(0);
    for _ in 0..2 {
        let unheard = note(None).await;
        assert!(unheard.is_err(), "{unheard:?}");
    }
    cluster.heal();
    cluster.all_members().await;
    // The disk does not come to its end.
    cluster.slow_down(0, Duration::from_secs(60));
    let unkept = note(Some(Stance::Draining)).await;
    assert!(unkept.is_err(), "{unkept:?}");
    cluster.slow_down(0, Duration::ZERO);
    cluster.until(|| async { note(None).await.is_ok() }).await;
    for node in 0..3 {
        cluster.kill(node);
    }
    for node in 0..3 {
        cluster.boot(node).await;
    }
    cluster.all_members().await;
    assert_eq!(cluster.noted(1, 2).await, None);
}

#[tokio::test(start_paused = true)]
async fn restarts_on_all_nodes_together_park_an_agent() {
    let cluster = Cluster::start(4, 3).await;
    let x = AgentId::new("x");
    let mut spec = spec("x");
    spec.intensity.restarts_max = 2;
    cluster.create(0, spec).await;
    for round in 0..3 {
        let owner = cluster.runs_on(&x).await;
        cluster.crash_agent(owner, &x);
        if round < 2 {
            cluster.runs_on(&x).await;
            let to = cluster.name((owner + 1) % 3);
            cluster
                .agents(0)
                .hand_off(&x, &to, "around")
                .await
                .expect("asked");
            cluster.runs_elsewhere(&x, owner).await;
        }
    }
    cluster.runs_nowhere(&x).await;
    let known = cluster.agents(1).show(&x).await.expect("known");
    assert_eq!(known.state, AgentState::Parked);
    cluster.calm();
}

#[tokio::test(start_paused = true)]
async fn the_last_of_three_stops_and_goes_on_when_all_are_back() {
    let mut cluster = Cluster::start(5, 3).await;
    let x = AgentId::new("x");
    cluster.create(0, spec("x")).await;
    let owner = cluster.runs_on(&x).await;
    for other in (0..3).filter(|n| *n != owner) {
        cluster.kill(other);
    }
    cluster.runs_nowhere(&x).await;
    assert!(!cluster.may_act(owner));
    let refused = cluster.agents(owner).stop(&x).await;
    assert!(refused.is_err(), "nobody decides alone: {refused:?}");
    for other in (0..3).filter(|n| *n != owner) {
        cluster.boot(other).await;
    }
    cluster.all_members().await;
    cluster.runs_on(&x).await;
    cluster.calm();
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_outlives_all_nodes() {
    let mut cluster = Cluster::start(6, 3).await;
    let (x, y) = (AgentId::new("x"), AgentId::new("y"));
    cluster.create(0, spec("x")).await;
    cluster.create(1, spec("y")).await;
    cluster.agents(2).stop(&y).await.expect("asked");
    let before = cluster.agents(0).show(&x).await.expect("known").epoch;
    for node in 0..3 {
        cluster.kill(node);
    }
    for node in 0..3 {
        cluster.boot(node).await;
    }
    cluster.all_members().await;
    let owner = cluster.runs_on(&x).await;
    let agents = cluster.agents(owner);
    assert!(before < agents.show(&x).await.expect("known").epoch);
    assert_eq!(
        agents.show(&y).await.expect("known").state,
        AgentState::Stopped
    );
    cluster.calm();
}

/// What may happen to a cluster.
#[derive(Clone, Debug)]
enum Fault {
    Kill(usize),
    Freeze(usize),
    Isolate(usize),
    Heal,
    HandOff(usize, usize),
    CrashAgent(usize),
    Pass(u64),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        (0_usize..3).prop_map(Fault::Kill),
        (0_usize..3).prop_map(Fault::Freeze),
        (0_usize..3).prop_map(Fault::Isolate),
        Just(Fault::Heal),
        (0_usize..3, 0_usize..3).prop_map(|(from, to)| Fault::HandOff(from, to)),
        (0_usize..3).prop_map(Fault::CrashAgent),
        (50_u64..6_000).prop_map(Fault::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// Nodes are killed, frozen and cut off while agents move and crash.
    #[test]
    fn no_two_nodes_act_for_an_agent_and_everything_comes_to_rest(
        seed in any::<u64>(),
        faults in prop::collection::vec(fault(), 1..25),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(suffer(seed, faults));
    }
}

async fn suffer(seed: u64, faults: Vec<Fault>) {
    let mut cluster = Cluster::start(seed, 3).await;
    let agents: Vec<AgentId> = (0..3).map(|n| AgentId::new(format!("x{n}"))).collect();
    for agent in &agents {
        let mut spec = spec(agent.as_str());
        spec.intensity.restarts_max = 100;
        cluster.create(0, spec).await;
    }
    cluster.unsteady(true);
    for fault in faults {
        match fault {
            Fault::Kill(node) => cluster.kill(node),
            Fault::Freeze(node) => cluster.freeze(node),
            Fault::Isolate(node) => cluster.isolate(node),
            Fault::Heal => {
                cluster.heal();
                for node in 0..3 {
                    cluster.thaw(node);
                    cluster.boot(node).await;
                }
            }
            Fault::HandOff(agent, to) => {
                let to = cluster.name(to);
                for node in 0..3 {
                    if cluster.is_up(node) {
                        // Refusals are expected.
                        let _ = cluster
                            .agents(node)
                            .hand_off(&agents[agent], &to, "test")
                            .await;
                        break;
                    }
                }
            }
            Fault::CrashAgent(agent) => {
                for node in 0..3 {
                    cluster.crash_agent(node, &agents[agent]);
                }
            }
            Fault::Pass(millis) => cluster.pass(Duration::from_millis(millis)).await,
        }
    }
    cluster.unsteady(false);
    cluster.heal();
    for node in 0..3 {
        cluster.thaw(node);
        cluster.boot(node).await;
    }
    cluster.all_members().await;
    for node in 0..3 {
        cluster.release(node).await;
    }
    for agent in &agents {
        cluster.runs_on(agent).await;
    }
    cluster.calm();
}
