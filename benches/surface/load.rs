//! Callers who submit, claim and complete tasks over HTTP as fast as they are answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::caller::{Caller, request};
use crate::submit::payload;

/// Tasks per call.
const BATCH: usize = 16;

/// Callers until it is dropped.
pub(crate) struct Load {
    done: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    running: JoinSet<()>,
}

impl Load {
    pub(crate) fn on(address: SocketAddr, callers: usize) -> Self {
        let (done, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let mut running = JoinSet::new();
        for _ in 0..callers {
            let (done, over) = (done.clone(), over.clone());
            running.spawn(async move {
                let mut caller = Caller::to(address).await;
                while !over.load(Ordering::Relaxed) {
                    cycle(&mut caller, &done).await;
                }
            });
        }
        Self {
            done,
            over,
            running,
        }
    }

    /// Tasks completed per second, over a while.
    pub(crate) async fn rate(&self, span: Duration) -> f64 {
        let (began, before) = (Instant::now(), self.done.load(Ordering::Relaxed));
        tokio::time::sleep(span).await;
        let done = self.done.load(Ordering::Relaxed) - before;
        done as f64 / began.elapsed().as_secs_f64()
    }

    /// Lets everybody end what he is at.
    pub(crate) async fn end(mut self) {
        self.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.running.join_next().await {
            ended.expect("nobody was refused");
        }
    }
}

/// Submits some, and completes as many.
async fn cycle(caller: &mut Caller, done: &AtomicU64) {
    let one = format!("{{\"kind\":\"load\",\"payload\":{}}}", payload());
    let list = format!("[{}]", vec![one; BATCH].join(","));
    let (status, _) = caller.call(&request("POST", "/v1/tasks", "", &list)).await;
    assert_eq!(status, 200);
    let mut left = BATCH;
    while 0 < left {
        let claim = json!({
            "kinds": ["load"], "max": left, "wait_ms": 10_000, "lease_ms": 60_000,
        });
        let leases = caller.post("/v1/leases", &claim).await;
        for lease in leases.as_array().expect("a list") {
            let id = lease["task"]["id"].as_str().expect("an id");
            let said = json!({ "epoch": lease["epoch"], "result": Value::Null });
            caller
                .post(&format!("/v1/leases/{id}/complete"), &said)
                .await;
            done.fetch_add(1, Ordering::Relaxed);
            left -= 1;
        }
    }
}
