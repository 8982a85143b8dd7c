//! Customers: they submit tasks and tell agents something, to any node that answers, and
//! remember every acknowledgement.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use regrow_runtime::ids::TaskId;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::cluster::{Authority, Cluster, Node};
use super::ledger::Witnessed;

/// Customers at once.
const CUSTOMERS: u64 = 3;
/// Pause of a customer between two submissions, at most.
const PAUSE: Duration = Duration::from_millis(120);
/// Longest wait for an answer before another node is asked.
const ANSWER: Duration = Duration::from_secs(2);

/// Work that goes on until it is stopped.
pub(crate) struct Load {
    witnessed: Arc<Mutex<Witnessed>>,
    stop: CancellationToken,
    customers: JoinSet<()>,
}

impl Load {
    pub(crate) fn start(cluster: &Cluster, agents: &BTreeSet<String>, seed: u64) -> Self {
        let (witnessed, stop) = (Arc::new(Mutex::default()), CancellationToken::new());
        let mut customers = JoinSet::new();
        for number in 0..CUSTOMERS {
            let customer = Customer {
                name: number,
                nodes: cluster.nodes.clone(),
                authority: cluster.authority(),
                agents: agents.iter().cloned().collect(),
                witnessed: Arc::clone(&witnessed),
                stop: stop.clone(),
            };
            customers.spawn(customer.submit(SmallRng::seed_from_u64(seed ^ number)));
        }
        Self {
            witnessed,
            stop,
            customers,
        }
    }

    /// How many were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.witnessed.lock().acknowledged.len()
    }

    /// Stops when each customer has an answer to his last submission.
    pub(crate) async fn finish(mut self) -> Witnessed {
        self.stop.cancel();
        while let Some(customer) = self.customers.join_next().await {
            customer.expect("customers do not fail");
        }
        std::mem::take(&mut *self.witnessed.lock())
    }
}

struct Customer {
    name: u64,
    nodes: Vec<Arc<Node>>,
    authority: Authority,
    agents: Vec<String>,
    witnessed: Arc<Mutex<Witnessed>>,
    stop: CancellationToken,
}

impl Customer {
    async fn submit(self, mut rng: SmallRng) {
        let mut number = 0;
        while !self.stop.is_cancelled() {
            number += 1;
            let key = format!("{} of customer {}", number, self.name);
            let payload = json!({
                "steps": rng.random_range(1..=3), "step_ms": rng.random_range(5..=40),
            });
            let told = rng
                .random_ratio(1, 2)
                .then(|| self.agents.choose(&mut rng))
                .flatten();
            let path = match told {
                Some(agent) => format!("/v1/agents/{agent}/messages"),
                None => "/v1/tasks".to_owned(),
            };
            // A task is known to its node alone where there is no database.
            let bound = told.is_none() && self.authority == Authority::Quorum;
            let node = bound.then(|| self.nodes.choose(&mut rng)).flatten();
            // Now and then twice on purpose; not where a key is known only to a node that may be away.
            let again = rng.random_ratio(1, 10) && (bound || self.authority == Authority::Database);
            for _ in 0..if again { 2 } else { 1 } {
                self.repeat(&path, &key, &payload, node, &mut rng).await;
            }
            sleep(PAUSE.mul_f64(rng.random())).await;
        }
    }

    /// Until a node acknowledges it, any or this one.
    async fn repeat(
        &self,
        path: &str,
        key: &str,
        payload: &serde_json::Value,
        this: Option<&Arc<Node>>,
        rng: &mut SmallRng,
    ) {
        let body = json!({
            "kind": "rehearsal.journey", "payload": payload, "idempotency_key": key,
            "max_attempts": 1_000,
        });
        loop {
            let any = || self.nodes.choose(rng).expect("there are nodes");
            let node = this.unwrap_or_else(any);
            if let Ok(Some((200 | 201, answer))) = timeout(ANSWER, node.post(path, &body)).await
                && let Some(id) = answer["id"]
                    .as_str()
                    .and_then(|id| id.parse::<TaskId>().ok())
            {
                let mut witnessed = self.witnessed.lock();
                witnessed
                    .acknowledged
                    .entry(key.to_owned())
                    .or_default()
                    .push(id);
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}
