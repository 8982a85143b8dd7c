//! How soon a dead node is convicted, and how often a live one is by mistake.
//!
//! Ten nodes on loopback, each on a thread and runtime of its own, so that a node can be paused
//! as a whole (its thread sleeps, as if the process had been stopped), with the defaults of
//! [`Detection`]. Prints what the machine was doing meanwhile, too: on a busy one pauses add up.
//!
//! `cargo bench -p regrow-cluster --bench detection -- [ROUNDS]`

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use regrow_cluster::gossip::{Detection, Gossip, Options, Status};
use regrow_cluster::member::{Incarnation, Member, NodeName};
use regrow_cluster::secret::ClusterSecret;
use tokio::sync::{mpsc, watch};

const NODES: usize = 10;

/// What a node is told.
enum Order {
    /// Says what it has sent: datagrams and bytes.
    Count(SyncSender<(u64, u64)>),
    /// Sleeps with its whole thread.
    Pause(Duration),
    /// Stops without a word.
    Die,
}

/// What a node sees: who, of whom, whether it is up, and when.
type Seen = (usize, NodeName, Status, Instant);

struct Node {
    orders: mpsc::Sender<Order>,
    address: SocketAddr,
    thread: std::thread::JoinHandle<()>,
}

fn name(number: usize) -> NodeName {
    format!("n{number}").as_str().into()
}

fn start(number: usize, life: u64, seeds: Vec<SocketAddr>, seen: SyncSender<Seen>) -> Node {
    let (orders, mut received) = mpsc::channel(1);
    let (tell, address) = sync_channel(1);
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let secret = ClusterSecret::from_bytes(&(0..32).collect::<Vec<u8>>()).expect("sound");
            let member = Member {
                name: name(number),
                incarnation: Incarnation(life),
            };
            let options = Options::new(member, ([127, 0, 0, 1], 0).into());
            let (_sender, seeds) = watch::channel(seeds.into());
            let gossip = Gossip::start(options, secret, seeds)
                .await
                .expect("started");
            tell.send(gossip.address()).expect("awaited");
            let mut views = gossip.views();
            let mut before = gossip.view();
            loop {
                tokio::select! {
                    _ = views.changed() => {
                        let view = views.borrow_and_update().clone();
                        for (name, peer) in &view.peers {
                            let was = before.peers.get(name).map(|peer| peer.status);
                            if was != Some(peer.status) {
                                let news = (number, name.clone(), peer.status, Instant::now());
                                seen.send(news).expect("read");
                            }
                        }
                        before = view;
                    }
                    order = received.recv() => match order {
                        Some(Order::Count(reply)) => {
                            reply.send(gossip.counts().sent()).expect("awaited");
                        }
                        Some(Order::Pause(pause)) => pause_thread(pause),
                        Some(Order::Die) | None => return gossip.stop().await,
                    }
                }
            }
        });
    });
    Node {
        orders,
        address: address.recv().expect("started"),
        thread,
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the whole thread is to stand still"
)]
fn pause_thread(pause: Duration) {
    std::thread::sleep(pause);
}

/// Reads until all of `observers` see `status` of `of`; when each did, and what else was seen.
fn until(
    seen: &Receiver<Seen>,
    of: &NodeName,
    status: Status,
    mut observers: Vec<usize>,
) -> (Vec<Instant>, usize) {
    let (mut at, mut false_convictions) = (Vec::new(), 0);
    while !observers.is_empty() {
        let (observer, name, what, when) = seen
            .recv_timeout(Duration::from_secs(120))
            .expect("it is seen in the end");
        if name == *of && what == status {
            if let Some(position) = observers.iter().position(|other| *other == observer) {
                observers.swap_remove(position);
                at.push(when);
            }
        } else if what == Status::Down && name != *of {
            false_convictions += 1;
        }
    }
    (at, false_convictions)
}

/// Convictions within `period`.
fn convictions(seen: &Receiver<Seen>, period: Duration) -> usize {
    let until = Instant::now() + period;
    let mut count = 0;
    while let Ok((_, _, status, _)) =
        seen.recv_timeout(until.saturating_duration_since(Instant::now()))
    {
        count += usize::from(status == Status::Down);
    }
    count
}

/// Datagrams and bytes that all nodes have sent so far.
fn sent(nodes: &[Node]) -> (u64, u64) {
    let (mut datagrams, mut bytes) = (0, 0);
    for node in nodes {
        let (reply, sent) = sync_channel(1);
        node.orders
            .blocking_send(Order::Count(reply))
            .expect("it lives");
        let sent = sent.recv().expect("it answers");
        datagrams += sent.0;
        bytes += sent.1;
    }
    (datagrams, bytes)
}

/// CPU time of this process so far, in hundredths of a second.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let used = fields.split_whitespace().skip(11).take(2);
    used.filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_else(|_| "unknown".to_owned())
}

#[allow(clippy::print_stdout, reason = "a bench reports to whoever ran it")]
fn main() {
    let rounds = std::env::args()
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(10);
    println!("{:?}", Detection::default());
    println!("load at the start: {}", load().trim());
    let (sender, seen) = sync_channel(10_000);
    let mut nodes: Vec<Node> = Vec::new();
    for number in 0..NODES {
        let seeds = nodes
            .first()
            .map(|first| first.address)
            .into_iter()
            .collect();
        nodes.push(start(number, 1, seeds, sender.clone()));
    }
    let mut met = BTreeSet::new();
    while met.len() < NODES * (NODES - 1) {
        let (observer, name, status, _) = seen
            .recv_timeout(Duration::from_secs(60))
            .expect("they meet");
        if status == Status::Up {
            met.insert((observer, name));
        }
    }

    let (sent, cpu) = (sent(&nodes), cpu_ticks());
    let quiet = convictions(&seen, Duration::from_secs(30));
    println!("false convictions among {NODES} nodes within 30 s at rest: {quiet}");
    let (datagrams, bytes) = self::sent(&nodes);
    let each = |count: u64| count as f64 / 30.0 / NODES as f64;
    println!(
        "each node sent {:.0} datagrams/s, {:.1} kB/s; {:.2} % of a core",
        each(datagrams - sent.0),
        each(bytes - sent.1) / 1000.0,
        each(cpu_ticks() - cpu)
    );

    for pause in [1000, 1500, 2000, 2500, 4000].map(Duration::from_millis) {
        let mut convicted = 0;
        for round in 0..rounds {
            let paused = &nodes[1 + round % (NODES - 1)];
            paused
                .orders
                .blocking_send(Order::Pause(pause))
                .expect("it lives");
            convicted += convictions(&seen, pause + Duration::from_secs(2));
        }
        println!(
            "{rounds} pauses of {pause:?}: {convicted} convictions of {} observations \
             (by others, and by the paused node of others)",
            2 * rounds * (NODES - 1)
        );
    }

    let mut took: Vec<Duration> = Vec::new();
    let mut joined: Vec<Duration> = Vec::new();
    let mut mistaken = 0;
    let mut life = 1;
    for round in 0..rounds {
        let number = 1 + round % (NODES - 1);
        let others: Vec<usize> = (0..NODES).filter(|other| *other != number).collect();
        let killed = Instant::now();
        nodes[number]
            .orders
            .blocking_send(Order::Die)
            .expect("it lives");
        let (at, mistakes) = until(&seen, &name(number), Status::Down, others.clone());
        took.extend(at.iter().map(|at| *at - killed));
        mistaken += mistakes;

        life += 1;
        let seeds = vec![nodes[0].address];
        let began = Instant::now();
        let next = start(number, life, seeds, sender.clone());
        let old = std::mem::replace(&mut nodes[number], next);
        old.thread.join().expect("it ended orderly");
        let (at, _) = until(&seen, &name(number), Status::Up, others);
        joined.extend(at.iter().map(|at| *at - began));
    }
    for (what, mut took) in [("death to conviction", took), ("start to up", joined)] {
        took.sort();
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
        println!(
            "{what}, {} observations: p50 {:?}, p99 {:?}, max {:?}",
            took.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
    println!("others convicted meanwhile: {mistaken}");
    println!("load at the end: {}", load().trim());
}
