//! Nodes that gossip over real UDP on loopback, and attackers among them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use regrow_cluster::gossip::{Gossip, Options, Peer, Reason, StartError, Status, View, facts};
use regrow_cluster::member::{Incarnation, Member};
use regrow_cluster::secret::{ClusterSecret, Secrets};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Longest wait for anything; what takes seconds on an idle machine may take longer here.
const PATIENCE: Duration = Duration::from_secs(60);

fn secret(seed: u8) -> ClusterSecret {
    let bytes: Vec<u8> = (seed..seed + 32).collect();
    ClusterSecret::from_bytes(&bytes).expect("sound")
}

fn options(name: &str, life: u64) -> Options {
    let member = Member {
        name: name.into(),
        incarnation: Incarnation(life),
    };
    Options::new(member, ([127, 0, 0, 1], 0).into())
}

async fn start(
    options: Options,
    secrets: impl Into<Secrets>,
    seeds: impl IntoIterator<Item = SocketAddr>,
) -> Gossip {
    let (_sender, seeds) = watch::channel(seeds.into_iter().collect());
    Gossip::start(options, secrets, seeds)
        .await
        .expect("it starts")
}

async fn node(name: &str, seeds: impl IntoIterator<Item = SocketAddr>) -> Gossip {
    start(options(name, 1), secret(0), seeds).await
}

#[track_caller]
fn peer(view: &View, name: &str) -> Option<Peer> {
    view.peers.get(&name.into()).cloned()
}

fn status(view: &View, name: &str) -> Option<Status> {
    peer(view, name).map(|peer| peer.status)
}

async fn until(gossip: &Gossip, what: &str, holds: impl Fn(&View) -> bool) -> Arc<View> {
    let mut views = gossip.views();
    let seen = timeout(PATIENCE, views.wait_for(|view| holds(view))).await;
    assert!(
        seen.is_ok(),
        "waited for {what}, but sees {:#?}",
        gossip.view()
    );
    seen.expect("in time").expect("it runs").clone()
}

#[tokio::test]
async fn three_nodes_find_each_other_and_facts_spread_and_go() {
    let a = node("a", []).await;
    let b = node("b", [a.address()]).await;
    // It knows itself as a seed, which does no harm.
    let own = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = own.local_addr().unwrap();
    drop(own);
    let mut with_facts = options("c", 7);
    with_facts.listen = listen;
    with_facts
        .facts
        .insert(facts::HTTP.into(), "10.0.0.3:7400".into());
    let c = start(with_facts, secret(0), [listen, b.address()]).await;

    let nodes = [&a, &b, &c];
    for node in nodes {
        until(node, "two peers up", |view| view.up().count() == 2).await;
    }
    let view = until(&a, "c's facts", |view| {
        peer(view, "c").is_some_and(|c| c.facts.contains_key(facts::HTTP))
    });
    let c_seen = peer(&*view.await, "c").unwrap();
    assert_eq!(c_seen.facts[facts::HTTP], "10.0.0.3:7400");
    assert_eq!(c_seen.member.incarnation, Incarnation(7));
    assert_eq!(c_seen.gossip, c.address());

    let spec = r#"{"role":"worker","épreuve":"ß"}"#;
    b.set_fact("spec/worker-1", spec).unwrap();
    b.set_fact(facts::LOAD, "0.5").unwrap();
    for node in [&a, &c] {
        until(node, "b's facts", |view| {
            let b = peer(view, "b").unwrap();
            b.facts
                .get("spec/worker-1")
                .is_some_and(|seen| seen == spec)
                && b.read(facts::LOAD).unwrap() == Some(0.5)
        })
        .await;
    }
    b.remove_fact("spec/worker-1");
    b.set_fact(facts::LOAD, "0.75").unwrap();
    for node in [&a, &c] {
        until(node, "b's facts to change", |view| {
            let b = peer(view, "b").unwrap();
            !b.facts.contains_key("spec/worker-1") && b.facts[facts::LOAD] == "0.75"
        })
        .await;
    }
    let suspicion = a.suspicions()[&"b".into()];
    assert!(
        suspicion.silence < suspicion.convicted_after,
        "{suspicion:?}"
    );
    assert!(b.set_fact("regrow.left", "1").is_err());
}

#[tokio::test]
async fn facts_of_many_datagrams_reach_a_node_that_joins_late() {
    let a = node("a", []).await;
    let mut rng = SmallRng::seed_from_u64(1);
    // Not to be compressed: 200 KiB.
    for number in 0..25 {
        let value: String = (0..8192).map(|_| rng.random_range('!'..'~')).collect();
        a.set_fact(&format!("spec/{number}"), &value).unwrap();
    }
    let b = node("b", [a.address()]).await;
    let view = until(&b, "all facts", |view| {
        peer(view, "a").is_some_and(|a| a.facts.len() == 25)
    });
    assert!(
        peer(&*view.await, "a")
            .unwrap()
            .facts
            .values()
            .all(|fact| fact.len() == 8192)
    );
}

#[tokio::test]
async fn a_killed_node_is_convicted_and_its_next_life_joins() {
    let a = node("a", []).await;
    let b = node("b", [a.address()]).await;
    let c = node("c", [a.address()]).await;
    for node in [&a, &b, &c] {
        until(node, "two peers up", |view| view.up().count() == 2).await;
    }
    let address = b.address();
    b.stop().await;
    let killed = Instant::now();
    for node in [&a, &c] {
        until(node, "b to be down", |view| {
            status(view, "b") == Some(Status::Down)
        })
        .await;
        println!("convicted after {:?}", killed.elapsed());
        assert_eq!(
            status(&node.view(), "c").or(status(&node.view(), "a")),
            Some(Status::Up)
        );
    }

    let mut again = options("b", 2);
    again.listen = address;
    let b = start(again, secret(0), [a.address()]).await;
    for node in [&a, &c] {
        until(node, "b's next life", |view| {
            let b = peer(view, "b").unwrap();
            b.status == Status::Up && b.member.incarnation == Incarnation(2)
        })
        .await;
    }
    until(&b, "two peers up", |view| view.up().count() == 2).await;
}

#[tokio::test]
async fn a_node_that_leaves_has_left_and_is_never_down() {
    let a = node("a", []).await;
    let b = node("b", [a.address()]).await;
    let c = node("c", [a.address()]).await;
    for node in [&a, &b, &c] {
        until(node, "two peers up", |view| view.up().count() == 2).await;
    }
    b.leave().await;
    for node in [&a, &c] {
        let view = until(node, "b to be gone", |view| {
            status(view, "b") != Some(Status::Up)
        });
        assert_eq!(status(&*view.await, "b"), Some(Status::Left));
    }
    // Long after the detector has convicted it, it still has left.
    let mut views = a.views();
    let changes = timeout(Duration::from_secs(4), async {
        loop {
            views.changed().await.unwrap();
            assert_eq!(status(&views.borrow(), "b"), Some(Status::Left));
        }
    });
    changes.await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_nodes_agree_and_nine_convict_the_tenth() {
    let first = node("n0", []).await;
    let mut nodes = vec![];
    for number in 1..10 {
        nodes.push(node(&format!("n{number}"), [first.address()]).await);
    }
    nodes.insert(0, first);
    let began = Instant::now();
    for node in &nodes {
        until(node, "nine peers up", |view| view.up().count() == 9).await;
    }
    println!("ten nodes know each other after {:?}", began.elapsed());
    for (number, node) in nodes.iter().enumerate() {
        node.set_fact(facts::LOAD, &number.to_string()).unwrap();
    }
    let said = Instant::now();
    for node in &nodes {
        until(node, "nine facts", |view| {
            let loads = view.peers.iter().filter(|(name, peer)| {
                peer.facts
                    .get(facts::LOAD)
                    .is_some_and(|load| name.as_str() == format!("n{load}"))
            });
            loads.count() == 9
        })
        .await;
    }
    println!("all know all facts after {:?}", said.elapsed());
    nodes.pop();
    let killed = Instant::now();
    for node in &nodes {
        until(node, "n9 to be down", |view| {
            status(view, "n9") == Some(Status::Down)
        })
        .await;
    }
    println!("all nine convicted after {:?}", killed.elapsed());
    // A busy machine may have cost a false conviction meanwhile; it does not last.
    for node in &nodes {
        until(node, "eight peers up", |view| view.up().count() == 8).await;
    }
}

#[tokio::test]
async fn two_nodes_of_one_name_hear_of_each_other() {
    let a = node("a", []).await;
    let b = node("b", [a.address()]).await;
    let twin = node("b", [a.address()]).await;
    let view = until(&b, "its rival", |view| view.rival.is_some()).await;
    let (member, address) = view.rival.clone().expect("a rival");
    assert_eq!((member.name, address), ("b".into(), twin.address()));
    until(&twin, "its rival", |view| view.rival.is_some()).await;
    assert_eq!(
        until(&a, "one of them", |view| view.up().count() == 1)
            .await
            .peers
            .len(),
        1
    );
}

#[tokio::test]
async fn nodes_speak_over_ipv6() {
    let at = |name| {
        let mut options = options(name, 1);
        options.listen = "[::1]:0".parse().expect("an address");
        options
    };
    let (_sender, nobody) = watch::channel(Arc::from([]));
    let a = match Gossip::start(at("a"), secret(0), nobody).await {
        Ok(a) => a,
        Err(StartError::Bind { .. }) => return println!("not run: no IPv6 on this machine"),
        Err(error) => unreachable!("{error}"),
    };
    let b = start(at("b"), secret(0), [a.address()]).await;
    until(&a, "b", |view| status(view, "b") == Some(Status::Up)).await;
    until(&b, "a", |view| status(view, "a") == Some(Status::Up)).await;
}

#[tokio::test]
async fn seeds_that_come_later_are_tried() {
    let a = node("a", []).await;
    let (found, seeds) = watch::channel(Arc::from([]));
    let b = Gossip::start(options("b", 1), secret(0), seeds)
        .await
        .unwrap();
    assert_eq!(b.view().peers.len(), 0);
    found.send_replace([a.address()].into());
    until(&b, "a", |view| status(view, "a") == Some(Status::Up)).await;
    until(&a, "b", |view| status(view, "b") == Some(Status::Up)).await;
}

#[tokio::test]
async fn a_node_with_another_secret_or_of_another_cluster_never_joins() {
    let a = node("a", []).await;
    let b = node("b", [a.address()]).await;
    let stranger = start(options("stranger", 1), secret(50), [a.address()]).await;
    let mut foreign = options("foreign", 1);
    foreign.cluster = "another".into();
    let foreign = start(foreign, secret(0), [a.address()]).await;

    until(&a, "b", |view| view.up().count() == 1).await;
    let begun = Instant::now();
    while a.counts().dropped(Reason::Unauthentic) < 5 || foreign.counts().messages() < 5 {
        assert!(begun.elapsed() < PATIENCE, "they do not try");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for node in [&a, &b] {
        assert_eq!(
            node.view()
                .peers
                .keys()
                .filter(|name| name.as_str().len() > 1)
                .count(),
            0
        );
    }
    assert_eq!(stranger.view().peers.len() + foreign.view().peers.len(), 0);
    assert_eq!(stranger.counts().messages(), 0);
}

#[tokio::test]
async fn the_secret_is_changed_under_way_and_the_old_one_is_of_no_use_afterwards() {
    let (old, new) = (secret(0), secret(100));
    let both = |present: &ClusterSecret, accepted: &ClusterSecret| Secrets {
        present: present.clone(),
        accepted: Some(accepted.clone()),
    };
    let a = node("a", []).await;
    let b = node("b", [a.address()]).await;
    let c = node("c", [a.address()]).await;
    let nodes = [&a, &b, &c];
    for node in nodes {
        until(node, "two peers up", |view| view.up().count() == 2).await;
    }
    let steps = [both(&old, &new), both(&new, &old), new.clone().into()];
    for (number, step) in steps.into_iter().enumerate() {
        for node in nodes {
            node.rotate(step.clone());
            // Facts reach everybody while only some have taken the step.
            let value = format!("{number} {}", node.address());
            node.set_fact("step", &value).unwrap();
            for other in nodes
                .into_iter()
                .filter(|other| other.address() != node.address())
            {
                until(other, "the step", |view| {
                    let said = view
                        .peers
                        .values()
                        .find(|peer| peer.gossip == node.address());
                    said.is_some_and(|said| said.facts.get("step") == Some(&value))
                })
                .await;
            }
        }
    }
    for node in nodes {
        assert_eq!(node.counts().dropped(Reason::Unauthentic), 0);
        assert!(0 < node.counts().under_accepted());
    }
    let late = start(options("late", 1), old, [a.address()]).await;
    let began = Instant::now();
    while a.counts().dropped(Reason::Unauthentic) == 0 {
        assert!(began.elapsed() < PATIENCE, "it does not try");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(late.view().peers.len(), 0);
    assert_eq!(a.view().peers.len(), 2);
}

/// Datagrams, each with the number of the node it was for.
type Recorded = Arc<Mutex<Vec<(usize, Vec<u8>)>>>;

/// Stands between two nodes and keeps what passes.
struct Relay {
    addresses: [SocketAddr; 2],
    recorded: Recorded,
    _tasks: JoinSet<()>,
}

impl Relay {
    async fn between(nodes: [SocketAddr; 2]) -> Self {
        let mut sockets = Vec::new();
        for _ in nodes {
            sockets.push(Arc::new(
                UdpSocket::bind("127.0.0.1:0")
                    .await
                    .expect("loopback works"),
            ));
        }
        let recorded = Recorded::default();
        let mut tasks = JoinSet::new();
        for (to, address) in nodes.into_iter().enumerate() {
            let (here, out) = (sockets[to].clone(), sockets[1 - to].clone());
            let recorded = recorded.clone();
            tasks.spawn(async move {
                let mut buffer = vec![0; 65_536];
                loop {
                    let (bytes, _) = here.recv_from(&mut buffer).await.expect("loopback works");
                    recorded.lock().push((to, buffer[..bytes].to_vec()));
                    out.send_to(&buffer[..bytes], address)
                        .await
                        .expect("loopback works");
                }
            });
        }
        let address = |at: usize| sockets[at].local_addr().expect("loopback works");
        Self {
            addresses: [address(0), address(1)],
            recorded,
            _tasks: tasks,
        }
    }
}

fn free_port() -> SocketAddr {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback works");
    socket.local_addr().expect("loopback works")
}

#[tokio::test]
async fn attackers_change_nothing_and_are_counted() {
    let seed = 7;
    println!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let listen = [free_port(), free_port()];
    let relay = Relay::between(listen).await;
    let behind = |name: &str, life: u64, at: usize| {
        let mut options = options(name, life);
        options.listen = listen[at];
        options.advertise = Some(relay.addresses[at]);
        options
    };
    let a = start(behind("a", 1, 0), secret(0), []).await;
    let b = start(behind("b", 1, 1), secret(0), [relay.addresses[0]]).await;
    b.set_fact("load", "1").unwrap();
    let b_is = |life: u64, load: &'static str| {
        move |view: &View| {
            peer(view, "b").is_some_and(|b| {
                b.status == Status::Up
                    && b.member.incarnation == Incarnation(life)
                    && b.facts.get("load").is_some_and(|said| said == load)
            })
        }
    };
    until(&a, "b's load", b_is(1, "1")).await;
    b.set_fact("load", "2").unwrap();
    until(&a, "b's next load", b_is(1, "2")).await;
    until(&b, "a", |view| status(view, "a") == Some(Status::Up)).await;

    let attacker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let before = relay.recorded.lock().clone();
    assert!(20 < before.len(), "only {} datagrams passed", before.len());
    for (to, datagram) in &before {
        // As it was, changed in one bit, cut, and led to the other node.
        let mut changed = datagram.clone();
        let at = rng.random_range(0..changed.len());
        changed[at] ^= 1 << rng.random_range(0..8);
        let cut = &datagram[..rng.random_range(0..datagram.len())];
        for bad in [&datagram[..], &changed, cut] {
            attacker.send_to(bad, listen[*to]).await.unwrap();
            attacker.send_to(bad, listen[1 - *to]).await.unwrap();
        }
        tokio::task::yield_now().await;
    }
    for number in 0..20_000 {
        let bytes = if number % 100 == 0 {
            9_000
        } else {
            rng.random_range(0..1_300)
        };
        let mut garbage: Vec<u8> = (0..bytes).map(|_| rng.random()).collect();
        if let Some(version) = garbage.first_mut().filter(|_| number % 2 == 0) {
            *version = 1;
        }
        attacker
            .send_to(&garbage, listen[number % 2])
            .await
            .unwrap();
        if number % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }

    for node in [&a, &b] {
        let expected = [
            Reason::Malformed,
            Reason::Oversized,
            Reason::Unauthentic,
            Reason::Replayed,
            Reason::Own,
        ];
        for reason in expected {
            assert!(0 < node.counts().dropped(reason), "no datagram {reason:?}");
        }
        println!(
            "{:?}",
            Reason::ALL.map(|reason| (reason, node.counts().dropped(reason)))
        );
    }
    // Nothing has changed, and everything still works.
    until(&a, "b as before", b_is(1, "2")).await;
    assert_eq!(a.view().peers.len() + b.view().peers.len(), 2);
    b.set_fact("load", "3").unwrap();
    until(&a, "b's last load", b_is(1, "3")).await;

    // Both restart and know nothing of what was received; recordings do not raise the dead.
    a.stop().await;
    b.stop().await;
    let recorded = relay.recorded.lock().clone();
    let a = start(behind("a", 2, 0), secret(0), []).await;
    for (to, datagram) in &recorded {
        attacker.send_to(datagram, listen[*to]).await.unwrap();
        attacker.send_to(datagram, listen[1 - *to]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let b = start(behind("b", 2, 1), secret(0), [relay.addresses[0]]).await;
    b.set_fact("load", "4").unwrap();
    until(&a, "b's next life", b_is(2, "4")).await;
    assert!(0 < a.counts().dropped(Reason::Unproven));
    assert_eq!(a.view().peers.len(), 1);
}

#[tokio::test]
async fn options_that_cannot_work_are_refused() {
    let (_sender, nobody) = watch::channel(Arc::from([]));
    let refused = async |change: fn(&mut Options)| {
        let mut options = options("a", 1);
        change(&mut options);
        Gossip::start(options, secret(0), nobody.clone())
            .await
            .err()
    };
    let all = refused(|options| options.listen = ([0, 0, 0, 0], 0).into()).await;
    assert!(matches!(all, Some(StartError::NoAddress { .. })), "{all:?}");
    let unnamed = refused(|options| options.member.name = "".into()).await;
    assert!(
        matches!(unnamed, Some(StartError::Name { bytes: 0, .. })),
        "{unnamed:?}"
    );
    let idle = refused(|options| options.interval = Duration::ZERO).await;
    assert!(
        matches!(idle, Some(StartError::Zero { what: "interval" })),
        "{idle:?}"
    );
    let nan = refused(|options| options.detection.phi_threshold = f64::NAN).await;
    assert!(matches!(nan, Some(StartError::Zero { .. })), "{nan:?}");
    let elsewhere = refused(|options| options.listen = ([192, 0, 2, 1], 0).into()).await;
    assert!(
        matches!(elsewhere, Some(StartError::Bind { .. })),
        "{elsewhere:?}"
    );
}
