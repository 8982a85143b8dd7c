//! Networks that are bad rather than gone: loss, delay, links that come and go, names that are
//! wrong.

use std::time::Duration;

use hickory_server::proto::rr::RecordType;
use nix::sys::signal::Signal;
use regrow_testnet::{Flapping, Rules};

use super::cluster::{Authority, Cluster, Plan};
use super::losses::AWHILE;
use super::names::{Names, Reply};
use super::run::{Run, seed_and_rounds};
use super::tell;

pub(crate) async fn loss_and_delay_cost_time_and_nothing_else(authority: Authority) {
    let (seed, rounds) = seed_and_rounds();
    let mut run = Run::start("20 % loss, 50 ms delay", seed, authority).await;
    let rules = Rules {
        loss: 0.2,
        delay: Duration::from_millis(50),
        jitter: Duration::from_millis(10),
        duplicated: 0.02,
        reordered: 0.02,
        ..Rules::default()
    };
    for _ in 0..rounds {
        run.cluster.network.set_all(rules);
        run.go_on_for(AWHILE).await;
        run.cluster.network.set_all(Rules::default());
        run.recover().await;
    }
    run.finish().await;
}

pub(crate) async fn a_link_that_comes_and_goes_makes_no_second_owner(authority: Authority) {
    let (seed, rounds) = seed_and_rounds();
    let mut run = Run::start("flapping link", seed, authority).await;
    for _ in 0..rounds {
        let node = run.any_owner().await;
        // Around the life's term: now it can renew itself in time, now it cannot.
        for (up, down) in [(300, 500), (400, 2_200)] {
            let (up, down) = (Duration::from_millis(up), Duration::from_millis(down));
            let flapping = Some(Flapping { up, down });
            run.cluster.network.set_around(
                &node.name,
                Rules {
                    flapping,
                    ..Rules::default()
                },
            );
            run.go_on_for(AWHILE * 3 / 4).await;
        }
        run.cluster.network.set_all(Rules::default());
        run.recover().await;
    }
    run.finish().await;
}

const NAME: &str = "nodes.test";

pub(crate) async fn names_that_are_stale_partial_or_silent_break_nothing(authority: Authority) {
    let (seed, rounds) = seed_and_rounds();
    tell(&format!("DNS: seed {seed}"));
    // Its address is needed before there are nodes, so it is the first host.
    let network = regrow_testnet::Network::new(seed).expect("a network");
    let host = network.host("names").expect("a host");
    let names = Names::serve(&host).await;
    let plan = Plan {
        seed,
        nodes: 3,
        authority,
        life_term: Some("2s"),
        dns: Some((NAME, host.four())),
        program: None,
    };
    let cluster = Cluster::plan_on(network, &plan).await;
    let all: Vec<_> = cluster.nodes.iter().map(|node| node.host.four()).collect();
    let nobody = [10, 77, 0, 199].into();
    // Partial and stale: one of three, and one that is long gone.
    names.set(NAME, Reply::Addresses(vec![nobody, all[0]]));
    cluster.start_all().await;
    let asked = names.asked(NAME, RecordType::A);
    assert!(3 <= asked, "asked {asked} times");
    let mut run = Run::over("DNS stale, partial, silent", seed, cluster).await;
    for _ in 0..rounds {
        // An answer without it, none at all, or an error removes no member.
        for reply in [
            Reply::Addresses(vec![nobody]),
            Reply::Silence,
            Reply::Failure,
        ] {
            names.set(NAME, reply);
            run.go_on_for(Duration::from_secs(2)).await;
            let heard = run.cluster.nodes[0].heard_up().await;
            assert_eq!(heard.len(), 3, "{heard:?}");
        }
        // Who starts now finds nobody by name; the others find it again, or the name does later.
        let node = run.any_owner().await;
        node.signal(Signal::SIGKILL);
        node.ended().await;
        run.elsewhere(&node).await;
        node.start();
        node.until_ready().await;
        names.set(NAME, Reply::Addresses(all.clone()));
        run.recover().await;
    }
    run.finish().await;
}
