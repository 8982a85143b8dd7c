//! Those who submit and expect: they repeat a submission until it is acknowledged, and
//! remember every acknowledgement.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use regrow_runtime::ids::TaskId;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use super::ledger::Witnessed;

/// Pause before a refused or failed call is repeated.
const PAUSE: Duration = Duration::from_millis(20);

/// What everybody in the rehearsal shares.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) http: reqwest::Client,
    /// Where the node is; empty while it is down.
    pub(crate) url: watch::Receiver<String>,
    pub(crate) witnessed: Arc<Mutex<Witnessed>>,
}

impl Stage {
    /// Posts, and says what came back; `None` when the node was down or died meanwhile.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Option<(StatusCode, Value)> {
        let url = self.url.borrow().clone();
        let answer = self
            .http
            .post(format!("{url}{path}"))
            .json(body)
            .send()
            .await
            .ok()?;
        let status = answer.status();
        Some((status, answer.json().await.ok()?))
    }

    /// Gets; `None` when the node was down, died meanwhile or refused.
    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        let url = self.url.borrow().clone();
        let answer = self.http.get(format!("{url}{path}")).send().await.ok()?;
        answer.error_for_status().ok()?.json().await.ok()
    }

    /// Submits until it is acknowledged.
    pub(crate) async fn submit(&self, key: String, kind: &str, payload: Value) -> TaskId {
        let body = json!({
            "kind": kind, "payload": payload, "idempotency_key": key, "max_attempts": 20,
        });
        loop {
            if let Some((StatusCode::CREATED | StatusCode::OK, answer)) =
                self.post("/v1/tasks", &body).await
                && let Some(id) = answer["id"].as_str().and_then(|id| id.parse().ok())
            {
                let mut witnessed = self.witnessed.lock();
                witnessed.acknowledged.entry(key).or_default().push(id);
                return id;
            }
            sleep(PAUSE).await;
        }
    }
}

/// Submits `count` journeys, now and then one of them twice on purpose.
pub(crate) async fn travel(stage: Stage, seed: u64, count: u32) {
    let mut rng = SmallRng::seed_from_u64(seed);
    for number in 0..count {
        let steps = rng.random_range(2..=4);
        let step_ms = rng.random_range(10..=50);
        let payload = json!({ "steps": steps, "step_ms": step_ms });
        let key = format!("journey {number}");
        stage
            .submit(key.clone(), "rehearsal.journey", payload.clone())
            .await;
        if rng.random_ratio(1, 10) {
            stage.submit(key, "rehearsal.journey", payload).await;
        }
        sleep(Duration::from_millis(rng.random_range(0..15))).await;
    }
}

/// A worker outside the node: leases parcels over HTTP, delivers most, and keeps some until
/// somebody else has them, to offer them under the old epoch.
pub(crate) async fn deliver(stage: Stage, seed: u64, count: u32) {
    let mut rng = SmallRng::seed_from_u64(seed);
    for number in 0..count {
        let key = format!("parcel {number}");
        stage
            .submit(key, "rehearsal.parcel", json!({ "number": number }))
            .await;
    }
    let mut kept: std::collections::HashMap<String, u64> = std::collections::HashMap::new();
    let mut delivered = 0;
    while delivered < count {
        let claim = json!({
            "worker": "courier", "kinds": ["rehearsal.parcel"], "max": 4,
            "wait_ms": 200, "lease_ms": 1_000,
        });
        let leases = match stage.post("/v1/leases", &claim).await {
            Some((StatusCode::OK, Value::Array(leases))) => leases,
            _ => {
                sleep(PAUSE).await;
                continue;
            }
        };
        for lease in leases {
            let (Some(id), Some(epoch)) = (lease["task"]["id"].as_str(), lease["epoch"].as_u64())
            else {
                continue;
            };
            if let Some(old) = kept.remove(id) {
                offer_stale(&stage, id, old).await;
                delivered += u32::from(complete(&stage, id, epoch).await);
            } else if rng.random_ratio(1, 3) {
                kept.insert(id.to_owned(), epoch);
            } else {
                delivered += u32::from(complete(&stage, id, epoch).await);
            }
        }
    }
}

/// Completes; repeated while the node is down, since a repeat under the same epoch is
/// harmless. False when the lease was lost meanwhile.
async fn complete(stage: &Stage, id: &str, epoch: u64) -> bool {
    let body = json!({ "epoch": epoch, "result": { "delivered": true } });
    loop {
        match stage
            .post(&format!("/v1/leases/{id}/complete"), &body)
            .await
        {
            Some((status, _)) if status.is_success() => return true,
            Some((StatusCode::CONFLICT, _)) => return false,
            _ => sleep(PAUSE).await,
        }
    }
}

async fn offer_stale(stage: &Stage, id: &str, epoch: u64) {
    let body = json!({ "epoch": epoch, "result": { "delivered": "by a ghost" } });
    for _ in 0..50 {
        match stage
            .post(&format!("/v1/leases/{id}/complete"), &body)
            .await
        {
            Some((StatusCode::CONFLICT, _)) => {
                stage.witnessed.lock().stale_refused += 1;
                return;
            }
            Some((status, _)) if status.is_success() => {
                stage.witnessed.lock().stale_accepted += 1;
                return;
            }
            _ => sleep(PAUSE).await,
        }
    }
}
