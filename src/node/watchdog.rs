//! The node's watch over itself: what it says of itself for others to place agents by.

use std::sync::Arc;
use std::time::Duration;

use regrow_cluster::placement::scr::Figures;
use regrow_cluster::placing::Placer;
use regrow_cluster::report::NodeReport;
use regrow_http::state::AgentSource;
use regrow_runtime::actor::Crash;
use regrow_runtime::json::Json;
use regrow_runtime::queue::Queue;
use regrow_runtime::registry::Registry;
use regrow_runtime::supervision::{ChildSpec, Shutdown};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::debug;

use super::agents::LiveAgents;

/// How often the node looks at itself.
const PERIOD: Duration = Duration::from_secs(1);
/// How often it tells the store what it saw.
const REPORT_PERIOD: Duration = Duration::from_secs(2);
/// Longest wait for the store at an orderly end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The child that looks at the node and says how it is.
pub(crate) fn watchdog(queue: &Queue, live: &Arc<LiveAgents>, placer: &Placer) -> ChildSpec {
    let (queue, live, placer) = (queue.clone(), live.clone(), placer.clone());
    let child = ChildSpec::task("watchdog", move |stop| {
        let mut watch = Watch {
            queue: queue.clone(),
            live: live.clone(),
            placer: placer.clone(),
            last: None,
        };
        async move {
            watch.run(stop).await;
            Ok::<(), Crash>(())
        }
    });
    child
        .role("watchdog")
        .shutdown(Shutdown::Timeout(LAST_WORDS + Duration::from_secs(1)))
}

/// Says what this node offers, so that whoever knows that it is there knows that as well.
pub(crate) async fn introduce(queue: &Queue, placer: &Placer) {
    if let Some(report) = placer.said() {
        // Otherwise it is said a moment later.
        let _ = timeout(LAST_WORDS, tell(queue.registry(), &report)).await;
    }
}

/// What is looked at.
struct Watch {
    queue: Queue,
    live: Arc<LiveAgents>,
    placer: Placer,
    /// The figures of the latest look, to see how they grow.
    last: Option<(Instant, Figures)>,
}

impl Watch {
    async fn run(&mut self, stop: tokio_util::sync::CancellationToken) {
        let registry = self.queue.registry().clone();
        let mut tick = interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told_at: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = tick.tick() => {}
            }
            let Some(report) = self.look() else {
                continue;
            };
            if told_at.is_none_or(|at| REPORT_PERIOD <= at.elapsed()) {
                told_at = Some(Instant::now());
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    () = tell(&registry, &report) => {}
                }
            }
        }
        // That this life ends now is no trouble.
        if let Some(mut report) = self.look() {
            report.leaving = true;
            self.placer.say(report.clone());
            let _ = timeout(LAST_WORDS, tell(&registry, &report)).await;
        }
    }

    /// Looks, and says it to whoever asks this node.
    fn look(&mut self) -> Option<NodeReport> {
        let mut report = self.placer.said()?;
        let stats = self.queue.stats();
        let agents = self.live.agents();
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let mut figures = Figures {
            queue_size: stats.size,
            queue_max_size: stats.max_size,
            queue_saturated: stats.draining || stats.max_size <= stats.size,
            agents: count(self.live.placed()),
            unhealthy: count(agents.iter().filter(|agent| !agent.healthy).count()),
            ..Figures::default()
        };
        if let Some((at, before)) = &self.last {
            let seconds = at.elapsed().as_secs_f64().max(0.001);
            let growth = |now: u64, before: u64| (now as f64 - before as f64) / seconds;
            figures.queue_growth_per_sec = growth(figures.queue_size, before.queue_size);
            figures.agent_growth_per_sec = growth(figures.agents, before.agents);
            figures.unhealthy_growth_per_sec = growth(figures.unhealthy, before.unhealthy);
        }
        self.last = Some((Instant::now(), figures.clone()));
        report.number += 1;
        // Another one since the node moved from a file to a database.
        report.life = self.queue.registry().life().ok()?;
        report.load_permille = (stats.utilization().min(1.0) * 1_000.0) as u32;
        report.scr = figures;
        self.placer.say(report.clone());
        Some(report)
    }
}

/// Tells the store; whoever cannot be told now is told the next time.
async fn tell(registry: &Registry, report: &NodeReport) {
    // Reports are plain data; they cannot fail to be JSON.
    let Ok(body) = Json::of(report) else { return };
    if let Err(reason) = registry.report(body).await {
        debug!(%reason, "cannot say how this node is");
    }
}
