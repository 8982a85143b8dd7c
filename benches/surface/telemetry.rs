//! What being watched costs: metrics and exemplars, and traces to a receiver.

use std::process::Command;
use std::time::{Duration, Instant};

use regrow_http::Exposition;
use regrow_runtime::json::Json;
use regrow_runtime::queue::ClaimRequest;
use regrow_runtime::queue::task::NewTask;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::caller::Caller;
use crate::load::Load;
use crate::node::Node;
use crate::process::Process;
use crate::submit::payload;
use crate::{Part, median};

/// Set in the process that measures one row: recorders are one per process.
const CHILD: &str = "REGROW_SURFACE_CHILD";
const SPAN: Duration = Duration::from_secs(4);
const ROUNDS: usize = 5;
const CALLERS: usize = 128;
const CALLERS_HTTP: usize = 16;

/// Runs one row if this process was started for it.
pub(crate) fn ran_as_child(part: Part) -> bool {
    let Ok(kind) = std::env::var(CHILD) else {
        return false;
    };
    let _exposition = (kind == "measured").then(|| Exposition::install().expect("the first"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    println!("{}", runtime.block_on(cycles(part.time(SPAN))));
    true
}

/// Tasks per second through a queue on SQLite: submitted, claimed, completed.
async fn cycles(span: Duration) -> f64 {
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = Node::start(dir.path()).await;
    let began = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..CALLERS {
        let queue = node.queue.clone();
        running.spawn(async move {
            let claim = ClaimRequest {
                worker: "bench".into(),
                kinds: vec!["bench".to_owned()],
                max: 1,
                wait: Duration::from_secs(10),
                lease: Duration::from_secs(600),
            };
            let mut count = 0_u64;
            while began.elapsed() < span {
                let task = NewTask::new("bench", Json::parse(payload()).expect("JSON"));
                queue.submit(task).await.expect("room");
                let leases = queue.claim(&claim).await.expect("open");
                let lease = leases.first().expect("as many tasks as callers");
                let done = queue.complete(lease.task.id, lease.epoch, Json::null());
                done.await.expect("held");
                count += 1;
            }
            count
        });
    }
    let count: u64 = running.join_all().await.into_iter().sum();
    let rate = count as f64 / began.elapsed().as_secs_f64();
    node.stop().await;
    rate
}

fn row(kind: &str) -> f64 {
    let itself = std::env::current_exe().expect("a path");
    let told = Command::new(itself)
        .env(CHILD, kind)
        .output()
        .expect("it runs");
    assert!(told.status.success(), "{told:?}");
    let told = String::from_utf8_lossy(&told.stdout);
    told.trim().parse().expect("a rate")
}

/// Takes whatever is sent to it over HTTP, and says that it did.
async fn receiver() -> (std::net::SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(take(stream));
        }
    });
    (address, serving)
}

async fn take(mut stream: TcpStream) {
    let mut bytes: Vec<u8> = Vec::new();
    loop {
        let head = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !matches!(stream.read_buf(&mut bytes).await, Ok(count) if 0 < count) {
                return;
            }
        };
        let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
        let length = text.lines().find_map(|line| {
            let length = line.strip_prefix("content-length:")?;
            length.trim().parse::<usize>().ok()
        });
        let end = head + length.expect("a length");
        while bytes.len() < end {
            if !matches!(stream.read_buf(&mut bytes).await, Ok(count) if 0 < count) {
                return;
            }
        }
        bytes.drain(..end);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

/// The number behind a metric's name and labels, 0 if there is none.
async fn counted(node: &Process, series: &str) -> f64 {
    let mut caller = Caller::to(node.address).await;
    let (_, said) = caller.get("/metrics").await;
    let text = String::from_utf8_lossy(said);
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0.0, |value| value.trim().parse().expect("a number"))
}

pub(crate) async fn measure(part: Part) {
    let (mut without, mut with, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (one, other) = (row("bare"), row("measured"));
        ratios.push(other / one);
        without.push(one);
        with.push(other);
    }
    println!(
        "submit, claim, complete, c={CALLERS}, SQLite synchronous=FULL: {:.0} tasks/s with metrics \
         and exemplars, {:.0} without; ratio {:.3} (median of {ROUNDS} rounds)",
        median(with),
        median(without),
        median(ratios),
    );
    let (address, _serving) = receiver().await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let sent = |ratio: &str| {
        vec![
            ("REGROW_TELEMETRY__ENDPOINT", format!("http://{address}")),
            ("REGROW_TELEMETRY__SAMPLE_RATIO", ratio.to_owned()),
        ]
    };
    let kinds = [
        ("off", vec![]),
        ("ratio 0", sent("0")),
        ("ratio 1", sent("1")),
    ];
    let mut nodes = Vec::new();
    for (name, settings) in &kinds {
        nodes.push(Process::start(&dir.path().join(name), settings).await);
    }
    let mut rates: [Vec<f64>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for (rates, node) in rates.iter_mut().zip(&nodes) {
            let load = Load::on(node.address, CALLERS_HTTP);
            rates.push(load.rate(part.time(SPAN)).await);
            load.end().await;
        }
    }
    let off = rates[0].clone();
    for ((name, _), (rates, node)) in kinds.iter().zip(rates.into_iter().zip(&nodes)) {
        let ratios = rates.iter().zip(&off).map(|(rate, off)| rate / off);
        let ratio = median(ratios.collect());
        let made = counted(node, "regrow_telemetry_spans_total{outcome=\"made\"}").await;
        let sent = counted(node, "regrow_telemetry_spans_total{outcome=\"sent\"}").await;
        println!(
            "traces {name:<8}: {:.0} tasks/s over HTTP, ratio {ratio:.3}; {made:.0} spans made, {sent:.0} \
             sent",
            median(rates),
        );
    }
}
