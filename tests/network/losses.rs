//! Nodes that are lost: killed, frozen, cut off, restarted.

use std::time::Duration;

use nix::sys::signal::Signal;
use regrow_testnet::Rules;
use tokio::time::sleep;

use super::cluster::{Authority, DATABASE};
use super::run::{Run, seed_and_rounds};

pub(crate) async fn a_node_that_is_killed_loses_nothing(authority: Authority) {
    let (seed, rounds) = seed_and_rounds();
    let mut run = Run::start("kill -9", seed, authority).await;
    for _ in 0..rounds {
        run.go_on(500..1_500).await;
        let node = run.any_owner().await;
        node.signal(Signal::SIGKILL);
        node.ended().await;
        run.elsewhere(&node).await;
        node.start();
        run.recover().await;
    }
    run.finish().await;
}

pub(crate) async fn a_node_that_is_frozen_and_goes_on_has_no_effect_any_more(authority: Authority) {
    let (seed, rounds) = seed_and_rounds();
    let mut run = Run::start("SIGSTOP", seed, authority).await;
    for _ in 0..rounds {
        run.go_on(500..1_500).await;
        let node = run.any_owner().await;
        node.signal(Signal::SIGSTOP);
        run.elsewhere(&node).await;
        run.go_on(0..1_000).await;
        run.wake(&node);
        if authority == Authority::Database {
            // It finds that it was succeeded, and ends.
            let status = node.ended().await;
            assert_eq!(status.code(), Some(1), "{}", node.name);
            node.start();
        }
        run.recover().await;
    }
    run.finish().await;
}

pub(crate) async fn a_pause_shorter_than_the_term_costs_nothing(authority: Authority) {
    let (seed, rounds) = seed_and_rounds();
    let mut run = Run::start("short SIGSTOP", seed, authority).await;
    for _ in 0..rounds * 3 {
        run.go_on(300..800).await;
        let node = run.any_owner().await;
        node.signal(Signal::SIGSTOP);
        run.go_on(200..900).await;
        run.wake(&node);
    }
    run.finish().await;
}

pub(crate) async fn a_node_that_is_cut_off_is_succeeded_and_comes_back(authority: Authority) {
    let (seed, rounds) = seed_and_rounds();
    let mut run = Run::start("cut off", seed, authority).await;
    for _ in 0..rounds {
        run.go_on(500..1_500).await;
        let node = run.any_owner().await;
        run.cluster.network.set_around(&node.name, Rules::CUT);
        run.elsewhere(&node).await;
        run.go_on(0..1_000).await;
        run.cluster.network.set_all(Rules::default());
        run.recover().await;
    }
    run.finish().await;
}

pub(crate) async fn a_node_that_is_not_heard_is_succeeded_and_comes_back(authority: Authority) {
    let (seed, rounds) = seed_and_rounds();
    let mut run = Run::start("cut off, it hears the others", seed, authority).await;
    for _ in 0..rounds {
        run.go_on(500..1_500).await;
        let node = run.any_owner().await;
        run.cluster.network.set_leaving(&node.name, Rules::CUT);
        run.elsewhere(&node).await;
        run.go_on(0..1_000).await;
        run.cluster.network.set_all(Rules::default());
        run.recover().await;
    }
    run.finish().await;
}

pub(crate) async fn a_node_that_does_not_hear_is_succeeded_and_comes_back(authority: Authority) {
    let (seed, rounds) = seed_and_rounds();
    let mut run = Run::start("cut off, the others hear it", seed, authority).await;
    for _ in 0..rounds {
        run.go_on(500..1_500).await;
        let node = run.any_owner().await;
        run.cluster.network.set_reaching(&node.name, Rules::CUT);
        run.elsewhere(&node).await;
        run.go_on(0..1_000).await;
        run.cluster.network.set_all(Rules::default());
        run.recover().await;
    }
    run.finish().await;
}

pub(crate) async fn all_nodes_are_restarted_in_turn(authority: Authority) {
    let (seed, rounds) = seed_and_rounds();
    let mut run = Run::start("rolling restart", seed, authority).await;
    for _ in 0..rounds {
        for node in run.cluster.nodes.clone() {
            run.go_on(200..600).await;
            node.signal(Signal::SIGTERM);
            let status = node.ended().await;
            assert!(
                status.success(),
                "the orderly stop of {} ended with {status}",
                node.name
            );
            run.elsewhere(&node).await;
            node.start();
            node.until_ready().await;
            // Without a database it has to be let in first: half of the nodes decide nothing.
            run.cluster.until_all_heard().await;
        }
    }
    run.finish().await;
}

/// Long enough for nodes to notice.
pub(crate) const AWHILE: Duration = Duration::from_secs(8);

pub(crate) async fn nodes_that_hear_each_other_but_not_the_database_act_no_more(
    authority: Authority,
) {
    let (seed, rounds) = seed_and_rounds();
    let mut run = Run::start("database cut off from all", seed, authority).await;
    for _ in 0..rounds {
        run.go_on(500..1_500).await;
        run.cluster.network.set_around(DATABASE, Rules::CUT);
        sleep(AWHILE / 2).await;
        for node in &run.cluster.nodes {
            let running = node.running().await.unwrap_or_default();
            assert!(running.is_empty(), "{} still runs {running:?}", node.name);
        }
        run.cluster.network.set_all(Rules::default());
        run.recover().await;
    }
    run.finish().await;
}
