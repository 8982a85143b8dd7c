//! Requests with a token to check, and without.

use std::process::Command;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::caller::{Caller, request};
use crate::process::Process;
use crate::{Part, median};

const SPAN: Duration = Duration::from_secs(3);
const ROUNDS: usize = 5;
const CALLERS: usize = 8;
/// Cheap, and read by whoever may read.
const PATH: &str = "/v1/queue/rules";

/// Requests per second, and microseconds of the node's processor for each.
async fn asked(node: &Process, headers: &str, span: Duration) -> (f64, f64) {
    let asked = request("GET", PATH, headers, "");
    let (began, before) = (Instant::now(), node.used());
    let mut running = JoinSet::new();
    for _ in 0..CALLERS {
        let (mut caller, asked) = (Caller::to(node.address).await, asked.clone());
        running.spawn(async move {
            let mut count = 0_u64;
            while began.elapsed() < span {
                assert_eq!(caller.call(&asked).await.0, 200);
                count += 1;
            }
            count
        });
    }
    let count: u64 = running.join_all().await.into_iter().sum();
    let used = (node.used() - before).as_secs_f64();
    (
        count as f64 / began.elapsed().as_secs_f64(),
        used * 1e6 / count as f64,
    )
}

pub(crate) async fn measure(part: Part) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (bare, guarded) = (dir.path().join("bare"), dir.path().join("guarded"));
    std::fs::create_dir_all(&guarded).expect("writable");
    let made = Command::new(env!("CARGO_BIN_EXE_regrow"))
        .args(["token", "create", "bench", "--scope", "read", "--data-dir"])
        .arg(&guarded)
        .output()
        .expect("the binary runs");
    let secret = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    assert!(made.status.success() && !secret.is_empty(), "{made:?}");
    let bearer = format!("authorization: Bearer {secret}\r\n");
    let (bare, guarded) = (
        Process::start(&bare, &[]).await,
        Process::start(&guarded, &[]).await,
    );
    let (mut without, mut with, mut differences) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let one = asked(&bare, "", part.time(SPAN)).await;
        let other = asked(&guarded, &bearer, part.time(SPAN)).await;
        differences.push(other.1 - one.1);
        without.push(one.1);
        with.push(other.1);
    }
    println!(
        "GET {PATH}: {:.2} us of the node's processor each without tokens, {:.2} us with one to \
         check: {:.2} us more (median of {ROUNDS} rounds)",
        median(without),
        median(with),
        median(differences),
    );
}
