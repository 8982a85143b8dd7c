//! Pages and routes on nodes with much to show.

use std::net::{TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::caller::Caller;
use crate::load::Load;
use crate::node::{histogram, micros, ms};
use crate::process::Process;
use crate::submit::payload;
use crate::{Part, median};

const NODES: usize = 3;
const AGENTS: usize = 10_000;
const TASKS: usize = 100_000;
const LOOKS: usize = 200;
const PAINTED: usize = 5;
const LOOKS_UNDER_LOAD: usize = 100;
const CALLERS: usize = 16;
const SPAN: Duration = Duration::from_secs(5);
const ROUNDS: usize = 5;
const PATHS: [&str; 12] = [
    "/",
    "/tree",
    "/tasks",
    "/queue",
    "/cluster",
    "/agents",
    "/memory",
    "/charts",
    "/v1/queue",
    "/v1/agents?limit=100",
    "/v1/agents",
    "/metrics",
];

/// A port that nobody has, for sessions and gossip alike.
fn free_port() -> u16 {
    loop {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let port = socket.local_addr().expect("bound").port();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

async fn nodes(dir: &std::path::Path, agents: usize) -> Vec<Process> {
    let secret = dir.join("secret");
    std::fs::write(&secret, "an exhaustively secret secret of a bench").expect("writable");
    let ports: Vec<u16> = (0..NODES).map(|_| free_port()).collect();
    let seeds: Vec<String> = ports
        .iter()
        .map(|port| format!("127.0.0.1:{port}"))
        .collect();
    let mut nodes = Vec::new();
    for (number, seed) in seeds.iter().enumerate() {
        let settings = [
            ("REGROW_NODE__NAME", format!("node-{number}")),
            ("REGROW_AGENTS__WORKERS", (agents / NODES).to_string()),
            ("REGROW_CLUSTER__LISTEN", seed.clone()),
            ("REGROW_CLUSTER__SEEDS", seeds.join(",")),
            ("REGROW_CLUSTER__SECRET_FILE", secret.display().to_string()),
        ];
        nodes.push(Process::start(&dir.join(seed), &settings).await);
    }
    nodes
}

/// Looks `count` times; the figures, in words.
async fn looked(node: &Process, path: &str, count: usize) -> (String, f64) {
    let mut caller = Caller::to(node.address).await;
    let (mut times, mut bytes) = (histogram(), 0);
    for _ in 0..count {
        let one = Instant::now();
        let (status, said) = caller.get(path).await;
        bytes = said.len();
        assert_eq!(status, 200, "{path}");
        times.saturating_record(micros(one));
    }
    let (p50, p99) = (ms(&times, 0.5), ms(&times, 0.99));
    (
        format!(
            "p50 {p50:>7.2} p99 {p99:>7.2} ms, {:>6.1} kB",
            bytes as f64 / 1e3
        ),
        p99,
    )
}

/// The same in Chromium, where `cargo xtask bench` found one.
fn painted(node: &Process, rounds: usize) {
    if std::env::var_os("REGROW_PAGES_PACKAGES").is_none() {
        println!("in Chromium: NOT MEASURED, REGROW_PAGES_PACKAGES is not set");
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/surface/paint.mjs");
    let told = std::process::Command::new("node")
        .arg(script)
        .arg(format!("http://{}", node.address))
        .arg(rounds.to_string())
        .output()
        .expect("`node` runs");
    assert!(
        told.status.success(),
        "{}",
        String::from_utf8_lossy(&told.stderr)
    );
    print!("{}", String::from_utf8_lossy(&told.stdout));
}

/// Pages that are open: their streams are read.
async fn open(node: &Process, count: usize) -> JoinSet<()> {
    let mut open = JoinSet::new();
    for number in 0..count {
        let path = PATHS[number % 6];
        let mut stream = Caller::to(node.address).await.into_stream(path).await;
        open.spawn(async move {
            let mut bytes = vec![0; 64 << 10];
            while stream.read(&mut bytes).await.is_ok_and(|count| 0 < count) {}
        });
    }
    open
}

pub(crate) async fn measure(part: Part) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (agents, tasks) = (part.of(AGENTS), part.of(TASKS));
    let began = Instant::now();
    let nodes = nodes(dir.path(), agents).await;
    let started = began.elapsed();
    let node = &nodes[0];
    let mut caller = Caller::to(node.address).await;
    let payload: serde_json::Value = serde_json::from_str(&payload()).expect("JSON");
    let began = Instant::now();
    for from in (0..tasks).step_by(500) {
        let list: Vec<_> = (from..tasks.min(from + 500))
            .map(|n| json!({ "kind": format!("kind-{}", n % 20), "payload": payload }))
            .collect();
        caller.post("/v1/tasks", &json!(list)).await;
    }
    println!(
        "{NODES} nodes with {agents} agents together (started in {:.1} s), {tasks} tasks on the one \
         that is asked (taken in {:.1} s)",
        started.as_secs_f64(),
        began.elapsed().as_secs_f64(),
    );
    sleep(part.time(Duration::from_secs(5))).await;
    for path in PATHS {
        let (rest, _) = looked(node, path, part.of(LOOKS)).await;
        println!("at rest     {path:<22} {rest}");
    }
    painted(node, part.of(PAINTED));
    let load = Load::on(node.address, CALLERS);
    for path in PATHS {
        let (busy, p99) = looked(node, path, part.of(LOOKS_UNDER_LOAD)).await;
        let target = match path {
            "/" => format!(
                " (target p99 200 ms: {})",
                if p99 < 200.0 { "met" } else { "missed" }
            ),
            _ => String::new(),
        };
        println!("under load  {path:<22} {busy}{target}");
    }
    let span = part.time(SPAN);
    for count in [1, 10] {
        let (mut closed, mut opened) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            closed.push(load.rate(span).await);
            let pages = open(node, count).await;
            opened.push(load.rate(span).await);
            drop(pages);
        }
        let ratios: Vec<f64> = opened.iter().zip(&closed).map(|(a, b)| a / b).collect();
        println!(
            "{count:>2} open pages: {:.0} tasks/s, without {:.0}; ratio {:.3} (median of {ROUNDS} \
             rounds)",
            median(opened),
            median(closed),
            median(ratios),
        );
    }
    load.end().await;
}
