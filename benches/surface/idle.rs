//! Subscribers of events who wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Part;
use crate::caller::Caller;
use crate::process::Process;

const SUBSCRIBERS: usize = 10_000;
/// Connections that are opened at once.
const AT_ONCE: usize = 64;
/// How long it is watched while nothing happens.
const QUIET: Duration = Duration::from_secs(20);
/// Tasks that nobody watches.
const OTHERS: usize = 2_000;

/// Open streams, each read by a task that counts what comes.
struct Subscribers {
    heard: watch::Sender<usize>,
    _reading: JoinSet<()>,
}

impl Subscribers {
    /// The paths are subscribed to in turn.
    async fn of(node: &Process, paths: Vec<String>, count: usize) -> Self {
        let (address, next) = (node.address, Arc::new(AtomicUsize::new(0)));
        let paths = Arc::new(paths);
        let mut opening = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (next, paths) = (next.clone(), paths.clone());
            opening.spawn(async move {
                let mut streams = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if count <= number {
                        return streams;
                    }
                    let path = &paths[number % paths.len()];
                    streams.push(Caller::to(address).await.into_stream(path).await);
                }
            });
        }
        let streams = opening.join_all().await.into_iter().flatten();
        let heard = watch::Sender::new(0);
        let mut reading = JoinSet::new();
        for stream in streams {
            reading.spawn(read(stream, heard.clone()));
        }
        Self {
            heard,
            _reading: reading,
        }
    }

    /// Waits until so many heard something since `before`.
    async fn heard(&self, count: usize) {
        let mut heard = self.heard.subscribe();
        let all = heard.wait_for(|heard| count <= *heard);
        let all = tokio::time::timeout(Duration::from_secs(300), all).await;
        all.expect("everybody hears of it").expect("somebody reads");
    }
}

/// Counts the first event behind each pause; what keeps a connection alive is none.
async fn read(mut stream: TcpStream, heard: watch::Sender<usize>) {
    let mut bytes = [0; 1_024];
    while let Ok(count) = stream.read(&mut bytes).await {
        if count == 0 {
            return;
        }
        let is_event = bytes[..count].windows(5).any(|five| five == b"data:");
        if is_event {
            heard.send_modify(|heard| *heard += 1);
        }
    }
}

async fn submitted(caller: &mut Caller) -> String {
    let task = caller.post("/v1/tasks", &json!({ "kind": "idle" })).await;
    task["id"].as_str().expect("an id").to_owned()
}

pub(crate) async fn measure(part: Part) {
    let count = part.of(SUBSCRIBERS);
    println!("{count} subscribers, a connection each; memory as the system counts it for the node");
    for what in [
        "GET /v1/events",
        "one task's events",
        "a task's events each",
    ] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let node = Process::start(dir.path(), &[]).await;
        let mut caller = Caller::to(node.address).await;
        let tasks = match what {
            "GET /v1/events" => 0,
            "one task's events" => 1,
            _ => count,
        };
        let mut watched = Vec::new();
        for _ in 0..tasks {
            watched.push(submitted(&mut caller).await);
        }
        let paths: Vec<String> = match tasks {
            0 => vec!["/v1/events".to_owned()],
            _ => watched
                .iter()
                // Behind its first line: nothing is there yet.
                .map(|id| format!("/v1/tasks/{id}/events?after=1"))
                .collect(),
        };
        // What the first ones cost is not theirs.
        let warm = Subscribers::of(&node, paths.clone(), AT_ONCE.min(count)).await;
        drop(warm);
        sleep(Duration::from_secs(1)).await;
        let before = node.resident();
        let began = Instant::now();
        let subscribers = Subscribers::of(&node, paths, count).await;
        let opened = began.elapsed();
        sleep(Duration::from_secs(1)).await;
        let each = (node.resident().saturating_sub(before)) as f64 / count as f64;
        let (quiet, used) = (part.time(QUIET), node.used());
        sleep(quiet).await;
        let idle = (node.used() - used).as_secs_f64() / quiet.as_secs_f64();

        println!(
            "{what:<22}: {each:>7.0} B each; opened in {:.1} s; idle {:.2} % of a core",
            opened.as_secs_f64(),
            100.0 * idle,
        );
        // A connection that was silent for so long has been let go.
        let mut caller = Caller::to(node.address).await;
        if tasks <= 1 {
            let (began, before) = (Instant::now(), node.used());
            match watched.first() {
                None => drop(submitted(&mut caller).await),
                Some(id) => {
                    let path = format!("/v1/tasks/{id}/cancel");
                    caller.post(&path, &Value::Object(Default::default())).await;
                }
            }
            subscribers.heard(count).await;
            let (took, used) = (began.elapsed(), node.used() - before);
            println!(
                "  one event to all: {:.0} ms, of the node's processor {:.0} ms",
                took.as_secs_f64() * 1e3,
                used.as_secs_f64() * 1e3,
            );
        }
        if 1 < tasks {
            let others = part.of(OTHERS);
            let costs = async |caller: &mut Caller| {
                let before = node.used();
                for _ in 0..others {
                    submitted(caller).await;
                }
                (node.used() - before).as_secs_f64() * 1e6 / others as f64
            };
            let watched = costs(&mut caller).await;
            drop(subscribers);
            sleep(Duration::from_secs(2)).await;
            let alone = costs(&mut caller).await;
            println!(
                "  a submission that none of them watches: {watched:.0} us of the node's \
                 processor, {alone:.0} us without them"
            );
        }
    }
}
