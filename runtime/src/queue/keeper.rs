//! Keeps the queue's time: expiry, schedules, deadlines, retention and gauges.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::warn;

use super::Queue;
use super::fairness::{Fairness, OTHER};
use crate::metrics as names;
use crate::store::Changes;

/// Longest sleep: also the period of gauges.
const IDLE: Duration = Duration::from_secs(1);
/// Period of forgetting old tasks.
const PRUNE_PERIOD: Duration = Duration::from_secs(1);

/// Names with a label of their own; a label never goes away again, so there are few.
#[derive(Default)]
struct Named([BTreeSet<String>; 2]);

/// Names of one side that get a label.
const NAMED_MAX: usize = 20;

impl Named {
    fn show(&mut self, fairness: &Fairness) {
        let sides = [("class", &fairness.classes), ("tenant", &fairness.tenants)];
        for ((side, shares), names) in sides.into_iter().zip(&mut self.0) {
            let (mut other, mut fair_other) = (0.0, 0.0);
            for (name, share) in shares {
                let known = names.contains(name);
                if name == OTHER || (!known && NAMED_MAX <= names.len()) {
                    other += share.share;
                    fair_other += share.fair_share;
                } else if !known {
                    names.insert(name.clone());
                }
            }
            for name in names.iter() {
                let share = shares.get(name).copied().unwrap_or_default();
                set(side, name, share.share, share.fair_share);
            }
            set(side, OTHER, other, fair_other);
        }
    }
}

fn set(side: &'static str, name: &str, share: f64, fair_share: f64) {
    let name = name.to_owned();
    metrics::gauge!(names::QUEUE_SHARE, "side" => side, "name" => name.clone()).set(share);
    metrics::gauge!(names::QUEUE_FAIR_SHARE, "side" => side, "name" => name).set(fair_share);
}

impl Queue {
    /// Applies what is due whenever it is due; never returns.
    ///
    /// Stopping it delays expiry and schedules, and loses nothing.
    pub async fn keep_time(&self) {
        let mut pruned_at = self.0.clock.now();
        let mut named = Named::default();
        loop {
            let sleep = {
                let mut machine = self.0.machine.lock();
                let now = self.0.clock.now();
                // Whoever waits in line goes on asking.
                machine.asked_for(&self.0.line.kinds(), now);
                if self.0.writer.refusal().is_none() {
                    machine.tick(now);
                    self.hand_over(&mut machine);
                    if PRUNE_PERIOD <= now.since(pruned_at) {
                        pruned_at = now;
                        self.prune(machine.limits().retention);
                    }
                }
                let due = machine.next_due().map_or(IDLE, |due| due.since(now));
                // What is due cannot be applied while the store recovers: do not spin.
                let least = match self.0.writer.refusal() {
                    None => Duration::from_millis(1),
                    Some(_) => Duration::from_millis(50),
                };
                let sleep = due.clamp(least, IDLE);
                let wakes_at = now.after(sleep);
                self.0.keeper_wakes_at.store(wakes_at.0, Ordering::SeqCst);
                sleep
            };
            self.gauge(&mut named);
            let _ = tokio::time::timeout(sleep, self.0.sooner.notified()).await;
        }
    }

    fn prune(&self, retention: Duration) {
        let now = self.0.clock.now();
        let millis = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        let before = crate::clock::Timestamp(now.0.saturating_sub(millis));
        let changes = Changes {
            prune_before: Some(before),
            ..Changes::default()
        };
        let report = |committed: Result<(), crate::store::StoreError>| {
            if let Err(reason) = committed {
                warn!(%reason, "old tasks could not be forgotten");
            }
        };
        let told = crate::store::writer::Told::Call(Box::new(report));
        self.0.writer.push(changes, Vec::new(), told);
    }

    fn gauge(&self, named: &mut Named) {
        let stats = self.stats();
        for (state, count) in &stats.states {
            metrics::gauge!(names::TASKS_LIVE, "state" => *state).set(*count as f64);
        }
        for (lane, count) in &stats.lanes {
            metrics::gauge!(names::QUEUE_DEPTH, "lane" => *lane).set(*count as f64);
        }
        metrics::gauge!(names::QUEUE_UTILIZATION).set(stats.utilization());
        metrics::gauge!(names::QUEUE_PARKED).set(stats.parked as f64);
        metrics::gauge!(names::QUEUE_SIZE).set(stats.size as f64);
        metrics::gauge!(names::QUEUE_MAX_SIZE).set(stats.max_size as f64);
        metrics::gauge!(names::QUEUE_BYTES).set(stats.bytes as f64);
        metrics::gauge!(names::QUEUE_PAUSED).set(u32::from(stats.paused));
        metrics::gauge!(names::QUEUE_DRAINING).set(u32::from(stats.draining));
        let fullest = self.0.machine.lock().fullest_budgets(self.0.clock.now());
        for ((scope, unit), used) in fullest {
            metrics::gauge!(names::BUDGET_USED, "scope" => scope, "unit" => unit).set(used);
        }
        named.show(&stats.fairness);
    }
}
