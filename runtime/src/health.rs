//! Health: finds children that hang, and has them killed and started again.
//!
//! A supervised task looks at all children of the tree each period, many at a time and each
//! within a deadline, so one silent child delays nobody. What a sign means is decided in
//! [`remedy`]; this file carries signs in and remedies out. Only children directly below
//! a [`Remediable`] supervisor are touched, the others are reported. Kills are paced, so that
//! healing many children does not exhaust their supervisor's restart intensity.
//!
//! Liveness (it answers), readiness (it can be given work) and progress (its work moves on)
//! are three different things, and the report says each. A child that is busy is not hung.
//!
//! Crash: suspicions and the count of convictions are lost; the next round begins anew, and
//! the last report stays readable but grows stale.
//!
//! Left out: crashes, which supervisors see by themselves; other nodes.

mod probe;
pub mod remedy;
pub mod report;
#[cfg(test)]
mod tests;
mod ward;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use self::remedy::RemedyPolicy;
use self::report::HealthReport;
use self::ward::Ward;
use crate::clock::Clock;
use crate::events::EventBus;
use crate::supervision::{ChildSpec, Supervisor, Tree};

/// Periods and limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// From one round of probes to the next. Shorter heals faster and costs more.
    pub period: Duration,
    /// Longest wait for one answer.
    pub deadline: Duration,
    /// Probes under way at once.
    pub probes_max: usize,
    /// When a child is taken for hung.
    pub policy: RemedyPolicy,
    /// Remedies per supervisor within `remedies_period`; further ones wait. Keep it below
    /// the supervisor's restart intensity.
    pub remedies_max: usize,
    /// See `remedies_max`.
    pub remedies_period: Duration,
    /// Parked children that are remembered; more are forgotten, the longest parked first.
    pub parked_max: usize,
}

impl Default for HealthConfig {
    /// A round a second, 500 ms per probe, 256 at once; 5 remedies in 5 s per supervisor.
    fn default() -> Self {
        Self {
            period: Duration::from_secs(1),
            deadline: Duration::from_millis(500),
            probes_max: 256,
            policy: RemedyPolicy::default(),
            remedies_max: 5,
            remedies_period: Duration::from_secs(5),
            parked_max: 1_000,
        }
    }
}

impl HealthConfig {
    /// Everything in it that cannot work, as sentences with key, value and range.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (key, value) in [
            ("health.period", self.period),
            ("health.deadline", self.deadline),
            ("health.remedies_period", self.remedies_period),
            (
                "health.policy.progress_timeout",
                self.policy.progress_timeout,
            ),
        ] {
            if value.is_zero() {
                problems.push(format!("{key} is 0s; it must be longer"));
            }
        }
        if self.period < self.deadline {
            problems.push(format!(
                "health.deadline is {:?}; it must not exceed health.period, {:?}",
                self.deadline, self.period
            ));
        }
        for (key, value) in [
            ("health.probes_max", self.probes_max),
            ("health.remedies_max", self.remedies_max),
            ("health.policy.misses_max", self.policy.misses_max as usize),
        ] {
            if value == 0 {
                problems.push(format!("{key} is 0; it must be at least 1"));
            }
        }
        problems
    }

    /// Longest time from a hang to the kill that answers a first conviction, if no remedy
    /// has to wait for others.
    #[must_use]
    pub fn conviction_within(&self) -> Duration {
        let by_misses = self.period * self.policy.misses_max + self.deadline;
        let by_silence = self.period * 2 + self.policy.silence_min + self.deadline;
        by_misses.max(by_silence)
    }
}

/// A supervisor whose direct children health may kill and park.
#[derive(Clone, Debug)]
pub struct Remediable {
    /// The supervisor's path in the tree, such as `regrow/agents`.
    pub path: Arc<str>,
    /// The supervisor.
    pub supervisor: Supervisor,
}

/// Reads what health knows; cheap to clone.
#[derive(Clone, Debug)]
pub struct Health {
    report: watch::Receiver<Arc<HealthReport>>,
}

impl Health {
    /// The handle, and the monitor as a child named `monitor`. The tree exists only once its
    /// root runs, so the child is added then: [`Supervisor::start_child`].
    #[must_use]
    pub fn monitor(
        config: HealthConfig,
        tree: Tree,
        remediable: Vec<Remediable>,
        bus: EventBus,
        clock: Clock,
    ) -> (Self, ChildSpec) {
        let (publish, report) = watch::channel(Arc::default());
        let publish = Arc::new(publish);
        let child = ChildSpec::task("monitor", move |stop| {
            let ward = Ward::new(
                config,
                tree.clone(),
                remediable.clone(),
                bus.clone(),
                clock,
                Arc::clone(&publish),
            );
            ward.run(stop)
        });
        (Self { report }, child.role("health"))
    }

    /// The report of the last round; empty before the first. Never waits.
    #[must_use]
    pub fn report(&self) -> Arc<HealthReport> {
        Arc::clone(&self.report.borrow())
    }

    /// Waits for a report that this handle has not returned here before; `None` when the
    /// monitor is gone for good. Cancellation safe.
    pub async fn next_report(&mut self) -> Option<Arc<HealthReport>> {
        self.report.changed().await.ok()?;
        Some(Arc::clone(&self.report.borrow_and_update()))
    }
}
