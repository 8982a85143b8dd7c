//! Calls and casts through the gateway beside ractor_cluster alone, between two processes on
//! this machine, in turns; and what a frozen peer costs.
//!
//! `REGROW_ROUNDS` sets how many turns each of the two takes (5).

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench reports and may panic"
)]

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use hdrhistogram::Histogram;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use ractor_cluster::node::NodeConnectionMode;
use ractor_cluster::{NodeServer, NodeServerMessage, RactorClusterMessage};
use regrow_cluster::member::{Incarnation, Member};
use regrow_cluster::secret::ClusterSecret;
use regrow_cluster::transport::{
    Call, CastError, Gateway, GatewayConfig, Incoming, Rejection, Service, Transport,
    TransportConfig,
};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const CALLS: usize = 3_000;
const TOGETHER: usize = 64;
const CASTS: usize = 200_000;
const PAYLOAD: usize = 64;
const DEADLINE: Duration = Duration::from_secs(60);
const GROUP: &str = "echo";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    match std::env::var("REGROW_BENCH_PEER").as_deref() {
        Ok("bare") => runtime.block_on(bare_peer()),
        Ok(_) => runtime.block_on(gateway_peer()),
        Err(_) => runtime.block_on(compare()),
    }
}

async fn compare() {
    let rounds: usize = std::env::var("REGROW_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap());
    let (mut bare_child, bare_at) = peer("bare").await;
    let (mut gateway_child, gateway_at) = peer("gateway").await;
    let bare = Bare::connect(bare_at).await;
    let (gateway, to) = connect(gateway_at).await;
    println!("between two processes, {PAYLOAD} bytes, {rounds} rounds in turns\n");
    let mut figures: [[Vec<f64>; 2]; 3] = Default::default();
    for _ in 0..rounds {
        figures[0][0].push(p50_us(|| bare.call()).await);
        figures[0][1].push(p50_us(|| call(&gateway, &to)).await);
        figures[1][0].push(calls_per_second(|| bare.call()).await);
        figures[1][1].push(calls_per_second(|| call(&gateway, &to)).await);
        figures[2][0].push(bare.casts_per_second().await);
        figures[2][1].push(casts_per_second(&gateway, &to).await);
    }
    let names = [
        "call, one at a time, p50 µs",
        "calls/s, 64 at once",
        "casts/s",
    ];
    println!("{:28} {:>12} {:>12} {:>8}", "", "bare", "gateway", "ratio");
    for (name, [bare, gateway]) in names.iter().zip(figures) {
        let (bare, gateway) = (median(bare), median(gateway));
        println!(
            "{name:28} {bare:12.1} {gateway:12.1} {:8.2}",
            gateway / bare
        );
    }
    let frozen = Pid::from_raw(i32::try_from(gateway_child.id().unwrap()).unwrap());
    kill(frozen, Signal::SIGSTOP).unwrap();
    let before = resident_bytes();
    let mut taken = 0;
    for _ in 0..400_000 {
        taken += usize::from(gateway.cast(&to, Bytes::from(vec![7; 1_024])).is_ok());
    }
    let after = resident_bytes();
    println!(
        "\n400000 casts of 1 KiB to a frozen peer: {taken} taken, {:.1} MiB more resident",
        after.saturating_sub(before) as f64 / 1024.0 / 1024.0
    );
    bare_child.kill().await.unwrap();
    gateway_child.kill().await.unwrap();
    std::process::exit(0);
}

async fn peer(which: &str) -> (Child, SocketAddr) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env("REGROW_BENCH_PEER", which)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines.next_line().await.unwrap().unwrap();
    (child, address.parse().unwrap())
}

async fn p50_us<F: Future<Output = ()>>(call: impl Fn() -> F) -> f64 {
    let mut latency = Histogram::<u64>::new(3).unwrap();
    for _ in 0..CALLS {
        let started = Instant::now();
        call().await;
        latency.record(started.elapsed().as_nanos() as u64).unwrap();
    }
    latency.value_at_quantile(0.5) as f64 / 1_000.0
}

async fn calls_per_second<F: Future<Output = ()>>(call: impl Fn() -> F) -> f64 {
    let started = Instant::now();
    let callers = (0..TOGETHER).map(|_| async {
        for _ in 0..CALLS * 4 / TOGETHER {
            call().await;
        }
    });
    futures::future::join_all(callers).await;
    (CALLS * 4) as f64 / started.elapsed().as_secs_f64()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

// --- through the gateway

#[derive(Default)]
struct Echo {
    casts: AtomicU64,
}

struct EchoService(Arc<Echo>);

impl Service for EchoService {
    fn call(&self, call: Incoming) -> BoxFuture<'static, Result<Bytes, Rejection>> {
        async move { Ok(call.payload) }.boxed()
    }

    fn cast(&self, _: Member, _: Bytes) -> BoxFuture<'static, ()> {
        let echo = self.0.clone();
        async move {
            echo.casts.fetch_add(1, Ordering::Relaxed);
        }
        .boxed()
    }
}

async fn gateway(name: &str) -> Gateway {
    let bytes: Vec<u8> = (0..32).collect();
    let secret = ClusterSecret::from_bytes(&bytes).unwrap();
    let config = GatewayConfig {
        member: Member {
            name: name.into(),
            incarnation: Incarnation(1),
        },
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        secrets: secret.into(),
        credentials: None,
        transport: TransportConfig::default(),
    };
    let service = EchoService(Arc::default());
    Gateway::start(config, Arc::new(service)).await.unwrap()
}

async fn gateway_peer() {
    let gateway = gateway("peer").await;
    println!("{}", gateway.address());
    gateway.ended().await;
}

async fn connect(address: SocketAddr) -> (Gateway, Member) {
    let gateway = gateway("here").await;
    let to = gateway.connect(address, None).await.unwrap();
    (gateway, to)
}

async fn call(gateway: &Gateway, to: &Member) {
    let call = Call {
        payload: Bytes::from(vec![7; PAYLOAD]),
        deadline: DEADLINE,
        operation: None,
    };
    assert_eq!(gateway.call(to, call).await.unwrap().len(), PAYLOAD);
}

async fn casts_per_second(gateway: &Gateway, to: &Member) -> f64 {
    let started = Instant::now();
    for _ in 0..CASTS {
        let mut payload = Bytes::from(vec![7; PAYLOAD]);
        while let Err(error) = gateway.cast(to, payload) {
            if let CastError::Full { retry_after, .. } = &error {
                tokio::time::sleep((*retry_after).min(Duration::from_millis(2))).await;
            }
            payload = error.into_payload();
        }
    }
    call(gateway, to).await;
    CASTS as f64 / started.elapsed().as_secs_f64()
}

// --- ractor_cluster alone

#[derive(RactorClusterMessage)]
enum EchoMessage {
    Take(Vec<u8>),
    #[rpc]
    Ask(Vec<u8>, RpcReplyPort<Vec<u8>>),
}

struct EchoActor;

impl Actor for EchoActor {
    type Msg = EchoMessage;
    type State = u64;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<EchoMessage>, (): ()) -> Result<u64, ActorProcessingErr> {
        Ok(0)
    }

    async fn handle(
        &self,
        _: ActorRef<EchoMessage>,
        message: EchoMessage,
        casts: &mut u64,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            EchoMessage::Take(_) => *casts += 1,
            EchoMessage::Ask(payload, reply) => reply.send(payload)?,
        }
        Ok(())
    }
}

async fn node_server(name: &str, port: u16) -> ActorRef<NodeServerMessage> {
    let server = NodeServer::new(
        port,
        "cookie".to_owned(),
        name.to_owned(),
        name.to_owned(),
        None,
        Some(NodeConnectionMode::Isolated),
    );
    Actor::spawn(None, server, ()).await.unwrap().0
}

async fn bare_peer() {
    let (echo, ending) = Actor::spawn(None, EchoActor, ()).await.unwrap();
    ractor::pg::join(GROUP.to_owned(), vec![echo.get_cell()]);
    // Its listener takes a port of its own choice and tells nobody which.
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = probe.local_addr().unwrap();
    drop(probe);
    let _server = node_server("bare-peer", address.port()).await;
    println!("{address}");
    ending.await.unwrap();
}

struct Bare(ActorRef<EchoMessage>);

impl Bare {
    async fn connect(address: SocketAddr) -> Self {
        let server = node_server("bare-here", 0).await;
        ractor_cluster::client_connect(&server, address)
            .await
            .unwrap();
        loop {
            let members = ractor::pg::get_members(&GROUP.to_owned());
            if let Some(cell) = members.into_iter().next() {
                return Self(ActorRef::from(cell));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn call(&self) {
        let payload = vec![7; PAYLOAD];
        let asked = ractor::call_t!(self.0, EchoMessage::Ask, 60_000, payload);
        assert_eq!(asked.unwrap().len(), PAYLOAD);
    }

    async fn casts_per_second(&self) -> f64 {
        let started = Instant::now();
        for _ in 0..CASTS {
            self.0
                .send_message(EchoMessage::Take(vec![7; PAYLOAD]))
                .unwrap();
        }
        self.call().await;
        CASTS as f64 / started.elapsed().as_secs_f64()
    }
}
