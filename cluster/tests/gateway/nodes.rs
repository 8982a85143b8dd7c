//! Nodes of a test, in this process or in another, and what they answer.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use regrow_cluster::member::{Incarnation, Member, NodeName};
use regrow_cluster::secret::ClusterSecret;
use regrow_cluster::transport::{
    Call, Gateway, GatewayConfig, Incoming, Peer, PeerState, Rejection, Service, Transport,
    TransportConfig,
};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{Notify, watch};

/// Long enough for anything that works, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn member(name: &str, incarnation: u64) -> Member {
    Member {
        name: name.into(),
        incarnation: Incarnation(incarnation),
    }
}

/// A cluster's secret; another one for each number.
pub(crate) fn secret(number: u8) -> ClusterSecret {
    let bytes: Vec<u8> = (number..number + 32).collect();
    ClusterSecret::from_bytes(&bytes).expect("long enough")
}

/// What the nodes of these tests do with messages: the first word says.
#[derive(Default)]
pub(crate) struct Answers {
    /// Casts, in order of arrival.
    pub(crate) casts: parking_lot::Mutex<Vec<Bytes>>,
    pub(crate) casts_total: watch::Sender<u64>,
    /// Calls that have begun.
    pub(crate) begun: AtomicU64,
    /// Holds calls and casts named `hold` until there is a permit.
    pub(crate) gate: Gate,
}

pub(crate) struct Gate {
    pub(crate) permits: tokio::sync::Semaphore,
    pub(crate) waiting: Notify,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            permits: tokio::sync::Semaphore::new(0),
            waiting: Notify::new(),
        }
    }
}

impl Gate {
    async fn pass(&self) {
        self.waiting.notify_one();
        self.permits.acquire().await.expect("never closed").forget();
    }
}

/// What a node answers, shared with its test.
#[derive(Clone, Default)]
pub(crate) struct Told(pub(crate) Arc<Answers>);

impl Service for Told {
    fn call(&self, call: Incoming) -> BoxFuture<'static, Result<Bytes, Rejection>> {
        let told = self.0.clone();
        async move {
            told.begun.fetch_add(1, Ordering::SeqCst);
            match call.payload.split_at(4.min(call.payload.len())) {
                (b"hold", _) => told.gate.pass().await,
                (b"fail", _) => panic!("as was asked"),
                (b"deny", why) => {
                    return Err(Rejection(String::from_utf8_lossy(why).into_owned()));
                }
                (b"from", _) => return Ok(Bytes::from(call.from.to_string())),
                (kind @ (b"make" | b"late"), bytes) => {
                    if kind == b"late" {
                        told.gate.pass().await;
                    }
                    let bytes = String::from_utf8_lossy(bytes).parse().expect("a number");
                    return Ok(Bytes::from(vec![7; bytes]));
                }
                _ => {}
            }
            Ok(call.payload)
        }
        .boxed()
    }

    fn cast(&self, _: Member, payload: Bytes) -> BoxFuture<'static, ()> {
        let told = self.0.clone();
        async move {
            if payload.starts_with(b"hold") {
                told.gate.pass().await;
            }
            told.casts.lock().push(payload);
            told.casts_total.send_modify(|total| *total += 1);
        }
        .boxed()
    }
}

/// A node in this process.
pub(crate) struct Node {
    pub(crate) gateway: Gateway,
    pub(crate) told: Told,
}

pub(crate) fn config(name: &str, incarnation: u64) -> GatewayConfig {
    GatewayConfig {
        member: member(name, incarnation),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        secrets: secret(0).into(),
        credentials: None,
        transport: TransportConfig::default(),
    }
}

impl Node {
    pub(crate) async fn start(name: &str) -> Self {
        Self::with(config(name, 1)).await
    }

    pub(crate) async fn with(config: GatewayConfig) -> Self {
        let told = Told::default();
        let gateway = Gateway::start(config, Arc::new(told.clone())).await;
        let gateway = gateway.expect("a free port");
        Self { gateway, told }
    }

    pub(crate) async fn meet(&self, other: &Self) -> Member {
        let address = other.gateway.address();
        let met = self
            .gateway
            .connect(address, None)
            .await
            .expect("connected");
        let me = self.gateway.member().clone();
        until_peer(&other.gateway, |peer| {
            peer.member == me && peer.state == PeerState::Ready
        })
        .await;
        met
    }

    pub(crate) async fn ask(
        &self,
        to: &Member,
        text: &str,
    ) -> Result<Bytes, regrow_cluster::transport::CallError> {
        self.gateway.call(to, question(text)).await
    }

    pub(crate) async fn stop(self) {
        self.gateway.stop(Duration::ZERO).await;
    }
}

pub(crate) fn question(text: &str) -> Call {
    Call {
        payload: Bytes::copy_from_slice(text.as_bytes()),
        deadline: PATIENCE,
        operation: None,
    }
}

/// Waits for a peer.
pub(crate) async fn until_peer(gateway: &Gateway, is_it: impl Fn(&Peer) -> bool) {
    until(gateway, |peers| peers.iter().any(&is_it)).await;
}

/// Waits for the peers to be so.
pub(crate) async fn until(gateway: &Gateway, is_so: impl Fn(&[Peer]) -> bool) {
    let mut peers = gateway.peers();
    let waiting = peers.wait_for(|peers| is_so(peers));
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    let is_fine = waited.is_ok_and(|changed| changed.is_ok());
    assert!(is_fine, "peers are {:?}", *gateway.peers().borrow());
}

/// A node in a process of its own.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) member: Member,
    pub(crate) address: SocketAddr,
    lines: Lines<BufReader<ChildStdout>>,
    input: ChildStdin,
}

impl Process {
    /// Starts the node and waits until it listens. `deed` says what else it does.
    pub(crate) async fn start(name: &str, incarnation: u64, deed: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("a test binary"))
            .args([
                "processes::peer",
                "--exact",
                "--nocapture",
                "--test-threads=1",
            ])
            .env("REGROW_PEER", format!("{name} {incarnation} {deed}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("runs itself");
        let output = child.stdout.take().expect("piped");
        let input = child.stdin.take().expect("piped");
        let mut process = Self {
            child,
            member: member(name, incarnation),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            lines: BufReader::new(output).lines(),
            input,
        };
        let address = process.says("listening").await;
        process.address = address.parse().expect("an address");
        process
    }

    /// Waits until it says so, and returns the rest of that line.
    pub(crate) async fn says(&mut self, what: &str) -> String {
        let hearing = async {
            while let Some(line) = self.lines.next_line().await.expect("readable") {
                // The test harness writes beside it.
                if let Some((_, rest)) = line.split_once(&format!("peer: {what}")) {
                    return rest.trim().to_owned();
                }
            }
            panic!("{} ended without saying {what:?}", self.member);
        };
        let heard = tokio::time::timeout(PATIENCE, hearing).await;
        heard.unwrap_or_else(|_| panic!("never said {what:?}"))
    }

    /// Tells it a line.
    pub(crate) async fn tell(&mut self, line: &str) {
        use tokio::io::AsyncWriteExt;
        let line = format!("{line}\n");
        self.input
            .write_all(line.as_bytes())
            .await
            .expect("it lives");
        self.input.flush().await.expect("it lives");
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = self.child.id().expect("it lives");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
        nix::sys::signal::kill(pid, signal).expect("ours");
    }

    /// Stops it, and waits until it is.
    pub(crate) async fn freeze(&self) {
        self.signal(nix::sys::signal::Signal::SIGSTOP);
        let pid = self.child.id().expect("it lives");
        let is_frozen = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
            stat.rsplit(')')
                .next()
                .is_some_and(|rest| rest.starts_with(" T"))
        };
        while !is_frozen() {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("ours");
    }
}

pub(crate) fn name(name: &str) -> NodeName {
    name.into()
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib: u64 = line
        .and_then(|line| line.split_whitespace().nth(1))
        .and_then(|kib| kib.parse().ok())
        .expect("a figure");
    kib * 1024
}
